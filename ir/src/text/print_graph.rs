//! Prints graphs.
//!
//! Values are numbered densely in the order of printing: inputs, then results. Constants of many elements are
//! printed as a hash of their contents, which a parser's caller resolves.

use super::lex::{Name, Quote};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::{Graph, Node, Port, ValueId};
use crate::op::{AttrValue, Op};
use crate::scalar::Scalar;
use crate::tensor::{Tensor, write_scalar};
use crate::types::Type;
use bytes::Bytes;
use std::collections::HashMap;
use std::fmt::{Display, Formatter, Result, Write};

/// Constants of more elements than this are printed as hashes.
pub const INLINE_ELEMENTS: usize = 64;

impl Display for Graph {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        graph(f, self, 0)?;
        f.write_char('\n')
    }
}

impl Display for AttrValue {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        attr(f, self, 0)
    }
}

/// The hash by which a large constant is printed: 16 hexadecimal digits, of element type, extents and elements.
pub fn content_hash(t: &Tensor) -> String {
    let header = t.dtype().keyword().bytes().chain(t.shape().iter().flat_map(|d| d.to_le_bytes()));
    let header: Vec<u8> = header.collect();
    let mut hash = 0x9E37_79B9_7F4A_7C15;
    for part in [&header[..], t.bytes()] {
        for chunk in part.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            hash = mix(hash ^ u64::from_le_bytes(word));
        }
        hash = mix(hash ^ part.len() as u64);
    }
    format!("{hash:016x}")
}

/// A bijection that spreads every bit (the finaliser of SplitMix64: Steele, Lea, Flood, OOPSLA 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The contents of every constant that is printed as a hash, bodies included.
pub fn large_constants(g: &Graph) -> HashMap<String, Bytes> {
    let mut found = HashMap::new();
    for (_, n) in g.nodes() {
        for (_, value) in n.op.attrs() {
            match value {
                AttrValue::Tensor(t) if t.len() > INLINE_ELEMENTS => {
                    found.insert(content_hash(&t), t.bytes().clone());
                }
                AttrValue::Graph(body) => found.extend(large_constants(&body)),
                _ => {}
            }
        }
    }
    found
}

/// The names that values are printed by.
struct Names(Vec<usize>);

impl Names {
    fn of(g: &Graph) -> Names {
        let mut names = vec![0; g.n_values()];
        let results = g.nodes().flat_map(|(_, n)| &n.outputs);
        for (k, v) in g.inputs.iter().map(|p| &p.value).chain(results).enumerate() {
            names[v.index()] = k;
        }
        Names(names)
    }

    fn get(&self, v: ValueId) -> String {
        format!("%{}", self.0.get(v.index()).copied().unwrap_or(v.index()))
    }

    fn list(&self, values: &[ValueId]) -> String {
        values.iter().map(|v| self.get(*v)).collect::<Vec<_>>().join(", ")
    }
}

fn graph(f: &mut Formatter<'_>, g: &Graph, depth: usize) -> Result {
    let names = Names::of(g);
    f.write_str("graph")?;
    if !g.name.is_empty() {
        write!(f, " @{}", Name(&g.name, '"'))?;
    }
    write!(f, "({}) -> ({}) ", ports(g, &g.inputs, &names), ports(g, &g.outputs, &names))?;
    if !g.requires.is_empty() {
        let requires: Vec<String> = g.requires.iter().map(Dim::to_string).collect();
        write!(f, "requires({}) ", requires.join(", "))?;
    }
    f.write_str("{\n")?;
    for (_, n) in g.nodes() {
        indent(f, depth + 1)?;
        node(f, g, n, &names, depth + 1)?;
    }
    indent(f, depth + 1)?;
    let outputs: Vec<ValueId> = g.outputs.iter().map(|p| p.value).collect();
    match outputs.is_empty() {
        true => f.write_str("return\n")?,
        false => writeln!(f, "return {}", names.list(&outputs))?,
    }
    indent(f, depth)?;
    f.write_char('}')
}

fn indent(f: &mut Formatter<'_>, depth: usize) -> Result {
    write!(f, "{:1$}", "", 2 * depth)
}

fn ports(g: &Graph, ports: &[Port], names: &Names) -> String {
    let port = |p: &Port| match p.name.is_empty() {
        true => format!("{}: {}", names.get(p.value), g.ty(p.value)),
        false => format!("{} {}: {}", names.get(p.value), Quote(&p.name, '"'), g.ty(p.value)),
    };
    ports.iter().map(port).collect::<Vec<_>>().join(", ")
}

fn node(f: &mut Formatter<'_>, g: &Graph, n: &Node, names: &Names, depth: usize) -> Result {
    if !n.outputs.is_empty() {
        write!(f, "{} = ", names.list(&n.outputs))?;
    }
    f.write_str(n.op.keyword())?;
    for v in &n.inputs {
        write!(f, " {}", names.get(*v))?;
    }
    let types: Vec<&Type> = n.outputs.iter().map(|v| g.ty(*v)).collect();
    if let Op::Const(c) = &n.op {
        f.write_char(' ')?;
        tensor(f, &c.value)?;
        if types != [&Type::of(c.value.dtype(), c.value.shape())] {
            write!(f, " : {}", list(&types))?;
        }
    } else {
        attrs(f, &n.op.attrs(), depth)?;
        if !types.is_empty() {
            write!(f, " : {}", list(&types))?;
        }
    }
    if !n.origin.is_empty() {
        let origin: Vec<Quote<'_>> = n.origin.iter().map(|name| Quote(name, '"')).collect();
        write!(f, " loc({})", list(&origin))?;
    }
    f.write_char('\n')
}

fn list(items: &[impl Display]) -> String {
    items.iter().map(|i| i.to_string()).collect::<Vec<_>>().join(", ")
}

fn attrs(f: &mut Formatter<'_>, attrs: &[(&str, AttrValue)], depth: usize) -> Result {
    for (k, (name, value)) in attrs.iter().enumerate() {
        write!(f, "{}{name}=", if k == 0 { " {" } else { ", " })?;
        attr(f, value, depth)?;
    }
    f.write_str(if attrs.is_empty() { "" } else { "}" })
}

fn attr(f: &mut Formatter<'_>, value: &AttrValue, depth: usize) -> Result {
    match value {
        AttrValue::Dim(d) => write!(f, "{d}"),
        AttrValue::Float(x) => write!(f, "{}", Scalar::F(*x)),
        AttrValue::Bool(b) => write!(f, "{b}"),
        AttrValue::Str(s) => write!(f, "{}", Quote(s, '"')),
        AttrValue::Word(w) => f.write_str(w),
        AttrValue::List(items) => {
            f.write_char('[')?;
            for (k, item) in items.iter().enumerate() {
                f.write_str(if k == 0 { "" } else { "," })?;
                attr(f, item, depth)?;
            }
            f.write_char(']')
        }
        AttrValue::Tensor(t) => tensor(f, t),
        AttrValue::Graph(g) => graph(f, g, depth),
    }
}

/// `f32[2] [1.0, 2.0]`, `f32[64,64] #0123456789abcdef`
fn tensor(f: &mut Formatter<'_>, t: &Tensor) -> Result {
    write!(f, "{} ", Type::of(t.dtype(), t.shape()))?;
    if t.len() > INLINE_ELEMENTS {
        return write!(f, "#{}", content_hash(t));
    }
    f.write_char('[')?;
    for (k, x) in t.scalars().enumerate() {
        f.write_str(if k == 0 { "" } else { ", " })?;
        let size = t.dtype().size();
        element(f, t.dtype(), x, &t.bytes()[k * size..(k + 1) * size])?;
    }
    f.write_char(']')
}

/// An element's value; a NaN that isn't the usual one is printed by its bits.
pub(super) fn element(f: &mut Formatter<'_>, dtype: DType, x: Scalar, bytes: &[u8]) -> Result {
    let Scalar::F(value) = x else { return write!(f, "{x}") };
    if value.is_nan() {
        let mut usual = Vec::new();
        write_scalar(dtype, Scalar::F(f64::NAN), &mut usual);
        if usual != bytes {
            let digits: String = bytes.iter().rev().map(|b| format!("{b:02x}")).collect();
            return write!(f, "nan(0x{digits})");
        }
    }
    float(f, dtype, value)
}

/// The shortest text that reads back as the same value of the type.
fn float(f: &mut Formatter<'_>, dtype: DType, value: f64) -> Result {
    let single = value as f32;
    if dtype == DType::F64 || !single.is_finite() || single.fract() == 0.0 {
        write!(f, "{}", Scalar::F(value))
    } else if (1e-4..1e15).contains(&single.abs()) {
        write!(f, "{single}")
    } else {
        write!(f, "{single:e}")
    }
}
