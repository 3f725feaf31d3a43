//! Whole networks as graphs, for tests on models of machines.
#![allow(dead_code)]

use aic::driver::Source;
use aic::import::onnx::ImportOptions;
use aic_ir::graph::Graph;
use aic_ir::text::parse_graph;
use std::fmt::Write;
use std::path::Path;

/// The text of a graph as it grows: values are numbered from that of the input on.
struct Writer {
    lines: String,
    last: usize,
}

impl Writer {
    fn new() -> Writer {
        Writer { lines: String::new(), last: 0 }
    }

    /// Adds a node; gives its value.
    fn push(&mut self, node: &str) -> usize {
        self.last += 1;
        writeln!(self.lines, "  %{} = {node}", self.last).unwrap();
        self.last
    }

    /// Pseudo-random weights whose sums over `n` terms have about the size of their factors.
    fn weights(&mut self, shape: &str, n: usize) -> usize {
        let raw = self.push(&format!("const f32[{shape}] seed {}", self.last));
        let scale = self.push(&format!("const f32[] {}", 0.35 / (n as f64).sqrt()));
        self.push(&format!("mul %{raw} %{scale}"))
    }

    /// A convolution with a bias.
    fn conv(&mut self, x: usize, [from, to, kernel, stride, groups]: [usize; 5]) -> usize {
        let per_group = from / groups;
        let n = per_group * kernel * kernel;
        let w = self.weights(&format!("{to},{per_group},{kernel},{kernel}"), n);
        let b = self.weights(&format!("{to},1,1"), 1);
        let pad = kernel / 2;
        let y = self.push(&format!(
            "conv %{x} %{w} {{strides=[{stride},{stride}], dilations=[1,1], pads=[{pad},{pad},{pad},{pad}], groups={groups}}}"
        ));
        self.push(&format!("add %{y} %{b}"))
    }

    fn conv_relu(&mut self, x: usize, shape: [usize; 5]) -> usize {
        let y = self.conv(x, shape);
        self.push(&format!("relu %{y}"))
    }

    fn max_pool(&mut self, x: usize) -> usize {
        self.push(&format!(
            "pool %{x} {{op=max, kernel=[3,3], strides=[2,2], dilations=[1,1], pads=[0,0,0,0]}}"
        ))
    }

    /// `x w + b`
    fn linear(&mut self, x: usize, [from, to]: [usize; 2]) -> usize {
        let w = self.weights(&format!("{from},{to}"), from);
        let b = self.weights(&format!("{to}"), 1);
        let y = self.push(&format!("matmul %{x} %{w}"));
        self.push(&format!("add %{y} %{b}"))
    }

    fn norm(&mut self, x: usize, size: usize) -> usize {
        let (scale, shift) = (self.weights(&format!("{size}"), 1), self.weights(&format!("{size}"), 1));
        let y = self.push(&format!("normalize %{x} {{axes=[2], epsilon=1e-5, center=true}}"));
        let y = self.push(&format!("mul %{y} %{scale}"));
        self.push(&format!("add %{y} %{shift}"))
    }

    fn graph(self, name: &str, input: &str, output: &str) -> Graph {
        let Writer { lines, last } = self;
        let text = format!("graph @{name}(%0 \"x\": {input}) -> {output} {{\n{lines}  return %{last}\n}}");
        parse_graph(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }
}

/// The classifier of digits of `testdata`.
pub fn digits() -> Graph {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/models/digits/digits.onnx");
    Source::load(&path).unwrap().import(&ImportOptions::default()).unwrap().graph
}

/// SqueezeNet 1.1 (Iandola et al., arXiv 1602.07360) on images of 64 x 64.
pub fn squeezenet() -> Graph {
    let mut w = Writer::new();
    let mut x = w.conv_relu(0, [3, 64, 3, 2, 1]);
    x = w.max_pool(x);
    let mut channels = 64;
    for (k, (squeezed, expanded)) in
        [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
            .into_iter()
            .enumerate()
    {
        let s = w.conv_relu(x, [channels, squeezed, 1, 1, 1]);
        let narrow = w.conv_relu(s, [squeezed, expanded, 1, 1, 1]);
        let wide = w.conv_relu(s, [squeezed, expanded, 3, 1, 1]);
        x = w.push(&format!("concat %{narrow} %{wide} {{axis=1}}"));
        channels = 2 * expanded;
        if k == 1 || k == 3 {
            x = w.max_pool(x);
        }
    }
    let y = w.conv_relu(x, [channels, 1000, 1, 1, 1]);
    w.push(&format!("reduce %{y} {{op=sum, axes=[2,3]}}"));
    w.graph("squeezenet", "f32[1,3,64,64]", "f32[1,1000]")
}

/// Two layers of a transformer (Vaswani et al., arXiv 1706.03762), and a batch and a length that are known at run time.
pub fn transformer() -> Graph {
    const SIZE: usize = 64;
    let mut w = Writer::new();
    let mut x = 0;
    for _ in 0..2 {
        let normed = w.norm(x, SIZE);
        let heads = [0, 1, 2].map(|_| {
            let y = w.linear(normed, [SIZE, SIZE]);
            let y = w.push(&format!("reshape %{y} {{shape=[n,t,4,16]}}"));
            w.push(&format!("transpose %{y} {{perm=[0,2,1,3]}}"))
        });
        let [q, k, v] = heads;
        let y = w.push(&format!("attention %{q} %{k} %{v} {{scale=0.25, causal=true}}"));
        let y = w.push(&format!("transpose %{y} {{perm=[0,2,1,3]}}"));
        let y = w.push(&format!("reshape %{y} {{shape=[n,t,{SIZE}]}}"));
        let y = w.linear(y, [SIZE, SIZE]);
        x = w.push(&format!("add %{x} %{y}"));
        let normed = w.norm(x, SIZE);
        let y = w.linear(normed, [SIZE, 4 * SIZE]);
        let y = w.push(&format!("activation %{y} {{f=gelu}}"));
        let y = w.linear(y, [4 * SIZE, SIZE]);
        x = w.push(&format!("add %{x} %{y}"));
    }
    w.push(&format!("softmax %{x} {{axis=2}}"));
    w.graph("transformer", "f32[n,t,64]", "f32[n,t,64]")
}

/// Two inverted residuals (Sandler et al., arXiv 1801.04381), the second with a stride.
pub fn mobilenet() -> Graph {
    let mut w = Writer::new();
    let mut x = w.conv_relu(0, [3, 16, 3, 2, 1]);
    for (to, stride) in [(16, 1), (24, 2)] {
        let wide = w.conv_relu(x, [16, 96, 1, 1, 1]);
        let deep = w.conv_relu(wide, [96, 96, 3, stride, 96]);
        let y = w.conv(deep, [96, to, 1, 1, 1]);
        x = if to == 16 { w.push(&format!("add %{x} %{y}")) } else { y };
    }
    let y = w.push(&format!("reduce %{x} {{op=sum, axes=[2,3]}}"));
    w.linear(y, [24, 10]);
    w.graph("mobilenet", "f32[2,3,33,33]", "f32[2,10]")
}
