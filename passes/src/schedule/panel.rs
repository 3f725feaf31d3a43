//! Contractions whose vector factor is copied first: convolutions with padding, strides or several taps.
//!
//! A kernel copies what a block of output columns reads into a panel on its stack, one row of columns per term of the
//! sum, and then multiplies as if the factor had been a plain matrix: no conditions and aligned vectors in the inner
//! loop, whose columns may span rows of the output. Copying costs one load and store per element of the panel, which
//! all rows of the other factor share. The order of the sums is that of the contraction without a panel.

use super::Frame;
use super::contract::{Part, Roles, TileMaker, Tiles, vector_rows};
use super::emit::{Emitter, Value, lane};
use super::nest::{Flat, Nest};
use super::reduce::{as_loops, lanes_at, nested};
use aic_ir::compute::{Axis, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Buffer, Expr, Scope, Stmt};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::schedule::{Class, Schedule};
use aic_ir::target::Target;
use std::collections::HashMap;

/// Columns of the output that a panel may hold if it does not hold whole rows.
const BLOCK: i64 = 64;
/// Columns of a row that are copied by statements of their own.
const MAX_ROW: i64 = 128;
/// Taps of a row that are copied by statements of their own.
const MAX_TAPS: i64 = 16;
/// Rows of the other factor that are worth copying a panel for.
const MIN_ROWS: i64 = 8;
/// The most parts that the rows of the other factor are cut into.
const MAX_BLOCKS: i64 = 8;

/// The axes' parts in a contraction with a panel.
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
    /// Extents of `column`, `row` and `m`, and the number of terms of the sum.
    extents: [i64; 4],
}

impl Parts<'_> {
    /// The axes outside of panels; rows of the output are inside, if panels hold whole ones.
    fn outer<'n>(&self, nest: &'n Nest, by_rows: bool) -> Vec<&'n Axis> {
        let inside = [Some(self.column), Some(self.m), self.row.filter(|_| by_rows)];
        (0..nest.axes.len()).filter(|k| !inside.contains(&Some(*k))).map(|k| &nest.axes[k]).collect()
    }
}

fn parts(nest: &Nest) -> Option<Parts<'_>> {
    let (ReduceOp::Sum, over) = nest.reduction.as_ref()? else { return None };
    let Flat::Call(ScalarFn::Mul, factors) = &nest.value else { return None };
    let [a, b] = &factors[..] else { return None };
    if nest.kept.is_some() {
        return None;
    }
    let terms = over.iter().try_fold(1i64, |n, a| n.checked_mul(a.extent.as_const()?))?;
    let column = nest.axes.len().checked_sub(1)?;
    [(a, b), (b, a)].into_iter().find_map(|(scalar, vector)| {
        let reads = |f: &Flat, k: usize| f.mentions(&nest.axes[k].var);
        let slides =
            |k: usize| reads(vector, k) && !reads(scalar, k) && nest.axes[k].extent.as_const().is_some();
        let follows = |k: &usize| slides(*k) && nest.continues(&nest.axes[*k], &nest.axes[column]);
        let row = column.checked_sub(1).filter(follows);
        let m = (0..column).rev().find(|&k| reads(scalar, k) && !reads(vector, k))?;
        let extent = |k: usize| nest.axes[k].extent.as_const();
        let extents = [extent(column)?, row.map_or(Some(1), extent)?, extent(m)?, terms];
        let is_apart = vector.loads().len() == 1 && vector.steps(&nest.axes[column].var)[0].is_some();
        (slides(column) && is_apart && is_row_major(scalar, over)).then_some(Parts {
            column,
            row,
            m,
            scalar,
            vector,
            extents,
        })
    })
}

/// Whether a factor is a load whose address runs evenly through the terms of the sum.
fn is_row_major(f: &Flat, over: &[Axis]) -> bool {
    let steps: Option<Vec<Dim>> = over
        .iter()
        .map(|a| match &f.steps(&a.var)[..] {
            [step] => step.clone(),
            _ => None,
        })
        .collect();
    let is_load =
        matches!(f, Flat::Load { .. }) || matches!(f, Flat::Cast(_, e) if matches!(**e, Flat::Load { .. }));
    let evenly =
        |steps: Vec<Dim>| (1..over.len()).all(|k| steps[k - 1] == steps[k].clone() * over[k].extent.clone());
    is_load && steps.is_some_and(evenly)
}

/// A schedule with a panel, if the nest is a contraction that one is good for.
pub fn choose(nest: &Nest, target: &Target, lanes: u32) -> Option<Schedule> {
    let parts = parts(nest)?;
    let [columns, rows, m, terms] = parts.extents;
    let is_plain = parts.vector.steps(&nest.axes[parts.column].var)[0].as_ref().is_some_and(|s| s.is(1))
        && !has_guard(parts.vector);
    if m < MIN_ROWS || columns < 2 || is_plain && parts.row.is_none() {
        return None;
    }
    let most = if target.vector_registers >= 32 { 4 } else { 2 };
    let room = target.memory.iter().find(|l| l.name == "L2").map_or(1 << 19, |l| l.bytes * 3 / 4) as i64;
    let fits = |width: &i64| {
        let copied = Panel::new(*width, columns, i64::from(lanes)).stride;
        copied.saturating_mul(terms).saturating_mul(nest.acc.size() as i64) <= room
    };
    let widths: Vec<i64> = match columns <= MAX_ROW {
        true => (1..=rows).map(|r| r * columns).filter(fits).collect(),
        false => vec![BLOCK.min(most * i64::from(lanes))].into_iter().filter(fits).collect(),
    };
    let panel = widths.into_iter().rev().min_by_key(|&w| division(nest, &parts, w, lanes, most).1)?;
    let nr = tile_widths(panel, lanes, most)[0] as u32;
    let mr = vector_rows(target, nr).min(m as u32);
    Some(Schedule { mr, nr, panel: panel as u32, ..Schedule::new(Class::Contract, lanes) })
}

/// Into how many parts the rows of the other factor are cut for panels of `width` columns, and the cost of that: tenths
/// of cycles, more where threads would wait for one another.
fn division(nest: &Nest, parts: &Parts, width: i64, lanes: u32, most: i64) -> (i64, i64) {
    let [columns, rows, m, _] = parts.extents;
    let by_rows = width % columns == 0;
    let total = if by_rows { rows * columns } else { columns };
    let multiply = |n: i64| tile_widths(n, lanes, most).iter().map(|v| 5 * v + 1).sum::<i64>();
    let copy = |n: i64| 30 * (n / columns).max(1) * ceil(columns.min(n), i64::from(lanes));
    let outer = parts.outer(nest, by_rows).iter().map(|a| &a.extent).product::<Dim>().as_const().unwrap_or(1);
    let cost = |blocks: i64| {
        let of = |n: i64| if n == 0 { 0 } else { m * multiply(n) + blocks * copy(n) };
        let tasks = outer.max(1).saturating_mul(ceil(total, width) * blocks);
        (total / width * of(width) + of(total % width)) * tasks.saturating_mul(10).saturating_add(4)
            / tasks.saturating_mul(10)
    };
    let candidates = (1..=MAX_BLOCKS).filter(|b| m % b == 0).map(|b| (b, cost(b)));
    candidates.min_by_key(|(_, cost)| *cost).unwrap_or((1, i64::MAX))
}

fn has_guard(f: &Flat) -> bool {
    let mut found = false;
    f.visit(&mut |e| found |= matches!(e, Flat::Call(..)));
    found
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
struct Panel {
    /// Columns that count.
    width: i64,
    /// Columns of one row of the output.
    row: i64,
    /// Elements from one term of the sum to the next.
    stride: i64,
    /// Elements that copying whole vectors of each row reaches.
    copied: i64,
}

impl Panel {
    fn new(width: i64, columns: i64, lanes: i64) -> Panel {
        let whole = |n: i64| (n + lanes - 1) / lanes * lanes;
        let row = columns.min(width);
        let copied = width - row + whole(row);
        Panel { width, row, stride: whole(width).max(whole(copied)), copied }
    }
}

/// The statements of the kernel.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let Some(parts) = parts(nest) else { return Vec::new() };
    let [columns, rows, m, _] = parts.extents;
    let width = i64::from(s.panel);
    let by_rows = width % columns == 0;
    let (cut, step) = if by_rows { (rows, width / columns) } else { (columns, width) };
    let (whole, rest) = (cut / step, cut % step);
    let panels = whole + i64::from(rest > 0);
    let outer = parts.outer(nest, by_rows);
    let mut extents: Vec<Dim> = outer.iter().map(|a| a.extent.clone()).collect();
    let blocks = division(nest, &parts, width, s.lanes, i64::from(s.nr)).0;
    extents.extend([panels.into(), blocks.into()]);
    let index = frame.index(&extents);
    let mut axes: HashMap<Sym, Dim> =
        outer.iter().zip(&index).map(|(a, i)| (a.var.clone(), i.clone())).collect();
    let at = index[outer.len()].clone();
    let first = at.clone() * step.into();
    if let (Some(row), true) = (parts.row, by_rows) {
        axes.insert(nest.axes[row].var.clone(), first.clone());
    }
    let mut maker = Maker {
        nest,
        s,
        parts: &parts,
        axes,
        first_column: if by_rows { 0.into() } else { first },
        first_row: index[outer.len() + 1].clone() * (m / blocks).into(),
        n_rows: m / blocks,
        frame,
    };
    let unit = if by_rows { columns } else { 1 };
    let main = maker.panel(step * unit);
    let body = match rest {
        0 => main,
        _ if whole == 0 => maker.panel(rest * unit),
        _ => {
            let last = maker.panel(rest * unit);
            let cond = Expr::call(ScalarFn::Lt, [Expr::Index(at), Expr::int(whole)]);
            vec![Stmt::If { cond, then: main, other: last }]
        }
    };
    frame.outermost(&extents, body)
}

/// Makes the statements of one panel.
struct Maker<'a> {
    nest: &'a Nest,
    s: &'a Schedule,
    parts: &'a Parts<'a>,
    /// What the outer axes are, and the first row of the panel.
    axes: HashMap<Sym, Dim>,
    first_column: Dim,
    first_row: Dim,
    n_rows: i64,
    frame: &'a mut Frame,
}

impl Maker<'_> {
    fn panel(&mut self, width: i64) -> Vec<Stmt> {
        let lanes = i64::from(self.s.lanes);
        let panel = Panel::new(width, self.parts.extents[0], lanes);
        let name = Sym::new(&format!("panel{}", self.frame.next()));
        let mut copy = Vec::new();
        let dtype = self.copy(&name, &panel, &mut copy);
        let len = (panel.stride * self.parts.extents[3]).into();
        let buffer = Buffer { name, dtype, len, scope: Scope::Stack };
        let mut out = vec![Stmt::Alloc(buffer.clone())];
        out.extend(copy);
        out.extend(self.multiply(buffer, &panel));
        out
    }

    /// Appends the statements that fill a panel; gives the type of its elements.
    fn copy(&mut self, name: &Sym, panel: &Panel, out: &mut Vec<Stmt>) -> DType {
        let (nest, over, lanes) = (self.nest, self.nest.over(), i64::from(self.s.lanes));
        let pr = Sym::new("pr");
        let taps = over
            .last()
            .filter(|_| over.len() > 1)
            .and_then(|a| a.extent.as_const())
            .filter(|n| *n <= MAX_TAPS);
        let loops = if taps.is_some() { &over[..over.len() - 1] } else { over };
        let mut axes = self.axes.clone();
        axes.extend(as_loops(loops));
        if let Some(row) = self.parts.row
            && let Some(first) = axes.get_mut(&nest.axes[row].var)
            && panel.width > panel.row
        {
            *first = first.clone() + Dim::sym(&pr);
        }
        let guarded = Guarded::new(self.parts.vector);
        let column = &nest.axes[self.parts.column].var;
        let is_scalar = |e: &&&Flat| {
            !e.mentions(column) && !over.last().is_some_and(|a| taps.is_some() && e.mentions(&a.var))
        };
        let (scalar, vector): (Vec<&Flat>, Vec<&Flat>) = guarded.conditions.iter().partition(is_scalar);
        let (inside, outside) = (guarded.value(&vector), guarded.value_outside());
        let (mut then, mut other) = (Vec::new(), Vec::new());
        let mut dtype = nest.acc;
        for tap in 0..taps.unwrap_or(1) {
            let term = |axes: &mut HashMap<Sym, Dim>| {
                if let (Some(last), true) = (over.last(), taps.is_some()) {
                    axes.insert(last.var.clone(), tap.into());
                }
            };
            for v in 0..(panel.row + lanes - 1) / lanes {
                let mut axes = axes.clone();
                term(&mut axes);
                axes.insert(
                    column.clone(),
                    self.first_column.clone() + (v * lanes).into() + Dim::sym(&lane()),
                );
                let mut e = Emitter::new(nest, axes, self.s.lanes, self.frame);
                let to = e.index(&terms_index(over)).expr;
                let Expr::Index(term) = to else { continue };
                let to = term * panel.stride.into()
                    + (v * lanes).into()
                    + if panel.width > panel.row { Dim::sym(&pr) * panel.row.into() } else { 0.into() };
                let to = lanes_at(to, self.s.lanes);
                let mask = ((v + 1) * lanes > panel.row).then(|| {
                    let at = Expr::Ramp { base: (v * lanes).into(), stride: 1.into(), lanes: self.s.lanes };
                    let end = Expr::Broadcast(Expr::int(panel.row).into(), self.s.lanes);
                    e.bind(Value::new(Expr::call(ScalarFn::Lt, [at, end]), DType::Bool, self.s.lanes))
                });
                let x = e.expr(&inside, mask.as_ref());
                dtype = x.ty.dtype;
                then.extend(e.take_lets());
                then.push(Stmt::store(name, to.clone(), x.widen(self.s.lanes)));
                let x = e.expr(&outside, None);
                other.extend(e.take_lets());
                other.push(Stmt::store(name, to, x.widen(self.s.lanes)));
            }
        }
        let mut body = Vec::new();
        if !scalar.is_empty() {
            let mut e = Emitter::new(nest, axes.clone(), 1, self.frame);
            let conds: Vec<Expr> = scalar.iter().map(|c| e.expr(c, None).expr).collect();
            body.extend(e.take_lets());
            let cond = conds.into_iter().reduce(|a, b| Expr::call(ScalarFn::And, [a, b]));
            body.extend(cond.map(|cond| Stmt::If { cond, then, other }));
        } else {
            body = then;
        }
        if panel.width > panel.row {
            body = vec![Stmt::serial(&pr, (panel.width / panel.row).into(), body)];
        }
        // What no row reaches is multiplied, and must not be slow numbers.
        let needed = (panel.width + lanes - 1) / lanes * lanes;
        if panel.copied < needed {
            let zero = Value::new(Expr::Const(dtype, Scalar::zero(dtype)), dtype, 1).widen(self.s.lanes);
            let mut clears = Vec::new();
            for tap in 0..taps.unwrap_or(1) {
                let mut axes = axes.clone();
                if let (Some(last), true) = (over.last(), taps.is_some()) {
                    axes.insert(last.var.clone(), tap.into());
                }
                let e = Emitter::new(nest, axes, 1, self.frame);
                let Expr::Index(term) = e.index(&terms_index(over)).expr else { continue };
                let to = term * panel.stride.into() + (needed - lanes).into();
                clears.push(Stmt::store(name, lanes_at(to, self.s.lanes), zero.clone()));
            }
            body.splice(0..0, clears);
        }
        out.extend(nested(loops, body));
        dtype
    }

    /// The register tiles over a panel.
    fn multiply(&mut self, panel: Buffer, layout: &Panel) -> Vec<Stmt> {
        let (parts, lanes) = (self.parts, i64::from(self.s.lanes));
        let (it, jt, k) = (Sym::new("it"), Sym::new("jt"), Sym::new("kk"));
        let (m, column) = (&self.nest.axes[parts.m], &self.nest.axes[parts.column]);
        let local = |d: Dim| d.replace(&column.var, &(self.first_column.clone() + column.dim()));
        let over = self.nest.over();
        let merged = |s: &Sym| {
            let at = over.iter().position(|a| a.var == *s)?;
            Some(if at + 1 == over.len() { Dim::sym(&k) } else { 0.into() })
        };
        let load = Flat::Load {
            input: self.nest.inputs.len(),
            address: Dim::sym(&k) * layout.stride.into() + column.dim(),
            terms: Vec::new(),
        };
        let scalar = parts.scalar.subst(&merged);
        let mut nest = self.nest.clone();
        nest.inputs.push(panel);
        nest.axes = vec![m.clone(), Axis { var: column.var.clone(), extent: layout.width.into() }];
        nest.reduction =
            Some((ReduceOp::Sum, vec![Axis { var: k.clone(), extent: parts.extents[3].into() }]));
        nest.value = Flat::Call(ScalarFn::Mul, vec![scalar.clone(), load.clone()]);
        nest.at = local(nest.at);
        let shifted = |s: &Sym| (*s == column.var).then(|| self.first_column.clone() + column.dim());
        nest.epilogue = nest.epilogue.map(|e| e.subst(&shifted));
        let roles = Roles { n: 1, m: Some(0), scalar: &scalar, vector: &load };

        let mut out = Vec::new();
        let widths = tile_widths(layout.width, self.s.lanes, i64::from(self.s.nr));
        let mut done = 0;
        let mut first = 0;
        while done < widths.len() {
            let v = widths[done];
            let is_partial = |k: usize| k + 1 == widths.len() && layout.width % lanes != 0;
            let count = widths[done..]
                .iter()
                .enumerate()
                .take_while(|(k, w)| **w == v && (*k == 0 || !is_partial(done + k)))
                .count();
            let count = if count > 1 && is_partial(done + count - 1) { count - 1 } else { count };
            let mr = if v == i64::from(self.s.nr) {
                i64::from(self.s.mr)
            } else {
                i64::from(self.s.mr) * i64::from(self.s.nr) / v
            }
            .min(14)
            .min(self.n_rows);
            let columns = match is_partial(done) {
                true => Part { width: layout.width - first, partial: true },
                false => Part { width: v * lanes, partial: false },
            };
            let rows = Tiles::new(&self.n_rows.into(), mr, 1);
            let mut tile = TileMaker {
                nest: &nest,
                s: self.s,
                roles: &roles,
                axes: self.axes.clone(),
                frame: &mut *self.frame,
            };
            let n0 = if count > 1 { Dim::sym(&jt) * (v * lanes).into() + first.into() } else { first.into() };
            let first_row = &self.first_row;
            let body =
                rows.each(&it, &mut |m0, part| tile.make(first_row.clone() + m0, part, n0.clone(), columns));
            out.extend(if count > 1 { vec![Stmt::serial(&jt, (count as i64).into(), body)] } else { body });
            done += count;
            first += count as i64 * v * lanes;
        }
        out
    }
}

/// The number of a term of the sum.
fn terms_index(over: &[Axis]) -> Dim {
    over.iter().fold(0.into(), |at: Dim, a| at * a.extent.clone() + a.dim())
}

/// A factor whose load happens under conditions.
struct Guarded<'a> {
    conditions: Vec<&'a Flat>,
    inside: &'a Flat,
    outside: Option<&'a Flat>,
    cast: Option<DType>,
}

impl<'a> Guarded<'a> {
    fn new(f: &'a Flat) -> Guarded<'a> {
        match f {
            Flat::Cast(t, e) if matches!(**e, Flat::Call(ScalarFn::Select, _)) => {
                Guarded { cast: Some(*t), ..Guarded::new(e) }
            }
            Flat::Call(ScalarFn::Select, args) if args[2].loads().is_empty() => {
                let mut conditions = Vec::new();
                conjuncts(&args[0], &mut conditions);
                Guarded { conditions, inside: &args[1], outside: Some(&args[2]), cast: None }
            }
            _ => Guarded { conditions: Vec::new(), inside: f, outside: None, cast: None },
        }
    }

    /// The factor where all but some conditions hold.
    fn value(&self, left: &[&Flat]) -> Flat {
        let cond = left.iter().map(|c| (*c).clone()).reduce(|a, b| Flat::Call(ScalarFn::And, vec![a, b]));
        let value = match (cond, self.outside) {
            (Some(cond), Some(outside)) => {
                Flat::Call(ScalarFn::Select, vec![cond, self.inside.clone(), outside.clone()])
            }
            _ => self.inside.clone(),
        };
        self.converted(value)
    }

    fn value_outside(&self) -> Flat {
        self.converted(self.outside.unwrap_or(self.inside).clone())
    }

    fn converted(&self, value: Flat) -> Flat {
        match self.cast {
            Some(t) => Flat::Cast(t, value.into()),
            None => value,
        }
    }
}

fn conjuncts<'a>(e: &'a Flat, out: &mut Vec<&'a Flat>) {
    match e {
        Flat::Call(ScalarFn::And, args) => args.iter().for_each(|a| conjuncts(a, out)),
        _ => out.push(e),
    }
}
