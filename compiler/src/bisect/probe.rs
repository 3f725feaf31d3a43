//! Is this graph wrong too?

use crate::verify::reference::reference;
use crate::verify::{Comparison, Compiler, compare};
use aic_ir::error::Result;
use aic_ir::graph::Graph;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use aic_ir::{eval, verify};
use aic_passes::pipeline::Pass;
use aic_passes::runner::{self, Context};

/// A part of the compiler that a graph goes through.
pub enum Stage<'a> {
    /// A pass, with the fuel that it is given.
    Pass(&'a Pass, Option<u64>),
    /// Lowering, code generation and running.
    Lower,
}

/// Compares what a graph computes before and after a stage.
pub struct Probe<'a> {
    /// The whole compiler.
    pub compiler: &'a Compiler<'a>,
    /// The part of it.
    pub stage: Stage<'a>,
}

impl Probe<'_> {
    /// The pass's name, or `lower`.
    pub fn name(&self) -> &str {
        match &self.stage {
            Stage::Pass(pass, _) => pass.name,
            Stage::Lower => "lower",
        }
    }

    /// The context that the pass gets.
    ///
    /// # Errors
    /// The CPU is unknown.
    pub fn context(&self) -> Result<Context> {
        let fuel = match &self.stage {
            Stage::Pass(_, fuel) => *fuel,
            Stage::Lower => None,
        };
        Ok(Context { fuel, ..self.compiler.context()? })
    }

    /// The worst output where the stage makes a graph wrong. `None` where it doesn't, and for what is no graph.
    pub fn wrong(&self, graph: &Graph, inputs: &[Tensor]) -> Option<Comparison> {
        self.wrong_in(graph, inputs, &mut self.context().ok()?)
    }

    /// The same with a context of the caller's, which tells what the pass did.
    pub fn wrong_in(&self, graph: &Graph, inputs: &[Tensor], cx: &mut Context) -> Option<Comparison> {
        if !verify::graph(graph).is_empty() {
            return None;
        }
        let expected = runner::caught(|| reference(graph, inputs, cx.numerics, 1, false)).ok()?.outputs;
        let found = match &self.stage {
            Stage::Pass(pass, _) => {
                match runner::run_watched(graph.clone(), &[pass], cx, true, &mut |_| {}) {
                    Ok(after) => runner::caught(|| eval::graph(&after, inputs)),
                    Err(failure) => Err(failure.error),
                }
            }
            Stage::Lower => runner::caught(|| self.compiler.load(graph.clone())?(inputs)),
        };
        match found {
            Ok(found) => {
                let pairs = expected.iter().zip(&found).zip(&graph.outputs);
                let compared = pairs.map(|((want, got), p)| compare::compare(&p.name, want, got));
                compared.filter(Comparison::is_wrong).max_by(|a, b| a.ratio.total_cmp(&b.ratio))
            }
            Err(error) => {
                let want = &expected.first()?.value;
                let ty = Type::of(want.dtype(), want.shape());
                Some(Comparison::failed("the graph", ty, error.message))
            }
        }
    }
}
