//! Inputs and comparisons that the tests of kernels share.

use candle_core::{DType, Device, Tensor};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use rand_distr::{Distribution, StandardNormal};

/// Normally distributed values, the same in every run: rounding errors have tails, and a test must not fail
/// because of them once in a thousand runs.
pub(crate) fn random(shape: (usize, usize)) -> Tensor {
    let mut rng = ChaCha8Rng::seed_from_u64((shape.0 * 100_003 + shape.1) as u64);
    let values: Vec<f32> = (0..shape.0 * shape.1).map(|_| StandardNormal.sample(&mut rng)).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Panics if two tensors differ by 1e-5 somewhere.
pub(crate) fn assert_close(ours: &Tensor, theirs: &Tensor) {
    let diff = (ours - theirs).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(diff < 1e-5, "the difference is {diff}");
}

/// Panics if `ours: [rows, outputs]` is not the product of `x: [rows, inputs]` and `weight: [outputs, inputs]`.
/// An error may be a millionth of the sum of the absolute values of what is added.
pub(crate) fn assert_products(ours: &Tensor, x: &Tensor, weight: &Tensor, what: &str) {
    let [ours, x, weight] = [ours, x, weight].map(|t| t.to_dtype(DType::F64).unwrap());
    let weight = weight.t().unwrap();
    let exact = x.matmul(&weight).unwrap().to_vec2::<f64>().unwrap();
    let size = x.abs().unwrap().matmul(&weight.abs().unwrap()).unwrap().to_vec2::<f64>().unwrap();
    let ours = ours.to_vec2::<f64>().unwrap();
    for ((ours, exact), size) in ours.iter().flatten().zip(exact.iter().flatten()).zip(size.iter().flatten())
    {
        assert!((ours - exact).abs() < 1e-6 * size, "{what}: {ours}, not {exact}");
    }
}
