//! The e-node: how operators, attributes and constants look to the e-graph.
//!
//! Attributes are children like operands, because patterns bind only children. Everything is compared by value and
//! ordered by content, never by address or by order of creation, so that two runs do the same.

use aic_ir::op::{AttrValue, Op};
use aic_ir::scalar::ScalarFn;
use aic_ir::tensor::Tensor;
use egg::Id;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The e-graph of a region.
pub type EGraph = egg::EGraph<ENode, super::facts::Analysis>;

/// Constants of at most this many elements are compared by value; larger ones are leaves.
pub const SMALL: usize = 64;

/// An e-node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ENode {
    /// An attribute.
    Attr(Attribute),
    /// A constant of at most [`SMALL`] elements.
    Const(Constant),
    /// What a region takes from outside, by number: an input, a value of another region, or a large constant.
    Leaf(u32),
    /// An operator by its keyword; children are the operands, then the attributes in order of declaration.
    Op(Keyword, Box<[Id]>),
    /// One result of an operator that has several.
    Result(u32, [Id; 1]),
    /// A node that rules must not touch or merge (random numbers, bodies), by number; children are its operands.
    Opaque(u32, Box<[Id]>),
}

/// An operator's keyword.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Keyword(pub &'static str);

/// An attribute's value.
#[derive(Clone, Debug)]
pub struct Attribute(Arc<AttrValue>);

/// A small constant.
#[derive(Clone, Debug)]
pub struct Constant(Arc<Tensor>);

/// What distinguishes e-nodes apart from their children.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Head {
    /// See [`ENode::Attr`].
    Attr(Attribute),
    /// See [`ENode::Const`].
    Const(Constant),
    /// See [`ENode::Leaf`].
    Leaf(u32),
    /// See [`ENode::Op`]; with the number of children.
    Op(Keyword, usize),
    /// See [`ENode::Result`].
    Result(u32),
    /// See [`ENode::Opaque`].
    Opaque(u32),
}

impl Keyword {
    /// The number of attributes, which are the last children.
    pub fn n_attrs(self) -> usize {
        Op::signature(self.0).map_or(0, |s| s.attrs.len())
    }

    /// Whether the two operands can be swapped without changing a bit.
    pub fn is_commutative(self) -> bool {
        use ScalarFn::*;
        let Some(f) = ScalarFn::from_keyword(self.0) else { return false };
        matches!(f, Add | Mul | Min | Max | BitAnd | BitOr | BitXor | And | Or | Xor | Eq | Ne)
    }
}

impl Attribute {
    /// An attribute of this value, in the form that [`Op::attrs`] gives.
    pub fn new(value: AttrValue) -> Attribute {
        Attribute(value.into())
    }

    /// The value.
    pub fn value(&self) -> &AttrValue {
        &self.0
    }
}

impl Constant {
    /// A constant of this value.
    pub fn new(value: Tensor) -> Constant {
        Constant(value.into())
    }

    /// The value.
    pub fn value(&self) -> &Tensor {
        &self.0
    }

    fn key(&self) -> (aic_ir::dtype::DType, &[usize], &[u8]) {
        (self.0.dtype(), self.0.shape(), self.0.bytes())
    }
}

impl PartialEq for Constant {
    /// By bits: `0.0` differs from `-0.0`, and a NaN equals itself.
    fn eq(&self, other: &Constant) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Constant {}

impl PartialOrd for Constant {
    fn partial_cmp(&self, other: &Constant) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Constant {
    fn cmp(&self, other: &Constant) -> Ordering {
        self.key().cmp(&other.key())
    }
}

impl Hash for Constant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl PartialEq for Attribute {
    fn eq(&self, other: &Attribute) -> bool {
        order(&self.0, &other.0).is_eq()
    }
}

impl Eq for Attribute {}

impl PartialOrd for Attribute {
    fn partial_cmp(&self, other: &Attribute) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Attribute {
    fn cmp(&self, other: &Attribute) -> Ordering {
        order(&self.0, &other.0)
    }
}

impl Hash for Attribute {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash(&self.0, state);
    }
}

/// A total order of attribute values; floats by their bits.
fn order(a: &AttrValue, b: &AttrValue) -> Ordering {
    use AttrValue::*;
    match (a, b) {
        (Dim(a), Dim(b)) => a.cmp(b),
        (Float(a), Float(b)) => a.to_bits().cmp(&b.to_bits()),
        (Bool(a), Bool(b)) => a.cmp(b),
        (Str(a), Str(b)) | (Word(a), Word(b)) => a.cmp(b),
        (List(a), List(b)) => a.len().cmp(&b.len()).then_with(|| {
            a.iter().zip(b).map(|(a, b)| order(a, b)).find(|o| o.is_ne()).unwrap_or(Ordering::Equal)
        }),
        (Tensor(a), Tensor(b)) => {
            (a.dtype(), a.shape(), &a.bytes()[..]).cmp(&(b.dtype(), b.shape(), &b.bytes()[..]))
        }
        (Graph(a), Graph(b)) => a.to_string().cmp(&b.to_string()),
        _ => rank(a).cmp(&rank(b)),
    }
}

fn rank(value: &AttrValue) -> u8 {
    match value {
        AttrValue::Dim(_) => 0,
        AttrValue::Float(_) => 1,
        AttrValue::Bool(_) => 2,
        AttrValue::Str(_) => 3,
        AttrValue::Word(_) => 4,
        AttrValue::List(_) => 5,
        AttrValue::Tensor(_) => 6,
        AttrValue::Graph(_) => 7,
    }
}

fn hash(value: &AttrValue, state: &mut impl Hasher) {
    rank(value).hash(state);
    match value {
        AttrValue::Dim(d) => d.hash(state),
        AttrValue::Float(x) => x.to_bits().hash(state),
        AttrValue::Bool(b) => b.hash(state),
        AttrValue::Str(s) | AttrValue::Word(s) => s.hash(state),
        AttrValue::List(items) => items.iter().for_each(|v| hash(v, state)),
        AttrValue::Tensor(t) => t.shape().hash(state),
        AttrValue::Graph(g) => g.nodes().len().hash(state),
    }
}

impl ENode {
    /// An operator applied to operands and attributes.
    pub fn op(keyword: Keyword, children: Vec<Id>) -> ENode {
        ENode::Op(keyword, children.into())
    }

    /// Operands, and attributes behind them.
    pub fn operands_and_attrs(&self) -> (&[Id], &[Id]) {
        match self {
            ENode::Op(keyword, children) => children.split_at(children.len() - keyword.n_attrs()),
            _ => (egg::Language::children(self), &[]),
        }
    }
}

impl PartialOrd for ENode {
    fn partial_cmp(&self, other: &ENode) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ENode {
    /// Nodes of one head lie together, as `egg`'s search demands.
    fn cmp(&self, other: &ENode) -> Ordering {
        use ENode::*;
        match (self, other) {
            (Attr(a), Attr(b)) => a.cmp(b),
            (Const(a), Const(b)) => a.cmp(b),
            (Leaf(a), Leaf(b)) => a.cmp(b),
            (Op(k, a), Op(l, b)) => (k, a.len(), a).cmp(&(l, b.len(), b)),
            (Result(k, a), Result(l, b)) => (k, a).cmp(&(l, b)),
            (Opaque(k, a), Opaque(l, b)) => (k, a).cmp(&(l, b)),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl ENode {
    fn rank(&self) -> u8 {
        match self {
            ENode::Attr(_) => 0,
            ENode::Const(_) => 1,
            ENode::Leaf(_) => 2,
            ENode::Op(..) => 3,
            ENode::Result(..) => 4,
            ENode::Opaque(..) => 5,
        }
    }
}

impl egg::Language for ENode {
    type Discriminant = Head;

    fn discriminant(&self) -> Head {
        match self {
            ENode::Attr(a) => Head::Attr(a.clone()),
            ENode::Const(c) => Head::Const(c.clone()),
            ENode::Leaf(k) => Head::Leaf(*k),
            ENode::Op(k, children) => Head::Op(*k, children.len()),
            ENode::Result(k, _) => Head::Result(*k),
            ENode::Opaque(k, _) => Head::Opaque(*k),
        }
    }

    fn matches(&self, other: &ENode) -> bool {
        match (self, other) {
            (ENode::Op(k, a), ENode::Op(l, b)) => k == l && a.len() == b.len(),
            (ENode::Result(k, _), ENode::Result(l, _)) => k == l,
            (ENode::Opaque(k, _), ENode::Opaque(l, _)) => k == l,
            _ => self == other,
        }
    }

    fn children(&self) -> &[Id] {
        match self {
            ENode::Op(_, c) | ENode::Opaque(_, c) => c,
            ENode::Result(_, c) => c,
            _ => &[],
        }
    }

    fn children_mut(&mut self) -> &mut [Id] {
        match self {
            ENode::Op(_, c) | ENode::Opaque(_, c) => c,
            ENode::Result(_, c) => c,
            _ => &mut [],
        }
    }
}

impl fmt::Display for ENode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ENode::Attr(a) => write!(f, "{}", a.value()),
            ENode::Const(c) => write!(f, "{}", AttrValue::Tensor(c.value().clone())),
            ENode::Leaf(k) => write!(f, "%{k}"),
            ENode::Op(k, _) => f.write_str(k.0),
            ENode::Result(k, _) => write!(f, "result {k}"),
            ENode::Opaque(k, _) => write!(f, "opaque {k}"),
        }
    }
}
