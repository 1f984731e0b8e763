//! Flags of the decoding method.

use tandem_decoding::{DecodingParams, Expansion, Method, Reference};

/// How candidates are proposed and accepted.
#[derive(Clone, Debug, clap::Args)]
pub struct DecodingArgs {
    /// autoregressive, speculative, specinfer, mtad, mmtad, exact-match or mtjd
    #[arg(long, default_value_t = Method::Mmtad)]
    pub method: Method,

    /// Beams per depth, B
    #[arg(long, default_value_t = 4, value_name = "B")]
    pub beam_width: usize,

    /// Draft tokens per iteration, γ
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub draft_tokens: usize,

    /// Acceptance threshold of mtad and mmtad, τ: above 0, at most 1
    #[arg(long, default_value_t = 0.5, value_name = "TAU")]
    pub threshold: f64,

    /// How beams are chosen, and candidates drawn: sampled, sampled-with-replacement (like the code of the paper), top
    #[arg(long, default_value_t = Expansion::Sampled { replacement: false })]
    pub beams: Expansion,

    /// Reference of mmtad's acceptance: best-beam, max
    #[arg(long, default_value_t = Reference::BestBeam)]
    pub reference: Reference,

    /// Children per node of specinfer, by depth
    #[arg(long, default_value = "4,2,2", value_delimiter = ',', value_name = "N,...")]
    pub branching: Vec<usize>,
}

impl DecodingArgs {
    /// The parameters, not yet checked.
    pub fn params(&self) -> DecodingParams {
        DecodingParams {
            method: self.method,
            beam_width: self.beam_width,
            draft_tokens: self.draft_tokens,
            acceptance_threshold: self.threshold,
            expansion: self.beams,
            reference: self.reference,
            branching: self.branching.clone(),
        }
    }
}
