//! Which instruction sets a CPU has, by LLVM's names.
//!
//! LLVM's C interface doesn't tell, but its inliner does: a function that needs an instruction set is inlined into
//! one without that requirement exactly if the CPU has it.

use super::failed;
use super::target::Machine;
use crate::{CpuFeatures, x86};
use aic_ir::error::Result;
use inkwell::context::Context;
use inkwell::memory_buffer::MemoryBuffer;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::values::InstructionOpcode;
use std::fmt::Write;

/// Asks LLVM about every instruction set in the machine's table.
pub(super) fn features(machine: &Machine) -> Result<CpuFeatures> {
    let context = Context::create();
    let text = questions(machine);
    let buffer = MemoryBuffer::create_from_memory_range_copy(text.as_bytes(), "features");
    let module = context.create_module_from_ir(buffer).map_err(failed)?;
    machine.describe(&module);
    let inliner = "cgscc(inline)";
    module.run_passes(inliner, &machine.machine, PassBuilderOptions::create()).map_err(failed)?;
    let all = x86::FEATURES.iter().enumerate();
    let names: Vec<&str> = all.filter(|(i, _)| was_inlined(&module, *i)).map(|(_, name)| *name).collect();
    let has = |name| names.contains(&name);
    let vector_bytes = match () {
        _ if has("avx512f") => 64,
        _ if has("avx") => 32,
        _ => 16,
    };
    Ok(CpuFeatures { vector_bytes, fma: has("fma"), f16c: has("f16c"), names })
}

fn questions(machine: &Machine) -> String {
    let mut text = String::new();
    let Machine { cpu, features, .. } = machine;
    for (i, name) in x86::FEATURES.iter().enumerate() {
        let with = if features.is_empty() { format!("+{name}") } else { format!("{features},+{name}") };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "define internal void @needs{i}() \"target-cpu\"=\"{cpu}\" \"target-features\"=\"{with}\" {{
               ret void
             }}
             define void @has{i}() \"target-cpu\"=\"{cpu}\" \"target-features\"=\"{features}\" {{
               call void @needs{i}()
               ret void
             }}
             "
        );
    }
    text
}

fn was_inlined(module: &Module, i: usize) -> bool {
    let block = module.get_function(&format!("has{i}")).and_then(|f| f.get_first_basic_block());
    let first = block.and_then(|b| b.get_first_instruction());
    first.is_some_and(|i| i.get_opcode() == InstructionOpcode::Return)
}
