//! LLVM's names of operations, by the types they are on.

use crate::emit::build::{Binary, Compare};
use aic_ir::dtype::DType;
use inkwell::values::{FastMathFlags, InstructionOpcode as I};
use inkwell::{FloatPredicate as F, IntPredicate as P};

/// How LLVM writes an operation on two operands.
pub(super) enum Instruction {
    Op(I),
    Intrinsic(&'static str),
    /// An intrinsic that may take either zero.
    Extreme(&'static str),
}

pub(super) fn instruction(op: Binary, dtype: DType) -> Instruction {
    use Instruction::{Extreme, Intrinsic, Op};
    let (float, signed) = (dtype.is_float(), dtype.is_signed());
    match op {
        Binary::Add if float => Op(I::FAdd),
        Binary::Sub if float => Op(I::FSub),
        Binary::Mul if float => Op(I::FMul),
        Binary::Div if float => Op(I::FDiv),
        Binary::Min if float => Extreme("llvm.minimum"),
        Binary::Max if float => Extreme("llvm.maximum"),
        Binary::CopySign => Intrinsic("llvm.copysign"),
        Binary::Add => Op(I::Add),
        Binary::Sub => Op(I::Sub),
        Binary::Mul => Op(I::Mul),
        Binary::Div if signed => Op(I::SDiv),
        Binary::Rem if signed => Op(I::SRem),
        Binary::Div => Op(I::UDiv),
        Binary::Rem => Op(I::URem),
        Binary::And => Op(I::And),
        Binary::Or => Op(I::Or),
        Binary::Xor => Op(I::Xor),
        Binary::Shl => Op(I::Shl),
        Binary::Shr if signed => Op(I::AShr),
        Binary::Shr => Op(I::LShr),
        Binary::Min if signed => Intrinsic("llvm.smin"),
        Binary::Max if signed => Intrinsic("llvm.smax"),
        Binary::Min => Intrinsic("llvm.umin"),
        Binary::Max => Intrinsic("llvm.umax"),
    }
}

pub(super) fn reduction(op: Binary, dtype: DType) -> Option<(&'static str, FastMathFlags)> {
    let (float, signed) = (dtype.is_float(), dtype.is_signed());
    let (any_order, any_zero) = (FastMathFlags::AllowReassoc, FastMathFlags::NoSignedZeros);
    Some(match op {
        Binary::Add if float => ("llvm.vector.reduce.fadd", any_order),
        Binary::Mul if float => ("llvm.vector.reduce.fmul", any_order),
        Binary::Max if float => ("llvm.vector.reduce.fmaximum", any_zero),
        Binary::Min if float => ("llvm.vector.reduce.fminimum", any_zero),
        Binary::Add => ("llvm.vector.reduce.add", FastMathFlags::empty()),
        Binary::Mul => ("llvm.vector.reduce.mul", FastMathFlags::empty()),
        Binary::And => ("llvm.vector.reduce.and", FastMathFlags::empty()),
        Binary::Or => ("llvm.vector.reduce.or", FastMathFlags::empty()),
        Binary::Max if signed => ("llvm.vector.reduce.smax", FastMathFlags::empty()),
        Binary::Min if signed => ("llvm.vector.reduce.smin", FastMathFlags::empty()),
        Binary::Max => ("llvm.vector.reduce.umax", FastMathFlags::empty()),
        Binary::Min => ("llvm.vector.reduce.umin", FastMathFlags::empty()),
        _ => return None,
    })
}

/// Ordered, but `!=`, which holds for NaN.
pub(super) fn float_predicate(op: Compare) -> F {
    match op {
        Compare::Eq => F::OEQ,
        Compare::Ne => F::UNE,
        Compare::Lt => F::OLT,
        Compare::Le => F::OLE,
        Compare::Gt => F::OGT,
        Compare::Ge => F::OGE,
    }
}

pub(super) fn int_predicate(op: Compare, signed: bool) -> P {
    match (op, signed) {
        (Compare::Eq, _) => P::EQ,
        (Compare::Ne, _) => P::NE,
        (Compare::Lt, true) => P::SLT,
        (Compare::Le, true) => P::SLE,
        (Compare::Gt, true) => P::SGT,
        (Compare::Ge, true) => P::SGE,
        (Compare::Lt, false) => P::ULT,
        (Compare::Le, false) => P::ULE,
        (Compare::Gt, false) => P::UGT,
        (Compare::Ge, false) => P::UGE,
    }
}
