//! Reads graphs.
//!
//! ```text
//! graph @name(%0 "x": f32[n,3], %1: f32[3,4]) -> (%3 "y": f32[n,4]) {
//!   %2 = matmul %0 %1 : f32[n,4] loc("MatMul_0")
//!   %3 = relu %2
//!   return %3
//! }
//! ```
//!
//! Names of ports, types of results and `loc` may be left out; types are then inferred, while those that are given
//! are taken as they are, for the verifier to judge. A constant's elements may be written out, named by the hash of
//! their contents, or be pseudo-random: `const f32[2] [1.0, 2.0]`, `const f32[64,64] #0123456789abcdef`,
//! `const f32[64,64] seed 7`. The results may be declared by their types alone: `-> f32[n,4] {`. `relu %x` is short
//! for the maximum of `%x` and a constant zero.

use super::lex::Token;
use super::parser::Parser;
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Graph, ValueId};
use crate::op::{AttrValue, Const, Elementwise, Op, Operand, Rng};
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::{Tensor, numel};
use crate::types::Type;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;

/// How many elements a pseudo-random constant may have.
const MAX_SEEDED: usize = 1 << 26;

type Resolver<'r> = &'r dyn Fn(&str) -> Option<Bytes>;

/// Reads a graph all of whose constants are written out.
pub fn parse_graph(src: &str) -> Result<Graph> {
    parse_graph_with(src, &|_| None)
}

/// Reads a graph; `resolve` gives the contents of constants by their hashes.
pub fn parse_graph_with(src: &str, resolve: &dyn Fn(&str) -> Option<Bytes>) -> Result<Graph> {
    let mut p = Parser::new(src)?;
    let g = graph(&mut p, resolve)?;
    p.expect_end()?;
    Ok(g)
}

/// Reads an attribute's value: `[0,2,1]`, `sum`, `1e-5`, `f32[2] [1.0, 2.0]`.
pub fn parse_attr(src: &str) -> Result<AttrValue> {
    parse_attr_with(src, &|_| None)
}

/// Reads an attribute's value; `resolve` gives the contents of constants by their hashes.
pub fn parse_attr_with(src: &str, resolve: &dyn Fn(&str) -> Option<Bytes>) -> Result<AttrValue> {
    let mut p = Parser::new(src)?;
    let value = attr(&mut p, resolve)?;
    p.expect_end()?;
    Ok(value)
}

/// What is known of an output before `return`.
struct Output {
    value: Option<String>,
    name: String,
    ty: Type,
    offset: usize,
}

struct Body<'r> {
    graph: Graph,
    values: HashMap<String, ValueId>,
    resolve: Resolver<'r>,
}

fn graph(p: &mut Parser<'_>, resolve: Resolver<'_>) -> Result<Graph> {
    p.expect_word("graph")?;
    let name = match p.peek() {
        Token::Global(name) => name.clone(),
        _ => String::new(),
    };
    if !name.is_empty() {
        p.skip();
    }
    let mut body = Body { graph: Graph::new(&name), values: HashMap::new(), resolve };
    p.expect("(")?;
    p.list(")", |p| input(p, &mut body))?;
    p.expect("->")?;
    let outputs = match p.eat("(") {
        true => p.list(")", output)?,
        false => result_types(p)?,
    };
    if p.eat_word("requires") {
        p.expect("(")?;
        body.graph.requires = p.list(")", |p| p.dim())?;
    }
    p.expect("{")?;
    p.nested(|p| {
        while !p.eat_word("return") {
            node(p, &mut body)?;
        }
        returned(p, &mut body, outputs)
    })?;
    p.expect("}")?;
    Ok(body.graph)
}

fn input(p: &mut Parser<'_>, body: &mut Body<'_>) -> Result<()> {
    let offset = p.offset();
    let value = value_name(p)?;
    let name = port_name(p)?;
    p.expect(":")?;
    let ty = p.ty()?;
    let id = body.graph.add_input(&name, ty);
    define(p, body, value, id, offset)
}

fn port_name(p: &mut Parser<'_>) -> Result<String> {
    match p.peek() {
        Token::Str(_) => p.string("a name"),
        _ => Ok(String::new()),
    }
}

fn value_name(p: &mut Parser<'_>) -> Result<String> {
    let Token::Value(name) = *p.peek() else { return Err(p.expected("a value such as %0")) };
    p.skip();
    Ok(name.into())
}

fn define(p: &Parser<'_>, body: &mut Body<'_>, name: String, id: ValueId, offset: usize) -> Result<()> {
    let message = format!("%{name} is defined twice");
    match body.values.insert(name, id) {
        None => Ok(()),
        Some(_) => Err(p.error_at(offset, message)),
    }
}

/// `%3 "y": f32[n]`; the value and the name may be left out.
fn output(p: &mut Parser<'_>) -> Result<Output> {
    let offset = p.offset();
    let value = match p.peek() {
        Token::Value(_) => Some(value_name(p)?),
        _ => None,
    };
    let name = port_name(p)?;
    if value.is_some() || !name.is_empty() {
        p.expect(":")?;
    }
    Ok(Output { value, name, ty: p.ty()?, offset })
}

/// `f32[4,2], i64[4]`
fn result_types(p: &mut Parser<'_>) -> Result<Vec<Output>> {
    let mut outputs = Vec::new();
    loop {
        let offset = p.offset();
        outputs.push(Output { value: None, name: String::new(), ty: p.ty()?, offset });
        if !p.eat(",") {
            return Ok(outputs);
        }
    }
}

fn returned(p: &mut Parser<'_>, body: &mut Body<'_>, outputs: Vec<Output>) -> Result<()> {
    let start = p.offset();
    let mut values = Vec::new();
    while matches!(p.peek(), Token::Value(_)) {
        values.push(operand(p, body)?);
        if !p.eat(",") {
            break;
        }
    }
    if values.len() != outputs.len() {
        let message = format!("expected {} results, as declared, found {}", outputs.len(), values.len());
        return Err(p.error_at(start, message));
    }
    for (out, id) in outputs.into_iter().zip(values) {
        if let Some(name) = out.value.filter(|name| body.values.get(name) != Some(&id)) {
            return Err(
                p.error_at(out.offset, format_args!("%{name} is declared as a result, but not returned"))
            );
        }
        let found = body.graph.ty(id);
        if out.ty != *found {
            return Err(p.error_at(out.offset, format_args!("expected a result {}, found {found}", out.ty)));
        }
        body.graph.add_output(&out.name, id);
    }
    Ok(())
}

fn operand(p: &mut Parser<'_>, body: &Body<'_>) -> Result<ValueId> {
    let offset = p.offset();
    let name = value_name(p)?;
    match body.values.get(&name) {
        Some(id) => Ok(*id),
        None => Err(p.error_at(offset, format_args!("%{name} is not defined before this line"))),
    }
}

/// `%4, %5 = topk %3 {axis=1} : f32[2], i64[2] loc("a")`
fn node(p: &mut Parser<'_>, body: &mut Body<'_>) -> Result<()> {
    let mut names = Vec::new();
    while matches!(p.peek(), Token::Value(_)) {
        names.push((p.offset(), value_name(p)?));
        if !p.eat(",") {
            p.expect("=")?;
            break;
        }
    }
    let start = p.offset();
    let Token::Word(keyword) = *p.peek() else { return Err(p.expected("a node, or `return`")) };
    p.skip();
    let (op, operands) = match keyword {
        Const::KEYWORD => (Op::Const(Const { value: tensor(p, body.resolve)? }), Vec::new()),
        "relu" => relu(p, body)?,
        _ => {
            let mut operands = Vec::new();
            // A value before `,` or `=` is a result of the next node.
            while matches!(p.peek(), Token::Value(_)) && !p.is_at(1, "=") && !p.is_at(1, ",") {
                operands.push(operand(p, body)?);
            }
            let attrs = attrs(p, body.resolve)?;
            (Op::parse(keyword, &attrs).map_err(|e| p.error_at(start, e.message))?, operands)
        }
    };
    let types = if p.eat(":") { Some(types(p)?) } else { None };
    let origin = origin(p)?;
    let types = match types {
        Some(types) => types,
        None => infer(p, body, &op, &operands, start)?,
    };
    if types.len() != names.len() {
        let message =
            format!("{keyword} has {} results, but {} names stand before it", types.len(), names.len());
        return Err(p.error_at(start, message));
    }
    let ids = body.graph.add_typed(op, &operands, types, &origin);
    for ((offset, name), id) in names.into_iter().zip(ids) {
        define(p, body, name, id, offset)?;
    }
    Ok(())
}

/// `relu %x`, whose zero is a node of its own.
fn relu(p: &mut Parser<'_>, body: &mut Body<'_>) -> Result<(Op, Vec<ValueId>)> {
    let x = operand(p, body)?;
    let dtype = body.graph.ty(x).dtype;
    let zero = body.graph.add_const(Tensor::scalar(dtype, Scalar::zero(dtype)), &[]);
    Ok((Op::Elementwise(Elementwise { f: ScalarFn::Max }), vec![x, zero]))
}

fn infer(p: &Parser<'_>, body: &Body<'_>, op: &Op, operands: &[ValueId], start: usize) -> Result<Vec<Type>> {
    let operands: Vec<&Type> = operands.iter().map(|v| body.graph.ty(*v)).collect();
    op.infer(&operands).map_err(|e| p.error_at(start, format_args!("{}: {}", op.keyword(), e.message)))
}

fn types(p: &mut Parser<'_>) -> Result<Vec<Type>> {
    let mut types = vec![p.ty()?];
    while p.eat(",") {
        types.push(p.ty()?);
    }
    Ok(types)
}

/// `loc("a", "b")`
fn origin(p: &mut Parser<'_>) -> Result<Vec<Arc<str>>> {
    if !p.eat_word("loc") {
        return Ok(Vec::new());
    }
    p.expect("(")?;
    p.list(")", |p| p.string("the name of a source node, in quotes").map(Arc::from))
}

/// `{a=1, b=[2,n], c=f32}`
fn attrs(p: &mut Parser<'_>, resolve: Resolver<'_>) -> Result<Vec<(String, AttrValue)>> {
    let mut attrs: Vec<(String, AttrValue)> = Vec::new();
    if !p.eat("{") {
        return Ok(attrs);
    }
    p.list("}", |p| {
        let offset = p.offset();
        let name = p.name("an attribute")?;
        if attrs.iter().any(|(n, _)| *n == name) {
            return Err(p.error_at(offset, format_args!("attribute {name} is given twice")));
        }
        p.expect("=")?;
        let value = p.nested(|p| attr(p, resolve))?;
        attrs.push((name, value));
        Ok(())
    })?;
    Ok(attrs)
}

fn attr(p: &mut Parser<'_>, resolve: Resolver<'_>) -> Result<AttrValue> {
    let ahead = usize::from(p.is("-"));
    match *p.peek_at(ahead) {
        Token::Float(_) | Token::Word("nan" | "inf") => Ok(AttrValue::Float(p.scalar(DType::F64)?.as_f64())),
        Token::Str(_) => p.string("text").map(AttrValue::Str),
        Token::Word(w @ ("true" | "false")) => {
            p.skip();
            Ok(AttrValue::Bool(w == "true"))
        }
        Token::Word("graph") if p.is_at(1, "(") || matches!(p.peek_at(1), Token::Global(_)) => {
            Ok(AttrValue::Graph(Arc::new(graph(p, resolve)?)))
        }
        Token::Word(w) if p.is_at(1, "[") && DType::from_keyword(w).is_some() => {
            tensor(p, resolve).map(AttrValue::Tensor)
        }
        Token::Punct("[") => {
            p.skip();
            p.list("]", |p| p.nested(|p| attr(p, resolve))).map(AttrValue::List)
        }
        Token::Word(w) if [",", "}", "]"].iter().any(|c| p.is_at(1, c)) || *p.peek_at(1) == Token::End => {
            p.skip();
            Ok(AttrValue::Word(w.into()))
        }
        _ => p.dim().map(AttrValue::Dim),
    }
}

/// `f32[2] [1.0, 2.0]`, `f32[] 1.0`, `f32[64,64] #0123456789abcdef`, `f32[64,64] seed 7`
fn tensor(p: &mut Parser<'_>, resolve: Resolver<'_>) -> Result<Tensor> {
    let start = p.offset();
    let ty = p.ty()?;
    let shape = ty.shape().filter(|s| ty == Type::of(ty.dtype, s) && numel(s).is_ok());
    let Some(shape) = shape.filter(|_| ty.dtype != DType::String) else {
        return Err(p.error_at(start, format_args!("a constant cannot be of type {ty}")));
    };
    let made = if let Token::Hash(hash) = *p.peek() {
        let Some(bytes) = resolve(hash) else {
            return Err(p.error(format_args!("the contents of constant #{hash} are not at hand")));
        };
        p.skip();
        Tensor::new(ty.dtype, shape, bytes)
    } else if p.eat_word("seed") {
        let seed = p.integer("a seed")?;
        if numel(&shape)? > MAX_SEEDED {
            return Err(p.error_at(
                start,
                format_args!("a pseudo-random constant has at most {MAX_SEEDED} elements"),
            ));
        }
        Rng::new(seed).tensor(&Operand::finite(ty.dtype, shape))
    } else {
        let mut bytes = Vec::new();
        if p.eat("[") {
            p.list("]", |p| p.literal(ty.dtype, &mut bytes))?;
        } else {
            p.literal(ty.dtype, &mut bytes)?;
        }
        let (n, found) = (numel(&shape)?, bytes.len() / ty.dtype.size());
        if n != found {
            return Err(p.error_at(start, format_args!("{ty} has {n} elements, found {found}")));
        }
        Tensor::new(ty.dtype, shape, bytes.into())
    };
    made.map_err(|e| p.error_at(start, e.message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::large_constants;

    fn round_trip(src: &str) -> Graph {
        let g = parse_graph(src).unwrap_or_else(|e| panic!("{e}\n{src}"));
        let printed = g.to_string();
        let constants = large_constants(&g);
        let again = parse_graph_with(&printed, &|h| constants.get(h).cloned())
            .unwrap_or_else(|e| panic!("{e}\n{printed}"));
        assert_eq!(again.to_string(), printed);
        g
    }

    #[test]
    fn short_forms() {
        let g = round_trip(
            "// A comment.
            graph @f(%0: f32[4,8], %1: f32[8,2], %2: f32[2]) -> f32[4,2] {
              %3 = matmul %0 %1
              %4 = add %3 %2
              %5 = relu %4
              return %5
            }",
        );
        let expected = r#"graph @f(%0: f32[4,8], %1: f32[8,2], %2: f32[2]) -> (%6: f32[4,2]) {
  %3 = matmul %0 %1 : f32[4,2]
  %4 = add %3 %2 : f32[4,2]
  %5 = const f32[] [0.0]
  %6 = max %4 %5 : f32[4,2]
  return %6
}
"#;
        assert_eq!(g.to_string(), expected);
    }

    #[test]
    fn printed_form_is_stable() {
        let text = r#"graph @"any name"(%0 "x\"": f32[batch,'a b'+1,4*n]:nhwc, %1: f32[]) -> (%5 "y": f32[batch,'a b'+1,4*n]:nhwc, %5: f32[batch,'a b'+1,4*n]:nhwc, %1: f32[]) {
  %2 = const f32[2,2] [1.0, -0.0, nan(0xffc00000), 1e-10] loc("c", "d")
  %3 = const bool[2] [true, false]
  %4 = const i64[0] []
  %5 = neg %0 : f32[batch,'a b'+1,4*n]:nhwc loc("Neg_0")
  %6 = cast %0 {to=bf16} : bf16[batch,floordiv(n+3,4),mod(n,4)]:c16
  %7 = reduce %0 {op=argmax_last, axes=[1]} : i64[batch,min(7,n)]
  %8 = reshape %0 {shape=[-1+n,batch,9]} : f32[n-1,batch,9]
  return %5, %5, %1
}
"#;
        let g = round_trip(text);
        assert_eq!(g.to_string(), text.replace("-1+n", "n-1"));
        let again = parse_graph(&g.to_string()).unwrap();
        assert_eq!(again, g);
    }

    #[test]
    fn constants_of_every_type() {
        for dtype in DType::ALL.iter().filter(|t| **t != DType::String) {
            for seed in 0..20 {
                let t = Rng::new(seed).tensor(&Operand::any(*dtype, vec![seed as usize * 5])).unwrap();
                let mut g = Graph::new("");
                let value = g.add_const(t, &[]);
                g.add_output("", value);
                let constants = large_constants(&g);
                assert_eq!(parse_graph_with(&g.to_string(), &|h| constants.get(h).cloned()), Ok(g));
            }
        }
    }

    #[test]
    fn samples_of_every_operator() {
        for (name, sampler) in Op::SAMPLERS {
            for seed in 0..20 {
                let sample = sampler(&mut Rng::new(seed));
                let mut g = Graph::new(name);
                let inputs: Vec<ValueId> =
                    sample.operands.iter().map(|o| g.add_input("", Type::of(o.dtype, &o.shape))).collect();
                let Ok(results) = g.add(sample.op, &inputs, &["n".into()]) else { continue };
                results.iter().for_each(|v| g.add_output("", *v));
                let constants = large_constants(&g);
                let printed = g.to_string();
                let again = parse_graph_with(&printed, &|h| constants.get(h).cloned());
                assert_eq!(again.unwrap_or_else(|e| panic!("{e}\n{printed}")), g, "{printed}");
            }
        }
    }

    #[test]
    fn errors_have_places() {
        let cases = [
            ("graph(", "1:7: expected a value such as %0, found the end of the text"),
            ("graph(%0: f32[n) -> () { }", "1:16: expected `,` or `]`, found `)`"),
            ("graph(%0: f31[n]) -> () { return }", "1:11: expected an element type, found f31"),
            ("graph(%0: f32[2]) -> (f32[2]) {\n  return %1\n}", "2:10: %1 is not defined before this line"),
            ("graph(%0: f32[2]) -> () {\n  %1 = wrong %0\n}", "2:8: unknown operator wrong"),
            ("graph(%0: f32[2]) -> () { return %0 }", "1:34: expected 0 results, as declared, found 1"),
            ("graph() -> () {\n %0 = const f32[2] [1.0]\n return }", "2:13: f32[2] has 2 elements, found 1"),
            ("graph() -> () {\n %0 = const u8[] 256\n return }", "2:18: 256 is not a value of type u8"),
            (
                "graph() -> () {\n %0 = const f32[] #12\n return }",
                "2:19: the contents of constant #12 are not at hand",
            ),
            ("graph() -> () { return } %", "1:27: expected a value's name"),
            ("graph() -> () { return } ?", "1:26: unexpected character \"?\""),
        ];
        for (src, message) in cases {
            assert_eq!(parse_graph(src).unwrap_err().message, message, "{src}");
        }
        let deep = format!("graph(%0: f32[{}", "(".repeat(100_000));
        assert!(parse_graph(&deep).unwrap_err().message.contains("nested more than"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(edits in proptest::collection::vec((0usize..400, ".{0,3}"), 1..4)) {
            let mut text = r#"graph @f(%0 "x": f32[n,4*m-1]) -> (%2: f32[n,4*m-1]) {
  %1 = const f32[2] [1.0, nan(0x7fc00001)] loc("a")
  %2 = neg %0 : f32[n,4*m-1]
  %3 = reduce %0 {op=sum, axes=[0,1]}
  %4 = const f32[8,9] seed 3
  return %2
}"#.to_string();
            for (at, insert) in edits {
                let at = at % text.len();
                if text.is_char_boundary(at) {
                    text.replace_range(at..text.char_indices().find(|(k, _)| *k > at).map_or(text.len(), |c| c.0), &insert);
                }
                let _ = parse_graph(&text);
            }
        }
    }
}
