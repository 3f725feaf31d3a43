//! Nests without reduction: vectors along the innermost axis, threads over the others. A transposition goes by square
//! tiles, which are turned in registers.

pub mod gpu;
pub mod npu;
pub mod turn;

use super::contract::Tiles;
use super::emit::{Emitter, lane};
use super::nest::{Flat, Nest};
use super::{Frame, SHUFFLED, store};
use aic_ir::compute::Axis;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Copy, Steps, Stmt, Tile};
use aic_ir::schedule::{Class, Schedule};
use aic_ir::target::Target;
use std::collections::HashMap;

/// Elements that one iteration of the parallel loop covers where the nest has a single axis.
const CHUNK: i64 = 16 << 10;

/// The most rows and columns of a tile that is transposed in registers.
const TILE: u32 = 16;

/// Vectors along the innermost axis, or tiles that are transposed.
pub fn choose(nest: &Nest, target: &Target) -> Schedule {
    let lanes = target.lanes(nest.widest());
    let tile = lanes.min(TILE);
    if tile > 1 && Transposition::of(nest, tile).is_some() {
        return Schedule { mr: tile, ..Schedule::new(Class::Map, tile) };
    }
    Schedule::new(Class::Map, super::fit(lanes, nest.axes.last().map(|a| &a.extent)))
}

/// Whether a schedule evaluates a map: in vectors, or by tiles of a transposition.
pub(super) fn allows(nest: &Nest, s: &Schedule) -> bool {
    let has_tiles = || s.mr == s.lanes && s.mr <= TILE && Transposition::of(nest, s.mr).is_some();
    s.mr == 1 || has_tiles()
}

/// A map that moves elements as they are, contiguous along one axis where it reads and along another where it writes.
struct Transposition<'a> {
    /// The axis along which it reads contiguous elements.
    across: &'a Axis,
    /// The innermost axis, along which it writes them.
    along: &'a Axis,
    source: usize,
    address: &'a Dim,
    /// From column to column of the source, and from row to row of the destination.
    steps: [Dim; 2],
}

impl<'a> Transposition<'a> {
    /// The transposition that a nest is, if it has tiles of this size.
    fn of(nest: &'a Nest, tile: u32) -> Option<Transposition<'a>> {
        let Flat::Load { input, address, terms } = &nest.value else { return None };
        let (along, others) = nest.axes.split_last()?;
        let step = |d: &Dim, a: &Axis| d.affine_in(&a.var).map(|(step, _)| step);
        let fits = |a: &Axis| a.extent.as_const().is_some_and(|n| n >= i64::from(tile));
        let across = others.iter().find(|a| step(address, a).is_some_and(|s| s.is(1)))?;
        let source = step(address, along)?;
        let is_far = source.as_const().is_none_or(|s| s.abs() > SHUFFLED);
        let moves = terms.is_empty() && nest.inputs[*input].dtype == nest.output.dtype;
        let is_wide = nest.output.dtype.size() >= 4;
        let joins = step(&nest.at, along)?.is(1) && fits(along) && fits(across);
        let steps = [source, step(&nest.at, across)?];
        (moves && is_wide && is_far && joins).then_some(Transposition {
            across,
            along,
            source: *input,
            address,
            steps,
        })
    }
}

/// Square tiles, and vectors for what is left at the edges.
fn transpose(nest: &Nest, t: &Transposition, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let lanes = i64::from(s.lanes);
    let others: Vec<&Axis> =
        nest.axes.iter().filter(|a| a.var != t.across.var && a.var != t.along.var).collect();
    let (rows, columns) =
        (Tiles::new(&t.across.extent, lanes, lanes), Tiles::new(&t.along.extent, lanes, lanes));
    let mut extents: Vec<Dim> = others.iter().map(|a| a.extent.clone()).collect();
    extents.push(rows.steps());
    let index = frame.index(&extents);
    let outer: HashMap<Sym, Dim> =
        others.iter().zip(&index).map(|(a, i)| (a.var.clone(), i.clone())).collect();
    let (jt, edge) = (Sym::new("jt"), Sym::new("edge"));
    let body = rows.visit(&index[others.len()], &mut |row, height| {
        columns.each(&jt, &mut |column, width| {
            let at = |row: Dim, column: Dim| {
                let mut axes = outer.clone();
                axes.extend([(t.across.var.clone(), row), (t.along.var.clone(), column)]);
                axes
            };
            if height.width == lanes && width.width == lanes {
                return vec![Stmt::Copy(t.tile(nest, &at(row.clone(), column), lanes))];
            }
            let limit = (width.width < lanes).then(|| t.along.extent.clone());
            let axes = at(row.clone() + Dim::sym(&edge), column + Dim::sym(&lane()));
            let vector = element(nest, axes, s.lanes, limit, frame);
            vec![Stmt::serial(&edge, height.width.into(), vector)]
        })
    });
    frame.outermost(&extents, body)
}

impl Transposition<'_> {
    /// The copy of the tile at these values of the axes.
    fn tile(&self, nest: &Nest, axes: &HashMap<Sym, Dim>, lanes: i64) -> Copy {
        let at = |d: &Dim| d.subst(&|s| axes.get(s).cloned());
        let [column, row] = &self.steps;
        let source = &nest.inputs[self.source].name;
        Copy {
            dst: Tile::rows(&nest.output.name, at(&nest.at), row.clone()),
            src: Tile::steps(source, at(self.address), Steps::by(1), Steps::by(column.clone())),
            extent: [lanes.into(), lanes.into()],
            valid: None,
            token: None,
        }
    }
}

/// The statements of the kernel.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    if let Some(t) = Transposition::of(nest, s.mr).filter(|_| s.mr > 1) {
        return transpose(nest, &t, s, frame);
    }
    let Some((inner, outer)) = nest.axes.split_last() else {
        return element(nest, HashMap::new(), 1, None, frame);
    };
    let (v, outer, across) = match outer.split_last() {
        Some((last, others)) if frame.is_stage() && is_transposed(nest, last, inner) => {
            (Sym::new("v"), others, Some(last))
        }
        _ => (Sym::new("v"), outer, None),
    };
    let lanes = i64::from(s.lanes);
    let blocks = match (outer.is_empty(), inner.extent.as_const()) {
        (true, Some(n)) if n <= CHUNK => Dim::from(1),
        _ if frame.is_stage() => Dim::from(1),
        (true, _) => inner.extent.ceil_div(&CHUNK.into()),
        (false, _) => Dim::from(1),
    };
    let mut extents: Vec<Dim> = outer.iter().map(|a| a.extent.clone()).collect();
    extents.push(blocks.clone());
    let index = frame.index(&extents);
    let mut axes: HashMap<Sym, Dim> =
        outer.iter().zip(&index).map(|(a, i)| (a.var.clone(), i.clone())).collect();
    let first = index[outer.len()].clone() * CHUNK.into();

    // A block of constant length needs a mask for its last vector only.
    let mut statements = Vec::new();
    axes.extend(across.iter().map(|a| (a.var.clone(), a.dim())));
    let mut vectors = |from: Dim, count: Dim, masked: bool| {
        let base = from + Dim::sym(&v) * lanes.into();
        axes.insert(inner.var.clone(), base + Dim::sym(&lane()));
        let limit = masked.then(|| inner.extent.clone());
        let step = element(nest, axes.clone(), s.lanes, limit, frame);
        let step = across.iter().fold(step, |body, a| vec![Stmt::serial(&a.var, a.extent.clone(), body)]);
        statements.push(Stmt::serial(&v, count, step));
    };
    let length = if blocks.is(1) { inner.extent.as_const() } else { None };
    match length {
        Some(n) => {
            if n / lanes > 0 {
                vectors(first.clone(), (n / lanes).into(), false);
            }
            if n % lanes > 0 {
                vectors(first + (n / lanes * lanes).into(), 1.into(), true);
            }
        }
        None if blocks.is(1) => vectors(first, inner.extent.ceil_div(&lanes.into()), true),
        None => {
            let whole = inner.extent.as_const().is_some_and(|n| n % CHUNK == 0);
            vectors(first, (CHUNK / lanes).into(), !whole);
        }
    }
    frame.outermost(&extents, statements)
}

/// Whether loads are contiguous along `outer` and jump along `inner`: a block of vectors is then best finished along
/// `outer` while what it jumps over is at hand.
fn is_transposed(nest: &Nest, outer: &Axis, inner: &Axis) -> bool {
    let mut steps = nest.value.steps(&outer.var).into_iter().zip(nest.value.steps(&inner.var));
    let jumps = |(a, b): (Option<Dim>, Option<Dim>)| {
        a.is_some_and(|a| a.is(1)) && b.is_some_and(|b| b.as_const().is_none_or(|b| b > 1))
    };
    steps.any(jumps)
}

/// Computes and stores one vector; lanes at or beyond `limit` along the innermost axis are left out.
fn element(
    nest: &Nest,
    axes: HashMap<Sym, Dim>,
    lanes: u32,
    limit: Option<Dim>,
    frame: &mut Frame,
) -> Vec<Stmt> {
    let mut e = Emitter::new(nest, axes, lanes, frame);
    let mask = match (&limit, nest.axes.last()) {
        (Some(n), Some(inner)) => Some(e.tail(&inner.dim(), n)),
        _ => None,
    };
    let value = e.expr(&nest.value, mask.as_ref());
    let index = e.index(&nest.at).widen(lanes);
    let mut out = e.take_lets();
    out.push(store(nest, index, value.widen(lanes), mask.map(|m| m.expr)));
    out
}
