//! What stands in for the LLVM backend in a build without LLVM: the same functions, all of which fail.

use crate::{CpuFeatures, CpuOptions, KernelFn, Object, TextKind};
use aic_ir::error::{Error, Result};
use aic_ir::kernel::Kernel;

/// Code in this process; there is none in this build.
#[derive(Debug)]
pub struct Library(std::convert::Infallible);

impl Library {
    /// Fails.
    pub fn load(_objects: &[Object]) -> Result<Library> {
        Err(missing())
    }

    /// The code of a kernel.
    pub fn get(&self, _name: &str) -> Result<KernelFn> {
        match self.0 {}
    }
}

pub(crate) fn compile(_kernels: &[Kernel], _options: &CpuOptions) -> Result<Vec<Object>> {
    Err(missing())
}

pub(crate) fn emit_text(_kernels: &[Kernel], _options: &CpuOptions, _kind: TextKind) -> Result<String> {
    Err(missing())
}

pub(crate) fn cpu_features(_options: &CpuOptions) -> Result<CpuFeatures> {
    Err(missing())
}

fn missing() -> Error {
    Error::new("this build of aic has no LLVM")
        .help("build with `--features llvm`, or use `--backend reference`")
}
