//! Products of warp groups, which go on beside what follows: their groups, and the accumulators that are waited for.

use super::Emitter;
use super::build::{Build, Matrices};
use super::gpu::steps;
use super::memory::Memory;
use aic_ir::bail;
use aic_ir::dim::{Dim, Sym};
use aic_ir::error::Result;
use aic_ir::kernel::{Mma, Operand, Scope, Steps, Stmt, Tile};
use aic_ir::target::MatrixUnit;

/// Rows of a matrix in shared memory, and bytes of each.
const ROWS: u32 = 8;
const ROW_BYTES: i64 = 16;
/// Bytes of a row that is swizzled.
const LINE_BYTES: i64 = 128;

/// What is known of a kernel's asynchronous products.
pub(super) struct Products<A> {
    /// The names of their groups.
    tokens: Vec<Sym>,
    /// The accumulators of those begun so far, by buffer and place, and how many registers each has.
    accumulators: Vec<(Sym, Dim, A, u32)>,
    /// Whether some have begun since the last group was closed.
    is_open: bool,
}

impl<A> Products<A> {
    pub fn new(body: &[Stmt]) -> Products<A> {
        let mut tokens = Vec::new();
        find(body, &mut tokens);
        Products { tokens, accumulators: Vec::new(), is_open: false }
    }
}

/// The names of the groups of asynchronous products.
fn find(body: &[Stmt], tokens: &mut Vec<Sym>) {
    for s in body {
        match s {
            Stmt::Mma(m) => tokens.extend(m.token.clone()),
            Stmt::For { body, .. } | Stmt::While { body, .. } => find(body, tokens),
            Stmt::If { then, other, .. } => [then, other].into_iter().for_each(|b| find(b, tokens)),
            _ => {}
        }
    }
}

impl<B: Build> Emitter<B> {
    pub(super) fn mma_async(&mut self, m: &Mma, unit: &MatrixUnit) -> Result<()> {
        let c = self.memory(&m.c.buffer)?;
        let (first, c) = (self.fold(&m.c.first), self.element(c, &m.c.first)?);
        let n_registers = unit.elements(Operand::C.extent(m.extent));
        let is_same = |(buffer, at, ..): &(Sym, Dim, B::Address, u32)| *buffer == m.c.buffer && *at == first;
        if !self.products.accumulators.iter().any(is_same) {
            self.products.accumulators.push((m.c.buffer.clone(), first, c, n_registers));
        }
        let factors = [self.matrices(&m.a, Operand::A)?, self.matrices(&m.b, Operand::B)?];
        if !std::mem::replace(&mut self.products.is_open, true) {
            self.b.begin_products()?;
        }
        self.b.mma_async(unit, m.extent, c, factors)
    }

    /// A factor as matrices of eight rows of 16 bytes.
    fn matrices(&mut self, tile: &Tile, operand: Operand) -> Result<Matrices<B::Address>> {
        let memory = self.memory(&tile.buffer)?;
        let size = memory.dtype.size() as i64;
        let [rows, columns] = steps(tile)?;
        let (own, along) = if operand == Operand::A { (rows, columns) } else { (columns, rows) };
        let chunk = ROW_BYTES / size;
        let is_transposed = own.step.is(1);
        let (row, column) = if is_transposed { (along, own) } else { (own, along) };
        let next = |s: &Steps, step: i64, block: i64| match &s.block {
            Some((n, outer)) if s.step.is(step) && i64::from(*n) == block => outer.as_const(),
            _ => None,
        };
        if memory.scope == Scope::Swizzled {
            return self.spans(tile, memory, [row, column], is_transposed);
        }
        let (row, column) = (next(row, chunk, ROWS.into()), next(column, 1, chunk));
        let (Some(row), Some(column), true) = (row, column, tile.first.is_multiple(chunk)) else {
            bail!("{tile} is not in matrices of {ROWS} rows of {ROW_BYTES} bytes")
        };
        let steps = if is_transposed { [row, column] } else { [column, row] };
        let first = self.element(memory, &tile.first)?;
        let steps = steps.map(|n| (n * size) as u32);
        Ok(Matrices { first, steps, is_swizzled: false, is_transposed })
    }

    /// A factor in swizzled rows of 128 bytes, one after the other; where they are along the other axis than the contracted
    /// one, possibly in several columns of them.
    fn spans(
        &mut self,
        tile: &Tile,
        memory: Memory<B::Buffer>,
        [row, column]: [&Steps; 2],
        is_transposed: bool,
    ) -> Result<Matrices<B::Address>> {
        let size = memory.dtype.size() as i64;
        let line = LINE_BYTES / size;
        let next = match &column.block {
            None => Some(ROW_BYTES / size),
            Some((n, outer)) => outer.as_const().filter(|_| is_transposed && i64::from(*n) == line),
        };
        let multiple = if is_transposed { i64::from(ROWS) * line } else { ROW_BYTES / size };
        let is_there = *row == Steps::by(line) && column.step.is(1) && tile.first.is_multiple(multiple);
        let Some(next) = next.filter(|_| is_there) else {
            bail!("{tile} is not in rows of {LINE_BYTES} bytes")
        };
        let first = self.element(memory, &tile.first)?;
        let steps = [(next * size) as u32, ROWS * LINE_BYTES as u32];
        Ok(Matrices { first, steps, is_swizzled: true, is_transposed })
    }

    pub(super) fn commit(&mut self, token: &Sym) -> Result<()> {
        if !self.products.tokens.contains(token) {
            return self.b.commit();
        }
        self.products.is_open = false;
        self.b.commit_products()
    }

    pub(super) fn wait(&mut self, token: &Sym, pending: u32) -> Result<()> {
        if self.products.tokens.contains(token) {
            let accumulators = self.products.accumulators.iter().map(|(_, _, at, n)| (*at, *n));
            let accumulators: Vec<(B::Address, u32)> = accumulators.collect();
            return self.b.wait_products(pending, &accumulators);
        }
        self.b.wait(pending)?;
        if self.products.tokens.is_empty() { Ok(()) } else { self.b.publish() }
    }
}
