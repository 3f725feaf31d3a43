//! What is known of values when compiling.
//!
//! Two questions are answered, on demand, by walking back from a value through the graph built so far: what a small
//! integer tensor holds, as expressions over the symbols ([`Ctx::dims_of`]), and what any tensor holds, where it
//! depends on nothing but constants ([`Ctx::constant`]). That is how the chains of `Shape`, `Gather` and `Concat` by
//! which exporters compute shapes become shapes. Known values of the model's inputs count as constants, and are noted
//! as relied on when an answer depends on them.

use super::ctx::Ctx;
use crate::import::proto::DataType;
use aic_ir::compute::ReduceOp;
use aic_ir::dim::{Dim, Range};
use aic_ir::dtype::DType;
use aic_ir::graph::{Def, Node, ValueId};
use aic_ir::op::{Expand, Op};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use std::collections::{BTreeSet, HashMap, HashSet};

/// The most elements of a tensor whose contents are tracked as expressions.
const MAX_SYMBOLIC: i64 = 1024;
/// The most elements of a tensor that is computed when importing.
const MAX_COMPUTED: i64 = 1 << 22;

/// What is known of the values of one graph.
#[derive(Default)]
pub(super) struct Knowledge {
    /// Element types in the model, where the IR has another.
    stored: HashMap<ValueId, DataType>,
    contents: HashMap<ValueId, Option<Known<Vec<Dim>>>>,
    tensors: HashMap<ValueId, Option<Known<Tensor>>>,
}

/// Something known, and the inputs whose known values it rests on.
#[derive(Clone)]
struct Known<T> {
    value: T,
    relied: BTreeSet<usize>,
}

/// What it takes to know a value.
enum Step<T> {
    Known(Option<Known<T>>),
    /// The same value of the graph around.
    Outer(ValueId),
    /// These values of the same graph.
    Operands(Vec<ValueId>),
}

impl Knowledge {
    /// Notes the model's element type of a constant.
    pub(super) fn stored_as(&mut self, v: ValueId, stored: DataType) {
        if DType::from_onnx(stored as i32).is_none() {
            self.stored.insert(v, stored);
        }
    }

    /// The model's element type of a constant, where the IR has another.
    pub(super) fn stored(&self, v: ValueId) -> Option<DataType> {
        self.stored.get(&v).copied()
    }
}

impl Ctx<'_> {
    /// The elements of a small integer or boolean tensor as expressions over symbols, in row-major order.
    pub fn dims_of(&mut self, v: ValueId) -> Option<Vec<Dim>> {
        let known = self.contents_at(self.outer.len(), v)?;
        self.relied.extend(known.relied);
        Some(known.value)
    }

    /// A tensor that depends on nothing but constants.
    pub fn constant(&mut self, v: ValueId) -> Option<Tensor> {
        let known = self.tensor_at(self.outer.len(), v)?;
        self.relied.extend(known.relied);
        Some(known.value)
    }

    /// The value of a constant of one element.
    pub fn constant_scalar(&mut self, v: ValueId) -> Option<Scalar> {
        self.constant(v).filter(|t| t.len() == 1).map(|t| t.get(0))
    }

    /// Names of the model's inputs on which a value depends.
    pub(super) fn inputs_behind(&self, v: ValueId) -> Vec<String> {
        let (mut seen, mut names) = (HashSet::new(), BTreeSet::new());
        let mut stack = vec![(self.outer.len(), v)];
        while let Some((depth, v)) = stack.pop() {
            if !seen.insert((depth, v)) {
                continue;
            }
            let body = self.outer.get(depth).unwrap_or(&self.body);
            match body.graph.value(v).def {
                Def::Node(n, _) => stack.extend(body.graph.node(n).inputs.iter().map(|&v| (depth, v))),
                Def::Input(k) if depth == 0 => {
                    names.insert(body.graph.inputs[k].name.clone());
                }
                Def::Input(_) => stack.extend(body.outer_value(v).map(|v| (depth - 1, v))),
            }
        }
        names.into_iter().collect()
    }

    fn contents_at(&mut self, depth: usize, v: ValueId) -> Option<Known<Vec<Dim>>> {
        let mut stack = vec![v];
        while let Some(&top) = stack.last() {
            if self.body_at(depth).know.contents.contains_key(&top) {
                stack.pop();
                continue;
            }
            let known = match self.contents_step(depth, top) {
                Step::Operands(operands) => {
                    stack.extend(operands);
                    continue;
                }
                Step::Outer(outer) => self.contents_at(depth - 1, outer),
                Step::Known(None) => self.contents_of_tensor(depth, top),
                Step::Known(known) => known,
            };
            self.body_at(depth).know.contents.insert(top, known);
            stack.pop();
        }
        self.body_at(depth).know.contents.get(&v).cloned().flatten()
    }

    /// The contents of a small integer tensor that is computed from other constants, floats for example.
    fn contents_of_tensor(&mut self, depth: usize, v: ValueId) -> Option<Known<Vec<Dim>>> {
        if !is_small_integer(self.body_at(depth).graph.ty(v)) {
            return None;
        }
        let known = self.computed_at(depth, v)?;
        Some(Known { value: integers(&known.value), relied: known.relied })
    }

    fn contents_step(&mut self, depth: usize, v: ValueId) -> Step<Vec<Dim>> {
        let inputs = &self.options.known_inputs;
        let body = self.outer.get(depth).unwrap_or(&self.body);
        let ty = body.graph.ty(v);
        if !is_small_integer(ty) {
            return Step::Known(None);
        }
        let (node, result) = match body.graph.value(v).def {
            Def::Input(k) if depth == 0 => {
                let tensor = inputs.get(&body.graph.inputs[k].name);
                let known = |t: &Tensor| Known { value: integers(t), relied: BTreeSet::from([k]) };
                return Step::Known(tensor.map(known));
            }
            Def::Input(_) => return body.outer_value(v).map_or(Step::Known(None), Step::Outer),
            Def::Node(n, result) => (body.graph.node(n), result),
        };
        let know = &body.know.contents;
        let missing: Vec<ValueId> = node.inputs.iter().copied().filter(|v| !know.contains_key(v)).collect();
        if !missing.is_empty() {
            return Step::Operands(missing);
        }
        let operands: Option<Vec<&Known<Vec<Dim>>>> = node.inputs.iter().map(|v| know[v].as_ref()).collect();
        let Some(operands) = operands else { return Step::Known(None) };
        let types: Vec<&Type> = node.inputs.iter().map(|&v| body.graph.ty(v)).collect();
        let contents: Vec<(&Type, &[Dim])> =
            types.into_iter().zip(operands.iter().map(|k| &k.value[..])).collect();
        let value = evaluate_contents(node, result, &contents, ty);
        let relied = operands.iter().flat_map(|k| k.relied.iter().copied()).collect();
        Step::Known(value.map(|value| Known { value, relied }))
    }

    fn tensor_at(&mut self, depth: usize, v: ValueId) -> Option<Known<Tensor>> {
        if let Some(known) = self.contents_at(depth, v) {
            let ty = self.body_at(depth).graph.ty(v).clone();
            return from_contents(&ty, &known.value).map(|value| Known { value, relied: known.relied });
        }
        self.computed_at(depth, v)
    }

    /// A tensor computed by the interpreter.
    fn computed_at(&mut self, depth: usize, v: ValueId) -> Option<Known<Tensor>> {
        let mut stack = vec![v];
        while let Some(&top) = stack.last() {
            if self.body_at(depth).know.tensors.contains_key(&top) {
                stack.pop();
                continue;
            }
            let known = match self.tensor_step(depth, top) {
                Step::Operands(operands) => {
                    stack.extend(operands);
                    continue;
                }
                Step::Outer(outer) => self.tensor_at(depth - 1, outer),
                Step::Known(known) => known,
            };
            self.body_at(depth).know.tensors.insert(top, known);
            stack.pop();
        }
        self.body_at(depth).know.tensors.get(&v).cloned().flatten()
    }

    fn tensor_step(&mut self, depth: usize, v: ValueId) -> Step<Tensor> {
        let inputs = &self.options.known_inputs;
        let body = self.outer.get(depth).unwrap_or(&self.body);
        let (node, result) = match body.graph.value(v).def {
            Def::Input(k) if depth == 0 => {
                let tensor = inputs.get(&body.graph.inputs[k].name);
                let known = |t: &Tensor| Known { value: t.clone(), relied: BTreeSet::from([k]) };
                return Step::Known(tensor.map(known));
            }
            Def::Input(_) => return body.outer_value(v).map_or(Step::Known(None), Step::Outer),
            Def::Node(n, result) => (body.graph.node(n), result),
        };
        if let Op::Const(c) = &node.op {
            return Step::Known(Some(Known { value: c.value.clone(), relied: BTreeSet::new() }));
        }
        if let Some(Some(Known { value, relied })) = body.know.contents.get(&v) {
            let tensor = from_contents(body.graph.ty(v), value);
            return Step::Known(tensor.map(|value| Known { value, relied: relied.clone() }));
        }
        let small = |v: &ValueId| body.graph.ty(*v).numel().as_const().is_some_and(|n| n <= MAX_COMPUTED);
        if !is_pure(&node.op) || !node.outputs.iter().all(small) {
            return Step::Known(None);
        }
        let know = &body.know.tensors;
        let missing: Vec<ValueId> = node.inputs.iter().copied().filter(|v| !know.contains_key(v)).collect();
        if !missing.is_empty() {
            return Step::Operands(missing);
        }
        let operands: Option<Vec<&Known<Tensor>>> = node.inputs.iter().map(|v| know[v].as_ref()).collect();
        let Some(operands) = operands else { return Step::Known(None) };
        let tensors: Vec<Tensor> = operands.iter().map(|k| k.value.clone()).collect();
        let value = node.op.eval(&tensors).ok().and_then(|results| results.into_iter().nth(result));
        let relied = operands.iter().flat_map(|k| k.relied.iter().copied()).collect();
        Step::Known(value.map(|value| Known { value, relied }))
    }
}

/// Whether equal operands always give equal results.
fn is_pure(op: &Op) -> bool {
    !matches!(op.keyword(), "random" | "if" | "loop" | "scan")
}

/// Whether contents are tracked as expressions.
fn is_small_integer(ty: &Type) -> bool {
    !ty.dtype.is_float() && ty.numel().as_const().is_some_and(|n| n <= MAX_SYMBOLIC)
}

fn integers(t: &Tensor) -> Vec<Dim> {
    t.scalars().map(|s| s.as_i64().into()).collect()
}

/// A tensor of the given type, if all its elements are numbers.
fn from_contents(ty: &Type, contents: &[Dim]) -> Option<Tensor> {
    let numbers: Vec<i64> = contents.iter().map(Dim::as_const).collect::<Option<_>>()?;
    Tensor::generate(ty.dtype, ty.shape()?, |i| Scalar::I(numbers[i])).ok()
}

/// The contents of a node's result from those of its operands.
fn evaluate_contents(node: &Node, result: usize, x: &[(&Type, &[Dim])], y: &Type) -> Option<Vec<Dim>> {
    if !is_pure(&node.op) {
        return None;
    }
    let constants: Option<Vec<Tensor>> = x.iter().map(|(ty, dims)| from_contents(ty, dims)).collect();
    let computed = constants.and_then(|constants| node.op.eval(&constants).ok());
    if let Some(t) = computed.and_then(|y| y.into_iter().nth(result)) {
        return Some(integers(&t));
    }
    match &node.op {
        Op::Reshape(_) | Op::Transpose(_) | Op::Expand(_) | Op::Slice(_) | Op::Concat(_) | Op::Pad(_) => {
            moved(&node.op, x, x.len())
        }
        Op::Gather(_) | Op::GatherElements(_) | Op::GatherNd(_) => moved(&node.op, x, 1),
        Op::DimValue(d) => Some(vec![d.value.clone()]),
        Op::Elementwise(e) => elementwise(e.f, x, y),
        Op::Cast(c) if c.to == DType::Bool => x[0].1.iter().map(|d| truth(&differs(d, &0.into())?)).collect(),
        Op::Cast(c) if matches!(c.to, DType::I64 | DType::I32) => Some(x[0].1.to_vec()),
        Op::Reduce(r) if r.axes.len() == x[0].0.rank() => reduced(r.op, x[0].1),
        _ => None,
    }
}

/// The result of an operator that moves elements of its first `n_data` operands without changing them: evaluated on
/// numbers that stand for the elements. The other operands must be constants.
fn moved(op: &Op, x: &[(&Type, &[Dim])], n_data: usize) -> Option<Vec<Dim>> {
    let mut table: Vec<&Dim> = Vec::new();
    let mut operands = Vec::new();
    for (k, (ty, dims)) in x.iter().enumerate() {
        if k >= n_data {
            operands.push(from_contents(ty, dims)?);
            continue;
        }
        let start = table.len() as i64;
        table.extend(dims.iter());
        operands.push(Tensor::generate(DType::I64, ty.shape()?, |i| Scalar::I(start + i as i64)).ok()?);
    }
    let moved = op.eval(&operands).ok()?.into_iter().next()?;
    moved.to_i64().into_iter().map(|h| table.get(usize::try_from(h).ok()?).map(|d| (*d).clone())).collect()
}

fn elementwise(f: ScalarFn, x: &[(&Type, &[Dim])], y: &Type) -> Option<Vec<Dim>> {
    let expand: Op = Expand { shape: y.dims.clone() }.into();
    let operands: Vec<Vec<Dim>> =
        x.iter().map(|operand| moved(&expand, &[*operand], 1)).collect::<Option<_>>()?;
    let n = operands.first()?.len();
    (0..n).map(|i| apply(f, &operands.iter().map(|o| &o[i]).collect::<Vec<_>>())).collect()
}

/// A scalar function on expressions, where its result is one.
fn apply(f: ScalarFn, x: &[&Dim]) -> Option<Dim> {
    let positive = |d: &Dim| range(d).lo > 0;
    let natural = |d: &Dim| range(d).lo >= 0;
    Some(match (f, x) {
        (ScalarFn::Add, [a, b]) => (*a).clone() + (*b).clone(),
        (ScalarFn::Sub, [a, b]) => (*a).clone() - (*b).clone(),
        (ScalarFn::Mul, [a, b]) => (*a).clone() * (*b).clone(),
        (ScalarFn::Neg, [a]) => -(*a).clone(),
        // A divisor that can be 0 makes an expression without a value, which is refused when running.
        (ScalarFn::Div, [a, b]) if natural(a) && natural(b) => a.floor_div(b),
        (ScalarFn::Mod, [a, b]) if positive(b) => a.modulo(b),
        (ScalarFn::Rem, [a, b]) if natural(a) && positive(b) => a.modulo(b),
        (ScalarFn::Min, [a, b]) => smaller(a, b),
        (ScalarFn::Max, [a, b]) => larger(a, b),
        (ScalarFn::Abs, [a]) if natural(a) => (*a).clone(),
        (ScalarFn::Sign, [a]) if positive(a) => 1.into(),
        (ScalarFn::Eq, [a, b]) => truth(&!differs(a, b)?)?,
        (ScalarFn::Ne, [a, b]) => truth(&differs(a, b)?)?,
        (ScalarFn::Lt, [a, b]) => truth(&less(a, b)?)?,
        (ScalarFn::Ge, [a, b]) => truth(&!less(a, b)?)?,
        (ScalarFn::Gt, [a, b]) => truth(&less(b, a)?)?,
        (ScalarFn::Le, [a, b]) => truth(&!less(b, a)?)?,
        (ScalarFn::And, [a, b]) if a.is(0) || b.is(0) => 0.into(),
        (ScalarFn::Or, [a, b]) if a.is(1) || b.is(1) => 1.into(),
        (ScalarFn::Select, [c, a, b]) => match c.as_const() {
            Some(0) => (*b).clone(),
            Some(_) => (*a).clone(),
            None if a == b => (*a).clone(),
            None => return None,
        },
        _ => return None,
    })
}

fn truth(value: &bool) -> Option<Dim> {
    Some(i64::from(*value).into())
}

/// The values that an expression can have, given that every symbol is the extent of an axis.
pub(super) fn range(d: &Dim) -> Range {
    d.range(&|_| Range::DIM)
}

/// Whether two expressions always differ, or never do.
fn differs(a: &Dim, b: &Dim) -> Option<bool> {
    let difference = a.clone() - b.clone();
    let r = range(&difference);
    match difference.as_const() {
        Some(d) => Some(d != 0),
        None if r.lo > 0 || r.hi < 0 => Some(true),
        None => None,
    }
}

/// Whether `a < b` always, or never.
fn less(a: &Dim, b: &Dim) -> Option<bool> {
    let r = range(&(a.clone() - b.clone()));
    if r.hi < 0 {
        Some(true)
    } else if r.lo >= 0 {
        Some(false)
    } else {
        None
    }
}

/// The smaller of two expressions, plainly so where it is known which it is.
pub(super) fn smaller(a: &Dim, b: &Dim) -> Dim {
    match (less(a, b), less(b, a)) {
        (Some(true), _) | (_, Some(false)) => a.clone(),
        (Some(false), _) | (_, Some(true)) => b.clone(),
        _ => a.minimum(b),
    }
}

/// The larger of two expressions, plainly so where it is known which it is.
pub(super) fn larger(a: &Dim, b: &Dim) -> Dim {
    match (less(a, b), less(b, a)) {
        (Some(true), _) | (_, Some(false)) => b.clone(),
        (Some(false), _) | (_, Some(true)) => a.clone(),
        _ => a.maximum(b),
    }
}

fn reduced(op: ReduceOp, x: &[Dim]) -> Option<Vec<Dim>> {
    let one = match op {
        ReduceOp::Sum => x.iter().sum(),
        ReduceOp::Prod => x.iter().product(),
        ReduceOp::Max => x.iter().cloned().reduce(|a, b| larger(&a, &b))?,
        ReduceOp::Min => x.iter().cloned().reduce(|a, b| smaller(&a, &b))?,
        _ => return None,
    };
    Some(vec![one])
}
