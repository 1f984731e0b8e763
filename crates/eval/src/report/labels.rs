//! Where the labels of points go.

/// Characters of a label; more are cut.
pub(super) const LONGEST: usize = 28;

/// In pixels, y downwards.
#[derive(Clone, Copy)]
pub(super) struct Box {
    pub(super) left: i32,
    pub(super) top: i32,
    pub(super) right: i32,
    pub(super) bottom: i32,
}

impl Box {
    fn shared(&self, other: &Self) -> i32 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        width.max(0) * height.max(0)
    }

    fn area(&self) -> i32 {
        (self.right - self.left) * (self.bottom - self.top)
    }
}

/// What a point's marker takes.
pub(super) fn around((x, y): (i32, i32)) -> Box {
    Box { left: x - 6, top: y - 6, right: x + 6, bottom: y + 6 }
}

/// What an upright or level line takes.
pub(super) fn along(from: (i32, i32), to: (i32, i32)) -> Box {
    let [left, right] = [from.0.min(to.0), from.0.max(to.0)];
    let [top, bottom] = [from.1.min(to.1), from.1.max(to.1)];
    Box { left: left - 1, top: top - 1, right: right + 1, bottom: bottom + 1 }
}

/// At [`LONGEST`] characters.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(LONGEST - 1) {
        Some((at, c)) if at + c.len_utf8() < text.len() => format!("{}…", &text[..at]),
        _ => text.into(),
    }
}

/// Beside `point`, where it covers least of what is `taken` or lies outside of the plot; the right side is preferred.
pub(super) fn place(text: &str, (x, y): (i32, i32), inside: &Box, taken: &[Box]) -> Box {
    let width = 8 * i32::try_from(text.chars().count()).unwrap_or(0);
    let offsets = [0, -14, 14, -28, 28, -42, 42];
    let columns = [x + 9, x - 9 - width, x - width / 2];
    let boxes = offsets.into_iter().flat_map(|dy| {
        columns.map(|left| Box { left, top: y + dy - 8, right: left + width, bottom: y + dy + 8 })
    });
    let covered = |b: &Box| {
        let outside = b.area() - b.shared(inside);
        // Far from its point nobody would know whose label it is.
        let away = ((b.top + b.bottom) / 2 - y).abs();
        4 * away + 2 * outside + taken.iter().map(|t| t.shared(b)).sum::<i32>()
    };
    boxes.min_by_key(covered).unwrap_or_else(|| around((x, y)))
}
