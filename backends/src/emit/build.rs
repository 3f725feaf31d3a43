//! What the emitter asks of a code generator: instructions over scalars and vectors alike, structured control, memory.
//!
//! Operands are well typed: the emitter checks before it builds. A value's type says what an operation means: integers
//! are signed or not by their element type, 16-bit floats are their bits, and nothing is computed with these.

use aic_ir::bail;
use aic_ir::dim::Sym;
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Fetch, Level, Scope, VType};
use aic_ir::scalar::Scalar;
use aic_ir::target::MatrixUnit;

/// A value of a code generator and its type in the loop IR.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value<R> {
    pub raw: R,
    pub ty: VType,
}

/// A value of a builder.
pub(crate) type V<B> = Value<<B as Build>::Raw>;

/// Where a builder's buffers are accessed.
pub(crate) type PlaceOf<B> = Place<<B as Build>::Raw, <B as Build>::Address>;

/// An operation on one operand. Those after `Not` are of `f32` and `f64` only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unary {
    /// Integers wrap.
    Neg,
    /// Of integers and booleans.
    Not,
    Abs,
    Sqrt,
    Floor,
    Ceil,
    /// To the nearest integer, ties to even.
    Round,
    Trunc,
}

/// An operation on two operands of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    /// Integers wrap.
    Add,
    /// As above.
    Sub,
    /// As above.
    Mul,
    /// Of integers truncates; the divisor isn't 0, the quotient doesn't overflow.
    Div,
    /// Of integers only; as above.
    Rem,
    /// Of integers and booleans.
    And,
    /// As above.
    Or,
    /// As above.
    Xor,
    /// Of integers; the count is at least 0 and below the width.
    Shl,
    /// As above; copies of the sign come in for signed types.
    Shr,
    /// Of floats NaN if either operand is; which zero of two is open.
    Min,
    /// As above.
    Max,
    /// The first float with the sign of the second.
    CopySign,
}

/// A comparison. Of floats false if either is NaN, but `Ne`, which is true then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// Blocks of eight rows of 16 bytes, of which a fragment is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blocks {
    /// 1, 2 or 4 of them.
    pub count: u32,
    /// Whether rows, of 16-bit elements, become columns.
    pub transposed: bool,
}

/// The largest constant distance of lanes that is told apart.
pub(crate) const MAX_STEP: i64 = 1 << 16;

/// A factor in shared memory, in matrices of eight rows of 16 bytes that follow one another, or of 128 bytes that are
/// swizzled.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "llvm"), expect(dead_code, reason = "code for GPUs is made by LLVM"))]
pub(crate) struct Matrices<A> {
    pub first: A,
    /// Bytes from matrix to matrix along the contracted axis, and along the other one; the other way round where they are
    /// swizzled and rows are along the other axis.
    pub steps: [u32; 2],
    pub is_swizzled: bool,
    /// Whether rows are along the other axis.
    pub is_transposed: bool,
}

/// The elements of an access, from an address on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<R, A> {
    /// One element.
    One(A),
    /// So many lanes of the same element.
    Same(A, u32),
    /// So many consecutive elements.
    Consecutive(A, u32),
    /// So many consecutive elements, the last lane first.
    Reversed(A, u32),
    /// So many lanes, this constant number of elements apart; at most [`MAX_STEP`].
    Spread(A, u32, i64),
    /// A number of elements to add to the address, `i64`, for each of so many lanes.
    Any(A, R, u32),
}

impl<R, A: Copy> Place<R, A> {
    pub fn lanes(&self) -> u32 {
        match self {
            Place::One(_) => 1,
            Place::Same(_, n) | Place::Consecutive(_, n) | Place::Reversed(_, n) => *n,
            Place::Spread(_, n, _) | Place::Any(_, _, n) => *n,
        }
    }

    /// The address that it is told from.
    pub fn base(&self) -> A {
        match self {
            Place::One(at) | Place::Same(at, _) | Place::Consecutive(at, _) => *at,
            Place::Reversed(at, _) | Place::Spread(at, ..) | Place::Any(at, ..) => *at,
        }
    }
}

/// Builds the code of one kernel, instruction after instruction. No method fails but for a bug of `aic`.
pub(crate) trait Build: Sized {
    /// A scalar or a vector.
    type Raw: Copy;
    /// A buffer's memory.
    type Buffer: Copy;
    /// An element of a buffer.
    type Address: Copy;
    /// A loop being built.
    type Loop;
    /// An `if` being built.
    type If;
    /// A `while` being built.
    type While;

    /// A constant in every lane.
    fn constant(&mut self, ty: VType, value: Scalar) -> Result<V<Self>>;
    /// A scalar in so many lanes; the scalar itself for one.
    fn splat(&mut self, x: V<Self>, lanes: u32) -> Result<V<Self>>;
    /// `0, 1, ..` as integers.
    fn iota(&mut self, ty: VType) -> Result<V<Self>>;
    /// A mask that is known.
    fn mask(&mut self, lanes: &[bool]) -> Result<V<Self>>;
    /// One lane; of a scalar the scalar.
    fn extract(&mut self, x: V<Self>, lane: u32) -> Result<V<Self>>;
    /// A vector of scalars of one type; of one scalar the scalar.
    fn join(&mut self, lanes: &[V<Self>]) -> Result<V<Self>>;

    fn unary(&mut self, op: Unary, x: V<Self>) -> Result<V<Self>>;
    fn binary(&mut self, op: Binary, a: V<Self>, b: V<Self>) -> Result<V<Self>>;
    /// `a op b` of scalar `i64`, known not to overflow.
    fn index_binary(&mut self, op: Binary, a: V<Self>, b: V<Self>) -> Result<V<Self>> {
        self.binary(op, a, b)
    }
    /// `a * b + c` of floats, rounded once.
    fn fma(&mut self, a: V<Self>, b: V<Self>, c: V<Self>) -> Result<V<Self>>;
    /// `a * b + c` of floats, rounded once or twice as the machine likes it.
    fn muladd(&mut self, a: V<Self>, b: V<Self>, c: V<Self>) -> Result<V<Self>>;
    /// A comparison of numbers; of booleans it is made of the operators on them.
    fn compare(&mut self, op: Compare, a: V<Self>, b: V<Self>) -> Result<V<Self>>;
    fn select(&mut self, cond: V<Self>, yes: V<Self>, no: V<Self>) -> Result<V<Self>>;
    /// Lanes shifted by a count that is at least 0 and below the width; `Shl` or `Shr`.
    fn shift(&mut self, op: Binary, x: V<Self>, count: u32) -> Result<V<Self>> {
        let by = self.int(x.ty, count.into())?;
        self.binary(op, x, by)
    }

    /// A conversion between integers (truncated, or extended by their sign), of bool to integers (0 or 1), between
    /// `f32` and `f64` and of integers to these (rounded), of floats to `i32` (truncated, and known to fit).
    fn convert(&mut self, x: V<Self>, to: DType) -> Result<V<Self>>;
    /// The same bits as another type of the same size.
    fn bits(&mut self, x: V<Self>, to: DType) -> Result<V<Self>>;
    /// A float truncated to `i64` or `u64`, with saturation; NaN is 0.
    fn saturate(&mut self, x: V<Self>, to: DType) -> Result<V<Self>>;
    /// `f32` to `f16` or back in one instruction, if the machine has it.
    fn convert_half(&mut self, _x: V<Self>, _to: DType) -> Result<Option<V<Self>>> {
        Ok(None)
    }

    /// `x * 2^n` of floats and whole numbers, rounded once, if the machine has an instruction for it.
    fn scale(&mut self, _x: V<Self>, _n: V<Self>) -> Result<Option<V<Self>>> {
        Ok(None)
    }
    /// The lanes of two vectors of one type in turn: those of the first halves, and those of the second halves. The
    /// number of lanes is even.
    fn interleave(&mut self, a: V<Self>, b: V<Self>) -> Result<(V<Self>, V<Self>)>;

    /// All lanes combined, in a tree.
    fn horizontal(&mut self, op: Binary, x: V<Self>) -> Result<V<Self>>;
    /// A call of a function of the C library on scalar floats, whose type is that of the result.
    fn call_c(&mut self, name: &'static str, args: &[V<Self>]) -> Result<V<Self>>;
    /// `base` to the power of an exponent of at least 0, wrapping: scalar `i64`, the exponent taken as unsigned.
    fn power(&mut self, base: V<Self>, exponent: V<Self>) -> Result<V<Self>>;

    /// `for i in first..end`, of scalar `i64`; `runs` says that there surely is an iteration. The value is `i`.
    fn loop_begin(&mut self, first: V<Self>, end: V<Self>, runs: bool) -> Result<(Self::Loop, V<Self>)>;
    fn loop_end(&mut self, l: Self::Loop) -> Result<()>;
    fn if_begin(&mut self, cond: V<Self>) -> Result<Self::If>;
    fn if_else(&mut self, i: &mut Self::If) -> Result<()>;
    fn if_end(&mut self, i: Self::If) -> Result<()>;
    /// What follows, up to `while_do`, computes the condition.
    fn while_begin(&mut self) -> Result<Self::While>;
    fn while_do(&mut self, w: &mut Self::While, cond: V<Self>) -> Result<()>;
    fn while_end(&mut self, w: Self::While) -> Result<()>;

    /// Memory of the function for so many elements, registers or stack.
    fn alloc(&mut self, name: &Sym, dtype: DType, len: u32, scope: Scope) -> Result<Self::Buffer>;
    /// The element at the sum of the terms and the offset, of which it is known what it is a multiple of. The terms are
    /// scalar `i64`, those that change least often first.
    fn address(
        &mut self,
        buffer: Self::Buffer,
        dtype: DType,
        terms: &[V<Self>],
        offset: i64,
        divisor: i64,
    ) -> Result<Self::Address>;
    /// Elements of memory; where the mask is false they are not read, and zero.
    fn load(&mut self, dtype: DType, place: PlaceOf<Self>, mask: Option<V<Self>>) -> Result<V<Self>>;
    /// Writes elements, but for those whose mask is false. Of lanes that write the same element the last one wins.
    fn store(&mut self, value: V<Self>, place: PlaceOf<Self>, mask: Option<V<Self>>) -> Result<()>;
    /// Copies so many bytes; the elements are of the given type.
    fn copy(&mut self, dtype: DType, to: Self::Address, from: Self::Address, bytes: V<Self>) -> Result<()>;
    /// Asks for a cache line, to be kept near for as long as `locality` (0 to 3) says.
    fn prefetch(&mut self, at: Self::Address, locality: u8) -> Result<()>;

    /// Which block, warp or thread this is, of so many if that is known: scalar `i64`.
    fn level(&mut self, level: Level, _extent: Option<i64>) -> Result<V<Self>> {
        bail!("a CPU has no {level}")
    }
    /// Waits for all threads of the block.
    fn barrier(&mut self) -> Result<()> {
        bail!("a CPU has no barriers")
    }
    /// The value that a thread of the warp has, by its number within the warp; `i64`.
    fn shuffle(&mut self, _x: V<Self>, _lane: V<Self>) -> Result<V<Self>> {
        bail!("a CPU has no shuffles")
    }
    /// Begins to copy so many bytes to shared memory; of a number given, `i64`, only so many are read, and the rest
    /// becomes zero.
    fn copy_async(&mut self, _: Self::Address, _: Self::Address, _: u32, _: Option<V<Self>>) -> Result<()> {
        bail!("a CPU has no asynchronous copies")
    }
    /// Closes a group of asynchronous copies.
    fn commit(&mut self) -> Result<()> {
        bail!("a CPU has no asynchronous copies")
    }
    /// Waits until at most so many of the latest groups are unfinished.
    fn wait(&mut self, _pending: u32) -> Result<()> {
        bail!("a CPU has no asynchronous copies")
    }
    /// Loads a fragment by the instruction for it, from the row that each thread of the warp gives the address of;
    /// the eight by eight blocks are transposed on the way or not.
    fn load_matrix(&mut self, _to: Self::Address, _row: Self::Address, _: Blocks) -> Result<()> {
        bail!("a CPU has no matrix instructions")
    }
    /// `c += a * b` on fragments in registers.
    fn mma(&mut self, _: &MatrixUnit, _c: Self::Address, _a: Self::Address, _b: Self::Address) -> Result<()> {
        bail!("a CPU has no matrix instructions")
    }

    /// Makes what this thread has written to shared memory visible to asynchronous products, after the next barrier.
    fn publish(&mut self) -> Result<()> {
        bail!("a CPU has no matrix instructions")
    }
    /// Orders accesses to accumulators before the asynchronous products that follow.
    fn begin_products(&mut self) -> Result<()> {
        bail!("a CPU has no matrix instructions")
    }
    /// Begins `c += a * b` of these extents by a warp group, of factors in shared memory.
    fn mma_async(
        &mut self,
        _: &MatrixUnit,
        _extent: [u32; 3],
        _c: Self::Address,
        _factors: [Matrices<Self::Address>; 2],
    ) -> Result<()> {
        bail!("a CPU has no matrix instructions")
    }
    /// Closes a group of asynchronous products.
    fn commit_products(&mut self) -> Result<()> {
        bail!("a CPU has no matrix instructions")
    }
    /// Waits until at most so many of the latest groups of products are unfinished. These are the accumulators, and how many
    /// registers each has.
    fn wait_products(&mut self, _pending: u32, _: &[(Self::Address, u32)]) -> Result<()> {
        bail!("a CPU has no matrix instructions")
    }

    /// Whether this thread is the one of its warp that does what a warp does once.
    fn elect(&mut self) -> Result<V<Self>> {
        bail!("a CPU has no warps")
    }
    /// Gives each thread of a warp group so many registers from here on.
    fn registers(&mut self, _count: u32) -> Result<()> {
        bail!("a CPU has no warps")
    }
    /// Begins the first phase of a barrier of so many arrivals.
    fn phase_begin(&mut self, _: Self::Address, _arrivals: u32) -> Result<()> {
        bail!("a CPU has no barriers")
    }
    /// Makes barriers whose first phase has begun known to all threads and copies, after the next barrier of threads.
    fn publish_phases(&mut self) -> Result<()> {
        bail!("a CPU has no barriers")
    }
    /// Arrives, and says that so many bytes are to come.
    fn phase_arrive(&mut self, _: Self::Address, _bytes: u32) -> Result<()> {
        bail!("a CPU has no barriers")
    }
    /// Whether the phase of this parity, `i64`, is over; it may take some time to say so.
    fn phase_is_over(&mut self, _: Self::Address, _parity: V<Self>) -> Result<V<Self>> {
        bail!("a CPU has no barriers")
    }
    /// Begins to copy a box, whose bytes come to a barrier. It begins at these indices along the axes, `i64`.
    fn fetch(&mut self, _: &Fetch, _to: Self::Address, _: Self::Address, _at: &[V<Self>]) -> Result<()> {
        bail!("a CPU copies no boxes")
    }

    /// An integer constant of the given type, in every lane; wrapping.
    fn int(&mut self, ty: VType, value: i64) -> Result<V<Self>> {
        self.constant(ty, Scalar::I(value).cast(ty.dtype))
    }

    /// A float constant of the given type, in every lane; rounded.
    fn float(&mut self, ty: VType, value: f64) -> Result<V<Self>> {
        self.constant(ty, Scalar::F(value).cast(ty.dtype))
    }

    /// A scalar `i64` constant.
    fn i64(&mut self, value: i64) -> Result<V<Self>> {
        self.int(VType::scalar(DType::I64), value)
    }

    fn add(&mut self, a: V<Self>, b: V<Self>) -> Result<V<Self>> {
        self.binary(Binary::Add, a, b)
    }

    fn sub(&mut self, a: V<Self>, b: V<Self>) -> Result<V<Self>> {
        self.binary(Binary::Sub, a, b)
    }

    fn mul(&mut self, a: V<Self>, b: V<Self>) -> Result<V<Self>> {
        self.binary(Binary::Mul, a, b)
    }

    fn div(&mut self, a: V<Self>, b: V<Self>) -> Result<V<Self>> {
        self.binary(Binary::Div, a, b)
    }

    fn and(&mut self, a: V<Self>, b: V<Self>) -> Result<V<Self>> {
        self.binary(Binary::And, a, b)
    }

    fn or(&mut self, a: V<Self>, b: V<Self>) -> Result<V<Self>> {
        self.binary(Binary::Or, a, b)
    }

    fn xor(&mut self, a: V<Self>, b: V<Self>) -> Result<V<Self>> {
        self.binary(Binary::Xor, a, b)
    }

    fn abs(&mut self, x: V<Self>) -> Result<V<Self>> {
        self.unary(Unary::Abs, x)
    }

    fn neg(&mut self, x: V<Self>) -> Result<V<Self>> {
        self.unary(Unary::Neg, x)
    }

    fn not(&mut self, x: V<Self>) -> Result<V<Self>> {
        self.unary(Unary::Not, x)
    }

    /// The integer between the limits that is nearest.
    fn clamp(&mut self, x: V<Self>, lo: V<Self>, hi: V<Self>) -> Result<V<Self>> {
        let x = self.binary(Binary::Max, x, lo)?;
        self.binary(Binary::Min, x, hi)
    }

    /// Applies a scalar computation to every lane.
    fn each_lane(
        &mut self,
        args: &[V<Self>],
        mut f: impl FnMut(&mut Self, &[V<Self>]) -> Result<V<Self>>,
    ) -> Result<V<Self>> {
        let lanes = args.first().map_or(1, |a| a.ty.lanes);
        let mut results = Vec::new();
        for lane in 0..lanes {
            let scalars: Result<Vec<V<Self>>> = args.iter().map(|a| self.extract(*a, lane)).collect();
            results.push(f(self, &scalars?)?);
        }
        self.join(&results)
    }
}
