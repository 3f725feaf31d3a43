//! Tensors in JSON.
//!
//! `"data"` holds the elements as numbers and stands for `raw_data` (for strings, `string_data`); the other ways ONNX has
//! to hold elements keep their own names. Invariants: `"data"` is written only where reading it gives the same bytes;
//! more than [`MAX_INLINE`] numbers are written as base64 of their little-endian bytes.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::super::payload::{byte_count, element_count};
use super::super::proto::{DATA_DEFAULT, DATA_EXTERNAL, DataType, StringStringEntryProto, TensorProto};
use super::number::{FloatFormat, float_from_json, float_to_json};
use super::types::Dtypes;
use super::value::{
    Always, At, Codec, Entries, Json, Object, Plain, all_unique, base64_from_json, base64_to_json,
    list_from_json, list_to_json,
};
use aic_ir::error::Result;

/// Lists of numbers up to this length are written as numbers.
const MAX_INLINE: usize = 64;

const KEYS: [&str; 17] = [
    "name",
    "dtype",
    "shape",
    "data",
    "raw_data",
    "float_data",
    "int32_data",
    "int64_data",
    "double_data",
    "uint64_data",
    "string_data",
    "external",
    "external_data",
    "data_location",
    "segment",
    "doc_string",
    "metadata_props",
];

impl Json for TensorProto {
    fn to_json(&self) -> Value {
        let TensorProto {
            dims,
            data_type,
            segment,
            float_data,
            int32_data,
            string_data,
            int64_data,
            name,
            raw_data,
            double_data,
            doc_string,
            external_data,
            data_location,
            uint64_data,
            metadata_props,
        } = self;
        let inline = inline_data(self);
        let raw_as_data = inline.is_some() && raw_data.is_some();
        let strings_as_data = inline.is_some() && !raw_as_data;
        let external = external_to_json(external_data, *data_location);
        let verbatim = external.is_none();
        let location = data_location.filter(|_| verbatim).map(location_to_json);
        let fields = [
            ("name", Plain::put(name)),
            ("dtype", Dtypes::put(data_type)),
            ("shape", Always::put(dims)),
            ("data", inline),
            ("raw_data", raw_data.as_deref().filter(|_| !raw_as_data).map(base64_to_json)),
            ("float_data", Numbers::put(float_data)),
            ("int32_data", Numbers::put(int32_data)),
            ("int64_data", Numbers::put(int64_data)),
            ("double_data", Numbers::put(double_data)),
            ("uint64_data", Numbers::put(uint64_data)),
            ("string_data", if strings_as_data { None } else { Plain::put(string_data) }),
            ("external", external),
            ("external_data", if verbatim { Entries::put(external_data) } else { None }),
            ("data_location", location),
            ("segment", Plain::put(segment)),
            ("doc_string", Plain::put(doc_string)),
            ("metadata_props", Entries::put(metadata_props)),
        ];
        let present = fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(present.collect())
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        let mut object = Object::new(value, at, "tensor", &KEYS)?;
        let data_type: Option<i32> = object.field::<Dtypes, _>("dtype")?;
        let data = object.take("data");
        let dims = match (object.take("shape"), &data) {
            (Some(shape), _) => list_from_json(shape, &at.key("shape"))?,
            (None, Some(data)) => nesting(data),
            (None, None) => return Err(at.key("shape").error("this key is missing")),
        };
        let external = object.take("external");
        let mut tensor = TensorProto {
            name: object.field::<Plain, _>("name")?,
            data_type,
            dims,
            raw_data: object
                .take("raw_data")
                .map(|raw| base64_from_json(raw, &at.key("raw_data")))
                .transpose()?,
            float_data: object.field::<Numbers, _>("float_data")?,
            int32_data: object.field::<Numbers, _>("int32_data")?,
            int64_data: object.field::<Numbers, _>("int64_data")?,
            double_data: object.field::<Numbers, _>("double_data")?,
            uint64_data: object.field::<Numbers, _>("uint64_data")?,
            string_data: object.field::<Plain, _>("string_data")?,
            external_data: object.field::<Entries, _>("external_data")?,
            data_location: object.field::<Location, _>("data_location")?,
            segment: object.field::<Plain, _>("segment")?,
            doc_string: object.field::<Plain, _>("doc_string")?,
            metadata_props: object.field::<Entries, _>("metadata_props")?,
        };
        if let Some(data) = data {
            set_data(&mut tensor, data, at)?;
        }
        if let Some(external) = external {
            if !tensor.external_data.is_empty() || tensor.data_location.is_some() {
                return Err(
                    at.error("\"external\" replaces \"external_data\" and \"data_location\", found both")
                );
            }
            tensor.external_data = external_from_json(external, &at.key("external"))?;
            tensor.data_location = Some(DATA_EXTERNAL);
        }
        Ok(tensor)
    }
}

/// The dimensions that nested lists have, going by the first of each.
fn nesting(data: &Value) -> Vec<i64> {
    let mut dims = Vec::new();
    let mut data = data;
    while let Value::Array(elements) = data {
        dims.push(elements.len() as i64);
        let Some(first) = elements.first() else { break };
        data = first;
    }
    dims
}

/// The value of `"data"`, where it says the same as the message.
fn inline_data(tensor: &TensorProto) -> Option<Value> {
    let dtype = DataType::try_from(tensor.data_type?).ok()?;
    let count = element_count(&tensor.dims).ok()?;
    if dtype == DataType::String {
        let same = tensor.raw_data.is_none() && tensor.string_data.len() == count && count > 0;
        return same.then(|| list_to_json(&tensor.string_data));
    }
    let raw = tensor.raw_data.as_ref()?;
    let element = Element::of(dtype)?;
    if count > MAX_INLINE || byte_count(dtype, count).ok()? != raw.len() {
        return None;
    }
    let elements: Vec<Value> = (0..count).map(|idx| element.to_json(raw, idx)).collect();
    let again = element.pack(&elements, &[], &At::root()).ok()?;
    (again == *raw).then_some(Value::Array(elements))
}

/// Puts the elements in `"data"`, flat or nested, into the field they stand for.
fn set_data(tensor: &mut TensorProto, data: Value, at: &At) -> Result<()> {
    let at = at.key("data");
    let dtype = tensor.data_type.and_then(|number| DataType::try_from(number).ok());
    let known = dtype.and_then(|dtype| if dtype == DataType::String { None } else { Element::of(dtype) });
    let taken = if known.is_some() { tensor.raw_data.is_some() } else { !tensor.string_data.is_empty() };
    if taken {
        return Err(at.error("the elements are given twice"));
    }
    let count = element_count(&tensor.dims).map_err(|error| at.error(error.message))?;
    let shape = if nesting(&data).len() > 1 { &tensor.dims[..] } else { &[] };
    let elements = flatten(data, shape, &at)?;
    if elements.len() != count {
        let shape = &tensor.dims;
        return Err(
            at.error(format_args!("expected {count} elements for shape {shape:?}, found {}", elements.len()))
        );
    }
    match (dtype, known) {
        (Some(DataType::String), _) => tensor.string_data = list_from_json(Value::Array(elements), &at)?,
        (_, Some(element)) => tensor.raw_data = Some(element.pack(&elements, shape, &at)?),
        (dtype, None) => {
            let name = dtype.map_or("unknown", DataType::name);
            return Err(at
                .error(format_args!("elements of type {name} cannot be given one by one"))
                .help("give them as \"raw_data\" in base64"));
        }
    }
    Ok(())
}

/// The elements of lists nested as `shape` says; an empty `shape` is one list or one element.
fn flatten(data: Value, shape: &[i64], at: &At) -> Result<Vec<Value>> {
    let Value::Array(elements) = data else {
        return if shape.is_empty() { Ok(vec![data]) } else { Err(at.expected("list", &data)) };
    };
    let [length, inner @ ..] = shape else { return Ok(elements) };
    if elements.len() as i64 != *length {
        return Err(at.error(format_args!("expected a list of {length}, found one of {}", elements.len())));
    }
    if inner.is_empty() {
        return Ok(elements);
    }
    let nested = elements.into_iter().enumerate().map(|(idx, value)| flatten(value, inner, &at.index(idx)));
    Ok(nested.collect::<Result<Vec<_>>>()?.concat())
}

/// How elements of a type are written and packed.
#[derive(Clone, Copy)]
struct Element {
    kind: Kind,
    bits: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    Bool,
    Signed,
    Unsigned,
    Float(FloatFormat),
}

impl Element {
    /// The elements of a type that has a form in JSON.
    fn of(dtype: DataType) -> Option<Self> {
        use DataType::*;
        let kind = match dtype {
            Bool => Kind::Bool,
            Int2 | Int4 | Int8 | Int16 | Int32 | Int64 => Kind::Signed,
            Uint2 | Uint4 | Uint8 | Uint16 | Uint32 | Uint64 => Kind::Unsigned,
            Float16 => Kind::Float(FloatFormat::F16),
            Bfloat16 => Kind::Float(FloatFormat::Bf16),
            Float => Kind::Float(FloatFormat::F32),
            Double => Kind::Float(FloatFormat::F64),
            _ => return None,
        };
        Some(Element { kind, bits: dtype.bits()? })
    }

    /// The element at an index of packed bytes.
    fn to_json(self, packed: &[u8], idx: usize) -> Value {
        let bits = if self.bits < 8 {
            (u64::from(packed[idx * self.bits / 8]) >> (idx * self.bits % 8)) & ((1 << self.bits) - 1)
        } else {
            let width = self.bits / 8;
            packed[idx * width..][..width].iter().rev().fold(0, |bits, &byte| (bits << 8) | u64::from(byte))
        };
        match self.kind {
            Kind::Bool => Value::Bool(bits != 0),
            Kind::Signed => ((bits << (64 - self.bits)) as i64 >> (64 - self.bits)).to_json(),
            Kind::Unsigned => bits.to_json(),
            Kind::Float(format) => float_to_json(bits, format),
        }
    }

    /// The packed bytes of elements; those of a nested list, of this shape, are named by all their indices.
    fn pack(self, elements: &[Value], shape: &[i64], at: &At) -> Result<Bytes> {
        let mut packed = vec![0; (elements.len() * self.bits).div_ceil(8)];
        for (idx, element) in elements.iter().enumerate() {
            let bits = self.bits_at(element, idx, shape, at)?;
            let first = idx * self.bits / 8;
            if self.bits < 8 {
                packed[first] |= (bits << (idx * self.bits % 8)) as u8;
            } else {
                let width = self.bits / 8;
                packed[first..][..width].copy_from_slice(&bits.to_le_bytes()[..width]);
            }
        }
        Ok(packed.into())
    }

    /// The bits of one element, found at an index of the flattened list.
    fn bits_at(self, element: &Value, idx: usize, shape: &[i64], at: &At) -> Result<u64> {
        let [_, inner @ ..] = shape else { return self.to_bits(element, &at.index(idx)) };
        if inner.is_empty() {
            return self.to_bits(element, &at.index(idx));
        }
        let stride: usize = inner.iter().map(|&dim| dim as usize).product();
        self.bits_at(element, idx % stride, inner, &at.index(idx / stride))
    }

    fn to_bits(self, element: &Value, at: &At) -> Result<u64> {
        let out_of_range = || at.error(format_args!("{element} does not fit in {} bits", self.bits));
        match self.kind {
            Kind::Bool => match element {
                Value::Bool(value) => Ok(u64::from(*value)),
                Value::Number(number) if number.as_u64().is_some_and(|n| n <= 1) => {
                    Ok(number.as_u64().unwrap_or(0))
                }
                other => Err(at.expected("true or false", other)),
            },
            Kind::Signed => {
                let value = i64::from_json(element.clone(), at)?;
                let fits = value >> (self.bits - 1) == 0 || value >> (self.bits - 1) == -1;
                fits.then_some(value as u64 & (u64::MAX >> (64 - self.bits))).ok_or_else(out_of_range)
            }
            Kind::Unsigned => {
                let value = u64::from_json(element.clone(), at)?;
                (value <= u64::MAX >> (64 - self.bits)).then_some(value).ok_or_else(out_of_range)
            }
            Kind::Float(format) => float_from_json(element, format, at),
        }
    }
}

/// A list of numbers, as numbers if it is short, else as base64 of their little-endian bytes.
struct Numbers;

/// A number that a list in base64 may have.
trait Scalar: Json + Copy {
    const SIZE: usize;
    fn put_le(self, out: &mut Vec<u8>);
    /// The number in `SIZE` bytes.
    fn get_le(bytes: &[u8]) -> Self;
}

macro_rules! scalar {
    ($($type:ty),*) => {$(
        impl Scalar for $type {
            const SIZE: usize = size_of::<$type>();

            fn put_le(self, out: &mut Vec<u8>) {
                out.extend(self.to_le_bytes());
            }

            fn get_le(bytes: &[u8]) -> Self {
                let mut array = [0; size_of::<$type>()];
                array.copy_from_slice(bytes);
                <$type>::from_le_bytes(array)
            }
        }
    )*};
}
scalar!(f32, f64, i32, i64, u64);

impl<T: Scalar> Codec<Vec<T>> for Numbers {
    fn put(field: &Vec<T>) -> Option<Value> {
        if field.len() <= MAX_INLINE {
            return Plain::put(field);
        }
        let mut bytes = Vec::with_capacity(field.len() * T::SIZE);
        field.iter().for_each(|number| number.put_le(&mut bytes));
        Some(base64_to_json(&bytes))
    }

    fn take(value: Option<Value>, at: &At) -> Result<Vec<T>> {
        let Some(text @ Value::String(_)) = value else { return Plain::take(value, at) };
        let bytes = base64_from_json(text, at)?;
        if bytes.len() % T::SIZE != 0 {
            let size = T::SIZE;
            return Err(at.error(format_args!("expected a multiple of {size} bytes, found {}", bytes.len())));
        }
        Ok(bytes.chunks_exact(T::SIZE).map(T::get_le).collect())
    }
}

/// Where the elements are, other than what `"external"` says.
struct Location;

fn location_to_json(location: i32) -> Value {
    match location {
        DATA_DEFAULT => json!("default"),
        DATA_EXTERNAL => json!("external"),
        other => json!(other),
    }
}

impl Codec<Option<i32>> for Location {
    fn put(field: &Option<i32>) -> Option<Value> {
        field.map(location_to_json)
    }

    fn take(value: Option<Value>, at: &At) -> Result<Option<i32>> {
        match value.as_ref().and_then(Value::as_str) {
            Some("default") => Ok(Some(DATA_DEFAULT)),
            Some("external") => Ok(Some(DATA_EXTERNAL)),
            Some(_) => Err(at.expected("\"default\" or \"external\"", &value.unwrap_or_default())),
            None => Plain::take(value, at),
        }
    }
}

/// `{"location", "offset", "length", ...}` with numbers, if that says it all.
fn external_to_json(entries: &[StringStringEntryProto], location: Option<i32>) -> Option<Value> {
    let complete = entries.iter().all(|entry| entry.key.is_some() && entry.value.is_some());
    let unique = all_unique(entries.iter().map(StringStringEntryProto::key));
    let located = entries.iter().any(|entry| entry.key() == "location");
    if location != Some(DATA_EXTERNAL) || !complete || !unique || !located {
        return None;
    }
    let value = |entry: &StringStringEntryProto| {
        let number = entry.value().parse::<u64>().ok().filter(|number| number.to_string() == entry.value());
        let number = number.filter(|_| ["offset", "length"].contains(&entry.key()));
        (entry.key().to_owned(), number.map_or_else(|| json!(entry.value()), |number| number.to_json()))
    };
    Some(Value::Object(entries.iter().map(value).collect::<Map<_, _>>()))
}

fn external_from_json(value: Value, at: &At) -> Result<Vec<StringStringEntryProto>> {
    let Value::Object(map) = value else { return Err(at.expected("object with a \"location\"", &value)) };
    if !map.contains_key("location") {
        return Err(at.error("\"location\" is missing"));
    }
    let entry = |(key, value): (String, Value)| {
        let value = match value {
            Value::Number(number) if ["offset", "length"].contains(&key.as_str()) && number.is_u64() => {
                number.to_string()
            }
            other => String::from_json(other, &at.key(&key))?,
        };
        Ok(StringStringEntryProto { key: Some(key), value: Some(value) })
    };
    map.into_iter().map(entry).collect()
}
