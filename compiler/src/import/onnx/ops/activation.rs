//! Activation functions.

use super::reduce::one_at_max;
use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::bail;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::op::{LogSoftmax, Softmax};
use aic_ir::scalar::ScalarFn;

pub(super) const OPERATORS: &[Operator] = &[
    op("Celu", 12, celu),
    op("Elu", 1, elu),
    op("Gelu", 20, gelu),
    op("HardSigmoid", 1, hard_sigmoid),
    op("HardSwish", 14, hard_swish),
    op("Hardmax", 1, |c| along_axis(c, one_at_max)),
    op("LeakyRelu", 1, leaky_relu),
    op("LogSoftmax", 1, |c| along_axis(c, |c, x, axis| c.add(LogSoftmax { axis }, &[x]))),
    op("Mish", 18, mish),
    op("PRelu", 1, prelu),
    op("Relu", 1, |c| Ok(c.relu(c.input(0)?)?.into())),
    op("Selu", 1, selu),
    op("Shrink", 9, shrink),
    op("Sigmoid", 1, |c| Ok(c.sigmoid(c.input(0)?)?.into())),
    op("Softmax", 1, |c| along_axis(c, |c, x, axis| c.add(Softmax { axis }, &[x]))),
    op("Softplus", 1, |c| Ok(c.apply(ScalarFn::Softplus, &[c.input(0)?])?.into())),
    op("Softsign", 1, softsign),
    op("Swish", 24, swish),
    op("Tanh", 1, |c| Ok(c.tanh(c.input(0)?)?.into())),
    op("ThresholdedRelu", 10, thresholded_relu),
];

/// An elementwise function of the first input, computed in at least 32 bits.
fn map(c: &mut Ctx, f: impl FnOnce(&mut Ctx, ValueId) -> Result<ValueId>) -> Result<Outputs> {
    let x = c.input(0)?;
    Ok(c.in_wide(x, f)?.into())
}

/// `x` where it is positive, else the other.
fn if_positive(c: &mut Ctx, x: ValueId, otherwise: ValueId) -> Result<ValueId> {
    let zero = c.number_like(0.0, x);
    let positive = c.greater(x, zero)?;
    c.select(positive, x, otherwise)
}

/// `exp(x) - 1`
fn exp_minus_one(c: &mut Ctx, x: ValueId) -> Result<ValueId> {
    let exp = c.exp(x)?;
    c.shifted(exp, -1.0)
}

fn leaky_relu(c: &mut Ctx) -> Result<Outputs> {
    let alpha = c.float_or("alpha", 0.01)?;
    map(c, |c, x| leaky_relu_of(c, x, alpha))
}

/// `x` where it is positive, else `alpha * x`
fn leaky_relu_of(c: &mut Ctx, x: ValueId, alpha: f64) -> Result<ValueId> {
    let scaled = c.scaled(x, alpha)?;
    if_positive(c, x, scaled)
}

/// Before version 7 a slope per channel was lined up with axis 1.
fn prelu(c: &mut Ctx) -> Result<Outputs> {
    let (x, mut slope) = (c.input(0)?, c.input(1)?);
    if c.opset() < 7 && c.rank(slope) == 1 && c.rank(x) > 1 && !c.dim(slope, 0).is(1) {
        slope = c.along(slope, 1, c.rank(x))?;
    }
    let scaled = c.times(x, slope)?;
    Ok(if_positive(c, x, scaled)?.into())
}

fn elu(c: &mut Ctx) -> Result<Outputs> {
    let alpha = c.float_or("alpha", 1.0)?;
    map(c, |c, x| elu_of(c, x, alpha))
}

/// `x` where it is positive, else `alpha * (exp(x) - 1)`
fn elu_of(c: &mut Ctx, x: ValueId, alpha: f64) -> Result<ValueId> {
    let negative = exp_minus_one(c, x)?;
    let negative = c.scaled(negative, alpha)?;
    if_positive(c, x, negative)
}

fn selu(c: &mut Ctx) -> Result<Outputs> {
    let alpha = c.float_or("alpha", 1.673_263_192_176_818_8)?;
    let gamma = c.float_or("gamma", 1.050_701_022_148_132_3)?;
    map(c, |c, x| {
        let negative = exp_minus_one(c, x)?;
        let negative = c.scaled(negative, alpha)?;
        let y = if_positive(c, x, negative)?;
        c.scaled(y, gamma)
    })
}

fn celu(c: &mut Ctx) -> Result<Outputs> {
    let alpha = c.float_or("alpha", 1.0)?;
    map(c, |c, x| {
        let scaled = c.with_number(ScalarFn::Div, x, alpha)?;
        let negative = exp_minus_one(c, scaled)?;
        let negative = c.scaled(negative, alpha)?;
        let below = c.with_number(ScalarFn::Min, negative, 0.0)?;
        let above = c.relu(x)?;
        c.plus(above, below)
    })
}

fn thresholded_relu(c: &mut Ctx) -> Result<Outputs> {
    let alpha = c.float_or("alpha", 1.0)?;
    map(c, |c, x| thresholded_relu_of(c, x, alpha))
}

/// `x` where it is above `alpha`, else 0
fn thresholded_relu_of(c: &mut Ctx, x: ValueId, alpha: f64) -> Result<ValueId> {
    let above = c.with_number(ScalarFn::Gt, x, alpha)?;
    let zero = c.number_like(0.0, x);
    c.select(above, x, zero)
}

fn shrink(c: &mut Ctx) -> Result<Outputs> {
    let (bias, lambd) = (c.float_or("bias", 0.0)?, c.float_or("lambd", 0.5)?);
    let x = c.input(0)?;
    let dtype = c.dtype(x);
    // Integers are compared with a threshold that may have a fraction.
    let work = if dtype.is_int() { aic_ir::dtype::DType::F64 } else { dtype.compute() };
    let wide = c.cast(x, work)?;
    let (below, above) =
        (c.with_number(ScalarFn::Lt, wide, -lambd)?, c.with_number(ScalarFn::Gt, wide, lambd)?);
    let (raised, lowered) = (c.shifted(wide, bias)?, c.shifted(wide, -bias)?);
    let zero = c.number_like(0.0, wide);
    let y = c.select(above, lowered, zero)?;
    let y = c.select(below, raised, y)?;
    Ok(c.cast(y, dtype)?.into())
}

/// `max(0, min(1, alpha * x + beta))`
pub(super) fn hard_sigmoid_of(c: &mut Ctx, x: ValueId, alpha: f64, beta: f64) -> Result<ValueId> {
    let line = c.scaled(x, alpha)?;
    let line = c.shifted(line, beta)?;
    c.clamp(line, 0.0, 1.0)
}

fn hard_sigmoid(c: &mut Ctx) -> Result<Outputs> {
    let (alpha, beta) = (c.float_or("alpha", 0.200_000_002_980_232_24)?, c.float_or("beta", 0.5)?);
    map(c, |c, x| hard_sigmoid_of(c, x, alpha, beta))
}

fn hard_swish(c: &mut Ctx) -> Result<Outputs> {
    map(c, |c, x| {
        let gate = hard_sigmoid_of(c, x, 1.0 / 6.0, 0.5)?;
        c.times(x, gate)
    })
}

fn swish(c: &mut Ctx) -> Result<Outputs> {
    let alpha = c.float_or("alpha", 1.0)?;
    map(c, |c, x| swish_of(c, x, alpha))
}

/// `x * sigmoid(alpha * x)`
pub(super) fn swish_of(c: &mut Ctx, x: ValueId, alpha: f64) -> Result<ValueId> {
    let scaled = c.scaled(x, alpha)?;
    let gate = c.sigmoid(scaled)?;
    c.times(x, gate)
}

fn mish(c: &mut Ctx) -> Result<Outputs> {
    map(c, |c, x| {
        let softplus = c.apply(ScalarFn::Softplus, &[x])?;
        let gate = c.tanh(softplus)?;
        c.times(x, gate)
    })
}

fn softsign(c: &mut Ctx) -> Result<Outputs> {
    map(c, softsign_of)
}

/// `x / (1 + |x|)`
fn softsign_of(c: &mut Ctx, x: ValueId) -> Result<ValueId> {
    let magnitude = c.abs(x)?;
    let below = c.shifted(magnitude, 1.0)?;
    c.divide(x, below)
}

/// The function that another operator names, in any case of letters; `None` stands for the default of a parameter.
pub(super) fn named(
    c: &mut Ctx,
    x: ValueId,
    name: &str,
    alpha: Option<f64>,
    beta: Option<f64>,
) -> Result<ValueId> {
    match name.to_ascii_lowercase().as_str() {
        "affine" => {
            let scaled = c.scaled(x, alpha.unwrap_or(1.0))?;
            c.shifted(scaled, beta.unwrap_or(0.0))
        }
        "elu" => elu_of(c, x, alpha.unwrap_or(1.0)),
        "hardsigmoid" => hard_sigmoid_of(c, x, alpha.unwrap_or(0.2), beta.unwrap_or(0.5)),
        "leakyrelu" => leaky_relu_of(c, x, alpha.unwrap_or(0.01)),
        "relu" => c.relu(x),
        "scaledtanh" => {
            let scaled = c.scaled(x, beta.unwrap_or(1.0))?;
            let tanh = c.tanh(scaled)?;
            c.scaled(tanh, alpha.unwrap_or(1.0))
        }
        "sigmoid" => c.sigmoid(x),
        "softplus" => c.apply(ScalarFn::Softplus, &[x]),
        "softsign" => softsign_of(c, x),
        "tanh" => c.tanh(x),
        "thresholdedrelu" => thresholded_relu_of(c, x, alpha.unwrap_or(1.0)),
        _ => bail!("the activation {name} is unknown"),
    }
}

fn gelu(c: &mut Ctx) -> Result<Outputs> {
    match c.text_or("approximate", "none")? {
        "none" => map(c, gelu_of),
        "tanh" => map(c, gelu_tanh_of),
        other => bail!("the approximation {other} is unknown"),
    }
}

/// `x / 2 * (1 + erf(x / sqrt(2)))`
pub(super) fn gelu_of(c: &mut Ctx, x: ValueId) -> Result<ValueId> {
    let scaled = c.scaled(x, std::f64::consts::FRAC_1_SQRT_2)?;
    let erf = c.apply(ScalarFn::Erf, &[scaled])?;
    half_times_one_plus(c, x, erf)
}

/// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`
pub(super) fn gelu_tanh_of(c: &mut Ctx, x: ValueId) -> Result<ValueId> {
    let square = c.times(x, x)?;
    let cubic = c.scaled(square, 0.044715)?;
    let cubic = c.shifted(cubic, 1.0)?;
    let inner = c.times(x, cubic)?;
    let inner = c.scaled(inner, (2.0 / std::f64::consts::PI).sqrt())?;
    let tanh = c.tanh(inner)?;
    half_times_one_plus(c, x, tanh)
}

fn half_times_one_plus(c: &mut Ctx, x: ValueId, y: ValueId) -> Result<ValueId> {
    let half = c.scaled(x, 0.5)?;
    let gate = c.shifted(y, 1.0)?;
    c.times(half, gate)
}

/// Along one axis; before version 13, along all axes from the given one on as if they were one.
fn along_axis(c: &mut Ctx, f: fn(&mut Ctx, ValueId, usize) -> Result<ValueId>) -> Result<Outputs> {
    let x = c.input(0)?;
    let rank = c.rank(x);
    if c.opset() >= 13 {
        let axis = c.axis(c.int_or("axis", -1)?, rank)?;
        return Ok(f(c, x, axis)?.into());
    }
    let axis = c.axis(c.int_or("axis", 1)?, rank)?;
    if axis + 1 == rank {
        return Ok(f(c, x, axis)?.into());
    }
    let dims = c.dims(x);
    let joined = dims[..axis].iter().cloned().chain([dims[axis..].iter().product()]).collect();
    let flat = c.reshape(x, joined)?;
    let y = f(c, flat, axis)?;
    Ok(c.reshape(y, dims)?.into())
}
