//! What a node costs at run time: a roofline of the target.
//!
//! A node takes the longer of the time for its arithmetic at the peak of the vector units and the time for its bytes
//! at the bandwidth of the nearest memory that holds them, and what starting a kernel costs. Elementwise operators
//! join the kernels around them, so that they cost their arithmetic and a part of their traffic. Reshapes are free,
//! and so is what only constants decide, because it is evaluated at compile time; except for large results of
//! smaller operands, which aren't.
//!
//! Costs are integers, so that sums don't depend on their order. Symbolic extents are taken to be [`NOMINAL`].

use super::facts::{Facts, Kind, is_evaluated, rebuild_op};
use super::lang::{EGraph, ENode};
use crate::runner::Numerics;
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::op::{ActivationFn, Op};
use aic_ir::scalar::ScalarFn;
use aic_ir::target::{MemoryLevel, Target};
use aic_ir::types::Type;
use std::ops::Add;

/// The extent that a symbol is taken to have.
pub(crate) const NOMINAL: i64 = 64;
/// Cycles per second of a vector unit that starts two fused multiply-adds per cycle.
pub(crate) const CLOCK: f64 = 3e9;
/// Seconds to start a kernel.
pub const LAUNCH: f64 = 1e-6;
/// Seconds for an elementwise operator within a kernel of others.
pub(crate) const FUSED_LAUNCH: f64 = 5e-8;
/// The part of its traffic that an elementwise operator has within a kernel of others.
const FUSED_TRAFFIC: f64 = 0.25;

/// Time in units of 10^-14 s, then the number of nodes; compared in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cost {
    /// The time.
    pub time: u64,
    /// Nodes of any cost, to choose among equals.
    pub nodes: u64,
}

impl Add for Cost {
    type Output = Cost;

    fn add(self, o: Cost) -> Cost {
        Cost { time: self.time.saturating_add(o.time), nodes: self.nodes.saturating_add(o.nodes) }
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Cost>>(costs: I) -> Cost {
        costs.fold(Cost::default(), Cost::add)
    }
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} us in {} nodes", self.time as f64 * 1e-8, self.nodes)
    }
}

/// The cost of an e-node of an e-graph.
pub fn of_enode(g: &EGraph, node: &ENode, y: &Facts, target: &Target) -> Cost {
    let time = match node {
        ENode::Attr(_) | ENode::Const(_) | ENode::Leaf(_) | ENode::Result(..) => {
            return Cost { time: 0, nodes: 0 };
        }
        ENode::Opaque(..) => to_units(LAUNCH),
        ENode::Op(keyword, _) => {
            let (x, attrs) = node.operands_and_attrs();
            let facts: Vec<&Facts> = attrs.iter().map(|a| &g[*a].data).collect();
            let x: Vec<&Facts> = x.iter().map(|c| &g[*c].data).collect();
            match rebuild_op(*keyword, &facts) {
                Ok(op) => of_op(&op, &x, y, target, g.analysis.numerics),
                Err(_) => u64::MAX,
            }
        }
    };
    Cost { time, nodes: 1 }
}

/// The time of an operator on these operands.
fn of_op(op: &Op, x: &[&Facts], y: &Facts, target: &Target, numerics: Numerics) -> u64 {
    let x_types: Vec<&Type> = x.iter().filter_map(|f| f.ty()).collect();
    let y_types: Vec<&Type> = match &y.kind {
        Kind::Tensor(ty) => vec![ty],
        Kind::Tuple(types) => types.iter().collect(),
        _ => return u64::MAX,
    };
    if x.iter().all(|f| f.is_const) && is_evaluated(op, &x_types, &y_types, numerics) {
        return 0;
    }
    to_units(seconds(op, &x_types, &y_types, target))
}

fn to_units(seconds: f64) -> u64 {
    (seconds * 1e14) as u64
}

fn extent(d: &Dim) -> f64 {
    d.eval(&|_| Some(NOMINAL)).unwrap_or(NOMINAL).max(0) as f64
}

fn elements(ty: &Type) -> f64 {
    ty.dims.iter().map(extent).product()
}

fn bytes(ty: &Type) -> f64 {
    elements(ty) * ty.dtype.size() as f64
}

fn seconds(op: &Op, x: &[&Type], y: &[&Type], target: &Target) -> f64 {
    let out: f64 = y.iter().map(|t| elements(t)).sum();
    let moved: f64 = x.iter().chain(y).map(|t| bytes(t)).sum();
    let fused = |per_element: f64| {
        let arithmetic = out * per_element / peak(target, y[0]);
        FUSED_LAUNCH + arithmetic.max(FUSED_TRAFFIC * traffic(moved, target))
    };
    let kernel = |operations: f64| LAUNCH + (operations / peak(target, y[0])).max(traffic(moved, target));
    let dim = |t: &Type, back: usize| t.dims.len().checked_sub(back).map_or(1.0, |k| extent(&t.dims[k]));
    match (op, op.keyword()) {
        (Op::Reshape(_) | Op::DimValue(_), _) => 0.0,
        (Op::Elementwise(e), _) => fused(scalar_operations(e.f)),
        (Op::Slice(_), _) => FUSED_LAUNCH + FUSED_TRAFFIC * traffic(2.0 * bytes(y[0]), target),
        (Op::Cast(_) | Op::Bitcast(_) | Op::Expand(_), _) => fused(1.0),
        (Op::Transpose(_) | Op::Concat(_) | Op::Pad(_), _) => FUSED_LAUNCH + traffic(moved, target),
        (Op::Activation(a), _) => fused(activation_operations(a.f)),
        (_, "rotary") => fused(4.0),
        (Op::Matmul(_), _) => kernel(2.0 * out * dim(x[0], 1)),
        (Op::Conv(_), _) => kernel(2.0 * out * x[1].dims[1..].iter().map(extent).product::<f64>()),
        (_, "attention") => kernel(out * dim(x[1], 2) * 4.0 + out / dim(y[0], 1) * dim(x[1], 2) * 16.0),
        (Op::Softmax(_) | Op::LogSoftmax(_), _) => kernel(16.0 * out),
        (_, "normalize") => kernel(8.0 * out),
        (Op::Pool(p), _) => kernel(out * p.kernel.iter().product::<usize>() as f64),
        _ => kernel(x.iter().map(|t| elements(t)).sum::<f64>() + out),
    }
}

/// Operations per second on elements of a type.
fn peak(target: &Target, ty: &Type) -> f64 {
    peak_of(target, ty.dtype)
}

/// Operations per second of one core on elements of a type, two for each multiplication with addition.
pub fn peak_of(target: &Target, dtype: DType) -> f64 {
    CLOCK * 4.0 * f64::from(target.lanes(dtype.compute().size()))
}

/// Seconds to move bytes at the bandwidth of the nearest memory that holds them.
fn traffic(bytes: f64, target: &Target) -> f64 {
    level_of(bytes, target).map_or(0.0, |level| bytes / level.bandwidth)
}

/// The nearest memory that holds so many bytes.
pub fn level_of(bytes: f64, target: &Target) -> Option<&MemoryLevel> {
    target.memory.iter().find(|m| m.bytes as f64 >= bytes).or(target.memory.last())
}

/// Simple operations that a scalar function takes, roughly.
fn scalar_operations(f: ScalarFn) -> f64 {
    use ScalarFn::*;
    match f {
        Div | Sqrt | Mod | Rem => 6.0,
        Exp | Log | Sigmoid | Tanh | Erf | Softplus => 16.0,
        Sin | Cos | Tan | Asin | Acos | Atan | Sinh | Cosh | Asinh | Acosh | Atanh | Pow => 24.0,
        _ => 1.0,
    }
}

/// Simple operations that an activation takes, roughly.
fn activation_operations(f: ActivationFn) -> f64 {
    match f {
        ActivationFn::HardSwish => 5.0,
        ActivationFn::GeluSigmoid | ActivationFn::Silu => 18.0,
        ActivationFn::GeluTanh | ActivationFn::Mish => 20.0,
        ActivationFn::Gelu => 26.0,
    }
}
