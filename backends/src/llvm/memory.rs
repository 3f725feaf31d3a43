//! Loads, stores and copies.
//!
//! Consecutive lanes are one vector access; equal ones a scalar access; loads of every second to fourth element are
//! vector loads and shuffles; anything else is a gather or scatter. Addresses
//! are built as `base + variable part`, then `+ constant`, so that unrolled copies share the first sum. Nothing but
//! the element's own alignment is assumed.

use super::build::{Build, Raw, internal};
use super::emit::{Emitter, Value, name};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Copy, Expr, Layout, Steps, Tile, VType};
use aic_ir::scalar::Scalar;
use aic_ir::{bail, ensure};
use inkwell::IntPredicate;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{FastMathFlags, InstructionOpcode, PointerValue};

/// A buffer.
#[derive(Clone, Copy)]
pub(super) struct Memory<'c> {
    pub base: PointerValue<'c>,
    pub dtype: DType,
    pub writable: bool,
}

impl<'c> Memory<'c> {
    fn align(self) -> u32 {
        self.dtype.size() as u32
    }

    fn element(self, b: &Build<'_, 'c>) -> BasicTypeEnum<'c> {
        b.memory_ty(VType::scalar(self.dtype))
    }
}

/// The addresses of an access.
enum Place<'c> {
    /// One element.
    One(PointerValue<'c>),
    /// So many lanes of the same element.
    Same(PointerValue<'c>, u32),
    /// So many consecutive elements.
    Consecutive(PointerValue<'c>, u32),
    /// So many consecutive elements, the last lane first.
    Reversed(PointerValue<'c>, u32),
    /// So many lanes, this constant number of elements apart: few enough to read what lies between.
    Spread(PointerValue<'c>, u32, u32),
    /// An address for each lane.
    Any(Raw<'c>, u32),
}

impl Place<'_> {
    fn lanes(&self) -> u32 {
        match self {
            Place::One(_) => 1,
            Place::Same(_, n) | Place::Consecutive(_, n) | Place::Reversed(_, n) => *n,
            Place::Spread(_, n, _) | Place::Any(_, n) => *n,
        }
    }
}

impl<'c> Emitter<'_, 'c> {
    pub fn load(&mut self, buffer: &Sym, index: &Expr, mask: Option<&Expr>) -> Result<Value<'c>> {
        let m = self.memory(buffer)?;
        let place = self.place(m, index)?;
        let ty = VType { dtype: m.dtype, lanes: place.lanes() };
        let mask = mask.map(|e| self.mask(e, ty.lanes)).transpose()?;
        let raw = match mask {
            None => self.load_all(m, place)?,
            Some(mask) => self.load_masked(m, place, mask)?,
        };
        Ok(Value { raw: self.loaded(m.dtype, raw)?, ty })
    }

    pub fn store(&mut self, buffer: &Sym, index: &Expr, value: &Expr, mask: Option<&Expr>) -> Result<()> {
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
        let raw = self.stored(v)?;
        match mask {
            None => self.store_all(m, place, raw),
            Some(mask) => self.store_masked(m, place, raw, mask),
        }
    }

    fn mask(&mut self, e: &Expr, lanes: u32) -> Result<Raw<'c>> {
        let v = self.expr(e)?;
        ensure!(v.ty == VType { dtype: DType::Bool, lanes }, "the mask of {lanes} lanes is {}", name(v.ty));
        Ok(v.raw)
    }

    /// Booleans are bytes in memory; any but 0 is true.
    fn loaded(&self, dtype: DType, raw: Raw<'c>) -> Result<Raw<'c>> {
        match dtype {
            DType::Bool => self.b.icmp(IntPredicate::NE, raw, self.b.int_like(raw, 0)?),
            _ => Ok(raw),
        }
    }

    fn stored(&self, v: Value<'c>) -> Result<Raw<'c>> {
        self.b.cast(
            match v.ty.dtype {
                DType::Bool => InstructionOpcode::ZExt,
                _ => InstructionOpcode::BitCast,
            },
            v.raw,
            self.b.memory_ty(v.ty),
        )
    }

    /// The address of one element.
    fn element(&mut self, m: Memory<'c>, index: &Dim) -> Result<PointerValue<'c>> {
        let index = self.fold(index);
        let element = m.element(&self.b);
        let mut at = m.base;
        if let Some(variable) = self.terms(&index)? {
            at = self.b.gep(element, at, variable.into()).into_pointer_value();
        }
        if index.constant() != 0 {
            at = self.b.gep(element, at, self.b.i64(index.constant()).into()).into_pointer_value();
        }
        Ok(at)
    }

    fn place(&mut self, m: Memory<'c>, index: &Expr) -> Result<Place<'c>> {
        let element = m.element(&self.b);
        if let Some((base, stride, lanes)) = as_ramp(index) {
            let stride = self.fold(&stride);
            if lanes > 1 && stride.is(-1) {
                let last = base + Dim::from(1 - i64::from(lanes));
                return Ok(Place::Reversed(self.element(m, &last)?, lanes));
            }
            let at = self.element(m, &base)?;
            return Ok(match stride.as_const() {
                _ if lanes == 1 => Place::One(at),
                Some(0) => Place::Same(at, lanes),
                Some(1) => Place::Consecutive(at, lanes),
                Some(step @ 2..=4) => Place::Spread(at, lanes, step as u32),
                _ => {
                    let stride = self.dim(&stride)?.into();
                    self.any(m, at, stride, lanes)?
                }
            });
        }
        let i = self.expr(index)?;
        ensure!(i.ty.dtype == DType::I64, "an index is {}, not i64", name(i.ty));
        let at = self.b.gep(element, m.base, i.raw);
        Ok(match at {
            Raw::PointerValue(p) => Place::One(p),
            vector => Place::Any(vector, i.ty.lanes),
        })
    }

    /// The addresses of lanes `stride` elements apart.
    fn any(&self, m: Memory<'c>, at: PointerValue<'c>, stride: Raw<'c>, lanes: u32) -> Result<Place<'c>> {
        let stride = self.b.splat(stride, lanes)?;
        let steps = self.b.bin(InstructionOpcode::Mul, self.b.iota(64, lanes), stride)?;
        Ok(Place::Any(self.b.gep(m.element(&self.b), at, steps), lanes))
    }

    /// Every `step`-th of consecutive elements: `step` vectors, the last of which ends at the last lane, merged. With a
    /// mask, these vectors have one each.
    fn load_spread(
        &mut self,
        m: Memory<'c>,
        at: PointerValue<'c>,
        (n, step): (u32, u32),
        mask: Option<Raw<'c>>,
    ) -> Result<Raw<'c>> {
        let element = m.element(&self.b);
        let last_begin = step * (n - 1) + 1 - n;
        let mut merged = self.load_part(m, at, (n, step), 0, mask)?;
        for part in 1..step {
            let begin = (part * n).min(last_begin);
            let from = self.b.gep(element, at, self.b.i64(begin.into()).into()).into_pointer_value();
            let next = self.load_part(m, from, (n, step), begin, mask)?;
            // Lane `i` wants element `step * i`: it is in what has been merged, or in the next vector, or comes later.
            let lanes: Vec<u32> = (0..n)
                .map(|i| match step * i {
                    at if at < n && part == 1 => at,
                    at if at < part * n => i,
                    at if at < begin + n => n + at - begin,
                    _ => i,
                })
                .collect();
            merged = self.b.shuffle(merged, next, &lanes)?;
        }
        Ok(merged)
    }

    /// The consecutive elements from number `begin` on; under a mask those of them that lanes want.
    fn load_part(
        &mut self,
        m: Memory<'c>,
        from: PointerValue<'c>,
        (n, step): (u32, u32),
        begin: u32,
        mask: Option<Raw<'c>>,
    ) -> Result<Raw<'c>> {
        let Some(mask) = mask else { return self.load_all(m, Place::Consecutive(from, n)) };
        let none = self.b.splat(self.b.i1(false).into(), n)?;
        let wanted: Vec<u32> = (begin..begin + n)
            .map(|at| if at % step == 0 && at / step < n { at / step } else { n })
            .collect();
        let mask = self.b.shuffle(mask, none, &wanted)?;
        self.load_masked(m, Place::Consecutive(from, n), mask)
    }

    fn load_all(&mut self, m: Memory<'c>, place: Place<'c>) -> Result<Raw<'c>> {
        let element = m.element(&self.b);
        match place {
            Place::One(at) => self.b.load(element, at, m.align()),
            Place::Same(at, n) => {
                let one = self.b.load(element, at, m.align())?;
                self.b.splat(one, n)
            }
            Place::Consecutive(at, n) => self.b.load(self.b.lanes_of(element, n), at, m.align()),
            Place::Reversed(at, n) => {
                let forward = self.b.load(self.b.lanes_of(element, n), at, m.align())?;
                self.b.reverse(forward)
            }
            Place::Spread(at, n, step) => self.load_spread(m, at, (n, step), None),
            Place::Any(_, n) => {
                let all = self.b.splat(self.b.i1(true).into(), n)?;
                self.load_masked(m, place, all)
            }
        }
    }

    fn load_masked(&mut self, m: Memory<'c>, place: Place<'c>, mask: Raw<'c>) -> Result<Raw<'c>> {
        let element = m.element(&self.b);
        let ty = self.b.lanes_of(element, place.lanes());
        let zero = ty.const_zero();
        match place {
            Place::One(at) => self.load_if(element, at, mask, m.align()),
            Place::Same(at, n) => {
                let any = self.reduce("llvm.vector.reduce.or", mask, FastMathFlags::empty())?;
                let one = self.load_if(element, at, any, m.align())?;
                let all = self.b.splat(one, n)?;
                self.b.select(mask, all, zero)
            }
            Place::Reversed(at, n) => {
                let mask = self.b.reverse(mask)?;
                let forward = self.load_masked(m, Place::Consecutive(at, n), mask)?;
                self.b.reverse(forward)
            }
            Place::Spread(at, n, step) => self.load_spread(m, at, (n, step), Some(mask)),
            Place::Consecutive(at, _) => {
                let overloads = [ty, at.get_type().into()];
                let args = [at.into(), mask, zero];
                let v = self.b.aligned_intrinsic("llvm.masked.load", &overloads, &args, 0, m.align())?;
                v.ok_or_else(|| internal("a load has no result"))
            }
            Place::Any(at, _) => {
                let overloads = [ty, at.get_type()];
                let args = [at, mask, zero];
                let v = self.b.aligned_intrinsic("llvm.masked.gather", &overloads, &args, 0, m.align())?;
                v.ok_or_else(|| internal("a load has no result"))
            }
        }
    }

    /// One element if the condition holds, else zero.
    fn load_if(
        &mut self,
        ty: BasicTypeEnum<'c>,
        at: PointerValue<'c>,
        cond: Raw<'c>,
        align: u32,
    ) -> Result<Raw<'c>> {
        let (before, then, end) = (self.b.here()?, self.append("load"), self.append("loaded"));
        self.b.branch(cond.into_int_value(), then, end)?;
        self.b.builder.position_at_end(then);
        let value = self.b.load(ty, at, align)?;
        self.b.jump(end)?;
        self.b.builder.position_at_end(end);
        let phi = self.b.phi(ty)?;
        phi.add_incoming(&[(&ty.const_zero(), before), (&value, then)]);
        Ok(phi.as_basic_value())
    }

    fn store_all(&mut self, m: Memory<'c>, place: Place<'c>, raw: Raw<'c>) -> Result<()> {
        match place {
            Place::One(at) | Place::Consecutive(at, _) => self.b.store(at, raw, m.align()),
            // The last lane is written last.
            Place::Same(at, n) => {
                let last = self.b.extract(raw, n - 1)?;
                self.b.store(at, last, m.align())
            }
            Place::Reversed(at, _) => {
                let reversed = self.b.reverse(raw)?;
                self.b.store(at, reversed, m.align())
            }
            Place::Spread(_, n, _) | Place::Any(_, n) => {
                let all = self.b.splat(self.b.i1(true).into(), n)?;
                self.store_masked(m, place, raw, all)
            }
        }
    }

    fn store_masked(&mut self, m: Memory<'c>, place: Place<'c>, raw: Raw<'c>, mask: Raw<'c>) -> Result<()> {
        match place {
            Place::One(at) => {
                let (then, end) = (self.append("store"), self.append("stored"));
                self.b.branch(mask.into_int_value(), then, end)?;
                self.b.builder.position_at_end(then);
                self.b.store(at, raw, m.align())?;
                self.b.jump(end)?;
                self.b.builder.position_at_end(end);
                Ok(())
            }
            Place::Reversed(at, n) => {
                let (raw, mask) = (self.b.reverse(raw)?, self.b.reverse(mask)?);
                self.store_masked(m, Place::Consecutive(at, n), raw, mask)
            }
            Place::Spread(at, n, step) => {
                let place = self.any(m, at, self.b.i64(step.into()).into(), n)?;
                self.store_masked(m, place, raw, mask)
            }
            Place::Consecutive(at, _) => {
                let overloads = [raw.get_type(), at.get_type().into()];
                let args = [raw, at.into(), mask];
                self.b.aligned_intrinsic("llvm.masked.store", &overloads, &args, 1, m.align()).map(drop)
            }
            Place::Same(at, n) => {
                let zeros = self.b.splat(self.b.i64(0).into(), n)?;
                let at = self.b.gep(m.element(&self.b), at, zeros);
                self.store_masked(m, Place::Any(at, n), raw, mask)
            }
            Place::Any(at, _) => {
                let overloads = [raw.get_type(), at.get_type()];
                let args = [raw, at, mask];
                self.b.aligned_intrinsic("llvm.masked.scatter", &overloads, &args, 1, m.align()).map(drop)
            }
        }
    }

    /// Asks for the cache line of the element that a scalar load names, without reading it. A second argument 0 to 3
    /// says for how long it is wanted (3: in all caches).
    pub fn prefetch(&mut self, args: &[Expr]) -> Result<()> {
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
        let at = match self.place(m, index)? {
            Place::One(at) | Place::Same(at, _) | Place::Consecutive(at, _) => at,
            Place::Reversed(at, _) | Place::Spread(at, ..) => at,
            Place::Any(..) => bail!("`prefetch` takes a load of one address"),
        };
        let args =
            [at.into(), self.b.i32(0).into(), self.b.i32(locality as i32).into(), self.b.i32(1).into()];
        self.b.intrinsic_void("llvm.prefetch", &[at.get_type().into()], &args)
    }

    /// A synchronous copy: a block of memory per row.
    pub fn copy(&mut self, c: &Copy) -> Result<()> {
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
        let [count, columns] = &c.extent;
        let (dst_step, src_step) = (row_step(&c.dst)?, row_step(&c.src)?);
        let bytes = self.dim(&(columns.clone() * Dim::from(dst.dtype.size() as i64)))?;
        let one_row = self.fold(count).is(1);
        let row = Sym::new(".row");
        let copy_row = |e: &mut Self, row: Dim| -> Result<()> {
            let to = e.element(dst, &(c.dst.first.clone() + row.clone() * dst_step.clone()))?;
            let from = e.element(src, &(c.src.first.clone() + row * src_step.clone()))?;
            let align = dst.align();
            e.b.builder.build_memcpy(to, align, from, align, bytes).map_err(internal).map(drop)
        };
        if one_row {
            return copy_row(self, 0.into());
        }
        let (zero, count) = (self.b.i64(0), self.dim(count)?);
        let range = aic_ir::dim::Range::DIM;
        self.count_loop(&row, zero, count, range, false, |e| copy_row(e, Dim::sym(&row)))
    }
}

/// The distance of a tile's rows, whose elements follow one another.
fn row_step(tile: &Tile) -> Result<&Dim> {
    match &tile.layout {
        Layout::Steps { rows: Steps { step, block: None }, columns: Steps { step: one, block: None } }
            if one.is(1) =>
        {
            Ok(step)
        }
        _ => bail!("the columns of a copy are consecutive on the target, not those of {tile}"),
    }
}

/// The expression as `base, base + stride, ..`, if it visibly is.
pub(super) fn as_ramp(e: &Expr) -> Option<(Dim, Dim, u32)> {
    match e {
        Expr::Index(d) => Some((d.clone(), 0.into(), 1)),
        Expr::Ramp { base, stride, lanes } => Some((base.clone(), stride.clone(), *lanes)),
        Expr::Broadcast(e, lanes) => match &**e {
            Expr::Index(d) => Some((d.clone(), 0.into(), *lanes)),
            _ => None,
        },
        _ => None,
    }
}
