//! Tiles: copies, matrix instructions, and the groups of those that are asynchronous.
//!
//! An asynchronous copy reads and writes its elements when its group is waited for, and not before: whoever uses them
//! between the copy and the wait is told so. An asynchronous matrix instruction does its work at once, but its operands
//! are not to be used either until it is waited for.

use super::memory::Verb;
use super::{Machine, Thread, uniform};
use crate::compute::ReduceOp;
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::error::Result;
use crate::kernel::{self, Layout, Mma, Operand, Tile};
use crate::scalar::{Scalar, ScalarFn};
use crate::target::MatrixUnit;
use crate::{bail, ensure};

/// How many elements a tile may have.
const MAX_ELEMENTS: i64 = 1 << 32;

/// A group of asynchronous operations.
#[derive(Clone)]
pub(super) struct Group {
    pub token: Sym,
    /// Whether no more belong to it.
    is_closed: bool,
    operations: Vec<Operation>,
}

/// An asynchronous operation.
#[derive(Clone)]
enum Operation {
    Copy(Transfer),
    /// The elements that a matrix instruction uses: array, element, and how.
    Mma(Vec<(usize, usize, Verb)>),
}

/// An element of a matrix instruction's operand.
#[derive(Clone, Copy, Default)]
struct Element {
    array: usize,
    index: usize,
    /// Which of the threads has it.
    thread: usize,
}

/// A copy with its operands evaluated.
#[derive(Clone)]
pub(super) struct Transfer {
    pub dst: usize,
    pub src: usize,
    /// Elements of both; where there is no source, the element becomes zero.
    pub elements: Vec<(i64, Option<i64>)>,
}

impl Group {
    pub fn arrays(&self) -> impl Iterator<Item = usize> {
        self.operations.iter().flat_map(|o| match o {
            Operation::Copy(t) => vec![t.dst, t.src],
            Operation::Mma(uses) => uses.iter().map(|u| u.0).collect(),
        })
    }

    /// Whether one of the first so many arrays is all that it uses.
    pub fn is_within(&self, n_arrays: usize) -> bool {
        self.arrays().all(|a| a < n_arrays)
    }
}

impl Thread {
    /// The open group of a token.
    fn group(&mut self, token: &Sym) -> &mut Group {
        let open = self.groups.iter().position(|g| g.token == *token && !g.is_closed);
        let k = open.unwrap_or_else(|| {
            self.groups.push(Group { token: token.clone(), is_closed: false, operations: Vec::new() });
            self.groups.len() - 1
        });
        &mut self.groups[k]
    }

    /// Closes the open group of a token, which may be empty.
    pub(super) fn commit(&mut self, token: &Sym) {
        self.group(token).is_closed = true;
    }

    /// Elements of a tile that this thread has, row by row; where it is spread over threads, with `[r, c]` in the
    /// order of the thread's elements.
    pub(super) fn elements(&self, tile: &Tile, [rows, columns]: [i64; 2]) -> Result<Vec<([i64; 2], i64)>> {
        let first = self.dim(&tile.first)?;
        let n_elements = rows.max(0).saturating_mul(columns.max(0));
        ensure!(n_elements <= MAX_ELEMENTS, "a tile of {rows} x {columns} elements");
        if let Layout::Fragment { intrinsic, operand } = &tile.layout {
            let places = fragment(intrinsic, *operand, [rows, columns], self.index)?;
            return Ok(places.into_iter().zip(first..).collect());
        }
        let Layout::Steps { rows: down, columns: across } = &tile.layout else { return Ok(Vec::new()) };
        let steps = |steps: &kernel::Steps, n: i64| -> Result<Vec<i64>> {
            let step = self.dim(&steps.step)?;
            let Some((block, outer)) = &steps.block else {
                return Ok((0..n).map(|k| k.saturating_mul(step)).collect());
            };
            let (block, outer) = (i64::from((*block).max(1)), self.dim(outer)?);
            Ok((0..n)
                .map(|k| (k % block).saturating_mul(step).saturating_add((k / block).saturating_mul(outer)))
                .collect())
        };
        let (down, across) = (steps(down, rows)?, steps(across, columns)?);
        let mut out = Vec::with_capacity(n_elements as usize);
        for (r, y) in down.iter().enumerate() {
            let row = first.saturating_add(*y);
            out.extend(
                across.iter().enumerate().map(|(c, x)| ([r as i64, c as i64], row.saturating_add(*x))),
            );
        }
        Ok(out)
    }
}

/// Rows and columns of the elements of a fragment that a thread holds.
fn fragment(
    intrinsic: &str,
    operand: Operand,
    [rows, columns]: [i64; 2],
    thread: i64,
) -> Result<Vec<[i64; 2]>> {
    let Some(unit) = MatrixUnit::named(intrinsic) else { bail!("there is no matrix intrinsic {intrinsic}") };
    let threads = i64::from(unit.threads);
    let n_elements = rows.saturating_mul(columns);
    let n = n_elements / threads;
    let thread = Dim::from(thread % threads);
    let place = |k: i64| unit.element(operand, &thread, &k.into()).map(|d| d.constant());
    let places: Vec<[i64; 2]> = (0..n).map(place).collect();
    let fits = places.iter().all(|[r, c]| *r < rows && *c < columns);
    ensure!(
        fits && rows > 0 && n * threads == n_elements,
        "a fragment of {intrinsic} has no {rows} x {columns} elements"
    );
    Ok(places)
}

impl Machine {
    pub(super) fn copy(&mut self, c: &kernel::Copy, t: &mut Thread) -> Result<()> {
        let [rows, columns] = [t.dim(&c.extent[0])?, t.dim(&c.extent[1])?];
        let valid = match &c.valid {
            Some([r, c]) => [t.dim(r)?, t.dim(c)?],
            None => [rows, columns],
        };
        ensure!(
            valid[0] <= rows && valid[1] <= columns,
            "{} x {} elements are to be read, more than the {rows} x {columns} to be written",
            valid[0],
            valid[1]
        );
        let extent = [rows, columns];
        let mut transfer =
            Transfer { dst: t.array(&c.dst.buffer)?, src: t.array(&c.src.buffer)?, elements: Vec::new() };
        let is_valid = |[r, c]: [i64; 2]| r < valid[0] && c < valid[1];
        // One of the two may be spread over threads: then only the elements of this one are copied.
        let dst_elements = t.elements(&c.dst, extent)?;
        let src_elements = t.elements(&c.src, extent)?;
        transfer.elements = match (c.dst.is_fragment(), c.src.is_fragment()) {
            (true, false) => {
                let of = |[r, c]: [i64; 2]| src_elements[(r * columns + c) as usize].1;
                dst_elements.iter().map(|(rc, to)| (*to, is_valid(*rc).then(|| of(*rc)))).collect()
            }
            (false, true) => {
                let of = |[r, c]: [i64; 2]| dst_elements[(r * columns + c) as usize].1;
                src_elements.iter().map(|(rc, from)| (of(*rc), is_valid(*rc).then_some(*from))).collect()
            }
            _ => {
                let pairs = dst_elements.iter().zip(&src_elements);
                pairs.map(|((rc, to), (_, from))| (*to, is_valid(*rc).then_some(*from))).collect()
            }
        };
        let Some(token) = &c.token else { return self.transfer(&transfer, t) };
        for (to, from) in &transfer.elements {
            let to = self.check(transfer.dst, *to, Verb::Writes, None, t)?;
            self.depart(transfer.dst, to, Verb::Writes, token);
            if let Some(from) = from {
                let from = self.check(transfer.src, *from, Verb::Reads, None, t)?;
                self.depart(transfer.src, from, Verb::Reads, token);
            }
        }
        t.group(token).operations.push(Operation::Copy(transfer));
        Ok(())
    }

    fn transfer(&mut self, transfer: &Transfer, t: &Thread) -> Result<()> {
        let dtype = self.arrays[transfer.dst].dtype;
        for (to, from) in &transfer.elements {
            let x = match from {
                Some(from) => self.read(transfer.src, *from, t)?.cast(dtype),
                None => Scalar::zero(dtype),
            };
            self.write(transfer.dst, *to, x, t)?;
        }
        Ok(())
    }

    /// Finishes the oldest closed groups of the token until at most `pending` are left.
    pub(super) fn wait(&mut self, token: &Sym, pending: usize, t: &mut Thread) -> Result<()> {
        let is_done = |g: &Group| g.token == *token && g.is_closed;
        let n = t.groups.iter().filter(|g| is_done(g)).count();
        for _ in pending..n {
            let Some(k) = t.groups.iter().position(is_done) else { break };
            let group = t.groups.remove(k);
            for operation in &group.operations {
                self.finish(operation, t)?;
            }
        }
        Ok(())
    }

    fn finish(&mut self, operation: &Operation, t: &Thread) -> Result<()> {
        match operation {
            Operation::Copy(transfer) => {
                for (to, from) in &transfer.elements {
                    self.arrive(transfer.dst, *to as usize, Verb::Writes);
                    if let Some(from) = from {
                        self.arrive(transfer.src, *from as usize, Verb::Reads);
                    }
                }
                self.transfer(transfer, t)
            }
            Operation::Mma(uses) => {
                uses.iter().for_each(|(array, index, verb)| self.arrive(*array, *index, *verb));
                Ok(())
            }
        }
    }

    /// A matrix instruction by the threads that execute it together.
    pub(super) fn mma(&mut self, m: &Mma, threads: &mut [&mut Thread]) -> Result<()> {
        let unit = MatrixUnit::named(&m.intrinsic);
        let expected = unit.map_or(1, |u| u.threads as usize);
        let is_spread = m.operands().iter().any(|(_, tile)| tile.is_fragment());
        ensure!(
            threads.len() == expected || !is_spread,
            "{} is executed by {expected} threads together, not by {}",
            m.intrinsic,
            threads.len()
        );
        let is_fresh = match &m.fresh {
            Some(cond) => uniform(threads, |t| self.cond(cond, t))?,
            None => false,
        };
        let [rows, columns, depth] = m.extent.map(|n| n as usize);
        let c = self.operand(m, Operand::C, threads)?;
        let (a, b) = (self.operand(m, Operand::A, threads)?, self.operand(m, Operand::B, threads)?);
        let dtype = self.arrays[c[0].array].dtype;
        let work = dtype.compute();
        let precision = unit.map_or(u32::MAX, |u| u.precision);
        let factors = |elements: &[Element]| -> Vec<Scalar> {
            elements
                .iter()
                .map(|e| {
                    rounded(self.get(e.array, e.index), self.arrays[e.array].dtype, precision).cast(work)
                })
                .collect()
        };
        let (x, y) = (factors(&a), factors(&b));
        for i in 0..rows {
            for j in 0..columns {
                let Element { array, index, .. } = c[i * columns + j];
                let start = if is_fresh { Scalar::zero(dtype) } else { self.get(array, index) };
                let term = |k: usize| ScalarFn::Mul.eval(work, &[x[i * depth + k], y[k * columns + j]]);
                let sum = ReduceOp::Sum.apply(dtype, std::iter::once(start).chain((0..depth).map(term)));
                self.set(array, index, sum);
            }
        }
        if let Some(token) = &m.token {
            self.fly(token, [(&c, Verb::Writes), (&a, Verb::Reads), (&b, Verb::Reads)], threads);
        }
        Ok(())
    }

    /// The elements of an operand, row by row, checked.
    fn operand(&mut self, m: &Mma, operand: Operand, threads: &mut [&mut Thread]) -> Result<Vec<Element>> {
        let (_, tile) = m.operands()[operand as usize];
        let [rows, columns] = operand.extent(m.extent).map(i64::from);
        let verb = if operand == Operand::C { Verb::Writes } else { Verb::Reads };
        let mut out = vec![Element::default(); (rows * columns) as usize];
        let holders = if tile.is_fragment() { threads.len() } else { 1 };
        if !tile.is_fragment() {
            uniform(threads, |t| Ok((t.array(&tile.buffer)?, t.dim(&tile.first)?)))?;
        }
        for (thread, t) in threads.iter().enumerate().take(holders) {
            let array = t.array(&tile.buffer)?;
            for ([r, c], at) in t.elements(tile, [rows, columns])? {
                if verb == Verb::Writes {
                    self.check(array, at, Verb::Reads, m.token.as_ref(), t)?;
                }
                let index = self.check(array, at, verb, m.token.as_ref(), t)?;
                out[(r * columns + c) as usize] = Element { array, index, thread };
            }
        }
        Ok(out)
    }

    /// Notes what an asynchronous matrix instruction uses until each thread has waited for it.
    fn fly(&mut self, token: &Sym, operands: [(&[Element], Verb); 3], threads: &mut [&mut Thread]) {
        let mut uses = vec![Vec::new(); threads.len()];
        for (elements, verb) in operands {
            for Element { array, index, thread } in elements {
                self.depart(*array, *index, verb, token);
                uses[*thread].push((*array, *index, verb));
            }
        }
        for (t, uses) in threads.iter_mut().zip(uses) {
            t.group(token).operations.push(Operation::Mma(uses));
        }
    }
}

/// A factor with so many significant bits, to the nearest, ties to even.
fn rounded(x: Scalar, dtype: DType, precision: u32) -> Scalar {
    let dropped = 24u32.saturating_sub(precision);
    let value = x.as_f64() as f32;
    if dtype != DType::F32 || dropped == 0 || !value.is_finite() {
        return x;
    }
    let (bits, half) = (value.to_bits(), (1u32 << (dropped - 1)) - 1);
    let up = half + (bits >> dropped & 1);
    Scalar::F(f64::from(f32::from_bits(bits.wrapping_add(up) >> dropped << dropped))).cast(dtype)
}
