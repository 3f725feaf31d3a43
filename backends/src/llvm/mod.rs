//! Loop kernels to machine code by LLVM, through inkwell.
//!
//! [`kernel`] turns a kernel into LLVM IR; `target` describes the machine; `jit` loads objects into this process.
//! Kernels are compiled in modules of a few, each in its own LLVM context, on several threads; how they are grouped
//! doesn't depend on the number of threads, so the objects don't either.

mod build;
mod code;
mod features;
mod jit;
mod kernel;
mod memory;
mod target;

pub use jit::Library;

use crate::{CpuFeatures, CpuOptions, Object, TextKind, x86};
use aic_ir::ensure;
use aic_ir::error::{Error, Result};
use aic_ir::kernel::Kernel;
use aic_ir::scalar::ScalarFn;
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::FileType;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use target::{Machine, Target};

/// Kernels in one module: enough to share LLVM's cost per module, few enough to keep every thread busy.
const KERNELS_PER_MODULE: usize = 8;

/// Of a compiler thread.
const STACK_BYTES: usize = 64 << 20;

pub(crate) fn compile(kernels: &[Kernel], options: &CpuOptions) -> Result<Vec<Object>> {
    check_names(kernels)?;
    let target = Machine::new(options)?.target()?;
    let groups: Vec<&[Kernel]> = kernels.chunks(KERNELS_PER_MODULE).collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Object)>> {
        let machine = Machine::new(options)?;
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(group) = groups.get(at) else { return Ok(done) };
            done.push((at, object(group, &machine, &target, options)?));
        }
    };
    let mut objects = in_parallel(threads(options).min(groups.len()), work)?;
    objects.sort_by_key(|(at, _)| *at);
    Ok(objects.into_iter().map(|(_, object)| object).collect())
}

pub(crate) fn emit_text(kernels: &[Kernel], options: &CpuOptions, kind: TextKind) -> Result<String> {
    check_names(kernels)?;
    let machine = Machine::new(options)?;
    let target = machine.target()?;
    let context = Context::create();
    let module = module_of(&context, kernels, &target)?;
    machine.describe(&module);
    if kind == TextKind::LlvmIr {
        return Ok(module.print_to_string().to_string());
    }
    optimize(&module, &machine, options)?;
    if kind == TextKind::OptimizedLlvmIr {
        return Ok(module.print_to_string().to_string());
    }
    let asm = machine.write(&module, FileType::Assembly)?;
    String::from_utf8(asm).map_err(failed)
}

pub(crate) fn cpu_features(options: &CpuOptions) -> Result<CpuFeatures> {
    features::features(&Machine::new(options)?)
}

fn check_names(kernels: &[Kernel]) -> Result<()> {
    let mut names = HashSet::from(["memcpy", "memmove", "memset"]);
    names.extend(
        ScalarFn::ALL.iter().filter_map(|f| x86::libm(*f)).flat_map(|(single, double)| [single, double]),
    );
    for k in kernels {
        let identifier = k.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        ensure!(
            identifier && !k.name.is_empty(),
            "`{}` is not a name for a kernel: a C identifier is",
            k.name
        );
        ensure!(
            names.insert(k.name.as_str()),
            "two kernels, or a kernel and a function of the C library, are named `{}`",
            k.name
        );
    }
    Ok(())
}

fn threads(options: &CpuOptions) -> usize {
    match options.threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    }
}

/// What all runs of `work` on `n` threads give; the first error in the order of threads. The threads have deep stacks:
/// expressions are walked recursively, by LLVM too.
fn in_parallel<T: Send>(n: usize, work: impl Fn() -> Result<Vec<T>> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, &work);
        let threads: std::io::Result<Vec<_>> = (0..n).map(spawn).collect();
        let threads = threads.map_err(|e| Error::new(format!("cannot start a compiler thread: {e}")))?;
        let mut all = Vec::new();
        for t in threads {
            all.extend(t.join().map_err(|_| Error::new("a compiler thread panicked"))??);
        }
        Ok(all)
    })
}

fn object(kernels: &[Kernel], machine: &Machine, target: &Target, options: &CpuOptions) -> Result<Object> {
    let context = Context::create();
    let module = module_of(&context, kernels, target)?;
    machine.describe(&module);
    optimize(&module, machine, options)?;
    Ok(Object { bytes: machine.write(&module, FileType::Object)? })
}

/// A verified module.
fn module_of<'c>(context: &'c Context, kernels: &[Kernel], target: &Target) -> Result<Module<'c>> {
    let module = context.create_module("aic");
    for k in kernels {
        kernel::kernel(context, &module, target, k)?;
    }
    module.verify().map_err(|e| {
        let bad = |k: &&Kernel| {
            let body = module.get_function(&format!("{}.body", k.name));
            body.is_some_and(|f| !f.verify(false))
        };
        let name = kernels.iter().find(bad).map_or("?", |k| &k.name);
        Error::new(format!("kernel {name}: LLVM refuses its code: {e}"))
            .help("this is a bug in aic; please report it")
    })?;
    Ok(module)
}

/// LLVM's passes that matter for a kernel: what `default<O2>` does to one, for a third of its time.
const PASSES: &str = "function(sroa,early-cse<memssa>,instcombine<no-verify-fixpoint>,simplifycfg,reassociate,\
    loop-mssa(licm),loop(loop-idiom,indvars,loop-deletion),gvn,dse,instcombine<no-verify-fixpoint>,simplifycfg)";

/// Runs LLVM's passes. Vectors and unrolling are decided in the loop IR, so LLVM's own are off.
fn optimize(module: &Module, machine: &Machine, options: &CpuOptions) -> Result<()> {
    let settings = PassBuilderOptions::create();
    settings.set_loop_vectorization(false);
    settings.set_loop_slp_vectorization(false);
    settings.set_loop_interleaving(false);
    settings.set_loop_unrolling(false);
    let passes = match options.opt_level {
        0 => "function(sroa)",
        1 | 2 => PASSES,
        _ => "default<O3>",
    };
    module.run_passes(passes, &machine.machine, settings).map_err(failed)
}

/// A failure of LLVM itself.
fn failed(e: impl std::fmt::Display) -> Error {
    Error::new(format!("LLVM failed: {e}")).help("this is a bug in aic; please report it")
}
