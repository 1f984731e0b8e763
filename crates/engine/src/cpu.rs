//! Kernels for f32 activations on the CPU.
//!
//! candle is fast for one row times a matrix and for many rows times a matrix. The passes of a token tree are
//! neither: from two rows on, candle packs the weights again on every call. Here, weights are packed once, at
//! load, and keep the dtype of the checkpoint (f16 and bf16 widen to f32 exactly), which also halves the
//! memory traffic that limits small passes.
//!
//! Every result of a row is computed in an order that depends on that row alone: not on how many rows share
//! the pass, and not on how many threads run it. So a tree pass equals causal passes along its paths *bit for
//! bit*, and the result of a request does not depend on the requests in its batch.

mod attention;
mod buffer;
mod element;
mod int_isa;
mod isa;
mod kernel_use;
mod kv_pages;
mod level;
mod linear;
mod mask;
mod norms;
mod peak;
mod reduce;
mod rows;
#[cfg(test)]
mod test_tensors;
mod thread_pool;
mod tiles;

pub(crate) use attention::{SessionKv, TreeAttention, attention_bytes};
pub use kernel_use::KernelUse;
pub use kv_pages::KvDtype;
pub(crate) use kv_pages::{KvPages, KvShape};
pub use level::InstructionSet;
pub(crate) use linear::{PackedLinear, Panels};
pub(crate) use mask::SparseMask;
pub(crate) use norms::{HeadRmsNorm, LayerNorm, RmsNorm};
pub use peak::{Peaks, measure_peaks};
pub(crate) use reduce::reduce_rows;
pub(crate) use rows::{AddAssign, Rope, SiluMul, contiguous};
pub(crate) use thread_pool::{start as start_thread_pool, with_awake as with_threads_awake};
