//! Expressions: values of scalars and vectors.

use super::{Binding, Machine, Thread};
use crate::compute::ReduceOp;
use crate::dim::Sym;
use crate::dtype::DType;
use crate::error::Result;
use crate::kernel::Expr;
use crate::scalar::{Scalar, ScalarFn};
use crate::{bail, ensure};

/// How many lanes a vector may have.
const MAX_LANES: u32 = 1 << 12;

/// A scalar or vector with its element type.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub dtype: DType,
    pub lanes: Vec<Scalar>,
}

impl Value {
    pub fn ints(lanes: Vec<i64>) -> Value {
        Value { dtype: DType::I64, lanes: lanes.into_iter().map(Scalar::I).collect() }
    }

    pub fn one(self, what: &str) -> Result<Scalar> {
        match self.lanes[..] {
            [x] => Ok(x),
            _ => bail!("{what} must be a scalar, found {} lanes", self.lanes.len()),
        }
    }
}

impl Machine {
    pub(super) fn store(
        &mut self,
        buffer: &Sym,
        index: &Expr,
        value: &Expr,
        mask: Option<&Expr>,
        t: &Thread,
    ) -> Result<()> {
        let array = t.array(buffer)?;
        let (index, value) = (self.expr(index, t)?, self.expr(value, t)?);
        let mask = mask.map(|m| self.expr(m, t)).transpose()?;
        let n = index.lanes.len();
        let dtype = self.arrays[array].dtype;
        let fits = index.dtype == DType::I64
            && value.dtype == dtype
            && value.lanes.len() == n
            && mask.as_ref().is_none_or(|m| m.lanes.len() == n);
        ensure!(
            fits,
            "a store of {} x {} to {n} elements of {buffer}: {dtype}",
            value.dtype,
            value.lanes.len()
        );
        for k in 0..n {
            if mask.as_ref().is_none_or(|m| m.lanes[k].as_bool()) {
                self.write(array, index.lanes[k].as_i64(), value.lanes[k], t)?;
            }
        }
        Ok(())
    }

    pub(super) fn cond(&mut self, e: &Expr, t: &Thread) -> Result<bool> {
        Ok(self.expr(e, t)?.one("a condition")?.as_bool())
    }

    pub(super) fn expr(&mut self, e: &Expr, t: &Thread) -> Result<Value> {
        if let Expr::Ramp { lanes, .. } | Expr::Broadcast(_, lanes) = e {
            ensure!(*lanes <= MAX_LANES, "a vector of {lanes} lanes");
        }
        Ok(match e {
            Expr::Const(dtype, x) => Value { dtype: *dtype, lanes: vec![x.cast(*dtype)] },
            Expr::Index(d) => Value::ints(vec![t.dim(d)?]),
            Expr::Ramp { base, stride, lanes } => {
                let (base, stride) = (t.dim(base)?, t.dim(stride)?);
                Value::ints(
                    (0..i64::from(*lanes)).map(|k| base.saturating_add(k.saturating_mul(stride))).collect(),
                )
            }
            Expr::Broadcast(e, lanes) => {
                let v = self.expr(e, t)?;
                let dtype = v.dtype;
                Value { dtype, lanes: vec![v.one("the operand of a broadcast")?; *lanes as usize] }
            }
            Expr::Var(name, _) => match t.get(name) {
                Some(Binding::Int(v)) => Value::ints(vec![*v]),
                Some(Binding::Value(v)) => v.clone(),
                _ => bail!("there is no variable {name} here"),
            },
            Expr::Load { buffer, index, mask } => self.load(buffer, index, mask.as_deref(), t)?,
            Expr::Call(f, args) => {
                let args = args.iter().map(|a| self.expr(a, t)).collect::<Result<Vec<_>>>()?;
                call(*f, &args)?
            }
            Expr::Cast(dtype, e) => {
                let v = self.expr(e, t)?;
                Value { dtype: *dtype, lanes: v.lanes.into_iter().map(|x| x.cast(*dtype)).collect() }
            }
            Expr::Horizontal(op, e) => horizontal(*op, self.expr(e, t)?)?,
        })
    }

    fn load(&mut self, buffer: &Sym, index: &Expr, mask: Option<&Expr>, t: &Thread) -> Result<Value> {
        let array = t.array(buffer)?;
        let index = self.expr(index, t)?;
        let mask = mask.map(|m| self.expr(m, t)).transpose()?;
        let dtype = self.arrays[array].dtype;
        let n = index.lanes.len();
        let fits = index.dtype == DType::I64 && mask.as_ref().is_none_or(|m| m.lanes.len() == n);
        ensure!(fits, "a load of {buffer} at {n} x {}: its mask has another number of lanes", index.dtype);
        let mut lanes = Vec::with_capacity(n);
        for k in 0..n {
            lanes.push(match mask.as_ref().is_none_or(|m| m.lanes[k].as_bool()) {
                true => self.read(array, index.lanes[k].as_i64(), t)?,
                false => Scalar::zero(dtype),
            });
        }
        Ok(Value { dtype, lanes })
    }
}

fn call(f: ScalarFn, args: &[Value]) -> Result<Value> {
    let dtypes: Vec<DType> = args.iter().map(|a| a.dtype).collect();
    let Some(dtype) = f.result(&dtypes) else { bail!("{} is not defined for {dtypes:?}", f.keyword()) };
    let n = args[0].lanes.len();
    ensure!(args.iter().all(|a| a.lanes.len() == n), "the operands of {} differ in lanes", f.keyword());
    let operand = if f == ScalarFn::Select { dtypes[1] } else { dtypes[0] };
    let lane = |k: usize| f.eval(operand, &args.iter().map(|a| a.lanes[k]).collect::<Vec<_>>());
    Ok(Value { dtype, lanes: (0..n).map(lane).collect() })
}

/// All lanes combined, halves with each other until one is left.
fn horizontal(op: ReduceOp, v: Value) -> Result<Value> {
    let Some(f) = op.combine() else { bail!("{} does not combine lanes", op.keyword()) };
    ensure!(f.result(&[v.dtype, v.dtype]) == Some(v.dtype), "{} does not combine {}", op.keyword(), v.dtype);
    let mut lanes = v.lanes;
    while lanes.len() > 1 {
        let upper = lanes.split_off(lanes.len().div_ceil(2));
        for (a, b) in lanes.iter_mut().zip(upper) {
            *a = f.eval(v.dtype, &[*a, b]);
        }
    }
    Ok(Value { dtype: v.dtype, lanes })
}
