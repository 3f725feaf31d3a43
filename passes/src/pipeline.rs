//! The pipeline: reading this list is reading the compiler.

use crate::{graph, lower, memory};
use aic_ir::bail;
use aic_ir::error::Result;
use aic_ir::graph::Graph;
use aic_ir::program::Program;
use aic_ir::target::Target;
use aic_ir::verify;

/// A pass over graphs.
pub struct Pass {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub help: &'static str,
    /// The pass.
    pub run: fn(&Graph) -> Result<Graph>,
}

/// Every graph pass, in the order in which they run.
pub const PIPELINE: &[Pass] = &[
    Pass {
        name: "canonicalize",
        help: "remove nodes that do nothing, merge chains of reshapes and transposes",
        run: graph::canonicalize,
    },
    Pass { name: "fold", help: "evaluate nodes whose operands are constants", run: graph::fold },
    Pass { name: "dce", help: "remove nodes that no output needs", run: graph::dead_code },
];

/// Runs the named passes in the order given; in debug builds the graph is verified before the first and after each.
pub fn run(graph: Graph, names: &[&str]) -> Result<Graph> {
    check(&graph, "before the first pass")?;
    names.iter().try_fold(graph, |g, name| match PIPELINE.iter().find(|p| p.name == *name) {
        Some(pass) => {
            let g = (pass.run)(&g).map_err(|e| e.context(format!("pass {name}")))?;
            check(&g, &format!("after pass {name}"))?;
            Ok(g)
        }
        None => {
            let known: Vec<&str> = PIPELINE.iter().map(|p| p.name).collect();
            bail!("unknown pass {name:?}; known are {}", known.join(", "))
        }
    })
}

fn check(graph: &Graph, place: &str) -> Result<()> {
    match cfg!(debug_assertions) {
        true => verify::report(&format!("the graph {place}"), &verify::graph(graph)),
        false => Ok(()),
    }
}

/// Optimises a graph and lowers it to a program with a memory plan.
pub fn compile(graph: Graph, target: &Target) -> Result<Program> {
    let names: Vec<&str> = PIPELINE.iter().map(|p| p.name).collect();
    let graph = run(graph, &names)?;
    let mut program = lower::lower(graph, target)?;
    memory::plan(&mut program);
    memory::check(&program)?;
    Ok(program)
}
