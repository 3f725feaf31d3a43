//! The pipeline: reading these lists is reading the compiler.

use crate::runner::{self, Context, Failure, Numerics, RuleText};
use crate::schedule::Choices;
use crate::{fuse, graph, layout, lower, memory, rewrite};
use aic_ir::bail;
use aic_ir::error::Result;
use aic_ir::graph::Graph;
use aic_ir::program::Program;
use aic_ir::target::Target;
use std::sync::Arc;

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
        run: graph::canonicalize,
    },
    Pass { name: "fold", help: "evaluate nodes whose operands are constants", run: graph::fold },
    Pass {
        name: "rewrite",
        help: "equality saturation with the rules of the admitted classes",
        run: rewrite::run,
    },
    Pass { name: "dce", help: "remove nodes that no output needs", run: |g, _| graph::dead_code(g) },
    Pass { name: "layout", help: "put channels innermost where that is faster", run: layout::run },
    Pass { name: "fuse", help: "group nodes that one kernel computes", run: fuse::run },
];

/// What `-O0` to `-O3` run, in this order. The last two differ in how far the rewriter goes
/// ([`rewrite::saturate::Limits::of_level`]).
pub const LEVELS: [&[&str]; 4] = [
    &["dce"],
    &["canonicalize", "fold", "dce"],
    &["canonicalize", "fold", "rewrite", "fold", "dce", "layout", "fuse"],
    &["canonicalize", "fold", "rewrite", "fold", "dce", "layout", "fuse"],
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
    /// Rules beside the built-in ones.
    pub rules: Vec<RuleText>,
    /// Rules, by name, that are left out.
    pub without: Vec<String>,
    /// How many rewrites may be applied, over all passes; `None` for no limit.
    pub fuel: Option<u64>,
    /// Whether the graph is verified after every pass.
    pub verified: bool,
    /// Schedules that were found to be faster than those that are chosen by the model of costs.
    pub choices: Arc<Choices>,
}

impl Options {
    /// The defaults for a machine: `-O2`, `reassociate`, verified in debug builds.
    pub fn new(target: Target) -> Options {
        Options {
            target,
            level: 2,
            numerics: Numerics::default(),
            rules: Vec::new(),
            without: Vec::new(),
            fuel: None,
            verified: cfg!(debug_assertions),
            choices: Arc::default(),
        }
    }

    /// The machine as this class of numerics may use it.
    pub fn machine(&self) -> Target {
        Target { drops_bits: self.numerics == Numerics::Fast, ..self.target.clone() }
    }
}

/// The names of the passes of a level.
///
/// # Errors
/// There is no such level.
pub fn level(level: usize) -> Result<&'static [&'static str]> {
    match LEVELS.get(level) {
        Some(names) => Ok(names),
        None => bail!("there is no -O{level}; the levels are 0 to {}", LEVELS.len() - 1),
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

/// The passes with these names.
///
/// # Errors
/// One is unknown.
pub fn passes(names: &[&str]) -> Result<Vec<&'static Pass>> {
    names.iter().map(|name| pass(name)).collect()
}

/// Optimises a graph and lowers it to a program with a memory plan.
///
/// # Errors
/// There is no such level, or a pass fails.
pub fn compile(graph: Graph, options: &Options) -> Result<Program> {
    compile_with(graph, &passes(level(options.level)?)?, options).map_err(|failure| failure.into_error())
}

/// Runs these passes on a graph and lowers it.
///
/// # Errors
/// The pass that fails; lowering counts as one.
pub fn compile_with(
    graph: Graph,
    passes: &[&Pass],
    options: &Options,
) -> std::result::Result<Program, Box<Failure>> {
    let mut cx = Context::new(options);
    let graph = runner::run_watched(graph, passes, &mut cx, options.verified, &mut |_| {})?;
    lower(graph.clone(), options)
        .map_err(|error| Box::new(Failure { pass: "lower".into(), before: graph, fuel: cx.fuel, error }))
}

/// Lowers an optimised graph to a program with a memory plan.
///
/// # Errors
/// A node can't be lowered.
pub fn lower(graph: Graph, options: &Options) -> Result<Program> {
    runner::caught(|| {
        let mut program = lower::lower_with(graph, &options.machine(), &options.choices)?;
        memory::plan(&mut program);
        memory::check(&program)?;
        Ok(program)
    })
}
