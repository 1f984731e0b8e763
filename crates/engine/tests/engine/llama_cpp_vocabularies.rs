//! Tokenizers from the metadata of GGUF files against llama.cpp's own vocabularies and token ids.
//!
//! `crates/engine/tests/published/vocabularies.sh` fetches llama.cpp's sources and runs this test. They have
//! vocabularies without weights, each with texts (`.inp`) and the ids that llama.cpp gives them (`.out`), without
//! special tokens, neither added nor found in the texts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{Content, Value};
use tokenizers::Tokenizer;

use crate::tiny_gguf;

const SEPARATOR: &str = "\n__ggml_vocab_test__\n";

/// The vocabularies that must load, with their number of cases.
const SUPPORTED: [(&str, usize); 13] = [
    ("command-r", 46),
    ("deepseek-coder", 46),
    ("deepseek-llm", 46),
    ("falcon", 46),
    ("gpt-2", 46),
    ("llama-bpe", 46),
    ("llama-spm", 46),
    ("mpt", 46),
    ("phi-3", 46),
    ("qwen2", 46),
    ("qwen35", 50),
    ("refact", 46),
    ("starcoder", 46),
];

/// The vocabularies that must be refused, with the word that the refusal names.
const REFUSED: [(&str, &str); 2] = [("bert-bge", "\"bert\""), ("gemma-4", "\"gemma4\"")];

struct Vocabulary {
    metadata: HashMap<String, Value>,
    rows: usize,
}

fn read(folder: &Path, kind: &str) -> Vocabulary {
    let path = folder.join(format!("ggml-vocab-{kind}.gguf"));
    let content = Content::read(&mut std::fs::File::open(path).unwrap()).unwrap();
    let rows = content.metadata["tokenizer.ggml.tokens"].to_vec().unwrap().len();
    let mut metadata = content.metadata;
    // The rest describes models that other tests are about.
    metadata.retain(|key, _| key.starts_with("tokenizer.") || key == "general.name");
    Vocabulary { metadata, rows }
}

/// The texts with their ids.
fn cases(folder: &Path, kind: &str) -> Vec<(String, Vec<u32>)> {
    let file = |extension: &str| {
        std::fs::read_to_string(folder.join(format!("ggml-vocab-{kind}.gguf.{extension}"))).unwrap()
    };
    let texts = file("inp");
    let texts = texts.strip_suffix(SEPARATOR).unwrap_or(&texts).split(SEPARATOR).map(str::to_owned);
    let ids = file("out");
    let ids = ids.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect());
    let ids: Vec<Vec<u32>> = ids.collect();
    assert_eq!(texts.clone().count(), ids.len(), "{kind}: every text has a line of ids");
    texts.zip(ids).collect()
}

fn tokenizer(vocabulary: &Vocabulary) -> Tokenizer {
    let model = tiny_gguf::load(&vocabulary.metadata, vocabulary.rows).unwrap();
    let mut tokenizer = Tokenizer::from_bytes(&model.spec().vocabulary.as_ref().unwrap().json).unwrap();
    tokenizer.set_encode_special_tokens(true);
    tokenizer
}

#[test]
#[ignore = "needs files that tests/published/vocabularies.sh fetches"]
fn token_ids_equal_those_of_llama_cpp() {
    let folder = std::env::var_os("TANDEM_LLAMA_CPP_VOCABS").map(PathBuf::from);
    let folder = folder.expect("vocabularies.sh sets TANDEM_LLAMA_CPP_VOCABS");
    println!("{:16} {:>6} {:>6} {:>12}", "vocabulary", "cases", "equal", "decoded back");
    let mut differences = Vec::new();
    for (kind, count) in SUPPORTED {
        let tokenizer = tokenizer(&read(&folder, kind));
        let cases = cases(&folder, kind);
        let (mut equal, mut decoded_back) = (0, 0);
        for (text, expected) in &cases {
            let ids = tokenizer.encode(text.as_str(), false).unwrap().get_ids().to_vec();
            let decoded = tokenizer.decode(&ids, false).unwrap();
            equal += usize::from(&ids == expected);
            decoded_back += usize::from(&decoded == text);
            if &ids != expected || &decoded != text {
                differences
                    .push(format!("{kind}: {text:?}: {ids:?}, not {expected:?}; decoded: {decoded:?}"));
            }
        }
        println!("{kind:16} {:6} {equal:6} {decoded_back:12}", cases.len());
        assert_eq!(cases.len(), count, "{kind}");
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
#[ignore = "needs files that tests/published/vocabularies.sh fetches"]
fn vocabularies_of_other_kinds_are_refused_by_name() {
    let folder = std::env::var_os("TANDEM_LLAMA_CPP_VOCABS").map(PathBuf::from);
    let folder = folder.expect("vocabularies.sh sets TANDEM_LLAMA_CPP_VOCABS");
    for (kind, named) in REFUSED {
        let Vocabulary { metadata, rows } = read(&folder, kind);
        let error = tiny_gguf::load(&metadata, rows).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(named), "{kind}: {error}");
    }
}
