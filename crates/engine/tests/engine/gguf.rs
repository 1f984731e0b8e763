//! GGUF files: those that llama.cpp's converter wrote (`tests/families/make_gguf.py`), and quantised ones
//! written here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use tandem_engine::{Decoder, InstructionSet, Kernels, LoadError, LoadOptions, ModelSource, WeightDtype};

use crate::common::{
    KERNELS, Session, TOLERANCE, assert_close, assert_same, family_expected, family_fixture, tokens,
    tree_and_paths, worst, write_tokenizer,
};

pub(crate) const IDS: [u32; 12] = [0, 17, 5, 90, 33, 33, 2, 60, 71, 8, 44, 19];

fn load(file: &Path, kernels: Kernels, dtype: WeightDtype) -> Result<Decoder, LoadError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.gguf");
    std::fs::copy(file, &path).unwrap();
    write_tokenizer(dir.path(), 96);
    let options = LoadOptions { kernels, dtype, ..LoadOptions::default() };
    Decoder::load(&ModelSource::Gguf(path), &options)
}

fn logits(file: &Path, kernels: Kernels, dtype: WeightDtype, ids: &[u32]) -> Vec<Vec<f32>> {
    Session::new(&load(file, kernels, dtype).unwrap()).causal(ids)
}

/// Root mean square of the difference over that of `b`.
fn relative(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let a = a.concat();
    let b = b.concat();
    let difference: f32 = a.iter().zip(&b).map(|(a, b)| (a - b) * (a - b)).sum();
    (difference / b.iter().map(|b| b * b).sum::<f32>()).sqrt()
}

/// Rotary pairs next to each other (llama) or half a head apart (qwen), biases, normalised heads, rotary
/// divisors.
#[test]
fn logits_of_unquantised_files_equal_those_of_transformers() {
    let families = ["llama3", "llama-bias", "mistral", "qwen2", "qwen3"];
    for (family, kernels) in families.iter().flat_map(|family| KERNELS.map(|kernels| (family, kernels))) {
        let (ids, expected) = family_expected(family);
        let ours = logits(&family_fixture(family).join("model.gguf"), kernels, WeightDtype::Auto, &ids);
        for (i, (ours, theirs)) in ours.iter().zip(&expected).enumerate() {
            assert_close(ours, theirs, &format!("{family}, {kernels:?}, token {i}"));
        }
    }
}

#[test]
fn a_converted_q8_0_file_differs_from_the_model_only_by_rounding() {
    let file = family_fixture("llama2").join("model.gguf");
    let (ids, expected) = family_expected("llama2");
    for kernels in KERNELS {
        let model = load(&file, kernels, WeightDtype::Auto).unwrap();
        assert_eq!(model.spec().dtype, "q8_0");
        let off = relative(&Session::new(&model).causal(&ids), &expected);
        // Both weights and activations are rounded.
        assert!(off > 0.0 && off < 2.0 * bound(GgmlDType::Q8_0), "{kernels:?}: the difference is {off}");
    }
}

/// The allowed difference from the logits of unquantised weights, relative to their size.
///
/// Rounding to steps of `s` adds noise of `s / sqrt(12)`. The largest value of a block is about 2.5 standard
/// deviations: 8 bits make steps of 2.5 / 127 = 0.02 and noise of 0.006; 6, 5 and 4 bits make noise of 0.023,
/// 0.047 and 0.1. Each of nine matrices in sequence adds noise, so three times as much arrives at the end,
/// and more where softmax and gate are steep (3.1 to 4.8 times was observed). Weights in a wrong order would
/// differ by more than 1.
fn bound(dtype: GgmlDType) -> f32 {
    5.0 * match dtype {
        GgmlDType::Q8_0 => 0.006,
        GgmlDType::Q6K => 0.023,
        GgmlDType::Q5K => 0.047,
        _ => 0.1,
    }
}

const HIDDEN: usize = 256;
const VOCAB: usize = 96;

/// Writes a model with random weights in the layout of `llama`: two layers, wide enough for blocks of 256.
/// Matrices have `dtype`; as in the mixed files of llama.cpp, some of them and the head have the dtype
/// `other`.
pub(crate) fn write(dir: &Path, dtype: GgmlDType, other: GgmlDType) -> PathBuf {
    let mut random = Random(7);
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: &[usize], dtype: GgmlDType| {
        let spread = if shape.len() == 1 { 0.2 } else { 1.0 / (shape[1] as f32).sqrt() };
        let mean = if shape.len() == 1 { 1.0 } else { 0.0 };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| mean + spread * random.next()).collect();
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        tensors.push((name, QTensor::quantize(&tensor, dtype).unwrap()));
    };
    add("token_embd.weight".into(), &[VOCAB, HIDDEN], dtype);
    add("output.weight".into(), &[VOCAB, HIDDEN], other);
    add("output_norm.weight".into(), &[HIDDEN], GgmlDType::F32);
    for layer in 0..2 {
        let mut part =
            |name: &str, shape: &[usize], dtype| add(format!("blk.{layer}.{name}.weight"), shape, dtype);
        part("attn_norm", &[HIDDEN], GgmlDType::F32);
        part("ffn_norm", &[HIDDEN], GgmlDType::F32);
        part("attn_q", &[HIDDEN, HIDDEN], dtype);
        part("attn_k", &[HIDDEN / 2, HIDDEN], dtype);
        part("attn_v", &[HIDDEN / 2, HIDDEN], other);
        part("attn_output", &[HIDDEN, HIDDEN], dtype);
        part("ffn_gate", &[2 * HIDDEN, HIDDEN], dtype);
        part("ffn_up", &[2 * HIDDEN, HIDDEN], dtype);
        part("ffn_down", &[HIDDEN, 2 * HIDDEN], other);
    }
    let path = dir.join(format!("{dtype:?}-{other:?}.gguf"));
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    save(&path, &metadata(), &tensors);
    path
}

fn metadata() -> HashMap<&'static str, Value> {
    HashMap::from([
        ("general.architecture", Value::String("llama".into())),
        ("llama.block_count", Value::U32(2)),
        ("llama.context_length", Value::U32(128)),
        ("llama.embedding_length", Value::U32(HIDDEN as u32)),
        ("llama.feed_forward_length", Value::U32(2 * HIDDEN as u32)),
        ("llama.attention.head_count", Value::U32(4)),
        ("llama.attention.head_count_kv", Value::U32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.eos_token_id", Value::U32(3)),
    ])
}

fn save(path: &Path, metadata: &HashMap<&'static str, Value>, tensors: &[(&str, &QTensor)]) {
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, tensors).unwrap();
}

/// Random numbers of mean 0 and variance 1: sums of twelve uniform ones.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        let mut uniform = || {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..12).map(|_| uniform()).sum::<f32>() - 6.0
    }
}

#[test]
fn quantisation_noise_stays_within_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let exact = write(dir.path(), GgmlDType::F32, GgmlDType::F32);
    let exact = logits(&exact, Kernels::Packed, WeightDtype::Auto, &IDS);
    use GgmlDType::{F16, Q4K, Q5K, Q6K, Q8_0};
    for (dtype, other) in [(Q8_0, Q8_0), (Q4K, Q4K), (Q4K, Q6K), (Q5K, Q6K), (Q6K, Q6K), (Q8_0, F16)] {
        let file = write(dir.path(), dtype, other);
        let widened = logits(&file, Kernels::Packed, WeightDtype::F32, &IDS);
        let lost = relative(&widened, &exact);
        assert!(lost > 0.0 && lost < bound(dtype), "{dtype:?} with {other:?}: {lost}");
        for kernels in KERNELS {
            // Compared with the same weights as f32, only the rounding of activations remains.
            let off = relative(&logits(&file, kernels, WeightDtype::Auto, &IDS), &widened);
            assert!(off > 0.0 && off < bound(Q8_0), "{dtype:?} with {other:?}, {kernels:?}: {off}");
            let widened_too = logits(&file, kernels, WeightDtype::F32, &IDS);
            assert!(worst(&widened_too.concat(), &widened.concat()) < TOLERANCE);
        }
    }
}

#[test]
fn a_tree_pass_over_quantised_weights_equals_its_paths() {
    let dir = tempfile::tempdir().unwrap();
    use GgmlDType::{Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
    for dtype in [Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0] {
        let file = write(dir.path(), dtype, dtype);
        for isa in InstructionSet::available() {
            Decoder::use_instruction_set(isa);
            let quantised = load(&file, Kernels::Packed, WeightDtype::Auto).unwrap();
            tree_and_paths(&quantised, &IDS, |node, tree, alone| {
                assert!(tree == alone, "{dtype:?} on {isa}, node {node}: the bits differ");
            });
        }
    }
}

/// Sums of f32 are fused with products on all instruction sets but the portable one.
#[test]
fn passes_have_equal_bits_on_every_instruction_set_with_fused_products() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), GgmlDType::Q4K, GgmlDType::Q6K);
    let mut all = InstructionSet::available().filter(|isa| isa.to_string() != "portable").map(|isa| {
        Decoder::use_instruction_set(isa);
        logits(&file, Kernels::Packed, WeightDtype::Auto, &IDS)
    });
    if let Some(first) = all.next() {
        assert!(all.all(|other| other == first));
    }
}

/// Quantised weights that are widened run with our kernels, like any others.
#[test]
fn a_tree_pass_over_widened_weights_equals_its_paths() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), GgmlDType::Q4K, GgmlDType::Q6K);
    let widened = load(&file, Kernels::Packed, WeightDtype::F16).unwrap();
    tree_and_paths(&widened, &IDS, |node, tree, alone| {
        assert_same(Kernels::Packed, tree, alone, &format!("node {node}"));
    });
}

#[test]
fn the_spec_describes_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), GgmlDType::Q4K, GgmlDType::Q6K);
    let model = load(&file, Kernels::Packed, WeightDtype::Auto).unwrap();
    let spec = model.spec();
    assert_eq!(spec.vocab_size, VOCAB);
    assert_eq!(spec.context_length, 128);
    assert_eq!(spec.dtype, "q4_k");
    assert_eq!(spec.eos, tokens(&[3]));
    let widened = load(&file, Kernels::Packed, WeightDtype::F16).unwrap();
    assert_eq!(widened.spec().dtype, "f16");
    assert_eq!(widened.spec().parameters, spec.parameters);
    // 4.5 and 6.6 bits per weight instead of 16.
    let ratio = widened.spec().weight_bytes as f64 / spec.weight_bytes as f64;
    assert!((2.4..3.6).contains(&ratio), "{ratio}");
    let stored = std::fs::metadata(&file).unwrap().len();
    assert!(spec.weight_bytes < stored, "{} bytes of weights in a file of {stored}", spec.weight_bytes);
}

#[test]
fn errors_say_why_a_file_cannot_be_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |path: &Path| match load(path, Kernels::Packed, WeightDtype::Auto) {
        Ok(_) => panic!("{} was loaded", path.display()),
        Err(error) => error.to_string(),
    };
    let path = dir.path().join("changed.gguf");
    let embedding = Tensor::zeros((VOCAB, HIDDEN), DType::F32, &Device::Cpu).unwrap();
    let embedding = QTensor::quantize(&embedding, GgmlDType::F32).unwrap();
    let cases: [(&str, Option<Value>, &str); 6] = [
        ("general.architecture", Some(Value::String("gemma".into())), "must be one of llama, qwen2, qwen3"),
        ("llama.block_count", None, "llama.block_count is missing"),
        ("llama.attention.head_count_kv", Some(Value::Array(vec![Value::U32(2)])), "single whole number"),
        ("llama.expert_count", Some(Value::U32(8)), "mixture of 8 experts"),
        ("llama.rope.scaling.type", Some(Value::String("yarn".into())), "rope scaling \"yarn\""),
        ("llama.context_length", Some(Value::U32(64)), "no tensor blk.0.attn_norm.weight"),
    ];
    for (key, value, expected) in cases {
        let mut metadata = metadata();
        metadata.remove(key);
        metadata.extend(value.map(|value| (key, value)));
        save(&path, &metadata, &[("token_embd.weight", &embedding), ("output.weight", &embedding)]);
        let error = refused(&path);
        assert!(error.contains(expected), "{key}: {expected:?} is not in {error:?}");
    }
    let whole = std::fs::read(write(dir.path(), GgmlDType::Q8_0, GgmlDType::Q8_0)).unwrap();
    for length in [0, 3, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..length]).unwrap();
        let error = refused(&path);
        assert!(error.contains("corrupt or truncated"), "{length} bytes: {error}");
    }
}
