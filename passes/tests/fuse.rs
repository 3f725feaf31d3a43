//! Random graphs, fused: verified, equal to the bit where that is asked for, and never more kernels.

#![allow(clippy::unwrap_used)]

mod common;

use aic_ir::graph::Graph;
use aic_ir::op::{Fused, Op, Operator, Rng};
use aic_ir::program::{Program, Step};
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_ir::text::parse_graph;
use aic_ir::{eval, verify};
use aic_passes::lower::lower;
use aic_passes::memory;
use aic_passes::pipeline::Options;
use aic_passes::runner::{self, Context, Numerics};
use common::difference;

fn program(graph: &Graph, passes: &[&str], numerics: Numerics) -> Program {
    let options = Options { numerics, ..Options::new(Target::x86_avx2()) };
    let graph = runner::run(graph.clone(), passes, &mut Context::new(&options)).unwrap();
    assert_eq!(verify::graph(&graph), Vec::<String>::new());
    let mut program = lower(graph, &options.target).unwrap();
    memory::plan(&mut program);
    memory::check(&program).unwrap();
    program
}

fn n_launches(p: &Program) -> usize {
    p.steps.iter().filter(|s| matches!(s, Step::Launch { .. })).count()
}

fn n_interpreted(p: &Program) -> usize {
    p.steps.iter().filter(|s| matches!(s, Step::Host { .. })).count()
}

/// The operators of a graph and of the bodies in it, by groups; reshapes outside of groups don't count.
fn groups(graph: &Graph) -> Vec<Vec<String>> {
    let ops = |g: &Graph| -> Vec<String> {
        let nodes = g.nodes().filter(|(_, n)| !matches!(n.op, Op::Const(_)));
        nodes.map(|(_, n)| n.op.keyword().to_owned()).collect()
    };
    let of = |op: &Op| match op {
        Op::Const(_) | Op::Reshape(_) => None,
        Op::Fused(f) => Some(ops(&f.body)),
        op => Some(vec![op.keyword().to_owned()]),
    };
    graph.nodes().filter_map(|(_, n)| of(&n.op)).collect()
}

fn fused(text: &str) -> Graph {
    let graph = parse_graph(text).unwrap_or_else(|e| panic!("{e}\n{text}"));
    let mut cx = Context::new(&Options::new(Target::x86_avx2()));
    runner::run(graph, &["fuse"], &mut cx).unwrap()
}

/// What becomes of two operators, by their kinds: the table in the documentation of the pass.
#[test]
fn combinations_of_kinds() {
    // Of a matrix `V`; as the second one a reduction is a sum.
    let operators = ["tanh V", "add V %1", "transpose V {perm=[1,0]}", "softmax V {axis=1}", "matmul V %2"];
    let (transpose, softmax) = (2, 3);
    let expected = [[1, 1, 1, 1, 2], [1, 1, 1, 1, 2], [1, 1, 1, 1, 1], [1, 1, 1, 1, 2], [1, 1, 1, 2, 2]];
    for (a, row) in expected.iter().enumerate() {
        for (b, n) in row.iter().enumerate() {
            let from = if a == transpose { "16,24" } else { "24,16" };
            let (second, to) = match b {
                _ if b == transpose => (operators[b], "16,24"),
                _ if b == softmax => ("reduce V {op=sum, axes=[1]}", "24"),
                _ => (operators[b], "24,16"),
            };
            let text = format!(
                "graph(%0: f32[{from}], %1: f32[16], %2: f32[16,16]) -> (%4: f32[{to}]) {{
                   %3 = {}
                   %4 = {}
                   return %4
                 }}",
                operators[a].replace('V', "%0"),
                second.replace('V', "%3"),
            );
            let found = groups(&fused(&text));
            assert_eq!(found.len(), *n, "{found:?}");
        }
    }
}

/// Likewise by the kinds of DNNFusion (Niu et al., arXiv 2108.13342): one-to-one, one-to-many, many-to-many, reorganise,
/// shuffle. A reshape by itself is no kernel. What is repeated isn't computed again for every copy.
#[test]
fn combinations_of_mappings() {
    let operators = ["tanh", "expand", "matmul", "reshape", "transpose"];
    let expected = [[1, 2, 1, 1, 1], [1, 1, 1, 1, 1], [1, 2, 2, 1, 1], [1, 1, 1, 0, 1], [1, 1, 1, 1, 1]];
    // The operator on a value of these extents, and the extents of its result.
    let apply = |op: &str, from: [usize; 3]| -> (String, [usize; 3]) {
        let [a, b, c] = from;
        match op {
            "expand" => (format!("expand V {{shape=[4,{b},{c}]}}"), [4, b, c]),
            "matmul" => (format!("matmul V %w{c}"), [a, b, 16]),
            "reshape" => (format!("reshape V {{shape=[{a},{c},{b}]}}"), [a, c, b]),
            "transpose" => ("transpose V {perm=[0,2,1]}".into(), [a, c, b]),
            _ => (format!("{op} V"), from),
        }
    };
    for (first, row) in operators.iter().zip(expected) {
        for (second, n) in operators.iter().zip(row) {
            let rows = if [first, second].contains(&&"expand") { 1 } else { 4 };
            let start = [rows, 24, 16];
            let (a, between) = apply(first, start);
            let (b, to) = apply(second, between);
            let dims = |d: [usize; 3]| format!("f32[{},{},{}]", d[0], d[1], d[2]);
            let text = format!(
                "graph(%0: {}, %1: f32[16,16], %2: f32[24,16]) -> (%4: {}) {{
                   %3 = {}
                   %4 = {}
                   return %4
                 }}",
                dims(start),
                dims(to),
                a.replace('V', "%0"),
                b.replace('V', "%3"),
            );
            let found = groups(&fused(&text.replace("%w16", "%1").replace("%w24", "%2")));
            assert_eq!(found.len(), n, "{first}, {second}: {found:?}");
        }
    }
}

#[test]
fn groups_have_a_size() {
    let (n, mut text) = (600, String::new());
    for k in 0..n {
        text += &format!("%{} = {} %{k}\n", k + 1, ["neg", "tanh"][k % 2]);
    }
    let graph = fused(&format!("graph(%0: f32[8]) -> (%{n}: f32[8]) {{ {text} return %{n} }}"));
    let found = groups(&graph);
    assert_eq!(found.iter().map(Vec::len).sum::<usize>(), n);
    assert!(found.iter().all(|g| g.len() <= 256) && found.len() <= 6, "{:?}", found.iter().map(Vec::len));
}

/// Every node's source names are kept, in order.
#[test]
fn source_names() {
    let graph = fused(
        "graph(%0: f32[8], %1: f32[8]) -> (%4: f32[8]) {
           %2 = add %0 %1 loc(\"a\")
           %3 = tanh %2 loc(\"b\", \"c\")
           %4 = neg %3 loc(\"a\", \"d\")
           return %4
         }",
    );
    let origins: Vec<&str> = graph.nodes().flat_map(|(_, n)| &n.origin).map(|o| &**o).collect();
    assert_eq!(origins, ["a", "b", "c", "d"]);
}

/// Fusing again changes nothing.
#[test]
fn once_is_enough() {
    for seed in 0..200 {
        let sample = Fused::sample(&mut Rng::new(seed));
        let Op::Fused(Fused { body }) = &sample.op else { panic!("{:?}", sample.op) };
        let mut cx = Context::new(&Options::new(Target::x86_avx2()));
        let once = runner::run(Graph::clone(body), &["dce", "fuse"], &mut cx).unwrap();
        let twice = runner::run(once.clone(), &["fuse"], &mut cx).unwrap();
        assert_eq!(once.to_string(), twice.to_string(), "seed {seed}");
    }
}

#[test]
fn random_graphs() {
    let (mut n_before, mut n_after) = (0, 0);
    for seed in 0..600 {
        let mut rng = Rng::new(seed);
        let sample = Fused::sample(&mut rng);
        let Op::Fused(Fused { body }) = &sample.op else { panic!("{:?}", sample.op) };
        let inputs: Vec<Tensor> = sample.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
        let run = |p: &Program| {
            eval::program(p, &inputs).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{}", p.graph))
        };
        let before = program(body, &["dce"], Numerics::Exact);
        let exact = program(body, &["dce", "fuse"], Numerics::Exact);
        let free = program(body, &["dce", "fuse"], Numerics::Reassociate);
        let expected = run(&before);
        for (a, b) in expected.iter().zip(run(&exact)) {
            assert!(a.bytes() == b.bytes(), "seed {seed}: {a:?}, not {b:?}\n{}", exact.graph);
        }
        for (a, b) in expected.iter().zip(run(&free)) {
            assert_eq!(difference(a, &b), None, "seed {seed}:\n{}", free.graph);
        }
        for p in [&exact, &free] {
            let fewer = n_launches(p) <= n_launches(&before) && n_interpreted(p) <= n_interpreted(&before);
            assert!(fewer, "seed {seed}: more kernels\n{}", p.graph);
        }
        n_before += n_launches(&before);
        n_after += n_launches(&free);
    }
    assert!(n_after * 3 < n_before * 2, "{n_before} kernels became {n_after}");
}
