//! Statements of GPUs: loops bound to hardware, shuffles, copies of tiles, matrix instructions.
//!
//! A loop that is bound to hardware becomes its body, with the variable the number of the block, warp or thread. Tiles
//! in registers are read and written in the parts that [`MatrixUnit::element`] gives to a thread, or by the instruction
//! that loads a warp's fragment at once where rows lie as it wants them.

use super::Emitter;
use super::build::{Blocks, Build, Place, V};
use super::memory::{Memory, row_step};
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Copy, Expr, Layout, Level, Mma, Operand, Scope, Steps, Stmt, Tile, VType};
use aic_ir::scalar::ScalarFn;
use aic_ir::target::MatrixUnit;
use aic_ir::{bail, ensure};

/// Elements of a tile that one thread copies one by one.
const MAX_ELEMENTS: i64 = 1 << 10;

impl<B: Build> Emitter<B> {
    pub(super) fn bound(
        &mut self,
        var: &Sym,
        begin: &Dim,
        end: &Dim,
        level: Level,
        body: &[Stmt],
    ) -> Result<()> {
        ensure!(begin.is(0), "loop {var} is bound to a {level}, but begins at {begin}");
        let extent = self.fold(end).as_const();
        let value = self.b.level(level, extent)?;
        let range = Range::new(0, self.range(end).hi.saturating_sub(1));
        self.bind_int(var, value, range);
        if matches!(level, Level::Warp | Level::Thread(_)) {
            self.threads.push((var.clone(), level, extent.unwrap_or(1)));
        }
        self.block(body)?;
        self.threads.retain(|(other, ..)| other != var);
        Ok(())
    }

    /// The number of this thread among those of the block.
    fn thread(&self) -> Dim {
        let number = |n: Dim, (var, _, extent): &(Sym, Level, i64)| n * (*extent).into() + Dim::sym(var);
        self.threads.iter().fold(0.into(), number)
    }

    pub(super) fn shuffle(&mut self, var: &Sym, value: &Expr, lane: &Dim) -> Result<()> {
        let (value, lane) = (self.expr(value)?, self.dim(lane)?);
        let taken = self.b.shuffle(value, lane)?;
        self.unrolled.remove(var);
        self.vars.insert(var.clone(), taken);
        self.depths.insert(var.clone(), self.depth);
        if taken.ty == VType::scalar(DType::I64) {
            self.ranges.insert(var.clone(), Range::ALL);
        }
        Ok(())
    }

    pub(super) fn mma(&mut self, m: &Mma) -> Result<()> {
        let Some(unit) = MatrixUnit::named(&m.intrinsic) else { bail!("there is no `{}`", m.intrinsic) };
        ensure!(m.fresh.is_none(), "`{}` adds to what there is", m.intrinsic);
        if m.token.is_some() {
            return self.mma_async(m, unit);
        }
        let mut at = |tile: &Tile| {
            let memory = self.memory(&tile.buffer)?;
            self.element(memory, &tile.first)
        };
        let (c, a, b) = (at(&m.c)?, at(&m.a)?, at(&m.b)?);
        self.b.mma(unit, c, a, b)
    }

    pub(super) fn copy_tile(&mut self, c: &Copy) -> Result<()> {
        match (&c.dst.layout, &c.src.layout) {
            (Layout::Fragment { intrinsic, operand }, Layout::Steps { rows, columns }) => {
                let Some(unit) = MatrixUnit::named(intrinsic) else { bail!("there is no `{intrinsic}`") };
                self.load_fragment(c, unit, *operand, [rows, columns])
            }
            (Layout::Steps { rows, columns }, Layout::Fragment { intrinsic, operand }) => {
                let Some(unit) = MatrixUnit::named(intrinsic) else { bail!("there is no `{intrinsic}`") };
                let (dst, src) = (self.memory(&c.dst.buffer)?, self.memory(&c.src.buffer)?);
                for k in 0..self.n_elements(c, unit)? {
                    let at = self.of_fragment(&c.dst.first, unit, *operand, k, [rows, columns]);
                    let value = self.load_one(src, &(c.src.first.clone() + k.into()))?;
                    self.store_one(dst, &at, value)?;
                }
                Ok(())
            }
            _ if c.token.is_some() => self.copy_async(c),
            _ if self.threads.is_empty() => self.copy(c),
            _ => self.copy_elements(c),
        }
    }

    /// Elements that a thread holds of a fragment.
    fn n_elements(&self, c: &Copy, unit: &MatrixUnit) -> Result<i64> {
        let (Some(rows), Some(columns)) = (c.extent[0].as_const(), c.extent[1].as_const()) else {
            bail!("a fragment has constant extents")
        };
        Ok(rows * columns / i64::from(unit.threads.max(1)))
    }

    /// Where element `k` that this thread holds of a fragment lies in a matrix in memory.
    fn of_fragment(
        &self,
        first: &Dim,
        unit: &MatrixUnit,
        operand: Operand,
        k: i64,
        [rows, columns]: [&Steps; 2],
    ) -> Dim {
        let [row, column] = unit.element(operand, &self.thread(), &k.into());
        first.clone() + rows.at(&row) + columns.at(&column)
    }

    fn load_fragment(
        &mut self,
        c: &Copy,
        unit: &MatrixUnit,
        operand: Operand,
        steps: [&Steps; 2],
    ) -> Result<()> {
        let (dst, src) = (self.memory(&c.dst.buffer)?, self.memory(&c.src.buffer)?);
        if let Some((blocks, row)) = self.blocks(c, src, operand, steps) {
            let (to, row) = (self.element(dst, &c.dst.first)?, self.element(src, &row)?);
            return self.b.load_matrix(to, row, blocks);
        }
        for k in 0..self.n_elements(c, unit)? {
            let at = self.of_fragment(&c.src.first, unit, operand, k, steps);
            let value = self.load_one(src, &at)?;
            self.store_one(dst, &(c.dst.first.clone() + k.into()), value)?;
        }
        Ok(())
    }

    /// The blocks of a factor's fragment in shared memory, and the row that this thread gives the address of: of block
    /// `lane / 8` row `lane mod 8`. Rows are along the contracted axis where blocks are transposed.
    fn blocks(
        &self,
        c: &Copy,
        src: Memory<B::Buffer>,
        operand: Operand,
        [rows, columns]: [&Steps; 2],
    ) -> Option<(Blocks, Dim)> {
        let size = src.dtype.size() as i64;
        let step = |s: &Steps| s.block.is_none().then(|| self.fold(&s.step));
        let (down, across) = (step(rows)?, step(columns)?);
        let (own, along) = match operand {
            Operand::A => (down, across),
            Operand::B => (across, down),
            Operand::C => return None,
        };
        let transposed = !along.is(1);
        let (row, one) = if transposed { (along.clone(), own.clone()) } else { (own.clone(), along.clone()) };
        // Rows of 16 bytes begin at multiples of 16 bytes.
        let per_row = 16 / size;
        let first = self.fold(&c.src.first);
        let fits = one.is(1)
            && src.scope == Scope::Shared
            && (!transposed || size == 2)
            && row.is_multiple(per_row)
            && first.is_multiple(per_row);
        if !fits {
            return None;
        }
        let eight = Dim::from(8);
        let lane = self.thread().modulo(&32.into());
        let (block, in_block) = (lane.floor_div(&eight), lane.modulo(&eight));
        // Blocks of the left factor follow one another down, then along the contracted axis; of the right one along
        // it.
        let (k_block, own_block) = match operand {
            Operand::A => (block.floor_div(&2.into()), block.modulo(&2.into())),
            _ => (block.modulo(&2.into()), 0.into()),
        };
        let (in_own, in_along) = if transposed { (0.into(), in_block) } else { (in_block, Dim::from(0)) };
        let at = first + (own_block * eight + in_own) * own + (k_block * per_row.into() + in_along) * along;
        let count = if operand == Operand::A { 4 } else { 2 };
        Some((Blocks { count, transposed }, at))
    }

    fn copy_async(&mut self, c: &Copy) -> Result<()> {
        let (dst, src) = (self.memory(&c.dst.buffer)?, self.memory(&c.src.buffer)?);
        let (rows, columns) = (self.fold(&c.extent[0]), self.fold(&c.extent[1]));
        let (true, Some(n)) = (rows.is(1), columns.as_const()) else {
            bail!(
                "an asynchronous copy of a thread is of one row of constant length, not {rows} of {columns}"
            )
        };
        row_step(&c.dst)?;
        row_step(&c.src)?;
        let size = dst.dtype.size() as i64;
        let valid = match &c.valid {
            None => None,
            Some([rows, columns]) => Some(self.valid_bytes(rows, columns, size)?),
        };
        let (to, from) = (self.element(dst, &c.dst.first)?, self.element(src, &c.src.first)?);
        self.b.copy_async(to, from, (n * size) as u32, valid)
    }

    /// Bytes that are read of one row: none if there is no row.
    fn valid_bytes(&mut self, rows: &Dim, columns: &Dim, size: i64) -> Result<V<B>> {
        let zero = Dim::from(0);
        let bytes = self.dim(&(columns.maximum(&zero) * size.into()))?;
        if self.range(&self.fold(rows)).lo > 0 {
            return Ok(bytes);
        }
        let any = self.call(ScalarFn::Lt, &[Expr::Index(zero), Expr::Index(rows.clone())])?;
        let none = self.b.i64(0)?;
        self.b.select(any, bytes, none)
    }

    /// A copy by one thread, one element after the other.
    fn copy_elements(&mut self, c: &Copy) -> Result<()> {
        let (dst, src) = (self.memory(&c.dst.buffer)?, self.memory(&c.src.buffer)?);
        let (Some(rows), Some(columns)) =
            (self.fold(&c.extent[0]).as_const(), self.fold(&c.extent[1]).as_const())
        else {
            bail!("a thread copies tiles of constant extents")
        };
        ensure!(rows.saturating_mul(columns) <= MAX_ELEMENTS, "a thread copies {rows} x {columns} elements");
        ensure!(dst.writable && dst.dtype == src.dtype, "`{}` is copied to another type", c.src);
        let (down, across) = (steps(&c.dst)?, steps(&c.src)?);
        for r in 0..rows {
            for k in 0..columns {
                let at = |tile: &Tile, [rows, columns]: [&Steps; 2]| {
                    tile.first.clone() + rows.at(&r.into()) + columns.at(&k.into())
                };
                let mask = match &c.valid {
                    None => None,
                    Some([rows, columns]) => Some(self.is_within([r, k], [rows, columns])?),
                };
                let from = self.element(src, &at(&c.src, across))?;
                let value = self.b.load(src.dtype, Place::One(from), mask)?;
                self.store_one(dst, &at(&c.dst, down), value)?;
            }
        }
        Ok(())
    }

    fn is_within(&mut self, at: [i64; 2], extent: [&Dim; 2]) -> Result<V<B>> {
        let [r, k] = [0, 1]
            .map(|axis| Expr::call(ScalarFn::Lt, [Expr::int(at[axis]), Expr::Index(extent[axis].clone())]));
        self.expr(&Expr::call(ScalarFn::And, [r, k]))
    }

    fn load_one(&mut self, m: Memory<B::Buffer>, at: &Dim) -> Result<V<B>> {
        let place = Place::One(self.element(m, at)?);
        self.b.load(m.dtype, place, None)
    }

    fn store_one(&mut self, m: Memory<B::Buffer>, at: &Dim, value: V<B>) -> Result<()> {
        let place = Place::One(self.element(m, at)?);
        self.b.store(value, place, None)
    }
}

/// The steps of a tile in memory.
pub(super) fn steps(tile: &Tile) -> Result<[&Steps; 2]> {
    match &tile.layout {
        Layout::Steps { rows, columns } => Ok([rows, columns]),
        Layout::Fragment { .. } => bail!("{tile} is in registers"),
    }
}
