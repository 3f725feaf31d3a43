//! Checks rules: both sides of a rule are evaluated by the interpreter on instances drawn from its examples.
//!
//! An instance gives every variable a type or value, extents being numbers or names; a case gives numbers to names, and
//! elements to operands: moderate numbers, numbers of any exponent, and special values (NaN, infinities, zeros of both
//! signs, denormal and extreme numbers). What must be equal depends on the class of the rule:
//!
//! - exact: all bits, a NaN being equal to any other;
//! - reassociating: within rounding errors at the scale of the largest intermediate result of either side, on cases in
//!   which no intermediate result overflows or is denormal; where operands have NaN or infinities, results are NaN or
//!   infinite on both sides or on neither. Constants are finite, and operands are confined to the example's domains;
//! - approximate: the same with an error of a thousandth.

use super::facts::{self, Facts};
use super::instance::draw::Extents;
use super::instance::{Instance, draw};
use super::plan::{Plan, Step};
use super::rule::{Binding, Example, Rule};
use crate::runner::Numerics;
use aic_ir::dtype::DType;
use aic_ir::graph::{Graph, ValueId};
use aic_ir::op::{Elementwise, Op, Rng};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::tensor::Tensor;
use egg::Var;
use std::collections::BTreeMap;
use std::fmt;

/// How many cases share an instance.
const CASES_PER_INSTANCE: usize = 40;
/// How many of them share values of symbolic extents.
const CASES_PER_EXTENTS: usize = 8;
/// Every so many instances one has symbolic extents, where the example has any: guards and functions are given names,
/// and what they conclude must be true of any extents.
const SYMBOLIC: usize = 4;

/// What a check found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Cases drawn.
    pub cases: usize,
    /// Those on which the two sides were compared, the others having overflowed on the way.
    pub compared: usize,
}

/// Why a rule is refused.
#[derive(Clone, Debug)]
pub enum Failure {
    /// No instance of an example is one of the rule: its number.
    NeverApplies(usize),
    /// It applies to an instance of an example to which it must not: its number.
    Applies(usize),
    /// The sides differ.
    Differs(Box<CounterExample>),
}

/// Values on which the sides of a rule differ.
#[derive(Clone, Debug)]
pub struct CounterExample {
    /// The rule.
    pub rule: String,
    /// What its variables are.
    pub variables: Vec<(Var, String)>,
    /// The left side's result.
    pub left: Tensor,
    /// The right side's, or why there is none.
    pub right: Result<Tensor, String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NeverApplies(k) => write!(f, "example {} is no instance of the rule", k + 1),
            Failure::Applies(k) => write!(f, "the rule applies to example {}, to which it must not", k + 1),
            Failure::Differs(c) => c.fmt(f),
        }
    }
}

impl fmt::Display for CounterExample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.rule)?;
        for (v, value) in &self.variables {
            writeln!(f, "  {v} = {value}")?;
        }
        writeln!(f, "  left:  {:?}", self.left)?;
        match &self.right {
            Ok(t) => write!(f, "  right: {t:?}"),
            Err(e) => write!(f, "  right: {e}"),
        }
    }
}

/// Checks a rule on that many cases.
///
/// # Errors
/// The first reason found to refuse it.
pub fn check(rule: &Rule, cases: usize, seed: u64) -> Result<Checked, Failure> {
    let mut rng = Rng::new(seed);
    for (k, example) in rule.examples.iter().enumerate().filter(|(_, e)| !e.applies) {
        match draw::refused(rule, example, &mut rng) {
            true => {}
            false => return Err(Failure::Applies(k)),
        }
    }
    let examples: Vec<usize> = (0..rule.examples.len()).filter(|&k| rule.examples[k].applies).collect();
    let mut done = Checked::default();
    let share = cases.div_ceil(examples.len().max(1));
    for &k in &examples {
        let example = &rule.examples[k];
        let types = draw::element_types(rule, example, &mut rng);
        if types.is_empty() {
            if let Some(instance) = draw::mistyped(rule, example, &mut rng) {
                check_instance(rule, &instance, 1, &mut rng, &mut done)?;
            }
            return Err(Failure::NeverApplies(k));
        }
        for n in 0..share.div_ceil(CASES_PER_INSTANCE) {
            let dtypes = &types[n % types.len()];
            let mut drawn = |extents| draw::instance(rule, example, dtypes, extents, &mut rng);
            let symbolic = if n % SYMBOLIC == 0 { drawn(Extents::Symbolic) } else { None };
            let Some(instance) = symbolic.or_else(|| drawn(Extents::Known)) else { continue };
            check_instance(rule, &instance, CASES_PER_INSTANCE.min(share), &mut rng, &mut done)?;
        }
    }
    Ok(done)
}

/// Checks a rule without one of its guards, on instances for which that guard doesn't hold: it is needed if the sides
/// differ on one of them. Nothing was compared where none of the examples has such an instance.
///
/// # Errors
/// The instance on which they differ.
pub fn check_without(rule: &Rule, guard: usize, cases: usize, seed: u64) -> Result<Checked, Failure> {
    let mut rng = Rng::new(seed);
    let mut bare = rule.clone();
    let guard = [bare.guards.remove(guard)];
    let mut done = Checked::default();
    for example in
        rule.examples.iter().flat_map(|e| std::iter::once(e.clone()).chain(with_other_constants(e)))
    {
        for types in draw::element_types(&bare, &example, &mut rng) {
            for _ in 0..cases.div_ceil(CASES_PER_INSTANCE) {
                let instance = draw::instance(&bare, &example, &types, Extents::Known, &mut rng);
                if let Some(instance) = instance.filter(|i| !i.holds(&guard)) {
                    check_instance(&bare, &instance, CASES_PER_INSTANCE, &mut rng, &mut done)?;
                }
            }
        }
    }
    Ok(done)
}

/// The example with other values of each constant whose value it says.
fn with_other_constants(example: &Example) -> Vec<Example> {
    let mut found = Vec::new();
    for k in 0..example.variables.len() {
        for change in [|x: f64| 1.0 - x, |x| 1.5 * x + 1.0, |x| -1e-40 * x] {
            let mut other = example.clone();
            if let Binding::Tensor { fill: Some(x), .. } = &mut other.variables[k].1 {
                *x = change(*x);
                found.push(other);
            }
        }
    }
    found
}

fn check_instance(
    rule: &Rule,
    instance: &Instance,
    cases: usize,
    rng: &mut Rng,
    done: &mut Checked,
) -> Result<(), Failure> {
    let mut extents = instance.extents(rng);
    if !extents.is_empty() {
        for _ in 0..cases.div_ceil(CASES_PER_EXTENTS) {
            check_instance(rule, &instance.at(&extents), CASES_PER_EXTENTS.min(cases), rng, done)?;
            extents = instance.extents(rng);
        }
        return Ok(());
    }
    let (left, right) = (Program::of(&instance.left), Program::of(&instance.right));
    let is_special = [&left, &right].iter().any(|p| is_infinite(p.constants()));
    for _ in 0..cases {
        let values = instance.values(rule, rng);
        done.cases += 1;
        let Ok(a) = left.run(&values) else { continue };
        let b = right.run(&values);
        let outcome = match &b {
            Ok(b) => agree(rule.class, is_special || is_infinite(values.values()), &a, b),
            Err(_) => Some(false),
        };
        done.compared += usize::from(outcome.is_some());
        if outcome == Some(false) {
            let result = |steps: &[Vec<Tensor>]| steps[steps.len() - 1][0].clone();
            return Err(Failure::Differs(Box::new(CounterExample {
                rule: format!("{} {}", rule.name, rule.to_line()),
                variables: instance.describe(&values),
                left: result(&a),
                right: b.map(|b| result(&b)),
            })));
        }
    }
    Ok(())
}

/// An instance of a rule's left side as a graph, for each example to which it must apply.
pub fn graphs(rule: &Rule, seed: u64) -> Vec<Graph> {
    let mut rng = Rng::new(seed);
    let mut found = Vec::new();
    for example in rule.examples.iter().filter(|e| e.applies) {
        for types in draw::element_types(rule, example, &mut rng) {
            let instance = draw::instance(rule, example, &types, Extents::Known, &mut rng);
            let graph = instance.and_then(|i| graph(&i));
            found.extend(graph);
        }
    }
    found
}

/// The left side of an instance: its operands are inputs.
fn graph(instance: &Instance) -> Option<Graph> {
    let program = Program::of(&instance.left);
    let mut g = Graph::new("");
    let mut done: Vec<Vec<ValueId>> = Vec::new();
    let mut variables: BTreeMap<Var, Vec<ValueId>> = BTreeMap::new();
    for ((step, op), facts) in instance.left.steps.iter().zip(&program.ops).zip(&instance.left.facts) {
        done.push(match (step, op) {
            (Step::Var(v), _) => {
                if !variables.contains_key(v) {
                    variables.insert(*v, operand(&mut g, *v, instance.constant(*v), facts)?);
                }
                variables[v].clone()
            }
            (Step::Const(t), _) => vec![g.add_const(t.clone(), &[])],
            (Step::Result(k, of), _) => vec![*done[*of].get(*k as usize)?],
            (Step::Op(keyword, children), Some(op)) => {
                let x = &children[..children.len() - keyword.n_attrs()];
                let x: Vec<ValueId> = x.iter().map(|&k| done[k].first().copied()).collect::<Option<_>>()?;
                g.add(op.clone(), &x, &[]).ok()?
            }
            _ => Vec::new(),
        });
    }
    g.add_output("y", *done.last()?.first()?);
    Some(g)
}

/// A variable: none if it is an attribute; what is known not to be negative is an absolute value.
fn operand(g: &mut Graph, v: Var, constant: Option<&Tensor>, facts: &Facts) -> Option<Vec<ValueId>> {
    Some(match (constant, facts.ty()) {
        (Some(t), _) => vec![g.add_const(t.clone(), &[])],
        (None, Some(ty)) => {
            let x = g.add_input(&v.to_string(), ty.clone());
            match facts.is_nonneg {
                true => g.add(Elementwise { f: ScalarFn::Abs }.into(), &[x], &[]).ok()?,
                false => vec![x],
            }
        }
        _ => Vec::new(),
    })
}

/// A plan with its operators, to be evaluated on many cases.
struct Program<'a> {
    plan: &'a Plan,
    ops: Vec<Option<Op>>,
}

impl Program<'_> {
    fn of(plan: &Plan) -> Program<'_> {
        let op = |step: &Step| match step {
            Step::Op(keyword, children) => {
                let attrs = &children[children.len() - keyword.n_attrs()..];
                facts::rebuild_op(*keyword, &attrs.iter().map(|&k| &plan.facts[k]).collect::<Vec<_>>()).ok()
            }
            _ => None,
        };
        Program { plan, ops: plan.steps.iter().map(op).collect() }
    }

    /// The constants in the term itself.
    fn constants(&self) -> impl Iterator<Item = &Tensor> {
        self.plan.steps.iter().filter_map(|step| match step {
            Step::Const(t) => Some(t),
            _ => None,
        })
    }

    /// The results of every step; attributes have none.
    fn run(&self, values: &BTreeMap<Var, Tensor>) -> Result<Vec<Vec<Tensor>>, String> {
        let mut done: Vec<Vec<Tensor>> = Vec::with_capacity(self.plan.steps.len());
        for (step, op) in self.plan.steps.iter().zip(&self.ops) {
            let results = match (step, op) {
                (Step::Var(v), _) => values.get(v).cloned().into_iter().collect(),
                (Step::Const(t), _) => vec![t.clone()],
                (Step::Result(k, of), _) => vec![done[*of][*k as usize].clone()],
                (Step::Op(keyword, children), Some(op)) => {
                    let x =
                        children[..children.len() - keyword.n_attrs()].iter().map(|&k| done[k][0].clone());
                    op.eval(&x.collect::<Vec<_>>()).map_err(|e| e.to_string())?
                }
                _ => Vec::new(),
            };
            done.push(results);
        }
        Ok(done)
    }
}

/// Whether one of them has a NaN or an infinity.
fn is_infinite<'a>(mut values: impl Iterator<Item = &'a Tensor>) -> bool {
    values.any(|t| t.dtype().is_float() && t.to_f64().iter().any(|x| !x.is_finite()))
}

/// Whether results agree as the class demands; nothing where a case says nothing about it. `is_special` says that
/// infinities are meant, and no sign of an overflow.
fn agree(class: Numerics, is_special: bool, left: &[Vec<Tensor>], right: &[Vec<Tensor>]) -> Option<bool> {
    let (a, b) = (&left[left.len() - 1][0], &right[right.len() - 1][0]);
    if a.dtype() != b.dtype() || a.shape() != b.shape() {
        return Some(false);
    }
    let same = |(x, y): (Scalar, Scalar)| x == y || is_nan(x) && is_nan(y);
    if class == Numerics::Exact || !a.dtype().is_float() {
        return Some(a.scalars().zip(b.scalars()).all(same));
    }
    let mut scale: f64 = 0.0;
    for t in left.iter().chain(right).flatten().filter(|t| t.dtype().is_float()) {
        for x in t.to_f64() {
            if x.is_finite() {
                scale = scale.max(x.abs());
            }
            if !is_special && !is_regular(t.dtype(), x) {
                return None;
            }
        }
    }
    let most = scale * tolerance(class, a.dtype());
    let close = |(x, y): (f64, f64)| match (x.is_finite(), y.is_finite()) {
        (true, true) => (x - y).abs() <= most,
        _ => x == y || x.is_nan() && y.is_nan(),
    };
    Some(a.to_f64().into_iter().zip(b.to_f64()).all(close))
}

fn is_nan(x: Scalar) -> bool {
    matches!(x, Scalar::F(x) if x.is_nan())
}

/// Neither overflown nor denormal.
fn is_regular(dtype: DType, x: f64) -> bool {
    let least = match dtype {
        DType::F64 => f64::MIN_POSITIVE,
        DType::F16 => 2f64.powi(-14),
        _ => f64::from(f32::MIN_POSITIVE),
    };
    x == 0.0 || x.is_finite() && x.abs() >= least
}

/// Allowed error at scale 1.
fn tolerance(class: Numerics, dtype: DType) -> f64 {
    let rounding = match dtype {
        DType::F64 => 64.0 * f64::EPSILON,
        DType::F32 => 64.0 * f64::from(f32::EPSILON),
        DType::F16 => 16.0 * 2f64.powi(-10),
        _ => 16.0 * 2f64.powi(-7),
    };
    if class == Numerics::Fast { rounding.max(1e-3) } else { rounding }
}
