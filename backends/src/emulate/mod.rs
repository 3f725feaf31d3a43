//! CUDA kernels executed on the host, without a GPU.
//!
//! The LLVM module that would become PTX is compiled for this machine instead (`llvm/host.rs`); what it calls of the GPU,
//! the intrinsics `llvm.nvvm.*` and inline assembly, comes to a runtime that does what the PTX ISA says ([`op`] lists
//! them). The threads of a block are fibers ([`cluster`]), blocks are spread over the machine's cores ([`launch`]).
//!
//! The runtime is the worst GPU that the ISA allows. Shared memory begins as NaN. An asynchronous copy makes its
//! destination NaN at once and delivers late, or at a random time; the results of asynchronous products are NaN until
//! they are waited for. Threads run in a random order. So a missing wait, a wrong parity or a stage reused too early is
//! a wrong answer or a deadlock, and deadlocks are reported, as are accesses outside of buffers.
//!
//! What this can't show: whether the text of the PTX is right, the weak order of memory between threads, fences
//! between proxies, bank conflicts, registers, and speed. Layouts are those of the PTX ISA as read by people; only a GPU
//! can confirm them.

mod barrier;
mod cluster;
mod copy;
mod flights;
mod float;
mod fragment;
pub(crate) mod host;
mod launch;
mod mbarrier;
mod memory;
mod module;
mod op;
mod scalar;
mod tensor_map;
mod warp;
mod wgmma;

pub use launch::{Arg, Buffer, Emulator, Launch, Options};
pub use tensor_map::{Swizzle, TensorMap};
