//! The three Rust numbers in which the reference meanings of contractions and windows compute: `f64` for floats,
//! `i64` and `u64` for integers. Typed slices and plain loops, because whole networks are interpreted with them.
//!
//! Integers wrap at 64 bits here and at their own width when stored, which is the same as wrapping at every step.

use crate::bail;
use crate::error::Result;
use crate::scalar::Scalar;
use crate::tensor::Tensor;

/// `f64`, `i64` or `u64`.
pub(crate) trait Number: Copy + PartialOrd {
    /// Zero.
    const ZERO: Self;
    /// Every element of a tensor of this kind.
    fn read(t: &Tensor) -> Vec<Self>;
    /// A scalar of this kind.
    fn of(s: Scalar) -> Self;
    /// The reverse.
    fn scalar(self) -> Scalar;
    /// Sum.
    fn add(self, other: Self) -> Self;
    /// Product.
    fn mul(self, other: Self) -> Self;
    /// Whether it is NaN.
    fn is_nan(self) -> bool;
}

impl Number for f64 {
    const ZERO: f64 = 0.0;
    fn read(t: &Tensor) -> Vec<f64> {
        t.to_f64()
    }
    fn of(s: Scalar) -> f64 {
        s.as_f64()
    }
    fn scalar(self) -> Scalar {
        Scalar::F(self)
    }
    #[inline]
    fn add(self, other: f64) -> f64 {
        self + other
    }
    #[inline]
    fn mul(self, other: f64) -> f64 {
        self * other
    }
    #[inline]
    fn is_nan(self) -> bool {
        f64::is_nan(self)
    }
}

macro_rules! integers {
    ($($t:ty, $variant:ident, $of:ident;)*) => { $(
        impl Number for $t {
            const ZERO: $t = 0;
            fn read(t: &Tensor) -> Vec<$t> { t.scalars().map(Scalar::$of).collect() }
            fn of(s: Scalar) -> $t { s.$of() }
            fn scalar(self) -> Scalar { Scalar::$variant(self) }
            #[inline]
            fn add(self, other: $t) -> $t { self.wrapping_add(other) }
            #[inline]
            fn mul(self, other: $t) -> $t { self.wrapping_mul(other) }
            #[inline]
            fn is_nan(self) -> bool { false }
        }
    )* };
}

integers! {
    i64, I, as_i64;
    u64, U, as_u64;
}

/// Calls a generic function with the [`Number`] for an element type.
macro_rules! with_number {
    ($dtype:expr, $f:ident($($arg:expr),* $(,)?)) => {
        match $dtype {
            t if t.is_float() => $f::<f64>($($arg),*),
            t if t.is_unsigned() => $f::<u64>($($arg),*),
            _ => $f::<i64>($($arg),*),
        }
    };
}
pub(crate) use with_number;

/// `n` copies of a value; an error, not an abort, where memory is short.
pub(crate) fn filled<T: Copy>(n: usize, value: T) -> Result<Vec<T>> {
    let mut out = Vec::new();
    if out.try_reserve_exact(n).is_err() {
        bail!("cannot allocate {n} elements of working memory");
    }
    out.resize(n, value);
    Ok(out)
}
