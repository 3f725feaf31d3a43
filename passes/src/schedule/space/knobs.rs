//! Knobs: the parameters of a schedule that can be chosen, and their values.

use aic_ir::schedule::{Class, Schedule};

/// A parameter of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Field {
    /// Lanes of the vectors.
    Lanes,
    /// Rows of the register tile, or of a block that stages share.
    Mr,
    /// Vectors in a row of the register tile.
    Nr,
    /// Terms per block.
    Kc,
    /// Rows per block.
    Mc,
    /// Columns of a copy.
    Panel,
    /// Whether a constant factor is packed.
    Pack,
    /// Terms ahead of which a packed factor is asked for.
    Ahead,
}

impl Field {
    /// Its name in the text form of schedules.
    pub fn name(self) -> &'static str {
        match self {
            Field::Lanes => "lanes",
            Field::Mr => "mr",
            Field::Nr => "nr",
            Field::Kc => "kc",
            Field::Mc => "mc",
            Field::Panel => "panel",
            Field::Pack => "pack",
            Field::Ahead => "ahead",
        }
    }

    /// Its value in a schedule.
    pub fn of(self, s: &Schedule) -> u32 {
        match self {
            Field::Lanes => s.lanes,
            Field::Mr => s.mr,
            Field::Nr => s.nr,
            Field::Kc => s.kc,
            Field::Mc => s.mc,
            Field::Panel => s.panel,
            Field::Pack => u32::from(s.pack > 0),
            Field::Ahead => s.ahead,
        }
    }

    fn set(self, s: &mut Schedule, value: u32) {
        let is_packed = s.pack > 0;
        match self {
            Field::Lanes => s.lanes = value,
            Field::Mr => s.mr = value,
            Field::Nr => s.nr = value,
            Field::Kc => s.kc = value,
            Field::Mc => s.mc = value,
            Field::Panel => s.panel = value,
            Field::Pack => {}
            Field::Ahead => s.ahead = value,
        }
        let is_packed = if self == Field::Pack { value > 0 } else { is_packed };
        if s.class == Class::Contract {
            // What follows from other parameters.
            s.pack = if is_packed { s.nr * s.lanes } else { 0 };
            s.mc = s.mc.next_multiple_of(s.mr.max(1));
            s.ahead = if is_packed { s.ahead } else { 0 };
            s.kc = if is_packed || s.panel > 0 { s.kc } else { 0 };
        }
    }
}

/// A parameter that can be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knob {
    /// The stage of a staged schedule that it belongs to; `None` for the schedule itself.
    pub stage: Option<usize>,
    /// Which parameter.
    pub field: Field,
    /// Its values, in ascending order.
    pub values: Vec<u32>,
}

impl Knob {
    pub(in crate::schedule) fn new(stage: Option<usize>, field: Field, values: Vec<u32>) -> Knob {
        Knob { stage, field, values }
    }

    /// Its value in a schedule.
    pub fn of(&self, s: &Schedule) -> Option<u32> {
        self.part(s).map(|part| self.field.of(part))
    }

    fn part<'a>(&self, s: &'a Schedule) -> Option<&'a Schedule> {
        match self.stage {
            None => Some(s),
            Some(k) => s.stages.get(k),
        }
    }

    /// A schedule with another value of it, and what follows from that.
    pub(super) fn set(&self, s: &Schedule, value: u32) -> Option<Schedule> {
        let mut s = s.clone();
        let part = match self.stage {
            None => &mut s,
            Some(k) => s.stages.get_mut(k)?,
        };
        self.field.set(part, value);
        Some(s)
    }

    /// The knob with the value of this schedule among its values; `None` if that is the only one.
    pub(super) fn with(mut self, s: &Schedule) -> Option<Knob> {
        let value = self.of(s)?;
        self.values.push(value);
        self.values.sort_unstable();
        self.values.dedup();
        (self.values.len() > 1).then_some(self)
    }
}
