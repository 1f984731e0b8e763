//! How a model is loaded.

use std::sync::Arc;

use super::device::{DeviceChoice, Kernels, WeightDtype};

/// Called while a file is fetched, and while weights are read, with the bytes done so far and the bytes in
/// total.
pub type Progress = Arc<dyn Fn(u64, u64) + Send + Sync>;

/// How to load a model.
#[derive(Clone, Default)]
pub struct LoadOptions {
    /// The device that it runs on.
    pub device: DeviceChoice,
    /// The dtype that its weights are kept in.
    pub dtype: WeightDtype,
    /// The kernels that it uses on a CPU.
    pub kernels: Kernels,
    /// Called for each tensor read.
    pub progress: Option<Progress>,
}
