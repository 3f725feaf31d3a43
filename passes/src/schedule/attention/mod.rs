//! Attention as one kernel on a GPU: scores, softmax and the weighted sum of values, of which no matrix of scores is ever
//! in memory (Dao et al., arXiv 2205.14135).
//!
//! It is recognised by what is computed: a contraction, the maximum and the sum of exponentials along its last axis, and
//! a contraction with the quotients, each with whatever maps around it. [`kernel`] makes the loops: a block has some
//! queries and passes over all keys in tiles, with the largest score so far, the sum of exponentials and the weighted sum
//! of values relative to it.
//!
//! A query that has seen no key yet, or none but hidden ones, has the maximum minus infinity: its exponentials are taken
//! relative to 0, so that they are 0. If it sees none at all its result is 0 / 0, as the definition says.

mod block;
mod threads;
mod warps;

pub use block::kernel;

use super::nest::{Arrays, Flat, Nest};
use super::phase::{Phase, phases};
use aic_ir::compute::{Axis, Compute, Expr, ReduceOp, Source};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::scalar::ScalarFn;
use std::collections::HashMap;

/// The parts of an attention. Indices are in terms of [`row`], [`key`], [`element`] and [`column`].
struct Attention {
    /// The axes that scores and results have in common; the query is that of number `query`.
    rows: Vec<Axis>,
    query: usize,
    /// The number of keys.
    keys: Dim,
    /// Elements of a query and of a value.
    sizes: [i64; 2],
    /// The products of queries and keys, with the scores as the epilogue.
    scores: Nest,
    /// The values, with what is made of the results.
    values: Nest,
}

/// The name of a row's axis.
fn row(k: usize) -> Sym {
    Sym::new(&format!("attention row {k}"))
}

/// The name of the axis of keys.
fn key() -> Sym {
    Sym::new("attention key")
}

/// The name of the axis along a query and a key.
fn element() -> Sym {
    Sym::new("attention element")
}

/// The name of the axis along a value.
fn column() -> Sym {
    Sym::new("attention column")
}

/// The axis variables that index expressions are, all different; a 0 is that of an axis of extent 1.
fn variables(at: &[Expr]) -> Option<Vec<Sym>> {
    let of = |(k, e): (usize, &Expr)| match e {
        Expr::Index(d) if d.is(0) => Some(Sym::new(&format!("attention unit {k}"))),
        Expr::Index(d) => d.as_sym().cloned(),
        _ => None,
    };
    let all: Vec<Sym> = at.iter().enumerate().map(of).collect::<Option<_>>()?;
    (0..all.len()).all(|k| !all[..k].contains(&all[k])).then_some(all)
}

/// A load of a stage.
fn load(e: &Expr) -> Option<(usize, Vec<Sym>)> {
    let Expr::Load(Source::Stage(k), at) = e else { return None };
    Some((*k, variables(at)?))
}

/// `exp(score - maximum)`
fn weight(e: &Expr) -> Option<[(usize, Vec<Sym>); 2]> {
    let Expr::Call(ScalarFn::Exp, args) = e else { return None };
    let [Expr::Call(ScalarFn::Sub, args)] = &args[..] else { return None };
    let [score, most] = &args[..] else { return None };
    Some([load(score)?, load(most)?])
}

/// Whether an expression is 1 over what a stage holds.
fn is_inverse(e: &Expr, stage: usize) -> bool {
    let Expr::Call(ScalarFn::Div, args) = e else { return false };
    matches!(&args[..], [one, Expr::Load(Source::Stage(k), _)] if *k == stage && *one == Expr::float(DType::F32, 1.0))
}

/// A phase with the values of maps in place of loads of their results.
fn inlined(p: &Phase, maps: &[Phase]) -> Phase {
    let value = maps.iter().rev().fold(p.value.clone(), |value, map| inline(&value, map));
    Phase { value, ..p.clone() }
}

fn inline(e: &Expr, map: &Phase) -> Expr {
    e.map_loads(&|source, at| {
        let position = |v: &Sym| map.at.iter().position(|d| d.as_sym() == Some(v));
        let index = |v: &Sym| match position(v).and_then(|k| at.get(k)) {
            Some(Expr::Index(d)) => Some(d.clone()),
            _ => None,
        };
        match source == Source::Stage(map.result) {
            true => map.value.subst(&index),
            false => Expr::Load(source, at),
        }
    })
}

/// The attention that a compute is, if it is one.
fn attention(c: &Compute) -> Option<Attention> {
    let all = phases(c);
    let (reductions, maps): (Vec<Phase>, Vec<Phase>) = all.into_iter().partition(|p| p.reduction.is_some());
    let [scores, most, sum, result] = &reductions[..] else { return None };
    let [most, sum, result] = [most, sum, result].map(|p| inlined(p, &maps));
    let ops = [scores, &most, &sum, &result].map(|p| p.reduction.as_ref().map(|(op, _)| *op));
    let expected = [ReduceOp::Sum, ReduceOp::Max, ReduceOp::Sum, ReduceOp::Sum].map(Some);
    let is_f32 = [scores, &most, &sum, &result].iter().all(|p| p.acc == DType::F32);
    if ops != expected
        || c.outputs != [result.result]
        || !is_f32
        || most.epilogue.is_some()
        || !sum.epilogue.as_ref().is_some_and(|e| is_inverse(e, sum.main))
    {
        return None;
    }
    // The axes of the maximum are what rows are called by.
    let (stage, at) = load(&most.value)?;
    let [over] = most.over() else { return None };
    let along = at.iter().position(|v| *v == over.var)?;
    let number = |p: &Phase, v: &Sym| p.at.iter().position(|d| d.as_sym() == Some(v));
    let names: Vec<Option<usize>> = at.iter().map(|v| number(&most, v)).collect();
    let is_unit = |k: usize| c.stages[stage].axes.get(k).is_none_or(|a| a.extent.is(1));
    let is_unnamed = |k: usize| names[k].is_none() && k != along && !is_unit(k);
    if stage != scores.result || (0..names.len()).any(is_unnamed) {
        return None;
    }
    // What a reader of scores calls their axes.
    let called = |read: &[Sym]| -> HashMap<Sym, Dim> {
        let name = |k: usize| match names.get(k) {
            _ if k == along => Dim::sym(&key()),
            Some(Some(k)) => Dim::sym(&row(*k)),
            _ => 0.into(),
        };
        read.iter().enumerate().map(|(k, v)| (v.clone(), name(k))).collect()
    };
    let is_unit_row = |k: usize| most.axes.get(k).is_some_and(|a| a.extent.is(1));
    // Whether what is loaded of a reduction is the row's.
    let is_of_row = |p: &Phase, (stage, at): &(usize, Vec<Sym>), names: &HashMap<Sym, Dim>| {
        *stage == p.result
            && at.len() == p.at.len()
            && at.iter().zip(&p.at).all(|(v, own)| {
                let k = own.as_sym().and_then(|own| most.at.iter().position(|d| d.as_sym() == Some(own)));
                k.is_some_and(|k| is_unit_row(k) || names.get(v) == Some(&Dim::sym(&row(k))))
            })
    };
    let [score, shift] = weight(&sum.value)?;
    let of_sum = called(&score.1);
    let is_along = |p: &Phase, names: &HashMap<Sym, Dim>| matches!(p.over(), [a] if names.get(&a.var) == Some(&Dim::sym(&key())));
    let of_total = |k: usize| sum.at.get(k).and_then(|d| of_sum.get(d.as_sym()?));
    let is_unit_total = |k: usize| {
        let own = sum.at.get(k).and_then(Dim::as_sym);
        sum.axes.iter().any(|a| Some(&a.var) == own && a.extent.is(1))
    };
    if score.0 != stage || !is_along(&sum, &of_sum) || !is_of_row(&most, &shift, &of_sum) {
        return None;
    }
    let Expr::Call(ScalarFn::Mul, factors) = &result.value else { return None };
    let [x, y] = &factors[..] else { return None };
    let share = |e: &Expr| match e {
        Expr::Call(ScalarFn::Mul, args) => match &args[..] {
            [w, l] => Some((weight(w)?, load(l)?)),
            _ => None,
        },
        _ => None,
    };
    let (([score, shift], total), value) = match (share(x), share(y)) {
        (Some(q), None) => (q, y),
        (None, Some(q)) => (q, x),
        _ => return None,
    };
    let mut of_result = called(&score.1);
    let is_total =
        |(k, v): (usize, &Sym)| is_unit_total(k) || of_total(k).is_some() && of_total(k) == of_result.get(v);
    let fits = score.0 == stage
        && total.0 == sum.result
        && total.1.len() == sum.at.len()
        && total.1.iter().enumerate().all(is_total)
        && is_along(&result, &of_result)
        && is_of_row(&most, &shift, &of_result);
    let mut columns = result.axes.iter().filter(|a| !of_result.contains_key(&a.var) && !a.extent.is(1));
    let (true, Some(of_value), None) = (fits, columns.next(), columns.next()) else { return None };
    let units = result.axes.iter().filter(|a| a.extent.is(1)).map(|a| (a.var.clone(), 0.into()));
    of_result.extend(units.chain([(of_value.var.clone(), Dim::sym(&column()))]));
    let value_size = of_value.extent.as_const()?;
    let [of_query] = scores.over() else { return None };
    let size = of_query.extent.as_const()?;
    let own: Vec<Sym> = scores.at.iter().map(|d| d.as_sym().cloned()).collect::<Option<_>>()?;
    let mut of_scores = called(&own);
    of_scores.insert(of_query.var.clone(), Dim::sym(&element()));

    let mut arrays = Arrays::default();
    for (k, ty) in c.inputs.iter().enumerate() {
        arrays.push(Source::Input(k), &format!("x{k}"), ty);
    }
    arrays.push(Source::Stage(result.result), "y", &c.stages[result.result].ty());
    arrays.push(Source::Stage(stage), "scores", &c.stages[stage].ty());
    let result = Phase { value: value.clone(), ..result.clone() };
    let nest = |p: &Phase, names: &HashMap<Sym, Dim>| Nest::of(p, &arrays, &|s| names.get(s).cloned()).ok();
    let (scores, values) = (nest(scores, &of_scores)?, nest(&result, &of_result)?);
    let rows: Vec<Axis> = (0..most.axes.len()).map(|k| axis_at(&most, k)).collect::<Option<_>>()?;
    let Flat::Call(ScalarFn::Mul, of_score) = &scores.value else { return None };
    let [a, b] = &of_score[..] else { return None };
    // Queries are what keys and values don't depend on.
    let is_query = |k: &usize, keys: &Flat| !keys.mentions(&row(*k)) && !values.value.mentions(&row(*k));
    let (query, is_swapped) = match (0..rows.len()).rev().find(|k| is_query(k, b) && a.mentions(&row(*k))) {
        Some(k) => (k, false),
        None => ((0..rows.len()).rev().find(|k| is_query(k, a) && b.mentions(&row(*k)))?, true),
    };
    let mut scores = scores.clone();
    if is_swapped {
        scores.value = Flat::Call(ScalarFn::Mul, vec![b.clone(), a.clone()]);
    }
    Some(Attention { rows, query, keys: over.extent.clone(), sizes: [size, value_size], scores, values })
}

/// The axis at a position of a phase's array.
fn axis_at(p: &Phase, k: usize) -> Option<Axis> {
    let v = p.at.get(k)?.as_sym()?;
    p.axes.iter().find(|a| a.var == *v).cloned()
}
