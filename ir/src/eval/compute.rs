//! Interprets a compute definition, stage by stage and element by element.
//!
//! `select` evaluates only the side it takes; every load is checked against its operand's extents, so a wrong guard
//! is an error here and not a wrong number.

use crate::compute::{Axis, Compute, Expr, Source, Stage};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::{Tensor, numel, write_scalar};
use crate::{bail, ensure};
use std::collections::HashMap;

/// Evaluates a compute on concrete operands, given the values of the symbols in it.
pub fn compute(c: &Compute, inputs: &[Tensor], symbols: &HashMap<Sym, i64>) -> Result<Vec<Tensor>> {
    check_inputs(c, inputs, symbols)?;
    let mut stages: Vec<Tensor> = Vec::with_capacity(c.stages.len());
    for (k, s) in c.stages.iter().enumerate() {
        check_stage(c, k, s).map_err(|e| e.context(format!("stage %s{k}")))?;
        let mut point = Point { inputs, stages: &stages, symbols, axes: Vec::new() };
        let array = point.stage(s).map_err(|e| e.context(format!("stage %s{k}")))?;
        stages.push(array);
    }
    let output =
        |&k: &usize| stages.get(k).cloned().ok_or_else(|| Error::new(format!("there is no stage %s{k}")));
    c.outputs.iter().map(output).collect()
}

fn check_inputs(c: &Compute, inputs: &[Tensor], symbols: &HashMap<Sym, i64>) -> Result<()> {
    ensure!(inputs.len() == c.inputs.len(), "expected {} operands, found {}", c.inputs.len(), inputs.len());
    for (k, (ty, t)) in c.inputs.iter().zip(inputs).enumerate() {
        let fits = ty.rank() == t.rank()
            && ty
                .dims
                .iter()
                .zip(t.shape())
                .all(|(d, &n)| d.eval(&|s| symbols.get(s).copied()) == Some(n as i64));
        ensure!(
            ty.dtype == t.dtype() && fits,
            "operand %{k}: expected {ty}, found {}{:?}",
            t.dtype(),
            t.shape()
        );
    }
    Ok(())
}

/// Whether the stage's expression is of the type that the stage needs.
fn check_stage(c: &Compute, k: usize, s: &Stage) -> Result<()> {
    let mut is_typed = true;
    s.value.visit(&mut |e| is_typed &= e.dtype(&c.inputs, &c.stages[..k]).is_some());
    let Some(found) = s.value.dtype(&c.inputs, &c.stages[..k]).filter(|_| is_typed) else {
        bail!("its expression is ill typed")
    };
    let is_index = s.reduction.as_ref().is_some_and(|r| r.op.combine().is_none());
    let expected = if is_index { DType::I64 } else { s.dtype };
    ensure!(s.dtype == expected, "an index reduction gives {expected}, not {}", s.dtype);
    ensure!(is_index || found == s.dtype, "it is declared as {} but its expression is {found}", s.dtype);
    Ok(())
}

/// What an expression is evaluated at.
struct Point<'a> {
    inputs: &'a [Tensor],
    stages: &'a [Tensor],
    symbols: &'a HashMap<Sym, i64>,
    axes: Vec<(Sym, i64)>,
}

impl Point<'_> {
    fn stage(&mut self, s: &Stage) -> Result<Tensor> {
        let shape = s.axes.iter().map(|a| self.extent(a)).collect::<Result<Vec<usize>>>()?;
        let n = numel(&shape)?;
        let mut data = Vec::new();
        let bytes = n.saturating_mul(s.dtype.size());
        ensure!(data.try_reserve_exact(bytes).is_ok(), "cannot allocate {bytes} bytes");
        self.axes = s.axes.iter().map(|a| (a.var.clone(), 0)).collect();
        for _ in 0..n {
            write_scalar(s.dtype, self.element(s)?, &mut data);
            self.advance(0, &shape);
        }
        Tensor::new(s.dtype, shape, data.into())
    }

    fn element(&mut self, s: &Stage) -> Result<Scalar> {
        let Some(r) = &s.reduction else { return self.eval(&s.value) };
        let n_outputs = self.axes.len();
        let mut shape = Vec::with_capacity(r.axes.len());
        for a in &r.axes {
            shape.push(self.extent(a)?);
        }
        self.axes.extend(r.axes.iter().map(|a| (a.var.clone(), 0)));
        let mut values = Vec::new();
        for _ in 0..numel(&shape)? {
            values.push(self.eval(&s.value)?);
            self.advance(n_outputs, &shape);
        }
        self.axes.truncate(n_outputs);
        Ok(r.op.apply(s.dtype, values.into_iter()))
    }

    /// Steps the axes from position `first` on to the next point in row-major order; from the last one to the first.
    fn advance(&mut self, first: usize, shape: &[usize]) {
        for (axis, &n) in self.axes[first..].iter_mut().zip(shape).rev() {
            axis.1 += 1;
            if axis.1 < n as i64 {
                return;
            }
            axis.1 = 0;
        }
    }

    fn extent(&self, a: &Axis) -> Result<usize> {
        let n = self.dim(&a.extent)?;
        match usize::try_from(n) {
            Ok(n) => Ok(n),
            Err(_) => bail!("axis {} has extent {} = {n}", a.var, a.extent),
        }
    }

    fn dim(&self, d: &Dim) -> Result<i64> {
        let axis = |s: &Sym| self.axes.iter().find(|(a, _)| a == s).map(|(_, v)| *v);
        match d.eval(&|s| axis(s).or_else(|| self.symbols.get(s).copied())) {
            Some(v) => Ok(v),
            None => bail!("{d} has no value: an unknown symbol or a division by zero"),
        }
    }

    fn eval(&self, e: &Expr) -> Result<Scalar> {
        Ok(match e {
            Expr::Const(dtype, value) => value.cast(*dtype),
            Expr::Index(d) => Scalar::I(self.dim(d)?),
            Expr::Load(source, index) => self.load(*source, index)?,
            Expr::Call(ScalarFn::Select, args) => {
                let taken = if self.eval(&args[0])?.as_bool() { &args[1] } else { &args[2] };
                self.eval(taken)?
            }
            Expr::Call(f, args) => {
                let dtype = self.dtype(&args[0]);
                let args = args.iter().map(|a| self.eval(a)).collect::<Result<Vec<_>>>()?;
                f.eval(dtype, &args)
            }
            Expr::Cast(dtype, e) => self.eval(e)?.cast(*dtype),
        })
    }

    fn load(&self, source: Source, index: &[Expr]) -> Result<Scalar> {
        let (t, name) = match source {
            Source::Input(k) => (&self.inputs[k], format_args!("%{k}").to_string()),
            Source::Stage(k) => (&self.stages[k], format_args!("%s{k}").to_string()),
        };
        let index = index.iter().map(|e| Ok(self.eval(e)?.as_i64())).collect::<Result<Vec<i64>>>()?;
        let fits =
            index.len() == t.rank() && index.iter().zip(t.shape()).all(|(&i, &n)| (0..n as i64).contains(&i));
        if !fits {
            let at: Vec<String> = self.axes.iter().map(|(s, v)| format!("{s}={v}")).collect();
            bail!(
                "index {index:?} is outside of {name}, whose shape is {:?} (at {})",
                t.shape(),
                at.join(", ")
            );
        }
        let at = index.iter().zip(t.shape()).fold(0, |at, (&i, &n)| at * n + i as usize);
        Ok(t.get(at))
    }

    /// The element type of a well-typed expression.
    fn dtype(&self, e: &Expr) -> DType {
        match e {
            Expr::Const(t, _) | Expr::Cast(t, _) => *t,
            Expr::Index(_) => DType::I64,
            Expr::Load(Source::Input(k), _) => self.inputs[*k].dtype(),
            Expr::Load(Source::Stage(k), _) => self.stages[*k].dtype(),
            Expr::Call(f, args) => {
                let types: Vec<DType> = args.iter().map(|a| self.dtype(a)).collect();
                f.result(&types).unwrap_or(DType::Bool)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Op, Rng};
    use crate::types::Type;

    /// Operators' compute definitions against their reference meaning, on random instances.
    #[test]
    fn agrees_with_operators() {
        for (name, sampler) in Op::SAMPLERS {
            for seed in 0..40 {
                let mut rng = Rng::new(seed);
                let sample = sampler(&mut rng);
                let inputs: Vec<Tensor> =
                    sample.operands.iter().map(|o| rng.tensor(o)).collect::<Result<_>>().unwrap();
                agrees(name, &sample.op, &inputs);
            }
        }
    }

    fn agrees(name: &str, op: &Op, inputs: &[Tensor]) {
        let x: Vec<Type> = inputs.iter().map(|t| Type::of(t.dtype(), t.shape())).collect();
        let Ok(y) = op.infer(&x.iter().collect::<Vec<_>>()) else { return };
        let Some(c) = op.compute(&x, &y) else { return };
        let expected = op.eval(inputs).unwrap();
        let found = compute(&c, inputs, &HashMap::new()).unwrap_or_else(|e| panic!("{name} {op:?}: {e}"));
        for (a, b) in expected.iter().zip(&found) {
            assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()), "{name} {op:?}");
            // Products are rounded before they are summed, and 16-bit floats are computed in f32.
            let tolerance = match a.dtype() {
                DType::F16 | DType::BF16 => 1e-2,
                DType::F32 => 1e-5,
                DType::F64 => 1e-13,
                _ => 0.0,
            };
            for (p, q) in a.to_f64().into_iter().zip(b.to_f64()) {
                let near =
                    p == q || p.is_nan() && q.is_nan() || (p - q).abs() <= tolerance * p.abs().max(1.0);
                assert!(near, "{name} {op:?}: {a:?} {b:?}");
            }
        }
    }

    #[test]
    fn out_of_bounds_is_named() {
        let x = Type::of(DType::F32, &[4]);
        let c = Compute::map(std::slice::from_ref(&x), &x, |i| Expr::input(0, vec![i[0].clone() + 1.into()]));
        let input = Tensor::from_vec(vec![4], &[1f32, 2., 3., 4.]).unwrap();
        let error = compute(&c, &[input], &HashMap::new()).unwrap_err();
        assert_eq!(error.message, "stage %s0: index [4] is outside of %0, whose shape is [4] (at i0=3)");
    }

    #[test]
    fn select_is_lazy() {
        let x = Type::of(DType::F32, &[3]);
        let c = Compute::map(std::slice::from_ref(&x), &x, |i| {
            let at = i[0].clone() - 1.into();
            Expr::input(0, vec![at.clone()])
                .guarded(Expr::in_bounds(&at, &3.into()), Expr::float(DType::F32, 9.0))
        });
        let input = Tensor::from_vec(vec![3], &[1f32, 2., 3.]).unwrap();
        let y = compute(&c, &[input], &HashMap::new()).unwrap();
        assert_eq!(y[0].to_f64(), [9., 1., 2.]);
    }
}
