//! Bar charts.

use plotters::prelude::*;
use plotters::style::text_anchor::HPos;

use super::canvas::{Area, Done, Drawn, INK, Value, canvas, style_mesh, text, tick, whisker};
use super::labels;

/// One bar with its interval.
pub(in crate::report) struct Bar {
    pub(in crate::report) name: String,
    pub(in crate::report) colour: RGBColor,
    pub(in crate::report) value: Value,
    /// Written after the bar.
    pub(in crate::report) text: String,
}

/// Horizontal bars, one below the other. They start at `from`, the lowest possible value.
pub(in crate::report) fn bars(title: &str, x: &str, from: f64, bars: &[Bar]) -> Drawn {
    let rows = u32::try_from(bars.len()).unwrap_or(u32::MAX / 64);
    canvas(110 + 28 * rows, title, |page, room| {
        let longest = bars.iter().map(|b| b.name.chars().count().min(labels::MAX_CHARS)).max().unwrap_or(0);
        let highest = bars.iter().fold(from, |highest: f64, bar| highest.max(bar.value.high));
        // Leaves room for the text after the longest bar; never an empty range.
        let end = (from + (highest - from) * 1.3).max(from + 1e-6);
        let mut chart = ChartBuilder::on(room)
            .margin(10)
            .set_label_area_size(LabelAreaPosition::Left, i32::try_from(12 + 8 * longest).unwrap_or(0))
            .set_label_area_size(LabelAreaPosition::Bottom, 46)
            .build_cartesian_2d(from..end, 0.0..f64::from(rows))?;
        let format_tick = |v: &f64| tick(*v);
        let mut mesh = chart.configure_mesh();
        mesh.disable_y_mesh().y_labels(0).x_desc(x).x_label_formatter(&format_tick);
        style_mesh(&mut mesh);
        mesh.draw()?;
        for (row, bar) in bars.iter().enumerate() {
            let y = f64::from(rows) - row as f64 - 0.5;
            let pixel = |x: f64| chart.backend_coord(&(x.max(from), y));
            draw_bar(bar, page, pixel, from)?;
        }
        Ok(())
    })
}

fn draw_bar(bar: &Bar, page: &Area<'_>, pixel: impl Fn(f64) -> (i32, i32), from: f64) -> Done {
    let start = pixel(from);
    let end = pixel(bar.value.at);
    let high = pixel(bar.value.high);
    let corners = [(start.0, start.1 - 9), (end.0, end.1 + 9)];
    page.draw(&Rectangle::new(corners, bar.colour.mix(0.75).filled()))?;
    whisker(page, pixel(bar.value.low), high, INK)?;
    text(page, &labels::shorten(&bar.name), (start.0 - 8, start.1), HPos::Right, INK)?;
    text(page, &bar.text, (high.0.max(end.0) + 8, high.1), HPos::Left, INK)
}
