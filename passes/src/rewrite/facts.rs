//! What is known of an e-class: its type, its value where it is a small constant, whether only constants decide it.

use super::lang::{Attribute, EGraph, ENode, Keyword, SMALL};
use crate::graph::{self, mentions_symbols};
use crate::runner::Numerics;
use aic_ir::dim::{Dim, Sym};
use aic_ir::error::Result;
use aic_ir::op::{AttrValue, Op};
use aic_ir::scalar::Scalar;
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use aic_ir::{bail, ensure};
use egg::{DidMerge, Id};
use std::hash::Hash;

/// Constants of at most this many elements are searched for negative ones.
const MAX_SIGNS: usize = 1 << 14;

/// What is known of an e-class, or of a term.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// What it is, and of which type.
    pub kind: Kind,
    /// The value, if it is a constant of at most [`SMALL`] elements.
    pub value: Option<Tensor>,
    /// Whether it is a constant, or will be when constants are folded.
    pub is_const: bool,
    /// Whether every element is NaN or at least 0 (`-0.0` is).
    pub is_nonneg: bool,
    /// The value of all elements, if it is a constant, of any size, that has such a value.
    pub uniform: Option<Scalar>,
    /// Whether it is a constant mask that hides later keys from a query: 0 or `true` up to the diagonal that ends in the
    /// last element, beyond it minus infinity, or so low a number that its exponential is 0, or `false`.
    pub is_causal: bool,
}

/// What an e-class stands for.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A tensor.
    Tensor(Type),
    /// The results of an operator that has several.
    Tuple(Vec<Type>),
    /// An attribute.
    Attr(Attribute),
    /// An operator whose operands don't fit it; no term of a graph is one.
    Ill,
}

impl Facts {
    /// A tensor of which only the type is known.
    pub fn tensor(ty: Type) -> Facts {
        Facts {
            kind: Kind::Tensor(ty),
            value: None,
            is_const: false,
            is_nonneg: false,
            uniform: None,
            is_causal: false,
        }
    }

    /// A constant; its value is kept if it is small.
    pub fn constant(value: &Tensor) -> Facts {
        let is_nonneg = value.len() <= MAX_SIGNS && value.scalars().all(is_nonneg);
        Facts {
            kind: Kind::Tensor(Type::of(value.dtype(), value.shape())),
            value: (value.len() <= SMALL).then(|| value.clone()),
            is_const: true,
            is_nonneg,
            uniform: uniform(value),
            is_causal: is_causal(value),
        }
    }

    /// An attribute.
    pub fn attr(value: Attribute) -> Facts {
        Facts {
            kind: Kind::Attr(value),
            value: None,
            is_const: true,
            is_nonneg: false,
            uniform: None,
            is_causal: false,
        }
    }

    /// Facts of an operator's results, of which only the types are known.
    pub fn results(mut types: Vec<Type>) -> Facts {
        match types.len() {
            1 => Facts::tensor(types.remove(0)),
            _ => Facts {
                kind: Kind::Tuple(types),
                value: None,
                is_const: false,
                is_nonneg: false,
                uniform: None,
                is_causal: false,
            },
        }
    }

    /// The same with symbols replaced.
    pub fn subst(&self, value: &dyn Fn(&Sym) -> Option<Dim>) -> Facts {
        let kind = match &self.kind {
            Kind::Tensor(ty) => Kind::Tensor(ty.subst(value)),
            Kind::Tuple(types) => Kind::Tuple(types.iter().map(|ty| ty.subst(value)).collect()),
            Kind::Attr(a) => Kind::Attr(Attribute::new(with_dims(a.value(), &mut |d| d.subst(value)))),
            Kind::Ill => Kind::Ill,
        };
        Facts { kind, ..self.clone() }
    }

    /// The type, if it is a tensor.
    pub fn ty(&self) -> Option<&Type> {
        match &self.kind {
            Kind::Tensor(ty) => Some(ty),
            _ => None,
        }
    }

    /// The attribute's value, if it is one.
    pub fn as_attr(&self) -> Option<&AttrValue> {
        match &self.kind {
            Kind::Attr(a) => Some(a.value()),
            _ => None,
        }
    }

    /// The extents of a tensor.
    pub fn dims(&self) -> Option<&[Dim]> {
        self.ty().map(|ty| &ty.dims[..])
    }

    /// What may be found out about an e-class after it was made; its type is known from the start.
    pub fn found_out(&self) -> impl Hash + use<> {
        (self.value.is_some(), self.is_const, self.is_nonneg, self.uniform, self.is_causal)
    }

    /// The one value of all elements, if it is a constant that has such a value.
    pub fn splat(&self) -> Option<Scalar> {
        self.uniform
    }
}

/// An attribute with other dims.
pub(super) fn with_dims(value: &AttrValue, dim: &mut dyn FnMut(&Dim) -> Dim) -> AttrValue {
    match value {
        AttrValue::Dim(d) => AttrValue::Dim(dim(d)),
        AttrValue::List(items) => AttrValue::List(items.iter().map(|v| with_dims(v, dim)).collect()),
        other => other.clone(),
    }
}

fn is_nonneg(x: Scalar) -> bool {
    match x {
        Scalar::F(x) => x.is_nan() || x >= 0.0,
        Scalar::I(x) => x >= 0,
        Scalar::U(_) | Scalar::B(_) => true,
    }
}

/// See [`Facts::uniform`].
fn uniform(value: &Tensor) -> Option<Scalar> {
    let elements = value.bytes().chunks_exact(value.dtype().size());
    let first = elements.clone().next()?;
    elements.clone().all(|e| e == first).then(|| value.get(0))
}

/// See [`Facts::is_causal`].
fn is_causal(value: &Tensor) -> bool {
    let &[.., rows, columns] = value.shape() else { return false };
    let is_hidden = |p: usize| p % columns + rows > p / columns % rows + columns;
    let fits = |(p, x): (usize, Scalar)| match (x, is_hidden(p)) {
        (Scalar::F(x), true) => x == f64::NEG_INFINITY || x <= -1e4 && rows <= columns,
        (Scalar::F(x), false) => x == 0.0,
        (Scalar::B(x), hidden) => x != hidden,
        _ => false,
    };
    columns > 1 && value.scalars().enumerate().all(fits)
}

/// The operator of an [`ENode::Op`], from what is known of its attributes.
pub fn rebuild_op(keyword: Keyword, attrs: &[&Facts]) -> Result<Op> {
    let Some(signature) = Op::signature(keyword.0) else { bail!("unknown operator {}", keyword.0) };
    ensure!(signature.attrs.len() == attrs.len(), "{} has {} attributes", keyword.0, signature.attrs.len());
    let mut named = Vec::with_capacity(attrs.len());
    for (name, facts) in signature.attrs.iter().zip(attrs) {
        let Some(value) = facts.as_attr() else { bail!("{}: {name} is no attribute", keyword.0) };
        named.push((name.to_string(), value.clone()));
    }
    Op::parse(keyword.0, &named)
}

/// Facts of an operator's results, from what is known of its operands and attributes (in that order); an error where
/// they don't fit.
pub fn of_op(keyword: Keyword, children: &[&Facts], numerics: Numerics) -> Result<Facts> {
    let n_attrs = keyword.n_attrs();
    ensure!(children.len() >= n_attrs, "{} has {n_attrs} attributes", keyword.0);
    let (x, attrs) = children.split_at(children.len() - n_attrs);
    let op = rebuild_op(keyword, attrs)?;
    let mut types = Vec::with_capacity(x.len());
    for facts in x {
        match facts.ty() {
            Some(ty) => types.push(ty),
            None => bail!("an operand of {} is no tensor", keyword.0),
        }
    }
    let results = op.infer(&types)?;
    let is_const = x.iter().all(|f| f.is_const)
        && is_evaluated(&op, &types, &results.iter().collect::<Vec<_>>(), numerics);
    let mut facts = Facts { is_const, ..Facts::results(results) };
    if facts.is_const
        && let Some(value) = fold(&op, x, &facts, numerics)
    {
        return Ok(Facts::constant(&value));
    }
    facts.is_nonneg = nonneg(keyword, x) && facts.ty().is_some();
    Ok(facts)
}

/// Whether an operator on constants is evaluated at compile time: no symbol decides what it computes, the result is
/// no larger than 64 MiB or its operands, and the class of rewrites admits it.
pub fn is_evaluated(op: &Op, x: &[&Type], y: &[&Type], numerics: Numerics) -> bool {
    let size = |types: &[&Type]| -> Option<i64> {
        types.iter().map(|t| Some(t.numel().as_const()?.saturating_mul(t.dtype.size() as i64))).sum()
    };
    let (Some(from), Some(to)) = (size(x), size(y)) else { return false };
    to <= from.max(graph::FOLD_LIMIT as i64)
        && !mentions_symbols(op)
        && (numerics != Numerics::Exact || graph::rounds_alike(op, x, y))
}

/// The value of an operator that is evaluated, if its operands and itself are small.
fn fold(op: &Op, x: &[&Facts], y: &Facts, numerics: Numerics) -> Option<Tensor> {
    let size = y.ty()?.numel().as_const()?;
    if size > SMALL as i64 {
        return None;
    }
    let x: Vec<Tensor> = x.iter().map(|f| f.value.clone()).collect::<Option<_>>()?;
    let mut y = op.eval(&x).ok()?;
    (y.len() == 1 && !(numerics == Numerics::Exact && graph::makes_nan(op, &y))).then(|| y.remove(0))
}

fn nonneg(keyword: Keyword, x: &[&Facts]) -> bool {
    let all = || x.iter().all(|f| f.is_nonneg);
    match keyword.0 {
        "abs" => x[0].ty().is_some_and(|ty| ty.dtype.is_float()),
        "exp" | "sigmoid" | "softplus" | "sqrt" | "softmax" => true,
        "max" => x.iter().any(|f| f.is_nonneg) && x[0].ty().is_some_and(|ty| ty.dtype.is_float()),
        "add" | "mul" => all() && x[0].ty().is_some_and(|ty| ty.dtype.is_float()),
        "min" | "reshape" | "transpose" | "expand" | "slice" | "concat" => all(),
        _ => false,
    }
}

/// The analysis: what leaves and opaque nodes are.
#[derive(Clone, Debug, Default)]
pub struct Analysis {
    /// Facts of each [`ENode::Leaf`].
    pub leaves: Vec<Facts>,
    /// Types of the results of each [`ENode::Opaque`].
    pub opaques: Vec<Vec<Type>>,
    /// Which rewrites are admitted.
    pub numerics: Numerics,
}

impl Analysis {
    /// Facts of an e-node, given those of its children.
    pub fn facts<'a>(&self, node: &ENode, child: impl Fn(Id) -> &'a Facts) -> Facts {
        let ill = || Facts {
            kind: Kind::Ill,
            value: None,
            is_const: false,
            is_nonneg: false,
            uniform: None,
            is_causal: false,
        };
        match node {
            ENode::Attr(a) => Facts::attr(a.clone()),
            ENode::Const(c) => Facts::constant(c.value()),
            ENode::Leaf(k) => self.leaves.get(*k as usize).cloned().unwrap_or_else(ill),
            ENode::Opaque(k, _) => {
                self.opaques.get(*k as usize).map_or_else(ill, |t| Facts::results(t.clone()))
            }
            ENode::Result(k, [x]) => match &child(*x).kind {
                Kind::Tuple(types) => types.get(*k as usize).cloned().map_or_else(ill, Facts::tensor),
                _ => ill(),
            },
            ENode::Op(keyword, children) => {
                let facts: Vec<&Facts> = children.iter().map(|c| child(*c)).collect();
                of_op(*keyword, &facts, self.numerics).unwrap_or_else(|_| ill())
            }
        }
    }
}

impl egg::Analysis<ENode> for Analysis {
    type Data = Facts;

    fn make(g: &mut EGraph, node: &ENode, _: Id) -> Facts {
        g.analysis.facts(node, |id| &g[id].data)
    }

    /// Both are true of the merged class, so more is known of it than of either.
    fn merge(&mut self, a: &mut Facts, b: Facts) -> DidMerge {
        let merged = Facts {
            kind: a.kind.clone(),
            value: a.value.clone().or_else(|| b.value.clone()),
            is_const: a.is_const || b.is_const,
            is_nonneg: a.is_nonneg || b.is_nonneg,
            uniform: a.uniform.or(b.uniform),
            is_causal: a.is_causal || b.is_causal,
        };
        let did = DidMerge(merged != *a, merged != b);
        *a = merged;
        did
    }
}
