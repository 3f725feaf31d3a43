//! Stages with other loops, such as linalg has or other compilers expect.
//!
//! linalg's loops are rectangular. The group of a channel is its index divided by the number of channels in a group: with
//! the axis split in two, groups and channels within them, both are plain loops. Loops of one iteration are dropped.

use aic_ir::compute::{Axis, Expr, Reduction, Stage};
use aic_ir::dim::{Atom, Dim, Sym};
use aic_ir::scalar::ScalarFn;
use aic_ir::simplify;

/// The stage with output axes split; `None` if there is nothing to split. The result, reshaped to the extents of the
/// given stage, is the same array.
pub(crate) fn split(s: &Stage) -> Option<Stage> {
    let mut axes = Vec::new();
    let mut replaced: Vec<(Sym, Dim)> = Vec::new();
    for a in &s.axes {
        let Some((outer, inner)) = halves(s, a) else {
            axes.push(a.clone());
            continue;
        };
        let [high, low] = ["outer", "inner"].map(|half| format!("{}.{half}", a.var.name()));
        let (high, low) = (Axis::new(&high, outer.into()), Axis::new(&low, inner.into()));
        replaced.push((a.var.clone(), high.dim() * inner.into() + low.dim()));
        axes.extend([high, low]);
    }
    if replaced.is_empty() {
        return None;
    }
    let by = |v: &Sym| replaced.iter().find(|(a, _)| a == v).map(|(_, d)| d.clone());
    Some(simplify::stage(&Stage { axes, value: s.value.subst(&by), ..s.clone() }))
}

/// The extents of the halves of an axis.
fn halves(s: &Stage, a: &Axis) -> Option<(i64, i64)> {
    let extent = a.extent.as_const()?;
    let mut divisor = None;
    s.value.visit(&mut |e| {
        if let Expr::Index(d) = e {
            divisor = divisor.or_else(|| divisor_of(d, &a.var));
        }
    });
    let n = divisor.filter(|n| *n > 1 && *n < extent && extent % n == 0)?;
    Some((extent / n, n))
}

/// What an index divides a variable by.
fn divisor_of(d: &Dim, var: &Sym) -> Option<i64> {
    d.terms().flat_map(|(_, factors)| factors).find_map(|a| match a {
        Atom::FloorDiv(x, n) | Atom::Mod(x, n) if x.as_sym() == Some(var) => n.as_const(),
        _ => None,
    })
}

/// The stage with those axes gone that it reduces over in a single step; `None` if there are none.
pub(crate) fn without_single_terms(s: &Stage) -> Option<Stage> {
    let r = s.reduction.as_ref()?;
    let is_index = r.op.combine().is_none();
    let (gone, kept): (Vec<Axis>, Vec<Axis>) = r.axes.iter().cloned().partition(|a| a.extent.is(1));
    (!gone.is_empty() && !is_index).then_some(())?;
    let value = s.value.subst(&|v| gone.iter().any(|a| a.var == *v).then(|| 0.into()));
    Some(Stage { value, reduction: Some(Reduction { op: r.op, axes: kept }), ..s.clone() })
}

/// The stage with rectangular loops: a reduction whose extents depend on output axes goes over the largest extent, with
/// the identity beyond its own.
pub(crate) fn rectangular(s: &Stage) -> Stage {
    let largest = |v: &Sym| s.axes.iter().find(|a| a.var == *v).map(|a| a.extent.clone() - 1.into());
    let Some(r) = s.reduction.clone() else { return s.clone() };
    let mut value = s.value.clone();
    let mut axes = Vec::new();
    for a in &r.axes {
        let extent = a.extent.subst(&largest);
        let first = a.extent.subst(&|v| largest(v).map(|_| 0.into()));
        let extent = extent.maximum(&first);
        if extent != a.extent {
            let inside = Expr::call(ScalarFn::Lt, [Expr::Index(a.dim()), Expr::Index(a.extent.clone())]);
            let identity = Expr::Const(s.dtype, r.op.identity(s.dtype));
            value = value.guarded(inside, identity);
        }
        axes.push(Axis { var: a.var.clone(), extent });
    }
    let reduction = Some(Reduction { op: r.op, axes });
    Stage { reduction, value, ..s.clone() }
}
