//! Contractions on a GPU whose matrix instructions are those of warp groups: a block's tiles in shared memory, filled by
//! asynchronous copies some steps ahead, from which the instructions read by themselves; one step's products go on while the
//! next one's begin.
//!
//! Tiles lie in matrices of eight rows of 16 bytes, without gaps, which the instructions take with either of their axes along
//! the rows: a factor lies in shared memory as it does in global memory. Of a schedule: `block` is the tile of a block, `warp`
//! that of a warp group.

use super::super::Frame;
use super::super::nest::Nest;
use super::super::reduce::{lanes_at, register};
use super::boxes;
use super::fragments::Pair;
use super::gpu::{cost, fits, store_pair};
use super::product::{Matrix, Product, product};
use super::sides::Grid;
use super::staging::unroll;
use aic_ir::bounds::Bounds;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Buffer, Copy, Expr, Level, LoopKind, Mma, Operand, Scope, Steps, Stmt, Tile};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::schedule::{self, Class, Place, Schedule};
use aic_ir::target::{MatrixUnit, Target};

/// Rows and columns of a block's tile, the largest first: of one or two warp groups.
const TILES: [[u32; 2]; 4] = [[128, 256], [128, 128], [64, 128], [64, 64]];

/// Rows that a warp group has, and its threads.
pub(super) const ROWS: i64 = 64;
const THREADS: i64 = 128;
pub(super) const GROUP_WARPS: i64 = THREADS / 32;

/// Elements of a row of 16 bytes, and rows of a matrix.
const CHUNK: i64 = 8;

/// Steps whose tiles are in shared memory: two that are multiplied, and those that are on their way.
const STAGES: u32 = 4;

/// The schedule of least predicted time among those that fit the target, if the nest is a product of matrices of 16 bits
/// whose rows begin at multiples of 16 bytes, and large enough to use most of a tile.
pub fn choose(nest: &Nest, target: &Target) -> Option<Schedule> {
    let p = product(nest)?;
    let unit = p.unit(target, true).filter(|u| u.dtype(Operand::A).size() == 2)?;
    if !p.factors().iter().all(|(matrix, own)| is_aligned(&p, matrix, *own)) {
        return None;
    }
    let is_used = |tile: &&[u32; 2]| {
        [0, 1].iter().all(|k| p.axes[*k].extent.as_const().is_none_or(|n| 2 * n > i64::from(tile[*k])))
    };
    let k = 4 * unit.extents[2].step;
    let blocks = target.level(LoopKind::Bind(Level::Block(0))).map_or(0, |l| l.units);
    let cores = if boxes::fits(&p) { blocks } else { 0 };
    let of = |[m, n]: &[u32; 2]| {
        let tile = |place, m, buffers| schedule::Tile { place, extent: [m, *n, k], buffers };
        let tiles = vec![tile(Place::Block, *m, STAGES), tile(Place::Warp, ROWS as u32, 1)];
        Schedule { unit: unit.name.clone(), tiles, cores, ..Schedule::new(Class::Contract, 1) }
    };
    let all = TILES.iter().filter(is_used).map(of).filter(|s| fits(nest, s, target));
    all.min_by(|a, b| cost(nest, a, target).total_cmp(&cost(nest, b, target)))
}

/// Whether rows of 16 bytes can be copied asynchronously.
fn is_aligned(p: &Product, m: &Matrix, own: usize) -> bool {
    let rows = if m.rows_are_k { 2 } else { own };
    m.base.is_multiple(CHUNK) && (m.row.is_multiple(CHUNK) || p.axes[rows].extent.is(1))
}

/// The statements of the kernel.
pub fn body(p: &Product, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let (Some(unit), Some(tile)) = (MatrixUnit::named(&s.unit), s.tile(Place::Block)) else {
        return Vec::new();
    };
    let [m, n, _] = tile.extent;
    let block = tile.extent.map(i64::from);
    let n_groups = block[0] / ROWS;
    let mut ranges = Bounds::new();
    ranges.loop_var(&Sym::new("warp"), &0.into(), &(4 * n_groups).into());
    ranges.loop_var(&Sym::new("thread"), &0.into(), &32.into());
    let g = Groups { p, unit, block, stages: tile.buffers.into(), grid: p.grid([m, n]), n_groups, ranges };
    match s.cores {
        0 => g.blocks(frame),
        blocks => boxes::body(&g, blocks.into(), frame),
    }
}

#[derive(Clone)]
pub(super) struct Groups<'a> {
    pub p: &'a Product<'a>,
    pub unit: &'a MatrixUnit,
    /// Rows, columns and terms of a block's tile.
    pub block: [i64; 3],
    pub stages: i64,
    pub grid: Grid,
    /// Warp groups of a block that multiply.
    pub n_groups: i64,
    /// What is known of the numbers of warps and threads.
    pub ranges: Bounds,
}

/// A factor's tile in shared memory.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a> {
    pub matrix: &'a Matrix,
    /// The factor, and its axis of rows or columns.
    pub own: usize,
}

impl Factor<'_> {
    pub fn buffer(&self) -> Sym {
        Sym::new(["ta", "tb"][self.own])
    }

    /// The axes of its rows and columns in global memory.
    pub fn axes(&self) -> [usize; 2] {
        if self.matrix.rows_are_k { [2, self.own] } else { [self.own, 2] }
    }
}

impl Groups<'_> {
    pub fn factors(&self) -> [Factor<'_>; 2] {
        self.p.factors().map(|(matrix, own)| Factor { matrix, own })
    }

    fn blocks(&self, frame: &mut Frame) -> Vec<Stmt> {
        let bound = |name: &str, n: i64, level, body| {
            Stmt::loop_of(&Sym::new(name), n.into(), LoopKind::Bind(level), body)
        };
        let mut body: Vec<Stmt> = self.factors().map(|f| self.alloc(f)).into();
        let lanes = bound("thread", 32, Level::Thread(0), self.thread(frame));
        body.push(bound("warp", 4 * self.n_groups, Level::Warp, vec![lanes]));
        self.grid.blocks(body)
    }

    fn alloc(&self, f: Factor) -> Stmt {
        let len = self.stages * self.len(f);
        Stmt::Alloc(Buffer { name: f.buffer(), dtype: f.matrix.dtype, len: len.into(), scope: Scope::Shared })
    }

    /// Elements of a step's tile.
    pub fn len(&self, f: Factor) -> i64 {
        self.block[f.own] * self.block[2]
    }

    /// Where a step's tile begins.
    fn slot(&self, f: Factor, step: &Dim) -> Dim {
        step.modulo(&self.stages.into()) * self.len(f).into()
    }

    /// What a thread does.
    fn thread(&self, frame: &mut Frame) -> Vec<Stmt> {
        let mut out = self.cleared();
        out.extend(self.steps());
        out.extend(self.epilogue(frame));
        out
    }

    /// Accumulators that are zero.
    pub fn cleared(&self) -> Vec<Stmt> {
        let (acc, len, i) = (self.unit.dtype(Operand::C), self.accumulators(), Sym::new("i"));
        let zero = Expr::Broadcast(Expr::Const(acc, Scalar::zero(acc)).into(), 4);
        let clear = Stmt::store(&Sym::new("acc"), lanes_at(Dim::sym(&i) * 4.into(), 4), zero);
        vec![register(&Sym::new("acc"), acc, len), unroll(&i, len / 4, vec![clear])]
    }

    /// Accumulators of a thread.
    fn accumulators(&self) -> i64 {
        ROWS * self.block[1] / THREADS
    }

    /// The loop over the contracted axis.
    fn steps(&self) -> Vec<Stmt> {
        let (step, ahead) = (Dim::named("step"), self.stages - 2);
        let n_steps = self.p.tiles(2, self.block[2] as u32);
        let (copies, products) = (Sym::new("copies"), Sym::new("products"));
        let bring = |at: &Dim| {
            let cond = Expr::call(ScalarFn::Lt, [Expr::Index(at.clone()), Expr::Index(n_steps.clone())]);
            let then = self.factors().map(|f| self.copies(f, at)).into();
            [Stmt::If { cond, then, other: Vec::new() }, Stmt::Commit { token: copies.clone() }]
        };
        let wait = |token: &Sym, pending: i64| Stmt::Wait { token: token.clone(), pending: pending as u32 };
        // A step's tiles are there for all threads, and all products but those of the step before are done.
        let mut body = vec![wait(&copies, ahead - 1), Stmt::Barrier(Scope::Shared)];
        body.extend(bring(&(step.clone() + ahead.into())));
        body.push(self.products(&products, |f, kk| self.operand(f, &step, kk)));
        body.push(Stmt::Commit { token: products.clone() });
        body.push(wait(&products, 1));
        vec![
            Stmt::serial(&Sym::new("early"), ahead.into(), bring(&Dim::named("early")).into()),
            Stmt::serial(&Sym::new("step"), n_steps.clone(), body),
            wait(&products, 0),
        ]
    }

    /// A thread's share of the copies of a factor's tile. Matrices follow one another along the rows of global memory, of
    /// which threads that are neighbours copy eight at a time.
    fn copies(&self, f: Factor, step: &Dim) -> Stmt {
        let [_, columns] = f.axes();
        let threads = self.n_groups * THREADS;
        let (round, rounds) = (Sym::new("c"), self.len(f) / CHUNK / threads);
        let thread = Dim::named("warp") * 32.into() + Dim::named("thread");
        let id = Dim::sym(&round) * threads.into() + thread;
        let (matrix, in_matrix) = (id.floor_div(&CHUNK.into()), id.modulo(&CHUNK.into()));
        let per_row = Dim::from(self.block[columns] / CHUNK);
        let row = self.ranges.simplify(&(matrix.floor_div(&per_row) * CHUNK.into() + in_matrix));
        let column = self.ranges.simplify(&(matrix.modulo(&per_row) * CHUNK.into()));
        let (block, factor) = (self.block.map(|n| n as u32), (f.matrix, f.axes()));
        let (src, valid) = self.p.source(&self.grid, block, factor, step, [row, column], CHUNK);
        let dst = Tile::rows(&f.buffer(), self.slot(f, step) + id * CHUNK.into(), 0);
        let token = Some(Sym::new("copies"));
        unroll(
            &round,
            rounds,
            vec![Stmt::Copy(Copy { dst, src, extent: [1.into(), CHUNK.into()], valid, token })],
        )
    }

    /// A step's products of what `operand` gives for a factor and a part of the terms.
    pub fn products(&self, token: &Sym, operand: impl Fn(Factor, &Dim) -> Tile) -> Stmt {
        let (kk, depth) = (Sym::new("kk"), i64::from(self.unit.extents[2].step));
        let [a, b] = self.factors().map(|f| operand(f, &Dim::sym(&kk)));
        let mma = Mma {
            intrinsic: self.unit.name.clone(),
            extent: [ROWS as u32, self.block[1] as u32, depth as u32],
            c: Tile::fragment(&Sym::new("acc"), 0, &self.unit.name, Operand::C),
            a,
            b,
            fresh: None,
            token: Some(token.clone()),
        };
        unroll(&kk, self.block[2] / depth, vec![Stmt::Mma(mma)])
    }

    /// What a product takes of a factor.
    fn operand(&self, f: Factor, step: &Dim, kk: &Dim) -> Tile {
        let size = CHUNK * CHUNK;
        let [_, columns] = f.axes();
        let next_row = self.block[columns] * CHUNK;
        // From matrix to matrix along the factor's own axis, and along the terms.
        let (stride, leading) = if f.matrix.rows_are_k { (size, next_row) } else { (next_row, size) };
        let steps = |in_matrix: i64, outer: i64| Steps::blocks(in_matrix, CHUNK as u32, outer);
        let (down, across) = if f.matrix.rows_are_k { (1, CHUNK) } else { (CHUNK, 1) };
        let (own, along) = (steps(down, stride), steps(across, leading));
        let first = self.slot(f, step) + kk.clone() * (2 * leading).into();
        let group = Dim::named("warp").floor_div(&4.into()) * (ROWS / CHUNK * stride).into();
        match f.own {
            0 => Tile::steps(&f.buffer(), first + self.ranges.simplify(&group), own, along),
            _ => Tile::steps(&f.buffer(), first, along, own),
        }
    }

    /// What is stored: two neighbours in a row at a time, as a thread holds them.
    pub fn epilogue(&self, frame: &mut Frame) -> Vec<Stmt> {
        let (j, half, thread) = (Sym::new("j"), Sym::new("half"), Dim::named("thread"));
        let row = Dim::named("warp") * 16.into() + Dim::sym(&half) * 8.into() + thread.floor_div(&4.into());
        let column = Dim::sym(&j) * 8.into() + thread.modulo(&4.into()) * 2.into();
        let own = Dim::sym(&j) * 4.into() + Dim::sym(&half) * 2.into();
        let body = store_pair(self.p, self.block, &self.grid, &Pair { at: [row, column], own }, frame);
        vec![unroll(&j, self.block[1] / 8, vec![unroll(&half, 2, body)])]
    }
}
