//! Draws charts as SVG: plotters for the axes, everything else in pixels.

use std::io;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::labels;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn = Result<String, DrawingAreaErrorKind<io::Error>>;
type Done = Result<(), DrawingAreaErrorKind<io::Error>>;

const WIDTH: u32 = 900;
const LEGEND: u32 = 230;
/// plotters divides font sizes by 1.24: these come out at 13 and 16 pixels.
const FONT: (&str, i32) = ("sans-serif", 16);
const TITLE: (&str, i32) = ("sans-serif", 20);
const INK: RGBColor = RGBColor(40, 40, 40);
const FAINT: RGBColor = RGBColor(225, 225, 225);

/// A number with its interval; all three finite and of a size that an axis can show.
#[derive(Clone, Copy)]
pub(super) struct Value {
    pub(super) at: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

pub(super) struct Point {
    pub(super) x: Value,
    pub(super) y: Value,
    /// Written beside it.
    pub(super) label: Option<String>,
}

/// Points of one colour and shape.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) colour: RGBColor,
    /// Tells apart series of the same colour.
    pub(super) shape: usize,
    /// Whether a line joins its points.
    pub(super) line: bool,
    pub(super) points: Vec<Point>,
}

/// One pair of axes.
pub(super) struct Panel {
    pub(super) x: String,
    pub(super) y: String,
    /// Only whole numbers have a meaning on the x axis.
    pub(super) whole: bool,
    /// A level to compare with, and its name.
    pub(super) level: Option<(f64, &'static str)>,
    pub(super) series: Vec<Series>,
}

pub(super) struct Bar {
    pub(super) name: String,
    pub(super) colour: RGBColor,
    pub(super) value: Value,
    /// Written behind it.
    pub(super) text: String,
}

/// Panels beside each other; the legend is that of the first one.
pub(super) fn panels(title: &str, panels: &[Panel], legend: bool) -> Drawn {
    let entries = panels.first().filter(|_| legend).map_or(0, |p| p.series.len());
    let height = 520.max(100 + 22 * u32::try_from(entries).unwrap_or(0));
    canvas(height, title, |page, room| {
        let (width, _) = room.dim_in_pixel();
        let (left, right) = room.split_horizontally(width - if legend { LEGEND } else { 0 });
        for (panel, area) in panels.iter().zip(left.split_evenly((1, panels.len().max(1)))) {
            xy(panel, page, &area)?;
        }
        if let Some(panel) = panels.first().filter(|_| legend) {
            key(&panel.series, page, right.get_base_pixel())?;
        }
        Ok(())
    })
}

/// Horizontal bars, one below the other. They begin at `from`, the least value there can be.
pub(super) fn bars(title: &str, x: &str, from: f64, bars: &[Bar]) -> Drawn {
    let rows = u32::try_from(bars.len()).unwrap_or(u32::MAX / 64);
    canvas(110 + 28 * rows, title, |page, room| {
        let longest = bars.iter().map(|b| b.name.chars().count().min(labels::LONGEST)).max().unwrap_or(0);
        let most = bars.iter().fold(from, |m: f64, b| m.max(b.value.high));
        let mut chart = ChartBuilder::on(room)
            .margin(10)
            .set_label_area_size(LabelAreaPosition::Left, i32::try_from(12 + 8 * longest).unwrap_or(0))
            .set_label_area_size(LabelAreaPosition::Bottom, 46)
            // Room for the text behind the longest bar.
            .build_cartesian_2d(from..(from + (most - from) * 1.3).max(from + 1e-6), 0.0..f64::from(rows))?;
        let style = FONT.into_font().color(&INK);
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .x_desc(x)
            .x_label_formatter(&|v| tick(*v))
            .label_style(style.clone())
            .axis_desc_style(style)
            .bold_line_style(FAINT)
            .light_line_style(WHITE)
            .axis_style(INK)
            .draw()?;
        for (row, bar) in bars.iter().enumerate() {
            let y = f64::from(rows) - row as f64 - 0.5;
            let [start, end, low, high] = [from, bar.value.at, bar.value.low, bar.value.high]
                .map(|x| chart.backend_coord(&(x.max(from), y)));
            let rect = [(start.0, start.1 - 9), (end.0, end.1 + 9)];
            page.draw(&Rectangle::new(rect, bar.colour.mix(0.75).filled()))?;
            whisker(page, low, high, INK)?;
            text(page, &labels::shorten(&bar.name), (start.0 - 8, start.1), HPos::Right, INK)?;
            text(page, &bar.text, (high.0.max(end.0) + 8, high.1), HPos::Left, INK)?;
        }
        Ok(())
    })
}

/// `draw` gets the whole canvas, on which pixels count from its corner, and what the title leaves of it.
fn canvas(height: u32, title: &str, draw: impl FnOnce(&Area<'_>, &Area<'_>) -> Done) -> Drawn {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        draw(&root, &root.titled(title, TITLE.into_font().color(&INK))?)?;
        root.present()?;
    }
    Ok(svg)
}

fn xy(panel: &Panel, page: &Area<'_>, area: &Area<'_>) -> Done {
    let points = || panel.series.iter().flat_map(|s| &s.points);
    let x = range(points().flat_map(|p| [p.x.low, p.x.high]));
    let y = range(points().flat_map(|p| [p.y.low, p.y.high]).chain(panel.level.map(|l| l.0)));
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_right(20)
        .set_label_area_size(LabelAreaPosition::Left, 66)
        .set_label_area_size(LabelAreaPosition::Bottom, 46)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
    let style = FONT.into_font().color(&INK);
    let whole = |v: &f64| if (v - v.round()).abs() < 1e-6 { tick(*v) } else { String::new() };
    chart
        .configure_mesh()
        .x_desc(&panel.x)
        .y_desc(&panel.y)
        .x_labels(8)
        .x_label_formatter(if panel.whole { &whole } else { &|v: &f64| tick(*v) })
        .y_label_formatter(&|v| tick(*v))
        .label_style(style.clone())
        .axis_desc_style(style)
        .bold_line_style(FAINT)
        .light_line_style(WHITE)
        .axis_style(INK)
        .draw()?;
    let at = |x: f64, y: f64| chart.backend_coord(&(x, y));
    if let Some((level, name)) = panel.level {
        let ends = [at(x.0, level), at(x.1, level)];
        page.draw(&PathElement::new(ends, INK.mix(0.5).stroke_width(2)))?;
        text(page, name, (ends[1].0 - 4, ends[1].1 - 9), HPos::Right, INK)?;
    }
    let mut taken = Vec::new();
    for series in &panel.series {
        let places: Vec<_> = series.points.iter().map(|p| at(p.x.at, p.y.at)).collect();
        if series.line && places.len() > 1 {
            page.draw(&PathElement::new(places.clone(), series.colour.stroke_width(2)))?;
        }
        for (p, &place) in series.points.iter().zip(&places) {
            let (upright, level) =
                ([at(p.x.at, p.y.low), at(p.x.at, p.y.high)], [at(p.x.low, p.y.at), at(p.x.high, p.y.at)]);
            for [from, to] in [upright, level] {
                whisker(page, from, to, series.colour)?;
                taken.push(labels::along(from, to));
            }
            marker(page, place, series)?;
            taken.push(labels::around(place));
        }
    }
    let (left, top) = at(x.0, y.1);
    let (right, bottom) = at(x.1, y.0);
    let inside = labels::Box { left, top, right, bottom };
    for series in &panel.series {
        // Of its series' colour, dark enough to read.
        let RGBColor(r, g, b) = series.colour;
        let ink = RGBColor(r / 5 * 3, g / 5 * 3, b / 5 * 3);
        for (p, label) in series.points.iter().filter_map(|p| Some((p, p.label.as_ref()?))) {
            let label = labels::shorten(label);
            let place = labels::place(&label, at(p.x.at, p.y.at), &inside, &taken);
            text(page, &label, (place.left, (place.top + place.bottom) / 2), HPos::Left, ink)?;
            taken.push(place);
        }
    }
    Ok(())
}

fn key(series: &[Series], page: &Area<'_>, (x, y): (i32, i32)) -> Done {
    for (row, s) in (0..).zip(series) {
        let place = (x + 16, y + 24 + 22 * row);
        if s.line {
            let ends = [(place.0 - 12, place.1), (place.0 + 12, place.1)];
            page.draw(&PathElement::new(ends, s.colour.stroke_width(2)))?;
        }
        marker(page, place, s)?;
        text(page, &labels::shorten(&s.name), (place.0 + 20, place.1), HPos::Left, INK)?;
    }
    Ok(())
}

fn marker(area: &Area<'_>, at: (i32, i32), series: &Series) -> Done {
    let (x, y) = at;
    let style = series.colour.filled();
    match series.shape % 5 {
        0 => area.draw(&Circle::new(at, 5, style)),
        1 => area.draw(&Rectangle::new([(x - 4, y - 4), (x + 4, y + 4)], style)),
        2 => area.draw(&Polygon::new([(x - 6, y + 5), (x + 6, y + 5), (x, y - 6)], style)),
        3 => area.draw(&Polygon::new([(x - 6, y), (x, y + 6), (x + 6, y), (x, y - 6)], style)),
        _ => area.draw(&Cross::new(at, 5, series.colour.stroke_width(2))),
    }
}

/// An interval: a line with a stroke across either end; nothing if both ends fall together.
fn whisker(area: &Area<'_>, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Done {
    if from == to {
        return Ok(());
    }
    let (dx, dy) = if from.1 == to.1 { (0, 4) } else { (4, 0) };
    for ends in [
        [from, to],
        [(from.0 - dx, from.1 - dy), (from.0 + dx, from.1 + dy)],
        [(to.0 - dx, to.1 - dy), (to.0 + dx, to.1 + dy)],
    ] {
        area.draw(&PathElement::new(ends, colour.stroke_width(1)))?;
    }
    Ok(())
}

fn text(area: &Area<'_>, text: &str, at: (i32, i32), side: HPos, ink: RGBColor) -> Done {
    let style = FONT.into_font().color(&ink).pos(Pos::new(side, VPos::Center));
    // XML has no way to write control characters.
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    area.draw(&Text::new(text, at, style))
}

/// From the least to the greatest, with room around; never empty, nor too narrow for its ticks.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let room = ((high - low) * 0.08).max(low.abs().max(high.abs()) * 0.01).max(1e-6);
    (low - room, high + room)
}

fn tick(v: f64) -> String {
    let text = format!("{v:.4}");
    match text.trim_end_matches('0').trim_end_matches('.') {
        "-0" => "0".into(),
        text => text.into(),
    }
}
