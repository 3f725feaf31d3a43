//! Compiled results against the reference interpreter, on generated inputs.
//!
//! [`reference`] says what a graph computes and how far rounding may carry a result away from that, [`inputs`] makes
//! cases, [`compare`] finds the worst element, [`nodes`] looks inside of a program. What is compiled, and by what
//! passes, is a [`Compiler`]: a value, so that the search for a fault can take it apart and tests can break it.

pub mod compare;
pub mod inputs;
pub mod nodes;
pub mod reference;

pub use compare::Comparison;
pub use inputs::{Case, case_of, draw, generate};

use crate::driver::{Options, Runner};
use crate::emulate::Emulated;
use crate::{ascend, reproducer, session};
use aic_backends::ascendc::emulator::Settings;
use aic_backends::emulate;
use aic_ir::error::Result;
use aic_ir::graph::Graph;
use aic_ir::program::Program;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_passes::pipeline::{self, Pass};
use aic_passes::runner::{self, Context};

/// A program ready to run.
pub type Run = Box<dyn FnMut(&[Tensor]) -> Result<Vec<Tensor>>>;

/// What turns a graph into results, part by part.
pub struct Compiler<'a> {
    /// The passes, in order.
    pub passes: Vec<&'a Pass>,
    /// How they and the code generator are set.
    pub options: &'a Options,
    /// Makes a program of an optimised graph.
    pub lower: &'a dyn Fn(Graph, &pipeline::Options) -> Result<Program>,
    /// Makes code of a program.
    pub load: &'a dyn Fn(&Program, &Options) -> Result<Run>,
}

impl<'a> Compiler<'a> {
    /// What `aic run` does, on so many threads.
    ///
    /// # Errors
    /// There is no such level.
    pub fn new(options: &'a Options, load: &'a dyn Fn(&Program, &Options) -> Result<Run>) -> Result<Self> {
        let passes = pipeline::passes(pipeline::level(options.level)?)?;
        Ok(Compiler { passes, options, lower: &pipeline::lower, load })
    }

    /// A context as the passes get it.
    ///
    /// # Errors
    /// The CPU is unknown.
    pub fn context(&self) -> Result<Context> {
        Ok(Context::new(&self.options.pipeline()?))
    }

    /// The graph after all passes.
    ///
    /// # Errors
    /// A pass fails, which leaves a reproducer.
    pub fn optimise(&self, graph: Graph) -> Result<Graph> {
        let result = runner::run_watched(graph, &self.passes, &mut self.context()?, true, &mut |_| {});
        result.map_err(|failure| reproducer::leave(*failure, &self.passes, self.options))
    }

    /// A graph ready to run as it is.
    ///
    /// # Errors
    /// It can't be lowered or compiled.
    pub fn load(&self, graph: Graph) -> Result<Run> {
        (self.load)(&(self.lower)(graph, &self.options.pipeline()?)?, self.options)
    }
}

/// Compiles a program's kernels for this machine.
///
/// # Errors
/// A kernel can't be compiled, or the session can't be opened.
pub fn load_compiled(program: &Program, options: &Options, n_threads: u32) -> Result<Run> {
    let session = session::Options { n_threads, weights_in_place: true, ..session::Options::default() };
    let (mut runner, _) = Runner::compile(program, &options.cpu, session)?;
    Ok(Box::new(move |inputs| runner.run(inputs)))
}

/// Compiles a program's kernels, made for a GPU, for the emulator.
///
/// # Errors
/// A kernel has no code for the GPU, or asks for what the emulator doesn't have.
pub fn load_emulated(program: &Program, gpu: &Target, options: emulate::Options) -> Result<Run> {
    let emulated = Emulated::new(program, gpu, options)?;
    Ok(Box::new(move |inputs| emulated.run(inputs)))
}

/// Compiles a program, made for an NPU, against the model of the chip.
///
/// # Errors
/// An extent isn't known, or there is no C++ compiler.
pub fn load_on_model(program: &Program, npu: &Target, seed: u64) -> Result<Run> {
    let settings = Settings { seed: seed.wrapping_add(1), ..Settings::default() };
    let model = ascend::Model::new(ascend::compile(program.clone(), npu)?, settings)?;
    Ok(Box::new(move |inputs| model.run(inputs)))
}

/// How the compiled program's outputs compare with the interpreter's, for each case: an output for each of the graph.
///
/// # Errors
/// The graph can't be compiled, or the program refuses inputs that the interpreter takes.
pub fn outputs(graph: &Graph, compiler: &Compiler<'_>, cases: &[Case]) -> Result<Vec<Vec<Comparison>>> {
    let mut run = compiler.load(compiler.optimise(graph.clone())?)?;
    let names: Vec<String> = graph.outputs.iter().map(|p| p.name.clone()).collect();
    cases
        .iter()
        .map(|case| {
            let found = run(&case.inputs).map_err(|e| e.context(format!("on {case}")))?;
            let pairs = case.expected.iter().zip(&found).zip(&names);
            Ok(pairs.map(|((want, got), name)| compare::compare(name, want, got)).collect())
        })
        .collect()
}
