//! What the tests on random instances of operators share: graphs of one node, and how results are compared.

use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::graph::Graph;
use aic_ir::op::{Operand, Sample};
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;

#[allow(dead_code)]
/// A graph of the sample's operator. With `symbolic` every extent is a symbol, the same for equal extents, so that
/// the kernels know nothing but the rank.
pub fn one_node(s: &Sample, symbolic: bool) -> Result<Graph> {
    let ty = |o: &Operand| match symbolic {
        true => Type::new(o.dtype, o.shape.iter().map(|d| Dim::named(&format!("d{d}"))).collect()),
        false => Type::of(o.dtype, &o.shape),
    };
    let mut g = Graph::new("g");
    let x: Vec<_> =
        s.operands.iter().enumerate().map(|(k, o)| g.add_input(&format!("x{k}"), ty(o))).collect();
    let y = g.add(s.op.clone(), &x, &[])?;
    for (k, y) in y.iter().enumerate() {
        g.add_output(&format!("y{k}"), *y);
    }
    Ok(g)
}

/// How far float results may lie apart, relative to the largest operand and result: the sums of the largest samples
/// have about a thousand terms, each rounded once, and 16-bit results are rounded once more.
fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::F64 => 1e-10,
        DType::F32 => 2e-4,
        DType::F16 => 4e-3,
        _ => 2e-2,
    }
}

/// Where a result differs from the expected one by more than rounding, if it does.
pub fn difference(want: &Tensor, got: &Tensor) -> Option<String> {
    if want.dtype() != got.dtype() || want.shape() != got.shape() {
        return Some(format!(
            "expected {}{:?}, found {}{:?}",
            want.dtype(),
            want.shape(),
            got.dtype(),
            got.shape()
        ));
    }
    let scale = want.to_f64().iter().filter(|x| x.is_finite()).fold(1.0f64, |m, x| m.max(x.abs()));
    (0..want.len()).find_map(|i| {
        let (a, b) = (want.get(i), got.get(i));
        let same = match (a, b) {
            (Scalar::F(x), Scalar::F(y)) => {
                x == y
                    || (x.is_nan() && y.is_nan())
                    || (x - y).abs() <= bound(want.dtype()) * x.abs().max(1e-3 * scale)
            }
            _ => a == b,
        };
        (!same).then(|| format!("element {i}: expected {a}, found {b}"))
    })
}
