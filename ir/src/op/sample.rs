//! Random instances of operators, from which the differential tests are made.

use super::Op;
use crate::dtype::DType;
use crate::scalar::Scalar;
use crate::tensor::Tensor;

/// A small deterministic generator (SplitMix64: Steele, Lea, Flood, OOPSLA 2014).
#[derive(Clone, Debug)]
pub struct Rng(u64);

/// An operator with operands to run it on.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The operator.
    pub op: Op,
    /// Its operands.
    pub operands: Vec<Operand>,
}

/// An operand to be filled with random values.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Element type.
    pub dtype: DType,
    /// Extents.
    pub shape: Vec<usize>,
    /// Which values make sense.
    pub values: Values,
}

/// Which values an operand may hold.
#[derive(Clone, Debug)]
pub enum Values {
    /// Anything moderate; a tenth are special values (NaN, infinities, signed zeros, extremes).
    Any,
    /// Moderate finite numbers: for sums, whose order of evaluation is free.
    Finite,
    /// Integers in `lo..hi`.
    Between(i64, i64),
    /// These very values, over and over; zero if there are none.
    Exactly(Vec<Scalar>),
}

impl Rng {
    /// A generator with a seed.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `lo..hi`; `lo` if that is empty.
    pub fn range(&mut self, lo: i64, hi: i64) -> i64 {
        let span = hi.saturating_sub(lo).max(1) as u64;
        lo + (self.next_u64() % span) as i64
    }

    /// Uniform in `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.range(0, n as i64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Uniform in `[0, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of a few choices; `items` must not be empty.
    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    /// An awkward extent: mostly small, sometimes above a vector's length, rarely 0 when `zero` allows it.
    pub fn extent(&mut self, zero: bool) -> usize {
        match self.below(20) {
            0 if zero => 0,
            0..4 => 1,
            4..8 => self.range(15, 36) as usize,
            _ => self.range(2, 8) as usize,
        }
    }

    /// A shape of the given rank.
    pub fn shape(&mut self, rank: usize) -> Vec<usize> {
        let mut shape: Vec<usize> = (0..rank).map(|_| self.extent(true)).collect();
        while shape.iter().product::<usize>() > 20_000 {
            let k = self.below(rank);
            shape[k] = self.range(1, 4) as usize;
        }
        shape
    }

    /// A random tensor for an operand.
    pub fn tensor(&mut self, operand: &Operand) -> crate::error::Result<Tensor> {
        let dtype = operand.dtype;
        Tensor::generate(dtype, operand.shape.clone(), |i| match &operand.values {
            Values::Any => self.scalar(dtype, true),
            Values::Finite => self.scalar(dtype, false),
            Values::Between(lo, hi) => Scalar::I(self.range(*lo, *hi)).cast(dtype),
            Values::Exactly(values) => {
                values.get(i % values.len().max(1)).map_or(Scalar::zero(dtype), |v| v.cast(dtype))
            }
        })
    }

    fn scalar(&mut self, dtype: DType, special: bool) -> Scalar {
        if special && self.one_in(10) {
            return self.special(dtype);
        }
        match dtype {
            DType::Bool | DType::String => Scalar::B(self.one_in(2)),
            _ if dtype.is_float() => {
                Scalar::F((self.unit() - 0.5) * self.pick(&[1.0, 4.0, 20.0])).cast(dtype)
            }
            _ => Scalar::I(self.range(if dtype.is_unsigned() { 0 } else { -20 }, 21)).cast(dtype),
        }
    }

    fn special(&mut self, dtype: DType) -> Scalar {
        let floats =
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, 1.0, -1.0, 0.5, 1e-40, 1e30, -60000.0];
        match dtype {
            _ if dtype.is_float() => Scalar::F(self.pick(&floats)).cast(dtype),
            _ => self.pick(&[
                Scalar::lowest(dtype),
                Scalar::highest(dtype),
                Scalar::zero(dtype),
                Scalar::one(dtype),
            ]),
        }
    }
}

impl Operand {
    /// An operand of anything.
    pub fn any(dtype: DType, shape: Vec<usize>) -> Operand {
        Operand { dtype, shape, values: Values::Any }
    }

    /// An operand of moderate finite numbers.
    pub fn finite(dtype: DType, shape: Vec<usize>) -> Operand {
        Operand { dtype, shape, values: Values::Finite }
    }
}
