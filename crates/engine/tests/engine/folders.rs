//! Folders as trainers write them: the bundled draft with some of its files changed.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tandem_engine::{Decoder, LoadOptions, ModelSource};

use crate::common::{Session, root, tokens};

const IDS: [u32; 5] = [0, 532, 28, 201, 422];

/// A copy of the bundled draft.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in std::fs::read_dir(root().join("models/demo/draft")).unwrap() {
            let file = file.unwrap();
            if file.file_type().unwrap().is_file() {
                std::fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
            }
        }
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn change(&self, file: &str, change: impl FnOnce(&mut Value)) {
        let path = self.path().join(file);
        let mut json: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(path, json.to_string()).unwrap();
    }

    fn load(&self) -> Result<Decoder, String> {
        let source = ModelSource::Directory(self.path().into());
        Decoder::load(&source, &LoadOptions::default()).map_err(|error| error.to_string())
    }

    fn refused(&self) -> String {
        match self.load() {
            Ok(_) => panic!("it was loaded"),
            Err(error) => error,
        }
    }
}

#[test]
fn settings_of_newer_checkpoints_are_those_of_older_ones() {
    let folder = Folder::new();
    let expected = Session::new(&folder.load().unwrap()).causal(&IDS);
    folder.change("config.json", |config| {
        let fields = config.as_object_mut().unwrap();
        for old in ["rope_theta", "rope_scaling", "torch_dtype"] {
            fields.remove(old).unwrap();
        }
        config["rope_parameters"] = json!({ "rope_theta": 10000.0, "partial_rotary_factor": 1.0 });
        config["dtype"] = "float16".into();
    });
    assert!(Session::new(&folder.load().unwrap()).causal(&IDS) == expected, "the bits differ");
    folder.change("config.json", |config| config["rope_parameters"]["partial_rotary_factor"] = 0.5.into());
    let error = folder.refused();
    assert!(error.contains("partial_rotary_factor in rope_parameters 0.5 is not supported"), "{error}");
}

#[test]
fn end_tokens_of_all_files_count() {
    let folder = Folder::new();
    assert_eq!(folder.load().unwrap().spec().eos, tokens(&[1]));
    folder.change("generation_config.json", |config| config["eos_token_id"] = json!([9, 8]));
    folder.change("config.json", |config| config["eos_token_id"] = 7.into());
    folder.change("tokenizer.json", |tokenizer| tokenizer["added_tokens"][2]["special"] = false.into());
    folder.change("tokenizer_config.json", |config| {
        let mut token = config["added_tokens_decoder"]["0"].clone();
        token["content"] = "<|im_end|>".into();
        // The embedding has 2048 rows: this token gets the id after the last, which the model cannot write.
        config["added_tokens_decoder"]["2048"] = token;
    });
    let model = folder.load().unwrap();
    assert_eq!(model.spec().eos, tokens(&[9, 8, 7, 1]));
    let vocabulary = model.spec().vocabulary.clone().unwrap();
    assert_eq!(vocabulary.end_tokens, tokens(&[1, 2048]));
    let tokenizer: Value = serde_json::from_slice(&vocabulary.json).unwrap();
    assert_eq!(tokenizer["added_tokens"][2]["special"], true, "tokenizer_config.json names it pad_token");
}

#[test]
fn a_tokenizer_that_fits_is_handed_over_as_it_is() {
    let folder = Folder::new();
    let stored = std::fs::read(folder.path().join("tokenizer.json")).unwrap();
    assert!(*folder.load().unwrap().spec().vocabulary.as_ref().unwrap().json == stored);
}

#[test]
fn a_model_without_a_head_is_refused_with_the_setting_that_would_help() {
    let folder = Folder::new();
    folder.change("config.json", |config| config["tie_word_embeddings"] = false.into());
    assert_eq!(
        folder.refused(),
        "the weights have no output head lm_head.weight: if the model uses its embedding as the head, set \
         \"tie_word_embeddings\": true in config.json"
    );
    // A head of its own is another model than one with a tied head.
    let path = folder.path().join("model.safetensors");
    let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let embedding = tensors["model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".into(), Tensor::zeros_like(&embedding).unwrap());
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let logits = Session::new(&folder.load().unwrap()).causal(&IDS);
    assert!(logits.iter().flatten().all(|&logit| logit == 0.0));
}

#[test]
fn an_optional_file_that_cannot_be_read_is_not_absent() {
    for name in ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"] {
        let folder = Folder::new();
        let path = folder.path().join(name);
        if path.exists() {
            std::fs::remove_file(&path).unwrap();
        }
        assert!(folder.load().is_ok(), "without {name}");
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        let error = folder.refused();
        assert_eq!(error, format!("cannot read {}", path.display()));
    }
}
