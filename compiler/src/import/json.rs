//! The graph JSON: every field of an ONNX model, as text that a person can read and write.
//!
//! `testdata/README.md` describes the format for its users. Each message is declared here once, as a table of keys,
//! fields and codecs from which both directions follow, so neither can forget a field: a table without one doesn't
//! compile. Invariants: a model turned into JSON and back is the same model, down to which fields are absent and to
//! the bits of every number; an unknown or repeated key is an error; an error says where in the document it is.
//!
//! A document is held in memory as a whole, weights included; large ones are better left in external files.

mod attribute;
mod number;
mod tensor;
mod text;
mod types;
mod value;

use std::io;

use serde_json::{Value, json};

use self::types::Dtypes;
use self::value::{Always, At, Entries, Json, Opset, Plain, Required, json_object};
use super::proto::*;
use aic_ir::error::{Error, Result};

/// The IR version of a model that doesn't say its own.
const DEFAULT_IR_VERSION: i64 = 10;
/// The version of the default operator domain of a model that doesn't say its own.
const DEFAULT_OPSET: i64 = 21;

/// Reads a model from the text of a graph JSON.
///
/// # Errors
/// The text is not JSON (with its line and column), or not of a model (with the path in the document).
pub fn parse(text: &[u8]) -> Result<ModelProto> {
    ModelProto::from_json(text::parse(text)?, &At::root())
}

/// Writes a model as graph JSON.
///
/// # Errors
/// The subgraphs nest too deep for the text to be read again, or `out` fails.
pub fn print(model: &ModelProto, out: &mut impl io::Write) -> Result<()> {
    let value = model.to_json();
    text::check_depth(&value)?;
    text::print(&value, out).map_err(|error| Error::new(error.to_string()))
}

json_object! { ModelProto: "model" {
    "ir_version" = ir_version: Required, default json!(DEFAULT_IR_VERSION);
    "opset_import" = opset_import: Opset, default json!(DEFAULT_OPSET);
    "producer_name" = producer_name: Plain;
    "producer_version" = producer_version: Plain;
    "domain" = domain: Plain;
    "model_version" = model_version: Plain;
    "doc_string" = doc_string: Plain;
    "metadata_props" = metadata_props: Entries;
    "graph" = graph: Required;
    "functions" = functions: Plain;
    "training_info" = training_info: Plain;
    "configurations" = configuration: Plain;
} }

json_object! { GraphProto: "graph" {
    "name" = name: Required, default json!("graph");
    "doc_string" = doc_string: Plain;
    "inputs" = input: Plain;
    "outputs" = output: Plain;
    "nodes" = node: Always;
    "initializers" = initializer: Plain;
    "sparse_initializers" = sparse_initializer: Plain;
    "value_info" = value_info: Plain;
    "quantization_annotations" = quantization_annotation: Plain;
    "metadata_props" = metadata_props: Entries;
} }

json_object! { NodeProto: "node" {
    "name" = name: Plain;
    "op_type" = op_type: Required;
    "domain" = domain: Plain;
    "overload" = overload: Plain;
    "inputs" = input: Plain;
    "outputs" = output: Plain;
    "attributes" = attribute: attribute::Attributes;
    "doc_string" = doc_string: Plain;
    "metadata_props" = metadata_props: Entries;
    "device_configurations" = device_configurations: Plain;
} }

json_object! { FunctionProto: "function" {
    "name" = name: Plain;
    "domain" = domain: Plain;
    "overload" = overload: Plain;
    "doc_string" = doc_string: Plain;
    "opset_import" = opset_import: Opset, default json!([]);
    "inputs" = input: Plain;
    "outputs" = output: Plain;
    "attributes" = attribute: Plain;
    "attribute_defaults" = attribute_proto: attribute::Attributes;
    "nodes" = node: Always;
    "value_info" = value_info: Plain;
    "metadata_props" = metadata_props: Entries;
} }

json_object! { TrainingInfoProto: "training info" {
    "initialization" = initialization: Plain;
    "algorithm" = algorithm: Plain;
    "initialization_bindings" = initialization_binding: Entries;
    "update_bindings" = update_binding: Entries;
} }

json_object! { TensorAnnotation: "quantization annotation" {
    "tensor_name" = tensor_name: Plain;
    "quant_parameter_tensor_names" = quant_parameter_tensor_names: Entries;
} }

json_object! { SparseTensorProto: "sparse tensor" {
    "values" = values: Plain;
    "indices" = indices: Plain;
    "shape" = dims: Always;
} }

json_object! { Segment: "segment" {
    "begin" = begin: Plain;
    "end" = end: Plain;
} }

json_object! { OpaqueType: "opaque type" {
    "domain" = domain: Plain;
    "name" = name: Plain;
} }

json_object! { TensorType: "tensor type" {
    "dtype" = elem_type: Dtypes;
    "shape" = shape: Plain;
} }

json_object! { MapType: "map type" {
    "key" = key_type: Dtypes;
    "value" = value_type: Required;
} }

json_object! { DeviceConfigurationProto: "device configuration" {
    "name" = name: Plain;
    "num_devices" = num_devices: Plain;
    "devices" = device: Plain;
} }

json_object! { NodeDeviceConfigurationProto: "device configuration" {
    "configuration_id" = configuration_id: Plain;
    "sharding_specs" = sharding_spec: Plain;
    "pipeline_stage" = pipeline_stage: Plain;
} }

json_object! { ShardingSpecProto: "sharding spec" {
    "tensor_name" = tensor_name: Plain;
    "devices" = device: Plain;
    "index_to_device_group_map" = index_to_device_group_map: Plain;
    "sharded_dims" = sharded_dim: Plain;
} }

json_object! { IntIntListEntryProto: "device group" {
    "key" = key: Plain;
    "values" = value: Plain;
} }

json_object! { ShardedDimProto: "sharded dimension" {
    "axis" = axis: Plain;
    "simple_shardings" = simple_sharding: Plain;
} }

impl<T: Json> Json for Box<T> {
    fn to_json(&self) -> Value {
        T::to_json(self)
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        T::from_json(value, at).map(Box::new)
    }
}

#[cfg(test)]
mod tests;
