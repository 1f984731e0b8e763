//! Places the labels of points.

/// Maximum length of a label, in characters.
pub(super) const MAX_CHARS: usize = 28;

/// A rectangle in pixels; y grows downwards.
#[derive(Clone, Copy)]
pub(super) struct Rect {
    pub(super) left: i32,
    pub(super) top: i32,
    pub(super) right: i32,
    pub(super) bottom: i32,
}

impl Rect {
    /// Area that both rectangles cover.
    fn overlap(&self, other: &Self) -> i32 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        width.max(0) * height.max(0)
    }

    fn area(&self) -> i32 {
        (self.right - self.left) * (self.bottom - self.top)
    }
}

/// The space of a point's marker.
pub(super) fn around((x, y): (i32, i32)) -> Rect {
    Rect { left: x - 6, top: y - 6, right: x + 6, bottom: y + 6 }
}

/// The space of a vertical or horizontal line.
pub(super) fn along(from: (i32, i32), to: (i32, i32)) -> Rect {
    Rect {
        left: from.0.min(to.0) - 1,
        top: from.1.min(to.1) - 1,
        right: from.0.max(to.0) + 1,
        bottom: from.1.max(to.1) + 1,
    }
}

/// Cuts `text` to [`MAX_CHARS`] characters.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(MAX_CHARS - 1) {
        Some((at, c)) if at + c.len_utf8() < text.len() => format!("{}…", &text[..at]),
        _ => text.into(),
    }
}

/// The place beside a point where a label covers least of what is `taken` and of the outside of the plot; the
/// right side is preferred.
pub(super) fn place(text: &str, (x, y): (i32, i32), inside: &Rect, taken: &[Rect]) -> Rect {
    let width = 8 * i32::try_from(text.chars().count()).unwrap_or(0);
    let offsets = [0, -14, 14, -28, 28, -42, 42];
    let columns = [x + 9, x - 9 - width, x - width / 2];
    let boxes = offsets.into_iter().flat_map(|dy| {
        columns.map(|left| Rect { left, top: y + dy - 8, right: left + width, bottom: y + dy + 8 })
    });
    let cost = |b: &Rect| {
        let outside = b.area() - b.overlap(inside);
        // Too far from its point, a label would seem to belong to another one.
        let distance = ((b.top + b.bottom) / 2 - y).abs();
        4 * distance + 2 * outside + taken.iter().map(|t| t.overlap(b)).sum::<i32>()
    };
    boxes.min_by_key(cost).unwrap_or_else(|| around((x, y)))
}
