//! Vectors of codes and of integer sums, for each instruction set.

use crate::cpu::isa::{Isa, Portable};
use crate::cpu::tiles::{NoTiles, Tiles};

/// Integer vectors beside the float vectors of `Float`. There are as many lanes of i32, and four bytes of
/// codes for each of them.
///
/// # Safety
/// The methods of an implementation may only run on a machine that has its instruction set; pointers must be
/// valid for a vector, or for as many bytes as a method states.
pub(crate) unsafe trait IntIsa {
    /// f32 vectors of as many lanes.
    type Float: Isa;
    /// i32 lanes.
    type Ints: Copy;
    /// Four u8 for each lane.
    type Codes: Copy;
    /// A unit for products of more rows.
    type Tiles: Tiles;
    /// Rows of a tile: its sums in integers and in floats take half of the registers.
    const ROWS: usize;
    /// What [`Self::dot`] subtracts from wide codes: where only signed codes can be multiplied without
    /// overflow, 128.
    const WIDE_ZERO: i32;

    unsafe fn load(p: *const u8) -> Self::Codes;
    unsafe fn store(p: *mut u8, codes: Self::Codes);
    /// The bits of `mask` (four equal bytes) in `codes`, after a shift to the right (or the left, if
    /// negative) that may bring bits of neighbouring bytes to other places than those of the mask.
    unsafe fn field(codes: Self::Codes, right: i32, mask: u32) -> Self::Codes;
    unsafe fn or(a: Self::Codes, b: Self::Codes) -> Self::Codes;
    /// The bytes of `table` that codes of four bits refer to.
    unsafe fn lookup(codes: Self::Codes, table: &[u8; 16]) -> Self::Codes;

    unsafe fn splat(value: i32) -> Self::Ints;
    unsafe fn load_ints(p: *const i32) -> Self::Ints;
    unsafe fn add(a: Self::Ints, b: Self::Ints) -> Self::Ints;
    /// `sum` plus the products of two vectors of codes with four i8 each, all lanes with the same: those of
    /// `codes[1]` are the four after those of `codes[0]`. `x` is valid for 8 bytes. Codes are `NARROW` if
    /// they have at most 6 bits; no x is -128.
    unsafe fn dot<const NARROW: bool>(sum: Self::Ints, codes: [Self::Codes; 2], x: *const i8) -> Self::Ints;
    unsafe fn to_floats(ints: Self::Ints) -> Floats<Self>;

    /// i8, widened.
    unsafe fn load_i8(p: *const i8) -> Floats<Self>;
    /// The low four bits of u8, widened, after a shift to the right.
    unsafe fn load_nibble(p: *const u8, right: u32) -> Floats<Self>;
    unsafe fn mul(a: Floats<Self>, b: Floats<Self>) -> Floats<Self>;
    /// `a * b + c`, rounded once, on every instruction set.
    unsafe fn fused(a: Floats<Self>, b: Floats<Self>, c: Floats<Self>) -> Floats<Self>;
}

pub(crate) type Floats<I> = <<I as IntIsa>::Float as Isa>::V;

// SAFETY: it uses no instructions beyond those of the target.
unsafe impl IntIsa for Portable {
    type Float = Self;
    type Ints = [i32; 8];
    type Codes = [u8; 32];
    type Tiles = NoTiles;
    const ROWS: usize = 4;
    const WIDE_ZERO: i32 = 0;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> [u8; 32] {
        // SAFETY: valid for a vector, by the contract of the trait.
        unsafe { p.cast::<[u8; 32]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, codes: [u8; 32]) {
        // SAFETY: as above.
        unsafe { p.cast::<[u8; 32]>().write_unaligned(codes) }
    }
    #[inline(always)]
    unsafe fn field(codes: [u8; 32], right: i32, mask: u32) -> [u8; 32] {
        let mask = mask as u8;
        codes.map(|code| if right >= 0 { code >> right } else { code << -right } & mask)
    }
    #[inline(always)]
    unsafe fn or(a: [u8; 32], b: [u8; 32]) -> [u8; 32] {
        std::array::from_fn(|i| a[i] | b[i])
    }
    #[inline(always)]
    unsafe fn lookup(codes: [u8; 32], table: &[u8; 16]) -> [u8; 32] {
        codes.map(|code| table[usize::from(code & 15)])
    }
    #[inline(always)]
    unsafe fn splat(value: i32) -> [i32; 8] {
        [value; 8]
    }
    #[inline(always)]
    unsafe fn load_ints(p: *const i32) -> [i32; 8] {
        // SAFETY: valid for a vector, by the contract of the trait.
        unsafe { p.cast::<[i32; 8]>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn add(a: [i32; 8], b: [i32; 8]) -> [i32; 8] {
        std::array::from_fn(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn dot<const NARROW: bool>(sum: [i32; 8], codes: [[u8; 32]; 2], x: *const i8) -> [i32; 8] {
        // SAFETY: valid for 8 bytes, by the contract of the trait.
        let x = unsafe { x.cast::<[i8; 8]>().read_unaligned() };
        let product = |lane: usize, i: usize| i32::from(codes[i / 4][4 * lane + i % 4]) * i32::from(x[i]);
        std::array::from_fn(|lane| (0..8).fold(sum[lane], |sum, i| sum + product(lane, i)))
    }
    #[inline(always)]
    unsafe fn to_floats(ints: [i32; 8]) -> [f32; 8] {
        ints.map(|i| i as f32)
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> [f32; 8] {
        // SAFETY: valid for 8 values, by the contract of the trait.
        unsafe { p.cast::<[i8; 8]>().read_unaligned() }.map(f32::from)
    }
    #[inline(always)]
    unsafe fn load_nibble(p: *const u8, right: u32) -> [f32; 8] {
        // SAFETY: as above.
        unsafe { p.cast::<[u8; 8]>().read_unaligned() }.map(|byte| f32::from(byte >> right & 15))
    }
    #[inline(always)]
    unsafe fn mul(a: [f32; 8], b: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn fused(a: [f32; 8], b: [f32; 8], c: [f32; 8]) -> [f32; 8] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
}
