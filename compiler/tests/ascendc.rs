//! Random instances of operators as Ascend C kernels, run on the model of the chip, against the interpreter.
#![allow(clippy::unwrap_used)]

#[path = "../../passes/tests/common/mod.rs"]
mod common;
mod emitted_mutants;
mod families;
mod networks;

use aic::ascend::{self, Compiled, Step};
use aic::driver;
use aic::package;
use aic::verify::{self, Compiler};
use aic_backends::ascendc::MODEL;
use aic_backends::ascendc::emulator::{KernelFile, Settings};
use aic_ir::error::Result;
use aic_ir::graph::Graph;
use aic_ir::op::{Op, Operand, Rng, Values};
use aic_ir::program::Program;
use aic_ir::target::Target;
use aic_ir::tensor::Tensor;
use aic_passes::pipeline::Options;
use aic_passes::runner::Numerics;
use common::{difference, one_node};
use families::{FAMILIES, INTEGERS};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

struct Case {
    what: String,
    compiled: Compiled,
    /// Inputs, and what they must give.
    runs: Vec<(Vec<Tensor>, Vec<Tensor>)>,
}

impl Case {
    /// A graph compiled for the chip, under names of its own.
    fn new(k: usize, what: String, graph: Graph, x: Vec<Tensor>, want: Vec<Tensor>) -> Result<Case> {
        Case::compiled(&Options::new(Target::ascend_910b3()), k, what, graph, x, want)
    }

    fn compiled(
        options: &Options,
        k: usize,
        what: String,
        graph: Graph,
        x: Vec<Tensor>,
        want: Vec<Tensor>,
    ) -> Result<Case> {
        let target = Target::ascend_910b3();
        let mut program = aic_passes::pipeline::compile(graph, options)?;
        program.kernels.iter_mut().for_each(|kernel| kernel.name = format!("c{k}_{}", kernel.name));
        let mut compiled = ascend::compile(program, &target)?;
        for f in &mut compiled.functions {
            let name = format!("c{k}_{}", f.name);
            f.text = f.text.replace(&f.name, &name);
            f.name = name;
        }
        Ok(Case { what, compiled, runs: vec![(x, want)] })
    }

    /// Why steps aren't kernels of the chip.
    fn on_host(&self) -> Vec<String> {
        let reason = |s: &Step| match s {
            Step::Host { reason, .. } => Some(format!("{}: {reason}", self.what)),
            _ => None,
        };
        self.compiled.steps.iter().filter_map(reason).collect()
    }
}

/// What is wrong with cases on the model, in three orders of execution, on their inputs in turn.
fn failures(cases: &[Case]) -> Vec<String> {
    let all: Vec<Compiled> = cases.iter().map(|c| c.compiled.clone()).collect();
    let emulator = ascend::model::emulator(&all).unwrap();
    let mut wrong = Vec::new();
    for c in cases {
        for seed in 0..3 {
            let (x, want) = &c.runs[seed % c.runs.len()];
            let job = ascend::model::job(&c.compiled, x).unwrap();
            let settings = Settings { seed: seed as u64 + 1, ..Settings::default() };
            let (got, outcome) = match ascend::model::run(&c.compiled, &emulator, &job, &settings) {
                Ok(r) => r,
                Err(e) => {
                    wrong.push(format!("{}: {e}", c.what));
                    continue;
                }
            };
            let said =
                outcome.violations.iter().map(|v| format!("{}: {} {} {}", c.what, v.rule, v.place, v.text));
            wrong.extend(said);
            let differing = want.iter().zip(&got).filter_map(|(a, b)| difference(a, b));
            wrong.extend(differing.map(|d| format!("{}: {d}", c.what)));
        }
    }
    wrong
}

#[test]
fn operators_on_the_model() {
    let mut cases: Vec<Case> = Vec::new();
    for (name, sample) in Op::SAMPLERS {
        for seed in 0..if *name == "elementwise" { 12 } else { 2 } {
            let mut rng = Rng::new(seed);
            let s = sample(&mut rng);
            let x: Vec<Tensor> = s.operands.iter().map(|o| rng.tensor(o).unwrap()).collect();
            let want = s.op.eval(&x).unwrap();
            let Ok(graph) = one_node(&s, false) else { continue };
            // Some operators have no kernels for any machine.
            cases.extend(Case::new(cases.len(), format!("{name} seed {seed}"), graph, x, want));
        }
    }
    let wrong = failures(&cases);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let on_host: Vec<String> = cases.iter().flat_map(Case::on_host).collect();
    let n_on_chip = cases.iter().filter(|c| c.on_host().is_empty()).count();
    assert!(n_on_chip > 30, "only {n_on_chip} are on the chip; not {}", on_host.join(", "));
}

/// Graphs of odd shapes: products with what follows them on vector cores, convolutions with and without padding, attention,
/// norms, rows, transpositions, in all float types.
const NETWORKS: &[&str] = &[
    "graph(%0 \"a\": f16[33,57], %1 \"b\": f16[57,41], %2 \"bias\": f16[41]) -> f16[33,41] {
  %3 = matmul %0 %1
  %4 = add %3 %2
  %5 = relu %4
  return %5
}",
    "graph(%0 \"a\": bf16[31,64], %1 \"b\": bf16[64,32]) -> bf16[31,32] {
  %2 = matmul %0 %1
  return %2
}",
    "graph(%0 \"x\": f32[5,33]) -> f32[5,33] {
  %1 = erf %0
  %2 = mul %0 %1
  %3 = tanh %2
  %4 = sigmoid %3
  return %4
}",
    "graph(%0 \"x\": bf16[1031], %1 \"y\": bf16[1031]) -> bf16[1031] {
  %2 = add %0 %1
  %3 = relu %2
  return %3
}",
    "graph(%0 \"x\": f32[7,131]) -> f32[7,131] {
  %1 = softmax %0 {axis=1}
  return %1
}",
    "graph(%0 \"x\": f32[9,131]) -> f32[9] {
  %1 = reduce %0 {axes=[1], op=sum}
  return %1
}",
    "graph(%0 \"a\": f16[65,130], %1 \"b\": f16[130,70], %2 \"bias\": f16[70]) -> f16[65,70] {
  %3 = matmul %0 %1
  %4 = add %3 %2
  %5 = sigmoid %4
  %6 = mul %4 %5
  return %6
}",
    "graph(%0 \"a\": f32[33,57], %1 \"b\": f32[57,41], %2 \"bias\": f32[41]) -> f32[33,41] {
  %3 = matmul %0 %1
  %4 = add %3 %2
  %5 = relu %4
  return %5
}",
    "graph(%0 \"x\": f32[2,5,9,11], %1 \"w\": f32[7,5,3,3]) -> f32[2,7,5,6] {
  %2 = conv %0 %1 {dilations=[1, 1], groups=1, pads=[1, 1, 1, 1], strides=[2, 2]}
  %3 = relu %2
  return %3
}",
    "graph(%0 \"x\": f16[1,9,11,19], %1 \"w\": f16[3,3,19,33]) -> f16[1,7,9,33] {
  %2 = channels_last_conv %0 %1 {dilations=[1, 1], groups=1, pads=[0, 0, 0, 0], strides=[1, 1]}
  return %2
}",
    "graph(%0 \"x\": f32[1,9,11,33], %1 \"w\": f32[3,3,1,33]) -> f32[1,9,11,33] {
  %2 = channels_last_conv %0 %1 {dilations=[1, 1], groups=33, pads=[1, 1, 1, 1], strides=[1, 1]}
  return %2
}",
    "graph(%0 \"x\": f32[1,9,11,33]) -> f32[1,5,6,33] {
  %1 = channels_last_pool %0 {dilations=[1, 1], kernel=[3, 3], op=max, pads=[1, 1, 1, 1], strides=[2, 2]}
  return %1
}",
    "graph(%0 \"q\": f32[2,37,24], %1 \"k\": f32[2,37,24], %2 \"v\": f32[2,37,24]) -> f32[2,37,24] {
  %3 = transpose %1 {perm=[0, 2, 1]}
  %4 = matmul %0 %3
  %5 = softmax %4 {axis=2}
  %6 = matmul %5 %2
  return %6
}",
    "graph(%0 \"x\": f16[3,70,90]) -> f16[3,90,70] {
  %1 = transpose %0 {perm=[0, 2, 1]}
  return %1
}",
    "graph(%0 \"x\": f32[1,5,15,33], %1 \"v\": f32[]) -> f32[1,7,17,33] {
  %2 = pad %0 %1 {hi=[0, 1, 1, 0], interior=[0, 0, 0, 0], lo=[0, 1, 1, 0], mode=constant}
  return %2
}",
];

#[test]
fn networks_on_the_model() {
    let mut cases: Vec<Case> = Vec::new();
    for (k, text) in NETWORKS.iter().enumerate() {
        let graph = aic_ir::text::parse_graph(text).unwrap();
        let mut rng = Rng::new(k as u64);
        let operand = |v| {
            let ty = graph.ty(v);
            let shape = ty.dims.iter().map(|d| d.as_const().unwrap() as usize).collect();
            Operand { dtype: ty.dtype, shape, values: Values::Finite }
        };
        let x: Vec<Tensor> = graph.inputs.iter().map(|p| rng.tensor(&operand(p.value)).unwrap()).collect();
        let want = aic_ir::eval::graph(&graph, &x).unwrap();
        cases.push(Case::new(k, format!("network {k}"), graph, x, want).unwrap());
    }
    let mut wrong = failures(&cases);
    wrong.extend(cases.iter().flat_map(Case::on_host));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// One element, a repeat of the vector unit's 32 bytes less one, whole, and one more, primes.
const EXTENTS: [usize; 6] = [1, 31, 32, 33, 7, 67];

/// All families in all types of floats, products in integers too, at extents drawn for each; three inputs, each executed in
/// an order of its own.
#[test]
fn families_at_odd_extents() {
    let (mut cases, mut families, mut rng) = (Vec::new(), Vec::new(), Rng::new(7));
    let floats = FAMILIES.iter().flat_map(|(family, texts)| texts.iter().map(move |t| (*family, *t)));
    let floats = floats.flat_map(|(f, t)| ["f32", "f16", "bf16"].map(|dtype| (f, t, dtype)));
    let integers = INTEGERS.iter().map(|t| ("i8", *t, "i8"));
    for (family, text, dtype) in floats.chain(integers) {
        let [n, m] = [0, 0].map(|_| rng.pick(&EXTENTS));
        let Some(g) = families::instance(text, dtype, [n, m]) else { continue };
        let x = families::inputs(&g, &mut rng, Values::Between(-2, 3));
        let Ok(want) = aic_ir::eval::graph(&g, &x) else { continue };
        let what = format!("{family} {dtype} N={n} M={m} {text}");
        let mut case = Case::new(cases.len(), what, g.clone(), x, want).unwrap();
        for _ in 0..2 {
            let x = families::inputs(&g, &mut rng, Values::Between(-2, 3));
            let want = aic_ir::eval::graph(&g, &x).unwrap();
            case.runs.push((x, want));
        }
        cases.push(case);
        families.push(family);
    }
    let wrong = failures(&cases);
    let mut counts: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
    for (case, family) in cases.iter().zip(&families) {
        let [all, on_chip] = counts.entry(family).or_default();
        *all += 1;
        *on_chip += usize::from(case.on_host().is_empty());
    }
    for (family, [all, on_chip]) in &counts {
        println!("{family}: {all} cases on three inputs, {on_chip} without a step for the host");
    }
    cases
        .iter()
        .flat_map(Case::on_host)
        .for_each(|line| println!("{}", line.chars().take(300).collect::<String>()));
    let n_on_chip: usize = counts.values().map(|[_, n]| n).sum();
    let is_right = |c: &&Case| wrong.iter().all(|w| !w.starts_with(&c.what));
    println!("{} of {} right", cases.iter().filter(is_right).count(), cases.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(n_on_chip * 4 >= cases.len() * 3, "only {n_on_chip} of {} are on the chip", cases.len());
}

/// Norms and rows of several sums: what is fused under exact numerics has the bits of the operators apart.
#[test]
fn exact_numerics_keep_the_bits_of_level_0() {
    let texts = [
        "(%0: f32[9,N]) -> f32[9,N] {
           %1 = reduce %0 {axes=[1], op=sum} %2 = reshape %1 {shape=[9,1]} %3 = div %0 %2 %4 = exp %3 return %4 }",
        "(%0: f32[5,N]) -> f32[5,N] {
           %1 = exp %0 %2 = reduce %1 {axes=[1], op=sum} %3 = reshape %2 {shape=[5,1]} %4 = sub %1 %3 return %4 }",
        "(%0: f32[7,N]) -> f32[7,N] { %1 = softmax %0 {axis=1} return %1 }",
        "(%0: f32[1,5,9,7], %1: f32[7,5,3,3]) -> f32[1,7,9,7] {
           %2 = relu %0 %3 = conv %2 %1 {strides=[1,1], dilations=[1,1], pads=[1,1,1,1], groups=1}
           %4 = tanh %3 return %4 }",
    ];
    let (mut cases, mut rng) = (Vec::new(), Rng::new(5));
    for (text, n) in texts.iter().flat_map(|t| [64, 131, 2100].map(|n| (t, n))) {
        if n > 64 && !text.contains('N') {
            continue;
        }
        let g = aic_ir::text::parse_graph(&format!("graph{}", text.replace('N', &n.to_string()))).unwrap();
        let x = families::inputs(&g, &mut rng, Values::Finite);
        for level in [0, 2] {
            let options =
                Options { level, numerics: Numerics::Exact, ..Options::new(Target::ascend_910b3()) };
            let want = aic_ir::eval::graph(&g, &x).unwrap();
            let what = format!("level {level} N={n} {text}");
            cases.push(Case::compiled(&options, cases.len(), what, g.clone(), x.clone(), want).unwrap());
        }
    }
    let all: Vec<Compiled> = cases.iter().map(|c| c.compiled.clone()).collect();
    let emulator = ascend::model::emulator(&all).unwrap();
    let run = |c: &Case| {
        let job = ascend::model::job(&c.compiled, &c.runs[0].0).unwrap();
        ascend::model::run(&c.compiled, &emulator, &job, &Settings::default()).unwrap().0
    };
    for pair in cases.chunks(2) {
        let [a, b] = [&pair[0], &pair[1]].map(run);
        assert!(a.iter().zip(&b).all(|(a, b)| a.bytes() == b.bytes()), "{}", pair[1].what);
    }
}

/// The kernels of `docs/ASCEND.md` by their headings.
const DOCUMENTED: [(&str, &str); 3] = [
    ("add", "(%0: f16[8192,8192], %1: f16[8192,8192]) -> f16[8192,8192] { %2 = add %0 %1 return %2 }"),
    ("softmax", "(%0: f32[2048,1000]) -> f32[2048,1000] { %1 = softmax %0 {axis=1} return %1 }"),
    (
        "matmul + bias + gelu",
        "(%0: f16[2048,768], %1: f16[768,3072], %2: f16[3072]) -> f16[2048,3072] {
           %3 = matmul %0 %1 %4 = add %3 %2 %5 = activation %4 {f=gelu} return %5 }",
    ),
];

#[test]
fn the_documentation_shows_what_is_emitted() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/ASCEND.md");
    let mut page = std::fs::read_to_string(&path).unwrap();
    let target = Target::ascend_910b3();
    for (title, text) in DOCUMENTED {
        let graph = aic_ir::text::parse_graph(&format!("graph{text}")).unwrap();
        let program = aic_passes::pipeline::compile(graph, &Options::new(target.clone())).unwrap();
        let compiled = ascend::compile(program, &target).unwrap();
        let [kernel] = &compiled.kernels[..] else { panic!("{title} is {} kernels", compiled.kernels.len()) };
        let emitted = &kernel.text[kernel.text.find("#include").unwrap()..];
        let heading = page.find(&format!("## `{title}`")).unwrap();
        let begin = heading + page[heading..].find("```cpp\n").unwrap() + 7;
        let end = begin + page[begin..].find("```").unwrap();
        if std::env::var_os("AIC_BLESS").is_some() {
            page.replace_range(begin..end, emitted);
            std::fs::write(&path, &page).unwrap();
            continue;
        }
        assert_eq!(&page[begin..end], emitted, "{title} is emitted otherwise; AIC_BLESS=1 writes it anew");
    }
}

/// A program that runs an artifact once: inputs from files `x0`, `x1`, ..., outputs to `y0`, ...
const MAIN: &str = r#"
int main() {
    aic_session* s;
    if (aic_open(nullptr, &s)) return puts(aic_error(nullptr)), 1;
    const aic_model_info* info = aic_info();
    std::vector<std::vector<char>> data(info->n_inputs);
    std::vector<aic_tensor> x(info->n_inputs), y(info->n_outputs);
    for (uint32_t k = 0; k < info->n_inputs; ++k) {
        std::ifstream file("x" + std::to_string(k), std::ios::binary);
        data[k].assign(std::istreambuf_iterator<char>(file), {});
        x[k] = {data[k].data(), info->inputs[k].dims, info->inputs[k].rank, info->inputs[k].dtype};
    }
    for (int run = 0; run < 2; ++run)
        if (aic_run(s, x.data(), x.size(), y.data(), y.size())) return puts(aic_error(s)), 1;
    for (uint32_t k = 0; k < info->n_outputs; ++k) {
        std::ofstream("y" + std::to_string(k), std::ios::binary)
            .write((const char*)y[k].data, model_buffers[output_buffers[k]].bytes);
    }
    x[0].rank += 1;
    if (aic_run(s, x.data(), x.size(), y.data(), y.size()) != AIC_INVALID) return puts("a wrong rank is taken"), 1;
    aic_close(s);
    return device().n_violations;
}
"#;

/// Compiles an artifact against the model's own ACL, and runs it.
fn run_artifact(c: &Compiled, inputs: &[Tensor]) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    package::ascend::write(c, &Target::ascend_910b3(), folder.path()).unwrap();
    std::fs::create_dir(at("register")).unwrap();
    for (name, text) in MODEL {
        std::fs::write(at(name), text).unwrap();
    }
    std::fs::create_dir(at("acl")).unwrap();
    std::fs::write(at("acl/acl.h"), include_str!("programs/acl.h")).unwrap();
    for k in &c.kernels {
        let n = KernelFile::parse("k.cpp".into(), k.text.clone()).unwrap().args.len();
        let params: String = (0..n).map(|a| format!(", uint8_t* a{a}")).collect();
        let args = (0..n).map(|a| format!("a{a}")).collect::<Vec<_>>().join(", ");
        let (name, task, lambda) = (&k.name, k.task.keyword(), "[=]");
        let text = format!(
            "namespace kernel_{name} {{\n#include \"kernels/{name}.cpp\"\n}}\n\
             inline void aclrtlaunch_{name}(uint32_t blocks, aclrtStream{params}) {{\n\
             device().launch(\"{task}\", blocks, {lambda} {{ kernel_{name}::{name}({args}); }});\n}}\n"
        );
        std::fs::write(at(&format!("aclrtlaunch_{name}.h")), text).unwrap();
    }
    let launcher = std::fs::read_to_string(at("model.cpp")).unwrap();
    std::fs::write(at("model.cpp"), launcher + MAIN).unwrap();
    for (k, x) in inputs.iter().enumerate() {
        std::fs::write(at(&format!("x{k}")), x.bytes()).unwrap();
    }
    let mut cxx = Command::new("c++");
    cxx.current_dir(folder.path()).args(["-std=c++20", "-O1", "-w", "-I.", "model.cpp", "-o", "program"]);
    let built = cxx.args((!c.functions.is_empty()).then_some("host.cpp")).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let ran = Command::new(at("program")).current_dir(folder.path()).output().unwrap();
    assert!(
        ran.status.success(),
        "{}{}",
        String::from_utf8_lossy(&ran.stdout),
        String::from_utf8_lossy(&ran.stderr)
    );
    (0..c.program.outputs.len()).map(|k| std::fs::read(at(&format!("y{k}"))).unwrap()).collect()
}

#[test]
fn the_digits_classifier_and_its_artifact() {
    let imported = networks::digits();
    let shape = |p: &aic_ir::graph::Port| driver::smallest_shape(imported.ty(p.value)).unwrap();
    let of = |p: &aic_ir::graph::Port| aic::io::random(imported.ty(p.value).dtype, shape(p), 1).unwrap();
    let x: Vec<Tensor> = imported.inputs.iter().map(of).collect();
    let graph = ascend::specialise(&imported, &x).unwrap();
    let want = aic_ir::eval::graph(&graph, &x).unwrap();
    let case = Case::new(0, "digits".into(), graph, x, want).unwrap();
    let mut wrong = failures(std::slice::from_ref(&case));
    let (x, want) = &case.runs[0];
    for (port, (bytes, want)) in
        case.compiled.program.outputs.iter().zip(run_artifact(&case.compiled, x).into_iter().zip(want))
    {
        let got = Tensor::new(port.ty.dtype, want.shape().to_vec(), bytes.into()).unwrap();
        wrong.extend(difference(want, &got).map(|d| format!("the artifact: {d}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Checks a network on the inputs of a seed, as `aic verify` does; so many steps are the host's.
fn check_network(graph: &Graph, seed: u64, n_on_host: usize) {
    let options = driver::Options { device: Some(Target::ascend_910b3()), ..driver::Options::default() };
    let load = |p: &Program, _: &driver::Options| {
        let compiled = ascend::compile(p.clone(), &Target::ascend_910b3())?;
        let on_host = compiled.steps.iter().filter(|s| matches!(s, Step::Host { .. })).count();
        assert_eq!(on_host, n_on_host, "{} steps are the host's", graph.name);
        println!("{}: {} steps of {} kernels", graph.name, compiled.steps.len(), compiled.kernels.len());
        let model = ascend::Model::new(compiled, Settings::default())?;
        Ok(Box::new(move |x: &[Tensor]| model.run(x)) as verify::Run)
    };
    let compiler = Compiler::new(&options, &load).unwrap();
    let case = verify::generate(graph, seed, options.numerics, false).unwrap();
    let known = ascend::specialise(graph, &case.inputs).unwrap();
    for found in verify::outputs(&known, &compiler, &[case]).unwrap().iter().flatten() {
        println!("  {:.1e} of the largest, {:.3} of the tolerance", found.max_rel, found.ratio);
        assert!(!found.is_wrong(), "{found}");
    }
}

#[test]
fn squeezenet() {
    check_network(&networks::squeezenet(), 1, 0);
}

#[test]
fn transformer() {
    // Of one token, whose attention has a maximum of one element in each layer.
    check_network(&networks::transformer(), 0, 2);
    check_network(&networks::transformer(), 1, 0);
}

#[test]
fn mobilenet() {
    check_network(&networks::mobilenet(), 1, 0);
}
