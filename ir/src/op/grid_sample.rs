//! Interpolated sampling of images at data-dependent places.
//!
//! The reference evaluation and the compute definition follow the same steps: grid coordinates become pixel
//! coordinates within the image, each of which gives a few taps (pixel and weight) per axis.

use super::attr::word_attr;
use super::contract::push_rounded;
use super::shape::strides;
use super::window::tap_axes;
use super::{Operand, Operator, Rng, Sample, Values, op};
use crate::compute::{Axis, Compute, Expr, ReduceOp, Source, Stage};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::Tensor;
use crate::types::Type;

word_attr! {
    /// How a value between pixels is made.
    GridMode {
        /// From the two neighbours along each axis.
        Linear = "linear",
        /// The nearest pixel, ties to even.
        Nearest = "nearest",
        /// From four neighbours along each axis: Keys' kernel (1981) with a = -0.75.
        Cubic = "cubic",
    }
}

word_attr! {
    /// What lies beyond an image.
    GridPadding {
        /// Zeros.
        Zeros = "zeros",
        /// The pixel at the border.
        Border = "border",
        /// The image, reflected at the border as often as it takes.
        Reflection = "reflection",
    }
}

op! {
    /// Sampling of an image at the places of a grid: ONNX `GridSample`.
    ///
    /// `x[N, C, spatial..]` (floats) and `grid[N, out.., r]` (floats), with `r` the number of spatial axes, give
    /// `y[N, C, out..]`. The grid's last axis has coordinates of the spatial axes in reverse order (x, y, z); -1 and 1
    /// are the first and last pixels' centres (`align_corners`) or outer edges. Coordinates are computed in the
    /// grid's type (`f32` for 16-bit floats), rounded at every step, since which pixels they fall upon depends on it.
    GridSample = "grid_sample"(x, grid) {
        /// How a value between pixels is made.
        mode: GridMode,
        /// What lies beyond the image.
        padding: GridPadding,
        /// Whether -1 and 1 are centres of pixels.
        align_corners: bool,
    }
}

impl Operator for GridSample {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (x, grid) = (x[0], x[1]);
        ensure!(
            x.dtype.is_float() && grid.dtype.is_float(),
            "operands must be of floats, found {x} and {grid}"
        );
        ensure!(
            x.rank() >= 3 && x.rank() == grid.rank(),
            "operands must have one rank of 3 or more, found {x} and {grid}"
        );
        let axes = x.rank() - 2;
        ensure!(grid.dims[axes + 1].is(axes as i64), "the grid's last extent must be {axes}, found {grid}");
        ensure!(x.dims[0] == grid.dims[0], "the batch extents differ: {x} and {grid}");
        let mut dims = x.dims[..2].to_vec();
        dims.extend_from_slice(&grid.dims[1..=axes]);
        Ok(vec![Type::new(x.dtype, dims)])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (x, grid) = (&x[0], &x[1]);
        let axes = x.rank() - 2;
        let spatial = &x.shape()[2..];
        let mut shape = x.shape()[..2].to_vec();
        shape.extend_from_slice(&grid.shape()[1..=axes]);
        let points: usize = shape[2..].iter().product();
        let plane: usize = spatial.iter().product();
        let (pixels, places) = (x.to_f64(), grid.to_f64());
        let step = strides(spatial);
        let work = grid.dtype().compute();
        let y = Tensor::generate(x.dtype(), shape, |p| {
            let (image, point) = (p / points, p % points);
            let place = &places[(image / x.shape()[1] * points + point) * axes..][..axes];
            // Taps along each axis: pixel and weight.
            let taps: Vec<Vec<(Option<usize>, f64)>> = (0..axes)
                .map(|k| {
                    let at = self.coordinate(place[axes - 1 - k], spatial[k], work);
                    self.taps(at, spatial[k], work)
                })
                .collect();
            let mut sum = 0.0;
            let combinations: usize = taps.iter().map(Vec::len).product();
            for mut choice in 0..combinations {
                let (mut at, mut weight) = (Some(image * plane), 1.0);
                for (taps, step) in taps.iter().zip(&step) {
                    let (pixel, w) = taps[choice % taps.len()];
                    choice /= taps.len();
                    at = at.zip(pixel).map(|(at, pixel)| at + pixel * step);
                    weight *= w;
                }
                sum += at.map_or(0.0, |at| pixels[at]) * weight;
            }
            Scalar::F(sum)
        })?;
        Ok(vec![y])
    }

    /// A stage of pixel coordinates per spatial axis, then the sum over taps.
    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let spatial = &x[0].dims[2..];
        let work = x[1].dtype.compute();
        let points = Axis::outputs(&x[1].dims[..=spatial.len()]);
        let mut stages: Vec<Stage> = Vec::new();
        for (k, n) in spatial.iter().enumerate() {
            let mut at: Vec<Dim> = points.iter().map(Axis::dim).collect();
            at.push((spatial.len() - 1 - k).into());
            let place = Expr::input(1, at).cast(x[1].dtype, work);
            let at = Line { op: self, n, work }.coordinate(place);
            stages.push(Stage::map(work, points.clone(), at));
        }
        let axes = Axis::outputs(&y[0].dims);
        let i: Vec<Dim> = axes.iter().map(Axis::dim).collect();
        // Weights and sums are in the wider of the two types.
        let wide = if x[0].dtype == DType::F64 { DType::F64 } else { work };
        let n_taps = match self.mode {
            GridMode::Nearest => 1,
            GridMode::Linear => 2,
            GridMode::Cubic => 4,
        };
        let taps = tap_axes(&vec![Dim::from(n_taps); spatial.len()]);
        let mut index = vec![Expr::Index(i[0].clone()), Expr::Index(i[1].clone())];
        let (mut guards, mut weight) = (Vec::new(), None);
        for (k, n) in spatial.iter().enumerate() {
            let at = Expr::stage(k, [&i[..1], &i[2..]].concat());
            let line = Line { op: self, n, work };
            let (pixel, guard) = line.pixel(&at, &taps[k].dim());
            index.push(pixel);
            guards.extend(guard);
            if let Some(w) = line.weight(at, &taps[k].dim(), wide) {
                weight = Some(weight.map_or(w.clone(), |v| binary(ScalarFn::Mul, v, w)));
            }
        }
        let zero = Expr::float(x[0].dtype, 0.0);
        let load = Expr::Load(Source::Input(0), index);
        let pixel = if guards.is_empty() { load } else { load.guarded(Expr::all(guards), zero) };
        match weight {
            None => stages.push(Stage::map(y[0].dtype, axes, pixel)),
            Some(weight) => {
                let product = binary(ScalarFn::Mul, pixel.cast(x[0].dtype, wide), weight);
                push_rounded(
                    &mut stages,
                    Stage::reduce(wide, axes, ReduceOp::Sum, taps, product),
                    y[0].dtype,
                );
            }
        }
        Some(Compute::chain(x, stages))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let op = GridSample {
            mode: rng.pick(GridMode::ALL),
            padding: rng.pick(GridPadding::ALL),
            align_corners: rng.one_in(2),
        };
        let axes = 1 + rng.below(3);
        let mut x = vec![if rng.one_in(10) { 0 } else { 1 + rng.below(2) }, 1 + rng.below(3)];
        let mut grid = x[..1].to_vec();
        (0..axes).for_each(|_| x.push(1 + rng.below(6)));
        (0..axes).for_each(|_| grid.push(1 + rng.below(5)));
        grid.push(axes);
        // Multiples of an odd fraction, inside, at the border and outside.
        let places = (0..37).map(|_| Scalar::F(rng.range(-40, 41) as f64 / 26.0)).collect();
        let dtype = rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16]);
        let operands = vec![
            Operand::finite(dtype, x),
            Operand { dtype: rng.pick(&[DType::F32, dtype]), shape: grid, values: Values::Exactly(places) },
        ];
        Sample { op: op.into(), operands }
    }
}

impl GridSample {
    /// The pixel coordinate of a grid coordinate along an axis of `n` pixels, brought into the image as the padding
    /// says; for `Nearest` it is whole.
    fn coordinate(&self, place: f64, n: usize, work: DType) -> f64 {
        let round = |v: f64| Scalar::F(v).cast(work).as_f64();
        let n = n as f64;
        let at = round(place + 1.0);
        let at = match self.align_corners {
            true => round(round(at / 2.0) * (n - 1.0)),
            false => round(round(round(at * n) - 1.0) / 2.0),
        };
        let at = if self.mode == GridMode::Nearest { at.round_ties_even() } else { at };
        match self.padding {
            GridPadding::Zeros => at,
            GridPadding::Border if at < 0.0 && !self.inside(at, n) => 0.0,
            GridPadding::Border if at > n - 1.0 && !self.inside(at, n) => n - 1.0,
            GridPadding::Border => at,
            GridPadding::Reflection => self.reflected(at, n, work),
        }
    }

    /// The borders of an image of `n` pixels.
    fn borders(&self, n: f64) -> (f64, f64) {
        if self.align_corners { (0.0, n - 1.0) } else { (-0.5, n - 0.5) }
    }

    fn inside(&self, at: f64, n: f64) -> bool {
        let (lo, hi) = self.borders(n);
        (lo..=hi).contains(&at)
    }

    /// A coordinate reflected at the borders until it is between them.
    fn reflected(&self, at: f64, n: f64, work: DType) -> f64 {
        let round = |v: f64| Scalar::F(v).cast(work).as_f64();
        let (lo, hi) = self.borders(n);
        if hi == lo {
            return lo;
        }
        if self.inside(at, n) {
            return at;
        }
        // Distance beyond the border, and how many image widths it is.
        let beyond = if at < lo { round(lo - at) } else { round(at - hi) };
        let turns = round(beyond / (hi - lo)).trunc();
        let rest = round(beyond - round(turns * (hi - lo)));
        let from_lo = (at < lo) == (turns % 2.0 == 0.0);
        if from_lo { round(lo + rest) } else { round(hi - rest) }
    }

    /// Pixels and weights along an axis; no pixel where a zero lies.
    fn taps(&self, at: f64, n: usize, work: DType) -> Vec<(Option<usize>, f64)> {
        let first = at.floor();
        let t = at - first;
        let weights = match self.mode {
            GridMode::Nearest => vec![(0.0, 1.0)],
            GridMode::Linear => vec![(0.0, 1.0 - t), (1.0, t)],
            GridMode::Cubic => (-1..3).map(|k| (f64::from(k), keys((t - f64::from(k)).abs()))).collect(),
        };
        weights.into_iter().map(|(k, weight)| (self.pixel(first + k, n, work), weight)).collect()
    }

    fn pixel(&self, at: f64, n: usize, work: DType) -> Option<usize> {
        let last = n as f64 - 1.0;
        let at = match self.padding {
            GridPadding::Zeros => return (0.0..=last).contains(&at).then_some(at as usize),
            GridPadding::Border => at,
            GridPadding::Reflection => self.reflected(at, n as f64, work).trunc(),
        };
        (n > 0).then(|| at.max(0.0).min(last) as usize)
    }
}

/// The parameter of Keys' kernel.
const KEYS_A: f64 = -0.75;

/// Keys' cubic convolution kernel at a distance from 0 to 2.
fn keys(d: f64) -> f64 {
    let a = KEYS_A;
    if d <= 1.0 {
        ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    } else {
        ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    }
}

fn binary(f: ScalarFn, a: Expr, b: Expr) -> Expr {
    Expr::call(f, [a, b])
}

fn select(cond: Expr, a: Expr, b: Expr) -> Expr {
    Expr::call(ScalarFn::Select, [cond, a, b])
}

/// Expressions along one axis of `n` pixels; coordinates are of type `work`.
struct Line<'a> {
    op: &'a GridSample,
    n: &'a Dim,
    work: DType,
}

impl Line<'_> {
    fn float(&self, value: f64) -> Expr {
        Expr::float(self.work, value)
    }

    fn int(&self, d: Dim) -> Expr {
        match d.as_const() {
            Some(v) => self.float(v as f64),
            None => Expr::Index(d).cast(DType::I64, self.work),
        }
    }

    fn last(&self) -> Expr {
        self.int(self.n.clone() - 1.into())
    }

    fn borders(&self) -> (Expr, Expr) {
        if self.op.align_corners {
            return (self.float(0.0), self.last());
        }
        let hi = binary(ScalarFn::Sub, self.int(self.n.clone()), self.float(0.5));
        (self.float(-0.5), hi)
    }

    fn inside(&self, at: &Expr) -> Expr {
        let (lo, hi) = self.borders();
        Expr::all(vec![binary(ScalarFn::Ge, at.clone(), lo), binary(ScalarFn::Le, at.clone(), hi)])
    }

    /// See [`GridSample::coordinate`].
    fn coordinate(&self, place: Expr) -> Expr {
        let at = binary(ScalarFn::Add, place, self.float(1.0));
        let at = match self.op.align_corners {
            true => binary(ScalarFn::Mul, binary(ScalarFn::Div, at, self.float(2.0)), self.last()),
            false => {
                let at = binary(ScalarFn::Mul, at, self.int(self.n.clone()));
                binary(ScalarFn::Div, binary(ScalarFn::Sub, at, self.float(1.0)), self.float(2.0))
            }
        };
        let at = if self.op.mode == GridMode::Nearest { Expr::call(ScalarFn::Round, [at]) } else { at };
        match self.op.padding {
            GridPadding::Zeros => at,
            GridPadding::Border => {
                let clamped = binary(ScalarFn::Max, at.clone(), self.float(0.0));
                let clamped = binary(ScalarFn::Min, clamped, self.last());
                select(self.inside(&at), at, clamped)
            }
            GridPadding::Reflection => self.reflected(at),
        }
    }

    /// See [`GridSample::reflected`].
    fn reflected(&self, at: Expr) -> Expr {
        let (lo, hi) = self.borders();
        let width = binary(ScalarFn::Sub, hi.clone(), lo.clone());
        let below = binary(ScalarFn::Lt, at.clone(), lo.clone());
        let beyond = select(
            below.clone(),
            binary(ScalarFn::Sub, lo.clone(), at.clone()),
            binary(ScalarFn::Sub, at.clone(), hi.clone()),
        );
        let turns = Expr::call(ScalarFn::Trunc, [binary(ScalarFn::Div, beyond.clone(), width.clone())]);
        let rest = binary(ScalarFn::Sub, beyond, binary(ScalarFn::Mul, turns.clone(), width.clone()));
        let odd = binary(ScalarFn::Rem, turns, self.float(2.0));
        let even = binary(ScalarFn::Eq, odd, self.float(0.0));
        let reflected = select(
            binary(ScalarFn::Eq, below, even),
            binary(ScalarFn::Add, lo.clone(), rest.clone()),
            binary(ScalarFn::Sub, hi, rest),
        );
        let inside = select(self.inside(&at), at, reflected);
        select(binary(ScalarFn::Eq, width, self.float(0.0)), lo, inside)
    }

    /// The index of the pixel at a tap of a coordinate, and the condition under which there is one. The index is
    /// within the image wherever the condition holds, whatever the coordinate.
    fn pixel(&self, at: &Expr, tap: &Dim) -> (Expr, Option<Expr>) {
        let first = Expr::call(ScalarFn::Floor, [at.clone()]);
        let at = match self.op.mode {
            GridMode::Nearest => first,
            GridMode::Linear => binary(ScalarFn::Add, first, self.int(tap.clone())),
            GridMode::Cubic => binary(ScalarFn::Add, first, self.int(tap.clone() - 1.into())),
        };
        let at = match self.op.padding {
            GridPadding::Zeros => {
                let ge = binary(ScalarFn::Ge, at.clone(), self.float(0.0));
                let le = binary(ScalarFn::Le, at.clone(), self.last());
                return (at.cast(self.work, DType::I64), Some(binary(ScalarFn::And, ge, le)));
            }
            GridPadding::Border => at,
            GridPadding::Reflection => self.reflected(at),
        };
        let last = Expr::Index(self.n.clone() - 1.into());
        let index = binary(ScalarFn::Min, at.cast(self.work, DType::I64), last);
        let index = binary(ScalarFn::Max, index, Expr::int(0));
        let some = binary(ScalarFn::Gt, Expr::Index(self.n.clone()), Expr::int(0));
        (index, self.n.as_const().is_none_or(|n| n < 1).then_some(some))
    }

    /// The weight of a tap of a coordinate, in type `wide`; `None` for 1.
    fn weight(&self, at: Expr, tap: &Dim, wide: DType) -> Option<Expr> {
        let first = Expr::call(ScalarFn::Floor, [at.clone()]);
        let t = binary(ScalarFn::Sub, at.cast(self.work, wide), first.cast(self.work, wide));
        let c = |value: f64| Expr::float(wide, value);
        match self.op.mode {
            GridMode::Nearest => None,
            GridMode::Linear => {
                let is_first = binary(ScalarFn::Eq, Expr::Index(tap.clone()), Expr::int(0));
                Some(select(is_first, binary(ScalarFn::Sub, c(1.0), t.clone()), t))
            }
            // Keys' kernel, factored by its zeros: a*u*v*v for the outer taps and v*(1 + u - (a+2)*u*u) for the inner
            // ones, where u and v are the distances to the two pixels between which the place is.
            GridMode::Cubic => {
                let mul = |a: &Expr, b: &Expr| binary(ScalarFn::Mul, a.clone(), b.clone());
                let s = binary(ScalarFn::Sub, c(1.0), t.clone());
                let is_left = binary(ScalarFn::Lt, Expr::Index(tap.clone()), Expr::int(2));
                let u = select(is_left.clone(), t.clone(), s.clone());
                let v = select(is_left, s, t);
                let outer = mul(&mul(&c(KEYS_A), &u), &mul(&v, &v));
                let square = mul(&c(KEYS_A + 2.0), &mul(&u, &u));
                let sum = binary(ScalarFn::Sub, binary(ScalarFn::Add, c(1.0), u), square);
                let is_inner = binary(
                    ScalarFn::Eq,
                    Expr::Index((tap.clone() - 1.into()).floor_div(&2.into())),
                    Expr::int(0),
                );
                Some(select(is_inner, mul(&v, &sum), outer))
            }
        }
    }
}
