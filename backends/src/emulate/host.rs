//! What a module for a GPU becomes on this machine: the contract between code that LLVM makes (`llvm/host.rs`) and the
//! runtime that executes it.

use crate::Object;
use aic_ir::error::Result;
use std::collections::BTreeMap;

/// `void (uint32_t operation, const uint64_t *operands, uint64_t n_operands, uint64_t *results)`: the operation is a
/// position in [`HostModule::calls`].
pub(crate) const OPERATION: &str = "aic_operation";
/// `void (const void *address, uint64_t bytes, uint64_t alignment, uint64_t is_write)`
pub(crate) const CHECK: &str = "aic_check";

/// What a module asks of the GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "llvm"), expect(dead_code, reason = "modules for GPUs are made by LLVM"))]
pub(crate) enum Call {
    /// An intrinsic, named without `llvm.nvvm.`.
    Intrinsic(String),
    /// Inline assembly and its constraints.
    Assembly(String, String),
}

/// A module compiled for this machine.
pub(crate) struct HostModule {
    pub object: Object,
    pub calls: Vec<Call>,
    /// Kernels by name, with the number of their parameters.
    pub kernels: BTreeMap<String, usize>,
    /// Shared variables by the names of their symbols, and where they lie.
    pub variables: BTreeMap<String, usize>,
    /// Bytes of those whose size is known.
    pub shared_bytes: usize,
    /// Bytes of variables of a thread.
    pub stack_bytes: usize,
}

/// The name of the function of a kernel that takes its arguments from slots: `void (const uint64_t *arguments)`.
pub(crate) fn entry_name(kernel: &str) -> String {
    format!("{kernel}.entry")
}

/// Compiles the text of a module for a CPU.
///
/// # Errors
/// It is no LLVM IR, or this build has no LLVM.
pub(crate) fn compile(ir: &str, cpu: &str) -> Result<HostModule> {
    #[cfg(feature = "llvm")]
    return crate::llvm::host::module(ir, cpu);
    #[cfg(not(feature = "llvm"))]
    return crate::emulate::host::missing(ir, cpu);
}

#[cfg(not(feature = "llvm"))]
fn missing(_: &str, _: &str) -> Result<HostModule> {
    let error = aic_ir::error::Error::new("this build of aic has no LLVM, which the emulator needs");
    Err(error.help("build with `--features llvm`"))
}
