//! Random small graphs of maps, movements, reductions and contractions: what `fused` is tested on.

use super::elementwise::Elementwise;
use super::{
    Concat, Expand, Matmul, Op, Operand, Pad, PadMode, Reduce, Reshape, Rng, Slice, Softmax, Transpose,
    Values,
};
use crate::compute::ReduceOp;
use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::{Graph, Node, ValueId};
use crate::scalar::{Scalar, ScalarFn};
use crate::tensor::Tensor;
use crate::types::Type;

/// Values that grow larger than this are left alone.
const MAX_ELEMENTS: i64 = 4000;

/// A graph under construction, every value of which has one element type. Its extents are symbols or numbers.
struct Body<'a> {
    rng: &'a mut Rng,
    graph: Graph,
    dtype: DType,
    /// Whether extents above 1 are symbols.
    symbolic: bool,
    values: Vec<ValueId>,
    operands: Vec<Operand>,
}

/// A body of a few operators, and operands for it. Element values are small integers, so that sums are mostly exact.
pub(crate) fn random_body(rng: &mut Rng) -> (Graph, Vec<Operand>) {
    let dtype = rng.pick(&[DType::F32, DType::F32, DType::F32, DType::F64, DType::F16, DType::I32]);
    let symbolic = rng.one_in(3);
    let mut b =
        Body { rng, graph: Graph::new("body"), dtype, symbolic, values: Vec::new(), operands: Vec::new() };
    let rank = 1 + b.rng.below(3);
    let shape: Vec<usize> = (0..rank).map(|_| b.rng.pick(&[1, 2, 3, 4, 6, 8, 17])).collect();
    b.input(shape);
    for _ in 0..1 + b.rng.below(6) {
        b.grow();
    }
    let last = b.values[b.values.len() - 1];
    b.graph.add_output("", last);
    if b.rng.one_in(4) {
        let other = b.any();
        if other != last {
            b.graph.add_output("", other);
        }
    }
    (inputs_first(&b.graph), b.operands)
}

/// A copy in which inputs are numbered before results, as in the text form.
fn inputs_first(g: &Graph) -> Graph {
    let copy = |out: &mut Graph, n: &Node, x: &[ValueId]| {
        let types = n.outputs.iter().map(|v| g.ty(*v).clone()).collect();
        out.add_typed(n.op.clone(), x, types, &n.origin)
    };
    g.rebuild(|out, _, n, x| Ok(copy(out, n, x))).unwrap_or_else(|_| g.clone())
}

impl Body<'_> {
    fn dim(&self, n: usize) -> Dim {
        if self.symbolic && n > 1 { Dim::named(&format!("e{n}")) } else { n.into() }
    }

    fn input(&mut self, shape: Vec<usize>) -> ValueId {
        let ty = Type::new(self.dtype, shape.iter().map(|&n| self.dim(n)).collect());
        let v = self.graph.add_input("", ty);
        self.operands.push(Operand { dtype: self.dtype, shape, values: Values::Between(-3, 4) });
        self.values.push(v);
        v
    }

    fn any(&mut self) -> ValueId {
        self.rng.pick(&self.values)
    }

    /// The extents of a value as numbers.
    fn shape(&self, v: ValueId) -> Vec<usize> {
        let number = |s: &crate::dim::Sym| s.name().strip_prefix('e').and_then(|n| n.parse().ok());
        let dims = self.graph.ty(v).dims.iter();
        dims.map(|d| d.eval(&number).and_then(|n| usize::try_from(n).ok()).unwrap_or(1)).collect()
    }

    /// Adds an operator, unless it doesn't fit or its result is too large.
    fn add(&mut self, op: impl Into<Op>, x: &[ValueId]) {
        if let Ok(y) = self.graph.add(op.into(), x, &[]) {
            self.values.extend(&y);
            if y.iter().any(|v| self.shape(*v).iter().product::<usize>() as i64 > MAX_ELEMENTS) {
                self.values.truncate(self.values.len() - y.len());
            }
        }
    }

    fn grow(&mut self) {
        // The latest value, so that chains arise, or any, so that diamonds do.
        let x = if self.rng.one_in(3) { self.any() } else { self.values[self.values.len() - 1] };
        let shape = self.shape(x);
        let dims = self.graph.ty(x).dims.clone();
        let rank = shape.len();
        let axis = self.rng.below(rank);
        match self.rng.below(12) {
            0 => self.unary(x),
            1 | 2 => self.binary(x),
            3 => {
                let value = Scalar::F(self.rng.pick(&[-0.5, 2.0, 1.0])).cast(self.dtype);
                let c = self.graph.add_const(Tensor::scalar(self.dtype, value), &[]);
                let f = self.rng.pick(&[ScalarFn::Mul, ScalarFn::Add, ScalarFn::Max]);
                self.add(Elementwise { f }, &[x, c]);
            }
            4 => {
                let mut perm: Vec<usize> = (0..rank).collect();
                (0..rank).for_each(|k| perm.swap(k, k + self.rng.below(rank - k)));
                self.add(Transpose { perm }, &[x]);
            }
            5 => self.reshape(x, dims),
            6 if rank > 0 => {
                let op = self.rng.pick(&[ReduceOp::Sum, ReduceOp::Max, ReduceOp::Min]);
                self.add(Reduce { op, axes: vec![axis] }, &[x]);
            }
            7 if rank > 0 && shape[axis] > 1 => {
                let mut starts = vec![Dim::from(0); rank];
                let mut sizes = dims;
                starts[axis] = 1.into();
                sizes[axis] = sizes[axis].clone() - 1.into();
                self.add(Slice { starts, sizes, steps: vec![1; rank] }, &[x]);
            }
            8 if rank > 0 => {
                let value = self.graph.add_const(Tensor::scalar(self.dtype, Scalar::zero(self.dtype)), &[]);
                let (mut lo, mut hi) = (vec![Dim::from(0); rank], vec![Dim::from(0); rank]);
                lo[axis] = self.rng.range(0, 3).into();
                hi[axis] = self.rng.range(0, 3).into();
                self.add(Pad { mode: PadMode::Constant, lo, hi, interior: vec![0; rank] }, &[x, value]);
            }
            9 if rank > 0 => {
                let other = self.any();
                let parts = if self.rng.one_in(2) { [x, other] } else { [other, x] };
                self.add(Concat { axis }, &parts);
            }
            10 if rank >= 2 => {
                let n = self.rng.pick(&[1, 3, 8]);
                let right = self.input(vec![shape[rank - 1], n]);
                self.add(Matmul {}, &[x, right]);
            }
            11 if rank > 0 && self.dtype.is_float() => self.add(Softmax { axis }, &[x]),
            _ => self.add(Expand { shape: [vec![2.into()], dims].concat() }, &[x]),
        }
    }

    fn unary(&mut self, x: ValueId) {
        let fs: &[ScalarFn] = match self.dtype.is_float() {
            true => &[ScalarFn::Neg, ScalarFn::Abs, ScalarFn::Tanh, ScalarFn::Sigmoid],
            false => &[ScalarFn::Neg, ScalarFn::Abs],
        };
        let f = self.rng.pick(fs);
        self.add(Elementwise { f }, &[x]);
    }

    fn binary(&mut self, x: ValueId) {
        let f = self.rng.pick(&[ScalarFn::Add, ScalarFn::Sub, ScalarFn::Max, ScalarFn::Min]);
        let mut other = self.any();
        if self.rng.one_in(3) {
            let shape = self.shape(x);
            let from = self.rng.below(shape.len() + 1);
            let narrow = shape[from..].iter().map(|&n| if self.rng.one_in(3) { 1 } else { n }).collect();
            other = self.input(narrow);
        }
        let latest = self.values.len() - 1;
        self.add(Elementwise { f }, &[x, other]);
        // An input that came last stays usable, but chains go on from results.
        if self.values.len() - 1 == latest {
            self.values.swap(0, latest);
        }
    }

    /// Two axes made one, one made two, or all of them one.
    fn reshape(&mut self, x: ValueId, mut dims: Vec<Dim>) {
        let axis = self.rng.below(dims.len());
        match self.rng.below(3) {
            0 if axis + 1 < dims.len() => {
                let next = dims.remove(axis + 1);
                dims[axis] = dims[axis].clone() * next;
            }
            1 if dims.get(axis).and_then(Dim::as_const).is_some_and(|n| n % 2 == 0) => {
                dims[axis] = dims[axis].floor_div(&2.into());
                dims.insert(axis + 1, 2.into());
            }
            _ => dims = vec![dims.iter().product()],
        }
        self.add(Reshape { shape: dims }, &[x]);
    }
}
