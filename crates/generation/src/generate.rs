//! The loop: propose, score, accept, emit.

use tandem_decoding::{Accepted, Method};
use tracing::Instrument;

use crate::accept::accept;
use crate::output::Output;
use crate::steps::{Steps, draft_request, open, open_joint};
use crate::{
    ChunkSender, DraftSession, Drafter, Finish, FinishReason, GenerateError, Generation, Scorer,
    TargetSession,
};

/// Generates a sequence. Dropping the future frees the sessions on both sides.
pub async fn generate<D: Drafter, S: Scorer>(
    drafter: &D,
    scorer: &S,
    generation: &Generation<'_>,
    chunks: &ChunkSender,
) -> Result<Finish, GenerateError> {
    let output = Output::new(generation, chunks)?;
    match generation.decoding.method() {
        // The same loop, in which the target's own beams are the proposals and nothing is scored.
        Method::Mtjd => {
            let steps = open_joint(scorer.own_drafter(), &generation.open, generation.deadline).await?;
            run::<_, S::Session>(steps, output).await
        }
        _ => run(open(drafter, scorer, generation).await?, output).await,
    }
}

async fn run<D: DraftSession, T: TargetSession>(
    mut steps: Steps<D, T>,
    mut output: Output<'_>,
) -> Result<Finish, GenerateError> {
    let mut commit = None;
    loop {
        let span = output.iteration_span();
        let (accepted, finished) = iterate(&mut steps, commit.as_ref(), &mut output).instrument(span).await?;
        if let Some(reason) = finished {
            return output.finish(reason).await;
        }
        commit = Some(accepted);
    }
}

/// One iteration: what it accepted, to be committed by the next, and the reason if the sequence ends here.
async fn iterate<D: DraftSession, T: TargetSession>(
    steps: &mut Steps<D, T>,
    commit: Option<&Accepted>,
    output: &mut Output<'_>,
) -> Result<(Accepted, Option<FinishReason>), GenerateError> {
    let generation = output.generation;
    let request = draft_request(generation, output.remaining());
    let proposal = steps.propose(commit, request.as_ref()).await?;
    let scores = steps.score(commit, &proposal, generation).await?;
    let committed = accept(generation, &proposal, scores.as_ref(), output.position())?;
    output.count(request.as_ref(), &proposal, &committed, steps);
    let finished = output.emit(&committed, proposal, scores).await?;
    Ok((committed.accepted, finished))
}
