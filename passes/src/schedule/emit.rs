//! From element expressions to kernel expressions: index substitution, vectorisation and masks.
//!
//! An [`Emitter`] knows what each axis variable is in terms of loop variables and, if the code is vectorised, the
//! symbol that stands for the lane number. An expression that doesn't mention the lane stays scalar; it is broadcast
//! only where it meets a vector.

use super::Frame;
use super::nest::{Flat, Nest};
use aic_ir::dim::{Atom, Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Expr, Stmt, VType};
use aic_ir::scalar::{Scalar, ScalarFn};
use std::collections::HashMap;

/// Turns the expressions of a nest into kernel expressions.
pub struct Emitter<'a> {
    nest: &'a Nest,
    /// What axis variables are.
    pub axes: HashMap<Sym, Dim>,
    /// Lanes of the vectors; 1 for scalar code.
    pub lanes: u32,
    /// The finished reduction, for epilogues.
    pub acc: Option<Value>,
    /// The mask of the end of the vectors' axis.
    tail: Option<Expr>,
    lets: Vec<Stmt>,
    pub(super) frame: &'a mut Frame,
}

/// A kernel expression with its type.
#[derive(Clone, Debug)]
pub struct Value {
    /// The expression.
    pub expr: Expr,
    /// Its type.
    pub ty: VType,
}

/// The symbol that stands for the lane number before vectorisation.
pub fn lane() -> Sym {
    Sym::new("lane")
}

impl Value {
    /// A value of known type.
    pub fn new(expr: Expr, dtype: DType, lanes: u32) -> Value {
        Value { expr, ty: VType { dtype, lanes } }
    }

    /// The same value in as many lanes.
    pub fn widen(self, lanes: u32) -> Expr {
        if self.ty.lanes == lanes { self.expr } else { Expr::Broadcast(self.expr.into(), lanes) }
    }
}

impl<'a> Emitter<'a> {
    /// An emitter for scalar code or for vectors of `lanes`.
    pub fn new(nest: &'a Nest, axes: HashMap<Sym, Dim>, lanes: u32, frame: &'a mut Frame) -> Self {
        Emitter { nest, axes, lanes, acc: None, tail: None, lets: Vec::new(), frame }
    }

    /// The `let` statements that the expressions made so far need before them.
    pub fn take_lets(&mut self) -> Vec<Stmt> {
        std::mem::take(&mut self.lets)
    }

    /// An index expression over axes, as a scalar or a vector.
    pub fn index(&self, d: &Dim) -> Value {
        self.vectorize(&d.subst(&|s| self.axes.get(s).cloned()))
    }

    /// `index < extent`, as the mask of a vector that may reach beyond the end of its axis.
    pub fn tail(&mut self, index: &Dim, extent: &Dim) -> Value {
        let limit = Value::new(Expr::Index(extent.clone()), DType::I64, 1);
        let below = Expr::call(ScalarFn::Lt, [self.index(index).widen(self.lanes), limit.widen(self.lanes)]);
        let mask = self.bind(Value::new(below, DType::Bool, self.lanes));
        self.tail = Some(mask.expr.clone());
        mask
    }

    fn vectorize(&self, d: &Dim) -> Value {
        let lane = lane();
        if self.lanes == 1 {
            return Value::new(Expr::Index(d.replace(&lane, &0.into())), DType::I64, 1);
        }
        match d.affine_in(&lane) {
            Some((stride, base)) if stride.is(0) => Value::new(Expr::Index(base), DType::I64, 1),
            Some((stride, base)) => {
                Value::new(Expr::Ramp { base, stride, lanes: self.lanes }, DType::I64, self.lanes)
            }
            None => self.vectorize_terms(d),
        }
    }

    fn vectorize_terms(&self, d: &Dim) -> Value {
        let mut sum = Value::new(Expr::int(d.constant()), DType::I64, 1);
        for (coeff, factors) in d.terms() {
            let start = Value::new(Expr::int(coeff), DType::I64, 1);
            let product = factors.iter().fold(start, |p, a| self.call(ScalarFn::Mul, vec![p, self.atom(a)]));
            sum = self.call(ScalarFn::Add, vec![sum, product]);
        }
        sum
    }

    fn atom(&self, a: &Atom) -> Value {
        let pair = |a: &Dim, b: &Dim| vec![self.vectorize(a), self.vectorize(b)];
        match a {
            Atom::Sym(s) => self.vectorize(&Dim::sym(s)),
            Atom::Mod(a, b) => self.call(ScalarFn::Mod, pair(a, b)),
            Atom::Min(a, b) => self.call(ScalarFn::Min, pair(a, b)),
            Atom::Max(a, b) => self.call(ScalarFn::Max, pair(a, b)),
            // floor(a / b) = (a - mod(a, b)) / b, whose division is exact.
            Atom::FloorDiv(a, b) => {
                let (x, y) = (self.vectorize(a), self.vectorize(b));
                let rest = self.call(ScalarFn::Mod, vec![x.clone(), y.clone()]);
                let multiple = self.call(ScalarFn::Sub, vec![x, rest]);
                self.call(ScalarFn::Div, vec![multiple, y])
            }
        }
    }

    /// A call whose scalar operands are broadcast if any operand is a vector.
    pub fn call(&self, f: ScalarFn, args: Vec<Value>) -> Value {
        let lanes = args.iter().map(|a| a.ty.lanes).max().unwrap_or(1);
        let dtypes: Vec<DType> = args.iter().map(|a| a.ty.dtype).collect();
        let dtype = f.result(&dtypes).unwrap_or(dtypes[0]);
        Value::new(Expr::Call(f, args.into_iter().map(|a| a.widen(lanes)).collect()), dtype, lanes)
    }

    /// An element expression; loads are masked by `mask` if there is one.
    pub fn expr(&mut self, e: &Flat, mask: Option<&Value>) -> Value {
        match e {
            Flat::Const(t, s) => Value::new(Expr::Const(*t, *s), *t, 1),
            Flat::Index(d) => self.index(d),
            Flat::Acc => match &self.acc {
                Some(acc) => acc.clone(),
                None => Value::new(Expr::Const(self.nest.acc, Scalar::zero(self.nest.acc)), self.nest.acc, 1),
            },
            Flat::Load { input, address, terms } => self.load(*input, address, terms, mask),
            Flat::Call(ScalarFn::Select, args) => self.select(args, mask),
            Flat::Call(f, args) => {
                let args = args.iter().map(|a| self.expr(a, mask)).collect();
                self.call(*f, args)
            }
            Flat::Cast(t, e) => {
                let v = self.expr(e, mask);
                Value::new(Expr::Cast(*t, v.expr.into()), *t, v.ty.lanes)
            }
        }
    }

    fn select(&mut self, args: &[Flat], mask: Option<&Value>) -> Value {
        let cond = self.expr(&args[0], mask);
        let cond = self.bind(cond);
        let side = |this: &mut Self, e: &Flat, taken: Value| {
            if e.loads().is_empty() {
                return this.expr(e, mask);
            }
            let both = match mask {
                Some(m) => this.call(ScalarFn::And, vec![m.clone(), taken]),
                None => taken,
            };
            let both = this.bind(both);
            this.expr(e, Some(&both))
        };
        let yes = side(self, &args[1], cond.clone());
        let not = self.call(ScalarFn::Not, vec![cond.clone()]);
        let no = side(self, &args[2], not);
        self.call(ScalarFn::Select, vec![cond, yes, no])
    }

    fn load(&mut self, input: usize, address: &Dim, terms: &[(Dim, Flat)], mask: Option<&Value>) -> Value {
        let mut address = address.subst(&|s| self.axes.get(s).cloned());
        let mut vectors = Vec::new();
        for (stride, e) in terms {
            let index = self.expr(e, mask);
            if index.ty.lanes == 1 {
                let at = match self.bind(index).expr {
                    Expr::Var(name, _) => Dim::sym(&name),
                    Expr::Const(_, value) => value.as_i64().into(),
                    _ => 0.into(), // `bind` gives variables and constants
                };
                address = address + at * stride.clone();
            } else {
                let stride = Value::new(Expr::Index(stride.clone()), DType::I64, 1);
                vectors.push(self.call(ScalarFn::Mul, vec![index, stride]));
            }
        }
        let mut index = self.vectorize(&address);
        for v in vectors {
            index = self.call(ScalarFn::Add, vec![index, v]);
        }
        // What doesn't depend on the lane doesn't depend on the vectors' axis, and is there whatever its end is.
        let mask = mask.filter(|m| index.ty.lanes > 1 || Some(&m.expr) != self.tail.as_ref());
        let lanes = index.ty.lanes.max(mask.map_or(1, |m| m.ty.lanes));
        let load = Expr::Load {
            buffer: self.nest.inputs[input].name.clone(),
            index: index.widen(lanes).into(),
            mask: mask.map(|m| m.clone().widen(lanes).into()),
        };
        Value::new(load, self.nest.inputs[input].dtype, lanes)
    }

    /// The value under a name, so that it is evaluated once.
    pub fn bind(&mut self, v: Value) -> Value {
        if matches!(v.expr, Expr::Var(..) | Expr::Const(..)) {
            return v;
        }
        let var = Sym::new(&format!("t{}", self.frame.next()));
        self.lets.push(Stmt::Let { var: var.clone(), value: v.expr });
        Value { expr: Expr::Var(var, v.ty), ty: v.ty }
    }
}
