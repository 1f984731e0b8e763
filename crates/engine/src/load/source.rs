//! Where the files of a model are.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::error::LoadError;
use super::hub::HubModel;
use super::json_file::{is_present, read_json};
use super::options::Progress;

/// A model by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelSource {
    /// A directory in the layout of the HF hub.
    Directory(PathBuf),
    /// A GGUF file. A `tokenizer.json` in the same directory takes precedence over the tokenizer in it.
    Gguf(PathBuf),
    /// A `config.json` without weights, with or without a tokenizer in the same directory. The model gets
    /// random weights of that shape: large models can be timed without their weights.
    RandomWeights(PathBuf),
    /// A model on the HF hub. The local cache is tried first.
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
    /// `config.json`, or the GGUF file.
    pub config: PathBuf,
    /// `generation_config.json`, if there is one.
    pub generation: Option<PathBuf>,
    /// `tokenizer.json`. A model with random weights may have none; a GGUF file without one has a tokenizer in
    /// its metadata.
    pub tokenizer: Option<PathBuf>,
    /// Safetensors files. Empty for random weights and for a GGUF file.
    pub weights: Vec<PathBuf>,
    /// The GGUF file, if the model is one.
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
    /// An existing directory, an existing `.json` or `.gguf` file, or a hub id. `revision` applies to a hub
    /// id and defaults to `main`.
    ///
    /// # Errors
    /// If `name` is none of these.
    pub fn parse(name: &str, revision: Option<&str>) -> Result<Self, LoadError> {
        let path = Path::new(name);
        if path.is_dir() {
            return Ok(Self::Directory(path.to_owned()));
        }
        let extension = path.extension().filter(|_| path.is_file());
        if extension.is_some_and(|extension| extension == "json") {
            return Ok(Self::RandomWeights(path.to_owned()));
        }
        if extension.is_some_and(|extension| extension == "gguf") {
            return Ok(Self::Gguf(path.to_owned()));
        }
        match name.split_once('/') {
            Some((org, model)) if is_hub_name(org) && is_hub_name(model) => {
                Ok(Self::Hub { id: name.to_owned(), revision: revision.unwrap_or("main").to_owned() })
            }
            _ => Err(LoadError::NoSuchModel(name.to_owned())),
        }
    }

    /// The name that the source was parsed from.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Hub { id, .. } => id.clone(),
            Self::Directory(path) | Self::RandomWeights(path) | Self::Gguf(path) => {
                path.display().to_string()
            }
        }
    }

    /// Finds the files, and fetches those of a hub model that are not in the cache. `progress` counts each
    /// file separately.
    ///
    /// # Errors
    /// If a file that the model needs is missing or cannot be fetched.
    pub fn files(&self, progress: Option<&Progress>) -> Result<ModelFiles, LoadError> {
        match self {
            Self::RandomWeights(config) => Ok(ModelFiles {
                config: config.clone(),
                generation: None,
                tokenizer: sibling(config, "tokenizer.json"),
                weights: Vec::new(),
                gguf: None,
            }),
            Self::Gguf(path) => Ok(ModelFiles {
                config: path.clone(),
                generation: sibling(path, "generation_config.json"),
                tokenizer: sibling(path, "tokenizer.json"),
                weights: Vec::new(),
                gguf: Some(path.clone()),
            }),
            Self::Directory(dir) => {
                let missing = |name: &str| LoadError::MissingFile { path: dir.join(name) };
                collect(|name| Ok(Some(dir.join(name)).filter(|path| is_present(path))), missing)
            }
            Self::Hub { id, revision } => {
                let hub = HubModel::from_env(id, revision)?;
                collect(|name| hub.find(name, progress), |name| hub.missing(name))
            }
        }
    }
}

/// Whether `name` can be an organisation or a model on the hub.
fn is_hub_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('.')
        && name.chars().all(|c| c.is_alphanumeric() || "-_.".contains(c))
}

/// The file `name` in the directory of `path`, if there is one.
fn sibling(path: &Path, name: &str) -> Option<PathBuf> {
    Some(path.with_file_name(name)).filter(|path| path.is_file())
}

/// The files of a model in HF layout. `find` finds or fetches one, or says that the model does not have it;
/// `missing` is the error for one that is needed.
fn collect(
    find: impl Fn(&str) -> Result<Option<PathBuf>, LoadError>,
    missing: impl Fn(&str) -> LoadError,
) -> Result<ModelFiles, LoadError> {
    let get = |name: &str| find(name)?.ok_or_else(|| missing(name));
    let config = get("config.json")?;
    let tokenizer = Some(get("tokenizer.json")?);
    // Fetched for `Vocabulary`, which reads them from the directory of the tokenizer. The hub's cache stores
    // the files of a commit in one directory.
    find("tokenizer_config.json")?;
    if find("chat_template.jinja")?.is_none() {
        find("additional_chat_templates/default.jinja")?;
    }
    let generation = find("generation_config.json")?;
    let weights = match find(SINGLE)? {
        Some(single) => vec![single],
        None => {
            let index = find(INDEX)?.ok_or_else(|| missing(SINGLE))?;
            shards(&index)?.iter().map(|name| get(name)).collect::<Result<_, _>>()?
        }
    };
    Ok(ModelFiles { config, generation, tokenizer, weights, gguf: None })
}

/// The distinct files of a shard index.
fn shards(index: &Path) -> Result<Vec<String>, LoadError> {
    let json: ShardIndex = read_json(index)?;
    let mut names: Vec<String> = json.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    match names.iter().find(|n| n.contains(['/', '\\']) || n.starts_with('.')) {
        Some(name) => Err(LoadError::unsupported(
            index,
            format!("{name:?} is not a valid shard: it must be the name of a file in the same directory"),
        )),
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
        assert_eq!(parse(gguf.to_str().unwrap()), Some(ModelSource::Gguf(gguf)));
        let hub = ModelSource::Hub { id: "meta-llama/Llama-3.2-1B".into(), revision: "main".into() };
        assert_eq!(parse("meta-llama/Llama-3.2-1B"), Some(hub));
        for nothing in ["no-such-dir", "a/b/c", "/no/such", "./x", "", "org/", "org/../x"] {
            assert_eq!(parse(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn the_error_for_an_empty_directory_names_the_missing_file() {
        let dir = tempfile::tempdir().unwrap();
        let error = ModelSource::Directory(dir.path().into()).files(None).unwrap_err();
        assert!(error.to_string().contains("config.json is missing"), "{error}");
    }
}
