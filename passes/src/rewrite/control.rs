//! Operators with bodies: bodies are rewritten like graphs, constants that they are passed are visible in them, and an
//! `if` whose condition is known is replaced by its branch.

use super::driver::Rewriter;
use aic_ir::dim::{Dim, Sym};
use aic_ir::error::Result;
use aic_ir::graph::{Graph, Node, ValueId};
use aic_ir::op::{If, Loop, Op, Scan};
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// How a rewrite that takes a branch is counted.
const TAKE_BRANCH: &str = "take-branch";
/// How a rewrite that moves a constant into a body is counted.
const MOVE_CONSTANT: &str = "constant-into-body";

impl Rewriter<'_, '_> {
    /// Rewrites bodies; `None` if nothing changes.
    pub(super) fn bodies(&mut self, g: &Graph, outside: &HashSet<Sym>) -> Result<Option<Graph>> {
        if !g.nodes().any(|(_, n)| is_control(&n.op)) {
            return Ok(None);
        }
        let mut known = outside.clone();
        g.inputs.iter().for_each(|p| define(g.ty(p.value), &mut known));
        let mut changed = false;
        let mut extents: HashMap<Sym, Dim> = HashMap::new();
        let out = g.rebuild(|out, _, n, x| {
            let values = match self.branch(out, g, n, x, &mut known, &mut extents)? {
                Some(values) => {
                    changed = true;
                    values
                }
                None => {
                    let new = self.control(out, n, x, &known)?;
                    changed |= new.is_some();
                    let (op, x) = new.unwrap_or_else(|| (n.op.clone(), x.to_vec()));
                    let types = n.outputs.iter().map(|v| g.ty(*v).clone()).collect();
                    out.add_typed(op, &x, types, &n.origin)
                }
            };
            n.outputs.iter().for_each(|v| define(g.ty(*v), &mut known));
            Ok(values)
        })?;
        Ok(changed.then(|| out.subst(&|s| extents.get(s).cloned())))
    }

    /// The branch of an `if` whose condition is known, at the end of `out`; `extents` gets what was a symbol because
    /// the branches didn't agree on it.
    fn branch(
        &mut self,
        out: &mut Graph,
        g: &Graph,
        n: &Node,
        x: &[ValueId],
        known: &mut HashSet<Sym>,
        extents: &mut HashMap<Sym, Dim>,
    ) -> Result<Option<Vec<ValueId>>> {
        let Op::If(op) = &n.op else { return Ok(None) };
        let Some(condition) = out.as_const(x[0]) else { return Ok(None) };
        let body = if condition.get(0).as_bool() { &op.then } else { &op.other };
        let Some(inner) = bound(body, out, &x[1..], known) else { return Ok(None) };
        let mut found = HashMap::new();
        for (v, p) in n.outputs.iter().zip(&inner.outputs) {
            for (old, new) in g.ty(*v).dims.iter().zip(&inner.ty(p.value).dims).filter(|(a, b)| a != b) {
                let Some(s) = old.as_sym() else { return Ok(None) };
                found.insert(s.clone(), new.clone());
            }
        }
        if !self.cx.spend(|| TAKE_BRANCH.into()) {
            return Ok(None);
        }
        extents.extend(found);
        Ok(Some(appended(out, &inner, &x[1..], n, known)))
    }

    /// An operator with its bodies rewritten, and the operands that they still take; `None` if nothing changes.
    fn control(
        &mut self,
        out: &Graph,
        n: &Node,
        x: &[ValueId],
        known: &HashSet<Sym>,
    ) -> Result<Option<(Op, Vec<ValueId>)>> {
        let (mut op, first) = match &n.op {
            Op::If(op) => (Op::If(op.clone()), 1),
            Op::Loop(op) => (Op::Loop(op.clone()), 2 + op.states),
            Op::Scan(op) => (Op::Scan(op.clone()), op.states + op.scanned),
            _ => return Ok(None),
        };
        // Body input `k - passed` is operand `k`.
        let passed = usize::from(matches!(op, Op::If(_)));
        let constants: Vec<(usize, &Tensor)> = x
            .iter()
            .enumerate()
            .skip(first)
            .filter_map(|(k, v)| out.as_const(*v).map(|t| (k - passed, t)))
            .collect();
        let mut changed = false;
        for body in bodies_mut(&mut op) {
            let with_constants = self.with_constants(body, &constants);
            let new = self.graph(with_constants.as_ref().unwrap_or(body), known)?;
            if let Some(new) = new.or(with_constants) {
                *body = Arc::new(new);
                changed = true;
            }
        }
        let mut x = x.to_vec();
        for k in (first..x.len()).rev() {
            if bodies_mut(&mut op).iter().all(|b| can_drop(b, k - passed)) {
                for body in bodies_mut(&mut op) {
                    *body = Arc::new(without_input(body, k - passed));
                }
                x.remove(k);
                changed = true;
            }
        }
        Ok(changed.then_some((op, x)))
    }

    /// The body with constants in the place of inputs, which stay, without a use; `None` if there is no such input.
    fn with_constants(&mut self, body: &Graph, constants: &[(usize, &Tensor)]) -> Option<Graph> {
        let is_used = |k: usize| is_used(body, body.inputs[k].value);
        let mut new: Vec<(usize, &Tensor)> = Vec::new();
        for (k, t) in constants {
            let fits = is_used(*k) && same_extents(body.ty(body.inputs[*k].value), t);
            if fits && self.cx.spend(|| MOVE_CONSTANT.into()) {
                new.push((*k, t));
            }
        }
        if new.is_empty() {
            return None;
        }
        let mut out = Graph::new(&body.name);
        out.requires = body.requires.clone();
        let mut map: HashMap<ValueId, ValueId> = HashMap::new();
        for p in &body.inputs {
            map.insert(p.value, out.add_input(&p.name, body.ty(p.value).clone()));
        }
        for (k, t) in new {
            map.insert(body.inputs[k].value, out.add_const(t.clone(), &[]));
        }
        append(&mut out, body, &mut map, &[]);
        body.outputs.iter().for_each(|p| out.add_output(&p.name, map[&p.value]));
        Some(out)
    }
}

fn is_control(op: &Op) -> bool {
    matches!(op, Op::If(_) | Op::Loop(_) | Op::Scan(_))
}

fn bodies_mut(op: &mut Op) -> Vec<&mut Arc<Graph>> {
    match op {
        Op::If(If { then, other, .. }) => vec![then, other],
        Op::Loop(Loop { body, .. }) | Op::Scan(Scan { body, .. }) => vec![body],
        _ => Vec::new(),
    }
}

/// Symbols that a type gives a value to.
fn define(ty: &Type, known: &mut HashSet<Sym>) {
    known.extend(ty.dims.iter().filter_map(Dim::as_sym).cloned());
}

fn same_extents(ty: &Type, t: &Tensor) -> bool {
    *ty == Type::of(t.dtype(), t.shape())
}

fn is_used(g: &Graph, v: ValueId) -> bool {
    g.nodes().any(|(_, n)| n.inputs.contains(&v)) || g.outputs.iter().any(|p| p.value == v)
}

/// Whether an input of a body is of no use: no node takes it, and it gives no symbol a value.
fn can_drop(body: &Graph, k: usize) -> bool {
    let v = body.inputs[k].value;
    !is_used(body, v) && body.ty(v).dims.iter().all(|d| d.as_const().is_some())
}

fn without_input(body: &Graph, dropped: usize) -> Graph {
    let mut out = Graph::new(&body.name);
    out.requires = body.requires.clone();
    let mut map: HashMap<ValueId, ValueId> = HashMap::new();
    for (_, p) in body.inputs.iter().enumerate().filter(|(k, _)| *k != dropped) {
        map.insert(p.value, out.add_input(&p.name, body.ty(p.value).clone()));
    }
    append(&mut out, body, &mut map, &[]);
    body.outputs.iter().for_each(|p| out.add_output(&p.name, map[&p.value]));
    out
}

/// Adds the nodes of a graph to another one; `names` are added to nodes that make an output.
fn append(out: &mut Graph, g: &Graph, map: &mut HashMap<ValueId, ValueId>, names: &[Arc<str>]) {
    let is_output = |v: &ValueId| g.outputs.iter().any(|p| p.value == *v);
    for (_, n) in g.nodes() {
        let x: Vec<ValueId> = n.inputs.iter().map(|v| map[v]).collect();
        let types = n.outputs.iter().map(|v| g.ty(*v).clone()).collect();
        let mut origin = n.origin.clone();
        if n.outputs.iter().any(is_output) {
            origin.extend(names.iter().filter(|name| !n.origin.contains(name)).cloned());
        }
        let y = out.add_typed(n.op.clone(), &x, types, &origin);
        map.extend(n.outputs.iter().copied().zip(y));
    }
}

/// A body in terms of the symbols outside; `None` where its types wouldn't fit there.
fn bound(body: &Graph, out: &Graph, x: &[ValueId], known: &HashSet<Sym>) -> Option<Graph> {
    let mut binding: HashMap<Sym, Dim> = HashMap::new();
    for (p, v) in body.inputs.iter().zip(x) {
        for (inner, outer) in body.ty(p.value).dims.iter().zip(&out.ty(*v).dims) {
            if let Some(s) = inner.as_sym() {
                binding.entry(s.clone()).or_insert_with(|| outer.clone());
            }
        }
    }
    let bound = body.subst(&|s| binding.get(s).cloned());
    let fits = bound.inputs.iter().zip(x).all(|(p, v)| bound.ty(p.value) == out.ty(*v));
    (fits && body.requires.is_empty() && !defined(&bound).iter().any(|s| known.contains(s))).then_some(bound)
}

/// Symbols to which data give values, which must be new wherever the nodes go.
fn defined(g: &Graph) -> HashSet<Sym> {
    let mut found = HashSet::new();
    for (_, n) in g.nodes() {
        if is_control(&n.op) || matches!(n.op, Op::NonZero(_) | Op::Unique(_) | Op::Nms(_)) {
            let (mut operands, mut results) = (HashSet::new(), HashSet::new());
            n.inputs.iter().for_each(|v| define(g.ty(*v), &mut operands));
            n.outputs.iter().for_each(|v| define(g.ty(*v), &mut results));
            found.extend(results.difference(&operands).cloned());
        }
    }
    found
}

/// Adds a branch to a graph; its outputs there.
fn appended(
    out: &mut Graph,
    inner: &Graph,
    x: &[ValueId],
    n: &Node,
    known: &mut HashSet<Sym>,
) -> Vec<ValueId> {
    let mut map: HashMap<ValueId, ValueId> =
        inner.inputs.iter().map(|p| p.value).zip(x.iter().copied()).collect();
    append(out, inner, &mut map, &n.origin);
    inner.nodes().for_each(|(_, n)| n.outputs.iter().for_each(|v| define(inner.ty(*v), known)));
    inner.outputs.iter().map(|p| map[&p.value]).collect()
}
