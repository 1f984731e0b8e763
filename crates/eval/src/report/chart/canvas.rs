//! The canvas of a chart, and the elements that all charts share.

use std::io;

use plotters::chart::MeshStyle;
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Chart<'a, 'svg> =
    ChartContext<'a, SVGBackend<'svg>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;
/// An SVG document.
pub(in crate::report) type Drawn = Result<String, DrawingAreaErrorKind<io::Error>>;
pub(super) type Done = Result<(), DrawingAreaErrorKind<io::Error>>;

const WIDTH: u32 = 900;
/// plotters divides font sizes by 1.24, so these are rendered at 13 and 16 pixels.
pub(super) const FONT: (&str, i32) = ("sans-serif", 16);
const TITLE: (&str, i32) = ("sans-serif", 20);
pub(super) const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// A number with its interval. All three are finite and of a magnitude that an axis can show.
#[derive(Clone, Copy)]
pub(in crate::report) struct Value {
    pub(in crate::report) at: f64,
    pub(in crate::report) low: f64,
    pub(in crate::report) high: f64,
}

/// Draws on a canvas of `height`. `draw` gets the whole canvas, whose pixels count from its corner, and the
/// area below the title.
pub(super) fn canvas(height: u32, title: &str, draw: impl FnOnce(&Area<'_>, &Area<'_>) -> Done) -> Drawn {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        root.fill(&WHITE)?;
        draw(&root, &root.titled(title, TITLE.into_font().color(&INK))?)?;
        root.present()?;
    }
    Ok(svg)
}

/// Applies the fonts and colours of all charts to the axes and the grid.
pub(super) fn style_mesh(mesh: &mut MeshStyle<'_, '_, RangedCoordf64, RangedCoordf64, SVGBackend<'_>>) {
    let font = FONT.into_font().color(&INK);
    mesh.label_style(font.clone())
        .axis_desc_style(font)
        .bold_line_style(GRID)
        .light_line_style(WHITE)
        .axis_style(INK);
}

/// An interval: a line with a stroke across each end; nothing if both ends coincide.
pub(super) fn whisker(area: &Area<'_>, from: (i32, i32), to: (i32, i32), colour: RGBColor) -> Done {
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

/// Text on one line. `side` is the side of the text that is at `at`.
pub(super) fn text(area: &Area<'_>, text: &str, at: (i32, i32), side: HPos, ink: RGBColor) -> Done {
    let style = FONT.into_font().color(&ink).pos(Pos::new(side, VPos::Center));
    // XML cannot represent control characters.
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    area.draw(&Text::new(text, at, style))
}

/// The label of a tick: up to four decimals, without trailing zeros.
pub(super) fn tick(v: f64) -> String {
    let text = format!("{v:.4}");
    match text.trim_end_matches('0').trim_end_matches('.') {
        "-0" => "0".into(),
        text => text.into(),
    }
}
