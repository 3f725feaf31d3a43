//! What a schedule should cost: the time of computing, that of moving data which computing doesn't hide, and what bounds
//! it.

use super::super::nest::{Flat, Nest};
use crate::rewrite::cost::{CLOCK, NOMINAL};
use aic_ir::dim::Dim;
use aic_ir::schedule::Schedule;
use aic_ir::target::{MemoryLevel, Target};

/// What a model of costs says about a schedule, for one thread.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prediction {
    /// Seconds altogether.
    pub seconds: f64,
    /// Of them, computing.
    pub computing: f64,
    /// Seconds of moving data, hidden or not.
    pub moving: f64,
    /// What takes longest: `arithmetic`, `latency`, `loads`, or the memory that is read from.
    pub bound: String,
    /// Rows, columns in vectors, terms of a sum, and points of the other axes.
    pub extents: [i64; 4],
}

/// Time of computing.
pub(in crate::schedule) struct Computing {
    pub seconds: f64,
    /// What a step of it waits for.
    pub limit: &'static str,
}

/// Bytes that are read from wherever what is kept in between lies.
#[derive(Clone, Copy)]
pub(in crate::schedule) struct Read {
    pub bytes: f64,
    /// Bytes.
    pub kept: i64,
    /// The part of the time that computing doesn't hide.
    pub exposed: f64,
}

impl Read {
    /// The cache that holds what is kept; `None` where that is the nearest one, which is free.
    fn level<'a>(&self, target: &'a Target) -> Option<&'a MemoryLevel> {
        let holds = |l: &MemoryLevel| l.bytes / 4 * 3 >= self.kept as u64;
        target.memory.iter().position(holds).filter(|k| *k > 0).map(|k| &target.memory[k])
    }

    pub fn seconds(&self, target: &Target) -> f64 {
        self.level(target).map_or(0.0, |l| self.bytes / l.bandwidth)
    }

    /// Seconds that computing doesn't hide.
    pub fn waiting(&self, target: &Target) -> f64 {
        self.exposed * self.seconds(target)
    }
}

impl Prediction {
    /// Of so much computing, and of reads.
    pub(in crate::schedule) fn new(computing: Computing, reads: &[Read], target: &Target) -> Prediction {
        let exposed: f64 = reads.iter().map(|r| r.waiting(target)).sum();
        let moving: f64 = reads.iter().map(|r| r.seconds(target)).sum();
        let most = reads.iter().max_by(|a, b| a.seconds(target).total_cmp(&b.seconds(target)));
        let memory = most.and_then(|r| r.level(target)).map_or("L1", |l| &l.name);
        let bound = if moving > computing.seconds { memory } else { computing.limit };
        Prediction {
            seconds: computing.seconds + exposed,
            computing: computing.seconds,
            moving,
            bound: bound.to_owned(),
            extents: [1; 4],
        }
    }

    /// With these extents.
    pub(in crate::schedule) fn of(self, extents: [i64; 4]) -> Prediction {
        Prediction { extents, ..self }
    }

    /// Of all of it so many times.
    pub(in crate::schedule) fn times(self, n: i64) -> Prediction {
        let n = n as f64;
        Prediction {
            seconds: self.seconds * n,
            computing: self.computing * n,
            moving: self.moving * n,
            ..self
        }
    }

    /// Of one part after the other.
    pub(in crate::schedule) fn and(self, next: Prediction) -> Prediction {
        let longest = if next.seconds > self.seconds { &next } else { &self };
        Prediction {
            seconds: self.seconds + next.seconds,
            computing: self.computing + next.computing,
            moving: self.moving + next.moving,
            bound: longest.bound.clone(),
            extents: longest.extents,
        }
    }
}

/// A nest that is evaluated in vectors, a few operations for each element.
pub(super) fn elementwise(nest: &Nest, s: &Schedule, target: &Target) -> Prediction {
    let known = |d: Dim| d.eval(&|_| Some(NOMINAL)).unwrap_or(NOMINAL).max(1);
    let points = known(nest.axes.iter().map(|a| &a.extent).product());
    let terms = known(nest.over().iter().map(|a| &a.extent).product());
    let mut calls = 0;
    for e in std::iter::once(&nest.value).chain(&nest.epilogue) {
        e.visit(&mut |e| calls += i64::from(matches!(e, Flat::Call(..) | Flat::Load { .. })));
    }
    let work = points as f64 * terms as f64 * calls.max(1) as f64;
    // Independent vectors hide latencies of one another.
    let waits = if terms > 1 { 4.0 / f64::from(s.nr.clamp(1, 4)) } else { 1.0 };
    let seconds = work / f64::from(s.lanes.max(1)) / 2.0 * waits / CLOCK;
    let bytes: i64 = nest.inputs.iter().chain([&nest.output]).map(|b| bytes(b, &known)).sum();
    let computing = Computing { seconds, limit: if waits > 1.0 { "latency" } else { "arithmetic" } };
    let reads = [Read { bytes: bytes as f64, kept: bytes, exposed: 0.5 }];
    Prediction::new(computing, &reads, target).of([1, points / i64::from(s.lanes.max(1)), terms, 1])
}

fn bytes(b: &aic_ir::kernel::Buffer, known: &dyn Fn(Dim) -> i64) -> i64 {
    known(b.len.clone()).saturating_mul(b.dtype.size() as i64)
}
