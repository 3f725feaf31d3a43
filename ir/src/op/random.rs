//! Random tensors.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) used as a counter-based one: its state after `d`
//! draws is `key + d * 0x9E3779B97F4A7C15`, so that draw `d` can be had without the others. The key of a node is the
//! first draw of the generator seeded with `stream xor (the first draw of the generator seeded with seed)`.
//! Element `i` takes draw `i` (uniform), or draws `2i` and `2i + 1` (normal).

use super::attr::word_attr;
use super::shape::concrete;
use super::{Operator, Rng, Sample, op};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::scalar::Scalar;
use crate::tensor::Tensor;
use crate::types::Type;

word_attr! {
    /// A distribution.
    RandomKind {
        /// Every value from `a` up to, but without, `b` is equally likely.
        Uniform = "uniform",
        /// The normal distribution of mean `a` and standard deviation `b`.
        Normal = "normal",
    }
}

op! {
    /// A tensor of random floats, the same ones at every evaluation: ONNX `RandomUniform`, `RandomNormal`, their
    /// `Like` forms, `Bernoulli` and `Multinomial`. The module's text says which numbers come out.
    Random = "random"() {
        /// The distribution.
        kind: RandomKind,
        /// Element type, a float.
        dtype: DType,
        /// The extents.
        shape: Vec<Dim>,
        /// The lower bound, or the mean.
        a: f64,
        /// The upper bound, or the standard deviation.
        b: f64,
        /// What the user chooses.
        seed: i64,
        /// Another number for every node of a graph, so that nodes of one seed give different numbers.
        stream: i64,
    }
}

impl Operator for Random {
    fn infer(&self, _: &[&Type]) -> Result<Vec<Type>> {
        ensure!(self.dtype.is_float(), "random tensors are of floats, found {}", self.dtype);
        Ok(vec![Type::new(self.dtype, self.shape.clone())])
    }

    fn eval(&self, _: &[Tensor]) -> Result<Vec<Tensor>> {
        let mixed = Rng::new(self.seed as u64).next_u64() ^ self.stream as u64;
        let mut rng = Rng::new(Rng::new(mixed).next_u64());
        let y = Tensor::generate(self.dtype, concrete(&self.shape)?, |_| {
            Scalar::F(match self.kind {
                RandomKind::Uniform => self.a + (self.b - self.a) * representable(rng.unit(), self.dtype),
                RandomKind::Normal => self.a + self.b * normal(rng.unit(), rng.unit()),
            })
        })?;
        Ok(vec![y])
    }

    fn sample(rng: &mut Rng) -> Sample {
        let rank = rng.below(4);
        let op = Random {
            kind: rng.pick(RandomKind::ALL),
            dtype: rng.pick(&[DType::F32, DType::F64, DType::F16, DType::BF16]),
            shape: rng.shape(rank).into_iter().map(Dim::from).collect(),
            a: rng.range(-2, 3) as f64,
            b: rng.range(3, 6) as f64,
            seed: rng.next_u64() as i64,
            stream: rng.range(0, 10),
        };
        Sample { op: op.into(), operands: Vec::new() }
    }
}

/// A number in `[0, 1)` rounded down to what the type's significand holds, so that it can't become 1.
fn representable(unit: f64, dtype: DType) -> f64 {
    let scale = match dtype {
        DType::F64 => return unit,
        DType::F32 => f64::from(1u32 << 24),
        DType::F16 => f64::from(1u32 << 11),
        _ => f64::from(1u32 << 8),
    };
    (unit * scale).floor() / scale
}

/// A standard normal number from two uniform ones in `[0, 1)` (Box and Muller, 1958).
fn normal(u: f64, v: f64) -> f64 {
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
