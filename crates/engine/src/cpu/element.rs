//! The dtypes that weights, keys and values are stored in. All arithmetic is in f32.

use half::{bf16, f16};

use super::buffer::Zeroed;
use super::isa::Isa;

/// A dtype that is widened to f32 in registers.
pub(crate) trait Element: Zeroed + Send + Sync {
    /// # Safety
    /// As [`Isa::load`].
    unsafe fn load<I: Isa>(p: *const Self) -> I::V;

    /// Rounded to the nearest value of this dtype.
    fn from_f32(x: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const Self) -> I::V {
        // SAFETY: the contract of the caller.
        unsafe { I::load(p) }
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
}

impl Element for f16 {
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const Self) -> I::V {
        // SAFETY: the contract of the caller.
        unsafe { I::load_f16(p) }
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }
}

impl Element for bf16 {
    #[inline(always)]
    unsafe fn load<I: Isa>(p: *const Self) -> I::V {
        // SAFETY: the contract of the caller.
        unsafe { I::load_bf16(p) }
    }

    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        Self::from_f32(x)
    }
}
