//! Products of matrices and sums of products.

use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, contrib, op};
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::op::Det;

pub(super) const OPERATORS: &[Operator] =
    &[op("Det", 11, det), op("Gemm", 1, gemm), op("MatMul", 1, matmul), contrib("FusedMatMul", fused_matmul)];

/// NumPy's `matmul`: a vector is a row on the left and a column on the right, and disappears from the result.
pub(super) fn numpy_matmul(c: &mut Ctx, a: ValueId, b: ValueId) -> Result<ValueId> {
    let (row, column) = (c.rank(a) == 1, c.rank(b) == 1);
    let a = if row { c.unsqueeze(a, &[0])? } else { a };
    let b = if column { c.unsqueeze(b, &[1])? } else { b };
    let mut y = c.matmul(a, b)?;
    if column {
        y = c.squeeze(y, &[c.rank(y) - 1])?;
    }
    if row {
        y = c.squeeze(y, &[c.rank(y) - 1 - usize::from(!column)])?;
    }
    Ok(y)
}

fn det(c: &mut Ctx) -> Result<Outputs> {
    Ok(c.add(Det {}, &[c.input(0)?])?.into())
}

fn matmul(c: &mut Ctx) -> Result<Outputs> {
    Ok(numpy_matmul(c, c.input(0)?, c.input(1)?)?.into())
}

/// `alpha * a' * b' + beta * c`
pub(super) fn gemm(c: &mut Ctx) -> Result<Outputs> {
    let (mut a, mut b) = (c.input(0)?, c.input(1)?);
    if c.flag("transA", false)? {
        a = c.transpose_last(a)?;
    }
    if c.flag("transB", false)? {
        b = c.transpose_last(b)?;
    }
    let product = c.matmul(a, b)?;
    let mut y = c.scaled(product, c.float_or("alpha", 1.0)?)?;
    if let Some(bias) = c.optional(2)? {
        let bias = c.scaled(bias, c.float_or("beta", 1.0)?)?;
        y = c.plus(y, bias)?;
    }
    Ok(y.into())
}

/// ONNX Runtime's `matmul` with a factor and transposed operands.
fn fused_matmul(c: &mut Ctx) -> Result<Outputs> {
    c.only_attributes(&["alpha", "transA", "transB", "transBatchA", "transBatchB"])?;
    let mut operands = [c.input(0)?, c.input(1)?];
    let flags = [("transA", "transBatchA"), ("transB", "transBatchB")];
    for (x, (last, batch)) in operands.iter_mut().zip(flags) {
        let rank = c.rank(*x);
        if c.flag(batch, false)? && rank > 2 {
            // The first axis becomes the last but one.
            let perm: Vec<usize> = (1..rank - 1).chain([0, rank - 1]).collect();
            *x = c.transpose(*x, &perm)?;
        }
        if c.flag(last, false)? && rank > 1 {
            *x = c.transpose_last(*x)?;
        }
    }
    let y = numpy_matmul(c, operands[0], operands[1])?;
    Ok(c.scaled(y, c.float_or("alpha", 1.0)?)?.into())
}
