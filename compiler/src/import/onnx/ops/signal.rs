//! Signals: Fourier transforms as products with matrices of cosines and sines, and windows.

use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::op::Conv;
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::tensor::Tensor;
use aic_ir::{bail, ensure};
use std::f64::consts::TAU;

pub(super) const OPERATORS: &[Operator] = &[
    op("BlackmanWindow", 17, |c| window(c, [0.42, -0.5, 0.08])),
    op("DFT", 17, dft),
    op("HammingWindow", 17, |c| window(c, [25.0 / 46.0, -21.0 / 46.0, 0.0])),
    op("HannWindow", 17, |c| window(c, [0.5, -0.5, 0.0])),
    op("MelWeightMatrix", 17, mel_weight_matrix),
    op("STFT", 17, stft),
];

/// The most elements of a transform's matrix.
const MAX_MATRIX: usize = 1 << 26;

/// A discrete Fourier transform of real or complex numbers; complex ones are pairs.
#[derive(Clone, Copy)]
struct Transform {
    /// The length of the period.
    n: usize,
    /// The number of elements given; further ones are 0.
    given: usize,
    /// Whether they are complex.
    complex: bool,
    inverse: bool,
    /// Half of the spectrum is given (inverse) or wanted, the other half being its mirror image.
    onesided: bool,
}

impl Transform {
    fn inputs_per_element(&self) -> usize {
        if self.complex { 2 } else { 1 }
    }

    fn real_result(&self) -> bool {
        self.inverse && self.onesided
    }

    fn outputs_per_element(&self) -> usize {
        if self.real_result() { 1 } else { 2 }
    }

    fn results(&self) -> usize {
        if self.onesided && !self.inverse { self.n / 2 + 1 } else { self.n }
    }

    /// The matrix by which a row of numbers is to be multiplied; pairs are taken apart.
    fn matrix(&self, dtype: DType) -> Result<Tensor> {
        let (rows, columns) =
            (self.given * self.inputs_per_element(), self.results() * self.outputs_per_element());
        let fits = rows.checked_mul(columns).is_some_and(|size| size <= MAX_MATRIX);
        ensure!(fits, "a transform of {} elements is too long", self.n);
        Tensor::generate(dtype, vec![rows, columns], |p| {
            let (row, column) = (p / columns, p % columns);
            let (element, imaginary) =
                (row / self.inputs_per_element(), row % self.inputs_per_element() == 1);
            let (result, to_imaginary) =
                (column / self.outputs_per_element(), column % self.outputs_per_element() == 1);
            Scalar::F(self.entry(element, result, imaginary, to_imaginary))
        })
    }

    /// How much a real or imaginary part counts for one of a result.
    fn entry(&self, element: usize, result: usize, imaginary: bool, to_imaginary: bool) -> f64 {
        let turns = (element as u128 * result as u128 % self.n as u128) as f64 / self.n as f64;
        let (sin, cos) = (turns * TAU).sin_cos();
        let sin = if self.inverse { sin } else { -sin };
        let value = match (imaginary, to_imaginary) {
            (false, false) | (true, true) => cos,
            (false, true) => sin,
            (true, false) => -sin,
        };
        if !self.inverse {
            return value;
        }
        // Frequencies that have a mirror image among those not given count twice.
        let has_image = element > 0 && 2 * element < self.n;
        let absent = self.onesided && element > self.n / 2;
        let count = match (self.onesided, has_image) {
            _ if absent => 0.0,
            (true, true) => 2.0,
            _ => 1.0,
        };
        // The spectrum of real numbers is real where it is its own image.
        let own_image = self.onesided && !has_image && imaginary;
        if own_image { 0.0 } else { value * count / self.n as f64 }
    }
}

/// The axis is an attribute before version 20, an input since; the last axis holds real and imaginary parts.
fn dft(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let rank = c.rank(x);
    ensure!(rank >= 2, "expected rank 2 or more, found {}", c.ty(x));
    let axis = match (c.opset() < 20, c.optional(2)?) {
        (true, _) => c.int_or("axis", 1)?,
        (false, Some(axis)) => c.need_int(axis, "the axis")?,
        (false, None) => -2,
    };
    let axis = c.axis(axis, rank)?;
    ensure!(axis != rank - 1, "the last axis, of real and imaginary parts, can't be transformed");
    let (inverse, onesided) = (c.flag("inverse", false)?, c.flag("onesided", false)?);
    let (extent, complex) = (c.size(x, axis)?, is_complex(c, x)?);
    let n = match c.optional(1)? {
        Some(n) => c.need_int(n, "the length of the transform")?,
        None if inverse && onesided => (extent as i64 - 1).saturating_mul(2),
        None => extent as i64,
    };
    ensure!((1..=i32::MAX.into()).contains(&n), "the length of the transform must be positive, found {n}");
    let n = n as usize;
    let transform = Transform { n, given: extent.min(n), complex, inverse, onesided };
    Ok(transformed(c, x, axis, transform)?.into())
}

fn is_complex(c: &Ctx, x: ValueId) -> Result<bool> {
    match c.size(x, c.rank(x) - 1)? {
        1 => Ok(false),
        2 => Ok(true),
        other => bail!("the last axis must hold 1 real or 2 complex parts, found {other} in {}", c.ty(x)),
    }
}

fn transformed(c: &mut Ctx, x: ValueId, axis: usize, transform: Transform) -> Result<ValueId> {
    let rank = c.rank(x);
    let wide = c.widened(x)?;
    let given = c.slice(wide, axis, 0, transform.given)?;
    // The axis goes next to the last, and is joined with it.
    let perm: Vec<usize> =
        (0..rank).filter(|&k| k != axis && k != rank - 1).chain([axis, rank - 1]).collect();
    let moved = c.transpose(given, &perm)?;
    let mut dims = c.dims(moved);
    dims.truncate(rank - 2);
    let lead = dims.clone();
    dims.push((transform.given * transform.inputs_per_element()).into());
    let mut rows = c.reshape(moved, dims)?;
    if lead.is_empty() {
        rows = c.unsqueeze(rows, &[0])?;
    }
    let matrix = c.tensor(transform.matrix(c.dtype(wide))?);
    let product = c.matmul(rows, matrix)?;
    let mut dims = lead;
    dims.extend([transform.results().into(), transform.outputs_per_element().into()]);
    let apart = c.reshape(product, dims)?;
    let back: Vec<usize> = (0..rank).map(|k| perm.iter().position(|&p| p == k).unwrap_or(k)).collect();
    let y = c.transpose(apart, &back)?;
    c.cast(y, c.dtype(x))
}

/// Transforms of frames: a convolution along the signal, the kernels being rows of the matrix times the window.
fn stft(c: &mut Ctx) -> Result<Outputs> {
    let (x, step, window, length) = (c.input(0)?, c.input(1)?, c.optional(2)?, c.optional(3)?);
    ensure!((2..=3).contains(&c.rank(x)), "expected a signal [batch, length, parts], found {}", c.ty(x));
    let x = if c.rank(x) == 2 { c.unsqueeze(x, &[2])? } else { x };
    let step = c.need_int(step, "the step between frames")?;
    ensure!((1..=i32::MAX.into()).contains(&step), "the step between frames must be positive, found {step}");
    let n = match (length, window) {
        (Some(length), _) => c.need_int(length, "the length of frames")?,
        (None, Some(window)) => c.size(window, 0)? as i64,
        (None, None) => c.size(x, 1)? as i64,
    };
    ensure!((1..=i32::MAX.into()).contains(&n), "the length of frames must be positive, found {n}");
    let (n, complex, onesided) = (n as usize, is_complex(c, x)?, c.flag("onesided", true)?);
    let transform = Transform { n, given: n, complex, inverse: false, onesided };
    let wide = c.widened(x)?;
    let mut matrix = c.tensor(transform.matrix(c.dtype(wide))?);
    let (parts, results) = (transform.inputs_per_element(), transform.results());
    matrix = c.reshape(matrix, vec![n.into(), parts.into(), (2 * results).into()])?;
    if let Some(window) = window {
        ensure!(c.size(window, 0)? == n, "the window has {} elements, frames {n}", c.ty(window));
        let window = c.cast(window, c.dtype(wide))?;
        let window = c.along(window, 0, 3)?;
        matrix = c.times(matrix, window)?;
    }
    let kernels = c.transpose(matrix, &[2, 1, 0])?;
    let signal = c.transpose(wide, &[0, 2, 1])?;
    let conv = Conv { strides: vec![step as usize], dilations: vec![1], pads: vec![0, 0], groups: 1 };
    let y = c.add(conv, &[signal, kernels])?;
    let y = c.transpose(y, &[0, 2, 1])?;
    let y = c.reshape(y, vec![c.dim(y, 0), c.dim(y, 1), results.into(), 2.into()])?;
    Ok(c.cast(y, c.dtype(x))?.into())
}

/// A sum of cosines of 0, 1 and 2 periods over the length; a symmetric window ends where its period does.
fn window(c: &mut Ctx, coefficients: [f64; 3]) -> Result<Outputs> {
    let size = c.input(0)?;
    let dtype = c.dtype_attribute("output_datatype")?.unwrap_or(DType::F32);
    let periodic = c.flag("periodic", true)?;
    let size = match &c.need_dims(size, "the size of the window")?[..] {
        [size] => size.clone(),
        other => bail!("the size of the window must be one number, found {}", other.len()),
    };
    let period = if periodic { size.clone() } else { size.clone() - 1.into() };
    let index = c.iota(vec![size], 0, DType::F64)?;
    let period = c.dim_value(&period, DType::F64)?;
    let turns = c.divide(index, period)?;
    let mut y = c.number(coefficients[0], DType::F64);
    for (k, &coefficient) in
        coefficients.iter().enumerate().skip(1).filter(|(_, coefficient)| **coefficient != 0.0)
    {
        let angle = c.scaled(turns, k as f64 * TAU)?;
        let cos = c.apply(ScalarFn::Cos, &[angle])?;
        let term = c.scaled(cos, coefficient)?;
        y = c.plus(y, term)?;
    }
    Ok(c.cast(y, dtype)?.into())
}

/// Triangles over the bins of a spectrum, evenly spaced on the mel scale: `[dft_length / 2 + 1, num_mel_bins]`.
fn mel_weight_matrix(c: &mut Ctx) -> Result<Outputs> {
    let dtype = c.dtype_attribute("output_datatype")?.unwrap_or(DType::F32);
    let mut number = |k: usize, what: &str| -> Result<f64> {
        let v = c.input(k)?;
        match c.need_constant(v, what)?.to_f64()[..] {
            [one] => Ok(one),
            ref other => bail!("{what} must be one number, found {}", other.len()),
        }
    };
    let n_mels = number(0, "the number of mel bins")?;
    let length = number(1, "the length of the transform")?;
    let rate = number(2, "the sample rate")?;
    let (lower, upper) = (number(3, "the lower edge")?, number(4, "the upper edge")?);
    let size = n_mels * length;
    ensure!(n_mels >= 0.0 && length >= 1.0 && size <= MAX_MATRIX as f64, "the matrix would be too large");
    ensure!(
        rate > 0.0 && lower >= 0.0 && upper >= lower,
        "expected edges in order, found {lower} and {upper} Hz"
    );
    let mel = |hertz: f64| 2595.0 * (hertz / 700.0).ln_1p() / std::f64::consts::LN_10;
    let hertz = |mel: f64| 700.0 * (mel / 2595.0 * std::f64::consts::LN_10).exp_m1();
    let step = (mel(upper) - mel(lower)) / (n_mels + 2.0);
    let (n_mels, n_bins) = (n_mels as usize, length as usize / 2 + 1);
    let edge = |k: usize| ((length + 1.0) * hertz(k as f64 * step + mel(lower)) / rate).floor() as i64;
    let edges: Vec<i64> = (0..n_mels + 2).map(edge).collect();
    let weight = |bin: i64, k: usize| -> f64 {
        let (first, centre, last) = (edges[k], edges[k + 1], edges[k + 2]);
        if bin == centre {
            1.0
        } else if (first..centre).contains(&bin) {
            (bin - first) as f64 / (centre - first) as f64
        } else if (centre..last).contains(&bin) {
            (last - bin) as f64 / (last - centre) as f64
        } else {
            0.0
        }
    };
    let matrix = Tensor::generate(dtype, vec![n_bins, n_mels], |p| {
        Scalar::F(weight((p / n_mels) as i64, p % n_mels))
    })?;
    Ok(c.tensor(matrix).into())
}
