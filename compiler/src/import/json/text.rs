//! JSON text: a parser that refuses repeated keys, a printer that keeps short values on one line.

use std::fmt;
use std::io::{self, Write};

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use aic_ir::error::{Error, Result};

/// How wide a line may be before a list or object goes over several.
const WIDTH: usize = 110;
/// How deep lists and objects may nest: the limit of the parser, which has it to protect the stack.
const MAX_DEPTH: usize = 127;

/// The value of a JSON text, which may start with a byte order mark.
pub fn parse(text: &[u8]) -> Result<Value> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    serde_json::from_slice(text).map(|Unique(value)| value).map_err(|error| Error::new(error.to_string()))
}

/// A value whose objects have no repeated keys.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Unique)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> std::result::Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number is too large"))
    }

    fn visit_str<E>(self, value: &str) -> std::result::Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> std::result::Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(Unique(element)) = list.next_element()? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> std::result::Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = object.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format_args!("the key \"{key}\" is repeated")));
            }
            let Unique(value) = object.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Checks that [`parse`] can read what [`print`] would write.
pub fn check_depth(value: &Value) -> Result<()> {
    fn depth(value: &Value) -> usize {
        match value {
            Value::Array(elements) => 1 + elements.iter().map(depth).max().unwrap_or(0),
            Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
            _ => 0,
        }
    }
    let depth = depth(value);
    aic_ir::ensure!(depth <= MAX_DEPTH, "the graph nests {depth} levels deep; JSON holds {MAX_DEPTH}");
    Ok(())
}

/// Writes a value and a line end.
pub fn print(value: &Value, out: &mut impl Write) -> io::Result<()> {
    print_value(value, 0, 0, out)?;
    out.write_all(b"\n")
}

/// Writes a value whose line is indented by `indent` and already has `used` characters after that.
fn print_value(value: &Value, indent: usize, used: usize, out: &mut impl Write) -> io::Result<()> {
    let mut room = WIDTH.saturating_sub(indent + used + 1);
    if fits(value, &mut room) {
        return print_line(value, out);
    }
    match value {
        Value::Array(elements)
            if elements.iter().all(|element| !element.is_array() && !element.is_object()) =>
        {
            print_filled(elements, indent + 2, out)?;
            write!(out, "\n{:indent$}]", "")
        }
        Value::Array(elements) => {
            out.write_all(b"[")?;
            for (idx, element) in elements.iter().enumerate() {
                write!(out, "{}\n{:2$}", if idx > 0 { "," } else { "" }, "", indent + 2)?;
                print_value(element, indent + 2, 0, out)?;
            }
            write!(out, "\n{:indent$}]", "")
        }
        Value::Object(map) => {
            out.write_all(b"{")?;
            for (idx, (key, element)) in map.iter().enumerate() {
                write!(out, "{}\n{:2$}", if idx > 0 { "," } else { "" }, "", indent + 2)?;
                print_string(key, out)?;
                out.write_all(b": ")?;
                print_value(element, indent + 2, key.len() + 4, out)?;
            }
            write!(out, "\n{:indent$}}}", "")
        }
        scalar => print_line(scalar, out),
    }
}

/// Writes scalars, as many to a line as fit, without the closing bracket.
fn print_filled(elements: &[Value], indent: usize, out: &mut impl Write) -> io::Result<()> {
    let mut column = WIDTH;
    out.write_all(b"[")?;
    for (idx, element) in elements.iter().enumerate() {
        let mut text = Vec::new();
        print_line(element, &mut text)?;
        if idx > 0 {
            out.write_all(b",")?;
        }
        if column + text.len() + 2 > WIDTH {
            write!(out, "\n{:indent$}", "")?;
            column = indent;
        } else {
            out.write_all(b" ")?;
        }
        column += text.len() + 2;
        out.write_all(&text)?;
    }
    Ok(())
}

/// Writes a value on one line.
fn print_line(value: &Value, out: &mut impl Write) -> io::Result<()> {
    match value {
        Value::Array(elements) => {
            out.write_all(b"[")?;
            for (idx, element) in elements.iter().enumerate() {
                out.write_all(if idx > 0 { b", " } else { b"" })?;
                print_line(element, out)?;
            }
            out.write_all(b"]")
        }
        Value::Object(map) => {
            out.write_all(b"{")?;
            for (idx, (key, element)) in map.iter().enumerate() {
                out.write_all(if idx > 0 { b", " } else { b"" })?;
                print_string(key, out)?;
                out.write_all(b": ")?;
                print_line(element, out)?;
            }
            out.write_all(b"}")
        }
        Value::String(text) => print_string(text, out),
        scalar => write!(out, "{scalar}"),
    }
}

fn print_string(text: &str, out: &mut impl Write) -> io::Result<()> {
    serde_json::to_writer(out, text).map_err(io::Error::from)
}

/// Whether a value on one line takes about `room` characters at most; takes away what it does.
fn fits(value: &Value, room: &mut usize) -> bool {
    match value {
        Value::String(text) => take(text.len() + 2, room),
        Value::Number(number) => take(number.to_string().len(), room),
        Value::Null | Value::Bool(_) => take(5, room),
        Value::Array(elements) => {
            take(2, room) && elements.iter().all(|element| take(2, room) && fits(element, room))
        }
        Value::Object(map) => {
            take(2, room) && map.iter().all(|(key, element)| take(key.len() + 6, room) && fits(element, room))
        }
    }
}

fn take(count: usize, room: &mut usize) -> bool {
    *room = room.saturating_sub(count);
    *room > 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn printed(text: &str) -> String {
        let mut out = Vec::new();
        print(&parse(text.as_bytes()).unwrap(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn short_values_stay_on_a_line() {
        assert_eq!(printed(r#"{"a":[1,2.0,"x\n"],"b":{}}"#), "{\"a\": [1, 2.0, \"x\\n\"], \"b\": {}}\n");
        let long = format!(r#"{{"k": "{}", "list": [1, 2]}}"#, "x".repeat(120));
        assert_eq!(
            printed(&long),
            format!("{{\n  \"k\": \"{}\",\n  \"list\": [1, 2]\n}}\n", "x".repeat(120))
        );
    }

    #[test]
    fn long_lists_of_numbers_fill_lines() {
        let list: Vec<String> = (0..64).map(|i| format!("{i}.5")).collect();
        let text = printed(&format!("[{}]", list.join(",")));
        assert!(text.lines().all(|line| line.len() <= WIDTH) && text.lines().count() < 10, "{text}");
        assert_eq!(text.split_whitespace().collect::<String>(), format!("[{}]", list.join(",")));
    }

    #[test]
    fn repeated_keys_are_refused() {
        let error = parse(b"{\"a\": {\"b\": 1,\n \"b\": 2}}").unwrap_err();
        assert!(error.message.starts_with("the key \"b\" is repeated at line 2"), "{}", error.message);
    }

    #[test]
    fn depth_is_limited_alike_in_both_directions() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let deepest = parse(nested(MAX_DEPTH).as_bytes()).unwrap();
        check_depth(&deepest).unwrap();
        assert!(parse(nested(MAX_DEPTH + 1).as_bytes()).is_err());
        assert!(check_depth(&Value::Array(vec![deepest])).is_err());
        assert!(parse(nested(1_000_000).as_bytes()).is_err());
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        assert_eq!(parse(b"\xef\xbb\xbf[1]").unwrap(), serde_json::json!([1]));
        assert!(parse(b"").is_err());
        assert!(parse(b"[1] 2").is_err());
    }
}
