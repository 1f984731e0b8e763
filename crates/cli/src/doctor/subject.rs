//! A model that is checked and timed.

use tandem_engine::{Decoder, DeviceChoice, EngineConfig, Kernels, LoadOptions, ModelSource, WeightDtype};

/// One model of the pair.
pub(super) struct Subject {
    pub(super) role: &'static str,
    pub(super) name: String,
    source: ModelSource,
    pub(super) device: DeviceChoice,
    dtype: WeightDtype,
    pub(super) model: Decoder,
}

impl Subject {
    pub(super) fn load(role: &'static str, config: &EngineConfig) -> anyhow::Result<Self> {
        let source = ModelSource::parse(&config.model_id, config.revision.as_deref())?;
        let device = config.device;
        let dtype = config.dtype;
        let options = LoadOptions { device, dtype, ..LoadOptions::default() };
        let mut model = Decoder::load(&source, &options)?;
        if let Some(dtype) = config.kv_dtype {
            model = model.with_kv_dtype(dtype);
        }
        Ok(Self { role, name: config.model_id.clone(), source, device, dtype, model })
    }

    /// The same weights on the CPU with candle's kernels: slow, but independent of our own.
    pub(super) fn reference(&self) -> anyhow::Result<Decoder> {
        let options = LoadOptions {
            device: DeviceChoice::Cpu,
            dtype: self.dtype,
            kernels: Kernels::Candle,
            progress: None,
        };
        Ok(Decoder::load(&self.source, &options)?)
    }

    pub(super) fn has_real_weights(&self) -> bool {
        !matches!(self.source, ModelSource::RandomWeights(_))
    }
}
