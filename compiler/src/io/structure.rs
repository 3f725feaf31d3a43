//! Values taken apart into tensors, which is all that graphs know, and put together again.

use super::Value;
use crate::import::onnx::Structure;
use aic_ir::error::Result;
use aic_ir::tensor::Tensor;
use aic_ir::{bail, ensure};
use std::collections::HashMap;

/// Values of inputs by name, taken apart.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Tensors by the names of their ports in the graph; see [`Structure`].
    pub tensors: HashMap<String, Tensor>,
    /// What values consist of that are more or less than a tensor.
    pub structures: HashMap<String, Structure>,
}

/// Takes values apart.
pub fn take_apart(values: HashMap<String, Value>) -> Parts {
    let mut parts = Parts::default();
    for (name, value) in values {
        let (structure, tensors) = part(&name, value);
        parts.tensors.extend(tensors);
        if structure != Structure::Tensor {
            parts.structures.insert(name, structure);
        }
    }
    parts
}

fn part(name: &str, value: Value) -> (Structure, Vec<(String, Tensor)>) {
    match value {
        Value::Tensor(t) => (Structure::Tensor, vec![(name.to_owned(), t)]),
        Value::Absent => (Structure::Absent, Vec::new()),
        Value::Sequence(items) => {
            let items = items.into_iter().enumerate();
            let parts = items.map(|(k, item)| part(&format!("{name}[{k}]"), item));
            let (structures, tensors): (Vec<_>, Vec<_>) = parts.unzip();
            (Structure::Sequence(structures), tensors.into_iter().flatten().collect())
        }
    }
}

/// The values that consist of these tensors.
///
/// # Errors
/// There are more or fewer tensors than the structures have.
pub fn put_together(structures: &[Structure], tensors: Vec<Tensor>) -> Result<Vec<Value>> {
    let mut tensors = tensors.into_iter();
    let values = structures.iter().map(|s| value(s, &mut tensors)).collect();
    ensure!(tensors.next().is_none(), "there are more tensors than the outputs have");
    values
}

fn value(structure: &Structure, tensors: &mut std::vec::IntoIter<Tensor>) -> Result<Value> {
    match structure {
        Structure::Absent => Ok(Value::Absent),
        Structure::Sequence(items) => {
            items.iter().map(|item| value(item, tensors)).collect::<Result<_>>().map(Value::Sequence)
        }
        Structure::Tensor => match tensors.next() {
            Some(t) => Ok(Value::Tensor(t)),
            None => bail!("there are fewer tensors than the outputs have"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_names_and_fit_together() {
        let tensor = |x: i64| Value::Tensor(Tensor::from_vec(vec![], &[x]).unwrap());
        let inner = Value::Sequence(vec![tensor(2), Value::Absent]);
        let whole = Value::Sequence(vec![tensor(1), inner, Value::Sequence(vec![]), tensor(3)]);
        let (structure, parts) = part("x", whole.clone());
        let names: Vec<&str> = parts.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["x[0]", "x[1][0]", "x[3]"]);
        let tensors: Vec<Tensor> = parts.into_iter().map(|(_, t)| t).collect();
        let structures = [structure, Structure::Absent];
        assert_eq!(put_together(&structures, tensors.clone()), Ok(vec![whole, Value::Absent]));
        assert!(put_together(&structures[1..], tensors.clone()).is_err());
        assert!(put_together(&structures, tensors[1..].to_vec()).is_err());
    }
}
