//! Loop kernels to machine code by LLVM, through inkwell.
//!
//! [`kernel`] turns a kernel into LLVM IR; `target` describes the machine, `gpu` is what GPUs have beyond CPUs.
//! Kernels are compiled in modules of a few, each in its own LLVM context, on several threads; how they are grouped
//! doesn't depend on the number of threads, so the objects don't either.

mod build;
mod code;
mod features;
mod gpu;
mod groups;
pub(crate) mod host;
mod kernel;
mod memory;
mod phases;
mod table;
mod target;

use crate::compile::{check_names, in_groups};
use crate::{CpuFeatures, CpuOptions, Object, TextKind};
use aic_ir::error::{Error, Result};
use aic_ir::kernel::Kernel;
pub(crate) use gpu::{gpu_assembly, gpu_bitcode, gpu_text};
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::FileType;
use target::{Machine, Target};

/// Kernels in one module: enough to share LLVM's cost per module, few enough to keep every thread busy.
const KERNELS_PER_MODULE: usize = 8;

pub(crate) fn compile(kernels: &[Kernel], options: &CpuOptions) -> Result<Vec<Object>> {
    check_names(kernels)?;
    let target = Machine::new(options)?.target()?;
    in_groups(
        kernels,
        KERNELS_PER_MODULE,
        options,
        || Machine::new(options),
        |machine, kernels| object(kernels, machine, &target, options),
    )
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
