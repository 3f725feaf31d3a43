//! The elements of a [`TensorProto`] as little-endian bytes, whichever of its fields or files holds them.
//!
//! Invariants: `raw_data` and external data are handed out as they are, without a copy; the number of bytes is
//! that of the tensor's shape. Nothing is said about alignment: a weight in a protobuf file may lie at any address.
//! Types narrower than a byte stay packed, the first element in the lowest bits, as in `raw_data`.

use bytes::Bytes;

use super::external::{ExternalFiles, ExternalRange};
use super::proto::{DATA_DEFAULT, DATA_EXTERNAL, DataType, TensorProto};
use aic_ir::error::{Error, Result};
use aic_ir::{bail, ensure};

/// The elements of a tensor as packed little-endian bytes; for booleans, each 0 or 1.
///
/// # Errors
/// The type is undefined or `string`, a dimension is negative, the data are missing, ambiguous, of another size
/// than the shape asks for, or in a file that can't be read.
pub fn tensor_bytes(tensor: &TensorProto, files: &ExternalFiles) -> Result<Bytes> {
    in_tensor(tensor, numeric_bytes(tensor, files))
}

/// The elements of a tensor of strings.
///
/// # Errors
/// The tensor has another type, or another number of strings than its shape asks for.
pub fn tensor_strings(tensor: &TensorProto) -> Result<&[Bytes]> {
    in_tensor(tensor, strings(tensor))
}

/// The type of a tensor's elements.
///
/// # Errors
/// The type is absent, undefined or unknown.
pub fn data_type(tensor: &TensorProto) -> Result<DataType> {
    let Some(number) = tensor.data_type else { bail!("no data_type") };
    match DataType::try_from(number) {
        Ok(DataType::Undefined) | Err(_) => bail!("data_type {number} is not an element type of ONNX"),
        Ok(dtype) => Ok(dtype),
    }
}

/// The number of elements of a shape.
///
/// # Errors
/// A dimension is negative, or the number doesn't fit in memory.
pub fn element_count(dims: &[i64]) -> Result<usize> {
    if let Some(dim) = dims.iter().find(|&&dim| dim < 0) {
        bail!("shape {dims:?} has the negative dimension {dim}");
    }
    if dims.contains(&0) {
        return Ok(0);
    }
    let product = |count: usize, &dim: &i64| count.checked_mul(usize::try_from(dim).ok()?);
    dims.iter().try_fold(1, product).ok_or_else(|| Error::new(format!("shape {dims:?} is too large")))
}

/// The number of bytes that `count` packed elements of a type take.
///
/// # Errors
/// The type has no fixed width, or the number doesn't fit in memory.
pub fn byte_count(dtype: DataType, count: usize) -> Result<usize> {
    let Some(bits) = dtype.bits() else { bail!("elements of type {} have no fixed width", dtype.name()) };
    let bytes =
        if bits < 8 { count.checked_mul(bits).map(|n| n.div_ceil(8)) } else { count.checked_mul(bits / 8) };
    bytes.ok_or_else(|| Error::new(format!("{count} elements of type {} are too large", dtype.name())))
}

/// A tensor that holds these packed little-endian bytes.
pub fn tensor(name: &str, dtype: DataType, dims: &[i64], data: Bytes) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()).filter(|name| !name.is_empty()),
        data_type: Some(dtype as i32),
        dims: dims.to_vec(),
        raw_data: Some(data),
        ..TensorProto::default()
    }
}

fn in_tensor<T>(tensor: &TensorProto, result: Result<T>) -> Result<T> {
    result.map_err(|error| error.context(format!("tensor '{}'", tensor.name())))
}

fn numeric_bytes(tensor: &TensorProto, files: &ExternalFiles) -> Result<Bytes> {
    let dtype = data_type(tensor)?;
    ensure!(dtype != DataType::String, "expected numbers, found strings");
    let count = element_count(&tensor.dims)?;
    let n_bytes = byte_count(dtype, count)?;
    ensure!(tensor.segment.is_none(), "is a segment of a larger tensor, which is not supported");
    let bytes = match tensor.data_location() {
        DATA_EXTERNAL => files.read(ExternalRange::parse(&tensor.external_data)?, n_bytes)?,
        DATA_DEFAULT => own_bytes(tensor, dtype, count)?,
        other => bail!("data_location {other} is neither 0 (in the message) nor 1 (external)"),
    };
    let shape = || format!("shape {:?} of {}", tensor.dims, dtype.name());
    ensure!(bytes.len() == n_bytes, "{} takes {n_bytes} bytes, found {}", shape(), bytes.len());
    let plain = dtype != DataType::Bool || bytes.iter().all(|&byte| byte <= 1);
    Ok(if plain { bytes } else { bytes.iter().map(|&byte| u8::from(byte != 0)).collect() })
}

fn strings(tensor: &TensorProto) -> Result<&[Bytes]> {
    let dtype = data_type(tensor)?;
    ensure!(dtype == DataType::String, "expected strings, found {}", dtype.name());
    let (count, found) = (element_count(&tensor.dims)?, tensor.string_data.len());
    ensure!(count == found, "shape {:?} has {count} strings, found {found}", tensor.dims);
    Ok(&tensor.string_data)
}

/// The bytes of whichever field of the message holds elements.
fn own_bytes(tensor: &TensorProto, dtype: DataType, count: usize) -> Result<Bytes> {
    let fields = [
        ("raw_data", tensor.raw_data().len()),
        ("float_data", tensor.float_data.len()),
        ("int32_data", tensor.int32_data.len()),
        ("string_data", tensor.string_data.len()),
        ("int64_data", tensor.int64_data.len()),
        ("double_data", tensor.double_data.len()),
        ("uint64_data", tensor.uint64_data.len()),
    ];
    let mut used = fields.iter().filter(|(_, len)| *len > 0);
    let (field, len) = match (used.next(), used.next()) {
        (None, _) => return Ok(Bytes::new()),
        (Some(&field), None) => field,
        (Some((one, _)), Some((other, _))) => bail!("has elements in both {one} and {other}"),
    };
    if field == "raw_data" {
        return Ok(tensor.raw_data.clone().unwrap_or_default());
    }
    let expected = typed_field(dtype);
    ensure!(
        field == expected,
        "expected elements of {} in raw_data or {expected}, found {field}",
        dtype.name()
    );
    let n_values = values_per_field(dtype, count);
    ensure!(len == n_values, "shape {:?} takes {n_values} values in {field}, found {len}", tensor.dims);
    match dtype {
        DataType::Float | DataType::Complex64 => Ok(little_endian(&tensor.float_data, f32::to_le_bytes)),
        DataType::Double | DataType::Complex128 => Ok(little_endian(&tensor.double_data, f64::to_le_bytes)),
        DataType::Int64 => Ok(little_endian(&tensor.int64_data, i64::to_le_bytes)),
        DataType::Uint64 => Ok(little_endian(&tensor.uint64_data, u64::to_le_bytes)),
        DataType::Uint32 => {
            narrow(&tensor.uint64_data, |value| Some(u32::try_from(value).ok()?.to_le_bytes()))
        }
        DataType::Int32 => Ok(little_endian(&tensor.int32_data, i32::to_le_bytes)),
        DataType::Bool => Ok(tensor.int32_data.iter().map(|&value| u8::from(value != 0)).collect()),
        DataType::Float6E2M3 | DataType::Float6E3M2 => pack_six_bits(&tensor.int32_data),
        _ if dtype.bits() == Some(16) => {
            narrow(&tensor.int32_data, |value| Some(low_bits::<16>(value)?.to_le_bytes()))
        }
        _ => narrow(&tensor.int32_data, |value| Some([low_bits::<8>(value)? as u8])),
    }
    .map_err(|error| error.context(format!("{field} of type {}", dtype.name())))
}

/// The field that holds elements of a type one by one.
pub(super) fn typed_field(dtype: DataType) -> &'static str {
    match dtype {
        DataType::Float | DataType::Complex64 => "float_data",
        DataType::Double | DataType::Complex128 => "double_data",
        DataType::Int64 => "int64_data",
        DataType::Uint32 | DataType::Uint64 => "uint64_data",
        DataType::String => "string_data",
        _ => "int32_data",
    }
}

/// How many values the typed field has for `count` elements.
fn values_per_field(dtype: DataType, count: usize) -> usize {
    match dtype {
        DataType::Complex64 | DataType::Complex128 => count.saturating_mul(2),
        DataType::Int4 | DataType::Uint4 | DataType::Float4E2M1 => count.div_ceil(2),
        DataType::Int2 | DataType::Uint2 => count.div_ceil(4),
        _ => count,
    }
}

fn little_endian<T: Copy, const N: usize>(values: &[T], to_bytes: fn(T) -> [u8; N]) -> Bytes {
    values.iter().flat_map(|&value| to_bytes(value)).collect::<Vec<u8>>().into()
}

/// Values stored wider than they are; each must fit.
fn narrow<T: Copy + std::fmt::Display, const N: usize>(
    values: &[T],
    to_bytes: impl Fn(T) -> Option<[u8; N]>,
) -> Result<Bytes> {
    let mut bytes = Vec::with_capacity(values.len() * N);
    for (idx, &value) in values.iter().enumerate() {
        let Some(narrowed) = to_bytes(value) else { bail!("value {value} at index {idx} is out of range") };
        bytes.extend(narrowed);
    }
    Ok(bytes.into())
}

/// The low bits of a number that fits in them, either as signed or as unsigned.
fn low_bits<const BITS: u32>(value: i32) -> Option<u16> {
    (-(1 << (BITS - 1))..1 << BITS).contains(&value).then_some(value as u16)
}

/// One six-bit element per value, four to three bytes.
fn pack_six_bits(values: &[i32]) -> Result<Bytes> {
    let mut bytes = vec![0; (values.len() * 6).div_ceil(8)];
    for (idx, &value) in values.iter().enumerate() {
        ensure!((0..64).contains(&value), "value {value} at index {idx} is out of range");
        let (byte, shift) = (idx * 6 / 8, idx * 6 % 8);
        let bits = (value as u16) << shift;
        bytes[byte] |= bits as u8;
        if bits >> 8 != 0 {
            bytes[byte + 1] |= (bits >> 8) as u8;
        }
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(dtype: DataType, dims: &[i64]) -> TensorProto {
        TensorProto { raw_data: None, ..tensor("t", dtype, dims, Bytes::new()) }
    }

    fn bytes(tensor: TensorProto) -> Result<Bytes> {
        tensor_bytes(&tensor, &ExternalFiles::in_folder("."))
    }

    fn message(tensor: TensorProto) -> String {
        bytes(tensor).unwrap_err().message
    }

    fn int32(dtype: DataType, dims: &[i64], int32_data: &[i32]) -> TensorProto {
        TensorProto { int32_data: int32_data.to_vec(), ..of(dtype, dims) }
    }

    #[test]
    fn raw_data_is_handed_out() {
        let data = Bytes::from(vec![1; 24]);
        let result = bytes(tensor("t", DataType::Float, &[2, 3], data.clone())).unwrap();
        assert_eq!(result.as_ptr(), data.as_ptr());
        assert!(message(tensor("t", DataType::Float, &[2, 4], data)).contains("takes 32 bytes, found 24"));
    }

    #[test]
    fn typed_fields_become_little_endian() {
        let typed = TensorProto { float_data: vec![1.0, -2.5], ..of(DataType::Float, &[2]) };
        assert_eq!(bytes(typed).unwrap(), [1.0f32.to_le_bytes(), (-2.5f32).to_le_bytes()].concat());
        let typed = TensorProto { float_data: vec![1.0, 2.0], ..of(DataType::Complex64, &[1]) };
        assert_eq!(bytes(typed).unwrap().len(), 8);
        let typed = TensorProto { double_data: vec![0.1], ..of(DataType::Double, &[]) };
        assert_eq!(bytes(typed).unwrap(), 0.1f64.to_le_bytes()[..]);
        let typed = TensorProto { int64_data: vec![-2], ..of(DataType::Int64, &[1, 1]) };
        assert_eq!(bytes(typed).unwrap(), (-2i64).to_le_bytes()[..]);
        let typed = TensorProto { uint64_data: vec![4_000_000_000], ..of(DataType::Uint32, &[1]) };
        assert_eq!(bytes(typed).unwrap(), 4_000_000_000u32.to_le_bytes()[..]);
        let typed = TensorProto { uint64_data: vec![1 << 40], ..of(DataType::Uint32, &[1]) };
        assert!(message(typed).contains("out of range"));
        assert_eq!(bytes(int32(DataType::Int32, &[1], &[-1])).unwrap(), [255; 4][..]);
    }

    #[test]
    fn int32_data_is_narrowed() {
        assert_eq!(bytes(int32(DataType::Int8, &[3], &[-128, 127, 255])).unwrap(), [128u8, 127, 255][..]);
        assert_eq!(bytes(int32(DataType::Uint8, &[2], &[0, 255])).unwrap(), [0u8, 255][..]);
        assert!(message(int32(DataType::Uint8, &[1], &[256])).contains("256 at index 0 is out of range"));
        assert_eq!(bytes(int32(DataType::Float16, &[1], &[0x3c00])).unwrap(), [0u8, 0x3c][..]);
        assert_eq!(bytes(int32(DataType::Bfloat16, &[1], &[0xbf80])).unwrap(), [0x80u8, 0xbf][..]);
        assert_eq!(bytes(int32(DataType::Int16, &[1], &[-2])).unwrap(), [0xfeu8, 0xff][..]);
        assert!(message(int32(DataType::Int16, &[1], &[65_536])).contains("out of range"));
        assert_eq!(bytes(int32(DataType::Bool, &[3], &[0, 1, 2])).unwrap(), [0u8, 1, 1][..]);
        assert_eq!(bytes(int32(DataType::Float8E4M3Fn, &[1], &[0x7f])).unwrap(), [0x7fu8][..]);
    }

    #[test]
    fn narrow_types_stay_packed() {
        assert_eq!(bytes(int32(DataType::Int4, &[3], &[0x21, 0x03])).unwrap(), [0x21u8, 3][..]);
        assert_eq!(bytes(int32(DataType::Uint2, &[5], &[0xe4, 0x01])).unwrap(), [0xe4u8, 1][..]);
        assert!(message(int32(DataType::Int4, &[3], &[1])).contains("takes 2 values in int32_data, found 1"));
        // 1, 2, 3, 4 as the 24-bit stream 000100 000011 000010 000001, then 63 alone.
        let packed = bytes(int32(DataType::Float6E2M3, &[5], &[1, 2, 3, 4, 63])).unwrap();
        assert_eq!(packed, [0b1000_0001u8, 0b0011_0000, 0b0001_0000, 63][..]);
        let packed = bytes(int32(DataType::Float6E3M2, &[2], &[63, 63])).unwrap();
        assert_eq!(packed, [0xffu8, 0x0f][..]);
        assert!(message(int32(DataType::Float6E2M3, &[1], &[64])).contains("out of range"));
        assert_eq!(bytes(tensor("t", DataType::Int4, &[3], vec![0x21, 3].into())).unwrap(), [0x21u8, 3][..]);
    }

    #[test]
    fn booleans_are_zero_or_one() {
        let flags = tensor("t", DataType::Bool, &[4], vec![0, 1, 2, 255].into());
        assert_eq!(bytes(flags).unwrap(), [0u8, 1, 1, 1][..]);
    }

    #[test]
    fn wrong_tensors_are_refused() {
        assert!(message(of(DataType::Float, &[-1])).contains("negative dimension -1"));
        assert!(message(of(DataType::Float, &[0, -1])).contains("negative dimension -1"));
        assert!(message(of(DataType::Float, &[i64::MAX, i64::MAX])).contains("too large"));
        assert!(message(of(DataType::Double, &[i64::MAX])).contains("too large"));
        assert!(message(of(DataType::Float, &[2])).contains("takes 8 bytes, found 0"));
        assert!(message(of(DataType::Undefined, &[])).contains("not an element type"));
        assert!(message(of(DataType::String, &[])).contains("found strings"));
        assert!(message(TensorProto { data_type: Some(99), ..of(DataType::Float, &[]) }).contains("99"));
        assert!(
            message(TensorProto { data_type: None, ..of(DataType::Float, &[]) }).contains("no data_type")
        );
        assert!(
            message(TensorProto { data_location: Some(7), ..of(DataType::Float, &[]) })
                .contains("data_location 7")
        );
        assert!(message(int32(DataType::Float, &[1], &[1])).contains("found int32_data"));
        let both =
            TensorProto { float_data: vec![1.0], ..tensor("t", DataType::Float, &[1], vec![0; 4].into()) };
        assert_eq!(message(both), "tensor 't': has elements in both raw_data and float_data");
        assert_eq!(bytes(of(DataType::Float, &[0, i64::MAX, i64::MAX])).unwrap().len(), 0);
    }

    #[test]
    fn strings_are_counted() {
        let words = TensorProto { string_data: vec!["a".into(), "b".into()], ..of(DataType::String, &[2]) };
        assert_eq!(tensor_strings(&words).unwrap().len(), 2);
        assert!(tensor_strings(&TensorProto { dims: vec![3], ..words }).is_err());
        assert!(tensor_strings(&of(DataType::Float, &[])).is_err());
    }

    #[test]
    fn external_data_are_mapped() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("w"), [1, 0, 0, 0, 2, 0, 0, 0]).unwrap();
        let entry = |key: &str, value: &str| super::super::proto::StringStringEntryProto {
            key: Some(key.to_owned()),
            value: Some(value.to_owned()),
        };
        let external = TensorProto {
            data_location: Some(DATA_EXTERNAL),
            external_data: vec![entry("location", "w"), entry("offset", "4")],
            ..of(DataType::Int32, &[1])
        };
        let files = ExternalFiles::in_folder(folder.path());
        assert_eq!(tensor_bytes(&external, &files).unwrap(), [2u8, 0, 0, 0][..]);
        assert!(tensor_bytes(&TensorProto { dims: vec![2], ..external }, &files).is_err());
    }
}
