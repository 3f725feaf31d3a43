//! Numbers as the matrix instructions take them from registers and memory.

use half::{bf16, f16};

/// The element type of a factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
}

impl Element {
    /// Bytes in memory and in registers.
    pub fn bytes(self) -> usize {
        match self {
            Element::F16 | Element::Bf16 => 2,
            Element::Tf32 => 4,
            Element::S8 | Element::U8 => 1,
        }
    }

    /// Whether sums are `i32`, not `f32`.
    pub fn is_int(self) -> bool {
        matches!(self, Element::S8 | Element::U8)
    }

    /// The value of so many low bits. Of a `tf32` the low 13 bits don't count.
    pub fn value(self, bits: u32) -> f64 {
        match self {
            Element::F16 => f16::from_bits(bits as u16).to_f64(),
            Element::Bf16 => bf16::from_bits(bits as u16).to_f64(),
            Element::Tf32 => f64::from(f32::from_bits(bits & !0x1fff)),
            Element::S8 => f64::from(bits as i8),
            Element::U8 => f64::from(bits as u8),
        }
    }

    /// An accumulator of 32 bits plus a sum of products that was made without rounding.
    pub fn add(self, accumulator: u32, sum: f64) -> u32 {
        match self.is_int() {
            true => accumulator.wrapping_add((sum as i64) as u32),
            false => ((f64::from(f32::from_bits(accumulator)) + sum) as f32).to_bits(),
        }
    }
}
