//! Charts of points and lines on two axes.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::canvas::{Area, Chart, Done, Drawn, INK, Value, canvas, style_mesh, text, tick, whisker};
use super::labels;

/// Width of the legend, in pixels.
const LEGEND_WIDTH: u32 = 230;

/// A point with its intervals.
pub(in crate::report) struct Point {
    pub(in crate::report) x: Value,
    pub(in crate::report) y: Value,
    /// Written beside the point.
    pub(in crate::report) label: Option<String>,
}

/// Points of one colour and shape.
pub(in crate::report) struct Series {
    pub(in crate::report) name: String,
    pub(in crate::report) colour: RGBColor,
    /// Distinguishes series of the same colour.
    pub(in crate::report) shape: usize,
    /// Whether a line joins the points.
    pub(in crate::report) line: bool,
    pub(in crate::report) points: Vec<Point>,
}

/// One pair of axes.
pub(in crate::report) struct Panel {
    pub(in crate::report) x: String,
    pub(in crate::report) y: String,
    /// Whether only whole numbers are meaningful on the x axis.
    pub(in crate::report) whole: bool,
    /// A reference level and its name.
    pub(in crate::report) level: Option<(f64, &'static str)>,
    pub(in crate::report) series: Vec<Series>,
}

/// Panels beside each other; the legend is that of the first panel.
pub(in crate::report) fn panels(title: &str, panels: &[Panel], legend: bool) -> Drawn {
    let explained = panels.first().filter(|_| legend);
    let entries = explained.map_or(0, |p| p.series.len());
    let height = 520.max(100 + 22 * u32::try_from(entries).unwrap_or(0));
    canvas(height, title, |page, room| {
        let (width, _) = room.dim_in_pixel();
        let (left, right) = room.split_horizontally(width - if legend { LEGEND_WIDTH } else { 0 });
        for (panel, area) in panels.iter().zip(left.split_evenly((1, panels.len().max(1)))) {
            draw_panel(panel, page, &area)?;
        }
        match explained {
            Some(panel) => draw_legend(&panel.series, page, right.get_base_pixel()),
            None => Ok(()),
        }
    })
}

fn draw_panel(panel: &Panel, page: &Area<'_>, area: &Area<'_>) -> Done {
    let points = || panel.series.iter().flat_map(|s| &s.points);
    let x = range(points().flat_map(|p| [p.x.low, p.x.high]));
    let y = range(points().flat_map(|p| [p.y.low, p.y.high]).chain(panel.level.map(|l| l.0)));
    let chart = draw_axes(panel, area, x, y)?;
    if let Some((level, name)) = panel.level {
        let from = chart.backend_coord(&(x.0, level));
        let to = chart.backend_coord(&(x.1, level));
        page.draw(&PathElement::new([from, to], INK.mix(0.5).stroke_width(2)))?;
        text(page, name, (to.0 - 4, to.1 - 9), HPos::Right, INK)?;
    }
    let mut taken = Vec::new();
    for series in &panel.series {
        draw_series(series, page, &chart, &mut taken)?;
    }
    let (left, top) = chart.backend_coord(&(x.0, y.1));
    let (right, bottom) = chart.backend_coord(&(x.1, y.0));
    let inside = labels::Rect { left, top, right, bottom };
    for series in &panel.series {
        draw_labels(series, page, &chart, &inside, &mut taken)?;
    }
    Ok(())
}

fn draw_axes<'a, 'svg>(
    panel: &Panel,
    area: &'a Area<'svg>,
    x: (f64, f64),
    y: (f64, f64),
) -> Result<Chart<'a, 'svg>, DrawingAreaErrorKind<std::io::Error>> {
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .margin_right(20)
        .set_label_area_size(LabelAreaPosition::Left, 66)
        .set_label_area_size(LabelAreaPosition::Bottom, 46)
        .build_cartesian_2d(x.0..x.1, y.0..y.1)?;
    let format_tick = |v: &f64| tick(*v);
    let format_whole = |v: &f64| if (v - v.round()).abs() < 1e-6 { tick(*v) } else { String::new() };
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(&panel.x)
        .y_desc(&panel.y)
        .x_labels(8)
        .x_label_formatter(if panel.whole { &format_whole } else { &format_tick })
        .y_label_formatter(&format_tick);
    style_mesh(&mut mesh);
    mesh.draw()?;
    Ok(chart)
}

/// Draws line, intervals and markers; adds the space that they cover to `taken`.
fn draw_series(
    series: &Series,
    page: &Area<'_>,
    chart: &Chart<'_, '_>,
    taken: &mut Vec<labels::Rect>,
) -> Done {
    let at = |x: f64, y: f64| chart.backend_coord(&(x, y));
    if series.line && series.points.len() > 1 {
        let line: Vec<_> = series.points.iter().map(|p| at(p.x.at, p.y.at)).collect();
        page.draw(&PathElement::new(line, series.colour.stroke_width(2)))?;
    }
    for Point { x, y, .. } in &series.points {
        let vertical = [at(x.at, y.low), at(x.at, y.high)];
        let horizontal = [at(x.low, y.at), at(x.high, y.at)];
        for [from, to] in [vertical, horizontal] {
            whisker(page, from, to, series.colour)?;
            taken.push(labels::along(from, to));
        }
        marker(page, at(x.at, y.at), series)?;
        taken.push(labels::around(at(x.at, y.at)));
    }
    Ok(())
}

/// Writes labels beside their points, where they cover least of what is `taken`.
fn draw_labels(
    series: &Series,
    page: &Area<'_>,
    chart: &Chart<'_, '_>,
    inside: &labels::Rect,
    taken: &mut Vec<labels::Rect>,
) -> Done {
    // The colour of the series, darkened to be readable as text.
    let RGBColor(r, g, b) = series.colour;
    let ink = RGBColor(r / 5 * 3, g / 5 * 3, b / 5 * 3);
    for point in &series.points {
        let Some(label) = &point.label else { continue };
        let label = labels::shorten(label);
        let at = chart.backend_coord(&(point.x.at, point.y.at));
        let place = labels::place(&label, at, inside, taken);
        text(page, &label, (place.left, (place.top + place.bottom) / 2), HPos::Left, ink)?;
        taken.push(place);
    }
    Ok(())
}

fn draw_legend(series: &[Series], page: &Area<'_>, (x, y): (i32, i32)) -> Done {
    for (row, series) in (0..).zip(series) {
        let at = (x + 16, y + 24 + 22 * row);
        if series.line {
            let ends = [(at.0 - 12, at.1), (at.0 + 12, at.1)];
            page.draw(&PathElement::new(ends, series.colour.stroke_width(2)))?;
        }
        marker(page, at, series)?;
        text(page, &labels::shorten(&series.name), (at.0 + 20, at.1), HPos::Left, INK)?;
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

/// The range of an axis: from the lowest to the highest value with a margin. Never empty, nor too narrow for
/// its ticks.
fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return (0.0, 1.0);
    }
    let margin = ((high - low) * 0.08).max(low.abs().max(high.abs()) * 0.01).max(1e-6);
    (low - margin, high + margin)
}
