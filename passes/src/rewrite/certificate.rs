//! Certificates: why the graph that the rewriter made equals the one that it was given.
//!
//! A certificate is a list of terms, each stored once, and a list of instances of rules: pairs of terms that a rule
//! makes equal. [`check`](super::check::check) verifies every instance by itself, and that the instances, with
//! congruence alone, make the two graphs' outputs equal. It searches for nothing.

use super::lang::{Attribute, Constant, ENode, Keyword, SMALL};
use super::proof::Proof;
use super::region::Region;
use aic_ir::error::{Error, Result};
use aic_ir::graph::{Graph, NodeId, ValueId};
use aic_ir::op::{AttrValue, Op};
use aic_ir::tensor::Tensor;
use aic_ir::text::{content_hash, parse_attr_with};
use aic_ir::types::Type;
use aic_ir::{bail, ensure};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Gives the contents of constants by their hashes.
type Resolver<'a> = &'a dyn Fn(&str) -> Option<Bytes>;

/// How an instance that swaps the operands of a commutative operator is named.
pub const COMMUTE: &str = "commute";

/// Why two graphs are equal.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Certificate {
    /// Terms; operands first.
    pub terms: Vec<CertTerm>,
    /// Pairs of terms that a rule makes equal.
    pub instances: Vec<Instance>,
}

/// A run of the rewriter with its certificate.
#[derive(Clone, Debug, PartialEq)]
pub struct Certified {
    /// What it was given.
    pub before: Graph,
    /// What it made.
    pub after: Graph,
    /// Why they are equal.
    pub certificate: Certificate,
}

/// A term over a graph's inputs; numbers are those of earlier terms.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CertTerm {
    /// An input of the graph.
    Input(u32),
    /// A constant of at most [`SMALL`] elements.
    Const(Constant),
    /// A larger constant: its type and the hash of its contents.
    Large(String),
    /// An operator applied to operands.
    Op(Keyword, Vec<Attribute>, Vec<u32>),
    /// One result of an operator that has several.
    Result(u32, u32),
}

/// An application of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The rule's name; `fold` for the value of an operator on constants, `commute` for a swap of operands.
    pub rule: String,
    /// What the left side stands for.
    pub before: u32,
    /// What the right side stands for.
    pub after: u32,
}

/// A certificate that grows.
#[derive(Clone, Debug, Default)]
pub struct Collector {
    certificate: Certificate,
    numbers: HashMap<CertTerm, u32>,
    known: std::collections::HashSet<(String, u32, u32)>,
}

impl Collector {
    /// The number of a term, which is added if it is new.
    pub fn term(&mut self, term: CertTerm) -> u32 {
        let n = self.certificate.terms.len() as u32;
        let terms = &mut self.certificate.terms;
        *self.numbers.entry(term).or_insert_with_key(|term| {
            terms.push(term.clone());
            n
        })
    }

    fn instance(&mut self, rule: &str, before: u32, after: u32) {
        if before != after && self.known.insert((rule.into(), before, after)) {
            self.certificate.instances.push(Instance { rule: rule.into(), before, after });
        }
    }

    /// The terms of a graph's values.
    pub fn graph(&mut self, g: &Graph) -> HashMap<ValueId, u32> {
        let mut terms = HashMap::new();
        for (k, p) in g.inputs.iter().enumerate() {
            terms.insert(p.value, self.term(CertTerm::Input(k as u32)));
        }
        for (_, n) in g.nodes() {
            let x: Vec<u32> = n.inputs.iter().map(|v| terms[v]).collect();
            self.node(&n.op, x, &n.outputs, &mut terms);
        }
        terms
    }

    fn node(&mut self, op: &Op, x: Vec<u32>, outputs: &[ValueId], terms: &mut HashMap<ValueId, u32>) {
        let term = match op {
            Op::Const(c) => constant(&c.value),
            _ => operator(op, x),
        };
        let term = self.term(term);
        for (k, v) in outputs.iter().enumerate() {
            let term = if outputs.len() == 1 { term } else { self.term(CertTerm::Result(k as u32, term)) };
            terms.insert(*v, term);
        }
    }

    /// Adds the proof of a region of a graph whose values' terms are given.
    pub fn region(&mut self, g: &Graph, region: &Region, proof: &Proof, values: &HashMap<ValueId, u32>) {
        let mut numbers: Vec<u32> = Vec::with_capacity(proof.terms.len());
        for node in &proof.terms {
            let number = self.local(g, region, node, values, proof, &numbers);
            numbers.push(number);
        }
        for (rule, before, after) in &proof.instances {
            self.instance(rule, numbers[*before], numbers[*after]);
        }
    }

    /// The number of a term of a region's e-graph; attributes have none of their own.
    fn local(
        &mut self,
        g: &Graph,
        region: &Region,
        node: &ENode,
        values: &HashMap<ValueId, u32>,
        proof: &Proof,
        numbers: &[u32],
    ) -> u32 {
        let at = |id: &egg::Id| numbers[usize::from(*id)];
        let term = match node {
            ENode::Attr(_) => return u32::MAX,
            ENode::Leaf(k) => return values[&region.leaves[*k as usize]],
            ENode::Const(c) => CertTerm::Const(c.clone()),
            ENode::Result(k, [of]) => CertTerm::Result(*k, at(of)),
            ENode::Opaque(k, x) => {
                let id: NodeId = region.opaques[*k as usize];
                operator(&g.node(id).op, x.iter().map(at).collect())
            }
            ENode::Op(keyword, _) => {
                let (x, attrs) = node.operands_and_attrs();
                let attr = |id: &egg::Id| match &proof.terms[usize::from(*id)] {
                    ENode::Attr(a) => Some(a.clone()),
                    _ => None,
                };
                CertTerm::Op(*keyword, attrs.iter().filter_map(attr).collect(), x.iter().map(at).collect())
            }
        };
        self.term(term)
    }

    /// What was collected.
    pub fn finish(self) -> Certificate {
        self.certificate
    }
}

/// The term of a constant.
pub fn constant(t: &Tensor) -> CertTerm {
    match t.len() <= SMALL {
        true => CertTerm::Const(Constant::new(t.clone())),
        false => CertTerm::Large(format!("{} #{}", Type::of(t.dtype(), t.shape()), content_hash(t))),
    }
}

fn operator(op: &Op, x: Vec<u32>) -> CertTerm {
    let attrs = op.attrs().into_iter().map(|(_, v)| Attribute::new(v)).collect();
    CertTerm::Op(Keyword(op.keyword()), attrs, x)
}

/// Every constant of more than [`SMALL`] elements in a graph, by its term's text.
pub fn large_constants(g: &Graph) -> HashMap<String, ValueId> {
    let mut found = HashMap::new();
    for (_, n) in g.nodes() {
        if let Op::Const(c) = &n.op
            && let CertTerm::Large(text) = constant(&c.value)
        {
            found.insert(text, n.outputs[0]);
        }
    }
    found
}

impl Certificate {
    /// As JSON: `{"terms": [..], "instances": [[rule, before, after], ..]}`.
    pub fn to_json(&self) -> Value {
        let term = |t: &CertTerm| match t {
            CertTerm::Input(k) => json!({ "input": k }),
            CertTerm::Const(c) => json!({ "const": AttrValue::Tensor(c.value().clone()).to_string() }),
            CertTerm::Large(text) => json!({ "large": text }),
            CertTerm::Result(k, of) => json!({ "result": k, "x": [of] }),
            CertTerm::Op(keyword, attrs, x) => {
                let attrs: Vec<String> = attrs.iter().map(|a| a.value().to_string()).collect();
                json!({ "op": keyword.0, "attrs": attrs, "x": x })
            }
        };
        let instance = |i: &Instance| json!([i.rule, i.before, i.after]);
        json!({
            "terms": self.terms.iter().map(term).collect::<Vec<_>>(),
            "instances": self.instances.iter().map(instance).collect::<Vec<_>>(),
        })
    }

    /// The reverse of [`Certificate::to_json`]; `resolve` gives the contents of large constants in bodies by their
    /// hashes.
    ///
    /// # Errors
    /// Something is missing, or not of the form that is expected.
    pub fn from_json(value: &Value, resolve: Resolver<'_>) -> Result<Certificate> {
        let list = |name: &str| match value[name].as_array() {
            Some(items) => Ok(items),
            None => bail!("a certificate has a list of {name}"),
        };
        let mut terms = Vec::new();
        for (k, t) in list("terms")?.iter().enumerate() {
            terms.push(term_from_json(t, k, resolve).map_err(|e| e.context(format!("term {k}")))?);
        }
        let instance = |(k, v): (usize, &Value)| match (v[0].as_str(), number(&v[1]), number(&v[2])) {
            (Some(rule), Some(before), Some(after)) if before.max(after) < terms.len() as u32 => {
                Ok(Instance { rule: rule.into(), before, after })
            }
            _ => bail!("instance {k}: expected [rule, term, term], found {v}"),
        };
        let instances = list("instances")?.iter().enumerate().map(instance).collect::<Result<_>>()?;
        Ok(Certificate { terms, instances })
    }
}

fn number(v: &Value) -> Option<u32> {
    v.as_u64().and_then(|n| n.try_into().ok())
}

fn term_from_json(v: &Value, n_before: usize, resolve: Resolver<'_>) -> Result<CertTerm> {
    let operands = || -> Result<Vec<u32>> {
        let Some(items) = v["x"].as_array() else { bail!("expected a list x of earlier terms") };
        let earlier = |v: &Value| number(v).filter(|n| (*n as usize) < n_before);
        items.iter().map(earlier).collect::<Option<_>>().ok_or_else(|| Error::new("x must be earlier terms"))
    };
    if let Some(k) = number(&v["input"]) {
        return Ok(CertTerm::Input(k));
    }
    if let Some(text) = v["const"].as_str() {
        let AttrValue::Tensor(t) = attr(text, resolve)? else { bail!("{text} is no constant") };
        ensure!(t.len() <= SMALL, "a constant of more than {SMALL} elements is given by its hash");
        return Ok(CertTerm::Const(Constant::new(t)));
    }
    if let Some(text) = v["large"].as_str() {
        return Ok(CertTerm::Large(text.into()));
    }
    if let Some(k) = number(&v["result"]) {
        let [of] = operands()?[..] else { bail!("a result is one of one term") };
        return Ok(CertTerm::Result(k, of));
    }
    let Some(signature) = v["op"].as_str().and_then(Op::signature) else {
        bail!("unknown operator {}", v["op"])
    };
    let Some(texts) = v["attrs"].as_array() else { bail!("expected a list of attrs") };
    ensure!(texts.len() == signature.attrs.len(), "{} has {:?}", signature.keyword, signature.attrs);
    let mut attrs = Vec::new();
    for (text, name) in texts.iter().zip(signature.attrs) {
        let value = attr(text.as_str().unwrap_or_default(), resolve)?;
        match signature.attr_value(name, &value) {
            Some(value) => attrs.push(Attribute::new(value)),
            None => bail!("{text} is no value of {name}"),
        }
    }
    Ok(CertTerm::Op(Keyword(signature.keyword), attrs, operands()?))
}

fn attr(text: &str, resolve: Resolver<'_>) -> Result<AttrValue> {
    parse_attr_with(text, resolve).map_err(|e| e.context(text))
}
