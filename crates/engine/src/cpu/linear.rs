//! Linear layers: `y = x · Wᵀ` for few rows of `x`, with `W` packed once.

mod dense;
mod output;
mod packed_rows;
mod quantised;
mod tiled;

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use self::dense::DensePanels;
use self::output::Output;
use self::packed_rows::PackedRows;
use self::quantised::{GroupSums, QuantisedPanels, QuantisedRows};
use self::tiled::{SplitRows, TiledPanels};
use super::buffer::written;
use super::kernel_use::KernelUse;
use super::level::{Level, level};
use super::rows::contiguous;
use super::thread_pool::parallel;
use crate::blocks::{Blocks, Format};

/// Multiply-adds from which a second thread is worthwhile.
const PARALLEL_WORK: usize = 20_000;

thread_local! {
    static QUANTISED: RefCell<quantised::Scratch> = RefCell::default();
    static TILED: RefCell<tiled::Scratch> = RefCell::default();
}

/// A weight, `[out, in]`, packed into panels of outputs: a pass streams each panel once, whatever the number
/// of rows. Weights take as many bits as in the checkpoint and are widened in registers.
pub(crate) enum Panels {
    /// f32, f16 or bf16.
    Dense(DensePanels),
    /// f16 or bf16, for a tile unit.
    Tiled(TiledPanels),
    /// In one of the forms of GGUF files.
    Quantised(QuantisedPanels),
}

impl Panels {
    /// Packs `weight: [out, in]`, f32, f16 or bf16, on the CPU.
    ///
    /// # Errors
    /// If the weight has another dtype or another number of dimensions.
    pub(crate) fn dense(weight: &Tensor) -> Result<Self> {
        Self::for_level(weight, level())
    }

    fn for_level(weight: &Tensor, level: Level) -> Result<Self> {
        if level.has_float_tiles()
            && let Some(panels) = TiledPanels::new(weight)?
        {
            return Ok(Self::Tiled(panels));
        }
        DensePanels::new(weight).map(Self::Dense)
    }

    /// Packs the quantised `weight: [out, in]`.
    ///
    /// # Errors
    /// If there are more or fewer bytes than its shape requires.
    pub(crate) fn quantised(weight: &Blocks) -> Result<Self> {
        QuantisedPanels::new(weight).map(Self::Quantised)
    }

    fn outputs(&self) -> usize {
        match self {
            Self::Dense(panels) => panels.outputs,
            Self::Tiled(panels) => panels.outputs,
            Self::Quantised(panels) => panels.outputs,
        }
    }

    fn inputs(&self) -> usize {
        match self {
            Self::Dense(panels) => panels.inputs,
            Self::Tiled(panels) => panels.inputs,
            Self::Quantised(panels) => panels.inputs,
        }
    }

    /// Units of work.
    fn count(&self) -> usize {
        match self {
            Self::Dense(panels) => panels.outputs.div_ceil(dense::PANEL),
            Self::Tiled(panels) => panels.groups(),
            Self::Quantised(panels) => panels.outputs.div_ceil(quantised::PANEL),
        }
    }

    fn kernel_use(&self, level: Level) -> KernelUse {
        let (dtype, bytes, kernel) = match self {
            Self::Dense(panels) => {
                let (dtype, bytes) = panels.dtype_and_bytes();
                (dtype.as_str().to_owned(), bytes, dense::kernel(level))
            }
            Self::Tiled(panels) => (panels.dtype.as_str().to_owned(), panels.bytes(), tiled::KERNEL),
            Self::Quantised(panels) => (panels.kind.name(), panels.bytes(), quantised::kernel(level)),
        };
        KernelUse {
            dtype,
            kernel,
            integer: matches!(self, Self::Quantised(_)),
            weights: (self.outputs() * self.inputs()) as u64,
            bytes: bytes as u64,
        }
    }

    fn row(&self, output: usize) -> Vec<f32> {
        match self {
            Self::Dense(panels) => panels.row(output),
            Self::Tiled(panels) => panels.row(output),
            Self::Quantised(panels) => panels.row(output),
        }
    }
}

/// A linear layer for [`CustomOp1`]: `x: [.., rows, in]` f32 to `[.., rows, out]` f32. Several weights over
/// the same input have their outputs side by side.
pub(crate) struct PackedLinear {
    inputs: usize,
    outputs: usize,
    weights: Vec<Panels>,
    level: Level,
}

impl PackedLinear {
    /// # Errors
    /// If the weights are over different numbers of inputs.
    pub(crate) fn new(weights: Vec<Panels>) -> Result<Self> {
        Self::for_level(weights, level())
    }

    fn for_level(weights: Vec<Panels>, level: Level) -> Result<Self> {
        let inputs = weights.first().map_or(0, Panels::inputs);
        if let Some(other) = weights.iter().map(Panels::inputs).find(|&other| other != inputs) {
            candle_core::bail!("packed-linear: weights over {inputs} and {other} inputs cannot be one layer")
        }
        let outputs = weights.iter().map(Panels::outputs).sum();
        Ok(Self { inputs, outputs, weights, level })
    }

    /// The weights of the outputs `ids`, `[ids, in]`: of an embedding, its vectors. Every id is an output of
    /// the first weight.
    pub(crate) fn rows(&self, ids: &[u32]) -> Vec<f32> {
        let weight = self.weights.first();
        ids.iter().flat_map(|&id| weight.map(|weight| weight.row(id as usize)).unwrap_or_default()).collect()
    }

    /// The kernels of its weights.
    pub(crate) fn kernels(&self) -> impl Iterator<Item = KernelUse> {
        self.weights.iter().map(|weight| weight.kernel_use(self.level))
    }

    /// `x: [rows, in]` to `[rows, out]`, both row-major.
    pub(crate) fn apply(&self, x: &[f32]) -> Vec<f32> {
        let input = Input::new(self, x);
        // SAFETY: the panels have all columns, and each is multiplied by all rows.
        unsafe { written(input.rows * self.outputs, |y| self.multiply(&input, y)) }
    }

    /// Writes `y: [rows, out]`.
    fn multiply(&self, input: &Input<'_>, y: *mut f32) {
        let mut column = 0;
        let mut products = Vec::with_capacity(self.weights.len());
        for weight in &self.weights {
            products.push((weight, Output::new(y, self.outputs, column)));
            column += weight.outputs();
        }
        // The first rows cost memory traffic, further ones arithmetic.
        let work = self.inputs * self.outputs * input.rows.div_ceil(4);
        let panels = self.weights.iter().map(Panels::count).sum();
        parallel(panels, work > PARALLEL_WORK, |range| {
            let mut first = 0;
            for &(weight, y) in &products {
                let last = first + weight.count();
                let own = range.start.max(first)..range.end.min(last);
                if !own.is_empty() {
                    input.multiply(self.level, weight, y, own.start - first..own.end - first);
                }
                first = last;
            }
        });
    }
}

/// The input of a layer, in the forms that its weights need.
struct Input<'a> {
    rows: usize,
    dense: Option<PackedRows<'a>>,
    tiled: Option<SplitRows>,
    quantised: Option<QuantisedRows>,
    /// Of [`Self::quantised`], for each of the forms.
    sums: Vec<(Format, GroupSums)>,
}

impl<'a> Input<'a> {
    fn new(layer: &PackedLinear, x: &'a [f32]) -> Self {
        let mut input = Self {
            rows: x.len() / layer.inputs.max(1),
            dense: None,
            tiled: None,
            quantised: None,
            sums: Vec::new(),
        };
        for weight in &layer.weights {
            match weight {
                Panels::Dense(_) => {
                    input.dense.get_or_insert_with(|| PackedRows::new(x, layer.inputs, layer.level));
                }
                Panels::Tiled(_) => {
                    input.tiled.get_or_insert_with(|| SplitRows::new(x, layer.inputs));
                }
                Panels::Quantised(panels) => {
                    let rows = input
                        .quantised
                        .get_or_insert_with(|| QuantisedRows::new(layer.level, x, layer.inputs));
                    if input.sums.iter().all(|(format, _)| *format != panels.format) {
                        input.sums.push((panels.format, quantised::sums(layer.level, rows, panels.format)));
                    }
                }
            }
        }
        input
    }

    /// Multiplies all rows by some panels of a weight.
    fn multiply(&self, level: Level, weight: &Panels, y: Output, panels: Range<usize>) {
        match weight {
            Panels::Dense(weight) => {
                if let Some(x) = &self.dense {
                    weight.multiply(level, x, y, panels);
                }
            }
            Panels::Tiled(weight) => {
                if let Some(x) = &self.tiled {
                    TILED.with_borrow_mut(|scratch| tiled::multiply(level, weight, x, y, panels, scratch));
                }
            }
            Panels::Quantised(weight) => {
                let sums = self.sums.iter().find(|(format, _)| *format == weight.format);
                if let (Some(x), Some((_, sums))) = (&self.quantised, sums) {
                    let product = quantised::Product { weight, x, sums, y };
                    QUANTISED
                        .with_borrow_mut(|scratch| quantised::multiply(level, &product, panels, scratch));
                }
            }
        }
    }
}

impl CustomOp1 for PackedLinear {
    fn name(&self) -> &'static str {
        "packed-linear"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = contiguous(x, layout, self.name())?;
        let mut dims = layout.dims().to_vec();
        match dims.last_mut() {
            Some(last) if *last == self.inputs => *last = self.outputs,
            _ => candle_core::bail!(
                "packed-linear: an input of shape {:?} for a layer of {} inputs",
                layout.dims(),
                self.inputs
            ),
        }
        Ok((CpuStorage::F32(self.apply(x)), Shape::from(dims)))
    }
}

#[cfg(test)]
mod tests;
