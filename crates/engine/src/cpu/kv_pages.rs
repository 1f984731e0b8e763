//! The keys and values of one layer of a session, in the order in which the attention kernel reads them.

use std::str::FromStr;

use candle_core::DType;
use half::{bf16, f16};

use super::buffer::{Buffer, DisjointChunks};
use super::element::Element;
use super::thread_pool::parallel;

/// Rows of a page. The attention kernel takes the rows of one page at a time.
pub(crate) const PAGE_ROWS: usize = 256;
/// Keys side by side: two AVX-512 vectors, four AVX2 ones.
pub(crate) const KEY_PANEL: usize = 32;
/// Values of a head are filled up with zeros to whole vectors.
const LANES: usize = 16;
/// Values from which a second thread is worthwhile for appending them.
const PARALLEL_APPEND: usize = 20_000;

/// Keys and values of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvShape {
    /// Key heads, and as many value heads.
    pub(crate) heads: usize,
    /// Values of a head.
    pub(crate) dim: usize,
}

impl KvShape {
    /// Values of a head with the zeros that fill it up.
    pub(crate) fn width(self) -> usize {
        self.dim.next_multiple_of(LANES)
    }
}

/// The dtype of keys and values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvDtype {
    /// 32 bits: nothing is rounded.
    #[default]
    F32,
    /// 16 bits, of which 11 are significant; up to 65504.
    F16,
    /// 16 bits, of which 8 are significant; the range of f32.
    Bf16,
}

impl KvDtype {
    /// Bytes of a value.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }
}

impl KvDtype {
    /// The one that rounds nothing of keys and values computed in `dtype`.
    pub(crate) fn of_activations(dtype: DType) -> Self {
        match dtype {
            DType::F16 => Self::F16,
            DType::BF16 => Self::Bf16,
            _ => Self::F32,
        }
    }
}

impl FromStr for KvDtype {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            _ => Err(format!("{name:?} is not a dtype of a KV cache: choose f32, f16 or bf16")),
        }
    }
}

impl From<KvDtype> for DType {
    fn from(dtype: KvDtype) -> Self {
        match dtype {
            KvDtype::F32 => Self::F32,
            KvDtype::F16 => Self::F16,
            KvDtype::Bf16 => Self::BF16,
        }
    }
}

/// The rows of one layer, in one of the dtypes.
pub(crate) enum KvPages {
    F32(Pages<f32>),
    F16(Pages<f16>),
    Bf16(Pages<bf16>),
}

/// The rows of one layer.
pub(crate) struct Pages<E: Element> {
    pub(super) shape: KvShape,
    pages: Vec<Page<E>>,
}

/// Some rows of one layer.
struct Page<E: Element> {
    /// A multiple of [`KEY_PANEL`]; [`PAGE_ROWS`] in all pages but the last.
    rows: usize,
    /// `[head][row / KEY_PANEL][dim][KEY_PANEL]`
    keys: Buffer<E>,
    /// `[head][row][width]`
    values: Buffer<E>,
}

/// Runs an expression for the pages of any dtype.
macro_rules! with_pages {
    ($all:expr, $pages:ident => $run:expr) => {
        match $all {
            KvPages::F32($pages) => $run,
            KvPages::F16($pages) => $run,
            KvPages::Bf16($pages) => $run,
        }
    };
}

impl KvPages {
    pub(crate) fn new(shape: KvShape, dtype: KvDtype) -> Self {
        match dtype {
            KvDtype::F32 => Self::F32(Pages { shape, pages: Vec::new() }),
            KvDtype::F16 => Self::F16(Pages { shape, pages: Vec::new() }),
            KvDtype::Bf16 => Self::Bf16(Pages { shape, pages: Vec::new() }),
        }
    }

    /// Makes room for `rows` in total. No page is larger than it must be for `limit` rows in total.
    pub(crate) fn grow(&mut self, rows: usize, limit: usize) {
        with_pages!(self, pages => pages.grow(rows, limit));
    }

    /// Writes keys and values, after the first `at` rows: `[rows, heads * dim]` each, in the columns from
    /// `keys` and `values` on of `x: [rows, width]`.
    pub(crate) fn append(&mut self, at: usize, x: &[f32], width: usize, keys: usize, values: usize) {
        with_pages!(self, pages => pages.append(at, x, width, keys, values));
    }

    /// Copies a row to a place before it.
    pub(crate) fn copy_row(&mut self, from: usize, to: usize) {
        with_pages!(self, pages => pages.copy_row(from, to));
    }

    pub(super) fn shape(&self) -> KvShape {
        with_pages!(self, pages => pages.shape)
    }

    /// Rows that there is room for.
    pub(super) fn capacity(&self) -> usize {
        with_pages!(self, pages => pages.capacity())
    }
}

impl<E: Element> Pages<E> {
    fn capacity(&self) -> usize {
        self.pages.iter().map(|page| page.rows).sum()
    }

    fn grow(&mut self, rows: usize, limit: usize) {
        while self.capacity() < rows {
            let full = self.pages.len().saturating_sub(1) * PAGE_ROWS;
            let short = self.pages.last().is_some_and(|page| page.rows < PAGE_ROWS);
            // A short page can be followed by no other: the limit was underestimated, and it is replaced.
            let first = if short { full } else { self.capacity() };
            let page_rows = PAGE_ROWS.min(limit.max(rows) - first).next_multiple_of(KEY_PANEL);
            let mut page = Page::new(self.shape, page_rows);
            if short && let Some(old) = self.pages.pop() {
                page.copy_from(&old, self.shape);
            }
            self.pages.push(page);
        }
    }

    fn append(&mut self, at: usize, x: &[f32], width: usize, keys: usize, values: usize) {
        let shape = self.shape;
        let mut first = 0;
        let rows = x.len() / width.max(1);
        while first < rows {
            let row = at + first;
            let page = &mut self.pages[row / PAGE_ROWS];
            let in_page = row % PAGE_ROWS;
            let count = (rows - first).min(page.rows - in_page);
            let x = &x[first * width..(first + count) * width];
            let (rows, many) = (page.rows, count * shape.heads * shape.dim > PARALLEL_APPEND);
            let key_heads = DisjointChunks::new(&mut page.keys, rows * shape.dim);
            let value_heads = DisjointChunks::new(&mut page.values, rows * shape.width());
            parallel(shape.heads, many, |heads| {
                for head in heads {
                    // SAFETY: each head is used once.
                    let (to_keys, to_values) = unsafe { (key_heads.chunk(head), value_heads.chunk(head)) };
                    for (i, x) in x.chunks_exact(width).enumerate() {
                        let row = in_page + i;
                        let column = head * shape.dim;
                        let key = &x[keys + column..][..shape.dim];
                        let at = row / KEY_PANEL * KEY_PANEL * shape.dim + row % KEY_PANEL;
                        for (to, &k) in to_keys[at..].iter_mut().step_by(KEY_PANEL).zip(key) {
                            *to = E::from_f32(k);
                        }
                        let value = &x[values + column..][..shape.dim];
                        for (to, &v) in to_values[row * shape.width()..].iter_mut().zip(value) {
                            *to = E::from_f32(v);
                        }
                    }
                }
            });
            first += count;
        }
    }

    fn copy_row(&mut self, from: usize, to: usize) {
        let Self { shape, pages } = self;
        let (from_page, to_page) = (from / PAGE_ROWS, to / PAGE_ROWS);
        let (from, to) = (from % PAGE_ROWS, to % PAGE_ROWS);
        if from_page == to_page {
            pages[from_page].copy_within(from, to, *shape);
        } else {
            let (before, after) = pages.split_at_mut(from_page);
            before[to_page].copy_row(to, &after[0], from, *shape);
        }
    }

    /// The keys of 32 rows of a head, `[dim][KEY_PANEL]`, of which `row` is the first.
    #[inline(always)]
    pub(super) fn key_panel(&self, head: usize, row: usize) -> &[E] {
        let page = &self.pages[row / PAGE_ROWS];
        let panel = KEY_PANEL * self.shape.dim;
        &page.keys[head * page.rows * self.shape.dim + row % PAGE_ROWS / KEY_PANEL * panel..][..panel]
    }

    /// The values of a head from `row` on to the end of its page: `[rows][width]`.
    #[inline(always)]
    pub(super) fn values(&self, head: usize, row: usize) -> &[E] {
        let page = &self.pages[row / PAGE_ROWS];
        let width = self.shape.width();
        &page.values[(head * page.rows + row % PAGE_ROWS) * width..(head + 1) * page.rows * width]
    }
}

impl<E: Element> Page<E> {
    fn new(shape: KvShape, rows: usize) -> Self {
        let keys = Buffer::zeroed(shape.heads * rows * shape.dim);
        Self { rows, keys, values: Buffer::zeroed(shape.heads * rows * shape.width()) }
    }

    fn copy_from(&mut self, old: &Self, shape: KvShape) {
        for row in 0..old.rows {
            self.copy_row(row, old, row, shape);
        }
    }

    fn copy_row(&mut self, to: usize, other: &Self, from: usize, shape: KvShape) {
        for head in 0..shape.heads {
            for d in 0..shape.dim {
                let to = self.key(head, to, d, shape);
                self.keys[to] = other.keys[other.key(head, from, d, shape)];
            }
            let width = shape.width();
            let (from, to) = ((head * other.rows + from) * width, (head * self.rows + to) * width);
            self.values[to..to + width].copy_from_slice(&other.values[from..from + width]);
        }
    }

    fn copy_within(&mut self, from: usize, to: usize, shape: KvShape) {
        for head in 0..shape.heads {
            for d in 0..shape.dim {
                let to = self.key(head, to, d, shape);
                self.keys[to] = self.keys[self.key(head, from, d, shape)];
            }
            let width = shape.width();
            let from = (head * self.rows + from) * width;
            self.values.copy_within(from..from + width, (head * self.rows + to) * width);
        }
    }

    /// The place of a value of a key.
    fn key(&self, head: usize, row: usize, d: usize, shape: KvShape) -> usize {
        let panel = head * self.rows / KEY_PANEL + row / KEY_PANEL;
        (panel * shape.dim + d) * KEY_PANEL + row % KEY_PANEL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: KvShape = KvShape { heads: 2, dim: 5 };

    /// Values of whole numbers, which every dtype holds exactly: 10 times the row, plus head and place.
    fn rows(range: std::ops::Range<usize>) -> Vec<f32> {
        range.flat_map(|row| (0..20).map(move |i| (row % 16 * 10 + i % 10) as f32)).collect()
    }

    fn assert_holds<E: Element + Into<f32>>(pages: &Pages<E>, row: usize, expected: usize) {
        for head in 0..SHAPE.heads {
            for d in 0..SHAPE.dim {
                let value = (expected % 16 * 10 + head * SHAPE.dim + d) as f32;
                let key = pages.key_panel(head, row)[d * KEY_PANEL + row % KEY_PANEL];
                assert_eq!((key.into(), pages.values(head, row)[d].into()), (value, value), "row {row}");
            }
        }
    }

    #[test]
    fn rows_are_found_where_they_were_appended_or_moved() {
        for dtype in [KvDtype::F32, KvDtype::F16, KvDtype::Bf16] {
            let mut pages = KvPages::new(SHAPE, dtype);
            for (from, to) in [(0, 1), (1, 40), (40, 300), (300, 700)] {
                // Without a limit, and with one that is raised again and again.
                pages.grow(to, if dtype == KvDtype::F16 { usize::MAX } else { to });
                pages.append(from, &rows(from..to), 20, 0, 10);
            }
            let needed = if dtype == KvDtype::F16 { 768 } else { 704 };
            assert_eq!(pages.capacity(), needed, "{dtype:?}");
            pages.copy_row(650, 200);
            pages.copy_row(651, 649);
            with_pages!(&pages, pages => {
                for row in [0, 1, 39, 40, 199, 201, 255, 256, 299, 600, 699] {
                    assert_holds(pages, row, row);
                }
                assert_holds(pages, 200, 650);
                assert_holds(pages, 649, 651);
            });
        }
    }
}
