//! The tile unit of Intel processors (AMX), from Sapphire Rapids on.
//!
//! Its intrinsics are not stable in Rust, so the instructions are written in assembly. Instructions and the
//! layout of the configuration: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter
//! 18, and volume 2.
//!
//! Only our kernels use tiles in this process, and they give the state back after each use: no other code
//! finds its configuration changed, and a thread that does not multiply has no tiles to save.

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::OnceLock;

use super::emulated::EmulatedTiles;
use super::{FloatTile, IntTile, PARTS, Products, TILE_BYTES, TILE_COLUMNS, TILE_ROWS, Tiles};

/// Whether the processor has AMX with products of bytes and of bf16, the system lets this process use it, and
/// it computes what it should.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        if !(processor_has_it() && system_permits_it()) {
            return false;
        }
        let right = check();
        if !right {
            tracing::warn!("AMX computes other products than expected, and is not used: please report this");
        }
        right
    })
}

fn processor_has_it() -> bool {
    /// Leaf 7, EDX: AMX-BF16, AMX-TILE, AMX-INT8.
    const BITS: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    let highest = __cpuid_count(0, 0).eax;
    highest >= 7 && __cpuid_count(7, 0).edx & BITS == BITS
}

/// Asks Linux for the permission that a process needs once. It refuses, for example, if a thread has too small
/// a stack for signals.
fn system_permits_it() -> bool {
    #[cfg(target_os = "linux")]
    {
        /// `ARCH_REQ_XCOMP_PERM` and `XFEATURE_XTILEDATA` of Linux.
        const REQUEST: (libc::c_long, libc::c_long) = (0x1023, 18);
        // SAFETY: the call takes two numbers and changes only what this process may use.
        unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST.0, REQUEST.1) == 0 }
    }
    #[cfg(not(target_os = "linux"))]
    false
}

/// Compares small products with those of the emulation.
fn check() -> bool {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 8
    };
    let mut operands = Operands { x: [0; _], codes: [0; _], floats: [0; _], weights: [0; _] };
    operands.x.fill_with(|| (next() % 255) as u8 as i8);
    operands.codes.fill_with(|| next() as u8);
    // Small whole numbers, so that all sums are exact.
    let mut small = || (((next() % 17) as f32 - 8.0).to_bits() >> 16) as u16;
    operands.floats.fill_with(&mut small);
    operands.weights.fill_with(&mut small);
    [1, 7, TILE_ROWS].into_iter().all(|rows| {
        // SAFETY: the processor and the system have it.
        unsafe { operands.products::<AmxTiles>(rows) == operands.products::<EmulatedTiles>(rows) }
    })
}

/// For two groups of 32 inputs, and for four panels of 64.
struct Operands {
    x: [i8; TILE_ROWS * 64],
    codes: [u8; 16 * TILE_BYTES],
    floats: [u16; PARTS * TILE_ROWS * 64],
    weights: [u16; 4 * 64 * TILE_COLUMNS],
}

impl Operands {
    /// # Safety
    /// The machine has the unit.
    unsafe fn products<T: Tiles>(&self, rows: usize) -> ([IntTile; 2], [IntTile; 2], [FloatTile; 4]) {
        let mut blocks = [[[0; TILE_COLUMNS]; TILE_ROWS]; 2];
        let mut halves = [[[0; TILE_COLUMNS]; TILE_ROWS]; 2];
        let mut sums = [[[1.0; TILE_COLUMNS]; TILE_ROWS]; 4];
        // SAFETY: the contract of the caller; the operands have all rows.
        unsafe {
            T::start(Products::Blocks, rows);
            T::int_products::<8>(self.x.as_ptr(), 64, self.codes.as_ptr(), &mut blocks);
            T::start(Products::Halves, rows);
            T::int_products::<4>(self.x.as_ptr(), 64, self.codes.as_ptr(), &mut halves);
            T::start(Products::Floats, rows);
            let panel = 64 * TILE_COLUMNS;
            T::float_products(self.floats.as_ptr(), rows, self.weights.as_ptr(), panel, 2, &mut sums);
            T::stop();
        }
        (blocks, halves, sums)
    }
}

/// The configuration of the tiles: palette 1, and for each tile its rows and the bytes of a row.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

impl Config {
    const NONE: Self =
        Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes: [0; 16], rows: [0; 16] };

    /// Tiles by number, as (rows, bytes of a row).
    const fn new(shapes: [(u8, u16); 8]) -> Self {
        let mut config = Self::NONE;
        let mut tile = 0;
        while tile < shapes.len() {
            (config.rows[tile], config.row_bytes[tile]) = shapes[tile];
            tile += 1;
        }
        config
    }

    /// Sums in tiles 0 and 1, inputs in 2 and 3, codes in 4 and 5.
    const fn ints(rows: u8, steps: u8) -> Self {
        let (sums, inputs, codes) = ((rows, 64), (rows, 4 * steps as u16), (steps, 64));
        Self::new([sums, sums, inputs, inputs, codes, codes, (1, 64), (1, 64)])
    }

    /// Sums in tiles 0 to 3, inputs in 4 and 5, weights in 6 and 7.
    const fn floats(rows: u8) -> Self {
        let (rows, weights) = ((rows, 64), (16, 64));
        Self::new([rows, rows, rows, rows, rows, rows, weights, weights])
    }
}

/// For 1 to 16 rows: [`Products::Blocks`], [`Products::Halves`] and [`Products::Floats`].
static CONFIGS: [[Config; TILE_ROWS]; 3] = {
    let mut configs = [[Config::NONE; TILE_ROWS]; 3];
    let mut at = 0;
    while at < TILE_ROWS {
        let rows = at as u8 + 1;
        configs[0][at] = Config::ints(rows, 8);
        configs[1][at] = Config::ints(rows, 4);
        configs[2][at] = Config::floats(rows);
        at += 1;
    }
    configs
};

/// AMX. It may only be used where [`available`] says so.
pub(crate) struct AmxTiles;

// SAFETY: used after a check for AMX. The assembly reads and writes the memory that the contract of the trait
// states, with rows of the tiles as configured, and declares the tiles that it changes; the compiler itself
// uses none.
unsafe impl Tiles for AmxTiles {
    const AVAILABLE: bool = true;

    #[inline(always)]
    unsafe fn start(products: Products, rows: usize) {
        let config = match products {
            Products::Blocks => &CONFIGS[0][rows - 1],
            Products::Halves => &CONFIGS[1][rows - 1],
            Products::Floats => &CONFIGS[2][rows - 1],
        };
        // SAFETY: the configuration is valid; see the impl.
        unsafe {
            asm!(
                "ldtilecfg [{config}]",
                config = in(reg) config,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn stop() {
        // SAFETY: see the impl.
        unsafe {
            asm!(
                "tilerelease",
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn int_products<const STEPS: usize>(
        x: *const i8,
        stride: usize,
        codes: *const u8,
        sums: &mut [IntTile; 2],
    ) {
        let [first, second] = sums;
        // SAFETY: see the impl. The two products do not wait for each other.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm2, [{x0} + {stride}*1]",
                "tileloadd tmm4, [{codes0} + {vector}*1]",
                "tileloadd tmm3, [{x1} + {stride}*1]",
                "tileloadd tmm5, [{codes1} + {vector}*1]",
                "tdpbsud tmm0, tmm2, tmm4",
                "tdpbsud tmm1, tmm3, tmm5",
                "tilestored [{first} + {vector}*1], tmm0",
                "tilestored [{second} + {vector}*1], tmm1",
                x0 = in(reg) x, x1 = in(reg) x.wrapping_add(4 * STEPS), stride = in(reg) stride,
                codes0 = in(reg) codes, codes1 = in(reg) codes.wrapping_add(STEPS * TILE_BYTES),
                vector = in(reg) TILE_BYTES, first = in(reg) first.as_mut_ptr(), second = in(reg) second.as_mut_ptr(),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _,
                options(nostack, preserves_flags),
            );
        }
    }

    #[inline(always)]
    unsafe fn float_products(
        x: *const u16,
        rows: usize,
        weights: *const u16,
        panel: usize,
        count: usize,
        sums: &mut [FloatTile; 4],
    ) {
        let part = rows * TILE_BYTES;
        // SAFETY: see the impl; `count` is not zero. A panel's sums are added to in the order that the trait
        // states; in between come products of three other panels, so that none waits for the one before it.
        unsafe {
            asm!(
                "tileloadd tmm0, [{sums} + {vector}*1]",
                "tileloadd tmm1, [{sums} + {vector}*1 + 1024]",
                "tileloadd tmm2, [{sums} + {vector}*1 + 2048]",
                "tileloadd tmm3, [{sums} + {vector}*1 + 3072]",
                "2:",
                "mov {left}, {parts}",
                "3:",
                "tileloadd tmm4, [{x} + {vector}*1]",
                "mov {next}, {weights}",
                "tileloadd tmm6, [{next} + {vector}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "add {next}, {panel}",
                "tileloadd tmm7, [{next} + {vector}*1]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "add {next}, {panel}",
                "tileloadd tmm6, [{next} + {vector}*1]",
                "tdpbf16ps tmm2, tmm4, tmm6",
                "add {next}, {panel}",
                "tileloadd tmm7, [{next} + {vector}*1]",
                "tdpbf16ps tmm3, tmm4, tmm7",
                "add {x}, {part}",
                "dec {left}",
                "jnz 3b",
                "add {weights}, 1024",
                "dec {count}",
                "jnz 2b",
                "tilestored [{sums} + {vector}*1], tmm0",
                "tilestored [{sums} + {vector}*1 + 1024], tmm1",
                "tilestored [{sums} + {vector}*1 + 2048], tmm2",
                "tilestored [{sums} + {vector}*1 + 3072], tmm3",
                sums = in(reg) sums.as_mut_ptr(), vector = in(reg) TILE_BYTES, part = in(reg) part,
                x = inout(reg) x => _, weights = inout(reg) weights => _,
                next = out(reg) _, left = out(reg) _, parts = const PARTS,
                panel = in(reg) 2 * panel, count = inout(reg) count => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
