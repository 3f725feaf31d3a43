//! Transpositions on a GPU: tiles that a block reads along the rows of its operand and writes along those of its result,
//! with shared memory in between. What else is computed of the element is computed as it is written.
//!
//! Of a schedule: `block` is the tile, `mr` its rows.

use super::super::emit::{Emitter, Value};
use super::super::nest::{Flat, Nest};
use super::super::{Frame, SHUFFLED, store};
use aic_ir::compute::Axis;
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Buffer, Expr, Level, LoopKind, Scope, Stmt};
use aic_ir::scalar::ScalarFn;
use aic_ir::schedule::{Class, Place, Schedule, Tile};
use aic_ir::target::Target;
use aic_ir::verify;
use std::collections::HashMap;

/// Rows and columns of a tile.
const TILE: i64 = 32;
/// Rows that the threads of a block take at a time.
const ROWS: i64 = 8;
/// Elements from row to row in shared memory: those of a column are in different banks.
const PITCH: i64 = TILE + 1;

/// Tiles, if the nest reads along one axis and writes along another.
pub fn choose(nest: &Nest, target: &Target) -> Option<Schedule> {
    Turn::of(nest)?;
    let tile = Tile { place: Place::Block, extent: [TILE as u32, TILE as u32, 1], buffers: 1 };
    let s = Schedule { mr: TILE as u32, tiles: vec![tile], ..Schedule::new(Class::Map, 1) };
    verify::kernel_for(&super::super::apply("", nest, &s), target).is_empty().then_some(s)
}

struct Turn<'a> {
    /// The axis along which elements are read.
    across: &'a Axis,
    /// The innermost axis, along which results are written.
    along: &'a Axis,
    /// What is read so.
    load: &'a Flat,
}

impl<'a> Turn<'a> {
    fn of(nest: &'a Nest) -> Option<Turn<'a>> {
        let (along, others) = nest.axes.split_last()?;
        let step = |d: &Dim, a: &Axis| d.affine_in(&a.var).map(|(step, _)| step);
        let is_long = |a: &Axis| a.extent.as_const().is_none_or(|n| n >= TILE / 2);
        let mut guarded = false;
        nest.value.visit(&mut |e| guarded |= matches!(e, Flat::Call(ScalarFn::Select, _)));
        let is_far = |load: &&Flat| match load {
            Flat::Load { address, .. } => {
                step(address, along).is_some_and(|s| s.as_const().is_none_or(|s| s.abs() > SHUFFLED))
            }
            _ => false,
        };
        let mut far = nest.value.loads().into_iter().filter(is_far);
        let (Some(load), None) = (far.next(), far.next()) else { return None };
        let Flat::Load { address, terms, .. } = load else { return None };
        let across = others.iter().find(|a| step(address, a).is_some_and(|s| s.is(1)))?;
        let is_written = step(&nest.at, along)?.is(1);
        let fits = is_written && terms.is_empty() && !guarded && is_long(along) && is_long(across);
        fits.then_some(Turn { across, along, load })
    }

    /// The expression with the element of the tile in place of what is read.
    fn replaced(&self, e: &Flat, tile: usize) -> Flat {
        match e {
            e if e == self.load => {
                Flat::Load { input: tile, address: Dim::named("element"), terms: Vec::new() }
            }
            Flat::Call(f, args) => Flat::Call(*f, args.iter().map(|a| self.replaced(a, tile)).collect()),
            Flat::Cast(t, e) => Flat::Cast(*t, self.replaced(e, tile).into()),
            e => e.clone(),
        }
    }
}

/// The statements of the kernel.
pub fn body(nest: &Nest, frame: &mut Frame) -> Vec<Stmt> {
    let Some(turn) = Turn::of(nest) else { return Vec::new() };
    let Flat::Load { input, .. } = turn.load else { return Vec::new() };
    let tile = Sym::new("tile");
    let (dtype, len) = (nest.inputs[*input].dtype, (TILE * PITCH).into());
    let shared = Buffer { name: tile.clone(), dtype, len, scope: Scope::Shared };
    let written = Nest {
        value: turn.replaced(&nest.value, nest.inputs.len()),
        inputs: nest.inputs.iter().cloned().chain([shared.clone()]).collect(),
        ..nest.clone()
    };
    let others: Vec<&Axis> =
        nest.axes.iter().filter(|a| a.var != turn.across.var && a.var != turn.along.var).collect();
    let extents: Vec<Dim> = others.iter().map(|a| a.extent.clone()).collect();
    let counts = [&turn.along.extent, &turn.across.extent].map(|n| n.ceil_div(&TILE.into()));
    let index = |name: &str, count: &Dim| if count.is(1) { 0.into() } else { Dim::named(name) };
    let n_others: Dim = extents.iter().product();
    let outer = aic_ir::op::unflatten(&index("bz", &n_others), &extents);
    let axes: HashMap<Sym, Dim> = others.iter().map(|a| a.var.clone()).zip(outer).collect();
    let r = Sym::new("r");
    // Neighbouring threads are along the tile's rows, or along its columns.
    let thread = Dim::named("thread");
    let near = thread.modulo(&TILE.into());
    let far = Dim::sym(&r) * ROWS.into() + thread.floor_div(&TILE.into());
    let mut share = |nest: &Nest, across: &Dim, along: &Dim, is_read: bool| {
        let at = [
            (turn.along, index("bn", &counts[0]) * TILE.into() + along.clone()),
            (turn.across, index("bm", &counts[1]) * TILE.into() + across.clone()),
        ];
        let element = along.clone() * PITCH.into() + across.clone();
        let mut axes = axes.clone();
        axes.extend(at.iter().map(|(a, d)| (a.var.clone(), d.clone())));
        axes.insert(Sym::new("element"), element.clone());
        let mut e = Emitter::new(nest, axes, 1, frame);
        let mask = at
            .iter()
            .filter(|(a, _)| !a.extent.is_multiple(TILE))
            .map(|(a, d)| Expr::call(ScalarFn::Lt, [d.clone(), a.extent.clone()].map(Expr::Index)))
            .map(|is_there| Value::new(is_there, DType::Bool, 1))
            .reduce(|a, b| e.call(ScalarFn::And, vec![a, b]));
        let mask = mask.map(|m| e.bind(m));
        let value = e.expr(if is_read { turn.load } else { &nest.value }, mask.as_ref()).expr;
        let to = Expr::Index(element);
        let store = match is_read {
            true => Stmt::store(&tile, to, value),
            false => store(nest, e.index(&nest.at).expr, value, mask.map(|m| m.expr)),
        };
        let mut out = e.take_lets();
        out.push(store);
        Stmt::loop_of(&r, (TILE / ROWS).into(), LoopKind::Unroll, out)
    };
    let read = share(nest, &near, &far, true);
    let write = share(&written, &far, &near, false);
    let bound = |name: &str, extent: Dim, level, body| {
        Stmt::loop_of(&Sym::new(name), extent, LoopKind::Bind(level), body)
    };
    let threads = bound(
        "thread",
        (TILE * ROWS).into(),
        Level::Thread(0),
        vec![read, Stmt::Barrier(Scope::Shared), write],
    );
    let [columns, rows] = counts;
    let levels =
        [("bn", columns, Level::Block(0)), ("bm", rows, Level::Block(1)), ("bz", n_others, Level::Block(2))];
    let levels = levels.into_iter().filter(|(_, extent, _)| !extent.is(1));
    levels.fold(vec![Stmt::Alloc(shared), threads], |body, (name, extent, level)| {
        vec![bound(name, extent, level, body)]
    })
}
