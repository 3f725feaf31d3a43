//! The auto-tuner: which schedules are faster on this machine than those that the model of costs chooses.
//!
//! Time goes, a round at a time, to the kernel of which the largest gain for the whole model is expected in that time (`task`). A round
//! measures a few schedules beside the one in use, in a process of their own (`worker`, `child`); which ones is a matter of
//! the model of costs first, of trees that learn from what was measured (`trees`) later. What is faster twice is tried in
//! the model itself (`context`), and what is faster there is kept (`records`). No schedule changes a bit of the results.

mod child;
mod context;
mod job;
mod machine;
mod recorder;
pub mod records;
pub mod report;
mod task;
mod trees;
pub mod worker;

pub use child::Meter;
pub use context::{Context, Whole};
pub use job::{Job, Operand};
pub use machine::Machine;
pub use recorder::Recorder;
pub use task::{Order, Task};
pub use trees::{Ranker, Sample};

use aic_ir::error::{Error, Result};
use aic_ir::op::Rng;
use aic_ir::schedule::Schedule;
use records::{Log, Record, State};
use serde_json::json;
use worker::Outcome;

/// Schedules that are measured in a round.
const BATCH: usize = 8;
/// How often each is timed, and how often one that seems to be faster.
const ROUNDS: [usize; 2] = [7, 31];
/// The part of the time in use that a schedule may take to be tried again, and then to be better.
const FASTER: [f64; 2] = [0.98, 0.985];
/// How often it must be faster then.
const WINS: f64 = 0.75;
/// Measured schedules from which on the ranker chooses.
const ENOUGH: usize = 24;
/// The gain, as a part of a run, that isn't worth a round.
const NEGLIGIBLE: f64 = 2e-4;

/// How the tuner works.
pub struct Options {
    /// Seconds until it stops.
    pub budget: f64,
    /// Seed of what is random.
    pub seed: u64,
    /// Which schedules it measures.
    pub search: Search,
}

/// Which schedules are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Search {
    /// Promising ones, of kernels from which much is to be gained.
    Guided,
    /// Random ones, as many of every kernel, beside the one that the model of costs chooses: to learn from.
    Random,
}

/// Kernels, and what tunes them.
pub struct Tuner<'a> {
    /// The kernels.
    pub tasks: Vec<Task>,
    /// How it works.
    pub options: Options,
    /// What it asks of the machine.
    pub recorder: Recorder,
    /// Where it notes what it finds, if it does.
    pub log: Option<Log>,
    /// Whose records they are.
    pub machine: Machine,
    /// What measures; `None` where everything is replayed.
    pub meter: Option<Meter>,
    /// Is told after every round: of which kernel it was.
    pub watch: &'a mut dyn FnMut(&[Task], usize, f64),
}

impl Tuner<'_> {
    /// Tunes until the budget is used up, or nothing is to be gained.
    ///
    /// # Errors
    /// A kernel in use can't be measured, or records can't be written.
    pub fn run(&mut self) -> Result<()> {
        let mut rng = Rng::new(self.options.seed);
        let whole: f64 = self.tasks.iter().map(|t| t.seconds).sum();
        while self.recorder.at() < self.options.budget {
            let Some(k) = self.next(whole) else { break };
            self.round(k, &mut rng)?;
            (self.watch)(&self.tasks, k, self.recorder.at());
        }
        Ok(())
    }

    /// The kernel that the next round is for, if there is to be one; `whole` are the seconds of all of them.
    fn next(&self, whole: f64) -> Option<usize> {
        let tasks = self.tasks.iter().enumerate().filter(|(_, t)| t.expected_gain() > 0.0);
        match self.options.search {
            Search::Random => tasks.min_by_key(|(_, t)| t.tried.len()).map(|(k, _)| k),
            Search::Guided => {
                let worthwhile = tasks.filter(|(_, t)| t.expected_gain() > NEGLIGIBLE * whole);
                let rate = |t: &Task| t.expected_gain() / t.round_seconds();
                worthwhile.max_by(|a, b| rate(a.1).total_cmp(&rate(b.1))).map(|(k, _)| k)
            }
        }
    }

    /// Measures some schedules of kernel `k`, and makes a better one that which is in use.
    fn round(&mut self, k: usize, rng: &mut Rng) -> Result<()> {
        let samples: Vec<Sample> = self.tasks.iter().flat_map(Task::samples).collect();
        let ranker = (samples.len() >= ENOUGH).then(|| Ranker::learn(&samples));
        let order = match (self.options.search, &ranker) {
            (Search::Random, _) => Order::Random,
            (Search::Guided, None) => Order::Cost,
            (Search::Guided, Some(ranker)) => Order::Learned(ranker),
        };
        let n = self.tasks[k].at_once(BATCH);
        let candidates = self.tasks[k].propose(n, order, rng);
        if candidates.is_empty() {
            self.tasks[k].give_up();
            return Ok(());
        }
        let so_far = self.tasks[k].ratio;
        let mut fastest: Option<(f64, Schedule)> = None;
        for (s, outcome) in candidates.iter().zip(self.measure(k, &candidates, ROUNDS[0])?) {
            let (state, ratio) = match outcome {
                Ok([_, ratio, _]) if ratio.is_finite() && ratio > 0.0 => (State::Tried, ratio),
                _ => (State::Failed, f64::INFINITY),
            };
            self.tasks[k].note(s, ratio * so_far);
            self.add(k, s, state, if ratio.is_finite() { ratio * so_far } else { 0.0 })?;
            if fastest.as_ref().is_none_or(|(least, _)| ratio < *least) {
                fastest = Some((ratio, s.clone()));
            }
        }
        if self.options.search == Search::Random {
            return Ok(());
        }
        self.tasks[k].stale += 1;
        if let Some((_, s)) = fastest.filter(|(ratio, _)| *ratio < FASTER[0]) {
            self.confirm(k, &s)?;
        }
        Ok(())
    }

    /// Measures a schedule that seems to be faster again.
    fn confirm(&mut self, k: usize, s: &Schedule) -> Result<()> {
        let outcomes = self.measure(k, std::slice::from_ref(s), ROUNDS[1])?;
        if let Some(Ok([_, ratio, wins])) = outcomes.first()
            && *ratio < FASTER[1]
            && *wins >= WINS
        {
            let task = &mut self.tasks[k];
            (task.best, task.ratio, task.stale) = (s.clone(), task.ratio * ratio, 0);
            let ratio = task.ratio;
            self.add(k, s, State::Better, ratio)?;
        }
        Ok(())
    }

    /// What comes of schedules of kernel `k` beside the one in use.
    fn measure(&mut self, k: usize, candidates: &[Schedule], rounds: usize) -> Result<Vec<Outcome>> {
        let (task, meter) = (&self.tasks[k], &mut self.meter);
        let text: Vec<String> = candidates.iter().map(ToString::to_string).collect();
        let question = json!({
            "kernel": format!("{:016x}", task.kernel), "in_use": task.best.to_string(), "schedules": text,
            "rounds": rounds,
        });
        let answer = self.recorder.ask(question, || {
            let Some(meter) = meter else { return Err(Error::new("nothing measures")) };
            outcomes(task, candidates, rounds, meter).map(child::json)
        })?;
        child::outcomes(&answer).ok_or_else(|| Error::new(format!("no outcomes: {answer}")))
    }

    /// Notes what was found of a schedule of kernel `k`.
    ///
    /// # Errors
    /// It can't be written.
    pub fn add(&mut self, k: usize, s: &Schedule, state: State, ratio: f64) -> Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        let task = &self.tasks[k];
        let (machine, nodes) = (self.machine.clone(), task.nodes.clone());
        log.add(&Record { kernel: task.kernel, machine, schedule: s.clone(), state, ratio, nodes })
    }
}

/// Measures schedules beside the one in use; one that has no kernel has an outcome nevertheless.
fn outcomes(task: &Task, candidates: &[Schedule], rounds: usize, meter: &mut Meter) -> Result<Vec<Outcome>> {
    let mut made = vec![task.space.kernel("k0", &task.best)?];
    let mut all: Vec<Option<String>> = Vec::new();
    for s in candidates {
        match task.space.kernel(&format!("k{}", made.len()), s) {
            Ok(kernel) => {
                made.push(kernel);
                all.push(None);
            }
            Err(e) => all.push(Some(e.message)),
        }
    }
    let mut measured = meter.measure(&Job::new(&task.compute, made, rounds)?)?.into_iter().skip(1);
    let none = || Err("no answer".to_owned());
    let outcome = |why: Option<String>| why.map_or_else(|| measured.next().unwrap_or_else(none), Err);
    Ok(all.into_iter().map(outcome).collect())
}
