//! Which register tile, which blocks: a model of the time that a contraction takes on a CPU.
//!
//! A step of a register tile takes the longest of its multiply-adds, its loads and the time until a sum is there to be
//! added to. Rows that lie a multiple of a cache's way apart compete for the same places of it. Beside that, what is
//! read again is read from the nearest cache that holds what is read in between: a panel of columns for every tile of
//! rows, the rows of a block for every panel.

use super::super::nest::{Flat, Nest};
use super::super::space::{Computing, Prediction, Read};
use super::{LINE_BYTES, Roles, dtype_of};
use crate::rewrite::cost::{CLOCK, NOMINAL};
use aic_ir::schedule::{Class, Schedule};
use aic_ir::target::Target;

/// Multiply-adds, or loads, of vectors per cycle.
const PER_CYCLE: f64 = 2.0;
/// Cycles until the sum of a multiply-add can be added to.
const LATENCY: f64 = 4.0;
/// Cycles of a step that nothing else hides.
const STEP: f64 = 0.5;
/// Cycles to begin and end a tile, and to store one of its vectors.
const TILE: (f64, f64) = (20.0, 2.0);
/// Lines a multiple of so many bytes apart share the places of the nearest cache.
const WAY_BYTES: i64 = 4096;
/// How much longer a step takes whose rows don't fit these places.
const CONFLICT: f64 = 1.3;
/// The part of the time of moving data that computing doesn't hide, and that of reading a panel again, which goes on in order.
const EXPOSED: f64 = 0.5;
const EXPOSED_PANEL: f64 = 0.12;
/// The parts of the nearest cache and of the next one that a block of a panel may take.
const KEPT: [f64; 2] = [0.75, 0.2];
/// Numbers of blocks that rows are cut into.
const BLOCKS: [i64; 12] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
/// The most rows and vectors of a tile; with several rows fewer vectors, so that panels are many.
pub(in crate::schedule) const MOST: (u32, u32) = (14, 8);
const MOST_OF_SEVERAL: i64 = 4;
/// Threads that the work is to be shared evenly by, and the seconds of it that one of them does alone.
const THREADS: i64 = 2;
const ALONE: f64 = 2e-5;
/// A factor of less than this part of the cache next to the nearest isn't asked for.
pub const FAR: i64 = 16;
/// Bytes ahead of which a factor that is read once is asked for.
const AHEAD_BYTES: i64 = 8 << 10;

/// What the time depends on.
pub(in crate::schedule) struct Shape<'a> {
    target: &'a Target,
    /// Rows, columns in vectors, terms; nominal where they aren't known.
    rows: i64,
    vectors: i64,
    terms: i64,
    /// Terms for each of the outermost axis.
    inner_terms: i64,
    /// Whether terms may be taken in blocks.
    may_block: bool,
    /// Points of the other axes.
    outer: i64,
    /// Whether all rows share the vectors.
    is_shared: bool,
    /// Bytes between rows of the broadcast factor.
    row_step: Option<i64>,
    /// Bytes of one row of it, and of one vector of the other.
    row_bytes: i64,
    vector_bytes: i64,
}

/// The schedule of a contraction with at most so many lanes.
pub(super) fn plan(nest: &Nest, roles: &Roles, target: &Target, lanes: u32, is_packed: bool) -> Schedule {
    let lanes = super::super::fit(lanes, Some(&nest.axes[roles.n].extent));
    let is_known = |k: usize| nest.axes[k].extent.as_const().is_some();
    let has_rows = roles.m.is_none_or(is_known);
    let mut shape = Shape::new(nest, roles, target, lanes);
    shape.may_block = is_packed && has_rows && nest.over().iter().all(|a| a.extent.as_const().is_some());
    let most_rows = match has_rows {
        // Addresses in tiles of many unknown extents are beyond the verifier's proofs.
        false if nest.over().len() > 1 => 1,
        _ => shape.rows.min(MOST.0.into()),
    };
    let most_vectors = if is_known(roles.n) { shape.vectors.min(MOST.1.into()) } else { 1 };
    let tiles = (1..=most_rows).flat_map(|mr| (1..=most_vectors).map(move |nr| (mr, nr)));
    let fits = |(mr, nr): &(i64, i64)| {
        let most = if *mr > MOST_OF_SEVERAL { MOST_OF_SEVERAL } else { MOST.1.into() };
        mr * nr + nr + 1 < i64::from(target.vector_registers) && *nr <= most
    };
    let timed = tiles.filter(fits).map(|(mr, nr)| {
        let (mc, kc, time) = shape.block(mr, nr, has_rows);
        (time, mr, nr, mc, kc)
    });
    let (_, mr, nr, mc, kc) = timed.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, 1, 1, 0, 0));
    let ahead = if is_packed { shape.ahead(mr, nr, mc, kc) } else { 0 };
    let [mr, nr, kc, mc, ahead] = [mr, nr, kc, mc, ahead].map(|n| n as u32);
    Schedule { mr, nr, kc, mc, ahead, ..Schedule::new(Class::Contract, lanes) }
}

impl Shape<'_> {
    pub fn new<'a>(nest: &Nest, roles: &Roles, target: &'a Target, lanes: u32) -> Shape<'a> {
        let extent = |k: usize| nest.axes[k].extent.as_const().unwrap_or(NOMINAL).max(1);
        let others = (0..nest.axes.len()).filter(|&k| k != roles.n && Some(k) != roles.m);
        let size = |f: &Flat| dtype_of(nest, f, false).size() as i64;
        let terms = nest.over().iter().map(|a| a.extent.as_const().unwrap_or(NOMINAL).max(1));
        let terms = terms.fold(1i64, i64::saturating_mul);
        let row_step = roles.m.and_then(|m| match &roles.scalar.steps(&nest.axes[m].var)[..] {
            [Some(step)] => Some(step.as_const()?.saturating_mul(size(roles.scalar)).saturating_abs()),
            _ => None,
        });
        Shape {
            target,
            rows: roles.m.map_or(1, extent),
            vectors: ceil(extent(roles.n), lanes.into()),
            terms,
            inner_terms: terms / nest.over().first().and_then(|a| a.extent.as_const()).unwrap_or(1).max(1),
            may_block: false,
            outer: others.map(extent).fold(1, i64::saturating_mul),
            is_shared: roles.m.is_none_or(|m| !roles.vector.mentions(&nest.axes[m].var)),
            row_step,
            row_bytes: terms.saturating_mul(size(roles.scalar)),
            vector_bytes: i64::from(lanes) * size(roles.vector),
        }
    }

    /// A contraction in which all rows share the vectors; of elements of 4 bytes.
    pub fn of(target: &Target, [rows, vectors, terms, outer]: [i64; 4], lanes: u32) -> Shape<'_> {
        Shape {
            target,
            rows,
            vectors,
            terms,
            inner_terms: terms,
            may_block: false,
            outer,
            is_shared: true,
            row_step: None,
            row_bytes: terms.saturating_mul(4),
            vector_bytes: i64::from(lanes) * 4,
        }
    }

    /// Where every row has vectors of its own.
    pub fn of_vectors(self) -> Self {
        Shape { is_shared: false, ..self }
    }

    /// Cycles of one term of a tile.
    fn step(&self, mr: i64, nr: i64) -> f64 {
        let products = (mr * nr) as f64 / PER_CYCLE;
        let loads = (mr + if self.is_shared { nr } else { mr * nr }) as f64 / PER_CYCLE;
        let conflict = if self.conflicts(mr) { CONFLICT } else { 1.0 };
        products.max(loads + self.spills(mr, nr)).max(LATENCY) * conflict + STEP
    }

    /// Cycles of loading and storing what registers don't hold.
    fn spills(&self, mr: i64, nr: i64) -> f64 {
        let registers = i64::from(self.target.vector_registers);
        2.0 * (mr * nr + nr + 1 - registers).max(0) as f64 / PER_CYCLE
    }

    /// What a term of a whole tile waits for.
    fn limit(&self, mr: i64, nr: i64) -> &'static str {
        let products = (mr * nr) as f64 / PER_CYCLE;
        let step = self.step(mr, nr) - STEP;
        match () {
            () if step <= products => "arithmetic",
            () if step <= LATENCY => "latency",
            () => "loads",
        }
    }

    /// What all of it should take by a schedule.
    pub fn predict(&self, s: &Schedule) -> Prediction {
        let [mr, nr, kc, mc] = [s.mr, s.nr, s.kc, s.mc].map(i64::from);
        let mc = if mc > 0 { mc } else { self.rows };
        let seconds = self.computing(mr, nr, kc) * self.outer as f64;
        let seconds = seconds * self.uneven(mc, nr, seconds);
        let computing = Computing { seconds, limit: self.limit(mr, nr) };
        let reads = self.reads(mr, nr, mc, kc).map(|r| Read { bytes: r.bytes * self.outer as f64, ..r });
        let extents = [self.rows, self.vectors, self.terms, self.outer];
        Prediction::new(computing, &reads, self.target).of(extents)
    }

    /// Whether the lines that a tile's rows are at compete for the same places of the nearest cache.
    fn conflicts(&self, mr: i64) -> bool {
        let Some(step) = self.row_step.filter(|s| *s > 0) else { return false };
        // Some of the places are for the other factor and what comes next.
        let ways = self.target.memory.first().map_or(8, |l| l.bytes as i64 / WAY_BYTES) * 3 / 4;
        // Rows that share a place are those whose distance is a multiple of a way.
        let alike = |k: &i64| k.saturating_mul(step) % WAY_BYTES < LINE_BYTES;
        (0..mr).filter(alike).count() as i64 > ways
    }

    /// Seconds of computing with so many terms in a block, 0 for all.
    fn computing(&self, mr: i64, nr: i64, kc: i64) -> f64 {
        let blocks = if kc > 0 { ceil(self.terms, kc) as f64 } else { 1.0 };
        let part = |rows: i64, vectors: i64, count: i64| {
            let ends = blocks * (TILE.0 + TILE.1 * (rows * vectors) as f64);
            let tile = self.terms as f64 * self.step(rows, vectors) + ends;
            if rows * vectors == 0 { 0.0 } else { count as f64 * tile }
        };
        let (whole_rows, rest_rows) = (self.rows / mr, self.rows % mr);
        let (panels, rest_vectors) = (self.vectors / nr, self.vectors % nr);
        let whole = part(mr, nr, whole_rows * panels) + part(mr, rest_vectors, whole_rows);
        let rest = part(rest_rows, nr, panels) + part(rest_rows, rest_vectors, 1);
        (whole + rest) / CLOCK
    }

    /// Seconds of reading with blocks of so many rows and terms that computing doesn't hide.
    fn reading(&self, mr: i64, nr: i64, mc: i64, kc: i64) -> f64 {
        self.reads(mr, nr, mc, kc).iter().map(|r| r.waiting(self.target)).sum()
    }

    /// What is read with blocks of so many rows and terms: the columns for the first time, the rows, and the columns again.
    fn reads(&self, mr: i64, nr: i64, mc: i64, kc: i64) -> [Read; 3] {
        let tiles = ceil(self.rows, mr);
        let blocks = ceil(self.rows, mc);
        let panels = ceil(self.vectors, nr);
        let columns = self.columns(self.vectors);
        let terms = if kc > 0 { kc } else { self.terms };
        let panel = self.columns(nr.min(self.vectors)) / self.terms * terms;
        let rows = self.row_bytes.saturating_mul(self.rows);
        let read = |bytes: i64, kept: i64, times: i64, exposed: f64| Read {
            bytes: bytes as f64 * times as f64,
            kept,
            exposed,
        };
        [
            read(columns, columns, blocks, EXPOSED),
            read(rows, self.row_bytes.saturating_mul(mc.min(self.rows)), panels, EXPOSED),
            read(columns, panel, tiles - blocks, EXPOSED_PANEL),
        ]
    }

    /// Bytes of so many vectors of all terms.
    fn columns(&self, vectors: i64) -> i64 {
        self.terms.saturating_mul(vectors).saturating_mul(self.vector_bytes)
    }

    /// The rows and the terms of a block, 0 for all, and the seconds that all takes.
    fn block(&self, mr: i64, nr: i64, may_block: bool) -> (i64, i64, f64) {
        let tiles = ceil(self.rows, mr);
        let counts = BLOCKS.into_iter().chain([tiles]).filter(|n| *n == 1 || may_block && *n <= tiles);
        let timed = counts.map(|n| {
            let mc = ceil(tiles, n) * mr;
            let kc = self.terms_of_block(mr, nr, mc);
            let computing = self.computing(mr, nr, kc);
            (mc, kc, (computing + self.reading(mr, nr, mc, kc)) * self.uneven(mc, nr, computing))
        });
        let (mc, kc, time) = timed.min_by(|a, b| a.2.total_cmp(&b.2)).unwrap_or((0, 0, f64::INFINITY));
        (if mc >= self.rows { 0 } else { mc }, kc, time)
    }

    /// How much longer it takes because threads wait for one another, if it is so much computing that several work on it.
    fn uneven(&self, mc: i64, nr: i64, computing: f64) -> f64 {
        let panels = (self.vectors / nr).max(1);
        let parts = self.outer.saturating_mul((self.rows / mc).max(1)).saturating_mul(panels);
        if computing < ALONE { 1.0 } else { 1.0 + (parts % THREADS) as f64 / parts as f64 }
    }

    /// Terms of a block whose rows of a panel stay in a near cache for several tiles; 0 where all do, or few read them.
    /// That cache is the nearest one if the other factor is near too; else blocks are longer, as it would come from afar
    /// in short runs.
    fn terms_of_block(&self, mr: i64, nr: i64, mc: i64) -> i64 {
        let level = |k: usize| self.target.memory.get(k).map_or(0.0, |l| l.bytes as f64);
        let is_near = self.row_bytes.saturating_mul(self.rows) as f64 <= level(1) * 0.75;
        let room = if is_near { level(0) * KEPT[0] } else { level(1) * KEPT[1] };
        let panel = self.columns(nr);
        let is_small = panel as f64 <= room;
        if !self.may_block || mc.min(self.rows) <= 2 * mr || is_small || self.inner_terms == self.terms {
            return 0;
        }
        let (outermost, blocks) = (self.terms / self.inner_terms, (panel as f64 / room).ceil() as i64);
        ceil(outermost, blocks) * self.inner_terms
    }

    /// Terms ahead of which a packed factor is asked for: the next block or panel while tiles of rows read this one, or some
    /// bytes where it is read once. 0 if it is so small that it may well be near since the last run.
    fn ahead(&self, mr: i64, nr: i64, mc: i64, kc: i64) -> i64 {
        let near = self.target.second_cache_bytes();
        let row = nr * self.vector_bytes;
        let rows = if mc > 0 { mc } else { self.rows };
        match self.columns(self.vectors) {
            all if all <= near / FAR => 0,
            _ if kc > 0 => kc,
            _ if rows > mr && self.columns(nr) <= near / 2 => self.terms,
            _ => (AHEAD_BYTES / row).max(1),
        }
    }
}

fn ceil(a: i64, b: i64) -> i64 {
    a / b.max(1) + i64::from(a % b.max(1) > 0)
}
