//! Schedules: how a compute is evaluated, as plain data.
//!
//! A schedule is printed, parsed, compared and stored; `passes::schedule` turns a compute and a schedule into a
//! kernel. The text form is a class and its parameters: `contract lanes=16 mr=6 nr=4`.

use crate::bail;
use crate::error::Result;
use std::fmt;
use std::str::FromStr;

/// How one reduction or map (with its epilogue) is evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// The shape of the loop nest.
    pub class: Class,
    /// Lanes of the vectors; 1 for scalar code.
    pub lanes: u32,
    /// Rows of the register tile (contractions), or independent accumulators (reductions).
    pub mr: u32,
    /// Vectors in a row of the register tile.
    pub nr: u32,
    /// Elements of the contracted axes per block; 0 for all of them at once.
    pub kc: u32,
}

/// The shape of a loop nest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// No reduction: vectors along the innermost axis.
    Map,
    /// A reduction with vectors along the reduced axis.
    ReduceInner,
    /// A reduction with vectors along an output axis.
    ReduceOuter,
    /// A running reduction along an output axis.
    Prefix,
    /// A sum of products on a register tile.
    Contract,
}

impl Class {
    const ALL: [(Class, &'static str); 5] = [
        (Class::Map, "map"),
        (Class::ReduceInner, "reduce_inner"),
        (Class::ReduceOuter, "reduce_outer"),
        (Class::Prefix, "prefix"),
        (Class::Contract, "contract"),
    ];
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Class::ALL.iter().find(|(c, _)| c == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Schedule { class, lanes, mr, nr, kc } = self;
        write!(f, "{class} lanes={lanes} mr={mr} nr={nr} kc={kc}")
    }
}

impl FromStr for Schedule {
    type Err = crate::error::Error;

    fn from_str(text: &str) -> Result<Schedule> {
        let mut words = text.split_whitespace();
        let name = words.next().unwrap_or_default();
        let Some((class, _)) = Class::ALL.iter().find(|(_, n)| *n == name) else {
            bail!("unknown schedule class {name:?}")
        };
        let mut s = Schedule { class: *class, lanes: 1, mr: 1, nr: 1, kc: 0 };
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                bail!("expected key=value, found {word:?}")
            };
            let Ok(value) = value.parse() else { bail!("{key}: expected a number, found {value:?}") };
            match key {
                "lanes" => s.lanes = value,
                "mr" => s.mr = value,
                "nr" => s.nr = value,
                "kc" => s.kc = value,
                _ => bail!("unknown schedule parameter {key:?}"),
            }
        }
        Ok(s)
    }
}
