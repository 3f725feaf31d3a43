//! The schedules of one loop nest: what the code that evaluates it can be told.

use super::super::contract::MOST;
use super::super::nest::Nest;
use super::super::pieces::signature_of;
use super::super::{Form, contract, form, map, panel, reduce, slide, window};
use super::cost::{Prediction, elementwise};
use super::{Field, Knob};
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;

/// Whether a schedule evaluates a nest, with the bits of the schedule `like`.
pub(in crate::schedule) fn allows(nest: &Nest, like: &Schedule, s: &Schedule) -> bool {
    if s == like {
        return true;
    }
    let is_plain = s.unit.is_empty() && s.cores == 0 && s.tiles.is_empty() && s.stages.is_empty();
    let has_lanes = s.lanes.is_power_of_two() && s.lanes <= like.lanes;
    let is_same = s.class == like.class && signature_of(nest, s) == signature_of(nest, like);
    let is_tile = (1..=MOST.0.max(like.mr)).contains(&s.mr) && (1..=MOST.1).contains(&s.nr);
    if !(is_plain && has_lanes && is_same && is_tile) {
        return false;
    }
    let has_no_blocks = [s.kc, s.mc, s.panel, s.pack, s.ahead].iter().all(|n| *n == 0);
    match form(nest, s) {
        // In vectors along what is reduced, or running: there is nothing to choose that keeps the bits.
        None | Some(Form::Inner | Form::Prefix) => false,
        Some(Form::Map) => has_no_blocks && s.nr == 1 && map::allows(nest, s),
        Some(Form::Outer) => has_no_blocks && s.mr == 1 && reduce::allows(nest, s),
        Some(Form::Slide) => slide::allows(nest, s),
        Some(Form::Packed) => contract::allows_packed(nest, s),
        Some(Form::Panel) => panel::allows(nest, s),
        Some(Form::Window) => has_no_blocks && window::allows(nest, s),
        Some(Form::Tile) => contract::allows(nest, s),
    }
}

/// What can be chosen for a nest that a schedule evaluates.
pub(in crate::schedule) fn knobs(nest: &Nest, s: &Schedule, stage: Option<usize>) -> Vec<Knob> {
    let knob = |field, values| Knob::new(stage, field, values);
    let lanes = || knob(Field::Lanes, if s.lanes >= 8 { vec![s.lanes / 2] } else { Vec::new() });
    let tile = || vec![lanes(), knob(Field::Mr, (1..=MOST.0).collect()), knob(Field::Nr, (1..=6).collect())];
    let mut found = match form(nest, s) {
        None | Some(Form::Inner | Form::Prefix) => Vec::new(),
        Some(Form::Map) => vec![lanes(), knob(Field::Mr, vec![1])],
        Some(Form::Outer) => vec![lanes(), knob(Field::Nr, vec![1, 2, 4, 8])],
        Some(Form::Window) => tile(),
        Some(Form::Slide) => {
            let (ahead, packs) = slide::choices(nest, s);
            let mut all = tile();
            all.extend([knob(Field::Ahead, ahead), knob(Field::Pack, packs)]);
            all
        }
        Some(Form::Packed | Form::Panel | Form::Tile) => {
            let blocks = contract::blocks(nest);
            let mut all = tile();
            all.push(knob(Field::Mc, blocks.rows));
            all.push(knob(Field::Kc, blocks.terms));
            all.push(knob(Field::Ahead, blocks.ahead));
            all.push(knob(Field::Pack, vec![0, 1]));
            all.push(knob(Field::Panel, panel::widths(nest, s.lanes)));
            all
        }
    };
    found.retain(|k| !k.values.is_empty());
    found
}

/// What a schedule of a nest should cost.
pub(in crate::schedule) fn predict(nest: &Nest, s: &Schedule, target: &Target) -> Prediction {
    let found = match form(nest, s) {
        Some(Form::Slide) => slide::predict(nest, s, target),
        Some(Form::Packed | Form::Tile) => contract::predict(nest, s, target),
        Some(Form::Panel) => panel::predict(nest, s, target),
        None | Some(Form::Map | Form::Inner | Form::Prefix | Form::Outer | Form::Window) => None,
    };
    found.unwrap_or_else(|| elementwise(nest, s, target))
}
