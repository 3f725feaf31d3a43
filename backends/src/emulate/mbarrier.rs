//! Barriers in shared memory (PTX ISA, "mbarrier"): phases that end when so many threads have arrived and so many bytes
//! have been copied.
//!
//! A barrier's state is kept here; in memory there is a mark that says that it is one, so that whoever writes over it,
//! or uses one that wasn't initialised, is told so.

use super::cluster::{Cluster, Next, Wait};
use super::memory::Access;
use aic_ir::error::Result;
use aic_ir::{bail, ensure};

/// An operation on a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MbarrierOp {
    Init,
    Invalidate,
    /// Arrivals, as many as an operand says or one; with bytes to expect.
    Arrive {
        is_counted: bool,
        is_expecting: bool,
        is_drop: bool,
    },
    /// Bytes to expect.
    Expect,
    /// Bytes that have come.
    Complete,
    /// Waits for the end of a phase: that of a parity, or that of a token from an arrival.
    Wait {
        is_parity: bool,
    },
}

/// A barrier's state.
#[derive(Clone, Debug)]
pub(super) struct Mbarrier {
    /// Arrivals of a phase.
    expected: u32,
    /// Those that are missing in this one.
    pending: u32,
    /// Bytes that are expected and haven't come; negative if they come before they are expected.
    bytes: i64,
    /// Phases that have ended.
    phase: u64,
    parked: Vec<Parked>,
}

/// A thread that waits for the end of a phase.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    pub lane: usize,
    until: Until,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    Parity(u64),
    Phase(u64),
}

/// What is in memory where a barrier is.
const MARK: u64 = 0xb0a5_71e5_ba55_1e57;
/// The most arrivals and bytes of a phase.
const LIMIT: i64 = (1 << 20) - 1;

impl MbarrierOp {
    pub fn parse(name: &str) -> Option<MbarrierOp> {
        let rest = name.strip_prefix("mbarrier.")?;
        let (stem, _) = rest.split_once(".scope.").unwrap_or((rest, ""));
        let is_scoped = stem.len() < rest.len();
        let stem = stem.strip_suffix(".shared").unwrap_or(stem);
        let stem = stem.strip_suffix(".relaxed").unwrap_or(stem);
        let arrive =
            |is_counted, is_expecting, is_drop| MbarrierOp::Arrive { is_counted, is_expecting, is_drop };
        Some(match stem {
            "init" => MbarrierOp::Init,
            "inval" => MbarrierOp::Invalidate,
            "arrive" => arrive(is_scoped, false, false),
            "arrive.drop" => arrive(is_scoped, false, true),
            "arrive.noComplete" => arrive(true, false, false),
            "arrive.expect.tx" => arrive(false, true, false),
            "arrive.drop.expect.tx" => arrive(false, true, true),
            "expect.tx" => MbarrierOp::Expect,
            "complete.tx" => MbarrierOp::Complete,
            "test.wait" | "try.wait" | "try.wait.tl" => MbarrierOp::Wait { is_parity: false },
            "test.wait.parity" | "try.wait.parity" | "try.wait.parity.tl" => {
                MbarrierOp::Wait { is_parity: true }
            }
            _ => return None,
        })
    }
}

impl Until {
    /// Whether the phase that it waits for has ended when so many have.
    fn is_over(self, phase: u64) -> bool {
        match self {
            Until::Parity(parity) => phase & 1 != parity,
            Until::Phase(waited) => phase > waited,
        }
    }
}

impl Mbarrier {
    fn new(count: u32) -> Mbarrier {
        Mbarrier { expected: count, pending: count, bytes: 0, phase: 0, parked: Vec::new() }
    }

    fn expect(&mut self, bytes: i64) -> Result<()> {
        self.bytes += bytes;
        ensure!(
            self.bytes.abs() <= LIMIT,
            "an mbarrier expects {} bytes, more than it can count",
            self.bytes
        );
        Ok(())
    }

    fn arrive(&mut self, count: u32) -> Result<()> {
        let (pending, expected) = (self.pending, self.expected);
        ensure!(count <= pending, "{count} arrive at an mbarrier of {expected}, where {pending} are missing");
        self.pending -= count;
        Ok(())
    }

    /// Begins the next phase if this one has ended, and gives the threads that go on.
    fn turn(&mut self) -> Vec<Parked> {
        if self.pending > 0 || self.bytes != 0 {
            return Vec::new();
        }
        self.phase += 1;
        self.pending = self.expected;
        let (over, parked) =
            std::mem::take(&mut self.parked).into_iter().partition(|p| p.until.is_over(self.phase));
        self.parked = parked;
        over
    }
}

impl Cluster<'_> {
    pub fn mbarrier_op(&mut self, op: MbarrierOp, args: &[u64], results: *mut u64) -> Result<Next> {
        let at = args[0] as usize;
        match op {
            MbarrierOp::Init => self.init(at, args[1] as i64)?,
            MbarrierOp::Invalidate => {
                self.barrier(at)?;
                self.mbarriers.remove(&at);
            }
            MbarrierOp::Arrive { is_counted, is_expecting, is_drop } => {
                let count = if is_counted { args[1] as u32 } else { 1 };
                let bytes = if is_expecting { args[1] as i64 } else { 0 };
                let b = self.barrier(at)?;
                let token = b.phase | u64::from(b.pending) << 44;
                b.expect(bytes)?;
                b.arrive(count)?;
                b.expected -= u32::from(is_drop) * count;
                // Arrivals at another block's barrier have no result.
                if !results.is_null() {
                    // SAFETY: this one has.
                    unsafe { *results = token };
                }
                self.turn(at);
            }
            MbarrierOp::Expect => self.barrier(at)?.expect(args[1] as i64)?,
            MbarrierOp::Complete => self.complete_bytes(at, args[1] as usize)?,
            MbarrierOp::Wait { is_parity } => {
                let until = if is_parity {
                    Until::Parity(args[1] & 1)
                } else {
                    Until::Phase(args[1] & ((1 << 44) - 1))
                };
                return self.wait_for(at, until, args, results);
            }
        }
        Ok(Next::Go)
    }

    fn init(&mut self, at: usize, count: i64) -> Result<()> {
        self.check(Access::write(at, 8, 8))?;
        ensure!((1..=LIMIT).contains(&count), "an mbarrier for {count} arrivals");
        if let Some(b) = self.mbarriers.get(&at) {
            ensure!(b.parked.is_empty(), "an mbarrier is initialised again while threads wait at it");
        }
        // SAFETY: checked to be in shared memory.
        unsafe { (at as *mut u64).write(MARK) };
        self.mbarriers.insert(at, Mbarrier::new(count as u32));
        Ok(())
    }

    fn barrier(&mut self, at: usize) -> Result<&mut Mbarrier> {
        let offset = self.offset(at)?;
        let Some(b) = self.mbarriers.get_mut(&at) else {
            bail!("there is no mbarrier at byte {offset} of shared memory: it wasn't initialised");
        };
        // SAFETY: barriers are in shared memory.
        let mark = unsafe { (at as *const u64).read() };
        ensure!(mark == MARK, "the mbarrier at byte {offset} of shared memory was written over");
        Ok(b)
    }

    fn turn(&mut self, at: usize) {
        let parked = self.mbarriers.get_mut(&at).map(Mbarrier::turn).unwrap_or_default();
        self.unpark(parked);
    }

    /// So many bytes of asynchronous copies have come.
    pub fn complete_bytes(&mut self, at: usize, bytes: usize) -> Result<()> {
        self.barrier(at)?.expect(-(bytes as i64))?;
        self.turn(at);
        Ok(())
    }

    /// One more arrival, of copies rather than of a thread.
    pub fn arrive_at(&mut self, at: usize) -> Result<()> {
        self.barrier(at)?.arrive(1)?;
        self.turn(at);
        Ok(())
    }

    /// One arrival more is to be waited for in this phase.
    pub fn expect_arrival(&mut self, at: usize) -> Result<()> {
        self.barrier(at)?.pending += 1;
        Ok(())
    }

    fn wait_for(&mut self, at: usize, until: Until, args: &[u64], results: *mut u64) -> Result<Next> {
        let (lane, offset) = (self.current, self.offset(at)?);
        let own = self.lanes[lane].block == self.owner(at)?;
        ensure!(own, "it waits at another block's mbarrier");
        let b = self.barrier(at)?;
        let is_over = until.is_over(b.phase);
        // A wait may fail; that of a loop, which asks again at once, may as well take its time.
        let was_told = std::mem::replace(&mut self.lanes[lane].told, (!is_over).then_some((at, until)));
        if is_over || was_told != Some((at, until)) {
            // SAFETY: waits have a result.
            unsafe { *results = is_over.into() };
            return Ok(Next::Go);
        }
        self.barrier(at)?.parked.push(Parked { lane, until });
        let parity = match until {
            Until::Parity(parity) => parity,
            Until::Phase(phase) => phase & 1,
        };
        Ok(self.park(Wait::Mbarrier(offset, parity), args, results))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let arrive =
            |is_counted, is_expecting| MbarrierOp::Arrive { is_counted, is_expecting, is_drop: false };
        let parse = |name: &str| MbarrierOp::parse(name);
        assert_eq!(parse("mbarrier.init.shared"), Some(MbarrierOp::Init));
        assert_eq!(parse("mbarrier.arrive.shared"), Some(arrive(false, false)));
        assert_eq!(parse("mbarrier.arrive.scope.cta.space.cta"), Some(arrive(true, false)));
        assert_eq!(parse("mbarrier.arrive.expect.tx.relaxed.scope.cta.space.cta"), Some(arrive(false, true)));
        let wait = |is_parity| Some(MbarrierOp::Wait { is_parity });
        assert_eq!(parse("mbarrier.try.wait.parity.tl.scope.cta.space.cta"), wait(true));
        assert_eq!(parse("mbarrier.test.wait.shared"), wait(false));
        assert_eq!(parse("mbarrier.pending.count"), None);
    }

    #[test]
    fn a_phase_ends_with_arrivals_and_bytes() -> Result<()> {
        let mut b = Mbarrier::new(2);
        b.arrive(1)?;
        b.expect(64)?;
        b.turn();
        b.arrive(1)?;
        b.turn();
        assert_eq!(b.phase, 0);
        b.expect(-64)?;
        b.turn();
        assert_eq!((b.phase, b.pending), (1, 2));
        assert!(Until::Parity(0).is_over(1) && !Until::Parity(1).is_over(1));
        assert!(b.arrive(3).is_err());
        Ok(())
    }
}
