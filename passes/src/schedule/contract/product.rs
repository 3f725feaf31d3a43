//! A contraction as the product of two matrices, for machines that multiply tiles: `out[m, n] = sum of a[m, k] * b[k, n]`
//! for each point of the other axes.

use super::super::nest::{Flat, Nest};
use super::sides::Grid;
use aic_ir::compute::{Axis, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::Operand;
use aic_ir::scalar::ScalarFn;
use aic_ir::target::{MatrixUnit, Target};

/// The matrices of a contraction, and where they lie.
pub(super) struct Product<'a> {
    pub nest: &'a Nest,
    /// The axes `m`, `n` and `k`; extent 1 where there is none.
    pub axes: [Axis; 3],
    /// The other axes of the output.
    pub batch: Vec<Axis>,
    pub a: Matrix,
    pub b: Matrix,
}

/// A factor: a matrix of consecutive elements in rows.
pub(super) struct Matrix {
    /// The buffer that it lies in.
    pub input: usize,
    /// The type of its elements in memory.
    pub dtype: DType,
    /// The address of its first element.
    pub base: Dim,
    /// Whether its rows are along the contracted axis; the columns, which are consecutive, are along the other one.
    pub rows_are_k: bool,
    /// From row to row.
    pub row: Dim,
}

/// The product that a nest is, if it is one.
pub(super) fn product(nest: &Nest) -> Option<Product<'_>> {
    let (ReduceOp::Sum, over) = nest.reduction.as_ref()? else { return None };
    let Flat::Call(ScalarFn::Mul, factors) = &nest.value else { return None };
    let [x, y] = &factors[..] else { return None };
    if over.len() > 1 || nest.kept.is_some() {
        return None;
    }
    let none = |name: &str| Axis { var: Sym::new(name), extent: 1.into() };
    let k = over.first().cloned().unwrap_or_else(|| none("no k"));
    let moves = |f: &Flat, a: &Axis| f.mentions(&a.var);
    // The innermost axis that only one factor depends on is the columns'; that factor is the right one.
    let of_one = |f: &Flat, g: &Flat| nest.axes.iter().rposition(|a| moves(f, a) && !moves(g, a));
    let (left, right, n, m) = match (of_one(x, y), of_one(y, x)) {
        (Some(m), Some(n)) if m > n => (y, x, Some(m), Some(n)),
        (Some(n), None) => (y, x, Some(n), None),
        (m, n) => (x, y, n, m),
    };
    let axis = |k: Option<usize>, name: &str| k.map_or_else(|| none(name), |k| nest.axes[k].clone());
    let axes = [axis(m, "no m"), axis(n, "no n"), k];
    let batch = (0..nest.axes.len()).filter(|k| Some(*k) != m && Some(*k) != n).map(|k| nest.axes[k].clone());
    let a = matrix(nest, left, &axes[0], &axes[2])?;
    let b = matrix(nest, right, &axes[1], &axes[2])?;
    Some(Product { nest, batch: batch.collect(), a, b, axes })
}

fn matrix(nest: &Nest, f: &Flat, own: &Axis, k: &Axis) -> Option<Matrix> {
    let load = match f {
        Flat::Cast(t, load) if *t == nest.acc => load,
        load => load,
    };
    let Flat::Load { input, address, terms } = load else { return None };
    if !terms.is_empty() {
        return None;
    }
    let (own_step, rest) = address.affine_in(&own.var)?;
    let (k_step, base) = rest.affine_in(&k.var)?;
    let is_free = |d: &Dim| !d.mentions(&own.var) && !d.mentions(&k.var);
    if ![&own_step, &k_step, &base].into_iter().all(is_free) {
        return None;
    }
    let is_consecutive = |step: &Dim, axis: &Axis| step.is(1) || axis.extent.is(1);
    let rows_are_k = match (is_consecutive(&k_step, k), is_consecutive(&own_step, own)) {
        (true, _) => false,
        (false, true) => true,
        (false, false) => return None,
    };
    let row = if rows_are_k { k_step } else { own_step };
    Some(Matrix { input: *input, dtype: nest.inputs[*input].dtype, base, rows_are_k, row })
}

impl Product<'_> {
    /// The matrix instruction for its types, of those that are, or are not, asynchronous; it uses all bits of the factors if
    /// it has to.
    pub fn unit<'t>(&self, target: &'t Target, is_async: bool) -> Option<&'t MatrixUnit> {
        let types = [(Operand::C, self.nest.acc), (Operand::A, self.a.dtype), (Operand::B, self.b.dtype)];
        let fits = |u: &&MatrixUnit| {
            let is_exact = target.drops_bits || self.a.dtype != DType::F32 || u.precision >= 24;
            u.is_async == is_async
                && is_exact
                && types.iter().all(|(operand, dtype)| u.dtype(*operand) == *dtype)
        };
        target.matrix.iter().find(fits)
    }

    /// The factors, each with the number of its own axis.
    pub fn factors(&self) -> [(&Matrix, usize); 2] {
        [(&self.a, 0), (&self.b, 1)]
    }

    /// What the axes other than `m`, `n` and `k` are, in terms of an index over all of them.
    pub fn batch_at(&self, index: &Dim) -> Vec<(Sym, Dim)> {
        let extents: Vec<Dim> = self.batch.iter().map(|a| a.extent.clone()).collect();
        let at = aic_ir::op::unflatten(index, &extents);
        self.batch.iter().map(|a| a.var.clone()).zip(at).collect()
    }

    /// Points of the axes other than `m`, `n` and `k`.
    pub fn n_batch(&self) -> Dim {
        self.batch.iter().fold(1.into(), |n, a| n * a.extent.clone())
    }

    /// A GPU's blocks with tiles of so many rows and columns.
    pub fn grid(&self, [m, n]: [u32; 2]) -> Grid {
        let extents = [self.tiles(1, n), self.tiles(0, m), self.n_batch()];
        Grid::new(extents, [m, n].map(i64::from), |index| self.batch_at(index).into_iter().collect())
    }

    /// Tiles along an axis.
    pub fn tiles(&self, axis: usize, extent: u32) -> Dim {
        self.axes[axis].extent.ceil_div(&i64::from(extent).into())
    }

    /// How much of an axis is left from a position on, if tiles of this extent may reach beyond its end.
    pub fn rest(&self, axis: usize, tile: u32, from: &Dim) -> Option<Dim> {
        let extent = &self.axes[axis].extent;
        (!extent.is_multiple(i64::from(tile))).then(|| extent.clone() - from.clone())
    }
}

/// The lesser of a tile's extent and what is left.
pub(super) fn clip(extent: impl Into<Dim>, rest: Option<Dim>) -> Dim {
    let extent = extent.into();
    rest.map_or(extent.clone(), |rest| extent.minimum(&rest))
}
