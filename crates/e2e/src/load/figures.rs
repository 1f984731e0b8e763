//! Summaries of measurements, and tables of them.

use comfy_table::Table;
use tandem_cli::bench::Summary;
use tandem_cli::output::table;

use super::cluster::Memory;

/// How much memory a process may gain under a steady load, in MiB.
const GROWTH_LIMIT: f64 = 16.0;

/// A summary, all zero if there are no values.
pub(crate) fn summary(values: Vec<f64>) -> Summary {
    Summary::of(values).unwrap_or_default()
}

/// `p50 / p90 / p99`.
pub(crate) fn three(s: &Summary) -> String {
    format!("{:.1} / {:.1} / {:.1}", s.p50, s.p90, s.p99)
}

/// `p50 / p99`.
pub(crate) fn two(s: &Summary) -> String {
    format!("{:.0} / {:.0}", s.p50, s.p99)
}

/// A sentence for each process that grew.
pub(crate) fn grown(before: &Memory, after: &Memory, when: &str) -> Vec<String> {
    let mut sentences = Vec::new();
    for ((process, before), (_, after)) in before.parts().into_iter().zip(after.parts()) {
        if after - before >= GROWTH_LIMIT {
            sentences.push(format!(
                "the {process} grew {when}, from {before:.1} to {after:.1} MiB; less than {GROWTH_LIMIT} MiB is allowed"
            ));
        }
    }
    sentences
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
    fn growth_is_a_sentence_per_process() {
        let before = Memory { draft: 10.0, target: 20.0, orchestrator: 5.0 };
        let after = Memory { draft: 25.9, target: 36.0, orchestrator: 1.0 };
        let grown = grown(&before, &after, "in a minute");
        assert_eq!(
            grown,
            ["the target grew in a minute, from 20.0 to 36.0 MiB; less than 16 MiB is allowed".to_owned()]
        );
    }
}
