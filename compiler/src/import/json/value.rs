//! How messages map to JSON: places in a document, codecs of fields, and the table that makes an object of a message.
//!
//! Invariant: an absent key is an absent field or an empty list, unless the field's codec says otherwise.

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::super::proto::{OperatorSetIdProto, StringStringEntryProto};
use aic_ir::error::{Error, Result};

/// A place in a document, for messages: a list of steps that lives on the stack.
pub struct At<'a> {
    parent: Option<&'a At<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

impl<'a> At<'a> {
    /// The document itself.
    pub fn root() -> Self {
        At { parent: None, step: Step::Key("") }
    }

    /// The value of a key of the object at this place.
    pub fn key(&'a self, key: &'a str) -> At<'a> {
        At { parent: Some(self), step: Step::Key(key) }
    }

    /// An element of the list at this place.
    pub fn index(&'a self, idx: usize) -> At<'a> {
        At { parent: Some(self), step: Step::Index(idx) }
    }

    /// An error about this place, like `graph.nodes[3].attributes.axis: expected integer, found string`.
    pub fn error(&self, message: impl std::fmt::Display) -> Error {
        let path = self.to_string();
        Error::new(if path.is_empty() { message.to_string() } else { format!("{path}: {message}") })
    }

    /// The error that something else stands at this place.
    pub fn expected(&self, what: &str, found: &Value) -> Error {
        self.error(format_args!("expected {what}, found {}", describe(found)))
    }
}

impl std::fmt::Display for At<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(parent) = self.parent else { return Ok(()) };
        parent.fmt(f)?;
        match self.step {
            Step::Key(key) if parent.parent.is_none() => f.write_str(key),
            Step::Key(key) => write!(f, ".{key}"),
            Step::Index(idx) => write!(f, "[{idx}]"),
        }
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => format!("boolean {value}"),
        Value::Number(number) if number.is_f64() => format!("number {number}"),
        Value::Number(number) => format!("integer {number}"),
        Value::String(text) if text.chars().count() <= 40 => format!("string {text:?}"),
        Value::String(_) => "string".to_owned(),
        Value::Array(_) => "list".to_owned(),
        Value::Object(_) => "object".to_owned(),
    }
}

/// A message, or part of one, that has a JSON form of its own.
pub trait Json: Sized {
    /// The JSON form.
    fn to_json(&self) -> Value;
    /// The message of a JSON form; `at` is where it stands.
    fn from_json(value: Value, at: &At) -> Result<Self>;
}

/// How a field of a message stands under its key. `None` is an absent key.
pub trait Codec<F> {
    /// The value of the key.
    fn put(field: &F) -> Option<Value>;
    /// The field for what the key holds.
    fn take(value: Option<Value>, at: &At) -> Result<F>;
}

/// An absent key is an absent field or an empty list.
pub struct Plain;

impl<T: Json> Codec<Option<T>> for Plain {
    fn put(field: &Option<T>) -> Option<Value> {
        field.as_ref().map(T::to_json)
    }

    fn take(value: Option<Value>, at: &At) -> Result<Option<T>> {
        value.map(|value| T::from_json(value, at)).transpose()
    }
}

impl<T: Json> Codec<Vec<T>> for Plain {
    fn put(field: &Vec<T>) -> Option<Value> {
        Some(field).filter(|list| !list.is_empty()).map(|list| list_to_json(list))
    }

    fn take(value: Option<Value>, at: &At) -> Result<Vec<T>> {
        value.map_or(Ok(Vec::new()), |value| list_from_json(value, at))
    }
}

/// A key that must be there; `null` is an absent field.
pub struct Required;

impl<T: Json> Codec<Option<T>> for Required {
    fn put(field: &Option<T>) -> Option<Value> {
        Some(Plain::put(field).unwrap_or_default())
    }

    fn take(value: Option<Value>, at: &At) -> Result<Option<T>> {
        let value = value.ok_or_else(|| at.error("this key is missing"))?;
        Plain::take(Some(value).filter(|value| !value.is_null()), at)
    }
}

/// A list that is written even if it is empty.
pub struct Always;

impl<T: Json> Codec<Vec<T>> for Always {
    fn put(field: &Vec<T>) -> Option<Value> {
        Some(list_to_json(field))
    }

    fn take(value: Option<Value>, at: &At) -> Result<Vec<T>> {
        Plain::take(value, at)
    }
}

/// Keys and values: an object if that says it all, else a list of `{"key", "value"}`.
pub struct Entries;

impl Codec<Vec<StringStringEntryProto>> for Entries {
    fn put(field: &Vec<StringStringEntryProto>) -> Option<Value> {
        let pair = |entry: &StringStringEntryProto| Some((entry.key.clone()?, json!(entry.value.as_ref()?)));
        if field.is_empty() {
            return None;
        }
        Some(unique_pairs(field.iter().map(pair)).unwrap_or_else(|| list_to_json(field)))
    }

    fn take(value: Option<Value>, at: &At) -> Result<Vec<StringStringEntryProto>> {
        let Some(Value::Object(map)) = value else { return Plain::take(value, at) };
        let entry = |(key, value): (String, Value)| {
            let value = Some(String::from_json(value, &at.key(&key))?);
            Ok(StringStringEntryProto { key: Some(key), value })
        };
        map.into_iter().map(entry).collect()
    }
}

/// Operator set versions: an object from domain to version if that says it all, else a list of `{"domain",
/// "version"}`. A number alone is the version of the default domain.
pub struct Opset;

impl Codec<Vec<OperatorSetIdProto>> for Opset {
    fn put(field: &Vec<OperatorSetIdProto>) -> Option<Value> {
        let pair = |id: &OperatorSetIdProto| Some((id.domain.clone()?, id.version?.to_json()));
        Some(if field.is_empty() { None } else { unique_pairs(field.iter().map(pair)) })
            .map(|pairs| pairs.unwrap_or_else(|| list_to_json(field)))
    }

    fn take(value: Option<Value>, at: &At) -> Result<Vec<OperatorSetIdProto>> {
        let id = |domain: String, version: Value, at: &At| {
            Ok(OperatorSetIdProto { version: Some(i64::from_json(version, at)?), domain: Some(domain) })
        };
        match value {
            Some(number @ Value::Number(_)) => Ok(vec![id(String::new(), number, at)?]),
            Some(Value::Object(map)) => map
                .into_iter()
                .map(|(domain, version)| id(domain.clone(), version, &at.key(&domain)))
                .collect(),
            other => Plain::take(other, at),
        }
    }
}

/// An object of these pairs, unless one is `None` or a key repeats.
fn unique_pairs(pairs: impl Iterator<Item = Option<(String, Value)>>) -> Option<Value> {
    let mut map = Map::new();
    for pair in pairs {
        let (key, value) = pair?;
        if map.insert(key, value).is_some() {
            return None;
        }
    }
    Some(Value::Object(map))
}

json_object! { StringStringEntryProto: "entry" {
    "key" = key: Plain;
    "value" = value: Plain;
} }

json_object! { OperatorSetIdProto: "operator set" {
    "domain" = domain: Plain;
    "version" = version: Plain;
} }

pub fn list_to_json<T: Json>(list: &[T]) -> Value {
    list.iter().map(T::to_json).collect()
}

pub fn list_from_json<T: Json>(value: Value, at: &At) -> Result<Vec<T>> {
    let Value::Array(elements) = value else { return Err(at.expected("list", &value)) };
    elements.into_iter().enumerate().map(|(idx, element)| T::from_json(element, &at.index(idx))).collect()
}

impl Json for String {
    fn to_json(&self) -> Value {
        json!(self)
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        match value {
            Value::String(text) => Ok(text),
            other => Err(at.expected("string", &other)),
        }
    }
}

/// Bytes that are mostly text: a string, or `{"base64": "..."}` if they aren't UTF-8.
impl Json for Bytes {
    fn to_json(&self) -> Value {
        std::str::from_utf8(self)
            .map_or_else(|_| json!({ "base64": STANDARD.encode(self) }), |text| json!(text))
    }

    fn from_json(value: Value, at: &At) -> Result<Self> {
        match value {
            Value::String(text) => Ok(text.into()),
            Value::Object(_) => {
                let mut object = Object::new(value, at, "bytes", &["base64"])?;
                object.field::<Required, _>("base64").and_then(|text: Option<String>| {
                    base64_from_json(text.map_or(Value::Null, Value::String), &at.key("base64"))
                })
            }
            other => Err(at.expected("string", &other)),
        }
    }
}

/// Bytes as base64 text.
pub fn base64_to_json(bytes: &[u8]) -> Value {
    Value::String(STANDARD.encode(bytes))
}

/// Bytes of a base64 text.
pub fn base64_from_json(value: Value, at: &At) -> Result<Bytes> {
    let Value::String(text) = value else { return Err(at.expected("base64 string", &value)) };
    STANDARD.decode(text).map(Bytes::from).map_err(|error| at.error(format_args!("wrong base64: {error}")))
}

/// An object while it is taken apart.
pub struct Object<'a> {
    map: Map<String, Value>,
    at: &'a At<'a>,
}

impl<'a> Object<'a> {
    /// The object `value`, a `what`, which has no other keys than these.
    pub fn new(value: Value, at: &'a At<'a>, what: &str, keys: &[&str]) -> Result<Self> {
        let Value::Object(map) = value else { return Err(at.expected(&format!("object ({what})"), &value)) };
        if let Some(key) = map.keys().find(|key| !keys.contains(&key.as_str())) {
            let message = format_args!("unknown key \"{key}\" in a {what}{}", did_you_mean(key, keys));
            return Err(at.error(message).help(format!("the keys of a {what} are {}", keys.join(", "))));
        }
        Ok(Object { map, at })
    }

    /// Gives a key its value if it is absent.
    pub fn default(&mut self, key: &str, value: Value) {
        self.map.entry(key).or_insert(value);
    }

    /// Whether a key is there.
    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    /// Takes out the value of a key.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.remove(key)
    }

    /// Takes out the value of a key as a field.
    pub fn field<C: Codec<F>, F>(&mut self, key: &str) -> Result<F> {
        C::take(self.map.remove(key), &self.at.key(key))
    }
}

/// `; did you mean "..."?`, or nothing if no known word is close.
pub fn did_you_mean(word: &str, known: &[&str]) -> String {
    let closeness = |candidate: &str| strsim::jaro_winkler(&word.to_lowercase(), candidate);
    let closest = known.iter().map(|&name| (closeness(name), name)).max_by(|a, b| a.0.total_cmp(&b.0));
    let close = closest.filter(|(closeness, _)| *closeness > 0.75);
    close.map_or(String::new(), |(_, name)| format!("; did you mean \"{name}\"?"))
}

/// Whether no two of these are equal.
pub fn all_unique<'a>(names: impl Iterator<Item = &'a str>) -> bool {
    let mut seen = HashSet::new();
    names.into_iter().all(|name| seen.insert(name))
}

/// Implements [`Json`] for a message from a table of its keys, fields and their codecs. A field with a default takes
/// it where the key is absent; its codec then writes the key always.
macro_rules! json_object {
    ($type:ident: $what:literal { $($key:literal = $field:ident: $codec:ty $(, default $default:expr)?;)* }) => {
        impl $crate::import::json::value::Json for $type {
            fn to_json(&self) -> serde_json::Value {
                let mut map = serde_json::Map::new();
                $(if let Some(value) = <$codec as $crate::import::json::value::Codec<_>>::put(&self.$field) {
                    map.insert($key.to_owned(), value);
                })*
                serde_json::Value::Object(map)
            }

            fn from_json(value: serde_json::Value, at: &$crate::import::json::value::At) -> aic_ir::error::Result<Self> {
                let mut object = $crate::import::json::value::Object::new(value, at, $what, &[$($key),*])?;
                $($(object.default($key, $default);)?)*
                Ok(Self { $($field: object.field::<$codec, _>($key)?),* })
            }
        }
    };
}
pub(super) use json_object;
