//! Tensor maps, and the boxes that the tensor memory accelerator copies.
//!
//! A [`TensorMap`] takes the place of a `CUtensorMap`: 128 opaque bytes that a kernel hands on by address. Its fields are
//! those of `cuTensorMapEncodeTiled` (CUDA Driver API, "Tensor Map Object Management"), with the same limits.

use aic_ir::ensure;
use aic_ir::error::Result;

/// How a row of a box is permuted in shared memory (PTX ISA, "Swizzling Modes"): within a span of so many bytes, pieces
/// of 16 bytes change places by the number of the 128-byte line that they are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u64)]
pub enum Swizzle {
    /// As it is.
    #[default]
    None,
    /// Spans of 32 bytes.
    B32,
    /// Spans of 64 bytes.
    B64,
    /// Spans of 128 bytes.
    B128,
}

impl Swizzle {
    /// Bytes of a span; 0 for none.
    pub fn span(self) -> usize {
        match self {
            Swizzle::None => 0,
            Swizzle::B32 => 32,
            Swizzle::B64 => 64,
            Swizzle::B128 => 128,
        }
    }

    /// Where a byte of shared memory goes: bits 4 and up of the address are combined with bits 7 and up, one, two or
    /// three of them.
    pub fn apply(self, address: usize) -> usize {
        let bits = match self {
            Swizzle::None => return address,
            Swizzle::B32 => 1,
            Swizzle::B64 => 2,
            Swizzle::B128 => 3,
        };
        address ^ (((address >> 7) & ((1 << bits) - 1)) << 4)
    }
}

/// A tensor in global memory and the box that is copied of it. Axes are counted from the innermost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct TensorMap {
    /// Where its first element is in the buffer, in bytes; its address once it is launched.
    base: usize,
    /// Axes.
    pub rank: u32,
    /// Bytes of an element.
    pub element: u32,
    /// Elements along each axis.
    pub extent: [u32; 5],
    /// Elements of the box along each axis.
    pub boxed: [u32; 5],
    /// Bytes from element to element along each axis but the innermost.
    pub stride: [u64; 4],
    /// The order in shared memory.
    pub swizzle: Swizzle,
    /// What says that these bytes are a tensor map.
    mark: u64,
}

const MARK: u64 = 0x7465_6e73_6f72_6d61;

const _: () = assert!(size_of::<TensorMap>() == 128);

/// Runs of bytes between global memory and shared memory. A run has no global address where the box lies outside of the
/// tensor: there zeros are loaded and nothing is stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Transfer {
    pub runs: Vec<Run>,
    /// Bytes in shared memory.
    pub bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub global: Option<usize>,
    pub shared: usize,
    pub bytes: usize,
}

impl TensorMap {
    /// A map, checked.
    ///
    /// # Errors
    /// The driver would refuse it: a box over 256 elements, or a row of one wider than the swizzle's span or no multiple
    /// of 16 bytes; strides that are no multiples of 16 bytes.
    pub fn new(
        element: u32,
        extent: &[u32],
        stride: &[u64],
        boxed: &[u32],
        swizzle: Swizzle,
    ) -> Result<TensorMap> {
        let rank = extent.len();
        ensure!((1..=5).contains(&rank), "a tensor map has 1 to 5 axes, not {rank}");
        ensure!(
            stride.len() + 1 == rank && boxed.len() == rank,
            "as many strides and extents as axes are expected"
        );
        ensure!(
            boxed.iter().all(|n| (1..=256).contains(n)),
            "a box has 1 to 256 elements along an axis: {boxed:?}"
        );
        ensure!(
            stride.iter().all(|s| s % 16 == 0 && *s < 1 << 40),
            "strides are multiples of 16 bytes: {stride:?}"
        );
        let row = (boxed[0] * element) as usize;
        ensure!(row.is_multiple_of(16), "a row of a box has a multiple of 16 bytes, not {row}");
        let span = swizzle.span();
        ensure!(span == 0 || row <= span, "a row of {row} bytes is wider than the swizzle's {span}");
        let mut map = TensorMap {
            base: 0,
            rank: rank as u32,
            element,
            extent: [1; 5],
            boxed: [1; 5],
            stride: [0; 4],
            swizzle,
            mark: MARK,
        };
        map.extent[..rank].copy_from_slice(extent);
        map.boxed[..rank].copy_from_slice(boxed);
        map.stride[..rank - 1].copy_from_slice(stride);
        Ok(map)
    }

    /// The same for a tensor that begins so many bytes later.
    pub fn from(self, bytes: usize) -> TensorMap {
        TensorMap { base: self.base + bytes, ..self }
    }

    pub(super) fn is_valid(&self) -> bool {
        self.mark == MARK
    }

    /// Where the tensor is.
    pub(super) fn base(&self) -> usize {
        self.base
    }

    /// Bytes of a box.
    fn box_bytes(&self) -> usize {
        self.boxed.iter().map(|n| *n as usize).product::<usize>() * self.element as usize
    }

    /// Bytes from the first element to behind the last one.
    pub(super) fn bytes(&self) -> usize {
        if self.extent.contains(&0) {
            return 0;
        }
        let outer = self.extent[1..].iter().zip(self.stride).map(|(n, s)| (*n as usize - 1) * s as usize);
        outer.sum::<usize>() + self.extent[0] as usize * self.element as usize
    }

    /// The copy of the box whose first element has these coordinates, to or from this place in shared memory.
    pub(super) fn transfer(&self, at: &[i32], shared: usize) -> Transfer {
        let element = self.element as usize;
        // Pieces of 16 bytes stay together whatever the swizzle.
        let piece = 16 / element.clamp(1, 16);
        let mut transfer = Transfer { runs: Vec::new(), bytes: self.box_bytes() };
        let rows: usize = self.boxed[1..].iter().map(|n| *n as usize).product();
        let pieces = self.boxed[0] as usize / piece;
        for row in 0..rows {
            let global = self.row(at, row);
            for k in 0..pieces {
                let to = shared + (row * pieces + k) * 16;
                self.piece(
                    global,
                    i64::from(at[0]) + (k * piece) as i64,
                    piece,
                    self.swizzle.apply(to),
                    &mut transfer,
                );
            }
        }
        transfer
    }

    /// The address of the element 0 of a row of a box, if the row is of the tensor.
    fn row(&self, at: &[i32], row: usize) -> Option<usize> {
        let (mut rest, mut address) = (row, self.base);
        for (axis, first) in at.iter().enumerate().skip(1) {
            let n = self.boxed[axis] as usize;
            let index = i64::from(*first) + (rest % n) as i64;
            rest /= n;
            let index = usize::try_from(index).ok().filter(|i| *i < self.extent[axis] as usize)?;
            address += index * self.stride[axis - 1] as usize;
        }
        Some(address)
    }

    /// So many elements from the column on: those of the tensor, and those that aren't.
    fn piece(&self, row: Option<usize>, column: i64, n: usize, shared: usize, transfer: &mut Transfer) {
        let element = self.element as usize;
        for k in 0..n {
            let column = usize::try_from(column + k as i64).ok().filter(|c| *c < self.extent[0] as usize);
            let global = row.zip(column).map(|(row, column)| row + column * element);
            let run = Run { global, shared: shared + k * element, bytes: element };
            match transfer.runs.last_mut() {
                Some(last) if last.is_continued_by(&run) => last.bytes += run.bytes,
                _ => transfer.runs.push(run),
            }
        }
    }
}

impl Run {
    fn is_continued_by(&self, next: &Run) -> bool {
        let global = match (self.global, next.global) {
            (Some(a), Some(b)) => a + self.bytes == b,
            (None, None) => true,
            _ => false,
        };
        global && self.shared + self.bytes == next.shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of "Swizzling Modes": rows of spans, and where their pieces of 16 bytes lie.
    #[test]
    fn swizzles() {
        let piece = |s: Swizzle, line: usize, k: usize| s.apply(line * 128 + k * 16) % 128 / 16;
        let row = |s, line| (0..8).map(|k| piece(s, line, k)).collect::<Vec<_>>();
        assert_eq!(row(Swizzle::None, 5), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(row(Swizzle::B128, 0), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(row(Swizzle::B128, 1), [1, 0, 3, 2, 5, 4, 7, 6]);
        assert_eq!(row(Swizzle::B128, 2), [2, 3, 0, 1, 6, 7, 4, 5]);
        assert_eq!(row(Swizzle::B128, 7), [7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(row(Swizzle::B128, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(row(Swizzle::B64, 1), [1, 0, 3, 2, 5, 4, 7, 6]);
        assert_eq!(row(Swizzle::B64, 3), [3, 2, 1, 0, 7, 6, 5, 4]);
        assert_eq!(row(Swizzle::B64, 4), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(row(Swizzle::B32, 1), [1, 0, 3, 2, 5, 4, 7, 6]);
        assert_eq!(row(Swizzle::B32, 2), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_box_at_an_edge_is_cut_off() -> Result<()> {
        let map = TensorMap::new(2, &[20, 3], &[64], &[16, 2], Swizzle::None)?;
        let t = map.transfer(&[8, 2], 0);
        let run = |global, shared, bytes| Run { global, shared, bytes };
        assert_eq!(t.runs, [run(Some(2 * 64 + 16), 0, 24), run(None, 24, 40)]);
        assert_eq!(t.bytes, 64);
        let t = map.transfer(&[-4, -1], 1 << 18);
        assert_eq!(t.runs[0], run(None, 1 << 18, 40));
        assert_eq!(t.runs[1], run(Some(0), (1 << 18) + 40, 24));
        assert_eq!(map.bytes(), 2 * 64 + 40);
        Ok(())
    }

    #[test]
    fn what_the_driver_refuses() {
        let bad = |stride: u64, width: u32, swizzle| {
            TensorMap::new(2, &[64, 64], &[stride], &[width, 64], swizzle).is_err()
        };
        assert!(bad(24, 64, Swizzle::B128));
        assert!(bad(128, 128, Swizzle::B128));
        assert!(bad(128, 4, Swizzle::None));
        assert!(!bad(128, 64, Swizzle::B128));
    }
}
