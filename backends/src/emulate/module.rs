//! A compiled module, and the images of it that blocks run.

use super::cluster::{check, operation};
use super::host::{self, Call, HostModule};
use super::memory::{Aligned, POISON, WINDOW};
use super::op::Op;
use crate::{Library, Object};
use aic_ir::error::Result;
use half::{bf16, f16};
use std::collections::BTreeMap;

/// Bytes of a thread's stack beside the kernel's own variables: the runtime is executed on it too.
const STACK: usize = 64 << 10;

/// A module compiled for this machine.
pub(super) struct Module {
    objects: [Object; 1],
    pub ops: Vec<Op>,
    /// Kernels by name, with the number of their parameters.
    pub kernels: BTreeMap<String, usize>,
    /// Shared variables and where they lie.
    variables: BTreeMap<String, usize>,
    static_shared: usize,
    /// Bytes of stack that a thread needs.
    pub stack_bytes: usize,
}

/// The code and the shared memory of one block.
pub(super) struct Image {
    library: Library,
    shared: Aligned,
}

/// The function of a kernel that takes its arguments from slots.
pub(super) type Entry = unsafe extern "C" fn(*const u64);

impl Image {
    /// Where its shared memory begins.
    pub fn base(&self) -> usize {
        self.shared.address()
    }

    /// Makes so many bytes of shared memory undefined.
    pub fn poison(&mut self, bytes: usize) {
        self.shared.bytes_mut()[..bytes.min(WINDOW)].fill(POISON);
    }

    pub fn entry(&self, kernel: &str) -> Result<Entry> {
        let address = self.library.address(&host::entry_name(kernel))?;
        // SAFETY: the module defines it with this signature.
        Ok(unsafe { std::mem::transmute::<*const u8, Entry>(address) })
    }
}

impl Module {
    pub fn compile(ir: &str) -> Result<Module> {
        let HostModule { object, calls, kernels, variables, shared_bytes, stack_bytes } =
            host::compile(ir, cpu())?;
        let op = |call: &Call| match call {
            Call::Intrinsic(name) => Op::of_intrinsic(name),
            Call::Assembly(text, constraints) => Op::of_assembly(text, constraints),
        };
        let ops = calls.iter().map(op).collect::<Result<_>>()?;
        let stack_bytes = STACK + 2 * stack_bytes;
        Ok(Module { objects: [object], ops, kernels, variables, static_shared: shared_bytes, stack_bytes })
    }

    /// Bytes of shared memory of a block with so many dynamic ones.
    pub fn shared_bytes(&self, dynamic: usize) -> usize {
        self.static_shared + dynamic
    }

    /// A copy of the code with shared memory of its own.
    pub fn image(&self) -> Result<Image> {
        let shared = Aligned::new(WINDOW, WINDOW)?;
        let base = shared.address();
        let outside = |name: &str| match name {
            host::OPERATION => Some(operation as *const () as usize),
            host::CHECK => Some(check as *const () as usize),
            "__truncsfbf2" => Some(to_bf16 as *const () as usize),
            "__truncsfhf2" => Some(to_f16 as *const () as usize),
            "__extendhfsf2" => Some(from_f16 as *const () as usize),
            _ => self.variables.get(name).map(|at| base + at),
        };
        Ok(Image { library: Library::load_with(&self.objects, &outside)?, shared })
    }
}

/// Conversions that LLVM leaves to its runtime library: 16 bits are passed in the low bits of a vector register.
extern "C" fn to_bf16(x: f32) -> f32 {
    f32::from_bits(bf16::from_f32(x).to_bits().into())
}

extern "C" fn to_f16(x: f32) -> f32 {
    f32::from_bits(f16::from_f32(x).to_bits().into())
}

extern "C" fn from_f16(x: f32) -> f32 {
    f16::from_bits(x.to_bits() as u16).to_f32()
}

/// The CPU that code is made for: the same instructions on every machine that has them, none of which flush denormals.
fn cpu() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2")
        && std::is_x86_feature_detected!("fma")
        && std::is_x86_feature_detected!("f16c")
        && std::is_x86_feature_detected!("bmi2")
    {
        return "x86-64-v3";
    }
    "x86-64"
}
