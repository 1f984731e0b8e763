//! Integer vectors of x86 processors.

use std::arch::x86_64::*;
use std::marker::PhantomData;

use super::vectors::IntIsa;
use crate::cpu::isa::{Avx2, Avx512};
use crate::cpu::tiles::{NoTiles, Tiles};

// SAFETY: used after a check for avx2, fma and f16c; pointers are valid by the contract of the trait.
unsafe impl IntIsa for Avx2 {
    type Float = Self;
    type Ints = __m256i;
    type Codes = __m256i;
    type Tiles = NoTiles;
    const ROWS: usize = 4;
    const WIDE_ZERO: i32 = 128;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m256i {
        // SAFETY: see the impl.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, codes: __m256i) {
        // SAFETY: see the impl.
        unsafe { _mm256_storeu_si256(p.cast(), codes) }
    }
    #[inline(always)]
    unsafe fn field(codes: __m256i, right: i32, mask: u32) -> __m256i {
        // SAFETY: see the impl.
        unsafe {
            let count = _mm_cvtsi32_si128(right.abs());
            let shifted =
                if right >= 0 { _mm256_srl_epi16(codes, count) } else { _mm256_sll_epi16(codes, count) };
            _mm256_and_si256(shifted, _mm256_set1_epi32(mask as i32))
        }
    }
    #[inline(always)]
    unsafe fn or(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see the impl.
        unsafe { _mm256_or_si256(a, b) }
    }
    #[inline(always)]
    unsafe fn lookup(codes: __m256i, table: &[u8; 16]) -> __m256i {
        // SAFETY: see the impl.
        unsafe {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            _mm256_shuffle_epi8(table, codes)
        }
    }
    #[inline(always)]
    unsafe fn splat(value: i32) -> __m256i {
        // SAFETY: see the impl.
        unsafe { _mm256_set1_epi32(value) }
    }
    #[inline(always)]
    unsafe fn load_ints(p: *const i32) -> __m256i {
        // SAFETY: see the impl.
        unsafe { _mm256_loadu_si256(p.cast()) }
    }
    #[inline(always)]
    unsafe fn add(a: __m256i, b: __m256i) -> __m256i {
        // SAFETY: see the impl.
        unsafe { _mm256_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn dot<const NARROW: bool>(sum: __m256i, codes: [__m256i; 2], x: *const i8) -> __m256i {
        // SAFETY: see the impl.
        unsafe {
            let x = x.cast::<i32>();
            let x = [_mm256_set1_epi32(x.read_unaligned()), _mm256_set1_epi32(x.add(1).read_unaligned())];
            let ones = _mm256_set1_epi16(1);
            if NARROW {
                // Four products of 63 · 127 fit an i16.
                let pairs = [_mm256_maddubs_epi16(codes[0], x[0]), _mm256_maddubs_epi16(codes[1], x[1])];
                let fours = _mm256_madd_epi16(_mm256_add_epi16(pairs[0], pairs[1]), ones);
                return _mm256_add_epi32(sum, fours);
            }
            // Two products of 255 · 127 do not, but two of 128 · 127 do: the sign of the weight goes to x.
            let pairs = |codes: __m256i, x: __m256i| {
                let signed = _mm256_xor_si256(codes, _mm256_set1_epi8(-128));
                let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(signed), _mm256_sign_epi8(x, signed));
                _mm256_madd_epi16(pairs, ones)
            };
            _mm256_add_epi32(sum, _mm256_add_epi32(pairs(codes[0], x[0]), pairs(codes[1], x[1])))
        }
    }
    #[inline(always)]
    unsafe fn to_floats(ints: __m256i) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_cvtepi32_ps(ints) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_nibble(p: *const u8, right: u32) -> __m256 {
        // SAFETY: see the impl.
        unsafe {
            let bytes = _mm256_cvtepu8_epi32(_mm_loadl_epi64(p.cast()));
            let shifted = _mm256_srl_epi32(bytes, _mm_cvtsi32_si128(right as i32));
            _mm256_cvtepi32_ps(_mm256_and_si256(shifted, _mm256_set1_epi32(15)))
        }
    }
    #[inline(always)]
    unsafe fn mul(a: __m256, b: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fused(a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: see the impl.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
}

/// AVX-512 with dot products of bytes, and perhaps a tile unit.
pub(crate) struct Vnni<T>(PhantomData<T>);

// SAFETY: used after a check for avx512f, avx512bw and avx512vnni; pointers are valid by the contract of the
// trait. The tile unit keeps its own contract.
unsafe impl<T: Tiles> IntIsa for Vnni<T> {
    type Float = Avx512;
    type Ints = __m512i;
    type Codes = __m512i;
    type Tiles = T;
    const ROWS: usize = 8;
    const WIDE_ZERO: i32 = 0;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, codes: __m512i) {
        // SAFETY: see the impl.
        unsafe { _mm512_storeu_si512(p.cast(), codes) }
    }
    #[inline(always)]
    unsafe fn field(codes: __m512i, right: i32, mask: u32) -> __m512i {
        // SAFETY: see the impl.
        unsafe {
            let count = _mm_cvtsi32_si128(right.abs());
            let shifted =
                if right >= 0 { _mm512_srl_epi16(codes, count) } else { _mm512_sll_epi16(codes, count) };
            _mm512_and_si512(shifted, _mm512_set1_epi32(mask as i32))
        }
    }
    #[inline(always)]
    unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_or_si512(a, b) }
    }
    #[inline(always)]
    unsafe fn lookup(codes: __m512i, table: &[u8; 16]) -> __m512i {
        // SAFETY: see the impl.
        unsafe {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, codes)
        }
    }
    #[inline(always)]
    unsafe fn splat(value: i32) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_set1_epi32(value) }
    }
    #[inline(always)]
    unsafe fn load_ints(p: *const i32) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: see the impl.
        unsafe { _mm512_add_epi32(a, b) }
    }
    #[inline(always)]
    unsafe fn dot<const NARROW: bool>(sum: __m512i, codes: [__m512i; 2], x: *const i8) -> __m512i {
        // SAFETY: see the impl.
        unsafe {
            let x = x.cast::<i32>();
            let sum = _mm512_dpbusd_epi32(sum, codes[0], _mm512_set1_epi32(x.read_unaligned()));
            _mm512_dpbusd_epi32(sum, codes[1], _mm512_set1_epi32(x.add(1).read_unaligned()))
        }
    }
    #[inline(always)]
    unsafe fn to_floats(ints: __m512i) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi32_ps(ints) }
    }
    #[inline(always)]
    unsafe fn load_i8(p: *const i8) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn load_nibble(p: *const u8, right: u32) -> __m512 {
        // SAFETY: see the impl.
        unsafe {
            let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.cast()));
            let shifted = _mm512_srl_epi32(bytes, _mm_cvtsi32_si128(right as i32));
            _mm512_cvtepi32_ps(_mm512_and_si512(shifted, _mm512_set1_epi32(15)))
        }
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    unsafe fn fused(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: see the impl.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
}
