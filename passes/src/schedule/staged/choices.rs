//! Which schedules several phases in one kernel may have, and what they should cost.

use super::super::group::Group;
use super::super::nest::Nest;
use super::super::space::{Field, Knob, Prediction, nests};
use super::{Loops, STACK_BYTES, alone};
use crate::rewrite::cost::NOMINAL;
use aic_ir::dim::Dim;
use aic_ir::error::Result;
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;

/// The schedule `like` in blocks of so many rows; `None` where the arrays between phases don't
/// fit on a stack, or a phase is worse than alone.
pub(in crate::schedule) fn with_rows(
    g: &Group,
    like: &Schedule,
    rows: i64,
    target: &Target,
) -> Option<Schedule> {
    let n = like.nr;
    let is_axis = n as usize <= g.common.len() && rows > 0;
    let loops = is_axis.then(|| Loops::new(g, n as usize, rows))?;
    let fits = loops.stack_bytes(false) <= STACK_BYTES;
    let stages = if fits { loops.stages(&alone(g, target)?, target)? } else { return None };
    Some(Schedule { mr: u32::try_from(rows).ok()?, stages, ..like.clone() })
}

/// What can be chosen of a schedule: rows of a block, and what the stages can be told.
pub(in crate::schedule) fn knobs(g: &Group, s: &Schedule, target: &Target) -> Vec<Knob> {
    let mut all = Vec::new();
    if s.mr > 1 {
        all.push(Knob::new(None, Field::Mr, vec![4, 8, 12, 16, 24, 32, 48, 64]));
    }
    let Some(base) = with_rows(g, s, i64::from(s.mr), target) else { return all };
    let loops = Loops::new(g, s.nr as usize, i64::from(s.mr));
    for (k, stage) in base.stages.iter().enumerate() {
        all.extend(loops.whole(k, stage).map(|nest| nests::knobs(&nest, stage, Some(k))).unwrap_or_default());
    }
    all
}

/// Whether a schedule evaluates the group, with the bits of the schedule `like`.
pub(in crate::schedule) fn allows(g: &Group, like: &Schedule, s: &Schedule, target: &Target) -> bool {
    let only = Schedule { mr: s.mr, stages: s.stages.clone(), ..like.clone() };
    let Some(base) = with_rows(g, like, i64::from(s.mr), target) else { return false };
    let loops = Loops::new(g, like.nr as usize, i64::from(s.mr));
    let stage = |k: usize| {
        let (base, s) = (&base.stages[k], &s.stages[k]);
        let is_packed = || loops.packing_of_blocks(k, s).is_some_and(|p| p.is_some());
        let allowed = |nest: Result<Nest>| nest.is_ok_and(|nest| nests::allows(&nest, base, s));
        allowed(loops.whole(k, base)) && loops.has_rest(k, s) && (s.pack == 0 || is_packed())
    };
    only == *s && base.stages.len() == s.stages.len() && (0..s.stages.len()).all(stage)
}

/// What a schedule of the group should cost.
pub(in crate::schedule) fn predict(g: &Group, s: &Schedule, target: &Target) -> Prediction {
    let loops = Loops::new(g, s.nr as usize, i64::from(s.mr));
    let inside = loops.row.filter(|_| loops.rows_inside()).map(|r| loops.blocks(r));
    let count: Dim = loops.extents().iter().chain(&inside).product();
    let count = count.eval(&|_| Some(NOMINAL)).unwrap_or(NOMINAL).max(1);
    let stage = |(k, s): (usize, &Schedule)| Some(nests::predict(&loops.whole(k, s).ok()?, s, target));
    let parts = s.stages.iter().enumerate().filter_map(stage);
    parts.reduce(Prediction::and).unwrap_or_default().times(count)
}
