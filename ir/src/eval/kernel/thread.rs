//! What one thread of execution knows: its variables and the asynchronous operations that it began.

use super::expr::Value;
use super::tiles::Group;
use crate::bail;
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::error::Result;

/// What a name stands for.
#[derive(Clone)]
pub(super) enum Binding {
    Int(i64),
    Value(Value),
    Array(usize),
}

/// What one thread of execution knows.
#[derive(Clone, Default)]
pub(super) struct Thread {
    pub id: u32,
    /// Its number in the loops over threads around, the innermost one counting fastest.
    pub index: i64,
    pub vars: Vec<(Sym, Binding)>,
    /// Asynchronous operations that were not yet waited for, the oldest first.
    pub groups: Vec<Group>,
}

impl Thread {
    pub fn get(&self, name: &Sym) -> Option<&Binding> {
        self.vars.iter().rev().find(|(s, _)| s == name).map(|(_, b)| b)
    }

    pub fn array(&self, name: &Sym) -> Result<usize> {
        match self.get(name) {
            Some(Binding::Array(k)) => Ok(*k),
            _ => bail!("there is no buffer {name} here"),
        }
    }

    pub fn dim(&self, d: &Dim) -> Result<i64> {
        if let Some(c) = d.as_const() {
            return Ok(c);
        }
        let value = d.eval(&|s| match self.get(s)? {
            Binding::Int(v) => Some(*v),
            Binding::Value(v) if v.dtype == DType::I64 && v.lanes.len() == 1 => Some(v.lanes[0].as_i64()),
            _ => None,
        });
        match value {
            Some(v) => Ok(v),
            None => bail!("{d} has no value: an unknown variable or a division by zero"),
        }
    }

    /// The values of integer variables, for messages.
    pub fn place(&self) -> String {
        let ints = self.vars.iter().filter_map(|(s, b)| match b {
            Binding::Int(v) => Some(format!("{s}={v}")),
            _ => None,
        });
        ints.collect::<Vec<_>>().join(", ")
    }

    pub fn check_none_left(&self) -> Result<()> {
        match self.groups.iter().find(|g| g.arrays().next().is_some()) {
            Some(group) => bail!("group {} is never waited for", group.token),
            None => Ok(()),
        }
    }
}
