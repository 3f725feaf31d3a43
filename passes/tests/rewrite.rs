//! The rewriter's mechanics: reading rules, matching, folding, limits.

use aic_ir::graph::Graph;
use aic_ir::text::parse_graph;
use aic_passes::rewrite::rule::{self, Rule};
use aic_passes::rewrite::saturate::{Limits, Stop};
use aic_passes::rewrite::{rules, with_rules};
use aic_passes::runner::Numerics;

fn graph(src: &str) -> Graph {
    parse_graph(src).unwrap_or_else(|e| panic!("{e}\n{src}"))
}

fn rewritten(src: &str, fuel: Option<u64>) -> (String, Stop) {
    let rules: Vec<&Rule> = rules::all().unwrap().iter().collect();
    let mut fuel = fuel;
    let (out, outcome) =
        with_rules(&graph(src), &rules, Numerics::Reassociate, &Limits::default(), &mut fuel).unwrap();
    (out.to_string(), outcome.stop)
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
    assert_eq!(rewritten(src, None), (expected.to_string(), Stop::Saturated));
    assert_eq!(rewritten(src, Some(0)), (graph(src).to_string(), Stop::Fuel));
}

#[test]
fn attributes_are_computed() {
    let src = "graph(%0: f32[a,4,5]) -> f32[4,5,a] {
      %1 = transpose %0 {perm=[2,0,1]}
      %2 = transpose %1 {perm=[2,0,1]}
      return %2
    }";
    let (out, _) = rewritten(src, None);
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
    let (out, _) = rewritten(src, None);
    assert!(out.contains("return %0"), "{out}");
}

#[test]
fn a_wider_constant_keeps_the_type() {
    let src = "graph(%0: f32[4]) -> f32[1,4] {
      %1 = const f32[1,1] [1.0]
      %2 = mul %0 %1
      return %2
    }";
    assert_eq!(rewritten(src, None).0, graph(src).to_string());
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
