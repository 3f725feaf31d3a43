//! The graph IR: values and nodes over typed tensors.
//!
//! A graph is in SSA form: every [`Value`] is an input or a result of one [`Node`]; nodes are stored in an order in
//! which operands come first. Constants are nodes without operands. The bodies of `if`, `loop` and `scan` are graphs
//! of their own, closed: what they take from outside is among their inputs. Every node keeps the names of the source
//! nodes that it came from; passes that merge nodes merge these lists.

use crate::dim::{Dim, Sym};
use crate::error::Result;
use crate::op::{Const, Op};
use crate::tensor::Tensor;
use crate::types::Type;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

        impl $name {
            /// The position in its arena.
            pub fn index(self) -> usize { self.0 as usize }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, concat!($prefix, "{}"), self.0) }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(self, f) }
        }
    };
}

id!(
    /// A value of a graph.
    ValueId,
    "%"
);
id!(
    /// A node of a graph.
    NodeId,
    "@n"
);

/// A tensor that flows.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Its type.
    pub ty: Type,
    /// Where it comes from.
    pub def: Def,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Def {
    /// Input `k` of the graph.
    Input(usize),
    /// Result `k` of a node.
    Node(NodeId, usize),
}

/// An operator applied to values.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The operator with its attributes.
    pub op: Op,
    /// Operands.
    pub inputs: Vec<ValueId>,
    /// Results.
    pub outputs: Vec<ValueId>,
    /// Source names of the nodes that it came from.
    pub origin: Vec<Arc<str>>,
}

/// A named value at the border of a graph.
#[derive(Clone, Debug, PartialEq)]
pub struct Port {
    /// The name in the source model; may be empty in bodies.
    pub name: String,
    /// The value.
    pub value: ValueId,
}

/// A dataflow graph.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Graph {
    /// The model's name.
    pub name: String,
    /// Inputs in order.
    pub inputs: Vec<Port>,
    /// Outputs in order; a value may occur more than once, and may be an input.
    pub outputs: Vec<Port>,
    /// Expressions over the inputs' symbols that must be at least 0: a run in which one isn't is refused.
    pub requires: Vec<Dim>,
    values: Vec<Value>,
    nodes: Vec<Node>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str) -> Graph {
        Graph { name: name.into(), ..Graph::default() }
    }

    /// Adds an input.
    pub fn add_input(&mut self, name: &str, ty: Type) -> ValueId {
        let value = self.add_value(ty, Def::Input(self.inputs.len()));
        self.inputs.push(Port { name: name.into(), value });
        value
    }

    /// Declares a value as the next output.
    pub fn add_output(&mut self, name: &str, value: ValueId) {
        self.outputs.push(Port { name: name.into(), value });
    }

    /// Adds a node at the end; its results' types are inferred.
    pub fn add(&mut self, op: Op, inputs: &[ValueId], origin: &[Arc<str>]) -> Result<Vec<ValueId>> {
        let types: Vec<&Type> = inputs.iter().map(|v| self.ty(*v)).collect();
        let results = op.infer(&types).map_err(|e| e.context(op.keyword()))?;
        Ok(self.add_typed(op, inputs, results, origin))
    }

    /// Adds a node whose results' types are given by the caller.
    pub fn add_typed(
        &mut self,
        op: Op,
        inputs: &[ValueId],
        types: Vec<Type>,
        origin: &[Arc<str>],
    ) -> Vec<ValueId> {
        let id = NodeId(self.nodes.len() as u32);
        let outputs: Vec<ValueId> =
            types.into_iter().enumerate().map(|(k, ty)| self.add_value(ty, Def::Node(id, k))).collect();
        self.nodes.push(Node { op, inputs: inputs.into(), outputs: outputs.clone(), origin: origin.into() });
        outputs
    }

    /// Adds a constant.
    pub fn add_const(&mut self, value: Tensor, origin: &[Arc<str>]) -> ValueId {
        let ty = Type::of(value.dtype(), value.shape());
        self.add_typed(Op::Const(Const { value }), &[], vec![ty], origin)[0]
    }

    fn add_value(&mut self, ty: Type, def: Def) -> ValueId {
        self.values.push(Value { ty, def });
        ValueId(self.values.len() as u32 - 1)
    }

    /// A value.
    pub fn value(&self, v: ValueId) -> &Value {
        &self.values[v.index()]
    }

    /// A value's type.
    pub fn ty(&self, v: ValueId) -> &Type {
        &self.value(v).ty
    }

    /// A node.
    pub fn node(&self, n: NodeId) -> &Node {
        &self.nodes[n.index()]
    }

    /// Nodes in order: operands first.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> + ExactSizeIterator {
        self.nodes.iter().enumerate().map(|(k, n)| (NodeId(k as u32), n))
    }

    /// The number of values.
    pub fn n_values(&self) -> usize {
        self.values.len()
    }

    /// The constant that a value is, if it is one.
    pub fn as_const(&self, v: ValueId) -> Option<&Tensor> {
        match self.value(v).def {
            Def::Node(n, _) => match &self.node(n).op {
                Op::Const(c) => Some(&c.value),
                _ => None,
            },
            Def::Input(_) => None,
        }
    }

    /// Symbols bound by input dims, in order of first occurrence: symbol, input, axis. Only a dim that is nothing
    /// but a symbol binds it.
    pub fn input_symbols(&self) -> Vec<(Sym, usize, usize)> {
        let (mut seen, mut out) = (HashSet::new(), Vec::new());
        for (k, port) in self.inputs.iter().enumerate() {
            for (axis, d) in self.ty(port.value).dims.iter().enumerate() {
                if let Some(s) = d.as_sym()
                    && seen.insert(s.clone())
                {
                    out.push((s.clone(), k, axis));
                }
            }
        }
        out
    }

    /// A copy with symbols replaced in every type and attribute.
    #[must_use]
    pub fn subst(&self, f: &dyn Fn(&Sym) -> Option<Dim>) -> Graph {
        let mut out = self.clone();
        for v in &mut out.values {
            v.ty = v.ty.subst(f);
        }
        for n in &mut out.nodes {
            n.op = n.op.subst(f);
        }
        out.requires = self.requires.iter().map(|d| d.subst(f)).filter(|d| !d.is_not_negative()).collect();
        out
    }

    /// A copy in which nodes are rebuilt one by one: `f` gets each node with its operands in the new graph and gives
    /// its results there, or none to drop the node. Values keep their order; names and ports are kept.
    pub fn rebuild(
        &self,
        mut f: impl FnMut(&mut Graph, NodeId, &Node, &[ValueId]) -> Result<Vec<ValueId>>,
    ) -> Result<Graph> {
        let mut out = Graph::new(&self.name);
        out.requires = self.requires.clone();
        let mut map: Vec<Option<ValueId>> = vec![None; self.values.len()];
        for p in &self.inputs {
            map[p.value.index()] = Some(out.add_input(&p.name, self.ty(p.value).clone()));
        }
        for (id, n) in self.nodes() {
            let inputs: Vec<ValueId> = n.inputs.iter().filter_map(|v| map[v.index()]).collect();
            if inputs.len() < n.inputs.len() {
                continue; // an operand was dropped, so nothing live depends on this node
            }
            for (old, new) in n.outputs.iter().zip(f(&mut out, id, n, &inputs)?) {
                map[old.index()] = Some(new);
            }
        }
        for p in &self.outputs {
            match map[p.value.index()] {
                Some(v) => out.add_output(&p.name, v),
                None => crate::bail!("output {:?} was dropped", p.name),
            }
        }
        Ok(out)
    }
}
