//! Functions of a thread's own registers, by the names of intrinsics and instructions.
//!
//! Approximations are computed as exactly as the type allows: what the GPU's units give differs in the last bits.

use half::{bf16, f16};

/// A function from operands to a result, each in 64 bits.
pub(super) type Function = fn(&[u64]) -> u64;

fn f32_of(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn of_f32(x: f32) -> u64 {
    u64::from(x.to_bits())
}

fn f64_of(x: u64) -> f64 {
    f64::from_bits(x)
}

/// A result below the least normal number becomes 0 (`.ftz`).
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0.0f32.copysign(x) } else { x }
}

macro_rules! unary {
    ($f:expr) => {
        |x| {
            let f: fn(f32) -> f32 = $f;
            of_f32(f(f32_of(x[0])))
        }
    };
}

macro_rules! flushing {
    ($f:expr) => {
        |x| {
            let f: fn(f32) -> f32 = $f;
            of_f32(flushed(f(flushed(f32_of(x[0])))))
        }
    };
}

macro_rules! binary {
    ($f:expr) => {
        |x| {
            let f: fn(f32, f32) -> f32 = $f;
            of_f32(f(f32_of(x[0]), f32_of(x[1])))
        }
    };
}

/// The function of an intrinsic.
pub(super) fn function(name: &str) -> Option<Function> {
    let f: Function = match name {
        "ex2.approx.f32" | "ex2.approx.f" => unary!(f32::exp2),
        "ex2.approx.ftz.f32" | "ex2.approx.ftz.f" => flushing!(f32::exp2),
        "lg2.approx.f" => unary!(f32::log2),
        "lg2.approx.ftz.f" => flushing!(f32::log2),
        "rsqrt.approx.f" => unary!(|x| 1.0 / x.sqrt()),
        "rsqrt.approx.ftz.f" => flushing!(|x| 1.0 / x.sqrt()),
        "sqrt.approx.f" | "sqrt.rn.f" | "sqrt.f" => unary!(f32::sqrt),
        "sqrt.approx.ftz.f" | "sqrt.rn.ftz.f" => flushing!(f32::sqrt),
        "rcp.rn.f" => unary!(|x| 1.0 / x),
        "rcp.approx.ftz.f" | "rcp.rn.ftz.f" => flushing!(|x| 1.0 / x),
        "sin.approx.f" => unary!(f32::sin),
        "sin.approx.ftz.f" => flushing!(f32::sin),
        "cos.approx.f" => unary!(f32::cos),
        "cos.approx.ftz.f" => flushing!(f32::cos),
        "div.rn.f" | "div.approx.f" | "div.full" => binary!(|a, b| a / b),
        "add.rn.f" => binary!(|a, b| a + b),
        "mul.rn.f" => binary!(|a, b| a * b),
        "fmax.f" => binary!(f32::max),
        "fmin.f" => binary!(f32::min),
        "fmax.nan.f" => binary!(|a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.max(b) }),
        "fmin.nan.f" => binary!(|a, b| if a.is_nan() || b.is_nan() { f32::NAN } else { a.min(b) }),
        "fma.rn.f" => |x| of_f32(f32_of(x[0]).mul_add(f32_of(x[1]), f32_of(x[2]))),
        "fma.rn.d" => |x| f64_of(x[0]).mul_add(f64_of(x[1]), f64_of(x[2])).to_bits(),
        "sqrt.rn.d" => |x| f64_of(x[0]).sqrt().to_bits(),
        "div.rn.d" => |x| (f64_of(x[0]) / f64_of(x[1])).to_bits(),
        "f2tf32.rna" => |x| u64::from(tf32(f32_of(x[0]), true)),
        "f2tf32.rn" => |x| u64::from(tf32(f32_of(x[0]), false)),
        "f2bf16.rn" => |x| u64::from(bf16::from_f32(f32_of(x[0])).to_bits()),
        "f2f16.rn" | "f2h.rn" => |x| u64::from(f16::from_f32(f32_of(x[0])).to_bits()),
        // The first operand becomes the upper half.
        "ff2bf16x2.rn" => |x| pair(x, |a| bf16::from_f32(a).to_bits()),
        "ff2f16x2.rn" => |x| pair(x, |a| f16::from_f32(a).to_bits()),
        "idp4a.s.s" => |x| dot4(x, |b| i32::from(b as i8), |b| i32::from(b as i8)),
        "idp4a.s.u" => |x| dot4(x, |b| i32::from(b as i8), i32::from),
        "idp4a.u.s" => |x| dot4(x, i32::from, |b| i32::from(b as i8)),
        "idp4a.u.u" => |x| dot4(x, i32::from, i32::from),
        "prmt" => |x| u64::from(permuted(x[0] as u32, x[1] as u32, x[2] as u32)),
        "mulhi.i" => |x| u64::from(((i64::from(x[0] as i32) * i64::from(x[1] as i32)) >> 32) as u32),
        "mulhi.ui" => |x| u64::from(((u64::from(x[0] as u32) * u64::from(x[1] as u32)) >> 32) as u32),
        "mulhi.ll" => |x| ((i128::from(x[0] as i64) * i128::from(x[1] as i64)) >> 64) as u64,
        "mulhi.ull" => |x| ((u128::from(x[0]) * u128::from(x[1])) >> 64) as u64,
        "mbarrier.pending.count" => |x| x[0] >> 44,
        _ => return None,
    };
    Some(f)
}

/// The function of an instruction in inline assembly.
pub(super) fn instruction(text: &str) -> Option<Function> {
    match text.split_whitespace().next()? {
        "tanh.approx.f32" => Some(unary!(f32::tanh)),
        "ex2.approx.f32" => function("ex2.approx.f"),
        "ex2.approx.ftz.f32" => function("ex2.approx.ftz.f"),
        "lg2.approx.f32" => function("lg2.approx.f"),
        "rsqrt.approx.f32" => function("rsqrt.approx.f"),
        "rcp.approx.ftz.f32" => function("rcp.approx.ftz.f"),
        "cvt.rna.tf32.f32" => function("f2tf32.rna"),
        "cvt.rn.tf32.f32" => function("f2tf32.rn"),
        _ => None,
    }
}

/// To 11 significant bits, to the nearest; ties away from zero, or to even.
fn tf32(x: f32, ties_away: bool) -> u32 {
    let bits = x.to_bits();
    if !x.is_finite() {
        return bits;
    }
    let up = if ties_away { 0x1000 } else { 0xfff + (bits >> 13 & 1) };
    bits.wrapping_add(up) & !0x1fff
}

fn pair(x: &[u64], half: fn(f32) -> u16) -> u64 {
    u64::from(half(f32_of(x[0]))) << 16 | u64::from(half(f32_of(x[1])))
}

fn dot4(x: &[u64], a: fn(u8) -> i32, b: fn(u8) -> i32) -> u64 {
    let (left, right) = ((x[0] as u32).to_le_bytes(), (x[1] as u32).to_le_bytes());
    let sum: i32 = left.iter().zip(right).map(|(l, r)| a(*l) * b(r)).sum();
    u64::from((x[2] as i32).wrapping_add(sum) as u32)
}

/// `prmt`: each of four selectors takes one of eight bytes, or its sign.
fn permuted(a: u32, b: u32, selectors: u32) -> u32 {
    let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
    let select = |k: u32| {
        let selector = selectors >> (4 * k) & 0xf;
        let byte = bytes[(selector & 7) as usize];
        if selector & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 }
    };
    u32::from_le_bytes([select(0), select(1), select(2), select(3)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, x: &[u64]) -> u64 {
        function(name).map_or(u64::MAX, |f| f(x))
    }

    #[test]
    fn known_values() {
        assert_eq!(call("ex2.approx.f32", &[of_f32(3.0)]), of_f32(8.0));
        assert_eq!(call("fmax.f", &[of_f32(f32::NAN), of_f32(1.0)]), of_f32(1.0));
        assert!(f32_of(call("fmax.nan.f", &[of_f32(f32::NAN), of_f32(1.0)])).is_nan());
        assert_eq!(call("ff2bf16x2.rn", &[of_f32(1.0), of_f32(-2.0)]), 0x3f80_c000);
        assert_eq!(call("idp4a.s.s", &[0x01ff_0203, 0x0101_0101, 10]), 15);
        assert_eq!(call("prmt", &[0x3322_1100, 0x7766_5544, 0x7410]), 0x7744_1100);
        assert_eq!(
            call("f2tf32.rna", &[u64::from(1.0f32.to_bits() + 0x1000)]),
            u64::from(1.0f32.to_bits() + 0x2000)
        );
        assert_eq!(call("f2tf32.rn", &[u64::from(1.0f32.to_bits() + 0x1000)]), u64::from(1.0f32.to_bits()));
        assert_eq!(call("ex2.approx.ftz.f32", &[of_f32(-140.0)]), 0);
    }
}
