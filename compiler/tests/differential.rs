//! Random instances of every operator, compiled for this machine by every backend, against the interpreter.
#![allow(clippy::unwrap_used)]

#[path = "../../passes/tests/common/mod.rs"]
mod common;

use aic_backends::{CpuOptions, Library};
use aic_ir::dim::Sym;
use aic_ir::error::Result;
use aic_ir::eval;
use aic_ir::graph::Graph;
use aic_ir::kernel::Kernel;
use aic_ir::op::{Op, Rng};
use aic_ir::program::{BufferDecl, Place, Program};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use aic_passes::pipeline::Options;
use common::{difference, one_node};
use std::ffi::c_void;

/// Instances per operator; `elementwise` stands for some fifty functions.
fn samples(name: &str) -> u64 {
    if name == "elementwise" { 250 } else { 16 }
}

/// A lowered sample: what it is, its program, operands and expected results.
struct Case {
    what: String,
    program: Program,
    x: Vec<Tensor>,
    want: Vec<Tensor>,
}

/// Runs a program whose kernels are in `library` under names that start with `prefix`.
fn run_compiled(c: &Case, library: &Library, prefix: &str) -> Result<Vec<Tensor>> {
    eval::program_with(&c.program, &c.x, &|k, buffers, symbols| {
        let function = library.get(&format!("{prefix}{}", k.name)).unwrap();
        let pointers: Vec<*mut c_void> = buffers.iter_mut().map(|b| b.data.as_mut_ptr().cast()).collect();
        let value = |s: &Sym| k.symbols.iter().position(|(n, _)| n == s).map(|at| symbols[at]);
        let extent = k.parallel_extent().eval(&value).unwrap();
        // In two slices, as two threads would.
        for (from, to) in [(0, extent / 2), (extent / 2, extent)] {
            if from < to {
                // SAFETY: the buffers are those of the kernel's parameters, in number, type and length.
                unsafe { function(pointers.as_ptr(), symbols.as_ptr(), from, to) };
            }
        }
        Ok(())
    })
}

/// Compiles the kernels of all cases at once and compares every result.
fn failures(cases: &[Case], options: &CpuOptions) -> Vec<String> {
    let prefix = |k: usize| format!("c{k}_");
    let renamed = |(k, c): (usize, &Case)| -> Vec<Kernel> {
        let named = |kernel: &Kernel| Kernel { name: prefix(k) + &kernel.name, ..kernel.clone() };
        c.program.kernels.iter().map(named).collect()
    };
    let kernels: Vec<Kernel> = cases.iter().enumerate().flat_map(renamed).collect();
    let library = Library::load(&aic_backends::compile(&kernels, options).unwrap()).unwrap();
    let check = |(k, c): (usize, &Case)| match run_compiled(c, &library, &prefix(k)) {
        Err(e) => vec![format!("{}: {}: {e}", options.backend, c.what)],
        Ok(got) => {
            let differing = c.want.iter().zip(&got).filter_map(|(a, b)| difference(a, b));
            differing.map(|d| format!("{}: {}: {d}", options.backend, c.what)).collect()
        }
    };
    cases.iter().enumerate().flat_map(check).collect()
}

/// Every backend of this build, with what kernels are scheduled for and compiled for.
fn targets() -> Vec<(Target, CpuOptions)> {
    let mut targets = Vec::new();
    for b in aic_backends::available() {
        let options = |cpu: &str| CpuOptions {
            backend: b.name,
            cpu: cpu.into(),
            opt_level: 1,
            ..CpuOptions::default()
        };
        match b.vector_bytes {
            [16] => targets.push((Target::x86_sse(), options("native"))),
            _ => targets.extend([
                (Target::x86_avx512(), options("native")),
                (Target::x86_avx2(), options("x86-64-v3")),
            ]),
        }
    }
    targets
}

fn check(symbolic: bool) {
    let mut failed = Vec::new();
    let mut lowered = 0;
    for (target, options) in targets() {
        let mut cases = Vec::new();
        for (name, sample) in Op::SAMPLERS {
            for seed in 0..samples(name) {
                let mut rng = Rng::new(seed);
                let s = sample(&mut rng);
                let x: Vec<Tensor> = s.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
                let want = s.op.eval(&x).unwrap();
                // Operators may ask for known extents.
                let Ok(graph) = one_node(&s, symbolic) else { continue };
                let what = format!("{name} seed {seed} {:?} on {x:?}", s.op);
                let program = aic_passes::pipeline::compile(graph, &Options::new(target.clone())).unwrap();
                cases.push(Case { what, program, x, want });
            }
        }
        lowered += cases.len();
        failed.extend(failures(&cases, &options));
    }
    for f in failed.iter().take(12) {
        eprintln!("{}", f.chars().take(1200).collect::<String>());
    }
    assert!(failed.is_empty(), "{} of {lowered} failed", failed.len());
    assert!(lowered > 500, "only {lowered} samples could be lowered");
}

/// Products whose factors, but the first, are constants.
#[test]
fn compiled_kernels_read_constants_as_they_are_packed() {
    let mut failed = Vec::new();
    for (target, options) in targets() {
        let mut n_packed = 0;
        let mut cases = Vec::new();
        for (name, sample) in Op::SAMPLERS.iter().filter(|(name, _)| ["matmul", "conv"].contains(name)) {
            for seed in 0..60 {
                let mut rng = Rng::new(seed);
                let s = sample(&mut rng);
                let mut x: Vec<Tensor> = s.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
                let want = s.op.eval(&x).unwrap();
                let mut g = Graph::new("g");
                let first = g.add_input("x", Type::of(x[0].dtype(), x[0].shape()));
                let constants = x.drain(1..).map(|t| g.add_const(t, &[]));
                let operands: Vec<_> = std::iter::once(first).chain(constants.collect::<Vec<_>>()).collect();
                let y = g.add(s.op.clone(), &operands, &[]).unwrap();
                y.iter().for_each(|y| g.add_output("y", *y));
                let program = aic_passes::pipeline::compile(g, &Options::new(target.clone())).unwrap();
                let is_packed = |b: &BufferDecl| b.ty.rank() == 1 && matches!(b.place, Place::Constant(_));
                n_packed += program.buffers.iter().filter(|b| is_packed(b)).count();
                cases.push(Case { what: format!("{name} seed {seed} {:?}", s.op), program, x, want });
            }
        }
        failed.extend(failures(&cases, &options));
        assert!(n_packed > 30, "only {n_packed} constants are packed");
    }
    assert!(failed.is_empty(), "{} failed: {}", failed.len(), failed[0]);
}

#[test]
fn compiled_kernels_mean_what_the_operators_mean() {
    check(false);
}

#[test]
fn compiled_kernels_of_symbolic_extents_mean_what_the_operators_mean() {
    check(true);
}
