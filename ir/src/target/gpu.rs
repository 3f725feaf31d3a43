//! CUDA GPUs by compute capability.
//!
//! Numbers are those of the CUDA C++ Programming Guide's table of compute capabilities, of the PTX ISA's sections on
//! matrix instructions and asynchronous copies, and of the data sheets of A100 SXM 80 GB and H100 SXM.

use super::{Extents, Limits, MatrixUnit, MemoryLevel, Move, ParallelLevel, Space, Target};
use crate::dtype::DType;
use crate::kernel::{Level, LoopKind, Scope};

/// What differs from card to card.
struct Card {
    name: &'static str,
    about: &'static str,
    multiprocessors: u32,
    clock: f64,
    shared_bytes: u64,
    l2_bytes: u64,
    /// Bytes per second of all multiprocessors together.
    l2_bandwidth: f64,
    memory_bandwidth: f64,
    /// Multiplications and additions of f16 per second by matrix instructions.
    peak: f64,
}

impl Target {
    /// Compute capability 8.0, with the numbers of an A100.
    pub fn sm_80() -> Target {
        gpu(&Card {
            name: "sm_80",
            about: "CUDA GPUs from A100 on",
            multiprocessors: 108,
            clock: 1.41e9,
            shared_bytes: 163 << 10,
            l2_bytes: 40 << 20,
            l2_bandwidth: 7.2e12,
            memory_bandwidth: 2.04e12,
            peak: 312e12,
        })
    }

    /// Compute capability 9.0 with what is specific to it, with the numbers of an H100.
    pub fn sm_90a() -> Target {
        let mut t = gpu(&Card {
            name: "sm_90a",
            about: "CUDA GPUs H100 and H200",
            multiprocessors: 132,
            clock: 1.83e9,
            shared_bytes: 227 << 10,
            l2_bytes: 50 << 20,
            l2_bandwidth: 9e12,
            memory_bandwidth: 3.35e12,
            peak: 989e12,
        });
        t.matrix.extend(warp_group_units(989e12));
        // Part of shared memory; the rest is for barriers.
        t.spaces.push(Space {
            scope: Scope::Swizzled,
            bytes: Some(226 << 10),
            alignment: 1024,
            is_addressable: false,
        });
        // The tensor memory accelerator: boxes of arrays.
        t.moves.push(Move {
            from: Scope::Global,
            to: Scope::Swizzled,
            is_async: true,
            alignment: [16, 1024],
            sizes: Vec::new(),
            columns: 1,
            transposes: Vec::new(),
            converts: Vec::new(),
            bandwidth: 9e12 / 132.0,
        });
        t
    }
}

fn gpu(card: &Card) -> Target {
    let each = 1.0 / f64::from(card.multiprocessors);
    let level =
        |name: &str, bytes, bandwidth, line| MemoryLevel { name: name.into(), bytes, bandwidth, line };
    let space = |scope, bytes, alignment| Space { scope, bytes, alignment, is_addressable: true };
    let bound =
        |level, extent, units| ParallelLevel { kind: LoopKind::Bind(level), extent: Some(extent), units };
    Target {
        name: card.name.into(),
        about: card.about.into(),
        vector_bytes: 16,
        vector_registers: 255,
        memory: vec![
            // 32 banks of 4 bytes.
            level("shared", card.shared_bytes, 128.0 * card.clock, 128),
            level("L2", card.l2_bytes, card.l2_bandwidth * each, 128),
            level("memory", u64::MAX, card.memory_bandwidth * each, 32),
        ],
        spaces: vec![
            space(Scope::Global, None, 1),
            space(Scope::Workspace, None, 256),
            space(Scope::Shared, Some(card.shared_bytes), 128),
            space(Scope::Register, Some(255 * 4), 4),
            space(Scope::Stack, Some(512 << 10), 16),
        ],
        levels: vec![
            bound(Level::Block(0), (1 << 31) - 1, card.multiprocessors),
            bound(Level::Block(1), 65535, 1),
            bound(Level::Block(2), 65535, 1),
            bound(Level::Warp, 32, 4),
            bound(Level::Thread(2), 64, 1),
            bound(Level::Thread(1), 1024, 1),
            bound(Level::Thread(0), 1024, 32),
        ],
        // cp.async
        moves: vec![Move {
            from: Scope::Global,
            to: Scope::Shared,
            is_async: true,
            alignment: [4, 4],
            sizes: vec![4, 8, 16],
            columns: 1,
            transposes: Vec::new(),
            converts: Vec::new(),
            bandwidth: card.l2_bandwidth * each,
        }],
        matrix: warp_units(card.peak),
        dtypes: vec![
            DType::F32,
            DType::F64,
            DType::F16,
            DType::BF16,
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
        has_library: false,
        drops_bits: false,
        limits: Limits { threads: 1024, warp: 32, registers: 65536, ..Limits::default() },
    }
}

/// Accumulator, factors, significant bits of these, and the speed relative to f16.
const TYPES: [(&str, DType, DType, u32, f64); 4] = [
    ("f16", DType::F32, DType::F16, 11, 1.0),
    ("bf16", DType::F32, DType::BF16, 8, 1.0),
    ("tf32", DType::F32, DType::F32, 11, 0.5),
    ("s8", DType::I32, DType::I8, 8, 2.0),
];

/// `mma.sync`: by a warp, all operands in registers.
fn warp_units(peak: f64) -> Vec<MatrixUnit> {
    let unit = |(name, c, ab, precision, speed): (&str, DType, DType, u32, f64)| {
        let k = 32 / ab.size() as u32;
        let registers = || vec![Scope::Register];
        MatrixUnit {
            name: format!("mma_m16n8k{k}_{name}"),
            extents: [Extents::just(16), Extents::just(8), Extents::just(k)],
            dtypes: [c, ab, ab],
            scopes: [registers(), registers(), registers()],
            fractals: None,
            precision,
            threads: 32,
            is_async: false,
            peak: peak * speed,
        }
    };
    TYPES.into_iter().map(unit).collect()
}

/// `wgmma.mma_async`: by four warps, factors in shared memory.
fn warp_group_units(peak: f64) -> Vec<MatrixUnit> {
    let unit = |(name, c, ab, precision, speed): (&str, DType, DType, u32, f64)| {
        let k = 32 / ab.size() as u32;
        let step = if ab == DType::I8 { 16 } else { 8 };
        let factors = || vec![Scope::Shared, Scope::Swizzled];
        MatrixUnit {
            name: format!("wgmma_k{k}_{name}"),
            extents: [Extents::just(64), Extents { step, most: 256 }, Extents::just(k)],
            dtypes: [c, ab, ab],
            scopes: [vec![Scope::Register], factors(), factors()],
            fractals: None,
            precision,
            threads: 128,
            is_async: true,
            peak: peak * speed,
        }
    };
    TYPES.into_iter().map(unit).collect()
}
