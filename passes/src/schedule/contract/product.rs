//! A contraction as the product of two matrices, for machines that multiply tiles: `out[m, n] = sum of a[m, k] * b[k, n]`
//! for each point of the other axes.

use super::super::nest::{Flat, Nest};
use super::sides::Grid;
use aic_ir::compute::{Axis, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Operand, Tile};
use aic_ir::scalar::ScalarFn;
use aic_ir::target::{MatrixUnit, Target};

/// The matrices of a contraction, and where they lie.
pub(super) struct Product<'a> {
    pub nest: &'a Nest,
    /// The axes `m`, `n` and `k`; extent 1 where there is none.
    pub axes: [Axis; 3],
    /// The other axes of the output.
    pub batch: Vec<Axis>,
    /// Contracted axes outside of `k`: the result is the sum of a product of matrices for each point of them.
    pub outer: Vec<Axis>,
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

/// The axes of a contraction.
struct Roles {
    /// The axes `m`, `n` and `k`; `None` where there is none.
    m: Option<usize>,
    n: Option<usize>,
    k: Axis,
    /// Contracted axes outside of `k`.
    outer: Vec<Axis>,
    /// Which of the factors is the left one.
    left: usize,
}

/// The product that a nest is, if it is one.
pub(super) fn product(nest: &Nest) -> Option<Product<'_>> {
    sum_of_products(nest).filter(|p| p.outer.is_empty())
}

/// The product, or the sum of products, that a nest is.
pub(super) fn sum_of_products(nest: &Nest) -> Option<Product<'_>> {
    let (factors, roles) = (factors(nest)?, roles(nest)?);
    let (left, right) = (&factors[roles.left], &factors[1 - roles.left]);
    let axis = |k: Option<usize>, name: &str| k.map_or_else(|| no_axis(name), |k| nest.axes[k].clone());
    let axes = [axis(roles.m, "no m"), axis(roles.n, "no n"), roles.k.clone()];
    let is_batch = |k: &usize| Some(*k) != roles.m && Some(*k) != roles.n;
    let batch = (0..nest.axes.len()).filter(is_batch).map(|k| nest.axes[k].clone());
    let a = matrix(nest, left, &axes[0], &axes[2])?;
    let b = matrix(nest, right, &axes[1], &axes[2])?;
    Some(Product { nest, batch: batch.collect(), outer: roles.outer, a, b, axes })
}

/// Whether the factors of a contraction of two matrices, in the order of its terms, are consecutive along the contracted
/// axis, or along their own where elements of their size are transposed on the way; `None` for other nests.
pub(in crate::schedule) fn are_loadable(nest: &Nest, transposes: &[u32]) -> Option<[bool; 2]> {
    let (factors, roles) = (factors(nest)?, roles(nest)?);
    let (m, n) = (roles.m?, roles.n?);
    let own = if roles.left == 0 { [m, n] } else { [n, m] };
    let is_loadable = |k: usize| {
        let found = matrix(nest, &factors[k], &nest.axes[own[k]], &roles.k);
        found.is_some_and(|x| !x.rows_are_k || transposes.contains(&(x.dtype.size() as u32)))
    };
    Some([0, 1].map(is_loadable))
}

fn no_axis(name: &str) -> Axis {
    Axis { var: Sym::new(name), extent: 1.into() }
}

/// The factors whose products a nest sums.
fn factors(nest: &Nest) -> Option<&[Flat; 2]> {
    let (ReduceOp::Sum, _) = nest.reduction.as_ref()? else { return None };
    let Flat::Call(ScalarFn::Mul, factors) = &nest.value else { return None };
    factors[..].try_into().ok()
}

fn roles(nest: &Nest) -> Option<Roles> {
    if nest.kept.is_some() {
        return None;
    }
    let [x, y] = factors(nest)?;
    let (k, outer) = match nest.over().split_last() {
        Some((k, outer)) => (k.clone(), outer.to_vec()),
        None => (no_axis("no k"), Vec::new()),
    };
    let moves = |f: &Flat, a: &Axis| f.mentions(&a.var);
    // The innermost axis that only one factor depends on is the columns'; that factor is the right one.
    let of_one = |f: &Flat, g: &Flat| nest.axes.iter().rposition(|a| moves(f, a) && !moves(g, a));
    let (left, n, m) = match (of_one(x, y), of_one(y, x)) {
        (Some(m), Some(n)) if m > n => (1, Some(m), Some(n)),
        (Some(n), None) => (1, Some(n), None),
        (m, n) => (0, n, m),
    };
    Some(Roles { m, n, k, outer, left })
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
            u.is_async == is_async
                && target.keeps(u, self.a.dtype)
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

    /// `n` consecutive elements of a factor from a place of a step's tile on, and how many of them there are if that may be
    /// fewer. The factor's rows and columns are along `axes`.
    pub fn source(
        &self,
        grid: &Grid,
        block: [u32; 3],
        (matrix, axes): (&Matrix, [usize; 2]),
        step: &Dim,
        [row, column]: [Dim; 2],
        n: i64,
    ) -> (Tile, Option<[Dim; 2]>) {
        let origin = |axis: usize| match axis {
            2 => step.clone() * i64::from(block[2]).into(),
            _ => grid.origin[axis].clone(),
        };
        let at = [origin(axes[0]) + row, origin(axes[1]) + column];
        let rest = |k: usize| self.rest(axes[k], block[axes[k]], &at[k]);
        let valid = match (rest(0), rest(1)) {
            (None, None) => None,
            (rows, columns) => Some([clip(1, rows), clip(n, columns)]),
        };
        let base = matrix.base.subst(&|x| grid.batch.get(x).cloned());
        let [y, x] = at;
        let input = &self.nest.inputs[matrix.input].name;
        (Tile::rows(input, base + y * matrix.row.clone() + x, 0), valid)
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
