//! Targets as plain data: what a schedule needs to know about a machine.

/// A machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// Its name: `x86-64-v4`.
    pub name: String,
    /// Bytes of a vector register.
    pub vector_bytes: u32,
    /// Number of vector registers.
    pub vector_registers: u32,
    /// Caches and memory, the nearest first.
    pub memory: Vec<MemoryLevel>,
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
}

impl Target {
    /// A CPU with AVX-512: 32 registers of 64 bytes.
    pub fn x86_avx512() -> Target {
        Target { vector_bytes: 64, vector_registers: 32, ..Target::x86_avx2() }
    }

    /// A CPU with AVX2 and FMA: 16 registers of 32 bytes.
    pub fn x86_avx2() -> Target {
        let level = |name: &str, bytes, bandwidth| MemoryLevel { name: name.into(), bytes, bandwidth };
        Target {
            name: "x86".into(),
            vector_bytes: 32,
            vector_registers: 16,
            memory: vec![
                level("L1", 32 << 10, 300e9),
                level("L2", 1 << 20, 130e9),
                level("L3", 16 << 20, 29e9),
                level("memory", u64::MAX, 12e9),
            ],
        }
    }

    /// Lanes of a vector of elements of this many bytes.
    pub fn lanes(&self, element_bytes: usize) -> u32 {
        (self.vector_bytes / element_bytes.max(1) as u32).max(1)
    }
}
