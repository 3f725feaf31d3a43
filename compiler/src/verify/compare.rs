//! The worst element of a result, measured by what rounding explains.

use super::reference::Expected;
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use std::fmt;

/// How many times the error that disturbed rounding shows a correct result may have: the largest of a million normal
/// deviates is 5 standard deviations, and a code's own order of evaluation is another draw.
const FACTOR: f64 = 16.0;

/// How a result compares with what it should be.
#[derive(Clone, Debug)]
pub struct Comparison {
    /// What it is the value of: an output, or a node by its source names.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// The largest difference of two finite elements.
    pub max_abs: f64,
    /// The largest difference relative to the element expected, where that isn't zero.
    pub max_rel: f64,
    /// The largest difference relative to what rounding explains; more than 1 is wrong.
    pub ratio: f64,
    /// The element with that difference.
    pub worst: Option<Element>,
    /// How many elements are wrong.
    pub n_wrong: usize,
    /// Why nothing could be compared, if so.
    pub error: Option<String>,
}

/// An element of two tensors.
#[derive(Clone, Copy, Debug)]
pub struct Element {
    /// Position in row-major order.
    pub index: usize,
    /// What the interpreter gives.
    pub want: Scalar,
    /// What was found.
    pub got: Scalar,
    /// How far apart they may be.
    pub tolerance: f64,
}

impl Comparison {
    /// Of something that could not be computed.
    pub fn failed(name: &str, ty: Type, error: String) -> Comparison {
        Comparison {
            name: name.to_owned(),
            ty,
            max_abs: 0.0,
            max_rel: 0.0,
            ratio: f64::INFINITY,
            worst: None,
            n_wrong: 0,
            error: Some(error),
        }
    }

    /// Whether rounding explains no difference.
    pub fn is_wrong(&self) -> bool {
        self.error.is_some() || self.ratio > 1.0
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.error, &self.worst) {
            (Some(error), _) => write!(f, "{}: {error}", self.name),
            (None, Some(Element { index, want, got, tolerance })) => write!(
                f,
                "{} {}: element {index}: expected {want}, found {got}, tolerance {tolerance:.2e}",
                self.name, self.ty
            ),
            (None, None) => write!(f, "{} {}: equal", self.name, self.ty),
        }
    }
}

/// Compares a result with what it should be.
pub fn compare(name: &str, want: &Expected, got: &Tensor) -> Comparison {
    let ty = Type::of(want.value.dtype(), want.value.shape());
    let found = Type::of(got.dtype(), got.shape());
    if ty != found {
        let error = format!("expected {ty}, found {found}");
        return Comparison::failed(name, ty, error);
    }
    let mut c = Comparison {
        name: name.to_owned(),
        ty,
        max_abs: 0.0,
        max_rel: 0.0,
        ratio: 0.0,
        worst: None,
        n_wrong: 0,
        error: None,
    };
    let mean = mean_deviation(want);
    for index in 0..want.value.len() {
        let (x, y) = (want.value.get(index), got.get(index));
        if same(x, y) {
            continue;
        }
        let difference = difference(x, y);
        let tolerance = tolerance(want, index, mean);
        let ratio = if difference.is_nan() { f64::INFINITY } else { difference / tolerance };
        let ratio = if tolerance == f64::INFINITY { 0.0 } else { ratio };
        if difference.is_finite() {
            c.max_abs = c.max_abs.max(difference);
            c.max_rel = c.max_rel.max(if x.as_f64() == 0.0 { 0.0 } else { difference / x.as_f64().abs() });
        }
        c.n_wrong += usize::from(ratio > 1.0);
        if ratio > c.ratio || c.worst.is_none() {
            c.ratio = c.ratio.max(ratio);
            c.worst = Some(Element { index, want: x, got: y, tolerance });
        }
    }
    c
}

/// Any NaN is like any other, and zeros are of either sign.
fn same(x: Scalar, y: Scalar) -> bool {
    match (x, y) {
        (Scalar::F(x), Scalar::F(y)) => x == y || (x.is_nan() && y.is_nan()),
        _ => x == y,
    }
}

fn difference(x: Scalar, y: Scalar) -> f64 {
    match (x, y) {
        (Scalar::I(x), Scalar::I(y)) => x.abs_diff(y) as f64,
        (Scalar::U(x), Scalar::U(y)) => x.abs_diff(y) as f64,
        _ => (x.as_f64() - y.as_f64()).abs(),
    }
}

/// How far rounding moved an element at most; infinitely far where it made another kind of number of it.
fn deviation(want: &Expected, index: usize) -> f64 {
    let x = want.value.get(index);
    let from = |noisy: &Tensor| {
        if noisy.shape() != want.value.shape() {
            return f64::INFINITY;
        }
        let y = noisy.get(index);
        let d = if same(x, y) { 0.0 } else { difference(x, y) };
        if d.is_nan() { f64::INFINITY } else { d }
    };
    want.noisy.iter().map(from).fold(0.0, f64::max)
}

fn mean_deviation(want: &Expected) -> f64 {
    let deviations = (0..want.value.len()).map(|k| deviation(want, k));
    let finite: Vec<f64> = deviations.filter(|d| d.is_finite()).collect();
    finite.iter().sum::<f64>() / finite.len().max(1) as f64
}

/// How far an element may lie from what is expected. Its own deviation may be small by chance, so that it isn't taken
/// to be smaller than the tensor's mean and than what the roundings on the way to it make.
fn tolerance(want: &Expected, index: usize, mean: f64) -> f64 {
    if want.noisy.is_empty() {
        // Rounding leads out of what the graph is defined on: only sizes can be compared.
        return f64::INFINITY;
    }
    let y = want.value.get(index).as_f64().abs();
    let is_number = want.value.dtype().is_float() && y.is_finite();
    let of_depth = if is_number { want.unit * (want.depth as f64).sqrt() * y } else { 0.0 };
    FACTOR * deviation(want, index).max(mean).max(of_depth)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(value: &[f32], noisy: Option<&[f32]>) -> Expected {
        let tensor = |v: &[f32]| Tensor::from_vec(vec![v.len()], v).unwrap();
        Expected {
            value: tensor(value),
            noisy: noisy.map(tensor).into_iter().collect(),
            depth: 1,
            unit: 0.5f64.powi(24),
        }
    }

    fn compared(want: &Expected, got: &[f32]) -> Comparison {
        compare("y", want, &Tensor::from_vec(vec![got.len()], got).unwrap())
    }

    #[test]
    fn rounding_is_no_difference() {
        let want = expected(&[1.0, 2.0, f32::NAN, 0.0], Some(&[1.000001, 2.0, f32::NAN, 0.0]));
        assert!(!compared(&want, &[1.000002, 2.0000005, f32::NAN, -0.0]).is_wrong());
        let wrong = compared(&want, &[1.0, 2.001, f32::NAN, 0.0]);
        assert!(wrong.is_wrong() && wrong.n_wrong == 1);
        assert_eq!(wrong.worst.map(|e| e.index), Some(1));
        assert!(wrong.to_string().starts_with("y f32[4]: element 1: expected 2.0, found 2.00"), "{wrong}");
    }

    #[test]
    fn kinds_of_numbers_differ() {
        let want = expected(&[f32::INFINITY, 1.0], Some(&[f32::INFINITY, 1.0]));
        assert!(compared(&want, &[1e30, 1.0]).is_wrong());
        assert!(compared(&want, &[f32::INFINITY, f32::NAN]).is_wrong());
        assert!(compared(&want, &[f32::NEG_INFINITY, 1.0]).is_wrong());
        assert!(compared(&want, &[f32::INFINITY]).is_wrong());
    }

    #[test]
    fn what_rounding_decides_is_not_judged() {
        let want = expected(&[f32::INFINITY, 1.0], Some(&[3e38, 1.0]));
        assert!(!compared(&want, &[3e38, 1.0]).is_wrong());
        let jump = expected(&[1.0, 1.0], Some(&[0.0, 1.0]));
        assert!(!compared(&jump, &[0.0, 1.0]).is_wrong());
    }
}
