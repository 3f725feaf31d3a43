//! The loop IR: what a backend turns into machine code.
//!
//! A [`Kernel`] is a nest of about a dozen kinds of statements over flat buffers. Its loops, vectors, register tiles
//! and memory scopes are explicit: a backend adds nothing but instruction selection. `text` prints and parses it,
//! `verify` states its contract, `eval` runs it.
//!
//! The invariants are those of [`verify::kernel`](crate::verify::kernel): among them, names are unique in their scope,
//! every access without a mask is proved to lie within its buffer, and 16-bit floats are moved and cast but never
//! computed with.

mod phase;
mod tile;

pub use phase::{Along, Element, Event, Fetch, Phase};
pub use tile::{Copy, Layout, Mma, Operand, Steps, Tile};

use crate::compute::ReduceOp;
use crate::dim::{Dim, Range, Sym};
use crate::dtype::DType;
use crate::scalar::{Scalar, ScalarFn};

/// A function over buffers and integer symbols, with at most one parallel loop, which is outermost.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// A C identifier.
    pub name: String,
    /// Buffers passed by the caller, 64-byte aligned unless they are inputs or outputs of the program.
    pub params: Vec<Param>,
    /// Integers passed by the caller, with what is known of them.
    pub symbols: Vec<(Sym, Range)>,
    /// The statements.
    pub body: Vec<Stmt>,
}

/// A buffer passed by the caller. Writable ones alias nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Its declaration.
    pub buffer: Buffer,
    /// Whether the kernel writes it.
    pub writable: bool,
}

/// A flat array.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Unique within the kernel.
    pub name: Sym,
    /// Element type in memory.
    pub dtype: DType,
    /// Number of elements.
    pub len: Dim,
    /// Where it lives.
    pub scope: Scope,
}

/// Where a buffer lives. A target says which scopes it has and how large they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Passed by the caller: main memory, or a GPU's global memory.
    Global,
    /// A thread's scalars or vectors in registers; indexed by constants once loops are unrolled. The threads of a warp
    /// hold the tiles of matrix instructions in theirs ([`Layout::Fragment`]).
    Register,
    /// A thread's private memory.
    Stack,
    /// Shared by a GPU's block.
    Shared,
    /// The same memory, where pieces of 16 bytes of each eight lines of 128 have changed places (PTX ISA, "Swizzling
    /// Modes"): for copies of boxes, and matrix instructions that know of it.
    Swizzled,
    /// An NPU core's first level.
    L1,
    /// An NPU's unified (vector) buffer.
    Ub,
    /// An NPU cube unit's left operand.
    L0A,
    /// Right operand.
    L0B,
    /// Accumulator.
    L0C,
    /// Main memory given to the kernel as scratch; what a kernel allocates of it is one core's, or one block's.
    Workspace,
}

/// How the iterations of a loop are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoopKind {
    /// One after the other.
    Serial,
    /// In any order, on any thread. Outermost only; the caller runs slices of it.
    Parallel,
    /// One after the other, with the body copied for every iteration; constant extent.
    Unroll,
    /// As the lanes of vectors; constant extent. Removed by vectorisation before a backend sees it.
    Vector,
    /// Bound to a level of the hardware.
    Bind(Level),
}

/// A level of parallel hardware that a loop is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// A GPU block along x, y or z (0, 1, 2).
    Block(u8),
    /// A GPU warp within the block.
    Warp,
    /// A GPU thread within the block along x, y or z.
    Thread(u8),
    /// An NPU core: a cube unit and the vector cores that belong to it.
    Core,
    /// A vector core of an NPU core.
    VectorCore,
}

/// An element type and a number of lanes; 1 for scalars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VType {
    /// The element type; `Bool` for masks.
    pub dtype: DType,
    /// The number of lanes.
    pub lanes: u32,
}

/// A typed expression.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// A scalar constant.
    Const(DType, Scalar),
    /// An index expression over loop variables, symbols and `i64` variables: a scalar `i64`.
    Index(Dim),
    /// `base, base + stride, ...`: `i64` lanes.
    Ramp {
        /// Lane 0.
        base: Dim,
        /// From lane to lane.
        stride: Dim,
        /// The number of lanes.
        lanes: u32,
    },
    /// A scalar in every lane.
    Broadcast(Box<Expr>, u32),
    /// A variable bound by `let`.
    Var(Sym, VType),
    /// Elements of a buffer at a scalar or vector index. Lanes whose mask is false are not read and are zero.
    Load {
        /// The buffer's name.
        buffer: Sym,
        /// `i64`, one per lane.
        index: Box<Expr>,
        /// `bool`, one per lane.
        mask: Option<Box<Expr>>,
    },
    /// A scalar function, lane by lane. Both sides of a `select` are evaluated: guard loads with masks.
    Call(ScalarFn, Vec<Expr>),
    /// A conversion, lane by lane.
    Cast(DType, Box<Expr>),
    /// All lanes combined into a scalar, in a tree.
    Horizontal(ReduceOp, Box<Expr>),
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// `for var in begin..end`.
    For {
        /// The loop variable, a scalar `i64`.
        var: Sym,
        /// First value.
        begin: Dim,
        /// One past the last value; nothing is executed if it isn't above `begin`.
        end: Dim,
        /// How iterations are executed.
        kind: LoopKind,
        /// What is executed.
        body: Vec<Stmt>,
    },
    /// A scalar condition.
    If {
        /// `bool`.
        cond: Expr,
        /// If true.
        then: Vec<Stmt>,
        /// If false.
        other: Vec<Stmt>,
    },
    /// Repeats the body while a scalar condition holds; for algorithms without a known trip count.
    While {
        /// `bool`, evaluated before each iteration.
        cond: Expr,
        /// What is executed.
        body: Vec<Stmt>,
    },
    /// Binds a variable to a value until the end of the enclosing block. A scalar `i64` one may be used in indices.
    Let {
        /// The variable.
        var: Sym,
        /// Its value.
        value: Expr,
    },
    /// Writes a scalar or vector to a buffer.
    Store {
        /// The buffer's name.
        buffer: Sym,
        /// `i64`, one per lane.
        index: Expr,
        /// As many lanes as the index; of the buffer's type.
        value: Expr,
        /// Lanes whose mask is false are not written.
        mask: Option<Expr>,
    },
    /// A buffer that lives until the end of the enclosing block; its contents are undefined.
    Alloc(Buffer),
    /// Waits for all threads that share the scope.
    Barrier(Scope),
    /// Copies a tile between buffers.
    Copy(Copy),
    /// Closes a group of asynchronous copies: those of the token since the last group. A group may be empty.
    Commit {
        /// The sequence of groups.
        token: Sym,
    },
    /// Waits until at most `pending` groups of the token, the latest ones, are unfinished.
    Wait {
        /// The sequence of groups.
        token: Sym,
        /// How many may go on.
        pending: u32,
    },
    /// Something that happens at a barrier in shared memory.
    Phase(Phase),
    /// An asynchronous copy of a box, whose bytes come to a barrier.
    Fetch(Fetch),
    /// `c += a * b` on tiles, by a matrix instruction.
    Mma(Mma),
    /// Binds a variable to the value that another thread of the warp has; all of them take part.
    Shuffle {
        /// The variable.
        var: Sym,
        /// What this thread gives.
        value: Expr,
        /// The number within the warp of the thread whose value it takes.
        lane: Dim,
    },
    /// A named intrinsic of the target.
    Call {
        /// Its name: `prefetch`, ...
        name: String,
        /// Its arguments.
        args: Vec<Expr>,
    },
}

impl VType {
    /// One lane.
    pub fn scalar(dtype: DType) -> VType {
        VType { dtype, lanes: 1 }
    }
}

impl Expr {
    /// A float constant rounded to the type.
    pub fn float(dtype: DType, value: f64) -> Expr {
        Expr::Const(dtype, Scalar::F(value).cast(dtype))
    }

    /// An `i64` constant.
    pub fn int(value: i64) -> Expr {
        Expr::Index(value.into())
    }

    /// A load at a scalar index.
    pub fn load(buffer: &Sym, index: Dim) -> Expr {
        Expr::Load { buffer: buffer.clone(), index: Expr::Index(index).into(), mask: None }
    }

    /// A call of a scalar function.
    pub fn call<const N: usize>(f: ScalarFn, args: [Expr; N]) -> Expr {
        Expr::Call(f, args.into())
    }

    /// The expression as `base, base + stride, ..`, if it visibly is, and the number of lanes.
    pub fn as_ramp(&self) -> Option<(Dim, Dim, u32)> {
        match self {
            Expr::Index(d) => Some((d.clone(), 0.into(), 1)),
            Expr::Ramp { base, stride, lanes } => Some((base.clone(), stride.clone(), *lanes)),
            Expr::Broadcast(e, lanes) => match &**e {
                Expr::Index(d) => Some((d.clone(), 0.into(), *lanes)),
                _ => None,
            },
            _ => None,
        }
    }

    /// Its type, given the element types of buffers; `None` if it is ill typed.
    pub fn ty(&self, buffers: &dyn Fn(&Sym) -> Option<DType>) -> Option<VType> {
        match self {
            Expr::Const(dtype, _) => Some(VType::scalar(*dtype)),
            Expr::Index(_) => Some(VType::scalar(DType::I64)),
            Expr::Ramp { lanes, .. } => Some(VType { dtype: DType::I64, lanes: *lanes }),
            Expr::Broadcast(e, lanes) => {
                let t = e.ty(buffers)?;
                (t.lanes == 1).then_some(VType { lanes: *lanes, ..t })
            }
            Expr::Var(_, t) => Some(*t),
            Expr::Load { buffer, index, mask } => {
                let at = index.ty(buffers)?;
                let mask_ok = match mask {
                    Some(m) => m.ty(buffers)? == VType { dtype: DType::Bool, lanes: at.lanes },
                    None => true,
                };
                (at.dtype == DType::I64 && mask_ok)
                    .then_some(VType { dtype: buffers(buffer)?, lanes: at.lanes })
            }
            Expr::Call(f, args) => {
                let types: Option<Vec<VType>> = args.iter().map(|a| a.ty(buffers)).collect();
                let types = types?;
                let lanes = types.first()?.lanes;
                let dtypes: Vec<DType> = types.iter().map(|t| t.dtype).collect();
                types.iter().all(|t| t.lanes == lanes).then_some(())?;
                Some(VType { dtype: f.result(&dtypes)?, lanes })
            }
            Expr::Cast(dtype, e) => e.ty(buffers).map(|t| VType { dtype: *dtype, ..t }),
            Expr::Horizontal(_, e) => e.ty(buffers).map(|t| VType { lanes: 1, ..t }),
        }
    }
}

impl Stmt {
    /// A serial loop from 0.
    pub fn serial(var: &Sym, end: Dim, body: Vec<Stmt>) -> Stmt {
        Stmt::loop_of(var, end, LoopKind::Serial, body)
    }

    /// A loop from 0 of any kind.
    pub fn loop_of(var: &Sym, end: Dim, kind: LoopKind, body: Vec<Stmt>) -> Stmt {
        Stmt::For { var: var.clone(), begin: 0.into(), end, kind, body }
    }

    /// An unmasked store.
    pub fn store(buffer: &Sym, index: Expr, value: Expr) -> Stmt {
        Stmt::Store { buffer: buffer.clone(), index, value, mask: None }
    }
}

impl Kernel {
    /// The extent of the parallel loop; 1 if there is none.
    pub fn parallel_extent(&self) -> Dim {
        match &self.body[..] {
            [Stmt::For { end, kind: LoopKind::Parallel, .. }] => end.clone(),
            _ => 1.into(),
        }
    }
}
