//! Products of small matrices in tiles: what AMX does, and the same without it for tests.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;

/// Rows of a tile.
pub(crate) const TILE_ROWS: usize = 16;
/// Columns of a tile of sums: the outputs of a panel.
pub(crate) const TILE_COLUMNS: usize = 16;
/// Bytes of a row of a tile.
pub(crate) const TILE_BYTES: usize = 64;

/// bf16 of 8 bits each that an f32 of 24 bits is the sum of.
pub(crate) const PARTS: usize = 3;

/// Sums of a tile of integer products.
pub(crate) type IntTile = [[i32; TILE_COLUMNS]; TILE_ROWS];
/// Sums of a tile of float products.
pub(crate) type FloatTile = [[f32; TILE_COLUMNS]; TILE_ROWS];

/// A unit that multiplies tiles. Every row of a product depends on that row alone.
///
/// # Safety
/// The methods of an implementation may only run on a machine that has the unit, and after [`Self::start`] on
/// the same thread.
pub(crate) unsafe trait Tiles {
    /// Whether there is a unit. Without one, nothing else of it may be called.
    const AVAILABLE: bool;

    /// Prepares this thread for products of `rows` rows, at most [`TILE_ROWS`].
    unsafe fn start(products: Products, rows: usize);
    /// Gives the unit's state back.
    unsafe fn stop();

    /// `sums[g] = x[g] · codes[g]` for two groups of `STEPS` times four inputs, 8 or 4 as [`Products`] says.
    ///
    /// `x`: the i8 inputs of the first group, rows `stride` bytes apart; the next group follows in each row.
    /// `codes`: u8, `[group][step][output][4]`, a vector of [`TILE_BYTES`] for each step.
    unsafe fn int_products<const STEPS: usize>(
        x: *const i8,
        stride: usize,
        codes: *const u8,
        sums: &mut [IntTile; 2],
    );

    /// `sums[p] += x · weights[p]` for four panels, over `count` times 32 inputs, at least one; `x` is the sum
    /// of [`PARTS`] bf16.
    ///
    /// `x`: `[32 inputs][part][row][32]`. `weights`: bf16, for each panel `[input / 2][output][2]`, and panels
    /// are `panel` values apart. Sums are added up in the order of the inputs, and for each 32 of them in the
    /// order of the parts.
    unsafe fn float_products(
        x: *const u16,
        rows: usize,
        weights: *const u16,
        panel: usize,
        count: usize,
        sums: &mut [FloatTile; 4],
    );
}

/// What a tile unit is prepared for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Products {
    /// Integers, groups of 32 inputs.
    Blocks,
    /// Integers, groups of 16 inputs.
    Halves,
    Floats,
}

/// No unit.
pub(crate) struct NoTiles;

// SAFETY: nothing of it is called, because it is not available.
unsafe impl Tiles for NoTiles {
    const AVAILABLE: bool = false;

    unsafe fn start(_: Products, _: usize) {}
    unsafe fn stop() {}
    unsafe fn int_products<const STEPS: usize>(_: *const i8, _: usize, _: *const u8, _: &mut [IntTile; 2]) {}
    unsafe fn float_products(
        _: *const u16,
        _: usize,
        _: *const u16,
        _: usize,
        _: usize,
        _: &mut [FloatTile; 4],
    ) {
    }
}

/// The arithmetic of AMX in plain Rust, so that what surrounds it can be tested on any machine, and AMX itself
/// can be compared with it.
pub(crate) mod emulated {
    use std::cell::Cell;

    use super::{FloatTile, IntTile, PARTS, Products, TILE_BYTES, TILE_COLUMNS, Tiles};

    thread_local! {
        static ROWS: Cell<usize> = const { Cell::new(0) };
    }

    pub(crate) struct EmulatedTiles;

    // SAFETY: it uses no instructions beyond those of the target.
    unsafe impl Tiles for EmulatedTiles {
        const AVAILABLE: bool = true;

        unsafe fn start(_: Products, rows: usize) {
            ROWS.set(rows);
        }

        unsafe fn stop() {
            ROWS.set(0);
        }

        unsafe fn int_products<const STEPS: usize>(
            x: *const i8,
            stride: usize,
            codes: *const u8,
            sums: &mut [IntTile; 2],
        ) {
            for (group, sums) in sums.iter_mut().enumerate() {
                for (row, sums) in sums.iter_mut().enumerate().take(ROWS.get()) {
                    for (output, sum) in sums.iter_mut().enumerate() {
                        *sum = 0;
                        for input in 0..4 * STEPS {
                            let at = (group * STEPS + input / 4) * TILE_BYTES + 4 * output + input % 4;
                            // SAFETY: the contract of the trait.
                            let (x, code) =
                                unsafe { (*x.add(row * stride + group * 4 * STEPS + input), *codes.add(at)) };
                            *sum += i32::from(x) * i32::from(code);
                        }
                    }
                }
            }
        }

        unsafe fn float_products(
            x: *const u16,
            rows: usize,
            weights: *const u16,
            panel: usize,
            count: usize,
            sums: &mut [FloatTile; 4],
        ) {
            let float = |bits: u16| f32::from_bits(u32::from(bits) << 16);
            for (index, sums) in sums.iter_mut().enumerate() {
                for (row, sums) in sums.iter_mut().enumerate().take(rows) {
                    for (output, sum) in sums.iter_mut().enumerate() {
                        for at in 0..32 * PARTS * count {
                            let (tile, part, input) = (at / 32 / PARTS, at / 32 % PARTS, at % 32);
                            let x_at = ((PARTS * tile + part) * rows + row) * 32 + input;
                            let pair = (32 * tile + input) / 2 * 2 * TILE_COLUMNS;
                            let weight_at = index * panel + pair + 2 * output + input % 2;
                            // SAFETY: the contract of the trait.
                            let (x, weight) = unsafe { (*x.add(x_at), *weights.add(weight_at)) };
                            *sum += float(x) * float(weight);
                        }
                    }
                }
            }
        }
    }
}
