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
use std::sync::Mutex;

/// Terms of a panel that are copied together where its columns lie apart in the array: their rows stay in the cache.
const TERMS: usize = 16;
/// Where packed arrays begin, in bytes: at vectors.
const ALIGNMENT: usize = 64;

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

    /// Writes the packed array of `t` into zeros.
    ///
    /// # Errors
    /// `t` is not an array that this is a layout of.
    fn pack(&self, t: &Tensor, to: &mut [u8]) -> Result<()> {
        self.check(t)?;
        match t.dtype().size() {
            1 => self.copy::<1>(t.bytes(), to),
            2 => self.copy::<2>(t.bytes(), to),
            4 => self.copy::<4>(t.bytes(), to),
            8 => self.copy::<8>(t.bytes(), to),
            n => bail!("elements of {n} bytes can't be packed"),
        }
        Ok(())
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

    fn copy<const N: usize>(&self, from: &[u8], to: &mut [u8]) {
        let ((from, _), (to, _)) = (from.as_chunks::<N>(), to.as_chunks_mut::<N>());
        let terms = positions(&self.terms);
        let size = (terms.len() * self.panel).max(1);
        let outer = positions(&self.outer);
        for (k, panel) in to.chunks_exact_mut(size).enumerate() {
            let (outside, first) = (outer[k / self.n_panels()], k % self.n_panels() * self.panel);
            let begin = self.offset + outside + first as isize * self.columns.stride;
            self.copy_panel(from, begin, self.panel.min(self.columns.extent - first), &terms, panel);
        }
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

/// Zeros; many begin at a page, and lie in huge ones if there are such.
fn zeros(len: usize) -> Result<MmapMut> {
    let short = |e: std::io::Error| Error::new(format!("no memory for {len} bytes of packed weights: {e}"));
    let bytes = MmapMut::map_anon(len.max(1)).map_err(short)?;
    // A kernel without huge pages has others.
    let _ = bytes.advise(memmap2::Advice::HugePage);
    Ok(bytes)
}

/// Packs arrays, on all cores, into one block of memory.
///
/// # Errors
/// An array is not one that its packing is a layout of, or memory is short.
pub fn pack_all(jobs: &[(Tensor, Packing)]) -> Result<Vec<Tensor>> {
    let sizes: Vec<usize> =
        jobs.iter().map(|(t, p)| Ok(p.numel()? * t.dtype().size())).collect::<Result<_>>()?;
    let places: Vec<usize> = sizes.iter().map(|n| n.next_multiple_of(ALIGNMENT)).collect();
    let mut block = zeros(places.iter().sum())?;
    let mut rest = &mut block[..];
    let mut parts = Vec::new();
    for ((job, size), place) in jobs.iter().zip(&sizes).zip(&places) {
        let (part, after) = std::mem::take(&mut rest).split_at_mut(*place);
        parts.push((job, &mut part[..*size]));
        rest = after;
    }
    in_parallel(parts, |((t, packing), to)| packing.pack(t, to))?;
    let block = Bytes::from_owner(block);
    let mut begin = 0;
    let tensors = jobs.iter().zip(sizes.iter().zip(&places)).map(|((t, packing), (size, place))| {
        let bytes = block.slice(begin..begin + size);
        begin += place;
        Tensor::new(t.dtype(), vec![packing.numel()?], bytes)
    });
    tensors.collect()
}

/// Does jobs on all cores; gives an error if there was one.
fn in_parallel<T: Send>(jobs: Vec<T>, f: impl Fn(T) -> Result<()> + Sync) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let n_threads = cores.min(jobs.len());
    let jobs = Mutex::new(jobs.into_iter());
    let next = || jobs.lock().unwrap_or_else(|e| e.into_inner()).next();
    let work = || std::iter::from_fn(next).try_for_each(&f);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..n_threads).map(|_| scope.spawn(work)).collect();
        let mine = work();
        let joined = others.into_iter().map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        joined.fold(mine, |all, one| all.and(one))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(extent: usize, stride: isize) -> Span {
        Span { extent, stride }
    }

    fn packed(p: &Packing, t: &Tensor) -> Result<Tensor> {
        Ok(pack_all(&[(t.clone(), p.clone())])?.remove(0))
    }

    fn numbers(n: usize) -> Tensor {
        Tensor::from_vec(vec![n], &(0..n as i32).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_transposed_matrix_in_panels() {
        // [3][2], read as 2 terms of 3 columns.
        let p = Packing { offset: 0, outer: vec![], columns: span(3, 2), panel: 2, terms: vec![span(2, 1)] };
        assert_eq!(packed(&p, &numbers(6)).unwrap().to_vec::<i32>().unwrap(), [0, 2, 1, 3, 4, 0, 5, 0]);
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
                let got = packed(&p, &t).unwrap().to_vec::<i32>().unwrap();
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
        assert!(packed(&p, &numbers(0)).unwrap().is_empty());
    }

    #[test]
    fn arrays_packed_together_keep_apart() {
        let p = |n: usize| Packing { offset: 0, outer: vec![], columns: span(n, 1), panel: 4, terms: vec![] };
        let jobs: Vec<_> = [0, 3, 40, 1].into_iter().map(|n| (numbers(n), p(n))).collect();
        let all = pack_all(&jobs).unwrap();
        for ((t, _), packed) in jobs.iter().zip(&all) {
            let (want, got) = (t.to_vec::<i32>().unwrap(), packed.to_vec::<i32>().unwrap());
            assert_eq!(got[..want.len()], want);
            assert!(got[want.len()..].iter().all(|x| *x == 0));
            assert!((packed.bytes().as_ptr() as usize).is_multiple_of(ALIGNMENT) || got.is_empty());
        }
        assert!(pack_all(&[]).unwrap().is_empty());
    }

    #[test]
    fn arrays_that_are_too_small_are_refused() {
        let p = Packing { offset: 0, outer: vec![], columns: span(3, 2), panel: 2, terms: vec![span(3, 1)] };
        assert!(packed(&p, &numbers(6)).is_err());
        assert!(packed(&Packing { offset: -1, ..p }, &numbers(60)).is_err());
    }
}
