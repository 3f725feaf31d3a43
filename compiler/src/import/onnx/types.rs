//! Element types and tensors of the model in terms of the IR.

use crate::import::load::Model;
use crate::import::payload;
use crate::import::proto::{DataType, DimValue, Dimension, TensorProto};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::tensor::Tensor;
use aic_ir::{bail, ensure};
use bytes::Bytes;
use half::f16;

/// The name of an element type in ONNX's numbering, for messages.
pub(super) fn type_name(number: i32) -> String {
    DataType::try_from(number).map_or_else(|_| format!("number {number}"), |t| t.name().to_owned())
}

/// The element type with a number in ONNX's numbering.
pub(super) fn dtype(number: i32) -> Result<DType> {
    match DType::from_onnx(number) {
        Some(DType::String) => bail!("strings are not supported"),
        Some(dtype) => Ok(dtype),
        None => bail!("the element type {} is not supported", type_name(number)),
    }
}

/// The extent that the model declares, if it is a number.
pub(super) fn known_dim(dim: &Dimension) -> Option<i64> {
    match dim.value {
        Some(DimValue::DimValue(n)) if n >= 0 => Some(n),
        _ => None,
    }
}

/// The element type that an input of a type in ONNX's numbering has in the graph: the IR's own, or a wider one.
pub(super) fn input_dtype(number: i32) -> Result<DType> {
    let stored = DataType::try_from(number).ok();
    stored.and_then(widened).map_or_else(|| dtype(number), Ok)
}

/// The narrowest type of the IR that holds the values of one that it doesn't have.
pub(crate) fn widened(stored: DataType) -> Option<DType> {
    match stored {
        DataType::Int4 | DataType::Int2 => Some(DType::I8),
        DataType::Uint4 | DataType::Uint2 => Some(DType::U8),
        DataType::Float4E2M1
        | DataType::Float8E4M3Fn
        | DataType::Float8E4M3Fnuz
        | DataType::Float8E5M2
        | DataType::Float8E5M2Fnuz => Some(DType::F16),
        _ => None,
    }
}

/// A tensor of the model, and the model's own element type.
pub(super) fn tensor(model: &Model, proto: &TensorProto) -> Result<(Tensor, DataType)> {
    let stored = payload::data_type(proto)?;
    ensure!(stored != DataType::String, "strings are not supported");
    Ok((decode(stored, &proto.dims, model.tensor_bytes(proto)?)?, stored))
}

/// A tensor from packed little-endian bytes. Elements narrower than a byte, and 8-bit floats, become the [`widened`]
/// type.
pub(crate) fn decode(stored: DataType, dims: &[i64], bytes: Bytes) -> Result<Tensor> {
    let shape: Vec<usize> = dims.iter().filter_map(|&d| usize::try_from(d).ok()).collect();
    if let Some(dtype) = DType::from_onnx(stored as i32) {
        return Tensor::new(dtype, shape, bytes);
    }
    let count = aic_ir::tensor::numel(&shape)?;
    let tensor = match stored {
        DataType::Int4 => Tensor::from_vec(shape, &unpack::<4, _>(&bytes, count, |b| (b << 4) as i8 >> 4))?,
        DataType::Int2 => Tensor::from_vec(shape, &unpack::<2, _>(&bytes, count, |b| (b << 6) as i8 >> 6))?,
        DataType::Uint4 => Tensor::from_vec(shape, &unpack::<4, _>(&bytes, count, |b| b))?,
        DataType::Uint2 => Tensor::from_vec(shape, &unpack::<2, _>(&bytes, count, |b| b))?,
        DataType::Float4E2M1 => Tensor::from_vec(
            shape,
            &unpack::<4, _>(&bytes, count, |b| f16::from_f64(small_float(b, 2, 1, 1))),
        )?,
        DataType::Float8E4M3Fn => floats(shape, &bytes, |b| match b & 0x7f {
            0x7f => f64::NAN,
            _ => small_float(b, 4, 3, 7),
        })?,
        DataType::Float8E4M3Fnuz => floats(shape, &bytes, |b| match b {
            0x80 => f64::NAN,
            _ => small_float(b, 4, 3, 8),
        })?,
        DataType::Float8E5M2 => floats(shape, &bytes, |b| f16::from_bits(u16::from(b) << 8).into())?,
        DataType::Float8E5M2Fnuz => floats(shape, &bytes, |b| match b {
            0x80 => f64::NAN,
            _ => small_float(b, 5, 2, 16),
        })?,
        other => bail!("the element type {} is not supported", other.name()),
    };
    Ok(tensor)
}

/// The packed bytes of a tensor of integers as elements of a narrower type, the reverse of [`decode`].
pub(crate) fn encode(stored: DataType, t: &Tensor) -> Result<Bytes> {
    let bits = match stored {
        DataType::Int4 | DataType::Uint4 => 4,
        DataType::Int2 | DataType::Uint2 => 2,
        _ => bail!("tensors of {} can't be written as {}", t.dtype(), stored.name()),
    };
    ensure!(widened(stored) == Some(t.dtype()), "expected {}, found {}", stored.name(), t.dtype());
    let mask = (1u8 << bits) - 1;
    let pack = |bytes: &[u8]| bytes.iter().rev().fold(0u8, |packed, byte| packed << bits | byte & mask);
    Ok(t.bytes().chunks(8 / bits).map(pack).collect())
}

fn floats(shape: Vec<usize>, bytes: &Bytes, decode: impl Fn(u8) -> f64) -> Result<Tensor> {
    Tensor::from_vec(shape, &bytes.iter().map(|&b| f16::from_f64(decode(b))).collect::<Vec<_>>())
}

/// Elements of `BITS` bits, the first in the lowest bits of a byte.
fn unpack<const BITS: usize, T>(bytes: &[u8], count: usize, decode: impl Fn(u8) -> T) -> Vec<T> {
    let mask = (1u8 << BITS) - 1;
    let per_byte = 8 / BITS;
    (0..count).map(|k| decode(bytes[k / per_byte] >> (k % per_byte * BITS) & mask)).collect()
}

/// The value of a float with a sign bit above so many exponent and mantissa bits, where no pattern is special.
fn small_float(bits: u8, exponent_bits: u32, mantissa_bits: u32, bias: i32) -> f64 {
    let mantissa = f64::from(bits & ((1 << mantissa_bits) - 1)) / f64::from(1u32 << mantissa_bits);
    let exponent = i32::from(bits >> mantissa_bits & ((1 << exponent_bits) - 1));
    let negative = bits >> (mantissa_bits + exponent_bits) & 1 == 1;
    let magnitude = match exponent {
        0 => mantissa * f64::from(1 - bias).exp2(),
        _ => (1.0 + mantissa) * f64::from(exponent - bias).exp2(),
    };
    if negative { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_floats_have_their_values() {
        let all: Vec<f64> = (0..8).map(|b| small_float(b, 2, 1, 1)).collect();
        assert_eq!(all, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]);
        assert_eq!(small_float(0x7e, 4, 3, 7), 448.0);
        assert_eq!(small_float(0x81, 4, 3, 7), -(-9f64).exp2());
        assert_eq!(small_float(0x7f, 4, 3, 8), 240.0);
        assert_eq!(small_float(0x7f, 5, 2, 16), 57344.0);
    }

    #[test]
    fn narrow_integers_come_back() {
        for (stored, packed) in [
            (DataType::Int4, vec![0x8f, 0x07]),
            (DataType::Uint4, vec![0x8f, 0x07]),
            (DataType::Int2, vec![0b11_10_01_00, 0b10]),
            (DataType::Uint2, vec![0b11_10_01_00, 0b10]),
        ] {
            let n = if packed[0] == 0x8f { 3 } else { 5 };
            let t = decode(stored, &[n], Bytes::from(packed.clone())).unwrap();
            assert_eq!(Some(t.dtype()), widened(stored));
            assert_eq!(encode(stored, &t).unwrap(), packed);
        }
        assert!(encode(DataType::Float8E5M2, &Tensor::from_vec(vec![1], &[1i8]).unwrap()).is_err());
    }

    #[test]
    fn narrow_elements_start_in_the_low_bits() {
        assert_eq!(unpack::<4, u8>(&[0x21, 0x03], 3, |b| b), [1, 2, 3]);
        assert_eq!(unpack::<4, i8>(&[0xf8], 2, |b| (b << 4) as i8 >> 4), [-8, -1]);
        assert_eq!(unpack::<2, i8>(&[0b11_10_01_00], 4, |b| (b << 6) as i8 >> 6), [0, 1, -2, -1]);
    }
}
