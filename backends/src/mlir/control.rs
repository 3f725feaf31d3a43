//! Control flow as regions of `scf`: `if`, `while` and `for`.
//!
//! Bodies are closed graphs. What they are passed takes the types that they declare, in which extents that are known
//! outside are known too; what they give takes the types that the results have outside.

use super::graph::{Emitter, Value};
use super::index::binary;
use super::text::tensor;
use aic_ir::dim::{Dim, Sym};
use aic_ir::error::Result;
use aic_ir::graph::{Graph, Port};
use aic_ir::kernel::VType;
use aic_ir::op::{If, Loop, Scan};
use aic_ir::types::Type;
use aic_ir::{bail, ensure};
use std::collections::BTreeSet;

impl Emitter {
    /// `scf.if`; `x` are the condition and what both bodies are passed.
    pub fn choice(&mut self, op: &If, x: &[Value], y: &[Type]) -> Result<Vec<Value>> {
        let cond = self.scalar(&x[0]);
        let passed = &x[1..];
        let types: Vec<String> = y.iter().map(tensor).collect();
        let types = types.join(", ");
        let (left, results) = self.results(y);
        self.w.open(&format!("{left}scf.if {cond} -> ({types}) {{"));
        for (k, body) in [&op.then, &op.other].into_iter().enumerate() {
            if k == 1 {
                self.w.reopen("} else {");
            }
            let values = self.body(&bound(body, passed, &BTreeSet::new()), passed)?;
            let names = self.names_as(&values, y);
            self.w.line(&format!("scf.yield {} : {types}", names.join(", ")));
        }
        self.w.close("}");
        Ok(results)
    }

    /// `scf.while`; `x` are the number of iterations, the condition, the states, and what is captured.
    pub fn repetition(&mut self, op: &Loop, x: &[Value], y: &[Type]) -> Result<Vec<Value>> {
        let body = bound(&op.body, x, &varying(&op.body, 2, 1, op.states));
        let states: Vec<Type> = types(&body, &body.inputs[2..2 + op.states]);
        let is_counted = self.knows(&op.count);
        let mut carried = states.clone();
        let mut start: Vec<Value> = x[2..].iter().zip(&states).map(|(v, ty)| self.as_type(v, ty)).collect();
        for ty in &y[op.states..] {
            let mut ty = ty.clone();
            self.check_known(&ty.dims[1..])?;
            if !is_counted {
                ty.dims[0] = 0.into();
            }
            let rows = self.empty(&ty);
            if !is_counted {
                ty.dims[0] = op.count.clone();
            }
            start.push(self.as_type(&rows, &ty));
            carried.push(ty);
        }

        let (trip, cond) = (self.scalar(&x[0]), self.scalar(&x[1]));
        let trip = self.w.value(format!("arith.index_cast {trip} : i64 to index"));
        let zero = self.w.index(0);
        let kinds: Vec<String> =
            ["index".to_owned(), "i1".to_owned()].into_iter().chain(carried.iter().map(tensor)).collect();
        let initial: Vec<String> =
            [zero, cond].into_iter().chain(start.iter().map(|v| self.name(v)).collect::<Vec<_>>()).collect();
        let before: Vec<String> = kinds.iter().map(|_| self.w.fresh()).collect();
        let result = self.w.fresh();
        let assigned: Vec<String> = before.iter().zip(&initial).map(|(a, b)| format!("{a} = {b}")).collect();
        let kinds_text = kinds.join(", ");
        self.w.open(&format!(
            "{result}:{} = scf.while ({}) : ({kinds_text}) -> ({kinds_text}) {{",
            kinds.len(),
            assigned.join(", ")
        ));
        let more = self.w.value(format!("arith.cmpi slt, {}, {trip} : index", before[0]));
        let more = self.w.value(format!("arith.andi {more}, {} : i1", before[1]));
        self.w.line(&format!("scf.condition({more}) {} : {kinds_text}", before.join(", ")));
        self.w.reopen("} do {");
        let now: Vec<String> = kinds.iter().map(|_| self.w.fresh()).collect();
        self.w.block(&now.iter().cloned().zip(kinds.clone()).collect::<Vec<_>>());

        let number = self.w.value(format!("arith.index_cast {} : index to i64", now[0]));
        let number = self.w.value(format!("tensor.from_elements {number} : tensor<i64>"));
        let running = self.w.value(format!("tensor.from_elements {} : tensor<i1>", now[1]));
        let mut passed = vec![Value::new(number, x[0].ty.clone()), Value::new(running, x[1].ty.clone())];
        let state = |(name, ty): (&String, &Type)| Value::new(name.clone(), ty.clone());
        let all: Vec<Value> = now[2..].iter().zip(&carried).map(state).collect();
        passed.extend_from_slice(&all[..op.states]);
        passed.extend_from_slice(&x[2 + op.states..]);
        let given = self.body(&body, &passed)?;
        let mut next = vec![binary_one(self, &now[0]), self.scalar(&given[0])];
        next.extend(self.names_as(&given[1..1 + op.states], &states));
        for (row, rows) in given[1 + op.states..].iter().zip(&all[op.states..]) {
            let rows = match is_counted {
                true => self.put(row, rows, 0, &now[0]),
                false => self.append(row, rows),
            };
            next.push(rows);
        }
        self.w.line(&format!("scf.yield {} : {kinds_text}", next.join(", ")));
        self.w.close("}");
        if let Some(s) = op.count.as_sym().filter(|s| !self.symbols.knows(s)) {
            self.symbols.define(s, format!("{result}#0"));
        }
        let value = |(k, ty): (usize, &Type)| Value::new(format!("{result}#{}", k + 2), ty.clone());
        Ok(carried.iter().enumerate().map(value).collect())
    }

    /// `scf.for`; `x` are the states, what is walked along, and what is captured.
    pub fn walk(&mut self, op: &Scan, x: &[Value], y: &[Type]) -> Result<Vec<Value>> {
        let n = op.states + op.scanned;
        let steps = x[op.states].ty.dims[op.input_axes[0]].clone();
        let mut slices = x.to_vec();
        for (v, axis) in slices[op.states..n].iter_mut().zip(&op.input_axes) {
            v.ty.dims.remove(*axis);
        }
        let body = bound(&op.body, &slices, &varying(&op.body, 0, 0, op.states));
        let mut carried = types(&body, &body.inputs[..op.states]);
        let mut start: Vec<Value> = x.iter().zip(&carried).map(|(v, ty)| self.as_type(v, ty)).collect();
        for ty in &y[op.states..] {
            self.check_known(&ty.dims)?;
            start.push(self.empty(ty));
            carried.push(ty.clone());
        }

        let (end, zero, one) = (self.symbols.index(&mut self.w, &steps), self.w.index(0), self.w.index(1));
        let kinds: Vec<String> = carried.iter().map(tensor).collect();
        let kinds = kinds.join(", ");
        let initial: Vec<String> = start.iter().map(|v| self.name(v)).collect();
        let now: Vec<String> = carried.iter().map(|_| self.w.fresh()).collect();
        let assigned: Vec<String> = now.iter().zip(&initial).map(|(a, b)| format!("{a} = {b}")).collect();
        let (left, results) = self.results(&carried);
        let step = self.w.fresh();
        self.w.open(&format!(
            "{left}scf.for {step} = {zero} to {end} step {one} iter_args({}) -> ({kinds}) {{",
            assigned.join(", ")
        ));
        let all: Vec<Value> =
            now.iter().zip(&carried).map(|(name, ty)| Value::new(name.clone(), ty.clone())).collect();
        let last = self.symbols.index(&mut self.w, &(steps - 1.into()));
        let from_end = binary(&mut self.w, "arith.subi", &last, &step);
        let at = |reverse: bool| if reverse { from_end.clone() } else { step.clone() };
        let mut passed = all[..op.states].to_vec();
        for (k, v) in x[op.states..n].iter().enumerate() {
            passed.push(self.take(v, op.input_axes[k], &at(op.input_reverse[k])));
        }
        passed.extend_from_slice(&x[n..]);
        let given = self.body(&body, &passed)?;
        let mut next = self.names_as(&given[..op.states], &carried);
        for (k, (row, rows)) in given[op.states..].iter().zip(&all[op.states..]).enumerate() {
            next.push(self.put(row, rows, op.output_axes[k], &at(op.output_reverse[k])));
        }
        self.w.line(&format!("scf.yield {} : {kinds}", next.join(", ")));
        self.w.close("}");
        Ok(results)
    }

    /// A body's nodes, with symbols of its own.
    fn body(&mut self, g: &Graph, passed: &[Value]) -> Result<Vec<Value>> {
        ensure!(g.inputs.len() == passed.len(), "the body {} takes {} values", g.name, g.inputs.len());
        let inputs: Vec<Value> =
            g.inputs.iter().zip(passed).map(|(p, v)| self.as_type(v, g.ty(p.value))).collect();
        let outer = std::mem::take(&mut self.symbols);
        for (s, k, axis) in g.input_symbols() {
            self.define(&s, &inputs[k], axis);
        }
        let given = self.graph(g, &inputs);
        self.symbols = outer;
        given
    }

    /// What stands before an operation with results of these types, and the results.
    fn results(&mut self, types: &[Type]) -> (String, Vec<Value>) {
        let name = self.w.fresh();
        match types {
            [] => (String::new(), Vec::new()),
            [ty] => (format!("{name} = "), vec![Value::new(name, ty.clone())]),
            many => {
                let value = |(k, ty): (usize, &Type)| Value::new(format!("{name}#{k}"), ty.clone());
                (format!("{name}:{} = ", many.len()), many.iter().enumerate().map(value).collect())
            }
        }
    }

    fn names_as(&mut self, values: &[Value], types: &[Type]) -> Vec<String> {
        let casts: Vec<Value> = values.iter().zip(types).map(|(v, ty)| self.as_type(v, ty)).collect();
        casts.iter().map(|v| self.name(v)).collect()
    }

    /// The element of a tensor of rank 0.
    fn scalar(&mut self, v: &Value) -> String {
        match v.scalar() {
            Some(value) => self.w.scalar(VType::scalar(v.ty.dtype), value),
            None => self.extract(v, &[]),
        }
    }

    fn knows(&self, d: &Dim) -> bool {
        d.symbols().iter().all(|s| self.symbols.knows(s))
    }

    fn check_known(&self, dims: &[Dim]) -> Result<()> {
        match dims.iter().find(|d| !self.knows(d)) {
            Some(d) => bail!("elements are collected whose extent {d} is not known before the loop"),
            None => Ok(()),
        }
    }

    /// Element `at` along an axis, without that axis.
    fn take(&mut self, from: &Value, axis: usize, at: &str) -> Value {
        let mut dims = from.ty.dims.clone();
        dims.remove(axis);
        let ty = Type::new(from.ty.dtype, dims);
        let (x, place) = (self.name(from), self.place(&from.ty.dims, axis, at));
        let (from, to) = (tensor(&from.ty), tensor(&ty));
        Value::new(self.w.value(format!("tensor.extract_slice {x}{place} : {from} to {to}")), ty)
    }

    /// `into` with element `at` along an axis replaced.
    fn put(&mut self, element: &Value, into: &Value, axis: usize, at: &str) -> String {
        let mut dims = into.ty.dims.clone();
        dims.remove(axis);
        let element = self.as_type(element, &Type::new(into.ty.dtype, dims));
        let (x, y, place) = (self.name(&element), self.name(into), self.place(&into.ty.dims, axis, at));
        let (from, to) = (tensor(&element.ty), tensor(&into.ty));
        self.w.value(format!("tensor.insert_slice {x} into {y}{place} : {from} into {to}"))
    }

    /// Offsets, sizes and steps of element `at` along an axis.
    fn place(&mut self, dims: &[Dim], axis: usize, at: &str) -> String {
        let offsets: Vec<&str> = (0..dims.len()).map(|k| if k == axis { at } else { "0" }).collect();
        let mut one = dims.to_vec();
        one[axis] = 1.into();
        let steps = vec!["1"; dims.len()];
        format!("[{}] [{}] [{}]", offsets.join(", "), self.sizes(&one), steps.join(", "))
    }

    /// `rows` and one row more.
    fn append(&mut self, row: &Value, rows: &Value) -> String {
        let mut dims = rows.ty.dims.clone();
        dims[0] = 1.into();
        let row = self.as_type(row, &Type::new(row.ty.dtype, dims[1..].to_vec()));
        let row = self.reshape(&row, &dims);
        let (x, y) = (self.name(&row), self.name(rows));
        let (a, b) = (tensor(&row.ty), tensor(&rows.ty));
        self.w.value(format!("tensor.concat dim(0) {y}, {x} : ({b}, {a}) -> {b}"))
    }
}

fn binary_one(e: &mut Emitter, i: &str) -> String {
    let one = e.w.index(1);
    binary(&mut e.w, "arith.addi", i, &one)
}

fn types(g: &Graph, ports: &[Port]) -> Vec<Type> {
    ports.iter().map(|p| g.ty(p.value).clone()).collect()
}

/// Symbols of states' extents that change from iteration to iteration. States are inputs from `first_in` on and outputs
/// from `first_out` on.
fn varying(body: &Graph, first_in: usize, first_out: usize, n: usize) -> BTreeSet<Sym> {
    let mut out = BTreeSet::new();
    for (a, b) in body.inputs.iter().skip(first_in).zip(body.outputs.iter().skip(first_out)).take(n) {
        let dims = body.ty(a.value).dims.iter().zip(&body.ty(b.value).dims);
        out.extend(dims.filter(|(a, b)| a != b).filter_map(|(a, _)| a.as_sym().cloned()));
    }
    out
}

/// The body with those extents known that are known of what it is passed, except the varying ones.
fn bound(body: &Graph, passed: &[Value], varying: &BTreeSet<Sym>) -> Graph {
    let declared = body.inputs.iter().map(|p| body.ty(p.value));
    let pairs = declared.zip(passed).flat_map(|(to, from)| to.dims.iter().zip(&from.ty.dims));
    let known: Vec<(Sym, Dim)> = pairs
        .filter(|(_, from)| from.as_const().is_some())
        .filter_map(|(to, from)| Some((to.as_sym()?.clone(), from.clone())))
        .filter(|(s, _)| !varying.contains(s))
        .collect();
    body.subst(&|s| known.iter().find(|(k, _)| k == s).map(|(_, d)| d.clone()))
}
