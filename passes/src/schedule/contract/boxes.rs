//! Contractions on a GPU that copies boxes of arrays by itself: one warp of a block asks for the tiles of both factors, some
//! steps ahead, and the others multiply them with the matrix instructions of warp groups. They meet at barriers in shared
//! memory: a stage is full when its bytes have come, and empty when all that multiply are done with it.
//!
//! Tiles are swizzled rows of 128 bytes; a factor lies in shared memory as it does in global memory. Blocks are as many as
//! the machine executes at a time, and take tiles of the output in turn: while results are stored, the next tile's factors
//! are on their way. Of a schedule: `cores` is the number of blocks, `block` the tile of a block, `warp` that of a warp group.

use super::super::Frame;
use super::groups::{GROUP_WARPS, Groups, ROWS};
use super::product::{Matrix, Product};
use super::sides::Grid;
use super::staging::unroll;
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{
    Along, Buffer, Element, Event, Expr, Fetch, Level, LoopKind, Phase, Scope, Steps, Stmt, Tile,
};
use aic_ir::scalar::ScalarFn;

/// Elements of a swizzled row.
const LINE: i64 = 64;

/// Elements of 16 bytes, at whose multiples rows in global memory begin.
const CHUNK: i64 = 8;

/// Axes of the batch that an array of boxes has at most.
const MAX_BATCH: usize = 3;

/// Registers of threads that multiply, where two warp groups of a block do, and of those that don't.
const REGISTERS: [i64; 2] = [240, 24];

/// Whether tiles of both factors are boxes of arrays.
pub(super) fn fits(p: &Product) -> bool {
    let has_terms = p.axes[2].extent.as_const().is_some_and(|n| n > 0);
    has_terms
        && p.factors()
            .iter()
            .all(|(m, _)| m.row.as_const().is_some_and(|n| n > 0 && n % CHUNK == 0) && batch(p, m).is_some())
}

/// An axis of the batch: its variable, its extent, and a matrix's step along it.
type Outer = (Sym, Dim, i64);

/// Where a matrix begins, and the axes of the batch that it depends on.
fn batch(p: &Product, m: &Matrix) -> Option<(Dim, Vec<Outer>)> {
    let (mut rest, mut steps) = (m.base.clone(), Vec::new());
    for axis in &p.batch {
        let (step, other) = rest.affine_in(&axis.var)?;
        rest = other;
        match step.as_const()? {
            0 => {}
            n if n > 0 && n % CHUNK == 0 => steps.push((axis.var.clone(), axis.extent.clone(), n)),
            _ => return None,
        }
    }
    let first = rest.as_const().filter(|n| n % CHUNK == 0)?;
    (steps.len() <= MAX_BATCH).then(|| (first.into(), steps))
}

/// The statements of the kernel.
pub(super) fn body(g: &Groups, blocks: i64, frame: &mut Frame) -> Vec<Stmt> {
    let n_steps = g.p.tiles(2, g.block[2] as u32);
    let extents = [g.p.tiles(1, g.block[1] as u32), g.p.tiles(0, g.block[0] as u32), g.p.n_batch()];
    let n_tiles = extents.iter().fold(Dim::from(1), |n, e| n * e.clone());
    let grid =
        Grid::in_turn(&extents, [g.block[0], g.block[1]], |index| g.p.batch_at(index).into_iter().collect());
    Boxes { g: &Groups { grid, ..g.clone() }, blocks, n_steps, n_tiles }.kernel(frame)
}

struct Boxes<'a> {
    g: &'a Groups<'a>,
    /// Blocks at most.
    blocks: i64,
    /// Steps along the terms, and tiles of the output.
    n_steps: Dim,
    n_tiles: Dim,
}

/// Which of a stage's barriers.
#[derive(Clone, Copy)]
enum Is {
    Full,
    Empty,
}

impl Boxes<'_> {
    fn kernel(&self, frame: &mut Frame) -> Vec<Stmt> {
        let bound = |name: &str, n: Dim, level, body| {
            vec![Stmt::loop_of(&Sym::new(name), n, LoopKind::Bind(level), body)]
        };
        let stages = self.g.stages;
        let alloc = |name: &str, dtype, len: i64, scope| {
            Stmt::Alloc(Buffer { name: Sym::new(name), dtype, len: len.into(), scope })
        };
        let mut body: Vec<Stmt> = self
            .g
            .factors()
            .map(|f| alloc(f.buffer().name(), f.matrix.dtype, stages * self.g.len(f), Scope::Swizzled))
            .into();
        body.extend(["full", "empty"].map(|name| alloc(name, DType::U64, stages, Scope::Shared)));
        let lanes = bound("thread", 32.into(), Level::Thread(0), self.thread(frame));
        let n_warps = self.n_working() + GROUP_WARPS;
        body.extend(bound("warp", n_warps.into(), Level::Warp, lanes));
        bound("block", self.n_tiles.minimum(&self.blocks.into()), Level::Block(0), body)
    }

    /// Warps that multiply.
    fn n_working(&self) -> i64 {
        self.g.n_groups * GROUP_WARPS
    }

    fn thread(&self, frame: &mut Frame) -> Vec<Stmt> {
        let warp = || Expr::Index(Dim::named("warp"));
        let is_warp = |n: i64, then| {
            let cond = Expr::call(ScalarFn::Eq, [warp(), Expr::int(n)]);
            Stmt::If { cond, then, other: Vec::new() }
        };
        let s = Sym::new("s");
        let begin = |is, arrivals: i64| {
            let event = Event::Begin { arrivals: arrivals as u32 };
            Stmt::Phase(Phase { barrier: self.barrier(is, Dim::sym(&s)), event })
        };
        let both = vec![begin(Is::Full, 1), begin(Is::Empty, self.n_working())];
        let (mut then, mut other) = (Vec::new(), Vec::new());
        if self.g.n_groups > 1 {
            let [most, least] =
                REGISTERS.map(|n| Stmt::Call { name: "registers".into(), args: vec![Expr::int(n)] });
            then.push(most);
            other.push(least);
        }
        then.extend(self.in_turn(self.work(frame)));
        other.push(is_warp(self.n_working(), self.in_turn(vec![self.ask()])));
        let cond = Expr::call(ScalarFn::Lt, [warp(), Expr::int(self.n_working())]);
        vec![
            is_warp(0, vec![unroll(&s, self.g.stages, both)]),
            Stmt::Barrier(Scope::Shared),
            Stmt::If { cond, then, other },
        ]
    }

    /// What is done for each tile that a block takes.
    fn in_turn(&self, body: Vec<Stmt>) -> Vec<Stmt> {
        let (block, blocks) = (Dim::named("block"), Dim::from(self.blocks));
        let tile = block.clone() + Dim::named("turn") * blocks.clone();
        let body = [vec![Stmt::Let { var: Sym::new("tile"), value: Expr::Index(tile) }], body].concat();
        let turns = (self.n_tiles.clone() - block).ceil_div(&blocks);
        vec![Stmt::serial(&Sym::new("turn"), turns, body)]
    }

    /// How many steps were taken before this one.
    fn count(&self) -> Dim {
        Dim::named("turn") * self.n_steps.clone() + Dim::named("step")
    }

    /// The stage of a step, by its number.
    fn stage(&self, count: &Dim) -> Dim {
        count.modulo(&self.g.stages.into())
    }

    fn barrier(&self, is: Is, stage: Dim) -> Element {
        let name = match is {
            Is::Full => "full",
            Is::Empty => "empty",
        };
        Element::new(&Sym::new(name), stage)
    }

    /// Waits for a stage: `rounds` says which of its phases counts as the first one.
    fn wait(&self, is: Is, rounds: i64) -> Stmt {
        let count = self.count();
        let round = count.floor_div(&self.g.stages.into()) + rounds.into();
        let event = Event::Wait { parity: round.modulo(&2.into()) };
        Stmt::Phase(Phase { barrier: self.barrier(is, self.stage(&count)), event })
    }

    fn arrive(&self, is: Is, stage: Dim, bytes: i64) -> Stmt {
        let event = Event::Arrive { bytes: bytes as u32 };
        Stmt::Phase(Phase { barrier: self.barrier(is, stage), event })
    }

    /// One warp asks for the tiles of all steps. At first all stages are empty, as if a phase had ended.
    fn ask(&self) -> Stmt {
        let stage = self.stage(&self.count());
        let bytes = self.g.factors().map(|f| self.g.len(f) * f.matrix.dtype.size() as i64).iter().sum();
        let mut body = vec![self.wait(Is::Empty, 1), self.arrive(Is::Full, stage, bytes)];
        body.extend(self.g.factors().map(|f| self.fetch(f)));
        Stmt::serial(&Sym::new("step"), self.n_steps.clone(), body)
    }

    /// The boxes of a factor's tile: one, or one for each row's worth of its columns.
    fn fetch(&self, f: super::groups::Factor) -> Stmt {
        let [rows, columns] = f.axes();
        let (n_rows, n_boxes) = (self.g.block[rows], self.g.block[columns] / LINE);
        let j = Sym::new("j");
        let origin = |axis: usize| match axis {
            2 => Dim::named("step") * self.g.block[2].into(),
            _ => self.g.grid.origin[axis].clone(),
        };
        let nth = if n_boxes > 1 { Dim::sym(&j) } else { Dim::from(0) };
        let along =
            |axis: usize, at: Dim, step: Dim| Along { at, extent: self.g.p.axes[axis].extent.clone(), step };
        let mut axes = vec![
            along(columns, origin(columns) + nth.clone() * LINE.into(), 1.into()),
            along(rows, origin(rows), f.matrix.row.clone()),
        ];
        let (first, steps) = batch(self.g.p, f.matrix).unwrap_or_default();
        axes.extend(steps.into_iter().map(|(var, extent, step)| {
            let at = self.g.grid.batch.get(&var).cloned().unwrap_or_default();
            Along { at, extent, step: step.into() }
        }));
        let stage = self.stage(&self.count());
        let to = stage.clone() * self.g.len(f).into() + nth * (n_rows * LINE).into();
        let copy = Stmt::Fetch(Fetch {
            dst: Tile::rows(&f.buffer(), to, LINE),
            src: Element::new(&self.g.p.nest.inputs[f.matrix.input].name, first),
            axes,
            extent: [n_rows as u32, LINE as u32],
            barrier: self.barrier(Is::Full, stage),
        });
        if n_boxes > 1 { unroll(&j, n_boxes, vec![copy]) } else { copy }
    }

    /// The other warps multiply. A stage is empty when the next one's products have begun, as these go on meanwhile.
    fn work(&self, frame: &mut Frame) -> Vec<Stmt> {
        let (step, count, stages) = (Dim::named("step"), self.count(), self.g.stages);
        let products = Sym::new("products");
        let wait = |pending| Stmt::Wait { token: products.clone(), pending };
        let before = self.stage(&(count.clone() + (stages - 1).into()));
        let body = vec![
            self.wait(Is::Full, 0),
            self.g.products(&products, |f, kk| self.operand(f, &self.stage(&count), kk)),
            Stmt::Commit { token: products.clone() },
            wait(1),
            Stmt::If {
                cond: Expr::call(ScalarFn::Lt, [Expr::int(0), Expr::Index(step)]),
                then: vec![self.arrive(Is::Empty, before, 0)],
                other: Vec::new(),
            },
        ];
        let end = (Dim::named("turn") + 1.into()) * self.n_steps.clone() + (stages - 1).into();
        let mut out = self.g.cleared();
        out.push(Stmt::serial(&Sym::new("step"), self.n_steps.clone(), body));
        out.extend([wait(0), self.arrive(Is::Empty, self.stage(&end), 0)]);
        out.extend(self.g.epilogue(frame));
        out
    }

    /// What a product takes of a factor.
    fn operand(&self, f: super::groups::Factor, stage: &Dim, kk: &Dim) -> Tile {
        let [rows, columns] = f.axes();
        let depth = i64::from(self.g.unit.extents[2].step);
        let spans = Steps::blocks(1, LINE as u32, self.g.block[rows] * LINE);
        let (own, along, next, group) = match f.matrix.rows_are_k {
            false => (Steps::by(LINE), Steps::by(1), depth, ROWS * LINE),
            true if self.g.block[columns] > LINE => {
                (spans, Steps::by(LINE), depth * LINE, self.g.block[rows] * LINE)
            }
            true => (Steps::by(1), Steps::by(LINE), depth * LINE, self.g.block[rows] * LINE),
        };
        let first = stage.clone() * self.g.len(f).into() + kk.clone() * next.into();
        let number = Dim::named("warp").floor_div(&GROUP_WARPS.into()) * group.into();
        match f.own {
            0 => Tile::steps(&f.buffer(), first + self.g.ranges.simplify(&number), own, along),
            _ => Tile::steps(&f.buffer(), first, along, own),
        }
    }
}
