//! One register tile: sums of products for some rows and columns, and what is made of them.

use super::super::Frame;
use super::super::emit::{Emitter, Value, lane};
use super::super::nest::{Flat, Nest};
use super::super::reduce::{as_loops, finish, lanes_at, nested, read, register};
use super::super::slide::prefetch_near;
use super::{Ask, Part, Roles, dtype_of, pack};
use aic_ir::compute::Axis;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Expr, LoopKind, Stmt};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::schedule::Schedule;
use std::collections::HashMap;

/// Makes the statements of one register tile.
pub(in crate::schedule) struct TileMaker<'a> {
    pub nest: &'a Nest,
    pub s: &'a Schedule,
    pub roles: &'a Roles<'a>,
    /// What the outer axes are.
    pub axes: HashMap<Sym, Dim>,
    /// Sums of earlier terms, to which the tile's are added.
    pub sums: Option<Sums>,
    /// The terms: the first of the outermost axis and how many of it; `None` for all.
    pub terms: Option<(Dim, Dim)>,
    /// Whether they are the last ones, so that results are made of the sums.
    pub finishes: bool,
    /// What of a packed factor is asked for.
    pub ask: Option<Ask>,
    pub frame: &'a mut Frame,
}

/// An array of sums.
#[derive(Clone)]
pub(in crate::schedule) struct Sums {
    /// Its name.
    pub buffer: Sym,
    /// The position of a sum there, in terms of the axes.
    pub at: Dim,
}

impl TileMaker<'_> {
    /// The tile of rows from `m0` and columns from `n0`.
    pub fn make(&mut self, m0: Dim, rows: Part, n0: Dim, columns: Part) -> Vec<Stmt> {
        let (nest, lanes) = (self.nest, i64::from(self.s.lanes));
        let n = &nest.axes[self.roles.n];
        let id = self.frame.next();
        let name = |base: &str| Sym::new(&format!("{base}{id}"));
        let (acc, vec, i, j) = (name("acc"), name("b"), name("ti"), name("tj"));
        let vectors = (columns.width + lanes - 1) / lanes;
        let masked = columns.partial && (columns.width % lanes != 0 || n.extent.as_const().is_none());
        let mut axes = self.axes.clone();
        if let Some(m) = self.roles.m {
            axes.insert(nest.axes[m].var.clone(), m0 + Dim::sym(&i));
        }
        if self.s.pack > 0 {
            axes.insert(pack::panel(), n0.floor_div(&i64::from(self.s.pack).into()));
            axes.insert(pack::column(), Dim::sym(&j) * lanes.into() + Dim::sym(&lane()));
        }
        axes.insert(n.var.clone(), n0 + Dim::sym(&j) * lanes.into() + Dim::sym(&lane()));
        let mut over = nest.over().to_vec();
        axes.extend(as_loops(&over));
        if let (Some((first, count)), Some(outermost)) = (&self.terms, over.first_mut()) {
            outermost.extent = count.clone();
            axes.insert(outermost.var.clone(), first.clone() + outermost.dim());
        }
        let asks = self.asks(&axes, &over);
        let unroll =
            |var: &Sym, count: i64, body: Vec<Stmt>| Stmt::loop_of(var, count.into(), LoopKind::Unroll, body);
        let at = (Dim::sym(&i) * vectors.into() + Dim::sym(&j)) * lanes.into();

        let mut e = Emitter::new(nest, axes, self.s.lanes, self.frame);
        let mask_of = |e: &mut Emitter| masked.then(|| e.tail(&n.dim(), &n.extent));
        let zero = Value::new(Expr::Const(nest.acc, Scalar::zero(nest.acc)), nest.acc, 1).widen(self.s.lanes);
        let earlier = self.sums.as_ref().map(|sums| (sums, e.index(&sums.at).widen(self.s.lanes)));
        let start = match &earlier {
            Some((sums, at)) => {
                Expr::Load { buffer: sums.buffer.clone(), index: at.clone().into(), mask: None }
            }
            None => zero,
        };
        let start = Stmt::store(&acc, lanes_at(at.clone(), self.s.lanes), start);
        let update = |e: &mut Emitter, a: Value, b: Value| {
            let old = read(&acc, at.clone(), e.lanes, nest.acc);
            let new = match nest.acc.is_float() {
                true => e.call(ScalarFn::Fma, vec![a, b, old]),
                false => {
                    let product = e.call(ScalarFn::Mul, vec![a, b]);
                    e.call(ScalarFn::Add, vec![old, product])
                }
            };
            Stmt::store(&acc, lanes_at(at.clone(), e.lanes), new.widen(e.lanes))
        };

        let shared = self.roles.m.is_none_or(|m| !self.roles.vector.mentions(&nest.axes[m].var));
        let mut step = Vec::new();
        if shared {
            // The row of vectors is loaded once and used by every row of the tile.
            // Rows of a packed panel are whole.
            let mask = if self.s.pack > 0 { None } else { mask_of(&mut e) };
            let b = e.expr(self.roles.vector, mask.as_ref());
            let b_dtype = b.ty.dtype;
            let mut load = e.take_lets();
            let slot = Dim::sym(&j) * lanes.into();
            load.push(Stmt::store(&vec, lanes_at(slot.clone(), self.s.lanes), b.widen(self.s.lanes)));
            step.push(unroll(&j, vectors, load));
            let a = e.expr(self.roles.scalar, None);
            let a = e.bind(a);
            let mut row = e.take_lets();
            let fma = update(&mut e, a, read(&vec, slot, self.s.lanes, b_dtype));
            row.push(unroll(&j, vectors, vec![fma]));
            step.push(unroll(&i, rows.width, row));
        } else {
            let a = e.expr(self.roles.scalar, None);
            let a = e.bind(a);
            let mut row = e.take_lets();
            let mask = mask_of(&mut e);
            let b = e.expr(self.roles.vector, mask.as_ref());
            let fma = update(&mut e, a, b);
            let mut column = e.take_lets();
            column.push(fma);
            row.push(unroll(&j, vectors, column));
            step.push(unroll(&i, rows.width, row));
        }

        let result = read(&acc, at.clone(), self.s.lanes, nest.acc);
        let end = match earlier.filter(|_| !self.finishes) {
            Some((sums, at)) => vec![Stmt::store(&sums.buffer, at, result.expr)],
            None => {
                let mask = mask_of(&mut e);
                let mut end = e.take_lets();
                let result = e.bind(result);
                end.extend(finish(&mut e, nest, result, mask.as_ref()));
                end
            }
        };

        let b_type = dtype_of(nest, self.roles.vector, true);
        let mut out = vec![register(&acc, nest.acc, rows.width * vectors * lanes)];
        if shared {
            out.push(register(&vec, b_type, vectors * lanes));
        }
        out.push(unroll(&i, rows.width, vec![unroll(&j, vectors, vec![start])]));
        step.extend(asks);
        out.extend(nested(&over, step));
        out.push(unroll(&i, rows.width, vec![unroll(&j, vectors, end)]));
        out
    }

    /// The number of terms at hand.
    pub fn n_terms(&self) -> Dim {
        let outermost = self.terms.iter().map(|(_, count)| count);
        let extents = self.nest.over().iter().map(|a| &a.extent);
        outermost.chain(extents.skip(usize::from(self.terms.is_some()))).product()
    }

    /// Asks for lines of a packed factor, in the loops over the terms `over`.
    fn asks(&self, axes: &HashMap<Sym, Dim>, over: &[Axis]) -> Vec<Stmt> {
        let Some(ask) = &self.ask else { return Vec::new() };
        let Some(Flat::Load { input, address, .. }) = self.roles.vector.loads().first().copied() else {
            return Vec::new();
        };
        let term = over.iter().fold(Dim::from(0), |at, a| at * a.extent.clone() + a.dim());
        let first_term = |s: &Sym| {
            let outermost = over.first().filter(|a| a.var == *s);
            let at = outermost.and(self.terms.as_ref()).map_or(0.into(), |(first, _)| first.clone());
            over.iter().any(|a| a.var == *s).then_some(at)
        };
        let at = |s: &Sym| {
            if *s == pack::column() { Some(0.into()) } else { first_term(s).or(axes.get(s).cloned()) }
        };
        let begin = address.subst(&at) + ask.first.clone() + term * ask.share.into();
        let name = &self.nest.inputs[*input].name;
        let call = |line: i64| prefetch_near(name, begin.clone() + line.into());
        (0..ask.share).step_by(ask.line as usize).map(call).collect()
    }
}
