//! The tree cache: which tokens a row attends to after growth and commits.

use tandem_decoding::{Accepted, RowQuery, RowSummary, TokenId, TokenTree, TreeLimits};
use tandem_engine::{EngineError, Growth, InvalidCommit, TreeCache, TreeGrowth};

use crate::common::tokens;
use crate::counter::{CONTEXT, VOCAB, bench, counts};

fn tree(ids: &[u32], parents: &[Option<usize>]) -> TokenTree {
    TokenTree::new(tokens(ids), parents.to_vec(), TreeLimits::default()).unwrap()
}

fn accepted(path: &[usize], bonus: u32) -> Accepted {
    Accepted { path: path.to_vec(), bonus: TokenId(bonus) }
}

/// Computes `nodes` and the root, if it is pending, and counts what each attends to.
async fn compute(cache: &mut TreeCache, tree: &TokenTree, nodes: &[usize], root: bool) -> Vec<String> {
    let queries = vec![RowQuery::LOGITS; nodes.len() + usize::from(root)];
    counts(&cache.compute(tree, nodes, queries).await.unwrap())
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
    let root = compute(&mut cache, &TokenTree::default(), &[], true).await;
    assert_eq!(root, ["0:1 1:1"]);
    let level = compute(&mut cache, &first_level, &[0, 1], false).await;
    assert_eq!(level, ["0:1 1:1 2:1", "0:1 1:1 3:1"]);
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
    let next = compute(&mut cache, &first_level, &[0, 1], true).await;
    assert_eq!(next, ["0:1 1:1 3:1 5:1 6:1", "0:1 1:1 2:1 3:1 5:1 6:1", "0:1 1:1 3:2 5:1 6:1"]);
    // Only the best beam remains, and its nodes get new numbers.
    cache.plant(&first_level);
    assert_eq!(cache.prune_to(1).tokens(), tokens(&[3]));
    cache.commit(&accepted(&[0], 7));
    let last = compute(&mut cache, &TokenTree::default(), &[], true).await;
    assert_eq!(last, ["0:1 1:1 3:2 5:1 6:1 7:1"]);
}

/// Grows one node per pass: a token that depends on the outputs of the pass before.
struct Chain {
    tree: TokenTree,
    depth: usize,
    next: Option<usize>,
    seen: Vec<String>,
}

impl Chain {
    fn new(depth: usize) -> Self {
        Self { tree: TokenTree::default(), depth, next: None, seen: Vec::new() }
    }
}

impl TreeGrowth for Chain {
    fn next(&mut self) -> Option<Growth<'_>> {
        let nodes = self.next.into_iter().collect();
        (self.seen.len() < self.depth).then_some(Growth {
            tree: &self.tree,
            nodes,
            queries: vec![RowQuery::LOGITS],
        })
    }

    fn take(&mut self, outputs: Vec<RowSummary>) -> Result<(), EngineError> {
        let seen = counts(&outputs).remove(0);
        // As many rows as the pass attended to.
        let total: usize =
            seen.split(' ').map(|count| count.split(':').nth(1).unwrap().parse::<usize>().unwrap()).sum();
        if total >= VOCAB {
            return Err(EngineError::Failed("the chain is too long".into()));
        }
        let parents = (0..=self.tree.len()).map(|node| node.checked_sub(1)).collect::<Vec<_>>();
        let token = TokenId(u32::try_from(total).unwrap());
        let nodes = self.tree.tokens().iter().copied().chain([token]).collect();
        self.tree = TokenTree::new(nodes, parents, TreeLimits::default()).unwrap();
        self.next = Some(self.tree.len() - 1);
        self.seen.push(seen);
        Ok(())
    }
}

#[tokio::test]
async fn a_tree_grows_on_the_model_thread_pass_by_pass() {
    let b = bench(1000, false).await;
    let mut cache = TreeCache::open(&b.thread, &tokens(&[0, 1]), 20, 8).await.unwrap();
    let grown = cache.grow(Chain::new(3)).await.unwrap();
    assert_eq!(grown.seen, ["0:1 1:1", "0:1 1:1 2:1", "0:1 1:1 2:1 3:1"]);
    assert_eq!(grown.tree.tokens(), tokens(&[2, 3, 4]));
    assert_eq!(
        *b.batches.lock().unwrap(),
        [vec![1], vec![1], vec![1], vec![1]],
        "the prompt and three passes"
    );
    // The last node was proposed, not computed. The session goes on as after any other tree.
    cache.plant(&grown.tree);
    cache.commit(&accepted(&[0, 1, 2], 7));
    let next = compute(&mut cache, &TokenTree::default(), &[], true).await;
    assert_eq!(next, ["0:1 1:1 2:1 3:1 4:1 7:1"]);
    // A growth without passes returns at once.
    assert!(cache.grow(Chain::new(0)).await.unwrap().seen.is_empty());
    // An error of the growth reaches its session, and only that.
    cache.commit(&accepted(&[], 6));
    assert_eq!(
        cache.grow(Chain::new(9)).await.err(),
        Some(EngineError::Failed("the chain is too long".into()))
    );
    let mut other = TreeCache::open(&b.thread, &tokens(&[0, 1]), 20, 8).await.unwrap();
    assert_eq!(compute(&mut other, &TokenTree::default(), &[], true).await, ["0:1 1:1"]);
    // A pass that does not fit the reservation is refused before it runs.
    let mut small = TreeCache::open(&b.thread, &tokens(&[0, 1]), 0, 1).await.unwrap();
    let refused = small.grow(Chain::new(4)).await.err();
    assert!(matches!(refused, Some(EngineError::BudgetFull { needed: 4, total: 3, .. })), "{refused:?}");
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
