//! Determinants.

use super::{Operand, Operator, Rng, Sample, op};
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::scalar::Scalar;
use crate::tensor::Tensor;
use crate::types::Type;

op! {
    /// Determinants of the square matrices that are the last two axes of `x[.., n, n]`, as `y[..]`: ONNX `Det`.
    /// Floats; computed in `f64`. The determinant of an empty matrix is 1.
    Det = "det"(x) {}
}

impl Operator for Det {
    fn infer(&self, x: &[&Type]) -> Result<Vec<Type>> {
        let x = x[0];
        ensure!(x.dtype.is_float(), "the operand must be of floats, found {x}");
        ensure!(x.rank() >= 2, "the operand must have rank 2 or more, found {x}");
        let (batch, matrix) = x.dims.split_at(x.rank() - 2);
        ensure!(matrix[0] == matrix[1], "the last two axes must have one extent, found {x}");
        Ok(vec![Type::new(x.dtype, batch.to_vec())])
    }

    fn eval(&self, x: &[Tensor]) -> Result<Vec<Tensor>> {
        let (batch, matrix) = x[0].shape().split_at(x[0].rank() - 2);
        let n = matrix[0];
        let values = x[0].to_f64();
        let y = Tensor::generate(x[0].dtype(), batch.to_vec(), |b| {
            Scalar::F(determinant(values[b * n * n..(b + 1) * n * n].to_vec(), n))
        })?;
        Ok(vec![y])
    }

    fn sample(rng: &mut Rng) -> Sample {
        let n = rng.below(6);
        let mut shape: Vec<usize> = (0..rng.below(3)).map(|_| rng.below(4)).collect();
        shape.extend([n, n]);
        let dtype = rng.pick(&[DType::F32, DType::F64, DType::F16]);
        Sample { op: Det {}.into(), operands: vec![Operand::finite(dtype, shape)] }
    }
}

/// By Gaussian elimination with partial pivoting.
fn determinant(mut a: Vec<f64>, n: usize) -> f64 {
    let mut det = 1.0;
    for k in 0..n {
        let pivot =
            (k..n).fold(k, |best, r| if a[r * n + k].abs() > a[best * n + k].abs() { r } else { best });
        if pivot != k {
            (0..n).for_each(|c| a.swap(pivot * n + c, k * n + c));
            det = -det;
        }
        let diagonal = a[k * n + k];
        det *= diagonal;
        if diagonal == 0.0 {
            return det;
        }
        for r in k + 1..n {
            let factor = a[r * n + k] / diagonal;
            for c in k..n {
                a[r * n + c] -= factor * a[k * n + c];
            }
        }
    }
    det
}
