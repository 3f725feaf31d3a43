//! Barriers in shared memory, and copies of boxes whose bytes come to them.
//!
//! What a warp does once is done by one of its threads; statements of this kind that follow one another are one thread's.

use super::Emitter;
use super::build::{Build, Unary, V};
use aic_ir::bail;
use aic_ir::error::Result;
use aic_ir::kernel::{Element, Event, Expr, Fetch, LoopKind, Phase, Stmt};

/// Whether one thread of a warp does all of a statement.
fn is_of_one(s: &Stmt) -> bool {
    match s {
        Stmt::Fetch(_) => true,
        Stmt::Phase(p) => !matches!(p.event, Event::Wait { .. }),
        Stmt::For { kind: LoopKind::Unroll, body, .. } => !body.is_empty() && body.iter().all(is_of_one),
        _ => false,
    }
}

impl<B: Build> Emitter<B> {
    pub(super) fn block(&mut self, body: &[Stmt]) -> Result<()> {
        for part in body.chunk_by(|a, b| is_of_one(a) == is_of_one(b)) {
            if self.is_one || !part.first().is_some_and(is_of_one) {
                part.iter().try_for_each(|s| self.stmt(s))?;
                continue;
            }
            let one = self.b.elect()?;
            let mut i = self.b.if_begin(one)?;
            self.is_one = true;
            part.iter().try_for_each(|s| self.stmt(s))?;
            self.is_one = false;
            self.b.if_else(&mut i)?;
            self.b.if_end(i)?;
        }
        Ok(())
    }

    pub(super) fn phase(&mut self, p: &Phase) -> Result<()> {
        let barrier = self.barrier_at(&p.barrier)?;
        match &p.event {
            Event::Begin { arrivals } => {
                self.has_begun = true;
                self.b.phase_begin(barrier, *arrivals)
            }
            Event::Arrive { bytes } => self.b.phase_arrive(barrier, *bytes),
            Event::Wait { parity } => {
                let parity = self.dim(parity)?;
                let mut w = self.b.while_begin()?;
                let is_over = self.b.phase_is_over(barrier, parity)?;
                let goes_on = self.b.unary(Unary::Not, is_over)?;
                self.b.while_do(&mut w, goes_on)?;
                self.b.while_end(w)
            }
        }
    }

    /// All threads of the block come here, and know of barriers that have begun.
    pub(super) fn barrier(&mut self) -> Result<()> {
        if std::mem::take(&mut self.has_begun) {
            self.b.publish_phases()?;
        }
        self.b.barrier()
    }

    /// How many registers the threads of a warp group have from here on.
    pub(super) fn registers(&mut self, args: &[Expr]) -> Result<()> {
        match args {
            [Expr::Index(n)] if (24..=240).contains(&n.as_const().unwrap_or(0)) => {
                self.b.registers(n.constant() as u32)
            }
            _ => bail!("`registers` takes a constant number of them, from 24 to 240"),
        }
    }

    fn barrier_at(&mut self, e: &Element) -> Result<B::Address> {
        let memory = self.memory(&e.buffer)?;
        self.element(memory, &e.at)
    }

    pub(super) fn fetch(&mut self, f: &Fetch) -> Result<()> {
        let (dst, barrier) = (self.memory(&f.dst.buffer)?, self.barrier_at(&f.barrier)?);
        let to = self.element(dst, &f.dst.first)?;
        let at = f.axes.iter().map(|a| self.dim(&a.at)).collect::<Result<Vec<V<B>>>>()?;
        self.b.fetch(f, to, barrier, &at)
    }
}
