//! Elementwise operations of a decoder layer: our kernels on the CPU, candle's everywhere else.

use candle_core::{Result, Tensor};

use crate::cpu::{AddAssign, SiluMul};
use crate::load::Kernels;

/// `[rows, 2n]` to `silu(left half) * right half: [rows, n]`.
pub(super) fn silu_mul(kernels: Kernels, x: &Tensor) -> Result<Tensor> {
    match kernels {
        Kernels::Packed => x.apply_op1_no_bwd(&SiluMul),
        Kernels::Candle => candle_nn::ops::swiglu(x),
    }
}

/// `x + y`, in place where possible.
pub(super) fn add(kernels: Kernels, x: Tensor, y: &Tensor) -> Result<Tensor> {
    match kernels {
        Kernels::Packed => {
            x.inplace_op2(y, &AddAssign)?;
            Ok(x)
        }
        Kernels::Candle => x + y,
    }
}

/// `x: [rows, n]` plus `bias: [n]` in every row, in place where possible.
pub(super) fn add_bias(kernels: Kernels, x: Tensor, bias: &Tensor) -> Result<Tensor> {
    match kernels {
        Kernels::Packed => add(kernels, x, bias),
        Kernels::Candle => x.broadcast_add(bias),
    }
}
