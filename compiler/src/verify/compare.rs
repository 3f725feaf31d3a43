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
    let typical = Typical::of(want);
    for index in 0..want.value.len() {
        let (x, y) = (want.value.get(index), got.get(index));
        if same(x, y) {
            continue;
        }
        let difference = difference(x, y);
        let tolerance = tolerance(want, index, &typical);
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

/// How far rounding moved an element; infinitely far where it made another kind of number of it.
fn deviation(want: &Expected, index: usize) -> f64 {
    let Some(noisy) = &want.noisy else { return f64::INFINITY };
    if noisy.shape() != want.value.shape() {
        return f64::INFINITY;
    }
    let (x, y) = (want.value.get(index), noisy.get(index));
    if same(x, y) {
        return 0.0;
    }
    let d = difference(x, y);
    if d.is_nan() { f64::INFINITY } else { d }
}

/// How far rounding moves elements of a tensor. One element's own deviation is a single draw, and may be small by
/// chance.
struct Typical {
    /// The mean.
    absolute: f64,
    /// The median relative to the element.
    relative: f64,
}

impl Typical {
    fn of(want: &Expected) -> Typical {
        let deviations =
            (0..want.value.len()).map(|k| (deviation(want, k), want.value.get(k).as_f64().abs()));
        let finite: Vec<(f64, f64)> = deviations.filter(|(d, _)| d.is_finite()).collect();
        let absolute = finite.iter().map(|(d, _)| d).sum::<f64>() / finite.len().max(1) as f64;
        let mut relative: Vec<f64> =
            finite.iter().filter(|(_, y)| *y > 0.0 && y.is_finite()).map(|(d, y)| d / y).collect();
        let middle = relative.len() / 2;
        let relative = match relative.is_empty() {
            true => 0.0,
            false => *relative.select_nth_unstable_by(middle, f64::total_cmp).1,
        };
        Typical { absolute, relative }
    }
}

/// How far an element may lie from what is expected.
fn tolerance(want: &Expected, index: usize, typical: &Typical) -> f64 {
    if want.noisy.is_none() {
        // Rounding leads out of what the graph is defined on: only sizes can be compared.
        return f64::INFINITY;
    }
    let own = deviation(want, index).max(typical.absolute);
    let y = want.value.get(index).as_f64().abs();
    if !want.value.dtype().is_float() || !y.is_finite() {
        return FACTOR * own;
    }
    let of_depth = want.unit * (want.depth as f64).sqrt();
    FACTOR * own.max(y * typical.relative.max(of_depth))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(value: &[f32], noisy: Option<&[f32]>) -> Expected {
        let tensor = |v: &[f32]| Tensor::from_vec(vec![v.len()], v).unwrap();
        Expected { value: tensor(value), noisy: noisy.map(tensor), depth: 1, unit: 0.5f64.powi(24) }
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
