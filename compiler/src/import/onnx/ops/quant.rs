//! Quantised tensors: integers that stand for floats by a scale and a zero point.
//!
//! Types narrower than a byte are held in bytes, each value being in the narrow type's range.

use super::attention::matched;
use super::conv::{convolution, with_bias};
use super::matmul::numpy_matmul;
use crate::import::onnx::ctx::{Ctx, Outputs};
use crate::import::onnx::table::{Operator, contrib, op};
use crate::import::proto::DataType;
use aic_ir::compute::ReduceOp;
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::{bail, ensure};

pub(super) const OPERATORS: &[Operator] = &[
    op("ConvInteger", 10, conv_integer),
    op("DequantizeLinear", 10, dequantize_linear),
    op("DynamicQuantizeLinear", 11, dynamic_quantize_linear),
    op("MatMulInteger", 10, matmul_integer),
    op("QLinearConv", 10, q_linear_conv),
    op("QLinearMatMul", 10, q_linear_matmul),
    op("QuantizeLinear", 10, quantize_linear),
    contrib("DequantizeLinear", dequantize_linear),
    contrib("MatMulNBits", matmul_n_bits),
    contrib("QuantizeLinear", quantize_linear),
];

/// What a quantised type is held in, its range, and the type itself where it is narrower.
struct Quantised {
    dtype: DType,
    low: f64,
    high: f64,
    narrow: Option<DataType>,
}

impl Quantised {
    fn of(dtype: DType) -> Result<Quantised> {
        let narrow = matches!(dtype, DType::I8 | DType::U8 | DType::I16 | DType::U16);
        ensure!(narrow, "expected a quantised type of 8 or 16 bits, found {dtype}");
        let (low, high) = (Scalar::lowest(dtype).as_f64(), Scalar::highest(dtype).as_f64());
        Ok(Quantised { dtype, low, high, narrow: None })
    }

    fn of_model(stored: DataType) -> Result<Quantised> {
        let (dtype, low, high) = match stored {
            DataType::Int4 => (DType::I8, -8.0, 7.0),
            DataType::Uint4 => (DType::U8, 0.0, 15.0),
            DataType::Int2 => (DType::I8, -2.0, 1.0),
            DataType::Uint2 => (DType::U8, 0.0, 3.0),
            other => match DType::from_onnx(other as i32) {
                Some(dtype) => return Quantised::of(dtype),
                None => bail!("quantisation to {} is not supported", other.name()),
            },
        };
        Ok(Quantised { dtype, low, high, narrow: Some(stored) })
    }

    /// The type of a value.
    fn of_value(c: &Ctx, v: ValueId) -> Result<Quantised> {
        match c.body.know.stored(v) {
            Some(stored) => Quantised::of_model(stored),
            None => Quantised::of(c.dtype(v)),
        }
    }

    /// `x`, floats that are rounded already, as this type.
    fn saturate(&self, c: &mut Ctx, x: ValueId) -> Result<ValueId> {
        let x = c.clamp(x, self.low, self.high)?;
        let y = c.cast(x, self.dtype)?;
        if let Some(narrow) = self.narrow {
            c.body.know.stored_as(y, narrow);
        }
        Ok(y)
    }
}

/// A scale or zero point to broadcast with `x`: one for all, one for each position along the axis, or one for each
/// block of positions along it.
fn fitted(c: &mut Ctx, v: ValueId, x: ValueId) -> Result<ValueId> {
    let rank = c.rank(x);
    let block = c.int_or("block_size", 0)?;
    if c.ty(v).numel().is(1) && block == 0 {
        return c.reshape(v, Vec::new());
    }
    let axis = c.axis(c.int_or("axis", 1)?, rank)?;
    if block == 0 {
        let v = matched(c, v, &[c.dim(x, axis)])?;
        return c.along(v, axis, rank);
    }
    ensure!(block > 0, "the block size must be positive, found {block}");
    ensure!(c.rank(v) == rank, "blocks of {} need a scale of the same rank, found {}", c.ty(x), c.ty(v));
    let (mut apart, mut together) = (c.dims(v), c.dims(v));
    apart.insert(axis + 1, 1.into());
    together[axis] = together[axis].clone() * block.into();
    let column = c.reshape(v, apart.clone())?;
    apart[axis + 1] = block.into();
    let repeated = c.expand(column, apart)?;
    let repeated = c.reshape(repeated, together)?;
    c.slice(repeated, axis, 0, c.dim(x, axis))
}

/// `saturate(round(x / scale) + zero_point)`; the division is done in the type of the scale.
fn quantize_linear(c: &mut Ctx) -> Result<Outputs> {
    let (x, scale, zero) = (c.input(0)?, c.input(1)?, c.optional(2)?);
    let to = match (zero, c.int_or("output_dtype", 0)?) {
        (Some(zero), _) => Quantised::of_value(c, zero)?,
        (None, 0) => Quantised::of(DType::U8)?,
        (None, number) => match DataType::try_from(number as i32) {
            Ok(stored) => Quantised::of_model(stored)?,
            Err(_) => bail!("{number} is no element type"),
        },
    };
    let work = match c.int_or("precision", 0)? {
        0 => c.dtype(scale),
        _ => c.dtype_attribute("precision")?.unwrap_or(DType::F32),
    };
    ensure!(work.is_float(), "the scale must be a float, found {}", c.ty(scale));
    let scale = fitted(c, scale, x)?;
    let (x_in_work, scale) = (c.cast(x, work)?, c.cast(scale, work)?);
    let ratio = c.divide(x_in_work, scale)?;
    let mut y = c.cast(ratio, DType::F32)?;
    y = c.round(y)?;
    if let Some(zero) = zero {
        let zero = fitted(c, zero, x)?;
        let zero = c.cast(zero, DType::F32)?;
        y = c.plus(y, zero)?;
    }
    Ok(to.saturate(c, y)?.into())
}

/// `(x - zero_point) * scale`
fn dequantize_linear(c: &mut Ctx) -> Result<Outputs> {
    let (x, scale, zero) = (c.input(0)?, c.input(1)?, c.optional(2)?);
    let dtype = match c.int_or("output_dtype", 0)? {
        0 => c.dtype(scale),
        _ => c.dtype_attribute("output_dtype")?.unwrap_or(DType::F32),
    };
    let mut y = c.cast(x, DType::F32)?;
    if let Some(zero) = zero {
        let zero = fitted(c, zero, x)?;
        let zero = c.cast(zero, DType::F32)?;
        y = c.minus(y, zero)?;
    }
    let scale = fitted(c, scale, x)?;
    let scale = c.cast(scale, DType::F32)?;
    y = c.times(y, scale)?;
    Ok(c.cast(y, dtype)?.into())
}

/// Quantisation to `u8` so that the range of the values, 0 included, is that of the type.
fn dynamic_quantize_linear(c: &mut Ctx) -> Result<Outputs> {
    let x = c.input(0)?;
    let axes: Vec<usize> = (0..c.rank(x)).collect();
    let zero = c.number_like(0.0, x);
    let (most, least) =
        (c.reduce(ReduceOp::Max, x, &axes, false)?, c.reduce(ReduceOp::Min, x, &axes, false)?);
    let (most, least) = (c.maximum(most, zero)?, c.minimum(least, zero)?);
    let range = c.minus(most, least)?;
    // All zeros are quantised by any scale.
    let (one, none) = (c.number_like(1.0, x), c.equal(range, zero)?);
    let range = c.select(none, one, range)?;
    let scale = c.with_number(ScalarFn::Div, range, 255.0)?;
    let at_least = c.divide(least, scale)?;
    let first = c.minus(zero, at_least)?;
    let first = c.clamp(first, 0.0, 255.0)?;
    let zero_point = c.round(first)?;
    let ratio = c.divide(x, scale)?;
    let rounded = c.round(ratio)?;
    let shifted = c.plus(rounded, zero_point)?;
    let y = Quantised::of(DType::U8)?.saturate(c, shifted)?;
    Ok(vec![y, scale, c.cast(zero_point, DType::U8)?].into())
}

/// `x - zero_point` as `i32`, with zero points along `axis` if there is more than one.
fn centred(c: &mut Ctx, x: ValueId, zero: Option<ValueId>, axis: usize) -> Result<ValueId> {
    let wide = c.cast(x, DType::I32)?;
    let Some(zero) = zero else { return Ok(wide) };
    let zero = per_line(c, zero, c.rank(x), axis)?;
    let zero = c.cast(zero, DType::I32)?;
    c.minus(wide, zero)
}

/// A number for all, a vector along `axis` of a tensor of the given rank, or something of that rank.
fn per_line(c: &mut Ctx, v: ValueId, rank: usize, axis: usize) -> Result<ValueId> {
    if c.ty(v).numel().is(1) {
        return c.reshape(v, Vec::new());
    }
    if c.rank(v) == 1 { c.along(v, axis, rank) } else { Ok(v) }
}

fn matmul_integer(c: &mut Ctx) -> Result<Outputs> {
    let (a, b) = (c.input(0)?, c.input(1)?);
    Ok(integer_product(c, [a, b], [c.optional(2)?, c.optional(3)?])?.into())
}

/// The product of matrices less their zero points, of which the first has one per row, the second one per column.
fn integer_product(c: &mut Ctx, x: [ValueId; 2], zeros: [Option<ValueId>; 2]) -> Result<ValueId> {
    let (row, column) = (c.rank(x[0]).saturating_sub(2), c.rank(x[1]).saturating_sub(1));
    let (a, b) = (centred(c, x[0], zeros[0], row)?, centred(c, x[1], zeros[1], column)?);
    numpy_matmul(c, a, b)
}

/// Sums of products, scaled and rounded to the type of the result's zero point.
fn requantised(c: &mut Ctx, sums: ValueId, scale: ValueId, zero: ValueId) -> Result<ValueId> {
    let to = Quantised::of_value(c, zero)?;
    let (sums, scale) = (c.cast(sums, DType::F32)?, c.cast(scale, DType::F32)?);
    let y = c.times(sums, scale)?;
    let y = c.round(y)?;
    let zero = c.cast(zero, DType::F32)?;
    let y = c.plus(y, zero)?;
    to.saturate(c, y)
}

fn q_linear_matmul(c: &mut Ctx) -> Result<Outputs> {
    let (a, b) = (c.input(0)?, c.input(3)?);
    let sums = integer_product(c, [a, b], [c.optional(2)?, c.optional(5)?])?;
    let (rank, scales) = (c.rank(sums), [c.input(1)?, c.input(4)?, c.input(6)?]);
    let a_scale = per_line(c, scales[0], rank, rank.saturating_sub(2))?;
    let b_scale = per_line(c, scales[1], rank, rank.saturating_sub(1))?;
    let y_scale = per_line(c, scales[2], rank, rank.saturating_sub(2))?;
    let zero = per_line(c, c.input(7)?, rank, rank.saturating_sub(2))?;
    let product = c.times(a_scale, b_scale)?;
    let scale = c.divide(product, y_scale)?;
    Ok(requantised(c, sums, scale, zero)?.into())
}

fn conv_integer(c: &mut Ctx) -> Result<Outputs> {
    let (x, w) = (c.input(0)?, c.input(1)?);
    let x = centred(c, x, c.optional(2)?, 0)?;
    let w = centred(c, w, c.optional(3)?, 0)?;
    Ok(convolution(c, x, w)?.into())
}

fn q_linear_conv(c: &mut Ctx) -> Result<Outputs> {
    let (x, w) = (c.input(0)?, c.input(3)?);
    let x = centred(c, x, c.optional(2)?, 0)?;
    let w = centred(c, w, c.optional(5)?, 0)?;
    let sums = convolution(c, x, w)?;
    let sums = with_bias(c, sums, c.optional(8)?)?;
    let rank = c.rank(sums);
    let w_scale = per_line(c, c.input(4)?, rank, 1)?;
    let scalar = |c: &mut Ctx, k: usize| -> Result<ValueId> {
        let v = c.input(k)?;
        let one: Vec<Dim> = Vec::new();
        c.reshape(v, one)
    };
    let (x_scale, y_scale, zero) = (scalar(c, 1)?, scalar(c, 6)?, scalar(c, 7)?);
    let product = c.times(x_scale, w_scale)?;
    let scale = c.divide(product, y_scale)?;
    Ok(requantised(c, sums, scale, zero)?.into())
}

/// ONNX Runtime's product with a matrix `[columns, blocks, bytes]` of 2, 4 or 8 bits per element, the first element in
/// the lowest bits. Scales and zero points are per block.
fn matmul_n_bits(c: &mut Ctx) -> Result<Outputs> {
    c.only_attributes(&["K", "N", "accuracy_level", "bits", "block_size"])?;
    ensure!(c.optional(4)?.is_none(), "the input `g_idx` is not supported");
    let (a, packed, scales) = (c.input(0)?, c.input(1)?, c.input(2)?);
    let rows = c.required("K", c.int("K")?)?;
    let columns = c.required("N", c.int("N")?)?;
    let block = c.required("block_size", c.int("block_size")?)?;
    let bits = c.int_or("bits", 4)?;
    ensure!(matches!(bits, 2 | 4 | 8), "expected 2, 4 or 8 bits, found {bits}");
    let sizes = 1..=i64::from(i32::MAX);
    ensure!(
        [rows, columns, block].iter().all(|n| sizes.contains(n)),
        "K, N and block_size must be sizes, found {rows}, {columns} and {block}"
    );
    ensure!(c.dtype(packed) == DType::U8, "the matrix must be of u8, found {}", c.ty(packed));
    let blocks = (rows + block - 1) / block;
    let per_block = [columns.into(), blocks.into(), 1.into()];
    let elements = unpacked(c, packed, bits, vec![columns.into(), blocks.into(), block.into()])?;
    let elements = c.cast(elements, DType::F32)?;
    let zero = match c.optional(3)? {
        Some(zero) if c.dtype(zero) == DType::U8 => {
            let bytes = (blocks * bits + 7) / 8;
            let all = unpacked(c, zero, bits, vec![columns.into(), (bytes * 8 / bits).into()])?;
            let used = c.slice(all, 1, 0, blocks)?;
            c.reshape(used, per_block.to_vec())?
        }
        Some(zero) => c.reshape(zero, per_block.to_vec())?,
        None => c.number((1 << (bits - 1)) as f64, DType::F32),
    };
    let zero = c.cast(zero, DType::F32)?;
    let centred = c.minus(elements, zero)?;
    let scales = c.reshape(scales, per_block.to_vec())?;
    let scales = c.cast(scales, DType::F32)?;
    let blocks_of_floats = c.times(centred, scales)?;
    let all = c.reshape(blocks_of_floats, vec![columns.into(), (blocks * block).into()])?;
    let matrix = c.slice(all, 1, 0, rows)?;
    let matrix = c.transpose_last(matrix)?;
    let matrix = c.cast(matrix, c.dtype(a))?;
    let y = c.matmul(a, matrix)?;
    match c.optional(5)? {
        Some(bias) => Ok(c.plus(y, bias)?.into()),
        None => Ok(y.into()),
    }
}

/// Elements of so many bits, the first in the lowest bits of each byte, under the given extents.
fn unpacked(c: &mut Ctx, bytes: ValueId, bits: i64, shape: Vec<Dim>) -> Result<ValueId> {
    if bits == 8 {
        return c.reshape(bytes, shape);
    }
    let last = c.rank(bytes);
    let mut parts = Vec::new();
    for k in 0..8 / bits {
        let shifted = c.with_number(ScalarFn::Shr, bytes, (k * bits) as f64)?;
        let part = c.with_number(ScalarFn::BitAnd, shifted, ((1 << bits) - 1) as f64)?;
        parts.push(c.unsqueeze(part, &[last])?);
    }
    let together = c.concat(&parts, last)?;
    c.reshape(together, shape)
}
