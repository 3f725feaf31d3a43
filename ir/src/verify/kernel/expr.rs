//! Expressions: types, and accesses within their buffers.

use super::{Checker, Entity, Ty};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::kernel::{Expr, Scope, VType};
use crate::scalar::ScalarFn;

impl Checker {
    pub(super) fn condition(&mut self, e: &Expr) {
        let expected = VType::scalar(DType::Bool);
        if let Some(found) = self.expr(e) {
            self.check(found == expected, format_args!("a condition is a bool, found {found}"));
        }
    }

    pub(super) fn mask(&mut self, at: Ty, mask: Option<Ty>) {
        let Some(at) = at else { return };
        self.check(at.dtype == DType::I64, format_args!("an index is i64, found {at}"));
        if let Some(Some(mask)) = mask {
            let expected = VType { dtype: DType::Bool, lanes: at.lanes };
            self.check(mask == expected, format_args!("expected a mask {expected}, found {mask}"));
        }
    }

    /// Whether an access lies within its buffer, which is known; and is constant, in registers.
    pub(super) fn access(&mut self, name: &Sym, index: &Expr, is_masked: bool) {
        let scope = self.enter();
        let at = self.values.value(index);
        self.access_at(name, &at, index, is_masked);
        self.leave(scope);
    }

    pub(super) fn access_at(&mut self, name: &Sym, at: &Dim, shown: &dyn std::fmt::Display, is_masked: bool) {
        let Some(Entity::Array { len, scope, .. }) = self.get(name).cloned() else { return };
        if scope == Scope::Register {
            let is_constant = self.is_unrolled_constant(at);
            self.check(
                is_constant,
                format_args!("{name}[{shown}] is in registers, but its index is no constant"),
            );
        }
        if is_masked {
            return;
        }
        if !self.values.bounds.is_nonnegative(at) {
            self.fail(format_args!("{name}[{shown}]: cannot prove {at} >= 0"));
        }
        if !self.values.bounds.is_below(at, &len) {
            self.fail(format_args!("{name}[{shown}]: cannot prove {at} < {len}"));
        }
    }

    /// Checks an expression and everything below it; gives its type.
    pub(super) fn expr(&mut self, e: &Expr) -> Ty {
        match e {
            Expr::Const(dtype, x) => {
                self.check(*x == x.cast(*dtype), format_args!("{x} is no value of type {dtype}"));
                self.check(*dtype != DType::String, "a constant cannot be a string");
            }
            Expr::Index(d) => drop(self.dim(d)),
            Expr::Ramp { base, stride, lanes } => {
                self.dim(base);
                self.dim(stride);
                self.check(*lanes > 0, "a vector has a lane or more");
            }
            Expr::Broadcast(e, lanes) => {
                let ty = self.expr(e)?;
                self.check(*lanes > 0, "a vector has a lane or more");
                self.check(ty.lanes == 1, format_args!("a scalar is broadcast, found {ty}")).then_some(())?;
            }
            Expr::Var(name, ty) => match self.get(name) {
                Some(Entity::Let(found)) => {
                    let found = *found;
                    self.check(found == *ty, format_args!("variable {name} is {found}, not {ty}"));
                }
                Some(Entity::Int(_)) => {
                    self.check(
                        *ty == VType::scalar(DType::I64),
                        format_args!("variable {name} is i64, not {ty}"),
                    );
                }
                _ => self.fail(format_args!("there is no variable {name} in scope")),
            },
            Expr::Load { buffer, index, mask } => {
                let at = self.expr(index);
                let mask_ty = mask.as_ref().map(|m| self.expr(m));
                self.array(buffer, false)?;
                self.mask(at, mask_ty);
                self.access(buffer, index, mask.is_some());
            }
            Expr::Call(f, args) => {
                let types: Vec<Ty> = args.iter().map(|a| self.expr(a)).collect();
                self.call(*f, &types.into_iter().collect::<Option<Vec<_>>>()?)?;
            }
            Expr::Cast(dtype, e) => {
                let ty = self.expr(e)?;
                let has_string = *dtype == DType::String || ty.dtype == DType::String;
                self.check(!has_string, "strings are not cast");
            }
            Expr::Horizontal(op, e) => {
                let ty = self.expr(e)?;
                let combines = op.combine().and_then(|f| f.result(&[ty.dtype, ty.dtype])) == Some(ty.dtype);
                let fits = combines && ty.dtype == ty.dtype.compute();
                self.check(fits, format_args!("{} does not combine {ty}", op.keyword())).then_some(())?;
            }
        }
        let names = &self.names;
        e.ty(&|b| {
            names.iter().rev().find(|(s, _)| s == b).and_then(|(_, e)| match e {
                Entity::Array { dtype, .. } => Some(*dtype),
                _ => None,
            })
        })
    }

    fn call(&mut self, f: ScalarFn, types: &[VType]) -> Option<()> {
        let dtypes: Vec<DType> = types.iter().map(|t| t.dtype).collect();
        let is_wide = f == ScalarFn::Select || dtypes.iter().all(|t| t.compute() == *t);
        let found: Vec<String> = types.iter().map(VType::to_string).collect();
        let same_lanes = types.windows(2).all(|w| w[0].lanes == w[1].lanes);
        let fits = f.result(&dtypes).is_some() && same_lanes;
        self.check(fits, format_args!("{} is not defined for {}", f.keyword(), found.join(", ")))
            .then_some(())?;
        self.check(is_wide, format_args!("{} is not computed in {}", f.keyword(), dtypes[0])).then_some(())
    }
}
