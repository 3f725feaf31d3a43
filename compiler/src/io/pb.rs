//! Values as ONNX messages: `TensorProto`, `SequenceProto`, `OptionalProto`.

use super::{Kind, Value};
use crate::import::external::ExternalFiles;
use crate::import::load::{read_message, write_message};
use crate::import::onnx::types;
use crate::import::payload;
use crate::import::proto::{DataType, ElementKind, OptionalProto, SequenceProto, TensorProto};
use aic_ir::error::{Error, Result};
use aic_ir::tensor::Tensor;
use aic_ir::{bail, ensure};
use std::path::Path;

/// Reads a value of the given kind.
///
/// # Errors
/// The file can't be read, or holds something else.
pub fn read(path: &Path, kind: &Kind) -> Result<Value> {
    let files = ExternalFiles::beside(path);
    let value = match kind {
        Kind::Tensor(_) => tensor(&read_message(path)?, &files),
        Kind::Sequence(_) => sequence(&read_message(path)?, &files),
        Kind::Optional(_) => optional(&read_message(path)?, &files),
    };
    value.map_err(|error| error.context(path.display()))
}

/// Writes a value under the name of the output that it is.
///
/// # Errors
/// The file can't be written.
pub fn write(path: &Path, name: &str, kind: &Kind, value: &Value) -> Result<()> {
    match (kind, value) {
        (Kind::Optional(inner), _) => write_message(path, &optional_message(name, inner, value)?),
        (Kind::Tensor(dtype), Value::Tensor(t)) => write_message(path, &tensor_message(name, *dtype, t)?),
        (Kind::Sequence(inner), Value::Sequence(items)) => {
            write_message(path, &sequence_message(name, inner, items)?)
        }
        _ => bail!("output {name:?}: expected {kind:?}, found {value:?}"),
    }
}

fn tensor(proto: &TensorProto, files: &ExternalFiles) -> Result<Value> {
    let stored = payload::data_type(proto)?;
    ensure!(stored != DataType::String, "tensors of strings are not supported");
    types::decode(stored, &proto.dims, payload::tensor_bytes(proto, files)?).map(Value::Tensor)
}

fn sequence(proto: &SequenceProto, files: &ExternalFiles) -> Result<Value> {
    let items: Result<Vec<Value>> = match element_kind(proto.elem_type)? {
        ElementKind::Tensor => proto.tensor_values.iter().map(|t| tensor(t, files)).collect(),
        ElementKind::Sequence => proto.sequence_values.iter().map(|s| sequence(s, files)).collect(),
        ElementKind::Optional => proto.optional_values.iter().map(|o| optional(o, files)).collect(),
        ElementKind::Undefined => Ok(Vec::new()),
        other => bail!("sequences of {other:?} are not supported"),
    };
    items.map(Value::Sequence)
}

fn optional(proto: &OptionalProto, files: &ExternalFiles) -> Result<Value> {
    let value = match element_kind(proto.elem_type)? {
        ElementKind::Tensor => proto.tensor_value.as_ref().map(|t| tensor(t, files)),
        ElementKind::Sequence => proto.sequence_value.as_deref().map(|s| sequence(s, files)),
        ElementKind::Optional => proto.optional_value.as_deref().map(|o| optional(o, files)),
        ElementKind::Undefined => None,
        other => bail!("optional values of {other:?} are not supported"),
    };
    value.unwrap_or(Ok(Value::Absent))
}

fn element_kind(number: Option<i32>) -> Result<ElementKind> {
    let number = number.unwrap_or_default();
    ElementKind::try_from(number).map_err(|_| Error::new(format!("elem_type {number} is unknown")))
}

/// A tensor, as the element type that the model declares if that is narrower than the tensor's.
fn tensor_message(name: &str, declared: Option<DataType>, t: &Tensor) -> Result<TensorProto> {
    let dims: Vec<i64> = t.shape().iter().map(|&d| d as i64).collect();
    if let Some(narrow) = declared.filter(|declared| types::widened(*declared).is_some()) {
        return Ok(payload::tensor(name, narrow, &dims, types::encode(narrow, t)?));
    }
    let dtype = DataType::try_from(t.dtype().onnx());
    let dtype = dtype.map_err(|_| Error::new(format!("{} has no number in ONNX", t.dtype())))?;
    Ok(payload::tensor(name, dtype, &dims, t.bytes().clone()))
}

/// A sequence of values of the kind `element`.
fn sequence_message(name: &str, element: &Kind, items: &[Value]) -> Result<SequenceProto> {
    let kind = match element {
        Kind::Tensor(_) => ElementKind::Tensor,
        Kind::Sequence(_) => ElementKind::Sequence,
        Kind::Optional(_) => ElementKind::Optional,
    };
    let mut proto =
        SequenceProto { name: Some(name.into()), elem_type: Some(kind as i32), ..SequenceProto::default() };
    for item in items {
        match (element, item) {
            (Kind::Optional(inner), _) => proto.optional_values.push(optional_message("", inner, item)?),
            (Kind::Tensor(dtype), Value::Tensor(t)) => {
                proto.tensor_values.push(tensor_message("", *dtype, t)?)
            }
            (Kind::Sequence(inner), Value::Sequence(items)) => {
                proto.sequence_values.push(sequence_message("", inner, items)?)
            }
            _ => bail!("output {name:?}: expected a sequence of {element:?}, found {item:?} in it"),
        }
    }
    Ok(proto)
}

/// An optional value of the kind `inner`.
fn optional_message(name: &str, inner: &Kind, value: &Value) -> Result<OptionalProto> {
    let mut proto = OptionalProto { name: Some(name.into()), ..OptionalProto::default() };
    let kind = match (inner, value) {
        (_, Value::Absent) => ElementKind::Undefined,
        (Kind::Tensor(dtype), Value::Tensor(t)) => {
            proto.tensor_value = Some(tensor_message("", *dtype, t)?);
            ElementKind::Tensor
        }
        (Kind::Sequence(element), Value::Sequence(items)) => {
            proto.sequence_value = Some(Box::new(sequence_message("", element, items)?));
            ElementKind::Sequence
        }
        _ => bail!("output {name:?}: expected {inner:?} or nothing, found {value:?}"),
    };
    proto.elem_type = Some(kind as i32);
    Ok(proto)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input_0.pb");
        let tensor = || Value::Tensor(Tensor::from_vec(vec![2], &[1i64, 2]).unwrap());
        let plain = Kind::Tensor(Some(DataType::Int64));
        let list = Kind::Sequence(Box::new(plain.clone()));
        let maybe = |kind: &Kind| Kind::Optional(Box::new(kind.clone()));
        let nested = Kind::Sequence(Box::new(maybe(&plain)));
        let cases = [
            (plain.clone(), tensor()),
            (list.clone(), Value::Sequence(vec![tensor(), tensor()])),
            (list.clone(), Value::Sequence(vec![])),
            (maybe(&plain), Value::Absent),
            (maybe(&plain), tensor()),
            (maybe(&list), Value::Sequence(vec![tensor()])),
            (nested, Value::Sequence(vec![tensor(), Value::Absent])),
        ];
        for (kind, value) in cases {
            write(&path, "x", &kind, &value).unwrap();
            assert_eq!(read(&path, &kind).unwrap(), value, "{kind:?}");
        }
        assert!(write(&path, "x", &plain, &Value::Absent).unwrap_err().message.contains("\"x\""));
    }

    #[test]
    fn what_is_no_tensor_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("input_0.pb");
        let message = || read(&path, &Kind::Tensor(None)).unwrap_err().message;
        assert!(message().contains("input_0.pb"));
        for bytes in [&b"junk"[..], b"", &[0x10, 8, 0x08, 1]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(message().contains("input_0.pb"), "{bytes:?}");
        }
    }
}
