//! Code generators: loop [`Kernel`]s become machine code.
//!
//! A backend knows no operators, only the loop IR. It is one line of [`BACKENDS`] (what it can do) and a function from
//! kernels to object files. [`Library`] loads objects into this process.
//!
//! # The C ABI of a kernel
//! One external symbol, named as the kernel:
//! `void NAME(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end)`.
//! `buffers` are in the order of [`Kernel::params`], `symbols` in that of [`Kernel::symbols`]. A kernel whose body is
//! one parallel loop executes the iterations `begin..end` of it; any other executes its body once and ignores both.
//! Objects are relocatable ELF files, position independent, and need nothing but libc and libm.

use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::kernel::{Kernel, Scope};

#[cfg(feature = "llvm")]
mod llvm;

#[cfg(feature = "cranelift")]
mod cranelift;

pub mod ascendc;
#[cfg(any(feature = "llvm", feature = "cranelift"))]
mod compile;
#[cfg(any(feature = "llvm", feature = "cranelift"))]
mod emit;
pub mod emulate;
mod library;
pub mod mlir;
mod polynomials;
pub mod ptx;
pub mod x86;

pub use library::Library;

/// A line of [`BACKENDS`]: what a code generator can do.
#[derive(Clone, Copy, Debug)]
pub struct Backend {
    /// Its name on the command line.
    pub name: &'static str,
    /// One line for the user.
    pub about: &'static str,
    /// The machines that it makes code for.
    pub machines: &'static str,
    /// Whether this build has it.
    pub available: bool,
    /// Whether it needs LLVM.
    pub needs_llvm: bool,
    /// Vectors that it does arithmetic on, in bytes.
    pub vector_bytes: &'static [usize],
    /// What it doesn't do that others do.
    pub lacks: &'static str,
    /// Element types of buffers.
    pub dtypes: &'static [DType],
    /// Where buffers can live.
    pub scopes: &'static [Scope],
    /// Turns kernels into objects.
    pub compile: fn(&[Kernel], &CpuOptions) -> Result<Vec<Object>>,
    /// The kernels' code as text.
    pub emit_text: fn(&[Kernel], &CpuOptions, TextKind) -> Result<String>,
    /// What the CPU of the options offers to its code; an error if it doesn't know the CPU.
    pub cpu_features: fn(&CpuOptions) -> Result<CpuFeatures>,
}

/// Every backend, the one to be preferred first.
pub const BACKENDS: &[Backend] = &[x86::LLVM, x86::CRANELIFT];

/// The backend with the given name.
pub fn backend(name: &str) -> Result<&'static Backend> {
    BACKENDS.iter().find(|b| b.name == name).ok_or_else(|| {
        let names: Vec<&str> = BACKENDS.iter().map(|b| b.name).collect();
        Error::new(format!("no backend is named `{name}`")).help(format!("use one of {}", names.join(", ")))
    })
}

/// The backends of this build.
pub fn available() -> impl Iterator<Item = &'static Backend> {
    BACKENDS.iter().filter(|b| b.available)
}

/// For which machine, and how hard, to compile.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CpuOptions {
    /// The name of the backend that compiles.
    pub backend: &'static str,
    /// LLVM's name of the platform: `x86_64-unknown-linux-gnu`.
    pub triple: String,
    /// `native` (this machine), a level such as `x86-64-v3` or `x86-64-v4`, or, for the LLVM backend, any CPU name that
    /// LLVM knows.
    pub cpu: String,
    /// 0 (fast to compile) to 3.
    pub opt_level: u8,
    /// Compiler threads; 0 for one per core. The result doesn't depend on it.
    pub threads: usize,
}

impl Default for CpuOptions {
    fn default() -> Self {
        let triple = x86::TRIPLE.to_string();
        let backend = available().next().unwrap_or(&BACKENDS[0]).name;
        CpuOptions { backend, triple, cpu: "native".into(), opt_level: 2, threads: 0 }
    }
}

/// What a CPU offers that matters for schedules and code generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuFeatures {
    /// The widest vectors that arithmetic is done on: 16, 32 or 64.
    pub vector_bytes: usize,
    /// Whether it multiplies and adds in one instruction.
    pub fma: bool,
    /// Whether it converts vectors of 16-bit IEEE floats.
    pub f16c: bool,
    /// LLVM's names of its instruction sets beyond SSE2: those that code compiled for it may use.
    pub names: Vec<&'static str>,
}

/// An ELF relocatable file with the code of some kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The file.
    pub bytes: Vec<u8>,
}

/// A text that shows compiled code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// LLVM IR as it was emitted, before LLVM's passes.
    LlvmIr,
    /// LLVM IR after them.
    OptimizedLlvmIr,
    /// Assembly.
    Asm,
}

/// A kernel's code in this process: see the module's text. The caller vouches for buffers, symbols and iterations.
pub type KernelFn = unsafe extern "C" fn(*const *mut std::ffi::c_void, *const i64, i64, i64);

/// Compiles kernels for a CPU, on several threads. Every symbol occurs in exactly one object. An error names the
/// kernel.
pub fn compile(kernels: &[Kernel], options: &CpuOptions) -> Result<Vec<Object>> {
    (backend(options.backend)?.compile)(kernels, options)
}

/// The kernels' code as text.
pub fn emit_text(kernels: &[Kernel], options: &CpuOptions, kind: TextKind) -> Result<String> {
    (backend(options.backend)?.emit_text)(kernels, options, kind)
}

/// What the CPU of the options offers; an error if the backend doesn't know it.
pub fn cpu_features(options: &CpuOptions) -> Result<CpuFeatures> {
    (backend(options.backend)?.cpu_features)(options)
}
