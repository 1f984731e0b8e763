//! The draft and the target service without an orchestrator: steps, trees, limits.

use tandem_proto::v1::draft_client::DraftClient;
use tandem_proto::v1::target_client::TargetClient;
use tandem_proto::{Reason, v1};
use tandem_testkit::{System, channel};
use tonic::Code;
use tonic_types::StatusExt;

fn propose(handle: Option<v1::SessionHandle>, beam_width: u32, draft_tokens: u32) -> v1::ProposeRequest {
    let beams = v1::BeamShape { beam_width, draft_tokens, ..v1::BeamShape::default() };
    let shape = Some(v1::propose_request::Shape::Beams(beams));
    v1::ProposeRequest { handle, step: 1, shape, ..v1::ProposeRequest::default() }
}

fn open(tokens: u32) -> v1::OpenSessionRequest {
    v1::OpenSessionRequest {
        prompt_tokens: (0..tokens).collect(),
        max_new_tokens: 20,
        max_tree_nodes: 16,
        sampling: Some(v1::Sampling { temperature: 1.0, top_k: 10, top_p: 0.9 }),
        seed: 1,
        ..v1::OpenSessionRequest::default()
    }
}

#[tokio::test]
async fn a_worker_keeps_its_steps_in_order() {
    let mut system = System::start().await;
    let mut target = TargetClient::new(channel(system.target).await);
    let handle = target.open_session(open(10)).await.unwrap().into_inner().handle.unwrap();
    let tree = Some(v1::TokenTree { tokens: vec![5, 6], parents: vec![-1, 0] });
    let step = |step, committed, commit| v1::ScoreTreeRequest {
        handle: Some(v1::SessionHandle { committed_tokens: committed, ..handle }),
        step,
        commit,
        tree: tree.clone(),
        ..v1::ScoreTreeRequest::default()
    };
    let commit = |nodes: &[u32]| Some(v1::Commit { accepted_nodes: nodes.to_vec(), bonus_token: 7 });

    let first = target.score_tree(step(1, 10, None)).await.unwrap().into_inner();
    assert_eq!(first.drawn_tokens.len(), 3);
    let repeated = target.score_tree(step(1, 10, None)).await.unwrap().into_inner();
    assert_eq!(first, repeated, "the same step again returns the same reply");

    let refused = [
        (step(3, 12, commit(&[0])), Code::FailedPrecondition, Some(Reason::StepOutOfOrder)),
        (step(0, 10, None), Code::FailedPrecondition, Some(Reason::StepOutOfOrder)),
        (step(2, 11, commit(&[0])), Code::FailedPrecondition, Some(Reason::CommittedMismatch)),
        (step(2, 10, None), Code::InvalidArgument, None),
        (step(2, 12, commit(&[1])), Code::InvalidArgument, None),
        (step(2, 12, commit(&[9])), Code::InvalidArgument, None),
        (step(2, 12, commit(&[0; 1000])), Code::InvalidArgument, None),
        (step(2, 13, commit(&[1, 0])), Code::InvalidArgument, None),
    ];
    for (request, code, reason) in refused {
        let status = target.score_tree(request.clone()).await.unwrap_err();
        assert_eq!((status.code(), Reason::of(&status)), (code, reason), "{request:?}: {status:?}");
    }
    // The session is unharmed.
    target.score_tree(step(2, 12, commit(&[0]))).await.unwrap();

    let stale = v1::SessionHandle { incarnation: handle.incarnation ^ 1, ..handle };
    let unknown = v1::SessionHandle { session_id: 99, ..handle };
    for (handle, reason) in [(stale, Reason::StaleIncarnation), (unknown, Reason::UnknownSession)] {
        let request = v1::ScoreTreeRequest { handle: Some(handle), ..step(3, 13, commit(&[])) };
        let status = target.score_tree(request).await.unwrap_err();
        assert_eq!((status.code(), Reason::of(&status)), (Code::NotFound, Some(reason)));
    }
    let close = v1::CloseSessionRequest { handle: Some(handle) };
    target.close_session(close).await.unwrap();
    target.close_session(close).await.unwrap();
    let status = target.score_tree(step(3, 13, commit(&[]))).await.unwrap_err();
    assert_eq!(Reason::of(&status), Some(Reason::UnknownSession));
    system.assert_well().await;
}

#[tokio::test]
async fn a_worker_refuses_invalid_requests() {
    let system = System::start().await;
    let mut target = TargetClient::new(channel(system.target).await);
    let mut draft = DraftClient::new(channel(system.draft).await);
    let no_sampling = v1::OpenSessionRequest { sampling: None, ..open(10) };
    let nan = v1::Sampling { temperature: f64::NAN, top_k: 0, top_p: 0.0 };
    for request in [
        open(0),
        open(512),
        no_sampling,
        v1::OpenSessionRequest { sampling: Some(nan), ..open(10) },
        v1::OpenSessionRequest { prompt_tokens: vec![0, 4000], ..open(10) },
        v1::OpenSessionRequest { max_tree_nodes: 1 << 30, ..open(10) },
    ] {
        let status = target.open_session(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{request:?}");
        let status = draft.open_session(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
    }
    let handle = target.open_session(open(10)).await.unwrap().into_inner().handle;
    for (tokens, parents) in [
        (vec![5, 5], vec![-1, -1]),
        (vec![5], vec![3]),
        (vec![5], vec![-7]),
        (vec![5, 6], vec![-1]),
        (vec![70_000], vec![-1]),
        ((0..40).collect(), vec![-1; 40]),
    ] {
        let tree = Some(v1::TokenTree { tokens, parents });
        let request = v1::ScoreTreeRequest { handle, step: 1, tree, ..v1::ScoreTreeRequest::default() };
        let status = target.score_tree(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{request:?}");
    }
    let handle = draft.open_session(open(10)).await.unwrap().into_inner().handle;
    for (beam_width, draft_tokens) in [(0, 4), (4, 0), (1000, 4), (4, 1000), (8, 8)] {
        let request = propose(handle, beam_width, draft_tokens);
        let status = draft.propose(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{beam_width} × {draft_tokens}");
    }
    draft.propose(propose(handle, 4, 4)).await.unwrap();
    draft.close_session(v1::CloseSessionRequest { handle }).await.unwrap();
}

/// Distributions that a reply cannot hold are refused before they are computed, and cost nothing else.
#[tokio::test]
async fn a_target_refuses_distributions_that_a_reply_cannot_hold() {
    let system = System::start().await;
    let mut target = TargetClient::new(channel(system.target).await);
    let unfiltered = Some(v1::Sampling { temperature: 1.0, top_k: 0, top_p: 0.0 });
    let wide = v1::OpenSessionRequest { max_tree_nodes: 600, sampling: unfiltered, ..open(10) };
    let handle = target.open_session(wide).await.unwrap().into_inner().handle;
    let tree = Some(v1::TokenTree { tokens: (0..600).collect(), parents: vec![-1; 600] });
    let request = v1::ScoreTreeRequest { handle, step: 1, tree, ..v1::ScoreTreeRequest::default() };
    let refused = v1::ScoreTreeRequest { distributions: true, ..request.clone() };
    let status = target.score_tree(refused).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    assert!(status.message().contains("601 distributions over 2048 tokens, 4 MiB"), "{}", status.message());
    // The same tree without distributions.
    let scores = target.score_tree(request).await.unwrap().into_inner();
    assert_eq!(scores.drawn_tokens.len(), 601);
}

/// The embeddings of a pair may be padded differently. Tokens that only one of them has are never proposed or drawn.
#[tokio::test]
async fn tokens_beyond_the_vocabulary_limit_are_never_drawn() {
    let system = System::start().await;
    let mut target = TargetClient::new(channel(system.target).await);
    let mut draft = DraftClient::new(channel(system.draft).await);
    let sampling = Some(v1::Sampling { temperature: 100.0, top_k: 0, top_p: 0.0 });
    let open = v1::OpenSessionRequest { vocab_limit: 20, sampling, ..open(10) };
    let handle = draft.open_session(open.clone()).await.unwrap().into_inner().handle;
    let shape = propose(handle, 4, 4);
    let tree = draft.propose(shape).await.unwrap().into_inner().tree;
    assert!(tree.as_ref().unwrap().tokens.iter().all(|&t| t < 20), "{tree:?}");
    let handle = target.open_session(open).await.unwrap().into_inner().handle;
    let score = v1::ScoreTreeRequest { handle, step: 1, tree, ..v1::ScoreTreeRequest::default() };
    let scores = target.score_tree(score).await.unwrap().into_inner();
    assert!(scores.drawn_tokens.iter().all(|&t| t < 20), "{scores:?}");
}

#[tokio::test]
async fn a_full_worker_refuses_with_retry_info() {
    let system = System::start().await;
    let mut target = TargetClient::new(channel(system.target).await);
    let mut opened = Vec::new();
    let status = loop {
        match target.open_session(open(10)).await {
            Ok(response) => opened.push(response.into_inner().handle),
            Err(status) => break status,
        }
    };
    assert_eq!((status.code(), opened.len()), (Code::ResourceExhausted, 64));
    assert!(status.get_details_retry_info().is_some());
    for handle in opened {
        target.close_session(v1::CloseSessionRequest { handle }).await.unwrap();
    }
    target.open_session(open(10)).await.unwrap();
}
