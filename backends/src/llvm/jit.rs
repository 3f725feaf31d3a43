//! Objects loaded into this process, by ORC's LLJIT.
//!
//! LLJIT links and relocates what was compiled elsewhere (`compile` or a cache); it generates no code, so the code is
//! exactly that of the objects. Calls of libm may be farther away than a call instruction reaches: the linker makes
//! stubs.

use crate::{CpuOptions, KernelFn, Object};
use aic_ir::error::{Error, Result};
use inkwell::llvm_sys::core::LLVMCreateMemoryBufferWithMemoryRangeCopy;
use inkwell::llvm_sys::error::{LLVMDisposeErrorMessage, LLVMErrorRef, LLVMGetErrorMessage};
use inkwell::llvm_sys::orc2::LLVMOrcJITTargetMachineBuilderCreateFromTargetMachine;
use inkwell::llvm_sys::orc2::lljit::{
    LLVMOrcCreateLLJIT, LLVMOrcCreateLLJITBuilder, LLVMOrcDisposeLLJIT, LLVMOrcLLJITAddObjectFile,
    LLVMOrcLLJITBuilderSetJITTargetMachineBuilder, LLVMOrcLLJITGetMainJITDylib, LLVMOrcLLJITLookup,
    LLVMOrcLLJITRef,
};
use std::ffi::{CStr, CString};

/// The code of objects in this process. It lives as long as this value; functions got from it must not be called
/// afterwards.
#[derive(Debug)]
pub struct Library {
    jit: LLVMOrcLLJITRef,
}

// SAFETY: LLJIT's session locks itself; lookups and disposal may happen on any thread.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Loads objects that were compiled for this machine. No two may define the same symbol.
    pub fn load(objects: &[Object]) -> Result<Library> {
        let library = Library::empty()?;
        for object in objects {
            library.add(object)?;
        }
        Ok(library)
    }

    fn empty() -> Result<Library> {
        let machine = super::target::Machine::new(&CpuOptions::default())?.machine;
        let mut jit = std::ptr::null_mut();
        // SAFETY: the builder takes the target machine, LLJIT takes the builder.
        let error = unsafe {
            let machine_builder = LLVMOrcJITTargetMachineBuilderCreateFromTargetMachine(machine.as_mut_ptr());
            std::mem::forget(machine);
            let builder = LLVMOrcCreateLLJITBuilder();
            LLVMOrcLLJITBuilderSetJITTargetMachineBuilder(builder, machine_builder);
            LLVMOrcCreateLLJIT(&mut jit, builder)
        };
        check(error, "cannot start the loader of compiled code")?;
        Ok(Library { jit })
    }

    fn add(&self, object: &Object) -> Result<()> {
        // SAFETY: the buffer is copied, and taken by the JIT.
        let error = unsafe {
            let bytes = object.bytes.as_ptr().cast();
            let buffer =
                LLVMCreateMemoryBufferWithMemoryRangeCopy(bytes, object.bytes.len(), c"kernels".as_ptr());
            LLVMOrcLLJITAddObjectFile(self.jit, LLVMOrcLLJITGetMainJITDylib(self.jit), buffer)
        };
        check(error, "cannot load compiled code")
    }

    /// The code of a kernel; linked when it is first asked for.
    pub fn get(&self, name: &str) -> Result<KernelFn> {
        let symbol =
            CString::new(name).map_err(|_| Error::new(format!("`{name}` is not a name for a kernel")))?;
        let mut address = 0;
        // SAFETY: the JIT is alive.
        let error = unsafe { LLVMOrcLLJITLookup(self.jit, &mut address, symbol.as_ptr()) };
        check(error, &format!("cannot find the code of kernel {name}"))?;
        // SAFETY: every symbol of an object is a kernel's function with this signature.
        Ok(unsafe { std::mem::transmute::<usize, KernelFn>(address as usize) })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: nothing else disposes of it.
        let error = unsafe { LLVMOrcDisposeLLJIT(self.jit) };
        // There is nobody to tell; taking the message frees it.
        let _ = check(error, "cannot unload compiled code");
    }
}

fn check(error: LLVMErrorRef, context: &str) -> Result<()> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is taken by the message, which is freed after its copy is made.
    let message = unsafe {
        let raw = LLVMGetErrorMessage(error);
        let text = CStr::from_ptr(raw).to_string_lossy().into_owned();
        LLVMDisposeErrorMessage(raw);
        text
    };
    Err(Error::new(format!("{context}: {message}")))
}
