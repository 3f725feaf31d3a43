//! Checks of graphs that no golden file asks for.
//!
//! Printing what was read is stable; every pass, alone and after those before it, leaves a graph that verifies and
//! means the same: to the bit under exact numerics, within rounding errors otherwise; the compiled program has kernels that verify and print stably, and computes the same
//! within the rounding errors that another order of evaluation allows; under exact numerics every level gives the bits
//! of `-O0`.

use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::eval;
use aic_ir::graph::Graph;
use aic_ir::op::{Op, Operand, Rng, Values};
use aic_ir::scalar::Scalar;
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
    check_passes(graph, Numerics::Exact, &|after| cases.iter().try_for_each(|c| c.check_same(after, 0.0)))?;
    check_passes(graph, Numerics::Reassociate, &|after| {
        cases
            .iter()
            .filter(|c| c.is_finite)
            .try_for_each(|c| c.check_same(after, tolerance(graph, &c.inputs)?))
    })?;
    for (name, target) in [("avx512", Target::x86_avx512()), ("avx2", Target::x86_avx2())] {
        let checked =
            check_program(graph, &target, &cases).and_then(|()| check_exact(graph, &target, &cases));
        checked.map_err(|e| e.context(format!("compiled for {name}")))?;
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
    }
    for case in cases.iter().filter(|c| c.is_finite) {
        let found = eval::program(&program, &case.inputs).map_err(|e| e.context(case))?;
        let tolerance = tolerance(graph, &case.inputs)?;
        case.compare(&found, tolerance)?;
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
            let case = Case { outputs, inputs: case.inputs.clone(), ..*case };
            case.compare(&found, 0.0).map_err(|e| e.context(format!("-O{level} --numerics exact")))?;
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
    outputs: Vec<Tensor>,
}

impl Case {
    /// `None` if the graph is not defined on these inputs: an index is out of range, or a shape doesn't exist.
    fn new(graph: &Graph, seed: u64) -> Option<Case> {
        let is_finite = seed.is_multiple_of(2);
        [false, true].into_iter().find_map(|small| {
            let inputs = inputs(graph, seed, is_finite, small)?;
            let outputs = eval::graph(graph, &inputs).ok()?;
            Some(Case { seed, is_finite, inputs, outputs })
        })
    }

    fn check_same(&self, graph: &Graph, tolerance: f64) -> Result<()> {
        let found = eval::graph(graph, &self.inputs).map_err(|e| e.context(self))?;
        self.compare(&found, tolerance)
    }

    fn compare(&self, found: &[Tensor], tolerance: f64) -> Result<()> {
        ensure!(self.outputs.len() == found.len(), "{self}: there are {} outputs", found.len());
        for (k, (a, b)) in self.outputs.iter().zip(found).enumerate() {
            if let Some(difference) = difference(a, b, tolerance) {
                bail!("{self}: output {k}: {difference}\ninputs: {:?}", self.inputs);
            }
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

/// How far a result may lie from the reference: the number of roundings on the way to it, times half a unit in the
/// last place of the largest finite value on the way. Between two operators nothing amplifies an error by more than
/// the largest of these values, or by 1.
fn tolerance(graph: &Graph, inputs: &[Tensor]) -> Result<f64> {
    let mut all = graph.clone();
    all.outputs.clear();
    for (_, n) in graph.nodes() {
        n.outputs.iter().for_each(|v| all.add_output("", *v));
    }
    let values = eval::graph(&all, inputs)?;
    let mut sizes = HashMap::new();
    for (p, t) in graph.inputs.iter().zip(inputs).chain(all.outputs.iter().zip(&values)) {
        sizes.insert(p.value, t.len());
    }
    let roundings = |n: &aic_ir::graph::Node| match n.op {
        Op::Const(_) => 0,
        Op::Elementwise(_) | Op::Cast(_) => 1,
        _ => n.inputs.iter().filter_map(|v| sizes.get(v)).copied().max().unwrap_or(0),
    };
    let n: usize = graph.nodes().map(|(_, n)| roundings(n)).sum();
    let floats = || values.iter().chain(inputs).filter(|t| t.dtype().is_float());
    let unit = floats().map(|t| half_ulp(t.dtype())).fold(0.0, f64::max);
    let largest =
        floats().flat_map(|t| t.to_f64()).filter(|x| x.is_finite()).fold(1.0, |m: f64, x| m.max(x.abs()));
    Ok(n as f64 * unit * largest)
}

/// Half the distance from 1 to the next number.
fn half_ulp(dtype: DType) -> f64 {
    let mantissa_bits = match dtype {
        DType::F64 => 53,
        DType::F32 => 24,
        DType::F16 => 11,
        _ => 8,
    };
    0.5f64.powi(mantissa_bits)
}

/// The first element in which two tensors differ; any NaN is like any other.
fn difference(want: &Tensor, got: &Tensor, tolerance: f64) -> Option<String> {
    let ty = |t: &Tensor| aic_ir::types::Type::of(t.dtype(), t.shape());
    if ty(want) != ty(got) {
        return Some(format!("expected {}, found {}", ty(want), ty(got)));
    }
    (0..want.len()).find_map(|i| {
        let (a, b) = (want.get(i), got.get(i));
        let same = match (a, b) {
            (Scalar::F(x), Scalar::F(y)) if x.is_nan() || y.is_nan() => x.is_nan() && y.is_nan(),
            // Signed zeros differ where nothing may.
            (Scalar::F(x), Scalar::F(y)) if tolerance == 0.0 => x.to_bits() == y.to_bits(),
            (Scalar::F(x), Scalar::F(y)) => x == y || (x - y).abs() <= tolerance,
            _ => a == b,
        };
        (!same).then(|| format!("element {i}: expected {a}, found {b}, tolerance {tolerance:e}"))
    })
}
