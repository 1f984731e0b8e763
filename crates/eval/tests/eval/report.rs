//! Renderings of the report.

use std::collections::BTreeMap;

use tandem_eval::report::{
    Cell, DatasetReport, Estimate, Iteration, Machine, Node, Relative, Replay, Report, SCHEMA_VERSION,
    Setting, TimeSplit, html, markdown, plots,
};
use tandem_eval::{BadItem, Verdict};

const NASTY: &str = "a|b </script><script>alert(1)</script> & <!--@script-->";

fn estimate(value: f64) -> Estimate {
    Estimate { value, low: value * 0.95, high: value * 1.05 }
}

fn cell(method: &str, gamma: Option<usize>, threshold: Option<f64>) -> Cell {
    let mut label = method.to_owned();
    label += &gamma.map_or_else(String::new, |g| format!(" γ={g}"));
    label += &threshold.map_or_else(String::new, |t| format!(" τ={t}"));
    let plain = method == "autoregressive";
    let relative = Relative {
        to: "autoregressive".into(),
        speedup: Estimate { value: 1.524, low: 1.4, high: 1.63 },
        score_difference: Some(Estimate { value: 0.012, low: -0.005, high: 0.029 }),
        perplexity_ratio: Some(estimate(0.9)),
        energy_ratio: None,
    };
    Cell {
        id: format!("{label} T=1"),
        label,
        setting: Setting {
            method: method.into(),
            lossless: plain,
            beam_width: None,
            draft_tokens: gamma,
            threshold,
            beams: None,
            reference: None,
            branching: None,
            temperature: 1.0,
            top_k: 10,
            top_p: 0.9,
        },
        samples: 40,
        tokens: 5120,
        score: Some(Estimate { value: 0.842, low: 0.81, high: 0.871 }),
        perplexity: Some(Estimate { value: 3.214, low: 3.1, high: 3.333 }),
        ms_per_token: 12.34,
        ms_per_token_p90: 15.0,
        tokens_per_second: 81.04,
        block_efficiency: estimate(2.5),
        acceptance_rate: gamma.map(|_| estimate(0.6)),
        acceptance_by_depth: (1..=gamma.unwrap_or(0)).map(|d| 0.8_f64.powi(d as i32)).collect(),
        time: TimeSplit { prefill: 3.0, draft: 4.0, target: 7.5, orchestration: 0.21 },
        joules_per_token: None,
        failures: BTreeMap::new(),
        vs_autoregressive: (!plain).then_some(relative),
        vs_speculative: None,
    }
}

/// A report with every unusual value that is possible, and both sweeps.
fn report() -> Report {
    let mut cells = vec![cell("autoregressive", None, None)];
    cells.extend([0.1, 0.5, 0.9].map(|t| cell("mtad", Some(4), Some(t))));
    cells.extend([1, 2, 4].map(|g| cell("mtjd", Some(g), None)));
    let mut nasty = Cell { label: NASTY.into(), score: None, ..cell("specinfer", Some(3), None) };
    nasty.perplexity = Some(Estimate { value: f64::NAN, low: f64::NEG_INFINITY, high: f64::INFINITY });
    nasty.ms_per_token = f64::INFINITY;
    nasty.failures = BTreeMap::from([("invalid SQL".to_owned(), 3)]);
    cells.push(nasty);
    let node =
        |text: &str, parent, draft, target| Node { text: text.into(), parent, draft: Some(draft), target };
    let replay = Replay {
        item: "1".into(),
        cell: "mtad γ=4 τ=0.1 T=1".into(),
        label: "mtad γ=4 τ=0.1".into(),
        seed: 1,
        prompt: NASTY.into(),
        text: "SELECT</script>".into(),
        verdict: Verdict::Failed { name: "invalid SQL".into(), message: NASTY.into() },
        iterations: vec![Iteration {
            nodes: vec![node("SEL", None, -0.1, Some(-0.2)), node("</script>", Some(0), -2.0, None)],
            accepted: vec![0],
            bonus: Some("ECT".into()),
        }],
    };
    Report {
        schema_version: SCHEMA_VERSION,
        tandem_version: "0.1.0".into(),
        created: "2026-01-02T03:04:05Z".into(),
        command: "tandem eval --dataset `x`".into(),
        machine: Machine {
            cpu: "Some CPU".into(),
            cores: 2,
            os: "linux".into(),
            device: "cpu".into(),
            energy: "not available".into(),
        },
        target_model: "big".into(),
        draft_model: "small".into(),
        dataset: DatasetReport {
            name: "text-to-sql".into(),
            items: 20,
            metric: Some("execution accuracy".into()),
            max_new_tokens: 128,
            stop: vec!["\n".into()],
            run_on: false,
            bad: (1..=12).map(|n| BadItem { item: format!("line {n}"), reason: "not JSON".into() }).collect(),
        },
        seeds: vec![1, 2],
        samples_planned: 320,
        samples_done: 320,
        cells,
        replays: vec![replay],
    }
}

/// A report without values that JSON cannot represent.
fn finite() -> Report {
    let mut report = report();
    report.cells.pop();
    report
}

#[test]
fn a_report_survives_a_json_round_trip() {
    let report = finite();
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}

#[test]
fn markdown_has_every_cell_with_its_figures() {
    let report = report();
    let text = markdown(&report);
    let row = text.lines().find(|l| l.starts_with("| mtad γ=4 τ=0.5 |")).unwrap();
    let wanted = "| mtad γ=4 τ=0.5 | no | 84.2 % [81.0, 87.1] | 3.21 [3.10, 3.33] | 12.3 (15.0) | 81.0 | \
                  2.50 [2.38, 2.62] | 60.0 % [57.0, 63.0] | 1.52× [1.40, 1.63] | n/a |";
    assert_eq!(row, wanted);
    assert!(
        text.contains("| mtad γ=4 τ=0.5 | autoregressive | 1.52× [1.40, 1.63] | +1.2 [-0.5, +2.9] |"),
        "{text}"
    );
    assert!(text.contains(" | invalid SQL | 3 of 40 |"), "{text}");
    for cell in report.cells.iter().filter(|c| c.label != NASTY) {
        assert!(text.contains(&cell.label), "{} is missing", cell.label);
    }
    assert!(text.contains("a\\|b &lt;/script>&lt;script>alert(1)"), "{text}");
    assert!(!text.contains("<script"));
    assert!(text.contains("12 parts of the dataset could not be used. The first 10 are listed."));
    assert!(text.contains("| line 10 |") && !text.contains("| line 11 |"));
    assert!(!text.contains("NaN") && !text.contains("inf"));
    for (file, _) in plots(&report).unwrap() {
        assert!(text.contains(&format!("(plots/{file})")), "{file} is not shown");
    }
}

#[test]
fn every_row_of_a_table_has_as_many_fields_as_its_header() {
    for table in markdown(&report()).split("\n## ").skip(1) {
        let rows = table.lines().filter(|l| l.starts_with('|'));
        let widths: Vec<_> = rows.map(|l| l.replace("\\|", "").matches('|').count()).collect();
        assert!(widths.windows(2).all(|w| w[0] == w[1]), "{table}");
    }
}

#[test]
fn plots_are_svg_with_labels() {
    let plots = plots(&report()).unwrap();
    let files: Vec<_> = plots.iter().map(|p| p.0.as_str()).collect();
    let all =
        ["speed_vs_score", "perplexity", "acceptance_by_depth", "threshold_sweep", "draft_tokens_sweep"];
    assert_eq!(files, all.map(|f| format!("{f}.svg")));
    for (file, svg) in &plots {
        let document = roxmltree::Document::parse(svg).unwrap_or_else(|e| panic!("{file}: {e}"));
        let texts: Vec<_> = document.descendants().filter_map(|n| n.text()).map(str::trim).collect();
        let labels: &[&str] = match file.as_str() {
            "acceptance_by_depth.svg" => &["mtad γ=4 τ=0.1", "mtjd γ=2"],
            "threshold_sweep.svg" => &["mtad γ=4", "Threshold τ"],
            "draft_tokens_sweep.svg" => &["mtjd", "Draft tokens γ"],
            _ => &["autoregressive", "mtad γ=4 τ=0.9", "mtjd γ=4"],
        };
        for label in labels {
            assert!(texts.contains(label), "{label} is missing in {file}: {texts:?}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{file}");
    }
}

#[test]
fn plots_without_data_are_left_out() {
    let mut report = report();
    report.cells.truncate(3);
    report.cells.iter_mut().for_each(|c| c.score = None);
    let files: Vec<_> = plots(&report).unwrap().into_iter().map(|p| p.0).collect();
    assert_eq!(files, ["perplexity.svg", "acceptance_by_depth.svg"]);
    report.cells.clear();
    assert!(plots(&report).unwrap().is_empty());
    html(&report).unwrap();
    markdown(&report);
}

#[test]
fn extreme_values_can_be_drawn() {
    for extreme in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE, 1e8, -1e8, 0.0] {
        let mut report = report();
        for (n, cell) in report.cells.iter_mut().enumerate() {
            let odd = Estimate { value: extreme, low: -extreme, high: extreme };
            cell.score = Some(if n == 0 { odd } else { estimate(0.5) });
            cell.perplexity = Some(odd);
            cell.acceptance_by_depth = vec![extreme; 3];
            cell.ms_per_token = extreme;
            cell.vs_autoregressive = cell.vs_autoregressive.take().map(|r| Relative { speedup: odd, ..r });
        }
        for (file, svg) in plots(&report).unwrap() {
            roxmltree::Document::parse(&svg).unwrap_or_else(|e| panic!("{file}: {e}"));
        }
    }
}

#[test]
fn the_page_separates_data_from_code_and_loads_nothing() {
    let report = report();
    let page = html(&report).unwrap();
    // For manual inspection.
    std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/report.html"), &page).unwrap();
    // Only the page's own elements: the replays and the code.
    assert_eq!(page.matches("<script").count(), 2);
    assert_eq!(page.matches("</script").count(), 2);
    assert!(!page.contains("<!--@"));
    let elsewhere = page.replace("http://www.w3.org/2000/svg", "");
    assert!(!elsewhere.contains("http://") && !elsewhere.contains("https://"));
    assert!(page.contains("default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"));
    let (_, json) = page.split_once("id=\"replays\">").unwrap();
    let (json, _) = json.split_once("</script>").unwrap();
    assert_eq!(serde_json::from_str::<Vec<Replay>>(json).unwrap(), report.replays);
    assert!(page.contains("84.2 % <small>[81.0, 87.1]</small>"));
    assert!(page.contains("invalid SQL"));
}

#[test]
fn an_incomplete_report_starts_with_a_warning() {
    let mut report = report();
    let warning = "Incomplete: 100 of 320 samples were completed.";
    assert!(!markdown(&report).contains("Incomplete") && !html(&report).unwrap().contains("Incomplete"));
    report.samples_done = 100;
    assert!(markdown(&report).lines().nth(2).unwrap().contains(warning));
    assert!(html(&report).unwrap().contains(warning));
}
