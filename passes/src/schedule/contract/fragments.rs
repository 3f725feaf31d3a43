//! The part of a block's tile that a warp has, in the fragments of a matrix instruction: the loops that multiply tiles in
//! shared memory, and the loops over what each thread holds of the result.

use super::super::reduce::{lanes_at, register};
use super::staging::unroll;
use aic_ir::bounds::Bounds;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Copy, Expr, Mma, Operand, Steps, Stmt, Tile};
use aic_ir::scalar::Scalar;
use aic_ir::schedule::{Place, Schedule};
use aic_ir::target::MatrixUnit;

/// A warp's tile of a block's.
pub(super) struct Fragments<'a> {
    pub unit: &'a MatrixUnit,
    /// Rows, columns and terms of a block's tile.
    pub block: [i64; 3],
    /// Rows and columns of a warp's tile.
    warp: [i64; 2],
    /// Warps of a block along rows and columns.
    warps: [i64; 2],
    /// What is known of the numbers of warps and threads.
    pub ranges: Bounds,
}

/// A factor's tile in shared memory.
pub(super) struct Held {
    pub buffer: Sym,
    /// Where it begins.
    pub first: Dim,
    /// Elements from row to row.
    pub row: i64,
    /// Whether a row is a term's.
    pub rows_are_k: bool,
}

/// A pair of neighbours in a row that a thread holds of the result.
pub(super) struct Pair {
    /// Row and column of the first, within the block's tile.
    pub at: [Dim; 2],
    /// Its position among those that the thread holds.
    pub own: Dim,
}

impl<'a> Fragments<'a> {
    /// The tiles of a schedule.
    pub fn new(s: &Schedule) -> Option<Fragments<'a>> {
        let unit = MatrixUnit::named(&s.unit)?;
        let (block, warp) = (s.tile(Place::Block)?.extent, s.tile(Place::Warp)?.extent);
        let (block, warp) = (block.map(i64::from), [0, 1].map(|k| i64::from(warp[k]).max(1)));
        let warps = [0, 1].map(|k| (block[k] / warp[k]).max(1));
        let mut ranges = Bounds::new();
        ranges.loop_var(&Sym::new("warp"), &0.into(), &(warps[0] * warps[1]).into());
        ranges.loop_var(&Sym::new("thread"), &0.into(), &32.into());
        Some(Fragments { unit, block, warp, warps, ranges })
    }

    /// Warps of a block.
    pub fn n_warps(&self) -> i64 {
        self.warps[0] * self.warps[1]
    }

    /// How many fragments a warp holds of the accumulator and of the factors.
    fn counts(&self) -> [i64; 3] {
        let [m, n, _] = self.unit.extents.map(|e| i64::from(e.step));
        let (rows, columns) = (self.warp[0] / m, self.warp[1] / n);
        [rows * columns, rows, columns]
    }

    /// Elements of a fragment that a thread holds.
    fn elements(&self, operand: Operand) -> i64 {
        i64::from(self.unit.elements(operand.extent(self.unit.extents.map(|e| e.step))))
    }

    /// The registers of all fragments; the accumulators are zero.
    pub fn registers(&self) -> Vec<Stmt> {
        let counts = self.counts();
        let lens = Operand::ALL.map(|o| (o, counts[o as usize] * self.elements(o)));
        let of = |((operand, len), name): (&(Operand, i64), &str)| {
            register(&Sym::new(name), self.unit.dtype(*operand), *len)
        };
        let mut out: Vec<Stmt> = lens.iter().zip(["acc", "fa", "fb"]).map(of).collect();
        let acc = self.unit.dtype(Operand::C);
        let zero = Expr::Broadcast(Expr::Const(acc, Scalar::zero(acc)).into(), 4);
        let i = Sym::new("i");
        let clear = Stmt::store(&Sym::new("acc"), lanes_at(Dim::sym(&i) * 4.into(), 4), zero);
        out.push(unroll(&i, lens[0].1 / 4, vec![clear]));
        out
    }

    /// The rows and columns of the output that a warp's tile begins at, within the block's.
    fn corner(&self) -> [Dim; 2] {
        let (warp, columns) = (Dim::named("warp"), Dim::from(self.warps[1]));
        let [m, n] = self.warp;
        [warp.floor_div(&columns) * m.into(), warp.modulo(&columns) * n.into()]
            .map(|d| self.ranges.simplify(&d))
    }

    /// A step's tiles, multiplied.
    pub fn multiply(&self, factors: &[Held; 2]) -> Vec<Stmt> {
        let [um, un, uk] = self.unit.extents.map(|e| i64::from(e.step));
        let [_, rows, columns] = self.counts();
        let (i, j, kk) = (Sym::new("i"), Sym::new("j"), Sym::new("kk"));
        let corner = self.corner();
        let names = ["fa", "fb"].map(Sym::new);
        let load = |k: usize, var: &Sym, operand: Operand, extent: i64| -> Stmt {
            let held = &factors[k];
            let own = corner[k].clone() + Dim::sym(var) * extent.into();
            let along = Dim::sym(&kk) * uk.into();
            let (down, across) = (Steps::by(held.row), Steps::by(1));
            // Rows and columns of the tile in shared memory are those of the operand, or the other way round.
            let is_as_stored = held.rows_are_k == (operand == Operand::B);
            let steps = if is_as_stored { (down, across) } else { (across, down) };
            let (y, x) = if held.rows_are_k { (along, own) } else { (own, along) };
            let first = held.first.clone() + y * held.row.into() + x;
            let src = Tile::steps(&held.buffer, first, steps.0, steps.1);
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
        vec![unroll(&kk, self.block[2] / uk, body)]
    }

    /// What `store` makes for each pair of the result that a thread holds.
    pub fn pairs(&self, store: impl FnOnce(&Pair) -> Vec<Stmt>) -> Vec<Stmt> {
        let [um, un, _] = self.unit.extents.map(|e| i64::from(e.step));
        let [_, rows, columns] = self.counts();
        let (i, j, half) = (Sym::new("i"), Sym::new("j"), Sym::new("half"));
        let (thread, corner) = (Dim::named("thread"), self.corner());
        let own_row = Dim::sym(&i) * um.into() + Dim::sym(&half) * 8.into() + thread.floor_div(&4.into());
        let own_column = Dim::sym(&j) * un.into() + thread.modulo(&4.into()) * 2.into();
        let first = Dim::sym(&i) * columns.into() + Dim::sym(&j);
        let own = first * self.elements(Operand::C).into() + Dim::sym(&half) * 2.into();
        let [row, column] = corner;
        let body = store(&Pair { at: [row + own_row, column + own_column], own });
        let loops = [(&i, rows), (&j, columns), (&half, 2)];
        loops.into_iter().rev().fold(body, |body, (var, n)| vec![unroll(var, n, body)])
    }
}
