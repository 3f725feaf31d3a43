//! Pooling of regions of interest.

use super::attr::word_attr;
use super::{Operand, Operator, Rng, Sample, Values, op};
use crate::compute::{Axis, Compute, Expr, ReduceOp, Source, Stage};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::error::Result;
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::Tensor;
use crate::types::Type;
use crate::{bail, ensure};

word_attr! {
    /// How the samples of a bin are combined.
    RoiMode {
        /// Their mean.
        Avg = "avg",
        /// The largest product of a pixel and its interpolation weight, as ONNX has it.
        Max = "max",
    }
}

op! {
    /// Regions of interest pooled to a fixed size by bilinear sampling: ONNX `RoiAlign`.
    ///
    /// `x[N, C, H, W]`, `rois[R, 4]` (x1, y1, x2, y2) of one float type and `batch_indices[R]` (`i32` or `i64`) give
    /// `y[R, C, height, width]`. An index out of range is an error, and so is a bin of more than 2^24 samples.
    RoiAlign = "roi_align"(x, rois, batch_indices) {
        /// How samples are combined.
        mode: RoiMode,
        /// Bins along `H`.
        height: usize,
        /// Bins along `W`.
        width: usize,
        /// Samples along each axis of a bin; 0 for as many as pixels fit, rounded up.
        sampling_ratio: usize,
        /// What takes the regions' coordinates to pixels.
        spatial_scale: f64,
        /// Whether pixels' centres are at halves (`half_pixel`); otherwise regions are at least one pixel large
        /// (`output_half_pixel`).
        half_pixel: bool,
    }
}

impl Operator for RoiAlign {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (x, rois, indices) = (x[0], x[1], x[2]);
        ensure!(
            x.dtype.is_float() && x.dtype == rois.dtype,
            "x and rois must have one float type, found {x} and {rois}"
        );
        ensure!(x.rank() == 4, "x must have rank 4, found {x}");
        ensure!(rois.rank() == 2 && rois.dims[1].is(4), "rois must have extents [R,4], found {rois}");
        ensure!(
            matches!(indices.dtype, DType::I32 | DType::I64) && indices.dims == rois.dims[..1],
            "batch_indices must be i32 or i64 of extents [{}], found {indices}",
            rois.dims[0]
        );
        ensure!(self.height > 0 && self.width > 0, "height and width must be positive");
        let (height, width) = (self.height.into(), self.width.into());
        Ok(vec![Type::new(x.dtype, vec![rois.dims[0].clone(), x.dims[1].clone(), height, width])])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let shape = x[0].shape();
        let (images, channels, plane) = (shape[0], shape[1], shape[2] * shape[3]);
        let (pixels, rois, indices) = (x[0].to_f64(), x[1].to_f64(), x[2].to_i64());
        if let Some(bad) = indices.iter().find(|&&i| !(0..images as i64).contains(&i)) {
            bail!("batch index {bad} is out of range for {images} images");
        }
        for roi in rois.chunks_exact(4) {
            let samples = self.axis(roi, 0).samples as f64 * self.axis(roi, 1).samples as f64;
            if samples > MAX_SAMPLES {
                bail!("region {roi:?} takes {samples} samples per bin, too many");
            }
        }
        let (bins, counts) = ([self.height, self.width], [indices.len(), channels]);
        let per_plane = bins[0] * bins[1];
        let y = Tensor::generate(x[0].dtype(), [&counts[..], &bins[..]].concat(), |p| {
            let (roi, c) = (p / per_plane / channels, p / per_plane % channels);
            let image = &pixels[(indices[roi] as usize * channels + c) * plane..][..plane];
            let bin = [p % per_plane / self.width, p % self.width];
            Scalar::F(self.bin(image, [shape[2], shape[3]], &rois[roi * 4..roi * 4 + 4], bin))
        })?;
        Ok(vec![y])
    }

    /// For a known number of samples: their places, then the reduction over samples and their corners, in `f64`.
    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let n = self.sampling_ratio;
        if n == 0 || (n as f64).powi(2) > MAX_SAMPLES {
            return None;
        }
        let axes = Axis::outputs(&y[0].dims);
        let i: Vec<Dim> = axes.iter().map(Axis::dim).collect();
        let places = |k: usize| {
            let axes = vec![axes[0].clone(), axes[3 - k].clone(), Axis::new("s", n.into())];
            let place = self.place(k, &i[0], x[1].dtype, &i[3 - k]);
            Stage::map(DType::F64, axes, place)
        };
        let over = [("sy", n), ("sx", n), ("cy", 2), ("cx", 2)].map(|(name, n)| Axis::new(name, n.into()));
        let [sy, sx, cy, cx] = over.each_ref().map(Axis::dim);
        let last_image = Expr::Index(x[0].dims[0].clone() - 1.into());
        let image = Expr::input(2, vec![i[0].clone()]).cast(x[2].dtype, DType::I64);
        let image = binary(ScalarFn::Max, binary(ScalarFn::Min, image, last_image), Expr::int(0));
        let row = corner(Expr::stage(1, vec![i[0].clone(), i[2].clone(), sy]), &x[0].dims[2], cy);
        let column = corner(Expr::stage(0, vec![i[0].clone(), i[3].clone(), sx]), &x[0].dims[3], cx);
        let some_image = binary(ScalarFn::Gt, Expr::Index(x[0].dims[0].clone()), Expr::int(0));
        let inside = Expr::all(vec![some_image, row.inside, column.inside]);
        let index = vec![image, Expr::Index(i[1].clone()), row.index, column.index];
        let pixel = Expr::Load(Source::Input(0), index).cast(x[0].dtype, DType::F64);
        let product = binary(ScalarFn::Mul, binary(ScalarFn::Mul, row.weight, column.weight), pixel);
        let product = product.guarded(inside, Expr::float(DType::F64, 0.0));
        let (op, divisor) = match self.mode {
            RoiMode::Avg => (ReduceOp::Sum, (n * n) as f64),
            RoiMode::Max => (ReduceOp::Max, 1.0),
        };
        let reduced = Stage::reduce(DType::F64, axes.clone(), op, over.to_vec(), product);
        let value = binary(ScalarFn::Div, Expr::stage(2, i.clone()), Expr::float(DType::F64, divisor));
        let result = Stage::map(y[0].dtype, axes.clone(), value.cast(DType::F64, y[0].dtype));
        Some(Compute::chain(x, vec![places(0), places(1), reduced, result]))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let op = RoiAlign {
            mode: rng.pick(RoiMode::ALL),
            height: 1 + rng.below(4),
            width: 1 + rng.below(4),
            sampling_ratio: rng.below(3),
            spatial_scale: rng.pick(&[1.0, 0.5]),
            half_pixel: rng.one_in(2),
        };
        let x = vec![1 + rng.below(2), 1 + rng.below(3), 2 + rng.below(8), 2 + rng.below(8)];
        let (n, rois) = (x[0] as i64, rng.below(4));
        let dtype = rng.pick(&[DType::F32, DType::F64]);
        let operands = vec![
            Operand::finite(dtype, x),
            Operand { dtype, shape: vec![rois, 4], values: Values::Between(-1, 12) },
            Operand { dtype: DType::I64, shape: vec![rois], values: Values::Between(0, n) },
        ];
        Sample { op: op.into(), operands }
    }
}

/// The most samples in a bin: more than any image gives, and few enough to end.
const MAX_SAMPLES: f64 = 16_777_216.0;

/// A region along one axis.
struct AxisOfRoi {
    first: f64,
    /// The size of a bin.
    step: f64,
    /// Samples per bin.
    samples: usize,
}

impl AxisOfRoi {
    /// Where a sample of a bin is.
    fn at(&self, bin: usize, sample: usize) -> f64 {
        self.first + self.step * (bin as f64 + (sample as f64 + 0.5) / self.samples as f64)
    }
}

impl RoiAlign {
    /// The region (x1, y1, x2, y2) along `x` (0) or `y` (1).
    fn axis(&self, roi: &[f64], k: usize) -> AxisOfRoi {
        let offset = if self.half_pixel { 0.5 } else { 0.0 };
        let (lo, hi) = (roi[k] * self.spatial_scale - offset, roi[k + 2] * self.spatial_scale - offset);
        let size = if self.half_pixel { hi - lo } else { (hi - lo).max(1.0) };
        let step = size / [self.width, self.height][k] as f64;
        let samples =
            if self.sampling_ratio > 0 { self.sampling_ratio } else { step.ceil().max(0.0) as usize };
        AxisOfRoi { first: lo, step, samples }
    }

    /// Where sample `s` of bin `bin` of region `roi` is along `x` (0) or `y` (1), as an expression.
    fn place(&self, k: usize, roi: &Dim, dtype: DType, bin: &Dim) -> Expr {
        let c = |value: f64| Expr::float(DType::F64, value);
        let index = |d: Dim| Expr::Index(d).cast(DType::I64, DType::F64);
        let edge = |at: usize| {
            let edge = Expr::input(1, vec![roi.clone(), at.into()]).cast(dtype, DType::F64);
            let offset = if self.half_pixel { 0.5 } else { 0.0 };
            binary(ScalarFn::Sub, binary(ScalarFn::Mul, edge, c(self.spatial_scale)), c(offset))
        };
        let size = binary(ScalarFn::Sub, edge(k + 2), edge(k));
        let size = if self.half_pixel { size } else { binary(ScalarFn::Max, size, c(1.0)) };
        let step = binary(ScalarFn::Div, size, c([self.width, self.height][k] as f64));
        let sample = binary(ScalarFn::Add, index(Dim::named("s")), c(0.5));
        let sample = binary(ScalarFn::Div, sample, c(self.sampling_ratio as f64));
        let steps = binary(ScalarFn::Add, index(bin.clone()), sample);
        binary(ScalarFn::Add, edge(k), binary(ScalarFn::Mul, step, steps))
    }

    /// One bin of one region (x1, y1, x2, y2) of one plane of the given extents.
    fn bin(&self, image: &[f64], extents: [usize; 2], roi: &[f64], bin: [usize; 2]) -> f64 {
        let (rows, columns) = (self.axis(roi, 1), self.axis(roi, 0));
        let samples = (0..rows.samples * columns.samples).map(|s| {
            let at = [rows.at(bin[0], s / columns.samples), columns.at(bin[1], s % columns.samples)];
            corners(image, extents, at)
        });
        match self.mode {
            RoiMode::Avg => {
                let count = (rows.samples * columns.samples).max(1);
                samples.map(|s| s.iter().sum::<f64>()).sum::<f64>() / count as f64
            }
            RoiMode::Max if rows.samples * columns.samples == 0 => 0.0,
            RoiMode::Max => ReduceOp::Max.apply(DType::F64, samples.flatten().map(Scalar::F)).as_f64(),
        }
    }
}

/// The four products of pixel and weight that add up to the value at a place; zeros further than a pixel outside.
fn corners(image: &[f64], extents: [usize; 2], at: [f64; 2]) -> [f64; 4] {
    let outside = (0..2).any(|k| !(-1.0..=extents[k] as f64).contains(&at[k]) || extents[k] == 0);
    if outside {
        return [0.0; 4];
    }
    // Neighbours along an axis, and the weight of the second.
    let split = |k: usize| {
        let (last, at) = (extents[k] - 1, at[k].max(0.0));
        let lo = (at as usize).min(last);
        if lo == last { (last, last, 0.0) } else { (lo, lo + 1, at - lo as f64) }
    };
    let ((y0, y1, fy), (x0, x1, fx)) = (split(0), split(1));
    let pixel = |y: usize, x: usize| image[y * extents[1] + x];
    [
        (1.0 - fy) * (1.0 - fx) * pixel(y0, x0),
        (1.0 - fy) * fx * pixel(y0, x1),
        fy * (1.0 - fx) * pixel(y1, x0),
        fy * fx * pixel(y1, x1),
    ]
}

fn binary(f: ScalarFn, a: Expr, b: Expr) -> Expr {
    Expr::call(f, [a, b])
}

/// One of the two neighbours along an axis, as expressions.
struct Corner {
    index: Expr,
    weight: Expr,
    /// Whether the place is near enough to the image; the index is valid if so.
    inside: Expr,
}

/// Neighbour `which` (0 or 1) of a place along an axis of `n` pixels; see [`corners`].
fn corner(at: Expr, n: &Dim, which: Dim) -> Corner {
    let c = |value: f64| Expr::float(DType::F64, value);
    let inside = Expr::all(vec![
        binary(ScalarFn::Ge, at.clone(), c(-1.0)),
        binary(ScalarFn::Le, at.clone(), Expr::Index(n.clone()).cast(DType::I64, DType::F64)),
        binary(ScalarFn::Gt, Expr::Index(n.clone()), Expr::int(0)),
    ]);
    let last = Expr::Index(n.clone() - 1.into());
    let at = binary(ScalarFn::Max, at, c(0.0));
    let lo = binary(ScalarFn::Min, at.clone().cast(DType::F64, DType::I64), last.clone());
    let fraction = binary(ScalarFn::Sub, at, lo.clone().cast(DType::I64, DType::F64));
    let at_end = binary(ScalarFn::Eq, lo.clone(), last.clone());
    let second = Expr::call(ScalarFn::Select, [at_end, c(0.0), fraction]);
    let first = binary(ScalarFn::Sub, c(1.0), second.clone());
    let is_first = binary(ScalarFn::Eq, Expr::Index(which.clone()), Expr::int(0));
    Corner {
        index: binary(ScalarFn::Min, binary(ScalarFn::Add, lo, Expr::Index(which)), last),
        weight: Expr::call(ScalarFn::Select, [is_first, first, second]),
        inside,
    }
}
