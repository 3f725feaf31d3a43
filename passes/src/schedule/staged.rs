//! Several phases in one kernel: loops over axes that they have in common, threads over the iterations, and in an
//! iteration one phase after the other, each by the code of its own class. What lies between phases stays in a small
//! buffer on the stack if its size is known, so that it is still in the nearest cache when it is read.
//!
//! With contractions among the phases the last of the common axes is taken in blocks of rows, for the sake of their
//! register tiles: every element of the other factor that is loaded serves all rows of a block. Phases that don't have
//! the last axis (the transposed keys of an attention) are evaluated before the loop over its blocks, which is serial.

mod choices;

pub(super) use choices::{allows, knobs, predict, with_rows};

use super::contract::packed_buffer;
use super::group::{Common, Group};
use super::nest::{Arrays, Nest, Place, strides};
use super::phase::{Part, Phase};
use super::pieces::signature_of;
use super::{Frame, body, packings, rows_ahead};
use crate::packing::Packing;
use aic_ir::compute::{Axis, Expr, Source};
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::error::Result;
use aic_ir::kernel::{Buffer, Kernel, LoopKind, Param, Scope, Stmt};
use aic_ir::schedule::{Class, Schedule};
use aic_ir::target::Target;
use aic_ir::types::Type;
use std::collections::BTreeSet;

/// Bytes that the arrays between phases may take on a thread's stack.
const STACK_BYTES: i64 = 768 << 10;
/// Bytes of a block of rows.
const BLOCK_BYTES: i64 = 128 << 10;
/// Bytes of the rows that are evaluated together without contractions.
const TOGETHER_BYTES: i64 = 16 << 10;
/// The most rows in a block, and the fewest that it is worth having several blocks for.
const BLOCK_ROWS: (i64, i64) = (32, 8);
/// Vectors of sums that are enough for a register tile.
const LEAST_SUMS: u32 = 8;
/// Iterations of the parallel loop that are enough for all threads.
const ITERATIONS: i64 = 4;

/// A schedule of all phases in one kernel, if there is one in which each is evaluated as well as alone.
pub(super) fn choose(g: &Group, target: &Target) -> Option<Schedule> {
    let distinct = g.outputs.iter().enumerate().all(|(k, o)| !g.outputs[..k].contains(o));
    if !distinct {
        return None;
    }
    let alone = alone(g, target)?;
    (1..=g.common.len()).rev().find_map(|n| candidate(g, n, &alone, target))
}

/// The phases, each by itself, and their schedules.
fn alone(g: &Group, target: &Target) -> Option<Vec<(Nest, Schedule)>> {
    let of = |p: &Phase| {
        let nest = Nest::of(p, &g.arrays, &|_| None).ok()?;
        let s = super::choose(&nest, target);
        Some((nest, s))
    };
    g.phases.iter().map(of).collect()
}

/// The schedule with loops over `n` common axes.
fn candidate(g: &Group, n: usize, alone: &[(Nest, Schedule)], target: &Target) -> Option<Schedule> {
    let (last, before) = g.common[..n].split_last()?;
    if !before.iter().all(Common::is_total) || !may_hoist(g, last) {
        return None;
    }
    let has_tiles = alone.iter().any(|(n, s)| s.class == Class::Contract && n.axes.len() > 1);
    let outer: Dim = before.iter().map(|c| &c.extent).product();
    let mut rows = match (has_tiles, last.extent.as_const()) {
        (false, Some(m)) => together(g, n, m, outer.as_const().unwrap_or(ITERATIONS)),
        (false, None) => 1,
        (true, None) => BLOCK_ROWS.0,
        (true, Some(n)) => block_rows(n, outer.as_const().unwrap_or(ITERATIONS)),
    };
    loop {
        let loops = Loops::new(g, n, rows);
        if rows > BLOCK_ROWS.1 && loops.stack_bytes(true) > BLOCK_BYTES {
            rows /= 2;
            continue;
        }
        let fits = loops.stack_bytes(false) <= STACK_BYTES
            && loops.is_parallel(alone)
            && loops.is_cached(alone, target);
        let stages = fits.then(|| loops.stages(alone, target)).flatten();
        if stages.is_none() && !has_tiles && rows > 1 {
            rows = 1;
            continue;
        }
        let stages = stages?;
        let (mr, nr) = (u32::try_from(rows).ok()?, u32::try_from(n).ok()?);
        let ahead = u32::from(!has_tiles && has_far_input(g, target));
        return Some(Schedule { mr, nr, ahead, stages, ..Schedule::new(Class::Staged, 1) });
    }
}

/// Rows of `m`, of which there are `outer`, that are evaluated together where no phase is a contraction: while the lanes of
/// one row's sums are added up, the next row's begin.
fn together(g: &Group, n: usize, m: i64, outer: i64) -> i64 {
    let bytes = |k: usize| {
        let p = &g.phases[k];
        let is_own = |a: &&Axis| !g.common[..n].iter().any(|c| c.vars[k].as_ref() == Some(&a.var));
        let own: Dim = p.axes.iter().filter(is_own).chain(p.over()).map(|a| &a.extent).product();
        own.as_const().unwrap_or(i64::MAX).saturating_mul(p.acc.size() as i64)
    };
    let row = (0..g.phases.len()).map(bytes).max().unwrap_or(i64::MAX);
    let fits = |rows: i64| {
        let parts = outer.saturating_mul(m / rows);
        m % rows == 0 && parts >= 2 * ITERATIONS && row.saturating_mul(rows) <= TOGETHER_BYTES
    };
    [4, 2].into_iter().find(|rows| fits(*rows)).unwrap_or(1)
}

/// Whether an operand fits in no cache that is near.
fn has_far_input(g: &Group, target: &Target) -> bool {
    let near = target.second_cache_bytes();
    let bytes = |ty: &Type| ty.numel().as_const().map_or(0, |n| n.saturating_mul(ty.dtype.size() as i64));
    g.inputs.iter().any(|ty| bytes(ty) > near)
}

/// Whether the phases without an axis can come before all those with it.
fn may_hoist(g: &Group, axis: &Common) -> bool {
    let mut independent = true;
    for (p, _) in g.phases.iter().zip(&axis.vars).filter(|(_, v)| v.is_none()) {
        p.visit_stages(&mut |stage, _| {
            independent &= g.writer(stage).is_none_or(|w| axis.vars[w].is_none());
        });
    }
    independent && axis.vars.iter().any(Option::is_some)
}

/// Rows of a block of an axis of `n`, of which there are `outer`.
fn block_rows(n: i64, outer: i64) -> i64 {
    let (most, fewest) = BLOCK_ROWS;
    let enough = |rows: i64| outer.saturating_mul(n / rows) >= ITERATIONS;
    if n <= most && (outer >= ITERATIONS || n < 2 * fewest) {
        return n.max(1);
    }
    let divisors = (fewest..=most).rev().filter(|r| n % r == 0);
    let evenly = divisors.clone().find(|r| enough(*r)).or_else(|| divisors.clone().next_back());
    evenly.unwrap_or(if enough(24) { 24 } else { fewest })
}

/// Whether a register tile has sums enough that the next term needn't wait for the last one, and no more to load than to
/// multiply, if it was so before.
fn is_large(s: &Schedule, before: &Schedule) -> bool {
    let is_fed = |s: &Schedule| s.mr + s.nr <= s.mr * s.nr;
    s.mr * s.nr >= (before.mr * before.nr).min(LEAST_SUMS) && (is_fed(s) || !is_fed(before))
}

/// The loops of a staged kernel.
struct Loops<'a> {
    group: &'a Group,
    /// The axes of the parallel loop.
    outer: &'a [Common],
    /// The axis of which `rows` are taken at a time.
    row: Option<&'a Common>,
    rows: i64,
}

/// Where the array of a stage lies.
enum Storage {
    Output,
    /// On the stack: which dimensions are those of the row axis, and extents, 1 along outer axes.
    Stack(Vec<bool>, Vec<Dim>),
    Workspace,
}

impl<'a> Loops<'a> {
    /// Loops over the first `n` common axes, the last of them in blocks of `rows`.
    fn new(group: &'a Group, n: usize, rows: i64) -> Loops<'a> {
        let common = &group.common[..n];
        match common.split_last() {
            Some((last, outer)) if rows > 1 || !last.is_total() => {
                Loops { group, outer, row: Some(last), rows }
            }
            _ => Loops { group, outer: common, row: None, rows: 1 },
        }
    }

    /// Whether the loop over blocks of rows is within the parallel loop.
    fn rows_inside(&self) -> bool {
        self.row.is_some_and(|r| !r.is_total() || r.extent.as_const().is_none())
    }

    /// The stages whose arrays the kernel stores.
    fn stored(&self) -> impl Iterator<Item = usize> + '_ {
        let kept = |p: &'a Phase| p.kept.iter().map(|(k, _)| *k);
        self.group.phases.iter().flat_map(move |p| kept(p).chain([p.result]))
    }

    fn storage(&self, stage: usize) -> Storage {
        if self.group.outputs.contains(&stage) {
            return Storage::Output;
        }
        let Some(w) = self.group.writer(stage) else { return Storage::Workspace };
        let p = &self.group.phases[w];
        let at = match &p.kept {
            Some((kept, at)) if *kept == stage => at,
            _ => &p.at,
        };
        let is = |c: &Common, d: &Dim| c.vars[w].is_some() && c.vars[w].as_ref() == d.as_sym();
        let is_row: Vec<bool> = at.iter().map(|d| self.row.is_some_and(|r| is(r, d))).collect();
        let extents: Vec<Dim> = at
            .iter()
            .zip(&self.group.stages[stage].dims)
            .zip(&is_row)
            .map(|((d, extent), is_row)| match is_row {
                true => self.rows.into(),
                false if self.outer.iter().any(|c| is(c, d)) => 1.into(),
                false => extent.clone(),
            })
            .collect();
        match extents.iter().all(|e| e.as_const().is_some()) {
            true => Storage::Stack(is_row, extents),
            false => Storage::Workspace,
        }
    }

    /// An array on the stack that a stage's array may take the place of: one of the same layout that is read for the last
    /// time where the stage is evaluated, and there element by element.
    fn overwritten(&self, stage: usize) -> Option<usize> {
        let g = self.group;
        let w = g.writer(stage)?;
        let p = &g.phases[w];
        let at = match &p.kept {
            Some((kept, at)) if *kept == stage => at,
            _ if p.reduction.is_none() => &p.at,
            _ => return None,
        };
        let Storage::Stack(_, extents) = self.storage(stage) else { return None };
        let fits = |old: usize| {
            let mut in_place = g.stages[old].dtype == g.stages[stage].dtype && g.writer(old) < Some(w);
            p.visit_stages(&mut |k, index| {
                let here = index.len() == at.len()
                    && index.iter().zip(at).all(|(e, d)| matches!(e, Expr::Index(i) if i == d));
                in_place &= k != old || here;
            });
            let mut read_later = false;
            g.phases[w + 1..].iter().for_each(|q| q.visit_stages(&mut |k, _| read_later |= k == old));
            let same = matches!(self.storage(old), Storage::Stack(_, e) if e == extents);
            in_place && !read_later && same
        };
        let mut read = Vec::new();
        p.visit_stages(&mut |k, _| read.push(k));
        read.into_iter().find(|k| fits(*k))
    }

    /// Bytes of the arrays on the stack: of all, or of those with rows.
    fn stack_bytes(&self, of_rows: bool) -> i64 {
        let bytes = |stage: usize| match self.storage(stage) {
            Storage::Stack(is_row, extents)
                if (!of_rows || is_row.contains(&true)) && self.overwritten(stage).is_none() =>
            {
                let n: Dim = extents.iter().product();
                n.as_const().unwrap_or(i64::MAX).saturating_mul(self.group.stages[stage].dtype.size() as i64)
            }
            _ => 0,
        };
        self.stored().map(bytes).fold(0, i64::saturating_add)
    }

    /// Whether there are iterations for all threads, or phases alone have no more of them.
    fn is_parallel(&self, alone: &[(Nest, Schedule)]) -> bool {
        let most = alone.iter().map(|(nest, _)| {
            let outputs: Dim = nest.axes.iter().map(|a| &a.extent).product();
            outputs.as_const().unwrap_or(i64::MAX)
        });
        let needed = most.max().unwrap_or(1).min(ITERATIONS);
        let iterations: Dim = self.extents().iter().product();
        iterations.as_const().is_none_or(|n| n >= needed)
    }

    /// Whether what contractions read again for every block of rows stays in a cache meanwhile.
    fn is_cached(&self, alone: &[(Nest, Schedule)], target: &Target) -> bool {
        let Some(row) = self.row.filter(|r| !r.extent.is(self.rows)) else { return true };
        let room = target.second_cache_bytes() / 2;
        let again = |k: usize| {
            let p = &self.group.phases[k];
            let is_shared = |a: &&Axis| {
                let is = |c: &Common| c.vars[k].as_ref() == Some(&a.var);
                !is(row) && !self.outer.iter().any(is)
            };
            // What is stored per row is no larger than what is read.
            let columns: Dim = p.axes.iter().filter(is_shared).map(|a| &a.extent).product();
            let terms: Dim = p.over().iter().map(|a| &a.extent).product();
            (columns * terms).as_const().map_or(0, |n| n.saturating_mul(p.acc.size() as i64))
        };
        let contracts = |k: &usize| alone[*k].1.class == Class::Contract;
        (0..alone.len()).filter(contracts).all(|k| again(k) <= room)
    }

    /// The schedules of the phases; `None` where one of them is worse than alone, or would give other bits.
    fn stages(&self, alone: &[(Nest, Schedule)], target: &Target) -> Option<Vec<Schedule>> {
        let index = self.index();
        (0..alone.len())
            .map(|k| {
                let mut nest = self.nest(k, &index, &0.into(), self.rows).ok()?;
                let mut s = super::choose(&nest, target);
                let layout = self.packing_of_blocks(k, &s);
                if layout.is_none_or(|layout| s.pack > 0 && layout.is_none()) {
                    // A constant is packed as a whole: no block of its rows by itself.
                    nest.constants.clear();
                    s = super::choose(&nest, target);
                }
                let (whole, before) = &alone[k];
                let same = s.class == before.class
                    && signature_of(&nest, &s) == signature_of(whole, before)
                    && s.lanes == before.lanes
                    && (s.pack > 0 || before.pack == 0)
                    && (s.class != Class::Contract || s.panel > 0 || is_large(&s, before));
                ((same || self.is_small(k)) && self.has_rest(k, &s)).then_some(s)
            })
            .collect()
    }

    /// How phase `k` has an operand packed, if it does; `None` where that isn't the same in all blocks of rows.
    fn packing_of_blocks(&self, k: usize, s: &Schedule) -> Option<Option<(usize, Packing)>> {
        let index = self.index();
        let packed = |row: &Dim| Some(packings(&self.nest(k, &index, row, self.rows).ok()?, s));
        let (layout, elsewhere) = (packed(&0.into())?, packed(&(Dim::named("block") * self.rows.into()))?);
        (layout == elsewhere).then_some(layout)
    }

    /// Whether a schedule evaluates phase `k` for the rows after whole blocks too, which may be a single one.
    fn has_rest(&self, k: usize, s: &Schedule) -> bool {
        let Some(row) = self.row.filter(|r| r.vars[k].is_some()) else { return true };
        let first = self.blocks(row) * self.rows.into();
        let count = match (row.extent.clone() - first.clone()).as_const() {
            Some(0) => return true,
            Some(rest) => rest,
            None => 1,
        };
        self.nest(k, &self.index(), &first, count).is_ok_and(|nest| {
            let is_empty = nest.axes.iter().any(|a| a.extent.is(0));
            is_empty || !body(&nest, s, &mut Frame { stage: Some(0), counter: 0, threads: None }).is_empty()
        })
    }

    /// The nest of phase `k` for a whole block of rows, as a schedule takes it: with constants if it packs one.
    fn whole(&self, k: usize, s: &Schedule) -> Result<Nest> {
        let mut nest = self.nest(k, &self.index(), &0.into(), self.rows)?;
        if s.pack == 0 {
            nest.constants.clear();
        }
        Ok(nest)
    }

    /// Whether phase `k` is a map of one element per iteration, in a kernel of phases that do more.
    fn is_small(&self, k: usize) -> bool {
        let is_total = |(j, p): (usize, &Phase)| {
            let named = |c: &Common, a: &Axis| c.is_total() && c.vars[j].as_ref() == Some(&a.var);
            p.axes.iter().all(|a| self.group.common.iter().any(|c| named(c, a)))
        };
        let is_map = |p: &Phase| p.reduction.is_none();
        let mut phases = self.group.phases.iter().enumerate();
        is_map(&self.group.phases[k])
            && is_total((k, &self.group.phases[k]))
            && phases.any(|(j, p)| !is_map(p) || !is_total((j, p)))
    }

    /// Whole blocks of rows.
    fn blocks(&self, row: &Common) -> Dim {
        row.extent.floor_div(&self.rows.into())
    }

    /// The extents of the parallel loop.
    fn extents(&self) -> Vec<Dim> {
        let outer = self.outer.iter().map(|c| c.extent.clone());
        let blocks = self.row.filter(|_| !self.rows_inside()).map(|r| self.blocks(r).maximum(&1.into()));
        outer.chain(blocks).collect()
    }

    /// The index of the parallel loop.
    fn index(&self) -> Vec<Dim> {
        Frame::kernel().index(&self.extents())
    }

    /// The arrays, where `row` is the first of the rows at hand.
    fn arrays(&self, row: &Dim) -> Arrays {
        let constants = self.group.arrays.constants.clone();
        let mut arrays = Arrays { constants, ..self.group.passed() };
        for stage in self.stored() {
            let ty = &self.group.stages[stage];
            match self.storage(stage) {
                Storage::Output => {}
                Storage::Workspace => {
                    arrays.push(Source::Stage(stage), &format!("work{stage}"), ty);
                    if let Some(b) = arrays.buffers.last_mut() {
                        b.scope = Scope::Workspace;
                    }
                }
                Storage::Stack(is_row, extents) => {
                    if let Some(place) =
                        self.overwritten(stage).and_then(|s| arrays.places.get(&Source::Stage(s)))
                    {
                        let place = place.clone();
                        arrays.places.insert(Source::Stage(stage), place);
                        continue;
                    }
                    let len = extents.iter().product();
                    let step = |(step, extent): (Dim, &Dim)| if extent.is(1) { 0.into() } else { step };
                    let steps: Vec<Dim> =
                        strides(extents.iter()).into_iter().zip(&extents).map(step).collect();
                    let offset = is_row.iter().zip(&steps).filter(|(is_row, _)| **is_row);
                    let offset = offset.fold(Dim::from(0), |sum, (_, step)| sum - step.clone() * row.clone());
                    let place = Place { buffer: arrays.buffers.len(), strides: steps, offset };
                    let name = Sym::new(&format!("scratch{stage}"));
                    arrays.buffers.push(Buffer { name, dtype: ty.dtype, len, scope: Scope::Stack });
                    arrays.places.insert(Source::Stage(stage), place);
                }
            }
        }
        arrays
    }

    /// The nest of phase `k` at an index of the parallel loop and, if it has the row axis, `count` rows from `row` on.
    fn nest(&self, k: usize, index: &[Dim], row: &Dim, count: i64) -> Result<Nest> {
        let phase = match self.row.and_then(|r| r.vars[k].as_ref()) {
            Some(var) => rows_of(&self.group.phases[k], var, row, count),
            None => self.group.phases[k].clone(),
        };
        let outer = |s: &Sym| {
            let at = self.outer.iter().position(|c| c.vars[k].as_ref() == Some(s))?;
            Some(index[at].clone())
        };
        Nest::of(&phase, &self.arrays(row), &outer)
    }
}

/// A phase for the rows `first .. first + count` of an axis.
fn rows_of(p: &Phase, var: &Sym, first: &Dim, count: i64) -> Phase {
    let shift = |s: &Sym| (s == var).then(|| first.clone() + Dim::sym(s));
    let mut p = p.clone();
    for a in p.axes.iter_mut().filter(|a| a.var == *var) {
        let whole = a.extent.as_const().filter(|n| n % count == 0);
        p.part = whole.map(|whole| Part { var: var.clone(), first: first.clone(), whole });
        a.extent = count.into();
    }
    p.value = p.value.subst(&shift);
    p.epilogue = p.epilogue.map(|e: Expr| e.subst(&shift));
    p.at.iter_mut().for_each(|d| *d = d.subst(&shift));
    if let Some((_, at)) = &mut p.kept {
        at.iter_mut().for_each(|d| *d = d.subst(&shift));
    }
    p
}

/// Makes the statements of a staged kernel.
struct Maker<'a> {
    loops: &'a Loops<'a>,
    stages: &'a [Schedule],
    /// Whether the next iteration's rows are asked for.
    asks: bool,
    index: Vec<Dim>,
    symbols: BTreeSet<Sym>,
    counter: usize,
    copies: usize,
}

/// The kernel of a group by a schedule that [`choose`] has given for it, and which of its inputs are to be packed.
pub(super) fn apply(name: &str, g: &Group, s: &Schedule) -> Result<(Kernel, Vec<(usize, Packing)>)> {
    let loops = Loops::new(g, s.nr as usize, i64::from(s.mr));
    let (extents, index) = (loops.extents(), loops.index());
    let symbols = extents.iter().flat_map(Dim::symbols).collect();
    let asks = s.ahead > 0;
    let mut maker = Maker { loops: &loops, stages: &s.stages, asks, index, symbols, counter: 0, copies: 0 };
    let packings = maker.packings()?;
    let mut buffers = loops.arrays(&0.into()).buffers;
    for (k, packing) in &packings {
        buffers[*k] = packed_buffer(&buffers[*k], packing);
    }
    let (local, passed): (Vec<Buffer>, Vec<Buffer>) =
        buffers.into_iter().partition(|b| b.scope == Scope::Stack);
    let mut statements: Vec<Stmt> = local.into_iter().map(Stmt::Alloc).collect();
    statements.extend(maker.iteration()?);
    let symbols = maker.symbols;
    let param = |(k, buffer): (usize, Buffer)| Param { buffer, writable: k >= g.inputs.len() };
    let params: Vec<Param> = passed.into_iter().enumerate().map(param).collect();
    let body = Frame::kernel().outermost(&extents, statements);
    let is_free = |s: &Sym| !["p", "p_block", "p_rest"].contains(&s.name());
    let symbols = symbols.into_iter().filter(is_free).map(|s| (s, Range::DIM)).collect();
    Ok((Kernel { name: name.into(), params, symbols, body }, packings))
}

impl Maker<'_> {
    /// The inputs that phases read packed.
    fn packings(&self) -> Result<Vec<(usize, Packing)>> {
        let of = |(k, s): (usize, &Schedule)| {
            let nest = self.loops.nest(k, &self.index, &0.into(), self.loops.rows);
            nest.map(|nest| packings(&nest, s)).transpose()
        };
        self.stages.iter().enumerate().filter_map(of).collect()
    }

    /// What one iteration of the parallel loop does.
    fn iteration(&mut self) -> Result<Vec<Stmt>> {
        let Some(row) = self.loops.row else { return self.phases(&|_| true, &0.into(), 1) };
        let has_row = |k: usize| row.vars[k].is_some();
        let (size, blocks) = (self.loops.rows, self.loops.blocks(row));
        let rest = row.extent.clone() - blocks.clone() * size.into();
        let mut out = Vec::new();
        if self.loops.rows_inside() {
            out.extend(self.phases(&|k| !has_row(k), &0.into(), 1)?);
            let block = Sym::new("p_block");
            let body = self.phases(&has_row, &(Dim::sym(&block) * size.into()), size)?;
            out.extend(serial(&block, &blocks, body));
            let first = blocks * size.into();
            match rest.as_const() {
                Some(0) => {}
                Some(rest) => out.extend(self.phases(&has_row, &first, rest)?),
                None => {
                    let at = Sym::new("p_rest");
                    let body = self.phases(&has_row, &(first + Dim::sym(&at)), 1)?;
                    out.push(Stmt::serial(&at, rest, body));
                }
            }
            return Ok(out);
        }
        let at = self.index.last().cloned().unwrap_or_default();
        if !blocks.is(0) {
            out.extend(self.phases(&has_row, &(at.clone() * size.into()), size)?);
        }
        if let Some(rest @ 1..) = rest.as_const() {
            // In the last iteration only.
            let once = (at + 1.into()).floor_div(&blocks.maximum(&1.into()));
            let body = self.phases(&has_row, &(blocks * size.into()), rest)?;
            out.extend(serial(&Sym::new("p_rest"), &once, body));
        }
        Ok(out)
    }

    /// The phases that are asked for, one after the other.
    fn phases(&mut self, wanted: &dyn Fn(usize) -> bool, row: &Dim, count: i64) -> Result<Vec<Stmt>> {
        let mut out = Vec::new();
        for k in (0..self.stages.len()).filter(|k| wanted(*k)) {
            let nest = self.loops.nest(k, &self.index, row, count)?;
            let mut frame = Frame { stage: Some(self.copies), counter: self.counter, threads: None };
            out.push(body(&nest, &self.stages[k], &mut frame));
            self.symbols.extend(nest.symbols());
            (self.counter, self.copies) = (frame.counter, self.copies + 1);
        }
        if self.asks {
            let passed = self.loops.group.arrays.buffers.iter().take(self.loops.group.inputs.len());
            let inputs: Vec<&Sym> = passed.map(|b| &b.name).collect();
            rows_ahead::ask(&mut out, &|name| inputs.contains(&name));
        }
        Ok(out.concat())
    }
}

/// A serial loop, unless it is known to have but one iteration; its variable is then 0 in the body.
fn serial(var: &Sym, count: &Dim, body: Vec<Stmt>) -> Vec<Stmt> {
    match count.as_const() {
        Some(0) => Vec::new(),
        _ => vec![Stmt::loop_of(var, count.clone(), LoopKind::Serial, body)],
    }
}
