//! Contractions on a GPU without matrix instructions: a block's tiles of both factors in shared memory, two of each in
//! turn, and a tile of the output in the registers of each thread. Each result is one sum in the order of its terms.
//!
//! Factors are whatever expressions; their elements are computed as they are put into shared memory, so that a
//! convolution is one too.
//!
//! Of a schedule: `block` is the tile of a block, `warp` that of a thread.

use super::super::Frame;
use super::super::emit::{Emitter, Value, lane};
use super::super::nest::{Flat, Nest};
use super::super::reduce::{finish, lanes_at, read, register};
use super::sides::{Sides, at, points, sides};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Buffer, Expr, Level, LoopKind, Scope, Stmt};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::schedule::{Class, Place, Schedule, Tile};
use aic_ir::target::Target;
use std::collections::HashMap;

/// Tiles of blocks and of threads, the largest first: rows, columns, terms; rows and columns.
const TILES: [([u32; 3], [u32; 2]); 3] =
    [([128, 128, 8], [8, 8]), ([64, 64, 16], [4, 4]), ([32, 32, 16], [2, 4])];

/// Elements between the rows of a tile in shared memory, so that what is stored down a column is in other banks.
const PADDING: i64 = 4;

/// The largest tile of which there is one for each multiprocessor, if there is enough to reuse.
pub fn choose(nest: &Nest, target: &Target) -> Option<Schedule> {
    let s = sides(nest)?;
    let extent = |side: usize| s.extent(side).as_const().unwrap_or(128);
    let (m, n) = (extent(0), extent(1));
    if m < 4 || n < 4 || extent(2) < 4 || !matches!(nest.acc, DType::F32 | DType::F64 | DType::I32) {
        return None;
    }
    let units = target.level(LoopKind::Bind(Level::Block(0))).map_or(1, |l| i64::from(l.units));
    let batch = points(&s.batch).as_const().unwrap_or(8);
    let blocks = |[bm, bn, _]: [u32; 3]| {
        let tiles = |n: i64, of: u32| (n + i64::from(of) - 1) / i64::from(of);
        batch.saturating_mul(tiles(m, bm)).saturating_mul(tiles(n, bn))
    };
    let is_wasteful = |[bm, bn, _]: [u32; 3]| 2 * m <= i64::from(bm) || 2 * n <= i64::from(bn);
    let small = &TILES[if nest.acc == DType::F64 { 1 } else { 0 }..];
    let fits = |(block, _): &&([u32; 3], [u32; 2])| blocks(*block) >= units && !is_wasteful(*block);
    let (block, thread) = small.iter().find(fits).unwrap_or(&TILES[2]);
    let tile = |place, extent, buffers| Tile { place, extent, buffers };
    let tiles = vec![tile(Place::Block, *block, 2), tile(Place::Warp, [thread[0], thread[1], block[2]], 1)];
    Some(Schedule { tiles, ..Schedule::new(Class::Contract, 1) })
}

/// The statements of the kernel.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let Some(sides) = sides(nest) else { return Vec::new() };
    let (Some(block), Some(thread)) = (s.tile(Place::Block), s.tile(Place::Warp)) else { return Vec::new() };
    let (block, own) = (block.extent.map(i64::from), thread.extent.map(i64::from));
    let index = |name: &str, extent: &Dim| if extent.is(1) { 0.into() } else { Dim::named(name) };
    let tiles = [0, 1].map(|side| sides.extent(side).ceil_div(&block[side].into()));
    let n_batch = points(&sides.batch);
    let origin = [index("bm", &tiles[0]) * block[0].into(), index("bn", &tiles[1]) * block[1].into()];
    let batch = at(&sides.batch, &index("bz", &n_batch));
    let vector = if is_contiguous(nest, &sides) { own[1].min(4) } else { 1 };
    let kernel = Simt { nest, sides, block, own, origin, batch, vector };
    let threads = kernel.threads();
    let mut body: Vec<Stmt> = [0, 1].map(|f| kernel.alloc(f)).into();
    let thread = kernel.thread(frame);
    let bound = |name: &str, extent: Dim, level, body| {
        Stmt::loop_of(&Sym::new(name), extent, LoopKind::Bind(level), body)
    };
    body.push(bound("thread", threads.into(), Level::Thread(0), thread));
    let [rows, columns] = tiles;
    let levels =
        [("bn", columns, Level::Block(0)), ("bm", rows, Level::Block(1)), ("bz", n_batch, Level::Block(2))];
    let levels = levels.into_iter().filter(|(_, extent, _)| !extent.is(1));
    levels.fold(body, |body, (name, extent, level)| vec![bound(name, extent, level, body)])
}

/// Whether results side by side are so in memory too, in fours.
fn is_contiguous(nest: &Nest, sides: &Sides) -> bool {
    let [n] = &sides.axes[1][..] else { return false };
    let step = |d: &Dim| d.affine_in(&n.var).map(|(step, _)| step);
    n.extent.is_multiple(4) && step(&nest.at).is_some_and(|s| s.is(1))
}

struct Simt<'a> {
    nest: &'a Nest,
    sides: Sides<'a>,
    /// Rows, columns and terms of a block's tile.
    block: [i64; 3],
    /// Rows and columns of a thread's tile.
    own: [i64; 3],
    /// The first row and column of the block's tile.
    origin: [Dim; 2],
    /// What the axes of the batch are.
    batch: HashMap<Sym, Dim>,
    /// Columns side by side that a thread has.
    vector: i64,
}

impl Simt<'_> {
    /// Threads of a block along rows and columns.
    fn across(&self) -> [i64; 2] {
        [0, 1].map(|side| self.block[side] / self.own[side])
    }

    fn threads(&self) -> i64 {
        self.across().iter().product()
    }

    fn buffer(factor: usize) -> Sym {
        Sym::new(["ta", "tb"][factor])
    }

    /// Elements from term to term of a factor's tile.
    fn row(&self, factor: usize) -> i64 {
        self.block[factor] + PADDING
    }

    fn alloc(&self, factor: usize) -> Stmt {
        let len = 2 * self.block[2] * self.row(factor);
        let dtype = self.nest.acc;
        Stmt::Alloc(Buffer { name: Simt::buffer(factor), dtype, len: len.into(), scope: Scope::Shared })
    }

    /// Elements of a factor's tile that a thread brings.
    fn share(&self, factor: usize) -> i64 {
        self.block[factor] * self.block[2] / self.threads()
    }

    /// The row or column, and the term, of the `r`th element of a factor's tile that a thread brings: neighbours bring
    /// neighbours.
    fn place(&self, factor: usize, r: &Dim) -> [Dim; 2] {
        let number = r.clone() * self.threads().into() + Dim::named("thread");
        let (inner, is_along) = match self.sides.is_along_terms(factor) {
            true => (self.block[2], true),
            false => (self.block[factor], false),
        };
        let (quotient, rest) = (number.floor_div(&inner.into()), number.modulo(&inner.into()));
        if is_along { [quotient, rest] } else { [rest, quotient] }
    }

    /// What a thread does.
    fn thread(&self, frame: &mut Frame) -> Vec<Stmt> {
        let acc = self.nest.acc;
        let (len, own) = (self.own[0] * self.own[1], self.own);
        let mut out = vec![
            register(&Sym::new("acc"), acc, len),
            register(&Sym::new("fa"), acc, own[0]),
            register(&Sym::new("fb"), acc, own[1]),
        ];
        out.extend([0, 1].map(|f| register(&brought(f), acc, self.share(f))));
        let zero = Expr::Broadcast(Expr::Const(acc, Scalar::zero(acc)).into(), own[1] as u32);
        let i = Sym::new("i");
        let clear =
            Stmt::store(&Sym::new("acc"), lanes_at(Dim::sym(&i) * own[1].into(), own[1] as u32), zero);
        out.push(unroll(&i, own[0], vec![clear]));
        out.extend(self.steps(frame));
        out.extend(self.epilogue(frame));
        out
    }

    /// The loop over the terms: while a tile is multiplied, the next one is on its way.
    fn steps(&self, frame: &mut Frame) -> Vec<Stmt> {
        let n_steps = self.sides.extent(2).ceil_div(&self.block[2].into());
        let step = Dim::named("step");
        let next = step.clone() + 1.into();
        let is_more = |then: Vec<Stmt>| {
            let cond = Expr::call(ScalarFn::Lt, [Expr::Index(next.clone()), Expr::Index(n_steps.clone())]);
            Stmt::If { cond, then, other: Vec::new() }
        };
        let barrier = Stmt::Barrier(Scope::Shared);
        let mut out: Vec<Stmt> = [0, 1].iter().flat_map(|f| self.bring(*f, &0.into(), frame)).collect();
        out.extend([0, 1].iter().flat_map(|f| self.put(*f, &0.into())));
        out.push(barrier.clone());
        let bring: Vec<Stmt> = [0, 1].iter().flat_map(|f| self.bring(*f, &next, frame)).collect();
        let put: Vec<Stmt> = [0, 1].iter().flat_map(|f| self.put(*f, &next)).collect();
        let body = [vec![is_more(bring)], self.multiply(&step), vec![is_more(put), barrier]].concat();
        out.push(Stmt::serial(&Sym::new("step"), n_steps, body));
        out
    }

    /// A thread's elements of a factor's tile, into registers.
    fn bring(&self, factor: usize, step: &Dim, frame: &mut Frame) -> Vec<Stmt> {
        let r = Sym::new("r");
        let [own, term] = self.place(factor, &Dim::sym(&r));
        let own = self.origin[factor].clone() + own;
        let term = step.clone() * self.block[2].into() + term;
        let mut axes = self.batch.clone();
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
        let flat = self.sides.factors[factor];
        let mut value = e.expr(flat, mask.as_ref());
        if let Some(mask) = mask.filter(|_| !is_load(flat)) {
            let zero = Value::new(Expr::Const(self.nest.acc, Scalar::zero(self.nest.acc)), self.nest.acc, 1);
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
        let value = read(&brought(factor), Dim::sym(&r), 1, self.nest.acc).expr;
        vec![unroll(&r, self.share(factor), vec![Stmt::store(&Simt::buffer(factor), Expr::Index(at), value)])]
    }

    /// Where a step's tile begins in shared memory.
    fn slot(&self, factor: usize, step: &Dim) -> Dim {
        step.modulo(&2.into()) * (self.block[2] * self.row(factor)).into()
    }

    /// The rows or columns that a thread has, in groups that lie side by side: that of number `g`.
    fn group(&self, side: usize, g: &Dim) -> Dim {
        let [_, columns] = self.across();
        let (thread, width) = (Dim::named("thread"), self.width(side));
        let number = match side {
            0 => thread.floor_div(&columns.into()),
            _ => thread.modulo(&columns.into()),
        };
        g.clone() * (self.across()[side] * width).into() + number * width.into()
    }

    /// Rows or columns of a group.
    fn width(&self, side: usize) -> i64 {
        if side == 0 { self.own[0].min(4) } else { self.vector }
    }

    /// A step's tiles, multiplied.
    fn multiply(&self, step: &Dim) -> Vec<Stmt> {
        let (kk, g, i) = (Sym::new("kk"), Sym::new("g"), Sym::new("i"));
        let acc = self.nest.acc;
        let load = |factor: usize, name: &str| {
            let width = self.width(factor);
            let at = self.slot(factor, step)
                + Dim::sym(&kk) * self.row(factor).into()
                + self.group(factor, &Dim::sym(&g));
            let value = read(&Simt::buffer(factor), at, width as u32, acc).expr;
            let to = lanes_at(Dim::sym(&g) * width.into(), width as u32);
            unroll(&g, self.own[factor] / width, vec![Stmt::store(&Sym::new(name), to, value)])
        };
        let lanes = self.own[1] as u32;
        let row = Dim::sym(&i) * self.own[1].into();
        let factor = read(&Sym::new("fa"), Dim::sym(&i), 1, acc).widen(lanes);
        let columns = read(&Sym::new("fb"), 0.into(), lanes, acc).expr;
        let sum = read(&Sym::new("acc"), row.clone(), lanes, acc).expr;
        let value = Expr::call(ScalarFn::Fma, [factor, columns, sum]);
        let add = Stmt::store(&Sym::new("acc"), lanes_at(row, lanes), value);
        let body = vec![load(0, "fa"), load(1, "fb"), unroll(&i, self.own[0], vec![add])];
        vec![unroll(&kk, self.block[2], body)]
    }

    /// Whether columns are there. A scalar has no lanes without which to be.
    fn mask(&self, e: &mut Emitter, column: &Dim) -> Value {
        let extent = self.sides.extent(1);
        if self.vector > 1 {
            return e.tail(column, &extent);
        }
        let is_there = Expr::call(ScalarFn::Lt, [Expr::Index(column.clone()), Expr::Index(extent)]);
        e.bind(Value::new(is_there, DType::Bool, 1))
    }

    /// What is stored.
    fn epilogue(&self, frame: &mut Frame) -> Vec<Stmt> {
        let (h, i, g) = (Sym::new("h"), Sym::new("i"), Sym::new("g"));
        let wide = self.width(0);
        let row = self.origin[0].clone() + self.group(0, &Dim::sym(&h)) + Dim::sym(&i);
        let column = self.origin[1].clone() + self.group(1, &Dim::sym(&g));
        let mut axes = self.batch.clone();
        axes.extend(at(&self.sides.axes[0], &row));
        let offset = if self.vector > 1 { Dim::sym(&lane()) } else { 0.into() };
        axes.extend(at(&self.sides.axes[1], &(column.clone() + offset.clone())));
        let lanes = self.vector as u32;
        let mut e = Emitter::new(self.nest, axes, lanes, frame);
        let is_partial = |side: usize| !self.sides.extent(side).is_multiple(self.block[side]);
        let mask = is_partial(1).then(|| self.mask(&mut e, &(column + offset)));
        let own_row = Dim::sym(&h) * wide.into() + Dim::sym(&i);
        let first = own_row * self.own[1].into() + Dim::sym(&g) * self.vector.into();
        let acc = e.bind(read(&Sym::new("acc"), first, lanes, self.nest.acc));
        let mut body = e.take_lets();
        body.extend(finish(&mut e, self.nest, acc, mask.as_ref()));
        if is_partial(0) {
            let cond = Expr::call(ScalarFn::Lt, [Expr::Index(row), Expr::Index(self.sides.extent(0))]);
            body = vec![Stmt::If { cond, then: body, other: Vec::new() }];
        }
        let body = unroll(&i, wide, vec![unroll(&g, self.own[1] / self.vector, body)]);
        vec![unroll(&h, self.own[0] / wide, vec![body])]
    }
}

/// The registers of elements on their way to shared memory.
fn brought(factor: usize) -> Sym {
    Sym::new(["ra", "rb"][factor])
}

/// Whether an expression is zero where its load is.
fn is_load(e: &Flat) -> bool {
    match e {
        Flat::Load { .. } => true,
        Flat::Cast(_, e) => is_load(e),
        _ => false,
    }
}

fn unroll(var: &Sym, n: i64, body: Vec<Stmt>) -> Stmt {
    Stmt::loop_of(var, n.into(), LoopKind::Unroll, body)
}
