//! Schedules that were found for computes before, by the hash of the compute.
//!
//! A choice that isn't legal, as after a change of the compiler, is left out: the model of costs then chooses.

use super::{Scheduled, kernel, kernel_by};
use aic_ir::compute::{Axis, Compute, Reduction, Stage};
use aic_ir::dim::{Dim, Sym};
use aic_ir::error::Result;
use aic_ir::schedule::Schedule;
use aic_ir::target::Target;
use std::collections::HashMap;

/// Schedules by [`key`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choices(HashMap<u64, Schedule>);

impl FromIterator<(u64, Schedule)> for Choices {
    fn from_iter<I: IntoIterator<Item = (u64, Schedule)>>(choices: I) -> Choices {
        Choices(choices.into_iter().collect())
    }
}

impl Choices {
    /// The schedule that was found for a compute.
    pub fn of(&self, c: &Compute) -> Option<&Schedule> {
        if self.0.is_empty() { None } else { self.0.get(&key(c)) }
    }

    /// The kernel of a compute: by the schedule that was found if it is legal, else by the model's.
    ///
    /// # Errors
    /// As of [`kernel`].
    pub fn kernel(&self, name: &str, c: &Compute, target: &Target) -> Result<Scheduled> {
        match self.of(c).map(|s| kernel_by(name, c, target, s)) {
            Some(Ok(made)) => Ok(made),
            _ => kernel(name, c, target),
        }
    }
}

/// A hash of what is computed, with its shapes, and which operands are constants, whatever axes are called. It is the same
/// in every process: FNV-1a (Fowler, Noll, Vo) of the text form.
pub fn key(c: &Compute) -> u64 {
    let text = format!("{}{:?}", renamed(c), c.constants);
    text.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// The compute with axes that are named by their places.
fn renamed(c: &Compute) -> Compute {
    let stage = |(k, s): (usize, &Stage)| {
        let over = s.reduction.iter().flat_map(|r| &r.axes);
        let named = |(i, a): (usize, &Axis)| (a.var.clone(), Dim::named(&format!("a{k}_{i}")));
        let names: HashMap<Sym, Dim> = s.axes.iter().chain(over).enumerate().map(named).collect();
        let new = |v: &Sym| names.get(v).cloned();
        let axes = |axes: &[Axis]| -> Vec<Axis> {
            let axis = |a: &Axis| {
                let var = new(&a.var).and_then(|d| d.as_sym().cloned()).unwrap_or_else(|| a.var.clone());
                Axis { var, extent: a.extent.subst(&new) }
            };
            axes.iter().map(axis).collect()
        };
        let reduction = s.reduction.as_ref().map(|r| Reduction { op: r.op, axes: axes(&r.axes) });
        Stage { dtype: s.dtype, axes: axes(&s.axes), reduction, value: s.value.subst(&new) }
    };
    Compute { stages: c.stages.iter().enumerate().map(stage).collect(), ..c.clone() }
}
