//! Sums of products on a register tile of `mr` rows by `nr` vectors.
//!
//! Of the output's axes one carries the vectors (`n`: contiguous in one factor, absent from the other), one the rows
//! (`m`: it moves the factor that is broadcast); the rest are outer loops. Partial tiles at the end of `n` carry masks,
//! those at the end of `m` are a second, smaller tile.

pub mod gpu;
pub mod npu;
mod pack;
mod product;
mod sides;
pub mod simt;

pub use pack::packings;
pub(super) use pack::{choose_packed, packed_body, packed_buffer};

use super::emit::{Emitter, Value, lane};
use super::nest::{Flat, Nest};
use super::reduce::{as_loops, finish, lanes_at, nested, read, register};
use super::{Frame, SHUFFLED};
use aic_ir::compute::{Axis, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Expr, LoopKind, Stmt};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::schedule::{Class, Schedule};
use aic_ir::target::Target;
use std::collections::HashMap;
use std::ops::RangeInclusive;

/// The roles of a contraction's parts.
pub(super) struct Roles<'a> {
    /// The axis of the vectors.
    pub n: usize,
    /// The axis of the rows, if there is a second axis.
    pub m: Option<usize>,
    /// The factor that is broadcast, or loaded as vectors too where both depend on `n`.
    pub scalar: &'a Flat,
    /// The factor that is contiguous along `n`.
    pub vector: &'a Flat,
}

pub(super) fn roles(nest: &Nest) -> Option<Roles<'_>> {
    let (ReduceOp::Sum, over) = nest.reduction.as_ref()? else { return None };
    let Flat::Call(ScalarFn::Mul, factors) = &nest.value else { return None };
    let [a, b] = &factors[..] else { return None };
    if over.iter().any(|o| nest.axes.iter().any(|x| o.extent.mentions(&x.var))) {
        return None;
    }
    let step = |f: &Flat, axis: &Axis| match &f.steps(&axis.var)[..] {
        [Some(step)] => Some(step.clone()),
        _ => None,
    };
    // Contiguous in one factor and absent from the other, the innermost such axis; else one of small steps, whose
    // vectors are shuffled together from contiguous ones.
    let find = |scalar: &Flat, vector: &Flat| {
        let fit = |steps: RangeInclusive<i64>| {
            nest.axes.iter().rposition(|axis| {
                let long = axis.extent.as_const().is_none_or(|n| n >= 4);
                let step_of = |f: &Flat| step(f, axis).and_then(|s| s.as_const());
                long && step_of(scalar) == Some(0) && step_of(vector).is_some_and(|s| steps.contains(&s))
            })
        };
        fit(1..=1).or_else(|| fit(2..=SHUFFLED))
    };
    let (n, scalar, vector) = match (find(a, b), find(b, a)) {
        (Some(n), None) => (n, a, b),
        (None, Some(n)) => (n, b, a),
        (Some(n), Some(o)) if n > o => (n, a, b),
        (Some(_), Some(o)) => (o, b, a),
        (None, None) => return None,
    };
    let others = || (0..nest.axes.len()).rev().filter(|&k| k != n);
    let moves = |f: &Flat, k: usize| step(f, &nest.axes[k]).is_none_or(|s| !s.is(0));
    let reuse = others().find(|&k| moves(scalar, k) && !moves(vector, k));
    Some(Roles { n, m: reuse.or_else(|| others().next()), scalar, vector })
}

/// A register tile for the nest, if it is a contraction with an axis fit for vectors.
pub fn choose(nest: &Nest, target: &Target, lanes: u32) -> Option<Schedule> {
    Some(tile_for(nest, &roles(nest)?, target, lanes))
}

/// The register tile for a contraction.
fn tile_for(nest: &Nest, roles: &Roles, target: &Target, lanes: u32) -> Schedule {
    let n = nest.axes[roles.n].extent.as_const();
    let m = roles.m.map_or(Some(1), |m| nest.axes[m].extent.as_const());
    let lanes = super::fit(lanes, Some(&nest.axes[roles.n].extent));
    let vectors = n.map_or(1, |n| (n as u64).div_ceil(u64::from(lanes)).min(4)) as u32;
    let nr = if target.vector_registers >= 32 { vectors } else { vectors.min(2) };
    let rows = vector_rows(target, nr);
    let mr = match m {
        // Addresses in tiles of many unknown extents are beyond the verifier's proofs.
        None if nest.over().len() > 1 => 1,
        None => rows,
        Some(m) => best_rows(m.max(1) as u64, rows),
    };
    Schedule { mr, nr, ..Schedule::new(Class::Contract, lanes) }
}

/// Rows of a register tile of so many vectors that leave registers for a row of vectors and a broadcast.
pub(super) fn vector_rows(target: &Target, nr: u32) -> u32 {
    let budget = target.vector_registers - target.vector_registers / 8;
    ((budget - nr) / nr).min(14)
}

/// The row count up to `most` that covers `m` rows with the least waste, the largest of equals.
pub(super) fn best_rows(m: u64, most: u32) -> u32 {
    let cost = |r: u32| {
        let tiles = m.div_ceil(u64::from(r));
        // A tile costs its rows and a share for the vectors it loads.
        tiles * (u64::from(r) * 2 + 3)
    };
    (1..=most.max(1)).rev().min_by_key(|&r| cost(r.min(m as u32).max(1))).unwrap_or(1).min(m.max(1) as u32)
}

/// The statements of the kernel.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    match roles(nest) {
        Some(roles) => tiles(nest, s, &roles, frame),
        None => Vec::new(),
    }
}

/// The statements of a contraction whose parts have these roles.
fn tiles(nest: &Nest, s: &Schedule, roles: &Roles, frame: &mut Frame) -> Vec<Stmt> {
    let (n, lanes) = (&nest.axes[roles.n], i64::from(s.lanes));
    let outer: Vec<&Axis> =
        (0..nest.axes.len()).filter(|&k| k != roles.n && Some(k) != roles.m).map(|k| &nest.axes[k]).collect();
    let m_extent = roles.m.map_or(Dim::from(1), |m| nest.axes[m].extent.clone());
    let columns = Tiles::new(&n.extent, i64::from(s.nr) * lanes, lanes);
    let rows = Tiles::rows(&m_extent, i64::from(s.mr));

    // The larger factor is streamed once: its tiles are the outer loop.
    let size = |f: &Flat| -> Option<i64> {
        f.loads()
            .iter()
            .map(|l| match l {
                Flat::Load { input, .. } => nest.inputs[*input].len.as_const(),
                _ => None,
            })
            .sum()
    };
    let rows_outside = match (size(roles.scalar), size(roles.vector)) {
        (Some(a), Some(b)) => a > b && !rows.steps().is(1),
        _ => false,
    };
    let (jt, it) = (Sym::new("jt"), Sym::new("it"));
    let outer_extents: Vec<Dim> = outer.iter().map(|a| a.extent.clone()).collect();
    let extents: Vec<Dim> = match rows_outside {
        true => vec![rows.steps()],
        false => [&outer_extents[..], &[columns.steps()]].concat(),
    };
    let index = frame.index(&extents);
    let mut tile = TileMaker { nest, s, roles, axes: HashMap::new(), sums: None, frame };
    if rows_outside {
        tile.axes.extend(outer.iter().map(|a| (a.var.clone(), a.dim())));
        let row = index[0].clone();
        let body = rows.visit(&row, &mut |m0, count| {
            columns.each(&jt, &mut |n0, width| tile.make(m0.clone(), count, n0, width))
        });
        let loops: Vec<Axis> = outer.iter().map(|a| (*a).clone()).collect();
        tile.frame.outermost(&extents, nested(&loops, body))
    } else {
        tile.axes.extend(outer.iter().zip(&index).map(|(a, i)| (a.var.clone(), i.clone())));
        let column = index[outer.len()].clone();
        let body = columns.visit(&column, &mut |n0, width| {
            rows.each(&it, &mut |m0, count| tile.make(m0, count, n0.clone(), width))
        });
        tile.frame.outermost(&extents, body)
    }
}

/// How an axis is cut into tiles: whole ones, and one partial one at the end.
pub(super) struct Tiles {
    /// Elements of a whole tile.
    width: i64,
    /// Whole tiles.
    whole: Dim,
    /// Elements of the last, partial tile.
    rest: i64,
    /// An axis of unknown extent is cut into units, each possibly partial.
    unknown: bool,
    /// Rows after the whole tiles of an unknown number.
    elements: Dim,
}

/// The part of a tile that is there.
#[derive(Clone, Copy)]
pub(super) struct Part {
    /// Elements of the tile.
    pub width: i64,
    /// Whether some of them may lie beyond the end.
    pub partial: bool,
}

impl Tiles {
    pub fn new(extent: &Dim, width: i64, unit: i64) -> Tiles {
        let none = Dim::from(0);
        match extent.as_const() {
            Some(n) => {
                Tiles { width, whole: (n / width).into(), rest: n % width, unknown: false, elements: none }
            }
            None => {
                let whole = extent.ceil_div(&unit.into());
                Tiles { width: unit, whole, rest: 0, unknown: true, elements: none }
            }
        }
    }

    /// Tiles of rows, for [`Tiles::each`]; those that are left of an unknown number are tiles of one row.
    fn rows(extent: &Dim, width: i64) -> Tiles {
        if extent.as_const().is_some() {
            return Tiles::new(extent, width, 1);
        }
        let whole = extent.floor_div(&width.into());
        let elements = extent.clone() - whole.clone() * width.into();
        Tiles { width, whole, rest: 0, unknown: false, elements }
    }

    /// Iterations of a loop over whole tiles, of which the last also does the partial one.
    pub fn steps(&self) -> Dim {
        if self.whole.is(0) { 1.into() } else { self.whole.clone() }
    }

    /// The statements of step `at` of [`Tiles::steps`].
    pub fn visit(&self, at: &Dim, make: &mut dyn FnMut(Dim, Part) -> Vec<Stmt>) -> Vec<Stmt> {
        let mut out = Vec::new();
        if !self.whole.is(0) {
            let part = Part { width: self.width, partial: self.unknown && self.width > 1 };
            out.extend(make(at.clone() * self.width.into(), part));
        }
        if self.rest > 0 {
            let last = make(self.whole.clone() * self.width.into(), Part { width: self.rest, partial: true });
            match self.steps().is(1) {
                true => out.extend(last),
                // One iteration in the last step, none before.
                false => {
                    let once = (at.clone() + 1.into()).floor_div(&self.steps());
                    out.push(Stmt::serial(&Sym::new(&format!("last{}", self.width)), once, last));
                }
            }
        }
        out
    }

    /// A serial loop over all tiles.
    pub fn each(&self, var: &Sym, make: &mut dyn FnMut(Dim, Part) -> Vec<Stmt>) -> Vec<Stmt> {
        let mut out = Vec::new();
        if !self.whole.is(0) {
            let part = Part { width: self.width, partial: self.unknown && self.width > 1 };
            let body = make(Dim::sym(var) * self.width.into(), part);
            out.push(Stmt::serial(var, self.whole.clone(), body));
        }
        if self.rest > 0 {
            out.extend(make(
                self.whole.clone() * self.width.into(),
                Part { width: self.rest, partial: true },
            ));
        }
        if !self.elements.is(0) {
            let at = self.whole.clone() * self.width.into() + Dim::sym(var);
            let body = make(at, Part { width: 1, partial: false });
            out.push(Stmt::serial(var, self.elements.clone(), body));
        }
        out
    }
}

/// Makes the statements of one register tile.
pub(super) struct TileMaker<'a> {
    pub nest: &'a Nest,
    pub s: &'a Schedule,
    pub roles: &'a Roles<'a>,
    /// What the outer axes are.
    pub axes: HashMap<Sym, Dim>,
    /// Sums of earlier terms, to which the tile's are added.
    pub sums: Option<&'a Sums>,
    pub frame: &'a mut Frame,
}

/// An array of sums.
pub(super) struct Sums {
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
        axes.extend(as_loops(nest.over()));
        let unroll =
            |var: &Sym, count: i64, body: Vec<Stmt>| Stmt::loop_of(var, count.into(), LoopKind::Unroll, body);
        let at = (Dim::sym(&i) * vectors.into() + Dim::sym(&j)) * lanes.into();

        let mut e = Emitter::new(nest, axes, self.s.lanes, self.frame);
        let mask_of = |e: &mut Emitter| masked.then(|| e.tail(&n.dim(), &n.extent));
        let zero = Value::new(Expr::Const(nest.acc, Scalar::zero(nest.acc)), nest.acc, 1).widen(self.s.lanes);
        let earlier = self.sums.map(|sums| (sums, e.index(&sums.at).widen(self.s.lanes)));
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
        let end = match earlier {
            Some((sums, at)) => vec![Stmt::store(&sums.buffer, at, result.expr)],
            None => {
                let mask = mask_of(&mut e);
                let mut end = e.take_lets();
                let result = e.bind(result);
                end.extend(finish(&mut e, nest, result, mask.as_ref()));
                end
            }
        };

        let b_type = vector_dtype(nest, self.roles.vector);
        let mut out = vec![register(&acc, nest.acc, rows.width * vectors * lanes)];
        if shared {
            out.push(register(&vec, b_type, vectors * lanes));
        }
        out.push(unroll(&i, rows.width, vec![unroll(&j, vectors, vec![start])]));
        out.extend(nested(nest.over(), step));
        out.push(unroll(&i, rows.width, vec![unroll(&j, vectors, end)]));
        out
    }
}

/// The element type of a factor: that of its cast, or of its load.
fn vector_dtype(nest: &Nest, f: &Flat) -> DType {
    match f {
        Flat::Cast(t, _) => *t,
        Flat::Load { input, .. } => nest.inputs[*input].dtype,
        _ => nest.acc,
    }
}
