//! Which register buffers can be variables: Cranelift keeps values in registers, but doesn't find those in memory that
//! could be.
//!
//! A buffer all of whose indices are constant once loops are unrolled becomes a variable per element, or, if vectors
//! are stored in it, per part of a vector. Others are on the stack.

use super::code::Code;
use super::parts::{PART, part_count};
use crate::emit::build::{Build, MAX_STEP, Place, PlaceOf, V};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Expr, Kernel, LoopKind, Scope, Stmt, VType};
use cranelift_codegen::ir::InstBuilder;
use cranelift_frontend::Variable;
use std::collections::{HashMap, HashSet};

/// What a kernel's accesses to a buffer have in common.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Use {
    /// Some index isn't a constant.
    pub computed: bool,
    /// Some access is of a vector.
    pub vectors: bool,
}

/// The uses of the buffers that a kernel wants in registers.
pub(super) fn uses(kernel: &Kernel) -> HashMap<Sym, Use> {
    let mut walk = Walk { uses: HashMap::new(), unrolled: HashSet::new() };
    walk.block(&kernel.body);
    walk.uses
}

struct Walk {
    uses: HashMap<Sym, Use>,
    /// Variables of the unrolled loops around.
    unrolled: HashSet<Sym>,
}

impl Walk {
    fn block(&mut self, body: &[Stmt]) {
        body.iter().for_each(|s| self.stmt(s));
    }

    fn stmt(&mut self, s: &Stmt) {
        match s {
            Stmt::For { var, kind, body, .. } => {
                let unrolled = *kind == LoopKind::Unroll && self.unrolled.insert(var.clone());
                self.block(body);
                if unrolled {
                    self.unrolled.remove(var);
                }
            }
            Stmt::If { cond, then, other } => {
                self.expr(cond);
                self.block(then);
                self.block(other);
            }
            Stmt::While { cond, body } => {
                self.expr(cond);
                self.block(body);
            }
            Stmt::Let { value, .. } => self.expr(value),
            Stmt::Store { buffer, index, value, mask } => {
                self.access(buffer, index);
                self.expr(value);
                mask.iter().for_each(|m| self.expr(m));
            }
            Stmt::Alloc(b) if b.scope == Scope::Register => {
                self.uses.entry(b.name.clone()).or_default();
            }
            Stmt::Call { args, .. } => args.iter().for_each(|a| self.address_taken(a)),
            Stmt::Copy(c) => [&c.dst.buffer, &c.src.buffer].into_iter().for_each(|b| self.computed(b)),
            _ => {}
        }
    }

    fn expr(&mut self, e: &Expr) {
        match e {
            Expr::Const(..) | Expr::Index(_) | Expr::Ramp { .. } | Expr::Var(..) => {}
            Expr::Broadcast(e, _) | Expr::Cast(_, e) | Expr::Horizontal(_, e) => self.expr(e),
            Expr::Load { buffer, index, mask } => {
                self.access(buffer, index);
                mask.iter().for_each(|m| self.expr(m));
            }
            Expr::Call(_, args) => args.iter().for_each(|a| self.expr(a)),
        }
    }

    /// An argument of an intrinsic that takes an address.
    fn address_taken(&mut self, e: &Expr) {
        if let Expr::Load { buffer, .. } = e {
            self.computed(buffer);
        }
        self.expr(e);
    }

    fn computed(&mut self, buffer: &Sym) {
        if let Some(u) = self.uses.get_mut(buffer) {
            u.computed = true;
        }
    }

    fn access(&mut self, buffer: &Sym, index: &Expr) {
        self.expr(index);
        let constant = |d: &Dim| d.symbols().iter().all(|s| self.unrolled.contains(s));
        let near = |stride: &Dim| stride.as_const().is_some_and(|s| s.saturating_abs() <= MAX_STEP);
        let ramp = index.as_ramp().filter(|(base, stride, _)| constant(base) && near(stride));
        if let Some(u) = self.uses.get_mut(buffer) {
            u.computed |= ramp.is_none();
            u.vectors |= ramp.is_some_and(|(_, _, lanes)| lanes > 1);
        }
    }
}

impl Code<'_, '_> {
    /// Elements of a buffer in registers.
    pub fn load_registers(
        &mut self,
        dtype: DType,
        at: (usize, i64),
        place: PlaceOf<Self>,
        mask: Option<V<Self>>,
    ) -> Result<V<Self>> {
        let v = match self.whole_parts(dtype, at, place)? {
            Some(variables) => {
                let parts = variables.into_iter().map(|v| self.f.use_var(v)).collect();
                self.loaded(parts, VType { dtype, lanes: place.lanes() })
            }
            None => {
                let mut lanes = Vec::new();
                for lane in 0..place.lanes() {
                    let (variable, part_lane) = self.element(at, place, lane)?;
                    let mut x = self.f.use_var(variable);
                    if self.f.func.dfg.value_type(x).is_vector() {
                        x = self.f.ins().extractlane(x, part_lane);
                    }
                    lanes.push(self.loaded_scalar(x, dtype));
                }
                self.join(&lanes)?
            }
        };
        mask.map_or(Ok(v), |m| self.or_zero(m, v))
    }

    /// Sets elements of a buffer in registers.
    pub fn store_registers(
        &mut self,
        v: V<Self>,
        at: (usize, i64),
        place: PlaceOf<Self>,
        mask: Option<V<Self>>,
    ) -> Result<()> {
        let v = match mask {
            Some(mask) => {
                let old = self.load_registers(v.ty.dtype, at, place, None)?;
                self.select(mask, v, old)?
            }
            None => v,
        };
        let full = PART / v.ty.dtype.size() as u32;
        if let (Some(variables), true) =
            (self.whole_parts(v.ty.dtype, at, place)?, v.ty.lanes.is_multiple_of(full))
        {
            let parts = self.stored(v)?;
            variables.into_iter().zip(parts).for_each(|(variable, part)| self.f.def_var(variable, part));
            return Ok(());
        }
        for lane in 0..v.ty.lanes {
            let x = self.extract(v, lane)?;
            let mut x = self.one(x);
            let (variable, part_lane) = self.element(at, place, lane)?;
            let old = self.f.use_var(variable);
            if self.f.func.dfg.value_type(old).is_vector() {
                x = self.f.ins().insertlane(old, x, part_lane);
            }
            self.f.def_var(variable, x);
        }
        Ok(())
    }

    /// The variables of an access that takes whole ones, but for the spare lanes of the last.
    fn whole_parts(
        &self,
        dtype: DType,
        (buffer, index): (usize, i64),
        place: PlaceOf<Self>,
    ) -> Result<Option<Vec<Variable>>> {
        let lane = dtype.size() as u32;
        let per = i64::from(PART / lane);
        let Place::Consecutive(_, lanes) = place else { return Ok(None) };
        if index.rem_euclid(per) != 0 {
            return Ok(None);
        }
        let first = index / per;
        (first..first + part_count(lanes, lane) as i64)
            .map(|i| self.variable(buffer, i))
            .collect::<Result<_>>()
            .map(Some)
    }

    /// The variable of an access's lane, and the lane in it if it is a vector.
    fn element(
        &mut self,
        (buffer, index): (usize, i64),
        place: PlaceOf<Self>,
        lane: u32,
    ) -> Result<(Variable, u8)> {
        let lane = i64::from(lane);
        let at = index
            + match place {
                Place::Reversed(_, n) => i64::from(n) - 1 - lane,
                Place::Spread(_, _, step) => step * lane,
                Place::Consecutive(..) => lane,
                Place::One(_) | Place::Same(..) | Place::Any(..) => 0,
            };
        let first = self.variable(buffer, 0)?;
        let probe = self.f.use_var(first);
        let per = i64::from(self.f.func.dfg.value_type(probe).lane_count());
        Ok((self.variable(buffer, at.div_euclid(per))?, at.rem_euclid(per) as u8))
    }

    fn variable(&self, buffer: usize, i: i64) -> Result<Variable> {
        let found = usize::try_from(i).ok().and_then(|i| self.registers[buffer].get(i));
        found.copied().ok_or_else(|| super::failed("an index is outside of its registers"))
    }
}
