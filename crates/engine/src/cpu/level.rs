//! Instruction sets, and which of them the kernels use.

use std::cell::Cell;
use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
use super::tiles::amx;

/// An instruction set that the processor has. A value exists only where the machine has the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// As `Vnni`, with products of tiles of bytes and of bf16.
    #[cfg(target_arch = "x86_64")]
    Amx,
    /// AVX-512 with dot products of bytes.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Level {
    /// Rows of a tile of two AVX-512 or four AVX2 vectors of f32: its sums take most of the registers (32 or
    /// 16), and leave the rest to weights and inputs.
    pub(crate) fn tile_rows(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Vnni | Self::Avx512 => 12,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 3,
            Self::Portable => 3,
        }
    }

    /// f32 of a vector.
    pub(crate) fn lanes(self) -> usize {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx | Self::Vnni | Self::Avx512 => 16,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => 8,
            Self::Portable => 8,
        }
    }

    /// Whether it has tiles of bf16.
    pub(crate) fn has_float_tiles(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => true,
            _ => false,
        }
    }

    /// Its name as a setting.
    fn name(self) -> &'static str {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Amx => "amx",
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => "vnni",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => "avx2",
            Self::Portable => "portable",
        }
    }

    /// All levels that this machine has, best first.
    pub(crate) fn available() -> &'static [Self] {
        static LEVELS: OnceLock<Vec<Level>> = OnceLock::new();
        LEVELS.get_or_init(detect)
    }
}

fn detect() -> Vec<Level> {
    let mut levels = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        if avx2 && is_x86_feature_detected!("avx512f") {
            if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vnni") {
                if amx::available() {
                    levels.push(Level::Amx);
                }
                levels.push(Level::Vnni);
            }
            levels.push(Level::Avx512);
        }
        if avx2 {
            levels.push(Level::Avx2);
        }
    }
    levels.push(Level::Portable);
    levels
}

thread_local! {
    static FORCED: Cell<Option<Level>> = const { Cell::new(None) };
}

/// The level of the kernels that this thread calls: the best of this machine, unless another was set.
pub(crate) fn level() -> Level {
    FORCED.get().unwrap_or_else(|| Level::available()[0])
}

/// An instruction set of this machine, for the kernels of a model. By name: `amx` (tiles), `vnni` (AVX-512
/// with dot products of bytes), `avx512`, `avx2`, `portable`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionSet(Level);

impl InstructionSet {
    /// All that this machine has, best first.
    pub fn available() -> impl Iterator<Item = Self> {
        Level::available().iter().copied().map(Self)
    }

    /// The one of the models that this thread loads and runs.
    pub fn current() -> Self {
        Self(level())
    }

    /// Lets the models that this thread loads and runs from now on use this one.
    pub(crate) fn use_on_this_thread(self) {
        FORCED.set(Some(self.0));
    }
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

impl FromStr for InstructionSet {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::available().find(|set| set.0.name() == name.to_ascii_lowercase());
        found.ok_or_else(|| {
            let names: Vec<_> = Self::available().map(|set| set.to_string()).collect();
            format!("{name:?} is not an instruction set of this machine: it has {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_available_set_can_be_named_and_no_other() {
        for set in InstructionSet::available() {
            assert_eq!(set.to_string().parse(), Ok(set));
        }
        let error = "avx10".parse::<InstructionSet>().unwrap_err();
        assert!(error.contains("\"avx10\"") && error.contains("portable"), "{error}");
    }
}
