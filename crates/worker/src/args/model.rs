//! Flags and environment variables of the model that a worker runs.

use clap::Args;
use tandem_engine::{DeviceChoice, EngineConfig, InstructionSet, KvCacheSize, KvDtype, WeightDtype};

/// Flags of [`EngineConfig`].
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Model: a directory in HF layout, a .gguf file, a config.json (random weights, for timing), or a hub id
    #[arg(long = "model", env = "TANDEM_MODEL_ID", value_name = "DIR|FILE|ID")]
    pub model_id: String,

    /// Branch, tag or commit of a hub model [default: main]
    #[arg(long, env = "TANDEM_REVISION")]
    pub revision: Option<String>,

    /// Device: cpu or cuda:N
    #[arg(long, env = "TANDEM_DEVICE", default_value = "cpu")]
    pub device: DeviceChoice,

    /// Dtype of the weights: auto (as in the checkpoint, including quantised ones), f32, bf16 or f16
    #[arg(long, env = "TANDEM_DTYPE", default_value = "auto")]
    pub dtype: WeightDtype,

    /// Instruction set on a CPU: amx, vnni, avx512, avx2 or portable [default: the best that the machine has]
    #[arg(long, env = "TANDEM_ISA", value_name = "NAME")]
    pub isa: Option<InstructionSet>,

    /// Tokens that the KV caches of all sessions may hold together [default: as many as --kv-cache-fraction
    /// allows]
    #[arg(long, env = "TANDEM_KV_CACHE_TOKENS", value_name = "TOKENS")]
    pub kv_cache_tokens: Option<usize>,

    /// Fraction of the memory that is free on the device after the warm-up that the KV caches may take
    #[arg(
        long,
        env = "TANDEM_KV_CACHE_FRACTION",
        default_value_t = KvCacheSize::DEFAULT_FRACTION,
        value_name = "0..1"
    )]
    pub kv_cache_fraction: f64,

    /// Dtype of keys and values in the KV cache: f32, f16 or bf16 [default: that of the activations, f32 on a CPU]
    #[arg(long, env = "TANDEM_KV_CACHE_DTYPE", value_name = "DTYPE")]
    pub kv_cache_dtype: Option<KvDtype>,

    /// Processors that the model may use [default: all]
    #[arg(long, env = "TANDEM_MODEL_THREADS", value_name = "N")]
    pub threads: Option<usize>,
}

impl From<ModelArgs> for EngineConfig {
    fn from(args: ModelArgs) -> Self {
        Self {
            revision: args.revision,
            device: args.device,
            dtype: args.dtype,
            isa: args.isa,
            kv_cache: match args.kv_cache_tokens {
                Some(tokens) => KvCacheSize::Tokens(tokens),
                None => KvCacheSize::Fraction(args.kv_cache_fraction),
            },
            kv_dtype: args.kv_cache_dtype,
            threads: args.threads,
            ..Self::new(args.model_id)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        model: ModelArgs,
    }

    fn config(flags: &str) -> EngineConfig {
        Command::try_parse_from(flags.split(' ')).unwrap().model.into()
    }

    #[test]
    fn without_flags_a_configuration_is_the_default() {
        assert_eq!(config("worker --model m"), EngineConfig::new("m"));
    }

    #[test]
    fn every_flag_reaches_the_configuration() {
        let flags = "worker --model m --revision v2 --device cuda:1 --dtype bf16 --isa portable --kv-cache-fraction 0.5 \
                     --kv-cache-dtype bf16 --threads 3";
        let expected = EngineConfig {
            revision: Some("v2".into()),
            device: DeviceChoice::Cuda(1),
            dtype: WeightDtype::Bf16,
            isa: "portable".parse().ok(),
            kv_cache: KvCacheSize::Fraction(0.5),
            kv_dtype: Some(KvDtype::Bf16),
            threads: Some(3),
            ..EngineConfig::new("m")
        };
        assert_eq!(config(flags), expected);
    }

    #[test]
    fn a_number_of_tokens_takes_precedence_over_a_fraction() {
        let config = config("worker --model m --kv-cache-tokens 100 --kv-cache-fraction 0.5");
        assert_eq!(config.kv_cache, KvCacheSize::Tokens(100));
    }
}
