//! Ascend NPUs.
//!
//! Numbers of the 910B3: capacities and core counts are those of the vendor's platform file, alignments those of the
//! Ascend C guide's general notes, bandwidths of moves those of the published cycle model of its cores (GiB/s).

use super::{Extents, Fractal, Limits, MatrixUnit, MemoryLevel, Move, ParallelLevel, Space, Target};
use crate::dtype::DType;
use crate::kernel::{Level, LoopKind, Scope};

const CORES: u32 = 20;
const CLOCK: f64 = 1.8e9;
const GIB: f64 = (1u64 << 30) as f64;

impl Target {
    /// Ascend 910B3: 20 cores, each a cube unit and two vector cores.
    pub fn ascend_910b3() -> Target {
        let each = 1.0 / f64::from(CORES);
        let level =
            |name: &str, bytes, bandwidth, line| MemoryLevel { name: name.into(), bytes, bandwidth, line };
        let space =
            |scope, bytes, alignment, is_addressable| Space { scope, bytes, alignment, is_addressable };
        Target {
            name: "910B3".into(),
            about: "Ascend 910B3, of the Atlas A2 series".into(),
            // A repeat of a vector instruction; operands lie in the unified buffer.
            vector_bytes: 256,
            vector_registers: 0,
            memory: vec![
                level("UB", UB_BYTES, 1024.0 * GIB, 32),
                level("L2", 192 << 20, 5e12 * each, 512),
                level("memory", u64::MAX, 1.8e12 * each, 512),
            ],
            spaces: vec![
                space(Scope::Global, None, 1, true),
                space(Scope::Workspace, None, 512, false),
                space(Scope::Stack, Some(16 << 10), 8, true),
                space(Scope::Ub, Some(UB_BYTES), 32, true),
                space(Scope::L1, Some((512 << 10) - 256), 32, false),
                space(Scope::L0A, Some(64 << 10), 512, false),
                space(Scope::L0B, Some(64 << 10), 512, false),
                space(Scope::L0C, Some(128 << 10), 64, false),
            ],
            levels: vec![
                ParallelLevel { kind: LoopKind::Bind(Level::Core), extent: Some(CORES.into()), units: CORES },
                ParallelLevel { kind: LoopKind::Bind(Level::VectorCore), extent: Some(2), units: 2 },
            ],
            moves: moves(),
            matrix: cube_units(),
            dtypes: vec![DType::F32, DType::F16, DType::I16, DType::I32],
            has_library: true,
            drops_bits: false,
            limits: Limits { queue_buffers: 8, buffers: 64, code_bytes: 32 << 10, ..Limits::default() },
        }
    }
}

/// The unified buffer without what the compiler and `Select` keep for themselves.
const UB_BYTES: u64 = (192 << 10) - 256 - (8 << 10);

fn moves() -> Vec<Move> {
    let step = |from, to, alignment, gib: f64| Move {
        from,
        to,
        is_async: true,
        alignment,
        sizes: Vec::new(),
        columns: 1,
        transposes: Vec::new(),
        converts: Vec::new(),
        bandwidth: gib * GIB,
    };
    let narrow = || vec![(DType::F32, DType::F16), (DType::F32, DType::BF16), (DType::I32, DType::F16)];
    // Fixpipe writes whole fractals of columns.
    let fixpipe = |to| Move { columns: 16, converts: narrow(), ..step(Scope::L0C, to, [64, 1], 70.0) };
    vec![
        step(Scope::Global, Scope::Ub, [1, 32], 100.9),
        step(Scope::Workspace, Scope::Ub, [1, 32], 100.9),
        step(Scope::Ub, Scope::Global, [32, 1], 188.5),
        step(Scope::Ub, Scope::Workspace, [32, 1], 188.5),
        step(Scope::Ub, Scope::Ub, [32, 32], 1024.0),
        step(Scope::Global, Scope::L1, [1, 32], 135.0),
        step(Scope::Workspace, Scope::L1, [1, 32], 135.0),
        // Whole fractals of 512 bytes.
        Move { transposes: vec![2], ..step(Scope::L1, Scope::L0A, [32, 512], 441.0) },
        Move { transposes: vec![2], ..step(Scope::L1, Scope::L0B, [32, 512], 220.5) },
        fixpipe(Scope::Global),
        fixpipe(Scope::Workspace),
        Move { converts: narrow(), ..step(Scope::L0C, Scope::L1, [64, 32], 128.0) },
    ]
}

/// `Mmad`: 16 x 16 fractals of the accumulator, factors in fractals of 32 bytes by 16.
fn cube_units() -> Vec<MatrixUnit> {
    // A fractal per cycle.
    let peak = f64::from(CORES) * CLOCK * 8192.0;
    let types = [
        ("f16", DType::F32, DType::F16, 11, 1.0),
        ("bf16", DType::F32, DType::BF16, 8, 1.0),
        ("f32", DType::F32, DType::F32, 24, 0.25),
        ("s8", DType::I32, DType::I8, 8, 2.0),
    ];
    let unit = |(name, c, ab, precision, speed): (&str, DType, DType, u32, f64)| {
        let k = 32 / ab.size() as u32;
        let of = |step: u32| Extents { step, most: 4095 / step * step };
        MatrixUnit {
            name: format!("cube_{name}"),
            extents: [of(16), of(16), of(k)],
            dtypes: [c, ab, ab],
            scopes: [vec![Scope::L0C], vec![Scope::L0A], vec![Scope::L0B]],
            // Those that the vendor calls NZ, ZZ and ZN.
            fractals: Some([
                Fractal { block: [16, 16], step: [16, 1] },
                Fractal { block: [16, k], step: [k, 1] },
                Fractal { block: [k, 16], step: [1, k] },
            ]),
            precision,
            threads: 1,
            is_async: false,
            peak: peak * speed,
        }
    };
    types.into_iter().map(unit).collect()
}
