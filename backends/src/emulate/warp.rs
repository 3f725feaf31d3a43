//! What the threads of a warp do together: shuffles, votes, and matrices in fragments.
//!
//! Lanes gather at an operation until all those of its mask are there; the last one computes the results of all.

use super::cluster::{Cluster, Next, Wait};
use super::float::Element;
use super::fragment;
use super::memory::Access;
use super::wgmma::Queue;
use aic_ir::ensure;
use aic_ir::error::Result;

/// An operation of a warp.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum WarpOp {
    /// "shfl.sync"; whether there is a predicate beside the value.
    Shuffle { mode: Shuffle, has_predicate: bool },
    /// "vote.sync"
    Vote(Vote),
    /// "redux.sync"
    Redux(Redux),
    /// "match.any.sync"
    MatchAny,
    /// "elect.sync"
    Elect,
    /// "bar.warp.sync"
    Sync,
    /// "ldmatrix" of so many matrices.
    LoadMatrix { n: usize, transposed: bool },
    /// "stmatrix"
    StoreMatrix { n: usize, transposed: bool },
    /// "mma.sync.m16n8k*"
    Mma(Mma),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redux {
    Add,
    Min,
    Max,
    UnsignedMin,
    UnsignedMax,
    And,
    Or,
    Xor,
}

/// A product of 16 x k and k x 8 elements, with 32-bit accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mma {
    k: usize,
    a: Element,
    b: Element,
}

/// A warp of a block.
#[derive(Default)]
pub(super) struct Warp {
    gathers: Vec<Gather>,
    /// Asynchronous products.
    pub products: Queue,
}

/// Lanes at an operation.
struct Gather {
    op: usize,
    mask: u32,
    arrived: u32,
}

/// What each lane brings to an operation.
pub(super) struct Brought {
    pub mask: u32,
    args: [*const u64; 32],
    results: [*mut u64; 32],
}

impl Brought {
    /// The lanes that take part.
    pub fn lanes(&self) -> impl Iterator<Item = usize> + use<> {
        let mask = self.mask;
        (0..32).filter(move |l| mask >> l & 1 == 1)
    }

    pub fn arg(&self, lane: usize, k: usize) -> u64 {
        // SAFETY: every lane that takes part waits in the operation with its operands.
        unsafe { *self.args[lane].add(k) }
    }

    pub fn give(&self, lane: usize, k: usize, value: u64) {
        // SAFETY: and with slots for its results.
        unsafe { *self.results[lane].add(k) = value }
    }
}

impl WarpOp {
    pub fn parse(name: &str) -> Option<WarpOp> {
        if let Some(rest) = name.strip_prefix("shfl.sync.") {
            let (mode, ty) = rest.split_once('.')?;
            let mode = match mode {
                "up" => Shuffle::Up,
                "down" => Shuffle::Down,
                "bfly" => Shuffle::Butterfly,
                "idx" => Shuffle::Index,
                _ => return None,
            };
            return Some(WarpOp::Shuffle { mode, has_predicate: ty.ends_with('p') });
        }
        if let Some(rest) = name.strip_prefix("mma.") {
            return Mma::parse(rest).map(WarpOp::Mma);
        }
        let matrices = |rest: &str| {
            let n = ["x1", "x2", "x4"].iter().position(|x| rest.split('.').next() == Some(x))?;
            Some((1 << n, rest.contains(".trans")))
        };
        if let Some(rest) = name.strip_prefix("ldmatrix.sync.aligned.m8n8.") {
            return matrices(rest).map(|(n, transposed)| WarpOp::LoadMatrix { n, transposed });
        }
        if let Some(rest) = name.strip_prefix("stmatrix.sync.aligned.m8n8.") {
            return matrices(rest).map(|(n, transposed)| WarpOp::StoreMatrix { n, transposed });
        }
        Some(match name {
            "vote.all.sync" => WarpOp::Vote(Vote::All),
            "vote.any.sync" => WarpOp::Vote(Vote::Any),
            "vote.uni.sync" => WarpOp::Vote(Vote::Uniform),
            "vote.ballot.sync" => WarpOp::Vote(Vote::Ballot),
            "redux.sync.add" => WarpOp::Redux(Redux::Add),
            "redux.sync.min" => WarpOp::Redux(Redux::Min),
            "redux.sync.max" => WarpOp::Redux(Redux::Max),
            "redux.sync.umin" => WarpOp::Redux(Redux::UnsignedMin),
            "redux.sync.umax" => WarpOp::Redux(Redux::UnsignedMax),
            "redux.sync.and" => WarpOp::Redux(Redux::And),
            "redux.sync.or" => WarpOp::Redux(Redux::Or),
            "redux.sync.xor" => WarpOp::Redux(Redux::Xor),
            "match.any.sync.i32" | "match.any.sync.i64" => WarpOp::MatchAny,
            "elect.sync" => WarpOp::Elect,
            "bar.warp.sync" => WarpOp::Sync,
            _ => return None,
        })
    }

    /// The lanes that take part, as the operands say; all for operations that are `.aligned`.
    fn mask(&self, args: &[u64]) -> u32 {
        match self {
            WarpOp::LoadMatrix { .. } | WarpOp::StoreMatrix { .. } | WarpOp::Mma(_) => u32::MAX,
            WarpOp::Redux(_) => args[1] as u32,
            _ => args[0] as u32,
        }
    }
}

impl Mma {
    /// From `m16n8k16.row.col.bf16` and the like.
    fn parse(name: &str) -> Option<Mma> {
        let (shape, types) = name.split_once(".row.col.")?;
        let k = shape.strip_prefix("m16n8k")?.parse().ok()?;
        let (a, b) = match types {
            "bf16" => (Element::Bf16, Element::Bf16),
            "f32.f32" => (Element::F16, Element::F16),
            "tf32" => (Element::Tf32, Element::Tf32),
            "s8" => (Element::S8, Element::S8),
            "u8" => (Element::U8, Element::U8),
            "s8.u8" => (Element::S8, Element::U8),
            "u8.s8" => (Element::U8, Element::S8),
            _ => return None,
        };
        // A register along k has 4 elements of 8 bits, and so on; a row has 4 or 8 registers.
        let registers = k * a.bytes() / 16;
        matches!(registers, 1 | 2).then_some(Mma { k, a, b })
    }
}

impl Cluster<'_> {
    pub fn warp_op(&mut self, number: usize, op: &WarpOp, args: &[u64], results: *mut u64) -> Result<Next> {
        let mask = op.mask(args);
        self.gather(number, mask, args, results, |cluster, brought| cluster.together(op, brought))
    }

    /// Waits for the lanes of a mask at an operation; the last one computes.
    pub fn gather(
        &mut self,
        op: usize,
        mask: u32,
        args: &[u64],
        results: *mut u64,
        compute: impl FnOnce(&mut Self, &Brought) -> Result<()>,
    ) -> Result<Next> {
        let lane = &self.lanes[self.current];
        let (block, warp, own) = (lane.block, lane.number / 32, 1u32 << (lane.number % 32));
        ensure!(mask & own != 0, "it isn't among the lanes {mask:#x} of the operation that it executes");
        let threads = self.shared.geometry.threads() - 32 * warp;
        let missing = threads < 32 && mask >> threads != 0;
        ensure!(!missing, "its warp has {threads} lanes, fewer than the operation's mask {mask:#x} says");
        let gathers = &mut self.blocks[block].warps[warp].gathers;
        let at = gathers.iter().position(|g| g.op == op && g.mask == mask).unwrap_or_else(|| {
            gathers.push(Gather { op, mask, arrived: 0 });
            gathers.len() - 1
        });
        gathers[at].arrived |= own;
        let is_complete = gathers[at].arrived == mask;
        if is_complete {
            gathers.swap_remove(at);
        }
        let next = self.park(Wait::Warp, args, results);
        if !is_complete {
            return Ok(next);
        }
        let first = self.blocks[block].first + 32 * warp;
        let mut brought = Brought { mask, args: [std::ptr::null(); 32], results: [std::ptr::null_mut(); 32] };
        for l in brought.lanes() {
            let lane = &self.lanes[first + l];
            (brought.args[l], brought.results[l]) = (lane.args, lane.results);
        }
        compute(self, &brought)?;
        let current = self.current;
        brought.lanes().map(|l| first + l).filter(|l| *l != current).for_each(|l| self.wake(l));
        self.lanes[current].wait = None;
        Ok(Next::Go)
    }

    fn together(&mut self, op: &WarpOp, x: &Brought) -> Result<()> {
        match op {
            WarpOp::Shuffle { mode, has_predicate } => shuffle(*mode, *has_predicate, x),
            WarpOp::Vote(vote) => self::vote(*vote, x),
            WarpOp::Redux(redux) => {
                let value = x.lanes().map(|l| x.arg(l, 0) as u32).reduce(|a, b| redux.apply(a, b));
                x.lanes().for_each(|l| x.give(l, 0, u64::from(value.unwrap_or(0))));
            }
            WarpOp::MatchAny => {
                for l in x.lanes() {
                    let same = x.lanes().filter(|o| x.arg(*o, 1) == x.arg(l, 1));
                    x.give(l, 0, same.fold(0, |m, o| m | 1 << o));
                }
            }
            WarpOp::Elect => {
                // Any lane, but always the same one for a mask.
                let n = x.lanes().count();
                let chosen = x.lanes().nth(if self.rng.is_some() { n / 2 } else { 0 }).unwrap_or(0);
                for l in x.lanes() {
                    x.give(l, 0, chosen as u64);
                    x.give(l, 1, u64::from(l == chosen));
                }
            }
            WarpOp::Sync => {}
            WarpOp::LoadMatrix { n, transposed } => self.load_matrix(*n, *transposed, x)?,
            WarpOp::StoreMatrix { n, transposed } => self.store_matrix(*n, *transposed, x)?,
            WarpOp::Mma(m) => mma(*m, x),
        }
        Ok(())
    }

    /// Lane `8 m + r` has the address of row `r` of matrix `m`; the address of that row, checked.
    fn matrix_row(&self, matrix: usize, row: usize, x: &Brought, is_write: bool) -> Result<usize> {
        let address = x.arg(8 * matrix + row, 0) as usize;
        let access = Access { is_write, ..Access::read(address, 16, 16) };
        self.check(access)?;
        ensure!(self.owner(address).is_ok(), "a matrix isn't in shared memory");
        Ok(address)
    }

    fn load_matrix(&mut self, n: usize, transposed: bool, x: &Brought) -> Result<()> {
        for matrix in 0..n {
            let mut rows = [0; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = self.matrix_row(matrix, r, x, false)?;
            }
            for lane in 0..32 {
                let element = |e: usize| {
                    let [row, column] = fragment::ldmatrix(lane, e, transposed);
                    // SAFETY: 16 bytes of the row were checked.
                    u64::from(unsafe { ((rows[row] + 2 * column) as *const u16).read() })
                };
                x.give(lane, matrix, element(0) | element(1) << 16);
            }
        }
        Ok(())
    }

    fn store_matrix(&mut self, n: usize, transposed: bool, x: &Brought) -> Result<()> {
        for matrix in 0..n {
            let mut rows = [0; 8];
            for (r, row) in rows.iter_mut().enumerate() {
                *row = self.matrix_row(matrix, r, x, true)?;
            }
            for (lane, e) in (0..32).flat_map(|l| [(l, 0), (l, 1)]) {
                let [row, column] = fragment::ldmatrix(lane, e, transposed);
                let value = (x.arg(lane, 1 + matrix) >> (16 * e)) as u16;
                // SAFETY: 16 bytes of the row were checked.
                unsafe { ((rows[row] + 2 * column) as *mut u16).write(value) };
            }
        }
        Ok(())
    }
}

/// Operands: mask, value, lane or distance, clamp and segments ("shfl.sync", semantics).
fn shuffle(mode: Shuffle, has_predicate: bool, x: &Brought) {
    for lane in x.lanes() {
        let (b, c) = ((x.arg(lane, 2) & 31) as i64, x.arg(lane, 3));
        let (segments, clamp, own) = ((c >> 8 & 31) as i64, (c & 31) as i64, lane as i64);
        let last = (own & segments) | (clamp & !segments);
        let first = own & segments;
        let (source, is_valid) = match mode {
            Shuffle::Up => (own - b, own - b >= last),
            Shuffle::Down => (own + b, own + b <= last),
            Shuffle::Butterfly => (own ^ b, own ^ b <= last),
            Shuffle::Index => (first | (b & !segments), (first | (b & !segments)) <= last),
        };
        let source = if is_valid { source as usize } else { lane };
        // The value of a lane that doesn't take part is undefined.
        let takes_part = x.mask >> source & 1 == 1;
        x.give(lane, 0, if takes_part { x.arg(source, 1) } else { u64::MAX });
        if has_predicate {
            x.give(lane, 1, u64::from(is_valid));
        }
    }
}

fn vote(vote: Vote, x: &Brought) {
    let ballot = x.lanes().fold(0u32, |m, l| m | ((x.arg(l, 1) & 1) as u32) << l);
    let value = match vote {
        Vote::All => u32::from(ballot == x.mask),
        Vote::Any => u32::from(ballot != 0),
        Vote::Uniform => u32::from(ballot == 0 || ballot == x.mask),
        Vote::Ballot => ballot,
    };
    x.lanes().for_each(|l| x.give(l, 0, u64::from(value)));
}

impl Redux {
    fn apply(self, a: u32, b: u32) -> u32 {
        match self {
            Redux::Add => a.wrapping_add(b),
            Redux::Min => (a as i32).min(b as i32) as u32,
            Redux::Max => (a as i32).max(b as i32) as u32,
            Redux::UnsignedMin => a.min(b),
            Redux::UnsignedMax => a.max(b),
            Redux::And => a & b,
            Redux::Or => a | b,
            Redux::Xor => a ^ b,
        }
    }
}

/// Operands: registers of A, of B, and four accumulators.
fn mma(m: Mma, x: &Brought) {
    let per = 4 / m.a.bytes();
    let halves = m.k / (4 * per);
    let (mut a, mut b) = (vec![0.0; 16 * m.k], vec![0.0; m.k * 8]);
    let part = |element: Element, register: u64, e: usize| {
        element
            .value((register >> (8 * element.bytes() * e)) as u32 & (u32::MAX >> (32 - 8 * element.bytes())))
    };
    for lane in 0..32 {
        for (register, e) in (0..2 * halves).flat_map(|r| (0..per).map(move |e| (r, e))) {
            let [row, column] = fragment::mma_a(lane, register, e, per);
            a[row * m.k + column] = part(m.a, x.arg(lane, register), e);
        }
        for (register, e) in (0..halves).flat_map(|r| (0..per).map(move |e| (r, e))) {
            let [row, column] = fragment::mma_b(lane, register, e, per);
            b[column * m.k + row] = part(m.b, x.arg(lane, 2 * halves + register), e);
        }
    }
    for (lane, register) in (0..32).flat_map(|l| (0..4).map(move |r| (l, r))) {
        let [row, column] = fragment::mma_c(lane, register);
        let products = a[row * m.k..][..m.k].iter().zip(&b[column * m.k..][..m.k]);
        let sum: f64 = products.map(|(a, b)| a * b).sum();
        let accumulator = x.arg(lane, 3 * halves + register) as u32;
        x.give(lane, register, u64::from(m.a.add(accumulator, sum)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let shuffle = |mode, has_predicate| Some(WarpOp::Shuffle { mode, has_predicate });
        assert_eq!(WarpOp::parse("shfl.sync.bfly.f32"), shuffle(Shuffle::Butterfly, false));
        assert_eq!(WarpOp::parse("shfl.sync.idx.i32p"), shuffle(Shuffle::Index, true));
        let load = |n, transposed| Some(WarpOp::LoadMatrix { n, transposed });
        assert_eq!(WarpOp::parse("ldmatrix.sync.aligned.m8n8.x4.trans.b16.p3"), load(4, true));
        assert_eq!(WarpOp::parse("ldmatrix.sync.aligned.m8n8.x1.b16.p3"), load(1, false));
        let mma = |k, a| Some(WarpOp::Mma(Mma { k, a, b: a }));
        assert_eq!(WarpOp::parse("mma.m16n8k16.row.col.bf16"), mma(16, Element::Bf16));
        assert_eq!(WarpOp::parse("mma.m16n8k8.row.col.tf32"), mma(8, Element::Tf32));
        assert_eq!(WarpOp::parse("mma.m16n8k32.row.col.s8"), mma(32, Element::S8));
        assert_eq!(WarpOp::parse("mma.m16n8k16.row.col.f16.f16"), None);
        assert_eq!(WarpOp::parse("mma.m16n8k64.row.col.bf16"), None);
    }
}
