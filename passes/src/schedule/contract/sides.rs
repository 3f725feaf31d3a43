//! A contraction as a product of matrices whose rows and columns are several axes each, and whose elements are whatever
//! expressions: `out[m, n] += a(m, k) * b(k, n)`. Convolutions are such, with padding and strides in the expressions.

use super::super::emit::{Emitter, Value};
use super::super::nest::{Flat, Nest};
use aic_ir::compute::{Axis, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Expr, Level, LoopKind, Stmt};
use aic_ir::scalar::ScalarFn;
use aic_ir::target::Target;
use std::collections::HashMap;

/// The parts of a contraction.
pub(super) struct Sides<'a> {
    /// The axes of the rows, of the columns, and those reduced over.
    pub axes: [Vec<Axis>; 3],
    /// The axes that both factors depend on.
    pub batch: Vec<Axis>,
    /// The left and the right factor.
    pub factors: [&'a Flat; 2],
}

/// The sides of a nest that is a sum of products; the innermost axis that only one factor depends on is a column.
pub(super) fn sides(nest: &Nest) -> Option<Sides<'_>> {
    let (ReduceOp::Sum, over) = nest.reduction.as_ref()? else { return None };
    let Flat::Call(ScalarFn::Mul, factors) = &nest.value else { return None };
    let [x, y] = &factors[..] else { return None };
    let is_triangular = over.iter().any(|o| nest.axes.iter().any(|a| o.extent.mentions(&a.var)));
    if is_triangular || nest.kept.is_some() {
        return None;
    }
    let of_one = |f: &Flat, g: &Flat| -> Vec<Axis> {
        nest.axes.iter().filter(|a| f.mentions(&a.var) && !g.mentions(&a.var)).cloned().collect()
    };
    let (of_x, of_y) = (of_one(x, y), of_one(y, x));
    let is_of = |side: &[Axis], a: &Axis| side.iter().any(|b| b.var == a.var);
    let batch = nest.axes.iter().filter(|a| !is_of(&of_x, a) && !is_of(&of_y, a)).cloned().collect();
    let last = nest.axes.iter().rfind(|a| is_of(&of_x, a) || is_of(&of_y, a))?;
    let (m, n, factors) = if is_of(&of_y, last) { (of_x, of_y, [x, y]) } else { (of_y, of_x, [y, x]) };
    Some(Sides { axes: [m, n, over.clone()], batch, factors })
}

/// The number of points of axes.
pub(super) fn points(axes: &[Axis]) -> Dim {
    axes.iter().map(|a| &a.extent).product()
}

/// What axes are, in terms of an index over all of them.
pub(super) fn at(axes: &[Axis], index: &Dim) -> HashMap<Sym, Dim> {
    let extents: Vec<Dim> = axes.iter().map(|a| a.extent.clone()).collect();
    let index = aic_ir::op::unflatten(index, &extents);
    axes.iter().map(|a| a.var.clone()).zip(index).collect()
}

impl Sides<'_> {
    /// The number of rows, of columns, or of terms.
    pub fn extent(&self, side: usize) -> Dim {
        points(&self.axes[side])
    }

    /// Whether neighbours along the terms lie side by side in a factor, and those along its own side don't.
    pub fn is_along_terms(&self, factor: usize) -> bool {
        let is_next = |axes: &[Axis]| {
            let steps = axes.last().map(|a| self.factors[factor].steps(&a.var)).unwrap_or_default();
            steps.iter().any(|s| s.as_ref().is_some_and(|d| d.is(1)))
        };
        is_next(&self.axes[2]) && !is_next(&self.axes[factor])
    }

    /// Whether there is anything to reuse of what a block holds.
    pub fn is_worth_tiles(&self) -> bool {
        (0..3).all(|side| self.extent(side).as_const().is_none_or(|n| n >= 4))
    }

    /// Whether tiles of so many rows and columns are one for each multiprocessor, and most of each is used.
    pub fn fills(&self, tile: [u32; 2], target: &Target) -> bool {
        let extent = |side: usize| self.extent(side).as_const().unwrap_or(128);
        let units = target.level(LoopKind::Bind(Level::Block(0))).map_or(1, |l| i64::from(l.units));
        let tiles = |side: usize| (extent(side) + i64::from(tile[side]) - 1) / i64::from(tile[side]);
        let batch = points(&self.batch).as_const().unwrap_or(8);
        let is_used = |side: usize| 2 * extent(side) > i64::from(tile[side]);
        batch.saturating_mul(tiles(0)).saturating_mul(tiles(1)) >= units && is_used(0) && is_used(1)
    }

    /// Whether results side by side are so in memory too, in groups of `n`.
    pub fn is_contiguous(&self, nest: &Nest, n: i64) -> bool {
        let [column] = &self.axes[1][..] else { return false };
        let step = nest.at.affine_in(&column.var).map(|(step, _)| step);
        column.extent.is_multiple(n) && step.is_some_and(|s| s.is(1))
    }

    /// Whether columns are there. A scalar has no lanes without which to be.
    pub fn mask(&self, e: &mut Emitter, column: &Dim) -> Value {
        if e.lanes > 1 {
            return e.tail(column, &self.extent(1));
        }
        let is_there = Expr::call(ScalarFn::Lt, [column.clone(), self.extent(1)].map(Expr::Index));
        e.bind(Value::new(is_there, DType::Bool, 1))
    }

    /// A GPU's blocks with tiles of so many rows and columns.
    pub fn grid(&self, tile: [i64; 2]) -> Grid {
        let [rows, columns] = [0, 1].map(|side| self.extent(side).ceil_div(&tile[side].into()));
        Grid::new([columns, rows, points(&self.batch)], tile, |index| at(&self.batch, index))
    }
}

/// The blocks of a GPU: along x for columns, along y for rows, along z for the batch.
#[derive(Clone)]
pub(super) struct Grid {
    extents: [Dim; 3],
    /// The first row and column of the block's tile.
    pub origin: [Dim; 2],
    /// What the axes of the batch are.
    pub batch: HashMap<Sym, Dim>,
}

impl Grid {
    /// So many blocks along x, y and z, with tiles of so many rows and columns. `batch` says what the axes of the batch are.
    pub fn new(extents: [Dim; 3], tile: [i64; 2], batch: impl FnOnce(&Dim) -> HashMap<Sym, Dim>) -> Grid {
        // A loop of one iteration is left out.
        let index = |name: &str, extent: &Dim| if extent.is(1) { 0.into() } else { Dim::named(name) };
        let [columns, rows, n_batch] = &extents;
        let origin = [index("bm", rows) * tile[0].into(), index("bn", columns) * tile[1].into()];
        let batch = batch(&index("bz", n_batch));
        Grid { extents, origin, batch }
    }

    /// The same for blocks that take tiles in turn: the one whose number is the variable `tile`.
    pub fn in_turn(
        extents: &[Dim; 3],
        tile: [i64; 2],
        batch: impl FnOnce(&Dim) -> HashMap<Sym, Dim>,
    ) -> Grid {
        let [columns, rows, n_batch] = extents;
        let number = Dim::named("tile");
        let row = number.floor_div(columns);
        let of = |index: Dim, extent: &Dim| if extent.is(1) { 0.into() } else { index.modulo(extent) };
        let at = [of(row.clone(), rows) * tile[0].into(), of(number, columns) * tile[1].into()];
        let batch = batch(&of(row.floor_div(rows), n_batch));
        Grid { extents: extents.clone(), origin: at, batch }
    }

    /// The loops over blocks around what a block does; one of one iteration is left out.
    pub fn blocks(&self, body: Vec<Stmt>) -> Vec<Stmt> {
        let levels = ["bn", "bm", "bz"].into_iter().zip(&self.extents).zip(0..);
        levels.filter(|((_, extent), _)| !extent.is(1)).fold(body, |body, ((var, extent), axis)| {
            let kind = LoopKind::Bind(Level::Block(axis));
            vec![Stmt::loop_of(&Sym::new(var), extent.clone(), kind, body)]
        })
    }
}
