//! A kernel that is tuned: what is known of its schedules, and which of them to measure next.

use super::machine::Machine;
use super::records::{Records, State};
use super::trees::{Ranker, Sample};
use aic_ir::compute::Compute;
use aic_ir::op::Rng;
use aic_ir::schedule::{Class, Schedule};
use aic_passes::schedule::space::{Prediction, Space};
use std::collections::HashSet;
use std::sync::Arc;

/// Schedules among which those to measure are chosen, and measured ones that others are made of.
const POOL: usize = 96;
const PARENTS: usize = 6;
/// Bytes that the constants of schedules may take that are measured together.
const MEMORY: usize = 512 << 20;
/// Seconds of a round: for compiling, and for each second that the kernel takes.
const ROUND: (f64, f64) = (0.4, 100.0);
/// Knobs that are turned for a random point.
const WAY: usize = 8;
/// Rounds without a better schedule after which a kernel is left alone.
const PATIENCE: u32 = 5;
/// The part of its time that a kernel is expected to lose, at most and at least.
const HOPE: (f64, f64) = (0.02, 0.4);

/// Which schedules are measured first.
#[derive(Clone, Copy)]
pub enum Order<'a> {
    /// Those that the model of costs thinks best of.
    Cost,
    /// Those that trees think best of.
    Learned(&'a Ranker),
    /// Any.
    Random,
}

/// A kernel, and what is known of it.
pub struct Task {
    /// The hash of what it computes.
    pub kernel: u64,
    /// What it computes.
    pub compute: Arc<Compute>,
    /// Its schedules.
    pub space: Space,
    /// Its source nodes.
    pub nodes: String,
    /// Seconds of a run of the model that are its launches', by the schedule that the model of costs chooses.
    pub seconds: f64,
    /// Of these, what the machine's tables say that it takes at least.
    pub least: f64,
    /// Launches in a run.
    pub launches: usize,
    /// The best schedule so far, and its time as a part of the first one's.
    pub best: Schedule,
    /// As a part of the first one's time.
    pub ratio: f64,
    /// The schedule that records keep.
    pub kept: Option<Schedule>,
    /// Rounds without a better one.
    pub stale: u32,
    /// What was measured, in that order: the ratio, or infinity where there was no right result.
    pub tried: Vec<(Schedule, f64)>,
    known: HashSet<Schedule>,
    /// Schedules to begin with.
    starts: Vec<Schedule>,
}

impl Task {
    /// A kernel of which records may know something.
    pub fn new(
        (kernel, compute): (u64, Arc<Compute>),
        space: Space,
        nodes: String,
        (launches, [seconds, least]): (usize, [f64; 2]),
        records: &Records,
        machine: &Machine,
    ) -> Task {
        let best = space.first().clone();
        let mut task = Task {
            kernel,
            compute,
            space,
            nodes,
            seconds,
            least,
            launches,
            best,
            ratio: 1.0,
            kept: None,
            stale: 0,
            tried: Vec::new(),
            known: HashSet::new(),
            starts: Vec::new(),
        };
        let (here, elsewhere) = records.of(kernel, machine);
        for r in here.into_iter().filter(|r| task.space.is_legal(&r.schedule)).collect::<Vec<_>>() {
            match r.state {
                State::Better => (task.best, task.ratio) = (r.schedule.clone(), r.ratio),
                State::Kept => {
                    (task.best, task.ratio) = (r.schedule.clone(), r.ratio);
                    task.kept = Some(r.schedule.clone());
                }
                State::Rejected => {
                    (task.best, task.ratio, task.kept) = (task.space.first().clone(), 1.0, None)
                }
                State::Tried => task.note(&r.schedule, r.ratio),
                State::Failed => task.note(&r.schedule, f64::INFINITY),
            }
        }
        let unknown = |s: &&&Schedule| task.space.is_legal(s) && !task.known.contains(**s);
        task.starts = elsewhere.iter().filter(unknown).map(|s| (*s).clone()).collect();
        task
    }

    /// Notes what came of a schedule.
    pub fn note(&mut self, s: &Schedule, ratio: f64) {
        self.known.insert(s.clone());
        self.tried.push((s.clone(), ratio));
    }

    /// Seconds of a run of the model that a round may be expected to save.
    pub fn expected_gain(&self) -> f64 {
        if self.stale >= PATIENCE {
            return 0.0;
        }
        let now = self.seconds * self.ratio;
        let room = (1.0 - self.least / now.max(1e-12)).clamp(HOPE.0, HOPE.1);
        now * room * 0.6f64.powi(self.stale as i32)
    }

    /// Seconds that a round may be expected to take: compiling, and running every schedule several times.
    pub fn round_seconds(&self) -> f64 {
        ROUND.0 + ROUND.1 * self.seconds * self.ratio / self.launches.max(1) as f64
    }

    /// Schedules that can be measured at a time: each has its own copies of the constants.
    pub fn at_once(&self, most: usize) -> usize {
        let bytes = |k: &usize| {
            let ty = &self.compute.inputs[*k];
            ty.numel().as_const().map_or(0, |n| n as usize * ty.dtype.size())
        };
        let constants: usize = self.compute.constants.iter().map(bytes).sum();
        (MEMORY / constants.max(1)).clamp(2, most)
    }

    /// Leaves the kernel alone.
    pub fn give_up(&mut self) {
        self.stale = PATIENCE;
    }

    /// What the ranker learns from: of every measured schedule the logarithm of its ratio.
    pub fn samples(&self) -> impl Iterator<Item = Sample> + '_ {
        let measured = self.tried.iter().filter(|(_, ratio)| ratio.is_finite() && *ratio > 0.0);
        measured.map(|(s, ratio)| (self.features(s), ratio.ln()))
    }

    /// Schedules to measure next, `n` at most, of a pool of new ones.
    pub fn propose(&mut self, n: usize, order: Order, rng: &mut Rng) -> Vec<Schedule> {
        let mut chosen: Vec<Schedule> = Vec::new();
        while let (Some(s), true) = (self.starts.pop(), chosen.len() + 1 < n) {
            chosen.push(s);
        }
        let pool = self.pool(matches!(order, Order::Random), rng);
        chosen.extend(self.choose(pool, n.saturating_sub(chosen.len()), order, rng));
        chosen
    }

    /// Schedules of a pool, `n` at most: those that come first, and a random one.
    pub fn choose(&self, mut pool: Vec<Schedule>, n: usize, order: Order, rng: &mut Rng) -> Vec<Schedule> {
        if pool.is_empty() || n == 0 {
            return Vec::new();
        }
        let any = pool.swap_remove(rng.below(pool.len()));
        let mut score = |s: &Schedule| match order {
            Order::Cost => self.space.predict(s).seconds,
            Order::Learned(ranker) => ranker.value(&self.features(s)),
            Order::Random => rng.unit(),
        };
        let mut scored: Vec<(f64, Schedule)> = pool.into_iter().map(|s| (score(&s), s)).collect();
        scored.sort_by(|a, b| a.0.total_cmp(&b.0));
        std::iter::once(any).chain(scored.into_iter().map(|(_, s)| s)).take(n).collect()
    }

    /// Schedules that weren't measured yet: the best ones with some knobs turned, and points on random ways; or these alone.
    fn pool(&self, is_random: bool, rng: &mut Rng) -> Vec<Schedule> {
        let mut parents: Vec<&(Schedule, f64)> = self.tried.iter().filter(|(_, r)| r.is_finite()).collect();
        parents.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut parents: Vec<&Schedule> = parents.into_iter().map(|(s, _)| s).take(PARENTS).collect();
        parents.push(&self.best);
        parents.push(self.space.first());
        let mut pool: Vec<Schedule> = Vec::new();
        for k in 0..POOL {
            let found = match is_random || k % 4 == 0 {
                true => self.walk(self.space.first().clone(), WAY, rng),
                false => self.walk(rng.pick(&parents).clone(), 1 + rng.below(3), rng),
            };
            if !self.known.contains(&found) && found != *self.space.first() && !pool.contains(&found) {
                pool.push(found);
            }
        }
        pool
    }

    /// A schedule with so many knobs turned, as far as that is legal.
    fn walk(&self, mut s: Schedule, turns: usize, rng: &mut Rng) -> Schedule {
        let knobs = self.space.knobs();
        for _ in 0..turns {
            if knobs.is_empty() {
                break;
            }
            let knob = &knobs[rng.below(knobs.len())];
            let value = knob.values[rng.below(knob.values.len())];
            s = self.space.turned(&s, knob, value).unwrap_or(s);
        }
        s
    }

    /// What a schedule is, and what the model of costs says about it, in numbers.
    fn features(&self, s: &Schedule) -> Vec<f64> {
        let (first, now) = (self.space.predict(self.space.first()), self.space.predict(s));
        let log = |x: f64| x.max(1e-12).ln();
        let mut x = vec![
            log(now.seconds / first.seconds.max(1e-12)),
            log(now.computing / first.computing.max(1e-12)),
            now.moving / now.seconds.max(1e-12),
            s.stages.len() as f64,
            f64::from(s.mr),
        ];
        x.extend(now.extents.map(|n| log(n as f64)));
        let parts: Vec<&Schedule> = match s.stages.is_empty() {
            true => vec![s],
            false => s.stages.iter().filter(|s| s.class == Class::Contract).collect(),
        };
        (0..2).for_each(|k| x.extend(parts.get(k).map_or([0.0; 11], |s| part(s, &now))));
        x
    }
}

/// The parameters of a loop nest in numbers.
fn part(s: &Schedule, p: &Prediction) -> [f64; 11] {
    let log = |n: u32| f64::from(n + 1).ln();
    let waste = |n: i64, of: u32| (n % i64::from(of.max(1))) as f64 / n.max(1) as f64;
    [
        f64::from(s.lanes),
        f64::from(s.mr),
        f64::from(s.nr),
        f64::from(s.mr * s.nr),
        log(s.kc),
        log(s.mc),
        log(s.panel),
        f64::from(u8::from(s.pack > 0)),
        log(s.ahead),
        waste(p.extents[0], s.mr),
        waste(p.extents[1], s.nr),
    ]
}
