//! GGUF files that were split: the parts equal the whole, and what is wrong with parts is said.

use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::{self, Content, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use tandem_engine::{Decoder, LoadOptions, ModelSource, WeightDtype};

use crate::common::{Session, write_tokenizer};
use crate::gguf::{IDS, write};

/// What the metadata of a part say.
struct Says {
    index: u16,
    count: u16,
    tensors: i32,
}

/// A model of random weights and its parts, written by us as `gguf-split` writes them: all metadata in the
/// first part, and tensors in the order of their names.
struct Parts {
    dir: tempfile::TempDir,
    whole: PathBuf,
    tensors: Vec<(String, QTensor)>,
    metadata: Vec<(String, Value)>,
}

impl Parts {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let whole = write(dir.path(), GgmlDType::Q4K, GgmlDType::Q6K);
        let mut file = std::fs::File::open(&whole).unwrap();
        let content = Content::read(&mut file).unwrap();
        let mut names: Vec<&String> = content.tensor_infos.keys().collect();
        names.sort();
        let tensors = names
            .into_iter()
            .map(|name| (name.clone(), content.tensor(&mut file, name, &Device::Cpu).unwrap()))
            .collect();
        write_tokenizer(dir.path(), 96);
        Self { dir, whole, tensors, metadata: content.metadata.into_iter().collect() }
    }

    fn path(&self, part: usize, count: usize) -> PathBuf {
        self.dir.path().join(format!("small-{part:05}-of-{count:05}.gguf"))
    }

    fn write(&self, path: &Path, says: &Says, tensors: &[(String, QTensor)]) {
        let mut metadata = vec![
            ("split.no".to_owned(), Value::U16(says.index)),
            ("split.count".to_owned(), Value::U16(says.count)),
            ("split.tensors.count".to_owned(), Value::I32(says.tensors)),
        ];
        if says.index == 0 {
            metadata.extend(self.metadata.clone());
        }
        let metadata: Vec<(&str, &Value)> =
            metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let tensors: Vec<(&str, &QTensor)> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }

    /// Writes `count` parts, with all tensors after the first `skipped` parts, and returns the path of the
    /// first one.
    fn split(&self, count: usize, skipped: usize) -> PathBuf {
        let size = self.tensors.len().div_ceil(count - skipped);
        let mut chunks = self.tensors.chunks(size);
        for index in 0..count {
            let tensors = if index < skipped { &[] } else { chunks.next().unwrap_or_default() };
            let says = Says { index: index as u16, count: count as u16, tensors: self.tensors.len() as i32 };
            self.write(&self.path(index + 1, count), &says, tensors);
        }
        self.path(1, count)
    }
}

fn load(path: &Path, dtype: WeightDtype) -> Result<Decoder, String> {
    let options = LoadOptions { dtype, ..LoadOptions::default() };
    Decoder::load(&ModelSource::Gguf(path.to_owned()), &options).map_err(|error| error.to_string())
}

fn refused(path: &Path) -> String {
    match load(path, WeightDtype::Auto) {
        Ok(_) => panic!("{} was loaded", path.display()),
        Err(error) => error,
    }
}

#[test]
fn the_parts_of_a_model_are_the_model() {
    let parts = Parts::new();
    for dtype in [WeightDtype::Auto, WeightDtype::F32] {
        let whole = load(&parts.whole, dtype).unwrap();
        let expected = Session::new(&whole).causal(&IDS);
        // A first part without tensors, as with `--no-tensor-first-split`; and a part for each tensor.
        for (count, skipped) in [(2, 0), (3, 0), (3, 1), (parts.tensors.len(), 0)] {
            let model = load(&parts.split(count, skipped), dtype).unwrap();
            assert!(Session::new(&model).causal(&IDS) == expected, "{count} parts: the bits differ");
            assert_eq!(model.spec().parameters, whole.spec().parameters);
            assert_eq!(model.spec().dtype, whole.spec().dtype);
        }
    }
}

#[test]
fn progress_counts_the_bytes_of_all_parts() {
    let parts = Parts::new();
    let first = parts.split(3, 0);
    let size = |part: usize| std::fs::metadata(parts.path(part, 3)).unwrap().len();
    let totals = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = totals.clone();
    let progress = move |done: u64, total: u64| seen.lock().unwrap().push((done, total));
    let options = LoadOptions { progress: Some(std::sync::Arc::new(progress)), ..LoadOptions::default() };
    Decoder::load(&ModelSource::Gguf(first), &options).unwrap();
    let (done, total) = *totals.lock().unwrap().last().unwrap();
    assert_eq!(total, size(1) + size(2) + size(3));
    assert!(done < total && done > total * 9 / 10, "{done} of {total} bytes");
}

#[test]
fn a_missing_part_is_named() {
    let parts = Parts::new();
    let first = parts.split(3, 0);
    std::fs::remove_file(parts.path(3, 3)).unwrap();
    let dir = parts.dir.path().display();
    assert_eq!(
        refused(&first),
        format!(
            "{dir}/small-00003-of-00003.gguf is missing: {dir}/small-00001-of-00003.gguf is the first of 3 parts \
             of a model, and all of them must be in its directory; fetch part 3"
        )
    );
}

#[test]
fn the_first_part_is_asked_for() {
    let parts = Parts::new();
    let first = parts.split(3, 0);
    let second = parts.path(2, 3);
    assert_eq!(
        refused(&second),
        format!(
            "{} is part 2 of 3 of a model: give the first part instead, {}",
            second.display(),
            first.display()
        )
    );
    let renamed = parts.dir.path().join("renamed.gguf");
    std::fs::rename(&first, &renamed).unwrap();
    let error = refused(&renamed);
    assert!(error.contains("its name must end in -00001-of-00003.gguf"), "{error}");
}

#[test]
fn parts_of_other_models_are_refused() {
    let parts = Parts::new();
    let total = parts.tensors.len() as i32;
    let half = parts.tensors.len() / 2;
    let twice = parts.tensors[0].0.as_str();
    let in_first = format!("it has tensor {twice}, which {} has too", parts.path(1, 2).display());
    let all = parts.tensors.len();
    let cases = [
        (1, 4, half..all, "its metadata say that it is part 2 of 4"),
        (0, 2, half..all, "its metadata say that it is part 1 of 2"),
        (1, 2, 0..all, in_first.as_str()),
        (1, 2, half + 1..all, "tensors, but they have"),
    ];
    for (index, count, second, expected) in cases {
        let first = parts.split(2, 0);
        parts.write(&first, &Says { index: 0, count: 2, tensors: total }, &parts.tensors[..half]);
        let says = Says { index, count, tensors: total };
        parts.write(&parts.path(2, 2), &says, &parts.tensors[second]);
        let error = refused(&first);
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
    }
    let first = parts.split(2, 0);
    std::fs::copy(&parts.whole, parts.path(2, 2)).unwrap();
    let error = refused(&first);
    assert!(error.contains("do not say that it is a part of a model"), "{error}");
}
