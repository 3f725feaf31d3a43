//! x86-64 CPUs.

use super::{Limits, MemoryLevel, ParallelLevel, Space, Target};
use crate::dtype::DType;
use crate::kernel::{LoopKind, Scope};

/// Bytes that a kernel's arrays may have on the stack: a thread's is 8 MiB on Linux, of which others need some.
const MAX_STACK_BYTES: u64 = 4 << 20;
/// Bytes that one of them may have.
pub const MAX_ARRAY_BYTES: u64 = 1 << 20;

impl Target {
    /// A CPU with AVX-512: 32 registers of 64 bytes.
    pub fn x86_avx512() -> Target {
        let mut memory = Target::x86_avx2().memory;
        // Ice Lake and later.
        memory[0].bytes = 48 << 10;
        Target {
            memory,
            name: "x86-64-v4".into(),
            about: "x86-64 with AVX-512".into(),
            vector_bytes: 64,
            vector_registers: 32,
            ..Target::x86_avx2()
        }
    }

    /// A CPU with 16 registers of 16 bytes: SSE2, with FMA.
    pub fn x86_sse() -> Target {
        Target {
            name: "x86-64".into(),
            about: "x86-64 with SSE2 and FMA".into(),
            vector_bytes: 16,
            ..Target::x86_avx2()
        }
    }

    /// A CPU with AVX2 and FMA: 16 registers of 32 bytes.
    pub fn x86_avx2() -> Target {
        let level =
            |name: &str, bytes, bandwidth| MemoryLevel { name: name.into(), bytes, bandwidth, line: 64 };
        let space = |scope, bytes, alignment| Space { scope, bytes, alignment, is_addressable: true };
        Target {
            name: "x86-64-v3".into(),
            about: "x86-64 with AVX2 and FMA".into(),
            vector_bytes: 32,
            vector_registers: 16,
            // Measured on one core of a server with 2 MB of L2; bandwidths are those of reading.
            memory: vec![
                level("L1", 32 << 10, 300e9),
                level("L2", 1 << 20, 130e9),
                level("L3", 16 << 20, 29e9),
                level("memory", u64::MAX, 12e9),
            ],
            // What registers don't hold is spilled.
            spaces: vec![
                space(Scope::Global, None, 1),
                space(Scope::Workspace, None, 64),
                space(Scope::Register, None, 64),
                space(Scope::Stack, Some(MAX_STACK_BYTES), 64),
            ],
            levels: vec![ParallelLevel { kind: LoopKind::Parallel, extent: None, units: 0 }],
            moves: Vec::new(),
            matrix: Vec::new(),
            dtypes: vec![
                DType::F32,
                DType::F64,
                DType::I8,
                DType::I16,
                DType::I32,
                DType::I64,
                DType::U8,
                DType::U16,
                DType::U32,
                DType::U64,
                DType::Bool,
            ],
            has_library: true,
            drops_bits: false,
            limits: Limits::default(),
        }
    }
}
