//! Constants in the order in which a kernel reads them.
//!
//! A [`Packing`] is a permutation of some of an array's elements, padded with zeros: panels of columns, in each panel
//! the rows in the order of the kernel's loops. It is evaluated when a program is made, straight from the bytes of the
//! model's file.

use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::tensor::{self, Tensor};
use aic_ir::{bail, ensure};
use bytes::Bytes;
use memmap2::MmapMut;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Terms of a panel that are copied together where its columns lie apart in the array: their rows stay in the cache.
const TERMS: usize = 16;
/// Bytes from which on memory comes in whole pages.
const LARGE: usize = 64 << 10;

/// An axis of a packed array.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// Its extent.
    pub extent: usize,
    /// The distance of its elements in the array.
    pub stride: isize,
}

/// The layout `[outer..][panel][terms..][column]` of an array's elements.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Packing {
    /// The position of the first element in the array.
    pub offset: isize,
    /// Axes outside of the panels.
    pub outer: Vec<Span>,
    /// The axis that is cut into panels.
    pub columns: Span,
    /// Columns of a panel; those of the last one that the axis doesn't have are zeros.
    pub panel: usize,
    /// Axes inside of a panel.
    pub terms: Vec<Span>,
}

impl Packing {
    /// Panels along the columns' axis.
    pub fn n_panels(&self) -> usize {
        self.columns.extent.div_ceil(self.panel)
    }

    /// Rows of a panel.
    pub fn n_terms(&self) -> usize {
        self.terms.iter().map(|s| s.extent).product()
    }

    /// Elements of the packed array.
    ///
    /// # Errors
    /// They are more than an address space holds.
    pub fn numel(&self) -> Result<usize> {
        let extents = self.outer.iter().chain(&self.terms).map(|s| s.extent);
        tensor::numel(&extents.chain([self.n_panels(), self.panel]).collect::<Vec<_>>())
    }

    /// The packed array of `t`.
    ///
    /// # Errors
    /// `t` is not an array that this is a layout of, or memory is short.
    pub fn pack(&self, t: &Tensor) -> Result<Tensor> {
        self.check(t)?;
        let len = self.numel()?;
        let bytes = match t.dtype().size() {
            1 => self.copy::<1>(t.bytes(), len),
            2 => self.copy::<2>(t.bytes(), len),
            4 => self.copy::<4>(t.bytes(), len),
            8 => self.copy::<8>(t.bytes(), len),
            n => bail!("elements of {n} bytes can't be packed"),
        }?;
        Tensor::new(t.dtype(), vec![len], bytes)
    }

    /// All elements lie in the array.
    fn check(&self, t: &Tensor) -> Result<()> {
        ensure!(t.dtype() != DType::String && self.panel > 0, "strings can't be packed");
        if self.numel()? == 0 {
            return Ok(());
        }
        let (mut least, mut most) = (self.offset, self.offset);
        for s in self.outer.iter().chain(&self.terms).chain([&self.columns]) {
            let far = s.stride.saturating_mul(s.extent.saturating_sub(1) as isize);
            least = least.saturating_add(far.min(0));
            most = most.saturating_add(far.max(0));
        }
        let fits = least >= 0 && (most as usize) < t.len();
        ensure!(fits, "elements {least} to {most} of an array of {} were to be packed", t.len());
        Ok(())
    }

    fn copy<const N: usize>(&self, from: &[u8], len: usize) -> Result<Bytes> {
        let (from, _) = from.as_chunks::<N>();
        let terms = positions(&self.terms);
        let size = (terms.len() * self.panel).max(1);
        memory(len * N, |bytes| {
            let (to, _) = bytes.as_chunks_mut::<N>();
            let outer = positions(&self.outer);
            for (k, panel) in to.chunks_exact_mut(size).enumerate() {
                let (outside, first) = (outer[k / self.n_panels()], k % self.n_panels() * self.panel);
                let begin = self.offset + outside + first as isize * self.columns.stride;
                self.copy_panel(from, begin, self.panel.min(self.columns.extent - first), &terms, panel);
            }
        })
    }

    /// Fills the first `width` columns of a panel that begins at `begin` in the array.
    fn copy_panel<const N: usize>(
        &self,
        from: &[[u8; N]],
        begin: isize,
        width: usize,
        terms: &[isize],
        panel: &mut [[u8; N]],
    ) {
        if self.columns.stride == 1 {
            for (row, at) in panel.chunks_exact_mut(self.panel).zip(terms) {
                row[..width].copy_from_slice(&from[(begin + at) as usize..][..width]);
            }
            return;
        }
        for (rows, terms) in panel.chunks_mut(self.panel * TERMS).zip(terms.chunks(TERMS)) {
            for column in 0..width {
                let begin = begin + column as isize * self.columns.stride;
                for (row, at) in rows.chunks_exact_mut(self.panel).zip(terms) {
                    row[column] = from[(begin + at) as usize];
                }
            }
        }
    }
}

/// The distances of all points of axes from the first, in row-major order.
fn positions(axes: &[Span]) -> Vec<isize> {
    axes.iter().fold(vec![0], |all, s| {
        let steps = |at: isize| (0..s.extent).map(move |k| at + k as isize * s.stride);
        all.into_iter().flat_map(steps).collect()
    })
}

/// Zeros that `fill` has written to; large ones begin at a page, and at a huge one if there are such.
fn memory(len: usize, fill: impl FnOnce(&mut [u8])) -> Result<Bytes> {
    if len < LARGE {
        let mut bytes = vec![0; len];
        fill(&mut bytes);
        return Ok(bytes.into());
    }
    let short = |e: std::io::Error| Error::new(format!("no memory for {len} bytes of packed weights: {e}"));
    let mut bytes = MmapMut::map_anon(len).map_err(short)?;
    // A kernel without huge pages has others.
    let _ = bytes.advise(memmap2::Advice::HugePage);
    fill(&mut bytes);
    Ok(Bytes::from_owner(bytes))
}

/// Packs arrays on all cores.
///
/// # Errors
/// The first that there is.
pub fn pack_all(jobs: &[(Tensor, Packing)]) -> Result<Vec<Tensor>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        while let Some((k, (t, packing))) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|k| Some((k, jobs.get(k)?)))
        {
            done.push((k, packing.pack(t)));
        }
        done
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut all = std::thread::scope(|scope| {
        let others: Vec<_> = (1..cores.min(jobs.len())).map(|_| scope.spawn(work)).collect();
        let mut all = work();
        for thread in others {
            match thread.join() {
                Ok(done) => all.extend(done),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    });
    all.sort_by_key(|(k, _)| *k);
    all.into_iter().map(|(_, packed)| packed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(extent: usize, stride: isize) -> Span {
        Span { extent, stride }
    }

    fn numbers(n: usize) -> Tensor {
        Tensor::from_vec(vec![n], &(0..n as i32).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_transposed_matrix_in_panels() {
        // [3][2], read as 2 terms of 3 columns.
        let p = Packing { offset: 0, outer: vec![], columns: span(3, 2), panel: 2, terms: vec![span(2, 1)] };
        let packed = p.pack(&numbers(6)).unwrap();
        assert_eq!(packed.to_vec::<i32>().unwrap(), [0, 2, 1, 3, 4, 0, 5, 0]);
    }

    #[test]
    fn every_layout_is_what_its_strides_say() {
        let t = numbers(4 * 5 * 6 * 7);
        for panel in [1, 2, 4, 16] {
            for (outer, columns, terms) in [
                (vec![span(4, 210)], span(5, 42), vec![span(6, 7), span(7, 1)]),
                (vec![span(5, 42), span(4, 210)], span(7, 1), vec![span(6, 7)]),
                (vec![], span(4, 210), vec![span(7, 1), span(5, 42), span(6, 7)]),
                (vec![], span(7, -1), vec![span(119, 7)]),
            ] {
                let offset = if columns.stride < 0 { 6 } else { 0 };
                let p = Packing { offset, outer, columns, panel, terms };
                let got = p.pack(&t).unwrap().to_vec::<i32>().unwrap();
                let mut want = Vec::new();
                for o in positions(&p.outer) {
                    for c in (0..p.n_panels() * panel).step_by(panel) {
                        for at in positions(&p.terms) {
                            let of = |c: usize| offset + o + at + c as isize * p.columns.stride;
                            want.extend(
                                (c..c + panel).map(|c| if c < columns.extent { of(c) as i32 } else { 0 }),
                            );
                        }
                    }
                }
                assert_eq!(got, want, "{p:?}");
            }
        }
    }

    #[test]
    fn an_array_without_elements_is_packed() {
        let p = Packing { offset: 0, outer: vec![], columns: span(3, 2), panel: 2, terms: vec![span(0, 1)] };
        assert!(p.pack(&numbers(0)).unwrap().is_empty());
    }

    #[test]
    fn arrays_that_are_too_small_are_refused() {
        let p = Packing { offset: 0, outer: vec![], columns: span(3, 2), panel: 2, terms: vec![span(3, 1)] };
        assert!(p.pack(&numbers(6)).is_err());
        assert!(Packing { offset: -1, ..p }.pack(&numbers(60)).is_err());
    }
}
