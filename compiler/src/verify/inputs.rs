//! Cases: inputs, and what the graph computes on them.
//!
//! Seeds take turns. Even ones have the inputs of `aic run`: floats in `[0, 1)`, integers that are 0 or 1 and so
//! valid as tokens, masks, positions and kinds alike, and symbols that are 1 in the first. Odd ones have floats in
//! `[-2, 2)` and integers up to 64; where an index is out of range then, or a shape doesn't exist, they are drawn
//! again from the first ranges.

use super::reference::{self, Expected, Reference};
use crate::io;
use aic_ir::bail;
use aic_ir::dim::Sym;
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::eval;
use aic_ir::graph::{Graph, ValueId};
use aic_ir::op::Rng;
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use aic_passes::runner::Numerics;
use std::collections::HashMap;
use std::fmt;

/// Inputs, and what should come out.
pub struct Case {
    /// What the inputs are drawn from, or `None` if they were given.
    pub seed: Option<u64>,
    /// A value for every input.
    pub inputs: Vec<Tensor>,
    /// For every output.
    pub expected: Vec<Expected>,
    /// For every result of a node, if wanted.
    pub values: HashMap<ValueId, Expected>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.seed {
            Some(seed) => write!(f, "inputs of seed {seed}"),
            None => f.write_str("the inputs given"),
        }
    }
}

/// The case of given inputs.
///
/// # Errors
/// The graph isn't defined on them.
pub fn case_of(graph: &Graph, inputs: Vec<Tensor>, numerics: Numerics, keep_values: bool) -> Result<Case> {
    let Reference { outputs, values } = reference::reference(graph, &inputs, numerics, 0, keep_values)?;
    Ok(Case { seed: None, inputs, expected: outputs, values })
}

/// The case of a seed.
///
/// # Errors
/// The graph isn't defined on any of the inputs tried.
pub fn generate(graph: &Graph, seed: u64, numerics: Numerics, keep_values: bool) -> Result<Case> {
    let wide = seed % 2 == 1;
    let mut failure = Error::new("no inputs were tried");
    for (extents, wide) in [(true, wide), (true, false), (false, false)] {
        let drawn = draw(graph, seed, extents && seed > 0, wide);
        let case = drawn.and_then(|inputs| {
            eval::bind_symbols(graph, &inputs)?;
            case_of(graph, inputs, numerics, keep_values)
        });
        match case {
            Ok(case) => return Ok(Case { seed: Some(seed), ..case }),
            Err(error) => failure = error,
        }
    }
    Err(failure.context("the model isn't defined on generated inputs").help("give it some with --inputs"))
}

/// Inputs of a seed: symbols are 1 or with `extents` up to 6, and values of the first ranges or with `wide` of the
/// others.
///
/// # Errors
/// An input has a dim without a value.
pub fn draw(graph: &Graph, seed: u64, extents: bool, wide: bool) -> Result<Vec<Tensor>> {
    let mut rng = Rng::new(seed ^ 0xd1_35);
    let symbols: HashMap<Sym, i64> = graph
        .input_symbols()
        .into_iter()
        .map(|(s, _, _)| (s, if extents { rng.range(1, 7) } else { 1 }))
        .collect();
    let input = |(k, port): (usize, &aic_ir::graph::Port)| {
        let ty = graph.ty(port.value);
        let Some(shape) = shape(ty, &symbols) else { bail!("input {:?}: {ty} has no extents", port.name) };
        let seed = seed.wrapping_add(k as u64);
        let tensor = if wide { spread(ty.dtype, shape, seed) } else { io::random(ty.dtype, shape, seed) };
        tensor.map_err(|error| error.context(format!("input {:?}", port.name)))
    };
    graph.inputs.iter().enumerate().map(input).collect()
}

fn shape(ty: &Type, symbols: &HashMap<Sym, i64>) -> Option<Vec<usize>> {
    let value = |s: &Sym| Some(symbols.get(s).copied().unwrap_or(1));
    ty.dims.iter().map(|d| d.eval(&value).and_then(|n| usize::try_from(n).ok())).collect()
}

/// Floats of both signs, integers that are small but not only 0 and 1.
fn spread(dtype: DType, shape: Vec<usize>, seed: u64) -> Result<Tensor> {
    let mut rng = Rng::new(seed);
    Tensor::generate(dtype, shape, |_| match dtype {
        DType::Bool => Scalar::B(rng.one_in(2)),
        _ if dtype.is_float() => Scalar::F(4.0 * rng.unit() - 2.0).cast(dtype),
        _ => Scalar::I(rng.range(0, 64)).cast(dtype),
    })
}
