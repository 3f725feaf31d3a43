//! Splits axes that indices divide by a number.
//!
//! The group of a channel is its index divided by the number of channels in a group. With the axis split in two, groups
//! and channels within them, both are plain loops, as other compilers expect them.

use aic_ir::compute::{Axis, Expr, Stage};
use aic_ir::dim::{Atom, Dim, Sym};
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
