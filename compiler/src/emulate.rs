//! Programs for a CUDA GPU, executed without one: every launch on the emulator, in the arena of the memory plan.
//!
//! The emulator executes the LLVM module that PTX is made of. Steps without a kernel are interpreted, as they are
//! everywhere.

use aic_backends::emulate::{Arg, Buffer, Emulator, Launch, Options};
use aic_backends::ptx;
use aic_ir::dim::Sym;
use aic_ir::error::{Error, Result};
use aic_ir::eval::{self, KernelBuffer};
use aic_ir::kernel::Kernel;
use aic_ir::program::Program;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use std::collections::HashMap;

/// A program with its kernels compiled for the emulator.
pub struct Emulated {
    program: Program,
    kernels: HashMap<String, Compiled>,
}

/// A kernel and how it is launched.
struct Compiled {
    emulator: Emulator,
    launch: ptx::Launch,
}

impl Emulated {
    /// Compiles a program's kernels, which were made for the target.
    ///
    /// # Errors
    /// A kernel has no code for the target, or uses what the emulator doesn't have.
    pub fn new(program: &Program, target: &Target, options: Options) -> Result<Emulated> {
        let compile = |k: &Kernel| Ok((k.name.clone(), Compiled::new(k, target, options)?));
        let kernels = program.kernels.iter().map(compile).collect::<Result<_>>()?;
        Ok(Emulated { program: program.clone(), kernels })
    }

    /// Runs the program.
    ///
    /// # Errors
    /// An input doesn't fit, a kernel does what it may not, or its threads wait for each other for ever.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        eval::program_with(&self.program, inputs, &|k, buffers, symbols| {
            let compiled = self.kernels.get(&k.name);
            compiled
                .ok_or_else(|| Error::new(format!("no kernel is named {}", k.name)))?
                .run(k, buffers, symbols)
        })
    }
}

impl Compiled {
    fn new(kernel: &Kernel, target: &Target, options: Options) -> Result<Compiled> {
        let module = ptx::optimized(std::slice::from_ref(kernel), target)?;
        let emulator = Emulator::new(&ptx::text(&module)?, options);
        let emulator = emulator.map_err(|e| e.context(format!("kernel {}", kernel.name)))?;
        Ok(Compiled { emulator, launch: ptx::Launch::of(kernel)? })
    }

    fn run(&self, kernel: &Kernel, buffers: &mut [KernelBuffer], symbols: &[i64]) -> Result<()> {
        let value = |s: &Sym| kernel.symbols.iter().position(|(n, _)| n == s).map(|at| symbols[at]);
        let mut grid = [0; 3];
        for (n, extent) in grid.iter_mut().zip(&self.launch.grid) {
            let blocks = extent.eval(&value).and_then(|n| u32::try_from(n).ok());
            *n = blocks
                .ok_or_else(|| Error::new(format!("kernel {} has a grid of {extent} blocks", kernel.name)))?;
        }
        if grid.contains(&0) {
            return Ok(());
        }
        let dynamic_shared = self.launch.shared_bytes as usize;
        let launch = Launch { grid, block: self.launch.threads, cluster: [1; 3], dynamic_shared };
        let mut args: Vec<Arg> = (0..buffers.len()).map(Arg::Buffer).collect();
        args.extend(symbols.iter().map(|n| Arg::Int(*n)));
        let buffer = |(b, p): (_, &aic_ir::kernel::Param)| {
            let b: &mut KernelBuffer = b;
            Buffer { name: p.buffer.name.name().to_owned(), data: &mut b.data, writable: p.writable }
        };
        let mut memory: Vec<Buffer> = buffers.iter_mut().zip(&kernel.params).map(buffer).collect();
        self.emulator.launch(&kernel.name, &launch, &mut memory, &args)
    }
}
