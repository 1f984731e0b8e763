//! Draws charts as SVG. plotters draws the axes; everything else is placed in pixels.

mod bars;
mod canvas;
mod labels;
mod xy;

pub(super) use self::bars::{Bar, bars};
pub(super) use self::canvas::{Drawn, Value};
pub(super) use self::xy::{Panel, Point, Series, panels};
