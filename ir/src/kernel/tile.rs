//! Tiles, and the statements that move and multiply them.
//!
//! A tile is a matrix somewhere in a flat buffer. Its layout says where: by steps from row to row and from column to
//! column, each possibly in blocks, which covers row-major and transposed matrices and the fractals of an NPU alike;
//! or spread over the registers of the threads that hold it together.

use super::Expr;
use crate::dim::{Dim, Sym};

/// A matrix in a buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Tile {
    /// The buffer's name.
    pub buffer: Sym,
    /// Its first element there.
    pub first: Dim,
    /// Where the others are.
    pub layout: Layout,
}

/// Where the elements of a matrix are.
#[derive(Clone, Debug, PartialEq)]
pub enum Layout {
    /// Element `[r, c]` is at the sum of both steps from the first one.
    Steps {
        /// From row to row.
        rows: Steps,
        /// From column to column.
        columns: Steps,
    },
    /// An operand of a matrix instruction in the registers of the threads that execute it together: each has
    /// consecutive elements, and the target's table says which ([`MatrixUnit::element`](crate::target::MatrixUnit)).
    Fragment {
        /// The instruction.
        intrinsic: String,
        /// Its operand.
        operand: Operand,
    },
}

/// The distance of an index from 0: `(k mod block) * step + floor(k / block) * outer`.
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// From one index to the next.
    pub step: Dim,
    /// Indices in a block, and from block to block; `None` where all are one block.
    pub block: Option<(u32, Dim)>,
}

/// An operand of `c += a * b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operand {
    /// The accumulator, of `m` rows and `n` columns.
    C,
    /// The left factor, of `m` rows and `k` columns.
    A,
    /// The right factor, of `k` rows and `n` columns.
    B,
}

/// A copy of a tile. Elements are converted to the destination's type where it is another one.
#[derive(Clone, Debug, PartialEq)]
pub struct Copy {
    /// Where to.
    pub dst: Tile,
    /// Where from.
    pub src: Tile,
    /// Rows and columns that are written.
    pub extent: [Dim; 2],
    /// Rows and columns that are read, where they are fewer, and none if one isn't positive; the rest becomes zero.
    pub valid: Option<[Dim; 2]>,
    /// The groups an asynchronous copy is for; `None` for a copy that is done when the statement is.
    pub token: Option<Sym>,
}

/// A matrix instruction over tiles: `c[m, n] += a[m, k] * b[k, n]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mma {
    /// Its name in the target's table.
    pub intrinsic: String,
    /// Extents `m`, `n`, `k`.
    pub extent: [u32; 3],
    /// Accumulator.
    pub c: Tile,
    /// Left factor.
    pub a: Tile,
    /// Right factor.
    pub b: Tile,
    /// Where this scalar `bool` is true, the accumulator is taken to be zero before.
    pub fresh: Option<Expr>,
    /// The groups that it is for, if it goes on beside what follows, except for others of these groups.
    pub token: Option<Sym>,
}

impl Steps {
    /// All indices equally far apart.
    pub fn by(step: impl Into<Dim>) -> Steps {
        Steps { step: step.into(), block: None }
    }

    /// Blocks of so many indices, `outer` apart.
    pub fn blocks(step: impl Into<Dim>, block: u32, outer: impl Into<Dim>) -> Steps {
        Steps { step: step.into(), block: Some((block, outer.into())) }
    }

    /// The distance of an index from 0.
    pub fn at(&self, k: &Dim) -> Dim {
        match &self.block {
            None => k.clone() * self.step.clone(),
            Some((block, outer)) => {
                let block = Dim::from(i64::from(*block));
                k.modulo(&block) * self.step.clone() + k.floor_div(&block) * outer.clone()
            }
        }
    }
}

impl Tile {
    /// A row-major matrix, or a transposed one, by its steps.
    pub fn steps(buffer: &Sym, first: impl Into<Dim>, rows: Steps, columns: Steps) -> Tile {
        Tile { buffer: buffer.clone(), first: first.into(), layout: Layout::Steps { rows, columns } }
    }

    /// A row-major matrix whose rows are `row` apart.
    pub fn rows(buffer: &Sym, first: impl Into<Dim>, row: impl Into<Dim>) -> Tile {
        Tile::steps(buffer, first, Steps::by(row), Steps::by(1))
    }

    /// An operand of a matrix instruction in registers.
    pub fn fragment(buffer: &Sym, first: impl Into<Dim>, intrinsic: &str, operand: Operand) -> Tile {
        let layout = Layout::Fragment { intrinsic: intrinsic.into(), operand };
        Tile { buffer: buffer.clone(), first: first.into(), layout }
    }

    /// Whether it is spread over registers.
    pub fn is_fragment(&self) -> bool {
        matches!(self.layout, Layout::Fragment { .. })
    }
}

impl Operand {
    /// Every operand.
    pub const ALL: [Operand; 3] = [Operand::C, Operand::A, Operand::B];

    /// Its name in the text form.
    pub fn keyword(self) -> &'static str {
        match self {
            Operand::C => "c",
            Operand::A => "a",
            Operand::B => "b",
        }
    }

    /// Its rows and columns, given `m`, `n`, `k`.
    pub fn extent<T: std::marker::Copy>(self, [m, n, k]: [T; 3]) -> [T; 2] {
        match self {
            Operand::C => [m, n],
            Operand::A => [m, k],
            Operand::B => [k, n],
        }
    }
}

impl Mma {
    /// The operands and their tiles.
    pub fn operands(&self) -> [(Operand, &Tile); 3] {
        [(Operand::C, &self.c), (Operand::A, &self.a), (Operand::B, &self.b)]
    }
}
