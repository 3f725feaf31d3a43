//! Arithmetic, comparisons, logic, bits and conversions, element by element.

use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::{bail, ensure};

pub(super) const OPERATORS: &[Operator] = &[
    op("Abs", 1, |c| unary(c, ScalarFn::Abs)),
    op("Acos", 7, |c| unary(c, ScalarFn::Acos)),
    op("Acosh", 9, |c| unary(c, ScalarFn::Acosh)),
    op("Add", 1, |c| binary(c, ScalarFn::Add)),
    op("And", 1, |c| binary(c, ScalarFn::And)),
    op("Asin", 7, |c| unary(c, ScalarFn::Asin)),
    op("Asinh", 9, |c| unary(c, ScalarFn::Asinh)),
    op("Atan", 7, |c| unary(c, ScalarFn::Atan)),
    op("Atanh", 9, |c| unary(c, ScalarFn::Atanh)),
    op("BitShift", 11, bit_shift),
    op("BitwiseAnd", 18, |c| binary(c, ScalarFn::BitAnd)),
    op("BitwiseNot", 18, |c| unary(c, ScalarFn::BitNot)),
    op("BitwiseOr", 18, |c| binary(c, ScalarFn::BitOr)),
    op("BitwiseXor", 18, |c| binary(c, ScalarFn::BitXor)),
    op("Cast", 6, cast),
    op("CastLike", 15, cast_like),
    op("Ceil", 1, |c| unary(c, ScalarFn::Ceil)),
    op("Clip", 1, clip),
    op("Cos", 7, |c| unary(c, ScalarFn::Cos)),
    op("Cosh", 9, |c| unary(c, ScalarFn::Cosh)),
    op("Div", 1, |c| binary(c, ScalarFn::Div)),
    op("Equal", 1, |c| binary(c, ScalarFn::Eq)),
    op("Erf", 9, |c| unary(c, ScalarFn::Erf)),
    op("Exp", 1, |c| unary(c, ScalarFn::Exp)),
    op("Floor", 1, |c| unary(c, ScalarFn::Floor)),
    op("Greater", 1, |c| binary(c, ScalarFn::Gt)),
    op("GreaterOrEqual", 12, |c| binary(c, ScalarFn::Ge)),
    op("IsInf", 10, is_inf),
    op("IsNaN", 9, |c| unary(c, ScalarFn::IsNan)),
    op("Less", 1, |c| binary(c, ScalarFn::Lt)),
    op("LessOrEqual", 12, |c| binary(c, ScalarFn::Le)),
    op("Log", 1, |c| unary(c, ScalarFn::Log)),
    op("Max", 1, |c| variadic(c, ScalarFn::Max)),
    op("Mean", 1, mean),
    op("Min", 1, |c| variadic(c, ScalarFn::Min)),
    op("Mod", 10, modulo),
    op("Mul", 1, |c| binary(c, ScalarFn::Mul)),
    op("Neg", 1, |c| unary(c, ScalarFn::Neg)),
    op("Not", 1, |c| unary(c, ScalarFn::Not)),
    op("Or", 1, |c| binary(c, ScalarFn::Or)),
    op("Pow", 1, power),
    op("Reciprocal", 1, |c| Ok(c.reciprocal(c.input(0)?)?.into())),
    op("Round", 11, |c| unary(c, ScalarFn::Round)),
    op("Sign", 9, |c| unary(c, ScalarFn::Sign)),
    op("Sin", 7, |c| unary(c, ScalarFn::Sin)),
    op("Sinh", 9, |c| unary(c, ScalarFn::Sinh)),
    op("Sqrt", 1, |c| unary(c, ScalarFn::Sqrt)),
    op("Sub", 1, |c| binary(c, ScalarFn::Sub)),
    op("Sum", 1, |c| variadic(c, ScalarFn::Add)),
    op("Tan", 7, |c| unary(c, ScalarFn::Tan)),
    op("Where", 9, choose),
    op("Xor", 1, |c| binary(c, ScalarFn::Xor)),
];

fn unary(c: &mut Ctx, f: ScalarFn) -> Result<Outputs> {
    Ok(c.apply(f, &[c.input(0)?])?.into())
}

fn binary(c: &mut Ctx, f: ScalarFn) -> Result<Outputs> {
    let (a, b) = operands(c)?;
    Ok(c.apply(f, &[a, b])?.into())
}

/// The two operands. Before version 7 the second one's axes were lined up with the first one's by an attribute.
fn operands(c: &mut Ctx) -> Result<(ValueId, ValueId)> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    let Some(axis) = c.int("axis")?.filter(|_| c.opset() < 7) else { return Ok((a, b)) };
    let axis = c.axis(axis, c.rank(a))?;
    ensure!(axis + c.rank(b) <= c.rank(a), "{} at axis {axis} is wider than {}", c.ty(b), c.ty(a));
    let after: Vec<usize> = (c.rank(b)..c.rank(a) - axis).collect();
    Ok((a, c.unsqueeze(b, &after)?))
}

fn variadic(c: &mut Ctx, f: ScalarFn) -> Result<Outputs> {
    let inputs = c.inputs()?;
    Ok(c.fold(f, &inputs)?.into())
}

fn mean(c: &mut Ctx) -> Result<Outputs> {
    let inputs = c.inputs()?;
    let wide = inputs.iter().map(|&x| c.widened(x)).collect::<Result<Vec<_>>>()?;
    let sum = c.fold(ScalarFn::Add, &wide)?;
    let mean = c.with_number(ScalarFn::Div, sum, inputs.len() as f64)?;
    Ok(c.cast(mean, c.dtype(inputs[0]))?.into())
}

fn modulo(c: &mut Ctx) -> Result<Outputs> {
    let f = if c.flag("fmod", false)? { ScalarFn::Rem } else { ScalarFn::Mod };
    binary(c, f)
}

/// The result has the type of the base; an integer to a float power is computed in floats.
fn power(c: &mut Ctx) -> Result<Outputs> {
    let (base, exponent) = operands(c)?;
    let (to, from) = (c.dtype(base), c.dtype(exponent));
    let work = if to.is_int() && from.is_float() { DType::F64 } else { to };
    let (base, exponent) = (c.cast(base, work)?, c.cast(exponent, work)?);
    let y = c.power(base, exponent)?;
    Ok(c.cast(y, to)?.into())
}

fn bit_shift(c: &mut Ctx) -> Result<Outputs> {
    match c.text("direction")? {
        Some("LEFT") => binary(c, ScalarFn::Shl),
        Some("RIGHT") => binary(c, ScalarFn::Shr),
        other => bail!("the attribute `direction` must be LEFT or RIGHT, found {other:?}"),
    }
}

fn is_inf(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let y = match (c.flag("detect_negative", true)?, c.flag("detect_positive", true)?) {
        (true, true) => c.apply(ScalarFn::IsInf, &[x])?,
        (false, true) => c.with_number(ScalarFn::Eq, x, f64::INFINITY)?,
        (true, false) => c.with_number(ScalarFn::Eq, x, f64::NEG_INFINITY)?,
        (false, false) => c.filled(Scalar::B(false), DType::Bool, c.dims(x))?,
    };
    Ok(y.into())
}

fn choose(c: &mut Ctx) -> Result<Outputs> {
    Ok(c.select(c.input(0)?, c.input(1)?, c.input(2)?)?.into())
}

/// Bounds were attributes before version 11. Where they cross, the upper one holds.
fn clip(c: &mut Ctx) -> Result<Outputs> {
    let mut x = c.input(0)?;
    let bounds = [("min", 1, ScalarFn::Max), ("max", 2, ScalarFn::Min)];
    for (name, k, f) in bounds {
        let bound = match c.opset() < 11 {
            true => c.float(name)?.map(|value| c.number_like(value, x)),
            false => c.optional(k)?,
        };
        if let Some(bound) = bound {
            x = c.apply(f, &[x, bound])?;
        }
    }
    Ok(x.into())
}

fn cast(c: &mut Ctx) -> Result<Outputs> {
    let to = c.required("to", c.dtype_attribute("to")?)?;
    Ok(c.cast(c.input(0)?, to)?.into())
}

fn cast_like(c: &mut Ctx) -> Result<Outputs> {
    let like = c.input(1)?;
    c.own_dtype(like)?;
    Ok(c.cast(c.input(0)?, c.dtype(like))?.into())
}
