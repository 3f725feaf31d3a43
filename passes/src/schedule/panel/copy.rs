//! Filling a panel: what a block of columns reads, for every term of the sum.
//!
//! Each vector of a row and each tap along it has statements of its own, so that conditions on columns are constants;
//! those on rows are branches.

use super::super::emit::{Emitter, Value, lane};
use super::super::nest::Flat;
use super::super::reduce::{as_loops, lanes_at, nested};
use super::{Layout, Maker, ceil};
use aic_ir::compute::Axis;
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Expr, Stmt};
use aic_ir::scalar::{Scalar, ScalarFn};
use std::collections::HashMap;

/// Taps of a row that are copied by statements of their own.
const MAX_TAPS: i64 = 16;

impl Maker<'_> {
    /// The statements that fill a panel with a block of terms, and the type of its elements.
    pub fn copy(&mut self, layout: &Layout) -> (Vec<Stmt>, DType) {
        let mut loops = self.nest.over().to_vec();
        if let Some(first) = loops.first_mut() {
            let inner = self.nest.over()[1..].iter().map(|a| &a.extent).product::<Dim>().as_const();
            first.extent = (self.terms / inner.unwrap_or(1).max(1)).into();
        }
        let is_short = |a: &Axis| a.extent.as_const().is_some_and(|n| n <= MAX_TAPS);
        let taps = if loops.len() > 1 && loops.last().is_some_and(is_short) { loops.pop() } else { None };
        let row = Sym::new("pr");
        let mut axes = self.axes.clone();
        axes.extend(as_loops(&loops));
        if let Some(first) = self.nest.over().first().filter(|_| !loops.is_empty()) {
            let begin = self.block.clone() * loops[0].extent.clone();
            axes.insert(first.var.clone(), begin + first.dim());
        }
        if let Some(k) = self.parts.row.filter(|_| layout.rows() > 1)
            && let Some(first) = axes.get_mut(&self.nest.axes[k].var)
        {
            *first = first.clone() + Dim::sym(&row);
        }
        let mut filler = Filler { maker: self, layout, axes, loops: &loops, taps: taps.as_ref() };
        let (fill, dtype) = filler.row(&if layout.rows() > 1 { Dim::sym(&row) } else { 0.into() });
        let mut body = filler.clear(dtype);
        body.extend(match layout.rows() {
            1 => fill,
            rows => vec![Stmt::serial(&row, rows.into(), fill)],
        });
        (nested(&loops, body), dtype)
    }
}

/// Fills the rows of a panel.
struct Filler<'a, 'm> {
    maker: &'a mut Maker<'m>,
    layout: &'a Layout,
    /// What the axes are, but for the columns and taps.
    axes: HashMap<Sym, Dim>,
    /// The terms of the sum that are loops, and the innermost of them otherwise.
    loops: &'a [Axis],
    taps: Option<&'a Axis>,
}

impl Filler<'_, '_> {
    /// The statements for one row of the output, and the type of its elements.
    fn row(&mut self, row: &Dim) -> (Vec<Stmt>, DType) {
        let guarded = Guarded::new(self.maker.parts.vector);
        let column = &self.maker.nest.axes[self.maker.parts.column].var;
        let varies = |e: &Flat| e.mentions(column) || self.taps.is_some_and(|a| e.mentions(&a.var));
        let (vector, scalar): (Vec<&Flat>, Vec<&Flat>) = guarded.conditions.iter().partition(|e| varies(e));
        let (then, dtype) = self.vectors(&guarded.inside(&vector), row);
        if scalar.is_empty() {
            return (then, dtype);
        }
        let (other, _) = self.vectors(&guarded.outside(), row);
        let mut e = Emitter::new(self.maker.nest, self.axes.clone(), 1, self.maker.frame);
        let conditions: Vec<Expr> = scalar.iter().map(|c| e.expr(c, None).expr).collect();
        let mut out = e.take_lets();
        let cond = conditions.into_iter().reduce(|a, b| Expr::call(ScalarFn::And, [a, b]));
        out.extend(cond.map(|cond| Stmt::If { cond, then, other }));
        (out, dtype)
    }

    /// Stores the vectors of a row for every tap.
    fn vectors(&mut self, value: &Flat, row: &Dim) -> (Vec<Stmt>, DType) {
        let lanes = i64::from(self.maker.s.lanes);
        let (mut out, mut dtype) = (Vec::new(), self.maker.nest.acc);
        for tap in 0..self.n_taps() {
            for v in 0..ceil(self.layout.row, lanes) {
                let first = v * lanes;
                let mut axes = self.axes.clone();
                axes.extend(self.taps.map(|a| (a.var.clone(), tap.into())));
                let column = self.maker.nest.axes[self.maker.parts.column].var.clone();
                axes.insert(column, self.maker.first_column.clone() + first.into() + Dim::sym(&lane()));
                let mut e = Emitter::new(self.maker.nest, axes, self.maker.s.lanes, self.maker.frame);
                let mask = (first + lanes > self.layout.row).then(|| {
                    let end = Value::new(Expr::int(self.layout.row), DType::I64, 1).widen(e.lanes);
                    let at = lanes_at(first.into(), e.lanes);
                    e.bind(Value::new(Expr::call(ScalarFn::Lt, [at, end]), DType::Bool, e.lanes))
                });
                let value = e.expr(value, mask.as_ref());
                dtype = value.ty.dtype;
                out.extend(e.take_lets());
                let at = row.clone() * self.layout.row.into() + first.into();
                out.push(self.store(tap, at, value));
            }
        }
        (out, dtype)
    }

    /// What no row reaches is multiplied too: it is cleared, because some numbers are slow.
    fn clear(&self, dtype: DType) -> Vec<Stmt> {
        if self.layout.copied >= self.layout.multiplied {
            return Vec::new();
        }
        let last = self.layout.multiplied - i64::from(self.maker.s.lanes);
        let zero = || Value::new(Expr::Const(dtype, Scalar::zero(dtype)), dtype, 1);
        (0..self.n_taps()).map(|tap| self.store(tap, last.into(), zero())).collect()
    }

    fn n_taps(&self) -> i64 {
        self.taps.and_then(|a| a.extent.as_const()).unwrap_or(1)
    }

    /// A store of a vector at a column of the panel.
    fn store(&self, tap: i64, column: Dim, value: Value) -> Stmt {
        let lanes = self.maker.s.lanes;
        let term = self.loops.iter().fold(Dim::from(0), |at, a| at * a.extent.clone() + a.dim());
        let term = self.taps.map_or(term.clone(), |a| term * a.extent.clone() + tap.into());
        let at = term * self.layout.stride.into() + column;
        Stmt::store(&self.maker.panel.name, lanes_at(at, lanes), value.widen(lanes))
    }
}

/// A factor whose load happens under conditions.
struct Guarded<'a> {
    conditions: Vec<&'a Flat>,
    load: &'a Flat,
    other: Option<&'a Flat>,
    cast: Option<DType>,
}

impl<'a> Guarded<'a> {
    fn new(f: &'a Flat) -> Guarded<'a> {
        match f {
            Flat::Cast(t, e) if matches!(**e, Flat::Call(ScalarFn::Select, _)) => {
                Guarded { cast: Some(*t), ..Guarded::new(e) }
            }
            Flat::Call(ScalarFn::Select, args) if args[2].loads().is_empty() => {
                let mut conditions = Vec::new();
                conjuncts(&args[0], &mut conditions);
                Guarded { conditions, load: &args[1], other: Some(&args[2]), cast: None }
            }
            _ => Guarded { conditions: Vec::new(), load: f, other: None, cast: None },
        }
    }

    /// The factor where all conditions but these hold.
    fn inside(&self, left: &[&Flat]) -> Flat {
        let all = left.iter().map(|c| (*c).clone()).reduce(|a, b| Flat::Call(ScalarFn::And, vec![a, b]));
        self.converted(match (all, self.other) {
            (Some(cond), Some(other)) => {
                Flat::Call(ScalarFn::Select, vec![cond, self.load.clone(), other.clone()])
            }
            _ => self.load.clone(),
        })
    }

    /// The factor where one doesn't.
    fn outside(&self) -> Flat {
        self.converted(self.other.unwrap_or(self.load).clone())
    }

    fn converted(&self, value: Flat) -> Flat {
        match self.cast {
            Some(t) => Flat::Cast(t, value.into()),
            None => value,
        }
    }
}

fn conjuncts<'a>(e: &'a Flat, out: &mut Vec<&'a Flat>) {
    match e {
        Flat::Call(ScalarFn::And, args) => args.iter().for_each(|a| conjuncts(a, out)),
        _ => out.push(e),
    }
}
