//! Attributes in JSON: an object from names to plain values, like `{"axis": 1, "mode": "linear"}`.
//!
//! A plain value says its type: an integer, a number with a point or exponent, a string, lists of these, a tensor (it has
//! `"dtype"`), a graph (it has `"nodes"`). What isn't plain is `{"type", "value"}`, with `"ref"` and `"doc_string"` where
//! needed. Attributes whose fields don't fit that, say two values in one, make the node's attributes a list of
//! verbatim messages.

use serde_json::{Map, Value, json};

use super::super::proto::*;
use super::number::is_exact;
use super::value::{
    At, Codec, Json, Object, Plain, all_unique, did_you_mean, json_object, list_from_json, list_to_json,
};
use aic_ir::error::Result;

json_object! { AttributeProto: "attribute" {
    "name" = name: Plain;
    "ref_attr_name" = ref_attr_name: Plain;
    "doc_string" = doc_string: Plain;
    "type" = r#type: TypeName;
    "f" = f: Plain;
    "i" = i: Plain;
    "s" = s: Plain;
    "t" = t: Plain;
    "g" = g: Plain;
    "sparse_tensor" = sparse_tensor: Plain;
    "tp" = tp: Plain;
    "floats" = floats: Plain;
    "ints" = ints: Plain;
    "strings" = strings: Plain;
    "tensors" = tensors: Plain;
    "graphs" = graphs: Plain;
    "sparse_tensors" = sparse_tensors: Plain;
    "type_protos" = type_protos: Plain;
} }

/// The attributes of a node.
pub struct Attributes;

impl Codec<Vec<AttributeProto>> for Attributes {
    fn put(field: &Vec<AttributeProto>) -> Option<Value> {
        if field.is_empty() {
            return None;
        }
        let named = field.iter().all(|attribute| attribute.name.is_some());
        let unique = all_unique(field.iter().map(AttributeProto::name));
        let described =
            if named && unique { field.iter().map(describe).collect::<Option<Vec<_>>>() } else { None };
        let Some(values) = described else { return Some(list_to_json(field)) };
        let names = field.iter().map(|attribute| attribute.name().to_owned());
        Some(Value::Object(names.zip(values).collect::<Map<_, _>>()))
    }

    fn take(value: Option<Value>, at: &At) -> Result<Vec<AttributeProto>> {
        let Some(Value::Object(map)) = value else { return Plain::take(value, at) };
        let attribute = |(name, value): (String, Value)| {
            let attribute = read(value, &at.key(&name))?;
            Ok(AttributeProto { name: Some(name), ..attribute })
        };
        map.into_iter().map(attribute).collect()
    }
}

/// The types of attributes and their names.
const TYPES: [(AttributeType, &str); 15] = [
    (AttributeType::Undefined, "undefined"),
    (AttributeType::Float, "float"),
    (AttributeType::Int, "int"),
    (AttributeType::String, "string"),
    (AttributeType::Tensor, "tensor"),
    (AttributeType::Graph, "graph"),
    (AttributeType::SparseTensor, "sparse_tensor"),
    (AttributeType::TypeProto, "type_proto"),
    (AttributeType::Floats, "floats"),
    (AttributeType::Ints, "ints"),
    (AttributeType::Strings, "strings"),
    (AttributeType::Tensors, "tensors"),
    (AttributeType::Graphs, "graphs"),
    (AttributeType::SparseTensors, "sparse_tensors"),
    (AttributeType::TypeProtos, "type_protos"),
];

fn type_name(of: AttributeType) -> &'static str {
    TYPES.iter().find(|(known, _)| *known == of).map_or("undefined", |(_, name)| name)
}

/// The type of an attribute by name, or by number if it has none.
struct TypeName;

impl Codec<Option<i32>> for TypeName {
    fn put(field: &Option<i32>) -> Option<Value> {
        let name = |number| AttributeType::try_from(number).map_or(json!(number), |of| json!(type_name(of)));
        field.map(name)
    }

    fn take(value: Option<Value>, at: &At) -> Result<Option<i32>> {
        let Some(Value::String(name)) = value else { return Plain::take(value, at) };
        let found = TYPES.iter().find(|(_, known)| *known == name);
        found.map(|(of, _)| Some(*of as i32)).ok_or_else(|| {
            let names = TYPES.map(|(_, name)| name);
            at.error(format_args!("unknown attribute type \"{name}\"{}", did_you_mean(&name, &names)))
                .help(format!("the attribute types are {}", names[1..].join(", ")))
        })
    }
}

/// The value of an attribute, plain if that says it all; `None` if only the verbatim message does.
fn describe(attribute: &AttributeProto) -> Option<Value> {
    let of = AttributeType::try_from(attribute.r#type?).ok()?;
    if of == AttributeType::Undefined || fields_set(attribute).any(|set| set != of) {
        return None;
    }
    let (value, mut plain) = match of {
        AttributeType::Float => (Plain::put(&attribute.f), attribute.f().is_finite()),
        AttributeType::Int => (Plain::put(&attribute.i), is_exact(attribute.i())),
        AttributeType::String => (Plain::put(&attribute.s), true),
        AttributeType::Tensor => (Plain::put(&attribute.t), true),
        AttributeType::Graph => (Plain::put(&attribute.g), true),
        AttributeType::SparseTensor => (Plain::put(&attribute.sparse_tensor), false),
        AttributeType::TypeProto => (Plain::put(&attribute.tp), false),
        AttributeType::Floats => {
            (Plain::put(&attribute.floats), attribute.floats.iter().all(|f| f.is_finite()))
        }
        AttributeType::Ints => (Plain::put(&attribute.ints), attribute.ints.iter().all(|&i| is_exact(i))),
        AttributeType::Strings => (Plain::put(&attribute.strings), true),
        AttributeType::Tensors => (Plain::put(&attribute.tensors), true),
        AttributeType::Graphs => (Plain::put(&attribute.graphs), true),
        AttributeType::SparseTensors => (Plain::put(&attribute.sparse_tensors), false),
        AttributeType::TypeProtos => (Plain::put(&attribute.type_protos), false),
        AttributeType::Undefined => (None, false),
    };
    plain &= attribute.doc_string.is_none() && attribute.ref_attr_name.is_none();
    if plain && value.is_some() {
        return value;
    }
    let fields = [
        ("type", Some(json!(type_name(of)))),
        ("value", value),
        ("ref", Plain::put(&attribute.ref_attr_name)),
        ("doc_string", Plain::put(&attribute.doc_string)),
    ];
    Some(Value::Object(
        fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect(),
    ))
}

/// The types whose fields an attribute has.
fn fields_set(attribute: &AttributeProto) -> impl Iterator<Item = AttributeType> {
    let fields = [
        (AttributeType::Float, attribute.f.is_some()),
        (AttributeType::Int, attribute.i.is_some()),
        (AttributeType::String, attribute.s.is_some()),
        (AttributeType::Tensor, attribute.t.is_some()),
        (AttributeType::Graph, attribute.g.is_some()),
        (AttributeType::SparseTensor, attribute.sparse_tensor.is_some()),
        (AttributeType::TypeProto, attribute.tp.is_some()),
        (AttributeType::Floats, !attribute.floats.is_empty()),
        (AttributeType::Ints, !attribute.ints.is_empty()),
        (AttributeType::Strings, !attribute.strings.is_empty()),
        (AttributeType::Tensors, !attribute.tensors.is_empty()),
        (AttributeType::Graphs, !attribute.graphs.is_empty()),
        (AttributeType::SparseTensors, !attribute.sparse_tensors.is_empty()),
        (AttributeType::TypeProtos, !attribute.type_protos.is_empty()),
    ];
    fields.into_iter().filter_map(|(of, set)| set.then_some(of))
}

/// An attribute without its name, from its value.
fn read(value: Value, at: &At) -> Result<AttributeProto> {
    if value.get("type").is_none() {
        let of = plain_type(&value, at)?;
        return with_value(
            AttributeProto { r#type: Some(of as i32), ..AttributeProto::default() },
            of,
            value,
            at,
        );
    }
    let mut object = Object::new(value, at, "attribute", &["type", "value", "ref", "doc_string"])?;
    let number: Option<i32> = object.field::<TypeName, _>("type")?;
    let attribute = AttributeProto {
        r#type: number,
        ref_attr_name: object.field::<Plain, _>("ref")?,
        doc_string: object.field::<Plain, _>("doc_string")?,
        ..AttributeProto::default()
    };
    let Some(value) = object.take("value") else { return Ok(attribute) };
    match number.and_then(|number| AttributeType::try_from(number).ok()) {
        None | Some(AttributeType::Undefined) => Err(at.key("value").error("a value needs a known type")),
        Some(of) => with_value(attribute, of, value, &at.key("value")),
    }
}

/// The type that a value without one has.
fn plain_type(value: &Value, at: &At) -> Result<AttributeType> {
    let Value::Array(elements) = value else { return element_type(value, at) };
    let mut list = AttributeType::Int;
    for (idx, element) in elements.iter().enumerate() {
        let at = at.index(idx);
        let of = element_type(element, &at)?;
        match (list, of) {
            _ if idx == 0 => list = of,
            (AttributeType::Int, AttributeType::Float) => list = AttributeType::Float,
            (AttributeType::Float, AttributeType::Int) => (),
            _ if list == of => (),
            _ => return Err(at.expected(&format!("{} like before it", type_name(list)), element)),
        }
    }
    Ok(match list {
        AttributeType::Float => AttributeType::Floats,
        AttributeType::String => AttributeType::Strings,
        AttributeType::Tensor => AttributeType::Tensors,
        AttributeType::Graph => AttributeType::Graphs,
        _ => AttributeType::Ints,
    })
}

fn element_type(value: &Value, at: &At) -> Result<AttributeType> {
    match value {
        Value::Bool(_) => Ok(AttributeType::Int),
        Value::Number(number) if number.is_f64() => Ok(AttributeType::Float),
        Value::Number(_) => Ok(AttributeType::Int),
        Value::String(_) => Ok(AttributeType::String),
        Value::Object(map) if map.contains_key("base64") => Ok(AttributeType::String),
        Value::Object(map) if map.contains_key("dtype") => Ok(AttributeType::Tensor),
        Value::Object(map) if map.contains_key("nodes") => Ok(AttributeType::Graph),
        other => Err(at
            .expected("an attribute's value", other)
            .help("a number, a string, a list of them, a tensor (with \"dtype\"), a graph (with \"nodes\") or {\"type\", \"value\"}")),
    }
}

/// The attribute with a value of this type.
fn with_value(
    mut attribute: AttributeProto,
    of: AttributeType,
    value: Value,
    at: &At,
) -> Result<AttributeProto> {
    match of {
        AttributeType::Float => attribute.f = Some(Json::from_json(value, at)?),
        AttributeType::Int => attribute.i = Some(integer(value, at)?),
        AttributeType::String => attribute.s = Some(Json::from_json(value, at)?),
        AttributeType::Tensor => attribute.t = Some(Json::from_json(value, at)?),
        AttributeType::Graph => attribute.g = Some(Json::from_json(value, at)?),
        AttributeType::SparseTensor => attribute.sparse_tensor = Some(Json::from_json(value, at)?),
        AttributeType::TypeProto => attribute.tp = Some(Json::from_json(value, at)?),
        AttributeType::Floats => attribute.floats = list_from_json(value, at)?,
        AttributeType::Ints => attribute.ints = integers(value, at)?,
        AttributeType::Strings => attribute.strings = list_from_json(value, at)?,
        AttributeType::Tensors => attribute.tensors = list_from_json(value, at)?,
        AttributeType::Graphs => attribute.graphs = list_from_json(value, at)?,
        AttributeType::SparseTensors => attribute.sparse_tensors = list_from_json(value, at)?,
        AttributeType::TypeProtos => attribute.type_protos = list_from_json(value, at)?,
        AttributeType::Undefined => (),
    }
    Ok(attribute)
}

/// An integer; ONNX has no booleans among attributes, so `true` is 1.
fn integer(value: Value, at: &At) -> Result<i64> {
    match value {
        Value::Bool(flag) => Ok(i64::from(flag)),
        number => i64::from_json(number, at),
    }
}

fn integers(value: Value, at: &At) -> Result<Vec<i64>> {
    let Value::Array(elements) = value else { return Err(at.expected("list", &value)) };
    elements.into_iter().enumerate().map(|(idx, element)| integer(element, &at.index(idx))).collect()
}
