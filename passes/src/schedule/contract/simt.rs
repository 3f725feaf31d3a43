//! Contractions on a GPU without matrix instructions: a block's tiles of both factors in shared memory (`staging`), and
//! a tile of the output in the registers of each thread. Each result is one sum in the order of its terms.
//!
//! Of a schedule: `block` is the tile of a block, `warp` that of a thread.

use super::super::Frame;
use super::super::emit::{Emitter, lane};
use super::super::nest::Nest;
use super::super::reduce::{finish, lanes_at, read, register};
use super::sides::{Grid, Sides, at, sides};
use super::staging::{Factor, Staging, buffer, unroll};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Expr, Level, LoopKind, Stmt};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::schedule::{Class, Place, Schedule, Tile};
use aic_ir::target::Target;

/// Tiles of blocks and of threads, the largest first: rows, columns, terms; rows and columns.
const TILES: [([u32; 3], [u32; 2]); 3] =
    [([128, 128, 8], [8, 8]), ([64, 64, 16], [4, 4]), ([32, 32, 16], [2, 4])];

/// Elements between the rows of a tile in shared memory, so that what is stored down a column is in other banks.
const PADDING: i64 = 4;

/// The largest tile of which there is one for each multiprocessor, if there is enough to reuse.
pub fn choose(nest: &Nest, target: &Target) -> Option<Schedule> {
    let s = sides(nest)?;
    if !s.is_worth_tiles() || !matches!(nest.acc, DType::F32 | DType::F64 | DType::I32) {
        return None;
    }
    let small = &TILES[if nest.acc == DType::F64 { 1 } else { 0 }..];
    let fits = |([m, n, _], _): &&([u32; 3], [u32; 2])| s.fills([*m, *n], target);
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
    let grid = sides.grid([block[0], block[1]]);
    let vector = if sides.is_contiguous(nest, 4) { own[1].min(4) } else { 1 };
    let threads = block[0] / own[0] * (block[1] / own[1]);
    let factors = sides.factors.map(|value| Factor { value, dtype: nest.acc, padding: PADDING });
    let number = Dim::named("thread");
    let staging = Staging { nest, sides: &sides, factors, block, threads, number, grid: &grid };
    let mut body = staging.allocs();
    let thread = Simt { nest, sides: &sides, block, own, grid: &grid, vector }.thread(&staging, frame);
    let bind = LoopKind::Bind(Level::Thread(0));
    body.push(Stmt::loop_of(&Sym::new("thread"), threads.into(), bind, thread));
    grid.blocks(body)
}

struct Simt<'a> {
    nest: &'a Nest,
    sides: &'a Sides<'a>,
    /// Rows, columns and terms of a block's tile.
    block: [i64; 3],
    /// Rows and columns of a thread's tile.
    own: [i64; 3],
    grid: &'a Grid,
    /// Columns side by side that a thread has.
    vector: i64,
}

impl Simt<'_> {
    /// Threads of a block along rows and columns.
    fn across(&self) -> [i64; 2] {
        [0, 1].map(|side| self.block[side] / self.own[side])
    }

    /// What a thread does.
    fn thread(&self, staging: &Staging, frame: &mut Frame) -> Vec<Stmt> {
        let acc = self.nest.acc;
        let (len, own) = (self.own[0] * self.own[1], self.own);
        let mut out = vec![
            register(&Sym::new("acc"), acc, len),
            register(&Sym::new("fa"), acc, own[0]),
            register(&Sym::new("fb"), acc, own[1]),
        ];
        let zero = Expr::Broadcast(Expr::Const(acc, Scalar::zero(acc)).into(), own[1] as u32);
        let i = Sym::new("i");
        let clear =
            Stmt::store(&Sym::new("acc"), lanes_at(Dim::sym(&i) * own[1].into(), own[1] as u32), zero);
        out.push(unroll(&i, own[0], vec![clear]));
        out.extend(staging.steps(frame, |step| self.multiply(staging, step)));
        out.extend(self.epilogue(frame));
        out
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
    fn multiply(&self, staging: &Staging, step: &Dim) -> Vec<Stmt> {
        let (kk, g, i) = (Sym::new("kk"), Sym::new("g"), Sym::new("i"));
        let acc = self.nest.acc;
        let load = |factor: usize, name: &str| {
            let width = self.width(factor);
            let at = staging.slot(factor, step)
                + Dim::sym(&kk) * staging.row(factor).into()
                + self.group(factor, &Dim::sym(&g));
            let value = read(&buffer(factor), at, width as u32, acc).expr;
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

    /// What is stored.
    fn epilogue(&self, frame: &mut Frame) -> Vec<Stmt> {
        let (h, i, g) = (Sym::new("h"), Sym::new("i"), Sym::new("g"));
        let wide = self.width(0);
        let row = self.grid.origin[0].clone() + self.group(0, &Dim::sym(&h)) + Dim::sym(&i);
        let column = self.grid.origin[1].clone() + self.group(1, &Dim::sym(&g));
        let mut axes = self.grid.batch.clone();
        axes.extend(at(&self.sides.axes[0], &row));
        let offset = if self.vector > 1 { Dim::sym(&lane()) } else { 0.into() };
        axes.extend(at(&self.sides.axes[1], &(column.clone() + offset.clone())));
        let lanes = self.vector as u32;
        let mut e = Emitter::new(self.nest, axes, lanes, frame);
        let is_partial = |side: usize| !self.sides.extent(side).is_multiple(self.block[side]);
        let mask = is_partial(1).then(|| self.sides.mask(&mut e, &(column + offset)));
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
