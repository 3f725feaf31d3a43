//! Groups of operators that are computed together.

use super::bodies::random_body;
use super::{Operator, Rng, Sample, op};
use crate::compose::compose;
use crate::compute::Compute;
use crate::dim::{Dim, Sym};
use crate::error::Result;
use crate::graph::Graph;
use crate::tensor::Tensor;
use crate::types::Type;
use crate::{ensure, eval};
use std::collections::HashMap;
use std::sync::Arc;

op! {
    /// What the body gives for `xs`, computed as one: its compute definition is the composition of those of the
    /// body's operators, if all of them have one. Symbols that are a dim of the body's inputs stand for the operands'
    /// dims; other symbols are those outside.
    Fused = "fused"(; xs ..) {
        /// The operators.
        body: Arc<Graph>,
    }
}

impl Fused {
    /// What the symbols of the body's inputs stand for.
    fn bind(&self, x: &[&Type]) -> Result<HashMap<Sym, Dim>> {
        let body = &*self.body;
        let n = body.inputs.len();
        ensure!(x.len() == n, "the body {} takes {n} values but is passed {}", body.name, x.len());
        let mut binding: HashMap<Sym, Dim> = HashMap::new();
        let declared: Vec<&Type> = body.inputs.iter().map(|p| body.ty(p.value)).collect();
        for (d, found) in declared.iter().zip(x).flat_map(|(a, b)| a.dims.iter().zip(&b.dims)) {
            if let Some(s) = d.as_sym() {
                binding.entry(s.clone()).or_insert_with(|| found.clone());
            }
        }
        for (k, (to, from)) in declared.iter().zip(x).enumerate() {
            let bound = to.subst(&|s| binding.get(s).cloned());
            ensure!(
                bound.dtype == from.dtype && bound.dims == from.dims,
                "input {k} of the body {} is {to} but is passed {from}",
                body.name
            );
        }
        Ok(binding)
    }

    /// The body with its symbols replaced by what they stand for.
    fn bound(&self, x: &[Type]) -> Option<Graph> {
        let binding = self.bind(&x.iter().collect::<Vec<_>>()).ok()?;
        Some(self.body.subst(&|s| binding.get(s).cloned()))
    }
}

impl Operator for Fused {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let binding = self.bind(x)?;
        let results = self.body.outputs.iter().map(|p| self.body.ty(p.value));
        Ok(results.map(|t| t.subst(&|s| binding.get(s).cloned())).collect())
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        eval::graph(&self.body, x)
    }

    fn compute(&self, x: &[Type], _y: &[Type]) -> Option<Compute> {
        compose(&self.bound(x)?)
    }

    fn requires(&self, x: &[Type]) -> Vec<Dim> {
        let Some(body) = self.bound(x) else { return Vec::new() };
        let mut out: Vec<Dim> = Vec::new();
        for (_, n) in body.nodes() {
            let types: Vec<Type> = n.inputs.iter().map(|v| body.ty(*v).clone()).collect();
            out.extend(n.op.requires(&types));
        }
        out.dedup();
        out
    }

    fn sample(rng: &mut Rng) -> Sample {
        let (body, operands) = random_body(rng);
        Sample { op: Fused { body: body.into() }.into(), operands }
    }
}
