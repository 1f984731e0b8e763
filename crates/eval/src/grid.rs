//! Methods × settings: the cells of an evaluation.

use std::collections::BTreeSet;

use tandem_decoding::{
    Decoding, DecodingParams, Expansion, InvalidDecoding, InvalidSampling, Method, Reference, Sampling,
};
use thiserror::Error;

use crate::report::Setting;

/// Values of every parameter; all combinations are run. A method takes part only in the parameters that it reads.
#[derive(Clone, Debug)]
pub struct Grid {
    /// Methods.
    pub methods: Vec<Method>,
    /// `B`.
    pub beam_widths: Vec<usize>,
    /// `γ`.
    pub draft_tokens: Vec<usize>,
    /// `τ`.
    pub thresholds: Vec<f64>,
    /// How beams are chosen, and candidates drawn.
    pub expansions: Vec<Expansion>,
    /// Of MMTAD.
    pub references: Vec<Reference>,
    /// Of SpecInfer.
    pub branchings: Vec<Vec<usize>>,
    /// 0 is greedy.
    pub temperatures: Vec<f64>,
    /// 0 is off.
    pub top_ks: Vec<usize>,
    /// 0 and 1 are off.
    pub top_ps: Vec<f64>,
}

/// A method and its setting, to be run.
#[derive(Clone, Debug, PartialEq)]
pub struct CellSpec {
    /// Unique, and the same in every run.
    pub id: String,
    /// Short, and unique in this grid.
    pub label: String,
    /// The method; parameters that it does not read are the default.
    pub decoding: DecodingParams,
    /// How tokens are drawn.
    pub sampling: Sampling,
}

/// Why a grid cannot be run.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InvalidGrid {
    #[error(transparent)]
    Decoding(#[from] InvalidDecoding),
    #[error(transparent)]
    Sampling(#[from] InvalidSampling),
    #[error("the grid is empty: give every parameter at least one value")]
    Empty,
}

/// A parameter as a name shows it, e.g. "τ=0.5"; empty if the method does not read it.
type Part = String;

impl Grid {
    /// All cells, methods in the order given, without repetitions.
    pub fn cells(&self) -> Result<Vec<CellSpec>, InvalidGrid> {
        let mut cells: Vec<CellSpec> = Vec::new();
        for sampling in self.samplings()? {
            for &method in &self.methods {
                for decoding in self.decodings(method) {
                    // Rejection sampling has nothing to draw from top beams.
                    if matches!(Decoding::new(decoding.clone()), Err(InvalidDecoding::NotDrawn(_)))
                        && self.expansions.len() > 1
                    {
                        continue;
                    }
                    Decoding::new(decoding.clone())?;
                    let id = name(&decoding, sampling, |_| true);
                    if !cells.iter().any(|c| c.id == id) {
                        cells.push(CellSpec { label: id.clone(), id, decoding, sampling });
                    }
                }
            }
        }
        label(&mut cells);
        if cells.is_empty() { Err(InvalidGrid::Empty) } else { Ok(cells) }
    }

    fn samplings(&self) -> Result<Vec<Sampling>, InvalidGrid> {
        let mut all = Vec::new();
        for &temperature in &self.temperatures {
            for &top_k in &self.top_ks {
                for &top_p in &self.top_ps {
                    all.push(Sampling::new(temperature, top_k, top_p)?);
                }
            }
        }
        Ok(all)
    }

    fn decodings(&self, method: Method) -> Vec<DecodingParams> {
        let paper = DecodingParams { method, ..DecodingParams::default() };
        let mut all = vec![paper];
        let mut vary = |read: bool, set: &dyn Fn(&DecodingParams) -> Vec<DecodingParams>| {
            if read {
                all = all.iter().flat_map(set).collect();
            }
        };
        vary(method.has_beams(), &|p| {
            self.beam_widths.iter().map(|&beam_width| DecodingParams { beam_width, ..p.clone() }).collect()
        });
        vary(reads_draft_tokens(method), &|p| {
            self.draft_tokens
                .iter()
                .map(|&draft_tokens| DecodingParams { draft_tokens, ..p.clone() })
                .collect()
        });
        vary(method.has_threshold(), &|p| {
            let set = |&acceptance_threshold: &f64| DecodingParams { acceptance_threshold, ..p.clone() };
            self.thresholds.iter().map(set).collect()
        });
        vary(reads_expansion(method), &|p| {
            self.expansions.iter().map(|&expansion| DecodingParams { expansion, ..p.clone() }).collect()
        });
        vary(method == Method::Mmtad, &|p| {
            self.references.iter().map(|&reference| DecodingParams { reference, ..p.clone() }).collect()
        });
        vary(method == Method::SpecInfer, &|p| {
            let set = |branching: &Vec<usize>| DecodingParams { branching: branching.clone(), ..p.clone() };
            self.branchings.iter().map(set).collect()
        });
        all
    }
}

fn reads_draft_tokens(method: Method) -> bool {
    !matches!(method, Method::Autoregressive | Method::SpecInfer)
}

fn reads_expansion(method: Method) -> bool {
    // One candidate is one candidate, with replacement or without.
    !matches!(method, Method::Autoregressive | Method::Speculative)
}

/// The parameters that `p` reads, then those of the sampling.
fn parts(p: &DecodingParams, sampling: Sampling) -> [Part; 9] {
    let m = p.method;
    let if_read = |read: bool, part: String| if read { part } else { String::new() };
    let branching: Vec<String> = p.branching.iter().map(usize::to_string).collect();
    [
        if_read(m.has_beams(), format!("B={}", p.beam_width)),
        if_read(reads_draft_tokens(m), format!("γ={}", p.draft_tokens)),
        if_read(m == Method::SpecInfer, format!("branching={}", branching.join(","))),
        if_read(m.has_threshold(), format!("τ={}", p.acceptance_threshold)),
        if_read(reads_expansion(m), p.expansion.to_string()),
        if_read(m == Method::Mmtad, format!("reference={}", p.reference)),
        format!("T={}", sampling.temperature()),
        format!("top-k={}", sampling.top_k()),
        format!("top-p={}", sampling.top_p()),
    ]
}

fn name(p: &DecodingParams, sampling: Sampling, show: impl Fn(usize) -> bool) -> String {
    let shown = parts(p, sampling).into_iter().enumerate().filter(|(i, part)| show(*i) && !part.is_empty());
    std::iter::once(p.method.to_string()).chain(shown.map(|(_, part)| part)).collect::<Vec<_>>().join(" ")
}

/// Labels name what differs: of a method's parameters between its own cells, of the sampling between all.
fn label(cells: &mut [CellSpec]) {
    let all: Vec<(Method, [Part; 9])> =
        cells.iter().map(|c| (c.decoding.method, parts(&c.decoding, c.sampling))).collect();
    for cell in cells {
        let differs = |i: usize| {
            let same_method = all.iter().filter(|(m, _)| i >= 6 || *m == cell.decoding.method);
            same_method.map(|(_, parts)| &parts[i]).collect::<BTreeSet<_>>().len() > 1
        };
        cell.label = name(&cell.decoding, cell.sampling, differs);
    }
}

impl From<&CellSpec> for Setting {
    fn from(cell: &CellSpec) -> Self {
        let (p, s) = (&cell.decoding, cell.sampling);
        let m = p.method;
        let depth = if m == Method::SpecInfer { p.branching.len() } else { p.draft_tokens };
        Self {
            method: m.to_string(),
            lossless: m.is_lossless(),
            beam_width: m.has_beams().then_some(p.beam_width),
            draft_tokens: (m != Method::Autoregressive).then_some(depth),
            threshold: m.has_threshold().then_some(p.acceptance_threshold),
            beams: reads_expansion(m).then(|| p.expansion.to_string()),
            reference: (m == Method::Mmtad).then(|| p.reference.to_string()),
            branching: (m == Method::SpecInfer).then(|| p.branching.clone()),
            temperature: s.temperature(),
            top_k: s.top_k(),
            top_p: s.top_p(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Grid {
        Grid {
            methods: Method::ALL.to_vec(),
            beam_widths: vec![4],
            draft_tokens: vec![4],
            thresholds: vec![0.5],
            expansions: vec![Expansion::Sampled { replacement: false }],
            references: vec![Reference::BestBeam],
            branchings: vec![vec![4, 2, 2]],
            temperatures: vec![1.0],
            top_ks: vec![10],
            top_ps: vec![0.9],
        }
    }

    fn labels(grid: &Grid) -> Vec<String> {
        grid.cells().unwrap().into_iter().map(|c| c.label).collect()
    }

    #[test]
    fn a_method_takes_part_in_what_it_reads() {
        assert_eq!(labels(&grid()), Method::ALL.map(Method::name));
        let sweep = Grid { thresholds: vec![0.1, 0.9], beam_widths: vec![4, 8], ..grid() };
        let count = |m: Method| sweep.cells().unwrap().iter().filter(|c| c.decoding.method == m).count();
        assert_eq!(Method::ALL.map(count), [1, 1, 1, 4, 4, 2, 2]);
        let methods = vec![Method::Autoregressive, Method::Mtad];
        let sweep = Grid { thresholds: vec![0.1, 0.9], temperatures: vec![0.5, 1.0], methods, ..grid() };
        assert_eq!(labels(&sweep)[1..3], ["mtad τ=0.1 T=0.5", "mtad τ=0.9 T=0.5"]);
    }

    #[test]
    fn top_beams_leave_out_rejection_sampling_in_a_sweep_alone() {
        let sweep = Grid { expansions: Expansion::ALL.to_vec(), ..grid() };
        assert!(!labels(&sweep).iter().any(|l| l == "specinfer top"));
        assert!(labels(&sweep).iter().any(|l| l == "mtjd top"));
        let only = Grid { expansions: vec![Expansion::Top], ..grid() };
        assert!(only.cells().is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(Grid { thresholds: vec![2.0], ..grid() }.cells().is_err());
        assert!(Grid { temperatures: vec![-1.0], ..grid() }.cells().is_err());
        assert!(Grid { top_ks: vec![], ..grid() }.cells().is_err());
    }
}
