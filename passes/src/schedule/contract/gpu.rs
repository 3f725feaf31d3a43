//! Contractions on a GPU: a block's tiles in shared memory, filled by asynchronous copies some steps ahead; a warp's
//! fragments in registers; matrix instructions; the epilogue on the accumulators' fragments, masked at the edges.
//!
//! Of a schedule: `block` is the tile of a block and how many of its steps are in shared memory, `warp` the part of
//! a warp. Blocks are along x for columns, along y for rows, along z for what else there is.

use super::super::Frame;
use super::super::emit::{Emitter, lane};
use super::super::nest::Nest;
use super::super::reduce::{finish, lanes_at, read, register};
use super::product::{Matrix, Product, clip, product};
use aic_ir::bounds::Bounds;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Buffer, Copy, Expr, Level, LoopKind, Mma, Operand, Scope, Steps, Stmt, Tile};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::schedule::{self, Class, Place, Schedule};
use aic_ir::target::{MatrixUnit, Target};
use std::collections::HashMap;

/// Bytes between the rows of a tile in shared memory, so that rows begin in other banks.
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

fn fits(nest: &Nest, s: &Schedule, target: &Target) -> bool {
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

/// The schedule of least predicted time.
pub fn choose(nest: &Nest, target: &Target) -> Option<Schedule> {
    let all = candidates(nest, target);
    all.into_iter().min_by(|a, b| cost(nest, a, target).total_cmp(&cost(nest, b, target)))
}

/// The statements of the kernel.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let (Some(product), Some(unit)) = (product(nest), MatrixUnit::named(&s.unit)) else { return Vec::new() };
    let (Some(block), Some(warp)) = (s.tile(Place::Block), s.tile(Place::Warp)) else { return Vec::new() };
    let warps = [0, 1].map(|k| (block.extent[k] / warp.extent[k].max(1)).max(1));
    let threads = i64::from(warps[0] * warps[1]) * 32;
    // A loop of one iteration is left out.
    let index = |name: &str, extent: &Dim| if extent.is(1) { 0.into() } else { Dim::named(name) };
    let [m, n, _] = block.extent;
    let grid = [product.tiles(1, n), product.tiles(0, m), product.n_batch()];
    let m0 = index("bm", &grid[1]) * i64::from(m).into();
    let n0 = index("bn", &grid[0]) * i64::from(n).into();
    let batch: HashMap<Sym, Dim> = product.batch_at(&index("bz", &grid[2])).into_iter().collect();
    let mut ranges = Bounds::new();
    ranges.loop_var(&Sym::new("warp"), &0.into(), &(threads / 32).into());
    ranges.loop_var(&Sym::new("thread"), &0.into(), &32.into());
    let g = Gpu { p: &product, unit, block, warp, warps, threads, ranges, grid, origin: [m0, n0], batch };
    let factors = [(&product.a, 0, "ta"), (&product.b, 1, "tb")].map(|(m, own, name)| g.shared(m, own, name));
    // Without asynchronous copies there is nothing to be ahead of.
    let buffers = if factors.iter().any(|s| s.is_async) { block.buffers } else { 1 };
    let g = Gpu { block: schedule::Tile { buffers, ..block }, ..g };
    g.blocks(&factors, frame)
}

struct Gpu<'a> {
    p: &'a Product<'a>,
    unit: &'a MatrixUnit,
    block: schedule::Tile,
    warp: schedule::Tile,
    /// Warps of a block along rows and columns.
    warps: [u32; 2],
    /// Threads of a block.
    threads: i64,
    /// Those of the warp's and thread's numbers.
    ranges: Bounds,
    /// Blocks along x, y and z.
    grid: [Dim; 3],
    /// The first row and column of a block's tile.
    origin: [Dim; 2],
    /// What the other axes are.
    batch: HashMap<Sym, Dim>,
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
        let n_warps = i64::from(self.warps[0] * self.warps[1]);
        body.push(Stmt::loop_of(&Sym::new("warp"), n_warps.into(), bound(Level::Warp), vec![lanes]));
        let levels = ["bn", "bm", "bz"].into_iter().zip(&self.grid).zip(0..);
        levels.filter(|((_, extent), _)| !extent.is(1)).fold(body, |body, ((var, extent), axis)| {
            vec![Stmt::loop_of(&Sym::new(var), extent.clone(), bound(Level::Block(axis)), body)]
        })
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
        let row = extent[1] + PADDING / size;
        let is_async = bytes.is_some() && self.block.buffers > 1;
        Shared { matrix, buffer: Sym::new(name), axes, extent, row, chunk, is_async }
    }

    /// What a thread does.
    fn thread(&self, shared: &[Shared; 2], frame: &mut Frame) -> Vec<Stmt> {
        let counts = self.fragments();
        let lens = Operand::ALL.map(|o| (o, counts[o as usize] * self.elements(o)));
        let names = ["acc", "fa", "fb"];
        let mut out: Vec<Stmt> = lens
            .iter()
            .zip(names)
            .map(|((operand, len), name)| register(&Sym::new(name), self.unit.dtype(*operand), *len))
            .collect();
        let acc = self.p.nest.acc;
        let zero = Expr::Broadcast(Expr::Const(acc, Scalar::zero(acc)).into(), 4);
        let i = Sym::new("i");
        let clear = Stmt::store(&Sym::new("acc"), lanes_at(Dim::sym(&i) * 4.into(), 4), zero);
        out.push(Stmt::loop_of(&i, (lens[0].1 / 4).into(), LoopKind::Unroll, vec![clear]));
        out.extend(self.steps(shared));
        out.extend(self.epilogue(frame));
        out
    }

    /// How many fragments a warp holds of the accumulator and of the factors.
    fn fragments(&self) -> [i64; 3] {
        let [m, n, _] = self.unit.extents.map(|e| i64::from(e.step));
        let (rows, columns) = (i64::from(self.warp.extent[0]) / m, i64::from(self.warp.extent[1]) / n);
        [rows * columns, rows, columns]
    }

    /// Elements of a fragment that a thread holds.
    fn elements(&self, operand: Operand) -> i64 {
        i64::from(self.unit.elements(operand.extent(self.unit.extents.map(|e| e.step))))
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
        let (row, column) = (self.ranges.simplify(&row), self.ranges.simplify(&column));
        let origin = |axis: usize| match axis {
            2 => step.clone() * i64::from(self.block.extent[2]).into(),
            _ => self.origin[axis].clone(),
        };
        let at = [origin(s.axes[0]) + row.clone(), origin(s.axes[1]) + column.clone()];
        let rest = |k: usize| self.p.rest(s.axes[k], self.block.extent[s.axes[k]], &at[k]);
        let valid = match (rest(0), rest(1)) {
            (None, None) => None,
            (rows, columns) => Some([clip(1, rows), clip(s.chunk, columns)]),
        };
        let base = s.matrix.base.subst(&|x| self.batch.get(x).cloned());
        let input = &self.p.nest.inputs[s.matrix.input].name;
        let [y, x] = at;
        let src = Tile::rows(input, base + y * s.matrix.row.clone() + x, 0);
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

    /// The rows and columns of the output that a warp's tile begins at, within the block's.
    fn corner(&self) -> [Dim; 2] {
        let (warp, columns) = (Dim::named("warp"), Dim::from(i64::from(self.warps[1])));
        let [m, n, _] = self.warp.extent.map(i64::from);
        [warp.floor_div(&columns) * m.into(), warp.modulo(&columns) * n.into()]
            .map(|d| self.ranges.simplify(&d))
    }

    /// A step's tiles, multiplied.
    fn multiply(&self, shared: &[Shared; 2], step: &Dim) -> Vec<Stmt> {
        let [um, un, uk] = self.unit.extents.map(|e| i64::from(e.step));
        let [_, rows, columns] = self.fragments();
        let (i, j, kk) = (Sym::new("i"), Sym::new("j"), Sym::new("kk"));
        let corner = self.corner();
        let unroll = |var: &Sym, n: i64, body| Stmt::loop_of(var, n.into(), LoopKind::Unroll, body);
        let names = ["fa", "fb"].map(Sym::new);
        let load = |k: usize, var: &Sym, operand: Operand, extent: i64| -> Stmt {
            let s = &shared[k];
            let own = corner[k].clone() + Dim::sym(var) * extent.into();
            let along = Dim::sym(&kk) * uk.into();
            let (down, across) = (Steps::by(s.row), Steps::by(1));
            // Rows and columns of the tile in shared memory are those of the operand, or the other way round.
            let is_as_stored = s.matrix.rows_are_k == (operand == Operand::B);
            let steps = if is_as_stored { (down, across) } else { (across, down) };
            let (y, x) = if s.matrix.rows_are_k { (along, own) } else { (own, along) };
            let src = Tile::steps(&s.buffer, self.slot(s, step) + y * s.row.into() + x, steps.0, steps.1);
            let first = Dim::sym(var) * self.elements(operand).into();
            let dst = Tile::fragment(&names[k], first, &self.unit.name, operand);
            let extent = operand.extent([um, un, uk]).map(Dim::from);
            Stmt::Copy(Copy { dst, src, extent, valid: None, token: None })
        };
        let fragment = |name: &str, at: Dim, operand: Operand| {
            Tile::fragment(&Sym::new(name), at * self.elements(operand).into(), &self.unit.name, operand)
        };
        let mma = Mma {
            intrinsic: self.unit.name.clone(),
            extent: self.unit.extents.map(|e| e.step),
            c: fragment("acc", Dim::sym(&i) * columns.into() + Dim::sym(&j), Operand::C),
            a: fragment("fa", Dim::sym(&i), Operand::A),
            b: fragment("fb", Dim::sym(&j), Operand::B),
            fresh: None,
            token: None,
        };
        let body = vec![
            unroll(&i, rows, vec![load(0, &i, Operand::A, um)]),
            unroll(&j, columns, vec![load(1, &j, Operand::B, un)]),
            unroll(&i, rows, vec![unroll(&j, columns, vec![Stmt::Mma(mma)])]),
        ];
        vec![unroll(&kk, i64::from(self.block.extent[2]) / uk, body)]
    }

    /// What is stored: two neighbours in a row at a time, as a thread holds them.
    fn epilogue(&self, frame: &mut Frame) -> Vec<Stmt> {
        let nest = self.p.nest;
        let [um, un, _] = self.unit.extents.map(|e| i64::from(e.step));
        let [_, rows, columns] = self.fragments();
        let (i, j, half) = (Sym::new("i"), Sym::new("j"), Sym::new("half"));
        let (thread, corner) = (Dim::named("thread"), self.corner());
        let own_row = Dim::sym(&i) * um.into() + Dim::sym(&half) * 8.into() + thread.floor_div(&4.into());
        let own_column = Dim::sym(&j) * un.into() + thread.modulo(&4.into()) * 2.into() + Dim::sym(&lane());
        let row = self.origin[0].clone() + corner[0].clone() + own_row;
        let column = self.origin[1].clone() + corner[1].clone() + own_column;
        let [m, n, _] = &self.p.axes;
        let mut axes = self.batch.clone();
        axes.extend([(m.var.clone(), row.clone()), (n.var.clone(), column)]);
        let mut e = Emitter::new(nest, axes, 2, frame);
        let masked = self.p.rest(1, self.block.extent[1], &0.into()).is_some();
        let mask = masked.then(|| e.tail(&n.dim(), &n.extent));
        let first = Dim::sym(&i) * columns.into() + Dim::sym(&j);
        let at = first * self.elements(Operand::C).into() + Dim::sym(&half) * 2.into();
        let acc = e.bind(read(&Sym::new("acc"), at, 2, nest.acc));
        let mut body = e.take_lets();
        body.extend(finish(&mut e, nest, acc, mask.as_ref()));
        if self.p.rest(0, self.block.extent[0], &0.into()).is_some() {
            let cond = Expr::Call(ScalarFn::Lt, vec![Expr::Index(row), Expr::Index(m.extent.clone())]);
            body = vec![Stmt::If { cond, then: body, other: Vec::new() }];
        }
        let loops = [(&i, rows), (&j, columns), (&half, 2)];
        loops
            .into_iter()
            .rev()
            .fold(body, |body, (var, n)| vec![Stmt::loop_of(var, n.into(), LoopKind::Unroll, body)])
    }
}

fn bound(level: Level) -> LoopKind {
    LoopKind::Bind(level)
}
