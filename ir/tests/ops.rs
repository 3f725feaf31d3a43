//! Every operator against itself: inferred types against evaluated ones, the compute definition against the reference
//! meaning (with known and with symbolic extents), the text form of its attributes, and wrong operands and attributes
//! against panics. Instances come from each operator's own sampler, with fixed seeds.

#![allow(clippy::unwrap_used)]

use aic_ir::compute::{Compute, Expr, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::eval;
use aic_ir::op::{AttrValue, Op, Operand, Rng};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

const N_SEEDS: u64 = 100;

/// What symbols stand for.
type Env = HashMap<Sym, i64>;

/// Runs `check` on every operator and seed; a failure names both.
fn for_samples(check: impl Fn(&Op, &[Operand], &[Tensor], &mut Rng) -> Result<(), String>) {
    let mut failures = Vec::new();
    for (name, sampler) in Op::SAMPLERS {
        for seed in 0..N_SEEDS {
            let mut rng = Rng::new(seed);
            let sample = sampler(&mut rng);
            let inputs: Vec<Tensor> = sample.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
            let outcome =
                catch_unwind(AssertUnwindSafe(|| check(&sample.op, &sample.operands, &inputs, &mut rng)));
            if let Err(message) = outcome.unwrap_or(Err("it panicked".into())) {
                failures.push(format!(
                    "{name}, seed {seed}: {message}\n  {:?}\n  on {}",
                    sample.op,
                    types(&inputs)
                ));
                break;
            }
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

fn types(inputs: &[Tensor]) -> String {
    types_of(inputs).iter().map(Type::to_string).collect::<Vec<_>>().join(" ")
}

fn types_of(inputs: &[Tensor]) -> Vec<Type> {
    inputs.iter().map(|t| Type::of(t.dtype(), t.shape())).collect()
}

fn infer(op: &Op, x: &[Type]) -> Result<Vec<Type>, String> {
    op.infer(&x.iter().collect::<Vec<_>>()).map_err(|e| format!("infer: {e}"))
}

/// Whether results have the inferred types; gives a value to symbols that only the results define.
fn check_types(inferred: &[Type], results: &[Tensor], env: &mut Env) -> Result<(), String> {
    let mismatch = || Err(format!("inferred {inferred:?}, evaluated to {}", types(results)));
    if inferred.len() != results.len() {
        return mismatch();
    }
    for (ty, t) in inferred.iter().zip(results) {
        if ty.dtype != t.dtype() || ty.rank() != t.rank() {
            return mismatch();
        }
        for (d, &n) in ty.dims.iter().zip(t.shape()) {
            if let (None, Some(s)) = (d.eval(&|s| env.get(s).copied()), d.as_sym()) {
                env.insert(s.clone(), n as i64);
            }
            if d.eval(&|s| env.get(s).copied()) != Some(n as i64) {
                return mismatch();
            }
        }
    }
    Ok(())
}

/// Compares the compute definition, if there is one, with the reference results.
fn check_compute(
    op: &Op,
    x: &[Type],
    y: &[Type],
    inputs: &[Tensor],
    expected: &[Tensor],
    env: &Env,
) -> Result<(), String> {
    let Some(compute) = op.compute(x, y) else { return Ok(()) };
    let found = eval::compute(&compute, inputs, env).map_err(|e| format!("compute: {e}"))?;
    check_types(y, &found, &mut env.clone())?;
    let exact = is_exact(&compute);
    // These add terms, which may cancel, without a reduction.
    let sums = matches!(op, Op::Activation(_) | Op::Rotary(_))
        || compute.stages.iter().any(|s| s.reduction.is_some());
    let scale = if sums { scale_of_terms(inputs) } else { 0.0 };
    for (k, (a, b)) in expected.iter().zip(&found).enumerate() {
        for (p, (u, v)) in a.scalars().zip(b.scalars()).enumerate() {
            if !close(a.dtype(), u, v, exact, scale) {
                return Err(format!(
                    "result {k}, element {p}: expected {u}, the compute definition gives {v}"
                ));
            }
        }
    }
    Ok(())
}

/// Whether a compute has no float arithmetic, so that nothing is rounded but in conversions.
fn is_exact(compute: &Compute) -> bool {
    let mut exact = true;
    for (k, s) in compute.stages.iter().enumerate() {
        let rounds = s.reduction.as_ref().is_some_and(|r| matches!(r.op, ReduceOp::Sum | ReduceOp::Prod));
        exact &= !(rounds && s.dtype.is_float());
        s.value.visit(&mut |e| {
            if let Expr::Call(f, _) = e {
                let float = e.dtype(&compute.inputs, &compute.stages[..k]).is_some_and(DType::is_float);
                exact &= !float || matches!(f, ScalarFn::Select | ScalarFn::Max | ScalarFn::Min);
            }
        });
    }
    exact
}

/// What sums are made of: the product of the operands' largest elements.
fn scale_of_terms(inputs: &[Tensor]) -> f64 {
    let largest =
        |t: &Tensor| t.to_f64().into_iter().filter(|x| x.is_finite()).fold(1.0, |a, x| x.abs().max(a));
    inputs.iter().filter(|t| t.dtype().is_float()).map(largest).product()
}

/// Equality, where NaN equals NaN; for computed floats within four units in the last place at the greater of their
/// own scale and that of what was summed.
fn close(dtype: DType, a: Scalar, b: Scalar, exact: bool, scale: f64) -> bool {
    let (Scalar::F(x), Scalar::F(y)) = (a, b) else { return a == b };
    if a == b || (x.is_nan() && y.is_nan()) {
        return true;
    }
    let (epsilon, least) = match dtype {
        DType::F64 => (f64::EPSILON, 5e-324),
        DType::F32 => (f64::from(f32::EPSILON), 1.5e-45),
        DType::F16 => (2f64.powi(-10), 2f64.powi(-24)),
        _ => (2f64.powi(-7), 1e-40),
    };
    !exact && (x - y).abs() <= 4.0 * (epsilon * scale.max(x.abs())).max(least)
}

#[test]
fn types_and_compute_definitions_agree_with_evaluation() {
    for_samples(|op, _, inputs, _| {
        let x = types_of(inputs);
        let y = infer(op, &x)?;
        let results = op.eval(inputs).map_err(|e| format!("eval: {e}"))?;
        let mut env = Env::new();
        check_types(&y, &results, &mut env)?;
        check_compute(op, &x, &y, inputs, &results, &env)
    });
}

/// The same with extents and attributes that are symbols: one for each number but 1, which broadcasts, and some that
/// are kept. Where the types can't be inferred then (nothing proves that they agree) there is nothing to check.
#[test]
fn symbolic_compute_definitions_agree_with_evaluation() {
    for_samples(|op, _, inputs, rng| {
        for _ in 0..4 {
            let mut env = Env::new();
            let kept: Vec<i64> = (0..40).filter(|_| rng.one_in(3)).collect();
            let mut general = |d: &Dim| match d.as_const() {
                Some(n) if n != 1 && !kept.contains(&n) => symbol_for(n, &mut env),
                _ => d.clone(),
            };
            let x: Vec<Type> = types_of(inputs)
                .into_iter()
                .map(|t| Type { dims: t.dims.iter().map(&mut general).collect(), ..t })
                .collect();
            let general = with_symbols(op, &mut general);
            check_symbolic(op, &general, &x, inputs, &mut env)
                .map_err(|e| format!("as {general:?} on {x:?}: {e}"))?;
        }
        Ok(())
    });
}

fn check_symbolic(op: &Op, general: &Op, x: &[Type], inputs: &[Tensor], env: &mut Env) -> Result<(), String> {
    let concrete = general.subst(&|s| env.get(s).map(|&v| v.into()));
    if concrete != *op {
        return Err(format!("it becomes {concrete:?}"));
    }
    let Ok(y) = infer(general, x) else { return Ok(()) };
    let results = concrete.eval(inputs).map_err(|e| format!("eval: {e}"))?;
    check_types(&y, &results, env)?;
    check_compute(general, x, &y, inputs, &results, env)
}

/// A symbol whose value is the given number.
fn symbol_for(n: i64, env: &mut Env) -> Dim {
    let s = Sym::new(&if n < 0 { format!("m{}", n.unsigned_abs()) } else { format!("n{n}") });
    env.insert(s.clone(), n);
    Dim::sym(&s)
}

/// The operator with symbols in all attributes that admit them.
fn with_symbols(op: &Op, general: &mut dyn FnMut(&Dim) -> Dim) -> Op {
    let mut attrs = named(op);
    for k in 0..attrs.len() {
        let old = attrs[k].1.clone();
        attrs[k].1 = map_dims(&old, general);
        if Op::parse(op.keyword(), &attrs).is_err() {
            attrs[k].1 = old;
        }
    }
    Op::parse(op.keyword(), &attrs).unwrap()
}

fn named(op: &Op) -> Vec<(String, AttrValue)> {
    op.attrs().into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

fn map_dims(value: &AttrValue, f: &mut dyn FnMut(&Dim) -> Dim) -> AttrValue {
    match value {
        AttrValue::Dim(d) => AttrValue::Dim(f(d)),
        AttrValue::List(items) => AttrValue::List(items.iter().map(|v| map_dims(v, f)).collect()),
        other => other.clone(),
    }
}

#[test]
fn attributes_read_back() {
    for_samples(|op, _, _, _| match Op::parse(op.keyword(), &named(op)) {
        Ok(back) if back == *op => Ok(()),
        other => Err(format!("its attributes read back as {other:?}")),
    });
}

/// Operands that don't fit give an error or results of the inferred types.
#[test]
fn wrong_operands_are_errors() {
    for_samples(|op, operands, _, rng| {
        for _ in 0..8 {
            let mut operands = operands.to_vec();
            spoil(&mut operands, rng);
            let inputs: Vec<Tensor> = operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
            check_survival(op, &inputs)?;
        }
        Ok(())
    });
}

fn spoil(operands: &mut Vec<Operand>, rng: &mut Rng) {
    if operands.is_empty() || rng.one_in(8) {
        operands.push(Operand::any(DType::F32, vec![2]));
        return;
    }
    let k = rng.below(operands.len());
    let shape = &mut operands[k].shape;
    let axis = rng.below(shape.len());
    match rng.below(5) {
        0 => operands.truncate(k),
        1 if !shape.is_empty() => drop(shape.remove(axis)),
        2 if !shape.is_empty() => shape[axis] = rng.below(9),
        3 if shape.iter().product::<usize>() < 1000 => shape.insert(axis, rng.below(3)),
        _ => operands[k].dtype = rng.pick(&DType::ALL[..13]),
    }
}

/// Attributes that make no sense likewise.
#[test]
fn wrong_attributes_are_errors() {
    for_samples(|op, _, inputs, rng| {
        for _ in 0..8 {
            let mut attrs = named(op);
            let k = rng.below(attrs.len());
            let Some((_, value)) = attrs.get_mut(k) else { return Ok(()) };
            *value = match (rng.below(3), &*value) {
                (0, AttrValue::List(items)) => AttrValue::List(items.iter().skip(1).cloned().collect()),
                (1, AttrValue::List(items)) => {
                    AttrValue::List([&items[..1.min(items.len())], items].concat())
                }
                _ => map_dims(value, &mut |d| match rng.below(2) {
                    0 => rng.pick(&[-1, 0, 7, i64::MAX, i64::MIN, i64::MAX / 2]).into(),
                    _ => d.clone(),
                }),
            };
            if let Ok(op) = Op::parse(op.keyword(), &attrs) {
                check_survival(&op, inputs).map_err(|e| format!("as {op:?}: {e}"))?;
            }
        }
        Ok(())
    });
}

fn check_survival(op: &Op, inputs: &[Tensor]) -> Result<(), String> {
    let on = |e: String| format!("on {}: {e}", types(inputs));
    let x = types_of(inputs);
    let outcome = catch_unwind(AssertUnwindSafe(|| (infer(op, &x), op.eval(inputs))));
    match outcome {
        Err(_) => Err(on(format!("{op:?} panicked"))),
        Ok((Ok(y), Ok(results))) => check_types(&y, &results, &mut Env::new()).map_err(on),
        Ok((Err(e), Ok(_))) => Err(on(format!("evaluated in spite of {e}"))),
        Ok(_) => Ok(()),
    }
}
