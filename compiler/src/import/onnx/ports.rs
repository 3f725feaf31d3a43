//! Inputs and outputs of the model. The graph's are tensors; sequences and optional values are taken apart, so what they
//! consist of must be known.

use super::ctx::{Ctx, Item};
use super::{Structure, types};
use crate::import::proto::{DataType, TensorType, TypeProto, TypeValue, ValueInfoProto};
use aic_ir::bail;
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::types::Type;

impl<'m> Ctx<'m> {
    pub(super) fn graph_input(&mut self, input: &'m ValueInfoProto) {
        let name = input.name();
        let known = &self.options.structures;
        let item = match (input.r#type.as_ref(), known.get(name)) {
            (Some(ty), Some(structure)) => self.input_item(name, ty, structure),
            (Some(ty), None) => self.input_item(name, ty, &Structure::Tensor),
            (None, _) => Err(aic_ir::error::Error::new("the input has no type")),
        };
        let bound = match input.r#type.as_ref().and_then(|ty| ty.value.as_ref()) {
            Some(TypeValue::Tensor(tensor)) => self.bind_dims(name, tensor),
            _ => Ok(()),
        };
        let item = bound.and(item).unwrap_or_else(|error| {
            self.problem(name, "graph input", &error.message);
            Item::Failed
        });
        self.scope.names.insert(name, item);
    }

    fn input_item(&mut self, name: &str, ty: &TypeProto, structure: &Structure) -> Result<Item> {
        match (ty.value.as_ref(), structure) {
            (Some(TypeValue::Tensor(tensor)), Structure::Tensor) => {
                let ty = self.tensor_type(name, tensor)?;
                let value = self.body.graph.add_input(name, ty);
                if let Ok(stored) = DataType::try_from(tensor.elem_type()) {
                    self.body.know.stored_as(value, stored);
                }
                Ok(Item::Tensor(value))
            }
            (Some(TypeValue::Sequence(ty)), Structure::Sequence(items)) => {
                let Some(ty) = &ty.elem_type else { bail!("the sequence's elements have no type") };
                let items = items.iter().enumerate();
                let items = items.map(|(k, item)| self.input_item(&format!("{name}[{k}]"), ty, item));
                Ok(Item::Sequence(items.collect::<Result<_>>()?))
            }
            (Some(TypeValue::Optional(_)), Structure::Absent) => Ok(Item::Optional(None)),
            (Some(TypeValue::Optional(ty)), Structure::Tensor | Structure::Sequence(_)) => {
                let Some(ty) = &ty.elem_type else { bail!("the optional value has no type") };
                Ok(Item::Optional(Some(Box::new(self.input_item(name, ty, structure)?))))
            }
            (Some(ty @ TypeValue::Sequence(_)), Structure::Tensor) => {
                bail!("inputs that are {} are supported only where their values are known", kind(ty))
            }
            (Some(ty), _) => bail!("inputs that are {} are not supported", kind(ty)),
            (None, _) => bail!("the input has no type"),
        }
    }

    fn tensor_type(&mut self, name: &str, tensor: &TensorType) -> Result<Type> {
        let dtype = types::input_dtype(tensor.elem_type())?;
        let declared = tensor.shape.as_ref().map(|shape| &shape.dim[..]);
        let dims: Vec<Dim> = match (self.options.shapes.get(name), declared) {
            (Some(shape), Some(declared)) if shape.len() != declared.len() => {
                bail!("expected an input of rank {}, found the shape {shape:?}", declared.len())
            }
            (Some(shape), _) => shape.iter().map(|&d| d.into()).collect(),
            (None, Some(declared)) => {
                let named = declared.iter().enumerate();
                named.map(|(axis, d)| self.symbols.dim(d, &format!("{name}_{axis}"))).collect()
            }
            (None, None) => bail!("the input has no shape; give it when compiling"),
        };
        self.bound.extend(dims.iter().filter_map(Dim::as_sym).cloned());
        Ok(Type::new(dtype, dims))
    }

    /// Takes the values of declared dimensions from the shape given for a tensor. Not for the elements of a sequence:
    /// these have one declaration, but may differ in their extents.
    fn bind_dims(&mut self, name: &str, tensor: &TensorType) -> Result<()> {
        let (Some(shape), Some(declared)) = (self.options.shapes.get(name), &tensor.shape) else {
            return Ok(());
        };
        for (axis, (d, &size)) in declared.dim.iter().zip(shape).enumerate() {
            let bound = self.symbols.bind(d, size);
            bound.map_err(|e| e.context(format!("dimension {axis} of the shape {shape:?}")))?;
        }
        Ok(())
    }

    pub(super) fn graph_output(&mut self, output: &'m ValueInfoProto) {
        let name = output.name();
        let declared = self.declared_dtype(output).filter(|&t| t > 0 && DType::from_onnx(t).is_none());
        match self.lookup(name) {
            Ok(Item::Failed) => {}
            Ok(item) if declared.is_some_and(|declared| !self.is_stored_as(&item, declared)) => {
                let reason = format!(
                    "outputs of type {} are not supported",
                    types::type_name(declared.unwrap_or_default())
                );
                self.problem(name, "graph output", &reason);
            }
            Ok(item) => {
                let structure = self.output_item(name, &item);
                self.outputs.push(structure);
            }
            Err(error) => self.problem(name, "graph output", &error.message),
        }
    }

    /// Whether an item is a tensor of narrow integers, as the model declares it.
    fn is_stored_as(&self, item: &Item, declared: i32) -> bool {
        let Item::Tensor(value) = item else { return false };
        let stored = self.body.know.stored(*value);
        stored.is_some_and(|stored| stored as i32 == declared && self.dtype(*value).is_int())
    }

    /// Declares the tensors of an item as outputs. An item of a sequence that failed is taken for absent; its failure
    /// has been reported.
    fn output_item(&mut self, name: &str, item: &Item) -> Structure {
        match item {
            Item::Tensor(value) => {
                self.body.graph.add_output(name, *value);
                Structure::Tensor
            }
            Item::Sequence(items) => {
                let items = items.iter().enumerate();
                Structure::Sequence(
                    items.map(|(k, item)| self.output_item(&format!("{name}[{k}]"), item)).collect(),
                )
            }
            Item::Optional(Some(item)) => self.output_item(name, item),
            Item::Optional(None) | Item::Failed => Structure::Absent,
        }
    }

    /// The declared element type of an input of a body or the model, if it is a tensor's.
    pub(super) fn declared_dtype(&self, input: &ValueInfoProto) -> Option<i32> {
        match input.r#type.as_ref()?.value.as_ref()? {
            TypeValue::Tensor(tensor) => tensor.elem_type,
            _ => None,
        }
    }
}

fn kind(value: &TypeValue) -> &'static str {
    match value {
        TypeValue::Tensor(_) => "tensors",
        TypeValue::Sequence(_) => "sequences",
        TypeValue::Map(_) => "maps",
        TypeValue::Opaque(_) => "opaque",
        TypeValue::SparseTensor(_) => "sparse tensors",
        TypeValue::Optional(_) => "optional",
    }
}
