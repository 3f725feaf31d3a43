//! `Resize` and `Upsample`: along one axis after the other, since the weights of an interpolation are products of
//! those along its axes.
//!
//! Where the extents of an axis are known, so are the positions and weights, which become constants. Where they
//! aren't, these are computed when running, from the extents.

use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::tensor::Tensor;
use aic_ir::{bail, ensure};

pub(super) const OPERATORS: &[Operator] =
    &[op("Resize", 10, upsample).until(10), op("Resize", 11, resize), op("Upsample", 1, upsample)];

/// The most positions that a result's element is gathered from one by one; beyond, a matrix has the weights.
const MAX_GATHERED: usize = 4;
/// The most elements of such a matrix.
const MAX_MATRIX: usize = 1 << 26;

/// The largest extent that an axis is resized from or to.
const MAX_EXTENT: i64 = 1 << 24;

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

/// How a position in the result is one in the operand.
#[derive(Clone, Copy, PartialEq)]
enum Transform {
    HalfPixel,
    HalfPixelSymmetric,
    PytorchHalfPixel,
    AlignCorners,
    Asymmetric,
    CropAndResize,
}

#[derive(Clone, Copy)]
enum Rounding {
    PreferFloor,
    PreferCeil,
    Floor,
    Ceil,
}

/// How values between elements are made.
struct Method {
    mode: Mode,
    transform: Transform,
    rounding: Rounding,
    /// The coefficient of the cubic kernel.
    cubic: f64,
    antialias: bool,
    exclude_outside: bool,
    extrapolation: f64,
}

/// How large an axis becomes.
#[derive(Clone)]
struct Target {
    axis: usize,
    from: Dim,
    to: Dim,
    /// The scale, if it is known.
    scale: Option<f64>,
    /// The part of the axis that is resized, from 0 to 1.
    roi: [f64; 2],
}

/// Attributes of the first versions, which truncate positions.
fn upsample(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let scales = match (c.opset() < 7, c.floats("scales")?, c.n_inputs() > 1) {
        (true, None, _) => {
            let height = c.required("height_scale", c.float("height_scale")?)?;
            vec![1.0, 1.0, height, c.required("width_scale", c.float("width_scale")?)?]
        }
        (_, Some(scales), _) => scales,
        (.., true) => {
            let scales = c.input(1)?;
            c.need_constant(scales, "the input `scales`")?.to_f64()
        }
        _ => bail!("the scales are missing"),
    };
    let mode = match c.text_or("mode", "nearest")? {
        "nearest" => Mode::Nearest,
        "linear" | "bilinear" => Mode::Linear,
        other => bail!("the mode {other} is unknown"),
    };
    let method = Method {
        mode,
        transform: Transform::Asymmetric,
        rounding: Rounding::Floor,
        cubic: 0.0,
        antialias: false,
        exclude_outside: false,
        extrapolation: 0.0,
    };
    let axes: Vec<usize> = (0..c.rank(x)).collect();
    let targets = by_scales(c, x, &axes, &scales, &[])?;
    Ok(method.apply(c, x, &targets)?.into())
}

fn resize(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let rank = c.rank(x);
    let axes = match c.ints("axes")? {
        Some(axes) => c.axes(&axes, rank)?,
        None => (0..rank).collect(),
    };
    let method = method(c)?;
    let roi = match (method.transform, c.optional(1)?) {
        (Transform::CropAndResize, Some(roi)) => c.need_constant(roi, "the input `roi`")?.to_f64(),
        (Transform::CropAndResize, None) => bail!("the input `roi` is missing"),
        _ => Vec::new(),
    };
    ensure!(
        roi.is_empty() || roi.len() == 2 * axes.len(),
        "the input `roi` must have {} elements",
        2 * axes.len()
    );
    // Either may be there without elements.
    let given = |c: &Ctx, k: usize| Ok(c.optional(k)?.filter(|&v| !c.ty(v).numel().is(0)));
    let targets = match (given(c, 2)?, given(c, 3)?) {
        (Some(scales), None) => {
            let scales = c.need_constant(scales, "the input `scales`")?.to_f64();
            by_scales(c, x, &axes, &scales, &roi)?
        }
        (None, Some(sizes)) => {
            let sizes = c.need_dims(sizes, "the input `sizes`")?;
            by_sizes(c, x, &axes, &sizes, &roi)?
        }
        _ => bail!("either scales or sizes must be given"),
    };
    Ok(method.apply(c, x, &targets)?.into())
}

fn method(c: &Ctx) -> Result<Method> {
    let mode = match c.text_or("mode", "nearest")? {
        "nearest" => Mode::Nearest,
        "linear" => Mode::Linear,
        "cubic" => Mode::Cubic,
        other => bail!("the mode {other} is unknown"),
    };
    let transform = match c.text_or("coordinate_transformation_mode", "half_pixel")? {
        "half_pixel" => Transform::HalfPixel,
        "half_pixel_symmetric" => Transform::HalfPixelSymmetric,
        "pytorch_half_pixel" => Transform::PytorchHalfPixel,
        "align_corners" => Transform::AlignCorners,
        "asymmetric" => Transform::Asymmetric,
        "tf_crop_and_resize" => Transform::CropAndResize,
        other => bail!("the coordinate transformation mode {other} is not supported"),
    };
    let rounding = match c.text_or("nearest_mode", "round_prefer_floor")? {
        "round_prefer_floor" => Rounding::PreferFloor,
        "round_prefer_ceil" => Rounding::PreferCeil,
        "floor" => Rounding::Floor,
        "ceil" => Rounding::Ceil,
        other => bail!("the nearest mode {other} is unknown"),
    };
    Ok(Method {
        mode,
        transform,
        rounding,
        cubic: c.float_or("cubic_coeff_a", -0.75)?,
        antialias: c.flag("antialias", false)?,
        exclude_outside: c.flag("exclude_outside", false)?,
        extrapolation: c.float_or("extrapolation_value", 0.0)?,
    })
}

/// The part of the axis at position `k` of `n` that a region of interest has.
fn region(roi: &[f64], k: usize, n: usize) -> [f64; 2] {
    if roi.is_empty() { [0.0, 1.0] } else { [roi[k], roi[n + k]] }
}

fn by_scales(c: &Ctx, x: ValueId, axes: &[usize], scales: &[f64], roi: &[f64]) -> Result<Vec<Target>> {
    ensure!(scales.len() == axes.len(), "expected {} scales, found {}", axes.len(), scales.len());
    let targets = axes.iter().zip(scales).enumerate().map(|(k, (&axis, &scale))| {
        ensure!(scale > 0.0 && scale.is_finite(), "scales must be positive, found {scale}");
        let roi = region(roi, k, axes.len());
        let from = c.dim(x, axis);
        let to = scaled(&from, scale * (roi[1] - roi[0]))?;
        Ok(Target { axis, from, to, scale: Some(scale), roi })
    });
    targets.collect()
}

/// `floor(extent * scale)`
fn scaled(extent: &Dim, scale: f64) -> Result<Dim> {
    if let Some(extent) = extent.as_const() {
        let to = (extent as f64 * scale).floor();
        ensure!(
            (0.0..=MAX_EXTENT as f64).contains(&to),
            "the extent {extent} scaled by {scale} is out of range"
        );
        return Ok((to as i64).into());
    }
    // A float is a whole number over a power of two.
    let denominator = (0..40).map(|k| 1i64 << k).find(|&d| (scale * d as f64).fract() == 0.0);
    match denominator {
        Some(d) if (0.0..1e12).contains(&(scale * d as f64)) => {
            Ok((extent.clone() * ((scale * d as f64) as i64).into()).floor_div(&d.into()))
        }
        _ => bail!("the extent {extent} can't be scaled by {scale}; give its value when compiling"),
    }
}

fn by_sizes(c: &Ctx, x: ValueId, axes: &[usize], sizes: &[Dim], roi: &[f64]) -> Result<Vec<Target>> {
    ensure!(sizes.len() == axes.len(), "expected {} sizes, found {}", axes.len(), sizes.len());
    let mut targets = Vec::new();
    for (k, (&axis, to)) in axes.iter().zip(sizes).enumerate() {
        let from = c.dim(x, axis);
        let scale = match (from.as_const(), to.as_const()) {
            _ if from == *to => Some(1.0),
            (Some(from), Some(to)) => {
                ensure!((0..=MAX_EXTENT).contains(&to), "the size {to} is out of range");
                ensure!(from > 0 || to == 0, "axis {axis} of {} is empty and can't become {to}", c.ty(x));
                Some(to as f64 / from as f64)
            }
            _ => None,
        };
        let roi = region(roi, k, axes.len());
        targets.push(Target { axis, from, to: to.clone(), scale, roi });
    }
    let policy = c.text_or("keep_aspect_ratio_policy", "stretch")?;
    let choose: fn(f64, f64) -> f64 = match policy {
        "stretch" => return Ok(targets),
        "not_larger" => f64::min,
        "not_smaller" => f64::max,
        other => bail!("the policy {other} is unknown"),
    };
    let scales: Option<Vec<f64>> = targets.iter().map(|t| t.scale).collect();
    let Some(scale) = scales.and_then(|s| s.into_iter().reduce(choose)) else {
        bail!("the policy {policy} needs extents and sizes that are known when compiling")
    };
    for t in &mut targets {
        let from = t.from.as_const().unwrap_or(0) as f64;
        (t.to, t.scale) = (((from * scale + 0.5).floor() as i64).into(), Some(scale));
    }
    Ok(targets)
}

/// Elements and their weights.
type Taps = Vec<(usize, f64)>;

impl Method {
    fn apply(&self, c: &mut Ctx, x: ValueId, targets: &[Target]) -> Result<ValueId> {
        let dtype = c.dtype(x);
        let work = match dtype {
            _ if self.mode == Mode::Nearest && self.transform != Transform::CropAndResize => dtype,
            DType::F64 | DType::I32 | DType::I64 | DType::U32 | DType::U64 => DType::F64,
            _ => DType::F32,
        };
        let mut y = c.cast(x, work)?;
        for target in targets {
            y = self.along(c, y, target)?;
        }
        if dtype.is_float() || dtype == work {
            return c.cast(y, dtype);
        }
        let y = c.round(y)?;
        let y = c.clamp(y, Scalar::lowest(dtype).as_f64(), Scalar::highest(dtype).as_f64())?;
        c.cast(y, dtype)
    }

    fn along(&self, c: &mut Ctx, x: ValueId, t: &Target) -> Result<ValueId> {
        if t.scale == Some(1.0) && t.from == t.to && t.roi == [0.0, 1.0] {
            return Ok(x);
        }
        if let Some(times) = self.repetitions(t) {
            return repeated(c, x, t.axis, times);
        }
        match (t.from.as_const(), t.to.as_const(), t.scale) {
            (Some(from), Some(to), Some(scale)) => {
                ensure!(from <= MAX_EXTENT && to <= MAX_EXTENT, "an axis of {from} can't be resized to {to}");
                let axis =
                    KnownAxis { axis: t.axis, from: from as usize, to: to as usize, scale, roi: t.roi };
                self.along_known(c, x, &axis)
            }
            _ => self.along_symbolic(c, x, t),
        }
    }

    /// How often every element is repeated, if that is all there is to it.
    fn repetitions(&self, t: &Target) -> Option<i64> {
        let scale = t.scale.filter(|s| s.fract() == 0.0 && *s >= 1.0 && *s < 1e6)? as i64;
        let exact = t.to == t.from.clone() * scale.into() && self.mode == Mode::Nearest;
        let plain = matches!(
            (self.transform, self.rounding),
            (Transform::Asymmetric, Rounding::Floor)
                | (
                    Transform::HalfPixel | Transform::HalfPixelSymmetric,
                    Rounding::PreferFloor | Rounding::PreferCeil,
                )
        );
        (exact && plain).then_some(scale)
    }

    fn along_known(&self, c: &mut Ctx, x: ValueId, axis: &KnownAxis) -> Result<ValueId> {
        let taps: Vec<Option<Taps>> = (0..axis.to).map(|i| self.taps(i, axis)).collect();
        let extrapolated: Vec<bool> = taps.iter().map(Option::is_none).collect();
        let taps: Vec<Taps> = taps.into_iter().map(|t| t.unwrap_or_else(|| vec![(0, 0.0)])).collect();
        let y = match taps.iter().map(Vec::len).max() {
            Some(1) if taps.iter().all(|t| t[0].1 == 1.0) => {
                let indices: Vec<i64> = taps.iter().map(|t| t[0].0 as i64).collect();
                taken(c, x, axis.axis, &indices)?
            }
            Some(most) if most > MAX_GATHERED && axis.from.saturating_mul(axis.to) <= MAX_MATRIX => {
                by_matrix(c, x, axis, &taps)?
            }
            most => weighted(c, x, axis.axis, &taps, most.unwrap_or(1))?,
        };
        if !extrapolated.contains(&true) {
            return Ok(y);
        }
        let mask = c.tensor(Tensor::from_vec(vec![axis.to], &extrapolated)?);
        let mask = c.along(mask, axis.axis, c.rank(x))?;
        let value = c.number_like(self.extrapolation, y);
        c.select(mask, value, y)
    }

    /// What element `i` of the result is made of; nothing if it is outside of what is resized.
    fn taps(&self, i: usize, axis: &KnownAxis) -> Option<Taps> {
        let (at, last) = (self.position(i as f64, axis), axis.from as i64 - 1);
        let outside = self.transform == Transform::CropAndResize && !(0.0..=last as f64).contains(&at);
        if outside {
            return None;
        }
        if self.mode == Mode::Nearest {
            let nearest = match self.rounding {
                Rounding::PreferFloor => (at - 0.5).ceil(),
                Rounding::PreferCeil => (at + 0.5).floor(),
                Rounding::Floor => at.floor(),
                Rounding::Ceil => at.ceil(),
            };
            return Some(vec![((nearest as i64).clamp(0, last.max(0)) as usize, 1.0)]);
        }
        let stretch = if self.antialias { axis.scale.min(1.0) } else { 1.0 };
        let radius = if self.mode == Mode::Linear { 1.0 } else { 2.0 } / stretch;
        let mut taps: Vec<(i64, f64)> = ((at - radius).ceil() as i64..=(at + radius).floor() as i64)
            .map(|k| (k, self.kernel((k as f64 - at) * stretch)))
            .collect();
        if self.exclude_outside {
            taps.retain(|(k, _)| (0..=last).contains(k));
        }
        let sum: f64 = taps.iter().map(|(_, weight)| weight).sum();
        let norm = if (self.antialias || self.exclude_outside) && sum != 0.0 { sum } else { 1.0 };
        let mut merged: Taps = Vec::new();
        for (k, weight) in taps {
            let k = k.clamp(0, last.max(0)) as usize;
            match merged.last_mut() {
                Some((before, sum)) if *before == k => *sum += weight / norm,
                _ => merged.push((k, weight / norm)),
            }
        }
        merged.retain(|(_, weight)| *weight != 0.0);
        Some(if merged.is_empty() { vec![(0, 0.0)] } else { merged })
    }

    /// Where position `i` of the result is in the operand.
    fn position(&self, i: f64, axis: &KnownAxis) -> f64 {
        let (from, to, scale) = (axis.from as f64, axis.to as f64, axis.scale);
        // The length of the result before it is rounded.
        let length = scale * from;
        let half_pixel = (i + 0.5) / scale - 0.5;
        match self.transform {
            Transform::HalfPixel => half_pixel,
            Transform::HalfPixelSymmetric => from / 2.0 * (1.0 - to / length) + half_pixel,
            Transform::PytorchHalfPixel => {
                if length == 1.0 {
                    -0.5
                } else {
                    half_pixel
                }
            }
            Transform::AlignCorners => {
                if length == 1.0 {
                    0.0
                } else {
                    i * (from - 1.0) / (length - 1.0)
                }
            }
            Transform::Asymmetric => i / scale,
            Transform::CropAndResize => {
                let [start, end] = axis.roi;
                let within = match axis.to {
                    1 => (end - start) * (from - 1.0) / 2.0,
                    _ => i * (end - start) * (from - 1.0) / (to - 1.0),
                };
                start * (from - 1.0) + within
            }
        }
    }

    /// The weight of an element at a distance.
    fn kernel(&self, distance: f64) -> f64 {
        let (d, a) = (distance.abs(), self.cubic);
        match self.mode {
            Mode::Cubic if d <= 1.0 => ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0,
            Mode::Cubic if d < 2.0 => ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a,
            Mode::Cubic => 0.0,
            _ => (1.0 - d).max(0.0),
        }
    }

    /// As [`Method::along_known`] where extents are known when running only.
    fn along_symbolic(&self, c: &mut Ctx, x: ValueId, t: &Target) -> Result<ValueId> {
        let plain = !self.antialias && !self.exclude_outside;
        ensure!(plain, "antialias and exclude_outside need extents that are known when compiling");
        let at = self.symbolic_position(c, t)?;
        let last = c.dim_value(&(t.from.clone() - 1.into()), DType::F64)?;
        let zero = c.number(0.0, DType::F64);
        let element = |c: &mut Ctx, at: ValueId| -> Result<ValueId> {
            let at = c.maximum(at, zero)?;
            let at = c.minimum(at, last)?;
            let index = c.cast(at, DType::I64)?;
            c.gather(x, index, t.axis)
        };
        if self.mode == Mode::Nearest {
            let rounded = match self.rounding {
                Rounding::PreferFloor => {
                    let shifted = c.shifted(at, -0.5)?;
                    c.apply(ScalarFn::Ceil, &[shifted])?
                }
                Rounding::PreferCeil => {
                    let shifted = c.shifted(at, 0.5)?;
                    c.floor(shifted)?
                }
                Rounding::Floor => c.floor(at)?,
                Rounding::Ceil => c.apply(ScalarFn::Ceil, &[at])?,
            };
            return element(c, rounded);
        }
        let first = c.floor(at)?;
        let fraction = c.minus(at, first)?;
        let offsets: &[f64] = if self.mode == Mode::Linear { &[0.0, 1.0] } else { &[-1.0, 0.0, 1.0, 2.0] };
        let mut terms = Vec::new();
        for &offset in offsets {
            let place = c.shifted(first, offset)?;
            let value = element(c, place)?;
            let distance = c.shifted(fraction, -offset)?;
            let weight = self.symbolic_kernel(c, distance, offset)?;
            let weight = c.cast(weight, c.dtype(x))?;
            let weight = c.along(weight, t.axis, c.rank(x))?;
            terms.push(c.times(value, weight)?);
        }
        c.fold(ScalarFn::Add, &terms)
    }

    fn symbolic_position(&self, c: &mut Ctx, t: &Target) -> Result<ValueId> {
        let index = c.iota(vec![t.to.clone()], 0, DType::F64)?;
        let from = c.dim_value(&t.from, DType::F64)?;
        let scale = match t.scale {
            Some(scale) => c.number(scale, DType::F64),
            None => {
                let to = c.dim_value(&t.to, DType::F64)?;
                c.divide(to, from)?
            }
        };
        match self.transform {
            Transform::Asymmetric => c.divide(index, scale),
            Transform::HalfPixel => half_pixel(c, index, scale),
            Transform::HalfPixelSymmetric => {
                let (length, to) = (c.times(scale, from)?, c.dim_value(&t.to, DType::F64)?);
                let cut = c.minus(length, to)?;
                let part = c.divide(cut, length)?;
                let half = c.scaled(from, 0.5)?;
                let offset = c.times(half, part)?;
                let at = half_pixel(c, index, scale)?;
                c.plus(at, offset)
            }
            Transform::AlignCorners => {
                let length = c.times(scale, from)?;
                let (span, steps) = (c.shifted(from, -1.0)?, c.shifted(length, -1.0)?);
                // A result of one element has no steps.
                let one = c.number(1.0, DType::F64);
                let none = c.with_number(ScalarFn::Le, steps, 0.0)?;
                let steps = c.select(none, one, steps)?;
                let all = c.times(index, span)?;
                c.divide(all, steps)
            }
            Transform::PytorchHalfPixel => {
                let at = half_pixel(c, index, scale)?;
                let length = c.times(scale, from)?;
                let one = c.with_number(ScalarFn::Eq, length, 1.0)?;
                let first = c.number(-0.5, DType::F64);
                c.select(one, first, at)
            }
            Transform::CropAndResize => {
                bail!("tf_crop_and_resize needs extents that are known when compiling")
            }
        }
    }

    /// The weight of an element at a distance that is between the offset and one less.
    fn symbolic_kernel(&self, c: &mut Ctx, distance: ValueId, offset: f64) -> Result<ValueId> {
        let d = c.abs(distance)?;
        let coefficients = match (self.mode, offset) {
            (Mode::Cubic, 0.0 | 1.0) => [self.cubic + 2.0, -(self.cubic + 3.0), 0.0, 1.0],
            (Mode::Cubic, _) => [self.cubic, -5.0 * self.cubic, 8.0 * self.cubic, -4.0 * self.cubic],
            _ => [0.0, 0.0, -1.0, 1.0],
        };
        let mut y = c.number(coefficients[0], DType::F64);
        for coefficient in &coefficients[1..] {
            let higher = c.times(y, d)?;
            y = c.shifted(higher, *coefficient)?;
        }
        Ok(y)
    }
}

/// `(index + 0.5) / scale - 0.5`
fn half_pixel(c: &mut Ctx, index: ValueId, scale: ValueId) -> Result<ValueId> {
    let centre = c.shifted(index, 0.5)?;
    let at = c.divide(centre, scale)?;
    c.shifted(at, -0.5)
}

/// An axis whose extents are known.
struct KnownAxis {
    axis: usize,
    from: usize,
    to: usize,
    scale: f64,
    roi: [f64; 2],
}

/// Every element along an axis so many times.
fn repeated(c: &mut Ctx, x: ValueId, axis: usize, times: i64) -> Result<ValueId> {
    if times == 1 {
        return Ok(x);
    }
    let apart = c.unsqueeze(x, &[axis + 1])?;
    let mut dims = c.dims(apart);
    dims[axis + 1] = times.into();
    let wide = c.expand(apart, dims)?;
    let mut dims = c.dims(x);
    dims[axis] = dims[axis].clone() * times.into();
    c.reshape(wide, dims)
}

/// The elements along an axis at given positions; a slice if these are evenly spaced.
fn taken(c: &mut Ctx, x: ValueId, axis: usize, positions: &[i64]) -> Result<ValueId> {
    let step = if positions.len() > 1 { positions[1] - positions[0] } else { 1 };
    let even = step > 0 && positions.windows(2).all(|w| w[1] - w[0] == step);
    match positions.first() {
        Some(&first) if even => c.slice_by(x, axis, first.into(), positions.len().into(), step),
        _ => {
            let positions = c.integers(positions)?;
            c.gather(x, positions, axis)
        }
    }
}

/// A sum of elements times weights, one element of each sum at a time.
fn weighted(c: &mut Ctx, x: ValueId, axis: usize, taps: &[Taps], most: usize) -> Result<ValueId> {
    let mut terms = Vec::new();
    for k in 0..most {
        let tap = |t: &Taps| t.get(k).copied().unwrap_or((t[0].0, 0.0));
        let positions: Vec<i64> = taps.iter().map(|t| tap(t).0 as i64).collect();
        let weights: Vec<f64> = taps.iter().map(|t| tap(t).1).collect();
        let elements = taken(c, x, axis, &positions)?;
        let weights = c.tensor(Tensor::from_vec(vec![weights.len()], &weights)?.cast(c.dtype(x))?);
        let weights = c.along(weights, axis, c.rank(x))?;
        terms.push(c.times(elements, weights)?);
    }
    c.fold(ScalarFn::Add, &terms)
}

/// A product with the matrix of weights.
fn by_matrix(c: &mut Ctx, x: ValueId, axis: &KnownAxis, taps: &[Taps]) -> Result<ValueId> {
    let mut weights = vec![0.0; axis.from * axis.to];
    for (i, taps) in taps.iter().enumerate() {
        taps.iter().for_each(|(k, weight)| weights[k * axis.to + i] = *weight);
    }
    let matrix = Tensor::from_vec(vec![axis.from, axis.to], &weights)?.cast(c.dtype(x))?;
    let matrix = c.tensor(matrix);
    let rank = c.rank(x);
    let mut perm: Vec<usize> = (0..rank).collect();
    perm.swap(axis.axis, rank - 1);
    let mut rows = c.transpose(x, &perm)?;
    if rank == 1 {
        rows = c.unsqueeze(rows, &[0])?;
    }
    let product = c.matmul(rows, matrix)?;
    let product = if rank == 1 { c.squeeze(product, &[0])? } else { product };
    c.transpose(product, &perm)
}
