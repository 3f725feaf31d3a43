//! What the kernels of attention have in common: blocks of queries, tiles on their way to shared memory, and what the
//! threads that share queries do together.

use super::super::Frame;
use super::super::emit::{Emitter, Value};
use super::super::nest::{Flat, Nest};
use super::super::reduce::{lanes_at, read};
use super::{Attention, column, element, key, row, threads, warps};
use aic_ir::compute::Compute;
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::dtype::DType::{self, F32};
use aic_ir::kernel::{Buffer, Expr, Kernel, Level, LoopKind, Param, Scope, Stmt};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::schedule::{Class, Place, Schedule, Tile};
use aic_ir::target::Target;
use aic_ir::verify;
use std::collections::{BTreeSet, HashMap};

/// Queries of a block, and keys of a tile.
pub const QUERIES: i64 = 64;
pub const KEYS: i64 = 32;
/// Warps of a block, and its threads.
pub const WARPS: i64 = 4;
const THREADS: i64 = WARPS * 32;
/// The longest value: a thread has its share in registers.
const LONGEST: i64 = 128;

/// The kernel of an attention that fits the machine: by matrix instructions, or by threads.
pub fn kernel(name: &str, c: &Compute, target: &Target) -> Option<(Schedule, Kernel)> {
    let a = super::attention(c)?;
    let [size, value_size] = a.sizes;
    let is_possible = value_size <= LONGEST && size > 0 && value_size > 0 && !a.keys.is(0);
    if !is_possible || a.rows.iter().any(|r| r.extent.is(0)) {
        return None;
    }
    let block = Block::new(&a);
    let (unit, body) = match warps::unit(&a, target) {
        Some((unit, dtype)) => (unit.name.clone(), warps::body(&block, unit, dtype)),
        None => (String::new(), threads::body(&block)),
    };
    let mut symbols: BTreeSet<Sym> = a.scores.symbols();
    symbols.extend(a.values.symbols());
    symbols.extend(a.rows.iter().flat_map(|r| r.extent.symbols()).chain(a.keys.symbols()));
    let own: Vec<Sym> = (0..a.rows.len()).map(row).chain([key(), column(), element()]).collect();
    let symbols = symbols.into_iter().filter(|s| !own.contains(s)).map(|s| (s, Range::DIM)).collect();
    let output = &a.values.output;
    let inputs = a.values.inputs.iter().take(c.inputs.len());
    let params = inputs.chain([output]).map(|b| Param { buffer: b.clone(), writable: b.name == output.name });
    let k = Kernel { name: name.into(), params: params.collect(), symbols, body };
    let tile = Tile { place: Place::Block, extent: [QUERIES, KEYS, size].map(|n| n as u32), buffers: 1 };
    let s = Schedule { unit, tiles: vec![tile], ..Schedule::new(Class::Staged, 1) };
    verify::kernel_for(&k, target).is_empty().then_some((s, k))
}

/// What a block does.
pub struct Block<'a> {
    pub a: &'a Attention,
    /// Blocks along the queries, and along the other rows.
    grid: [Dim; 2],
    /// The first query.
    pub origin: Dim,
    /// What the axes of the rows are, but for the query.
    outer: HashMap<Sym, Dim>,
}

/// A tile on its way to shared memory. Elements beyond its extents are zero.
pub struct Bring<'a> {
    pub buffer: &'static str,
    pub dtype: DType,
    pub nest: &'a Nest,
    pub value: &'a Flat,
    /// The axis of the queries or keys, how many a tile has, the first one, and how many there are.
    pub own: (Sym, i64, Dim, Dim),
    /// The axis along a query, key or value, its extent, and that in shared memory.
    pub along: (Sym, i64, i64),
    /// Steps of both in shared memory.
    pub steps: [i64; 2],
}

pub fn scalar(f: ScalarFn, args: [Expr; 2]) -> Expr {
    Expr::call(f, args)
}

pub fn constant(value: f64) -> Expr {
    Expr::Const(F32, Scalar::F(value))
}

pub fn value(e: Expr, dtype: DType) -> Value {
    Value::new(e, dtype, 1)
}

pub fn is_below(index: Dim, extent: &Dim) -> Expr {
    scalar(ScalarFn::Lt, [Expr::Index(index), Expr::Index(extent.clone())])
}

pub fn unroll(name: &str, n: i64, body: Vec<Stmt>) -> Stmt {
    Stmt::loop_of(&Sym::new(name), n.into(), LoopKind::Unroll, body)
}

/// A thread's registers of this name.
pub fn held(name: &str, at: Dim, lanes: i64) -> Expr {
    read(&Sym::new(name), at, lanes as u32, F32).expr
}

pub fn hold(name: &str, at: Dim, lanes: i64, value: Expr) -> Stmt {
    Stmt::store(&Sym::new(name), lanes_at(at, lanes as u32), value)
}

pub fn spread(e: Expr, lanes: i64) -> Expr {
    if lanes == 1 { e } else { Expr::Broadcast(e.into(), lanes as u32) }
}

/// An array in shared memory.
pub fn shared(name: &str, dtype: DType, len: i64) -> Stmt {
    Stmt::Alloc(Buffer { name: Sym::new(name), dtype, len: len.into(), scope: Scope::Shared })
}

/// Registers set to a number.
pub fn clear(name: &str, n: i64, to: f64) -> Stmt {
    unroll("i", n, vec![hold(name, Dim::named("i"), 1, constant(to))])
}

impl<'a> Block<'a> {
    fn new(a: &'a Attention) -> Block<'a> {
        let index = |name: &str, extent: &Dim| if extent.is(1) { 0.into() } else { Dim::named(name) };
        let others: Vec<usize> = (0..a.rows.len()).filter(|k| *k != a.query).collect();
        let extents: Vec<Dim> = others.iter().map(|k| a.rows[*k].extent.clone()).collect();
        let blocks = a.rows[a.query].extent.ceil_div(&QUERIES.into());
        let n_others: Dim = extents.iter().product();
        let at = aic_ir::op::unflatten(&index("bz", &n_others), &extents);
        let outer = others.iter().map(|k| row(*k)).zip(at).collect();
        let origin = index("bq", &blocks) * QUERIES.into();
        Block { a, grid: [blocks, n_others], origin, outer }
    }

    /// What the axes of the rows are for a query of the block.
    pub fn axes(&self, query: &Dim) -> HashMap<Sym, Dim> {
        let mut axes = self.outer.clone();
        axes.insert(row(self.a.query), self.origin.clone() + query.clone());
        axes
    }

    /// The number of queries.
    pub fn queries(&self) -> &'a Dim {
        &self.a.rows[self.a.query].extent
    }

    /// An element of a query, and one of a key.
    pub fn factors(&self) -> [&'a Flat; 2] {
        match &self.a.scores.value {
            Flat::Call(_, args) if args.len() == 2 => [&args[0], &args[1]],
            other => [other, other], // no attention has other scores
        }
    }

    /// The loops around what a thread does, and the arrays that a block shares.
    pub fn loops(&self, mut shared: Vec<Stmt>, thread: Vec<Stmt>) -> Vec<Stmt> {
        let bound = |name: &str, extent: Dim, level, body| {
            vec![Stmt::loop_of(&Sym::new(name), extent, LoopKind::Bind(level), body)]
        };
        let thread = bound("thread", 32.into(), Level::Thread(0), thread);
        shared.extend(bound("warp", WARPS.into(), Level::Warp, thread));
        let levels = [("bq", Level::Block(0)), ("bz", Level::Block(1))].into_iter().zip(&self.grid);
        levels
            .filter(|(_, extent)| !extent.is(1))
            .fold(shared, |body, ((name, level), extent)| bound(name, extent.clone(), level, body))
    }

    /// The loop over tiles of keys.
    pub fn tiles(&self, body: Vec<Stmt>) -> Stmt {
        Stmt::serial(&Sym::new("tile"), self.a.keys.ceil_div(&KEYS.into()), body)
    }

    /// A thread's share of a tile.
    pub fn bring(&self, b: &Bring, frame: &mut Frame) -> Vec<Stmt> {
        let (var, n, origin, extent) = &b.own;
        let (along, size, padded) = &b.along;
        let total = n * padded;
        let r = Sym::new("r");
        let thread = Dim::named("warp") * 32.into() + Dim::named("thread");
        let number = Dim::sym(&r) * THREADS.into() + thread;
        let is_along = b.value.steps(along).iter().any(|s| s.as_ref().is_some_and(|s| s.is(1)));
        let inner = Dim::from(if is_along { *padded } else { *n });
        let (quotient, rest) = (number.floor_div(&inner), number.modulo(&inner));
        let (own, at) = if is_along { (quotient, rest) } else { (rest, quotient) };
        let index = origin.clone() + own.clone();
        let mut axes = self.outer.clone();
        axes.extend([(var.clone(), index.clone()), (along.clone(), at.clone())]);
        let mut e = Emitter::new(b.nest, axes, 1, frame);
        let masks = [
            (!extent.is_multiple(*n)).then(|| is_below(index, extent)),
            (size < padded).then(|| is_below(at.clone(), &(*size).into())),
        ];
        let mask = all_of(&mut e, masks);
        let mut element = e.expr(b.value, mask.as_ref());
        if let Some(mask) = mask.filter(|_| !b.value.is_load()) {
            let zero = value(Expr::Const(b.dtype, Scalar::zero(b.dtype)), b.dtype);
            element = e.call(ScalarFn::Select, vec![mask, element, zero]);
        }
        let mut body = e.take_lets();
        let to = own * b.steps[0].into() + at * b.steps[1].into();
        body.push(Stmt::store(&Sym::new(b.buffer), Expr::Index(to), element.expr));
        if total % THREADS != 0 {
            body = vec![Stmt::If { cond: is_below(number, &total.into()), then: body, other: Vec::new() }];
        }
        vec![Stmt::serial(&r, ((total + THREADS - 1) / THREADS).into(), body)]
    }

    /// The score of a query of the block and a key of the tile, given what lies in register `at`, instead of which it
    /// is stored; minus infinity beyond the last key.
    pub fn score(&self, query: &Dim, of_tile: Dim, at: Dim, frame: &mut Frame) -> Vec<Stmt> {
        let number = Dim::named("tile") * KEYS.into() + of_tile;
        let mut axes = self.axes(query);
        axes.insert(key(), number.clone());
        let mut e = Emitter::new(&self.a.scores, axes, 1, frame);
        let partial =
            |index: Dim, extent: &Dim, n: i64| (!extent.is_multiple(n)).then(|| is_below(index, extent));
        let is_key = all_of(&mut e, [partial(number, &self.a.keys, KEYS), None]);
        let is_query = partial(self.origin.clone() + query.clone(), self.queries(), QUERIES);
        let mask = all_of(&mut e, [is_key.clone().map(|m| m.expr), is_query]);
        e.acc = Some(e.bind(value(held("score", at.clone(), 1), F32)));
        let score = self.a.scores.epilogue.clone().unwrap_or(Flat::Acc);
        let mut score = e.expr(&score, mask.as_ref());
        if let Some(is_key) = is_key {
            let none = value(constant(f64::NEG_INFINITY), F32);
            score = e.call(ScalarFn::Select, vec![is_key, score, none]);
        }
        let mut body = e.take_lets();
        body.push(hold("score", at, 1, score.expr));
        body
    }

    /// The exponentials of the scores of query `i` of a thread, in registers `scores`, instead of which they are stored;
    /// the query's maximum and total with them. Gives what was summed up before is to be multiplied by.
    pub fn weights(
        &self,
        i: &Dim,
        scores: &[Dim],
        width: i64,
        frame: &mut Frame,
        out: &mut Vec<Stmt>,
    ) -> Expr {
        let mut e = Emitter::new(&self.a.scores, HashMap::new(), 1, frame);
        let float = |e| value(e, F32);
        let before = held("most", i.clone(), 1);
        let own =
            scores.iter().map(|at| held("score", at.clone(), 1)).reduce(|a, b| scalar(ScalarFn::Max, [a, b]));
        let own = own.unwrap_or_else(|| before.clone());
        let most = together(&mut e, own, ScalarFn::Max, width, out);
        let most = e.bind(float(scalar(ScalarFn::Max, [before.clone(), most])));
        let is_none = scalar(ScalarFn::Eq, [most.expr.clone(), constant(f64::NEG_INFINITY)]);
        let shift = Expr::call(ScalarFn::Select, [is_none, constant(0.0), most.expr.clone()]);
        let shift = e.bind(float(shift));
        let relative = |x: Expr| Expr::call(ScalarFn::Exp, [scalar(ScalarFn::Sub, [x, shift.expr.clone()])]);
        let fade = e.bind(float(relative(before)));
        let weights: Vec<Value> =
            scores.iter().map(|at| e.bind(float(relative(held("score", at.clone(), 1))))).collect();
        let sum = weights.iter().map(|w| w.expr.clone()).reduce(|a, b| scalar(ScalarFn::Add, [a, b]));
        out.extend(e.take_lets());
        let sum = together(&mut e, sum.unwrap_or_else(|| constant(0.0)), ScalarFn::Add, width, out);
        let total = Expr::call(ScalarFn::Fma, [held("total", i.clone(), 1), fade.expr.clone(), sum]);
        out.push(hold("total", i.clone(), 1, total));
        out.push(hold("most", i.clone(), 1, most.expr));
        out.extend(scores.iter().zip(weights).map(|(at, w)| hold("score", at.clone(), 1, w.expr)));
        fade.expr
    }

    /// A result in registers over the total of query `i` of a thread; 0 where there are no keys.
    pub fn quotient(&self, i: &Dim, own: Dim, lanes: i64) -> Expr {
        let total = spread(held("total", i.clone(), 1), lanes);
        let result = scalar(ScalarFn::Div, [held("result", own, lanes), total]);
        if self.a.keys.as_const().is_some() {
            return result;
        }
        let is_none = scalar(ScalarFn::Eq, [Expr::Index(self.a.keys.clone()), Expr::int(0)]);
        Expr::call(ScalarFn::Select, [spread(is_none, lanes), spread(constant(0.0), lanes), result])
    }
}

/// Conditions together.
fn all_of(e: &mut Emitter, conditions: [Option<Expr>; 2]) -> Option<Value> {
    let all = conditions.into_iter().flatten().reduce(|a, b| scalar(ScalarFn::And, [a, b]))?;
    Some(e.bind(value(all, DType::Bool)))
}

/// What `width` neighbouring threads have, combined: each takes it of those half as far on, and so on.
fn together(e: &mut Emitter, own: Expr, combine: ScalarFn, width: i64, out: &mut Vec<Stmt>) -> Expr {
    let mut all = e.bind(value(own, F32));
    out.extend(e.take_lets());
    let (thread, width) = (Dim::named("thread"), Dim::from(width));
    let mut distance = width.constant() / 2;
    while distance > 0 {
        let var = Sym::new(&format!("s{}", e.frame.next()));
        let within = (thread.modulo(&width) + distance.into()).modulo(&width);
        let lane = thread.floor_div(&width) * width.clone() + within;
        out.push(Stmt::Shuffle { var: var.clone(), value: all.expr.clone(), lane });
        let other = Expr::Var(var, all.ty);
        all = e.bind(value(scalar(combine, [all.expr, other]), F32));
        out.extend(e.take_lets());
        distance /= 2;
    }
    all.expr
}
