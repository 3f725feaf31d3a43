//! `aic bisect` on bugs that are put into passes and lowering on purpose: it names the pass and the rewrite, and
//! leaves a graph of at most five nodes.

#![allow(clippy::unwrap_used)]

use aic::bisect::{self, Finding};
use aic::driver::{Options, Source};
use aic::import::onnx::ImportOptions;
use aic::verify::{self, Compiler, Run};
use aic_ir::error::Result;
use aic_ir::eval;
use aic_ir::graph::{Graph, Node, ValueId};
use aic_ir::op::{Elementwise, Op};
use aic_ir::program::Program;
use aic_ir::scalar::{Scalar, ScalarFn};
use aic_ir::tensor::Tensor;
use aic_ir::text;
use aic_passes::pipeline::{self, Pass};
use aic_passes::runner::{Context, RuleText};
use std::path::Path;

/// Interprets kernels, so that no code generator is needed.
fn interpret(program: &Program, _: &Options) -> Result<Run> {
    let program = program.clone();
    Ok(Box::new(move |inputs| eval::program(&program, inputs)))
}

fn digits() -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/models/digits/digits.onnx");
    Source::load(&path).unwrap().import(&ImportOptions::default()).unwrap().graph
}

/// A network with most of what passes deal with.
fn network() -> Graph {
    let layer = |k: usize, x: usize| {
        let at = |j: usize| format!("%{}", 100 * k + j);
        let (w, b, y) = (at(1), at(2), at(9));
        let last = 100 * (k + 1);
        format!(
            "{w} = const f32[8,8] [{}] loc(\"w{k}\") {b} = const f32[8] [{}]
             {} = matmul %{x} {w} loc(\"fc{k}\") {} = expand {b} {{shape=[3,8]}} {} = add {} {} loc(\"bias{k}\")
             {} = reshape {} {{shape=[24]}} loc(\"flat{k}\") {} = reshape {} {{shape=[3,8]}} loc(\"back{k}\")
             {y} = tanh {} loc(\"act{k}\") %{last} = sub {y} {} loc(\"skip{k}\")\n",
            (0..64).map(|i| format!("{:.3}", ((i * 7 + k * 3) % 19) as f32 / 19.0 - 0.4)).collect::<Vec<_>>().join(", "),
            (0..8).map(|i| format!("{:.2}", i as f32 / 8.0 - 0.5)).collect::<Vec<_>>().join(", "),
            at(3), at(4), at(5), at(3), at(4), at(6), at(5), at(7), at(6), at(7), at(5),
        )
    };
    let layers: String = (0..6).map(|k| layer(k, 100 * k)).collect();
    text::parse_graph(&format!("graph(%0 \"x\": f32[3,8]) -> f32[3,8] {{ {layers} return %600 }}")).unwrap()
}

/// What bisection finds if these passes and this lowering are what compiles.
fn found(
    graph: &Graph,
    passes: &[&Pass],
    lower: &dyn Fn(Graph, &pipeline::Options) -> Result<Program>,
) -> Option<Finding> {
    found_with(graph, passes, lower, Options::default())
}

fn found_with(
    graph: &Graph,
    passes: &[&Pass],
    lower: &dyn Fn(Graph, &pipeline::Options) -> Result<Program>,
    options: Options,
) -> Option<Finding> {
    let compiler = Compiler { passes: passes.to_vec(), options: &options, lower, load: &interpret };
    let case = verify::generate(graph, 1, options.numerics, false).unwrap();
    bisect::bisect(graph, &compiler, &case, &mut |_| {}).unwrap()
}

/// The finding, which must be small and be a golden test that reads back.
#[track_caller]
fn finding(
    graph: &Graph,
    passes: &[&Pass],
    lower: &dyn Fn(Graph, &pipeline::Options) -> Result<Program>,
) -> Finding {
    small(found(graph, passes, lower))
}

#[track_caller]
fn small(found: Option<Finding>) -> Finding {
    let finding = found.expect("nothing was found");
    assert!(finding.n_nodes <= 5, "{} nodes:\n{}", finding.n_nodes, finding.graph);
    let golden = bisect::golden(&finding, "");
    assert!(golden.starts_with(&format!("// Pass {} makes this graph wrong", finding.pass)), "{golden}");
    text::parse_graph(&golden).unwrap();
    finding
}

fn passes(names: &[&str]) -> Vec<&'static Pass> {
    pipeline::passes(names).unwrap()
}

/// A pass that copies a graph, but for nodes that `f` makes something else of; each counts as a rewrite.
fn changed(
    g: &Graph,
    cx: &mut Context,
    f: impl Fn(&mut Graph, &Node, &[ValueId]) -> Option<Vec<ValueId>>,
) -> Result<Graph> {
    g.rebuild(|out, _, n, x| {
        let name = n.origin.join(", ");
        let mut attempt = out.clone();
        if let Some(y) = f(&mut attempt, n, x)
            && cx.spend(|| format!("change {name}"))
        {
            *out = attempt;
            return Ok(y);
        }
        let types = n.outputs.iter().map(|v| g.ty(*v).clone()).collect();
        Ok(out.add_typed(n.op.clone(), x, types, &n.origin))
    })
}

fn function(n: &Node) -> Option<ScalarFn> {
    match &n.op {
        Op::Elementwise(e) => Some(e.f),
        _ => None,
    }
}

fn is_named(n: &Node, name: &str) -> bool {
    n.origin.iter().any(|o| &**o == name)
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let all = passes(&["canonicalize", "fold", "rewrite", "fold", "dce", "fuse"]);
    assert!(found(&network(), &all, &pipeline::lower).is_none());
}

#[test]
fn operands_swapped_by_a_simplification() {
    let broken = Pass {
        name: "canonicalize",
        help: "",
        run: |g, cx| {
            changed(g, cx, |out, n, x| {
                let swapped = function(n) == Some(ScalarFn::Sub) && is_named(n, "skip3");
                swapped.then(|| out.add(n.op.clone(), &[x[1], x[0]], &n.origin).unwrap())
            })
        },
    };
    let finding = finding(&network(), &[&broken, passes(&["fold"])[0]], &pipeline::lower);
    assert_eq!((&*finding.pass, &finding.rewrites[..]), ("canonicalize", &["change skip3".to_owned()][..]));
    assert_eq!(finding.n_nodes, 1);
}

#[test]
fn a_chain_of_reshapes_taken_for_none() {
    let broken = Pass {
        name: "canonicalize",
        help: "",
        run: |g, cx| {
            changed(g, cx, |out, n, x| {
                let source = |out: &Graph, v: ValueId| {
                    out.nodes().find(|(_, m)| m.outputs.contains(&v)).map(|(_, m)| m.clone())
                };
                let before = source(out, *x.first()?)?;
                let chain = matches!((&n.op, &before.op), (Op::Reshape(_), Op::Reshape(_)));
                if !chain || !is_named(n, "back4") {
                    return None;
                }
                out.add(Op::Elementwise(Elementwise { f: ScalarFn::Neg }), &[before.inputs[0]], &[]).ok()
            })
        },
    };
    let finding = finding(&network(), &[&broken], &pipeline::lower);
    assert_eq!((&*finding.pass, &finding.rewrites[..]), ("canonicalize", &["change back4".to_owned()][..]));
    assert_eq!(finding.n_nodes, 2, "{}", finding.graph);
}

#[test]
fn a_constant_folded_to_another() {
    let broken = Pass {
        name: "fold",
        help: "",
        run: |g, cx| {
            changed(g, cx, |out, n, x| {
                let operand = out.as_const(*x.first()?)?.clone();
                if !matches!(n.op, Op::Expand(_)) || operand.get(0).as_f64() != -0.5 {
                    return None;
                }
                let folded = eval::node(n, &[operand], &Default::default()).ok()?;
                let off = Tensor::generate(folded[0].dtype(), folded[0].shape().to_vec(), |i| {
                    Scalar::F(folded[0].get(i).as_f64() + if i == 5 { 0.125 } else { 0.0 })
                });
                Some(vec![out.add_const(off.unwrap(), &n.origin)])
            })
        },
    };
    let finding = finding(&network(), &[passes(&["canonicalize"])[0], &broken], &pipeline::lower);
    assert_eq!(finding.pass, "fold");
    assert_eq!(finding.n_nodes, 2, "{}", finding.graph);
    assert!(finding.rewrites[0].starts_with("change"), "{:?}", finding.rewrites);
}

#[test]
fn a_pass_that_panics_or_leaves_no_graph() {
    let panicking = Pass {
        name: "fold",
        help: "",
        run: |g, cx| {
            changed(g, cx, |_, n, _| {
                assert!(
                    !(function(n) == Some(ScalarFn::Tanh) && is_named(n, "act2")),
                    "an operand is missing"
                );
                None
            })
        },
    };
    let found = finding(&network(), &[&panicking], &pipeline::lower);
    assert_eq!((&*found.pass, found.n_nodes), ("fold", 1));
    assert!(found.comparison.to_string().contains("an operand is missing"), "{}", found.comparison);
    let untyped = Pass {
        name: "fuse",
        help: "",
        run: |g, cx| {
            changed(g, cx, |out, n, x| {
                let ty = aic_ir::types::Type::new(aic_ir::dtype::DType::F32, vec![7.into()]);
                is_named(n, "fc1").then(|| out.add_typed(n.op.clone(), x, vec![ty], &n.origin))
            })
        },
    };
    let found = finding(&network(), &[&untyped], &pipeline::lower);
    assert_eq!((&*found.pass, found.n_nodes), ("fuse", 1));
}

#[test]
fn a_group_that_takes_another_operand() {
    let broken = Pass {
        name: "fuse",
        help: "",
        run: |g, cx| {
            changed(g, cx, |out, n, x| {
                let bias = out.nodes().find(|(_, m)| is_named(m, "bias0")).map(|(_, m)| m.outputs[0])?;
                let taken = is_named(n, "act5") && *out.ty(x[0]) == *out.ty(bias);
                taken.then(|| out.add(n.op.clone(), &[bias], &n.origin).unwrap())
            })
        },
    };
    let finding = finding(&network(), &[passes(&["dce"])[0], &broken], &pipeline::lower);
    assert_eq!((&*finding.pass, &finding.rewrites[..]), ("fuse", &["change act5".to_owned()][..]));
}

/// Lowering that gives the kernels of another graph: nodes for which `is_broken` holds compute `f` instead.
fn broken_lowering(
    g: Graph,
    options: &pipeline::Options,
    is_broken: fn(&Graph, &Node) -> bool,
    f: ScalarFn,
) -> Result<Program> {
    let source = g.clone();
    let mut cx = Context::new(options);
    let other = changed(&g, &mut cx, |out, n, x| {
        let op = Op::Elementwise(Elementwise { f });
        is_broken(&source, n).then(|| out.add(op, x, &n.origin).unwrap())
    })?;
    pipeline::lower(other, options)
}

#[test]
fn a_kernel_that_computes_something_else() {
    let lower = |g: Graph, o: &pipeline::Options| {
        broken_lowering(g, o, |_, n| function(n) == Some(ScalarFn::Tanh), ScalarFn::Sin)
    };
    let all = passes(&["canonicalize", "fold", "dce"]);
    let found = finding(&network(), &all, &lower);
    assert_eq!((&*found.pass, found.n_nodes), ("lower", 1));
    assert!(found.rewrites[0].contains("tanh"), "{:?}", found.rewrites);
}

#[test]
fn a_kernel_that_is_wrong_for_some_shapes() {
    let is_broken = |g: &Graph, n: &Node| {
        function(n) == Some(ScalarFn::Max) && g.ty(n.outputs[0]).dims.get(1).is_some_and(|d| d.is(64))
    };
    let lower = move |g: Graph, o: &pipeline::Options| broken_lowering(g, o, is_broken, ScalarFn::Add);
    let all = passes(&["canonicalize", "fold", "dce"]);
    let found = finding(&digits(), &all, &lower);
    assert_eq!((&*found.pass, found.n_nodes), ("lower", 1));
    assert!(found.rewrites[0].contains("features.9/Relu"), "{:?}", found.rewrites);
}

#[test]
fn two_nodes_that_only_together_are_wrong() {
    let is_broken = |g: &Graph, n: &Node| {
        let of_sum =
            |v: &ValueId| g.nodes().any(|(_, m)| m.outputs.contains(v) && function(m) == Some(ScalarFn::Add));
        function(n) == Some(ScalarFn::Tanh) && n.inputs.iter().all(of_sum)
    };
    let lower = move |g: Graph, o: &pipeline::Options| broken_lowering(g, o, is_broken, ScalarFn::Abs);
    let found = finding(&network(), &passes(&["canonicalize", "fold", "dce"]), &lower);
    assert_eq!((&*found.pass, found.n_nodes), ("lower", 2), "{}", found.graph);
}

/// A network whose layers are simplified by rules, right and wrong ones.
fn simplified_network() -> Graph {
    let layer = |k: usize| {
        let v: Vec<String> = (0..12).map(|j| format!("%{}", 20 * k + j)).collect();
        format!(
            "{} = transpose {} {{perm=[1,2,0]}} loc(\"turn{k}\") {} = transpose {} {{perm=[0,2,1]}} loc(\"flip{k}\")
             {} = mul {} {} loc(\"square{k}\") {} = sqrt {} loc(\"root{k}\")
             {} = neg {} loc(\"neg{k}\") {} = tanh {} loc(\"act{k}\") {} = neg {} loc(\"pos{k}\")
             {} = sub {} {} loc(\"less{k}\") {} = sub {} {} loc(\"more{k}\") %{} = add {} {} loc(\"skip{k}\")\n",
            v[1], v[0], v[2], v[1], v[3], v[2], v[2], v[4], v[3], v[5], v[2], v[6], v[5], v[7], v[6],
            v[8], v[7], v[4], v[9], v[8], v[0], 20 * (k + 1), v[9], v[2],
        )
    };
    let layers: String = (0..8).map(layer).collect();
    text::parse_graph(&format!("graph(%0 \"x\": f32[4,4,4]) -> f32[4,4,4] {{ {layers} return %160 }}"))
        .unwrap()
}

/// What bisection finds with a rule added to the built-in ones.
#[track_caller]
fn with_rule(line: &str) -> Finding {
    let rules = vec![RuleText { name: "wrong.rules".into(), text: line.into() }];
    let options = Options { rules, ..Options::default() };
    let all = passes(pipeline::LEVELS[2]);
    let finding = small(found_with(&simplified_network(), &all, &pipeline::lower, options));
    let name = line.split_whitespace().next().unwrap();
    assert_eq!((&*finding.pass, &finding.rewrites[..]), ("rewrite", &[format!("rule {name}")][..]));
    finding
}

/// The rule applies to what five nodes are recognised as, which is one.
#[test]
fn a_wrong_rule_on_what_others_make() {
    let rules = vec![RuleText {
        name: "wrong.rules".into(),
        text: "no-gelu exact (activation ?x ?f) => ?x\n    ?x: f32[a]  ?f = gelu".into(),
    }];
    let graph = text::parse_graph(
        "graph(%0 \"x\": f32[4,8]) -> f32[4,8] {
           %1 = const f32[] [1.4142135] %2 = const f32[] [1.0] %3 = const f32[] [0.5]
           %4 = tanh %0 %5 = div %4 %1 %6 = erf %5 %7 = add %6 %2 %8 = mul %4 %7 %9 = mul %8 %3
           return %9
         }",
    );
    let options = Options { rules, ..Options::default() };
    let all = passes(pipeline::LEVELS[2]);
    let finding = small(found_with(&graph.unwrap(), &all, &pipeline::lower, options));
    assert_eq!((&*finding.pass, &finding.rewrites[..]), ("rewrite", &["rule no-gelu".to_owned()][..]));
    assert_eq!(finding.n_nodes, 1, "{}", finding.graph);
}

#[test]
fn a_rule_that_is_wrong() {
    let finding = with_rule("tanh-abs exact (tanh (neg ?x)) => (neg ?x)\n    ?x: T[a,b]\n");
    assert_eq!(finding.n_nodes, 2, "{}", finding.graph);
}

#[test]
fn a_rule_without_its_guard() {
    let finding = with_rule("root-square exact (sqrt (mul ?x ?x)) => ?x\n    ?x: T[a,b]\n");
    assert_eq!(finding.n_nodes, 2, "{}", finding.graph);
}

#[test]
fn a_rule_that_matches_too_much() {
    let finding = with_rule("root-minus exact (sqrt (mul ?x ?y)) => (neg ?y)\n    ?x: T[a,b]  ?y: T[a,b]\n");
    assert_eq!(finding.n_nodes, 2, "{}", finding.graph);
}

#[test]
fn a_rule_that_drops_an_operand() {
    let finding =
        with_rule("less exact (sub (sub ?a ?b) ?c) => (sub ?a ?c)\n    ?a: T[a]  ?b: T[a]  ?c: T[a]\n");
    assert_eq!(finding.n_nodes, 2, "{}", finding.graph);
}
