//! `tandem bench` as a user runs it, on the bundled pair.

use std::process::{Command, Output};

use serde_json::Value;
use tandem_testkit::System;

fn bench(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.arg("bench").args(args).env_remove("RUST_LOG").env_remove("TANDEM_ENDPOINT").output().unwrap()
}

/// The same with the services of this test, on another thread so that they keep running.
async fn bench_at(system: &System, args: &[&str]) -> Output {
    let endpoint = system.endpoint();
    let args: Vec<String> = ["--endpoint", &endpoint].iter().chain(args).map(ToString::to_string).collect();
    let run = move || bench(&args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn levels(report: &Value) -> &[Value] {
    report["levels"].as_array().unwrap()
}

/// Checks what holds for every level. Returns the numbers of completed and failed requests.
fn assert_adds_up(level: &Value) -> (u64, u64) {
    let count = |name: &str| level["requests"][name].as_u64().unwrap();
    let (total, completed, failed) = (count("total"), count("completed"), count("failed"));
    assert_eq!(total, completed + failed, "{level}");
    let errors = level["errors"].as_object().unwrap();
    assert_eq!(failed, errors.values().map(|e| e["count"].as_u64().unwrap()).sum::<u64>(), "{level}");
    let refused = errors.get("RESOURCE_EXHAUSTED").map_or(0, |e| e["count"].as_u64().unwrap());
    assert_eq!(count("refused"), refused);
    for name in ["ttft_ms", "e2e_latency_ms"] {
        let summary = &level[name];
        assert_eq!(summary["samples"].as_u64().unwrap_or(0), completed, "{name} of {level}");
        let of = |name: &str| summary[name].as_f64().unwrap_or(0.0);
        let ordered = [of("min"), of("p50"), of("p90"), of("p99"), of("max")];
        assert!(ordered.is_sorted() && (of("min")..=of("max")).contains(&of("mean")), "{summary}");
    }
    (completed, failed)
}

#[tokio::test]
async fn a_closed_loop_counts_every_request_and_compares_methods() {
    let system = System::start().await;
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("bench.json");
    let flags =
        "--concurrency 1,3 --requests 5 --warmup 1 --output-tokens 8 --compare-methods --seed 1 --json";
    let args: Vec<&str> = flags.split(' ').chain([json.to_str().unwrap()]).collect();
    let shown = done(&bench_at(&system, &args).await);
    for word in ["autoregressive", "mmtad", "TTFT", "relative to concurrency 1", "where the time goes"] {
        assert!(shown.contains(word), "{word} is not in {shown}");
    }
    let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(
        (&report["complete"], &report["configuration"]["requests_per_level"]),
        (&true.into(), &5.into())
    );
    assert_eq!(report["endpoint"], system.endpoint());
    let ran: Vec<_> =
        levels(&report).iter().map(|l| (l["load"]["concurrency"].as_u64(), &l["method"])).collect();
    let (plain, assisted) = (&"autoregressive".into(), &"mmtad".into());
    assert_eq!(ran, [(Some(1), plain), (Some(1), assisted), (Some(3), plain), (Some(3), assisted)]);
    for level in levels(&report) {
        assert_eq!(assert_adds_up(level), (5, 0));
        assert_eq!(level["output_tokens"], 5 * 8, "an end of sequence is ignored");
        // Every level has the same prompts.
        assert_eq!(level["prompt_tokens"], levels(&report)[0]["prompt_tokens"]);
        let efficiency = level["block_efficiency"].as_f64().unwrap();
        let drafted = level["method"] == "mmtad";
        assert!(if drafted { efficiency > 1.5 } else { efficiency == 1.0 }, "{level}");
        assert_eq!(level["acceptance_rate"].is_null(), !drafted);
        let target = &level["server"]["kv_cache_used"]["target"];
        let (peak, mean) = (target["peak"].as_f64().unwrap(), target["mean"].as_f64().unwrap());
        assert!(0.0 <= mean && mean <= peak && peak <= 1.0, "{target}");
    }
    system.assert_all_freed().await;
}

#[tokio::test]
async fn an_open_loop_sends_requests_as_they_arrive_and_counts_those_it_cannot_send() {
    let system = System::start().await;
    let flags = "--rate 50,400 --requests 12 --warmup 0 --prompt-tokens uniform:4..16 --output-tokens normal:8,2 \
                 --max-in-flight 1 --method exact-match --json -";
    let args: Vec<&str> = flags.split_whitespace().collect();
    let report: Value = serde_json::from_str(&done(&bench_at(&system, &args).await)).unwrap();
    assert_eq!(levels(&report).len(), 2);
    for level in levels(&report) {
        let (completed, failed) = assert_adds_up(level);
        assert!(completed >= 1 && completed + failed == 12, "{level}");
        let not_sent = &level["errors"]["NOT_SENT"];
        assert_eq!(not_sent["count"].as_u64().unwrap_or(0), failed);
        let prompts = level["prompt_tokens"].as_u64().unwrap();
        assert!((4 * completed..=16 * completed).contains(&prompts), "{level}");
    }
    system.assert_all_freed().await;
}

#[tokio::test]
async fn a_level_ends_after_its_duration_and_waits_for_its_requests() {
    let system = System::start().await;
    let flags = "--concurrency 2 --duration 0.2 --warmup 1 --output-tokens 8 --json -";
    let args: Vec<&str> = flags.split(' ').collect();
    let report: Value = serde_json::from_str(&done(&bench_at(&system, &args).await)).unwrap();
    let level = &levels(&report)[0];
    let (completed, failed) = assert_adds_up(level);
    assert!(completed >= 2 && failed == 0, "{level}");
    assert_eq!(level["output_tokens"].as_u64(), Some(8 * completed));
    system.assert_all_freed().await;
}

#[tokio::test]
async fn failures_are_counted_by_code() {
    let system = System::start().await;
    let dir = tempfile::tempdir().unwrap();
    let prompts = dir.path().join("prompts.jsonl");
    let line = |prompt: &str| serde_json::json!({ "prompt": prompt }).to_string() + "\n";
    // Every second prompt is longer than the context.
    std::fs::write(&prompts, line("How many dogs are there?") + &line(&"dog ".repeat(600))).unwrap();
    let prompts = prompts.to_str().unwrap();
    let flags = "--concurrency 2 --requests 4 --warmup 0 --output-tokens 4 --json - --prompts";
    let args: Vec<&str> = flags.split(' ').chain([prompts]).collect();
    let report: Value = serde_json::from_str(&done(&bench_at(&system, &args).await)).unwrap();
    let level = &levels(&report)[0];
    assert_eq!(assert_adds_up(level), (2, 2));
    let errors = &level["errors"]["INVALID_ARGUMENT"];
    assert!(errors["first_message"].as_str().unwrap().contains("shorten the prompt"), "{level}");

    // No request can end within a millisecond: the report and the exit code say so.
    let flags = "--concurrency 2 --requests 4 --warmup 0 --output-tokens 400 --timeout 0.001 --json -";
    let output = bench_at(&system, &flags.split(' ').collect::<Vec<_>>()).await;
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("no request was completed"), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let level = &levels(&report)[0];
    assert_eq!(assert_adds_up(level), (0, 4));
    assert_eq!(level["errors"]["DEADLINE_EXCEEDED"]["count"], 4, "{level}");
    system.assert_all_freed().await;
}

/// The command fails with a message that contains `expected`.
fn refuses(flags: &str, expected: &str) {
    let output = bench(&flags.split_whitespace().collect::<Vec<_>>());
    let errors = text(&output.stderr);
    assert!(!output.status.success(), "{flags} was accepted");
    assert!(errors.contains(expected), "{flags}: {expected:?} is not in {errors:?}");
    assert!(!errors.contains("panicked"), "{errors}");
}

#[test]
fn invalid_flags_are_refused_with_a_message() {
    refuses("--concurrency 0", "--concurrency");
    refuses("--rate 0", "between 0.001 and 100000");
    refuses("--rate 1 --concurrency 1", "cannot be used with");
    refuses("--requests 1 --duration 1", "cannot be used with");
    refuses("--requests 0", "--requests");
    refuses("--timeout=-1", "--timeout");
    refuses("--duration nan", "0.001 to 1000000");
    refuses("--output-tokens uniform:9..8", "write the smaller number first");
    refuses("--prompt-tokens some", "not a number of tokens");
    refuses("--compare-methods medusa", "unknown method");
    refuses("--compare-methods mtad --method mtad", "cannot be used with");
    refuses("--beam-width 0", "beam_width is 0");
    refuses("--temperature=-1", "temperature is -1");
    refuses("--prompts nowhere.jsonl", "--prompts");
    refuses("--json /nowhere/bench.json", "choose another --json");
    refuses("--endpoint http://127.0.0.1:1", "cannot reach the orchestrator");
    refuses(
        "--prompt-tokens 500 --output-tokens 64",
        "need 564 tokens, but the models have a context of 512",
    );
    refuses("--output-tokens 512", "leaves no room for a prompt");
}
