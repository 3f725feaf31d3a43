//! Values of a model's inputs and outputs, from files and to files.
//!
//! Formats: ONNX messages (`.pb`) and NumPy arrays (`.npy`, and `.npz` to read). Invariants: a file is read by mapping,
//! so a large tensor isn't copied; whatever a file holds, reading it gives a value or an error that names the file.

mod inputs;
mod npy;
mod outputs;
mod pb;
mod random;
mod structure;

pub use inputs::{Given, read_inputs};
pub use npy::read as read_npy;
pub use outputs::{Format, write_outputs};
pub use random::random;
pub use structure::{Parts, put_together, take_apart};

use crate::import::proto::{DataType, TypeProto, TypeValue};
use aic_ir::tensor::Tensor;

/// The value of an input or output.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A tensor.
    Tensor(Tensor),
    /// A sequence of values.
    Sequence(Vec<Value>),
    /// An optional value that isn't there.
    Absent,
}

/// An input or output of a model, as the model declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// What it may hold.
    pub kind: Kind,
}

/// What an input or output may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A tensor, of this element type if the model says so.
    Tensor(Option<DataType>),
    /// A sequence of such values.
    Sequence(Box<Kind>),
    /// Such a value or nothing.
    Optional(Box<Kind>),
}

impl Kind {
    /// What a type of the model says. What is no tensor, sequence or optional value counts as a tensor; importing
    /// such a model fails with a better message than there could be here.
    pub fn of(ty: Option<&TypeProto>) -> Kind {
        let inner = |ty: &Option<Box<TypeProto>>| Box::new(Kind::of(ty.as_deref()));
        match ty.and_then(|ty| ty.value.as_ref()) {
            Some(TypeValue::Tensor(t)) => {
                let dtype = t.elem_type.and_then(|number| DataType::try_from(number).ok());
                Kind::Tensor(dtype.filter(|dtype| *dtype != DataType::Undefined))
            }
            Some(TypeValue::Sequence(s)) => Kind::Sequence(inner(&s.elem_type)),
            Some(TypeValue::Optional(o)) => Kind::Optional(inner(&o.elem_type)),
            _ => Kind::Tensor(None),
        }
    }
}

/// A file name without extension for every port, unlike any other: the port's name, with what file systems object to
/// replaced.
fn file_stems(ports: &[Port]) -> Vec<String> {
    let mut stems: Vec<String> = Vec::with_capacity(ports.len());
    for port in ports {
        let plain = |c: char| if c.is_control() || "/\\:*?\"<>|".contains(c) { '_' } else { c };
        let stem: String = port.name.chars().map(plain).take(60).collect();
        let stem = if stem.starts_with('.') || stem.is_empty() { format!("_{stem}") } else { stem };
        let mut unique = stem.clone();
        let mut n = 1;
        while stems.contains(&unique) {
            n += 1;
            unique = format!("{stem}_{n}");
        }
        stems.push(unique);
    }
    stems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_valid_and_distinct() {
        let names = ["x", "a/b", "a:b", "", ".", "長さ", "x"];
        let ports: Vec<Port> =
            names.iter().map(|n| Port { name: (*n).into(), kind: Kind::Tensor(None) }).collect();
        assert_eq!(file_stems(&ports), ["x", "a_b", "a_b_2", "_", "_.", "長さ", "x_2"]);
        let long = Port { name: "長".repeat(300), kind: Kind::Tensor(None) };
        assert!(file_stems(&[long])[0].len() < 250);
    }
}
