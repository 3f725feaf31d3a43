//! Phases of a compute: reductions with the map over their result, and other maps. A phase is one loop nest.
//!
//! A reduction and the map that alone reads it, element by element in whatever order of axes, are one phase: the map is
//! its epilogue. Axis variables are renamed so that they are unique within the compute.

use aic_ir::compute::{Axis, Compute, Expr, ReduceOp, Source, Stage};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use std::collections::HashMap;

/// One loop nest of a compute.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    /// Output axes, in the order of the loops.
    pub axes: Vec<Axis>,
    /// How values are combined, and over what.
    pub reduction: Option<(ReduceOp, Vec<Axis>)>,
    /// Type of the reduction's result, or of the element.
    pub acc: DType,
    /// The element, or the reduction's summand.
    pub value: Expr,
    /// What is stored, in terms of a load of stage `main`; `None` for the accumulator or the element itself.
    pub epilogue: Option<Expr>,
    /// The stage of the reduction or map.
    pub main: usize,
    /// The stage whose array is stored.
    pub result: usize,
    /// The position in that array, in terms of the axes.
    pub at: Vec<Dim>,
    /// A map that the summand is equal to and that is stored too, and the position in its array.
    pub kept: Option<(usize, Vec<Dim>)>,
    /// The axis of which it has only a part.
    pub part: Option<Part>,
}

/// Some indices of an axis.
#[derive(Clone, Debug)]
pub struct Part {
    /// The axis, which counts from the first of them.
    pub var: Sym,
    /// The first of them.
    pub first: Dim,
    /// The extent of the whole axis, a multiple of the part's.
    pub whole: i64,
}

impl Phase {
    /// The axes reduced over.
    pub fn over(&self) -> &[Axis] {
        self.reduction.as_ref().map_or(&[], |(_, over)| over)
    }

    /// Calls `f` on every load of an earlier phase's array.
    pub fn visit_stages<'a>(&'a self, f: &mut dyn FnMut(usize, &'a [Expr])) {
        for e in std::iter::once(&self.value).chain(&self.epilogue) {
            e.visit(&mut |e| {
                if let Expr::Load(Source::Stage(k), at) = e
                    && *k != self.main
                {
                    f(*k, at);
                }
            });
        }
    }

    /// The stages that it evaluates.
    pub fn members(&self) -> Vec<usize> {
        let kept = self.kept.iter().map(|(stage, _)| *stage);
        let mut all: Vec<usize> = kept.chain([self.main, self.result]).collect();
        all.dedup();
        all
    }
}

/// The phases of a compute, in an order of execution.
pub(super) fn phases(c: &Compute) -> Vec<Phase> {
    let readers = readers(c);
    let mut joined: Vec<Option<usize>> = vec![None; c.stages.len()];
    for (k, s) in c.stages.iter().enumerate() {
        if let ([e], true, false) = (&readers[k][..], s.reduction.is_some(), c.outputs.contains(&k))
            && joined.iter().flatten().all(|j| j != e)
            && order(s, k, &c.stages[*e]).is_some()
        {
            joined[k] = Some(*e);
        }
    }
    (0..c.stages.len()).filter(|k| joined[*k].is_none()).map(|e| phase(c, &joined, e)).collect()
}

/// The stages that load each stage.
fn readers(c: &Compute) -> Vec<Vec<usize>> {
    let mut readers: Vec<Vec<usize>> = vec![Vec::new(); c.stages.len()];
    for (reader, s) in c.stages.iter().enumerate() {
        s.value.visit(&mut |e| {
            if let Expr::Load(Source::Stage(k), _) = e
                && readers[*k].last() != Some(&reader)
            {
                readers[*k].push(reader);
            }
        });
    }
    readers
}

/// For every axis of reduction `s`, which is stage `k`, the axis of map `e` that it is, if `e` reads nothing of it but
/// the element at its own position.
fn order(s: &Stage, k: usize, e: &Stage) -> Option<Vec<usize>> {
    let mut found: Option<&[Expr]> = None;
    let mut in_place = e.reduction.is_none() && s.axes.len() == e.axes.len();
    e.value.visit(&mut |x| {
        if let Expr::Load(Source::Stage(j), at) = x
            && *j == k
        {
            in_place &= found.is_none_or(|f| f == at);
            found = Some(at);
        }
    });
    let axis_of = |(index, a): (&Expr, &Axis)| {
        let Expr::Index(d) = index else { return None };
        e.axes.iter().position(|b| Some(&b.var) == d.as_sym() && a.extent == b.extent)
    };
    let order: Vec<usize> = found?.iter().zip(&s.axes).map(axis_of).collect::<Option<_>>()?;
    let is_permutation = (0..e.axes.len()).all(|k| order.contains(&k));
    (in_place && is_permutation && !is_running(s, e)).then_some(order)
}

/// Whether the reduction's extents depend on an axis and so does the map, apart from reading it: the map then keeps a
/// running reduction from being one.
fn is_running(s: &Stage, e: &Stage) -> bool {
    let over = s.reduction.iter().flat_map(|r| &r.axes);
    let runs = over.flat_map(|a| a.extent.symbols()).any(|v| s.axes.iter().any(|a| a.var == v));
    let mut others = 0;
    e.value.visit(&mut |x| others += usize::from(matches!(x, Expr::Load(..))));
    runs && others > 1
}

/// The phase that stores stage `e`.
fn phase(c: &Compute, joined: &[Option<usize>], e: usize) -> Phase {
    let main = joined.iter().position(|j| *j == Some(e)).unwrap_or(e);
    let (s, stage) = (&c.stages[main], &c.stages[e]);
    let mut names: HashMap<Sym, Dim> = HashMap::new();
    let mut renamed = |axes: &[Axis], prefix: &str| -> Vec<Axis> {
        let all = axes.iter().enumerate().map(|(k, a)| {
            let extent = a.extent.subst(&|s| names.get(s).cloned());
            let new = Axis::new(&format!("{prefix}{e} {k}"), extent);
            names.insert(a.var.clone(), new.dim());
            new
        });
        all.collect()
    };
    let axes = renamed(&s.axes, "axis");
    let reduction = s.reduction.as_ref().map(|r| (r.op, renamed(&r.axes, "over")));
    let value = s.value.subst(&|s| names.get(s).cloned());
    let (mut at, mut epilogue) = (axes.iter().map(Axis::dim).collect::<Vec<_>>(), None);
    if main != e
        && let Some(order) = order(s, main, stage)
    {
        let axis_of = |k: usize| order.iter().position(|o| *o == k).map(|o| axes[o].dim());
        let position = |v: &Sym| stage.axes.iter().position(|a| a.var == *v);
        at = (0..stage.axes.len()).filter_map(axis_of).collect();
        epilogue = Some(stage.value.subst(&|v| position(v).and_then(axis_of)));
    }
    Phase { axes, reduction, acc: s.dtype, value, epilogue, main, result: e, at, kept: None, part: None }
}

/// An expression that loads from other sources.
pub(super) fn map_sources(e: &Expr, f: &dyn Fn(Source) -> Source) -> Expr {
    e.map_loads(&|source, at| Expr::Load(f(source), at))
}
