//! Matrix instructions, and which thread holds which element of their operands.

use super::Target;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::kernel::{Operand, Scope};
use std::sync::OnceLock;

/// A matrix instruction: `c[m, n] += a[m, k] * b[k, n]`.
#[derive(Clone, Debug, PartialEq)]
pub struct MatrixUnit {
    /// Its name in the loop IR.
    pub name: String,
    /// What `m`, `n` and `k` may be.
    pub extents: [Extents; 3],
    /// Element types of `c`, `a` and `b`.
    pub dtypes: [DType; 3],
    /// Memories that `c`, `a` and `b` may be in.
    pub scopes: [Vec<Scope>; 3],
    /// The blocks that `c`, `a` and `b` are laid out in, where these are given.
    pub fractals: Option<[Fractal; 3]>,
    /// Significant bits of the factors that count, the implicit one included.
    pub precision: u32,
    /// Threads that execute it together.
    pub threads: u32,
    /// Whether it goes on beside what follows, in a group.
    pub is_async: bool,
    /// Operations per second of the whole machine, a multiplication and an addition being two.
    pub peak: f64,
}

/// The multiples of `step` up to `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extents {
    /// The least extent, and the distance to the next.
    pub step: u32,
    /// The largest extent.
    pub most: u32,
}

/// A block of an operand in memory: its rows and columns, and the steps from row to row and column to column in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fractal {
    /// Rows and columns.
    pub block: [u32; 2],
    /// Elements from row to row, and from column to column.
    pub step: [u32; 2],
}

impl Extents {
    /// One extent only.
    pub const fn just(extent: u32) -> Extents {
        Extents { step: extent, most: extent }
    }

    /// Whether it is one of these.
    pub fn contains(self, extent: u32) -> bool {
        extent > 0 && extent <= self.most && extent.is_multiple_of(self.step)
    }
}

impl MatrixUnit {
    /// The instruction of this name, of any target.
    pub fn named(name: &str) -> Option<&'static MatrixUnit> {
        static UNITS: OnceLock<Vec<MatrixUnit>> = OnceLock::new();
        UNITS.get_or_init(|| Target::all().flat_map(|t| t.matrix).collect()).iter().find(|u| u.name == name)
    }

    /// The element type of an operand.
    pub fn dtype(&self, operand: Operand) -> DType {
        self.dtypes[operand as usize]
    }

    /// The memories that an operand may be in.
    pub fn scopes(&self, operand: Operand) -> &[Scope] {
        &self.scopes[operand as usize]
    }

    /// How many elements of an operand of so many rows and columns each thread holds.
    pub fn elements(&self, [rows, columns]: [u32; 2]) -> u32 {
        rows * columns / self.threads.max(1)
    }

    /// Row and column of the `k`th element that a thread holds of an operand in registers, as the PTX ISA's sections
    /// on `mma.m16n8k*` and on `wgmma`'s accumulator show them: a thread holds registers of 32 bits; a row lies in
    /// four threads.
    pub fn element(&self, operand: Operand, thread: &Dim, k: &Dim) -> [Dim; 2] {
        let c = |n: i64| Dim::from(n);
        let lane = thread.modulo(&c(32));
        let (group, within) = (lane.floor_div(&c(4)), lane.modulo(&c(4)));
        // Elements of a register of 32 bits.
        let w = 4 / self.dtype(operand).size().clamp(1, 4) as i64;
        match operand {
            // Registers in the order: both halves of the rows, then of the columns.
            Operand::A => {
                let register = k.floor_div(&c(w));
                let row = group + register.modulo(&c(2)) * c(8);
                let column = within * c(w) + k.modulo(&c(w)) + register.floor_div(&c(2)) * c(4 * w);
                [row, column]
            }
            Operand::B => {
                let row = within * c(w) + k.modulo(&c(w)) + k.floor_div(&c(w)) * c(4 * w);
                [row, group]
            }
            // Pairs of neighbours, of both halves of the rows, then of the next eight columns.
            Operand::C => {
                let warp = thread.floor_div(&c(32));
                let row = warp * c(16) + group + k.floor_div(&c(2)).modulo(&c(2)) * c(8);
                let column = within * c(2) + k.modulo(&c(2)) + k.floor_div(&c(4)) * c(8);
                [row, column]
            }
        }
    }
}
