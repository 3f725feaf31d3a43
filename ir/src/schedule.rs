//! Schedules: how a compute is evaluated, as plain data.
//!
//! A schedule is printed, parsed, compared and stored; `passes::schedule` turns a compute and a schedule into a
//! kernel. The text form is a class and its parameters, and for staged kernels the schedules of the stages:
//!
//! ```text
//! contract lanes=16 mr=6 nr=4 kc=0
//! staged lanes=1 mr=24 nr=1 kc=0 { contract lanes=16 mr=6 nr=4 kc=0; map lanes=16 mr=1 nr=1 kc=0 }
//! ```

use crate::bail;
use crate::error::Result;
use std::fmt;
use std::str::FromStr;

/// How one reduction or map (with its epilogue) is evaluated, or several of them by one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schedule {
    /// The shape of the loop nest.
    pub class: Class,
    /// Lanes of the vectors; 1 for scalar code.
    pub lanes: u32,
    /// Rows of the register tile (contractions), independent accumulators (reductions), or rows that the stages of a
    /// staged kernel evaluate one after the other: the next stage begins when one is done with all of them.
    pub mr: u32,
    /// Vectors in a row of the register tile.
    pub nr: u32,
    /// Elements of the contracted axes per block; 0 for all of them at once.
    pub kc: u32,
    /// Columns of the output for which a contraction copies the factor that it loads in vectors; 0 for no copy.
    pub panel: u32,
    /// How the stages of a staged kernel are evaluated, in their order.
    pub stages: Vec<Schedule>,
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
    /// Several loop nests one after the other, within loops over the axes that they have in common.
    Staged,
}

impl Class {
    const ALL: [(Class, &'static str); 6] = [
        (Class::Map, "map"),
        (Class::ReduceInner, "reduce_inner"),
        (Class::ReduceOuter, "reduce_outer"),
        (Class::Prefix, "prefix"),
        (Class::Contract, "contract"),
        (Class::Staged, "staged"),
    ];
}

impl Schedule {
    /// Vectors of so many lanes, nothing unrolled.
    pub fn new(class: Class, lanes: u32) -> Schedule {
        Schedule { class, lanes, mr: 1, nr: 1, kc: 0, panel: 0, stages: Vec::new() }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Class::ALL.iter().find(|(c, _)| c == self).map_or("", |(_, name)| name);
        f.write_str(name)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Schedule { class, lanes, mr, nr, kc, panel, stages } = self;
        write!(f, "{class} lanes={lanes} mr={mr} nr={nr} kc={kc}")?;
        if *panel > 0 {
            write!(f, " panel={panel}")?;
        }
        if stages.is_empty() {
            return Ok(());
        }
        let stages: Vec<String> = stages.iter().map(Schedule::to_string).collect();
        write!(f, " {{ {} }}", stages.join("; "))
    }
}

impl FromStr for Schedule {
    type Err = crate::error::Error;

    fn from_str(text: &str) -> Result<Schedule> {
        let (own, stages) = match text.split_once('{') {
            None => (text, Vec::new()),
            Some((own, rest)) => {
                let Some(inner) = rest.trim_end().strip_suffix('}') else {
                    bail!("expected }} after {rest:?}")
                };
                (own, inner.split(';').map(str::parse).collect::<Result<_>>()?)
            }
        };
        let mut words = own.split_whitespace();
        let name = words.next().unwrap_or_default();
        let Some((class, _)) = Class::ALL.iter().find(|(_, n)| *n == name) else {
            bail!("unknown schedule class {name:?}")
        };
        let mut s = Schedule { stages, ..Schedule::new(*class, 1) };
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
                "panel" => s.panel = value,
                _ => bail!("unknown schedule parameter {key:?}"),
            }
        }
        Ok(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back() {
        let contract = Schedule { mr: 6, nr: 4, ..Schedule::new(Class::Contract, 16) };
        let stages = vec![contract.clone(), Schedule::new(Class::Map, 8)];
        let staged = Schedule { mr: 24, stages, ..Schedule::new(Class::Staged, 1) };
        for s in [contract, staged] {
            assert_eq!(s.to_string().parse(), Ok(s));
        }
        for wrong in ["spiral", "map lanes", "map lanes=x", "map depth=3", "staged mr=2 { map", "staged { }"]
        {
            assert!(wrong.parse::<Schedule>().is_err(), "{wrong}");
        }
    }
}
