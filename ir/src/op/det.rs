//! Determinants.

use super::{Operand, Operator, Rng, Sample, Values, op};
use crate::compute::{Compute, Expr};
use crate::dtype::DType;
use crate::ensure;
use crate::error::Result;
use crate::scalar::{Scalar, ScalarFn};
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

    /// Laplace's expansion, for matrices small enough.
    fn compute(&self, x: &[Type], y: &[Type]) -> Option<Compute> {
        let n = x[0].dims.last()?.as_const().filter(|n| *n <= 4)?;
        let columns: Vec<i64> = (0..n).collect();
        Some(Compute::map(x, &y[0], |batch| {
            let element = |row: i64, column: i64| {
                let at = [batch, &[row.into(), column.into()]].concat();
                Expr::input(0, at).cast(x[0].dtype, DType::F64)
            };
            expansion(&element, 0, &columns).cast(DType::F64, y[0].dtype)
        }))
    }

    fn sample(rng: &mut Rng) -> Sample {
        let n = rng.below(6);
        let mut shape: Vec<usize> = (0..rng.below(3)).map(|_| rng.below(4)).collect();
        shape.extend([n, n]);
        // A large element in each row and column: determinants far from zero, whose errors are small ones.
        let mut large: Vec<usize> = (0..n).collect();
        for k in 0..n {
            large.swap(k, k + rng.below(n - k));
        }
        let values = (0..5 * n * n).map(|p| {
            let weight = if large[p / n % n] == p % n { 8.0 } else { 0.0 };
            Scalar::F(weight + rng.unit() * 2.0 - 1.0)
        });
        let values = Values::Exactly(values.collect());
        let dtype = rng.pick(&[DType::F32, DType::F64, DType::F16]);
        Sample { op: Det {}.into(), operands: vec![Operand { dtype, shape, values }] }
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

/// The determinant of the rows from `row` on and the given columns.
fn expansion(element: &dyn Fn(i64, i64) -> Expr, row: i64, columns: &[i64]) -> Expr {
    let term = |k: usize| {
        let rest: Vec<i64> = columns.iter().copied().filter(|c| *c != columns[k]).collect();
        match rest.is_empty() {
            true => element(row, columns[k]),
            false => {
                Expr::call(ScalarFn::Mul, [element(row, columns[k]), expansion(element, row + 1, &rest)])
            }
        }
    };
    let add = |sum: Expr, k: usize| {
        Expr::call(if k.is_multiple_of(2) { ScalarFn::Add } else { ScalarFn::Sub }, [sum, term(k)])
    };
    match columns.len() {
        0 => Expr::float(DType::F64, 1.0),
        n => (1..n).fold(term(0), add),
    }
}
