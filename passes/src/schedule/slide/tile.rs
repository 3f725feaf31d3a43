//! One row of register tiles, and one tile.

use super::super::Frame;
use super::super::contract::{LINE_BYTES, Part, column, panel};
use super::super::emit::{Emitter, Value, lane};
use super::super::nest::{Flat, Nest};
use super::super::reduce::{finish, lanes_at, read, register};
use super::{Parts, Term};
use aic_ir::compute::Axis;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Expr, LoopKind, Stmt};
use aic_ir::scalar::ScalarFn;
use aic_ir::schedule::{Class, Schedule};
use std::collections::HashMap;
use std::ops::Range;

/// Iterations of an innermost loop that are written out.
const UNROLLED: i64 = 4;

/// Terms between a row of packed columns and the one that is asked for with it.
const AHEAD: i64 = 16;

/// Makes the statements of register tiles.
pub(super) struct Maker<'a> {
    pub nest: &'a Nest,
    pub s: &'a Schedule,
    pub parts: &'a Parts<'a>,
    /// What the outer axes are.
    pub axes: HashMap<Sym, Dim>,
    pub frame: &'a mut Frame,
}

/// The columns of a tile.
#[derive(Clone)]
pub(super) struct Columns {
    /// How many there are.
    width: i64,
    /// Those that each tap of a row reaches, counted from the tile's first one; `None` where they reach all.
    reach: Option<Vec<Range<i64>>>,
}

impl Maker<'_> {
    /// The tiles of a row for channels from `n0`.
    pub fn row(&mut self, tiles: &[(Range<i64>, bool)], n0: Dim, part: Part) -> Vec<Stmt> {
        self.columns(tiles, &mut |maker, at, columns| maker.tile(at, columns, n0.clone(), part))
    }

    /// Calls `make` with the first column of each tile; those that are alike are iterations of a loop.
    pub fn columns(
        &mut self,
        tiles: &[(Range<i64>, bool)],
        make: &mut dyn FnMut(&mut Self, Dim, &Columns) -> Vec<Stmt>,
    ) -> Vec<Stmt> {
        let (mut out, mut k) = (Vec::new(), 0);
        while k < tiles.len() {
            let (tile, is_inside) = tiles[k].clone();
            let width = tile.end - tile.start;
            let alike = |t: &&(Range<i64>, bool)| t.1 && is_inside && t.0.end - t.0.start == width;
            let count = tiles[k..].iter().take_while(alike).count().max(1);
            let local = |r: &Range<i64>| {
                let from = r.start.clamp(tile.start, tile.end) - tile.start;
                from..(r.end.clamp(tile.start, tile.end) - tile.start).max(from)
            };
            let reach = (!is_inside).then(|| self.parts.reach.iter().map(local).collect());
            let columns = Columns { width, reach };
            if count == 1 {
                out.extend(make(self, tile.start.into(), &columns));
            } else {
                let it = Sym::new("it");
                let at = Dim::from(tile.start) + Dim::sym(&it) * width.into();
                let body = make(self, at, &columns);
                out.push(Stmt::serial(&it, (count as i64).into(), body));
            }
            k += count;
        }
        out
    }

    /// The tile of columns from `c0` and channels from `n0`.
    pub fn tile(&mut self, c0: Dim, columns: &Columns, n0: Dim, part: Part) -> Vec<Stmt> {
        let lanes = i64::from(self.s.lanes);
        let id = self.frame.next();
        let name = |base: &str| Sym::new(&format!("{base}{id}"));
        let (i, j) = (name("ti"), name("tj"));
        let vectors = (part.width + lanes - 1) / lanes;
        let is_known = self.parts.vector.extent.as_const().is_some();
        let mut axes = self.axes.clone();
        axes.insert(self.parts.column.var.clone(), c0 + Dim::sym(&i));
        if self.s.pack > 0 {
            axes.insert(panel(), n0.floor_div(&i64::from(self.s.pack).into()));
            axes.insert(column(), Dim::sym(&j) * lanes.into() + Dim::sym(&lane()));
        }
        axes.insert(self.parts.vector.var.clone(), n0 + Dim::sym(&j) * lanes.into() + Dim::sym(&lane()));
        let mut tile = Tile {
            nest: self.nest,
            s: self.s,
            parts: self.parts,
            axes,
            columns,
            vectors,
            masked: part.partial && (part.width % lanes != 0 || !is_known),
            acc: name("acc"),
            i,
            j,
            frame: self.frame,
        };
        tile.statements()
    }
}

/// One register tile.
struct Tile<'a> {
    nest: &'a Nest,
    s: &'a Schedule,
    parts: &'a Parts<'a>,
    /// What the axes are, but for those reduced over.
    axes: HashMap<Sym, Dim>,
    columns: &'a Columns,
    vectors: i64,
    /// Whether channels may lie beyond the end.
    masked: bool,
    acc: Sym,
    i: Sym,
    j: Sym,
    frame: &'a mut Frame,
}

impl Tile<'_> {
    fn statements(&mut self) -> Vec<Stmt> {
        let lanes = i64::from(self.s.lanes);
        let Some((op, _)) = &self.nest.reduction else { return Vec::new() };
        let acc = self.nest.acc;
        let identity = Value::new(Expr::Const(acc, op.identity(acc)), acc, 1).widen(self.s.lanes);
        let mut out = vec![register(&self.acc, acc, self.columns.width * self.vectors * lanes)];
        let all = 0..self.columns.width;
        let start = Stmt::store(&self.acc, lanes_at(self.slot(), self.s.lanes), identity);
        out.extend(self.each(&all, vec![start]));
        let axes = self.axes.clone();
        let conditions: Vec<usize> = (0..self.parts.conditions.len()).collect();
        let reached = match (&self.columns.reach, self.parts.tap) {
            (Some(reach), None) => reach[0].clone(),
            _ => all.clone(),
        };
        out.extend(self.terms(0, axes, &reached, conditions));
        let mut e = Emitter::new(self.nest, self.axes.clone(), self.s.lanes, self.frame);
        let mask = self.masked.then(|| e.tail(&self.parts.vector.dim(), &self.parts.vector.extent));
        let mut end = e.take_lets();
        let at = (Dim::sym(&self.i) * self.vectors.into() + Dim::sym(&self.j)) * lanes.into();
        let result = e.bind(read(&self.acc, at, self.s.lanes, acc));
        end.extend(finish(&mut e, self.nest, result, mask.as_ref()));
        out.extend(self.each(&all, end));
        out
    }

    /// Where the accumulator of a column and a vector is.
    fn slot(&self) -> Dim {
        (Dim::sym(&self.i) * self.vectors.into() + Dim::sym(&self.j)) * i64::from(self.s.lanes).into()
    }

    /// The body for each of some columns and every vector.
    fn each(&self, columns: &Range<i64>, body: Vec<Stmt>) -> Vec<Stmt> {
        self.each_column(columns, vec![self.each_vector(body)])
    }

    fn each_vector(&self, body: Vec<Stmt>) -> Stmt {
        Stmt::loop_of(&self.j, self.vectors.into(), LoopKind::Unroll, body)
    }

    fn each_column(&self, columns: &Range<i64>, body: Vec<Stmt>) -> Vec<Stmt> {
        if columns.is_empty() {
            return Vec::new();
        }
        let (begin, end) = (columns.start.into(), columns.end.into());
        vec![Stmt::For { var: self.i.clone(), begin, end, kind: LoopKind::Unroll, body }]
    }

    /// Loops over the axes reduced over from the `k`-th on, each condition around as much as it can be.
    fn terms(
        &mut self,
        k: usize,
        axes: HashMap<Sym, Dim>,
        columns: &Range<i64>,
        conditions: Vec<usize>,
    ) -> Vec<Stmt> {
        let over = self.nest.over();
        let is_open = |c: &usize| over[k..].iter().any(|a| self.parts.conditions[*c].mentions(&a.var));
        let (open, ready): (Vec<usize>, Vec<usize>) = conditions.into_iter().partition(is_open);
        if !ready.is_empty() {
            let then = self.terms(k, axes.clone(), columns, open);
            return self.guarded(&ready, &axes, then);
        }
        let Some(a) = over.get(k) else { return self.step(&axes, columns) };
        if Some(k) == self.parts.tap
            && let Some(reach) = &self.columns.reach
        {
            let taps = reach.clone().into_iter().enumerate().filter(|(_, r)| !r.is_empty());
            let each = |(tap, reach): (usize, Range<i64>)| {
                let axes = with(&axes, a, (tap as i64).into());
                self.terms(k + 1, axes, &reach, open.clone())
            };
            return taps.flat_map(each).collect();
        }
        if let Some(inner) = over.get(k + 1).filter(|b| self.is_joint(k, a, b)) {
            let both = Axis { var: inner.var.clone(), extent: a.extent.clone() * inner.extent.clone() };
            let axes = with(&with(&axes, a, 0.into()), inner, inner.dim());
            let body = self.terms(k + 2, axes, columns, open);
            return vec![Stmt::serial(&both.var, both.extent, body)];
        }
        let is_short = k + 1 == over.len() && a.extent.as_const().is_some_and(|n| n <= UNROLLED);
        let kind = match self.parts.term {
            Term::Vector(_) => LoopKind::Unroll,
            Term::Product(..) if is_short => LoopKind::Unroll,
            Term::Product(..) => LoopKind::Serial,
        };
        let body = self.terms(k + 1, with(&axes, a, a.dim()), columns, open);
        vec![Stmt::loop_of(&a.var, a.extent.clone(), kind, body)]
    }

    /// Whether the last two axes reduced over can be one: no condition is about them, and the factors depend on them as
    /// if they were.
    fn is_joint(&self, k: usize, outer: &Axis, inner: &Axis) -> bool {
        let is_last = k + 2 == self.nest.over().len();
        let is_free = !self.parts.conditions.iter().any(|c| c.mentions(&outer.var) || c.mentions(&inner.var));
        let Term::Product(a, b) = self.parts.term else { return false };
        is_last && is_free && [a, b].iter().all(|f| f.is_joint(outer, inner))
    }

    /// Statements under conditions.
    fn guarded(&mut self, conditions: &[usize], axes: &HashMap<Sym, Dim>, then: Vec<Stmt>) -> Vec<Stmt> {
        let mut e = Emitter::new(self.nest, axes.clone(), 1, self.frame);
        let all: Vec<Expr> =
            conditions.iter().map(|c| e.expr(self.parts.conditions[*c], None).expr).collect();
        let mut out = e.take_lets();
        let cond = all.into_iter().reduce(|a, b| Expr::call(ScalarFn::And, [a, b]));
        out.extend(cond.map(|cond| Stmt::If { cond, then, other: Vec::new() }));
        out
    }

    /// One more term for some columns.
    fn step(&mut self, axes: &HashMap<Sym, Dim>, columns: &Range<i64>) -> Vec<Stmt> {
        match self.parts.term {
            Term::Product(..) => self.product(axes, columns),
            Term::Vector(_) => self.vector(axes, columns),
        }
    }

    /// A vector of channels, loaded once, times a scalar of each column.
    fn product(&mut self, axes: &HashMap<Sym, Dim>, columns: &Range<i64>) -> Vec<Stmt> {
        let Term::Product(scalar, vector) = self.parts.term else { return Vec::new() };
        let lanes = self.s.lanes;
        let row = Sym::new(&format!("b{}", self.frame.next()));
        let asks = self.asks(vector, axes);
        let mut e = Emitter::new(self.nest, axes.clone(), lanes, self.frame);
        // Rows of a packed panel are whole.
        let masked = self.masked && self.s.pack == 0;
        let mask = masked.then(|| e.tail(&self.parts.vector.dim(), &self.parts.vector.extent));
        let b = e.expr(vector, mask.as_ref());
        let dtype = b.ty.dtype;
        let mut load = e.take_lets();
        if let Expr::Load { buffer, index, .. } = &b.expr
            && let (Expr::Ramp { base, .. }, true) = (&**index, self.s.pack > 0)
        {
            load.push(prefetch(buffer, base.clone() + (AHEAD * i64::from(self.s.pack)).into()));
        }
        let slot = Dim::sym(&self.j) * i64::from(lanes).into();
        load.push(Stmt::store(&row, lanes_at(slot.clone(), lanes), b.widen(lanes)));
        let a = e.expr(scalar, None);
        let a = e.bind(a);
        let mut column = e.take_lets();
        let at = (Dim::sym(&self.i) * self.vectors.into() + Dim::sym(&self.j)) * i64::from(lanes).into();
        let old = read(&self.acc, at.clone(), lanes, self.nest.acc);
        let new = multiply_add(&e, a, read(&row, slot, lanes, dtype), old);
        column.push(self.each_vector(vec![Stmt::store(&self.acc, lanes_at(at, lanes), new.widen(lanes))]));
        let mut out = vec![register(&row, dtype, self.vectors * i64::from(lanes)), self.each_vector(load)];
        out.extend(asks);
        out.extend(self.each_column(columns, column));
        out
    }

    /// Asks for a part of the next panel, which all rows of the output share evenly; a packed factor only.
    fn asks(&self, vector: &Flat, axes: &HashMap<Sym, Dim>) -> Vec<Stmt> {
        let (pack, ahead) = (i64::from(self.s.pack), i64::from(self.s.ahead));
        let [.., row, _, _] = &self.nest.axes[..] else { return Vec::new() };
        let Some(Flat::Load { input, address, .. }) = vector.loads().first().copied().filter(|_| ahead > 0)
        else {
            return Vec::new();
        };
        let (mut begin, mut term) = (address.clone(), Dim::from(0));
        for a in self.nest.over() {
            let Some((step, rest)) = begin.affine_in(&a.var) else { return Vec::new() };
            term = term + step.floor_div(&pack.into()) * axes.get(&a.var).cloned().unwrap_or_else(|| a.dim());
            begin = rest;
        }
        let share = row.extent.as_const().map_or(pack, |n| (pack + n - 1) / n.max(1));
        let at = |s: &Sym| if *s == column() { Some(0.into()) } else { axes.get(s).cloned() };
        let before = axes.get(&row.var).cloned().unwrap_or_else(|| 0.into()) * ahead.into() + term;
        let begin = begin.subst(&at) + (ahead * pack).into() + before * share.into();
        let buffer = &self.nest.inputs[*input];
        let line = LINE_BYTES / buffer.dtype.size() as i64;
        let ask = |k: i64| prefetch_near(&buffer.name, begin.clone() + k.into());
        (0..share).step_by(line as usize).map(ask).collect()
    }

    /// A vector of each column.
    fn vector(&mut self, axes: &HashMap<Sym, Dim>, columns: &Range<i64>) -> Vec<Stmt> {
        let (Term::Vector(value), Some((op, _))) = (self.parts.term, &self.nest.reduction) else {
            return Vec::new();
        };
        let lanes = self.s.lanes;
        let at = self.slot();
        let mut e = Emitter::new(self.nest, axes.clone(), lanes, self.frame);
        let mask = self.masked.then(|| e.tail(&self.parts.vector.dim(), &self.parts.vector.extent));
        let old = read(&self.acc, at.clone(), lanes, self.nest.acc);
        let new = match (value, op.combine()) {
            (Flat::Call(ScalarFn::Mul, factors), _) if self.s.class == Class::Contract => {
                let a = e.expr(&factors[0], mask.as_ref());
                let b = e.expr(&factors[1], mask.as_ref());
                multiply_add(&e, a, b, old)
            }
            (value, Some(combine)) => {
                let value = e.expr(value, mask.as_ref());
                e.call(combine, vec![old, value])
            }
            (_, None) => old,
        };
        let mut body = e.take_lets();
        body.push(Stmt::store(&self.acc, lanes_at(at, lanes), new.widen(lanes)));
        self.each(columns, body)
    }
}

/// `a * b + c`, rounded once if it is rounded.
fn multiply_add(e: &Emitter, a: Value, b: Value, c: Value) -> Value {
    if c.ty.dtype.is_float() {
        return e.call(ScalarFn::Fma, vec![a, b, c]);
    }
    let product = e.call(ScalarFn::Mul, vec![a, b]);
    e.call(ScalarFn::Add, vec![c, product])
}

/// Asks for an element's line, to be there soon.
pub fn prefetch(buffer: &Sym, at: Dim) -> Stmt {
    Stmt::Call { name: "prefetch".into(), args: vec![Expr::load(buffer, at)] }
}

/// Asks for an element's line, to be in the cache next to the nearest later on.
pub fn prefetch_near(buffer: &Sym, at: Dim) -> Stmt {
    Stmt::Call { name: "prefetch".into(), args: vec![Expr::load(buffer, at), Expr::int(2)] }
}

/// The axes with one more.
fn with(axes: &HashMap<Sym, Dim>, a: &Axis, value: Dim) -> HashMap<Sym, Dim> {
    let mut axes = axes.clone();
    axes.insert(a.var.clone(), value);
    axes
}
