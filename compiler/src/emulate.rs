//! Programs for a CUDA GPU, executed without one: every launch on the emulator, in the arena of the memory plan.
//!
//! The emulator executes the LLVM module that PTX is made of. Steps without a kernel are interpreted, as they are
//! everywhere.

use aic_backends::emulate::{Arg, Buffer, Emulator, Launch, Options, Swizzle, TensorMap};
use aic_backends::ptx;
use aic_ir::dim::{Dim, Sym};
use aic_ir::ensure;
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
    kernels: Kernels,
}

/// Kernels, possibly of several programs, as one module for the emulator.
pub struct Kernels {
    emulator: Emulator,
    /// How they are launched, by their names.
    launches: HashMap<String, ptx::Launch>,
}

impl Emulated {
    /// Compiles a program's kernels, which were made for the target.
    ///
    /// # Errors
    /// A kernel has no code for the target, or uses what the emulator doesn't have.
    pub fn new(program: &Program, target: &Target, options: Options) -> Result<Emulated> {
        Ok(Emulated { program: program.clone(), kernels: Kernels::new(&program.kernels, target, options)? })
    }

    /// Runs the program.
    ///
    /// # Errors
    /// An input doesn't fit, a kernel does what it may not, or its threads wait for each other for ever.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        self.kernels.run(&self.program, inputs)
    }
}

impl Kernels {
    /// Compiles kernels that were made for the target and have different names.
    ///
    /// # Errors
    /// A kernel has no code for the target, or uses what the emulator doesn't have.
    pub fn new(kernels: &[Kernel], target: &Target, options: Options) -> Result<Kernels> {
        let module = ptx::optimized(kernels, target)?;
        let emulator = Emulator::new(&ptx::text(&module)?, options)?;
        let launches = kernels.iter().map(|k| k.name.clone()).zip(module.launches).collect();
        Ok(Kernels { emulator, launches })
    }

    /// Runs a program whose kernels are among these.
    ///
    /// # Errors
    /// An input doesn't fit, a kernel does what it may not, or its threads wait for each other for ever.
    pub fn run(&self, program: &Program, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        eval::program_with(program, inputs, &|k, buffers, symbols| self.launch(k, buffers, symbols))
    }

    fn launch(&self, kernel: &Kernel, buffers: &mut [KernelBuffer], symbols: &[i64]) -> Result<()> {
        let launch = self.launches.get(&kernel.name);
        let launch = launch.ok_or_else(|| Error::new(format!("no kernel is named {}", kernel.name)))?;
        let value = |s: &Sym| kernel.symbols.iter().position(|(n, _)| n == s).map(|at| symbols[at]);
        let mut grid = [0; 3];
        for (n, extent) in grid.iter_mut().zip(&launch.grid) {
            let blocks = extent.eval(&value).and_then(|n| u32::try_from(n).ok());
            *n = blocks
                .ok_or_else(|| Error::new(format!("kernel {} has a grid of {extent} blocks", kernel.name)))?;
        }
        if grid.contains(&0) {
            return Ok(());
        }
        let maps = launch.maps.iter().map(|m| map(m, &value));
        let maps =
            maps.collect::<Result<Vec<_>>>().map_err(|e| e.context(format!("kernel {}", kernel.name)))?;
        let (block, dynamic_shared) = (launch.threads, launch.shared_bytes as usize);
        let launch = Launch { grid, block, cluster: [1; 3], dynamic_shared };
        let mut args: Vec<Arg> = (0..buffers.len()).map(Arg::Buffer).collect();
        args.extend(symbols.iter().map(|n| Arg::Int(*n)));
        args.extend(maps);
        let buffer = |(b, p): (_, &aic_ir::kernel::Param)| {
            let b: &mut KernelBuffer = b;
            Buffer { name: p.buffer.name.name().to_owned(), data: &mut b.data, writable: p.writable }
        };
        let mut memory: Vec<Buffer> = buffers.iter_mut().zip(&kernel.params).map(buffer).collect();
        self.emulator.launch(&kernel.name, &launch, &mut memory, &args)
    }
}

/// A tensor map, given the values of symbols.
fn map(m: &ptx::BoxMap, value: &dyn Fn(&Sym) -> Option<i64>) -> Result<Arg> {
    let size = m.dtype.size() as i64;
    let of = |d: &Dim| -> Result<i64> {
        let found = d.eval(&value).filter(|n| *n >= 0);
        found.ok_or_else(|| Error::new(format!("the array that boxes are copied of has {d} elements")))
    };
    let extent = |n: &Dim| -> Result<u32> {
        let n = of(n)?;
        ensure!(n <= i32::MAX.into(), "an axis of {n} elements is too long for a tensor map");
        Ok(n as u32)
    };
    let extents = m.axes.iter().map(|(n, _)| extent(n)).collect::<Result<Vec<_>>>()?;
    let steps = m.axes[1..].iter().map(|(_, n)| Ok((of(n)? * size) as u64)).collect::<Result<Vec<_>>>()?;
    let mut boxed = vec![1; extents.len()];
    boxed[..2].copy_from_slice(&m.extent);
    let map = TensorMap::new(size as u32, &extents, &steps, &boxed, Swizzle::B128)?;
    Ok(Arg::Map(m.param, map.from((of(&m.first)? * size) as usize)))
}
