//! CUDA PTX: loop kernels to LLVM IR with the intrinsics of NVPTX, and by LLVM to PTX text.
//!
//! A kernel becomes one entry of the same name: its parameters are the buffers, in global memory, then the symbols as
//! 64-bit integers, then the maps of what boxes are copied of, [`Launch::maps`]. Its shared memory is the start of the dynamic shared memory, [`Launch::shared_bytes`] of it. Nothing
//! is called from outside: PTX has no C library.
//!
//! [`optimized`] gives the module that PTX is made of by [`assemble`]: what executes it otherwise executes the same code.

mod launch;
mod ptxas;

pub use launch::{BoxMap, Launch};
pub use ptxas::{Ptxas, Usage};

use aic_ir::error::Result;
use aic_ir::kernel::Kernel;
use aic_ir::target::Target;

/// LLVM's name of the platform.
pub const TRIPLE: &str = "nvptx64-nvidia-cuda";

/// The version of PTX that is written: that of CUDA 12.0, which every later driver reads.
pub const VERSION: &str = "ptx80";

/// The symbol of shared memory in a module.
pub const SHARED: &str = "aic_shared";

/// Bytes that shared memory begins at a multiple of: what swizzling repeats after.
pub(crate) const SHARED_ALIGNMENT: u32 = 1024;

/// Kernels as an LLVM module after LLVM's passes.
#[derive(Clone, Debug)]
pub struct Optimized {
    /// The module's bitcode.
    pub bitcode: Vec<u8>,
    /// How the kernels are launched, in their order.
    pub launches: Vec<Launch>,
}

/// The kernels as one LLVM module, after LLVM's passes and before code generation.
///
/// # Errors
/// Names the kernel that the target can't execute.
pub fn optimized(kernels: &[Kernel], target: &Target) -> Result<Optimized> {
    let launches: Vec<Launch> = kernels.iter().map(of).collect::<Result<_>>()?;
    #[cfg(feature = "llvm")]
    return Ok(Optimized { bitcode: crate::llvm::gpu_bitcode(kernels, &launches, target)?, launches });
    #[cfg(not(feature = "llvm"))]
    return missing(launches, target);
}

fn of(kernel: &Kernel) -> Result<Launch> {
    Launch::of(kernel).map_err(|e| e.context(format!("kernel {}", kernel.name)))
}

/// The module's code as PTX.
///
/// # Errors
/// If LLVM fails, or a name of it is left unresolved.
pub fn assemble(module: &Optimized, target: &Target) -> Result<String> {
    #[cfg(feature = "llvm")]
    return crate::llvm::gpu_assembly(&module.bitcode, target);
    #[cfg(not(feature = "llvm"))]
    return missing(module.launches.clone(), target);
}

/// The module as text.
///
/// # Errors
/// If LLVM can't read it.
pub fn text(module: &Optimized) -> Result<String> {
    #[cfg(feature = "llvm")]
    return crate::llvm::gpu_text(&module.bitcode);
    #[cfg(not(feature = "llvm"))]
    return missing(module.launches.clone(), &Target::sm_80());
}

#[cfg(not(feature = "llvm"))]
fn missing<T>(_: Vec<Launch>, target: &Target) -> Result<T> {
    Err(aic_ir::error::Error::new(format!("this build of aic makes no code for {}", target.name))
        .help("build with `--features llvm`"))
}
