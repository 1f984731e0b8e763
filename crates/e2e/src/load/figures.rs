//! Many measurements in a few numbers, and tables of these.

use comfy_table::Table;
use tandem_cli::bench::Summary;
use tandem_cli::output::table;

use crate::cluster::Memory;

/// Memory that a process may gain under a load that does not grow, in MiB.
const FLAT: f64 = 16.0;

/// All zero if there is nothing.
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
