//! Where a model's files are.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::hub::HubModel;
use crate::{LoadError, Progress};

/// A model by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A directory in HF layout.
    Directory(PathBuf),
    /// A GGUF file with a `tokenizer.json` beside it.
    Gguf(PathBuf),
    /// A `config.json` without weights, maybe with a tokenizer beside it: its shape with random weights, to time large models without
    /// having them.
    RandomWeights(PathBuf),
    /// A model of the HF hub; its local cache is used first.
    Hub {
        /// `org/name`.
        id: String,
        /// Branch, tag or commit.
        revision: String,
    },
}

/// The files of a model.
#[derive(Clone, Debug)]
pub struct ModelFiles {
    /// `config.json`; a GGUF file is its own.
    pub config: PathBuf,
    /// `generation_config.json`, if there is one.
    pub generation: Option<PathBuf>,
    /// `tokenizer.json`; random weights may have none.
    pub tokenizer: Option<PathBuf>,
    /// Safetensors files; empty for random weights and for a GGUF file.
    pub weights: Vec<PathBuf>,
    /// The GGUF file.
    pub gguf: Option<PathBuf>,
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct ShardIndex {
    weight_map: std::collections::BTreeMap<String, String>,
}

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";

impl ModelSource {
    /// An existing directory, an existing `.json` or `.gguf` file, or a hub id.
    pub fn parse(name: &str, revision: Option<&str>) -> Result<Self, LoadError> {
        let path = Path::new(name);
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let is_file = |extension: &str| path.is_file() && path.extension().is_some_and(|e| e == extension);
        if is_file("json") {
            return Ok(Self::RandomWeights(path.to_owned()));
        }
        if is_file("gguf") {
            return Ok(Self::Gguf(path.to_owned()));
        }
        let word = |s: &str| {
            !s.is_empty()
                && !s.starts_with('.')
                && s.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
        };
        match name.split_once('/') {
            Some((org, model)) if word(org) && word(model) => {
                Ok(Self::Hub { id: name.to_owned(), revision: revision.unwrap_or("main").to_owned() })
            }
            _ => Err(LoadError::NoSuchModel(name.to_owned())),
        }
    }

    /// The name it was given.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Hub { id, .. } => id.clone(),
            Self::Directory(path) | Self::RandomWeights(path) | Self::Gguf(path) => {
                path.display().to_string()
            }
        }
    }

    /// Finds the files, fetching from the hub what is not cached; `progress` is told of each file by itself.
    pub fn files(&self, progress: Option<&Progress>) -> Result<ModelFiles, LoadError> {
        match self {
            Self::RandomWeights(config) => Ok(ModelFiles {
                config: config.clone(),
                generation: None,
                tokenizer: beside(config, "tokenizer.json"),
                weights: Vec::new(),
                gguf: None,
            }),
            Self::Gguf(path) => {
                let tokenizer = beside(path, "tokenizer.json")
                    .ok_or_else(|| LoadError::NoTokenizerBeside { model: path.clone() })?;
                Ok(ModelFiles {
                    config: path.clone(),
                    generation: beside(path, "generation_config.json"),
                    tokenizer: Some(tokenizer),
                    weights: Vec::new(),
                    gguf: Some(path.clone()),
                })
            }
            Self::Directory(dir) => collect(|name| {
                let path = dir.join(name);
                if path.is_file() { Ok(path) } else { Err(LoadError::MissingFile { path }) }
            }),
            Self::Hub { id, revision } => {
                let hub = HubModel::from_env(id, revision)?;
                collect(|name| hub.get(name, progress))
            }
        }
    }
}

/// The file `name` in the directory of `path`, if there is one.
fn beside(path: &Path, name: &str) -> Option<PathBuf> {
    Some(path.with_file_name(name)).filter(|path| path.is_file())
}

fn collect(get: impl Fn(&str) -> Result<PathBuf, LoadError>) -> Result<ModelFiles, LoadError> {
    let config = get("config.json")?;
    let tokenizer = Some(get("tokenizer.json")?);
    // Read from beside the tokenizer, if they exist: the hub's cache keeps a model's files together.
    for optional in ["tokenizer_config.json", "chat_template.jinja"] {
        let _ = get(optional);
    }
    // A hub answers "no such file" and "no network" alike; the files that must exist have told them apart above.
    let generation = get("generation_config.json").ok();
    let weights = match get(SINGLE) {
        Ok(single) => vec![single],
        Err(missing) => match get(INDEX) {
            Ok(index) => shards(&index)?.iter().map(|name| get(name)).collect::<Result<_, _>>()?,
            Err(_) => return Err(missing),
        },
    };
    Ok(ModelFiles { config, generation, tokenizer, weights, gguf: None })
}

/// The distinct files of a shard index.
fn shards(index: &Path) -> Result<Vec<String>, LoadError> {
    let text = std::fs::read(index).map_err(|source| LoadError::Read { path: index.to_owned(), source })?;
    let json: ShardIndex =
        serde_json::from_slice(&text).map_err(|source| LoadError::Json { path: index.to_owned(), source })?;
    let mut names: Vec<String> = json.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    match names.iter().find(|n| n.contains(['/', '\\']) || n.starts_with('.')) {
        Some(name) => Err(LoadError::Unsupported {
            path: index.to_owned(),
            what: format!("{name:?} is no plain file name beside it"),
        }),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_directory_a_file_or_a_hub_id() {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("config.json");
        std::fs::write(&config, "{}").unwrap();
        let parse = |name: &str| ModelSource::parse(name, None).ok();
        assert_eq!(parse(dir.path().to_str().unwrap()), Some(ModelSource::Directory(dir.path().into())));
        assert_eq!(parse(config.to_str().unwrap()), Some(ModelSource::RandomWeights(config)));
        let gguf = dir.path().join("model.gguf");
        std::fs::write(&gguf, "").unwrap();
        assert_eq!(parse(gguf.to_str().unwrap()), Some(ModelSource::Gguf(gguf.clone())));
        let alone = ModelSource::Gguf(gguf).files(None).unwrap_err();
        assert!(alone.to_string().contains("no tokenizer.json beside it"), "{alone}");
        let hub = ModelSource::Hub { id: "meta-llama/Llama-3.2-1B".into(), revision: "main".into() };
        assert_eq!(parse("meta-llama/Llama-3.2-1B"), Some(hub));
        for nothing in ["no-such-dir", "a/b/c", "/no/such", "./x", "", "org/", "org/../x"] {
            assert_eq!(parse(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn an_empty_directory_says_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let error = ModelSource::Directory(dir.path().into()).files(None).unwrap_err();
        assert!(error.to_string().contains("config.json is missing"), "{error}");
    }
}
