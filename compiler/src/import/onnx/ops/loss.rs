//! Losses of classifiers.

use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, op};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::op::{GatherElements, LogSoftmax};
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;
use aic_ir::{bail, ensure};

pub(super) const OPERATORS: &[Operator] = &[
    op("NegativeLogLikelihoodLoss", 12, negative_log_likelihood_loss),
    op("SoftmaxCrossEntropyLoss", 12, softmax_cross_entropy_loss),
];

fn negative_log_likelihood_loss(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let wide = c.widened(x)?;
    let loss = loss(c, wide)?;
    Ok(c.cast(loss, c.dtype(x))?.into())
}

/// The second result is the logarithm of the softmax.
fn softmax_cross_entropy_loss(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    ensure!(c.rank(x) >= 2, "the scores must have rank 2 or more, found {}", c.ty(x));
    let wide = c.widened(x)?;
    let log_probabilities = c.add(LogSoftmax { axis: 1 }, &[wide])?;
    let loss = loss(c, log_probabilities)?;
    let outputs = vec![c.cast(loss, c.dtype(x))?, c.cast(log_probabilities, c.dtype(x))?];
    Ok(outputs.into())
}

/// The weighted negative log-probabilities of the classes in input 1, reduced as the node says. `x` is
/// `[N, classes, ..]`, the classes are `[N, ..]`; those equal to `ignore_index` don't count.
fn loss(c: &mut Ctx, x: ValueId) -> Result<ValueId> {
    ensure!(c.rank(x) >= 2, "the scores must have rank 2 or more, found {}", c.ty(x));
    let (mut target, weights) = (c.input(1)?, c.optional(2)?);
    let ignored = match c.int("ignore_index")? {
        Some(index) => {
            let index = c.tensor(Tensor::scalar(c.dtype(target), Scalar::I(index)));
            let ignored = c.equal(target, index)?;
            let zero = c.number_like(0.0, target);
            target = c.select(ignored, zero, target)?;
            Some(ignored)
        }
        None => None,
    };
    if !matches!(c.dtype(target), DType::I32 | DType::I64) {
        target = c.cast(target, DType::I64)?;
    }
    let indices = c.unsqueeze(target, &[1])?;
    let chosen = c.add(GatherElements { axis: 1 }, &[x, indices])?;
    let chosen = c.squeeze(chosen, &[1])?;
    let mut losses = c.negate(chosen)?;
    let mut counted = None;
    if let Some(weights) = weights {
        let weights = c.cast(weights, c.dtype(x))?;
        let weights = c.gather(weights, target, 0)?;
        losses = c.times(losses, weights)?;
        counted = Some(weights);
    }
    if let Some(ignored) = ignored {
        let zero = c.number_like(0.0, x);
        losses = c.select(ignored, zero, losses)?;
        let weights = counted.unwrap_or(c.number_like(1.0, x));
        counted = Some(c.select(ignored, zero, weights)?);
    }
    let axes: Vec<usize> = (0..c.rank(losses)).collect();
    match (c.text_or("reduction", "mean")?, counted) {
        ("none", _) => Ok(losses),
        ("sum", _) => c.sum(losses, &axes, false),
        ("mean", None) => c.mean(losses, &axes, false),
        ("mean", Some(weights)) => {
            let total = c.sum(weights, &axes, false)?;
            let sum = c.sum(losses, &axes, false)?;
            c.divide(sum, total)
        }
        (other, _) => bail!("the reduction {other} is unknown"),
    }
}
