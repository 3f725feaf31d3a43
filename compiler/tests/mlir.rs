//! The kernels of random instances of every operator as MLIR: MLIR verifies each, and where its tools and a compiler
//! for LLVM IR are installed, they make code of them that computes what the interpreter does.
#![cfg(feature = "mlir")]
#![allow(clippy::unwrap_used)]

#[path = "../../passes/tests/common/mod.rs"]
#[allow(dead_code)]
mod common;

use aic_backends::mlir;
use aic_ir::eval;
use aic_ir::kernel::Kernel;
use aic_ir::op::{Op, Rng};
use aic_ir::program::Program;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_passes::pipeline::Options;
use common::{difference, one_node};
use std::ffi::c_void;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// Instances per operator; `elementwise` stands for some fifty functions.
fn samples(name: &str) -> u64 {
    if name == "elementwise" { 120 } else { 10 }
}

/// A lowered sample: what it is, its program, operands and expected results.
struct Case {
    what: String,
    program: Program,
    x: Vec<Tensor>,
    want: Vec<Tensor>,
}

fn cases(symbolic: bool, target: &Target) -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, sample) in Op::SAMPLERS {
        for seed in 0..samples(name) {
            let mut rng = Rng::new(seed);
            let s = sample(&mut rng);
            let x: Vec<Tensor> = s.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
            let want = s.op.eval(&x).unwrap();
            // Operators may ask for known extents.
            let Ok(graph) = one_node(&s, symbolic) else { continue };
            let mut program = aic_passes::pipeline::compile(graph, &Options::new(target.clone())).unwrap();
            for k in &mut program.kernels {
                k.name = format!("c{}_{}", cases.len(), k.name);
            }
            cases.push(Case { what: format!("{name} seed {seed}"), program, x, want });
        }
    }
    cases
}

fn check(symbolic: bool) {
    for target in [Target::x86_avx512(), Target::x86_avx2()] {
        let cases = cases(symbolic, &target);
        let kernels: Vec<Kernel> = cases.iter().flat_map(|c| c.program.kernels.clone()).collect();
        assert!(kernels.len() > 250, "only {} kernels were made", kernels.len());
        let module = mlir::kernels(&kernels).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let Some(library) = compile(module.text(), &kernels, folder.path()) else { return };
        let failures: Vec<String> = cases.iter().flat_map(|c| failures(c, &library)).collect();
        failures.iter().take(12).for_each(|f| eprintln!("{}", f.chars().take(600).collect::<String>()));
        assert!(failures.is_empty(), "{} of {} failed", failures.len(), cases.len());
    }
}

/// The way from these functions to LLVM IR.
const PASSES: &[&str] = &[
    "--llvm-request-c-wrappers",
    "--arith-expand",
    "--convert-scf-to-cf",
    "--expand-strided-metadata",
    "--convert-math-to-llvm",
    "--convert-math-to-libm",
    "--convert-vector-to-llvm",
    "--finalize-memref-to-llvm",
    "--convert-arith-to-llvm",
    "--convert-index-to-llvm",
    "--convert-cf-to-llvm",
    "--convert-func-to-llvm",
    "--reconcile-unrealized-casts",
];

/// A library of the kernels; `None` where a tool is missing.
fn compile(text: &str, kernels: &[Kernel], folder: &Path) -> Option<libloading::Library> {
    let path = |name: &str| folder.join(name);
    std::fs::write(path("kernels.mlir"), text).unwrap();
    std::fs::write(path("calls.c"), calls(kernels)).unwrap();
    let mut lower = Command::new("mlir-opt-22");
    lower.arg(path("kernels.mlir")).args(PASSES).arg("-o").arg(path("llvm.mlir"));
    let mut translate = Command::new("mlir-translate-22");
    translate.arg("--mlir-to-llvmir").arg(path("llvm.mlir")).arg("-o").arg(path("kernels.ll"));
    let mut link = Command::new("clang-22");
    link.args(["-w", "-O1", "-shared", "-fPIC", "-march=native", "-o"]).arg(path("kernels.so"));
    link.arg(path("kernels.ll")).arg(path("calls.c")).arg("-lm");
    for mut command in [lower, translate, link] {
        let output = command.output().ok()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}", errors.chars().take(2000).collect::<String>());
    }
    // SAFETY: the library has no initialisers.
    Some(unsafe { libloading::Library::new(path("kernels.so")) }.unwrap())
}

/// What calls need, and a conversion that not every compiler's library has: rounding to odd, then to nearest.
const HEAD: &str = "
#include <stdint.h>
#include <string.h>
typedef struct { void *base, *first; int64_t offset, n, step; } Buffer;
__bf16 __truncdfbf2(double x) {
    float near = (float)x;
    uint32_t bits;
    memcpy(&bits, &near, 4);
    if (x != x) bits = 0x7fc00000;
    else {
        if (near != x) bits = (bits - (__builtin_fabs(near) > __builtin_fabs(x))) | 1;
        bits += 0x7fff + (bits >> 16 & 1);
    }
    uint16_t high = bits >> 16;
    __bf16 result;
    memcpy(&result, &high, 2);
    return result;
}
";

/// For each kernel a function over addresses and lengths of its buffers, and its symbols.
fn calls(kernels: &[Kernel]) -> String {
    let mut out = HEAD.to_owned();
    for k in kernels {
        let (name, n, n_symbols) = (&k.name, k.params.len(), k.symbols.len());
        let types: Vec<&str> = [vec!["Buffer *"; n], vec!["int64_t"; n_symbols]].concat();
        let buffers = (0..n).map(|k| format!("&(Buffer){{x[{k}], x[{k}], 0, n[{k}], 1}}"));
        let args: Vec<String> = buffers.chain((0..n_symbols).map(|k| format!("s[{k}]"))).collect();
        let _ = writeln!(out, "void _mlir_ciface_{name}({});", types.join(", "));
        let _ = writeln!(
            out,
            "void call_{name}(void **x, const int64_t *n, const int64_t *s) {{ _mlir_ciface_{name}({}); }}",
            args.join(", ")
        );
    }
    out
}

fn failures(c: &Case, library: &libloading::Library) -> Vec<String> {
    type Call = unsafe extern "C" fn(*const *mut c_void, *const i64, *const i64);
    let got = eval::program_with(&c.program, &c.x, &|k, buffers, symbols| {
        let lengths: Vec<i64> = buffers.iter().map(|b| (b.data.len() / b.dtype.size()) as i64).collect();
        let pointers: Vec<*mut c_void> = buffers.iter_mut().map(|b| b.data.as_mut_ptr().cast()).collect();
        // SAFETY: the function is of this type, and the buffers are those of the kernel's parameters.
        unsafe {
            let call = library.get::<Call>(format!("call_{}", k.name).as_bytes()).unwrap();
            call(pointers.as_ptr(), lengths.as_ptr(), symbols.as_ptr());
        }
        Ok(())
    });
    match got {
        Err(e) => vec![format!("{}: {e}", c.what)],
        Ok(got) => {
            let differing = c.want.iter().zip(&got).filter_map(|(a, b)| difference(a, b));
            differing.map(|d| format!("{}: {d}", c.what)).collect()
        }
    }
}

#[test]
fn kernels_as_mlir_mean_what_the_operators_mean() {
    check(false);
}

#[test]
fn kernels_of_symbolic_extents_as_mlir_mean_what_the_operators_mean() {
    check(true);
}
