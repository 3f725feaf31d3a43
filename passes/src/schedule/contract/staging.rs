//! The factors of a contraction on their way to a GPU's shared memory: two tiles of each in turn, of which one is
//! multiplied while the next one is brought.
//!
//! Factors are whatever expressions; their elements are computed as they are brought, so that a convolution is a
//! contraction too. In shared memory a tile has a row for each term.

use super::super::Frame;
use super::super::emit::{Emitter, Value};
use super::super::nest::{Flat, Nest};
use super::super::reduce::{read, register};
use super::sides::{Grid, Sides, at};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Buffer, Expr, LoopKind, Scope, Stmt};
use aic_ir::scalar::{Scalar, ScalarFn};

/// The threads of a block that bring tiles.
pub(super) struct Staging<'a> {
    pub nest: &'a Nest,
    pub sides: &'a Sides<'a>,
    pub factors: [Factor<'a>; 2],
    /// Rows, columns and terms of a block's tile.
    pub block: [i64; 3],
    pub threads: i64,
    /// The number of a thread among them.
    pub number: Dim,
    pub grid: &'a Grid,
}

/// A factor.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a> {
    /// Its element.
    pub value: &'a Flat,
    /// As it is in shared memory.
    pub dtype: DType,
    /// Elements between the rows of a tile, so that what is stored down a column is in other banks.
    pub padding: i64,
}

/// The name of a factor's tiles.
pub(super) fn buffer(factor: usize) -> Sym {
    Sym::new(["ta", "tb"][factor])
}

/// The registers of elements on their way.
fn brought(factor: usize) -> Sym {
    Sym::new(["ra", "rb"][factor])
}

impl Staging<'_> {
    /// Elements from term to term of a factor's tile.
    pub fn row(&self, factor: usize) -> i64 {
        self.block[factor] + self.factors[factor].padding
    }

    /// The tiles in shared memory.
    pub fn allocs(&self) -> Vec<Stmt> {
        let alloc = |factor: usize| {
            let len = 2 * self.block[2] * self.row(factor);
            let (name, dtype) = (buffer(factor), self.factors[factor].dtype);
            Stmt::Alloc(Buffer { name, dtype, len: len.into(), scope: Scope::Shared })
        };
        [0, 1].map(alloc).into()
    }

    /// Where a step's tile begins in shared memory.
    pub fn slot(&self, factor: usize, step: &Dim) -> Dim {
        step.modulo(&2.into()) * (self.block[2] * self.row(factor)).into()
    }

    /// The loop over the terms, in which `multiply` makes statements of a step.
    pub fn steps(&self, frame: &mut Frame, multiply: impl Fn(&Dim) -> Vec<Stmt>) -> Vec<Stmt> {
        let n_steps = self.sides.extent(2).ceil_div(&self.block[2].into());
        let step = Dim::named("step");
        let next = step.clone() + 1.into();
        let is_more = |then: Vec<Stmt>| {
            let cond = Expr::call(ScalarFn::Lt, [Expr::Index(next.clone()), Expr::Index(n_steps.clone())]);
            Stmt::If { cond, then, other: Vec::new() }
        };
        let barrier = Stmt::Barrier(Scope::Shared);
        let mut out: Vec<Stmt> =
            [0, 1].map(|f| register(&brought(f), self.factors[f].dtype, self.share(f))).into();
        out.extend([0, 1].iter().flat_map(|f| self.bring(*f, &0.into(), frame)));
        out.extend([0, 1].iter().flat_map(|f| self.put(*f, &0.into())));
        out.push(barrier.clone());
        let bring: Vec<Stmt> = [0, 1].iter().flat_map(|f| self.bring(*f, &next, frame)).collect();
        let put: Vec<Stmt> = [0, 1].iter().flat_map(|f| self.put(*f, &next)).collect();
        let body = [vec![is_more(bring)], multiply(&step), vec![is_more(put), barrier]].concat();
        out.push(Stmt::serial(&Sym::new("step"), n_steps, body));
        out
    }

    /// Elements of a factor's tile that a thread brings.
    fn share(&self, factor: usize) -> i64 {
        self.block[factor] * self.block[2] / self.threads
    }

    /// The row or column, and the term, of the `r`th element of a factor's tile that a thread brings: neighbours bring
    /// neighbours.
    fn place(&self, factor: usize, r: &Dim) -> [Dim; 2] {
        let number = r.clone() * self.threads.into() + self.number.clone();
        let (inner, is_along) = match self.sides.is_along_terms(factor) {
            true => (self.block[2], true),
            false => (self.block[factor], false),
        };
        let (quotient, rest) = (number.floor_div(&inner.into()), number.modulo(&inner.into()));
        if is_along { [quotient, rest] } else { [rest, quotient] }
    }

    /// A thread's elements of a factor's tile, into registers.
    fn bring(&self, factor: usize, step: &Dim, frame: &mut Frame) -> Vec<Stmt> {
        let r = Sym::new("r");
        let [own, term] = self.place(factor, &Dim::sym(&r));
        let own = self.grid.origin[factor].clone() + own;
        let term = step.clone() * self.block[2].into() + term;
        let mut axes = self.grid.batch.clone();
        axes.extend(at(&self.sides.axes[factor], &own));
        axes.extend(at(&self.sides.axes[2], &term));
        let mut e = Emitter::new(self.nest, axes, 1, frame);
        let mask = [(own, factor), (term, 2)]
            .into_iter()
            .filter(|(_, side)| !self.sides.extent(*side).is_multiple(self.block[*side]))
            .map(|(at, side)| {
                let args = [Expr::Index(at), Expr::Index(self.sides.extent(side))];
                Value::new(Expr::call(ScalarFn::Lt, args), DType::Bool, 1)
            })
            .reduce(|a, b| e.call(ScalarFn::And, vec![a, b]));
        let mask = mask.map(|m| e.bind(m));
        let Factor { value: flat, dtype, .. } = self.factors[factor];
        let mut value = e.expr(flat, mask.as_ref());
        if let Some(mask) = mask.filter(|_| !flat.is_load()) {
            let zero = Value::new(Expr::Const(dtype, Scalar::zero(dtype)), dtype, 1);
            value = e.call(ScalarFn::Select, vec![mask, value, zero]);
        }
        let mut body = e.take_lets();
        body.push(Stmt::store(&brought(factor), Expr::Index(Dim::sym(&r)), value.expr));
        vec![unroll(&r, self.share(factor), body)]
    }

    /// They go on to shared memory.
    fn put(&self, factor: usize, step: &Dim) -> Vec<Stmt> {
        let r = Sym::new("r");
        let [own, term] = self.place(factor, &Dim::sym(&r));
        let at = self.slot(factor, step) + term * self.row(factor).into() + own;
        let value = read(&brought(factor), Dim::sym(&r), 1, self.factors[factor].dtype).expr;
        vec![unroll(&r, self.share(factor), vec![Stmt::store(&buffer(factor), Expr::Index(at), value)])]
    }
}

pub(super) fn unroll(var: &Sym, n: i64, body: Vec<Stmt>) -> Stmt {
    Stmt::loop_of(var, n.into(), LoopKind::Unroll, body)
}
