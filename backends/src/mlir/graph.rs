//! A graph as a function over tensors.
//!
//! Every node is known by its compute definition alone; only constants and control flow, which have none, are told
//! apart.

use super::blobs::Blobs;
use super::index::Symbols;
use super::split::{rectangular, split};
use super::stage::Body;
use super::text::{Writer, quoted, tensor};
use super::view::Loops;
use aic_ir::compute::{Compute, Stage};
use aic_ir::dim::{Dim, Sym};
use aic_ir::error::{Error, Result};
use aic_ir::graph::{Graph, Node, Port, ValueId};
use aic_ir::op::Op;
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use aic_ir::{bail, ensure};
use std::collections::HashMap;

/// A tensor in the function that is written.
#[derive(Clone)]
pub(crate) struct Value {
    def: Def,
    /// Its type.
    pub ty: Type,
}

#[derive(Clone)]
enum Def {
    Name(String),
    Constant(Tensor),
}

impl Value {
    /// The result of an operation.
    pub fn new(name: String, ty: Type) -> Value {
        Value { def: Def::Name(name), ty }
    }

    /// The element of a constant that has but one.
    pub fn scalar(&self) -> Option<Scalar> {
        match &self.def {
            Def::Constant(t) if t.len() == 1 => Some(t.get(0)),
            _ => None,
        }
    }
}

/// Writes functions over tensors.
#[derive(Default)]
pub(crate) struct Emitter {
    pub w: Writer,
    /// What symbols stand for in the block that is written.
    pub symbols: Symbols,
    pub blobs: Blobs,
}

/// The function `@main` of a graph.
///
/// # Errors
/// Some nodes have no compute definition; all of them are named.
pub(crate) fn function(e: &mut Emitter, g: &Graph) -> Result<String> {
    check(g)?;
    e.w.begin_function();
    e.w.locate(&[]);
    let mut inputs = Vec::new();
    let mut args = Vec::new();
    for (k, p) in g.inputs.iter().enumerate() {
        let ty = g.ty(p.value).clone();
        args.push(format!("%arg{k}: {}", port(&ty, p)));
        inputs.push(Value::new(format!("%arg{k}"), ty));
    }
    for (s, k, axis) in g.input_symbols() {
        e.define(&s, &inputs[k], axis);
    }
    g.requires.iter().for_each(|d| e.require(d));
    let outputs = e.graph(g, &inputs)?;
    e.w.locate(&[]);
    let names: Vec<String> = outputs.iter().map(|v| e.name(v)).collect();
    let types: Vec<String> = g.outputs.iter().map(|p| tensor(g.ty(p.value))).collect();
    match names.is_empty() {
        true => e.w.line("return"),
        false => e.w.line(&format!("return {} : {}", names.join(", "), types.join(", "))),
    }
    if let Some(s) = e.w.unknowns().first() {
        bail!("dimension {s} is not known where it is needed");
    }
    let results: Vec<String> = g.outputs.iter().map(|p| port(g.ty(p.value), p)).collect();
    Ok(e.w.end_function(&format!("func.func @main({}) -> ({})", args.join(", "), results.join(", "))))
}

/// Type and name of an input or output.
fn port(ty: &Type, p: &Port) -> String {
    format!("{} {{aic.name = {}, aic.type = {}}}", tensor(ty), quoted(&p.name), quoted(&ty.to_string()))
}

/// Names all nodes that can't be written.
fn check(g: &Graph) -> Result<()> {
    let mut lines = Vec::new();
    find_problems(g, &mut |n| {
        let name = n.origin.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ");
        lines.push(format!("{name} ({})", n.op.keyword()));
    });
    match lines.len() {
        0 => Ok(()),
        n => Err(Error::new(format!("{n} nodes have no form in MLIR:\n  {}", lines.join("\n  ")))
            .help("operators that are no element expressions can't be exported")),
    }
}

fn find_problems(g: &Graph, found: &mut dyn FnMut(&Node)) {
    for (_, n) in g.nodes() {
        match &n.op {
            Op::Const(_) => {}
            Op::If(op) => [&op.then, &op.other].into_iter().for_each(|body| find_problems(body, found)),
            Op::Loop(op) => find_problems(&op.body, found),
            Op::Scan(op) => find_problems(&op.body, found),
            op => {
                let [x, y] = [&n.inputs, &n.outputs].map(|vs| types(g, vs));
                if op.compute(&x, &y).is_none() {
                    found(n);
                }
            }
        }
    }
}

/// Types of values.
pub(crate) fn types(g: &Graph, values: &[ValueId]) -> Vec<Type> {
    values.iter().map(|v| g.ty(*v).clone()).collect()
}

impl Emitter {
    /// Writes a graph's nodes, given its inputs; gives its outputs, of the types that the graph gives them.
    pub fn graph(&mut self, g: &Graph, inputs: &[Value]) -> Result<Vec<Value>> {
        let mut values: HashMap<ValueId, Value> =
            g.inputs.iter().zip(inputs).map(|(p, v)| (p.value, v.clone())).collect();
        for (_, n) in g.nodes() {
            self.w.locate(&n.origin);
            let x: Vec<Value> = n.inputs.iter().filter_map(|v| values.get(v).cloned()).collect();
            ensure!(x.len() == n.inputs.len(), "an operand of {} is not defined", n.op.keyword());
            let y = self.node(g, n, &x).map_err(|e| n.origin.iter().fold(e, |e, o| e.node(o.as_ref())))?;
            for (v, value) in n.outputs.iter().zip(y) {
                let ty = g.ty(*v).clone();
                for (axis, d) in ty.dims.iter().enumerate() {
                    if let Some(s) = d.as_sym().filter(|s| !self.symbols.knows(s)) {
                        self.define(s, &value, axis);
                    }
                }
                values.insert(*v, self.as_type(&value, &ty));
            }
        }
        let output = |p: &Port| match values.get(&p.value) {
            Some(v) => Ok(v.clone()),
            None => bail!("output {:?} is not defined", p.name),
        };
        g.outputs.iter().map(output).collect()
    }

    fn node(&mut self, g: &Graph, n: &Node, x: &[Value]) -> Result<Vec<Value>> {
        match &n.op {
            Op::Const(c) => {
                let ty = g.ty(n.outputs[0]).clone();
                Ok(vec![Value { def: Def::Constant(c.value.clone()), ty }])
            }
            Op::If(op) => self.choice(op, x, &types(g, &n.outputs)),
            Op::Loop(op) => self.repetition(op, x, &types(g, &n.outputs)),
            Op::Scan(op) => self.walk(op, x, &types(g, &n.outputs)),
            op => {
                let inputs = types(g, &n.inputs);
                op.requires(&inputs).iter().for_each(|d| self.require(d));
                match op.compute(&inputs, &types(g, &n.outputs)) {
                    Some(c) => Ok(self.compute(&c, x)),
                    None => bail!("operator {} has no form in MLIR", op.keyword()),
                }
            }
        }
    }

    /// Ends the program unless an expression is at least 0, as far as its symbols are known.
    fn require(&mut self, d: &Dim) {
        let is_known = d.symbols().iter().all(|s| self.symbols.knows(s));
        if d.is_not_negative() || d.as_const().is_some() || !is_known {
            return;
        }
        let (value, zero) = (self.symbols.index(&mut self.w, d), self.w.index(0));
        let holds = self.w.value(format!("arith.cmpi sge, {value}, {zero} : index"));
        let message = quoted(&format!("the inputs' dimensions don't fit the model, which requires {d} >= 0"));
        self.w.once(&format!("cf.assert {holds}, {message}"));
    }

    /// What a compute definition gives for these operands.
    fn compute(&mut self, c: &Compute, inputs: &[Value]) -> Vec<Value> {
        let mut stages = Vec::new();
        for s in &c.stages {
            let value = self.stage(c, &rectangular(s), inputs, &stages);
            stages.push(value);
        }
        c.outputs.iter().map(|k| stages[*k].clone()).collect()
    }

    fn stage(&mut self, c: &Compute, s: &Stage, inputs: &[Value], stages: &[Value]) -> Value {
        let body = Body { compute: c, stage: s, inputs, stages, loops: Loops::new(s, false) };
        if let Some(moved) = self.movement(&body) {
            return moved;
        }
        match split(s) {
            Some(parts) => {
                let loops = Loops::new(&parts, true);
                let value = self.linalg(&Body { stage: &parts, loops, ..body });
                self.reshape(&value, &s.ty().dims)
            }
            None => self.linalg(&body),
        }
    }

    /// The name of a tensor; constants are written when they are first asked for.
    pub fn name(&mut self, v: &Value) -> String {
        match &v.def {
            Def::Name(name) => name.clone(),
            Def::Constant(t) => self.blobs.constant(&mut self.w, t),
        }
    }

    /// The value under another name for its type: with more or less of its extents known.
    pub fn as_type(&mut self, v: &Value, ty: &Type) -> Value {
        if tensor(&v.ty) == tensor(ty) {
            return Value { ty: ty.clone(), ..v.clone() };
        }
        let name = self.name(v);
        Value::new(self.cast(&name, &v.ty, ty), ty.clone())
    }

    /// Gives a symbol the extent of an axis.
    pub fn define(&mut self, s: &Sym, of: &Value, axis: usize) {
        let (x, k) = (self.name(of), self.w.index(axis as i64));
        let dim = self.w.value(format!("tensor.dim {x}, {k} : {}", tensor(&of.ty)));
        self.symbols.define(s, dim);
    }
}
