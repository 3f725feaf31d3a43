//! What a compute is made into before it is cut into kernels: stages for what would otherwise be evaluated, or read
//! across memory, again and again.

use super::nest::Nest;
use super::{choose, contract, matrices, phase};
use aic_ir::compute::{Axis, Compute, Expr, ReduceOp, Source, Stage};
use aic_ir::dim::{Dim, Sym};
use aic_ir::scalar::ScalarFn;
use aic_ir::schedule::Class;
use aic_ir::target::Target;
use std::collections::HashMap;

/// Rows from which on it pays to transpose an operand so that a contraction gets vectors.
pub(super) const PACKED_ROWS: i64 = 8;

/// Which factors of contractions are transposed by stages of their own.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Transposed {
    /// Those that contractions don't copy into panels themselves.
    Necessary,
    /// All, and those whose rows lie apart are copied too: for kernels in which the copy serves several blocks of rows.
    All,
}

/// Gives contractions operands that can be loaded: a factor that is computed for several elements becomes a stage, so does one
/// that is contiguous along the contracted axis only, transposed. Gives the new positions of all stages too.
pub(super) fn contractions(c: &Compute, target: &Target, which: Transposed) -> (Compute, Vec<usize>) {
    let mut all = c.clone();
    let mut k = 0;
    let mut positions = Vec::new();
    while k < all.stages.len() {
        let extracted = if target.is_npu() {
            matrices::extract_factor(&mut all, k, target)
        } else {
            new_factor(&all, k, target, which).map(|(factor, axes)| extract(&mut all, k, &factor, axes))
        };
        match extracted {
            Some(at) => k = at,
            None => {
                positions.push(k);
                k += 1;
            }
        }
    }
    (all, positions)
}

/// A factor of stage `k` that is to be a stage over these axes.
fn new_factor(c: &Compute, k: usize, target: &Target, which: Transposed) -> Option<(Expr, Vec<Axis>)> {
    let s = &c.stages[k];
    let (ReduceOp::Sum, over) = s.reduction.as_ref().map(|r| (r.op, &r.axes))? else { return None };
    let Expr::Call(ScalarFn::Mul, factors) = &s.value else { return None };
    let [a, b] = &factors[..] else { return None };
    let is_triangular = over.iter().any(|o| s.axes.iter().any(|x| o.extent.mentions(&x.var)));
    if is_triangular || !target.is_cpu() {
        return None;
    }
    let used = |e: &Expr, axes: &[Axis]| -> Vec<Axis> {
        axes.iter().filter(|a| mentions(e, &a.var)).cloned().collect()
    };
    let nest = Nest::new(&alone(c, k)).ok()?;
    let alone = choose(&nest, target);
    // A panel is filled with what has been evaluated.
    let is_again = |e: &Expr| s.axes.iter().any(|a| !a.extent.is(1) && !mentions(e, &a.var));
    let evaluated = |e: &&Expr| {
        is_again(e) && is_plain(e) && if alone.panel > 0 { is_expensive(e) } else { is_computed(e) }
    };
    if let Some(e) = [a, b].into_iter().find(evaluated) {
        return Some((e.clone(), [used(e, &s.axes), used(e, over)].concat()));
    }
    if alone.pack > 0 {
        return None;
    }
    let [along] = &over[..] else { return None };
    let columns = s.axes.last()?;
    let (rows, vectors) = match (mentions(a, &columns.var), mentions(b, &columns.var)) {
        (true, false) => (b, a),
        (false, true) => (a, b),
        _ => return None,
    };
    let is_long = |a: &Axis, least: i64| a.extent.as_const().is_none_or(|n| n >= least);
    let reused = |a: &Axis| mentions(rows, &a.var) && !mentions(vectors, &a.var) && is_long(a, PACKED_ROWS);
    let fits = is_long(columns, 4) && s.axes.iter().any(reused) && is_load(rows) && is_load(vectors);
    if !fits {
        return None;
    }
    let all = which == Transposed::All;
    let is_transposed = alone.class == Class::ReduceInner || all && alone.panel > 0;
    let is_copied = is_transposed || all && alone.class == Class::Contract && is_spread(&nest, columns);
    if !is_copied {
        return None;
    }
    let mut axes = used(vectors, &s.axes);
    axes.pop();
    axes.extend([along.clone(), columns.clone()]);
    Some((vectors.clone(), axes))
}

/// Whether the rows of a contraction's vectors lie apart: they then compete for the same places of a cache.
fn is_spread(nest: &Nest, columns: &Axis) -> bool {
    let Some(roles) = contract::roles(nest) else { return false };
    let [along] = nest.over() else { return false };
    let step = match &roles.vector.steps(&along.var)[..] {
        [Some(step)] => step.as_const(),
        _ => None,
    };
    along.extent.as_const().is_some() && step.zip(columns.extent.as_const()).is_some_and(|(s, n)| s > n)
}

/// The compute of one stage, with all earlier ones as operands.
pub(super) fn alone(c: &Compute, k: usize) -> Compute {
    let n = c.inputs.len();
    let as_input = |s: Source| match s {
        Source::Stage(j) => Source::Input(n + j),
        input => input,
    };
    let stage = Stage { value: phase::map_sources(&c.stages[k].value, &as_input), ..c.stages[k].clone() };
    let stages = c.stages[..k].iter().map(Stage::ty);
    Compute {
        inputs: c.inputs.iter().cloned().chain(stages).collect(),
        stages: vec![stage],
        outputs: vec![0],
        constants: c.constants.clone(),
    }
}

/// Gives each expensive expression that a reduction sums up and later stages evaluate again a stage of its own.
pub(super) fn share(c: &Compute) -> Compute {
    let mut c = c.clone();
    let mut k = 0;
    while k < c.stages.len() {
        if is_shared(&c, k) {
            let s = &c.stages[k];
            let (value, axes) = (s.value.clone(), s.axes.iter().chain(s.over()).cloned().collect());
            k = extract(&mut c, k, &value, axes);
        }
        k += 1;
    }
    c
}

/// Whether stage `k` combines what a later stage evaluates too.
fn is_shared(c: &Compute, k: usize) -> bool {
    let s = &c.stages[k];
    let combines = s.reduction.as_ref().is_some_and(|r| r.op.combine().is_some());
    let axes: Vec<Axis> = s.axes.iter().chain(s.over()).cloned().collect();
    let depends = s.over().iter().any(|o| axes.iter().any(|a| o.extent.mentions(&a.var)));
    combines
        && !depends
        && is_expensive(&s.value)
        && c.stages[k + 1..].iter().any(|later| {
            let mut found = false;
            later.value.visit(&mut |e| found |= same(&s.value, e, &axes, later).is_some());
            found
        })
}

/// Makes an expression a stage over some axes, before stage `k` in which it occurs, and loads that wherever it or its
/// like occurs from there on. Gives the new position of stage `k`.
pub(super) fn extract(c: &mut Compute, k: usize, value: &Expr, axes: Vec<Axis>) -> usize {
    let Some(dtype) = value.dtype(&c.inputs, &c.stages) else { return k };
    for s in &mut c.stages[k..] {
        let stage = s.clone();
        s.value = replace(&stage.value, value, &axes, &stage);
    }
    insert(c, k, Stage::map(dtype, axes, value.clone()))
}

/// Puts a stage before stage `k`; loads of [`INSERTED`] become loads of it. Gives the new position of stage `k`.
pub(super) fn insert(c: &mut Compute, k: usize, stage: Stage) -> usize {
    let later = |s: Source| match s {
        Source::Stage(INSERTED) => Source::Stage(k),
        Source::Stage(j) if j >= k => Source::Stage(j + 1),
        other => other,
    };
    for s in &mut c.stages[k..] {
        s.value = phase::map_sources(&s.value, &later);
    }
    c.outputs.iter_mut().filter(|o| **o >= k).for_each(|o| *o += 1);
    c.stages.insert(k, stage);
    k + 1
}

/// Stands for the new stage while the others are renumbered.
pub(super) const INSERTED: usize = usize::MAX;

/// An expression of a stage with loads of the new stage in place of what is the same as `value` over `axes`.
fn replace(e: &Expr, value: &Expr, axes: &[Axis], stage: &Stage) -> Expr {
    if let Some(at) = same(value, e, axes, stage) {
        return Expr::stage(INSERTED, at);
    }
    let all = |es: &[Expr]| es.iter().map(|e| replace(e, value, axes, stage)).collect();
    match e {
        Expr::Const(..) | Expr::Index(_) => e.clone(),
        Expr::Load(s, at) => Expr::Load(*s, all(at)),
        Expr::Call(f, args) => Expr::Call(*f, all(args)),
        Expr::Cast(t, e) => Expr::Cast(*t, replace(e, value, axes, stage).into()),
    }
}

/// The axes of a stage for `axes`, with which `value` is the expression `e` of that stage.
fn same(value: &Expr, e: &Expr, axes: &[Axis], stage: &Stage) -> Option<Vec<Dim>> {
    let mut names: HashMap<Sym, Sym> = HashMap::new();
    if value == e {
        names.extend(axes.iter().map(|a| (a.var.clone(), a.var.clone())));
    } else if !bind(value, e, axes, &mut names) {
        return None;
    }
    let extent = |s: &Sym| stage.axes.iter().chain(stage.over()).find(|a| a.var == *s).map(|a| &a.extent);
    let fits = |a: &Axis| names.get(&a.var).filter(|v| extent(v) == Some(&a.extent));
    let at: Vec<Dim> = axes.iter().map(|a| fits(a).map(Dim::sym)).collect::<Option<_>>()?;
    let distinct = at.iter().enumerate().all(|(k, d)| !at[..k].contains(d));
    let renamed = value.subst(&|s| names.get(s).map(Dim::sym));
    (distinct && renamed == *e).then_some(at)
}

/// Notes which variables of `e` stand where the axes stand in `value`; false if the expressions can't be the same.
fn bind(value: &Expr, e: &Expr, axes: &[Axis], names: &mut HashMap<Sym, Sym>) -> bool {
    let mut all =
        |a: &[Expr], b: &[Expr]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| bind(a, b, axes, names));
    match (value, e) {
        (Expr::Const(..), Expr::Const(..)) => value == e,
        (Expr::Index(a), Expr::Index(b)) => match (a.as_sym(), b.as_sym()) {
            (Some(x), Some(y)) if axes.iter().any(|a| a.var == *x) => {
                names.entry(x.clone()).or_insert_with(|| y.clone()) == y
            }
            _ => true,
        },
        (Expr::Load(s, a), Expr::Load(t, b)) => s == t && all(a, b),
        (Expr::Call(f, a), Expr::Call(g, b)) => f == g && all(a, b),
        (Expr::Cast(t, a), Expr::Cast(u, b)) => t == u && bind(a, b, axes, names),
        _ => false,
    }
}

/// Whether evaluating it takes much longer than loading it.
fn is_expensive(e: &Expr) -> bool {
    use ScalarFn::*;
    let cheap = |f: ScalarFn| {
        matches!(f, Add | Sub | Mul | Fma | Min | Max | Neg | Abs | Sign | BitAnd | BitOr | BitXor | BitNot)
            || matches!(
                f,
                Shl | Shr | And | Or | Xor | Not | Eq | Ne | Lt | Le | Gt | Ge | IsNan | IsInf | Select
            )
    };
    let mut found = false;
    e.visit(&mut |e| found |= matches!(e, Expr::Call(f, _) if !cheap(*f)));
    found
}

/// Whether it is more than elements of arrays, chosen by their positions and converted.
fn is_computed(e: &Expr) -> bool {
    match e {
        Expr::Const(..) | Expr::Index(_) | Expr::Load(..) => false,
        Expr::Cast(_, e) => is_computed(e),
        Expr::Call(ScalarFn::Select, args) => loads(&args[0]) || args[1..].iter().any(is_computed),
        Expr::Call(..) => loads(e),
    }
}

fn loads(e: &Expr) -> bool {
    let mut found = false;
    e.visit(&mut |e| found |= matches!(e, Expr::Load(..)));
    found
}

/// Whether it is an element of an array, possibly converted.
fn is_load(e: &Expr) -> bool {
    match e {
        Expr::Cast(_, e) => is_load(e),
        Expr::Load(_, at) => at.iter().all(|i| matches!(i, Expr::Index(_))),
        _ => false,
    }
}

/// Whether every index in it is a variable or a constant, so that it has a value per point of the axes it mentions.
fn is_plain(e: &Expr) -> bool {
    let mut plain = true;
    e.visit(&mut |e| {
        if let Expr::Load(_, at) = e {
            let simple =
                |i: &Expr| matches!(i, Expr::Index(d) if d.as_sym().is_some() || d.as_const().is_some());
            plain &= at.iter().all(simple);
        }
    });
    plain
}

pub(super) fn mentions(e: &Expr, s: &Sym) -> bool {
    let mut found = false;
    e.visit(&mut |e| found |= matches!(e, Expr::Index(d) if d.mentions(s)));
    found
}
