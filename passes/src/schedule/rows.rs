//! Rows on a GPU: reductions along a row and maps over it, one after the other, by the threads of a warp or a block.
//!
//! A thread takes vectors of the row, as many apart as there are threads, and keeps what lies between the phases of them
//! in registers; so a row is read once and written once. A reduction is finished by shuffles, and among the warps of a
//! block by shared memory; all threads then have its result, with the same bits. How a sum is associated depends on the
//! length of the row alone.
//!
//! Of a schedule: `block` is the rows of a block and the threads of a row, `warp` the vectors that a thread takes, `nr`
//! the number of axes that are rows.

pub mod npu;

use super::emit::{Emitter, Value, lane};
use super::group::{Common, Group};
use super::nest::{Arrays, Flat, Nest, Place as At, strides};
use super::reduce::{lanes_at, read, register};
use super::{Frame, store};
use aic_ir::bail;
use aic_ir::compute::Source;
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::error::Result;
use aic_ir::kernel::{Buffer, Expr, Kernel, Level, LoopKind, Param, Scope, Stmt};
use aic_ir::scalar::ScalarFn;
use aic_ir::schedule::{Class, Place, Schedule, Tile};
use aic_ir::target::Target;
use aic_ir::types::Type;
use aic_ir::verify;
use std::collections::{BTreeSet, HashMap};

/// Threads of a warp.
const WARP: i64 = 32;
/// Warps of a block, of which each has a row.
const WARPS: i64 = 4;
/// Vectors of a row that a thread keeps in registers.
const VECTORS: i64 = 8;
/// Threads of a block at most.
const THREADS: i64 = 1024;

/// How the threads share a row.
#[derive(Clone, Copy)]
struct Shape {
    /// Elements of a row.
    len: i64,
    /// Elements of a vector: two accesses of 16 bytes of `f32`, one of 16-bit floats.
    lanes: i64,
    /// Threads of a row.
    threads: i64,
    /// Vectors of a thread; the last one may be beyond the end.
    vectors: i64,
    /// Rows of a block.
    rows: i64,
}

impl Shape {
    fn new(len: i64) -> Shape {
        let lanes = [8, 4, 2].into_iter().find(|n| len % n == 0).unwrap_or(1);
        let vectors = len / lanes;
        let one = vectors <= WARP * VECTORS;
        let even = (vectors / (VECTORS / 2)).unsigned_abs().next_power_of_two().cast_signed();
        let threads = if one { WARP } else { even.clamp(WARP, THREADS) };
        let rows = if one { WARPS } else { 1 };
        Shape { len, lanes, threads, vectors: (vectors + threads - 1) / threads, rows }
    }

    fn warps(&self) -> i64 {
        self.threads / WARP
    }

    /// Whether rows are kept in registers.
    fn is_kept(&self) -> bool {
        self.vectors <= VECTORS
    }

    /// The number of a thread within its row.
    fn thread(&self) -> Dim {
        match self.warps() {
            1 => Dim::named("thread"),
            _ => Dim::named("warp") * WARP.into() + Dim::named("thread"),
        }
    }
}

/// The terms that a reduction along rows of so many elements adds up independently.
pub fn lanes(len: i64) -> u32 {
    let s = Shape::new(len);
    u32::try_from(s.lanes * s.threads).unwrap_or(u32::MAX)
}

/// The kernel of a compute, if its phases are about rows, and the machine has all for it.
pub fn kernel(name: &str, g: &Group, target: &Target) -> Option<(Schedule, Kernel)> {
    let distinct = g.outputs.iter().enumerate().all(|(k, o)| !g.outputs[..k].contains(o));
    let is_reduction = g.phases.iter().any(|p| p.reduction.is_some());
    let rows = g.common.iter().filter(|c| c.is_total()).count();
    if !distinct || !is_reduction {
        return None;
    }
    (0..=rows).rev().find_map(|n| {
        let rows = Rows::new(g, n)?;
        let k = rows.kernel(name).ok()?;
        let s = rows.schedule();
        verify::kernel_for(&k, target).is_empty().then_some((s, k))
    })
}

/// The elements of a row along these axes; `None` if the phases are not about rows of one length.
fn row_length(group: &Group, axes: &[&Common]) -> Option<i64> {
    let mut len = None;
    for (k, p) in group.phases.iter().enumerate() {
        let is_row = |v: &Sym| axes.iter().any(|c| c.vars[k].as_ref() == Some(v));
        let free = p.axes.iter().filter(|a| !is_row(&a.var));
        let columns: Dim = free.chain(p.over()).map(|a| &a.extent).product();
        if p.reduction.is_some() && p.axes.iter().any(|a| !is_row(&a.var) && !a.extent.is(1)) {
            return None;
        }
        // What is stored for others isn't read again here.
        let mut is_read = false;
        p.visit_stages(&mut |stage, _| is_read |= group.outputs.contains(&stage));
        let columns = columns.as_const().filter(|_| !is_read)?;
        if columns != 1 && *len.get_or_insert(columns) != columns {
            return None;
        }
    }
    len
}

/// Adds the array of a stage that a phase writes at a position.
type Between<'a> = dyn FnMut(usize, usize, &[Dim], &mut Arrays) -> Result<()> + 'a;

/// The arrays of a kernel: operands and results in memory, what lies between phases where `between` puts it.
fn arrays(g: &Group, between: &mut Between<'_>) -> Result<Arrays> {
    let mut arrays = g.passed();
    for (w, p) in g.phases.iter().enumerate() {
        let kept = p.kept.iter().map(|(stage, at)| (*stage, at));
        for (stage, at) in kept.chain([(p.result, &p.at)]) {
            if !g.outputs.contains(&stage) {
                between(stage, w, at, &mut arrays)?;
            }
        }
    }
    Ok(arrays)
}

/// How many elements of a stage's array one row has, and their strides.
fn of_row(axes: &[&Common], writer: usize, at: &[Dim], ty: &Type) -> (Dim, Vec<Dim>) {
    let is_row = |d: &Dim| axes.iter().any(|c| c.vars[writer].as_ref() == d.as_sym());
    let extent = |(d, extent): (&Dim, &Dim)| if is_row(d) { 1.into() } else { extent.clone() };
    let extents: Vec<Dim> = at.iter().zip(&ty.dims).map(extent).collect();
    let step = |(step, extent): (Dim, &Dim)| if extent.is(1) { 0.into() } else { step };
    let strides = strides(extents.iter()).into_iter().zip(&extents).map(step).collect();
    (extents.iter().product(), strides)
}

struct Rows<'a> {
    group: &'a Group,
    /// The axes of the rows.
    axes: Vec<&'a Common>,
    shape: Shape,
}

impl<'a> Rows<'a> {
    /// Rows along the first `n` axes that all phases have; `None` if the phases are not about rows of one length.
    fn new(group: &'a Group, n: usize) -> Option<Rows<'a>> {
        let axes: Vec<&Common> = group.common.iter().filter(|c| c.is_total()).take(n).collect();
        let len = row_length(group, &axes)?;
        Some(Rows { group, axes, shape: Shape::new(len) })
    }

    fn schedule(&self) -> Schedule {
        let s = &self.shape;
        let tile = |place, m: i64, n: i64| Tile { place, extent: [m as u32, n as u32, 1], buffers: 1 };
        let tiles = vec![tile(Place::Block, s.rows, s.threads), tile(Place::Warp, 1, s.vectors)];
        let nr = self.axes.len() as u32;
        Schedule { tiles, nr, ..Schedule::new(Class::Staged, s.lanes as u32) }
    }

    fn extents(&self) -> Vec<Dim> {
        self.axes.iter().map(|c| c.extent.clone()).collect()
    }

    /// The number of the row at hand.
    fn row(&self) -> Dim {
        match self.shape.rows {
            1 => Dim::named("block"),
            rows => Dim::named("block") * rows.into() + Dim::named("warp"),
        }
    }

    /// The arrays: operands and results in global memory, what lies between phases in registers.
    fn arrays(&self) -> Result<Arrays> {
        arrays(self.group, &mut |stage, w, at, arrays| self.between(stage, w, at, arrays))
    }

    /// A stage's array in registers: one element, or those of a row that a thread takes.
    fn between(&self, stage: usize, writer: usize, at: &[Dim], arrays: &mut Arrays) -> Result<()> {
        let ty = &self.group.stages[stage];
        let (len, strides) = of_row(&self.axes, writer, at, ty);
        let own = if len.is(1) { 1 } else { self.shape.vectors * self.shape.lanes };
        if !(len.is(1) || self.shape.is_kept() && len.is(self.shape.len)) {
            bail!("stage {stage} is no row that fits into registers")
        }
        let place = At { buffer: arrays.buffers.len(), strides, offset: 0.into() };
        let name = Sym::new(&format!("row{stage}"));
        arrays.buffers.push(Buffer { name, dtype: ty.dtype, len: own.into(), scope: Scope::Register });
        arrays.places.insert(Source::Stage(stage), place);
        Ok(())
    }

    fn kernel(&self, name: &str) -> Result<Kernel> {
        let arrays = self.arrays()?;
        let extents = self.extents();
        let index = aic_ir::op::unflatten(&self.row(), &extents);
        let mut symbols: BTreeSet<Sym> = extents.iter().flat_map(Dim::symbols).collect();
        let is_local = |b: &&Buffer| b.scope == Scope::Register;
        let mut body: Vec<Stmt> = arrays.buffers.iter().filter(is_local).cloned().map(Stmt::Alloc).collect();
        let mut counter = 0;
        for k in 0..self.group.phases.len() {
            let outer = |s: &Sym| {
                let at = self.axes.iter().position(|c| c.vars[k].as_ref() == Some(s))?;
                Some(index[at].clone())
            };
            let nest = Nest::of(&self.group.phases[k], &arrays, &outer)?;
            symbols.extend(nest.symbols());
            let mut frame = Frame { stage: Some(k), counter, threads: None };
            body.extend(Phase::new(self.shape, nest)?.statements(&mut frame)?);
            counter = frame.counter;
        }
        let param =
            |b: &Buffer, k: usize| Param { buffer: b.clone(), writable: k >= self.group.inputs.len() };
        let passed = arrays.buffers.iter().filter(|b| b.scope != Scope::Register);
        let params = passed.enumerate().map(|(k, b)| param(b, k)).collect();
        let is_free = |s: &Sym| !["block", "warp", "thread", "lane"].contains(&s.name());
        let symbols = symbols.into_iter().filter(is_free).map(|s| (s, Range::DIM)).collect();
        Ok(Kernel { name: name.into(), params, symbols, body: self.grid(&extents.iter().product(), body) })
    }

    /// Blocks, warps and threads around what a thread does.
    fn grid(&self, n_rows: &Dim, mut body: Vec<Stmt>) -> Vec<Stmt> {
        let s = &self.shape;
        if !n_rows.is_multiple(s.rows) {
            let cond = Expr::call(ScalarFn::Lt, [Expr::Index(self.row()), Expr::Index(n_rows.clone())]);
            body = vec![Stmt::If { cond, then: body, other: Vec::new() }];
        }
        let bound = |name: &str, extent: Dim, level, body| {
            Stmt::loop_of(&Sym::new(name), extent, LoopKind::Bind(level), body)
        };
        let body = vec![bound("thread", WARP.into(), Level::Thread(0), body)];
        let warps = bound("warp", (s.rows * s.warps()).into(), Level::Warp, body);
        let shared = (0..self.group.phases.len())
            .filter(|k| s.warps() > 1 && self.group.phases[*k].reduction.is_some())
            .map(|k| {
                let (name, dtype) = (parts(k), self.group.phases[k].acc);
                Stmt::Alloc(Buffer { name, dtype, len: s.warps().into(), scope: Scope::Shared })
            });
        let body = shared.chain([warps]).collect();
        vec![bound("block", n_rows.ceil_div(&s.rows.into()), Level::Block(0), body)]
    }
}

/// The results of the warps of a block, in shared memory.
fn parts(phase: usize) -> Sym {
    Sym::new(&format!("parts_{phase}"))
}

/// A phase of a row.
struct Phase {
    shape: Shape,
    nest: Nest,
    /// The axis along the row, if it has one.
    column: Option<Sym>,
}

/// The position of an element among those that a thread has.
fn own() -> Sym {
    Sym::new("own")
}

impl Phase {
    fn new(shape: Shape, mut nest: Nest) -> Result<Phase> {
        let column = match (&nest.axes[..], nest.over()) {
            ([], []) => None,
            ([a], []) | ([], [a]) if a.extent.is(shape.len) => Some(a.var.clone()),
            _ => bail!("a row is not one axis"),
        };
        if nest.reduction.as_ref().is_some_and(|(op, _)| op.combine().is_none()) {
            bail!("its reduction has no partial results")
        }
        let is_far = |step: &Option<Dim>| step.as_ref().is_some_and(|d| !d.is(0) && !d.is(1));
        if let Some(c) = &column
            && nest.value.steps(c).iter().any(is_far)
        {
            bail!("the elements of a row lie apart")
        }
        if let Some(c) = &column {
            let buffers = nest.inputs.clone();
            let is_own = |b: &Buffer| b.scope == Scope::Register && !b.len.is(1);
            nest.value = localized(&nest.value, c, &|input| is_own(&buffers[input]))?;
            if is_own(&nest.output) {
                nest.at = owned(&nest.at, c)?;
            }
            if let Some((b, at)) = &mut nest.kept
                && is_own(b)
            {
                *at = owned(at, c)?;
            }
        }
        Ok(Phase { shape, nest, column })
    }

    fn statements(&self, frame: &mut Frame) -> Result<Vec<Stmt>> {
        match (&self.nest.reduction, &self.column) {
            (Some(_), Some(_)) => Ok(self.reduce(frame)),
            (None, Some(_)) => Ok(self.along(frame, |phase, e| {
                let lanes = e.lanes;
                let value = e.expr(&phase.nest.value, None);
                let index = e.index(&phase.nest.at).widen(lanes);
                let mut out = e.take_lets();
                out.push(store(&phase.nest, index, value.widen(lanes), None));
                out
            })),
            (None, None) => {
                let mut e = Emitter::new(&self.nest, HashMap::new(), 1, frame);
                let value = e.expr(&self.nest.value, None);
                let out = e.take_lets();
                Ok([out, self.once(store(&self.nest, Expr::Index(self.nest.at.clone()), value.expr, None))]
                    .concat())
            }
            (Some(_), None) => bail!("a reduction over nothing"),
        }
    }

    /// What is stored for the row as a whole: by one thread, if others see it.
    fn once(&self, s: Stmt) -> Vec<Stmt> {
        if self.nest.output.scope == Scope::Register {
            return vec![s];
        }
        vec![only(&self.shape.thread(), vec![s])]
    }

    /// For each of a thread's vectors what `f` makes of it.
    fn along(&self, frame: &mut Frame, f: impl Fn(&Phase, &mut Emitter) -> Vec<Stmt>) -> Vec<Stmt> {
        let s = &self.shape;
        let mut at = |j: &Dim| -> Vec<Stmt> {
            let vector = j.clone() * s.threads.into() + s.thread();
            let element = vector.clone() * s.lanes.into() + Dim::sym(&lane());
            let mut axes = HashMap::from([(own(), j.clone() * s.lanes.into() + Dim::sym(&lane()))]);
            axes.extend(self.column.iter().map(|c| (c.clone(), element.clone())));
            f(self, &mut Emitter::new(&self.nest, axes, s.lanes as u32, frame))
        };
        let vectors = s.len / s.lanes;
        let whole = vectors / s.threads;
        let mut out = Vec::new();
        if whole > 0 {
            let j = Sym::new("j");
            let kind = if s.is_kept() { LoopKind::Unroll } else { LoopKind::Serial };
            out.push(Stmt::loop_of(&j, whole.into(), kind, at(&Dim::sym(&j))));
        }
        if vectors % s.threads > 0 {
            let then = at(&whole.into());
            let vector = Dim::from(whole * s.threads) + s.thread();
            let cond = Expr::call(ScalarFn::Lt, [Expr::Index(vector), Expr::int(vectors)]);
            out.push(Stmt::If { cond, then, other: Vec::new() });
        }
        out
    }

    fn reduce(&self, frame: &mut Frame) -> Vec<Stmt> {
        let Some((op, _)) = &self.nest.reduction else { return Vec::new() };
        let Some(combine) = op.combine() else { return Vec::new() };
        let (s, nest, acc) = (&self.shape, &self.nest, frame.name("acc"));
        let lanes = s.lanes as u32;
        let identity = Value::new(Expr::Const(nest.acc, op.identity(nest.acc)), nest.acc, 1);
        let mut out = vec![
            register(&acc, nest.acc, s.lanes),
            Stmt::store(&acc, lanes_at(0.into(), lanes), identity.widen(lanes)),
        ];
        out.extend(self.along(frame, |phase, e| {
            let value = e.expr(&phase.nest.value, None);
            let value = e.bind(value);
            let new = e.call(combine, vec![read(&acc, 0.into(), e.lanes, nest.acc), value.clone()]);
            let mut out = e.take_lets();
            out.push(Stmt::store(&acc, lanes_at(0.into(), e.lanes), new.widen(e.lanes)));
            if let Some((buffer, at)) = &phase.nest.kept {
                let index = e.index(at).widen(e.lanes);
                out.push(Stmt::store(&buffer.name, index, value.widen(e.lanes)));
            }
            out
        }));
        let total = read(&acc, 0.into(), lanes, nest.acc).expr;
        let total = if lanes == 1 { total } else { Expr::Horizontal(*op, total.into()) };
        let mut e = Emitter::new(nest, HashMap::new(), 1, frame);
        let mut total = e.bind(Value::new(total, nest.acc, 1));
        out.extend(e.take_lets());
        // Every thread adds what the one so many further on has, which then has the sum of the same terms.
        for distance in [16, 8, 4, 2, 1] {
            let var = Sym::new(&format!("s{}", e.frame.next()));
            let lane = (Dim::named("thread") + distance.into()).modulo(&WARP.into());
            out.push(Stmt::Shuffle { var: var.clone(), value: total.expr.clone(), lane });
            let other = Value::new(Expr::Var(var, total.ty), nest.acc, 1);
            let sum = e.call(combine, vec![total, other]);
            total = e.bind(sum);
            out.extend(e.take_lets());
        }
        if s.warps() > 1 {
            out.extend(self.among_warps(&mut e, &mut total, combine));
        }
        let last = finish(&mut e, nest, total);
        let Some((last, before)) = last.split_last() else { return out };
        out.extend(before.iter().cloned());
        out.extend(self.once(last.clone()));
        out
    }

    /// The results of all warps, combined by every thread.
    fn among_warps(&self, e: &mut Emitter, total: &mut Value, combine: ScalarFn) -> Vec<Stmt> {
        let parts = parts(e.frame.stage.unwrap_or(0));
        let put = Stmt::store(&parts, Expr::Index(Dim::named("warp")), total.expr.clone());
        let mut out = vec![only(&Dim::named("thread"), vec![put]), Stmt::Barrier(Scope::Shared)];
        let acc = self.nest.acc;
        let of = |warp: i64| read(&parts, warp.into(), 1, acc);
        let mut sum = e.bind(of(0));
        for warp in 1..self.shape.warps() {
            let next = e.call(combine, vec![sum, of(warp)]);
            sum = e.bind(next);
        }
        out.extend(e.take_lets());
        *total = sum;
        out
    }
}

/// The epilogue of a reduction; its store is the last statement.
fn finish(e: &mut Emitter, nest: &Nest, acc: Value) -> Vec<Stmt> {
    super::reduce::finish(e, nest, acc, None)
}

/// What thread 0 does.
fn only(thread: &Dim, then: Vec<Stmt>) -> Stmt {
    let cond = Expr::call(ScalarFn::Eq, [Expr::Index(thread.clone()), Expr::int(0)]);
    Stmt::If { cond, then, other: Vec::new() }
}

/// An expression with the elements of rows in registers at the positions that a thread has them at.
fn localized(e: &Flat, column: &Sym, is_own: &dyn Fn(usize) -> bool) -> Result<Flat> {
    let all = |args: &[Flat]| args.iter().map(|a| localized(a, column, is_own)).collect::<Result<Vec<_>>>();
    Ok(match e {
        Flat::Const(..) | Flat::Acc | Flat::Index(_) => e.clone(),
        Flat::Load { input, address, terms } if is_own(*input) => {
            if !terms.is_empty() {
                bail!("a row is read at places that data say")
            }
            Flat::Load { input: *input, address: owned(address, column)?, terms: Vec::new() }
        }
        Flat::Load { input, address, terms } => {
            let terms = terms.iter().map(|(s, e)| Ok((s.clone(), localized(e, column, is_own)?)));
            Flat::Load { input: *input, address: address.clone(), terms: terms.collect::<Result<_>>()? }
        }
        Flat::Call(f, args) => Flat::Call(*f, all(args)?),
        Flat::Cast(t, e) => Flat::Cast(*t, localized(e, column, is_own)?.into()),
    })
}

/// The position of an element of a row that is at hand.
fn owned(at: &Dim, column: &Sym) -> Result<Dim> {
    if at.as_sym() != Some(column) {
        bail!("a thread needs elements of a row that others have")
    }
    Ok(Dim::sym(&own()))
}
