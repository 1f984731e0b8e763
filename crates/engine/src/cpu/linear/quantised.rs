//! Linear layers over the quantised weights of GGUF files.
//!
//! # What is computed
//!
//! A weight is a code `q` of 2 to 8 bits, with a scale `s` and either a zero point `z` (an integer) or a
//! minimum `m` (a float) that it shares with the other weights of its group of 16 or 32 inputs: `w = s (q -
//! z)` or `w = s q + m`. The inputs of a row are rounded to 8 bits, 32 at a time, with a scale `d` of their
//! own: `x ≈ d p`. Then, group by group, in the order of the inputs:
//!
//! ```text
//! y = fma(s · float(Σ q p - z Σ p), d, y)      // the sum in integers, exact
//! y = fma(m, d · float(Σ p), y)                // only with a minimum
//! ```
//!
//! Integer sums are exact and the order of the float operations is fixed, so all instruction sets give equal
//! bits, and a row does not depend on the other rows of a pass.
//!
//! # How weights are stored
//!
//! In panels of 16 outputs, see [`format`]: in as many bits as in the file, in the order in which the
//! products read them. A pass decodes a chunk of 256 inputs of a panel into the L1 cache, one byte per code,
//! and multiplies all rows by it, so that unpacking is paid once for all rows.

mod activations;
mod chunk;
mod format;
mod panels;
mod products;

#[cfg(test)]
pub(super) mod tests;
#[cfg(all(test, target_arch = "x86_64"))]
pub(super) use products::emulated_tiles;

use crate::cpu::level::Level;

pub(super) use activations::{GroupSums, QuantisedRows};
pub(super) use format::PANEL;
pub(super) use panels::QuantisedPanels;
pub(super) use products::{Product, Scratch, multiply, sums};

/// What multiplies them.
pub(super) fn kernel(level: Level) -> &'static str {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Amx => "8-bit tiles (AMX; few rows: AVX-512 VNNI), inputs rounded to 8 bits per 32",
        #[cfg(target_arch = "x86_64")]
        Level::Vnni => "8-bit dot products (AVX-512 VNNI), inputs rounded to 8 bits per 32",
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Avx2 => "8-bit products (AVX2), inputs rounded to 8 bits per 32",
        Level::Portable => "8-bit products (portable), inputs rounded to 8 bits per 32",
    }
}
