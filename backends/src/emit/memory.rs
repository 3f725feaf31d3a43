//! Loads, stores and copies: which elements an access takes.
//!
//! Consecutive lanes are one vector access; equal ones a scalar access; lanes a constant apart are told apart, for
//! builders that load what lies between or know each address; anything else is an index per lane. An address is a sum of what the
//! loops around add, and a constant, so that unrolled copies share the sum.

use super::build::{Build, MAX_STEP, Place, PlaceOf, V};
use super::{Emitter, name};
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::kernel::{Copy as Rows, Expr, Layout, Scope, Steps, Tile, VType};
use aic_ir::scalar::Scalar;
use aic_ir::{bail, ensure};

/// A buffer.
#[derive(Clone, Copy)]
pub(super) struct Memory<M> {
    pub buffer: M,
    pub dtype: DType,
    pub writable: bool,
    pub scope: Scope,
}

impl<B: Build> Emitter<B> {
    pub(super) fn load(&mut self, buffer: &Sym, index: &Expr, mask: Option<&Expr>) -> Result<V<B>> {
        let m = self.memory(buffer)?;
        let place = self.place(m, index)?;
        let mask = mask.map(|e| self.mask(e, place.lanes())).transpose()?;
        self.b.load(m.dtype, place, mask)
    }

    pub(super) fn store(
        &mut self,
        buffer: &Sym,
        index: &Expr,
        value: &Expr,
        mask: Option<&Expr>,
    ) -> Result<()> {
        let m = self.memory(buffer)?;
        ensure!(m.writable, "buffer {buffer} is written, but its parameter is read only");
        let v = self.expr(value)?;
        let place = self.place(m, index)?;
        ensure!(
            v.ty == VType { dtype: m.dtype, lanes: place.lanes() },
            "{} is stored to {} lanes of buffer {buffer} of {}",
            name(v.ty),
            place.lanes(),
            m.dtype
        );
        let mask = mask.map(|e| self.mask(e, v.ty.lanes)).transpose()?;
        self.b.store(v, place, mask)
    }

    pub(super) fn memory(&self, buffer: &Sym) -> Result<Memory<B::Buffer>> {
        let found = self.buffers.get(buffer).copied();
        found.ok_or_else(|| Error::new(format!("buffer {buffer} is not declared")))
    }

    fn mask(&mut self, e: &Expr, lanes: u32) -> Result<V<B>> {
        let v = self.expr(e)?;
        ensure!(v.ty == VType { dtype: DType::Bool, lanes }, "the mask of {lanes} lanes is {}", name(v.ty));
        Ok(v)
    }

    /// The address of one element.
    pub(super) fn element(&mut self, m: Memory<B::Buffer>, index: &Dim) -> Result<B::Address> {
        let index = self.fold(index);
        let terms = self.terms(&index)?;
        self.b.address(m.buffer, m.dtype, &terms, index.constant(), index.divisor())
    }

    fn place(&mut self, m: Memory<B::Buffer>, index: &Expr) -> Result<PlaceOf<B>> {
        let Some((base, stride, lanes)) = index.as_ramp() else {
            let i = self.expr(index)?;
            ensure!(i.ty.dtype == DType::I64, "an index is {}, not i64", name(i.ty));
            if i.ty.lanes == 1 {
                return Ok(Place::One(self.b.address(m.buffer, m.dtype, &[i], 0, 1)?));
            }
            let at = self.b.address(m.buffer, m.dtype, &[], 0, 0)?;
            return Ok(Place::Any(at, i.raw, i.ty.lanes));
        };
        check_lanes(lanes)?;
        let stride = self.fold(&stride);
        if lanes > 1 && stride.is(-1) {
            let last = base + Dim::from(1 - i64::from(lanes));
            return Ok(Place::Reversed(self.element(m, &last)?, lanes));
        }
        let at = self.element(m, &base)?;
        Ok(match stride.as_const() {
            _ if lanes == 1 => Place::One(at),
            Some(0) => Place::Same(at, lanes),
            Some(1) => Place::Consecutive(at, lanes),
            Some(step) if step.saturating_abs() <= MAX_STEP => Place::Spread(at, lanes, step),
            _ => Place::Any(at, self.ramp(&0.into(), &stride, lanes)?.raw, lanes),
        })
    }

    /// Asks for the cache line of the element that a scalar load names, without reading it. A second argument 0 to 3
    /// says for how long it is wanted (3: in all caches).
    pub(super) fn prefetch(&mut self, args: &[Expr]) -> Result<()> {
        let (Some(Expr::Load { buffer, index, mask: None }), rest) = (args.first(), args.get(1)) else {
            bail!("`prefetch` takes an unmasked load");
        };
        let locality = match rest {
            None => 3,
            Some(Expr::Index(d)) if (0..4).contains(&d.as_const().unwrap_or(-1)) => d.constant(),
            Some(Expr::Const(DType::I64, Scalar::I(n @ 0..4))) => *n,
            Some(_) => bail!("the second argument of `prefetch` must be 0, 1, 2 or 3"),
        };
        let m = self.memory(buffer)?;
        match self.place(m, index)? {
            Place::Any(..) => bail!("`prefetch` takes a load of one address"),
            place => self.b.prefetch(place.base(), locality as u8),
        }
    }

    /// A synchronous copy: a block of memory per row, or rows that become columns.
    pub(super) fn copy(&mut self, c: &Rows) -> Result<()> {
        let (dst, src) = (self.memory(&c.dst.buffer)?, self.memory(&c.src.buffer)?);
        ensure!(dst.writable, "buffer {} is written, but its parameter is read only", c.dst.buffer);
        ensure!(
            dst.dtype == src.dtype,
            "{} of {} is copied to {} of {}",
            c.src.buffer,
            src.dtype,
            c.dst.buffer,
            dst.dtype
        );
        ensure!(c.valid.is_none(), "the target has no copies of parts of tiles");
        if let Some(step) = transposed_step(c) {
            return self.transpose(c, (dst, src), step);
        }
        let [count, columns] = &c.extent;
        let (dst_step, src_step) = (row_step(&c.dst)?, row_step(&c.src)?);
        let bytes = self.dim(&(columns.clone() * Dim::from(dst.dtype.size() as i64)))?;
        let copy_row = |e: &mut Self, row: Dim| -> Result<()> {
            let to = e.element(dst, &(c.dst.first.clone() + row.clone() * dst_step.clone()))?;
            let from = e.element(src, &(c.src.first.clone() + row * src_step.clone()))?;
            e.b.copy(dst.dtype, to, from, bytes)
        };
        if self.fold(count).is(1) {
            return copy_row(self, 0.into());
        }
        let (zero, count) = (self.b.i64(0)?, self.dim(count)?);
        let row = Sym::new(".row");
        self.count_loop(&row, (zero, count), Range::DIM, false, |e| copy_row(e, Dim::sym(&row)))
    }

    /// Rows that become columns, `step` apart: in registers if there are as many, a power of two, of each. A round takes
    /// the rows of both halves in turn, which moves the first bit of a row's number behind those of the column's; after
    /// all rounds the two have changed places.
    fn transpose(
        &mut self,
        c: &Rows,
        (dst, src): (Memory<B::Buffer>, Memory<B::Buffer>),
        step: &Dim,
    ) -> Result<()> {
        let row = row_step(&c.dst)?.clone();
        let (Some(n), Some(columns)) = (c.extent[0].as_const(), c.extent[1].as_const()) else {
            bail!("rows that become columns are of a known number on the target, not those of {}", c.src)
        };
        let is_square = n == columns && (2..=64).contains(&n) && (n & (n - 1)) == 0;
        ensure!(
            is_square,
            "the target transposes tiles of 2, 4, 8, .. rows and columns, not {n} x {columns}"
        );
        let mut rows = Vec::new();
        for k in 0..n {
            let at = self.element(src, &(c.src.first.clone() + step.clone() * k.into()))?;
            rows.push(self.b.load(src.dtype, Place::Consecutive(at, n as u32), None)?);
        }
        for _ in 0..n.trailing_zeros() {
            let (first, second) = rows.split_at(rows.len() / 2);
            let pairs: Vec<_> = first.iter().copied().zip(second.iter().copied()).collect();
            rows.clear();
            for (a, b) in pairs {
                let (low, high) = self.b.interleave(a, b)?;
                rows.extend([low, high]);
            }
        }
        for (k, value) in rows.into_iter().enumerate() {
            let at = self.element(dst, &(c.dst.first.clone() + row.clone() * Dim::from(k)))?;
            self.b.store(value, Place::Consecutive(at, n as u32), None)?;
        }
        Ok(())
    }
}

/// The distance of the columns of a copy's source, if its rows become those of the destination.
fn transposed_step(c: &Rows) -> Option<&Dim> {
    match &c.src.layout {
        Layout::Steps { rows: Steps { step: one, block: None }, columns: Steps { step, block: None } }
            if one.is(1) && !step.is(1) =>
        {
            Some(step)
        }
        _ => None,
    }
}

/// The distance of a tile's rows, whose elements follow one another.
pub(super) fn row_step(tile: &Tile) -> Result<&Dim> {
    match &tile.layout {
        Layout::Steps { rows: Steps { step, block: None }, columns: Steps { step: one, block: None } }
            if one.is(1) =>
        {
            Ok(step)
        }
        _ => bail!("the columns of a copy are consecutive on the target, not those of {tile}"),
    }
}

/// A builder's vectors have at least one lane; thousands of them take LLVM minutes.
pub(super) fn check_lanes(lanes: u32) -> Result<()> {
    ensure!((1..=1024).contains(&lanes), "a vector has {lanes} lanes; 1 to 1024 can be compiled");
    Ok(())
}
