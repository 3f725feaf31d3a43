//! The compute of a graph: the computes of its nodes, one after another, with maps inlined into what reads them.
//!
//! A map is inlined where that recomputes nothing expensive: what only moves elements always is; what computes is if
//! no element is evaluated more often than before, or a few times more if it is cheap. A map in the place of a
//! reduction's result stays, as that reduction's epilogue, unless a single map reads it. Reductions are never inlined
//! and nothing is reordered, so results are the same to the bit.

use crate::compute::{Axis, Compute, Expr, Reduction, Source, Stage};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::graph::{Graph, ValueId};
use crate::op::{Op, flatten};
use crate::scalar::{Scalar, ScalarFn};
use crate::simplify;
use crate::types::Type;
use std::collections::{BTreeSet, HashMap};

/// The largest expression, in nodes, that inlining may make.
const MAX_NODES: usize = 256;
/// What an element may cost, in additions, to be evaluated more often than before.
const CHEAP: usize = 4;
/// How many times as often.
const MAX_RECOMPUTATION: i64 = 4;

/// The compute of a graph; `None` if one of its nodes has none.
pub fn compose(g: &Graph) -> Option<Compute> {
    let mut c = simplify::compute(&concatenate(g)?);
    // Movements first, and what is read last first: then it shows how often elements are really read.
    for moves in [true, false] {
        let stages: Vec<usize> =
            (0..c.stages.len()).filter(|&k| (cost(&c.stages[k].value) == 0) == moves).collect();
        stages.into_iter().rev().for_each(|k| inline(&mut c, k));
        remove_dead(&mut c);
    }
    c.stages.iter_mut().for_each(rename_axes);
    for k in 0..c.stages.len() {
        name_single_indices(&mut c, k);
        reshape_reduction(&mut c, k);
    }
    Some(c)
}

/// Where a value is, seen from the composed stages.
#[derive(Clone, Copy)]
enum Place {
    Array(Source),
    Scalar(DType, Scalar),
}

/// All stages of all nodes. Constants of one element become part of the expressions.
fn concatenate(g: &Graph) -> Option<Compute> {
    let mut stages: Vec<Stage> = Vec::new();
    let mut places: HashMap<ValueId, Place> = HashMap::new();
    for (k, p) in g.inputs.iter().enumerate() {
        places.insert(p.value, Place::Array(Source::Input(k)));
    }
    for (_, n) in g.nodes() {
        if let Op::Const(c) = &n.op {
            let scalar = (c.value.len() == 1).then(|| c.value.get(0))?;
            places.insert(n.outputs[0], Place::Scalar(c.value.dtype(), scalar));
            continue;
        }
        let types = |values: &[ValueId]| -> Vec<Type> { values.iter().map(|v| g.ty(*v).clone()).collect() };
        let c = n.op.compute(&types(&n.inputs), &types(&n.outputs))?;
        let operands: Vec<Place> = n.inputs.iter().map(|v| places.get(v).copied()).collect::<Option<_>>()?;
        let first = stages.len();
        let load = |source: Source, at: Vec<Expr>| match source {
            Source::Stage(k) => Expr::Load(Source::Stage(first + k), at),
            Source::Input(k) => load_place(operands[k], at),
        };
        stages.extend(c.stages.into_iter().map(|s| Stage { value: s.value.map_loads(&load), ..s }));
        for (v, k) in n.outputs.iter().zip(c.outputs) {
            places.insert(*v, Place::Array(Source::Stage(first + k)));
        }
    }
    let mut outputs = Vec::new();
    for p in &g.outputs {
        outputs.push(match places.get(&p.value)? {
            Place::Array(Source::Stage(k)) => *k,
            place => {
                stages.push(copy(g.ty(p.value), *place));
                stages.len() - 1
            }
        });
    }
    let inputs = g.inputs.iter().map(|p| g.ty(p.value).clone()).collect();
    Some(Compute { inputs, stages, outputs, constants: BTreeSet::new() })
}

fn load_place(place: Place, at: Vec<Expr>) -> Expr {
    match place {
        Place::Array(source) => Expr::Load(source, at),
        Place::Scalar(dtype, value) => Expr::Const(dtype, value),
    }
}

fn copy(ty: &Type, from: Place) -> Stage {
    let axes = Axis::outputs(&ty.dims);
    let at = axes.iter().map(|a| Expr::Index(a.dim())).collect();
    Stage::map(ty.dtype, axes, load_place(from, at))
}

/// Inlines stage `k` into every stage that reads it, if that is worth it.
fn inline(c: &mut Compute, k: usize) {
    let map = c.stages[k].clone();
    let readers: Vec<usize> =
        (k + 1..c.stages.len()).filter(|&r| !loads(&c.stages[r], k).is_empty()).collect();
    if map.reduction.is_some() || readers.is_empty() || !is_worth_it(c, k, &readers) {
        return;
    }
    let mut changed: Vec<(usize, Stage)> = Vec::new();
    for r in readers {
        let reader = &c.stages[r];
        let n_loads = n_loads(&reader.value, k);
        if n_nodes(&reader.value).saturating_add(n_loads.saturating_mul(n_nodes(&map.value))) > MAX_NODES {
            return;
        }
        let Some(value) = substituted(&reader.value, k, &map) else { return };
        changed.push((r, simplify::stage(&Stage { value, ..reader.clone() })));
    }
    for (r, stage) in changed {
        c.stages[r] = stage;
    }
    if !c.outputs.contains(&k) {
        // It reads nothing any more.
        c.stages[k].value = Expr::Const(map.dtype, Scalar::zero(map.dtype));
    }
}

fn is_worth_it(c: &Compute, k: usize, readers: &[usize]) -> bool {
    let map = &c.stages[k];
    let cost = cost(&map.value);
    if cost > 0 && c.outputs.contains(&k) {
        return false;
    }
    let evaluations: Dim = readers
        .iter()
        .map(|&r| c.stages[r].points() * Dim::from(loads(&c.stages[r], k).len()))
        .reduce(|a, b| a + b)
        .unwrap_or_default();
    let at_most = |times: i64| (map.points() * times.into() - evaluations.clone()).is_not_negative();
    if cost == 0 {
        return at_most(1) || c.outputs.contains(&k) || !moves_elements_of_a_map(c, k);
    }
    if is_epilogue(c, k) {
        return at_most(1) && readers.iter().all(|&r| c.stages[r].reduction.is_none());
    }
    at_most(1) || cost <= CHEAP && at_most(MAX_RECOMPUTATION)
}

/// Whether stage `k` moves elements that a map computes for it alone. Read often, they are better computed in the places
/// that they are moved to, than in the map's and read from all over it.
fn moves_elements_of_a_map(c: &Compute, k: usize) -> bool {
    (0..k).any(|s| {
        let source = &c.stages[s];
        let is_costly_map = source.reduction.is_none() && cost(&source.value) > 0;
        let is_no_larger = || (source.points() - c.stages[k].points()).is_not_negative();
        is_costly_map && only_indices(c, s, k).is_some() && is_no_larger()
    })
}

/// Whether stage `k` maps a reduction's result element by element, and nothing else reads that.
fn is_epilogue(c: &Compute, k: usize) -> bool {
    let (dims, here) = (c.stages[k].ty().dims, c.stages[k].indices());
    let in_place = |(a, b): (&Dim, &Dim)| a == b || a.is(0);
    (0..k)
        .filter(|&r| c.stages[r].reduction.is_some() && c.stages[r].ty().dims == dims)
        .any(|r| only_indices(c, r, k).is_some_and(|at| at.iter().zip(&here).all(in_place)))
}

/// Writes the index 0 into an axis of extent 1 of an earlier stage as an axis of this stage that has extent 1 too, that
/// in the same place if it has: element by element is then visibly in place.
fn name_single_indices(c: &mut Compute, k: usize) {
    let s = &c.stages[k];
    let is_one = |a: &Axis| a.extent.is(1);
    let name = |r: usize, at: Vec<Expr>| -> Vec<Expr> {
        let mut free: Vec<usize> = (0..s.axes.len()).filter(|p| is_one(&s.axes[*p])).collect();
        let single = |(p, e): (usize, Expr)| {
            if !is_one(&c.stages[r].axes[p]) || e != Expr::int(0) || free.is_empty() {
                return e;
            }
            let at = free.iter().position(|f| *f == p).unwrap_or(0);
            Expr::Index(s.axes[free.remove(at)].dim())
        };
        at.into_iter().enumerate().map(single).collect()
    };
    let value = s.value.map_loads(&|source, at| match source {
        Source::Stage(r) => Expr::Load(source, name(r, at)),
        Source::Input(_) => Expr::Load(source, at),
    });
    c.stages[k].value = value;
}

/// Gives a reduction the axes of the one map that reads it, if that reads it as if reshaped to its own extents.
fn reshape_reduction(c: &mut Compute, k: usize) {
    let map = &c.stages[k];
    let Some((r, at)) = (0..k).find_map(|r| Some((r, only_indices(c, r, k)?))) else { return };
    let from = &c.stages[r];
    let dims = |s: &Stage| -> Vec<Dim> { s.axes.iter().map(|a| a.extent.clone()).collect() };
    let numel = |s: &Stage| s.ty().numel();
    let here: Vec<Dim> = map.axes.iter().map(|a| if a.extent.is(1) { 0.into() } else { a.dim() }).collect();
    let is_reshape = numel(map) == numel(from)
        && flatten(&at, &dims(from)).join_div_mod() == flatten(&here, &dims(map)).join_div_mod();
    if map.reduction.is_some() || from.reduction.is_none() || !is_reshape || dims(from) == dims(map) {
        return;
    }
    let moved = |s: &Sym| from.axes.iter().position(|a| a.var == *s).map(|p| at[p].clone());
    let over = |a: &Axis| Axis { var: a.var.clone(), extent: a.extent.subst(&moved) };
    let reduction =
        from.reduction.as_ref().map(|r| Reduction { op: r.op, axes: r.axes.iter().map(over).collect() });
    let reshaped =
        Stage { dtype: from.dtype, axes: map.axes.clone(), reduction, value: from.value.subst(&moved) };
    let here: Vec<Expr> = map.indices().into_iter().map(Expr::Index).collect();
    let value = map.value.map_loads(&|s, at| match s {
        Source::Stage(j) if j == r => Expr::Load(s, here.clone()),
        _ => Expr::Load(s, at),
    });
    c.stages[r] = simplify::stage(&reshaped);
    c.stages[k].value = value;
}

/// The indices at which stage `k` reads stage `r`, if it does so at these only, and nothing else does.
fn only_indices(c: &Compute, r: usize, k: usize) -> Option<Vec<Dim>> {
    let is_read_elsewhere = || {
        c.outputs.contains(&r) || c.stages.iter().enumerate().any(|(j, s)| j != k && !loads(s, r).is_empty())
    };
    match loads(&c.stages[k], r)[..] {
        [at] if !is_read_elsewhere() => at
            .iter()
            .map(|e| match e {
                Expr::Index(d) => Some(d.clone()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// The different indices at which a stage loads stage `k`.
fn loads(s: &Stage, k: usize) -> Vec<&[Expr]> {
    let mut found: Vec<&[Expr]> = Vec::new();
    each_load(&s.value, k, &mut |at| {
        if !found.contains(&at) {
            found.push(at);
        }
    });
    found
}

fn n_loads(e: &Expr, k: usize) -> usize {
    let mut n = 0;
    each_load(e, k, &mut |_| n += 1);
    n
}

fn each_load<'a>(e: &'a Expr, k: usize, f: &mut dyn FnMut(&'a [Expr])) {
    match e {
        Expr::Const(..) | Expr::Index(_) => {}
        Expr::Load(s, at) => {
            if *s == Source::Stage(k) {
                f(at);
            }
            at.iter().for_each(|e| each_load(e, k, f));
        }
        Expr::Call(_, args) => args.iter().for_each(|e| each_load(e, k, f)),
        Expr::Cast(_, e) => each_load(e, k, f),
    }
}

fn n_nodes(e: &Expr) -> usize {
    let mut n = 0;
    e.visit(&mut |_| n += 1);
    n
}

/// What an element costs, in additions. Addresses and conversions are part of loading.
pub fn cost(e: &Expr) -> usize {
    match e {
        Expr::Const(..) | Expr::Index(_) => 0,
        Expr::Load(_, args) => args.iter().map(cost).sum(),
        Expr::Cast(_, e) => cost(e),
        Expr::Call(_, args) if args.iter().all(|a| matches!(a, Expr::Index(_))) => 0,
        Expr::Call(ScalarFn::Select, args) => args.iter().map(cost).sum(),
        Expr::Call(f, args) => f.cost() + args.iter().map(cost).sum::<usize>(),
    }
}

/// The expression with loads of stage `k` replaced by its element; `None` where an index is data that can't be put
/// into the element's index expressions.
fn substituted(e: &Expr, k: usize, map: &Stage) -> Option<Expr> {
    let all = |es: &[Expr]| es.iter().map(|e| substituted(e, k, map)).collect::<Option<Vec<Expr>>>();
    Some(match e {
        Expr::Const(..) | Expr::Index(_) => e.clone(),
        Expr::Load(Source::Stage(s), at) if *s == k => element(&map.value, &map.axes, &all(at)?)?,
        Expr::Load(s, at) => Expr::Load(*s, all(at)?),
        Expr::Call(f, args) => Expr::Call(*f, all(args)?),
        Expr::Cast(to, e) => Expr::Cast(*to, substituted(e, k, map)?.into()),
    })
}

/// `e` with axes replaced by indices.
fn element(e: &Expr, axes: &[Axis], at: &[Expr]) -> Option<Expr> {
    let all = |es: &[Expr]| es.iter().map(|e| element(e, axes, at)).collect::<Option<Vec<Expr>>>();
    Some(match e {
        Expr::Const(..) => e.clone(),
        Expr::Index(d) => index(d, axes, at)?,
        Expr::Load(s, args) => Expr::Load(*s, all(args)?),
        Expr::Call(f, args) => Expr::Call(*f, all(args)?),
        Expr::Cast(to, e) => Expr::Cast(*to, element(e, axes, at)?.into()),
    })
}

fn index(d: &Dim, axes: &[Axis], at: &[Expr]) -> Option<Expr> {
    let of = |s: &Sym| axes.iter().position(|a| a.var == *s).map(|k| &at[k]);
    if let Some(e) = d.as_sym().and_then(of) {
        return Some(e.clone());
    }
    let known = |e: &Expr| match e {
        Expr::Index(d) => Some(d.clone()),
        _ => None,
    };
    let is_known = d.symbols().iter().all(|s| of(s).is_none_or(|e| known(e).is_some()));
    is_known.then(|| Expr::Index(d.subst(&|s| of(s).and_then(known))))
}

/// Drops stages that no output needs.
fn remove_dead(c: &mut Compute) {
    let mut live = vec![false; c.stages.len()];
    c.outputs.iter().for_each(|&k| live[k] = true);
    for k in (0..c.stages.len()).rev().filter(|&k| live[k]).collect::<Vec<_>>() {
        mark(&c.stages, k, &mut live);
    }
    let mut number = vec![0; live.len()];
    let mut next = 0;
    for (k, live) in live.iter().enumerate().filter(|(_, live)| **live) {
        number[k] = next;
        next += usize::from(*live);
    }
    let load = |s: Source, at: Vec<Expr>| match s {
        Source::Stage(k) => Expr::Load(Source::Stage(number[k]), at),
        input => Expr::Load(input, at),
    };
    let kept = std::mem::take(&mut c.stages).into_iter().zip(&live).filter(|(_, live)| **live);
    c.stages = kept.map(|(s, _)| Stage { value: s.value.map_loads(&load), ..s }).collect();
    c.outputs.iter_mut().for_each(|k| *k = number[*k]);
}

/// Marks what stage `k` needs, directly or not.
fn mark(stages: &[Stage], k: usize, live: &mut [bool]) {
    let mut needed = Vec::new();
    stages[k].value.visit(&mut |e| {
        if let Expr::Load(Source::Stage(s), _) = e {
            needed.push(*s);
        }
    });
    for s in needed {
        if !std::mem::replace(&mut live[s], true) {
            mark(stages, s, live);
        }
    }
}

/// Names axes by their positions: `i0, i1, ..`, and `k0, k1, ..` where they are reduced over.
fn rename_axes(s: &mut Stage) {
    let over = s.reduction.iter().flat_map(|r| &r.axes);
    let named = |prefix: &str, k: usize| Dim::named(&format!("{prefix}{k}"));
    let outer = s.axes.iter().enumerate().map(|(k, a)| (a.var.clone(), named("i", k)));
    let names: HashMap<_, Dim> =
        outer.chain(over.enumerate().map(|(k, a)| (a.var.clone(), named("k", k)))).collect();
    let renamed = |s: &Sym| names.get(s).cloned();
    let rename = |a: &Axis| Axis {
        var: renamed(&a.var).and_then(|d| d.as_sym().cloned()).unwrap_or_else(|| a.var.clone()),
        extent: a.extent.subst(&renamed),
    };
    s.axes = s.axes.iter().map(rename).collect();
    if let Some(r) = &mut s.reduction {
        r.axes = r.axes.iter().map(rename).collect();
    }
    s.value = s.value.subst(&renamed);
}
