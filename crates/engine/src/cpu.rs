//! Kernels for f32 activations on the CPU.
//!
//! candle multiplies a row by a matrix quickly, and many rows by a matrix quickly, but a token tree is neither: from two
//! rows on it repacks the weights on every call. Here weights are packed once, at load, and stay in the
//! checkpoint's dtype (f16 and bf16 widen to f32 exactly), which also halves the memory traffic that bounds a small pass.
//!
//! Every result of a row is computed in an order that depends on that row alone: not on how many rows share the
//! pass, nor on how many threads run it. So a tree pass equals the path-by-path causal passes *bit for bit*, and what a request
//! gets does not depend on what it was batched with.

mod attention;
mod isa;
mod linear;
mod norms;
mod packed_rows;
mod rows;
mod team;

pub(crate) use attention::{AppendKv, Attend, Attended, Visible};
pub use linear::PackedLinear;
pub(crate) use norms::{HeadRmsNorm, LayerNorm, RmsNorm};
pub(crate) use rows::{AddAssign, Rope, SiluMul};

pub(crate) use team::{assemble as assemble_team, awake as team_awake};

/// The instruction set that the kernels use on this machine.
pub fn instruction_set() -> &'static str {
    isa::level().name()
}
