//! The choice of layouts: a minimum cut.
//!
//! Nodes of the graph are nodes of a network. Those on the source's side work on channels outermost, those on the
//! sink's side on channels innermost; an edge that is cut is time that is spent. A value that is read in another layout
//! than it is made in is transposed once, however many readers there are: they share a node whose one edge to, or
//! from, the producer has the transposition's cost.

use super::{Role, cost};
use crate::graph::moves_no_element;
use aic_ir::graph::{Def, Graph, ValueId};
use aic_ir::op::Transpose;
use aic_ir::target::Target;
use petgraph::algo::ford_fulkerson;
use petgraph::graph::{DiGraph, NodeIndex};
use petgraph::visit::EdgeRef;

/// More than everything costs.
const NEVER: u64 = 1 << 60;

/// Whether each node works on channels innermost.
pub fn choose(g: &Graph, roles: &[Role], target: &Target) -> Vec<bool> {
    let mut net = Network::new(roles.len());
    for (id, n) in g.nodes() {
        let at = net.of(id.index());
        match roles[id.index()] {
            Role::Window => {
                let (first, last) = cost::window(g, n, target);
                net.edge(at, net.sink, units(first));
                net.edge(net.source, at, units(last));
            }
            Role::Free | Role::Reader => {}
            Role::Plain => net.edge(net.source, at, NEVER),
        }
    }
    let mut readers: Vec<Vec<NodeIndex>> = vec![Vec::new(); g.n_values()];
    for (id, n) in g.nodes() {
        n.inputs.iter().for_each(|v| readers[v.index()].push(net.of(id.index())));
    }
    g.outputs.iter().for_each(|p| readers[p.value.index()].push(net.source));
    for (k, readers) in readers.iter().enumerate() {
        let v = ValueId(k as u32);
        let ty = g.ty(v);
        if ty.rank() < 3 || g.as_const(v).is_some() {
            continue;
        }
        let perm = super::rebuild::to_last(ty.rank());
        let is_free = moves_no_element(&Transpose { perm }, &ty.dims);
        let time = if is_free { 0 } else { units(cost::transposition(ty, target)) };
        let producer = match g.value(v).def {
            Def::Node(n, _) if roles[n.index()] != Role::Reader => net.of(n.index()),
            _ => net.source,
        };
        net.value(producer, readers, time);
    }
    net.sink_side(roles.len())
}

fn units(seconds: f64) -> u64 {
    (seconds * 1e12) as u64
}

struct Network {
    graph: DiGraph<(), u64>,
    source: NodeIndex,
    sink: NodeIndex,
}

impl Network {
    fn new(n: usize) -> Network {
        let mut graph = DiGraph::new();
        for _ in 0..n + 2 {
            graph.add_node(());
        }
        Network { graph, source: NodeIndex::new(n), sink: NodeIndex::new(n + 1) }
    }

    fn of(&self, node: usize) -> NodeIndex {
        NodeIndex::new(node)
    }

    fn edge(&mut self, from: NodeIndex, to: NodeIndex, capacity: u64) {
        if from != to {
            self.graph.add_edge(from, to, capacity);
        }
    }

    /// A value that is transposed if a reader is on another side than its producer.
    fn value(&mut self, producer: NodeIndex, readers: &[NodeIndex], time: u64) {
        let [innermost, outermost] = [self.graph.add_node(()), self.graph.add_node(())];
        self.edge(producer, innermost, time);
        self.edge(outermost, producer, time);
        for r in readers {
            self.edge(innermost, *r, NEVER);
            self.edge(*r, outermost, NEVER);
        }
    }

    /// Which of the first `n` nodes the source doesn't reach when the flow is at its maximum.
    fn sink_side(&self, n: usize) -> Vec<bool> {
        let (_, flow) = ford_fulkerson(&self.graph, self.source, self.sink);
        let mut is_reached = vec![false; self.graph.node_count()];
        let mut open = vec![self.source];
        while let Some(at) = open.pop() {
            if std::mem::replace(&mut is_reached[at.index()], true) {
                continue;
            }
            let ahead = self.graph.edges(at).filter(|e| flow[e.id().index()] < *e.weight()).map(|e| e.target());
            let back = self.graph.edges_directed(at, petgraph::Direction::Incoming);
            let back = back.filter(|e| flow[e.id().index()] > 0).map(|e| e.source());
            open.extend(ahead.chain(back));
        }
        is_reached[..n].iter().map(|r| !r).collect()
    }
}
