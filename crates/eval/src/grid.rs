//! Methods × settings: the cells of an evaluation.

mod cell_spec;

use tandem_decoding::{
    Decoding, DecodingParams, Expansion, InvalidDecoding, InvalidSampling, Method, Reference, Sampling,
};
use thiserror::Error;

pub use self::cell_spec::CellSpec;
use self::cell_spec::{assign_labels, reads_draft_tokens, reads_expansion};

/// Values of every parameter. All combinations run; a method varies only in the parameters that it reads.
#[derive(Clone, Debug)]
pub struct Grid {
    /// Decoding methods.
    pub methods: Vec<Method>,
    /// Beam widths, `B`.
    pub beam_widths: Vec<usize>,
    /// Draft depths, `γ`.
    pub draft_tokens: Vec<usize>,
    /// Acceptance thresholds, `τ`.
    pub thresholds: Vec<f64>,
    /// How beams are chosen, and candidates drawn.
    pub expansions: Vec<Expansion>,
    /// Reference levels of MMTAD.
    pub references: Vec<Reference>,
    /// Branching factors of SpecInfer, by depth.
    pub branchings: Vec<Vec<usize>>,
    /// Temperatures; 0 is greedy.
    pub temperatures: Vec<f64>,
    /// Top-k filters; 0 is off.
    pub top_ks: Vec<usize>,
    /// Top-p filters; 0 and 1 are off.
    pub top_ps: Vec<f64>,
}

/// Why a grid cannot run.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages describe the variants")]
pub enum InvalidGrid {
    #[error(transparent)]
    Decoding(#[from] InvalidDecoding),
    #[error(transparent)]
    Sampling(#[from] InvalidSampling),
    #[error("the grid is empty: give every parameter at least one value")]
    Empty,
}

impl Grid {
    /// All cells without repetitions, methods in the given order.
    pub fn cells(&self) -> Result<Vec<CellSpec>, InvalidGrid> {
        let mut cells: Vec<CellSpec> = Vec::new();
        for sampling in self.samplings()? {
            for &method in &self.methods {
                for decoding in self.decodings(method) {
                    if self.skips(&decoding) {
                        continue;
                    }
                    Decoding::new(decoding.clone())?;
                    let cell = CellSpec::new(decoding, sampling);
                    if !cells.iter().any(|c| c.id == cell.id) {
                        cells.push(cell);
                    }
                }
            }
        }
        assign_labels(&mut cells);
        if cells.is_empty() { Err(InvalidGrid::Empty) } else { Ok(cells) }
    }

    /// Rejection sampling requires drawn candidates. In a sweep over expansions it is skipped for top beams;
    /// as the only expansion, that combination is an error.
    fn skips(&self, decoding: &DecodingParams) -> bool {
        self.expansions.len() > 1
            && matches!(Decoding::new(decoding.clone()), Err(InvalidDecoding::NotDrawn(_)))
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

    /// All combinations of the parameters that `method` reads; the others keep their defaults.
    fn decodings(&self, method: Method) -> Vec<DecodingParams> {
        let mut all = vec![DecodingParams { method, ..DecodingParams::default() }];
        if method.has_beams() {
            all = vary(&all, &self.beam_widths, |params, &width| params.beam_width = width);
        }
        if reads_draft_tokens(method) {
            all = vary(&all, &self.draft_tokens, |params, &tokens| params.draft_tokens = tokens);
        }
        if method.has_threshold() {
            all = vary(&all, &self.thresholds, |params, &tau| params.acceptance_threshold = tau);
        }
        if reads_expansion(method) {
            all = vary(&all, &self.expansions, |params, &expansion| params.expansion = expansion);
        }
        if method == Method::Mmtad {
            all = vary(&all, &self.references, |params, &reference| params.reference = reference);
        }
        if method == Method::SpecInfer {
            all = vary(&all, &self.branchings, |params, branching| params.branching.clone_from(branching));
        }
        all
    }
}

/// Every combination with every value.
fn vary<T>(all: &[DecodingParams], values: &[T], set: fn(&mut DecodingParams, &T)) -> Vec<DecodingParams> {
    let mut varied = Vec::new();
    for params in all {
        for value in values {
            let mut params = params.clone();
            set(&mut params, value);
            varied.push(params);
        }
    }
    varied
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
    fn a_method_varies_only_in_parameters_that_it_reads() {
        assert_eq!(labels(&grid()), Method::ALL.map(Method::name));
        let sweep = Grid { thresholds: vec![0.1, 0.9], beam_widths: vec![4, 8], ..grid() };
        let count = |m: Method| sweep.cells().unwrap().iter().filter(|c| c.decoding.method == m).count();
        assert_eq!(Method::ALL.map(count), [1, 1, 1, 4, 4, 2, 2]);
        let methods = vec![Method::Autoregressive, Method::Mtad];
        let sweep = Grid { thresholds: vec![0.1, 0.9], temperatures: vec![0.5, 1.0], methods, ..grid() };
        assert_eq!(labels(&sweep)[1..3], ["mtad τ=0.1 T=0.5", "mtad τ=0.9 T=0.5"]);
    }

    #[test]
    fn a_sweep_skips_rejection_sampling_with_top_beams_but_a_single_setting_is_an_error() {
        let sweep = Grid { expansions: Expansion::ALL.to_vec(), ..grid() };
        assert!(!labels(&sweep).iter().any(|l| l == "specinfer top"));
        assert!(labels(&sweep).iter().any(|l| l == "mtjd top"));
        let only = Grid { expansions: vec![Expansion::Top], ..grid() };
        assert!(only.cells().is_err());
    }

    #[test]
    fn invalid_values_are_rejected() {
        assert!(Grid { thresholds: vec![2.0], ..grid() }.cells().is_err());
        assert!(Grid { temperatures: vec![-1.0], ..grid() }.cells().is_err());
        assert!(Grid { top_ks: vec![], ..grid() }.cells().is_err());
    }
}
