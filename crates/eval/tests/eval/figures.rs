//! Figures computed from samples, the journal of samples, and the regression gate.

use std::fs;

use tandem_decoding::{Expansion, Method, Reference};
use tandem_eval::gate::{self, Tolerances};
use tandem_eval::report::{Cell, DatasetReport, Machine, Report, SCHEMA_VERSION};
use tandem_eval::{CellSpec, Grid, Header, Journal, JournalError, Judge, Sample, Verdict, metrics};

fn grid(methods: &[Method]) -> Vec<CellSpec> {
    let grid = Grid {
        methods: methods.to_vec(),
        beam_widths: vec![4],
        draft_tokens: vec![2],
        thresholds: vec![0.5],
        expansions: vec![Expansion::Sampled { replacement: false }],
        references: vec![Reference::BestBeam],
        branchings: vec![vec![4, 2, 2]],
        temperatures: vec![1.0],
        top_ks: vec![10],
        top_ps: vec![0.9],
    };
    grid.cells().unwrap()
}

/// 10 tokens in 5 iterations, each of which accepted 1 of 2 draft tokens.
fn sample(cell: &CellSpec, item: usize, seed: u64, ms_per_token: f64) -> Sample {
    Sample {
        cell: cell.id.clone(),
        item: format!("item-{item}"),
        seed,
        answers: vec!["answer".into()],
        verdict: Verdict::Right,
        tokens: 10,
        log_prob: -10.0 * 2f64.ln(),
        iterations: 5,
        accepted: 5,
        asked: 10,
        accepted_by_depth: vec![5, 0],
        prefill_ms: 7.0,
        draft_ms: ms_per_token * 2.0,
        target_ms: ms_per_token * 7.0,
        orchestration_ms: ms_per_token,
        joules: Some(ms_per_token * 3.0),
    }
}

#[test]
fn figures_follow_their_definitions() {
    let specs = grid(&[Method::Autoregressive, Method::Mmtad]);
    let mut samples = Vec::new();
    for item in 0..40 {
        for seed in 0..2 {
            samples.push(sample(&specs[0], item, seed, 2.0));
            samples.push(sample(&specs[1], item, seed, 0.5));
        }
    }
    // Some of MMTAD's answers are wrong, in all seeds of an item.
    for s in samples.iter_mut().filter(|s| s.cell == specs[1].id) {
        if ["0", "4", "8", "2", "6"].iter().any(|end| s.item.ends_with(end)) && s.item.len() == 7 {
            s.verdict = Verdict::Wrong;
        }
    }
    let cells = metrics::cells(&specs, &samples);
    let (plain, mmtad) = (&cells[0], &cells[1]);
    let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    assert_eq!((mmtad.samples, mmtad.tokens), (80, 800));
    close(mmtad.perplexity.unwrap().value, 2.0);
    close(mmtad.block_efficiency.value, 2.0);
    close(mmtad.acceptance_rate.unwrap().value, 0.5);
    assert_eq!(mmtad.acceptance_by_depth, [1.0, 0.0]);
    close(mmtad.ms_per_token, 0.5);
    close(mmtad.tokens_per_second, 2000.0);
    close(mmtad.time.prefill, 0.7);
    close(mmtad.time.target, 0.35);
    close(mmtad.joules_per_token.unwrap(), 0.15);
    let vs = mmtad.vs_autoregressive.as_ref().unwrap();
    close(vs.speedup.value, 4.0);
    close(vs.speedup.low, 4.0);
    close(vs.perplexity_ratio.unwrap().value, 1.0);
    close(vs.energy_ratio.unwrap(), 0.25);
    let (score, difference) = (mmtad.score.unwrap(), vs.score_difference.unwrap());
    let wrong = samples.iter().filter(|s| s.verdict == Verdict::Wrong).count() as f64 / 80.0;
    assert!(wrong > 0.0);
    close(score.value, 1.0 - wrong);
    close(difference.value, -wrong);
    // The bootstrap interval is close to the binomial interval over 40 items, not over 80 samples.
    let half = 1.96 * (wrong * (1.0 - wrong) / 40.0).sqrt();
    let width = (score.high - score.low) / 2.0;
    assert!((0.7 * half..1.3 * half).contains(&width), "the half width is {width}, expected about {half}");
    assert!(mmtad.vs_speculative.is_none());
    close(plain.vs_autoregressive.as_ref().unwrap().speedup.value, 1.0);
    // The same samples give the same figures.
    assert_eq!(metrics::cells(&specs, &samples), cells);
}

#[test]
fn failures_are_counted_by_name_and_affect_the_score() {
    let specs = grid(&[Method::Mmtad]);
    let mut samples: Vec<Sample> = (0..5).map(|item| sample(&specs[0], item, 0, 1.0)).collect();
    let failure = |name: &str| (name.to_owned(), String::new());
    let (name, message) = failure("ran too long");
    samples[0].verdict = Verdict::Failed { name, message };
    let (name, message) = failure("missing database");
    samples[1].verdict = Verdict::NotJudged { name, message };
    let judge = Judge::Python { prompt: String::new(), test: String::new(), entry_point: "f".into() };
    let (name, message) = failure("ResourceExhausted");
    samples[2].verdict = judge.unanswered(name, message);
    samples[2].tokens = 0;
    let cell = &metrics::cells(&specs, &samples)[0];
    let names: Vec<&str> = cell.failures.keys().map(String::as_str).collect();
    assert_eq!(names, ["ResourceExhausted", "missing database", "ran too long"]);
    // A missing answer scores 0; a missing database has no score, because the answer is not at fault.
    assert!((cell.score.unwrap().value - 2.0 / 4.0).abs() < 1e-9);
}

#[test]
fn cells_without_samples_have_no_figures() {
    let specs = grid(&Method::ALL);
    let empty = metrics::cells(&specs, &[]);
    assert!(empty.iter().all(|c| c.score.is_none() && c.perplexity.is_none() && c.samples == 0));
    let mut broken = sample(&specs[0], 0, 0, 1.0);
    (broken.tokens, broken.iterations, broken.log_prob) = (0, 0, 0.0);
    let cells = metrics::cells(&specs, &[broken]);
    // NaN cannot be represented in JSON.
    assert!(!serde_json::to_string(&cells).unwrap().contains("NaN"));
    let json = serde_json::to_string(&cells).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Cell>>(&json).unwrap(), cells);
}

fn header() -> Header {
    Header {
        dataset: "text-to-sql".into(),
        target_model: "target".into(),
        draft_model: "draft".into(),
        max_new_tokens: 100,
        stop: vec![";".into()],
        place: "cpu".into(),
        run_on: false,
        build: "1".into(),
    }
}

#[test]
fn a_journal_survives_interruptions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("samples.jsonl");
    let spec = &grid(&[Method::Mmtad])[0];
    let all: Vec<Sample> = (0..3).map(|item| sample(spec, item, 0, 0.1 + f64::from(item as u32))).collect();
    let (mut journal, done) = Journal::open(&path, &header()).unwrap();
    assert!(done.is_empty());
    all.iter().for_each(|s| journal.add(s).unwrap());
    drop(journal);
    assert_eq!(Journal::open(&path, &header()).unwrap().1, all);

    // After a crash in the middle of a line, complete lines are kept and the next sample starts on a new line.
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() - 20]).unwrap();
    let (mut journal, done) = Journal::open(&path, &header()).unwrap();
    assert_eq!(done, all[..2]);
    journal.add(&all[2]).unwrap();
    drop(journal);
    assert_eq!(fs::read_to_string(&path).unwrap(), text);

    // Two writers at once would mix their lines.
    let (_first, _) = Journal::open(&path, &header()).unwrap();
    assert!(matches!(Journal::open(&path, &header()).unwrap_err(), JournalError::Busy { .. }));
    drop(_first);
    let other = Header { draft_model: "another".into(), ..header() };
    let error = Journal::open(&path, &other).unwrap_err();
    assert!(matches!(error, JournalError::Other { .. }));
    assert!(error.to_string().contains("draft draft, now draft another"), "{error}");
    fs::write(&path, text.replacen("\"item\"", "\"itme\"", 2)).unwrap();
    let error = Journal::open(&path, &header()).unwrap_err().to_string();
    assert!(error.contains("line 2"), "{error}");
}

fn report(cells: Vec<Cell>) -> Report {
    Report {
        schema_version: SCHEMA_VERSION,
        tandem_version: "0.1.0".into(),
        created: "2026-11-21T00:00:00Z".into(),
        command: "tandem eval".into(),
        machine: Machine {
            cpu: "cpu".into(),
            cores: 2,
            os: "linux".into(),
            device: "cpu".into(),
            energy: "rapl".into(),
        },
        target_model: "target".into(),
        draft_model: "draft".into(),
        dataset: DatasetReport {
            name: "text-to-sql".into(),
            items: 40,
            metric: Some("execution accuracy".into()),
            max_new_tokens: 100,
            stop: vec![],
            run_on: false,
            bad: vec![],
        },
        seeds: vec![0],
        samples_planned: 80,
        samples_done: 80,
        cells,
        replays: vec![],
    }
}

fn measured() -> Report {
    let specs = grid(&[Method::Autoregressive, Method::Mmtad]);
    let samples: Vec<Sample> =
        (0..40).flat_map(|item| [sample(&specs[0], item, 0, 2.0), sample(&specs[1], item, 0, 1.0)]).collect();
    report(metrics::cells(&specs, &samples))
}

/// The measures that regressed when `worsen` changed MMTAD's cell.
fn regressions(worsen: impl Fn(&mut Cell)) -> Vec<&'static str> {
    let (baseline, mut now) = (measured(), measured());
    worsen(&mut now.cells[1]);
    let findings = gate::compare(&now, &baseline, &Tolerances::default()).unwrap();
    findings.into_iter().filter(|f| f.regressed).map(|f| f.measure).collect()
}

#[test]
fn the_gate_names_exactly_the_measures_that_got_worse() {
    assert_eq!(regressions(|_| ()), [""; 0]);
    assert_eq!(regressions(|c| c.score.as_mut().unwrap().value -= 0.05), ["task score"]);
    assert_eq!(regressions(|c| c.score.as_mut().unwrap().value -= 0.01), [""; 0]);
    assert_eq!(regressions(|c| c.score = None), ["task score"]);
    assert_eq!(regressions(|c| c.perplexity.as_mut().unwrap().value *= 1.1), ["perplexity"]);
    assert_eq!(regressions(|c| c.block_efficiency.value *= 0.9), ["block efficiency"]);
    assert_eq!(regressions(|c| c.acceptance_rate.as_mut().unwrap().value -= 0.1), ["acceptance rate"]);
    let slower = regressions(|c| c.vs_autoregressive.as_mut().unwrap().speedup.value *= 0.8);
    assert_eq!(slower, ["speedup over autoregressive"]);
    // Absolute times are not compared: the machine may be slower.
    assert_eq!(regressions(|c| c.ms_per_token *= 3.0), [""; 0]);
    assert_eq!(regressions(|c| _ = c.failures.insert("ran too long".into(), 4)), ["share of failures"]);
    let hungrier = regressions(|c| c.vs_autoregressive.as_mut().unwrap().energy_ratio = Some(0.9));
    assert_eq!(hungrier, ["energy relative to autoregressive"]);
    assert_eq!(regressions(|c| c.id = "gone".into()), ["samples"]);
    // Improvements pass.
    assert_eq!(regressions(|c| c.perplexity.as_mut().unwrap().value *= 0.5), [""; 0]);
}

#[test]
fn only_comparable_reports_are_compared() {
    let (baseline, mut now) = (measured(), measured());
    now.dataset.items = 41;
    let error = gate::compare(&now, &baseline, &Tolerances::default()).unwrap_err().to_string();
    assert!(error.contains("the number of items of the baseline is 40, of this run 41"), "{error}");
    let json = serde_json::to_string(&baseline).unwrap();
    assert_eq!(gate::baseline(&json).unwrap(), baseline);
    let old = json.replacen("\"schema_version\":1", "\"schema_version\":0", 1);
    assert!(gate::baseline(&old).unwrap_err().to_string().contains("schema version 0"));
    assert!(gate::baseline("{}").is_err());
    assert!(gate::baseline("no json").is_err());
}

#[test]
fn tolerances_are_parsed() {
    let read: Tolerances = "speedup=0.5, score=0".parse().unwrap();
    assert_eq!(read, Tolerances { speedup: 0.5, score: 0.0, ..Tolerances::default() });
    for invalid in ["speed=1", "score", "score=-1", "score=NaN", "score=x"] {
        let error = invalid.parse::<Tolerances>().unwrap_err();
        assert!(error.to_string().contains(invalid), "{error}");
    }
}
