//! Contractions on a GPU: a block's tiles in shared memory, filled by asynchronous copies some steps ahead; a warp's
//! fragments in registers; matrix instructions; the epilogue on the accumulators' fragments, masked at the edges.
//!
//! Of a schedule: `block` is the tile of a block and how many of its steps are in shared memory, `warp` the part of
//! a warp. Blocks are along x for columns, along y for rows, along z for what else there is.

use super::super::Frame;
use super::super::emit::{Emitter, lane};
use super::super::nest::Nest;
use super::super::reduce::{finish, read};
use super::fragments::{Fragments, Held, Pair};
use super::product::{Matrix, Product, product};
use super::sides::Grid;
use super::{groups, implicit};
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Buffer, Copy, Expr, Level, LoopKind, Scope, Stmt, Tile};
use aic_ir::scalar::ScalarFn;
use aic_ir::schedule::{self, Class, Place, Schedule};
use aic_ir::target::{MatrixUnit, Target};

/// Bytes between the rows of a tile in shared memory, so that rows begin in other banks; twice as many for elements of four
/// bytes that are read down a column.
const PADDING: i64 = 16;

/// Tiles of blocks and of warps, the largest first.
const TILES: [([u32; 2], [u32; 2]); 5] = [
    ([128, 256], [64, 64]),
    ([128, 128], [64, 32]),
    ([64, 128], [32, 32]),
    ([64, 64], [32, 16]),
    ([32, 32], [16, 8]),
];

/// The schedules that fit the target, if the nest is a product of matrices that it multiplies.
pub fn candidates(nest: &Nest, target: &Target) -> Vec<Schedule> {
    let Some(unit) = product(nest).and_then(|p| p.unit(target, false).cloned()) else { return Vec::new() };
    let k = 4 * unit.extents[2].step;
    let all = TILES.iter().flat_map(|(block, warp)| [4, 3, 2].map(|stages| (block, warp, stages)));
    let of = |(block, warp, buffers): (&[u32; 2], &[u32; 2], u32)| {
        let tile = |place, [m, n]: [u32; 2], buffers| schedule::Tile { place, extent: [m, n, k], buffers };
        let tiles = vec![tile(Place::Block, *block, buffers), tile(Place::Warp, *warp, 1)];
        Schedule { unit: unit.name.clone(), tiles, ..Schedule::new(Class::Contract, 1) }
    };
    all.map(of).filter(|s| fits(nest, s, target)).collect()
}

pub(super) fn fits(nest: &Nest, s: &Schedule, target: &Target) -> bool {
    aic_ir::verify::machine(&super::super::apply("", nest, s), target).is_empty()
}

/// Seconds that a schedule is predicted to take: rounds of blocks, of whose steps multiplications and copies overlap.
pub fn cost(nest: &Nest, s: &Schedule, target: &Target) -> f64 {
    let (Some(p), Some(block)) = (product(nest), s.tile(Place::Block)) else { return f64::INFINITY };
    let Some(unit) = target.matrix_unit(&s.unit) else { return f64::INFINITY };
    let [m, n, k] = [0, 1, 2].map(|axis| p.tiles(axis, block.extent[axis]).as_const().unwrap_or(64) as f64);
    let cores = target.level(LoopKind::Bind(Level::Block(0))).map_or(1.0, |l| f64::from(l.units.max(1)));
    let batch: f64 = p.batch.iter().map(|a| a.extent.as_const().unwrap_or(8) as f64).product();
    let rounds = (m * n * batch / cores).ceil();
    let [bm, bn, bk] = block.extent.map(f64::from);
    let bytes = (bm + bn) * bk * p.a.dtype.size() as f64;
    let bandwidth = target.memory.get(1).map_or(1e9, |l| l.bandwidth);
    let work = 2.0 * bm * bn * bk / (unit.peak / cores);
    rounds * k * work.max(bytes / bandwidth)
}

/// The schedule of least predicted time; one of warp groups, if there is any.
pub fn choose(nest: &Nest, target: &Target) -> Option<Schedule> {
    let by_groups = groups::choose(nest, target);
    let by_warps = || candidates(nest, target).into_iter();
    by_groups.or_else(|| by_warps().min_by(|a, b| cost(nest, a, target).total_cmp(&cost(nest, b, target))))
}

/// The statements of the kernel.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let Some(product) = product(nest) else { return implicit::body(nest, s, frame) };
    if MatrixUnit::named(&s.unit).is_some_and(|u| u.is_async) {
        return groups::body(&product, s, frame);
    }
    let (Some(fragments), Some(block)) = (Fragments::new(s), s.tile(Place::Block)) else { return Vec::new() };
    let [m, n, _] = block.extent;
    let (threads, grid) = (fragments.n_warps() * 32, product.grid([m, n]));
    let g = Gpu { p: &product, fragments, block, threads, grid };
    let factors = [(&product.a, 0, "ta"), (&product.b, 1, "tb")].map(|(m, own, name)| g.shared(m, own, name));
    // Without asynchronous copies there is nothing to be ahead of.
    let buffers = if factors.iter().any(|s| s.is_async) { block.buffers } else { 1 };
    let g = Gpu { block: schedule::Tile { buffers, ..block }, ..g };
    g.blocks(&factors, frame)
}

struct Gpu<'a> {
    p: &'a Product<'a>,
    fragments: Fragments<'a>,
    block: schedule::Tile,
    /// Threads of a block.
    threads: i64,
    grid: Grid,
}

/// A factor's tile in shared memory.
struct Shared<'a> {
    matrix: &'a Matrix,
    buffer: Sym,
    /// The axes of its rows and columns.
    axes: [usize; 2],
    /// Their extents in the tile.
    extent: [i64; 2],
    /// Elements from row to row.
    row: i64,
    /// Elements that a thread copies at a time.
    chunk: i64,
    /// Whether they are copied asynchronously, some steps ahead.
    is_async: bool,
}

impl Shared<'_> {
    /// Elements of a step's tile.
    fn len(&self) -> i64 {
        self.extent[0] * self.row
    }
}

impl Gpu<'_> {
    fn blocks(&self, shared: &[Shared; 2], frame: &mut Frame) -> Vec<Stmt> {
        let mut body: Vec<Stmt> = shared.iter().map(|s| self.alloc(s)).collect();
        let lanes = Stmt::loop_of(
            &Sym::new("thread"),
            32.into(),
            bound(Level::Thread(0)),
            self.thread(shared, frame),
        );
        let n_warps = self.fragments.n_warps().into();
        body.push(Stmt::loop_of(&Sym::new("warp"), n_warps, bound(Level::Warp), vec![lanes]));
        self.grid.blocks(body)
    }

    fn alloc(&self, s: &Shared) -> Stmt {
        let len = i64::from(self.block.buffers.max(1)) * s.len();
        let (name, dtype) = (s.buffer.clone(), s.matrix.dtype);
        Stmt::Alloc(Buffer { name, dtype, len: len.into(), scope: Scope::Shared })
    }

    fn shared<'m>(&self, matrix: &'m Matrix, own: usize, name: &str) -> Shared<'m> {
        let axes = if matrix.rows_are_k { [2, own] } else { [own, 2] };
        let extent = axes.map(|a| i64::from(self.block.extent[a]));
        let size = matrix.dtype.size() as i64;
        // Where the rows in memory begin decides about how much can be copied at a time.
        let fits = |bytes: &i64| {
            let chunk = bytes / size;
            chunk > 0
                && extent[1] % chunk == 0
                && matrix.base.is_multiple(chunk)
                && (matrix.row.is_multiple(chunk) || self.p.axes[axes[0]].extent.is(1))
        };
        let bytes = [16, 8, 4].into_iter().find(fits);
        let chunk = bytes.unwrap_or(size) / size;
        let padding = if matrix.rows_are_k && size == 4 { 2 * PADDING } else { PADDING };
        let row = extent[1] + padding / size;
        let is_async = bytes.is_some() && self.block.buffers > 1;
        Shared { matrix, buffer: Sym::new(name), axes, extent, row, chunk, is_async }
    }

    /// What a thread does.
    fn thread(&self, shared: &[Shared; 2], frame: &mut Frame) -> Vec<Stmt> {
        let mut out = self.fragments.registers();
        out.extend(self.steps(shared));
        out.extend(self.epilogue(frame));
        out
    }

    /// The loop over the contracted axis.
    fn steps(&self, shared: &[Shared; 2]) -> Vec<Stmt> {
        let (step, stages) = (Dim::named("step"), i64::from(self.block.buffers.max(1)));
        let n_steps = self.p.tiles(2, self.block.extent[2]);
        let copies = |at: &Dim| -> Vec<Stmt> { shared.iter().flat_map(|s| self.copies(s, at)).collect() };
        let barrier = Stmt::Barrier(Scope::Shared);
        if !shared.iter().any(|s| s.is_async) {
            let mut body = vec![barrier.clone()];
            body.extend(copies(&step));
            body.push(barrier);
            body.extend(self.multiply(shared, &step));
            return vec![Stmt::serial(&Sym::new("step"), n_steps, body)];
        }
        let token = Sym::new("copies");
        let commit = Stmt::Commit { token: token.clone() };
        let ahead = step.clone() + (stages - 1).into();
        let is_there = |at: &Dim| {
            let args = vec![Expr::Index(at.clone()), Expr::Index(n_steps.clone())];
            Stmt::If { cond: Expr::Call(ScalarFn::Lt, args), then: copies(at), other: Vec::new() }
        };
        let early = Dim::named("early");
        let first = vec![is_there(&early), commit.clone()];
        // What was copied `stages - 1` steps ago is there, for all threads, and what was multiplied last isn't needed.
        let mut body =
            vec![Stmt::Wait { token, pending: (stages - 2) as u32 }, barrier, is_there(&ahead), commit];
        body.extend(self.multiply(shared, &step));
        vec![
            Stmt::serial(&Sym::new("early"), (stages - 1).into(), first),
            Stmt::serial(&Sym::new("step"), n_steps, body),
        ]
    }

    /// Where a step's tile begins in shared memory.
    fn slot(&self, s: &Shared, step: &Dim) -> Dim {
        step.modulo(&i64::from(self.block.buffers.max(1)).into()) * s.len().into()
    }

    /// A thread's share of the copies of a factor's tile.
    fn copies(&self, s: &Shared, step: &Dim) -> Vec<Stmt> {
        let per_row = s.extent[1] / s.chunk;
        let n_chunks = s.extent[0] * per_row;
        let rounds = (n_chunks + self.threads - 1) / self.threads;
        let thread = Dim::named("warp") * 32.into() + Dim::named("thread");
        let round = Sym::new("c");
        let id_of = |own: Dim, all: i64| if rounds > 1 { Dim::sym(&round) * all.into() + own } else { own };
        let id = id_of(thread, self.threads);
        let (row, column) = (id.floor_div(&per_row.into()), id.modulo(&per_row.into()) * s.chunk.into());
        let (row, column) = (self.fragments.ranges.simplify(&row), self.fragments.ranges.simplify(&column));
        let place = [row.clone(), column.clone()];
        let factor = (s.matrix, s.axes);
        let (src, valid) = self.p.source(&self.grid, self.block.extent, factor, step, place, s.chunk);
        let dst = Tile::rows(&s.buffer, self.slot(s, step) + row * s.row.into() + column, 0);
        let token = s.is_async.then(|| Sym::new("copies"));
        let mut body = vec![Stmt::Copy(Copy { dst, src, extent: [1.into(), s.chunk.into()], valid, token })];
        if n_chunks % self.threads != 0 {
            // Chunks are whole warps': which of these take part is said by their numbers.
            let (turn, of) = match n_chunks % 32 {
                0 => (id_of(Dim::named("warp"), self.threads / 32), n_chunks / 32),
                _ => (id, n_chunks),
            };
            let cond = Expr::Call(ScalarFn::Lt, vec![Expr::Index(turn), Expr::Index(of.into())]);
            body = vec![Stmt::If { cond, then: body, other: Vec::new() }];
        }
        match rounds {
            1 => body,
            _ => vec![Stmt::loop_of(&round, rounds.into(), LoopKind::Unroll, body)],
        }
    }

    /// A step's tiles, multiplied.
    fn multiply(&self, shared: &[Shared; 2], step: &Dim) -> Vec<Stmt> {
        let held = |s: &Shared| Held {
            buffer: s.buffer.clone(),
            first: self.slot(s, step),
            row: s.row,
            rows_are_k: s.matrix.rows_are_k,
        };
        self.fragments.multiply(&[held(&shared[0]), held(&shared[1])])
    }

    /// What is stored: two neighbours in a row at a time, as a thread holds them.
    fn epilogue(&self, frame: &mut Frame) -> Vec<Stmt> {
        let block = self.block.extent.map(i64::from);
        self.fragments.pairs(|pair| store_pair(self.p, block, &self.grid, pair, frame))
    }
}

/// Stores what a thread holds of a pair of neighbours in a row of a block's tile.
pub(super) fn store_pair(
    p: &Product,
    block: [i64; 3],
    grid: &Grid,
    pair: &Pair,
    frame: &mut Frame,
) -> Vec<Stmt> {
    let (nest, [m, n, _]) = (p.nest, &p.axes);
    let [row, column] = [0, 1].map(|k| grid.origin[k].clone() + pair.at[k].clone());
    let mut axes = grid.batch.clone();
    axes.extend([(m.var.clone(), row.clone()), (n.var.clone(), column + Dim::sym(&lane()))]);
    let mut e = Emitter::new(nest, axes, 2, frame);
    let is_partial = |axis: usize| !p.axes[axis].extent.is_multiple(block[axis]);
    let mask = is_partial(1).then(|| e.tail(&n.dim(), &n.extent));
    let acc = e.bind(read(&Sym::new("acc"), pair.own.clone(), 2, nest.acc));
    let mut body = e.take_lets();
    body.extend(finish(&mut e, nest, acc, mask.as_ref()));
    if is_partial(0) {
        let cond = Expr::Call(ScalarFn::Lt, vec![Expr::Index(row), Expr::Index(m.extent.clone())]);
        body = vec![Stmt::If { cond, then: body, other: Vec::new() }];
    }
    body
}

fn bound(level: Level) -> LoopKind {
    LoopKind::Bind(level)
}
