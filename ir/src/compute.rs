//! Compute: what an operator, or a fused group of them, computes, without any order of evaluation.
//!
//! A [`Compute`] is a short list of [`Stage`]s over index variables. A stage has output axes, at most one reduction,
//! and an element expression; it may load the inputs and earlier stages:
//!
//! ```text
//! stage %s0: f32[i: 4, j: 8] = sum[k: 16] mul(%0[i, k], %1[k, j])
//! stage %s1: f32[i: 4, j: 8] = max(%s0[i, j], f32(0.0))
//! ```
//!
//! Invariants: expressions are well typed; a stage loads earlier stages only; every load lies within its operand
//! wherever it is evaluated (the untaken side of a `select` isn't); 16-bit floats occur in loads, casts and stage
//! types only, never under arithmetic.

use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::scalar::{Scalar, ScalarFn, Signature};
use crate::types::Type;
use std::collections::BTreeSet;

/// What is computed: inputs, stages, and which stages are outputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Compute {
    /// Types of the operands `%0`, `%1`, ...
    pub inputs: Vec<Type>,
    /// In order of dependence.
    pub stages: Vec<Stage>,
    /// Positions in `stages`.
    pub outputs: Vec<usize>,
    /// Inputs whose elements are known when kernels are made, so that they may be laid out for one.
    pub constants: BTreeSet<usize>,
}

/// One array, defined element by element.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Element type of the array.
    pub dtype: DType,
    /// One per dimension of the array.
    pub axes: Vec<Axis>,
    /// The reduction applied to `value` over further axes, if any.
    pub reduction: Option<Reduction>,
    /// The element (or the reduction's summand) in terms of the axes.
    pub value: Expr,
}

/// An index variable ranging over `0..extent`. Reduction extents may mention output axes (prefix sums).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Axis {
    /// Unique within the compute.
    pub var: Sym,
    /// The number of values.
    pub extent: Dim,
}

/// A reduction over axes, in row-major order of them where order matters.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduction {
    /// How values are combined.
    pub op: ReduceOp,
    /// The axes reduced over.
    pub axes: Vec<Axis>,
}

/// How a reduction combines values. An empty reduction gives the identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReduceOp {
    /// Sum; identity 0.
    Sum,
    /// Product; identity 1.
    Prod,
    /// Maximum, NaN if any is; identity the lowest value.
    Max,
    /// Minimum, NaN if any is; identity the highest value.
    Min,
    /// Logical and.
    And,
    /// Logical or.
    Or,
    /// Index (`i64`, over the single reduced axis) of the maximum: the first one, or the last if `last`. NaN counts
    /// as the maximum, as in NumPy.
    ArgMax {
        /// Whether ties go to the last.
        last: bool,
    },
    /// Index of the minimum, likewise.
    ArgMin {
        /// Whether ties go to the last.
        last: bool,
    },
}

impl ReduceOp {
    /// Its name in the text forms.
    pub fn keyword(self) -> &'static str {
        match self {
            ReduceOp::Sum => "sum",
            ReduceOp::Prod => "prod",
            ReduceOp::Max => "max",
            ReduceOp::Min => "min",
            ReduceOp::And => "and",
            ReduceOp::Or => "or",
            ReduceOp::ArgMax { last: false } => "argmax",
            ReduceOp::ArgMax { last: true } => "argmax_last",
            ReduceOp::ArgMin { last: false } => "argmin",
            ReduceOp::ArgMin { last: true } => "argmin_last",
        }
    }

    /// The reduction with the given name.
    pub fn from_keyword(keyword: &str) -> Option<ReduceOp> {
        Some(match keyword {
            "sum" => ReduceOp::Sum,
            "prod" => ReduceOp::Prod,
            "max" => ReduceOp::Max,
            "min" => ReduceOp::Min,
            "and" => ReduceOp::And,
            "or" => ReduceOp::Or,
            "argmax" => ReduceOp::ArgMax { last: false },
            "argmax_last" => ReduceOp::ArgMax { last: true },
            "argmin" => ReduceOp::ArgMin { last: false },
            "argmin_last" => ReduceOp::ArgMin { last: true },
            _ => return None,
        })
    }

    /// The function that combines two values; `None` for the index reductions.
    pub fn combine(self) -> Option<ScalarFn> {
        match self {
            ReduceOp::Sum => Some(ScalarFn::Add),
            ReduceOp::Prod => Some(ScalarFn::Mul),
            ReduceOp::Max => Some(ScalarFn::Max),
            ReduceOp::Min => Some(ScalarFn::Min),
            ReduceOp::And => Some(ScalarFn::And),
            ReduceOp::Or => Some(ScalarFn::Or),
            ReduceOp::ArgMax { .. } | ReduceOp::ArgMin { .. } => None,
        }
    }

    /// The value of an empty reduction in the given type.
    pub fn identity(self, dtype: DType) -> Scalar {
        match self {
            ReduceOp::Sum => Scalar::zero(dtype),
            ReduceOp::Prod => Scalar::one(dtype),
            ReduceOp::Max => Scalar::lowest(dtype),
            ReduceOp::Min => Scalar::highest(dtype),
            ReduceOp::And => Scalar::B(true),
            ReduceOp::Or => Scalar::B(false),
            ReduceOp::ArgMax { .. } | ReduceOp::ArgMin { .. } => Scalar::I(0),
        }
    }
}

/// What a load reads from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// An operand of the compute.
    Input(usize),
    /// An earlier stage.
    Stage(usize),
}

/// An element expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A constant.
    Const(DType, Scalar),
    /// An index expression over axes and symbols, as `i64`.
    Index(Dim),
    /// An element of an operand or stage; one `i64` index per dimension.
    Load(Source, Vec<Expr>),
    /// A scalar function. `select` evaluates only the side taken, so that it can guard loads.
    Call(ScalarFn, Vec<Expr>),
    /// A conversion as [`Scalar::cast`] defines it.
    Cast(DType, Box<Expr>),
}

impl Axis {
    /// An axis by name.
    pub fn new(var: &str, extent: Dim) -> Axis {
        Axis { var: Sym::new(var), extent }
    }

    /// Its variable as an index expression.
    pub fn dim(&self) -> Dim {
        Dim::sym(&self.var)
    }

    /// Output axes `i0, i1, ...` of the given extents.
    pub fn outputs(dims: &[Dim]) -> Vec<Axis> {
        dims.iter().enumerate().map(|(k, d)| Axis::new(&format!("i{k}"), d.clone())).collect()
    }
}

impl Expr {
    /// A float constant of the given type, rounded to it.
    pub fn float(dtype: DType, value: f64) -> Expr {
        Expr::Const(dtype, Scalar::F(value).cast(dtype))
    }

    /// An `i64` constant.
    pub fn int(value: i64) -> Expr {
        Expr::Index(value.into())
    }

    /// A load of an operand at plain index expressions.
    pub fn input(k: usize, indices: Vec<Dim>) -> Expr {
        Expr::Load(Source::Input(k), indices.into_iter().map(Expr::Index).collect())
    }

    /// A load of an earlier stage at plain index expressions.
    pub fn stage(k: usize, indices: Vec<Dim>) -> Expr {
        Expr::Load(Source::Stage(k), indices.into_iter().map(Expr::Index).collect())
    }

    /// A call of a scalar function.
    pub fn call<const N: usize>(f: ScalarFn, args: [Expr; N]) -> Expr {
        Expr::Call(f, args.into())
    }

    /// The expression converted to `to`, if it isn't of that type already.
    pub fn cast(self, from: DType, to: DType) -> Expr {
        if from == to { self } else { Expr::Cast(to, self.into()) }
    }

    /// `cond ? self : other`, where `self` isn't evaluated if `cond` is false.
    pub fn guarded(self, cond: Expr, other: Expr) -> Expr {
        Expr::call(ScalarFn::Select, [cond, self, other])
    }

    /// The conjunction of conditions; true if there are none.
    pub fn all(conds: Vec<Expr>) -> Expr {
        conds
            .into_iter()
            .reduce(|a, b| Expr::call(ScalarFn::And, [a, b]))
            .unwrap_or(Expr::Const(DType::Bool, Scalar::B(true)))
    }

    /// `0 <= index < extent` as a condition.
    pub fn in_bounds(index: &Dim, extent: &Dim) -> Expr {
        let ge = Expr::call(ScalarFn::Ge, [Expr::Index(index.clone()), Expr::int(0)]);
        let lt = Expr::call(ScalarFn::Lt, [Expr::Index(index.clone()), Expr::Index(extent.clone())]);
        Expr::call(ScalarFn::And, [ge, lt])
    }

    /// Its type, given the types of inputs and stages; `None` if it is ill typed.
    pub fn dtype(&self, inputs: &[Type], stages: &[Stage]) -> Option<DType> {
        match self {
            Expr::Const(t, _) => Some(*t),
            Expr::Index(_) => Some(DType::I64),
            Expr::Load(Source::Input(k), _) => inputs.get(*k).map(|t| t.dtype),
            Expr::Load(Source::Stage(k), _) => stages.get(*k).map(|s| s.dtype),
            Expr::Call(f, args) => {
                let types: Option<Vec<DType>> = args.iter().map(|a| a.dtype(inputs, stages)).collect();
                f.result(&types?)
            }
            Expr::Cast(t, e) => e.dtype(inputs, stages).map(|_| *t),
        }
    }

    /// Replaces index symbols in every index expression.
    #[must_use]
    pub fn subst(&self, f: &dyn Fn(&Sym) -> Option<Dim>) -> Expr {
        match self {
            Expr::Const(..) => self.clone(),
            Expr::Index(d) => Expr::Index(d.subst(f)),
            Expr::Load(s, at) => Expr::Load(*s, at.iter().map(|e| e.subst(f)).collect()),
            Expr::Call(g, args) => Expr::Call(*g, args.iter().map(|e| e.subst(f)).collect()),
            Expr::Cast(t, e) => Expr::Cast(*t, e.subst(f).into()),
        }
    }

    /// Replaces every load by what `f` makes of it, given its indices with their loads replaced.
    #[must_use]
    pub fn map_loads(&self, f: &dyn Fn(Source, Vec<Expr>) -> Expr) -> Expr {
        let all = |es: &[Expr]| es.iter().map(|e| e.map_loads(f)).collect();
        match self {
            Expr::Const(..) | Expr::Index(_) => self.clone(),
            Expr::Load(s, at) => f(*s, all(at)),
            Expr::Call(g, args) => Expr::Call(*g, all(args)),
            Expr::Cast(t, e) => Expr::Cast(*t, e.map_loads(f).into()),
        }
    }

    /// Calls `f` on this expression and everything below it.
    pub fn visit<'a>(&'a self, f: &mut dyn FnMut(&'a Expr)) {
        f(self);
        match self {
            Expr::Const(..) | Expr::Index(_) => {}
            Expr::Load(_, args) | Expr::Call(_, args) => args.iter().for_each(|e| e.visit(f)),
            Expr::Cast(_, e) => e.visit(f),
        }
    }
}

impl Stage {
    /// A stage without reduction.
    pub fn map(dtype: DType, axes: Vec<Axis>, value: Expr) -> Stage {
        Stage { dtype, axes, reduction: None, value }
    }

    /// A stage with a reduction.
    pub fn reduce(dtype: DType, axes: Vec<Axis>, op: ReduceOp, over: Vec<Axis>, value: Expr) -> Stage {
        Stage { dtype, axes, reduction: Some(Reduction { op, axes: over }), value }
    }

    /// The type of the array.
    pub fn ty(&self) -> Type {
        Type::new(self.dtype, self.axes.iter().map(|a| a.extent.clone()).collect())
    }

    /// How often its expression is evaluated. Extents that depend on output axes are counted at their largest.
    pub fn points(&self) -> Dim {
        let largest = |v: &Sym| self.axes.iter().find(|a| a.var == *v).map(|a| a.extent.clone());
        let over = self.over().iter().map(|a| a.extent.subst(&largest));
        let points: Dim = self.axes.iter().map(|a| &a.extent).product();
        over.fold(points, |points, extent| points * extent)
    }

    /// The axes reduced over; none without a reduction.
    pub fn over(&self) -> &[Axis] {
        self.reduction.as_ref().map_or(&[], |r| &r.axes)
    }

    /// The variables of its output axes, as indices.
    pub fn indices(&self) -> Vec<Dim> {
        self.axes.iter().map(Axis::dim).collect()
    }
}

impl Compute {
    /// A compute of one output without reduction: `element` gets the output's index variables.
    pub fn map(inputs: &[Type], output: &Type, element: impl FnOnce(&[Dim]) -> Expr) -> Compute {
        let axes = Axis::outputs(&output.dims);
        let indices: Vec<Dim> = axes.iter().map(Axis::dim).collect();
        let value = element(&indices);
        Compute::chain(inputs, vec![Stage::map(output.dtype, axes, value)])
    }

    /// A compute of one output from its stages, the last of which is the output.
    pub fn chain(inputs: &[Type], stages: Vec<Stage>) -> Compute {
        let last = stages.len().saturating_sub(1);
        Compute { inputs: inputs.to_vec(), stages, outputs: vec![last], constants: BTreeSet::new() }
    }

    /// Replaces symbols, but not axes.
    pub(crate) fn subst(&mut self, f: &dyn Fn(&Sym) -> Option<Dim>) {
        self.inputs.iter_mut().for_each(|t| *t = t.subst(f));
        for s in &mut self.stages {
            s.value = s.value.subst(f);
            let over = s.reduction.iter_mut().flat_map(|r| &mut r.axes);
            s.axes.iter_mut().chain(over).for_each(|a| a.extent = a.extent.subst(f));
        }
    }

    /// Renames axes.
    pub(crate) fn subst_axes(&mut self, f: &dyn Fn(&Sym) -> Option<Dim>) {
        for s in &mut self.stages {
            s.value = s.value.subst(f);
            let over = s.reduction.iter_mut().flat_map(|r| &mut r.axes);
            for a in s.axes.iter_mut().chain(over) {
                a.extent = a.extent.subst(f);
                if let Some(new) = f(&a.var).as_ref().and_then(Dim::as_sym) {
                    a.var = new.clone();
                }
            }
        }
    }

    /// Scalar operations per evaluation: two for each multiply-add of a contraction, one for every other call that
    /// gives a number; conditions are for free. In terms of the symbols of the inputs' types.
    pub fn flops(&self) -> Dim {
        let mut total = Dim::from(0);
        for s in &self.stages {
            let mut calls = 0i64;
            s.value.visit(&mut |e| calls += i64::from(matches!(e, Expr::Call(f, _) if is_arithmetic(*f))));
            calls += i64::from(s.reduction.is_some());
            total = total + s.points() * calls.into();
        }
        total
    }
}

/// Whether a function computes a number, and doesn't just choose or decide.
fn is_arithmetic(f: ScalarFn) -> bool {
    use Signature::{Bool, Compare, Float, Int, Num, Select, Test};
    match f.signature() {
        Float | Num | Int => true,
        Bool | Compare | Test | Select => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_in_symbols_of_the_inputs() {
        let n = Dim::named("n");
        let axis = Axis::new("i0", n.clone());
        let over = vec![Axis::new("k", axis.dim() + 1.into())];
        let value = Expr::input(0, vec![Dim::named("k")]);
        let stage = Stage::reduce(DType::F32, vec![axis], ReduceOp::Sum, over, value);
        let c = Compute::chain(&[Type::new(DType::F32, vec![n.clone()])], vec![stage]);
        assert_eq!(c.flops(), n.clone() * (n + 1.into()));
    }
}
