//! Contractions whose vector factor is copied first: convolutions with padding, strides or several taps.
//!
//! A kernel copies what a block of output columns reads into a panel on its stack, one row of columns per term of the
//! sum, and then multiplies as if the factor had been a plain matrix: no conditions and aligned vectors in the inner
//! loop, whose columns may span rows of the output. Copying costs one load and store per element of the panel, which
//! all rows of the other factor share. Where the panel of all terms would not stay in the cache, there is one for each
//! block of terms, and the sums wait in between. They are in the order of the contraction without a panel.

mod copy;
mod multiply;

use super::Frame;
use super::contract::{Shape, roles, vector_rows};
use super::nest::{Flat, Nest};
use super::space::Prediction;
use crate::rewrite::cost::CLOCK;
use aic_ir::compute::{Axis, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Buffer, Expr, Scope, Stmt};
use aic_ir::scalar::ScalarFn;
use aic_ir::schedule::{Class, Schedule};
use aic_ir::target::{MAX_ARRAY_BYTES, Target};
use std::collections::HashMap;

/// The most columns of a row of the output that a panel holds whole rows of.
const MAX_ROW: i64 = 128;
/// Rows of the other factor that are worth copying a panel for.
const MIN_ROWS: i64 = 8;
/// Rows of the other factor that are worth copying a panel for only because its own rows lie apart, and how many bytes
/// that is: about a page, so that each is found by itself and they compete for the same places of a cache.
const FAR_ROWS: i64 = 48;
const FAR_BYTES: i64 = 2048;
/// The most parts that the rows of the other factor are cut into.
const MAX_BLOCKS: i64 = 8;
/// Terms that are worth waiting for the sums' next block.
const MIN_TERMS: i64 = 128;
/// Cycles to copy a vector.
const COPY: f64 = 3.0;

/// The parts of a contraction with a panel.
struct Parts<'a> {
    /// The axis of the vectors: the innermost.
    column: usize,
    /// The axis outside it, if the columns of its values follow one another in the output.
    row: Option<usize>,
    /// The axis of the rows of the other factor.
    m: usize,
    /// The factor that is broadcast.
    scalar: &'a Flat,
    /// The factor that is copied.
    vector: &'a Flat,
    /// Extents of these axes.
    columns: i64,
    rows: i64,
    n_rows: i64,
    /// The number of terms of the sum.
    terms: i64,
}

impl<'a> Parts<'a> {
    fn new(nest: &'a Nest) -> Option<Parts<'a>> {
        let (ReduceOp::Sum, over) = nest.reduction.as_ref()? else { return None };
        let Flat::Call(ScalarFn::Mul, factors) = &nest.value else { return None };
        let [a, b] = &factors[..] else { return None };
        if nest.kept.is_some() {
            return None;
        }
        let terms = over.iter().try_fold(1i64, |n, a| n.checked_mul(a.extent.as_const()?))?;
        [(a, b), (b, a)].into_iter().find_map(|(scalar, vector)| Parts::of(nest, scalar, vector, terms))
    }

    fn of(nest: &Nest, scalar: &'a Flat, vector: &'a Flat, terms: i64) -> Option<Parts<'a>> {
        let column = nest.axes.len().checked_sub(1)?;
        let extent = |k: usize| nest.axes[k].extent.as_const();
        let reads = |f: &Flat, k: usize| f.mentions(&nest.axes[k].var);
        let slides = |k: usize| reads(vector, k) && !reads(scalar, k) && extent(k).is_some();
        let follows = |k: &usize| slides(*k) && nest.continues(&nest.axes[*k], &nest.axes[column]);
        let row = column.checked_sub(1).filter(follows);
        let m = (0..column).rev().find(|&k| reads(scalar, k) && !reads(vector, k))?;
        let is_affine = vector.loads().len() == 1 && vector.steps(&nest.axes[column].var)[0].is_some();
        let fits = slides(column) && is_affine && is_row_major(scalar, nest.over());
        let (columns, rows, n_rows) = (extent(column)?, row.map_or(Some(1), extent)?, extent(m)?);
        fits.then_some(Parts { column, row, m, scalar, vector, columns, rows, n_rows, terms })
    }

    /// The axes outside of panels; the rows of the output are inside, if panels hold whole ones.
    fn outer<'n>(&self, nest: &'n Nest, by_rows: bool) -> Vec<&'n Axis> {
        let inside = [Some(self.column), Some(self.m), self.row.filter(|_| by_rows)];
        (0..nest.axes.len()).filter(|k| !inside.contains(&Some(*k))).map(|k| &nest.axes[k]).collect()
    }

    /// Whether the factor could be loaded in vectors as it is.
    fn is_plain(&self, nest: &Nest) -> bool {
        let mut is_load = true;
        self.vector.visit(&mut |e| is_load &= !matches!(e, Flat::Call(..)));
        let step = &self.vector.steps(&nest.axes[self.column].var)[0];
        is_load && self.row.is_none() && step.as_ref().is_some_and(|s| s.is(1))
    }
}

impl Parts<'_> {
    /// Whether the rows of the factor that is copied lie far from one another.
    fn lies_apart(&self, nest: &Nest) -> bool {
        let Some(Flat::Load { input, .. }) = self.vector.loads().first().copied() else { return false };
        let size = nest.inputs[*input].dtype.size() as i64;
        let step = |a: &Axis| self.vector.steps(&a.var).first()?.as_ref()?.as_const();
        nest.over()
            .last()
            .and_then(step)
            .is_some_and(|s| s.saturating_abs().saturating_mul(size) >= FAR_BYTES)
    }
}

/// Whether a factor is a load whose address runs evenly through the terms of the sum.
fn is_row_major(f: &Flat, over: &[Axis]) -> bool {
    let f = if let Flat::Cast(_, e) = f { e } else { f };
    let step = |a: &Axis| f.steps(&a.var).first().cloned().flatten();
    let follows = |pair: &[Axis]| match (step(&pair[0]), step(&pair[1])) {
        (Some(outer), Some(inner)) => outer == inner * pair[1].extent.clone(),
        _ => false,
    };
    matches!(f, Flat::Load { .. }) && over.iter().all(|a| step(a).is_some()) && over.windows(2).all(follows)
}

/// Columns that panels may have, 0 for none where the factor can be read as it is; nothing if there is no choice.
pub fn widths(nest: &Nest, lanes: u32) -> Vec<u32> {
    let Some(parts) = Parts::new(nest).filter(|p| p.columns > 1) else { return Vec::new() };
    let counts = [1, 2, 3, 4, 6, 8, 12, 16].into_iter();
    let widths: Vec<i64> = match parts.columns <= MAX_ROW {
        true => counts.filter(|r| *r <= parts.rows).map(|r| r * parts.columns).collect(),
        false => counts.map(|n| n * i64::from(lanes)).filter(|w| *w < parts.columns).collect(),
    };
    let none = roles(nest).map(|_| 0);
    none.into_iter().chain(widths).filter_map(|w| u32::try_from(w).ok()).collect()
}

/// Whether a schedule with a panel evaluates a nest.
pub fn allows(nest: &Nest, s: &Schedule) -> bool {
    let Some(parts) = Parts::new(nest).filter(|p| p.columns > 1) else { return false };
    let (width, kc) = (i64::from(s.panel), i64::from(s.kc));
    let is_width = match parts.columns <= MAX_ROW {
        true => width % parts.columns == 0 && width <= parts.rows * parts.columns,
        false => width % i64::from(s.lanes) == 0 && width < parts.columns,
    };
    let outermost = nest.over().first().and_then(|a| a.extent.as_const()).unwrap_or(1);
    let inner = parts.terms / outermost.max(1);
    let is_block =
        kc == 0 || inner > 0 && kc % inner == 0 && outermost % (kc / inner) == 0 && kc < parts.terms;
    let terms = if kc > 0 { kc } else { parts.terms };
    let row = Layout::new(width, parts.columns, s.lanes).stride.saturating_mul(nest.acc.size() as i64);
    let fits = |rows: i64| rows.saturating_mul(row) <= MAX_ARRAY_BYTES as i64;
    let has_room = fits(terms) && (kc == 0 || fits(parts.n_rows));
    [s.mc, s.pack, s.ahead].iter().all(|n| *n == 0) && is_width && is_block && has_room
}

/// What a schedule with a panel should cost.
pub fn predict(nest: &Nest, s: &Schedule, target: &Target) -> Option<Prediction> {
    let parts = Parts::new(nest)?;
    let width = i64::from(s.panel);
    let by_rows = width % parts.columns == 0;
    let total = if by_rows { parts.rows * parts.columns } else { parts.columns };
    let outer = parts.outer(nest, by_rows).iter().map(|a| &a.extent).product::<Dim>();
    let panels = outer.as_const().unwrap_or(1).saturating_mul(ceil(total, width));
    let vectors = ceil(width, i64::from(s.lanes));
    let shape = Shape::of(target, [parts.n_rows, vectors, parts.terms, panels], s.lanes);
    let mut found = shape.predict(&Schedule { mc: 0, ..s.clone() });
    let (blocks, _) = division(nest, &parts, width, s.lanes, i64::from(s.nr));
    let copied = panels.saturating_mul(blocks).saturating_mul(parts.terms).saturating_mul(vectors);
    let copying = copied as f64 * COPY / CLOCK;
    found.seconds += copying;
    found.computing += copying;
    Some(found)
}

/// A schedule with a panel, if the nest is a contraction that one is good for.
pub fn choose(nest: &Nest, target: &Target, lanes: u32) -> Option<Schedule> {
    let parts = Parts::new(nest)?;
    let may_stay = parts.is_plain(nest) && !(parts.n_rows >= FAR_ROWS && parts.lies_apart(nest));
    if parts.n_rows < MIN_ROWS || parts.columns < 2 || may_stay {
        return None;
    }
    let most = if target.vector_registers >= 32 { 4 } else { 2 };
    let cache = target.second_cache_bytes();
    let widths: Vec<i64> = match parts.columns <= MAX_ROW {
        true => (1..=parts.rows).map(|r| r * parts.columns).collect(),
        false => vec![most * i64::from(lanes)],
    };
    let plan = |width: i64| {
        let kc = term_block(nest, &parts, width, lanes, cache)?;
        let (_, cost) = division(nest, &parts, width, lanes, most);
        Some((cost, width, kc))
    };
    let (_, panel, kc) = widths.into_iter().rev().filter_map(plan).min_by_key(|(cost, ..)| *cost)?;
    let nr = tile_widths(panel, lanes, most)[0] as u32;
    let mr = vector_rows(target, nr).min(parts.n_rows as u32);
    Some(Schedule { mr, nr, kc: kc as u32, panel: panel as u32, ..Schedule::new(Class::Contract, lanes) })
}

/// Terms per block, so that a panel and the sums that wait stay in the cache; 0 for all of them at once.
fn term_block(nest: &Nest, parts: &Parts, width: i64, lanes: u32, cache: i64) -> Option<i64> {
    let element = nest.acc.size() as i64;
    let row = Layout::new(width, parts.columns, lanes).stride * element;
    if parts.terms * row <= cache * 5 / 8 {
        return Some(0);
    }
    let sums = parts.n_rows * row;
    let outermost = nest.over().first()?.extent.as_const()?;
    let inner = parts.terms / outermost;
    let fits = |n: &i64| outermost % n == 0 && n * inner * row <= cache * 3 / 8 && n * inner >= MIN_TERMS;
    (sums <= cache * 3 / 8).then(|| (1..outermost).rev().find(fits).map(|n| n * inner))?
}

/// Into how many parts the rows of the other factor are cut for panels of `width` columns, and the cost of that: tenths
/// of cycles per term, more where threads would wait for one another.
fn division(nest: &Nest, parts: &Parts, width: i64, lanes: u32, most: i64) -> (i64, i64) {
    let by_rows = width % parts.columns == 0;
    let total = if by_rows { parts.rows * parts.columns } else { parts.columns };
    // Half a cycle per vector, and the other factor's way through the caches.
    let multiply = |n: i64| tile_widths(n, lanes, most).iter().map(|v| 5 * v + 2).sum::<i64>();
    let copy = |n: i64| 30 * (n / parts.columns).max(1) * ceil(parts.columns.min(n), i64::from(lanes));
    let outer = parts.outer(nest, by_rows).iter().map(|a| &a.extent).product::<Dim>().as_const().unwrap_or(1);
    let cost = |blocks: i64| {
        let of = |n: i64| if n == 0 { 0 } else { parts.n_rows * multiply(n) + blocks * copy(n) };
        let tasks = outer.max(1).saturating_mul(ceil(total, width) * blocks).saturating_mul(10);
        (total / width * of(width) + of(total % width)) * tasks.saturating_add(4) / tasks
    };
    let candidates = (1..=MAX_BLOCKS).filter(|b| parts.n_rows % b == 0).map(|b| (b, cost(b)));
    candidates.min_by_key(|(_, cost)| *cost).unwrap_or((1, i64::MAX))
}

fn ceil(a: i64, b: i64) -> i64 {
    (a + b - 1) / b
}

/// Vectors of the register tiles, of `most` at most, that cover so many columns; the widest first.
fn tile_widths(columns: i64, lanes: u32, most: i64) -> Vec<i64> {
    let vectors = ceil(columns, i64::from(lanes));
    let tiles = ceil(vectors, most);
    (0..tiles).map(|k| vectors / tiles + i64::from(k < vectors % tiles)).collect()
}

/// The layout of a panel.
struct Layout {
    /// Columns that count.
    width: i64,
    /// Columns of one row of the output.
    row: i64,
    /// Elements that copying whole vectors of each row reaches.
    copied: i64,
    /// Elements that are multiplied: whole vectors.
    multiplied: i64,
    /// Elements from one term of the sum to the next.
    stride: i64,
}

impl Layout {
    fn new(width: i64, columns: i64, lanes: u32) -> Layout {
        let whole = |n: i64| ceil(n, i64::from(lanes)) * i64::from(lanes);
        let row = columns.min(width);
        let (copied, multiplied) = (width - row + whole(row), whole(width));
        Layout { width, row, copied, multiplied, stride: multiplied.max(whole(copied)) }
    }

    /// Rows of the output.
    fn rows(&self) -> i64 {
        self.width / self.row
    }
}

/// Makes the statements for one panel, or for one that is shorter at the end.
struct Maker<'a> {
    nest: &'a Nest,
    s: &'a Schedule,
    parts: &'a Parts<'a>,
    /// What the outer axes are; with whole rows, the first one of the panel.
    axes: HashMap<Sym, Dim>,
    first_column: Dim,
    /// The first row of the other factor, and how many there are.
    first_row: Dim,
    n_rows: i64,
    /// Terms per block, and which block it is.
    terms: i64,
    block: Dim,
    panel: Buffer,
    /// Sums that wait between blocks.
    sums: Buffer,
    frame: &'a mut Frame,
}

/// The statements of the kernel.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let Some(parts) = Parts::new(nest) else { return Vec::new() };
    let width = i64::from(s.panel);
    let by_rows = width % parts.columns == 0;
    let (unit, extent) = if by_rows { (parts.columns, parts.rows) } else { (1, parts.columns) };
    let step = width / unit;
    let (whole, rest) = (extent / step, extent % step);
    let outer = parts.outer(nest, by_rows);
    let (blocks, _) = division(nest, &parts, width, s.lanes, i64::from(s.nr));
    let mut extents: Vec<Dim> = outer.iter().map(|a| a.extent.clone()).collect();
    extents.extend([ceil(extent, step).into(), blocks.into()]);
    let index = frame.index(&extents);
    let mut axes: HashMap<Sym, Dim> =
        outer.iter().zip(&index).map(|(a, i)| (a.var.clone(), i.clone())).collect();
    let [at, block] = &index[outer.len()..] else { return Vec::new() };
    let first = at.clone() * step.into();
    if let (Some(row), true) = (parts.row, by_rows) {
        axes.insert(nest.axes[row].var.clone(), first.clone());
    }
    let n_rows = parts.n_rows / blocks;
    let terms = if s.kc == 0 { parts.terms } else { i64::from(s.kc) };
    let id = frame.next();
    let array = |name: &str, len: i64| Buffer {
        name: Sym::new(&format!("{name}{id}")),
        dtype: nest.acc,
        len: len.into(),
        scope: Scope::Stack,
    };
    let layout = |n: i64| Layout::new(n * unit, parts.columns, s.lanes);
    // Panels at the end are shorter, if there are others.
    let largest = layout(step.min(extent));
    let mut maker = Maker {
        nest,
        s,
        parts: &parts,
        axes,
        first_column: if by_rows { 0.into() } else { first },
        first_row: block.clone() * n_rows.into(),
        n_rows,
        terms,
        block: if terms == parts.terms { 0.into() } else { Dim::named("kb") },
        panel: array("panel", terms * largest.stride),
        sums: array("sums", n_rows * largest.multiplied),
        frame,
    };
    let mut make = |n: i64| maker.panel(&layout(n));
    let body = match (whole, rest) {
        (_, 0) => make(step),
        (0, _) => make(rest),
        _ => {
            let cond = Expr::call(ScalarFn::Lt, [Expr::Index(at.clone()), Expr::int(whole)]);
            vec![Stmt::If { cond, then: make(step), other: make(rest) }]
        }
    };
    let body = [maker.arrays(), body].concat();
    frame.outermost(&extents, body)
}
