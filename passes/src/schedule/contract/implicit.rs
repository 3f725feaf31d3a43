//! Contractions on a GPU by matrix instructions, of factors that are whatever expressions: convolutions above all, as
//! the product of the filters and a matrix of windows that is in no memory but the block's.
//!
//! Of a schedule: `block` is the tile of a block, `warp` that of a warp, `unit` the instruction.

use super::super::Frame;
use super::super::emit::{Emitter, lane};
use super::super::nest::{Flat, Nest};
use super::super::reduce::{finish, read};
use super::fragments::{Fragments, Held};
use super::sides::{Grid, Sides, at, sides};
use super::staging::{Factor, Staging, buffer, unroll};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Expr, Level, LoopKind, Operand, Stmt};
use aic_ir::scalar::ScalarFn;
use aic_ir::schedule::{Class, Place, Schedule, Tile};
use aic_ir::target::{MatrixUnit, Target};
use aic_ir::verify;

/// Tiles of blocks and of warps, the largest first.
const TILES: [([u32; 2], [u32; 2]); 4] =
    [([128, 128], [64, 32]), ([64, 128], [32, 32]), ([64, 64], [32, 16]), ([32, 32], [16, 8])];

/// Elements between the rows of a tile in shared memory: rows begin in other banks, those of 16 bits at multiples of 16
/// bytes.
const PADDING: i64 = 8;

/// The largest tile of which there is one for each multiprocessor, or the smallest one, if there is a matrix instruction for
/// the factors' elements.
pub fn choose(nest: &Nest, target: &Target) -> Option<Schedule> {
    let s = sides(nest)?;
    let unit = unit(nest, &s, target).filter(|_| s.is_worth_tiles())?;
    let k = 2 * unit.extents[2].step;
    let smallest = TILES.len() - 1;
    let chosen = TILES.iter().position(|(block, _)| s.fills(*block, target)).unwrap_or(smallest);
    TILES[chosen..].iter().find_map(|(block, warp)| {
        let tile = |place, [m, n]: [u32; 2], buffers| Tile { place, extent: [m, n, k], buffers };
        let tiles = vec![tile(Place::Block, *block, 2), tile(Place::Warp, *warp, 1)];
        let s = Schedule { unit: unit.name.clone(), tiles, ..Schedule::new(Class::Contract, 1) };
        verify::machine(&super::super::apply("", nest, &s), target).is_empty().then_some(s)
    })
}

/// The matrix instruction for the factors as they are before they are converted, or of `f32` where bits of these may be
/// dropped.
fn unit<'t>(nest: &Nest, s: &Sides, target: &'t Target) -> Option<&'t MatrixUnit> {
    let narrow = s.factors.map(|f| stored(nest, f).map(|(_, dtype)| dtype));
    let [a, b] = match narrow {
        [Some(a), Some(b)] => [a, b],
        _ if target.drops_bits => [nest.acc; 2],
        _ => return None,
    };
    let types = [(Operand::C, nest.acc), (Operand::A, a), (Operand::B, b)];
    target.matrix.iter().find(|u| !u.is_async && types.iter().all(|(operand, t)| u.dtype(*operand) == *t))
}

/// A factor before it is converted to the type of the sum, and its type of 8 or 16 bits.
pub fn stored<'a>(nest: &Nest, f: &'a Flat) -> Option<(&'a Flat, DType)> {
    let Flat::Cast(_, e) = f else { return None };
    let mut dtype = None;
    for load in e.loads() {
        let Flat::Load { input, .. } = load else { continue };
        dtype = dtype.or(Some(nest.inputs[*input].dtype)).filter(|t| *t == nest.inputs[*input].dtype);
    }
    let dtype = dtype.filter(|t| matches!(t, DType::F16 | DType::BF16 | DType::I8))?;
    is_of(e, dtype).then_some((&**e, dtype))
}

/// Whether an expression is elements of this type, chosen by their positions.
fn is_of(e: &Flat, dtype: DType) -> bool {
    match e {
        Flat::Load { terms, .. } => terms.is_empty(),
        Flat::Const(t, _) => *t == dtype,
        Flat::Call(ScalarFn::Select, args) => {
            args[0].loads().is_empty() && args[1..].iter().all(|a| is_of(a, dtype))
        }
        _ => false,
    }
}

/// The statements of the kernel.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    let (Some(sides), Some(fragments)) = (sides(nest), Fragments::new(s)) else { return Vec::new() };
    let dtype = fragments.unit.dtype(Operand::A);
    let before = |f| if dtype == nest.acc { Some(f) } else { stored(nest, f).map(|(value, _)| value) };
    let [Some(a), Some(b)] = sides.factors.map(before) else { return Vec::new() };
    let factors = [a, b].map(|value| Factor { value, dtype, padding: PADDING });
    let block = fragments.block;
    let grid = sides.grid([block[0], block[1]]);
    let threads = fragments.n_warps() * 32;
    let number = Dim::named("warp") * 32.into() + Dim::named("thread");
    let staging = Staging { nest, sides: &sides, factors, block, threads, number, grid: &grid };
    let mut thread = fragments.registers();
    thread.extend(staging.steps(frame, |step| {
        let held = |factor: usize| Held {
            buffer: buffer(factor),
            first: staging.slot(factor, step),
            row: staging.row(factor),
            rows_are_k: true,
        };
        fragments.multiply(&[0, 1].map(held))
    }));
    thread.extend(epilogue(nest, &sides, &fragments, &grid, frame));
    let bound = |name: &str, extent: i64, level, body| {
        Stmt::loop_of(&Sym::new(name), extent.into(), LoopKind::Bind(level), body)
    };
    let lanes = bound("thread", 32, Level::Thread(0), thread);
    let mut body = staging.allocs();
    body.push(bound("warp", fragments.n_warps(), Level::Warp, vec![lanes]));
    grid.blocks(body)
}

/// What is stored: two neighbours in a row at a time where they are neighbours in memory too.
fn epilogue(nest: &Nest, sides: &Sides, fragments: &Fragments, grid: &Grid, frame: &mut Frame) -> Vec<Stmt> {
    let is_partial = |side: usize| !sides.extent(side).is_multiple(fragments.block[side]);
    let lanes: u32 = if sides.is_contiguous(nest, 2) { 2 } else { 1 };
    let one = Sym::new("one");
    fragments.pairs(|pair| {
        let [row, column] = [0, 1].map(|side| grid.origin[side].clone() + pair.at[side].clone());
        let offset = if lanes == 2 { Dim::sym(&lane()) } else { Dim::sym(&one) };
        let own = if lanes == 2 { pair.own.clone() } else { pair.own.clone() + Dim::sym(&one) };
        let column = column + offset;
        let mut axes = grid.batch.clone();
        axes.extend(at(&sides.axes[0], &row));
        axes.extend(at(&sides.axes[1], &column));
        let mut e = Emitter::new(nest, axes, lanes, frame);
        let acc = e.bind(read(&Sym::new("acc"), own, lanes, nest.acc));
        let mask = is_partial(1).then(|| sides.mask(&mut e, &column));
        let mut body = e.take_lets();
        body.extend(finish(&mut e, nest, acc, mask.as_ref()));
        if lanes == 1 {
            body = vec![unroll(&one, 2, body)];
        }
        if is_partial(0) {
            let cond = Expr::call(ScalarFn::Lt, [Expr::Index(row), Expr::Index(sides.extent(0))]);
            body = vec![Stmt::If { cond, then: body, other: Vec::new() }];
        }
        body
    })
}
