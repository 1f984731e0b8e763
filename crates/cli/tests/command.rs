//! The `tandem` command as a user runs it.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const PROMPT: &str = include_str!("../../../models/demo/prompt.txt");

fn demo(model: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo").join(model)
}

fn tandem(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tandem"))
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Writing fails if the command refuses its flags and ends without reading.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The command fails with a message that contains `expected`, and does not panic.
fn refuses(args: &[&str], stdin: &[u8], expected: &str) {
    let output = tandem(args, stdin);
    let errors = text(&output.stderr);
    assert!(!output.status.success(), "{args:?} was accepted");
    assert!(errors.contains(expected), "{args:?}: {expected:?} is not in {errors:?}");
    assert!(!errors.contains("panicked"), "{errors}");
}

#[test]
fn generate_streams_the_answer_and_shows_statistics() {
    let args = ["generate", "--temperature", "0", "--stop", ";", "--compare"];
    let output = tandem(&args, PROMPT.as_bytes());
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(shown.starts_with(PROMPT), "{shown}");
    assert!(shown.contains("SQL: SELECT T1.brand FROM car AS T1 JOIN company"), "{shown}");
    assert!(shown.contains("T2.country = 'Norway'\n"), "{shown}");
    for word in ["mmtad", "autoregressive", "block efficiency", "time to first token"] {
        assert!(shown.contains(word), "{word} is not in {shown}");
    }
    assert!(!shown.contains('\u{1b}'), "colours in a pipe");
}

#[test]
fn json_output_is_valid_and_alone() {
    let output = tandem(&["generate", "--json", "--seed", "1", "--max-new-tokens", "9", PROMPT], b"");
    let outcomes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let statistics = &outcomes[0]["statistics"];
    assert_eq!((&outcomes[0]["method"], &outcomes[0]["seed"]), (&"mmtad".into(), &1.into()));
    assert_eq!(statistics["new_tokens"], 9);
    assert_eq!(outcomes[0]["token_ids"].as_array().unwrap().len(), 9);
    assert_eq!(text(&output.stderr), "");
}

#[test]
fn invalid_flags_are_refused_with_a_message() {
    refuses(&["generate", "--method", "medusa", "x"], b"", "unknown method \"medusa\"");
    refuses(&["generate", "--threshold", "1.5", "x"], b"", "acceptance_threshold is 1.5");
    refuses(&["generate", "--temperature", "NaN", "x"], b"", "temperature is NaN");
    refuses(&["generate", "--beam-width", "0", "x"], b"", "beam_width is 0");
    refuses(&["generate", "--draft-tokens", "10000", "x"], b"", "draft_tokens is 10000");
    refuses(&["generate", ""], b"", "is empty");
    refuses(&["generate"], b"\xff\xfe", "not UTF-8");
    refuses(&["generate", "--device", "tpu", "x"], b"", "is not a device");
    refuses(&["generate", "--endpoint", "http://127.0.0.1:1", "x"], b"", "cannot reach the orchestrator");
    refuses(&["generate", "--endpoint", "not a url", "x"], b"", "cannot reach the orchestrator");
    refuses(&["generate", "--device", "cuda:0", "x"], b"", "device cuda:0 is not available");
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refuses(&["serve", "--listen", &address], b"", &format!("cannot listen on {address}"));
}

/// A copy of a bundled model in which `change` breaks something.
fn broken(model: &str, change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(demo(model).join(file), copy.path().join(file)).unwrap();
    }
    change(copy.path());
    copy
}

fn edit(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{from} is not in {}", path.display());
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn each_kind_of_broken_model_has_its_own_message() {
    let refuses_draft = |dir: &Path, expected: &str| {
        refuses(&["generate", "--draft", dir.to_str().unwrap(), "x"], b"", expected);
    };
    refuses(&["generate", "--draft", "/no/such/model", "x"], b"", "/no/such/model is neither a directory");

    let dir = broken("draft", |d| std::fs::remove_file(d.join("model.safetensors")).unwrap());
    refuses_draft(dir.path(), "model.safetensors is missing");
    let dir = broken("draft", |d| {
        let weights = std::fs::read(d.join("model.safetensors")).unwrap();
        std::fs::write(d.join("model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    });
    refuses_draft(dir.path(), "corrupt or truncated");
    let dir = broken("draft", |d| std::fs::write(d.join("model.safetensors"), b"no weights").unwrap());
    refuses_draft(dir.path(), "corrupt or truncated");
    let dir = broken("draft", |d| std::fs::write(d.join("config.json"), b"{").unwrap());
    refuses_draft(dir.path(), "config.json is not valid");
    let dir = broken("draft", |d| edit(&d.join("config.json"), "\"llama\"", "\"mamba\""));
    refuses_draft(dir.path(), "model_type \"mamba\" is not supported");
    let dir =
        broken("draft", |d| edit(&d.join("config.json"), "\"hidden_size\": 128", "\"hidden_size\": 256"));
    refuses_draft(dir.path(), "has shape");
    let dir = broken("draft", |d| {
        edit(&d.join("config.json"), "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3")
    });
    refuses_draft(dir.path(), "no tensor model.layers.2");
    let dir = broken("draft", |d| std::fs::write(d.join("tokenizer.json"), b"[]").unwrap());
    refuses_draft(dir.path(), "is not a valid tokenizer");
    // Another vocabulary of the same size.
    let dir = broken("draft", |d| edit(&d.join("tokenizer.json"), "\"Ć\"", "\"ĆĆ\""));
    refuses_draft(dir.path(), "different tokenizers");
    refuses_draft(dir.path(), "token 197 is \"Ć\" in the target");
}

/// A difference that changes no text is worth a warning.
#[test]
fn special_tokens_of_the_draft_may_have_other_names() {
    let dir = broken("draft", |d| edit(&d.join("tokenizer.json"), "\"<pad>\"", "\"<pod>\""));
    let draft = dir.path().to_str().unwrap();
    let output = tandem(&["generate", "--json", "--max-new-tokens", "3", "--draft", draft, PROMPT], b"");
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(errors.contains("WARN"), "{errors}");
    assert!(errors.contains("named differently (the first: 2 is \"<pod>\", not \"<pad>\")"), "{errors}");
    let output = tandem(&["doctor", "--json", "--repeats", "1", "--prefix", "20", "--draft", draft], b"");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let agree = checks.iter().find(|check| check["name"] == "tokenizers agree").unwrap();
    assert_eq!(agree["passed"], true, "{agree}");
}

#[test]
fn a_doubled_token_at_the_beginning_is_warned_of_once() {
    let output = tandem(&["generate", "--json", "--max-new-tokens", "2", "<s>Once"], b"");
    let errors = text(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let warning = "the prompt begins with <s>, which the tokenizer adds anyway";
    assert_eq!(errors.matches(warning).count(), 1, "{errors}");
}

/// Without a network a hub model is loaded from the cache if only the cache may be used. Otherwise a file that is not in the cache
/// might exist, also one that not every model has.
#[test]
fn a_hub_model_is_loaded_from_the_cache() {
    let home = tempfile::tempdir().unwrap();
    let repo = home.path().join("hub/models--someone--small-draft");
    let snapshot = repo.join("snapshots/0123456789abcdef");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(repo.join("refs")).unwrap();
    std::fs::write(repo.join("refs/main"), "0123456789abcdef").unwrap();
    for file in ["config.json", "generation_config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::copy(demo("draft").join(file), snapshot.join(file)).unwrap();
    }
    let generate = |draft: &str, offline: &str| {
        Command::new(env!("CARGO_BIN_EXE_tandem"))
            .args(["generate", "--json", "--max-new-tokens", "3", "--draft", draft, PROMPT])
            .env("HF_HOME", home.path())
            .env("HF_ENDPOINT", "http://127.0.0.1:1")
            .env("HF_HUB_OFFLINE", offline)
            .output()
            .unwrap()
    };
    let output = generate("someone/small-draft", "1");
    let outcomes: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcomes[0]["draft_model"], "someone/small-draft");
    for (draft, file) in [("someone/small-draft", "tokenizer_config.json"), ("someone/else", "config.json")] {
        let errors = text(&generate(draft, "0").stderr);
        assert!(
            errors.contains(&format!("cannot fetch {file} of {draft} from the model hub")),
            "{file}: {errors}"
        );
    }
}

#[test]
fn doctor_passes_on_the_bundled_pair() {
    let output = tandem(&["doctor", "--repeats", "1", "--prefix", "20", "--stock"], b"");
    let shown = text(&output.stdout);
    assert!(output.status.success(), "{shown}{}", text(&output.stderr));
    assert!(!shown.contains("FAIL"), "{shown}");
    for word in ["tokenizers agree", "equal to the last bit", "17 rows", "candle's kernels"] {
        assert!(shown.contains(word), "{word} is not in {shown}");
    }
}

#[test]
fn doctor_times_a_shape_without_its_weights() {
    let config = demo("draft").join("config.json");
    let config = config.to_str().unwrap();
    let args = ["doctor", "--json", "--repeats", "1", "--target", config, "--draft", config];
    let output = tandem(&args, b"");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["timings"][0]["rows"][4]["rows"], 17);
    assert!(report["checks"].as_array().unwrap().iter().all(|c| c["passed"] == true), "{report}");
}

#[test]
fn services_in_one_process_ignore_the_environment_of_others() {
    // As in a shell that has started a service with keys and TLS before. A certificate without its key would be an error.
    let output = Command::new(env!("CARGO_BIN_EXE_tandem"))
        .args(["generate", "--json", "--max-new-tokens", "3", PROMPT])
        .envs([
            ("TANDEM_TLS_CERT", "/no/cert.pem"),
            ("TANDEM_TLS_CLIENT_CA", "/no/ca.pem"),
            ("TANDEM_WORKER_KEY", "/no/key.pem"),
        ])
        .envs([
            ("TANDEM_API_KEYS_FILE", "/no/keys"),
            ("TANDEM_LISTEN", "elsewhere"),
            ("TANDEM_HTTP_LISTEN", "nowhere"),
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}
