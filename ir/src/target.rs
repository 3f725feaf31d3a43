//! Targets as plain data: what a schedule, the verifier and a backend need to know about a machine.
//!
//! A [`Target`] is a row of tables: vectors, caches, the memories that a kernel allocates in, the levels of parallel
//! hardware, the copies and the matrix instructions that the machine has. [`Target::named`] finds one of
//! [`Target::NAMES`]; where its numbers come from is said beside them. Its text form is for reading.

mod gpu;
mod matrix;
mod npu;
mod print;
mod x86;

pub use matrix::{Extents, Fractal, MatrixUnit};
pub use x86::MAX_ARRAY_BYTES;

use crate::dtype::DType;
use crate::kernel::{Level, LoopKind, Scope};

/// A machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its name: `x86-64-v4`, `sm_80`, `910B3`.
    pub name: String,
    /// What it is, in a few words.
    pub about: String,
    /// Bytes of a vector register; of the widest access of a thread, on a GPU.
    pub vector_bytes: u32,
    /// Number of vector registers; of 32-bit registers of a thread, on a GPU; 0 where vectors lie in memory.
    pub vector_registers: u32,
    /// Caches and main memory as one core, or one block, sees them; the nearest first.
    pub memory: Vec<MemoryLevel>,
    /// The memories that a kernel may allocate in or be given.
    pub spaces: Vec<Space>,
    /// The loops that are executed in parallel, the outermost first.
    pub levels: Vec<ParallelLevel>,
    /// The copies that are instructions of their own.
    pub moves: Vec<Move>,
    /// The matrix instructions.
    pub matrix: Vec<MatrixUnit>,
    /// Element types that vectors, or threads, compute with.
    pub dtypes: Vec<DType>,
    /// Whether kernels can call a C library, which functions of `f64` are left to.
    pub has_library: bool,
    /// Whether matrix instructions may drop bits of their factors. A class of numerics says so, not the machine.
    pub drops_bits: bool,
    /// Numbers that bound a kernel as a whole.
    pub limits: Limits,
}

/// A level of the memory hierarchy.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryLevel {
    /// `L1`, `L2`, `memory`.
    pub name: String,
    /// Bytes that fit; `u64::MAX` for main memory.
    pub bytes: u64,
    /// Bytes per second that one core reads.
    pub bandwidth: f64,
    /// Bytes that are moved at once; accesses that start at multiples of it cost least.
    pub line: u32,
}

/// A memory that kernels name.
#[derive(Clone, Debug, PartialEq)]
pub struct Space {
    /// Its name in the loop IR.
    pub scope: Scope,
    /// Bytes that live buffers may take together, in one thread, block or core; `None` where that is not limited.
    pub bytes: Option<u64>,
    /// The bytes that buffers begin at multiples of.
    pub alignment: u32,
    /// Whether expressions load from and store to it; otherwise it is for copies and matrix instructions.
    pub is_addressable: bool,
}

/// A level of parallel hardware.
#[derive(Clone, Debug, PartialEq)]
pub struct ParallelLevel {
    /// The kind of loop that is bound to it.
    pub kind: LoopKind,
    /// Iterations that a loop may have; `None` where that is not limited.
    pub extent: Option<u64>,
    /// How many of them the machine executes at a time; 0 where that is known at run time only.
    pub units: u32,
}

/// A copy between two memories.
#[derive(Clone, Debug, PartialEq)]
pub struct Move {
    /// Where from.
    pub from: Scope,
    /// Where to.
    pub to: Scope,
    /// Whether it may go on beside what follows, in a group.
    pub is_async: bool,
    /// Bytes at whose multiples rows begin, there and here: source, destination. 1 where elements do.
    pub alignment: [u32; 2],
    /// Bytes that a copy may have if these are all that there are; empty where any number is possible.
    pub sizes: Vec<u32>,
    /// Rows have a multiple of so many elements; 1 for any number.
    pub columns: u32,
    /// Bytes of the elements whose rows it may make columns.
    pub transposes: Vec<u32>,
    /// Element types that it converts, from and to.
    pub converts: Vec<(DType, DType)>,
    /// Bytes per second, of one core or block.
    pub bandwidth: f64,
}

/// Limits of a kernel; 0 where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Threads of a block.
    pub threads: u32,
    /// Threads of a warp.
    pub warp: u32,
    /// 32-bit registers of all threads of a block.
    pub registers: u32,
    /// Buffers that one queue may cycle through at a time.
    pub queue_buffers: u32,
    /// Buffers of a kernel outside of global memory.
    pub buffers: u32,
    /// Bytes of code that the instruction cache holds.
    pub code_bytes: u32,
}

/// Significant bits of `f32`, the implicit one included.
const F32_BITS: u32 = 24;

impl Target {
    /// The names of the targets.
    pub const NAMES: [&str; 6] = ["x86-64", "x86-64-v3", "x86-64-v4", "sm_80", "sm_90a", "910B3"];

    /// The target of this name.
    pub fn named(name: &str) -> Option<Target> {
        Some(match name {
            "x86-64" => Target::x86_sse(),
            "x86-64-v3" => Target::x86_avx2(),
            "x86-64-v4" => Target::x86_avx512(),
            "sm_80" => Target::sm_80(),
            "sm_90a" => Target::sm_90a(),
            "910B3" => Target::ascend_910b3(),
            _ => return None,
        })
    }

    /// Every target.
    pub fn all() -> impl Iterator<Item = Target> {
        Target::NAMES.into_iter().filter_map(Target::named)
    }

    /// Whether its kernels are sliced over threads by their caller.
    pub fn is_cpu(&self) -> bool {
        self.level(LoopKind::Parallel).is_some()
    }

    /// Whether it is an NPU: cores of a cube unit and vector cores.
    pub fn is_npu(&self) -> bool {
        self.level(LoopKind::Bind(Level::Core)).is_some()
    }

    /// Bytes of the cache next to the nearest; 0 where there is none.
    pub fn second_cache_bytes(&self) -> i64 {
        self.memory.get(1).map_or(0, |l| i64::try_from(l.bytes).unwrap_or(i64::MAX))
    }

    /// Whether an instruction multiplies factors of a type as precisely as its numerics ask for.
    pub fn keeps(&self, unit: &MatrixUnit, factors: DType) -> bool {
        self.drops_bits || factors != DType::F32 || unit.precision >= F32_BITS
    }

    /// Lanes of a vector of elements of this many bytes.
    pub fn lanes(&self, element_bytes: usize) -> u32 {
        (self.vector_bytes / element_bytes.max(1) as u32).max(1)
    }

    /// The memory of this name in the loop IR, if the target has it.
    pub fn space(&self, scope: Scope) -> Option<&Space> {
        self.spaces.iter().find(|s| s.scope == scope)
    }

    /// The parallel level that loops of this kind are bound to, if the target has it.
    pub fn level(&self, kind: LoopKind) -> Option<&ParallelLevel> {
        self.levels.iter().find(|l| l.kind == kind)
    }

    /// The copies between two memories that are instructions of their own; asynchronous ones, or those that are done
    /// when the statement is.
    pub fn moves(&self, from: Scope, to: Scope, is_async: bool) -> impl Iterator<Item = &Move> {
        self.moves.iter().filter(move |m| m.from == from && m.to == to && (m.is_async || !is_async))
    }

    /// The matrix instruction of this name, if the target has it.
    pub fn matrix_unit(&self, name: &str) -> Option<&MatrixUnit> {
        self.matrix.iter().find(|m| m.name == name)
    }
}
