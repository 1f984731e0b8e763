//! Which rows of a batch have outputs, and how many of them are computed at once.

use tandem_decoding::RowQuery;

use super::backend::Segment;

/// Bytes of logits and of whole distributions that are in memory at once, unless one row has more.
pub(super) const CHUNK_BYTES: usize = 32 << 20;

/// A row of a batch whose logits are needed.
pub(super) struct Output<'a> {
    /// The index of the row among those of all segments.
    pub(super) row: u32,
    pub(super) query: &'a RowQuery,
}

/// The outputs of all segments, in order.
pub(super) fn outputs_of<'a, C>(batch: &[Segment<'a, C>]) -> Vec<Output<'a>> {
    let mut outputs = Vec::new();
    let mut first = 0;
    for segment in batch {
        let own = &segment.pass.outputs;
        outputs.extend(own.iter().map(|o| Output { row: (first + o.row) as u32, query: &o.query }));
        first += segment.pass.tokens.len();
    }
    outputs
}

/// Splits outputs into chunks whose logits take a bounded amount of memory, however many there are.
pub(super) struct Chunks<'a> {
    pub(super) outputs: &'a [Output<'a>],
    /// Logits of a row.
    pub(super) vocab: usize,
}

impl<'a> Iterator for Chunks<'a> {
    type Item = &'a [Output<'a>];

    fn next(&mut self) -> Option<Self::Item> {
        let mut bytes = 0;
        let fits = |output: &&Output<'_>| {
            bytes += self.vocab * bytes_per_token(output.query);
            bytes <= CHUNK_BYTES
        };
        let count = self.outputs.iter().take_while(fits).count().max(1).min(self.outputs.len());
        let (chunk, rest) = self.outputs.split_at(count);
        self.outputs = rest;
        (count > 0).then_some(chunk)
    }
}

/// What a row takes for each token of the vocabulary: its logit in f32, a copy of it if requested, and an id
/// and two f64 in a distribution.
fn bytes_per_token(query: &RowQuery) -> usize {
    let copy = if query.logits { 4 } else { 0 };
    let distribution = if query.is_as_large_as_the_vocabulary() { 20 } else { 0 };
    4 + copy + distribution
}

#[cfg(test)]
mod tests {
    use tandem_decoding::Sampling;

    use super::*;

    #[test]
    fn every_output_is_in_one_chunk_and_chunks_are_bounded() {
        let filtered = RowQuery { distribution: true, logits: false, ..RowQuery::LOGITS };
        let filtered =
            RowQuery { sampling: Sampling::new(1.0, 10, 0.0).unwrap_or(Sampling::UNWARPED), ..filtered };
        let whole = RowQuery { sampling: Sampling::UNWARPED, ..filtered.clone() };
        for (vocab, query, expected) in [
            (49_152, &filtered, vec![100]),
            (131_072, &filtered, vec![64, 36]),
            (131_072, &whole, vec![10; 10]),
            (50 << 20, &whole, vec![1; 100]),
        ] {
            let outputs: Vec<Output<'_>> = (0..100).map(|row| Output { row, query }).collect();
            let chunks: Vec<_> = Chunks { outputs: &outputs, vocab }.collect();
            assert_eq!(chunks.iter().map(|chunk| chunk.len()).collect::<Vec<_>>(), expected);
            let rows: Vec<u32> = chunks.into_iter().flatten().map(|output| output.row).collect();
            assert_eq!(rows, (0..100).collect::<Vec<_>>());
        }
    }
}
