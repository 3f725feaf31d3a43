//! Interpolated sampling of images at data-dependent places.

use super::attr::word_attr;
use super::shape::strides;
use super::{Operand, Operator, Rng, Sample, Values, op};
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::scalar::Scalar;
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

    fn sample(rng: &mut Rng) -> Sample {
        let op = GridSample {
            mode: rng.pick(GridMode::ALL),
            padding: rng.pick(GridPadding::ALL),
            align_corners: rng.one_in(2),
        };
        let axes = 1 + rng.below(3);
        let mut x = vec![rng.below(3), 1 + rng.below(3)];
        let mut grid = x[..1].to_vec();
        (0..axes).for_each(|_| x.push(1 + rng.below(6)));
        (0..axes).for_each(|_| grid.push(rng.below(5)));
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
            GridPadding::Border if self.inside(at, n) => at,
            GridPadding::Border => at.max(0.0).min(n - 1.0),
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

/// Keys' cubic convolution kernel with a = -0.75, at a distance from 0 to 2.
fn keys(d: f64) -> f64 {
    let a = -0.75;
    if d <= 1.0 {
        ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    } else {
        ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    }
}
