//! What a graph computes, and how far rounding may carry a result away from that.
//!
//! The interpreter is run as it is, and [`N_NOISY`] times with every float result of every node moved by as much as its own
//! rounding error may be, up or down at random (stochastic arithmetic: Vignes, Math. Comput. Simul. 35, 1993). How far
//! that moves an element says how well it is determined, whatever the network does with its errors: deep ones, small
//! divisors and jumps are all seen. A correct program lies as far away, times a small factor.
//!
//! The error of a node's element `y` is taken to be `u * sqrt(k) * max|y|` where it is a sum of `k` terms, which may be
//! added in any order, and `4 * u * |y|` elsewhere, with `u` the unit roundoff of the type that is computed in; for
//! 16-bit types their own rounding comes on top. Convolutions that may be computed by Winograd's filtering have a part
//! of the error that is tolerated there. Nodes that move or choose elements make none.

use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::eval;
use aic_ir::graph::{Graph, Node, ValueId};
use aic_ir::op::{Op, Rng};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use aic_passes::layout::winograd;
use aic_passes::runner::Numerics;
use std::collections::HashMap;

/// How often results are disturbed: one draw may hardly move an element, by chance.
const N_NOISY: u64 = 2;

/// The part of the error that Winograd's filtering may have which results are moved by: the several draws, and the factor
/// by which they are multiplied where results are compared, make the whole of it.
const FILTERING: f64 = 1.0 / 8.0;

/// What a value should be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The interpreter's value.
    pub value: Tensor,
    /// The same with rounding errors added, more than once; nothing where the graph isn't defined then.
    pub noisy: Vec<Tensor>,
    /// Roundings on the longest way to it.
    pub depth: usize,
    /// The error, relative to an element, of one rounding.
    pub unit: f64,
}

/// What a graph computes.
pub struct Reference {
    /// For each output.
    pub outputs: Vec<Expected>,
    /// For each result of a node, if wanted.
    pub values: HashMap<ValueId, Expected>,
}

/// Interprets a graph, with and without rounding errors. `numerics` says how large these may be.
///
/// # Errors
/// The graph isn't defined on these inputs.
pub fn reference(
    graph: &Graph,
    inputs: &[Tensor],
    numerics: Numerics,
    seed: u64,
    keep_values: bool,
) -> Result<Reference> {
    let run = &|noise: Option<u64>| run(graph, inputs, noise.map(|seed| (seed, numerics)), keep_values);
    let (exact, noisy) = std::thread::scope(|scope| {
        let noisy: Vec<_> =
            (0..N_NOISY).map(|k| scope.spawn(move || run(Some(seed.wrapping_add(k))))).collect();
        let exact = run(None);
        (exact, noisy.into_iter().filter_map(|t| t.join().ok().and_then(Result::ok)).collect::<Vec<_>>())
    });
    let (outputs, values) = exact?;
    // Without one of them, the others are too few to judge by.
    let noisy = if noisy.len() as u64 == N_NOISY { noisy } else { Vec::new() };
    let depths = depths(graph);
    let expected = |v: ValueId, value: Tensor, noisy: Vec<Tensor>| {
        let unit = unit(value.dtype()) * looseness(numerics);
        Expected { value, noisy, depth: depths[v.index()], unit }
    };
    let output = |(k, value): (usize, Tensor)| {
        let noisy = noisy.iter().filter_map(|(outputs, _)| outputs.get(k).cloned()).collect();
        expected(graph.outputs[k].value, value, noisy)
    };
    let value = |(v, value): (ValueId, Tensor)| {
        let noisy = noisy.iter().filter_map(|(_, values)| values.get(&v).cloned()).collect();
        (v, expected(v, value, noisy))
    };
    let outputs = outputs.into_iter().enumerate().map(output).collect();
    Ok(Reference { outputs, values: values.into_iter().map(value).collect() })
}

type Values = (Vec<Tensor>, HashMap<ValueId, Tensor>);

fn run(
    graph: &Graph,
    inputs: &[Tensor],
    noise: Option<(u64, Numerics)>,
    keep_values: bool,
) -> Result<Values> {
    let mut rng = Rng::new(noise.map_or(0, |(seed, _)| seed ^ 0x5eed));
    let mut types: HashMap<ValueId, Type> = HashMap::new();
    for (p, t) in graph.inputs.iter().zip(inputs) {
        types.insert(p.value, Type::of(t.dtype(), t.shape()));
    }
    let mut values = HashMap::new();
    let outputs = eval::graph_with(graph, inputs, &mut |id, results| {
        let n = graph.node(id);
        for (v, t) in n.outputs.iter().zip(results.iter()) {
            types.insert(*v, Type::of(t.dtype(), t.shape()));
        }
        if let Some((_, numerics)) = noise
            && rounds(&n.op)
        {
            let of_largest = of_largest(n, &types, numerics);
            results.iter_mut().for_each(|t| disturb(t, of_largest, looseness(numerics), &mut rng));
        }
        if keep_values && !matches!(n.op, Op::Const(_)) {
            values.extend(n.outputs.iter().copied().zip(results.iter().cloned()));
        }
    })?;
    Ok((outputs, values))
}

/// Half the distance from 1 to the next number.
fn unit(dtype: DType) -> f64 {
    0.5f64.powi(match dtype {
        DType::F64 => 53,
        DType::F16 => 11,
        DType::BF16 => 8,
        _ => 24,
    })
}

/// How much larger errors may be than those of rounding.
fn looseness(numerics: Numerics) -> f64 {
    match numerics {
        Numerics::Exact | Numerics::Reassociate => 1.0,
        Numerics::Fast => 1024.0,
    }
}

/// Moves every element by its error, up or down. A part of the error is relative to the largest element.
fn disturb(t: &mut Tensor, of_largest: f64, looseness: f64, rng: &mut Rng) {
    let dtype = t.dtype();
    if !dtype.is_float() {
        return;
    }
    let computed_in = if dtype == DType::F64 { unit(DType::F64) } else { unit(DType::F32) };
    let stored = if computed_in == unit(dtype) { 0.0 } else { 2.0 * unit(dtype) };
    let finite = t.to_f64().into_iter().map(f64::abs).filter(|x| x.is_finite());
    let largest = if of_largest > 0.0 { finite.fold(0.0, f64::max) * of_largest } else { 0.0 };
    let moved = Tensor::generate(dtype, t.shape().to_vec(), |i| {
        let y = t.get(i).as_f64();
        let error = looseness * (computed_in * 4.0 * y.abs() + largest) + stored * y.abs();
        let moved = y + error * (2.0 * rng.unit() - 1.0);
        Scalar::F(if y.is_finite() { moved } else { y }).cast(dtype)
    });
    if let Ok(moved) = moved {
        *t = moved;
    }
}

/// Whether an operator rounds: it doesn't where it moves elements or chooses among them.
fn rounds(op: &Op) -> bool {
    use ScalarFn::{Abs, Ceil, Floor, Max, Min, Neg, Round, Select, Sign, Trunc};
    match op {
        Op::Elementwise(e) => {
            !matches!(e.f, Abs | Ceil | Floor | Max | Min | Neg | Round | Select | Sign | Trunc)
        }
        Op::Const(_) | Op::Reshape(_) | Op::Transpose(_) | Op::Expand(_) | Op::Slice(_) | Op::Concat(_) => {
            false
        }
        Op::Pad(_) | Op::Gather(_) | Op::GatherElements(_) | Op::GatherNd(_) | Op::Bitcast(_) => false,
        Op::Iota(_) | Op::DimValue(_) | Op::TopK(_) | Op::NonZero(_) | Op::Unique(_) | Op::Random(_) => false,
        _ => true,
    }
}

/// The error of a node's results relative to the largest of them: of sums, and of filtering.
fn of_largest(n: &Node, types: &HashMap<ValueId, Type>, numerics: Numerics) -> f64 {
    let of = |v: &ValueId| types.get(v);
    let terms = n_terms(n, types);
    let computed_in = match n.outputs.first().and_then(of) {
        Some(t) if t.dtype == DType::F64 => unit(DType::F64),
        _ => unit(DType::F32),
    };
    let of_sums = if terms > 1.0 { computed_in * terms.sqrt() } else { 0.0 };
    let is_filtering = match (&n.op, n.inputs.get(1).and_then(of).and_then(Type::shape)) {
        (Op::Conv(c), Some(w)) => numerics != Numerics::Exact && winograd::is_plain(c, &w),
        (Op::Winograd(_), _) => true,
        _ => false,
    };
    if is_filtering { of_sums.max(FILTERING * winograd::TOLERANCE) } else { of_sums }
}

/// How many terms are summed for an element, as the compute definition has it.
fn n_terms(n: &Node, types: &HashMap<ValueId, Type>) -> f64 {
    let types = |vs: &[ValueId]| vs.iter().map(|v| types.get(v).cloned()).collect::<Option<Vec<Type>>>();
    let compute = types(&n.inputs).zip(types(&n.outputs)).and_then(|(x, y)| n.op.compute(&x, &y));
    let stages = compute.into_iter().flat_map(|c| c.stages);
    let extents = stages.filter_map(|s| s.reduction).map(|r| {
        let extents = r.axes.iter().map(|a| a.extent.as_const().unwrap_or(1).max(1) as f64);
        extents.product::<f64>()
    });
    extents.fold(1.0, f64::max)
}

/// Roundings on the longest way to each value.
fn depths(graph: &Graph) -> Vec<usize> {
    let mut depths = vec![0; graph.n_values()];
    for (_, n) in graph.nodes() {
        let before = n.inputs.iter().map(|v| depths[v.index()]).max().unwrap_or(0);
        let own = usize::from(rounds(&n.op));
        n.outputs.iter().for_each(|v| depths[v.index()] = before + own);
    }
    depths
}
