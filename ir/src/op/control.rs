//! Control flow: operators with bodies.
//!
//! A body is a closed graph: what it takes from outside is passed as explicit operands. Its inputs' dims may be
//! symbols of its own; they are bound to the operands' dims (as far as those are known), and the results' dims are
//! the body's under that binding. A state whose extent changes from one iteration to the next has a symbol there
//! that no other value depends on; in the results that symbol stands for the final extent.

use super::collect::{Collected, element, empty_element};
use super::{Operand, Operator, Rng, Sample, Values, elementwise, op};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::error::Result;
use crate::graph::{Graph, Port};
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::Tensor;
use crate::types::Type;
use crate::{bail, ensure, eval};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

op! {
    /// One of two bodies, both of which take `xs` and give as many results: ONNX `If`. Only the one that `cond`
    /// (`bool[]`) chooses is evaluated.
    If = "if"(cond; xs ..) {
        /// The body for true.
        then: Arc<Graph>,
        /// The body for false.
        other: Arc<Graph>,
        /// Where the bodies disagree on the extent of axis `a` of result `k`, it is the symbol `NAME_k_a`, where
        /// `NAME` is this fresh symbol; any number will do where they agree.
        fresh: Dim,
    }
}

op! {
    /// Repetition while `cond` is true and `trip` iterations aren't done: ONNX `Loop`.
    ///
    /// `trip` is `i64[]` (its greatest value for no limit), `cond` is `bool[]`; `xs` are the initial states, then
    /// captured values. The body takes the iteration's number (`i64[]`), the condition, the states and the captured
    /// values; it gives the condition for the next iteration, the next states, and elements to be collected. Results
    /// are the final states, then the collected elements stacked along a new first axis.
    Loop = "loop"(trip, cond; xs ..) {
        /// What is repeated.
        body: Arc<Graph>,
        /// The number of states.
        states: usize,
        /// The number of iterations done: a number, or a fresh symbol.
        count: Dim,
    }
}

op! {
    /// A walk along an axis of some operands: ONNX `Scan`.
    ///
    /// `xs` are the initial states, then the operands walked along (of equal extents along their axes), then captured
    /// values. The body takes the states, one slice of each walked operand (without that axis) and the captured
    /// values; it gives the next states and elements to be collected. Results are the final states, then the
    /// collected elements stacked along a new axis.
    Scan = "scan"(; xs ..) {
        /// What is done at each step.
        body: Arc<Graph>,
        /// The number of states.
        states: usize,
        /// The number of operands walked along.
        scanned: usize,
        /// The axis of each operand walked along.
        input_axes: Vec<usize>,
        /// Whether each is walked along from its end.
        input_reverse: Vec<bool>,
        /// The new axis of each result of collected elements.
        output_axes: Vec<usize>,
        /// Whether each is filled from its end.
        output_reverse: Vec<bool>,
    }
}

/// The types of a body's ports.
fn types<'a>(body: &'a Graph, ports: &'a [Port]) -> impl Iterator<Item = &'a Type> {
    ports.iter().map(|p| body.ty(p.value))
}

/// Values for the symbols of a body's inputs, from the types of what is passed.
fn bind(body: &Graph, passed: &[Type], varying: &HashSet<Sym>) -> Result<HashMap<Sym, Dim>> {
    let declared: Vec<&Type> = types(body, &body.inputs).collect();
    ensure!(
        declared.len() == passed.len(),
        "the body {} takes {} values but is passed {}",
        body.name,
        declared.len(),
        passed.len()
    );
    let mut binding = HashMap::new();
    for (k, (to, from)) in declared.iter().zip(passed).enumerate() {
        ensure!(
            to.dtype == from.dtype && to.rank() == from.rank(),
            "input {k} of the body {} is {to} but is passed {from}",
            body.name
        );
        for (s, d) in to.dims.iter().zip(&from.dims) {
            if let Some(s) = s.as_sym().filter(|s| !varying.contains(s)) {
                binding.entry(s.clone()).or_insert_with(|| d.clone());
            }
        }
    }
    for (k, (to, from)) in declared.iter().zip(passed).enumerate() {
        for (d, found) in to.dims.iter().zip(&from.dims) {
            let expected = d.subst(&|s| binding.get(s).cloned());
            let differ = expected.as_const().is_some() && found.as_const().is_some() && expected != *found;
            ensure!(!differ, "input {k} of the body {} is {to} but is passed {from}", body.name);
        }
    }
    Ok(binding)
}

/// Symbols of the extents that change from iteration to iteration, given the body's states in and out.
fn varying(body: &Graph, before: &[&Type], after: &[&Type]) -> Result<HashSet<Sym>> {
    let mut out = HashSet::new();
    for (k, (a, b)) in before.iter().zip(after).enumerate() {
        ensure!(
            a.dtype == b.dtype && a.rank() == b.rank(),
            "state {k} of the body {} is {a} but becomes {b}",
            body.name
        );
        for (from, to) in a.dims.iter().zip(&b.dims).filter(|(from, to)| from != to) {
            let fixed = from.as_const().is_some() && to.as_const().is_some();
            ensure!(
                !fixed,
                "state {k} of the body {} is {a} but becomes {b}; an extent that changes must be a symbol",
                body.name
            );
            out.extend(from.as_sym().cloned());
        }
    }
    Ok(out)
}

fn owned(x: &[&Type]) -> Vec<Type> {
    x.iter().map(|&t| t.clone()).collect()
}

fn check_scalar(name: &str, dtype: DType, found: &Type) -> Result<()> {
    ensure!(found.dtype == dtype && found.rank() == 0, "{name} must be {dtype}[], found {found}");
    Ok(())
}

impl Operator for If {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        check_scalar("the condition", DType::Bool, x[0])?;
        let passed = owned(&x[1..]);
        let results = |body: &Graph| -> Result<Vec<Type>> {
            let binding = bind(body, &passed, &HashSet::new())?;
            Ok(types(body, &body.outputs).map(|t| t.subst(&|s| binding.get(s).cloned())).collect())
        };
        let (then, other) = (results(&self.then)?, results(&self.other)?);
        ensure!(
            then.len() == other.len(),
            "the bodies give {} and {} results; expected as many",
            then.len(),
            other.len()
        );
        then.iter().zip(&other).enumerate().map(|(k, (a, b))| self.merge(k, a, b)).collect()
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let body = if x[0].get(0).as_bool() { &self.then } else { &self.other };
        eval::graph(body, &x[1..])
    }

    fn sample(rng: &mut Rng) -> Sample {
        let shape = rng.shape(2);
        let ty = Type::new(DType::F32, vec![Dim::named("rows"), Dim::named("columns")]);
        let body = |f: ScalarFn| {
            let mut g = Graph::new(f.keyword());
            let inputs = [g.add_input("a", ty.clone()), g.add_input("b", ty.clone())];
            let y = g.add_typed(elementwise::Elementwise { f }.into(), &inputs, vec![ty.clone()], &[]);
            g.add_output("y", y[0]);
            Arc::new(g)
        };
        let op = If { then: body(ScalarFn::Add), other: body(ScalarFn::Mul), fresh: 0.into() }.into();
        let x = Operand::any(DType::F32, shape);
        Sample { op, operands: vec![Operand::any(DType::Bool, Vec::new()), x.clone(), x] }
    }
}

impl If {
    /// The type of result `k` from its types in the two bodies.
    fn merge(&self, k: usize, a: &Type, b: &Type) -> Result<Type> {
        ensure!(
            a.dtype == b.dtype && a.rank() == b.rank(),
            "result {k} is {a} in one body and {b} in the other; expected one element type and rank"
        );
        let mut dims = Vec::new();
        for (axis, (d, e)) in a.dims.iter().zip(&b.dims).enumerate() {
            dims.push(match self.fresh.as_sym() {
                _ if d == e => d.clone(),
                Some(s) => Dim::named(&format!("{s}_{k}_{axis}")),
                None => bail!("result {k} is {a} in one body and {b} in the other, and fresh is no symbol"),
            });
        }
        Ok(Type::new(a.dtype, dims))
    }
}

impl Operator for Loop {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        check_scalar("the trip count", DType::I64, x[0])?;
        check_scalar("the condition", DType::Bool, x[1])?;
        let body = &*self.body;
        let (inputs, outputs): (Vec<_>, Vec<_>) =
            (types(body, &body.inputs).collect(), types(body, &body.outputs).collect());
        ensure!(
            inputs.len() >= 2 + self.states && outputs.len() > self.states,
            "the body {} has {} inputs and {} outputs; {} states take 2 and 1 more, or above",
            body.name,
            inputs.len(),
            outputs.len(),
            self.states
        );
        check_scalar("the body's condition", DType::Bool, outputs[0])?;
        let states = &inputs[2..2 + self.states];
        let varying = varying(body, states, &outputs[1..])?;
        let binding = bind(body, &owned(x), &varying)?;
        let known = |t: &Type| t.subst(&|s| binding.get(s).cloned());
        let mut results: Vec<Type> = states.iter().map(|t| known(t)).collect();
        for t in &outputs[1 + self.states..] {
            let mut t = known(t);
            t.dims.insert(0, self.count.clone());
            results.push(t);
        }
        Ok(results)
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let trip = x[0].get(0).as_i64();
        let mut inputs = x.to_vec();
        inputs[0] = Tensor::scalar(DType::I64, Scalar::I(0));
        let mut collected = Collected::new(&self.body, 1 + self.states, &inputs)?;
        let mut i = 0;
        while i < trip && inputs[1].get(0).as_bool() {
            inputs[0] = Tensor::scalar(DType::I64, Scalar::I(i));
            let mut y = eval::graph(&self.body, &inputs).map_err(|e| e.context(format!("iteration {i}")))?;
            collected.push(y.split_off(1 + self.states));
            for (state, next) in inputs[1..].iter_mut().zip(y) {
                *state = next;
            }
            i += 1;
        }
        let declared = self.count.as_const().filter(|_| collected.len() > 0).unwrap_or(i);
        ensure!(i == declared, "{i} iterations were done where {declared} were declared");
        let mut results = inputs[2..2 + self.states].to_vec();
        for k in 0..collected.len() {
            results.push(collected.stack(k, 0, false)?);
        }
        Ok(results)
    }

    /// A sum of squares that ends early by itself.
    fn sample(rng: &mut Rng) -> Sample {
        let shape = rng.shape(1);
        let ty = Type::new(DType::F32, vec![Dim::named("n")]);
        let (scalar, cond) = (Type::of(DType::I64, &[]), Type::of(DType::Bool, &[]));
        let mut g = Graph::new("body");
        let i = g.add_input("i", scalar);
        g.add_input("cond", cond.clone());
        let (sum, x) = (g.add_input("sum", ty.clone()), g.add_input("x", ty.clone()));
        let limit = g.add_const(Tensor::scalar(DType::I64, Scalar::I(rng.range(0, 6))), &[]);
        let f = |f: ScalarFn| elementwise::Elementwise { f }.into();
        let more = g.add_typed(f(ScalarFn::Lt), &[i, limit], vec![cond], &[])[0];
        let square = g.add_typed(f(ScalarFn::Mul), &[x, x], vec![ty.clone()], &[])[0];
        let next = g.add_typed(f(ScalarFn::Add), &[sum, square], vec![ty], &[])[0];
        for (name, v) in [("more", more), ("sum", next), ("square", square)] {
            g.add_output(name, v);
        }
        let operands = vec![
            Operand { dtype: DType::I64, shape: Vec::new(), values: Values::Between(0, 6) },
            Operand::any(DType::Bool, Vec::new()),
            Operand::finite(DType::F32, shape.clone()),
            Operand::finite(DType::F32, shape),
        ];
        Sample { op: Loop { body: g.into(), states: 1, count: Dim::named("count") }.into(), operands }
    }
}

impl Scan {
    /// The types that the body is passed, and the number of steps.
    fn passed(&self, x: &[&Type]) -> Result<(Vec<Type>, Dim)> {
        let n = self.states + self.scanned;
        ensure!(self.scanned > 0, "expected one operand or more to walk along");
        ensure!(x.len() >= n, "expected {n} operands or more, found {}", x.len());
        ensure!(
            self.input_axes.len() == self.scanned && self.input_reverse.len() == self.scanned,
            "expected {} axes and directions of operands, found {} and {}",
            self.scanned,
            self.input_axes.len(),
            self.input_reverse.len()
        );
        let mut passed = owned(x);
        let mut steps: Option<Dim> = None;
        for (t, &axis) in passed[self.states..n].iter_mut().zip(&self.input_axes) {
            ensure!(axis < t.rank(), "axis {axis} is out of range for {t}");
            let extent = t.dims.remove(axis);
            let steps = steps.get_or_insert(extent.clone());
            ensure!(*steps == extent, "operands have {steps} and {extent} elements along their axes");
        }
        Ok((passed, steps.unwrap_or_default()))
    }
}

impl Operator for Scan {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let (passed, steps) = self.passed(x)?;
        let body = &*self.body;
        let (inputs, outputs): (Vec<_>, Vec<_>) =
            (types(body, &body.inputs).collect(), types(body, &body.outputs).collect());
        let collected = outputs.len().checked_sub(self.states);
        ensure!(
            inputs.len() >= self.states
                && collected == Some(self.output_axes.len())
                && collected == Some(self.output_reverse.len()),
            "the body {} has {} inputs and {} outputs; expected {} states in and out, and {} elements to collect",
            body.name,
            inputs.len(),
            outputs.len(),
            self.states,
            self.output_axes.len()
        );
        let varying = varying(body, &inputs[..self.states], &outputs)?;
        let binding = bind(body, &passed, &varying)?;
        let known = |t: &Type| t.subst(&|s| binding.get(s).cloned());
        let mut results: Vec<Type> = inputs[..self.states].iter().map(|t| known(t)).collect();
        for (t, &axis) in outputs[self.states..].iter().zip(&self.output_axes) {
            let mut t = known(t);
            ensure!(axis <= t.rank(), "axis {axis} is out of range for collected elements {t}");
            t.dims.insert(axis, steps.clone());
            results.push(t);
        }
        Ok(results)
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let n = self.states + self.scanned;
        let steps = x[self.states].shape()[self.input_axes[0]];
        let mut inputs = x.to_vec();
        for (t, &axis) in inputs[self.states..n].iter_mut().zip(&self.input_axes) {
            *t = empty_element(t, axis)?;
        }
        let mut collected = Collected::new(&self.body, self.states, &inputs)?;
        for step in 0..steps {
            for k in 0..self.scanned {
                let at = if self.input_reverse[k] { steps - 1 - step } else { step };
                inputs[self.states + k] = element(&x[self.states + k], self.input_axes[k], at)?;
            }
            let mut y = eval::graph(&self.body, &inputs).map_err(|e| e.context(format!("step {step}")))?;
            collected.push(y.split_off(self.states));
            for (state, next) in inputs.iter_mut().zip(y) {
                *state = next;
            }
        }
        let mut results = inputs[..self.states].to_vec();
        for k in 0..collected.len() {
            results.push(collected.stack(k, self.output_axes[k], self.output_reverse[k])?);
        }
        Ok(results)
    }

    /// Running sums along an axis of a matrix.
    fn sample(rng: &mut Rng) -> Sample {
        let shape = rng.shape(2);
        let axis = rng.below(2);
        let ty = Type::new(DType::F32, vec![Dim::named("n")]);
        let mut g = Graph::new("body");
        let (sum, x) = (g.add_input("sum", ty.clone()), g.add_input("x", ty.clone()));
        let add = elementwise::Elementwise { f: ScalarFn::Add }.into();
        let next = g.add_typed(add, &[sum, x], vec![ty], &[])[0];
        g.add_output("sum", next);
        g.add_output("running", next);
        let op = Scan {
            body: g.into(),
            states: 1,
            scanned: 1,
            input_axes: vec![axis],
            input_reverse: vec![rng.one_in(2)],
            output_axes: vec![rng.below(2)],
            output_reverse: vec![rng.one_in(2)],
        };
        let operands =
            vec![Operand::finite(DType::F32, vec![shape[1 - axis]]), Operand::finite(DType::F32, shape)];
        Sample { op: op.into(), operands }
    }
}
