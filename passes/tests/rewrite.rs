//! The rewriter's mechanics: reading rules, matching, folding, limits.

use aic_ir::graph::Graph;
use aic_ir::target::Target;
use aic_ir::text::{large_constants, parse_graph};
use aic_ir::verify;
use aic_passes::pipeline::Options;
use aic_passes::rewrite::certificate::{Certificate, Certified};
use aic_passes::rewrite::check::check;
use aic_passes::rewrite::rule::{self, Rule};
use aic_passes::rewrite::saturate::Limits;
use aic_passes::rewrite::{rules, run, with_rules};
use aic_passes::runner::{Context, Numerics};

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
      %4 = mul %2 %3
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

/// A constant much larger than what it is made of isn't free, so that a rule that makes one gains nothing.
#[test]
fn large_constants_are_not_made() {
    let src = |n: usize| {
        format!(
            "graph(%0: f32[{n},8192]) -> f32[{n},8192] {{
      %1 = const f32[8192] seed 1
      %2 = neg %0
      %3 = expand %1 {{shape=[{n},8192]}}
      %4 = mul %2 %3
      return %4
    }}"
        )
    };
    let rule = "move-neg exact (mul (neg ?x) ?y) => (mul ?x (neg ?y)) if const(?y)
    ?x: T[a,b]  ?y: const T[a,b]";
    let moved = |n: usize| {
        let rules = rule::parse("test", rule).unwrap();
        let g = graph(&src(n));
        let out = with_rules(&g, &rules.iter().collect::<Vec<_>>(), &Limits::default(), &mut context(None))
            .unwrap();
        out != g
    };
    assert!(moved(64));
    assert!(!moved(4096));
}

/// Products of one operand by several weights are one where that saves more than the slices cost.
#[test]
fn products_are_merged() {
    let src = |rows: usize| {
        format!(
            "graph(%0: f32[{rows},64]) -> (f32[{rows},64], f32[{rows},32], f32[{rows},64]) {{
      %1 = const f32[64,64] seed 1
      %2 = const f32[64,32] seed 2
      %3 = const f32[64,64] seed 3
      %4 = matmul %0 %1 loc(\"q\")
      %5 = matmul %0 %2 loc(\"k\")
      %6 = matmul %0 %3 loc(\"v\")
      return %4, %5, %6
    }}"
        )
    };
    let one = rewritten(&src(1), None);
    assert_eq!((one.matches("= matmul").count(), one.matches("= slice").count()), (1, 3), "{one}");
    assert!(one.contains("loc(\"q\", \"k\", \"v\")"), "{one}");
    assert_eq!(rewritten(&src(4096), None).matches("= matmul").count(), 3);
    assert_eq!(checked(&certified(&graph(&src(1)))), Ok(()));
}

#[test]
fn convolutions_are_merged() {
    let src = "graph(%0: f32[1,16,4,4]) -> (f32[1,8,4,4], f32[1,4,4,4], f32[1,4,2,2]) {
      %1 = const f32[8,16,1,1] seed 1
      %2 = const f32[4,16,1,1] seed 2
      %3 = conv %0 %1 {strides=[1,1], dilations=[1,1], pads=[0,0,0,0], groups=1}
      %4 = conv %0 %2 {strides=[1,1], dilations=[1,1], pads=[0,0,0,0], groups=1}
      %5 = conv %0 %2 {strides=[2,2], dilations=[1,1], pads=[0,0,0,0], groups=1}
      return %3, %4, %5
    }";
    let out = rewritten(src, None);
    assert_eq!((out.matches("= conv").count(), out.matches("= slice").count()), (2, 2), "{out}");
}

/// Certificates of the rewrites of a graph, as JSON reads them back.
fn certified(g: &Graph) -> Certified {
    let mut cx = Context { certify: true, ..context(None) };
    run(g, &mut cx).unwrap_or_else(|e| panic!("{e}"));
    let mut done = cx.certificates.remove(0);
    assert_eq!(cx.certificates, []);
    let constants = large_constants(g);
    let again = Certificate::from_json(&done.certificate.to_json(), &|hash| constants.get(hash).cloned())
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(again, done.certificate);
    done.certificate = again;
    done
}

fn checked(c: &Certified) -> Result<(), String> {
    let rules: Vec<&Rule> = rules::all().unwrap_or_else(|e| panic!("{e}")).iter().collect();
    check(&c.certificate, &c.before, &c.after, &rules, Numerics::Reassociate).map_err(|e| e.to_string())
}

const SMALL: &str = "graph(%0: f32[4,8], %1: f32[4,8], %2: f32[8]) -> (f32[4,8], f32[8,4]) {
  %3 = const f32[] 3.0
  %4 = const f32[1] [2.0]
  %5 = sub %3 %4
  %6 = mul %2 %0
  %7 = mul %1 %2
  %8 = mul %5 %7
  %9 = add %6 %8
  %10 = neg %9
  %11 = neg %10
  %12 = transpose %11 {perm=[1,0]}
  %13 = transpose %12 {perm=[1,0]}
  %14 = exp %12
  return %13, %14
}";

#[test]
fn certificates_are_accepted() {
    let c = certified(&graph(SMALL));
    assert_eq!(checked(&c), Ok(()), "{}", c.after);
    assert!(c.certificate.instances.len() > 3);
}

/// Bodies are left alone where a certificate is wanted; what is around them isn't.
#[test]
fn certificates_hold_bodies() {
    let c = certified(&graph(
        "graph(%0: f32[9], %1: i64[]) -> f32[9] {
      %2 = const bool[] true
      %3 = neg %0
      %4 = neg %3
      %5 = loop %1 %2 %4 {body=graph @b(%0: i64[], %1: bool[], %2: f32[9]) -> (bool[], f32[9]) {
        %3 = const f32[9,9] seed 1
        %4 = reshape %2 {shape=[1,9]}
        %5 = matmul %4 %3
        %6 = reshape %5 {shape=[9]}
        return %1, %6
      }, states=1, count=0}
      %6 = neg %5
      %7 = neg %6
      return %7
    }",
    ));
    assert!(!c.after.to_string().contains("neg"), "{}", c.after);
    assert_eq!(checked(&c), Ok(()), "{}", c.after);
}

#[test]
fn wrong_certificates_are_refused() {
    let sound = certified(&graph(SMALL));
    let n_terms = sound.certificate.terms.len() as u32;
    let (mut refused, mut tried) = (0, 0);
    for k in 0..sound.certificate.instances.len() {
        let mut without = sound.clone();
        without.certificate.instances.remove(k);
        let mut renamed = sound.clone();
        renamed.certificate.instances[k].rule = "mul-one".into();
        let mut other = sound.clone();
        let after = &mut other.certificate.instances[k].after;
        *after = (*after + 1) % n_terms;
        for wrong in [without, renamed, other] {
            tried += 1;
            refused += usize::from(checked(&wrong).is_err() || wrong == sound);
        }
    }
    // An instance may be more than is needed; most aren't.
    assert!(refused * 4 >= tried * 3, "{refused} of {tried}");
    let mut wrong = sound.clone();
    wrong.after = graph(&SMALL.replace("exp", "tanh"));
    assert!(checked(&wrong).is_err());
    let mut wrong = sound;
    wrong.certificate.instances.clear();
    assert_eq!(checked(&wrong), Err("the certificate doesn't prove that output \"\" stays the same".into()));
}

/// The certificate of a wrong rule names a rule that the checker doesn't have.
#[test]
fn wrong_rules_are_refused() {
    let text = "neg-neg exact (neg ?x) => ?x\n    ?x: T[a]";
    let rules = rule::parse("test", text).unwrap();
    let g = graph("graph(%0: f32[4]) -> f32[4] { %1 = neg %0 %2 = exp %1 return %2 }");
    let mut cx = Context { certify: true, ..context(None) };
    with_rules(&g, &[&rules[0]], &Limits::default(), &mut cx).unwrap();
    assert!(!cx.certificates[0].after.to_string().contains("neg"));
    assert_eq!(
        checked(&cx.certificates[0]),
        Err("an instance of neg-neg: the left side doesn't match".into())
    );
}
