//! Where a model runs, and in which precision.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device};

use super::error::LoadError;

/// A device by name: `cpu` or `cuda:N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU by index.
    Cuda(usize),
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// If the binary was built without CUDA, or the driver or the GPU is missing.
    pub fn open(self) -> Result<Device, LoadError> {
        let Self::Cuda(index) = self else { return Ok(Device::Cpu) };
        let unavailable = |reason: String| LoadError::Device { device: self.to_string(), reason };
        if !cfg!(feature = "cuda") {
            return Err(unavailable(
                "this binary was built without CUDA: build it with --features cuda".into(),
            ));
        }
        match catch_silently(|| Device::new_cuda(index)) {
            Some(device) => device.map_err(|e| unavailable(e.to_string())),
            None => Err(unavailable("the CUDA driver (libcuda) could not be loaded".into())),
        }
    }
}

/// Runs `open`; `None` if it panics, without a message on stderr.
///
/// Without libcuda, opening a device panics instead of returning an error, and that backtrace helps no user.
fn catch_silently<T>(open: impl FnOnce() -> T + std::panic::UnwindSafe) -> Option<T> {
    // The panic hook belongs to the process: one probe at a time may replace it.
    static PROBE: Mutex<()> = Mutex::new(());
    let _probe = PROBE.lock().unwrap_or_else(PoisonError::into_inner);
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let opened = std::panic::catch_unwind(open);
    std::panic::set_hook(hook);
    opened.ok()
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let index = match name {
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            _ => name.strip_prefix("cuda:").and_then(|index| index.parse().ok()),
        };
        index.map(Self::Cuda).ok_or_else(|| format!("{name:?} is not a device: use cpu or cuda:N"))
    }
}

/// The dtype that weights are kept in.
///
/// On a GPU it is also the dtype of the arithmetic. On the CPU the arithmetic is f32 and weights are widened
/// as they are read, so `auto` (the dtype of the checkpoint) loses nothing and reads the least memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WeightDtype {
    /// As in the checkpoint.
    #[default]
    Auto,
    /// 32-bit floating point.
    F32,
    /// 16-bit floating point with 8 bits of exponent.
    Bf16,
    /// 16-bit floating point with 5 bits of exponent.
    F16,
}

impl WeightDtype {
    /// The dtype for a tensor that the checkpoint stores as `stored`.
    pub(super) fn resolve(self, stored: DType) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::F16 => DType::F16,
            Self::Auto if matches!(stored, DType::BF16 | DType::F16) => stored,
            Self::Auto => DType::F32,
        }
    }
}

impl FromStr for WeightDtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name.to_ascii_lowercase().as_str() {
            "auto" => Ok(Self::Auto),
            "f32" | "float32" => Ok(Self::F32),
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            "f16" | "float16" => Ok(Self::F16),
            _ => Err(format!("{name:?} is not a dtype: use auto, f32, bf16 or f16")),
        }
    }
}

/// The kernels that a CPU uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kernels {
    /// Those of this crate: packed weights, tree attention.
    #[default]
    Packed,
    /// candle's own operations, as on a GPU: a reference for results and times. Quantised weights are widened
    /// to f32.
    Candle,
}
