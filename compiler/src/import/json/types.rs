//! Types of values in JSON: `{"dtype": "float32", "shape": ["batch", 3]}` and the rarer kinds.

use serde_json::{Map, Value, json};

use super::super::proto::*;
use super::number::is_exact;
use super::value::{At, Codec, Entries, Json, Object, Plain, Required, did_you_mean};
use aic_ir::error::Result;

const TYPE_KEYS: [&str; 9] =
    ["dtype", "shape", "sparse", "sequence", "map", "optional", "opaque", "untyped", "denotation"];

/// Element types, by name; by number if they have none; `null` if they are absent.
pub struct Dtypes;

impl Codec<Option<i32>> for Dtypes {
    fn put(field: &Option<i32>) -> Option<Value> {
        let name =
            |number: i32| DataType::try_from(number).map_or(json!(number), |dtype| json!(dtype.name()));
        Some(field.map_or(Value::Null, name))
    }

    fn take(value: Option<Value>, at: &At) -> Result<Option<i32>> {
        match value {
            None => Err(at.error("this key is missing")),
            Some(Value::Null) => Ok(None),
            Some(Value::String(name)) => dtype_number(&name, at).map(Some),
            Some(number) => i32::from_json(number, at).map(Some),
        }
    }
}

/// The number of an element type, from its name here, in ONNX (`DOUBLE`) or in short (`f64`).
fn dtype_number(name: &str, at: &At) -> Result<i32> {
    let lower = name.to_lowercase();
    let (word, width) = lower.split_at(lower.find(|c: char| c.is_ascii_digit()).unwrap_or(lower.len()));
    let long = match (word, width) {
        ("float", "") => "float32".to_owned(),
        ("double", "") => "float64".to_owned(),
        ("f", _) => format!("float{width}"),
        ("bf", _) => format!("bfloat{width}"),
        ("i", _) => format!("int{width}"),
        ("u", _) => format!("uint{width}"),
        _ => lower,
    };
    let found = DataType::ALL.iter().find(|(_, known, _)| *known == long);
    found.map(|(dtype, ..)| *dtype as i32).ok_or_else(|| {
        let names = DataType::ALL.map(|(_, name, _)| name);
        at.error(format_args!("unknown dtype \"{name}\"{}", did_you_mean(name, &names)))
            .help(format!("the dtypes are {}", names[1..].join(", ")))
    })
}

impl Json for TypeProto {
    fn to_json(&self) -> Value {
        let mut map = Map::new();
        put_type(self, &mut map);
        Value::Object(map)
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        take_type(&mut Object::new(value, at, "type", &TYPE_KEYS)?, at)
    }
}

fn put_type(of: &TypeProto, map: &mut Map<String, Value>) {
    let TypeProto { value, denotation } = of;
    let (key, inner) = match value {
        Some(TypeValue::Tensor(tensor)) => {
            let Value::Object(fields) = tensor.to_json() else { return };
            map.extend(fields);
            map.extend(denotation.iter().map(|text| ("denotation".to_owned(), json!(text))));
            return;
        }
        Some(TypeValue::SparseTensor(tensor)) => ("sparse", Some(tensor.to_json())),
        Some(TypeValue::Sequence(of)) => ("sequence", Required::put(&of.elem_type)),
        Some(TypeValue::Optional(of)) => ("optional", Required::put(&of.elem_type)),
        Some(TypeValue::Map(of)) => ("map", Some(of.to_json())),
        Some(TypeValue::Opaque(of)) => ("opaque", Some(of.to_json())),
        None => ("untyped", Some(Value::Bool(true))),
    };
    map.extend(inner.map(|inner| (key.to_owned(), inner)));
    map.extend(denotation.iter().map(|text| ("denotation".to_owned(), json!(text))));
}

/// The type that the type keys of an object make; exactly one kind must be there.
fn take_type(object: &mut Object, at: &At) -> Result<TypeProto> {
    let kinds: Vec<&str> = ["dtype", "sparse", "sequence", "map", "optional", "opaque", "untyped"]
        .into_iter()
        .filter(|kind| object.has(kind))
        .collect();
    if object.has("shape") && !object.has("dtype") {
        return Err(at.error("expected a \"dtype\" beside \"shape\""));
    }
    let &[kind] = kinds.as_slice() else {
        let found = if kinds.is_empty() { "none".to_owned() } else { kinds.join(" and ") };
        return Err(
            at.error(format_args!("expected one kind of type (\"dtype\" for a tensor), found {found}"))
        );
    };
    let elem_type = |object: &mut Object| object.field::<Required, Option<Box<TypeProto>>>(kind);
    let value = match kind {
        "dtype" => Some(TypeValue::Tensor(TensorType {
            elem_type: object.field::<Dtypes, _>("dtype")?,
            shape: object.field::<Plain, _>("shape")?,
        })),
        "sparse" => object.field::<Plain, Option<_>>(kind)?.map(TypeValue::SparseTensor),
        "sequence" => Some(TypeValue::Sequence(Box::new(SequenceType { elem_type: elem_type(object)? }))),
        "optional" => Some(TypeValue::Optional(Box::new(OptionalType { elem_type: elem_type(object)? }))),
        "map" => object.field::<Plain, Option<_>>(kind)?.map(TypeValue::Map),
        "opaque" => object.field::<Plain, Option<_>>(kind)?.map(TypeValue::Opaque),
        _ => match object.take(kind) {
            Some(Value::Bool(true)) | None => None,
            Some(other) => return Err(at.key(kind).expected("true", &other)),
        },
    };
    Ok(TypeProto { value, denotation: object.field::<Plain, _>("denotation")? })
}

/// A value's type stands among its other keys; a string alone is a value without a type.
impl Json for ValueInfoProto {
    fn to_json(&self) -> Value {
        let ValueInfoProto { name, r#type, doc_string, metadata_props } = self;
        let mut map = Map::new();
        map.extend(Plain::put(name).map(|name| ("name".to_owned(), name)));
        if let Some(of) = r#type {
            put_type(of, &mut map);
        }
        map.extend(Plain::put(doc_string).map(|text| ("doc_string".to_owned(), text)));
        map.extend(Entries::put(metadata_props).map(|entries| ("metadata_props".to_owned(), entries)));
        Value::Object(map)
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        if let Value::String(name) = value {
            return Ok(ValueInfoProto { name: Some(name), ..ValueInfoProto::default() });
        }
        let keys = [&["name", "doc_string", "metadata_props"][..], &TYPE_KEYS].concat();
        let mut object = Object::new(value, at, "value", &keys)?;
        let typed = TYPE_KEYS.iter().any(|key| object.has(key));
        Ok(ValueInfoProto {
            name: object.field::<Plain, _>("name")?,
            doc_string: object.field::<Plain, _>("doc_string")?,
            metadata_props: object.field::<Entries, _>("metadata_props")?,
            r#type: if typed { Some(take_type(&mut object, at)?) } else { None },
        })
    }
}

impl Json for TensorShapeProto {
    fn to_json(&self) -> Value {
        super::value::list_to_json(&self.dim)
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        Ok(TensorShapeProto { dim: super::value::list_from_json(value, at)? })
    }
}

/// An integer, a symbol's name, or `null` for unknown; with a denotation an object.
impl Json for Dimension {
    fn to_json(&self) -> Value {
        let Dimension { value, denotation } = self;
        match (value, denotation) {
            (None, None) => Value::Null,
            (Some(DimValue::DimValue(number)), None) if is_exact(*number) => json!(number),
            (Some(DimValue::DimParam(symbol)), None) => json!(symbol),
            _ => {
                let mut map = Map::new();
                map.extend(dim_value_to_json(value));
                map.extend(denotation.iter().map(|text| ("denotation".to_owned(), json!(text))));
                Value::Object(map)
            }
        }
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        match value {
            Value::Null => Ok(Dimension::default()),
            Value::String(symbol) => {
                Ok(Dimension { value: Some(DimValue::DimParam(symbol)), denotation: None })
            }
            Value::Object(_) => {
                let mut object =
                    Object::new(value, at, "dimension", &["dim_value", "dim_param", "denotation"])?;
                let denotation = object.field::<Plain, _>("denotation")?;
                Ok(Dimension { value: dim_value_from_json(&mut object, at)?, denotation })
            }
            Value::Number(_) => {
                let value = Some(DimValue::DimValue(i64::from_json(value, at)?));
                Ok(Dimension { value, denotation: None })
            }
            other => Err(at.expected("integer, symbol or null", &other)),
        }
    }
}

impl Json for SimpleShardedDimProto {
    fn to_json(&self) -> Value {
        let SimpleShardedDimProto { dim, num_shards } = self;
        let shards = Plain::put(num_shards).map(|shards| ("num_shards".to_owned(), shards));
        Value::Object(dim_value_to_json(dim).into_iter().chain(shards).collect())
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        let mut object = Object::new(value, at, "sharding", &["dim_value", "dim_param", "num_shards"])?;
        let num_shards = object.field::<Plain, _>("num_shards")?;
        Ok(SimpleShardedDimProto { dim: dim_value_from_json(&mut object, at)?, num_shards })
    }
}

fn dim_value_to_json(value: &Option<DimValue>) -> Option<(String, Value)> {
    match value {
        None => None,
        Some(DimValue::DimValue(number)) => Some(("dim_value".to_owned(), number.to_json())),
        Some(DimValue::DimParam(symbol)) => Some(("dim_param".to_owned(), json!(symbol))),
    }
}

fn dim_value_from_json(object: &mut Object, at: &At) -> Result<Option<DimValue>> {
    match (object.field::<Plain, _>("dim_value")?, object.field::<Plain, _>("dim_param")?) {
        (Some(_), Some(_)) => Err(at.error("expected either \"dim_value\" or \"dim_param\", found both")),
        (number, symbol) => Ok(number.map(DimValue::DimValue).or(symbol.map(DimValue::DimParam))),
    }
}
