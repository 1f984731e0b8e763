//! Tests of linear layers: every instruction set that this machine has, every dtype, and odd sizes.

use candle_core::{DType, Device};

use super::quantised::tests::random_blocks;
use super::*;
use crate::blocks::BlockType;
use crate::cpu::test_tensors::{assert_products, random};

fn dense(weight: &Tensor, level: Level) -> PackedLinear {
    PackedLinear::for_level(vec![Panels::for_level(weight, level).unwrap()], level).unwrap()
}

fn quantised(weight: &Blocks, level: Level) -> PackedLinear {
    PackedLinear::for_level(vec![Panels::quantised(weight).unwrap()], level).unwrap()
}

fn apply(layer: &PackedLinear, x: &Tensor) -> Vec<Vec<f32>> {
    x.apply_op1_no_bwd(layer).unwrap().to_vec2().unwrap()
}

#[test]
fn results_are_products() {
    for level in Level::available().iter().copied() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            for (rows, inputs, outputs) in
                [(1, 5, 3), (1, 64, 200), (2, 33, 32), (5, 64, 65), (17, 96, 130), (33, 7, 31)]
            {
                let w = random((outputs, inputs)).to_dtype(dtype).unwrap();
                let x = random((rows, inputs));
                let ours = x.apply_op1_no_bwd(&dense(&w, level)).unwrap();
                assert_products(&ours, &x, &w, &format!("{level:?} {dtype:?} {rows}x{inputs}x{outputs}"));
            }
        }
    }
}

/// The product with the weights that candle reads from the same blocks, in f64, differs only by the rounding
/// of the inputs, whose bound is half a unit in 127 of the largest.
#[test]
fn quantised_results_equal_those_of_widened_weights() {
    for kind in BlockType::ALL {
        let (rows, inputs, outputs) = (5, 768, 50);
        let weight = random_blocks(kind, [outputs, inputs]);
        let widened = weight.widened();
        let x = random((rows, inputs));
        let ours = apply(&quantised(&weight, level()), &x);
        for (x, ours) in x.to_vec2::<f32>().unwrap().iter().zip(&ours) {
            for (weights, &y) in widened.chunks_exact(inputs).zip(ours) {
                let products = x.iter().zip(weights).map(|(&x, &w)| f64::from(x) * f64::from(w));
                let exact: f64 = products.sum();
                let bound: f64 = (x.chunks(32).zip(weights.chunks(32)))
                    .map(|(x, w)| {
                        let largest = x.iter().fold(0f32, |m, x| m.max(x.abs()));
                        let sum: f32 = w.iter().map(|w| w.abs()).sum();
                        f64::from(largest / 254.0 * sum)
                    })
                    .sum();
                let off = (f64::from(y) - exact).abs();
                assert!(off < bound * 1.001 + 1e-3, "{kind:?}: {y} instead of {exact}, bound {bound}");
                // Rounding errors cancel: the bound alone would not notice a wrong minimum.
                assert!(off < bound / 5.0, "{kind:?}: {y} instead of {exact}, bound {bound}");
            }
        }
    }
}

#[test]
fn quantised_results_have_equal_bits_on_every_level_and_for_every_number_of_rows() {
    for kind in BlockType::ALL {
        for (inputs, outputs) in [(256, 16), (768, 37), (1280, 3)] {
            let weight = random_blocks(kind, [outputs, inputs]);
            let x = random((40, inputs));
            let expected = apply(&quantised(&weight, Level::Portable), &x);
            for level in Level::available().iter().copied() {
                let layer = quantised(&weight, level);
                for rows in 1..=40 {
                    let y = apply(&layer, &x.narrow(0, 40 - rows, rows).unwrap());
                    assert!(y == expected[40 - rows..], "{kind:?} {level:?}, {rows} rows");
                }
            }
        }
    }
}

/// The same with an emulated tile unit, so that everything but its instructions is tested on machines without
/// one.
#[cfg(target_arch = "x86_64")]
#[test]
fn tiles_of_quantised_weights_have_the_bits_of_other_levels() {
    use super::quantised::emulated_tiles;
    if !Level::available().contains(&Level::Vnni) {
        return;
    }
    for kind in BlockType::ALL {
        for (inputs, outputs) in [(256, 16), (768, 37), (1280, 3)] {
            let weight = random_blocks(kind, [outputs, inputs]);
            let x = random((40, inputs));
            let expected = apply(&quantised(&weight, Level::Vnni), &x);
            let panels = QuantisedPanels::new(&weight).unwrap();
            let x = x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for rows in [1, 4, 5, 16, 17, 21, 33, 40] {
                let y = emulated_tiles(&panels, &x[..rows * inputs]);
                assert!(y == expected[..rows].concat(), "{kind:?}, {rows} rows");
            }
        }
    }
}

/// Blocks of 32: the last chunk need not be whole.
#[test]
fn inputs_need_not_be_whole_chunks() {
    for kind in BlockType::ALL.into_iter().filter(|kind| kind.weights() == 32) {
        for inputs in [32, 96, 288, 576] {
            let weight = random_blocks(kind, [33, inputs]);
            let widened = Tensor::from_vec(weight.widened(), (33, inputs), &Device::Cpu).unwrap();
            let x = random((3, inputs));
            let theirs = x.matmul(&widened.t().unwrap()).unwrap().to_vec2::<f32>().unwrap();
            let reference = apply(&quantised(&weight, Level::Portable), &x);
            for level in Level::available().iter().copied() {
                assert_eq!(apply(&quantised(&weight, level), &x), reference, "{kind:?} {level:?} {inputs}");
            }
            let size = theirs.concat().iter().fold(0f32, |m, y| m.max(y.abs()));
            for (ours, theirs) in reference.concat().iter().zip(theirs.concat()) {
                assert!((ours - theirs).abs() < size * 0.03, "{kind:?} {inputs}: {ours}, not {theirs}");
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    for level in Level::available().iter().copied() {
        let layer = dense(&random((150, 64)), level);
        let x = random((29, 64));
        for (row, together) in apply(&layer, &x).iter().enumerate() {
            let alone = apply(&layer, &x.narrow(0, row, 1).unwrap());
            assert_eq!(&alone[0], together, "{level:?}, row {row}");
        }
    }
}

#[test]
fn weights_of_several_kinds_have_their_outputs_side_by_side() {
    let (a, b) = (random((20, 64)), random((40, 64)).to_dtype(DType::F16).unwrap());
    let c = random_blocks(BlockType::Q5_0, [17, 64]);
    let panels =
        || vec![Panels::dense(&a).unwrap(), Panels::quantised(&c).unwrap(), Panels::dense(&b).unwrap()];
    let x = random((3, 64));
    let together = apply(&PackedLinear::new(panels()).unwrap(), &x);
    let apart: Vec<_> =
        panels().into_iter().map(|one| apply(&PackedLinear::new(vec![one]).unwrap(), &x)).collect();
    for (row, together) in together.iter().enumerate() {
        let apart: Vec<f32> = apart.iter().flat_map(|part| part[row].clone()).collect();
        assert_eq!(together, &apart);
    }
    let narrow = Panels::dense(&random((4, 8))).unwrap();
    assert!(PackedLinear::new(vec![narrow, Panels::dense(&a).unwrap()]).is_err());
}

#[test]
fn the_rows_of_an_embedding_are_its_weights() {
    let weight = random((70, 64));
    let embedding = dense(&weight, level());
    let expected = weight.to_vec2::<f32>().unwrap();
    assert_eq!(embedding.rows(&[69, 0, 33]), [69, 0, 33].map(|id| expected[id].clone()).concat());
}

#[test]
fn a_wrong_width_is_an_error() {
    let layer = dense(&random((4, 8)), level());
    assert!(random((1, 9)).apply_op1_no_bwd(&layer).is_err());
}
