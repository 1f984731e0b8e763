//! Where and in which precision a model runs.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use candle_core::{DType, Device};

use crate::LoadError;

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
    pub fn open(self) -> Result<Device, LoadError> {
        let Self::Cuda(index) = self else { return Ok(Device::Cpu) };
        let unavailable = |reason: String| LoadError::Device { device: self.to_string(), reason };
        if !cfg!(feature = "cuda") {
            return Err(unavailable(
                "this binary was built without CUDA; build it with --features cuda".into(),
            ));
        }
        // Where libcuda is missing, opening a device panics instead of returning an error; nobody needs that story.
        static PROBE: Mutex<()> = Mutex::new(());
        let probe = PROBE.lock().unwrap_or_else(PoisonError::into_inner);
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let opened = std::panic::catch_unwind(|| Device::new_cuda(index));
        std::panic::set_hook(hook);
        drop(probe);
        match opened {
            Ok(device) => device.map_err(|e| unavailable(e.to_string())),
            Err(_) => Err(unavailable("the CUDA driver (libcuda) could not be loaded".into())),
        }
    }
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
        match name.split_once(':') {
            None if name == "cpu" => Ok(Self::Cpu),
            None if name == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", index)) if index.parse::<usize>().is_ok() => {
                Ok(Self::Cuda(index.parse().unwrap_or_default()))
            }
            _ => Err(format!("{name:?} is no device: use cpu or cuda:N")),
        }
    }
}

/// The dtype that weights are kept in.
///
/// On a GPU it is the dtype of the arithmetic too. On the CPU the arithmetic is f32 and weights are widened as they are
/// read, so that `auto` (the checkpoint's own dtype) loses nothing and reads least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WeightDtype {
    /// As in the checkpoint.
    #[default]
    Auto,
    /// 32-bit.
    F32,
    /// 16-bit, 8 bits of exponent.
    Bf16,
    /// 16-bit, 5 bits of exponent.
    F16,
}

impl WeightDtype {
    /// The dtype for a tensor that the checkpoint stores as `stored`.
    pub(crate) fn resolve(self, stored: DType) -> DType {
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
            _ => Err(format!("{name:?} is no dtype: use auto, f32, bf16 or f16")),
        }
    }
}

/// Which kernels a CPU uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Kernels {
    /// Ours: packed weights, tree attention.
    #[default]
    Packed,
    /// candle's own operations, as on a GPU: to check and to time against.
    Candle,
}
