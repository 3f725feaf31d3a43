//! Random tensors.
//!
//! The generator is SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) used as a counter-based one: its state after `d`
//! draws is `key + d * 0x9E3779B97F4A7C15`, so that draw `d` can be had without the others. The key of a node is the
//! first draw of the generator seeded with `stream xor (the first draw of the generator seeded with seed)`.
//! Element `i` takes draw `i` (uniform), or draws `2i` and `2i + 1` (normal).

use super::attr::word_attr;
use super::shape::{concrete, flatten};
use super::{Operator, Rng, Sample, op};
use crate::compute::{Axis, Compute, Expr, Stage};
use crate::dim::Dim;
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::scalar::{Scalar, ScalarFn};
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
        let mut rng = Rng::new(self.key());
        let y = Tensor::generate(self.dtype, concrete(&self.shape)?, |_| {
            Scalar::F(match self.kind {
                RandomKind::Uniform => self.a + (self.b - self.a) * representable(rng.unit(), self.dtype),
                RandomKind::Normal => self.a + self.b * normal(rng.unit(), rng.unit()),
            })
        })?;
        Ok(vec![y])
    }

    /// A stage of uniform numbers, then their distribution; everything in `f64`.
    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let axes = Axis::outputs(&y[0].dims);
        let i: Vec<Dim> = axes.iter().map(Axis::dim).collect();
        let draws = match self.kind {
            RandomKind::Uniform => 1,
            RandomKind::Normal => 2,
        };
        let mut draw_axes = axes.clone();
        draw_axes.push(Axis::new("d", Dim::from(draws)));
        let at = flatten(&i, &y[0].dims) * draws.into() + Dim::named("d");
        let units = Stage::map(DType::F64, draw_axes, unit(self.key(), at));

        let c = |value: f64| Expr::float(DType::F64, value);
        let unit = |d: i64| {
            let mut at = i.clone();
            at.push(d.into());
            Expr::stage(0, at)
        };
        let (start, factor) = match self.kind {
            RandomKind::Uniform => {
                let scale = 2f64.powi(significand(self.dtype));
                let floor = Expr::call(ScalarFn::Floor, [binary(ScalarFn::Mul, unit(0), c(scale))]);
                (self.b - self.a, binary(ScalarFn::Div, floor, c(scale)))
            }
            RandomKind::Normal => {
                let log = Expr::call(ScalarFn::Log, [binary(ScalarFn::Sub, c(1.0), unit(0))]);
                let radius = Expr::call(ScalarFn::Sqrt, [binary(ScalarFn::Mul, c(-2.0), log)]);
                let angle = binary(ScalarFn::Mul, c(std::f64::consts::TAU), unit(1));
                (self.b, binary(ScalarFn::Mul, radius, Expr::call(ScalarFn::Cos, [angle])))
            }
        };
        let value = binary(ScalarFn::Add, c(self.a), binary(ScalarFn::Mul, c(start), factor));
        Some(Compute::chain(x, vec![units, Stage::map(self.dtype, axes, value.cast(DType::F64, self.dtype))]))
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

impl Random {
    fn key(&self) -> u64 {
        let mixed = Rng::new(self.seed as u64).next_u64() ^ self.stream as u64;
        Rng::new(mixed).next_u64()
    }
}

/// A number in `[0, 1)` rounded down to what the type's significand holds, so that it can't become 1.
fn representable(unit: f64, dtype: DType) -> f64 {
    let scale = 2f64.powi(significand(dtype));
    (unit * scale).floor() / scale
}

/// The bits of a type's significand.
fn significand(dtype: DType) -> i32 {
    match dtype {
        DType::F64 => 53,
        DType::F32 => 24,
        DType::F16 => 11,
        _ => 8,
    }
}

/// A standard normal number from two uniform ones in `[0, 1)` (Box and Muller, 1958).
fn normal(u: f64, v: f64) -> f64 {
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

fn binary(f: ScalarFn, a: Expr, b: Expr) -> Expr {
    Expr::call(f, [a, b])
}

/// Draw number `at` as a number in `[0, 1)`: SplitMix64 as an expression.
fn unit(key: u64, at: Dim) -> Expr {
    let c = |value: u64| Expr::Const(DType::U64, Scalar::U(value));
    let mixed = |z: Expr, shift: u64| binary(ScalarFn::BitXor, z.clone(), binary(ScalarFn::Shr, z, c(shift)));
    let draw = Expr::Index(at + 1.into()).cast(DType::I64, DType::U64);
    let z = binary(ScalarFn::Add, c(key), binary(ScalarFn::Mul, draw, c(0x9E37_79B9_7F4A_7C15)));
    let z = binary(ScalarFn::Mul, mixed(z, 30), c(0xBF58_476D_1CE4_E5B9));
    let z = binary(ScalarFn::Mul, mixed(z, 27), c(0x94D0_49BB_1331_11EB));
    let top = binary(ScalarFn::Shr, mixed(z, 31), c(11)).cast(DType::U64, DType::F64);
    binary(ScalarFn::Mul, top, Expr::float(DType::F64, 2f64.powi(-53)))
}
