//! Schedules: how a compute is evaluated, as plain data.
//!
//! A schedule is printed, parsed, compared and stored; `passes::schedule` turns a compute and a schedule into a
//! kernel. The text form is a class and its parameters, and for staged kernels the schedules of the stages:
//!
//! ```text
//! contract lanes=16 mr=6 nr=4 kc=0
//! contract lanes=16 mr=12 nr=2 kc=0 mc=96 pack=32 ahead=64
//! contract lanes=1 mr=1 nr=1 kc=0 unit=mma_m16n8k16_f16 block=128x128x32*3 warp=64x32x32
//! contract lanes=1 mr=1 nr=1 kc=0 unit=cube_f16 cores=20 l1=128x256x256*2 l0=128x256x64*2 ub=16x256x1
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
    /// Rows of the output per block, for which a contraction goes through all columns; 0 for all of them at once.
    pub mc: u32,
    /// Columns of the output for which a contraction copies the factor that it loads in vectors; 0 for no copy.
    pub panel: u32,
    /// Columns of the panels in which the factor that a contraction loads in vectors is laid out when it is a constant,
    /// those of its register tile: panel after panel, in each the terms of the sum in the order of the loops, and of
    /// each term a row of columns; zeros fill the last panel. 0 where the factor is read as it is.
    pub pack: u32,
    /// Terms of the sum ahead of which a packed factor is asked for from memory, or rows ahead of which a staged kernel
    /// asks for what it reads several times, or panels ahead in Winograd's products; 0 where it is left to the caches.
    pub ahead: u32,
    /// The matrix instruction of a contraction; empty for none.
    pub unit: String,
    /// Cores that share the tiles of the output, each taking one after the other; 0 for as many as there are tiles.
    pub cores: u32,
    /// Tiles in the memories of a GPU or NPU, the outermost first.
    pub tiles: Vec<Tile>,
    /// How the stages of a staged kernel are evaluated, in their order.
    pub stages: Vec<Schedule>,
}

/// What is held in a memory, or worked on by a level of the hardware, at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tile {
    /// By what.
    pub place: Place,
    /// Rows and columns of the output, and elements of the contracted axis.
    pub extent: [u32; 3],
    /// Buffers used in turn: while one is worked on, the others are filled.
    pub buffers: u32,
}

/// Where a tile is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// A GPU block's shared memory.
    Block,
    /// A warp's registers.
    Warp,
    /// An NPU core's L1.
    L1,
    /// A cube unit's L0A, L0B and L0C.
    L0,
    /// A vector core's unified buffer.
    Ub,
}

impl Place {
    const ALL: [(Place, &'static str); 5] = [
        (Place::Block, "block"),
        (Place::Warp, "warp"),
        (Place::L1, "l1"),
        (Place::L0, "l0"),
        (Place::Ub, "ub"),
    ];
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
    /// A convolution by Winograd's minimal filtering: `kc` rows of tiles at a time.
    Winograd,
    /// Several loop nests one after the other, within loops over the axes that they have in common.
    Staged,
}

impl Class {
    const ALL: [(Class, &'static str); 7] = [
        (Class::Map, "map"),
        (Class::ReduceInner, "reduce_inner"),
        (Class::ReduceOuter, "reduce_outer"),
        (Class::Prefix, "prefix"),
        (Class::Contract, "contract"),
        (Class::Winograd, "winograd"),
        (Class::Staged, "staged"),
    ];
}

impl Schedule {
    /// Vectors of so many lanes, nothing unrolled.
    pub fn new(class: Class, lanes: u32) -> Schedule {
        let (unit, tiles, stages) = (String::new(), Vec::new(), Vec::new());
        Schedule {
            class,
            lanes,
            mr: 1,
            nr: 1,
            kc: 0,
            mc: 0,
            panel: 0,
            pack: 0,
            ahead: 0,
            unit,
            cores: 0,
            tiles,
            stages,
        }
    }

    /// The tile that is held there.
    pub fn tile(&self, place: Place) -> Option<Tile> {
        self.tiles.iter().find(|t| t.place == place).copied()
    }
}

impl fmt::Display for Tile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Place::ALL.iter().find(|(p, _)| *p == self.place).map_or("", |(_, name)| name);
        let [m, n, k] = self.extent;
        write!(f, "{name}={m}x{n}x{k}")?;
        if self.buffers > 1 { write!(f, "*{}", self.buffers) } else { Ok(()) }
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
        let Schedule { class, lanes, mr, nr, kc, mc, panel, pack, ahead, unit, cores, tiles, stages } = self;
        write!(f, "{class} lanes={lanes} mr={mr} nr={nr} kc={kc}")?;
        let optional = [("mc", mc), ("panel", panel), ("pack", pack), ("ahead", ahead)];
        optional.into_iter().filter(|(_, n)| **n > 0).try_for_each(|(key, n)| write!(f, " {key}={n}"))?;
        if !unit.is_empty() {
            write!(f, " unit={unit}")?;
        }
        if *cores > 0 {
            write!(f, " cores={cores}")?;
        }
        tiles.iter().try_for_each(|t| write!(f, " {t}"))?;
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
            if key == "unit" {
                s.unit = value.to_owned();
                continue;
            }
            if let Some((place, _)) = Place::ALL.iter().find(|(_, name)| *name == key) {
                s.tiles.push(tile(*place, value)?);
                continue;
            }
            let Ok(value) = value.parse() else { bail!("{key}: expected a number, found {value:?}") };
            match key {
                "lanes" => s.lanes = value,
                "mr" => s.mr = value,
                "nr" => s.nr = value,
                "kc" => s.kc = value,
                "panel" => s.panel = value,
                "pack" => s.pack = value,
                "mc" => s.mc = value,
                "ahead" => s.ahead = value,
                "cores" => s.cores = value,
                _ => bail!("unknown schedule parameter {key:?}"),
            }
        }
        Ok(s)
    }
}

/// `128x256x64*2`
fn tile(place: Place, text: &str) -> Result<Tile> {
    let (extent, buffers) = text.split_once('*').unwrap_or((text, "1"));
    let extent: Option<Vec<u32>> = extent.split('x').map(|n| n.parse().ok()).collect();
    match (extent.and_then(|e| <[u32; 3]>::try_from(e).ok()), buffers.parse()) {
        (Some(extent), Ok(buffers)) => Ok(Tile { place, extent, buffers }),
        _ => bail!("expected a tile such as 128x256x64*2, found {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back() {
        let contract = Schedule { mr: 6, nr: 4, ..Schedule::new(Class::Contract, 16) };
        let packed = Schedule { nr: 2, mc: 24, pack: 32, ahead: 64, ..contract.clone() };
        let stages = vec![contract.clone(), Schedule::new(Class::Map, 8)];
        let staged = Schedule { mr: 24, stages, ..Schedule::new(Class::Staged, 1) };
        let tile = |place, extent, buffers| Tile { place, extent, buffers };
        let tiles = vec![tile(Place::Block, [128, 64, 32], 3), tile(Place::Warp, [64, 32, 32], 1)];
        let gpu = Schedule { unit: "mma_m16n8k16_f16".into(), tiles, ..Schedule::new(Class::Contract, 1) };
        assert!(gpu.to_string().ends_with("unit=mma_m16n8k16_f16 block=128x64x32*3 warp=64x32x32"));
        let tiles = vec![tile(Place::L1, [128, 256, 256], 2), tile(Place::L0, [128, 256, 64], 2)];
        let npu = Schedule { cores: 20, tiles, ..Schedule::new(Class::Contract, 1) };
        for s in [contract, packed, staged, gpu, npu] {
            assert_eq!(s.to_string().parse(), Ok(s));
        }
        for wrong in [
            "spiral",
            "map lanes",
            "map lanes=x",
            "map depth=3",
            "map l1=3x4",
            "map l1=3x4x5*x",
            "staged mr=2 { map",
            "staged { }",
        ] {
            assert!(wrong.parse::<Schedule>().is_err(), "{wrong}");
        }
    }
}
