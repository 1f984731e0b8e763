//! The plots of a report and their data.

use std::cmp::Ordering;

use plotters::style::RGBColor;
use thiserror::Error;

use super::chart::{self, Bar, Drawn, Panel, Point, Series, Value};
use super::format::near_one;
use super::schema::{Cell, Estimate, Report, Setting};

/// With more points than this, a legend names them instead of labels.
const MAX_LABELLED: usize = 16;
/// Minimum number of settings of a sweep.
const MIN_SWEEP: usize = 3;
/// Larger values are not drawn: they would make the axis useless.
const MAX_VALUE: f64 = 1e9;

/// A plot could not be drawn.
#[derive(Debug, Error)]
#[error("cannot draw {file}: {reason}")]
pub struct PlotError {
    /// File name of the plot.
    pub file: String,
    /// Message of the drawing library.
    pub reason: String,
}

/// A plot that the report has data for.
pub(super) struct Plot {
    pub(super) file: &'static str,
    pub(super) title: &'static str,
    content: Content,
}

enum Content {
    Bars(String, Vec<Bar>),
    Panels(Vec<Panel>, bool),
}

/// File names and SVG documents of all plots that have data.
pub fn plots(report: &Report) -> Result<Vec<(String, String)>, PlotError> {
    let mut drawn = Vec::new();
    for plot in available(report) {
        let file = plot.file.to_owned();
        match plot.draw() {
            Ok(svg) => drawn.push((file, svg)),
            Err(e) => return Err(PlotError { file, reason: e.to_string() }),
        }
    }
    Ok(drawn)
}

impl Plot {
    fn draw(&self) -> Drawn {
        match &self.content {
            // The bars are perplexities, whose lowest value is 1.
            Content::Bars(x, bars) => chart::bars(self.title, x, 1.0, bars),
            Content::Panels(panels, legend) => chart::panels(self.title, panels, *legend),
        }
    }
}

/// The plots that have data, in reading order.
pub(super) fn available(report: &Report) -> Vec<Plot> {
    [speed_vs_score, perplexity, acceptance, thresholds, draft_tokens]
        .into_iter()
        .filter_map(|plot| plot(report))
        .collect()
}

fn speed_vs_score(report: &Report) -> Option<Plot> {
    let relative = report.cells.iter().all(|c| speedup(c).is_some());
    let x = |c: &Cell| if relative { speedup(c) } else { exact(c.ms_per_token) };
    let labelled = report.cells.len() <= MAX_LABELLED;
    let mut series: Vec<Series> = Vec::new();
    for c in &report.cells {
        let Some((x, y)) = x(c).zip(c.score.and_then(|s| value(s, 100.0))) else { continue };
        let point = Point { x, y, label: labelled.then(|| c.label.clone()) };
        match series.iter_mut().find(|s| s.name == c.setting.method) {
            Some(s) => s.points.push(point),
            None => {
                let name = c.setting.method.clone();
                series.push(Series { name, line: false, ..of(c, series.len(), vec![point]) });
            }
        }
    }
    let x = if relative { "Speedup over autoregressive decoding (×)" } else { "Decode time per token (ms)" };
    let metric = report.dataset.metric.as_deref().unwrap_or("score");
    let panel = Panel { x: x.into(), y: format!("{metric} (%)"), whole: false, level: None, series };
    panels("speed_vs_score.svg", "Speed and score", vec![panel], !labelled)
}

fn perplexity(report: &Report) -> Option<Plot> {
    let bar = |c: &Cell| {
        let value = c.perplexity.and_then(|p| value(p, 1.0))?;
        Some(Bar {
            name: c.label.clone(),
            colour: colour(&c.setting.method),
            value,
            text: near_one(value.at),
        })
    };
    let bars: Vec<_> = report.cells.iter().filter_map(bar).collect();
    let x = "Perplexity under the unwarped target (lower is better)".to_owned();
    (!bars.is_empty()).then_some(Plot {
        file: "perplexity.svg",
        title: "Perplexity",
        content: Content::Bars(x, bars),
    })
}

fn acceptance(report: &Report) -> Option<Plot> {
    let mut series: Vec<Series> = Vec::new();
    for c in &report.cells {
        let depths = (1..).zip(&c.acceptance_by_depth);
        let points =
            depths.filter_map(|(depth, &share)| point(exact(f64::from(depth)), exact(100.0 * share)));
        let points: Vec<_> = points.collect();
        if !points.is_empty() {
            push(&mut series, c, c.label.clone(), points);
        }
    }
    let y = "Iterations that accepted at least as many (%)".into();
    let panel = Panel { x: "Draft tokens accepted".into(), y, whole: true, level: None, series };
    panels("acceptance_by_depth.svg", "Acceptance by depth", vec![panel], true)
}

fn thresholds(report: &Report) -> Option<Plot> {
    let groups = sweeps(report, |s| s.threshold, |s| s.threshold = None);
    let panel = |y: &str, level, of: fn(&Cell) -> Option<Value>| Panel {
        x: "Threshold τ".into(),
        y: y.into(),
        whole: false,
        level,
        series: lines(&groups, "τ=", |c| c.setting.threshold, of),
    };
    let all = vec![
        panel("Perplexity (lower is better)", baseline(report), plain_perplexity),
        panel("Speedup over autoregressive (×)", Some((1.0, "autoregressive")), speedup),
    ];
    panels("threshold_sweep.svg", "Threshold sweep", all, true)
}

fn draft_tokens(report: &Report) -> Option<Plot> {
    let gamma = |s: &Setting| s.draft_tokens.map(|g| g as f64);
    let groups = sweeps(report, gamma, |s| s.draft_tokens = None);
    let series = lines(&groups, "γ=", |c| gamma(&c.setting), plain_perplexity);
    let y = "Perplexity (lower is better)".into();
    let panel = Panel { x: "Draft tokens γ".into(), y, whole: true, level: baseline(report), series };
    panels("draft_tokens_sweep.svg", "Perplexity by draft tokens", vec![panel], true)
}

fn panels(file: &'static str, title: &'static str, mut panels: Vec<Panel>, legend: bool) -> Option<Plot> {
    // A panel without points would be an empty frame.
    panels.retain(|panel| panel.series.iter().any(|s| !s.points.is_empty()));
    (!panels.is_empty()).then_some(Plot { file, title, content: Content::Panels(panels, legend) })
}

/// Groups of cells that differ only in the parameter that `without` removes, with at least [`MIN_SWEEP`] values of
/// it, in ascending order.
fn sweeps(report: &Report, of: fn(&Setting) -> Option<f64>, without: fn(&mut Setting)) -> Vec<Vec<&Cell>> {
    let mut groups: Vec<(Setting, Vec<&Cell>)> = Vec::new();
    for c in report.cells.iter().filter(|c| of(&c.setting).is_some_and(f64::is_finite)) {
        let mut rest = c.setting.clone();
        without(&mut rest);
        match groups.iter_mut().find(|g| g.0 == rest) {
            Some(g) => g.1.push(c),
            None => groups.push((rest, vec![c])),
        }
    }
    let mut sweeps = Vec::new();
    for (_, mut cells) in groups {
        cells.sort_by(|a, b| of(&a.setting).partial_cmp(&of(&b.setting)).unwrap_or(Ordering::Equal));
        cells.dedup_by_key(|c| of(&c.setting));
        if cells.len() >= MIN_SWEEP {
            sweeps.push(cells);
        }
    }
    sweeps
}

/// One line per group, named by the part that the labels have in common.
fn lines(
    groups: &[Vec<&Cell>],
    varies: &str,
    x: impl Fn(&Cell) -> Option<f64>,
    y: fn(&Cell) -> Option<Value>,
) -> Vec<Series> {
    let mut series = Vec::new();
    for group in groups {
        let points = group.iter().filter_map(|c| point(x(c).and_then(exact), y(c)));
        if let Some(first) = group.first() {
            let words = first.label.split_whitespace().filter(|w| !w.starts_with(varies));
            push(&mut series, first, words.collect::<Vec<_>>().join(" "), points.collect());
        }
    }
    series
}

/// Adds a series. Series of the same colour get different shapes.
fn push(series: &mut Vec<Series>, cell: &Cell, name: String, points: Vec<Point>) {
    let shape = series.iter().filter(|s| s.colour == colour(&cell.setting.method)).count();
    series.push(Series { name, ..of(cell, shape, points) });
}

fn of(cell: &Cell, shape: usize, points: Vec<Point>) -> Series {
    Series { name: String::new(), colour: colour(&cell.setting.method), shape, line: true, points }
}

fn point(x: Option<Value>, y: Option<Value>) -> Option<Point> {
    x.zip(y).map(|(x, y)| Point { x, y, label: None })
}

fn plain_perplexity(c: &Cell) -> Option<Value> {
    c.perplexity.and_then(|p| value(p, 1.0))
}

/// Perplexity of the target alone; `None` if there are several, one per sampling setting.
fn baseline(report: &Report) -> Option<(f64, &'static str)> {
    let mut cells = report.cells.iter().filter(|c| c.setting.method == "autoregressive");
    let only = cells.next().filter(|_| cells.next().is_none())?;
    Some((plain_perplexity(only)?.at, "autoregressive"))
}

fn speedup(c: &Cell) -> Option<Value> {
    if c.setting.method == "autoregressive" {
        return exact(1.0);
    }
    c.vs_autoregressive.as_ref().and_then(|r| value(r.speedup, 1.0))
}

fn exact(x: f64) -> Option<Value> {
    value(Estimate { value: x, low: x, high: x }, 1.0)
}

/// A value that can be drawn. Bounds that cannot be drawn are replaced by the value itself.
fn value(e: Estimate, scale: f64) -> Option<Value> {
    let usable = |x: f64| Some(x * scale).filter(|x| x.is_finite() && x.abs() < MAX_VALUE);
    let at = usable(e.value)?;
    Some(Value { at, low: usable(e.low).unwrap_or(at).min(at), high: usable(e.high).unwrap_or(at).max(at) })
}

/// A method has the same colour in every plot of every report. The palette is that of Okabe and Ito, which
/// colour-blind readers can distinguish.
fn colour(method: &str) -> RGBColor {
    match method {
        "autoregressive" => RGBColor(90, 90, 90),
        "speculative" => RGBColor(0, 114, 178),
        "specinfer" => RGBColor(86, 180, 233),
        "mtad" => RGBColor(230, 159, 0),
        "mmtad" => RGBColor(213, 94, 0),
        "exact-match" => RGBColor(0, 158, 115),
        "mtjd" => RGBColor(204, 121, 167),
        _ => RGBColor(0, 0, 0),
    }
}
