//! Winograd's minimal filtering for 3 x 3 windows: fewer products than a convolution by sums before and after.
//!
//! `F(m x m, 3 x 3)` makes a tile of `m x m` results from one of `t x t` elements, `t = m + 2`, by `t * t` products for
//! each pair of channels instead of `9 m m` (Lavin and Gray, arXiv 1509.09308). The interpolation points are 0, 1, -1 for
//! `m = 2`, and 2, -2 beside them for `m = 4`.

use super::contract::push_rounded;
use super::shape::concrete;
use super::window::Windows;
use super::{Operand, Operator, Rng, Sample, Values, op};
use crate::compute::{Axis, Compute, Expr, ReduceOp, Stage};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::Tensor;
use crate::types::Type;

op! {
    /// Convolution with windows of 3 x 3 and stride 1, channels innermost, by Winograd's minimal filtering.
    ///
    /// `x[N, H, W, C]`, `u[t*t, blocks, C, B]` of one float type give `y[N, H', W', blocks*B]`, with `t = tile + 2`,
    /// `H' = H + lo + hi - 2` and `W'` likewise. `u` holds the filters in the transform's domain, `G g G^T` for each pair
    /// of channels; see [`Winograd::filters`]. Elements outside of `x` are zero.
    Winograd = "winograd"(x, u) {
        /// Extent of the tiles of the output: 2 or 4.
        tile: usize,
        /// Zeros around `x`: low ends of both spatial axes, then high ends.
        pads: Vec<usize>,
    }
}

/// The matrices of a transform, row-major.
pub struct Matrices {
    /// `t x t`: elements to the transform's domain.
    pub input: &'static [f64],
    /// `m x t`: back to results.
    pub output: &'static [f64],
    /// `t x 3`: filters to the transform's domain.
    pub filter: &'static [f64],
}

const F2: Matrices = Matrices {
    input: &[1., 0., -1., 0., 0., 1., 1., 0., 0., -1., 1., 0., 0., 1., 0., -1.],
    output: &[1., 1., 1., 0., 0., 1., -1., -1.],
    filter: &[1., 0., 0., 0.5, 0.5, 0.5, 0.5, -0.5, 0.5, 0., 0., 1.],
};

const F4: Matrices = Matrices {
    input: &[
        4., 0., -5., 0., 1., 0., //
        0., -4., -4., 1., 1., 0., //
        0., 4., -4., -1., 1., 0., //
        0., -2., -1., 2., 1., 0., //
        0., 2., -1., -2., 1., 0., //
        0., 4., 0., -5., 0., 1.,
    ],
    output: &[
        1., 1., 1., 1., 1., 0., //
        0., 1., -1., 2., -2., 0., //
        0., 1., 1., 4., 4., 0., //
        0., 1., -1., 8., -8., 1.,
    ],
    filter: &[
        0.25,
        0.,
        0.,
        -1. / 6.,
        -1. / 6.,
        -1. / 6.,
        -1. / 6.,
        1. / 6.,
        -1. / 6.,
        1. / 24.,
        1. / 12.,
        1. / 6.,
        1. / 24.,
        -1. / 12.,
        1. / 6.,
        0.,
        0.,
        1.,
    ],
};

/// `a x a^T` for a `rows x columns` matrix and a `columns x columns` tile.
pub fn both_sides(a: &[f64], columns: usize, tile: &[f64]) -> Vec<f64> {
    let rows = a.len() / columns;
    let mut half = vec![0.0; rows * columns];
    for r in 0..rows {
        for c in 0..columns {
            half[r * columns + c] = (0..columns).map(|k| a[r * columns + k] * tile[k * columns + c]).sum();
        }
    }
    let entry = |p: usize| {
        let (r, s) = (p / rows, p % rows);
        (0..columns).map(|k| half[r * columns + k] * a[s * columns + k]).sum()
    };
    (0..rows * rows).map(entry).collect()
}

impl Winograd {
    /// The matrices for tiles of `m x m` results; those of 4 for any `m` but 2.
    pub fn matrices(m: usize) -> &'static Matrices {
        if m == 2 { &F2 } else { &F4 }
    }

    /// Filters `w[M, C, 3, 3]` in the domain of the transform for tiles of `m x m`: `[t*t, blocks, C, block]`, the last
    /// block filled up with zeros.
    ///
    /// # Errors
    /// If `w` is not of that shape.
    pub fn filters(w: &Tensor, m: usize, block: usize) -> Result<Tensor> {
        let &[filters, channels, 3, 3] = w.shape() else {
            crate::bail!("expected filters of 3 x 3, found shape {:?}", w.shape())
        };
        let t = m + 2;
        let values = w.to_f64();
        let matrix = Winograd::matrices(m).filter;
        let blocks = filters.div_ceil(block);
        let mut u = vec![0.0f64; t * t * blocks * channels * block];
        for f in 0..filters {
            for c in 0..channels {
                let at = (f * channels + c) * 9;
                for (k, v) in both_sides(matrix, 3, &values[at..at + 9]).into_iter().enumerate() {
                    u[((k * blocks + f / block) * channels + c) * block + f % block] = v;
                }
            }
        }
        Tensor::generate(w.dtype(), vec![t * t, blocks, channels, block], |p| Scalar::F(u[p]))
    }

    fn windows(&self) -> Windows<'_> {
        Windows { kernel: vec![3.into(), 3.into()], strides: &[1, 1], dilations: &[1, 1], pads: &self.pads }
    }
}

/// The entry of a matrix at an index, as an expression of element type `dtype`.
fn entry(matrix: &[f64], columns: usize, row: &Dim, column: &Dim, dtype: DType) -> Expr {
    let is = |d: &Dim, k: usize| Expr::call(ScalarFn::Eq, [Expr::Index(d.clone()), Expr::int(k as i64)]);
    let zero = || Expr::float(dtype, 0.0);
    let of_row = |values: &[f64]| {
        let all = values.iter().enumerate().filter(|(_, v)| **v != 0.0);
        all.fold(zero(), |rest, (k, v)| Expr::float(dtype, *v).guarded(is(column, k), rest))
    };
    let rows = matrix.chunks_exact(columns).enumerate();
    rows.fold(zero(), |rest, (k, values)| of_row(values).guarded(is(row, k), rest))
}

impl Operator for Winograd {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (x, u) = (x[0], x[1]);
        ensure!(self.tile == 2 || self.tile == 4, "tiles are of 2 or 4, found {}", self.tile);
        ensure!(
            x.dtype == u.dtype && x.dtype.is_float(),
            "operands must have one float type, found {x} and {u}"
        );
        ensure!(x.rank() == 4 && u.rank() == 4, "operands must have rank 4, found {x} and {u}");
        let t = self.tile + 2;
        ensure!(u.dims[0].is((t * t) as i64), "expected {} filters in the domain, found {u}", t * t);
        ensure!(u.dims[2] == x.dims[3], "expected {} channels of filters, found {u}", x.dims[3]);
        let spatial = self.windows().infer(&x.dims[1..3])?;
        let filters = u.dims[1].clone() * u.dims[3].clone();
        Ok(vec![Type::new(x.dtype, [&x.dims[..1], &spatial, &[filters]].concat())])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (m, t) = (self.tile, self.tile + 2);
        let types = [Type::of(x[0].dtype(), x[0].shape()), Type::of(x[1].dtype(), x[1].shape())];
        let shape = concrete(&self.infer(&[&types[0], &types[1]])?[0].dims)?;
        let (&[_, h, w, channels], &[_, blocks, _, block]) = (x[0].shape(), x[1].shape()) else {
            crate::bail!("operands must have rank 4")
        };
        let (values, u) = (x[0].to_f64(), x[1].to_f64());
        let mut y = super::number::filled(crate::tensor::numel(&shape)?, 0.0f64)?;
        let element = |n: usize, i: usize, j: usize, c: usize| {
            let (i, j) = (i.checked_sub(self.pads[0])?, j.checked_sub(self.pads[1])?);
            (i < h && j < w).then(|| values[((n * h + i) * w + j) * channels + c])
        };
        let matrices = Winograd::matrices(m);
        for (n, i, j) in tiles(&shape, m) {
            let mut products = vec![0.0; t * t * shape[3]];
            for c in 0..channels {
                let tile: Vec<f64> =
                    (0..t * t).map(|p| element(n, i + p / t, j + p % t, c).unwrap_or(0.0)).collect();
                for (k, v) in both_sides(matrices.input, t, &tile).into_iter().enumerate() {
                    for f in 0..shape[3] {
                        let by = u[((k * blocks + f / block) * channels + c) * block + f % block];
                        products[f * t * t + k] += v * by;
                    }
                }
            }
            for f in 0..shape[3] {
                let results = both_sides(matrices.output, t, &products[f * t * t..][..t * t]);
                for (p, v) in results.into_iter().enumerate() {
                    let (i, j) = (i + p / m, j + p % m);
                    if i < shape[1] && j < shape[2] {
                        y[((n * shape[1] + i) * shape[2] + j) * shape[3] + f] = v;
                    }
                }
            }
        }
        Ok(vec![Tensor::generate(x[0].dtype(), shape, |p| Scalar::F(y[p]))?])
    }

    /// Elements to the domain, products summed over channels, and back.
    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let (x_ty, u, y) = (&x[0], &x[1], &y[0]);
        let (m, t) = (Dim::from(self.tile), self.tile + 2);
        let (work, matrices) = (x_ty.dtype.compute(), Winograd::matrices(self.tile));
        let domain = Dim::from(t * t);
        let tiles = [y.dims[1].ceil_div(&m), y.dims[2].ceil_div(&m)];
        let axis = |name: &str, extent: &Dim| Axis::new(name, extent.clone());
        let at = |a: &Dim| (a.floor_div(&t.into()), a.modulo(&t.into()));
        let of_tile =
            [axis("a", &domain), axis("n", &x_ty.dims[0]), axis("i", &tiles[0]), axis("j", &tiles[1])];
        let taps = [axis("p", &t.into()), axis("q", &t.into())];
        let [a, n, i, j] = of_tile.each_ref().map(Axis::dim);
        let [p, q] = taps.each_ref().map(Axis::dim);
        let c = axis("c", &x_ty.dims[3]);

        let position = |tile: &Dim, tap: &Dim| tile.clone() * m.clone() + tap.clone();
        let spatial = [position(&i, &p) - self.pads[0].into(), position(&j, &q) - self.pads[1].into()];
        let inside =
            Expr::all(spatial.iter().zip(&x_ty.dims[1..3]).map(|(at, d)| Expr::in_bounds(at, d)).collect());
        let [row, column] = spatial;
        let element = Expr::input(0, vec![n.clone(), row, column, c.dim()]).cast(x_ty.dtype, work);
        let element = element.guarded(inside, Expr::Const(work, Scalar::zero(work)));
        let (ar, ac) = at(&a);
        let by = |matrix: &[f64], r: &Dim, c: &Dim| entry(matrix, t, r, c, work);
        let times = |a: Expr, b: Expr| Expr::call(ScalarFn::Mul, [a, b]);
        let factor = times(by(matrices.input, &ar, &p), by(matrices.input, &ac, &q));
        let axes = [&of_tile[..], std::slice::from_ref(&c)].concat();
        let transformed = Stage::reduce(work, axes, ReduceOp::Sum, taps.to_vec(), times(factor, element));

        let f = axis("f", &y.dims[3]);
        let (block, within) = (f.dim().floor_div(&u.dims[3]), f.dim().modulo(&u.dims[3]));
        let filter = Expr::input(1, vec![a.clone(), block, c.dim(), within]).cast(u.dtype, work);
        let product = times(Expr::stage(0, vec![a, n.clone(), i, j, c.dim()]), filter);
        let axes = [&of_tile[..], std::slice::from_ref(&f)].concat();
        let products = Stage::reduce(work, axes, ReduceOp::Sum, vec![c], product);

        let axes = vec![axis("n", &y.dims[0]), axis("h", &y.dims[1]), axis("w", &y.dims[2]), f.clone()];
        let [h, w] = [axes[1].dim(), axes[2].dim()];
        let factor = times(by(matrices.output, &h.modulo(&m), &p), by(matrices.output, &w.modulo(&m), &q));
        let place = p * t.into() + q;
        let product = Expr::stage(1, vec![place, n, h.floor_div(&m), w.floor_div(&m), f.dim()]);
        let mut stages = vec![transformed, products];
        let back = Stage::reduce(work, axes, ReduceOp::Sum, taps.to_vec(), times(factor, product));
        push_rounded(&mut stages, back, y.dtype);
        Some(Compute::chain(x, stages))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let tile = rng.pick(&[2, 4, 4]);
        let pads: Vec<usize> = (0..4).map(|_| rng.pick(&[0, 1, 1, 2])).collect();
        let extent = |rng: &mut Rng| 3 + rng.below(6);
        let x = vec![rng.below(3), extent(rng), extent(rng), 1 + rng.below(3)];
        let u = vec![(tile + 2) * (tile + 2), 1 + rng.below(2), x[3], rng.pick(&[1, 5, 16])];
        // Small integers, which the transforms add up without rounding: on others they amplify rounding errors.
        let dtype = rng.pick(&[DType::F32, DType::F32, DType::F16]);
        Sample {
            op: Winograd { tile, pads }.into(),
            operands: [x, u].map(|shape| Operand { dtype, shape, values: Values::Between(-4, 5) }).into(),
        }
    }
}

/// The image and the first row and column of every tile of a result.
fn tiles(shape: &[usize], m: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    let (rows, columns) = (shape[1], shape[2]);
    let in_image = move |n: usize| {
        (0..rows).step_by(m).flat_map(move |i| (0..columns).step_by(m).map(move |j| (n, i, j)))
    };
    (0..shape[0]).flat_map(in_image)
}
