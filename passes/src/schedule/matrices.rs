//! What contractions become for a unit that multiplies matrices: factors that aren't matrices as it loads them become
//! stages, in which the contracted axis is the innermost.
//!
//! Of several contracted axes one is the matrices'. A factor that is a window of an array becomes the array with what pads
//! it, that axis innermost: it then is a matrix for each point of the others, and nothing is stored for each tap. Any
//! other factor is evaluated once for all of its points. Constants are laid out so when a program is made.

use super::contract::are_loadable;
use super::nest::{Flat, Nest};
use super::prepare::{INSERTED, alone, extract, insert, mentions};
use crate::packing::{Packing, Span};
use aic_ir::compute::{Axis, Compute, Expr, ReduceOp, Stage};
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Operand, Scope};
use aic_ir::scalar::ScalarFn;
use aic_ir::target::Target;

/// Makes a factor of stage `k` a stage of its own, if the target multiplies matrices and doesn't load it as one. Gives the
/// new position of the stage.
pub(super) fn extract_factor(c: &mut Compute, k: usize, target: &Target) -> Option<usize> {
    let mut all = c.clone();
    order_terms(&mut all.stages[k])?;
    let Expr::Call(ScalarFn::Mul, factors) = &all.stages[k].value else { return None };
    let types = [0, 1].map(|f| stored(factors.get(f)?, &all));
    let wanted = unit_types(all.stages[k].dtype, [types[0]?, types[1]?], target)?;
    let loadable = loadable(&all, k, target)?;
    let f = (0..2).find(|f| !loadable[*f] || types[*f] != Some(wanted[*f]))?;
    let factor = match without_cast(&factors[f]) {
        inner if stored(inner, &all) == Some(wanted[f]) => inner.clone(),
        _ => factors[f].clone(),
    };
    let at = separate(&mut all, k, &factor)?;
    self::loadable(&all, at, target)?[f].then(|| *c = all)?;
    Some(at)
}

/// The type of a factor's elements in memory.
fn stored(factor: &Expr, c: &Compute) -> Option<DType> {
    match factor {
        Expr::Cast(_, e) if is_moved(e) => e.dtype(&c.inputs, &c.stages),
        e => e.dtype(&c.inputs, &c.stages),
    }
}

fn without_cast(e: &Expr) -> &Expr {
    match e {
        Expr::Cast(_, inner) if is_moved(inner) => inner,
        e => e,
    }
}

/// Whether it is an element of an array, or what pads it.
fn is_moved(e: &Expr) -> bool {
    match e {
        Expr::Load(..) => true,
        Expr::Call(ScalarFn::Select, args) => {
            is_moved(&args[1]) && matches!(args[2], Expr::Const(..))
                || is_moved(&args[2]) && matches!(args[1], Expr::Const(..))
        }
        _ => false,
    }
}

/// The types of the factors of a unit for sums of this type, for factors of the types they have or of wider ones.
fn unit_types(sums: DType, factors: [DType; 2], target: &Target) -> Option<[DType; 2]> {
    let has_unit = |wanted: [DType; 2]| {
        target.matrix.iter().any(|u| {
            u.dtype(Operand::C) == sums
                && [u.dtype(Operand::A), u.dtype(Operand::B)] == wanted
                && target.keeps(u, wanted[0])
        })
    };
    let wide = [DType::F32; 2];
    let is_float = factors.iter().all(|t| t.is_float() && t.size() <= 4);
    [Some(factors), is_float.then_some(wide)].into_iter().flatten().find(|w| has_unit(*w))
}

/// Puts the contracted axis that is to be the matrices' innermost: one that both factors have as an index of its own.
fn order_terms(s: &mut Stage) -> Option<()> {
    let reduction = s.reduction.as_mut().filter(|r| r.op == ReduceOp::Sum)?;
    let is_bound = reduction.axes.iter().any(|o| s.axes.iter().any(|a| o.extent.mentions(&a.var)));
    if is_bound || reduction.axes.is_empty() {
        return None;
    }
    let is_alone = |a: &&Axis| {
        let mut alone = true;
        s.value.visit(&mut |e| {
            if let Expr::Index(d) = e {
                alone &= !d.mentions(&a.var) || d.as_sym() == Some(&a.var);
            }
        });
        alone
    };
    let size = |a: &&Axis| a.extent.as_const().unwrap_or(i64::MAX);
    if let Some(along) = reduction.axes.iter().filter(is_alone).max_by_key(size).cloned() {
        reduction.axes.retain(|a| *a != along);
        reduction.axes.push(along);
    }
    Some(())
}

fn loadable(c: &Compute, k: usize, target: &Target) -> Option<[bool; 2]> {
    let nest = Nest::new(&alone(c, k)).ok()?;
    let transposes = target.moves(Scope::L1, Scope::L0B, true).find(|m| !m.transposes.is_empty());
    are_loadable(&nest, transposes.map_or(&[], |m| &m.transposes))
}

/// Makes a factor a stage before stage `k`, whose new position it gives.
fn separate(c: &mut Compute, k: usize, factor: &Expr) -> Option<usize> {
    let s = c.stages[k].clone();
    let along = s.over().last()?;
    if !mentions(factor, &along.var) {
        return None;
    }
    let used = |axes: &[Axis]| axes.iter().filter(|a| mentions(factor, &a.var)).cloned().collect::<Vec<_>>();
    let own = [used(&s.axes), used(s.over())].concat();
    let points = |axes: &[Axis]| axes.iter().map(|a| a.extent.as_const()).product::<Option<i64>>();
    match window(c, k, factor, along) {
        Some((stage, load)) if points(&stage.axes) <= points(&own) => {
            let stage_k = &mut c.stages[k];
            stage_k.value = replaced(&stage_k.value, factor, &load);
            Some(insert(c, k, stage))
        }
        _ => Some(extract(c, k, factor, own)),
    }
}

fn replaced(e: &Expr, factor: &Expr, by: &Expr) -> Expr {
    match e {
        e if e == factor => by.clone(),
        Expr::Call(f, args) => Expr::Call(*f, args.iter().map(|a| replaced(a, factor, by)).collect()),
        Expr::Cast(t, e) => Expr::Cast(*t, replaced(e, factor, by).into()),
        e => e.clone(),
    }
}

/// The array that a factor is a window of, padded, the contracted axis innermost; and the load of it that the factor is.
fn window(c: &Compute, k: usize, factor: &Expr, along: &Axis) -> Option<(Stage, Expr)> {
    let (guards, load, padding) = match factor {
        Expr::Call(ScalarFn::Select, args) => match (&args[1], &args[2]) {
            (load @ Expr::Load(..), Expr::Const(_, value)) => (conjuncts(&args[0])?, load, Some(*value)),
            _ => return None,
        },
        load => (Vec::new(), load, None),
    };
    let Expr::Load(source, at) = load else { return None };
    let at: Vec<Dim> = at.iter().map(index).collect::<Option<_>>()?;
    let s = &c.stages[k];
    let range = |v: &Sym| {
        let axis = s.axes.iter().chain(s.over()).find(|a| a.var == *v);
        axis.and_then(|a| a.extent.as_const()).map_or(Range::ALL, |n| Range::new(0, n - 1))
    };
    let ranges: Vec<Range> = at.iter().map(|d| d.range(&range)).collect();
    let is_known = |r: &Range| r.lo > i64::MIN / 4 && r.hi < i64::MAX / 4;
    let innermost = at.iter().position(|d| d.affine_in(&along.var).is_some_and(|(step, _)| step.is(1)))?;
    if !ranges.iter().all(is_known) || at.iter().filter(|d| d.mentions(&along.var)).count() != 1 {
        return None;
    }
    let axis = |j: usize| Axis::new(&format!("padded{k} {j}"), (ranges[j].hi - ranges[j].lo + 1).into());
    let position = |j: usize| axis(j).dim() + ranges[j].lo.into();
    let order: Vec<usize> = (0..at.len()).filter(|j| *j != innermost).chain([innermost]).collect();
    let element = Expr::Load(*source, (0..at.len()).map(|j| Expr::Index(position(j))).collect());
    let moved = |(f, d, limit): &(ScalarFn, Dim, Dim)| {
        let j = at.iter().position(|a| a == d)?;
        Some(Expr::call(*f, [Expr::Index(position(j)), Expr::Index(limit.clone())]))
    };
    let guards: Vec<Expr> = guards.iter().map(moved).collect::<Option<_>>()?;
    let dtype = element.dtype(&c.inputs, &c.stages)?;
    let value = match padding {
        Some(padding) => element.guarded(Expr::all(guards), Expr::Const(dtype, padding)),
        None => element,
    };
    let stage = Stage::map(dtype, order.iter().map(|j| axis(*j)).collect(), value);
    let places = order.iter().map(|j| at[*j].clone() - ranges[*j].lo.into()).collect();
    Some((stage, Expr::stage(INSERTED, places)))
}

fn index(e: &Expr) -> Option<Dim> {
    match e {
        Expr::Index(d) => Some(d.clone()),
        _ => None,
    }
}

/// The comparisons of indices with limits that a condition is; `None` if it is something else.
fn conjuncts(cond: &Expr) -> Option<Vec<(ScalarFn, Dim, Dim)>> {
    let Expr::Call(f, args) = cond else { return None };
    match (f, &args[..]) {
        (ScalarFn::And, [a, b]) => Some([conjuncts(a)?, conjuncts(b)?].concat()),
        (ScalarFn::Ge | ScalarFn::Lt | ScalarFn::Le | ScalarFn::Gt, [a, b]) => {
            let limit = match b {
                Expr::Const(_, value) => value.as_i64().into(),
                b => index(b)?,
            };
            Some(vec![(*f, index(a)?, limit)])
        }
        _ => None,
    }
}

/// The order of an input's elements that a compute is nothing but.
pub fn as_packing(c: &Compute) -> Option<(usize, Packing)> {
    let nest = Nest::new(c).ok()?;
    let Flat::Load { input, address, terms } = &nest.value else { return None };
    let (last, others) = nest.axes.split_last()?;
    if nest.reduction.is_some() || nest.epilogue.is_some() || !terms.is_empty() {
        return None;
    }
    let mut rest = address.clone();
    let mut span = |a: &Axis| {
        let (step, others) = rest.affine_in(&a.var)?;
        rest = others;
        let stride = isize::try_from(step.as_const()?).ok()?;
        Some(Span { extent: usize::try_from(a.extent.as_const()?).ok()?, stride })
    };
    let terms = others.iter().map(&mut span).collect::<Option<_>>()?;
    let columns = span(last)?;
    let offset = isize::try_from(rest.as_const()?).ok()?;
    Some((*input, Packing { offset, outer: Vec::new(), panel: columns.extent, columns, terms }))
}
