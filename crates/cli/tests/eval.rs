//! `tandem eval` as a user runs it, on the bundled pair.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tandem_eval::Verdict;
use tandem_eval::report::Report;

fn command(out: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.args(["eval", "--out"]).arg(out).args(args).env_remove("RUST_LOG");
    command
}

fn eval(out: &Path, args: &[&str]) -> Output {
    command(out, args).output().unwrap()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn report(out: &Path) -> Report {
    serde_json::from_str(&fs::read_to_string(out.join("report.json")).unwrap()).unwrap()
}

fn samples(out: &Path) -> Vec<String> {
    fs::read_to_string(out.join("samples.jsonl")).unwrap().lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn every_method_is_measured_and_the_report_is_complete() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path();
    let shown =
        done(&eval(out, &["--prompts", "2", "--seeds", "2", "--replays", "1", "--threshold", "0.1,0.5,0.9"]));
    assert!(shown.contains("mmtad τ=0.5") && shown.contains("report.html"), "{shown}");
    let report = report(out);
    let labels: Vec<&str> = report.cells.iter().map(|c| c.label.as_str()).collect();
    let methods = ["autoregressive", "speculative", "specinfer"];
    let swept = ["mtad τ=0.1", "mtad τ=0.5", "mtad τ=0.9", "mmtad τ=0.1", "mmtad τ=0.5", "mmtad τ=0.9"];
    assert_eq!(labels, [&methods[..], &swept, &["exact-match", "mtjd"]].concat());
    assert_eq!((report.samples_done, report.samples_planned), (44, 44));
    for cell in &report.cells {
        assert_eq!(cell.samples, 4, "{}", cell.label);
        assert!(cell.tokens > 20 && cell.score.is_some(), "{cell:?}");
        let perplexity = cell.perplexity.unwrap().value;
        assert!((1.0..2.0).contains(&perplexity), "{}: {perplexity}", cell.label);
        assert!(cell.setting.method == "autoregressive" || cell.block_efficiency.value > 2.0, "{cell:?}");
    }
    // A lossless method with the same draws gives the same answers.
    let answers = |label: &str| -> Vec<String> {
        let id = &report.cells.iter().find(|c| c.label == label).unwrap().id;
        let mut of_cell: Vec<serde_json::Value> =
            samples(out).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        of_cell.retain(|s: &serde_json::Value| s["cell"] == id.as_str());
        of_cell.iter().map(|s| s["answers"].to_string()).collect()
    };
    assert_eq!(answers("exact-match"), answers("autoregressive"));
    // The replays end like the samples.
    assert_eq!(report.replays.len(), 11);
    for replay in &report.replays {
        assert!(!replay.iterations.is_empty());
        assert_eq!(replay.verdict, Verdict::Right, "{}: {}", replay.label, replay.text);
    }
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("SELECT") && page.contains("mtjd"));
    let markdown = fs::read_to_string(out.join("report.md")).unwrap();
    for plot in ["perplexity", "speed_vs_score", "acceptance_by_depth", "threshold_sweep"] {
        assert!(markdown.contains(&format!("plots/{plot}.svg")), "{markdown}");
        assert!(fs::read_to_string(out.join(format!("plots/{plot}.svg"))).unwrap().contains("<svg"));
    }
}

#[test]
fn finished_samples_are_kept_and_a_larger_plan_adds_to_them() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path();
    let args = ["--prompts", "2", "--methods", "autoregressive,mmtad", "--replays", "0"];
    done(&eval(out, &args));
    let first = samples(out);
    assert_eq!(first.len(), 4);
    // As if the machine had crashed while it wrote the last sample.
    let path = out.join("samples.jsonl");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 40]).unwrap();
    done(&eval(out, &args));
    assert_eq!(samples(out)[..3], first[..3]);
    assert_eq!(samples(out).len(), 4);
    done(&eval(out, &["--prompts", "3", "--methods", "autoregressive,mmtad,mtad", "--replays", "0"]));
    assert_eq!((samples(out).len(), report(out).samples_done), (9, 9));
    assert_eq!(samples(out)[..3], first[..3]);

    // Samples with other settings must not be mixed in.
    let other = eval(out, &["--prompts", "3", "--max-new-tokens", "7"]);
    let errors = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(!other.status.success() && errors.contains("100 new tokens, now 7 new tokens"), "{errors}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_keeps_finished_samples() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path();
    // Far more than can be finished.
    let args = ["--prompts", "600", "--seeds", "100", "--methods", "autoregressive,mmtad", "--replays", "0"];
    let child = command(out, &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let path = out.join("samples.jsonl");
    // By then one sample is done, and the command handles signals.
    while fs::read_to_string(&path).map_or(0, |text| text.lines().count()) < 3 {
        std::thread::yield_now();
    }
    let pid = libc::pid_t::try_from(child.id()).unwrap();
    // SAFETY: a system call without pointers. The child has not been waited for, so that its id is still its own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGINT) }, 0);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    let report = report(out);
    assert_eq!(report.samples_done, samples(out).len());
    assert!(report.samples_done >= 2 && report.samples_done < report.samples_planned);
    assert!(String::from_utf8_lossy(&output.stderr).contains("run the same command again to continue"));
    let markdown = fs::read_to_string(out.join("report.md")).unwrap();
    assert!(markdown.contains(&report.samples_done.to_string()), "{markdown}");
}

#[test]
fn the_gate_passes_if_nothing_is_worse_and_names_what_is() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path();
    let baseline = dir.path().join("baseline.json");
    let args = ["--prompts", "2", "--methods", "autoregressive,mmtad", "--replays", "0"];
    done(&eval(out, &args));
    fs::copy(out.join("report.json"), &baseline).unwrap();
    // All samples exist already, so that this only compares.
    let against = [&args[..], &["--against", baseline.to_str().unwrap()]].concat();
    assert!(done(&eval(out, &against)).contains("no worse than the baseline"));

    let mut better = report(out);
    better.cells[1].block_efficiency.value *= 2.0;
    fs::write(&baseline, serde_json::to_string(&better).unwrap()).unwrap();
    let output = eval(out, &against);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(3), "{shown}");
    assert!(shown.contains("mmtad: block efficiency"), "{shown}");
    let lenient = [&against[..], &["--tolerance", "block_efficiency=0.6"]].concat();
    done(&eval(out, &lenient));
}

#[test]
fn invalid_data_is_counted_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("prompts.jsonl");
    let too_long = "word ".repeat(600);
    fs::write(&data, format!("{{\"prompt\": \"Table\"}}\n{{\"prompt\": \n{{\"prompt\": \"{too_long}\"}}\n"))
        .unwrap();
    let out = dir.path().join("out");
    let args = ["--dataset", "prompts", "--methods", "mmtad", "--max-new-tokens", "9", "--data"];
    let output = eval(&out, &[&args[..], &[data.to_str().unwrap()]].concat());
    done(&output);
    let report = report(&out);
    assert_eq!(report.dataset.bad.len(), 1);
    assert_eq!(report.dataset.bad[0].item, "line 2");
    assert_eq!(report.cells[0].failures.get("InvalidArgument"), Some(&1), "{:?}", report.cells[0].failures);
    assert_eq!(report.cells[0].tokens, 9);
    let markdown = fs::read_to_string(out.join("report.md")).unwrap();
    assert!(markdown.contains("InvalidArgument") && markdown.contains("line 2"), "{markdown}");
}

#[test]
fn invalid_flags_are_refused_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.json");
    for (args, expected) in [
        (&["--dataset", "glue"][..], "text-to-sql, spider, humaneval, mt-bench, prompts"),
        (&["--dataset", "spider"], "give its file or directory with --data"),
        (&["--dataset", "prompts", "--data", missing.to_str().unwrap()], "missing.json"),
        (&["--methods", "medusa"], "unknown method"),
        (&["--threshold", "2"], "acceptance_threshold is 2"),
        (&["--branching", "4,0"], "branching is [4, 0]"),
        (
            &["--methods", "specinfer", "--beams", "top"],
            "rejection sampling, which requires drawn candidates",
        ),
        (&["--against", missing.to_str().unwrap()], "missing.json"),
        (&["--tolerance", "speed=1"], "is not a valid tolerance"),
        (&["--seeds", "0"], "--seeds"),
        (&["--prompts", "0"], "--prompts"),
        (&["--endpoint", "http://127.0.0.1:1"], "cannot reach the orchestrator"),
    ] {
        let output = eval(&dir.path().join("out"), args);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{args:?} was accepted");
        assert!(errors.contains(expected), "{args:?}: {expected:?} is not in {errors:?}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
}
