//! The graph with values in the layouts that their readers want.

use super::{Role, winograd};
use crate::graph::moves_no_element;
use crate::runner::Context;
use crate::schedule;
use aic_ir::bail;
use aic_ir::dim::Dim;
use aic_ir::error::Result;
use aic_ir::graph::{Def, Graph, Node, ValueId};
use aic_ir::op::{
    ChannelsLastConv, ChannelsLastPool, Concat, Conv, Op, Pad, PadMode, Reduce, Reshape, Slice, Transpose,
};
use aic_ir::scalar::Scalar;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use std::collections::HashMap;
use std::sync::Arc;

/// The permutation that makes channels the innermost axis.
pub fn to_last(rank: usize) -> Vec<usize> {
    let spatial = 2..rank;
    std::iter::once(0).chain(spatial).chain([1]).collect()
}

/// The reverse.
fn to_first(rank: usize) -> Vec<usize> {
    [0, rank - 1].into_iter().chain(1..rank - 1).collect()
}

/// A value of the old graph in the new one.
#[derive(Clone, Copy, Default)]
struct Forms {
    /// With channels outermost.
    first: Option<ValueId>,
    /// With channels innermost.
    last: Option<ValueId>,
}

struct Rebuild<'g> {
    g: &'g Graph,
    out: Graph,
    forms: Vec<Forms>,
    /// Transposed constants.
    constants: HashMap<(ValueId, Vec<usize>), ValueId>,
    target: &'g Target,
}

/// Rebuilds the graph; each window with channels innermost counts as a rewrite.
pub fn rebuild(g: &Graph, roles: &[Role], is_last: &[bool], cx: &mut Context) -> Result<Graph> {
    let (out, forms) = (Graph::new(&g.name), vec![Forms::default(); g.n_values()]);
    let target = cx.target.clone();
    let mut r = Rebuild { g, out, forms, constants: HashMap::new(), target: &target };
    r.out.requires = g.requires.clone();
    for p in &g.inputs {
        let v = r.out.add_input(&p.name, g.ty(p.value).clone());
        r.forms[p.value.index()].first = Some(v);
    }
    for (id, n) in g.nodes() {
        if matches!(n.op, Op::Const(_)) {
            continue; // added when it is read
        }
        let role = roles[id.index()];
        let converts = is_last[id.index()]
            && match role {
                Role::Window => cx.spend(|| format!("channels innermost for {}", n.op.keyword())),
                Role::Free | Role::Reader => true,
                Role::Plain => false,
            };
        match converts {
            true => r.last(n, role)?,
            false => r.plain(n)?,
        }
    }
    for p in &g.outputs {
        let v = r.first_form(p.value, &[])?;
        r.out.add_output(&p.name, v);
    }
    Ok(r.out)
}

impl<'g> Rebuild<'g> {
    /// A node as it was.
    fn plain(&mut self, n: &Node) -> Result<()> {
        let x = n.inputs.iter().map(|v| self.first_form(*v, &n.origin)).collect::<Result<Vec<_>>>()?;
        let types = n.outputs.iter().map(|v| self.g.ty(*v).clone()).collect();
        let y = self.out.add_typed(n.op.clone(), &x, types, &n.origin);
        for (old, new) in n.outputs.iter().zip(y) {
            self.forms[old.index()].first = Some(new);
        }
        Ok(())
    }

    /// A node on operands with channels innermost.
    fn last(&mut self, n: &Node, role: Role) -> Result<()> {
        let rank = match role {
            Role::Reader => self.g.ty(n.inputs[0]).rank(),
            _ => self.g.ty(n.outputs[0]).rank(),
        };
        if let Op::Conv(c) = &n.op
            && let Some(y) = self.filtered(n, c)?
        {
            self.forms[n.outputs[0].index()].last = Some(y);
            return Ok(());
        }
        let mut op = with_channels_last(&n.op, rank);
        let mut x = Vec::new();
        for (k, v) in n.inputs.iter().enumerate() {
            x.push(match (&n.op, k) {
                (Op::Conv(_), 1) => self.weights(*v)?,
                _ => self.last_form(*v, rank, &n.origin)?,
            });
        }
        if let Op::ChannelsLastConv(c) = &mut op
            && c.groups == 1
            && self.target.is_npu()
        {
            x[0] = self.padded(x[0], &c.pads, &n.origin)?;
            c.pads.fill(0);
        }
        let y = self.out.add(op, &x, &n.origin)?;
        for (old, new) in n.outputs.iter().zip(y) {
            let forms = &mut self.forms[old.index()];
            match role {
                Role::Reader => forms.first = Some(new),
                _ => forms.last = Some(new),
            }
        }
        Ok(())
    }

    /// An array with its padding, for machines that copy it in tiles.
    fn padded(&mut self, v: ValueId, pads: &[usize], origin: &[Arc<str>]) -> Result<ValueId> {
        if pads.iter().all(|p| *p == 0) {
            return Ok(v);
        }
        let (ty, n) = (self.out.ty(v).clone(), pads.len() / 2);
        let along = |pads: &[usize]| {
            let inner = pads.iter().map(|p| Dim::from(*p));
            std::iter::once(0.into()).chain(inner).chain([0.into()]).collect::<Vec<Dim>>()
        };
        let zero = self.out.add_const(Tensor::full(ty.dtype, Vec::new(), Scalar::zero(ty.dtype))?, origin);
        let (lo, hi, interior) = (along(&pads[..n]), along(&pads[n..]), vec![0; ty.rank()]);
        let op = Pad { mode: PadMode::Constant, lo, hi, interior };
        Ok(self.out.add(op.into(), &[v, zero], origin)?[0])
    }

    /// A convolution by Winograd's minimal filtering, where that is faster and exact enough.
    fn filtered(&mut self, n: &Node, c: &Conv) -> Result<Option<ValueId>> {
        let [x, w] = &n.inputs[..] else { return Ok(None) };
        let (x, w) = (*x, *w);
        let Some(filters) = self.g.as_const(w) else { return Ok(None) };
        let (x_ty, y_ty) = (self.g.ty(x), self.g.ty(n.outputs[0]));
        let Some(m) = winograd::tile(c, x_ty, filters.shape(), y_ty, self.target) else { return Ok(None) };
        let Some((op, filters)) = winograd::convert(c, filters, m, self.target) else { return Ok(None) };
        let (op, x) = (Op::from(op), self.last_form(x, x_ty.rank(), &n.origin)?);
        let types = [self.out.ty(x).clone(), Type::of(filters.dtype(), filters.shape())];
        let results = op.infer(&types.each_ref())?;
        if !op.compute(&types, &results).is_some_and(|c| schedule::is_filtering(&c, self.target)) {
            return Ok(None);
        }
        let u = self.out.add_const(filters, self.origin(w));
        Ok(self.out.add(op, &[x, u], &n.origin)?.pop())
    }

    fn first_form(&mut self, v: ValueId, origin: &[Arc<str>]) -> Result<ValueId> {
        let forms = self.forms[v.index()];
        let new = match (forms.first, self.g.as_const(v), forms.last) {
            (Some(v), ..) => v,
            (None, Some(value), _) => self.out.add_const(value.clone(), self.origin(v)),
            (None, None, Some(last)) => self.transposed(last, to_first(self.g.ty(v).rank()), origin)?,
            _ => bail!("value {v} is needed before it is computed"),
        };
        self.forms[v.index()].first = Some(new);
        Ok(new)
    }

    /// A value with channels innermost, where results have `rank` axes.
    fn last_form(&mut self, v: ValueId, rank: usize, origin: &[Arc<str>]) -> Result<ValueId> {
        let dims = &self.g.ty(v).dims;
        let own = dims.len();
        if own == 0 {
            return self.first_form(v, origin);
        }
        let shape: Vec<Dim> = std::iter::repeat_n(1.into(), rank - own).chain(dims.iter().cloned()).collect();
        if let Some(value) = self.g.as_const(v) {
            let value = Op::from(Reshape { shape }).eval(std::slice::from_ref(value))?.remove(0);
            return self.constant(v, &value, to_last(rank));
        }
        if let Some(found) = self.forms[v.index()].last.filter(|_| own == rank) {
            return Ok(found);
        }
        let first = self.first_form(v, origin)?;
        if own < rank {
            let op = movement(&shape, to_last(rank));
            if matches!(op, Op::Reshape(_)) {
                return Ok(self.out.add(op, &[first], origin)?[0]);
            }
            let ranked = self.out.add(Reshape { shape }.into(), &[first], origin)?[0];
            return Ok(self.out.add(op, &[ranked], origin)?[0]);
        }
        let new = self.transposed(first, to_last(rank), origin)?;
        self.forms[v.index()].last = Some(new);
        Ok(new)
    }

    /// Weights with taps outermost and filters innermost.
    fn weights(&mut self, v: ValueId) -> Result<ValueId> {
        let Some(value) = self.g.as_const(v) else { bail!("weights {v} aren't constant") };
        let perm = (2..value.shape().len()).chain([1, 0]).collect();
        self.constant(v, value, perm)
    }

    /// A constant, transposed once for all that want it so.
    fn constant(&mut self, v: ValueId, value: &Tensor, perm: Vec<usize>) -> Result<ValueId> {
        let key = (v, perm);
        if let Some(found) = self.constants.get(&key) {
            return Ok(*found);
        }
        let moved = Op::from(Transpose { perm: key.1.clone() }).eval(std::slice::from_ref(value))?.remove(0);
        let new = self.out.add_const(moved, self.origin(v));
        self.constants.insert(key, new);
        Ok(new)
    }

    /// The source names of a value.
    fn origin(&self, v: ValueId) -> &'g [Arc<str>] {
        match self.g.value(v).def {
            Def::Node(n, _) => &self.g.node(n).origin,
            Def::Input(_) => &[],
        }
    }

    fn transposed(&mut self, v: ValueId, perm: Vec<usize>, origin: &[Arc<str>]) -> Result<ValueId> {
        let op = movement(&self.out.ty(v).dims, perm);
        Ok(self.out.add(op, &[v], origin)?[0])
    }
}

/// A transposition, or the reshape that it is where it moves no element.
fn movement(dims: &[Dim], perm: Vec<usize>) -> Op {
    let transpose = Transpose { perm };
    match moves_no_element(&transpose, dims) {
        true => Reshape { shape: transpose.perm.iter().map(|k| dims[*k].clone()).collect() }.into(),
        false => transpose.into(),
    }
}

/// The operator for channels innermost.
fn with_channels_last(op: &Op, rank: usize) -> Op {
    let perm = to_last(rank);
    let place = |axis: usize| perm.iter().position(|p| *p == axis).unwrap_or(axis);
    match op {
        Op::Conv(c) => ChannelsLastConv {
            strides: c.strides.clone(),
            dilations: c.dilations.clone(),
            pads: c.pads.clone(),
            groups: c.groups,
        }
        .into(),
        Op::Pool(p) => ChannelsLastPool {
            op: p.op,
            kernel: p.kernel.clone(),
            strides: p.strides.clone(),
            dilations: p.dilations.clone(),
            pads: p.pads.clone(),
        }
        .into(),
        Op::Concat(c) => Concat { axis: place(c.axis) }.into(),
        Op::Slice(s) => Slice {
            starts: permuted(&s.starts, &perm),
            sizes: permuted(&s.sizes, &perm),
            steps: permuted(&s.steps, &perm),
        }
        .into(),
        Op::Pad(p) => Pad {
            mode: p.mode,
            lo: permuted(&p.lo, &perm),
            hi: permuted(&p.hi, &perm),
            interior: permuted(&p.interior, &perm),
        }
        .into(),
        Op::Reduce(r) => {
            let mut axes: Vec<usize> = r.axes.iter().map(|a| place(*a)).collect();
            axes.sort_unstable();
            Reduce { op: r.op, axes }.into()
        }
        other => other.clone(),
    }
}

fn permuted<T: Clone>(list: &[T], perm: &[usize]) -> Vec<T> {
    perm.iter().map(|k| list[*k].clone()).collect()
}
