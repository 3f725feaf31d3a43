//! Transpositions: a tile is copied in along the axis that the operand is consecutive along, gathered in the unified buffer
//! along the one that results are, and copied out.

use super::super::super::Frame;
use super::super::super::emit::Emitter;
use super::super::super::nest::{Flat, Nest};
use super::super::super::unified::{alloc, lane, on_cores};
use aic_ir::compute::Axis;
use aic_ir::dim::{Dim, Sym};
use aic_ir::kernel::{Copy, Expr, Stmt, Tile};
use aic_ir::schedule::{self, Place, Schedule};
use std::collections::HashMap;

/// Rows and columns of a tile.
const TILE: i64 = 64;

/// The axes of a transposition, and its operand.
struct Turn<'a> {
    /// Results are consecutive along it.
    columns: &'a Axis,
    /// The operand is consecutive along it.
    rows: &'a Axis,
    outer: Vec<&'a Axis>,
    input: usize,
    address: &'a Dim,
    /// From one column to the next in the operand, and from row to row of the results.
    steps: [Dim; 2],
}

/// The tile of a nest that is a transposition, possibly with functions of its elements.
pub(super) fn tile(nest: &Nest) -> Option<schedule::Tile> {
    turn(nest)?;
    Some(schedule::Tile { place: Place::Ub, extent: [TILE as u32, TILE as u32, 1], buffers: 2 })
}

fn turn(nest: &Nest) -> Option<Turn<'_>> {
    let (columns, others) = nest.axes.split_last()?;
    let mut loads = nest.value.loads();
    loads.dedup();
    let [Flat::Load { input, address, terms }] = &loads[..] else { return None };
    let is_gathered = matches!(nest.inputs[*input].dtype.size(), 2 | 4);
    if nest.kept.is_some() || !terms.is_empty() || !is_gathered || mentions_indices(&nest.value) {
        return None;
    }
    let (step, rest) = address.affine_in(&columns.var)?;
    let is_row = |a: &&Axis| rest.affine_in(&a.var).is_some_and(|(s, r)| s.is(1) && !r.mentions(&a.var));
    let rows = others.iter().rev().find(is_row)?;
    let (one, at) = nest.at.affine_in(&columns.var)?;
    let (down, _) = at.affine_in(&rows.var)?;
    let is_far = step.as_const().is_some_and(|s| s > 1) && down.as_const().is_some();
    (is_far && one.is(1)).then(|| Turn {
        columns,
        rows,
        outer: others.iter().filter(|a| a.var != rows.var).collect(),
        input: *input,
        address,
        steps: [step, down],
    })
}

/// Whether values depend on indices, other than by where elements are.
fn mentions_indices(e: &Flat) -> bool {
    let mut found = false;
    e.visit(&mut |e| found |= matches!(e, Flat::Index(_)));
    found
}

/// The statements of the kernel; `None` if it isn't a transposition.
pub(super) fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Option<Vec<Stmt>> {
    let t = turn(nest)?;
    let mut extents: Vec<Dim> = t.outer.iter().map(|a| a.extent.clone()).collect();
    extents.extend([&t.rows.extent, &t.columns.extent].map(|n| n.ceil_div(&TILE.into())));
    on_cores(&extents, s.cores, |index| {
        let first = |k: usize| index[t.outer.len() + k].clone() * TILE.into();
        let mut axes: HashMap<Sym, Dim> =
            t.outer.iter().map(|a| a.var.clone()).zip(index.iter().cloned()).collect();
        axes.insert(t.rows.var.clone(), first(0));
        axes.insert(t.columns.var.clone(), first(1));
        let left = |k: usize, a: &Axis| Dim::from(TILE).minimum(&(a.extent.clone() - first(k)));
        let (rows, columns) = (left(0, t.rows), left(1, t.columns));
        let at = |d: &Dim| d.subst(&|s| axes.get(s).cloned());
        let source = &nest.inputs[t.input];
        let (u, y) = (alloc("u", source.dtype, TILE * TILE), alloc("uy", nest.output.dtype, TILE * TILE));
        let copy = |dst: Tile, src: Tile, extent: [&Dim; 2]| {
            Stmt::Copy(Copy { dst, src, extent: extent.map(Clone::clone), valid: None, token: None })
        };
        let [step, down] = t.steps.clone();
        let copy_in = copy(
            Tile::rows(&u.name, 0, TILE),
            Tile::rows(&source.name, at(t.address), step),
            [&columns, &rows],
        );
        let row = Sym::new("row");
        let mut inner = nest.clone();
        inner.inputs.push(u.clone());
        let load = Flat::Load {
            input: nest.inputs.len(),
            address: Dim::sym(&lane()) * TILE.into() + Dim::sym(&row),
            terms: Vec::new(),
        };
        let mut e = Emitter::new(&inner, HashMap::new(), 1, frame);
        let value = e.expr(&with_load(&nest.value, &load), None).expr;
        let mut statements = e.take_lets();
        let to = Dim::sym(&row) * TILE.into() + Dim::sym(&lane());
        statements.push(Stmt::store(&y.name, Expr::Index(to), value));
        let gather = Stmt::serial(&lane(), columns.clone(), statements);
        let copy_out = copy(
            Tile::rows(&nest.output.name, at(&nest.at), down),
            Tile::rows(&y.name, 0, TILE),
            [&rows, &columns],
        );
        let gathers = Stmt::serial(&row, rows.clone(), vec![gather]);
        Some(vec![Stmt::Alloc(u), copy_in, Stmt::Alloc(y), gathers, copy_out])
    })
}

/// An expression with another load in place of its only one.
fn with_load(e: &Flat, load: &Flat) -> Flat {
    match e {
        Flat::Load { .. } => load.clone(),
        Flat::Call(f, args) => Flat::Call(*f, args.iter().map(|a| with_load(a, load)).collect()),
        Flat::Cast(t, e) => Flat::Cast(*t, with_load(e, load).into()),
        Flat::Const(..) | Flat::Index(_) | Flat::Acc => e.clone(),
    }
}
