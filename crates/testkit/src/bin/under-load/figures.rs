//! Many measurements in a few numbers, and tables of these.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use crate::cluster::Memory;

/// Memory that a process may gain under a load that does not grow, in MiB.
const FLAT: f64 = 16.0;

/// Percentiles by nearest rank: each is one that was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Summary {
    pub(crate) samples: usize,
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// All zero if there is nothing.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let Some(&max) = values.last() else { return Self::default() };
        let rank = |percent: usize| values[(values.len() * percent).div_ceil(100).saturating_sub(1)];
        Self {
            samples: values.len(),
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p50: rank(50),
            p90: rank(90),
            p99: rank(99),
            max,
        }
    }

    /// `p50 / p90 / p99`.
    pub(crate) fn three(&self) -> String {
        format!("{:.1} / {:.1} / {:.1}", self.p50, self.p90, self.p99)
    }

    /// `p50 / p99`.
    pub(crate) fn two(&self) -> String {
        format!("{:.0} / {:.0}", self.p50, self.p99)
    }
}

/// A table in Markdown: the first column to the left, numbers to the right.
pub(crate) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A sentence for each process that grew.
pub(crate) fn grown(before: &Memory, after: &Memory, when: &str) -> Vec<String> {
    let pairs = before.parts().into_iter().zip(after.parts());
    let grown = pairs.filter(|((_, before), (_, after))| after - before >= FLAT);
    let sentence = |((process, before), (_, after))| {
        format!("the {process} grew {when}, from {before:.1} to {after:.1} MiB; below {FLAT} MiB is flat")
    };
    grown.map(sentence).collect()
}

/// A table of memory at some moments.
pub(crate) fn memory_table(moments: &[(&str, Memory)]) -> Table {
    let header: Vec<&str> =
        std::iter::once("resident MiB").chain(moments.iter().map(|(when, _)| *when)).collect();
    let mut rows = table(&header);
    for (i, (process, _)) in Memory::default().parts().into_iter().enumerate() {
        let at = moments.iter().map(|(_, memory)| format!("{:.1}", memory.parts()[i].1));
        rows.add_row(std::iter::once(process.to_owned()).chain(at));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measurements() {
        // 1 to 200, in no order.
        let summary = Summary::of((0..200).map(|i| f64::from((i * 77) % 200 + 1)).collect());
        assert_eq!((summary.samples, summary.mean), (200, 100.5));
        assert_eq!((summary.p50, summary.p90, summary.p99, summary.max), (100.0, 180.0, 198.0, 200.0));
        assert_eq!(Summary::of(Vec::new()), Summary::default());
        assert_eq!(Summary::of(vec![3.0]).p99, 3.0);
    }

    #[test]
    fn growth_is_a_sentence_per_process() {
        let before = Memory { draft: 10.0, target: 20.0, orchestrator: 5.0 };
        let after = Memory { draft: 25.9, target: 36.0, orchestrator: 1.0 };
        let grown = grown(&before, &after, "in a minute");
        assert_eq!(
            grown,
            ["the target grew in a minute, from 20.0 to 36.0 MiB; below 16 MiB is flat".to_owned()]
        );
    }
}
