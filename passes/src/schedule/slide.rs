//! Windows that slide over the columns of arrays whose innermost axis is another one: convolution, depthwise
//! convolution and pooling with channels innermost.
//!
//! A register tile is some columns of the output by vectors of channels. Whether a tap lies in the operand is never
//! asked in the inner loop: conditions on rows stand around the loops over a row's taps, and of the columns of a tile at
//! the border each tap has a loop of its own over those that it reaches.

mod tile;

use super::Frame;
use super::contract::{FAR, Roles, Shape, Tiles, packed, packed_buffer};
use super::nest::{Flat, Nest};
use super::space::Prediction;
use crate::packing::Packing;
use crate::rewrite::cost::NOMINAL;
use aic_ir::compute::{Axis, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::Stmt;
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::schedule::{Class, Schedule};
use aic_ir::target::Target;
use std::collections::HashMap;
use std::ops::Range;
use tile::Maker;

pub(super) use tile::{prefetch, prefetch_near};

/// Taps of a row that have loops of their own at the border.
const MAX_TAPS: i64 = 16;
/// Taps of a window that have a copy of the code each where terms are vectors.
const MAX_WINDOW: i64 = 32;
/// Columns of a tile at most.
const MAX_COLUMNS: i64 = 14;

/// The parts of such a nest.
struct Parts<'a> {
    /// What is combined.
    term: Term<'a>,
    /// The axis of the columns: the last but one.
    column: &'a Axis,
    /// The axis of the vectors: the last.
    vector: &'a Axis,
    /// Conditions that don't depend on the column.
    conditions: Vec<&'a Flat>,
    /// Which of the axes reduced over conditions on columns depend on.
    tap: Option<usize>,
    /// The columns that each tap of a row reaches.
    reach: Vec<Range<i64>>,
}

/// What is combined.
#[derive(Clone, Copy)]
enum Term<'a> {
    /// A scalar of each column times a vector of channels that all columns share.
    Product(&'a Flat, &'a Flat),
    /// A vector for each column.
    Vector(&'a Flat),
}

/// Whether the nest is such a window.
pub fn fits(nest: &Nest) -> bool {
    Parts::new(nest).is_some()
}

impl<'a> Parts<'a> {
    fn new(nest: &'a Nest) -> Option<Parts<'a>> {
        let (op, over) = nest.reduction.as_ref()?;
        let [_, .., column, vector] = &nest.axes[..] else { return None };
        let taps: Vec<i64> = over.iter().map(|a| a.extent.as_const()).collect::<Option<_>>()?;
        if nest.kept.is_some() || op.combine().is_none() {
            return None;
        }
        let (guards, value) = split_guard(*op, nest);
        let term = term(*op, nest, value, column, vector)?;
        let is_small = taps.iter().product::<i64>() <= MAX_WINDOW;
        if matches!(term, Term::Vector(_)) && !is_small || guards.is_empty() && over.len() < 2 {
            return None;
        }
        if guards.iter().any(|g| g.mentions(&vector.var) || !g.loads().is_empty()) {
            return None;
        }
        let (on_columns, conditions): (Vec<&Flat>, Vec<&Flat>) =
            guards.into_iter().partition(|g| g.mentions(&column.var));
        let (tap, reach) = reach(&on_columns, column, over)?;
        Some(Parts { term, column, vector, conditions, tap, reach })
    }

    /// The vectors that all columns share, packed in panels of so many channels, if they are of a constant.
    fn packed(&self, nest: &Nest, columns: u32) -> Option<(usize, Packing, Flat)> {
        let Term::Product(scalar, vector) = self.term else { return None };
        let n = nest.axes.len() - 1;
        packed(nest, &Roles { n, m: n.checked_sub(1), scalar, vector }, columns)
    }

    /// The tiles of columns, and whether every tap reaches all of each.
    fn tiles(&self, width: i64) -> Vec<(Range<i64>, bool)> {
        let n = self.column.extent.as_const().unwrap_or(0);
        let starts = (0..n).step_by(width.max(1) as usize);
        let tile = |from: i64| from..(from + width).min(n);
        let is_inside = |t: &Range<i64>| self.reach.iter().all(|r| r.start <= t.start && t.end <= r.end);
        starts.map(tile).map(|t| (t.clone(), is_inside(&t))).collect()
    }
}

/// The conditions under which a term counts, and the term.
fn split_guard(op: ReduceOp, nest: &Nest) -> (Vec<&Flat>, &Flat) {
    if let Flat::Call(ScalarFn::Select, args) = &nest.value
        && let [cond, value, Flat::Const(_, other)] = &args[..]
        && is_identity(op, nest, *other)
    {
        let mut guards = Vec::new();
        conjuncts(cond, &mut guards);
        return (guards, value);
    }
    (Vec::new(), &nest.value)
}

/// Whether combining a value with it leaves the value as it is.
fn is_identity(op: ReduceOp, nest: &Nest, other: Scalar) -> bool {
    let identity = op.identity(nest.acc);
    match (other, identity) {
        (Scalar::F(a), Scalar::F(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}

fn conjuncts<'a>(e: &'a Flat, out: &mut Vec<&'a Flat>) {
    match e {
        Flat::Call(ScalarFn::And, args) => args.iter().for_each(|a| conjuncts(a, out)),
        _ => out.push(e),
    }
}

/// The term, if its loads are contiguous along the vectors, or the same for all lanes.
fn term<'a>(op: ReduceOp, nest: &Nest, value: &'a Flat, column: &Axis, vector: &Axis) -> Option<Term<'a>> {
    let is_plain = |e: &Flat| {
        let steps = e.steps(&vector.var);
        !steps.is_empty() && steps.iter().all(|s| s.as_ref().is_some_and(|s| s.is(0) || s.is(1)))
    };
    if !is_plain(value) || !value.mentions(&vector.var) || !value.mentions(&column.var) {
        return None;
    }
    if let (Flat::Call(ScalarFn::Mul, factors), ReduceOp::Sum) = (value, op)
        && let [a, b] = &factors[..]
    {
        let is_product = |scalar: &Flat, vector_factor: &Flat| {
            !scalar.mentions(&vector.var)
                && vector_factor.mentions(&vector.var)
                && !vector_factor.mentions(&column.var)
        };
        if is_product(a, b) {
            return Some(Term::Product(a, b));
        }
        if is_product(b, a) {
            return Some(Term::Product(b, a));
        }
    }
    // Vectors don't overlap those of other taps.
    let n = vector.extent.as_const()?;
    let is_apart = |a: &Axis| {
        let steps = value.steps(&a.var);
        steps.iter().all(|s| s.as_ref().and_then(Dim::as_const).is_some_and(|s| s == 0 || s >= n))
    };
    let all_vectors = value.steps(&vector.var).iter().all(|s| s.as_ref().is_some_and(|s| s.is(1)));
    (all_vectors && nest.over().iter().all(is_apart)).then_some(Term::Vector(value))
}

/// The axis that conditions on columns depend on beside the column, and the columns for which they hold at each of its
/// values.
fn reach(conditions: &[&Flat], column: &Axis, over: &[Axis]) -> Option<(Option<usize>, Vec<Range<i64>>)> {
    let n = column.extent.as_const()?;
    let all: Vec<Dim> = conditions.iter().map(|c| not_negative(c)).collect::<Option<_>>()?;
    let tap = (0..over.len()).find(|k| all.iter().any(|d| d.mentions(&over[*k].var)));
    let taps = tap.map_or(Some(1), |k| over[k].extent.as_const())?;
    if taps > MAX_TAPS {
        return None;
    }
    let mut found = vec![0..n; taps as usize];
    for d in &all {
        let (by_column, rest) = d.affine_in(&column.var)?;
        let (by_tap, rest) = match tap {
            Some(k) => rest.affine_in(&over[k].var)?,
            None => (0.into(), rest),
        };
        let (by_column, by_tap, rest) = (by_column.as_const()?, by_tap.as_const()?, rest.as_const()?);
        for (tap, range) in found.iter_mut().enumerate() {
            let holds = |at: &i64| by_column * at + by_tap * tap as i64 + rest >= 0;
            let start = range.clone().find(holds).unwrap_or(range.end);
            let end = range.clone().rev().find(holds).map_or(start, |last| last + 1);
            *range = start..end;
        }
    }
    Some((tap, found))
}

/// What isn't negative where a comparison holds.
fn not_negative(e: &Flat) -> Option<Dim> {
    let Flat::Call(f, args) = e else { return None };
    let [Flat::Index(a), Flat::Index(b)] = &args[..] else { return None };
    let (up, down) = (b.clone() - a.clone(), a.clone() - b.clone());
    match f {
        ScalarFn::Ge => Some(down),
        ScalarFn::Gt => Some(down - 1.into()),
        ScalarFn::Le => Some(up),
        ScalarFn::Lt => Some(up - 1.into()),
        _ => None,
    }
}

/// A register tile for the nest.
pub fn choose(nest: &Nest, target: &Target, lanes: u32) -> Option<Schedule> {
    let parts = Parts::new(nest)?;
    let lanes = super::fit(lanes, Some(&parts.vector.extent));
    let columns = parts.column.extent.as_const()?;
    let vectors = parts.vector.extent.as_const().map(|n| (n + i64::from(lanes) - 1) / i64::from(lanes));
    let registers = i64::from(target.vector_registers);
    let (class, mr, nr) = match parts.term {
        Term::Product(..) => {
            let terms: i64 = nest.over().iter().filter_map(|a| a.extent.as_const()).product();
            let cache = target.second_cache_bytes();
            // A panel of weights is read again for every row, from the second level if it stays there.
            let vector_bytes = terms * i64::from(target.vector_bytes);
            let most = (cache * 5 / 8 / vector_bytes.max(1)).max(1);
            let (mr, nr) = product_tile(columns, vectors, registers, most);
            (Class::Contract, mr, nr)
        }
        Term::Vector(value) => {
            let most = (registers / 2 - 2).min(MAX_COLUMNS);
            let class = if is_product(nest, value) { Class::Contract } else { Class::ReduceOuter };
            (class, even(columns, most), 1)
        }
    };
    let s = Schedule { mr: mr as u32, nr: nr as u32, ..Schedule::new(class, lanes) };
    let Some((_, packing, _)) = parts.packed(nest, s.nr * lanes) else { return Some(s) };
    let ahead = ahead(&packing, nest.acc.size(), target);
    Some(Schedule { pack: s.nr * lanes, ahead, ..s })
}

/// Whether a schedule evaluates such a window.
pub fn allows(nest: &Nest, s: &Schedule) -> bool {
    let Some(parts) = Parts::new(nest).filter(|_| [s.kc, s.mc, s.panel].iter().all(|n| *n == 0)) else {
        return false;
    };
    let is_known = s.nr == 1 || parts.vector.extent.as_const().is_some();
    let has_place = match s.pack {
        0 => s.ahead == 0,
        pack => {
            let packed = if pack == s.nr * s.lanes { parts.packed(nest, pack) } else { None };
            packed.is_some_and(|(_, p, _)| s.ahead == 0 || s.ahead as usize == p.n_terms())
        }
    };
    is_known && has_place
}

/// Values of the distance ahead, and whether the weights can be packed.
pub fn choices(nest: &Nest, s: &Schedule) -> (Vec<u32>, Vec<u32>) {
    let packed = Parts::new(nest).and_then(|p| p.packed(nest, s.nr * s.lanes));
    match packed.and_then(|(_, p, _)| u32::try_from(p.n_terms()).ok()) {
        Some(terms) => (vec![0, terms], vec![0, 1]),
        None => (Vec::new(), Vec::new()),
    }
}

/// What a schedule of such a window should cost.
pub fn predict(nest: &Nest, s: &Schedule, target: &Target) -> Option<Prediction> {
    let parts = Parts::new(nest)?;
    let known = |extents: &mut dyn Iterator<Item = &Axis>| {
        extents.map(|a| a.extent.as_const().unwrap_or(NOMINAL).max(1)).fold(1i64, i64::saturating_mul)
    };
    let (columns, channels) =
        (known(&mut [parts.column].into_iter()), known(&mut [parts.vector].into_iter()));
    let outer = known(&mut nest.axes[..nest.axes.len() - 2].iter());
    let terms = known(&mut nest.over().iter());
    let vectors = (channels + i64::from(s.lanes) - 1) / i64::from(s.lanes);
    let shape = Shape::of(target, [columns, vectors, terms, outer], s.lanes);
    Some(match parts.term {
        Term::Product(..) => shape.predict(&Schedule { mc: 0, kc: 0, ..s.clone() }),
        Term::Vector(_) => shape.of_vectors().predict(s),
    })
}

/// The terms of a panel if the next one is to be asked for while it is used: all of them are likely to come from afar, and
/// a panel leaves room in the second cache.
fn ahead(packing: &Packing, element: usize, target: &Target) -> u32 {
    let near = target.second_cache_bytes() as usize;
    let panel = packing.n_terms().saturating_mul(packing.panel).saturating_mul(element);
    let is_far = panel.saturating_mul(packing.n_panels()) > near / FAR as usize && panel <= near / 4 * 3;
    if is_far { u32::try_from(packing.n_terms()).unwrap_or(0) } else { 0 }
}

/// What an input of the nest is to be for a schedule, if it is to be packed.
pub fn packing(nest: &Nest, s: &Schedule) -> Option<(usize, Packing)> {
    let (input, packing, _) = Parts::new(nest).filter(|_| s.pack > 0)?.packed(nest, s.pack)?;
    Some((input, packing))
}

/// Whether terms are products that are added up, each rounded once.
fn is_product(nest: &Nest, value: &Flat) -> bool {
    matches!(nest.reduction, Some((ReduceOp::Sum, _))) && matches!(value, Flat::Call(ScalarFn::Mul, _))
}

/// The width of the fewest tiles of `most` columns at most.
pub(super) fn even(columns: i64, most: i64) -> i64 {
    let tiles = (columns + most - 1) / most.max(1);
    (columns + tiles - 1) / tiles.max(1)
}

/// Columns and vectors, `most` at most, of the register tile that takes least time.
fn product_tile(columns: i64, vectors: Option<i64>, registers: i64, most: i64) -> (i64, i64) {
    let width = |nr: i64| even(columns, ((registers - 1 - nr) / nr).min(MAX_COLUMNS));
    // Tenths of cycles per term: two multiply-adds and two loads a cycle, latencies, weights from the second level.
    let step = |w: i64, nr: i64| (5 * w * nr).max(5 * (w + nr)).max(40).max(16 * nr) + 5;
    let cost = |nr: &i64| {
        let w = width(*nr);
        let (whole, rest) = (columns / w, columns % w);
        let row = |nr: i64| whole * step(w, nr) + if rest > 0 { step(rest, nr) } else { 0 };
        match vectors {
            None => row(*nr) * 12 / nr,
            Some(v) => v / nr * row(*nr) + if v % nr > 0 { row(v % nr) } else { 0 },
        }
    };
    let most = most.min(if registers >= 32 { 4 } else { 2 });
    let nr = (1..=vectors.unwrap_or(most).min(most)).min_by_key(cost).unwrap_or(1);
    (width(nr), nr)
}

/// The statements of the kernel.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let Some(parts) = Parts::new(nest) else { return Vec::new() };
    let packed = if s.pack > 0 { parts.packed(nest, s.pack) } else { None };
    match (packed, parts.term) {
        (Some((input, packing, vector)), Term::Product(scalar, _)) => {
            let mut nest = nest.clone();
            nest.inputs[input] = packed_buffer(&nest.inputs[input], &packing);
            statements(&nest, s, &Parts { term: Term::Product(scalar, &vector), ..parts }, frame)
        }
        _ => statements(nest, s, &parts, frame),
    }
}

/// The statements for a nest whose parts are known.
fn statements(nest: &Nest, s: &Schedule, parts: &Parts, frame: &mut Frame) -> Vec<Stmt> {
    let lanes = i64::from(s.lanes);
    let panels = Tiles::new(&parts.vector.extent, i64::from(s.nr) * lanes, lanes);
    let outer = &nest.axes[..nest.axes.len() - 2];
    let mut extents: Vec<Dim> = outer.iter().map(|a| a.extent.clone()).collect();
    // A panel of the weights serves all rows; what is vectors altogether is read in the order of memory.
    let by_panels = matches!(parts.term, Term::Product(..));
    let place = extents.len().saturating_sub(1);
    if by_panels {
        extents.insert(place, panels.steps());
    }
    let mut index = frame.index(&extents);
    let panel = if by_panels { index.remove(place) } else { 0.into() };
    let axes: HashMap<Sym, Dim> = outer.iter().zip(&index).map(|(a, i)| (a.var.clone(), i.clone())).collect();
    let tiles = parts.tiles(i64::from(s.mr));
    let mut maker = Maker { nest, s, parts, axes, frame };
    let body = match by_panels {
        true => panels.visit(&panel, &mut |n0, part| maker.row(&tiles, n0, part)),
        false => {
            let jt = Sym::new("jt");
            maker.columns(&tiles, &mut |maker, at, tile| {
                panels.each(&jt, &mut |n0, part| maker.tile(at.clone(), tile, n0, part))
            })
        }
    };
    maker.frame.outermost(&extents, body)
}
