//! Every rule is checked on 10,000 cases (`AIC_RULE_CASES`), and applies to its examples in an e-graph. Laws that the
//! course behind this project gets wrong are rules that the checker refuses.

use aic_ir::target::Target;
use aic_passes::pipeline::Options;
use aic_passes::rewrite::checker::{self, Checked, Failure, check, check_without};
use aic_passes::rewrite::driver::Rewriter;
use aic_passes::rewrite::rule::{self, Rule};
use aic_passes::rewrite::rules;
use aic_passes::rewrite::saturate::Limits;
use aic_passes::runner::{Context, Numerics};
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Rules that golden tests add to the built-in ones.
const OF_GOLDENS: &[(&str, &str)] = &[
    ("as_conv.rules", include_str!("../../testdata/passes/rewrite/as_conv.rules")),
    ("approximate.rules", include_str!("../../testdata/passes/rewrite/approximate.rules")),
];

fn cases() -> usize {
    std::env::var("AIC_RULE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000)
}

/// The rules that one line stands for share its cases.
fn lines(rules: &[Rule]) -> Vec<Vec<&Rule>> {
    let mut lines: Vec<Vec<&Rule>> = Vec::new();
    for rule in rules {
        match lines.last_mut() {
            Some(line) if line[0].place == rule.place => line.push(rule),
            _ => lines.push(vec![rule]),
        }
    }
    lines
}

fn check_line(line: &[&Rule], cases: usize) -> Result<Checked, String> {
    let mut sum = Checked::default();
    for rule in line {
        let checked = check(rule, cases.div_ceil(line.len()), 1)
            .map_err(|e| format!("{} {}: {e}", rule.place, rule.name))?;
        sum.cases += checked.cases;
        sum.compared += checked.compared;
    }
    match sum.compared * 5 >= sum.cases {
        true => Ok(sum),
        false => Err(format!("{} {}: only {sum:?}", line[0].place, line[0].name)),
    }
}

#[test]
fn every_rule_holds() {
    let mut all = rules::all().unwrap_or_else(|e| panic!("{e}")).to_vec();
    for (file, text) in OF_GOLDENS {
        all.extend(rule::parse(file, text).unwrap_or_else(|e| panic!("{e}")));
    }
    let lines = lines(&all);
    let (next, failures) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(|| {
                while let Some(line) = lines.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(e) = check_line(line, cases()) {
                        failures.lock().unwrap_or_else(|e| e.into_inner()).push(e);
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_else(|e| e.into_inner());
    assert!(failures.is_empty(), "{} of {} lines\n{}", failures.len(), lines.len(), failures.join("\n"));
}

/// Whether a rule, alone, makes something equal in one of its instances.
fn applies(rule: &Rule) -> bool {
    let mut cx = Context::new(&Options { numerics: Numerics::Fast, ..Options::new(Target::x86_avx2()) });
    checker::graphs(rule, 1).iter().any(|g| {
        let rules = [rule];
        let mut rewriter = Rewriter::new(&rules, Limits::default(), &mut cx);
        rewriter.graph(g, &HashSet::new()).unwrap_or_else(|e| panic!("{}: {e}\n{g}", rule.name));
        rewriter.cx.rewrites.rules.get(&rule.name).is_some_and(|r| r.counts.applications > 0)
    })
}

#[test]
fn every_rule_applies_in_an_egraph() {
    let rules = rules::all().unwrap_or_else(|e| panic!("{e}"));
    let idle: Vec<&str> = rules.iter().filter(|r| !applies(r)).map(|r| &r.name[..]).collect();
    assert!(idle.is_empty(), "{idle:?}");
}

/// Guards that say where a rule pays, or which of two rules is the one, and not whether it is right.
const GUARDS_OF_PROFIT: &[&str] = &["const", "variable", "narrower", "many", "float", "int", "several"];

/// Without any other guard, a rule is wrong: the sides differ on some instance that only this guard refuses. There may
/// be none in the examples, because with known extents the types say the same.
#[test]
fn every_guard_is_needed() {
    let mut idle = Vec::new();
    for line in lines(rules::all().unwrap_or_else(|e| panic!("{e}"))) {
        for (k, c) in line[0].guards.iter().enumerate() {
            if GUARDS_OF_PROFIT.contains(&c.guard.name) {
                continue;
            }
            let found: Vec<_> = line.iter().map(|rule| check_without(rule, k, 200, 1)).collect();
            let differs = found.iter().any(|f| matches!(f, Err(Failure::Differs(_))));
            let compared = found.iter().any(|f| f.as_ref().is_ok_and(|c| c.compared > 0));
            if compared && !differs {
                idle.push(format!("{} {}: {:?}", line[0].name, c.guard.name, found[0]));
            }
        }
    }
    assert!(idle.is_empty(), "{}\n{}", idle.len(), idle.join("\n"));
}

/// Laws as the course has them (COURSE 1.20), and others that look right.
const WRONG: &str = "
# A1 and A2: the reciprocal of the last factor is missing.
a1 reassociating (mul (div 1 (matmul ?a ?b)) (div 1 (mul (matmul ?a ?b) ?c))) => (mul (mul (div 1 (matmul ?a ?b)) (div 1 (matmul ?a ?b))) ?c)
    ?a: T[2,2] finite  ?b: T[2,2] finite  ?c: T[2,2] finite
a2 reassociating (mul (div 1 ?a) (div 1 (mul ?a ?b))) => (mul (mul (div 1 ?a) (div 1 ?a)) ?b)
    ?a: T[a] finite  ?b: T[a] finite
# A3 without its guard: roots of negative numbers.
a3 reassociating (mul (mul ?a (sqrt ?b)) (mul (sqrt ?b) ?c)) => (mul (mul ?a ?b) ?c)
    ?a: T[a] finite  ?b: T[a] finite  ?c: T[a] finite
# A5 for right shifts: sum([1, 1] >> 1) = 0, 2 >> 1 = 1.
a5 exact (reduce (shr ?x ?k) sum ?axes) => (shr (reduce ?x sum ?axes) ?k)
    ?x: T[a,b]  ?k: T[]  ?axes = [1]
# A reshape of a reshape where the second is smaller: neither needed nor sufficient; without the second's extents wrong.
a11 exact (reshape (reshape ?x ?s) ?t) => (reshape ?x ?s)
    ?x: T[a,b]  ?s = [a*b]  ?t = [b,a]
# Dequantised quantised numbers are rounded and clamped.
dequantize-quantize approximate (mul (cast (cast (min (max (round (div ?x ?s)) -128) 127) ?t) ?f) ?s) => ?x
    ?x: f32[a] finite  ?s: f32[] = 0.1  ?t = i8  ?f = f32
# Conv and batch norm without the bias of the convolution, with scale and shift swapped, and without epsilon.
conv-bias-dropped reassociating (add (mul (add (conv ?x ?w ?st ?d ?p ?g) ?b) ?s) ?t) => (add (mul (conv ?x ?w ?st ?d ?p ?g) ?s) ?t) if const(?b)
    ?x: T[1,2,4] finite  ?w: const T[3,2,2]  ?b: const T[3,1]  ?s: const T[3,1]  ?t: const T[3,1]  ?st = [1]  ?d = [1]  ?p = [0,0]  ?g = 1
conv-norm-swapped reassociating (add (mul (conv ?x ?w ?st ?d ?p ?g) ?s) ?t) => (add (mul (conv ?x ?w ?st ?d ?p ?g) ?t) ?s)
    ?x: T[1,2,4] finite  ?w: const T[3,2,2]  ?s: const T[3,1]  ?t: const T[3,1]  ?st = [1]  ?d = [1]  ?p = [0,0]  ?g = 1
conv-norm-epsilon reassociating (div (conv ?x ?w ?st ?d ?p ?g) (sqrt (add ?v ?e))) => (div (conv ?x ?w ?st ?d ?p ?g) (sqrt ?v))
    ?x: T[1,2,4] finite  ?w: const T[3,2,2]  ?v: const T[3,1] positive  ?e: T[] = 0.01  ?st = [1]  ?d = [1]  ?p = [0,0]  ?g = 1
# A 1x1 kernel enlarged to 3x3 by interpolation, that is repetition; zeros around it would be right.
conv-enlarged reassociating (conv ?x ?w [1,1] [1,1] [0,0,0,0] 1) => (conv ?x (expand ?w [2,2,3,3]) [1,1] [1,1] [1,1,1,1] 1)
    ?x: T[1,2,4,5] finite  ?w: const T[2,2,1,1]
# A batch norm in front of a convolution that pads, moved behind it.
conv-of-shifted-padded reassociating (conv (add ?x ?t) ?w ?st ?d ?p 1) => (add (conv ?x ?w ?st ?d ?p 1) (reshape (reduce (mul ?w ?t) sum [1,2]) (@per_output ?w)))
    ?x: T[1,2,5] finite  ?t: const T[2,1]  ?w: const T[3,2,3]  ?st = [1]  ?d = [1]  ?p = [1,1]
# Classes that are too good.
add-zero exact (add ?x 0.0) => ?x
    ?x: T[a]
mul-zero exact (mul ?x 0.0) => (expand (@scalar 0 ?x) (@shape ?x))
    ?x: T[a]
sum-of-sums exact (reduce (reduce ?x sum [0]) sum [0]) => (reduce ?x sum [0,1])
    ?x: T[a,b]
div-by-constant exact (div ?x ?c) => (mul ?x (div 1 ?c))
    ?x: T[a]  ?c: T[] = 3
associative exact (add (add ?x ?a) ?b) => (add ?x (add ?a ?b))
    ?x: T[a]  ?a: const T[a]  ?b: const T[a]
# Guards that are missing.
cast-cast exact (cast (cast ?x ?t) ?u) => (cast ?x ?u)
    ?x: f32[a]  ?t = f16  ?u = f32
transpose-nothing exact (transpose ?x ?p) => ?x
    ?x: T[a,a]  ?p = [1,0]
leaky-relu exact (select (gt ?x 0.0) ?x (mul ?x ?s)) => (max ?x (mul ?x ?s))
    ?x: f32[a]  ?s: f32[] = 1.5
abs-neg exact (abs (neg ?x)) => (abs ?x)
    ?x: u8[a]
not-lt exact (not (lt ?a ?b)) => (ge ?a ?b)
    ?a: f32[a]  ?b: f32[a]
clip-order exact (max (min ?x ?hi) ?lo) => (min (max ?x ?lo) ?hi)
    ?x: T[a]  ?lo: T[] = 6  ?hi: T[] = 1
softmax-other-axis reassociating (div (exp ?x) (reshape (reduce (exp ?x) sum ?axes) ?t)) => (softmax ?x (@only ?axes))
    ?x: T[3,3] finite  ?axes = [1]  ?t = [1,3]
norm-miscounted reassociating (mul ?x (div 1 (sqrt (add (div (reshape (reduce (mul ?x ?x) sum ?axes) ?t) ?m) ?e)))) => (normalize ?x ?axes (@number ?e) false)
    ?x: T[4,8] finite  ?axes = [1]  ?t = [4,1]  ?m: T[] = 9  ?e: T[] = 1e-2
rotary-turned-back reassociating (add (mul ?x ?cos) (mul (concat (neg (slice ?x ?s ?n ?t)) (slice ?x ?u ?n ?t) ?axis) ?sin)) => (rotary ?x ?cos ?sin true)
    ?x: T[2,6]  ?cos: T[2,6]  ?sin: T[6]  ?s = [0,3]  ?u = [0,0]  ?n = [2,3]  ?t = [1,1]  ?axis = 1
pad-of-reflection exact (pad (pad ?x ?v ?mode ?lo ?hi ?i) ?v ?mode ?lo2 ?hi2 ?j) => (pad ?x ?v ?mode (@sum ?lo ?lo2) (@sum ?hi ?hi2) ?i)
    ?x: f32[3]  ?v: f32[]  ?mode = reflect  ?lo = [2]  ?hi = [1]  ?i = [0]  ?lo2 = [2]  ?hi2 = [1]  ?j = [0]
";

#[test]
fn wrong_rules_are_refused() {
    let rules = rule::parse("wrong", WRONG).unwrap_or_else(|e| panic!("{e}"));
    for rule in &rules {
        match check(rule, 2_000, 1) {
            Err(Failure::Differs(c)) => {
                println!("{}\n", c.to_string().lines().skip(1).collect::<Vec<_>>().join("\n"))
            }
            other => panic!("{}: {other:?}", rule.name),
        }
    }
}
