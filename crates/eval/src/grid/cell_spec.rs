//! A cell: one method with one setting, and its names.

use std::collections::BTreeSet;

use tandem_decoding::{DecodingParams, Method, Sampling};

use crate::report::Setting;

/// A method and the setting that it runs with.
#[derive(Clone, Debug, PartialEq)]
pub struct CellSpec {
    /// Unique, and the same in every run.
    pub id: String,
    /// Short, and unique in its grid.
    pub label: String,
    /// The method. Parameters that it does not read have their default.
    pub decoding: DecodingParams,
    /// How tokens are drawn.
    pub sampling: Sampling,
}

impl CellSpec {
    /// A cell with its full name as id and label.
    pub(super) fn new(decoding: DecodingParams, sampling: Sampling) -> Self {
        let id = name(&decoding, sampling, |_| true);
        Self { label: id.clone(), id, decoding, sampling }
    }
}

/// Whether `draft_tokens` affects the method.
pub(super) fn reads_draft_tokens(method: Method) -> bool {
    !matches!(method, Method::Autoregressive | Method::SpecInfer)
}

/// Whether `expansion` affects the method. With a single candidate, replacement makes no difference.
pub(super) fn reads_expansion(method: Method) -> bool {
    !matches!(method, Method::Autoregressive | Method::Speculative)
}

/// A parameter as part of a name, e.g. "τ=0.5"; empty if the method does not read it.
type Part = String;

/// Parts before this index are parameters of the method, the others are sampling parameters.
const FIRST_SAMPLING_PART: usize = 6;

fn parts(decoding: &DecodingParams, sampling: Sampling) -> [Part; 9] {
    let method = decoding.method;
    let branching: Vec<String> = decoding.branching.iter().map(usize::to_string).collect();
    [
        part_if(method.has_beams(), format!("B={}", decoding.beam_width)),
        part_if(reads_draft_tokens(method), format!("γ={}", decoding.draft_tokens)),
        part_if(method == Method::SpecInfer, format!("branching={}", branching.join(","))),
        part_if(method.has_threshold(), format!("τ={}", decoding.acceptance_threshold)),
        part_if(reads_expansion(method), decoding.expansion.to_string()),
        part_if(method == Method::Mmtad, format!("reference={}", decoding.reference)),
        format!("T={}", sampling.temperature()),
        format!("top-k={}", sampling.top_k()),
        format!("top-p={}", sampling.top_p()),
    ]
}

fn part_if(read: bool, part: Part) -> Part {
    if read { part } else { Part::new() }
}

/// The method and those non-empty parts whose index `shown` selects.
fn name(decoding: &DecodingParams, sampling: Sampling, shown: impl Fn(usize) -> bool) -> String {
    let mut name = decoding.method.to_string();
    for (index, part) in parts(decoding, sampling).into_iter().enumerate() {
        if shown(index) && !part.is_empty() {
            name += " ";
            name += &part;
        }
    }
    name
}

/// Shortens the labels to the parts that distinguish cells: parameters of a method among the cells of that
/// method, sampling parameters among all cells.
pub(super) fn assign_labels(cells: &mut [CellSpec]) {
    let all: Vec<(Method, [Part; 9])> =
        cells.iter().map(|c| (c.decoding.method, parts(&c.decoding, c.sampling))).collect();
    for cell in cells {
        let method = cell.decoding.method;
        let differs = |index: usize| {
            let compared = all.iter().filter(|(m, _)| index >= FIRST_SAMPLING_PART || *m == method);
            compared.map(|(_, parts)| &parts[index]).collect::<BTreeSet<_>>().len() > 1
        };
        cell.label = name(&cell.decoding, cell.sampling, differs);
    }
}

impl From<&CellSpec> for Setting {
    fn from(cell: &CellSpec) -> Self {
        let decoding = &cell.decoding;
        let method = decoding.method;
        let depth =
            if method == Method::SpecInfer { decoding.branching.len() } else { decoding.draft_tokens };
        Self {
            method: method.to_string(),
            lossless: method.is_lossless(),
            beam_width: method.has_beams().then_some(decoding.beam_width),
            draft_tokens: (method != Method::Autoregressive).then_some(depth),
            threshold: method.has_threshold().then_some(decoding.acceptance_threshold),
            beams: reads_expansion(method).then(|| decoding.expansion.to_string()),
            reference: (method == Method::Mmtad).then(|| decoding.reference.to_string()),
            branching: (method == Method::SpecInfer).then(|| decoding.branching.clone()),
            temperature: cell.sampling.temperature(),
            top_k: cell.sampling.top_k(),
            top_p: cell.sampling.top_p(),
        }
    }
}
