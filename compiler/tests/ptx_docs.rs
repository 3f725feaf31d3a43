//! The kernels in `docs/CUDA.md` are those that are emitted today; `AIC_BLESS=1` writes them anew.
//!
//! A block of code there that begins with "```kernel NAME" is the loop IR of a graph here, one with "```ptx NAME" what its
//! PTX does to memory and among threads, between which arithmetic is only counted.
#![cfg(feature = "llvm")]
#![allow(clippy::unwrap_used)]

use aic_backends::ptx;
use aic_ir::kernel::Kernel;
use aic_ir::target::Target;
use aic_ir::text::parse_graph;
use aic_passes::pipeline::{self, Options};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Name, target and text.
const GRAPHS: [(&str, &str, &str); 4] = [
    ("softmax", "sm_80", "(%0: f32[4096,1024]) -> f32[4096,1024] { %1 = softmax %0 {axis=1} return %1 }"),
    (
        "layernorm",
        "sm_80",
        "(%0: f32[4096,768], %1: f32[768], %2: f32[768]) -> f32[4096,768] {
           %3 = normalize %0 {axes=[1], epsilon=1e-5, center=true} %4 = mul %3 %1 %5 = add %4 %2 return %5 }",
    ),
    (
        "matmul_gelu",
        "sm_80",
        "(%0: f16[2048,768], %1: f16[768,3072], %2: f16[3072]) -> f16[2048,3072] {
           %3 = matmul %0 %1 %4 = add %3 %2 %5 = activation %4 {f=gelu} return %5 }",
    ),
    (
        "matmul_groups",
        "sm_90a",
        "(%0: bf16[4096,4096], %1: bf16[4096,4096]) -> bf16[4096,4096] { %2 = matmul %0 %1 return %2 }",
    ),
];

/// Characters of an instruction that are shown.
const WIDTH: usize = 160;

/// The longest sequence of lines whose repetition is said instead of shown.
const LONGEST: usize = 8;

/// The one kernel of a graph, named as the graph, and its target.
fn kernel(name: &str) -> (Kernel, Target) {
    let (_, target, text) = GRAPHS.iter().find(|(n, ..)| *n == name).unwrap();
    let (graph, target) = (parse_graph(&format!("graph{text}")).unwrap(), Target::named(target).unwrap());
    let mut program = pipeline::compile(graph, &Options::new(target.clone())).unwrap();
    assert_eq!(program.kernels.len(), 1, "{name}");
    (Kernel { name: name.into(), ..program.kernels.remove(0) }, target)
}

/// A line of an excerpt, and what makes it equal to others: its opcode.
struct Line {
    text: String,
    key: String,
}

/// Whether an instruction is about memory or other threads, or a jump.
fn is_shown(opcode: &str) -> bool {
    let shown = [
        "wgmma",
        "fence",
        "ld.global",
        "st.global",
        "ld.shared",
        "st.shared",
        "cp.async",
        "ldmatrix",
        "mma",
        "shfl",
        "mbarrier",
        "setmaxnreg",
        "elect",
        "bar",
    ];
    shown.iter().any(|s| opcode.starts_with(s)) || opcode == "bra" || opcode == "ret"
}

/// The instructions of a kernel that are shown, and between them the number of those that compute with floats.
fn lines(ptx: &str) -> Vec<Line> {
    let (head, body) = ptx[ptx.find(".visible .entry").unwrap()..].split_once('{').unwrap();
    let threads = head.lines().find(|l| l.starts_with(".reqntid")).unwrap();
    let mut out = vec![Line { text: threads.into(), key: String::new() }];
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let code: Vec<&str> = body.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
    for statement in code.join("\n").replace(":\n", ":;").split(';') {
        let words: Vec<&str> = statement.split_whitespace().filter(|w| !w.starts_with('@')).collect();
        let Some(opcode) = words.first() else { continue };
        let label = opcode.ends_with(':');
        if !label && !is_shown(opcode) {
            let stem = ["add", "sub", "mul", "fma", "div", "max", "min", "sqrt", "rcp", "ex2"];
            let float = [".f32", ".f16", ".f16x2"].iter().any(|t| opcode.ends_with(t));
            let found = stem.iter().find(|s| float && opcode.split('.').next() == Some(s));
            found.into_iter().for_each(|s| *counts.entry(s).or_default() += 1);
            continue;
        }
        let said: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
        if !said.is_empty() {
            let text = format!("        // {}", said.join(", "));
            out.push(Line { key: text.clone(), text });
        }
        counts.clear();
        let mut text = statement.split_whitespace().collect::<Vec<_>>().join(" ");
        if text.len() > WIDTH {
            text.replace_range(WIDTH.., " ..");
        }
        out.push(match label {
            true => Line { key: text.clone(), text },
            false => Line { key: (*opcode).into(), text: format!("        {text};") },
        });
    }
    out
}

/// The lines, of which those that are repeated are shown once.
fn excerpt(lines: &[Line]) -> String {
    let (mut out, mut at) = (String::new(), 0);
    while at < lines.len() {
        let equal = |a: usize, b: usize, n: usize| (0..n).all(|k| lines[a + k].key == lines[b + k].key);
        let times = |n: usize| {
            1 + (1..).take_while(|t| at + (t + 1) * n <= lines.len() && equal(at, at + t * n, n)).count()
        };
        let best = (1..=LONGEST)
            .filter(|n| at + n <= lines.len())
            .max_by_key(|n| (n * (times(*n) - 1), LONGEST - n))
            .unwrap();
        let (n, times) = if times(best) > 2 { (best, times(best)) } else { (1, 1) };
        lines[at..at + n].iter().for_each(|l| writeln!(out, "{}", l.text).unwrap());
        match (n, times) {
            (_, 1) => {}
            (1, _) => writeln!(out, "        // and {} more of it", times - 1).unwrap(),
            _ => writeln!(out, "        // these {n} lines {} times more", times - 1).unwrap(),
        }
        at += n * times;
    }
    out
}

/// What belongs between the fences of a block of code with this first line, if it is one of ours.
fn block(info: &str) -> Option<String> {
    let (kind, name) = info.strip_prefix("```")?.split_once(' ')?;
    let (kernel, target) = kernel(name);
    match kind {
        "kernel" => Some(format!("{kernel}").trim_end().to_owned() + "\n"),
        "ptx" => {
            let module = ptx::optimized(std::slice::from_ref(&kernel), &target).unwrap();
            Some(excerpt(&lines(&ptx::assemble(&module, &target).unwrap())))
        }
        _ => None,
    }
}

#[test]
fn kernels_of_docs_are_todays() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/CUDA.md");
    let found = std::fs::read_to_string(&path).unwrap();
    let (mut want, mut n_blocks, mut rest) = (String::new(), 0, found.lines());
    while let Some(line) = rest.next() {
        writeln!(want, "{line}").unwrap();
        if let Some(text) = block(line) {
            n_blocks += 1;
            writeln!(want, "{text}```").unwrap();
            rest.by_ref().find(|l| *l == "```").unwrap();
        }
    }
    assert_eq!(n_blocks, 2 * GRAPHS.len());
    if std::env::var_os("AIC_BLESS").is_some() {
        return std::fs::write(&path, want).unwrap();
    }
    assert!(want == found, "run this test with AIC_BLESS=1");
}
