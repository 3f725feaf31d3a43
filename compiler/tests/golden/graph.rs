//! Checks of graphs that no golden file asks for.
//!
//! Printing what was read is stable; every pass, alone and after those before it, leaves a graph that verifies and
//! means the same: to the bit under exact numerics, as far as rounding explains otherwise (see `aic::verify`); the
//! compiled program has kernels that verify and print stably, and computes the same as far as rounding explains; under
//! exact numerics every level gives the bits of `-O0`.

use aic::verify::compare::compare;
use aic::verify::reference::{Expected, reference};
use aic_ir::error::Result;
use aic_ir::eval;
use aic_ir::eval::KernelBuffer;
use aic_ir::graph::Graph;
use aic_ir::kernel::Kernel;
use aic_ir::op::{Operand, Rng, Values};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::{bail, ensure, text, verify};
use aic_passes::pipeline::{self, LEVELS, Options, PASSES};
use aic_passes::runner::{Context, Numerics};
use std::collections::HashMap;

/// How many sets of inputs are tried.
const SEEDS: u64 = 8;

/// Checks the graph in a file; a file whose commands must all be refused may hold none.
pub fn check(src: &str, may_fail: bool) -> std::result::Result<(), String> {
    match text::parse_graph(src) {
        Err(_) if may_fail => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(graph) => check_graph(&graph).map_err(|e| e.to_string()),
    }
}

fn check_graph(graph: &Graph) -> Result<()> {
    well_formed(graph)?;
    let cases: Vec<Case> = (0..SEEDS).filter_map(|seed| Case::new(graph, seed)).collect();
    ensure!(!cases.is_empty(), "the graph can't be evaluated on any of {SEEDS} sets of pseudo-random inputs");
    check_passes(graph, Numerics::Exact, &|after| cases.iter().try_for_each(|c| c.check_same(after)))?;
    check_passes(graph, Numerics::Reassociate, &|after| {
        cases.iter().filter(|c| c.is_finite).try_for_each(|c| c.check_close(after))
    })?;
    for (name, target) in [("avx512", Target::x86_avx512()), ("avx2", Target::x86_avx2())] {
        let checked =
            check_program(graph, &target, &cases).and_then(|()| check_exact(graph, &target, &cases));
        checked.map_err(|e| e.context(format!("compiled for {name}")))?;
    }
    for target in [Target::sm_80(), Target::ascend_910b3()] {
        let checked = check_program(graph, &target, &cases);
        checked.map_err(|e| e.context(format!("compiled for {}", target.name)))?;
    }
    Ok(())
}

/// A kernel whose parameters are those of a graph computes what the graph does.
pub fn check_kernel(graph: &Graph, k: &Kernel) -> Result<()> {
    for case in (0..SEEDS).filter_map(|seed| Case::new(graph, seed)).filter(|c| c.is_finite) {
        let mut buffers: Vec<KernelBuffer> = case.inputs.iter().map(KernelBuffer::from_tensor).collect();
        let outputs = || case.expected.iter().map(|e| &e.value);
        buffers.extend(outputs().map(|t| KernelBuffer::poisoned(t.dtype(), t.len())));
        eval::kernel(k, &mut buffers, &[]).map_err(|e| e.context(&case))?;
        let found = buffers[case.inputs.len()..].iter().zip(outputs());
        let found: Vec<Tensor> =
            found.map(|(b, t)| b.to_tensor(t.shape().to_vec())).collect::<Result<_>>()?;
        case.compare_close(&found)?;
    }
    Ok(())
}

/// Every pass leaves a graph that verifies and means the same.
fn check_passes(graph: &Graph, numerics: Numerics, check_same: &dyn Fn(&Graph) -> Result<()>) -> Result<()> {
    let mut chain = graph.clone();
    let mut cx = Context::new(&Options { numerics, ..Options::new(Target::x86_avx2()) });
    for pass in PASSES {
        for (what, before) in [("alone", graph), ("after those before it", &chain)] {
            let after = (pass.run)(before, &mut cx)?;
            let checked = well_formed(&after).and_then(|()| check_same(&after));
            checked.map_err(|e| e.context(format!("pass {}, {what}, {numerics:?}", pass.name)))?;
        }
        chain = (pass.run)(&chain, &mut cx)?;
    }
    Ok(())
}

/// A graph verifies, and its text form is that of the graph that it reads back as.
fn well_formed(g: &Graph) -> Result<()> {
    verify::report("the graph", &verify::graph(g))?;
    let printed = g.to_string();
    let constants = text::large_constants(g);
    let again = text::parse_graph_with(&printed, &|hash| constants.get(hash).cloned());
    let again =
        again.map_err(|e| e.context(format!("what was printed can't be read:\n{printed}")))?.to_string();
    ensure!(again == printed, "a graph is printed differently once read back:\n{printed}\n{again}");
    Ok(())
}

fn check_program(graph: &Graph, target: &Target, cases: &[Case]) -> Result<()> {
    let program = pipeline::compile(graph.clone(), &Options::new(target.clone()))?;
    for k in &program.kernels {
        crate::kernel::well_formed(k)?;
        verify::report("the kernel", &verify::machine(k, target))?;
    }
    for case in cases.iter().filter(|c| c.is_finite) {
        let found = eval::program(&program, &case.inputs).map_err(|e| e.context(case))?;
        case.compare_close(&found)?;
    }
    Ok(())
}

/// Under exact numerics every level computes the bits of `-O0`.
fn check_exact(graph: &Graph, target: &Target, cases: &[Case]) -> Result<()> {
    let program = |level| {
        let options = Options { level, numerics: Numerics::Exact, ..Options::new(target.clone()) };
        pipeline::compile(graph.clone(), &options)
    };
    let plain = program(0)?;
    for level in 1..LEVELS.len() {
        let optimised = program(level)?;
        for case in cases {
            let outputs = eval::program(&plain, &case.inputs).map_err(|e| e.context(case))?;
            let found = eval::program(&optimised, &case.inputs).map_err(|e| e.context(case))?;
            case.compare_bits(&outputs, &found)
                .map_err(|e| e.context(format!("-O{level} --numerics exact")))?;
        }
    }
    Ok(())
}

/// Inputs and the outputs that the graph defines for them.
struct Case {
    seed: u64,
    /// Whether the inputs hold no NaN, infinities or extremes, whose sums depend on their order.
    is_finite: bool,
    inputs: Vec<Tensor>,
    expected: Vec<Expected>,
}

impl Case {
    /// `None` if the graph is not defined on these inputs: an index is out of range, or a shape doesn't exist.
    fn new(graph: &Graph, seed: u64) -> Option<Case> {
        let is_finite = seed.is_multiple_of(2);
        [false, true].into_iter().find_map(|small| {
            let inputs = inputs(graph, seed, is_finite, small)?;
            let expected = reference(graph, &inputs, Numerics::Reassociate, seed, false).ok()?.outputs;
            Some(Case { seed, is_finite, inputs, expected })
        })
    }

    fn check_same(&self, graph: &Graph) -> Result<()> {
        let found = eval::graph(graph, &self.inputs).map_err(|e| e.context(self))?;
        let outputs: Vec<Tensor> = self.expected.iter().map(|e| e.value.clone()).collect();
        self.compare_bits(&outputs, &found)
    }

    fn check_close(&self, graph: &Graph) -> Result<()> {
        self.compare_close(&eval::graph(graph, &self.inputs).map_err(|e| e.context(self))?)
    }

    fn compare_bits(&self, outputs: &[Tensor], found: &[Tensor]) -> Result<()> {
        ensure!(outputs.len() == found.len(), "{self}: there are {} outputs", found.len());
        for (k, (a, b)) in outputs.iter().zip(found).enumerate() {
            if let Some(difference) = difference(a, b) {
                bail!("{self}: output {k}: {difference}\ninputs: {:?}", self.inputs);
            }
        }
        Ok(())
    }

    fn compare_close(&self, found: &[Tensor]) -> Result<()> {
        ensure!(self.expected.len() == found.len(), "{self}: there are {} outputs", found.len());
        for (k, (want, got)) in self.expected.iter().zip(found).enumerate() {
            let c = compare(&format!("output {k}"), want, got);
            ensure!(!c.is_wrong(), "{self}: {c}\ninputs: {:?}", self.inputs);
        }
        Ok(())
    }
}

impl std::fmt::Display for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "inputs of seed {}", self.seed)
    }
}

/// Pseudo-random inputs: symbols are 1 in the first set and awkward extents in the others. With `small` integers are
/// 0 or 1, so that they are indices and positions almost everywhere.
fn inputs(graph: &Graph, seed: u64, is_finite: bool, small: bool) -> Option<Vec<Tensor>> {
    let mut rng = Rng::new(seed);
    let mut extent = || if seed == 0 { 1 } else { rng.extent(true) as i64 };
    let symbols: HashMap<_, _> = graph.input_symbols().into_iter().map(|(s, _, _)| (s, extent())).collect();
    let input = |p: &aic_ir::graph::Port| {
        let ty = graph.ty(p.value);
        let extent =
            |d: &aic_ir::dim::Dim| d.eval(&|s| symbols.get(s).copied()).and_then(|n| n.try_into().ok());
        let shape: Vec<usize> = ty.dims.iter().map(extent).collect::<Option<_>>()?;
        let values = match ty.dtype.is_int() && small {
            true => Values::Between(0, 2),
            false if is_finite => Values::Finite,
            false => Values::Any,
        };
        rng.tensor(&Operand { dtype: ty.dtype, shape, values }).ok()
    };
    graph.inputs.iter().map(input).collect()
}

/// The first element in which two tensors differ by a bit; any NaN is like any other.
fn difference(want: &Tensor, got: &Tensor) -> Option<String> {
    let ty = |t: &Tensor| aic_ir::types::Type::of(t.dtype(), t.shape());
    if ty(want) != ty(got) {
        return Some(format!("expected {}, found {}", ty(want), ty(got)));
    }
    (0..want.len()).find_map(|i| {
        let (a, b) = (want.get(i), got.get(i));
        let both_nan = a.as_f64().is_nan() && b.as_f64().is_nan();
        (!both_nan && a != b).then(|| format!("element {i}: expected {a}, found {b}"))
    })
}
