//! The rewriter's mechanics: reading rules, matching, folding, limits.

use aic_ir::graph::Graph;
use aic_ir::target::Target;
use aic_ir::text::parse_graph;
use aic_ir::verify;
use aic_passes::pipeline::Options;
use aic_passes::rewrite::{rule, run};
use aic_passes::runner::Context;
use std::fmt::Write;
use std::time::{Duration, Instant};

fn graph(src: &str) -> Graph {
    parse_graph(src).unwrap_or_else(|e| panic!("{e}\n{src}"))
}

fn context(fuel: Option<u64>) -> Context {
    Context::new(&Options { fuel, ..Options::new(Target::x86_avx2()) })
}

fn rewritten(src: &str, fuel: Option<u64>) -> String {
    let out = run(&graph(src), &mut context(fuel)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(verify::graph(&out), Vec::<String>::new(), "{out}");
    out.to_string()
}

#[test]
fn operands_in_both_orders() {
    let src = "graph(%0: f32[4,8], %1: f32[4,8], %2: f32[8]) -> f32[4,8] {
      %3 = mul %2 %0
      %4 = mul %1 %2
      %5 = add %3 %4
      return %5
    }";
    let expected = graph(
        "graph(%0: f32[4,8], %1: f32[4,8], %2: f32[8]) -> f32[4,8] {
      %3 = add %0 %1
      %4 = mul %3 %2
      return %4
    }",
    );
    assert_eq!(rewritten(src, None), expected.to_string());
    assert_eq!(rewritten(src, Some(0)), graph(src).to_string());
}

#[test]
fn attributes_are_computed() {
    let src = "graph(%0: f32[a,4,5]) -> f32[4,5,a] {
      %1 = transpose %0 {perm=[2,0,1]}
      %2 = transpose %1 {perm=[2,0,1]}
      return %2
    }";
    let out = rewritten(src, None);
    assert!(out.contains("%1 = transpose %0 {perm=[1,2,0]}"), "{out}");
}

#[test]
fn constants_are_evaluated() {
    let src = "graph(%0: f32[4]) -> f32[4] {
      %1 = const f32[] 3.0
      %2 = const f32[1] [2.0]
      %3 = sub %1 %2
      %4 = mul %0 %3
      return %4
    }";
    let out = rewritten(src, None);
    assert!(out.contains("return %0"), "{out}");
}

#[test]
fn a_wider_constant_keeps_the_type() {
    let src = "graph(%0: f32[4]) -> f32[1,4] {
      %1 = const f32[1,1] [1.0]
      %2 = mul %0 %1
      return %2
    }";
    assert_eq!(rewritten(src, None), graph(src).to_string());
}

#[test]
fn any_number_of_operands() {
    let text = "neg-concat exact (neg (concat ?xs... ?axis)) => (concat (neg ?xs...)... ?axis)
    ?xs: T[a,b]  ?axis = 1";
    let rules = rule::parse("test", text).unwrap();
    assert_eq!(
        rules[2].to_line(),
        "(neg (concat ?xs0 ?xs1 ?xs2 ?axis)) => (concat (neg ?xs0) (neg ?xs1) (neg ?xs2) ?axis)"
    );
    assert_eq!(rules[2].examples[0].variables.len(), 4);
}

#[test]
fn errors_name_the_line() {
    let cases = [
        ("a exact (mul ?x) => ?x", "f:1: mul takes 2 operands and the attributes [], found 1 terms"),
        (
            "a right (neg ?x) => ?x",
            "f:1: expected a class (exact, reassociating or approximate) behind the name a, found \"right\"",
        ),
        ("a exact (neg ?x) => ?y", "f:1: ?y does not occur on the left side"),
        ("a exact (neg ?x) => ?x if odd(?x)", "f:1: unknown guard odd"),
        ("a exact (neg ?x) => (@odd ?x)", "f:1: unknown function @odd"),
        ("a exact (wrong ?x) => ?x", "f:1: unknown operator wrong"),
        ("a exact (transpose ?x 1.5) => ?x", "f:1: 1.5 is no value of attribute perm of transpose"),
        ("a exact (neg ?x => ?x", "f:1: `)` is missing at the end of `(neg ?x => ?x`"),
        ("a exact (neg ?x) => ?x", "f:1: the rule a has no example"),
        (
            "a exact (neg ?x) => ?x\n  ?y: T[a]",
            "f:2: the example gives no type or value for ?x of the rule a",
        ),
        ("a exact (neg ?x) => ?x\n  ?x: T[a] ?y: T[a]", "f:2: the rule a has no variable ?y"),
        (
            "a exact (neg ?x) => ?x\n  ?x: q[a]",
            "f:2: expected an element type or a capital letter, found `q`",
        ),
    ];
    for (text, expected) in cases {
        let found = rule::parse("f", text).unwrap_err().to_string();
        assert!(found.contains(expected), "{text}: {found}");
    }
}

/// A transformer as PyTorch writes it: per layer two layer norms and a gelu written out, and attention.
fn transformer(layers: usize) -> Graph {
    let (mut text, mut next, mut seed) = (String::new(), 1, 0);
    let mut x = 0;
    let mut node = |text: &mut String, what: String| {
        let _ = writeln!(text, "%{next} = {what} loc(\"n{next}\")");
        next += 1;
        next - 1
    };
    for _ in 0..layers {
        let mut weight = |text: &mut String, shape: &str| {
            seed += 1;
            node(text, format!("const f32[{shape}] seed {seed}"))
        };
        let weights: Vec<usize> = [
            "96,96", "96,96", "96,96", "96,96", "96,384", "384,96", "96", "96", "96", "96", "96", "384",
            "96", "96",
        ]
        .iter()
        .map(|s| weight(&mut text, s))
        .collect();
        let c = |text: &mut String, node: &mut dyn FnMut(&mut String, String) -> usize, v: f32| {
            node(text, format!("const f32[] {v:?}"))
        };
        let norm = |text: &mut String,
                    node: &mut dyn FnMut(&mut String, String) -> usize,
                    x: usize,
                    g: usize,
                    b: usize| {
            let n = c(text, node, 96.0);
            let eps = c(text, node, 1e-5);
            let two = c(text, node, 2.0);
            let s = node(text, format!("reduce %{x} {{op=sum, axes=[1]}}"));
            let s = node(text, format!("reshape %{s} {{shape=[n,1]}}"));
            let m = node(text, format!("div %{s} %{n}"));
            let d = node(text, format!("sub %{x} %{m}"));
            let q = node(text, format!("pow %{d} %{two}"));
            let q = node(text, format!("reduce %{q} {{op=sum, axes=[1]}}"));
            let q = node(text, format!("reshape %{q} {{shape=[n,1]}}"));
            let q = node(text, format!("div %{q} %{n}"));
            let q = node(text, format!("add %{q} %{eps}"));
            let q = node(text, format!("sqrt %{q}"));
            let y = node(text, format!("div %{d} %{q}"));
            let y = node(text, format!("mul %{y} %{g}"));
            node(text, format!("add %{y} %{b}"))
        };
        let h = norm(&mut text, &mut node, x, weights[6], weights[7]);
        let heads =
            |text: &mut String, node: &mut dyn FnMut(&mut String, String) -> usize, w: usize, perm: &str| {
                let y = node(text, format!("matmul %{h} %{w}"));
                let y = node(text, format!("reshape %{y} {{shape=[n,4,24]}}"));
                node(text, format!("transpose %{y} {{perm={perm}}}"))
            };
        let q = heads(&mut text, &mut node, weights[0], "[1,0,2]");
        let k = heads(&mut text, &mut node, weights[1], "[1,2,0]");
        let v = heads(&mut text, &mut node, weights[2], "[1,0,2]");
        let s = node(&mut text, format!("matmul %{q} %{k}"));
        let scale = c(&mut text, &mut node, 4.9);
        let s = node(&mut text, format!("div %{s} %{scale}"));
        let s = node(&mut text, format!("softmax %{s} {{axis=2}}"));
        let s = node(&mut text, format!("matmul %{s} %{v}"));
        let s = node(&mut text, format!("transpose %{s} {{perm=[1,0,2]}}"));
        let s = node(&mut text, format!("reshape %{s} {{shape=[n,96]}}"));
        let s = node(&mut text, format!("matmul %{s} %{}", weights[3]));
        let s = node(&mut text, format!("add %{s} %{}", weights[10]));
        x = node(&mut text, format!("add %{x} %{s}"));
        let h = norm(&mut text, &mut node, x, weights[8], weights[9]);
        let s = node(&mut text, format!("matmul %{h} %{}", weights[4]));
        let s = node(&mut text, format!("add %{s} %{}", weights[11]));
        let (root, one, half) =
            (c(&mut text, &mut node, 1.414), c(&mut text, &mut node, 1.0), c(&mut text, &mut node, 0.5));
        let e = node(&mut text, format!("div %{s} %{root}"));
        let e = node(&mut text, format!("erf %{e}"));
        let e = node(&mut text, format!("add %{e} %{one}"));
        let s = node(&mut text, format!("mul %{s} %{e}"));
        let s = node(&mut text, format!("mul %{s} %{half}"));
        let s = node(&mut text, format!("matmul %{s} %{}", weights[5]));
        let s = node(&mut text, format!("add %{s} %{}", weights[12]));
        x = node(&mut text, format!("add %{x} %{s}"));
    }
    graph(&format!("graph(%0: f32[n,96]) -> f32[n,96] {{\n{text}return %{x}\n}}"))
}

#[test]
fn time_is_linear_in_depth() {
    let mut times = Vec::new();
    for layers in [1, 2, 4, 8, 16, 32, 64, 96] {
        let g = transformer(layers);
        let start = Instant::now();
        let mut cx = context(None);
        let out = run(&g, &mut cx).unwrap();
        times.push((layers, start.elapsed()));
        assert_eq!(verify::graph(&out), Vec::<String>::new());
        assert_eq!(run(&out, &mut context(None)).unwrap(), out);
    }
    println!("{times:?}");
    assert!(times.iter().all(|(_, t)| *t < Duration::from_secs(30)), "{times:?}");
}
