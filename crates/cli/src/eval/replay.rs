//! Generations that the page can replay iteration by iteration.

use std::pin::pin;

use tandem_eval::report::{Iteration, Node, Replay};
use tandem_eval::{Sample, Verdict};
use tandem_proto::v1;

use super::plan::Plan;
use super::runner::Runner;
use crate::client::generate;

/// Generates the first `items` items again under every cell, with their token trees.
///
/// The same seed generates the same text again. This is separate from the measured generations, because
/// tracing takes time.
pub(super) async fn replays(
    runner: &mut Runner,
    plan: &Plan<'_>,
    samples: &[Sample],
    items: usize,
) -> Vec<Replay> {
    let mut replays = Vec::new();
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    for item in plan.dataset.items.iter().take(items) {
        for cell in plan.cells {
            let Some(prompt) = item.turns.first() else { continue };
            let request = v1::GenerateRequest { trace: true, ..runner.request(cell, prompt, 0) };
            let answer = tokio::select! {
                answer = generate(&mut runner.client, request, |_| ()) => answer,
                _ = &mut interrupted => return replays,
            };
            // A refused request already counts as a failure of its sample.
            let Ok(answer) = answer else { continue };
            let sample = samples.iter().find(|s| s.cell == cell.id && s.item == item.id && s.seed == 0);
            replays.push(Replay {
                item: item.id.clone(),
                cell: cell.id.clone(),
                label: cell.label.clone(),
                seed: 0,
                prompt: prompt.clone(),
                text: answer.text,
                verdict: sample.map_or(Verdict::Unjudged, |s| s.verdict.clone()),
                iterations: answer.iterations.into_iter().map(iteration).collect(),
            });
        }
    }
    replays
}

fn iteration(wire: v1::Iteration) -> Iteration {
    let tree = wire.tree.unwrap_or_default();
    let mut nodes = Vec::new();
    for (i, text) in wire.texts.into_iter().enumerate() {
        nodes.push(Node {
            text,
            // The root is -1.
            parent: tree.parents.get(i).and_then(|&parent| usize::try_from(parent).ok()),
            draft: finite(&wire.draft_joint_log_probs, i),
            target: finite(&wire.target_joint_log_probs, i),
        });
    }
    Iteration {
        nodes,
        accepted: wire.accepted_nodes.iter().map(|&n| n as usize).collect(),
        bonus: wire.bonus_token.map(|_| wire.bonus_text),
    }
}

/// The value at `i`, if it exists and is finite.
fn finite(values: &[f64], i: usize) -> Option<f64> {
    values.get(i).copied().filter(|x| x.is_finite())
}
