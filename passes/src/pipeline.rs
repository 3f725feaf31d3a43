//! The pipeline: reading these lists is reading the compiler.

use crate::runner::{self, Context, Numerics};
use crate::{fuse, graph, lower, memory, rewrite};
use aic_ir::bail;
use aic_ir::error::Result;
use aic_ir::graph::Graph;
use aic_ir::program::Program;
use aic_ir::target::Target;

/// A pass over graphs.
pub struct Pass {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub help: &'static str,
    /// The pass.
    pub run: fn(&Graph, &mut Context) -> Result<Graph>,
}

/// Every graph pass.
pub const PASSES: &[Pass] = &[
    Pass {
        name: "canonicalize",
        help: "remove nodes that do nothing, merge chains of reshapes and transposes",
        run: |g, _| graph::canonicalize(g),
    },
    Pass { name: "fold", help: "evaluate nodes whose operands are constants", run: graph::fold },
    Pass {
        name: "rewrite",
        help: "equality saturation with the rules of the admitted classes",
        run: rewrite::run,
    },
    Pass { name: "dce", help: "remove nodes that no output needs", run: |g, _| graph::dead_code(g) },
    Pass { name: "fuse", help: "group nodes that one kernel computes", run: fuse::run },
];

/// What `-O0` to `-O3` run, in this order.
pub const LEVELS: [&[&str]; 4] = [
    &["dce"],
    &["canonicalize", "fold", "dce"],
    &["canonicalize", "fold", "rewrite", "fold", "dce", "fuse"],
    &["canonicalize", "fold", "rewrite", "fold", "dce", "fuse"],
];

/// How a graph is compiled.
#[derive(Clone, Debug)]
pub struct Options {
    /// The machine.
    pub target: Target,
    /// Index into [`LEVELS`].
    pub level: usize,
    /// Which rewrites are admitted.
    pub numerics: Numerics,
}

impl Options {
    /// The defaults for a machine: `-O2`, `reassociate`.
    pub fn new(target: Target) -> Options {
        Options { target, level: 2, numerics: Numerics::default() }
    }
}

/// The pass with this name.
///
/// # Errors
/// There is none.
pub fn pass(name: &str) -> Result<&'static Pass> {
    match PASSES.iter().find(|p| p.name == name) {
        Some(pass) => Ok(pass),
        None => {
            let known: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
            bail!("unknown pass {name:?}; known are {}", known.join(", "))
        }
    }
}

/// Optimises a graph and lowers it to a program with a memory plan.
pub fn compile(graph: Graph, options: &Options) -> Result<Program> {
    let mut cx = Context::new(options);
    let Some(names) = LEVELS.get(options.level) else { bail!("there is no -O{}", options.level) };
    let graph = runner::run(graph, names, &mut cx)?;
    let mut program = lower::lower(graph, &options.target)?;
    memory::plan(&mut program);
    memory::check(&program)?;
    Ok(program)
}
