//! `aic info`: what a model takes, gives and consists of.

use super::args::{ModelArgs, OptimiseArgs};
use super::print;
use aic::driver::Source;
use aic::import::load::Model;
use aic::import::onnx::ImportOptions;
use aic::import::proto::GraphProto;
use aic_backends::CpuOptions;
use aic_ir::dim::Dim;
use aic_ir::error::Result;
use aic_ir::graph::{Graph, Port};
use aic_ir::op::Op;
use aic_ir::program::Program;
use aic_ir::target::Target;
use aic_ir::types::Type;
use aic_passes::{memory, pipeline};
use std::collections::{BTreeMap, BTreeSet};

const EXAMPLES: &str = "\
Examples:
  aic info model.onnx
  aic info model.onnx --dim batch=8
  aic info model.onnx -O0                       before optimisation
  aic info model.onnx --memory                  where arrays lie, and when

Parameters are the elements of the model's constants, and FLOPs are counted after the graph passes, two for each \
multiplication with addition. Where a dimension is symbolic, numbers are given for the value 1 too.";

/// Show inputs, outputs, operators, parameters, FLOPs and bytes
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    optimise: OptimiseArgs,
    /// Print the memory plan instead: every array with its class, size, place and lifetime
    #[arg(long)]
    memory: bool,
}

/// Prints what there is to know; a model with unsupported nodes has less of it.
///
/// # Errors
/// The model can't be read, or a dimension given doesn't exist.
pub fn execute(args: &Args) -> Result<()> {
    let source = args.model.load()?;
    let dims = args.model.dims()?;
    let mut rows = Vec::new();
    if let Source::Onnx(model) = &source {
        rows.extend(about(model));
    }
    let problems = source.check(&dims)?;
    if !problems.is_empty() {
        print::stdout(&print::table(&rows))?;
        let n = problems.len();
        print::note(&format!("{n} nodes are not supported, so there is no more to say; see aic check"));
        return Ok(());
    }
    let imported = source.import(&ImportOptions { dims, ..ImportOptions::default() })?;
    imported.warnings.iter().for_each(|w| print::warning(w));
    let options = args.optimise.options(CpuOptions::default())?.pipeline_for(Target::x86_avx2());
    if args.memory {
        return print::stdout(&super::memory::plan(&pipeline::compile(imported.graph, &options)?)?);
    }
    rows.extend(of_graph(imported.graph, &options)?);
    print::stdout(&print::table(&rows))
}

fn row(title: &str, text: impl Into<String>) -> Vec<String> {
    vec![title.to_owned(), text.into()]
}

/// What the file says.
fn about(model: &Model) -> Vec<Vec<String>> {
    let proto = &model.proto;
    let mut rows = Vec::new();
    let producer = [proto.producer_name(), proto.producer_version()].join(" ");
    if !producer.trim().is_empty() {
        rows.push(row("producer", producer.trim()));
    }
    let version = |o: &aic::import::proto::OperatorSetIdProto| match o.domain() {
        "" => o.version().to_string(),
        domain => format!("{domain} {}", o.version()),
    };
    rows.push(row("opset", proto.opset_import.iter().map(version).collect::<Vec<_>>().join(", ")));
    if let Ok(file) = std::fs::metadata(&model.path) {
        rows.push(row("file", bytes(file.len() as f64)));
    }
    let mut counts = BTreeMap::new();
    proto.graph.iter().for_each(|graph| count_nodes(graph, &mut counts));
    rows.push(row("operators", listed(counts)));
    rows
}

fn count_nodes(graph: &GraphProto, counts: &mut BTreeMap<String, usize>) {
    for node in &graph.node {
        let name = match node.domain() {
            "" | "ai.onnx" => node.op_type().to_owned(),
            domain => format!("{domain}.{}", node.op_type()),
        };
        *counts.entry(name).or_default() += 1;
        let bodies = node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs));
        bodies.for_each(|body| count_nodes(body, counts));
    }
}

/// What the graph says, and what becomes of it.
fn of_graph(graph: Graph, options: &pipeline::Options) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    for (title, ports) in [("input", &graph.inputs), ("output", &graph.outputs)] {
        let text = |port: &Port| row(title, format!("{} {}", port.name, graph.ty(port.value)));
        rows.extend(ports.iter().map(text));
    }
    let (n_parameters, n_bytes) = parameters(&graph);
    rows.push(row("parameters", format!("{n_parameters} ({})", bytes(n_bytes as f64))));
    let program = pipeline::compile(graph, options)?;
    let mut counts = BTreeMap::new();
    for (_, n) in program.graph.nodes().filter(|(_, n)| !matches!(n.op, Op::Const(_))) {
        *counts.entry(n.op.keyword().to_owned()).or_default() += 1;
    }
    rows.push(row("core operators", listed(counts)));
    rows.push(row("kernels", program.kernels.len().to_string()));
    rows.push(row("FLOPs", with_symbols(&flops(&program), |x| si(x, ""))));
    let ports = program.inputs.iter().chain(&program.outputs);
    let ports = ports.fold(Dim::from(0), |sum, p| sum + type_bytes(&p.ty));
    rows.push(row("inputs and outputs", with_symbols(&ports, bytes)));
    rows.push(row("intermediate memory", with_symbols(&program.arena_bytes, bytes)));
    rows.push(row("of which needed at a time", bytes(memory::least_bytes(&program, &at_one) as f64)));
    Ok(rows)
}

/// The elements and bytes of constants, each counted once however often it is used.
fn parameters(graph: &Graph) -> (usize, usize) {
    let mut seen = BTreeSet::new();
    let mut sum = (0, 0);
    visit_constants(graph, &mut |value| {
        if seen.insert((value.bytes().as_ptr() as usize, value.bytes().len())) {
            sum = (sum.0 + value.len(), sum.1 + value.bytes().len());
        }
    });
    sum
}

fn visit_constants(graph: &Graph, f: &mut dyn FnMut(&aic_ir::tensor::Tensor)) {
    for (_, node) in graph.nodes() {
        match &node.op {
            Op::Const(c) => f(&c.value),
            op => op.attrs().iter().for_each(|(_, value)| {
                if let aic_ir::op::AttrValue::Graph(body) = value {
                    visit_constants(body, f);
                }
            }),
        }
    }
}

/// Scalar operations of a run, two for each multiplication with addition.
pub(super) fn flops(program: &Program) -> Dim {
    let graph = &program.graph;
    let types = |values: &[aic_ir::graph::ValueId]| -> Vec<Type> {
        values.iter().map(|v| graph.ty(*v).clone()).collect()
    };
    let computes = graph.nodes().filter_map(|(_, n)| n.op.compute(&types(&n.inputs), &types(&n.outputs)));
    computes.fold(Dim::from(0), |sum, c| sum + c.flops())
}

/// The bytes of an array.
pub(super) fn type_bytes(ty: &Type) -> Dim {
    ty.numel() * Dim::from(ty.dtype.size())
}

fn listed(counts: BTreeMap<String, usize>) -> String {
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    counts.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let texts: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
    texts.join(", ")
}

/// The value where every symbol is 1.
pub(super) fn at_one(d: &Dim) -> i64 {
    d.eval(&|_| Some(1)).unwrap_or(0)
}

/// A number; for an expression, it and its value where every symbol is 1.
pub(super) fn with_symbols(d: &Dim, show: impl Fn(f64) -> String) -> String {
    match d.as_const() {
        Some(n) => show(n as f64),
        None => {
            let names: Vec<String> = d.symbols().iter().map(|s| format!("{s}=1")).collect();
            let value = d.eval(&|_| Some(1)).map_or("?".to_owned(), |n| show(n as f64));
            let text = d.to_string();
            let expression = if text.len() <= 80 { format!(" ({text})") } else { String::new() };
            format!("{value} for {}{expression}", names.join(", "))
        }
    }
}

/// Bytes with a prefix of the SI.
pub(super) fn bytes(n: f64) -> String {
    si(n, "B")
}

/// Three digits and a prefix of the SI.
pub(super) fn si(n: f64, unit: &str) -> String {
    let prefixes = ["", "k", "M", "G", "T", "P"];
    let mut n = n;
    let mut k = 0;
    while n.abs() >= 999.5 && k + 1 < prefixes.len() {
        n /= 1000.0;
        k += 1;
    }
    let digits = if k == 0 || n.abs() >= 99.95 {
        0
    } else if n.abs() >= 9.995 {
        1
    } else {
        2
    };
    format!("{n:.digits$} {}{unit}", prefixes[k]).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_have_prefixes() {
        let cases = [(0.0, "0 B"), (999.0, "999 B"), (1000.0, "1.00 kB"), (26_090.0, "26.1 kB")];
        for (n, text) in cases.into_iter().chain([(999_999.0, "1.00 MB"), (4.1e9, "4.10 GB")]) {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(si(8.2e9, ""), "8.20 G");
    }

    #[test]
    fn symbols_are_shown_with_a_value() {
        let d = Dim::named("n") * 2.into() + 3.into();
        assert_eq!(with_symbols(&d, bytes), "5 B for n=1 (2*n+3)");
        assert_eq!(with_symbols(&7.into(), bytes), "7 B");
    }
}
