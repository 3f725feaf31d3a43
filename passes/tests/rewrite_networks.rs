//! Rewriting a network of many equal layers: time, limits, fuel, certificates.

use aic_ir::graph::Graph;
use aic_ir::target::Target;
use aic_ir::text::parse_graph;
use aic_ir::verify;
use aic_passes::pipeline::Options;
use aic_passes::rewrite::check::check;
use aic_passes::rewrite::rule::Rule;
use aic_passes::rewrite::saturate::Limits;
use aic_passes::rewrite::{rules, run, with_rules};
use aic_passes::runner::{Context, Numerics};
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Writes a transformer node by node, as PyTorch exports it: norms and activations in small steps.
#[derive(Default)]
struct Writer {
    text: String,
    n_values: usize,
}

impl Writer {
    fn node(&mut self, what: &str) -> usize {
        self.n_values += 1;
        let n = self.n_values;
        let _ = writeln!(self.text, "%{n} = {what} loc(\"n{n}\")");
        n
    }

    fn weight(&mut self, shape: &str) -> usize {
        self.node(&format!("const f32[{shape}] seed {}", self.n_values))
    }

    fn scalar(&mut self, value: f32) -> usize {
        self.node(&format!("const f32[] {value:?}"))
    }

    fn linear(&mut self, x: usize, shape: &str) -> usize {
        let (w, b) = (self.weight(shape), self.weight(shape.rsplit(',').next().unwrap_or_default()));
        let y = self.node(&format!("matmul %{x} %{w}"));
        self.node(&format!("add %{y} %{b}"))
    }

    fn mean(&mut self, x: usize) -> usize {
        let n = self.scalar(96.0);
        let sum = self.node(&format!("reduce %{x} {{op=sum, axes=[1]}}"));
        let sum = self.node(&format!("reshape %{sum} {{shape=[n,1]}}"));
        self.node(&format!("div %{sum} %{n}"))
    }

    fn norm(&mut self, x: usize) -> usize {
        let (scale, bias) = (self.weight("96"), self.weight("96"));
        let (epsilon, two) = (self.scalar(1e-5), self.scalar(2.0));
        let mean = self.mean(x);
        let centered = self.node(&format!("sub %{x} %{mean}"));
        let squared = self.node(&format!("pow %{centered} %{two}"));
        let variance = self.mean(squared);
        let variance = self.node(&format!("add %{variance} %{epsilon}"));
        let deviation = self.node(&format!("sqrt %{variance}"));
        let y = self.node(&format!("div %{centered} %{deviation}"));
        let y = self.node(&format!("mul %{y} %{scale}"));
        self.node(&format!("add %{y} %{bias}"))
    }

    fn heads(&mut self, x: usize, perm: &str) -> usize {
        let y = self.linear(x, "96,96");
        let y = self.node(&format!("reshape %{y} {{shape=[n,4,24]}}"));
        self.node(&format!("transpose %{y} {{perm={perm}}}"))
    }

    fn attention(&mut self, x: usize) -> usize {
        let (q, k, v) = (self.heads(x, "[1,0,2]"), self.heads(x, "[1,2,0]"), self.heads(x, "[1,0,2]"));
        let root = self.scalar(4.898_979_7);
        let scores = self.node(&format!("matmul %{q} %{k}"));
        let scores = self.node(&format!("div %{scores} %{root}"));
        let weights = self.node(&format!("softmax %{scores} {{axis=2}}"));
        let y = self.node(&format!("matmul %{weights} %{v}"));
        let y = self.node(&format!("transpose %{y} {{perm=[1,0,2]}}"));
        let y = self.node(&format!("reshape %{y} {{shape=[n,96]}}"));
        self.linear(y, "96,96")
    }

    fn gelu(&mut self, x: usize) -> usize {
        let (root, one, half) = (self.scalar(std::f32::consts::SQRT_2), self.scalar(1.0), self.scalar(0.5));
        let y = self.node(&format!("div %{x} %{root}"));
        let y = self.node(&format!("erf %{y}"));
        let y = self.node(&format!("add %{y} %{one}"));
        let y = self.node(&format!("mul %{x} %{y}"));
        self.node(&format!("mul %{y} %{half}"))
    }

    fn layer(&mut self, x: usize) -> usize {
        let y = self.norm(x);
        let y = self.attention(y);
        let x = self.node(&format!("add %{x} %{y}"));
        let y = self.norm(x);
        let y = self.linear(y, "96,384");
        let y = self.gelu(y);
        let y = self.linear(y, "384,96");
        self.node(&format!("add %{x} %{y}"))
    }
}

fn transformer(layers: usize) -> Graph {
    let mut w = Writer::default();
    let y = (0..layers).fold(0, |x, _| w.layer(x));
    let src = format!("graph(%0: f32[n,96]) -> f32[n,96] {{\n{}return %{y}\n}}", w.text);
    parse_graph(&src).unwrap_or_else(|e| panic!("{e}"))
}

fn context(fuel: Option<u64>) -> Context {
    Context::new(&Options { fuel, ..Options::new(Target::x86_avx2()) })
}

fn rewritten(g: &Graph, cx: &mut Context) -> Graph {
    let out = run(g, cx).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(verify::graph(&out), Vec::<String>::new());
    out
}

fn all_rules() -> Vec<&'static Rule> {
    rules::all().unwrap_or_else(|e| panic!("{e}")).iter().collect()
}

#[test]
fn equal_layers_are_saturated_once() {
    let mut times = Vec::new();
    rewritten(&transformer(1), &mut context(None)); // reads the rules
    for layers in [1, 2, 4, 8, 16, 32, 64, 96] {
        let (g, mut cx) = (transformer(layers), context(None));
        let start = Instant::now();
        let out = rewritten(&g, &mut cx);
        times.push((layers as f64, start.elapsed().as_secs_f64()));
        let saturated = cx.rewrites.regions.iter().filter(|r| !r.is_cached).count();
        assert!(saturated <= 4, "{saturated} regions of {layers} layers:\n{}", cx.rewrites);
        assert!(start.elapsed() < Duration::from_secs(5), "{times:?}");
        assert_eq!(rewritten(&out, &mut context(None)), out, "{layers} layers");
    }
    println!("{times:?} R2 {}", r_squared(&times));
}

/// How much of the variance a line through the points explains.
fn r_squared(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let mean = |f: &dyn Fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n;
    let (x, y) = (mean(&|p| p.0), mean(&|p| p.1));
    let (xy, xx, yy) = (
        mean(&|p| (p.0 - x) * (p.1 - y)),
        mean(&|p| (p.0 - x) * (p.0 - x)),
        mean(&|p| (p.1 - y) * (p.1 - y)),
    );
    xy * xy / (xx * yy)
}

#[test]
fn fuel_is_kept_to() {
    let g = transformer(2);
    let mut cx = context(None);
    rewritten(&g, &mut cx);
    let total = cx.spent;
    for fuel in (0..total).step_by((total as usize / 24).max(1)) {
        let mut cx = context(Some(fuel));
        let out = rewritten(&g, &mut cx);
        assert_eq!((cx.fuel, cx.spent), (Some(0), fuel));
        assert_eq!(rewritten(&g, &mut context(Some(fuel))), out);
    }
}

#[test]
fn limits_leave_a_graph() {
    let g = transformer(2);
    for nodes in [1, 50, 100, 200, 400] {
        for rounds in [0, 1, 3] {
            let limits = Limits { nodes, rounds, matches: 10 };
            let out = with_rules(&g, &all_rules(), &limits, &mut context(None)).unwrap();
            assert_eq!(verify::graph(&out), Vec::<String>::new());
        }
    }
}

#[test]
fn certificates_of_layers() {
    let g = transformer(3);
    let mut cx = Context { certify: true, ..context(None) };
    let out = rewritten(&g, &mut cx);
    let c = &cx.certificates[0];
    assert_eq!((&c.before, &c.after), (&g, &out));
    check(&c.certificate, &c.before, &c.after, &all_rules(), Numerics::Reassociate)
        .unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn layers_are_recognised() {
    let out = rewritten(&transformer(2), &mut context(None)).to_string();
    let count = |op: &str| out.matches(&format!(" = {op} ")).count();
    let found = ["normalize", "attention", "activation", "softmax", "erf", "sqrt"].map(count);
    assert_eq!(found, [4, 2, 2, 0, 0, 0], "{out}");
}
