//! Random tensors. Those of a compiled model are the same at every run; a seed that the model gives chooses among them.

use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::compute::ReduceOp;
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::op::{Cumulative, Random, RandomKind, Softmax};
use aic_ir::{bail, ensure};

pub(super) const OPERATORS: &[Operator] = &[
    op("Bernoulli", 15, bernoulli),
    op("Multinomial", 7, multinomial),
    op("RandomNormal", 1, |c| random(c, RandomKind::Normal)),
    op("RandomNormalLike", 1, |c| random_like(c, RandomKind::Normal)),
    op("RandomUniform", 1, |c| random(c, RandomKind::Uniform)),
    op("RandomUniformLike", 1, |c| random_like(c, RandomKind::Uniform)),
];

/// A tensor of random numbers that no other node gives.
fn draw(c: &mut Ctx, kind: RandomKind, dtype: DType, shape: Vec<Dim>, [a, b]: [f64; 2]) -> Result<ValueId> {
    let seed = c.float("seed")?.map_or(0, |seed| seed.to_bits() as i64);
    let stream = c.next_stream();
    c.add(Random { kind, dtype, shape, a, b, seed, stream }, &[])
}

/// Floats from 0 up to, but without, 1.
pub(super) fn uniform(c: &mut Ctx, dtype: DType, shape: Vec<Dim>) -> Result<ValueId> {
    draw(c, RandomKind::Uniform, dtype, shape, [0.0, 1.0])
}

fn parameters(c: &Ctx, kind: RandomKind) -> Result<[f64; 2]> {
    let names = match kind {
        RandomKind::Normal => [("mean", 0.0), ("scale", 1.0)],
        RandomKind::Uniform => [("low", 0.0), ("high", 1.0)],
    };
    let [a, b] = names.map(|(name, default)| c.float_or(name, default));
    Ok([a?, b?])
}

fn random(c: &mut Ctx, kind: RandomKind) -> Result<Outputs> {
    let shape = c.required("shape", c.sizes("shape")?)?;
    let dtype = c.dtype_attribute("dtype")?.unwrap_or(DType::F32);
    let shape = shape.into_iter().map(Dim::from).collect();
    Ok(draw(c, kind, dtype, shape, parameters(c, kind)?)?.into())
}

fn random_like(c: &mut Ctx, kind: RandomKind) -> Result<Outputs> {
    let x = c.input(0)?;
    let dtype = c.dtype_attribute("dtype")?.unwrap_or(c.dtype(x));
    Ok(draw(c, kind, dtype, c.dims(x), parameters(c, kind)?)?.into())
}

/// 1 with the probability given, else 0.
fn bernoulli(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let dtype = c.dtype_attribute("dtype")?.unwrap_or(c.dtype(x));
    let wide = c.widened(x)?;
    let u = uniform(c, c.dtype(wide), c.dims(x))?;
    let hit = c.less(u, wide)?;
    Ok(c.cast(hit, dtype)?.into())
}

/// Classes drawn with probabilities whose logarithms, but for a constant, are given: how many classes have a
/// cumulative probability that is not above a uniform number.
fn multinomial(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    ensure!(c.rank(x) == 2, "expected a tensor [batch, classes], found {}", c.ty(x));
    let dtype = match c.dtype_attribute("dtype")?.unwrap_or(DType::I32) {
        dtype @ (DType::I32 | DType::I64) => dtype,
        other => bail!("the classes must be i32 or i64, found {other}"),
    };
    let samples = c.int_or("sample_size", 1)?;
    ensure!(samples >= 0, "the number of samples is negative: {samples}");
    let wide = c.widened(x)?;
    let probabilities = c.add(Softmax { axis: 1 }, &[wide])?;
    let sum = Cumulative { op: ReduceOp::Sum, axis: 1, exclusive: false, reverse: false };
    let cumulative = c.add(sum, &[probabilities])?;
    let (batch, classes) = (c.dim(x, 0), c.dim(x, 1));
    let u = uniform(c, c.dtype(wide), vec![batch.clone(), samples.into()])?;
    let (u, cumulative) = (c.unsqueeze(u, &[2])?, c.unsqueeze(cumulative, &[1])?);
    let passed = c.less_equal(cumulative, u)?;
    let passed = c.cast(passed, dtype)?;
    let class = c.sum(passed, &[2], false)?;
    // The last cumulative probability may be rounded to less than 1.
    let last = c.dim_value(&(classes - 1.into()), dtype)?;
    Ok(c.minimum(class, last)?.into())
}
