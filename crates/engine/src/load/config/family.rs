//! The model families that can be loaded. A family is data: what its config.json does not say.

use super::model_config::{MlpKind, NormKind};
use super::names::{LLAMA, OPT, TensorNames};

/// What is the same in all models of a family, whatever their config.json says.
pub(super) struct Family {
    pub(super) model_type: &'static str,
    pub(super) names: &'static TensorNames,
    pub(super) norm: NormKind,
    pub(super) mlp: MlpKind,
    /// The offset of the table of learned positions; `None`: rotary positions.
    pub(super) learned_positions: Option<usize>,
    pub(super) qkv_bias: Bias,
    pub(super) output_bias: Bias,
    pub(super) mlp_bias: Bias,
    pub(super) qk_norm: bool,
    pub(super) window: Window,
    /// Whether the head is tied to the embedding if `tie_word_embeddings` is absent.
    pub(super) tied: bool,
}

/// Whether a linear layer has a bias.
#[derive(Clone, Copy)]
pub(super) enum Bias {
    Always,
    Never,
    /// As `attention_bias` or `mlp_bias` says.
    Configured,
}

/// How far back a token attends.
#[derive(Clone, Copy)]
pub(super) enum Window {
    Unlimited,
    /// As `sliding_window` says.
    Configured,
    /// As `sliding_window` says, but only if `use_sliding_window` is true.
    ConfiguredIfUsed,
}

impl Bias {
    /// `configured`: the value of the field in config.json.
    pub(super) fn is_present(self, configured: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Configured => configured,
        }
    }
}

const LLAMA_FAMILY: Family = Family {
    model_type: "llama",
    names: &LLAMA,
    norm: NormKind::Rms,
    mlp: MlpKind::GatedSilu,
    learned_positions: None,
    qkv_bias: Bias::Configured,
    output_bias: Bias::Configured,
    mlp_bias: Bias::Configured,
    qk_norm: false,
    window: Window::Unlimited,
    tied: false,
};

const FAMILIES: [Family; 5] = [
    LLAMA_FAMILY,
    Family {
        model_type: "mistral",
        qkv_bias: Bias::Never,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        window: Window::Configured,
        ..LLAMA_FAMILY
    },
    Family {
        model_type: "qwen2",
        qkv_bias: Bias::Always,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        window: Window::ConfiguredIfUsed,
        ..LLAMA_FAMILY
    },
    Family {
        model_type: "qwen3",
        mlp_bias: Bias::Never,
        qk_norm: true,
        window: Window::ConfiguredIfUsed,
        ..LLAMA_FAMILY
    },
    Family {
        model_type: "opt",
        names: &OPT,
        norm: NormKind::Layer,
        mlp: MlpKind::Relu,
        learned_positions: Some(2),
        qkv_bias: Bias::Always,
        output_bias: Bias::Always,
        mlp_bias: Bias::Always,
        tied: true,
        ..LLAMA_FAMILY
    },
];

/// The family with this `model_type`.
pub(super) fn find(model_type: &str) -> Result<&'static Family, String> {
    FAMILIES.iter().find(|family| family.model_type == model_type).ok_or_else(|| {
        let supported = FAMILIES.map(|family| family.model_type).join(", ");
        format!("model_type {model_type:?} is not supported: it must be one of {supported}")
    })
}
