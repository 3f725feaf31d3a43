//! Barriers in shared memory, and copies whose bytes come to them.
//!
//! A copy writes its elements when somebody waits for the phase that it is of, and not before; until then they are used by
//! nothing else. Threads that only feed others with copies are executed first, to a list of what they do; that goes on as
//! early as barriers allow, so that nobody's elements are written over too early unnoticed.

use super::memory::Verb;
use super::tiles::Transfer;
use super::{Machine, Thread, uniform};
use crate::dim::Sym;
use crate::error::Result;
use crate::kernel::{Element, Event, Expr, Fetch, LoopKind, Phase, Stmt};
use crate::{bail, ensure};
use std::collections::VecDeque;

/// A barrier's state.
#[derive(Clone, Default)]
pub(super) struct Barrier {
    /// Arrivals of a phase, and those that are missing in this one.
    arrivals: u32,
    pending: u32,
    /// Bytes that are to come in this phase, less those that are on their way.
    bytes: i64,
    /// Phases that have ended.
    phase: u64,
    /// The stretch between barriers of threads in which it began.
    epoch: u32,
    /// Copies of this phase.
    transfers: Vec<Transfer>,
}

/// What threads do that only feed others, with its operands evaluated.
#[derive(Clone)]
pub(super) enum Step {
    Begin { at: Place, arrivals: u32 },
    Arrive { at: Place, bytes: u32 },
    Wait { at: Place, parity: i64 },
    Fetch { at: Place, token: Sym, transfer: Transfer },
}

/// A barrier: its array, and its number there.
type Place = (usize, usize);

/// Whether statements do nothing but copy boxes and meet others at barriers.
fn is_feeding(stmts: &[Stmt]) -> bool {
    !stmts.is_empty()
        && stmts.iter().all(|s| match s {
            Stmt::Phase(_) | Stmt::Fetch(_) | Stmt::Call { .. } => true,
            Stmt::For { kind: LoopKind::Serial | LoopKind::Unroll, body, .. } => is_feeding(body),
            Stmt::If { then, other, .. } => is_feeding(then) && (other.is_empty() || is_feeding(other)),
            Stmt::Let { .. } => true,
            _ => false,
        })
}

/// Whether threads that part at a condition go on beside one another: some work, the others only feed them.
pub(super) fn is_parting(then: &[Stmt], other: &[Stmt]) -> bool {
    is_feeding(other) && !is_feeding(then)
}

impl Barrier {
    /// Whether copies are on their way to it.
    pub fn is_awaited(&self) -> bool {
        !self.transfers.is_empty()
    }

    /// Ends the phase, if all that it waits for is there or on its way, and gives the copies that it waited for.
    fn end(&mut self) -> Option<Vec<Transfer>> {
        if self.pending > 0 || self.bytes != 0 {
            return None;
        }
        (self.phase, self.pending) = (self.phase + 1, self.arrivals);
        Some(std::mem::take(&mut self.transfers))
    }

    fn is_over(&self, parity: i64) -> bool {
        i64::from(self.phase & 1 == 0) == parity.rem_euclid(2)
    }
}

impl Machine {
    /// Threads part: those that only feed the others go as far as they can, whenever they can.
    pub(super) fn part(
        &mut self,
        cond: &Expr,
        [then, other]: [&[Stmt]; 2],
        threads: &mut [&mut Thread],
    ) -> Result<()> {
        let (mut working, mut feeding) = (Vec::new(), Vec::new());
        for t in threads.iter_mut() {
            let role = if self.cond(cond, t)? { &mut working } else { &mut feeding };
            role.push(&mut **t);
        }
        ensure!(self.fed.is_none(), "threads that feed others part");
        self.is_recording = true;
        self.fed = Some(VecDeque::new());
        self.block(other, &mut feeding)?;
        self.is_recording = false;
        self.feed()?;
        self.block(then, &mut working)?;
        self.feed()?;
        match self.fed.take().and_then(|mut steps| steps.pop_front()) {
            Some(Step::Wait { at, .. }) => bail!("{} is waited for for ever", self.name(at)),
            _ => Ok(()),
        }
    }

    /// Does what threads that feed others can do now.
    fn feed(&mut self) -> Result<()> {
        while let Some(step) = self.fed.as_ref().and_then(|steps| steps.front().cloned()) {
            if let Step::Wait { at, parity } = step
                && !self.barrier(at)?.is_over(parity)
            {
                break;
            }
            if let Some(steps) = &mut self.fed {
                steps.pop_front();
            }
            self.take(step)?;
        }
        Ok(())
    }

    /// Something that happens at a barrier, for threads that agree about it.
    pub(super) fn phase(&mut self, p: &Phase, threads: &mut [&mut Thread]) -> Result<()> {
        let at = uniform(threads, |t| self.place(&p.barrier, t))?;
        let step = match &p.event {
            Event::Begin { arrivals } => Step::Begin { at, arrivals: *arrivals },
            Event::Arrive { bytes } => Step::Arrive { at, bytes: *bytes },
            Event::Wait { parity } => Step::Wait { at, parity: uniform(threads, |t| t.dim(parity))? },
        };
        self.now_or_later(step)
    }

    fn now_or_later(&mut self, step: Step) -> Result<()> {
        match &mut self.fed {
            Some(steps) if self.is_recording => {
                steps.push_back(step);
                Ok(())
            }
            Some(_) => {
                self.take(step)?;
                self.feed()
            }
            None => self.take(step),
        }
    }

    fn take(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Begin { at: (array, index), arrivals } => {
                let begun = Barrier { arrivals, pending: arrivals, epoch: self.epoch, ..Barrier::default() };
                let before = self.arrays[array].barriers.insert(index, begun);
                ensure!(before.is_none(), "{} begins a second time", self.name((array, index)));
            }
            Step::Arrive { at, bytes } => {
                let name = self.name(at);
                let b = self.barrier(at)?;
                ensure!(b.pending > 0, "more than {} arrive at {name} in a phase", b.arrivals);
                b.pending -= 1;
                b.bytes += i64::from(bytes);
                if !b.is_awaited() {
                    b.end();
                }
            }
            Step::Wait { at, parity } => {
                let name = self.name(at);
                let b = self.barrier(at)?;
                if b.is_over(parity) {
                    return Ok(());
                }
                let (warps, bytes) = (b.pending, b.bytes);
                let Some(transfers) = b.end() else {
                    bail!("{name} is waited for for ever: {warps} warps and {bytes} bytes are missing")
                };
                transfers.iter().for_each(|transfer| self.land(transfer));
            }
            Step::Fetch { at, token, transfer } => self.begin(at, &token, transfer)?,
        }
        Ok(())
    }

    /// A barrier, for messages.
    fn name(&self, (array, index): Place) -> String {
        format!("{}[{index}]", self.arrays[array].name)
    }

    fn place(&self, e: &Element, t: &Thread) -> Result<Place> {
        let (array, at) = (t.array(&e.buffer)?, t.dim(&e.at)?);
        let len = self.arrays[array].len;
        match usize::try_from(at).ok().filter(|i| *i < len) {
            Some(index) => Ok((array, index)),
            None => bail!("there is no {e}: {at} of {len}"),
        }
    }

    fn barrier(&mut self, (array, index): Place) -> Result<&mut Barrier> {
        let (name, epoch) = (self.name((array, index)), self.epoch);
        match self.arrays[array].barriers.get_mut(&index) {
            Some(b) if b.epoch != epoch => Ok(b),
            Some(_) => bail!("not all threads know that {name} has begun"),
            None => bail!("{name} has not begun"),
        }
    }

    /// A copy for a warp, one of whose threads is given.
    pub(super) fn fetch(&mut self, f: &Fetch, t: &Thread) -> Result<()> {
        let (at, transfer) = (self.place(&f.barrier, t)?, self.transfer_of(f, t)?);
        self.now_or_later(Step::Fetch { at, token: f.barrier.buffer.clone(), transfer })
    }

    /// Begins a copy.
    fn begin(&mut self, at: Place, token: &Sym, transfer: Transfer) -> Result<()> {
        let nowhere = Thread::default();
        for (to, from) in &transfer.elements {
            let to = self.check_free(transfer.dst, *to, Verb::Writes, None, &nowhere)?;
            self.depart(transfer.dst, to, Verb::Writes, token);
            if let Some(from) = from {
                let from = self.check_free(transfer.src, *from, Verb::Reads, None, &nowhere)?;
                self.depart(transfer.src, from, Verb::Reads, token);
            }
        }
        let bytes = transfer.elements.len() * self.arrays[transfer.dst].dtype.size();
        let b = self.barrier(at)?;
        b.bytes -= bytes as i64;
        b.transfers.push(transfer);
        Ok(())
    }

    /// The elements of a copy.
    fn transfer_of(&self, f: &Fetch, t: &Thread) -> Result<Transfer> {
        let (dst, src) = (t.array(&f.dst.buffer)?, t.array(&f.src.buffer)?);
        let first = t.dim(&f.src.at)?;
        let mut axes = Vec::with_capacity(f.axes.len());
        for a in &f.axes {
            axes.push([t.dim(&a.at)?, t.dim(&a.extent)?, t.dim(&a.step)?]);
        }
        let element = |[row, column]: [i64; 2]| {
            axes.iter().enumerate().try_fold(first, |sum, (k, [at, extent, step])| {
                let index = at + [column, row].get(k).unwrap_or(&0);
                (0..*extent).contains(&index).then(|| sum.saturating_add(index.saturating_mul(*step)))
            })
        };
        let places = t.elements(&f.dst, f.extent.map(i64::from))?;
        let elements = places.into_iter().map(|(at, to)| (to, element(at))).collect();
        Ok(Transfer { dst, src, elements })
    }

    /// Ends a copy, whose elements were checked when it began.
    fn land(&mut self, transfer: &Transfer) {
        let dtype = self.arrays[transfer.dst].dtype;
        for (to, from) in &transfer.elements {
            self.arrive(transfer.dst, *to as usize, Verb::Writes);
            let value = match from {
                Some(from) => {
                    self.arrive(transfer.src, *from as usize, Verb::Reads);
                    self.get(transfer.src, *from as usize)
                }
                None => crate::scalar::Scalar::zero(dtype),
            };
            self.set(transfer.dst, *to as usize, value);
        }
    }
}
