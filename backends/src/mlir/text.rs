//! Writes MLIR's text form, one operation after another.
//!
//! Names of values are numbers, in order. Operations without effects are written once per block and used again; scalar
//! constants are collected in front of the function's other operations. Every operation carries the location that is
//! current when it is written.

use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::VType;
use aic_ir::scalar::Scalar;
use aic_ir::types::Type;
use half::{bf16, f16};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::sync::Arc;

/// A text that grows.
#[derive(Default)]
pub(crate) struct Writer {
    /// What is written of the function at hand.
    body: String,
    /// Its constants.
    head: String,
    /// Constants by their text.
    constants: HashMap<String, String>,
    /// Operations without effects by their text, one map per open block.
    scopes: Vec<HashMap<String, String>>,
    next: usize,
    /// Where in `body` hoisted operations go, and how far they are indented.
    hoist: (usize, usize),
    /// Locations by their text.
    locations: HashMap<String, usize>,
    /// Declarations of locations.
    aliases: String,
    location: usize,
    /// Symbols that were needed and have no value.
    unknown: BTreeSet<Sym>,
}

impl Writer {
    /// Stands for the value of a symbol that has none.
    pub fn unknown(&mut self, s: &Sym) -> String {
        self.unknown.insert(s.clone());
        self.index(0)
    }

    /// What [`Writer::unknown`] was asked for.
    pub fn unknowns(&self) -> &BTreeSet<Sym> {
        &self.unknown
    }

    /// Operations that follow come from the source nodes of these names.
    pub fn locate(&mut self, origin: &[Arc<str>]) {
        let names: Vec<String> = origin.iter().map(|name| quoted(name)).collect();
        let text = match &names[..] {
            [] => "loc(unknown)".to_owned(),
            [one] => format!("loc({one})"),
            many => format!("loc(fused[{}])", many.join(", ")),
        };
        let next = self.locations.len();
        self.location = *self.locations.entry(text.clone()).or_insert(next);
        if self.location == next {
            let _ = writeln!(self.aliases, "#loc{next} = {text}");
        }
    }

    /// A name that no value has.
    pub fn fresh(&mut self) -> String {
        self.next += 1;
        format!("%{}", self.next - 1)
    }

    /// Writes an operation without effects, unless it is there already; gives its result. `op` is all but the result.
    pub fn value(&mut self, op: impl Into<String>) -> String {
        let op = op.into();
        if let Some(known) = self.scopes.iter().rev().find_map(|s| s.get(&op)) {
            return known.clone();
        }
        let name = self.fresh();
        self.line(&format!("{name} = {op}"));
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(op, name.clone());
        }
        name
    }

    /// Writes an operation whose result depends on memory; gives its result.
    pub fn effect(&mut self, op: String) -> String {
        let name = self.fresh();
        self.line(&format!("{name} = {op}"));
        name
    }

    /// Writes an operation at the start of the function, or of the block in which [`Writer::hoist_here`] was called; gives
    /// its result.
    pub fn hoisted(&mut self, op: &str) -> String {
        let name = self.fresh();
        let (at, indent) = self.hoist;
        let line = format!("{:indent$}{name} = {op} loc(#loc{})\n", "", self.location);
        self.body.insert_str(at, &line);
        self.hoist.0 += line.len();
        name
    }

    /// Has operations hoisted to here; gives where they went before.
    pub fn hoist_here(&mut self) -> (usize, usize) {
        let here = (self.body.len(), self.indent());
        std::mem::replace(&mut self.hoist, here)
    }

    /// Has operations hoisted to where they went before.
    pub fn hoist_back(&mut self, to: (usize, usize)) {
        self.hoist = to;
    }

    /// Writes a whole operation without results, unless it is there already.
    pub fn once(&mut self, op: &str) {
        if self.scopes.iter().any(|s| s.contains_key(op)) {
            return;
        }
        self.line(op);
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(op.to_owned(), String::new());
        }
    }

    /// Writes a whole operation.
    pub fn line(&mut self, op: &str) {
        let _ = writeln!(self.body, "{:1$}{op} loc(#loc{2})", "", self.indent(), self.location);
    }

    /// Writes what opens a block: `scf.if %c {`.
    pub fn open(&mut self, op: &str) {
        let _ = writeln!(self.body, "{:1$}{op}", "", self.indent());
        self.scopes.push(HashMap::new());
    }

    /// Writes the arguments of the block that was just opened.
    pub fn block(&mut self, args: &[(String, String)]) {
        let args: Vec<String> = args.iter().map(|(name, ty)| format!("{name}: {ty}")).collect();
        let _ = writeln!(self.body, "{:1$}^bb0({2}):", "", self.indent() - 2, args.join(", "));
    }

    /// Ends a block and opens the next one of the same operation: `} else {`.
    pub fn reopen(&mut self, op: &str) {
        self.scopes.pop();
        self.open(op);
    }

    /// Ends a block, and its operation.
    pub fn close(&mut self, op: &str) {
        self.scopes.pop();
        self.line(op);
    }

    /// A constant, written in front of everything else; `op` is all but the result.
    pub fn constant(&mut self, op: String) -> String {
        if let Some(known) = self.constants.get(&op) {
            return known.clone();
        }
        let name = self.fresh();
        let _ = writeln!(self.head, "    {name} = {op} loc(#loc{})", self.location);
        self.constants.insert(op, name.clone());
        name
    }

    /// A constant index.
    pub fn index(&mut self, value: i64) -> String {
        self.constant(format!("arith.constant {value} : index"))
    }

    /// A scalar constant, or a vector of it.
    pub fn scalar(&mut self, ty: VType, value: Scalar) -> String {
        let literal = literal(ty.dtype, value);
        match ty.lanes {
            1 if ty.dtype == DType::Bool => self.constant(format!("arith.constant {literal}")),
            1 => self.constant(format!("arith.constant {literal} : {}", element(ty.dtype))),
            _ => self.constant(format!("arith.constant dense<{literal}> : {}", vector(ty))),
        }
    }

    /// Starts a function; what is written until [`Writer::end_function`] is its body.
    pub fn begin_function(&mut self) {
        self.body.clear();
        self.head.clear();
        self.constants.clear();
        self.scopes = vec![HashMap::new()];
        self.next = 0;
        self.hoist = (0, self.indent());
    }

    /// The function's text, given what stands before its opening brace.
    pub fn end_function(&mut self, signature: &str) -> String {
        let (head, body) = (std::mem::take(&mut self.head), std::mem::take(&mut self.body));
        format!("  {signature} {{\n{head}{body}  }} loc(#loc{})\n", self.location)
    }

    /// Declarations of all locations.
    pub fn aliases(&self) -> &str {
        &self.aliases
    }

    fn indent(&self) -> usize {
        2 + 2 * self.scopes.len()
    }
}

/// The element type in tensors and registers; integers have no sign there.
pub(crate) fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::F64 => "f64",
        DType::F32 => "f32",
        DType::F16 => "f16",
        DType::BF16 => "bf16",
        DType::I8 | DType::U8 => "i8",
        DType::I16 | DType::U16 => "i16",
        DType::I32 | DType::U32 => "i32",
        DType::I64 | DType::U64 => "i64",
        DType::Bool | DType::String => "i1",
    }
}

/// `2x?x` for extents 2 and n.
pub(crate) fn extents(dims: &[Dim]) -> String {
    let extent = |d: &Dim| d.as_const().map_or_else(|| "?x".to_owned(), |n| format!("{n}x"));
    dims.iter().map(extent).collect()
}

/// `tensor<2x?xf32>`
pub(crate) fn tensor(ty: &Type) -> String {
    format!("tensor<{}{}>", extents(&ty.dims), element(ty.dtype))
}

/// `f32`, or `vector<8xf32>` for 8 lanes.
pub(crate) fn vector(ty: VType) -> String {
    match ty.lanes {
        1 => element(ty.dtype).to_owned(),
        n => format!("vector<{n}x{}>", element(ty.dtype)),
    }
}

/// A scalar as it stands in attributes; floats that no decimal number is are written as bits.
pub(crate) fn literal(dtype: DType, value: Scalar) -> String {
    match value.cast(dtype) {
        Scalar::F(x) if !x.is_finite() => match dtype {
            DType::F64 => format!("0x{:016X}", x.to_bits()),
            DType::F16 => format!("0x{:04X}", f16::from_f64(x).to_bits()),
            DType::BF16 => format!("0x{:04X}", bf16::from_f64(x).to_bits()),
            _ => format!("0x{:08X}", (x as f32).to_bits()),
        },
        Scalar::F(x) => match format!("{x:e}") {
            text if text.contains('.') => text,
            text => text.replacen('e', ".0e", 1),
        },
        Scalar::I(x) => x.to_string(),
        Scalar::U(x) => x.to_string(),
        Scalar::B(x) => x.to_string(),
    }
}

/// A string between double quotes.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for b in text.bytes() {
        match b {
            b'"' | b'\\' | 0..=31 | 127.. => {
                let _ = write!(out, "\\{b:02X}");
            }
            _ => out.push(char::from(b)),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_have_a_point_or_are_bits() {
        assert_eq!(literal(DType::F32, Scalar::F(1.0)), "1.0e0");
        assert_eq!(
            literal(DType::F32, Scalar::F(-2.5e-7)),
            literal(DType::F32, Scalar::F(-2.5e-7f32 as f64))
        );
        assert_eq!(literal(DType::F16, Scalar::F(f64::INFINITY)), "0x7C00");
        assert_eq!(literal(DType::BF16, Scalar::F(f64::NEG_INFINITY)), "0xFF80");
    }

    #[test]
    fn strings_are_escaped() {
        assert_eq!(quoted("a\"b\\c\n\u{e9}"), "\"a\\22b\\5Cc\\0A\\C3\\A9\"");
    }
}
