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
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

/// Answers that took LLVM some time, by the CPU's name: they don't change.
static KNOWN: Mutex<BTreeMap<String, CpuFeatures>> = Mutex::new(BTreeMap::new());

/// What the machine's CPU has of the instruction sets in the table. The list that comes with this machine's own CPU is
/// complete; for others LLVM is asked.
pub(super) fn features(machine: &Machine) -> Result<CpuFeatures> {
    if !machine.features.is_empty() {
        let listed: Vec<&str> = machine.features.split(',').filter_map(|f| f.strip_prefix('+')).collect();
        return Ok(summary(|_, name| listed.contains(&name)));
    }
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(features) = known.get(&machine.cpu) {
        return Ok(features.clone());
    }
    let features = ask(machine)?;
    known.insert(machine.cpu.clone(), features.clone());
    Ok(features)
}

fn ask(machine: &Machine) -> Result<CpuFeatures> {
    let context = Context::create();
    let text = questions(machine);
    let buffer = MemoryBuffer::create_from_memory_range_copy(text.as_bytes(), "features");
    let module = context.create_module_from_ir(buffer).map_err(failed)?;
    machine.describe(&module);
    let inliner = "cgscc(inline)";
    module.run_passes(inliner, &machine.machine, PassBuilderOptions::create()).map_err(failed)?;
    Ok(summary(|i, _| was_inlined(&module, i)))
}

/// From the answer for each line of the table.
fn summary(has: impl Fn(usize, &str) -> bool) -> CpuFeatures {
    let all = x86::FEATURES.iter().enumerate();
    let names: Vec<&str> = all.filter(|(i, name)| has(*i, name)).map(|(_, name)| *name).collect();
    let vector_bytes = match () {
        _ if names.contains(&"avx512f") => 64,
        _ if names.contains(&"avx") => 32,
        _ => 16,
    };
    CpuFeatures { vector_bytes, fma: names.contains(&"fma"), f16c: names.contains(&"f16c"), names }
}

fn questions(machine: &Machine) -> String {
    let mut text = String::new();
    let cpu = &machine.cpu;
    for (i, name) in x86::FEATURES.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "define internal void @needs{i}() \"target-cpu\"=\"{cpu}\" \"target-features\"=\"+{name}\" {{
               ret void
             }}
             define void @has{i}() \"target-cpu\"=\"{cpu}\" {{
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
