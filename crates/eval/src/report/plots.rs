//! Which plots a report has, and what is on them.

use plotters::style::RGBColor;
use thiserror::Error;

use super::chart::{self, Bar, Drawn, Panel, Point, Series, Value};
use super::format::near_one;
use crate::report::{Cell, Estimate, Report, Setting};

/// More points than this are named by a legend, not one by one.
const LABELLED: usize = 16;
/// Settings that make a sweep.
const SWEEP: usize = 3;
/// Beyond this no axis is of use.
const BOUND: f64 = 1e9;

/// A plot could not be drawn.
#[derive(Debug, Error)]
#[error("cannot draw {file}: {reason}")]
pub struct PlotError {
    /// Which.
    pub file: String,
    /// As the drawing library says it.
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

/// File names and SVG documents. Plots without data are left out.
pub fn plots(report: &Report) -> Result<Vec<(String, String)>, PlotError> {
    let draw = |plot: Plot| {
        let drawn = plot.draw();
        drawn
            .map(|svg| (plot.file.to_owned(), svg))
            .map_err(|e| PlotError { file: plot.file.into(), reason: e.to_string() })
    };
    wanted(report).into_iter().map(draw).collect()
}

impl Plot {
    fn draw(&self) -> Drawn {
        match &self.content {
            // Perplexities, whose least value is 1.
            Content::Bars(x, bars) => chart::bars(self.title, x, 1.0, bars),
            Content::Panels(panels, legend) => chart::panels(self.title, panels, *legend),
        }
    }
}

/// Those with data, in the order of reading.
pub(super) fn wanted(report: &Report) -> Vec<Plot> {
    [speed_vs_score, perplexity, acceptance, thresholds, draft_tokens]
        .into_iter()
        .filter_map(|plot| plot(report))
        .collect()
}

fn speed_vs_score(report: &Report) -> Option<Plot> {
    let relative = report.cells.iter().all(|c| speedup(c).is_some());
    let x = |c: &Cell| if relative { speedup(c) } else { exact(c.ms_per_token) };
    let labelled = report.cells.len() <= LABELLED;
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
    let x = "Perplexity under the unwarped target (lower is likelier)".to_owned();
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
    let y = "Iterations that accepted as many (%)".into();
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
        panel("Perplexity (lower is likelier)", baseline(report), plain_perplexity),
        panel("Speedup over autoregressive (×)", Some((1.0, "autoregressive")), speedup),
    ];
    panels("threshold_sweep.svg", "Threshold sweep", all, true)
}

fn draft_tokens(report: &Report) -> Option<Plot> {
    let gamma = |s: &Setting| s.draft_tokens.map(|g| g as f64);
    let groups = sweeps(report, gamma, |s| s.draft_tokens = None);
    let series = lines(&groups, "γ=", |c| gamma(&c.setting), plain_perplexity);
    let y = "Perplexity (lower is likelier)".into();
    let panel = Panel { x: "Draft tokens γ".into(), y, whole: true, level: baseline(report), series };
    panels("draft_tokens_sweep.svg", "Perplexity by draft tokens", vec![panel], true)
}

fn panels(file: &'static str, title: &'static str, panels: Vec<Panel>, legend: bool) -> Option<Plot> {
    // A panel without points would be an empty frame.
    let drawn = |p: &Panel| p.series.iter().any(|s| !s.points.is_empty());
    let panels: Vec<_> = panels.into_iter().filter(drawn).collect();
    (!panels.is_empty()).then_some(Plot { file, title, content: Content::Panels(panels, legend) })
}

/// Cells that differ in nothing but what `without` takes away, and have at least [`SWEEP`] values of it; ascending.
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
    let sorted = groups.into_iter().map(|(_, mut cells)| {
        cells
            .sort_by(|a, b| of(&a.setting).partial_cmp(&of(&b.setting)).unwrap_or(std::cmp::Ordering::Equal));
        cells.dedup_by_key(|c| of(&c.setting));
        cells
    });
    sorted.filter(|cells| cells.len() >= SWEEP).collect()
}

/// One line per group, named by what its labels share.
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

/// Its shape is the next one of its colour.
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

/// Of the target alone; `None` if several samplings have one each.
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

/// Bounds that cannot be drawn are left out; a value that cannot leaves nothing.
fn value(e: Estimate, scale: f64) -> Option<Value> {
    let usable = |x: f64| Some(x * scale).filter(|x| x.is_finite() && x.abs() < BOUND);
    let at = usable(e.value)?;
    Some(Value { at, low: usable(e.low).unwrap_or(at).min(at), high: usable(e.high).unwrap_or(at).max(at) })
}

/// Okabe and Ito's palette, which colour-blind readers can tell apart. A method has its colour in every plot of every report.
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
