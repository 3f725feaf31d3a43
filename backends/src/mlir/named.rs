//! Stages that are one of linalg's named operations: contractions, convolutions and pooling.

use super::index::{Affine, affine_map};
use super::stage::Body;
use super::view::View;
use aic_ir::compute::{Expr, ReduceOp};
use aic_ir::dim::Dim;
use aic_ir::dtype::DType;
use aic_ir::scalar::ScalarFn;

/// A named operation.
pub(crate) struct Named {
    /// Its name and attributes.
    pub name: String,
    /// Its operands.
    pub operands: Vec<View>,
    /// The extents that each operand is reshaped to.
    pub shapes: Vec<Vec<Dim>>,
    /// Whether an operand with the extents of the window follows.
    pub has_window: bool,
}

/// The named operation that a stage is, given its operands.
pub(crate) fn recognise(b: &Body, views: &[View]) -> Option<Named> {
    let op = b.stage.reduction.as_ref()?.op;
    match (op, &b.stage.value, views) {
        (ReduceOp::Sum, Expr::Call(ScalarFn::Mul, x), [_, _]) => {
            let operand = |e: &Expr| views.iter().find(|v| v.of == *widened(e)).cloned();
            let (x, y) = (operand(&x[0])?, operand(&x[1])?);
            contraction(b, &x, &y).or_else(|| convolution(b, x, y))
        }
        (ReduceOp::Sum | ReduceOp::Max, value, [x]) if x.of == *value => pooling(b, op, x.clone()),
        _ => None,
    }
}

/// What is multiplied, but for the widening that named operations do by themselves.
fn widened(e: &Expr) -> &Expr {
    match e {
        Expr::Cast(DType::F32, inner) => inner,
        other => other,
    }
}

/// The loops of a map that is nothing but loops.
fn plain(v: &View) -> Option<Vec<usize>> {
    v.map.iter().map(Affine::as_plain).collect()
}

fn named(name: String, operands: Vec<View>) -> Option<Named> {
    let shapes = operands.iter().map(|v| v.ty.dims.clone()).collect();
    Some(Named { name, operands, shapes, has_window: false })
}

/// A product of matrices, or of a batch of them, with operands as they are or transposed.
fn contraction(b: &Body, x: &View, y: &View) -> Option<Named> {
    let (n_outputs, n) = (b.stage.axes.len(), b.loops.len());
    let (x_map, y_map) = (plain(x)?, plain(y)?);
    let (name, lead): (&str, &[usize]) = match (n_outputs, n) {
        (2, 3) => ("linalg.matmul", &[]),
        (3, 4) => ("linalg.batch_matmul", &[0]),
        _ => return None,
    };
    let (row, column, sum) = (n - 3, n - 2, n - 1);
    let is = |map: &[usize], tail: [usize; 2]| map == [lead, &tail].concat();
    let transposed_x = is(&x_map, [sum, row]);
    let transposed_y = is(&y_map, [column, sum]);
    if !(transposed_x || is(&x_map, [row, sum])) || !(transposed_y || is(&y_map, [sum, column])) {
        return None;
    }
    let result: Vec<Affine> = (0..n_outputs).map(Affine::plain).collect();
    let maps = [&x.map, &y.map, &result].map(|m| affine_map(n, m)).join(", ");
    let attribute =
        if transposed_x || transposed_y { format!(" indexing_maps = [{maps}]") } else { String::new() };
    named(format!("{name}{attribute}"), vec![x.clone(), y.clone()])
}

/// Steps and dilations, if these dimensions are windows: dimension `k` is `output * stride + tap * dilation`.
fn windows(map: &[Affine], outputs: &[usize], taps: &[usize]) -> Option<(Vec<i64>, Vec<i64>)> {
    let (mut strides, mut dilations) = (Vec::new(), Vec::new());
    (map.len() == outputs.len() && map.len() == taps.len()).then_some(())?;
    for ((a, o), t) in map.iter().zip(outputs).zip(taps) {
        match (&a.terms[..], a.constant) {
            ([(stride, l), (dilation, k)], 0) if l == o && k == t => {
                strides.push(*stride);
                dilations.push(*dilation);
            }
            _ => return None,
        }
    }
    Some((strides, dilations))
}

fn attributes(strides: &[i64], dilations: &[i64]) -> String {
    let n = strides.len();
    format!(
        "{{dilations = dense<{dilations:?}> : tensor<{n}xi64>, strides = dense<{strides:?}> : tensor<{n}xi64>}}"
    )
}

/// A convolution: plain, in groups, or with one filter for each channel.
fn convolution(b: &Body, x: View, w: View) -> Option<Named> {
    let (n_outputs, n) = (b.stage.axes.len(), b.loops.len());
    let all: Vec<usize> = (0..n).collect();
    // Loops in the order of linalg: batch, (group,) filter, outputs; channel, taps.
    let n_taps = n.checked_sub(n_outputs + 1)?;
    if let Some((name, lead)) = match (n_outputs.checked_sub(n_taps)?, n_taps) {
        (2, 1) => Some(("linalg.conv_1d_ncw_fcw", 0)),
        (2, 2) => Some(("linalg.conv_2d_nchw_fchw", 0)),
        (2, 3) => Some(("linalg.conv_3d_ncdhw_fcdhw", 0)),
        (3, 2) => Some(("linalg.conv_2d_ngchw_gfchw", 1)),
        _ => None,
    } {
        let (outputs, taps) = (&all[2 + lead..n_outputs], &all[n_outputs + 1..]);
        let x_lead: Vec<usize> = [&all[..1 + lead], &[n_outputs]].concat();
        let w_loops: Vec<usize> = [&all[1..2 + lead], &all[n_outputs..]].concat();
        let x_plain: Option<Vec<usize>> = x.map.iter().take(2 + lead).map(Affine::as_plain).collect();
        if x_plain? == x_lead && plain(&w)? == w_loops {
            let (strides, dilations) = windows(x.map.get(2 + lead..)?, outputs, taps)?;
            return named(format!("{name} {}", attributes(&strides, &dilations)), vec![x, w]);
        }
    }
    None
}

/// A window's sum or maximum, per channel.
fn pooling(b: &Body, op: ReduceOp, x: View) -> Option<Named> {
    let dtype = b.stage.dtype;
    let name = match op {
        ReduceOp::Sum => "linalg.pooling_nchw_sum",
        _ if dtype.is_float() || dtype.is_signed() => "linalg.pooling_nchw_max",
        _ => return None,
    };
    (b.stage.axes.len() == 4 && b.loops.len() == 6).then_some(())?;
    let lead: Option<Vec<usize>> = x.map.iter().take(2).map(Affine::as_plain).collect();
    (lead? == [0, 1]).then_some(())?;
    let (strides, dilations) = windows(x.map.get(2..)?, &[2, 3], &[4, 5])?;
    let mut op = named(format!("{name} {}", attributes(&strides, &dilations)), vec![x])?;
    op.has_window = true;
    Some(op)
}

/// A convolution with one filter for each channel, whose loop over channels of a group is gone.
pub(crate) fn depthwise(b: &Body, views: &[View]) -> Option<Named> {
    let [x, w] = views else { return None };
    (b.stage.axes.len() == 4 && b.loops.len() == 6).then_some(())?;
    let lead: Option<Vec<usize>> = x.map.iter().take(2).map(Affine::as_plain).collect();
    (lead? == [0, 1]).then_some(())?;
    let (strides, dilations) = windows(x.map.get(2..)?, &[2, 3], &[4, 5])?;
    let [channel, one, taps @ ..] = &w.map[..] else { return None };
    let is_filter = channel.as_plain() == Some(1)
        && one.terms.is_empty()
        && w.ty.dims.get(1)?.is(1)
        && taps == [Affine::plain(4), Affine::plain(5)];
    is_filter.then_some(())?;
    let mut dims = w.ty.dims.clone();
    dims.remove(1);
    let name = format!("linalg.depthwise_conv_2d_nchw_chw {}", attributes(&strides, &dilations));
    let shapes = vec![x.ty.dims.clone(), dims];
    Some(Named { name, operands: vec![x.clone(), w.clone()], shapes, has_window: false })
}
