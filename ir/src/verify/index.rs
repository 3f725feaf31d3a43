//! What integer expressions of kernels can be, as index expressions for the bound prover.
//!
//! A vector is described by one expression over a symbol for the lane's number. What is data becomes a fresh symbol
//! with the range of its type; clamps, selections and arithmetic on it are kept.

use crate::bounds::Bounds;
use crate::dim::{Dim, Range, Sym};
use crate::dtype::DType;
use crate::kernel::{Expr, VType};
use crate::scalar::{Scalar, ScalarFn, Signature};
use std::collections::HashMap;

/// Expressions of more monomials than this are taken for data.
const MAX_TERMS: usize = 40;

/// What variables are, as far as it is known.
#[derive(Default)]
pub(super) struct Values {
    /// Ranges of symbols, loop variables, lanes and data.
    pub bounds: Bounds,
    /// Integer variables bound by `let`.
    integers: HashMap<Sym, Dim>,
    /// Truth values bound by `let`.
    conditions: HashMap<Sym, Expr>,
    n_opaque: usize,
}

impl Values {
    /// Whether the symbol is a lane's number.
    pub fn is_lane(s: &Sym) -> bool {
        s.name().starts_with("lane of ")
    }

    /// Forgets a variable of an earlier scope, whose name is taken anew.
    pub fn forget(&mut self, var: &Sym) {
        self.integers.remove(var);
        self.conditions.remove(var);
    }

    /// Notes the value of a variable.
    pub fn bind(&mut self, var: &Sym, ty: VType, value: &Expr) {
        if ty.dtype.is_int() {
            let value = self.value_as(value, ty.dtype);
            self.integers.insert(var.clone(), value);
        } else if ty == VType::scalar(DType::Bool) {
            self.conditions.insert(var.clone(), value.clone());
        }
    }

    /// An index expression with variables bound by `let` replaced by their values.
    pub fn resolve(&self, d: &Dim) -> Dim {
        d.subst(&|s| self.integers.get(s).cloned())
    }

    /// Takes a condition to be true, or false.
    pub fn assume(&mut self, cond: &Expr, truth: bool) {
        match (cond, truth) {
            (Expr::Call(ScalarFn::And, args), true) | (Expr::Call(ScalarFn::Or, args), false) => {
                args.iter().for_each(|a| self.assume(a, truth));
            }
            (Expr::Call(ScalarFn::Not, args), _) => args.iter().for_each(|a| self.assume(a, !truth)),
            (Expr::Var(name, _), _) => {
                if let Some(cond) = self.conditions.get(name).cloned() {
                    self.assume(&cond, truth);
                }
            }
            (Expr::Call(f, args), _) => {
                if let ([a, b], Some(f)) = (&args[..], comparison(*f, truth)) {
                    self.assume_comparison(f, a, b);
                }
            }
            _ => {}
        }
    }

    fn assume_comparison(&mut self, f: ScalarFn, a: &Expr, b: &Expr) {
        if !(is_integer(a) && is_integer(b)) {
            return;
        }
        let (a, b) = (self.value(a), self.value(b));
        let (up, down) = (b.clone() - a.clone(), a - b);
        match f {
            ScalarFn::Lt => self.bounds.assume(&(up - 1.into())),
            ScalarFn::Le => self.bounds.assume(&up),
            ScalarFn::Gt => self.bounds.assume(&(down - 1.into())),
            ScalarFn::Ge => self.bounds.assume(&down),
            ScalarFn::Eq => {
                self.bounds.assume(&up);
                self.bounds.assume(&down);
            }
            _ => {}
        }
    }

    /// What an `i64` expression is; fresh symbols in it are declared in the current scope.
    pub fn value(&mut self, e: &Expr) -> Dim {
        self.value_as(e, DType::I64)
    }

    fn value_as(&mut self, e: &Expr, dtype: DType) -> Dim {
        let found = self.known(e, dtype).filter(|d| d.terms().count() <= MAX_TERMS);
        let all = type_range(dtype);
        // Narrow types wrap around.
        let fits = |this: &Self, d: &Dim| {
            let r = this.bounds.range(d);
            dtype == DType::I64 || all.lo <= r.lo && r.hi <= all.hi
        };
        match found {
            Some(d) if fits(self, &d) => d,
            _ => self.opaque(all),
        }
    }

    fn opaque(&mut self, range: Range) -> Dim {
        self.n_opaque += 1;
        let s = Sym::new(&format!("data {}", self.n_opaque));
        self.bounds.symbol(&s, range);
        Dim::sym(&s)
    }

    /// The symbol for the number of a lane of so many.
    fn lane(&mut self, lanes: u32) -> Dim {
        let s = Sym::new(&format!("lane of {lanes}"));
        if !self.bounds.is_declared(&s) {
            self.bounds.symbol(&s, Range::new(0, i64::from(lanes) - 1));
        }
        Dim::sym(&s)
    }

    /// What an integer expression of the given type is, as if its type had no bounds; `None` if that isn't known.
    fn known(&mut self, e: &Expr, dtype: DType) -> Option<Dim> {
        match e {
            Expr::Const(_, Scalar::I(x)) => Some((*x).into()),
            Expr::Const(_, Scalar::U(x)) => i64::try_from(*x).ok().map(Dim::from),
            Expr::Const(_, Scalar::B(x)) => Some(i64::from(*x).into()),
            Expr::Index(d) => Some(self.resolve(d)),
            Expr::Ramp { base, stride, lanes } => {
                Some(self.resolve(base) + self.resolve(stride) * self.lane(*lanes))
            }
            Expr::Broadcast(e, _) => Some(self.value_as(e, dtype)),
            Expr::Var(name, _) => match self.integers.get(name) {
                Some(d) => Some(d.clone()),
                None => self.bounds.is_declared(name).then(|| Dim::sym(name)),
            },
            Expr::Call(f, args) => self.known_call(*f, args, dtype),
            Expr::Cast(_, e) => match &**e {
                Expr::Const(t, _) | Expr::Cast(t, _) | Expr::Var(_, VType { dtype: t, .. })
                    if is_exact(*t) =>
                {
                    Some(self.value_as(e, *t))
                }
                Expr::Index(_) | Expr::Ramp { .. } => Some(self.value(e)),
                Expr::Call(f, _) if is_condition(*f) => Some(self.opaque(type_range(DType::Bool))),
                _ => None,
            },
            _ => None,
        }
    }

    fn known_call(&mut self, f: ScalarFn, args: &[Expr], dtype: DType) -> Option<Dim> {
        if f == ScalarFn::Select {
            let sides = vec![self.value_as(&args[1], dtype), self.value_as(&args[2], dtype)];
            self.n_opaque += 1;
            let s = Sym::new(&format!("choice {}", self.n_opaque));
            self.bounds.one_of(&s, sides);
            return Some(Dim::sym(&s));
        }
        if let (ScalarFn::Div, [Expr::Call(ScalarFn::Sub, ab), c]) = (f, args) {
            // (a - mod(a, c)) / c rounds down.
            if let [a, Expr::Call(ScalarFn::Mod, m)] = &ab[..]
                && m[0] == *a
                && m[1] == *c
            {
                let (a, c) = (self.value_as(a, dtype), self.value_as(c, dtype));
                return self.is_positive(&c).then(|| a.floor_div(&c));
            }
        }
        let x: Vec<Dim> = match f.signature() {
            Signature::Num | Signature::Int => args.iter().map(|a| self.value_as(a, dtype)).collect(),
            _ => return None,
        };
        let shift = |d: &Dim| d.as_const().filter(|k| (0..62).contains(k)).map(|k| Dim::from(1i64 << k));
        match (f, &x[..]) {
            (ScalarFn::Add, [a, b]) => Some(a.clone() + b.clone()),
            (ScalarFn::Sub, [a, b]) => Some(a.clone() - b.clone()),
            (ScalarFn::Mul, [a, b]) => Some(a.clone() * b.clone()),
            (ScalarFn::Fma, [a, b, c]) => Some(a.clone() * b.clone() + c.clone()),
            (ScalarFn::Neg, [a]) => Some(-a.clone()),
            (ScalarFn::Abs, [a]) => Some(a.maximum(&-a.clone())),
            (ScalarFn::Min, [a, b]) => Some(a.minimum(b)),
            (ScalarFn::Max, [a, b]) => Some(a.maximum(b)),
            (ScalarFn::Mod, [a, b]) if self.is_positive(b) => Some(a.modulo(b)),
            (ScalarFn::Rem, [a, b]) if self.is_positive(b) && self.is_natural(a) => Some(a.modulo(b)),
            (ScalarFn::Div, [a, b]) if self.is_positive(b) && self.is_natural(a) => Some(a.floor_div(b)),
            (ScalarFn::Shl, [a, b]) => shift(b).map(|b| a.clone() * b),
            (ScalarFn::Shr, [a, b]) => shift(b).map(|b| a.floor_div(&b)),
            (ScalarFn::BitAnd, [_, b]) if b.as_const().is_some_and(|b| b >= 0) => {
                Some(self.opaque(Range::new(0, b.constant())))
            }
            _ => None,
        }
    }

    fn is_positive(&self, d: &Dim) -> bool {
        self.bounds.is_nonnegative(&(d.clone() - 1.into()))
    }

    fn is_natural(&self, d: &Dim) -> bool {
        self.bounds.is_nonnegative(d)
    }
}

/// Integers whose values are values of `i64`.
fn is_exact(t: DType) -> bool {
    (t.is_int() && t != DType::U64) || t == DType::Bool
}

/// Whether it gives truth values whatever its operands are.
fn is_condition(f: ScalarFn) -> bool {
    matches!(f.signature(), Signature::Compare | Signature::Test | Signature::Bool)
}

/// Whether an expression is plainly of type `i64`.
fn is_integer(e: &Expr) -> bool {
    match e {
        Expr::Const(t, _) | Expr::Cast(t, _) => *t == DType::I64,
        Expr::Index(_) => true,
        Expr::Var(_, ty) => ty.dtype == DType::I64,
        Expr::Call(ScalarFn::Select, args) => is_integer(&args[1]),
        Expr::Call(f, args) => !is_condition(*f) && args.first().is_some_and(is_integer),
        _ => false,
    }
}

/// The comparison that holds if `f` has the given truth value.
fn comparison(f: ScalarFn, truth: bool) -> Option<ScalarFn> {
    Some(match (f, truth) {
        (ScalarFn::Lt, true) | (ScalarFn::Ge, false) => ScalarFn::Lt,
        (ScalarFn::Le, true) | (ScalarFn::Gt, false) => ScalarFn::Le,
        (ScalarFn::Gt, true) | (ScalarFn::Le, false) => ScalarFn::Gt,
        (ScalarFn::Ge, true) | (ScalarFn::Lt, false) => ScalarFn::Ge,
        (ScalarFn::Eq, true) | (ScalarFn::Ne, false) => ScalarFn::Eq,
        _ => return None,
    })
}

fn type_range(t: DType) -> Range {
    match t {
        DType::Bool => Range::new(0, 1),
        DType::I8 | DType::I16 | DType::I32 | DType::U8 | DType::U16 | DType::U32 => {
            Range::new(Scalar::lowest(t).as_i64(), Scalar::highest(t).as_i64())
        }
        _ => Range::ALL,
    }
}
