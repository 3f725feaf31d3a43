//! Verifies graphs.

use crate::dim::{Dim, Sym};
use crate::graph::{Def, Graph, Node, Port, ValueId};
use crate::op::{AttrValue, Op};
use crate::types::Type;
use std::collections::HashSet;

/// Checks a graph and the bodies within it; gives a message for every violation of this contract:
///
/// - *Values.* Every value is an input or a result of one node, and says so. Operands are inputs or results of
///   earlier nodes. Outputs are values of the graph.
/// - *Types.* Operands fit their operators, and results have the element types and dims that the operator infers;
///   layouts are free.
/// - *Symbols.* A symbol in a type or an attribute has a value by then: it stands alone as a dim of an input, or as a
///   dim of a result of this node or an earlier one, which thereby defines it. Within a body, the symbols known
///   outside are known too.
/// - *Ports.* No two inputs and no two outputs have the same name, unless it is empty.
/// - *Bodies.* The graphs among an operator's attributes satisfy this contract.
pub fn graph(g: &Graph) -> Vec<String> {
    let mut found = Vec::new();
    check(g, &HashSet::new(), "", &mut found);
    found
}

fn check(g: &Graph, outside: &HashSet<Sym>, prefix: &str, found: &mut Vec<String>) {
    let mut c = Checker { g, prefix, found, known: outside.clone() };
    c.values();
    c.ports("input", &g.inputs);
    c.ports("output", &g.outputs);
    for (k, p) in g.inputs.iter().enumerate() {
        if p.value.index() >= g.n_values() {
            continue;
        }
        c.expect(
            g.value(p.value).def == Def::Input(k),
            format_args!("input {k} is {}, which is defined elsewhere", p.value),
        );
        c.define(g.ty(p.value));
    }
    for (k, p) in g.inputs.iter().enumerate().filter(|(_, p)| p.value.index() < g.n_values()) {
        c.symbols(&format!("input {k} {:?}", p.name), &g.ty(p.value).dims);
    }
    let mut defined: HashSet<ValueId> = g.inputs.iter().map(|p| p.value).collect();
    for (id, n) in g.nodes() {
        let name = format!("{id} {}{}", n.op.keyword(), origin(n));
        c.node(&name, n, &defined);
        defined.extend(&n.outputs);
    }
}

fn origin(n: &Node) -> String {
    if n.origin.is_empty() { String::new() } else { format!(" ({})", n.origin.join(", ")) }
}

struct Checker<'a> {
    g: &'a Graph,
    /// Where the graph is, if it is a body.
    prefix: &'a str,
    found: &'a mut Vec<String>,
    /// Symbols that have a value.
    known: HashSet<Sym>,
}

impl Checker<'_> {
    fn expect(&mut self, holds: bool, message: impl std::fmt::Display) {
        if !holds {
            self.found.push(format!("{}{message}", self.prefix));
        }
    }

    /// Every value has one definition, the one that it names.
    fn values(&mut self) {
        let g = self.g;
        for k in 0..g.n_values() {
            let v = ValueId(k as u32);
            let fits = match g.value(v).def {
                Def::Input(k) => g.inputs.get(k).is_some_and(|p| p.value == v),
                Def::Node(n, k) => {
                    n.index() < g.nodes().len() && g.node(n).outputs.get(k).is_some_and(|out| *out == v)
                }
            };
            self.expect(fits, format_args!("{v} is not defined where it says"));
        }
    }

    fn ports(&mut self, kind: &str, ports: &[Port]) {
        let mut names = HashSet::new();
        for (k, p) in ports.iter().enumerate() {
            let exists = p.value.index() < self.g.n_values();
            self.expect(exists, format_args!("{kind} {k} {:?} is no value of the graph", p.name));
            let is_new = p.name.is_empty() || names.insert(p.name.as_str());
            self.expect(is_new, format_args!("two {kind}s have the name {:?}", p.name));
        }
    }

    /// Gives values to symbols that are a dim by themselves.
    fn define(&mut self, ty: &Type) {
        self.known.extend(ty.dims.iter().filter_map(Dim::as_sym).cloned());
    }

    fn symbols(&mut self, place: &str, dims: &[Dim]) {
        let all: HashSet<Sym> = dims.iter().flat_map(Dim::symbols).collect();
        let mut unknown: Vec<&Sym> = all.iter().filter(|s| !self.known.contains(s)).collect();
        unknown.sort();
        for s in unknown {
            self.expect(false, format_args!("{place}: symbol {s} has no value"));
        }
    }

    fn node(&mut self, name: &str, n: &Node, defined: &HashSet<ValueId>) {
        let g = self.g;
        let mut is_sound = true;
        for v in n.inputs.iter().filter(|v| !defined.contains(v)) {
            is_sound = false;
            self.expect(false, format_args!("{name}: operand {v} is not defined before it"));
        }
        for v in n.outputs.iter().filter(|v| v.index() >= g.n_values() || defined.contains(v)) {
            is_sound = false;
            self.expect(false, format_args!("{name}: result {v} does not exist, or is defined before"));
        }
        if !is_sound {
            return;
        }
        let operands: Vec<&Type> = n.inputs.iter().map(|v| g.ty(*v)).collect();
        let results: Vec<&Type> = n.outputs.iter().map(|v| g.ty(*v)).collect();
        match n.op.infer(&operands) {
            Err(e) => self.expect(false, format_args!("{name}: {}", e.message)),
            Ok(inferred) => {
                let same = |(a, b): (&Type, &&Type)| a.dtype == b.dtype && a.dims == b.dims;
                let fits = inferred.len() == results.len() && inferred.iter().zip(&results).all(same);
                self.expect(fits, format_args!("{name}: expected results {inferred:?}, found {results:?}"));
            }
        }
        results.iter().for_each(|ty| self.define(ty));
        for ty in results {
            self.symbols(name, &ty.dims);
        }
        for (attr, value) in n.op.attrs() {
            // Where the branches' extents differ they are symbols made from this name; it is no symbol itself.
            if matches!(n.op, Op::If(_)) && attr == "fresh" {
                continue;
            }
            self.attr(&format!("{name}: {attr}"), &value);
        }
    }

    fn attr(&mut self, place: &str, value: &AttrValue) {
        match value {
            AttrValue::Dim(d) => self.symbols(place, std::slice::from_ref(d)),
            AttrValue::List(items) => items.iter().for_each(|v| self.attr(place, v)),
            AttrValue::Graph(body) => {
                let prefix = format!("{}{place}: ", self.prefix);
                check(body, &self.known, &prefix, self.found);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::parse_graph;

    fn violations(src: &str) -> Vec<String> {
        graph(&parse_graph(src).unwrap_or_else(|e| panic!("{e}")))
    }

    #[test]
    fn sound() {
        let src = r#"graph(%0: f32[n,4,2*n], %1: bool[]) -> (%3: f32[n,4,2*n]:nhwc, %5: i64[3,k]) {
          %2 = neg %0 : f32[n,4,2*n]
          %3 = neg %2 : f32[n,4,2*n]:nhwc
          %5 = nonzero %3 {count=k}
          return %3, %5
        }"#;
        assert_eq!(violations(src), Vec::<String>::new());
    }

    #[test]
    fn every_violation_is_reported() {
        let src = r#"graph(%0 "x": f32[2*n], %1 "x": f32[3]) -> () {
          %2 = add %1 %1 : f32[4] loc("first")
          %3 = add %1 %2 : i64[3]
          %4 = reshape %1 {shape=[m]} : f32[m]
          %5 = reshape %1 {shape=[m+q]} : f32[m+q]
          return
        }"#;
        assert_eq!(
            violations(src),
            [
                "two inputs have the name \"x\"",
                "input 0 \"x\": symbol n has no value",
                "@n0 add (first): expected results [Type { dtype: F32, dims: [3], layout: RowMajor }], found [Type { dtype: F32, dims: [4], layout: RowMajor }]",
                "@n1 add: shapes [3] and [4] do not broadcast: 3 against 4",
                "@n3 reshape: symbol q has no value",
                "@n3 reshape: shape: symbol q has no value",
            ]
        );
    }

    #[test]
    fn samples_of_every_operator() {
        use crate::op::{Op, Rng};
        for (name, sampler) in Op::SAMPLERS {
            for seed in 0..20 {
                let sample = sampler(&mut Rng::new(seed));
                let mut g = Graph::new(name);
                let inputs: Vec<ValueId> =
                    sample.operands.iter().map(|o| g.add_input("", Type::of(o.dtype, &o.shape))).collect();
                if g.add(sample.op, &inputs, &[]).is_ok() {
                    assert_eq!(graph(&g), Vec::<String>::new(), "{g}");
                }
            }
        }
    }
}
