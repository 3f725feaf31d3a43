//! Scalars and the closed table of scalar functions that every backend provides.
//!
//! [`ScalarFn`] is used by graph operators, compute definitions and kernels alike. Its `eval` is the meaning:
//! integers wrap, floats are computed in `f64` and rounded once to the type of the result.

use crate::dtype::DType;
use half::{bf16, f16};
use std::fmt;

/// One value. Its element type is kept beside it: `F` carries every float type, `I` and `U` every integer.
#[derive(Clone, Copy, Debug)]
pub enum Scalar {
    /// A float, already rounded to its element type.
    F(f64),
    /// A signed integer.
    I(i64),
    /// An unsigned integer.
    U(u64),
    /// A truth value.
    B(bool),
}

impl PartialEq for Scalar {
    /// Bitwise, so that NaN equals itself and `0.0` differs from `-0.0`.
    fn eq(&self, other: &Scalar) -> bool {
        match (*self, *other) {
            (Scalar::F(a), Scalar::F(b)) => a.to_bits() == b.to_bits(),
            (Scalar::I(a), Scalar::I(b)) => a == b,
            (Scalar::U(a), Scalar::U(b)) => a == b,
            (Scalar::B(a), Scalar::B(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for Scalar {}

impl std::hash::Hash for Scalar {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        match *self {
            Scalar::F(x) => x.to_bits().hash(state),
            Scalar::I(x) => x.hash(state),
            Scalar::U(x) => x.hash(state),
            Scalar::B(x) => x.hash(state),
        }
    }
}

impl Scalar {
    /// As a float; truth is 1.
    pub fn as_f64(self) -> f64 {
        match self {
            Scalar::F(x) => x,
            Scalar::I(x) => x as f64,
            Scalar::U(x) => x as f64,
            Scalar::B(x) => f64::from(u8::from(x)),
        }
    }

    /// As a signed integer; floats are truncated towards zero and saturate, NaN is 0.
    pub fn as_i64(self) -> i64 {
        match self {
            Scalar::F(x) => x as i64,
            Scalar::I(x) => x,
            Scalar::U(x) => x as i64,
            Scalar::B(x) => i64::from(x),
        }
    }

    /// Whether it differs from zero; NaN does.
    pub fn as_bool(self) -> bool {
        match self {
            Scalar::F(x) => x != 0.0,
            Scalar::I(x) => x != 0,
            Scalar::U(x) => x != 0,
            Scalar::B(x) => x,
        }
    }

    /// This value in another type: floats round to nearest even, integers wrap, floats become integers by
    /// truncation with saturation at the bounds of the 64-bit type and wrap to narrower ones (NaN is 0).
    pub fn cast(self, to: DType) -> Scalar {
        match to {
            DType::F64 => Scalar::F(self.as_f64()),
            DType::F32 => Scalar::F(match self {
                Scalar::I(x) => f64::from(x as f32),
                Scalar::U(x) => f64::from(x as f32),
                _ => f64::from(self.as_f64() as f32),
            }),
            DType::F16 => Scalar::F(f16::from_f32(round_to_odd(self.as_f64())).to_f64()),
            DType::BF16 => Scalar::F(bf16::from_f32(round_to_odd(self.as_f64())).to_f64()),
            DType::I8 => Scalar::I(i64::from(self.as_i64() as i8)),
            DType::I16 => Scalar::I(i64::from(self.as_i64() as i16)),
            DType::I32 => Scalar::I(i64::from(self.as_i64() as i32)),
            DType::I64 => Scalar::I(self.as_i64()),
            DType::U8 => Scalar::U(u64::from(self.as_u64() as u8)),
            DType::U16 => Scalar::U(u64::from(self.as_u64() as u16)),
            DType::U32 => Scalar::U(u64::from(self.as_u64() as u32)),
            DType::U64 => Scalar::U(self.as_u64()),
            DType::Bool | DType::String => Scalar::B(self.as_bool()),
        }
    }

    /// As an unsigned integer: negative integers wrap; floats are truncated, negative ones through `i64`.
    pub fn as_u64(self) -> u64 {
        match self {
            Scalar::F(x) if x < 0.0 => x as i64 as u64,
            Scalar::F(x) => x as u64,
            Scalar::I(x) => x as u64,
            Scalar::U(x) => x,
            Scalar::B(x) => u64::from(x),
        }
    }

    /// Zero (or `false`) of the given type.
    pub fn zero(dtype: DType) -> Scalar {
        Scalar::I(0).cast(dtype)
    }

    /// One (or `true`) of the given type.
    pub fn one(dtype: DType) -> Scalar {
        Scalar::I(1).cast(dtype)
    }

    /// The least value of the type: minus infinity for floats.
    pub fn lowest(dtype: DType) -> Scalar {
        match dtype {
            _ if dtype.is_float() => Scalar::F(f64::NEG_INFINITY),
            _ if dtype.is_signed() => Scalar::I(i64::MIN >> (64 - 8 * dtype.size())),
            DType::Bool | DType::String => Scalar::B(false),
            _ => Scalar::U(0),
        }
    }

    /// The greatest value of the type: infinity for floats.
    pub fn highest(dtype: DType) -> Scalar {
        match dtype {
            _ if dtype.is_float() => Scalar::F(f64::INFINITY),
            _ if dtype.is_signed() => Scalar::I(i64::MAX >> (64 - 8 * dtype.size())),
            DType::Bool | DType::String => Scalar::B(true),
            _ => Scalar::U(u64::MAX >> (64 - 8 * dtype.size())),
        }
    }
}

/// The nearer `f32` where that is exact, else the neighbour with an odd last bit: rounding the result again, to a
/// shorter type, is right then, which it isn't after rounding to nearest.
fn round_to_odd(x: f64) -> f32 {
    let near = x as f32;
    let exact = f64::from(near);
    if exact == x || x.is_nan() {
        return near;
    }
    let bits = if exact.abs() > x.abs() { near.to_bits() - 1 } else { near.to_bits() };
    f32::from_bits(bits | 1)
}

impl fmt::Display for Scalar {
    /// The shortest text that reads back as the same value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scalar::F(x) if x.is_nan() => f.write_str("nan"),
            Scalar::F(x) if x.is_infinite() => f.write_str(if *x > 0.0 { "inf" } else { "-inf" }),
            Scalar::F(x) if x.fract() == 0.0 && x.abs() < 1e15 => write!(f, "{x:.1}"),
            Scalar::F(x) if x.abs() < 1e-4 || x.abs() >= 1e15 => write!(f, "{x:e}"),
            Scalar::F(x) => write!(f, "{x}"),
            Scalar::I(x) => write!(f, "{x}"),
            Scalar::U(x) => write!(f, "{x}"),
            Scalar::B(x) => write!(f, "{x}"),
        }
    }
}

/// Which types a scalar function takes and gives. `T` is one type for all operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// `float.. -> float`
    Float,
    /// `number.. -> number`
    Num,
    /// `integer.. -> integer`
    Int,
    /// `bool.. -> bool`
    Bool,
    /// `T, T -> bool`
    Compare,
    /// `float -> bool`
    Test,
    /// `bool, T, T -> T`
    Select,
}

macro_rules! scalar_fns {
    ($($(#[$doc:meta])* $name:ident = $kw:literal, $arity:literal, $sig:ident;)*) => {
        /// A scalar function.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum ScalarFn { $($(#[$doc])* $name),* }

        impl ScalarFn {
            /// Every function, in the order of the table.
            pub const ALL: &[ScalarFn] = &[$(ScalarFn::$name),*];

            /// Its name in the text forms.
            pub fn keyword(self) -> &'static str { match self { $(ScalarFn::$name => $kw),* } }

            /// The number of operands.
            pub fn arity(self) -> usize { match self { $(ScalarFn::$name => $arity),* } }

            /// The types that it takes and gives.
            pub fn signature(self) -> Signature { match self { $(ScalarFn::$name => Signature::$sig),* } }

            /// The function with the given name.
            pub fn from_keyword(keyword: &str) -> Option<ScalarFn> { match keyword { $($kw => Some(ScalarFn::$name),)* _ => None } }
        }
    };
}

scalar_fns! {
    /// `a + b`
    Add = "add", 2, Num;
    /// `a - b`
    Sub = "sub", 2, Num;
    /// `a * b`
    Mul = "mul", 2, Num;
    /// `a / b`; integers round towards zero, division by zero is 0 and `MIN / -1` wraps.
    Div = "div", 2, Num;
    /// `a * b + c`, rounded once for floats.
    Fma = "fma", 3, Num;
    /// `a - b * floor(a / b)`: the sign of `b` (Python's `%`); integer modulo zero is 0.
    Mod = "mod", 2, Num;
    /// `a - b * trunc(a / b)`: the sign of `a` (C's `fmod`, `%`); integer remainder by zero is 0.
    Rem = "rem", 2, Num;
    /// `a` to the power `b`; integer overflow wraps, negative integer exponents give 0 (1 and -1 aside).
    Pow = "pow", 2, Num;
    /// The smaller; NaN if either is.
    Min = "min", 2, Num;
    /// The larger; NaN if either is.
    Max = "max", 2, Num;
    /// `-a`
    Neg = "neg", 1, Num;
    /// `|a|`
    Abs = "abs", 1, Num;
    /// -1, 0 or 1; NaN for NaN.
    Sign = "sign", 1, Num;
    /// Square root.
    Sqrt = "sqrt", 1, Float;
    /// e to the power `a`.
    Exp = "exp", 1, Float;
    /// Natural logarithm.
    Log = "log", 1, Float;
    /// Sine of radians.
    Sin = "sin", 1, Float;
    /// Cosine of radians.
    Cos = "cos", 1, Float;
    /// Tangent of radians.
    Tan = "tan", 1, Float;
    /// Arc sine.
    Asin = "asin", 1, Float;
    /// Arc cosine.
    Acos = "acos", 1, Float;
    /// Arc tangent.
    Atan = "atan", 1, Float;
    /// Hyperbolic sine.
    Sinh = "sinh", 1, Float;
    /// Hyperbolic cosine.
    Cosh = "cosh", 1, Float;
    /// Hyperbolic tangent.
    Tanh = "tanh", 1, Float;
    /// Inverse hyperbolic sine.
    Asinh = "asinh", 1, Float;
    /// Inverse hyperbolic cosine.
    Acosh = "acosh", 1, Float;
    /// Inverse hyperbolic tangent.
    Atanh = "atanh", 1, Float;
    /// The error function.
    Erf = "erf", 1, Float;
    /// `1 / (1 + exp(-a))`
    Sigmoid = "sigmoid", 1, Float;
    /// `log(1 + exp(a))`, without overflow.
    Softplus = "softplus", 1, Float;
    /// The largest integer not above.
    Floor = "floor", 1, Float;
    /// The smallest integer not below.
    Ceil = "ceil", 1, Float;
    /// The nearest integer, ties to even.
    Round = "round", 1, Float;
    /// Towards zero.
    Trunc = "trunc", 1, Float;
    /// Bitwise and.
    BitAnd = "bitand", 2, Int;
    /// Bitwise or.
    BitOr = "bitor", 2, Int;
    /// Bitwise exclusive or.
    BitXor = "bitxor", 2, Int;
    /// Bitwise complement.
    BitNot = "bitnot", 1, Int;
    /// `a << b`; 0 where `b` is not below the width.
    Shl = "shl", 2, Int;
    /// `a >> b`, arithmetic for signed types; `b` is clamped to the width less one for signed, 0 beyond it for unsigned.
    Shr = "shr", 2, Int;
    /// Logical and.
    And = "and", 2, Bool;
    /// Logical or.
    Or = "or", 2, Bool;
    /// Logical exclusive or.
    Xor = "xor", 2, Bool;
    /// Logical complement.
    Not = "not", 1, Bool;
    /// `a == b`
    Eq = "eq", 2, Compare;
    /// `a != b`; true for NaN.
    Ne = "ne", 2, Compare;
    /// `a < b`
    Lt = "lt", 2, Compare;
    /// `a <= b`
    Le = "le", 2, Compare;
    /// `a > b`
    Gt = "gt", 2, Compare;
    /// `a >= b`
    Ge = "ge", 2, Compare;
    /// Whether it is NaN.
    IsNan = "isnan", 1, Test;
    /// Whether it is infinite.
    IsInf = "isinf", 1, Test;
    /// `b` if `a`, else `c`; only the chosen one is evaluated.
    Select = "select", 3, Select;
}

impl ScalarFn {
    /// The type of the result for the given operand types; `None` where it isn't defined for them.
    pub fn result(self, operands: &[DType]) -> Option<DType> {
        if operands.len() != self.arity() {
            return None;
        }
        let first = operands[0];
        let same = operands.iter().all(|t| *t == first);
        match self.signature() {
            Signature::Float => (same && first.is_float()).then_some(first),
            Signature::Num => (same && first.is_num()).then_some(first),
            Signature::Int => (same && first.is_int()).then_some(first),
            Signature::Bool => (same && first == DType::Bool).then_some(first),
            Signature::Compare => (same && first != DType::String).then_some(DType::Bool),
            Signature::Test => first.is_float().then_some(DType::Bool),
            Signature::Select => {
                (first == DType::Bool && operands[1] == operands[2] && operands[1] != DType::String)
                    .then_some(operands[1])
            }
        }
    }

    /// Roughly what it costs, in additions.
    pub fn cost(self) -> usize {
        match self.signature() {
            Signature::Float => match self {
                ScalarFn::Sqrt => 4,
                ScalarFn::Floor | ScalarFn::Ceil | ScalarFn::Round | ScalarFn::Trunc => 1,
                _ => 16,
            },
            _ => match self {
                ScalarFn::Pow => 32,
                ScalarFn::Div | ScalarFn::Mod | ScalarFn::Rem => 4,
                _ => 1,
            },
        }
    }

    /// Applies it. `dtype` is the operands' type (the second operand's for `select`); the result is rounded or
    /// wrapped to the result's type.
    pub fn eval(self, dtype: DType, x: &[Scalar]) -> Scalar {
        if self == ScalarFn::Select {
            return if x[0].as_bool() { x[1] } else { x[2] };
        }
        match x[0] {
            Scalar::F(a) => self.eval_float(dtype, a, x),
            Scalar::B(a) => self.eval_bool(a, x),
            Scalar::I(a) => self.eval_signed(dtype, a, x),
            Scalar::U(a) => self.eval_unsigned(dtype, a, x),
        }
    }

    fn eval_float(self, dtype: DType, a: f64, x: &[Scalar]) -> Scalar {
        let b = x.get(1).map_or(0.0, |s| s.as_f64());
        let c = x.get(2).map_or(0.0, |s| s.as_f64());
        let value = match self {
            ScalarFn::Eq => return Scalar::B(a == b),
            ScalarFn::Ne => return Scalar::B(a != b),
            ScalarFn::Lt => return Scalar::B(a < b),
            ScalarFn::Le => return Scalar::B(a <= b),
            ScalarFn::Gt => return Scalar::B(a > b),
            ScalarFn::Ge => return Scalar::B(a >= b),
            ScalarFn::IsNan => return Scalar::B(a.is_nan()),
            ScalarFn::IsInf => return Scalar::B(a.is_infinite()),
            ScalarFn::Add => a + b,
            ScalarFn::Sub => a - b,
            ScalarFn::Mul => a * b,
            ScalarFn::Div => a / b,
            // An f32 product is exact in f64, so f32 loses nothing here but in the addition's second rounding.
            ScalarFn::Fma if dtype == DType::F32 => f64::from((a as f32).mul_add(b as f32, c as f32)),
            ScalarFn::Fma => a.mul_add(b, c),
            ScalarFn::Mod => float_mod(a, b),
            ScalarFn::Rem => a % b,
            ScalarFn::Pow => a.powf(b),
            ScalarFn::Min => {
                if a.is_nan() || b.is_nan() {
                    f64::NAN
                } else {
                    a.min(b)
                }
            }
            ScalarFn::Max => {
                if a.is_nan() || b.is_nan() {
                    f64::NAN
                } else {
                    a.max(b)
                }
            }
            ScalarFn::Neg => -a,
            ScalarFn::Abs => a.abs(),
            ScalarFn::Sign => {
                if a.is_nan() || a == 0.0 {
                    a
                } else {
                    a.signum()
                }
            }
            ScalarFn::Sqrt => a.sqrt(),
            ScalarFn::Exp => a.exp(),
            ScalarFn::Log => a.ln(),
            ScalarFn::Sin => a.sin(),
            ScalarFn::Cos => a.cos(),
            ScalarFn::Tan => a.tan(),
            ScalarFn::Asin => a.asin(),
            ScalarFn::Acos => a.acos(),
            ScalarFn::Atan => a.atan(),
            ScalarFn::Sinh => a.sinh(),
            ScalarFn::Cosh => a.cosh(),
            ScalarFn::Tanh => a.tanh(),
            ScalarFn::Asinh => libm::asinh(a),
            // The port of the C function answers some numbers below its domain.
            ScalarFn::Acosh if a < 1.0 => f64::NAN,
            ScalarFn::Acosh => libm::acosh(a),
            ScalarFn::Atanh => libm::atanh(a),
            ScalarFn::Erf => libm::erf(a),
            ScalarFn::Sigmoid => 1.0 / (1.0 + (-a).exp()),
            ScalarFn::Softplus => a.max(0.0) + (-a.abs()).exp().ln_1p(),
            ScalarFn::Floor => a.floor(),
            ScalarFn::Ceil => a.ceil(),
            ScalarFn::Round => a.round_ties_even(),
            ScalarFn::Trunc => a.trunc(),
            _ => f64::NAN,
        };
        Scalar::F(value).cast(dtype)
    }

    fn eval_bool(self, a: bool, x: &[Scalar]) -> Scalar {
        let b = x.get(1).is_some_and(|s| s.as_bool());
        Scalar::B(match self {
            ScalarFn::And => a & b,
            ScalarFn::Or => a | b,
            ScalarFn::Xor | ScalarFn::Ne => a ^ b,
            ScalarFn::Eq => a == b,
            ScalarFn::Not => !a,
            ScalarFn::Lt => !a & b,
            ScalarFn::Le => a <= b,
            ScalarFn::Gt => a & !b,
            ScalarFn::Ge => a >= b,
            _ => false,
        })
    }

    fn eval_signed(self, dtype: DType, a: i64, x: &[Scalar]) -> Scalar {
        let b = x.get(1).map_or(0, |s| s.as_i64());
        let c = x.get(2).map_or(0, |s| s.as_i64());
        let bits = 8 * dtype.size() as i64;
        let value = match self {
            ScalarFn::Eq => return Scalar::B(a == b),
            ScalarFn::Ne => return Scalar::B(a != b),
            ScalarFn::Lt => return Scalar::B(a < b),
            ScalarFn::Le => return Scalar::B(a <= b),
            ScalarFn::Gt => return Scalar::B(a > b),
            ScalarFn::Ge => return Scalar::B(a >= b),
            ScalarFn::Add => a.wrapping_add(b),
            ScalarFn::Sub => a.wrapping_sub(b),
            ScalarFn::Mul => a.wrapping_mul(b),
            ScalarFn::Fma => a.wrapping_mul(b).wrapping_add(c),
            ScalarFn::Div | ScalarFn::Mod | ScalarFn::Rem if b == 0 => 0,
            ScalarFn::Div => a.wrapping_div(b),
            ScalarFn::Mod => a.wrapping_sub(crate::dim::floor_div(a, b).wrapping_mul(b)),
            ScalarFn::Rem => a.wrapping_rem(b),
            ScalarFn::Pow => int_pow(a, b),
            ScalarFn::Min => a.min(b),
            ScalarFn::Max => a.max(b),
            ScalarFn::Neg => a.wrapping_neg(),
            ScalarFn::Abs => a.wrapping_abs(),
            ScalarFn::Sign => a.signum(),
            ScalarFn::BitAnd => a & b,
            ScalarFn::BitOr => a | b,
            ScalarFn::BitXor => a ^ b,
            ScalarFn::BitNot => !a,
            ScalarFn::Shl if (0..bits).contains(&b) => a << b,
            ScalarFn::Shr => a >> (b as u64).min(bits as u64 - 1),
            _ => 0,
        };
        Scalar::I(value).cast(dtype)
    }

    fn eval_unsigned(self, dtype: DType, a: u64, x: &[Scalar]) -> Scalar {
        let b = x.get(1).map_or(0, |s| s.as_u64());
        let c = x.get(2).map_or(0, |s| s.as_u64());
        let bits = 8 * dtype.size() as u64;
        let value = match self {
            ScalarFn::Eq => return Scalar::B(a == b),
            ScalarFn::Ne => return Scalar::B(a != b),
            ScalarFn::Lt => return Scalar::B(a < b),
            ScalarFn::Le => return Scalar::B(a <= b),
            ScalarFn::Gt => return Scalar::B(a > b),
            ScalarFn::Ge => return Scalar::B(a >= b),
            ScalarFn::Add => a.wrapping_add(b),
            ScalarFn::Sub => a.wrapping_sub(b),
            ScalarFn::Mul => a.wrapping_mul(b),
            ScalarFn::Fma => a.wrapping_mul(b).wrapping_add(c),
            ScalarFn::Div => a.checked_div(b).unwrap_or(0),
            ScalarFn::Mod | ScalarFn::Rem => a.checked_rem(b).unwrap_or(0),
            ScalarFn::Pow => uint_pow(a, b),
            ScalarFn::Min => a.min(b),
            ScalarFn::Max => a.max(b),
            ScalarFn::Neg => a.wrapping_neg(),
            ScalarFn::Abs => a,
            ScalarFn::Sign => u64::from(a != 0),
            ScalarFn::BitAnd => a & b,
            ScalarFn::BitOr => a | b,
            ScalarFn::BitXor => a ^ b,
            ScalarFn::BitNot => !a,
            ScalarFn::Shl if b < bits => a << b,
            ScalarFn::Shr if b < bits => a >> b,
            _ => 0,
        };
        Scalar::U(value).cast(dtype)
    }
}

fn float_mod(a: f64, b: f64) -> f64 {
    let r = a % b;
    if r != 0.0 && ((r < 0.0) != (b < 0.0)) { r + b } else { r }
}

fn int_pow(a: i64, b: i64) -> i64 {
    match (a, b) {
        (_, 0..) => uint_pow(a as u64, b as u64) as i64,
        (1, _) => 1,
        (-1, _) => {
            if b % 2 == 0 {
                1
            } else {
                -1
            }
        }
        _ => 0,
    }
}

fn uint_pow(mut a: u64, mut b: u64) -> u64 {
    let mut r = 1u64;
    while b > 0 {
        if b & 1 == 1 {
            r = r.wrapping_mul(a);
        }
        a = a.wrapping_mul(a);
        b >>= 1;
    }
    r
}
