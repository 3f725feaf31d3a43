//! How values flow between the nodes of a graph: users, post-dominators, and what lies between two nodes.

use super::kind::{Kind, kind};
use aic_ir::dim::{Dim, Sym};
use aic_ir::graph::{Def, Graph, Node, NodeId, ValueId};
use aic_ir::op::Op;
use petgraph::algo::dominators;
use petgraph::graph::{DiGraph, NodeIndex};
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

/// A graph with what fusion asks about it. Nodes are named by their positions; constants have no part in it.
pub struct Flow<'a> {
    /// The graph.
    pub graph: &'a Graph,
    /// The kind of each node.
    pub kinds: Vec<Kind>,
    /// The nodes that need a result of each node, in order.
    pub users: Vec<Vec<usize>>,
    /// Whether a result of each node is an output.
    pub is_output: Vec<bool>,
    /// The first node that every path from each node to the outputs goes through.
    post_dominators: Vec<Option<usize>>,
}

impl<'a> Flow<'a> {
    /// Looks at a graph.
    pub fn new(graph: &'a Graph) -> Flow<'a> {
        let n = graph.nodes().len();
        let mut flow = Flow {
            graph,
            kinds: graph.nodes().map(|(_, n)| fusable_kind(graph, n)).collect(),
            users: vec![Vec::new(); n],
            is_output: vec![false; n],
            post_dominators: Vec::new(),
        };
        let definers = flow.definers();
        for (id, node) in graph.nodes() {
            let operands = node.inputs.iter().filter_map(|v| flow.producer(*v));
            let mut needed: BTreeSet<usize> = operands.collect();
            if !definers.is_empty() {
                needed.extend(symbols(graph, node).iter().filter_map(|s| definers.get(s)));
            }
            for p in needed.into_iter().filter(|p| *p != id.index()) {
                flow.users[p].push(id.index());
            }
        }
        for p in &graph.outputs {
            if let Some(n) = flow.producer(p.value) {
                flow.is_output[n] = true;
            }
        }
        flow.post_dominators = flow.find_post_dominators();
        flow
    }

    /// A node.
    pub fn node(&self, n: usize) -> &'a Node {
        self.graph.node(NodeId(n as u32))
    }

    /// The node whose result a value is, unless it is a constant or an input.
    pub fn producer(&self, v: ValueId) -> Option<usize> {
        match self.graph.value(v).def {
            Def::Node(n, _) if !matches!(self.graph.node(n).op, Op::Const(_)) => Some(n.index()),
            _ => None,
        }
    }

    /// The first node that every path from `n` to the outputs goes through.
    pub fn post_dominator(&self, n: usize) -> Option<usize> {
        self.post_dominators[n]
    }

    /// The nodes on paths from `n` to its post-dominator `p`, which is among them; `n` isn't.
    pub fn between(&self, n: usize, p: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::from([p]);
        let mut open = vec![n];
        while let Some(k) = open.pop() {
            open.extend(self.users[k].iter().copied().filter(|u| found.insert(*u)));
        }
        found
    }

    /// Symbols that results give values to, and the nodes of these results.
    fn definers(&self) -> HashMap<Sym, usize> {
        let inputs: BTreeSet<Sym> = self.graph.input_symbols().into_iter().map(|(s, ..)| s).collect();
        let mut out = HashMap::new();
        for (id, n) in self.graph.nodes() {
            let dims = n.outputs.iter().flat_map(|v| &self.graph.ty(*v).dims);
            for s in dims.filter_map(Dim::as_sym).filter(|s| !inputs.contains(s)) {
                out.entry(s.clone()).or_insert(id.index());
            }
        }
        out
    }

    /// Dominators of the graph turned round, entered by a node that all outputs lead to.
    fn find_post_dominators(&self) -> Vec<Option<usize>> {
        let n = self.users.len();
        let mut reversed = DiGraph::<(), ()>::with_capacity(n + 1, 2 * n);
        for _ in 0..=n {
            reversed.add_node(());
        }
        for (k, users) in self.users.iter().enumerate() {
            if self.is_output[k] || users.is_empty() {
                reversed.add_edge(NodeIndex::new(n), NodeIndex::new(k), ());
            }
            for u in users {
                reversed.add_edge(NodeIndex::new(*u), NodeIndex::new(k), ());
            }
        }
        let found = dominators::simple_fast(&reversed, NodeIndex::new(n));
        let of = |k: usize| found.immediate_dominator(NodeIndex::new(k)).map(NodeIndex::index);
        (0..n).map(|k| of(k).filter(|p| *p < n)).collect()
    }
}

/// The kind of a node; opaque where its kernels may not be launched, because what they rely on isn't known in advance.
fn fusable_kind(g: &Graph, n: &Node) -> Kind {
    let x: Vec<_> = n.inputs.iter().map(|v| g.ty(*v).clone()).collect();
    let inputs: BTreeSet<Sym> = g.input_symbols().into_iter().map(|(s, ..)| s).collect();
    let known = n.op.requires(&x).iter().all(|d| d.symbols().is_subset(&inputs));
    if known { kind(g, n) } else { Kind::Opaque }
}

/// The symbols in a node's attributes and types.
fn symbols(g: &Graph, n: &Node) -> BTreeSet<Sym> {
    let found = RefCell::new(BTreeSet::new());
    let _ = n.op.subst(&|s| {
        found.borrow_mut().insert(s.clone());
        None
    });
    let mut found = found.into_inner();
    for v in n.inputs.iter().chain(&n.outputs) {
        found.extend(g.ty(*v).dims.iter().flat_map(Dim::symbols));
    }
    found
}
