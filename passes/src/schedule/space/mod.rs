//! The space of schedules that a compute may have on a CPU, as data: what can be chosen, what of it is legal, what it
//! should cost, and the kernel of a point.
//!
//! A point is a [`Schedule`]; the one that the model of costs chooses is the first. Invariant: the kernels of all points
//! of a space give the same bits. What decides about the order of sums is therefore no knob.

mod cost;
mod knobs;
pub(super) mod nests;

pub use cost::Prediction;
pub(super) use cost::{Computing, Read};
pub use knobs::{Field, Knob};

use super::group::Group;
use super::nest::Nest;
use super::{Scheduled, apply, choose, packings, staged, winograd};
use aic_ir::bail;
use aic_ir::compute::Compute;
use aic_ir::error::Result;
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;
use aic_ir::verify;

/// The schedules of a compute.
pub struct Space {
    target: Target,
    subject: Subject,
    first: Schedule,
    knobs: Vec<Knob>,
}

/// What is scheduled.
enum Subject {
    Nest(Box<Nest>),
    Winograd(Box<winograd::Plan>),
    Staged(Box<Group>),
}

impl Space {
    /// The space of a compute; `None` on machines other than CPUs, and where it is no kernel.
    pub fn new(c: &Compute, target: &Target) -> Option<Space> {
        if !target.is_cpu() {
            return None;
        }
        let (subject, first) = Space::subject(c, target)?;
        let mut space = Space { target: target.clone(), subject, first, knobs: Vec::new() };
        space.knobs = space.all_knobs();
        Some(space)
    }

    /// What is scheduled, and the schedule that the model of costs chooses.
    fn subject(c: &Compute, target: &Target) -> Option<(Subject, Schedule)> {
        if let Some((plan, s)) = winograd::Plan::new(c).and_then(|p| p.schedule(target).map(|s| (p, s))) {
            return Some((Subject::Winograd(plan.into()), s));
        }
        if let Ok(nest) = Nest::new(c) {
            let s = choose(&nest, target);
            return Some((Subject::Nest(nest.into()), s));
        }
        let group = Group::new(c);
        let s = staged::choose(&group, target)?;
        Some((Subject::Staged(group.into()), s))
    }

    /// The point that the model of costs chooses.
    pub fn first(&self) -> &Schedule {
        &self.first
    }

    /// What can be chosen.
    pub fn knobs(&self) -> &[Knob] {
        &self.knobs
    }

    fn all_knobs(&self) -> Vec<Knob> {
        let s = &self.first;
        let found = match &self.subject {
            Subject::Nest(nest) => nests::knobs(nest, s, None),
            Subject::Winograd(plan) => plan.knobs(s),
            Subject::Staged(group) => staged::knobs(group, s, &self.target),
        };
        found.into_iter().filter_map(|k| k.with(s)).collect()
    }

    /// The point with one knob at another value; `None` where that isn't legal.
    pub fn turned(&self, s: &Schedule, knob: &Knob, value: u32) -> Option<Schedule> {
        let next = match (&self.subject, knob.stage, knob.field) {
            (Subject::Staged(group), None, Field::Mr) => {
                staged::with_rows(group, s, i64::from(value), &self.target)?
            }
            _ => knob.set(s, value)?,
        };
        self.is_legal(&next).then_some(next)
    }

    /// Whether a schedule is a point of the space.
    pub fn is_legal(&self, s: &Schedule) -> bool {
        match &self.subject {
            _ if *s == self.first => true,
            Subject::Nest(nest) => nests::allows(nest, &self.first, s),
            Subject::Winograd(plan) => plan.allows(&self.first, s, &self.target),
            Subject::Staged(group) => staged::allows(group, &self.first, s, &self.target),
        }
    }

    /// What a point should cost.
    pub fn predict(&self, s: &Schedule) -> Prediction {
        match &self.subject {
            Subject::Nest(nest) => nests::predict(nest, s, &self.target),
            Subject::Winograd(plan) => plan.predict(s, &self.target),
            Subject::Staged(group) => staged::predict(group, s, &self.target),
        }
    }

    /// The kernel of a point.
    ///
    /// # Errors
    /// It is no point of the space, or its kernel would break the contract of kernels.
    pub fn kernel(&self, name: &str, s: &Schedule) -> Result<Scheduled> {
        if !self.is_legal(s) {
            bail!("`{s}` is no schedule of this compute on {}", self.target.name)
        }
        let (kernel, packings) = match &self.subject {
            Subject::Nest(nest) => (apply(name, nest, s), packings(nest, s).into_iter().collect()),
            Subject::Winograd(plan) => (plan.kernel(name, s)?, Vec::new()),
            Subject::Staged(group) => staged::apply(name, group, s)?,
        };
        verify::report("the kernel of this schedule", &verify::kernel_for(&kernel, &self.target))?;
        Ok(Scheduled { schedule: s.clone(), kernel, packings })
    }
}
