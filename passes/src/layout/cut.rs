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
            let ahead =
                self.graph.edges(at).filter(|e| flow[e.id().index()] < *e.weight()).map(|e| e.target());
            let back = self.graph.edges_directed(at, petgraph::Direction::Incoming);
            let back = back.filter(|e| flow[e.id().index()] > 0).map(|e| e.source());
            open.extend(ahead.chain(back));
        }
        is_reached[..n].iter().map(|r| !r).collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use aic_ir::dtype::DType;
    use aic_ir::graph::Node;
    use aic_ir::op::{Conv, Elementwise, Op, Rng, Softmax};
    use aic_ir::scalar::ScalarFn;
    use aic_ir::tensor::Tensor;
    use aic_ir::types::Type;

    /// A graph of convolutions, sums and softmaxes that read any earlier values.
    fn graph(rng: &mut Rng) -> Graph {
        let mut g = Graph::new("g");
        let channels = rng.pick(&[4usize, 16, 48]);
        let extent = rng.pick(&[5i64, 12, 20]);
        let ty = Type::new(DType::F32, vec![1.into(), channels.into(), extent.into(), extent.into()]);
        let mut values = vec![g.add_input("x", ty)];
        for _ in 0..5 {
            let (a, b) = (rng.pick(&values), rng.pick(&values));
            let y = match rng.below(4) {
                0 | 1 => {
                    let k = rng.pick(&[1, 3]);
                    let w = vec![0.5f32; channels * channels * k * k];
                    let w = Tensor::from_vec(vec![channels, channels, k, k], &w).unwrap();
                    let w = g.add_const(w, &[]);
                    let pads = vec![k / 2; 4];
                    let conv = Conv { strides: vec![1; 2], dilations: vec![1; 2], pads, groups: 1 };
                    g.add(conv.into(), &[a, w], &[])
                }
                2 => g.add(Op::Elementwise(Elementwise { f: ScalarFn::Add }), &[a, b], &[]),
                _ => g.add(Softmax { axis: 3 }.into(), &[a], &[]),
            };
            values.push(y.unwrap()[0]);
        }
        g.add_output("y", values[values.len() - 1]);
        g
    }

    /// What nodes and transpositions cost for a choice of layouts.
    fn cost(g: &Graph, is_last: &[bool], target: &Target) -> u64 {
        let windows = g.nodes().filter(|(_, n)| matches!(n.op, Op::Conv(_))).map(|(id, n)| {
            let (first, last) = cost::window(g, n, target);
            units(if is_last[id.index()] { last } else { first })
        });
        let transposed = (0..g.n_values()).map(|k| ValueId(k as u32)).filter(|v| {
            let made = match g.value(*v).def {
                Def::Node(n, _) => is_last[n.index()],
                Def::Input(_) => false,
            };
            let reads = |n: &Node| n.inputs.contains(v);
            let differs = g.nodes().any(|(id, n)| reads(n) && is_last[id.index()] != made);
            g.as_const(*v).is_none() && (differs || made && g.outputs.iter().any(|p| p.value == *v))
        });
        windows.sum::<u64>() + transposed.map(|v| units(cost::transposition(g.ty(v), target))).sum::<u64>()
    }

    #[test]
    fn no_choice_costs_less() {
        let (mut rng, target) = (Rng::new(5), Target::x86_avx512());
        let mut n_last = 0;
        for _ in 0..60 {
            let g = graph(&mut rng);
            let roles: Vec<Role> = g.nodes().map(|(_, n)| super::super::role(&g, n)).collect();
            let free: Vec<usize> = (0..roles.len()).filter(|k| roles[*k] != Role::Plain).collect();
            let least = (0..1u32 << free.len()).map(|bits| {
                let is_last: Vec<bool> = (0..roles.len())
                    .map(|n| free.iter().position(|f| *f == n).is_some_and(|at| bits >> at & 1 == 1))
                    .collect();
                cost(&g, &is_last, &target)
            });
            let chosen = choose(&g, &roles, &target);
            n_last += chosen.iter().filter(|last| **last).count();
            assert_eq!(Some(cost(&g, &chosen, &target)), least.min(), "{g}");
        }
        assert!(n_last > 20, "only {n_last} nodes with channels innermost");
    }
}
