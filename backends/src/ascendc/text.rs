//! How the loop IR's indices, types and numbers look in C++.

use aic_ir::bail;
use aic_ir::dim::{Atom, Dim, Range, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::scalar::Scalar;
use std::collections::HashMap;

/// Lines of C++, indented by their blocks.
#[derive(Default)]
pub(super) struct Text {
    pub lines: String,
    depth: usize,
}

impl Text {
    pub fn new(depth: usize) -> Text {
        Text { lines: String::new(), depth }
    }

    pub fn line(&mut self, line: impl AsRef<str>) {
        self.lines.push_str(&"    ".repeat(self.depth));
        self.lines.push_str(line.as_ref());
        self.lines.push('\n');
    }

    pub fn open(&mut self, line: impl AsRef<str>) {
        self.line(line);
        self.depth += 1;
    }

    pub fn close(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.line("}");
    }

    pub fn other(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        self.open("} else {");
    }
}

/// The element type of a tensor.
pub(super) fn ctype(t: DType) -> Result<&'static str> {
    Ok(match t {
        DType::F32 => "float",
        DType::F16 => "half",
        DType::BF16 => "bfloat16_t",
        DType::I8 => "int8_t",
        DType::U8 | DType::Bool => "uint8_t",
        DType::I16 => "int16_t",
        DType::U16 => "uint16_t",
        DType::I32 => "int32_t",
        DType::U32 => "uint32_t",
        DType::I64 => "int64_t",
        DType::U64 => "uint64_t",
        DType::F64 | DType::String => bail!("the 910B has no elements of {t}"),
    })
}

/// A float with its type.
pub(super) fn float(x: f64) -> String {
    match x as f32 {
        f if f.is_nan() => "__builtin_nanf(\"\")".into(),
        f if f == f32::INFINITY => "__builtin_inff()".into(),
        f if f == f32::NEG_INFINITY => "-__builtin_inff()".into(),
        f => format!("{f:?}f"),
    }
}

/// A constant of an element type.
pub(super) fn constant(t: DType, s: Scalar) -> Result<String> {
    Ok(match t {
        DType::F32 => float(s.as_f64()),
        DType::F16 | DType::BF16 => format!("({}){}", ctype(t)?, float(s.as_f64())),
        _ => format!("({}){}", ctype(t)?, s.as_i64()),
    })
}

/// What is known of the symbols of indices.
pub(super) type Ranges = HashMap<Sym, Range>;

/// An index expression. Divisions round down; helpers are needed where operands may be negative.
pub(super) fn index(d: &Dim, ranges: &Ranges) -> String {
    sum(d, ranges, &|_| true)
}

/// An index expression without the terms that choose one of a number of buffers used in turn.
pub(super) fn within_buffer(d: &Dim, ranges: &Ranges) -> String {
    sum(d, ranges, &|factors| !factors.iter().any(is_turn))
}

/// How many buffers are used in turn, as an index into all of them says.
pub(super) fn turns(d: &Dim) -> i64 {
    let of = |a: &Atom| match a {
        Atom::Mod(_, n) => n.as_const(),
        _ => None,
    };
    d.terms().flat_map(|(_, factors)| factors.iter().filter_map(of).collect::<Vec<_>>()).max().unwrap_or(1)
}

fn is_turn(a: &Atom) -> bool {
    matches!(a, Atom::Mod(..))
}

fn sum(d: &Dim, ranges: &Ranges, keeps: &dyn Fn(&[Atom]) -> bool) -> String {
    let mut out = String::new();
    for (coeff, factors) in d.terms().filter(|(_, factors)| keeps(factors)) {
        let product: Vec<String> = factors.iter().map(|a| atom(a, ranges)).collect();
        let product = product.join(" * ");
        let sign = if coeff < 0 { "-" } else { "+" };
        match out.is_empty() {
            true if coeff < 0 => out.push('-'),
            true => {}
            false => out.push_str(&format!(" {sign} ")),
        }
        match coeff.unsigned_abs() {
            1 => out.push_str(&product),
            n => out.push_str(&format!("{n} * {product}")),
        }
    }
    match (d.constant(), out.is_empty()) {
        (0, true) => "0".into(),
        (0, false) => out,
        (c, true) => c.to_string(),
        (c, false) if c < 0 => format!("{out} - {}", c.unsigned_abs()),
        (c, false) => format!("{out} + {c}"),
    }
}

fn atom(a: &Atom, ranges: &Ranges) -> String {
    let is_natural = |d: &Dim| d.range(&|s| ranges.get(s).copied().unwrap_or(Range::ALL)).lo >= 0;
    let operand = |d: &Dim| match d.as_sym() {
        Some(s) => name(s),
        None if d.as_const().is_some_and(|c| c >= 0) => index(d, ranges),
        None => format!("({})", index(d, ranges)),
    };
    match a {
        Atom::Sym(s) => name(s),
        Atom::FloorDiv(x, y) if is_natural(x) && is_natural(y) => {
            format!("({} / {})", operand(x), operand(y))
        }
        Atom::Mod(x, y) if is_natural(x) && is_natural(y) => format!("({} % {})", operand(x), operand(y)),
        Atom::FloorDiv(x, y) => format!("FloorDiv({}, {})", index(x, ranges), index(y, ranges)),
        Atom::Mod(x, y) => format!("FloorMod({}, {})", index(x, ranges), index(y, ranges)),
        Atom::Min(x, y) => format!("Lesser({}, {})", index(x, ranges), index(y, ranges)),
        Atom::Max(x, y) => format!("Greater({}, {})", index(x, ranges), index(y, ranges)),
    }
}

/// A symbol as an identifier, which no type is.
pub(super) fn name(s: &Sym) -> String {
    let plain: String = s.name().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if matches!(plain.as_str(), "half" | "float" | "out" | "pipe" | "turn") { plain + "_" } else { plain }
}

/// Functions of indices that a text uses.
pub(super) fn helpers(text: &str) -> String {
    let all = [
        ("Lesser", "return a < b ? a : b;"),
        ("Greater", "return a > b ? a : b;"),
        ("FloorDiv", "return a / b - (a % b != 0 && (a % b < 0) != (b < 0));"),
        ("FloorMod", "return a % b + (a % b != 0 && (a % b < 0) != (b < 0) ? b : 0);"),
    ];
    let used = all.into_iter().filter(|(name, _)| text.contains(&format!("{name}(")));
    let define = |(name, body): (&str, &str)| {
        format!("__aicore__ inline int64_t {name}(int64_t a, int64_t b) {{ {body} }}\n")
    };
    let out: String = used.map(define).collect();
    if out.is_empty() { out } else { out + "\n" }
}
