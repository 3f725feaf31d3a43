//! Checks of kernels, and the command `kernel` with which golden files run them.

use aic_ir::dim::Sym;
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::eval::{self, KernelBuffer};
use aic_ir::graph::Graph;
use aic_ir::kernel::Kernel;
use aic_ir::op::{Op, Operand, Rng};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::{bail, ensure, text, verify};
use aic_passes::schedule;
use std::collections::HashMap;
use std::path::Path;

/// The kernel in a file verifies and prints stably; a file whose commands must all be refused may hold none.
pub fn check(src: &str, may_fail: bool) -> std::result::Result<(), String> {
    match text::parse_kernel(src).and_then(|k| well_formed(&k)) {
        Err(error) if !may_fail => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// A kernel verifies, and its text form is that of the kernel that it reads back as.
pub fn well_formed(k: &Kernel) -> Result<()> {
    verify::report("the kernel", &verify::kernel(k))?;
    let printed = k.to_string();
    let again = text::parse_kernel(&printed).map_err(|e| e.context(&printed))?;
    ensure!(
        again.to_string() == printed,
        "a kernel is printed differently once read back:\n{printed}\n{again}"
    );
    Ok(())
}

/// `kernel print FILE`, `kernel verify FILE [TARGET]`, `kernel eval FILE NAME=VALUES..`, and
/// `kernel match GRAPH TARGET SCHEDULE`.
pub fn tool(args: &[String], folder: &Path) -> Result<String> {
    let [command, file, values @ ..] = args else {
        bail!(
            "expected `print FILE`, `verify FILE [TARGET]`, `eval FILE NAME=VALUES..` or `match GRAPH TARGET SCHEDULE`"
        )
    };
    let src = std::fs::read_to_string(folder.join(file)).map_err(|e| Error::new(format!("{file}: {e}")))?;
    if command == "match" {
        let [target, schedule] = values else { bail!("expected a target and a schedule") };
        return matches(&text::parse_graph(&src)?, &target_of(target)?, schedule).map(|()| String::new());
    }
    let k = text::parse_kernel(&src).map_err(|e| e.context(file))?;
    match command.as_str() {
        "print" => Ok(k.to_string()),
        "verify" => {
            let found = match values {
                [] => verify::kernel(&k),
                [target, ..] => verify::kernel_for(&k, &target_of(target)?),
            };
            verify::report("the kernel", &found).map(|()| String::new())
        }
        "eval" => evaluate(&k, values),
        _ => bail!("unknown command {command}"),
    }
}

fn target_of(name: &str) -> Result<Target> {
    Target::named(name).ok_or_else(|| Error::new(format!("there is no target {name}")))
}

/// A graph that is one loop nest means, by this schedule on this target, what it means as a graph.
fn matches(graph: &Graph, target: &Target, schedule: &str) -> Result<()> {
    let Some(compute) = aic_ir::compose::compose(graph) else { bail!("the graph is no compute definition") };
    let k = schedule::apply("k", &schedule::Nest::new(&compute)?, &schedule.parse()?);
    well_formed(&k)?;
    verify::report("the kernel", &verify::kernel_for(&k, target))?;
    crate::graph::check_kernel(graph, &k)
}

/// Runs a kernel on the values given and prints the buffers that it may write. Inputs that have no values get
/// pseudo-random ones, outputs are poisoned.
fn evaluate(k: &Kernel, values: &[String]) -> Result<String> {
    let mut given = HashMap::new();
    for value in values {
        let Some((name, values)) = value.split_once('=') else {
            bail!("expected NAME=VALUES, found {value}")
        };
        given.insert(name, values);
    }
    let mut symbols = Vec::new();
    for (s, _) in &k.symbols {
        let value = given.remove(s.name()).and_then(|v| v.parse::<i64>().ok());
        symbols.push(value.ok_or_else(|| Error::new(format!("symbol {s} needs an integer")))?);
    }
    let value_of = |s: &Sym| k.symbols.iter().position(|(t, _)| t == s).map(|at| symbols[at]);
    let (mut buffers, mut lens) = (Vec::new(), Vec::new());
    for (at, p) in k.params.iter().enumerate() {
        let (name, dtype) = (p.buffer.name.name(), p.buffer.dtype);
        let len = p.buffer.len.eval(&value_of).and_then(|n| usize::try_from(n).ok());
        let Some(len) = len else { bail!("{name} has no length") };
        lens.push(len);
        buffers.push(match given.remove(name) {
            Some(values) => KernelBuffer::from_tensor(&tensor(dtype, len, values)?),
            None if p.writable => KernelBuffer::poisoned(dtype, len),
            None => {
                KernelBuffer::from_tensor(&Rng::new(at as u64).tensor(&Operand::finite(dtype, vec![len]))?)
            }
        });
    }
    if let Some(name) = given.keys().next() {
        bail!("the kernel has no parameter {name}");
    }
    eval::kernel(k, &mut buffers, &symbols)?;
    let mut out = String::new();
    for ((p, b), len) in k.params.iter().zip(&buffers).zip(lens).filter(|((p, _), _)| p.writable) {
        out += &format!("{} = {}\n", p.buffer.name, print(&b.to_tensor(vec![len])?)?);
    }
    Ok(out)
}

/// Elements in the notation of a graph's constants, between commas.
fn tensor(dtype: DType, len: usize, values: &str) -> Result<Tensor> {
    let src = format!("graph() -> () {{ %0 = const {dtype}[{len}] [{values}] return }}");
    let g = text::parse_graph(&src)?;
    let node = g.nodes().next().map(|(_, n)| n.op.clone());
    match node {
        Some(Op::Const(c)) => Ok(c.value),
        _ => bail!("{values} are no elements"),
    }
}

/// A tensor as a graph's constant prints it.
fn print(t: &Tensor) -> Result<String> {
    let mut g = Graph::new("");
    g.add_const(t.clone(), &[]);
    let printed = g.to_string();
    let line = printed.lines().find_map(|l| l.split_once(" = const "));
    line.map(|(_, t)| t.to_owned()).ok_or_else(|| Error::new(printed.clone()))
}
