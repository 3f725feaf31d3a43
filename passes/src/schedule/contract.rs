//! Sums of products on a register tile of `mr` rows by `nr` vectors.
//!
//! Of the output's axes one carries the vectors (`n`: contiguous in one factor, absent from the other), one the rows
//! (`m`: it moves the factor that is broadcast); the rest are outer loops. Partial tiles at the end of `n` carry masks,
//! those at the end of `m` are a second, smaller tile.

mod boxes;
mod choices;
mod fragments;
pub mod gpu;
mod groups;
pub mod implicit;
pub mod npu;
mod pack;
mod plan;
mod product;
mod sides;
pub mod simt;
mod staging;
mod tile;
mod tiles;

pub(super) use choices::{allows, allows_packed, blocks, predict};
pub use pack::packings;
pub(super) use pack::{choose_packed, column, packed, packed_body, packed_buffer, panel};
pub(super) use plan::{FAR, MOST, Shape};
pub(super) use product::are_loadable;
pub(super) use tile::{Sums, TileMaker};
pub(super) use tiles::{Part, Tiles};

use super::emit::Value;
use super::nest::{Flat, Nest};
use super::reduce::lanes_at;
use super::{Frame, SHUFFLED};
use aic_ir::compute::{Axis, ReduceOp};
use aic_ir::dim::{Dim, Sym};
use aic_ir::dtype::DType;
use aic_ir::kernel::{Buffer, Expr, Scope, Stmt};
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;
use std::ops::RangeInclusive;

/// Bytes that memory is read by.
pub(super) const LINE_BYTES: i64 = 64;

/// The roles of a contraction's parts.
pub(super) struct Roles<'a> {
    /// The axis of the vectors.
    pub n: usize,
    /// The axis of the rows, if there is a second axis.
    pub m: Option<usize>,
    /// The factor that is broadcast, or loaded as vectors too where both depend on `n`.
    pub scalar: &'a Flat,
    /// The factor that is contiguous along `n`.
    pub vector: &'a Flat,
}

pub(super) fn roles(nest: &Nest) -> Option<Roles<'_>> {
    let (ReduceOp::Sum, over) = nest.reduction.as_ref()? else { return None };
    let Flat::Call(ScalarFn::Mul, factors) = &nest.value else { return None };
    let [a, b] = &factors[..] else { return None };
    if over.iter().any(|o| nest.axes.iter().any(|x| o.extent.mentions(&x.var))) {
        return None;
    }
    let step = |f: &Flat, axis: &Axis| match &f.steps(&axis.var)[..] {
        [Some(step)] => Some(step.clone()),
        _ => None,
    };
    // Contiguous in one factor and absent from the other, the innermost such axis; else one of small steps, whose
    // vectors are shuffled together from contiguous ones.
    let find = |scalar: &Flat, vector: &Flat| {
        let fit = |steps: RangeInclusive<i64>| {
            nest.axes.iter().rposition(|axis| {
                let long = axis.extent.as_const().is_none_or(|n| n >= 4);
                let step_of = |f: &Flat| step(f, axis).and_then(|s| s.as_const());
                long && step_of(scalar) == Some(0) && step_of(vector).is_some_and(|s| steps.contains(&s))
            })
        };
        fit(1..=1).or_else(|| fit(2..=SHUFFLED))
    };
    let (n, scalar, vector) = match (find(a, b), find(b, a)) {
        (Some(n), None) => (n, a, b),
        (None, Some(n)) => (n, b, a),
        (Some(n), Some(o)) if n > o => (n, a, b),
        (Some(_), Some(o)) => (o, b, a),
        (None, None) => return None,
    };
    let others = || (0..nest.axes.len()).rev().filter(|&k| k != n);
    let moves = |f: &Flat, k: usize| step(f, &nest.axes[k]).is_none_or(|s| !s.is(0));
    let reuse = others().find(|&k| moves(scalar, k) && !moves(vector, k));
    Some(Roles { n, m: reuse.or_else(|| others().next()), scalar, vector })
}

/// A register tile for the nest, if it is a contraction with an axis fit for vectors.
pub fn choose(nest: &Nest, target: &Target, lanes: u32) -> Option<Schedule> {
    Some(plan::plan(nest, &roles(nest)?, target, lanes, false))
}

/// Rows of a register tile of so many vectors that leave registers for a row of vectors and a broadcast.
pub(super) fn vector_rows(target: &Target, nr: u32) -> u32 {
    let budget = target.vector_registers - target.vector_registers / 8;
    ((budget - nr) / nr).min(14)
}

/// The row count up to `most` that covers `m` rows with the least waste, the largest of equals.
pub(super) fn best_rows(m: u64, most: u32) -> u32 {
    let cost = |r: u32| {
        let tiles = m.div_ceil(u64::from(r));
        // A tile costs its rows and a share for the vectors it loads.
        tiles * (u64::from(r) * 2 + 3)
    };
    (1..=most.max(1)).rev().min_by_key(|&r| cost(r.min(m as u32).max(1))).unwrap_or(1).min(m.max(1) as u32)
}

/// The statements of the kernel.
pub fn body(nest: &Nest, s: &Schedule, frame: &mut Frame) -> Vec<Stmt> {
    match roles(nest) {
        Some(roles) => tiles(nest, s, &roles, frame),
        None => Vec::new(),
    }
}

/// The statements of a contraction whose parts have these roles: for each block of rows all columns, so that the rows
/// stay in the cache, for each panel of columns all rows of the block, so that the panel does.
fn tiles(nest: &Nest, s: &Schedule, roles: &Roles, frame: &mut Frame) -> Vec<Stmt> {
    let (n, lanes) = (&nest.axes[roles.n], i64::from(s.lanes));
    let outer: Vec<&Axis> =
        (0..nest.axes.len()).filter(|&k| k != roles.n && Some(k) != roles.m).map(|k| &nest.axes[k]).collect();
    let m_extent = roles.m.map_or(Dim::from(1), |m| nest.axes[m].extent.clone());
    let columns = Tiles::new(&n.extent, i64::from(s.nr) * lanes, lanes);
    let blocks = (s.mc > 0 && m_extent.as_const().is_some())
        .then(|| Tiles::new(&m_extent, s.mc.into(), 1).named("last_rows"));
    let mut extents: Vec<Dim> = outer.iter().map(|a| a.extent.clone()).collect();
    extents.push(blocks.as_ref().map_or(1.into(), Tiles::steps));
    extents.push(columns.steps());
    let of_panel = usize::from(panels_come_first(nest, s, roles, &outer));
    extents.rotate_right(of_panel);
    let mut index = frame.index(&extents);
    index.rotate_left(of_panel);
    let [.., block, panel] = &index[..] else { return Vec::new() };
    let axes = outer.iter().zip(&index).map(|(a, i)| (a.var.clone(), i.clone())).collect();
    let (sums, terms, finishes, ask) = (None, None, true, None);
    let mut tile = TileMaker { nest, s, roles, axes, sums, terms, finishes, ask, frame };
    let blocked = Blocked::new(nest, s);
    let mut of_block = |m0: Dim, extent: &Dim| {
        let rows = Tiles::rows(extent, s.mr.into());
        let asks = Asks::new(nest, s, roles, &rows);
        columns.visit(panel, &mut |n0, width| {
            let mut pass = |tile: &mut TileMaker| {
                rows.passes(&Sym::new("it"), asks.passes, &mut |m, count, pass| {
                    tile.ask = asks.of_pass(pass, s, &tile.n_terms());
                    tile.make(m0.clone() + m, count, n0.clone(), width)
                })
            };
            match (&blocked, extent.as_const()) {
                (Some(blocked), Some(rows)) => blocked.passes(&mut tile, &m0, rows, &mut pass),
                _ => pass(&mut tile),
            }
        })
    };
    let body = match blocks {
        None => of_block(0.into(), &m_extent),
        Some(blocks) => blocks.visit(block, &mut |m0, part| of_block(m0, &part.width.into())),
    };
    frame.outermost(&extents, body)
}

/// Whether the loop over panels is the outermost: all other axes share the packed factor, and it is larger than the other.
fn panels_come_first(nest: &Nest, s: &Schedule, roles: &Roles, outer: &[&Axis]) -> bool {
    let is_shared = outer.iter().all(|a| !roles.vector.mentions(&a.var));
    let mut rows = outer.iter().map(|a| &a.extent).chain(roles.m.map(|m| &nest.axes[m].extent));
    let rows = rows.try_fold(1i64, |n, extent| n.checked_mul(extent.as_const()?));
    let columns = nest.axes[roles.n].extent.as_const();
    s.pack > 0 && s.mc == 0 && is_shared && rows.zip(columns).is_some_and(|(rows, columns)| rows < columns)
}

/// Terms of the sum in blocks, so that a block's rows of a panel stay in the nearest cache while all rows of the output
/// get their share; what is summed up so far waits on the stack.
struct Blocked {
    /// Of the outermost axis: how many a block has, the blocks of so many, and how many the last one has.
    count: i64,
    whole: i64,
    last: i64,
}

impl Blocked {
    fn new(nest: &Nest, s: &Schedule) -> Option<Blocked> {
        let (outermost, inner) = nest.over().split_first()?;
        let extent = outermost.extent.as_const()?;
        let inner = inner.iter().try_fold(1i64, |n, a| n.checked_mul(a.extent.as_const()?))?;
        let count = i64::from(s.kc) / inner.max(1);
        let whole = (extent - 1).checked_div(count).filter(|n| s.pack > 0 && *n > 0)?;
        Some(Blocked { count, whole, last: extent - whole * count })
    }

    /// What `pass` makes for all terms of a block, for each block.
    fn passes(
        &self,
        tile: &mut TileMaker,
        m0: &Dim,
        rows: i64,
        pass: &mut dyn FnMut(&mut TileMaker) -> Vec<Stmt>,
    ) -> Vec<Stmt> {
        let (nest, lanes, columns) = (tile.nest, tile.s.lanes, i64::from(tile.s.pack));
        let id = tile.frame.next();
        let name = |base: &str| Sym::new(&format!("{base}{id}"));
        let (buffer, block, at) = (name("sums"), name("kb"), name("is"));
        let row = tile.roles.m.map_or(0.into(), |m| nest.axes[m].dim() - m0.clone());
        let len = (rows * columns).into();
        let array = Buffer { name: buffer.clone(), dtype: nest.acc, len, scope: Scope::Stack };
        let zero = Value::new(Expr::Const(nest.acc, Scalar::zero(nest.acc)), nest.acc, 1).widen(lanes);
        let clear = Stmt::store(&buffer, lanes_at(Dim::sym(&at) * i64::from(lanes).into(), lanes), zero);
        let n_vectors = (rows * columns / i64::from(lanes)).into();
        let mut out = vec![Stmt::Alloc(array), Stmt::serial(&at, n_vectors, vec![clear])];
        tile.sums = Some(Sums { buffer, at: row * columns.into() + Dim::sym(&pack::column()) });
        (tile.terms, tile.finishes) =
            (Some((Dim::sym(&block) * self.count.into(), self.count.into())), false);
        out.push(Stmt::serial(&block, self.whole.into(), pass(tile)));
        (tile.terms, tile.finishes) = (Some(((self.whole * self.count).into(), self.last.into())), true);
        out.extend(pass(tile));
        (tile.sums, tile.terms) = (None, None);
        out
    }
}

/// How a packed factor is asked for from memory before it is needed: what comes after the block of terms at hand by all
/// passes over it, one per row tile, a little with every term, so that nothing waits for memory; or, where a panel is read
/// once, a row some terms ahead.
struct Asks {
    /// How many passes ask.
    passes: i64,
    /// Whether they ask for what comes after all terms at hand.
    is_far: bool,
    /// Elements that a pass asks for with every term, and those of a line.
    share: i64,
    line: i64,
}

/// What a register tile asks for with every term.
#[derive(Clone)]
pub(super) struct Ask {
    /// Elements of the packed factor from the first term at hand on.
    pub first: Dim,
    /// Elements from term to term.
    pub share: i64,
    /// Elements of a line.
    pub line: i64,
}

impl Asks {
    fn new(nest: &Nest, s: &Schedule, roles: &Roles, rows: &Tiles) -> Asks {
        let element = dtype_of(nest, roles.vector, false).size() as i64;
        let (line, pack) = (LINE_BYTES / element.max(1), i64::from(s.pack));
        let is_far = i64::from(s.ahead) >= if s.kc > 0 { s.kc.into() } else { n_terms(nest) };
        let passes = match s.ahead {
            0 => 0,
            _ if is_far => rows.count().unwrap_or(1).clamp(1, pack),
            _ => 1,
        };
        Asks { passes, is_far, share: (pack + passes - 1) / passes.max(1), line }
    }

    /// What pass number `pass` asks for while it adds up so many terms.
    fn of_pass(&self, pass: Option<Dim>, s: &Schedule, terms: &Dim) -> Option<Ask> {
        let before = pass? * terms.clone() * self.share.into();
        let ahead = if self.is_far { terms.clone() } else { i64::from(s.ahead).into() };
        let first = ahead * i64::from(s.pack).into() + before;
        Some(Ask { first, share: self.share, line: self.line })
    }
}

/// Terms of the sum, as far as they are known.
fn n_terms(nest: &Nest) -> i64 {
    nest.over().iter().filter_map(|a| a.extent.as_const()).fold(1, i64::saturating_mul)
}

/// The element type of a factor: that of its cast, if casts count, or of its load.
fn dtype_of(nest: &Nest, f: &Flat, cast: bool) -> DType {
    match f {
        Flat::Cast(t, _) if cast => *t,
        Flat::Cast(_, e) => dtype_of(nest, e, cast),
        Flat::Load { input, .. } => nest.inputs[*input].dtype,
        _ => nest.acc,
    }
}
