//! Barriers of a block (PTX ISA, "bar{.cta}, barrier{.cta}"): sixteen, each for all threads or for so many.

use super::cluster::{Cluster, Next, Wait};
use aic_ir::ensure;
use aic_ir::error::Result;

/// An operation at a barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockOp {
    /// Whether an operand says for how many threads the barrier is; otherwise it is for all of the block.
    is_counted: bool,
    /// Whether the thread doesn't wait.
    is_arrival: bool,
    reduce: Option<Reduce>,
}

/// What becomes of a condition that each thread brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reduce {
    And,
    Or,
    Count,
}

/// The barriers of a block.
#[derive(Default)]
pub(super) struct Barriers([Barrier; 16]);

#[derive(Default)]
struct Barrier {
    /// For how many threads it is; `None` for all that there are.
    expected: Option<usize>,
    arrived: usize,
    waiting: Vec<usize>,
    /// How many brought a true condition.
    count: usize,
    reduce: Option<Reduce>,
}

impl BlockOp {
    pub fn parse(name: &str) -> Option<BlockOp> {
        if let "barrier0" | "barrier.cta.sync.aligned.all" | "barrier.cta.sync.all" = name {
            return Some(BlockOp { is_counted: false, is_arrival: false, reduce: None });
        }
        let rest = name.strip_prefix("barrier.cta.")?;
        let is_counted = rest.ends_with(".count");
        let kind = rest.strip_suffix(".count").or(rest.strip_suffix(".all"))?;
        let kind = kind.strip_suffix(".aligned").unwrap_or(kind);
        let reduce = match kind {
            "sync" | "arrive" => None,
            "red.and" => Some(Reduce::And),
            "red.or" => Some(Reduce::Or),
            "red.popc" => Some(Reduce::Count),
            _ => return None,
        };
        Some(BlockOp { is_counted, is_arrival: kind == "arrive", reduce })
    }
}

impl Cluster<'_> {
    /// Operands: the barrier, the number of threads if it is counted, the condition if there is one.
    pub fn block_op(&mut self, op: BlockOp, args: &[u64], results: *mut u64) -> Result<Next> {
        let id = args.first().map_or(0, |a| *a as usize);
        let expected = op.is_counted.then(|| args[1] as usize);
        ensure!(id < 16, "there is no barrier {id}: a block has 16");
        if let Some(n) = expected {
            ensure!(
                n > 0 && n.is_multiple_of(32),
                "barrier {id} is for {n} threads, which is no multiple of a warp's"
            );
        }
        let lane = self.current;
        let block = self.lanes[lane].block;
        let b = &mut self.blocks[block].barriers.0[id];
        ensure!(
            b.arrived == 0 || (b.expected == expected && (b.reduce == op.reduce || op.is_arrival)),
            "threads disagree about barrier {id}: it is for {:?} and for {expected:?} threads",
            b.expected
        );
        b.expected = expected;
        b.arrived += 1;
        if !op.is_arrival {
            b.reduce = op.reduce;
            b.waiting.push(lane);
        }
        if op.reduce.is_some() {
            b.count += (args[args.len() - 1] & 1) as usize;
        }
        let next = match op.is_arrival {
            true => Next::Go,
            false => self.park(Wait::Barrier(id as u32), args, results),
        };
        self.complete_barrier(block, id)?;
        Ok(next)
    }

    /// Opens those barriers of a block that a thread that has ended was the last for.
    pub fn complete_barriers(&mut self, block: usize) -> Result<()> {
        (0..16).try_for_each(|id| self.complete_barrier(block, id))
    }

    fn complete_barrier(&mut self, block: usize, id: usize) -> Result<()> {
        let alive = self.blocks[block].alive;
        let b = &mut self.blocks[block].barriers.0[id];
        let expected = b.expected.unwrap_or(alive);
        ensure!(
            b.arrived <= expected,
            "{} threads arrive at barrier {id}, which is for {expected}",
            b.arrived
        );
        if b.arrived == 0 || b.arrived < expected {
            return Ok(());
        }
        let done = std::mem::take(b);
        let result = match done.reduce {
            Some(Reduce::And) => u64::from(done.count == expected),
            Some(Reduce::Or) => u64::from(done.count > 0),
            _ => done.count as u64,
        };
        for lane in done.waiting {
            if done.reduce.is_some() {
                // SAFETY: the thread waits in an operation that has a result.
                unsafe { *self.lanes[lane].results = result };
            }
            self.wake(lane);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let op = |is_counted, is_arrival, reduce| Some(BlockOp { is_counted, is_arrival, reduce });
        assert_eq!(BlockOp::parse("barrier.cta.sync.aligned.all"), op(false, false, None));
        assert_eq!(BlockOp::parse("barrier.cta.sync.count"), op(true, false, None));
        assert_eq!(BlockOp::parse("barrier.cta.arrive.aligned.count"), op(true, true, None));
        assert_eq!(BlockOp::parse("barrier.cta.red.popc.aligned.all"), op(false, false, Some(Reduce::Count)));
        assert_eq!(BlockOp::parse("barrier.cluster.wait"), None);
    }
}
