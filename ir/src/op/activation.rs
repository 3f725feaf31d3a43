//! Activations that are more than one scalar function: a gate that depends on the operand, times the operand.

use super::attr::word_attr;
use super::{Operand, Operator, Rng, Sample, op};
use crate::compute::{Compute, Expr};
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::Tensor;
use crate::types::Type;
use std::f64::consts::{FRAC_1_SQRT_2, PI};

word_attr! {
    /// Which activation. Compute definitions take one exponential wherever that is enough.
    ActivationFn {
        /// `x / 2 * (1 + erf(x / sqrt(2)))`: Hendrycks and Gimpel, arXiv 1606.08415.
        Gelu = "gelu",
        /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))`: the same paper's first approximation.
        GeluTanh = "gelu_tanh",
        /// `x * sigmoid(1.702 * x)`: its second one.
        GeluSigmoid = "gelu_sigmoid",
        /// `x * sigmoid(x)`, also called swish.
        Silu = "silu",
        /// `x * min(max(x / 6 + 1 / 2, 0), 1)`
        HardSwish = "hard_swish",
        /// `x * tanh(softplus(x))`: Misra, arXiv 1908.08681.
        Mish = "mish",
    }
}

op! {
    /// An activation of every element. Floats of any shape; 16-bit floats are computed in `f32` and rounded once.
    Activation = "activation"(x) {
        /// Which one.
        f: ActivationFn,
    }
}

impl Operator for Activation {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        ensure!(x[0].dtype.is_float(), "the operand must be of floats, found {}", x[0]);
        Ok(vec![x[0].clone()])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let values = x[0].to_f64();
        let y = |p: usize| Scalar::F(values[p] * self.f.gate(values[p]));
        Ok(vec![Tensor::generate(x[0].dtype(), x[0].shape().to_vec(), y)?])
    }

    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let work = x[0].dtype.compute();
        Some(Compute::map(x, &y[0], |i| {
            let x = Expr::input(0, i.to_vec()).cast(x[0].dtype, work);
            self.f.expr(work, x).cast(work, y[0].dtype)
        }))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let dtype = rng.pick(&[DType::F32, DType::F32, DType::F64, DType::F16, DType::BF16]);
        let rank = rng.below(4);
        let shape = rng.shape(rank);
        let operand = if rng.one_in(4) { Operand::any(dtype, shape) } else { Operand::finite(dtype, shape) };
        Sample { op: Activation { f: rng.pick(ActivationFn::ALL) }.into(), operands: vec![operand] }
    }
}

impl ActivationFn {
    /// What the operand is multiplied by.
    fn gate(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        match self {
            ActivationFn::Gelu => 0.5 * libm::erfc(-x / 2f64.sqrt()),
            ActivationFn::GeluTanh => sigmoid((8.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))),
            ActivationFn::GeluSigmoid => sigmoid(1.702 * x),
            ActivationFn::Silu => sigmoid(x),
            ActivationFn::HardSwish => (x / 6.0 + 0.5).clamp(0.0, 1.0),
            ActivationFn::Mish => (x.max(0.0) + (-x.abs()).exp().ln_1p()).tanh(),
        }
    }

    /// The activation of an element of type `work`.
    fn expr(self, work: DType, x: Expr) -> Expr {
        let number = |value: f64| Expr::float(work, value);
        let add = |a: Expr, b: Expr| Expr::call(ScalarFn::Add, [a, b]);
        let mul = |a: Expr, b: Expr| Expr::call(ScalarFn::Mul, [a, b]);
        match self {
            ActivationFn::Gelu => {
                let erf = Expr::call(ScalarFn::Erf, [mul(x.clone(), number(FRAC_1_SQRT_2))]);
                mul(mul(x, number(0.5)), add(erf, number(1.0)))
            }
            // (1 + tanh(y)) / 2 = sigmoid(2 y)
            ActivationFn::GeluTanh => {
                let cubic = add(mul(mul(x.clone(), x.clone()), number(0.044715)), number(1.0));
                let inner = mul(mul(x.clone(), cubic), number((8.0 / PI).sqrt()));
                mul(x, Expr::call(ScalarFn::Sigmoid, [inner]))
            }
            ActivationFn::GeluSigmoid => {
                let gate = Expr::call(ScalarFn::Sigmoid, [mul(x.clone(), number(1.702))]);
                mul(x, gate)
            }
            ActivationFn::Silu => mul(x.clone(), Expr::call(ScalarFn::Sigmoid, [x])),
            ActivationFn::HardSwish => {
                let line = add(mul(x.clone(), number(1.0 / 6.0)), number(0.5));
                let above = Expr::call(ScalarFn::Max, [line, number(0.0)]);
                mul(x, Expr::call(ScalarFn::Min, [above, number(1.0)]))
            }
            // tanh(log(1 + t)) = (t^2 + 2 t) / (t^2 + 2 t + 2), for positive x with both sides of it over t^2.
            ActivationFn::Mish => {
                let size = Expr::call(ScalarFn::Abs, [x.clone()]);
                let e = Expr::call(ScalarFn::Exp, [Expr::call(ScalarFn::Neg, [size])]);
                let is_negative = Expr::call(ScalarFn::Lt, [x.clone(), number(0.0)]);
                let choose = |a: Expr, b: Expr| Expr::call(ScalarFn::Select, [is_negative.clone(), a, b]);
                let twice = add(e.clone(), e.clone());
                let square = mul(e.clone(), e);
                let top = add(twice, choose(square.clone(), number(1.0)));
                let rest = choose(number(2.0), add(square.clone(), square));
                let bottom = add(top.clone(), rest);
                mul(x, Expr::call(ScalarFn::Div, [top, bottom]))
            }
        }
    }
}
