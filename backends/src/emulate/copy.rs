//! Asynchronous copies (PTX ISA, "Data Movement and Conversion Instructions: Asynchronous copy"): `cp.async`, bulk copies,
//! and boxes of tensors.
//!
//! A copy's destination in shared memory is poisoned when the copy is issued, so that neither what was there nor what is
//! to come can be taken for the other.

use super::cluster::Cluster;
use super::flights::{Flight, FlightId};
use super::memory::{Access, POISON};
use super::tensor_map::{Run, TensorMap, Transfer};
use aic_ir::error::Result;
use aic_ir::{bail, ensure};
use std::ptr;

/// An operation on asynchronous copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyOp {
    /// `cp.async` of so many bytes; of fewer, and zeros, if an operand says so.
    Chunk { len: usize, is_partial: bool },
    /// Closes a group.
    Commit(Kind),
    /// Waits until at most so many groups are under way; for bulk copies perhaps only until they have read.
    Wait { kind: Kind, is_read: bool },
    /// Waits for all chunks.
    WaitAll,
    /// An arrival at an mbarrier when the thread's chunks are there; whether the barrier counts with it already.
    Arrive { is_counted: bool },
    /// Bytes to shared memory; whether operands name other blocks.
    LoadBytes { is_cluster: bool },
    /// Bytes from shared memory to global memory.
    StoreBytes,
    /// A box of a tensor of so many axes to shared memory, of this block or of the cluster's.
    LoadBox { rank: usize, is_cluster: bool },
    /// A box to global memory.
    StoreBox { rank: usize },
}

/// Whose groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chunk = 0,
    Bulk = 1,
}

impl CopyOp {
    pub fn parse(name: &str) -> Option<CopyOp> {
        let rest = name.strip_prefix("cp.async.")?;
        let rank = |s: &str| s.strip_suffix('d')?.parse().ok().filter(|r| (1..=5).contains(r));
        if let Some(bulk) = rest.strip_prefix("bulk.") {
            return Some(match bulk {
                "commit.group" => CopyOp::Commit(Kind::Bulk),
                "wait.group" => CopyOp::Wait { kind: Kind::Bulk, is_read: false },
                "wait.group.read" => CopyOp::Wait { kind: Kind::Bulk, is_read: true },
                "global.to.shared.cluster" => CopyOp::LoadBytes { is_cluster: true },
                "global.to.shared.cta" => CopyOp::LoadBytes { is_cluster: false },
                "shared.cta.to.global" => CopyOp::StoreBytes,
                _ => {
                    let tensor = bulk.strip_prefix("tensor.")?;
                    let load = |r: &str, is_cluster| rank(r).map(|rank| CopyOp::LoadBox { rank, is_cluster });
                    let loads = tensor.strip_prefix("g2s.tile.").and_then(|r| load(r, true));
                    let own = tensor.strip_prefix("g2s.cta.tile.").and_then(|r| load(r, false));
                    let store = tensor.strip_prefix("s2g.tile.").and_then(rank);
                    return loads.or(own).or(store.map(|rank| CopyOp::StoreBox { rank }));
                }
            });
        }
        if let Some(rest) = rest.strip_prefix("ca.shared.global.").or(rest.strip_prefix("cg.shared.global."))
        {
            let (len, is_partial) = match rest.strip_suffix(".s") {
                Some(len) => (len, true),
                None => (rest, false),
            };
            return len.parse().ok().map(|len| CopyOp::Chunk { len, is_partial });
        }
        Some(match rest.strip_suffix(".shared").unwrap_or(rest) {
            "commit.group" => CopyOp::Commit(Kind::Chunk),
            "wait.group" => CopyOp::Wait { kind: Kind::Chunk, is_read: false },
            "wait.all" => CopyOp::WaitAll,
            "mbarrier.arrive" => CopyOp::Arrive { is_counted: false },
            "mbarrier.arrive.noinc" => CopyOp::Arrive { is_counted: true },
            _ => return None,
        })
    }
}

impl Cluster<'_> {
    pub fn copy_op(&mut self, op: &CopyOp, args: &[u64]) -> Result<()> {
        let at = |k: usize| args[k] as usize;
        match *op {
            CopyOp::Chunk { len, is_partial } => {
                let bytes = if is_partial { at(2) } else { len };
                self.chunk(at(1), at(0), bytes, len)
            }
            CopyOp::Commit(kind) => {
                let lane = &mut self.lanes[self.current];
                let group = std::mem::take(&mut lane.open[kind as usize]);
                lane.groups[kind as usize].push_back(group);
                Ok(())
            }
            CopyOp::Wait { kind, is_read } => self.wait_group(kind, at(0), is_read),
            CopyOp::WaitAll => {
                self.wait_group(Kind::Chunk, 0, false)?;
                let open = std::mem::take(&mut self.lanes[self.current].open[Kind::Chunk as usize]);
                open.into_iter().try_for_each(|id| self.arrive(id))
            }
            CopyOp::Arrive { is_counted } => self.arrive_after(at(0), is_counted),
            CopyOp::LoadBytes { is_cluster } => {
                let mask = (is_cluster && args[args.len() - 2] & 1 == 1).then(|| args[4]);
                let run = Run { global: Some(at(2)), shared: at(0), bytes: at(3) };
                ensure!(
                    run.bytes.is_multiple_of(16),
                    "a bulk copy has a multiple of 16 bytes, not {}",
                    run.bytes
                );
                self.check(Access::read(at(2), run.bytes, 16))?;
                self.load(Transfer { runs: vec![run], bytes: run.bytes }, at(1), mask)
            }
            CopyOp::StoreBytes => {
                let run = Run { global: Some(at(0)), shared: at(1), bytes: at(2) };
                self.check(Access::write(at(0), run.bytes, 16))?;
                self.store(Transfer { runs: vec![run], bytes: run.bytes })
            }
            CopyOp::LoadBox { rank, is_cluster } => {
                let mask = (is_cluster && args[3 + rank + 2] & 1 == 1).then(|| args[3 + rank]);
                let transfer = self.boxed(at(2), rank, &args[3..], at(0), false)?;
                self.load(transfer, at(1), mask)
            }
            CopyOp::StoreBox { rank } => {
                let transfer = self.boxed(at(1), rank, &args[2..], at(0), true)?;
                self.store(transfer)
            }
        }
    }

    fn chunk(&mut self, from: usize, to: usize, bytes: usize, len: usize) -> Result<()> {
        ensure!(bytes <= len, "cp.async of {len} bytes is to read {bytes}");
        if bytes > 0 {
            self.check(Access::read(from, bytes, len))?;
        }
        self.check(Access::write(to, len, len))?;
        self.poison(to, len);
        let id = self.depart(Flight::Copy { from, to, bytes, len })?;
        self.lanes[self.current].open[Kind::Chunk as usize].extend(id);
        Ok(())
    }

    /// Begins a copy. Where times are random, one in four is done at once, and one at any time.
    fn depart(&mut self, flight: Flight) -> Result<Option<FlightId>> {
        let fate = self.rng.as_mut().map_or(3, |r| r.below(4));
        let id = self.flights.depart(flight, fate > 1);
        if fate == 0 {
            self.arrive(id)?;
            return Ok(None);
        }
        Ok(Some(id))
    }

    /// The box of a tensor whose coordinates the operands are, checked.
    fn boxed(
        &self,
        map: usize,
        rank: usize,
        args: &[u64],
        shared: usize,
        is_write: bool,
    ) -> Result<Transfer> {
        let known = self.shared.args.contains(&(map as u64));
        ensure!(known, "the address of a tensor map is none of the kernel's arguments");
        // SAFETY: tensor maps among the arguments are the launch's.
        let map = unsafe { &*(map as *const TensorMap) };
        ensure!(
            map.is_valid() && map.rank as usize == rank,
            "a tensor map of another kind, or of other than {rank} axes"
        );
        ensure!(
            shared.is_multiple_of(128),
            "a box begins at byte {} of shared memory, which is no multiple of 128",
            self.offset(shared)?
        );
        let access = Access { is_write, ..Access::read(map.base(), map.bytes(), 16) };
        self.check(access)?;
        let at: Vec<i32> = args[..rank].iter().map(|a| *a as i32).collect();
        Ok(map.transfer(&at, shared))
    }

    /// Begins a load for this block, or for those of a mask, each at the same place of its own shared memory.
    fn load(&mut self, transfer: Transfer, barrier: usize, mask: Option<u64>) -> Result<()> {
        let base = self.blocks[self.lanes[self.current].block].base;
        let targets: Vec<Option<usize>> = match mask {
            None => vec![None],
            Some(mask) => {
                ensure!(mask != 0 && mask >> self.blocks.len() == 0, "a cluster has no blocks {mask:#x}");
                (0..self.blocks.len()).filter(|k| mask >> k & 1 == 1).map(Some).collect()
            }
        };
        for target in targets {
            let moved = |address: usize| match target {
                Some(block) => address - base + self.blocks[block].base,
                None => address,
            };
            let runs = transfer.runs.iter().map(|r| Run { shared: moved(r.shared), ..*r }).collect();
            let copy = Transfer { runs, bytes: transfer.bytes };
            // The barrier is that of the block whose memory is written.
            let barrier = match target {
                Some(_) => moved(barrier),
                None => barrier,
            };
            self.check_shared(&copy, true)?;
            copy.runs.iter().for_each(|r| self.poison(r.shared, r.bytes));
            self.depart(Flight::Load { transfer: copy, barrier })?;
        }
        Ok(())
    }

    fn check_shared(&self, transfer: &Transfer, is_write: bool) -> Result<()> {
        transfer.runs.iter().try_for_each(|r| {
            self.owner(r.shared)?;
            self.check(Access { is_write, ..Access::read(r.shared, r.bytes, 1) })
        })
    }

    fn store(&mut self, transfer: Transfer) -> Result<()> {
        self.check_shared(&transfer, false)?;
        let id = self.depart(Flight::Store { transfer, read: None })?;
        self.lanes[self.current].open[Kind::Bulk as usize].extend(id);
        Ok(())
    }

    fn wait_group(&mut self, kind: Kind, pending: usize, is_read: bool) -> Result<()> {
        let lane = self.current;
        let groups = &mut self.lanes[lane].groups[kind as usize];
        let over = groups.len().saturating_sub(pending);
        if is_read {
            let ids: Vec<FlightId> = groups.iter().take(over).flatten().copied().collect();
            ids.into_iter().for_each(|id| self.read(id));
            return Ok(());
        }
        let ids: Vec<FlightId> = groups.drain(..over).flatten().collect();
        ids.into_iter().try_for_each(|id| self.arrive(id))
    }

    /// "cp.async.mbarrier.arrive": after all chunks of the thread so far.
    fn arrive_after(&mut self, barrier: usize, is_counted: bool) -> Result<()> {
        if !is_counted {
            self.expect_arrival(barrier)?;
        }
        let lane = &self.lanes[self.current];
        let mut after: Vec<FlightId> = lane.groups[Kind::Chunk as usize].iter().flatten().copied().collect();
        after.extend(&lane.open[Kind::Chunk as usize]);
        self.depart(Flight::Arrive { barrier, after }).map(drop)
    }

    /// Ends a flight, if it is still under way.
    pub fn arrive(&mut self, id: FlightId) -> Result<()> {
        match self.flights.take(id) {
            None => Ok(()),
            Some(Flight::Copy { from, to, bytes, len }) => {
                // SAFETY: both ends were checked when the copy began.
                unsafe {
                    ptr::copy_nonoverlapping(from as *const u8, to as *mut u8, bytes);
                    ptr::write_bytes((to + bytes) as *mut u8, 0, len - bytes);
                }
                Ok(())
            }
            Some(Flight::Load { transfer, barrier }) => {
                for r in &transfer.runs {
                    // SAFETY: as above.
                    match r.global {
                        Some(from) => unsafe {
                            ptr::copy_nonoverlapping(from as *const u8, r.shared as *mut u8, r.bytes)
                        },
                        None => unsafe { ptr::write_bytes(r.shared as *mut u8, 0, r.bytes) },
                    }
                }
                self.complete_bytes(barrier, transfer.bytes)
            }
            Some(Flight::Store { transfer, read }) => {
                let data = read.unwrap_or_else(|| taken(&transfer));
                let mut rest = &data[..];
                for r in &transfer.runs {
                    let (own, others) = rest.split_at(r.bytes);
                    rest = others;
                    if let Some(to) = r.global {
                        // SAFETY: as above.
                        unsafe { ptr::copy_nonoverlapping(own.as_ptr(), to as *mut u8, r.bytes) };
                    }
                }
                Ok(())
            }
            Some(Flight::Arrive { barrier, after }) => {
                after.into_iter().try_for_each(|id| self.arrive(id))?;
                self.arrive_at(barrier)
            }
        }
    }

    /// Takes what a store stores from shared memory, which may be written again.
    fn read(&mut self, id: FlightId) {
        if let Some(Flight::Store { transfer, read }) = self.flights.get_mut(id) {
            read.get_or_insert_with(|| taken(transfer));
        }
    }

    fn poison(&self, address: usize, bytes: usize) {
        // SAFETY: the caller checked that it is shared memory.
        unsafe { ptr::write_bytes(address as *mut u8, POISON, bytes) }
    }

    /// Checks that a thread that has ended leaves no copy behind that uses shared memory: it is another block's then.
    pub fn check_ended(&mut self) -> Result<()> {
        let lane = &self.lanes[self.current];
        let ids: Vec<FlightId> =
            lane.open.iter().chain(lane.groups.iter().flatten()).flatten().copied().collect();
        for id in ids {
            if let Some(Flight::Store { read: None, .. }) = self.flights.get_mut(id) {
                bail!(
                    "a thread has ended while a bulk store that it didn't wait for still reads shared memory"
                );
            }
        }
        Ok(())
    }
}

/// The bytes in shared memory of a transfer.
fn taken(transfer: &Transfer) -> Vec<u8> {
    let mut data = Vec::with_capacity(transfer.bytes);
    for r in &transfer.runs {
        // SAFETY: it was checked when the copy began.
        data.extend_from_slice(unsafe { std::slice::from_raw_parts(r.shared as *const u8, r.bytes) });
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let parse = CopyOp::parse;
        assert_eq!(parse("cp.async.cg.shared.global.16"), Some(CopyOp::Chunk { len: 16, is_partial: false }));
        assert_eq!(parse("cp.async.ca.shared.global.4.s"), Some(CopyOp::Chunk { len: 4, is_partial: true }));
        assert_eq!(parse("cp.async.wait.group"), Some(CopyOp::Wait { kind: Kind::Chunk, is_read: false }));
        assert_eq!(
            parse("cp.async.bulk.wait.group.read"),
            Some(CopyOp::Wait { kind: Kind::Bulk, is_read: true })
        );
        assert_eq!(parse("cp.async.mbarrier.arrive.noinc.shared"), Some(CopyOp::Arrive { is_counted: true }));
        assert_eq!(
            parse("cp.async.bulk.tensor.g2s.tile.2d"),
            Some(CopyOp::LoadBox { rank: 2, is_cluster: true })
        );
        assert_eq!(parse("cp.async.bulk.tensor.s2g.tile.3d"), Some(CopyOp::StoreBox { rank: 3 }));
        assert_eq!(parse("cp.async.bulk.tensor.g2s.im2col.3d"), None);
    }
}
