//! The tree cache: which tokens a row attends to after growth and commits.

use tandem_decoding::{Accepted, TokenId, TokenTree, TreeLimits};
use tandem_engine::{EngineError, InvalidCommit, Logits, TreeCache};

use crate::common::tokens;
use crate::counter::{CONTEXT, VOCAB, bench, counts};

fn tree(ids: &[u32], parents: &[Option<usize>]) -> TokenTree {
    TokenTree::new(tokens(ids), parents.to_vec(), TreeLimits::default()).unwrap()
}

fn accepted(path: &[usize], bonus: u32) -> Accepted {
    Accepted { path: path.to_vec(), bonus: TokenId(bonus) }
}

fn rows(logits: &Logits) -> Vec<String> {
    logits.rows().map(counts).collect()
}

#[tokio::test]
async fn a_tree_cache_commits_paths_and_nothing_else() {
    let b = bench(1000, false).await;
    //       root 1
    //      /     \
    //    2 (0)   3 (1)
    //    |         \
    //    4 (2)     5 (3)
    let whole = tree(&[2, 3, 4, 5], &[None, None, Some(0), Some(1)]);
    let first_level = tree(&[2, 3], &[None, None]);
    let mut cache = TreeCache::open(&b.thread, &tokens(&[0, 1]), 20, 8).await.unwrap();
    // As a draft grows it: the root, then depth 1. Depth 2 is proposed but not computed.
    let root = cache.grow(&TokenTree::default(), &[]).await.unwrap();
    assert_eq!(rows(&root), ["0:1 1:1"]);
    let level = cache.grow(&first_level, &[0, 1]).await.unwrap();
    assert_eq!(rows(&level), ["0:1 1:1 2:1", "0:1 1:1 3:1"]);
    cache.plant(&whole);

    assert_eq!(
        cache.check_commit(&accepted(&[4], 6), VOCAB),
        Err(InvalidCommit::NoSuchNode { node: 4, nodes: 4 })
    );
    for path in [&[2][..], &[0, 3], &[1, 1]] {
        let refused = cache.check_commit(&accepted(path, 6), VOCAB);
        assert!(matches!(refused, Err(InvalidCommit::NoPath { .. })), "{path:?}");
    }
    assert!(cache.check_commit(&accepted(&[], 8), VOCAB).is_err());

    // Node 1 has a row, node 3 has none, and the bonus token is new.
    let good = accepted(&[1, 3], 6);
    cache.check_commit(&good, VOCAB).unwrap();
    cache.commit(&good);
    assert_eq!(cache.committed(), 5);
    let next = cache.grow(&first_level, &[0, 1]).await.unwrap();
    assert_eq!(rows(&next), ["0:1 1:1 3:1 5:1 6:1", "0:1 1:1 2:1 3:1 5:1 6:1", "0:1 1:1 3:2 5:1 6:1"]);
    // Only the best beam remains, and its nodes get new numbers.
    cache.plant(&first_level);
    assert_eq!(cache.prune_to(1).tokens(), tokens(&[3]));
    cache.commit(&accepted(&[0], 7));
    let last = cache.grow(&TokenTree::default(), &[]).await.unwrap();
    assert_eq!(rows(&last), ["0:1 1:1 3:2 5:1 6:1 7:1"]);
}

#[tokio::test]
async fn prompts_that_cannot_fit_are_refused() {
    let b = bench(1000, false).await;
    let open = async |n: usize| TreeCache::open(&b.thread, &vec![TokenId(1); n], 5, 4).await.err();
    assert!(matches!(open(CONTEXT).await, Some(EngineError::ContextFull { .. })));
    assert!(matches!(open(0).await, Some(EngineError::InvalidPass(_))));
    assert_eq!(open(CONTEXT - 1).await, None);
    assert_eq!(b.thread.budget().used(), 0);
}
