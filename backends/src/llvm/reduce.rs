//! All lanes of a vector combined into a scalar, in a tree.

use super::build::Raw;
use super::emit::{Emitter, Value, name};
use aic_ir::bail;
use aic_ir::compute::ReduceOp;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::VType;
use inkwell::values::FastMathFlags;

impl<'c> Emitter<'_, 'c> {
    pub fn horizontal(&mut self, op: ReduceOp, v: Value<'c>) -> Result<Value<'c>> {
        let ty = VType { lanes: 1, ..v.ty };
        if v.ty.lanes == 1 {
            return Ok(v);
        }
        let dtype = v.ty.dtype;
        let float = matches!(dtype, DType::F32 | DType::F64);
        let raw = match op {
            ReduceOp::Sum if float => self.reduce_from("llvm.vector.reduce.fadd", -0.0, v.raw)?,
            ReduceOp::Prod if float => self.reduce_from("llvm.vector.reduce.fmul", 1.0, v.raw)?,
            ReduceOp::Max if float => {
                self.reduce("llvm.vector.reduce.fmaximum", v.raw, FastMathFlags::NoSignedZeros)?
            }
            ReduceOp::Min if float => {
                self.reduce("llvm.vector.reduce.fminimum", v.raw, FastMathFlags::NoSignedZeros)?
            }
            _ => match integer(op, dtype) {
                Some(intrinsic) => self.reduce(intrinsic, v.raw, FastMathFlags::empty())?,
                None => bail!("the lanes of {} cannot be combined by {}", name(v.ty), op.keyword()),
            },
        };
        Ok(Value { raw, ty })
    }

    /// A reduction of a vector without liberties but the given ones.
    pub fn reduce(&self, intrinsic: &str, v: Raw<'c>, flags: FastMathFlags) -> Result<Raw<'c>> {
        self.b.intrinsic(intrinsic, &[v.get_type()], &[v], flags)
    }

    /// A reduction in any order, which LLVM makes a tree.
    fn reduce_from(&self, intrinsic: &str, start: f64, v: Raw<'c>) -> Result<Raw<'c>> {
        let start = self.b.float_like(self.b.extract(v, 0)?, start)?;
        self.b.intrinsic(intrinsic, &[v.get_type()], &[start, v], FastMathFlags::AllowReassoc)
    }
}

fn integer(op: ReduceOp, dtype: DType) -> Option<&'static str> {
    Some(match op {
        ReduceOp::And if dtype == DType::Bool => "llvm.vector.reduce.and",
        ReduceOp::Or if dtype == DType::Bool => "llvm.vector.reduce.or",
        _ if !dtype.is_int() => return None,
        ReduceOp::Sum => "llvm.vector.reduce.add",
        ReduceOp::Prod => "llvm.vector.reduce.mul",
        ReduceOp::Max if dtype.is_signed() => "llvm.vector.reduce.smax",
        ReduceOp::Min if dtype.is_signed() => "llvm.vector.reduce.smin",
        ReduceOp::Max => "llvm.vector.reduce.umax",
        ReduceOp::Min => "llvm.vector.reduce.umin",
        _ => return None,
    })
}
