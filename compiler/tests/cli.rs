//! The command `aic` as its users meet it: what it prints, what it writes, and how it refuses.

#![allow(clippy::unwrap_used)]

use aic::io::{Format, Kind, Port, Value, write_outputs};
use aic_ir::dtype::DType;
use aic_ir::tensor::Tensor;
use serde_json::Value as Json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// The backends of this build that compile.
fn compilers() -> impl Iterator<Item = &'static str> {
    aic_backends::available().map(|b| b.name)
}

/// What computes models in this build.
fn backends() -> impl Iterator<Item = &'static str> {
    ["reference"].into_iter().chain(compilers())
}

struct Outcome {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs `aic` in a folder.
fn aic(folder: &Path, args: &[&str]) -> Outcome {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aic"));
    // What this user has tuned is none of the tests' business.
    let output = command.args(args).current_dir(folder).env("XDG_CACHE_HOME", folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Outcome { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// What `aic` prints where it succeeds.
fn stdout(folder: &Path, args: &[&str]) -> String {
    let outcome = aic(folder, args);
    assert_eq!(outcome.code, Some(0), "{args:?}: {}", outcome.stderr);
    outcome.stdout
}

/// The message where `aic` refuses: on standard error, with exit code 1, and whole.
fn refusal(folder: &Path, args: &[&str]) -> String {
    let Outcome { code, stderr, .. } = aic(folder, args);
    assert_eq!(code, Some(1), "{args:?}: {stderr}");
    assert!(stderr.starts_with("error: "), "{args:?}: {stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("internal error"), "{stderr}");
    stderr
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn digits() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/models/digits")
}

fn digits_onnx() -> String {
    digits().join("digits.onnx").display().to_string()
}

/// A graph JSON file with these inputs, nodes and initializers; the output is `y`.
fn model(folder: &Path, inputs: Json, nodes: Json, initializers: Json) -> String {
    let graph = serde_json::json!({
        "graph": {"inputs": inputs, "outputs": ["y"], "nodes": nodes, "initializers": initializers}
    });
    let path = folder.join("model.json");
    fs::write(&path, graph.to_string()).unwrap();
    path.display().to_string()
}

fn node(op: &str, inputs: &[&str], output: &str) -> Json {
    serde_json::json!({"op_type": op, "name": format!("the_{output}"), "inputs": inputs, "outputs": [output]})
}

/// `y = x + x`, with `x: f32[rows, 2]`.
fn double(folder: &Path) -> String {
    let x = serde_json::json!([{"name": "x", "dtype": "float32", "shape": ["rows", 2]}]);
    model(folder, x, Json::Array(vec![node("Add", &["x", "x"], "y")]), Json::Array(vec![]))
}

/// Writes `NAME.npy` or `input_0.pb`.
fn write(folder: &Path, format: Format, name: &str, t: &Tensor) {
    let port = Port { name: name.into(), kind: Kind::Tensor(None) };
    write_outputs(folder, format, &[port], &[Value::Tensor(t.clone())]).unwrap();
    if format == Format::Pb {
        fs::rename(folder.join("output_0.pb"), folder.join("input_0.pb")).unwrap();
    }
}

fn read_npy(path: &Path) -> Tensor {
    let port = Port { name: "t".into(), kind: Kind::Tensor(None) };
    let given = aic::io::read_inputs(&[format!("t={}", path.display())], &[port]).unwrap();
    match &given.values["t"] {
        Value::Tensor(t) => t.clone(),
        other => panic!("{other:?}"),
    }
}

fn picture(name: &str) -> Vec<f32> {
    let file = std::io::BufReader::new(fs::File::open(digits().join(name)).unwrap());
    let mut reader = png::Decoder::new(file).read_info().unwrap();
    let mut grey = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut grey).unwrap();
    grey.iter().map(|&g| f32::from(g) / 255.0).collect()
}

#[test]
fn help_teaches() {
    let here = folder();
    let help = stdout(here.path(), &["--help"]);
    for command in
        ["run", "compile", "check", "info", "opt", "verify", "bisect", "ops", "convert", "bench", "profile"]
    {
        assert!(help.contains(&format!("\n  {command} ")), "{command}");
        let help = stdout(here.path(), &[command, "--help"]);
        assert!(help.contains(&format!("Examples:\n  aic {command}")), "{command}");
    }
    assert!(stdout(here.path(), &["--version"]).starts_with("aic "));
}

#[test]
fn a_wrong_command_line_is_refused() {
    let here = folder();
    assert!(refusal(here.path(), &["comple"]).contains("compile"));
    assert!(refusal(here.path(), &["run", "m.onnx", "--bakend", "x86"]).contains("--backend"));
    assert!(refusal(here.path(), &["run", "m.onnx", "--backend", "cuda"]).contains("reference"));
    assert!(refusal(here.path(), &["run", "m.onnx", "--dim", "batch"]).contains("batch=8"));
    assert!(refusal(here.path(), &["run"]).contains("<MODEL>"));
    assert!(refusal(here.path(), &["opt"]).contains("<MODEL>"));
    assert!(refusal(here.path(), &["compile", "m.onnx", "-o", "m"]).contains("does not say what to emit"));
    let target =
        refusal(here.path(), &["compile", "m.onnx", "-o", "m.so", "--target", "riscv64-unknown-linux-gnu"]);
    assert!(target.contains("x86_64-unknown-linux-gnu"));
    assert_eq!(aic(here.path(), &[]).code, Some(1));
}

#[test]
fn a_file_that_is_no_model_is_refused() {
    let here = folder();
    for command in [&["run"][..], &["check"], &["info"], &["opt"], &["bench"], &["compile", "-o", "m.so"]] {
        let absent = refusal(here.path(), &[command, &["absent.onnx"]].concat());
        assert!(absent.contains("absent.onnx: cannot be read"), "{absent}");
    }
    let bytes = fs::read(digits().join("digits.onnx")).unwrap();
    for len in [0, 1, 100, bytes.len() / 2, bytes.len() - 1] {
        fs::write(here.path().join("short.onnx"), &bytes[..len]).unwrap();
        let message = refusal(here.path(), &["run", "short.onnx"]);
        assert!(message.contains("short.onnx: "), "{len}: {message}");
    }
    assert!(refusal(here.path(), &["check", "."]).contains("found a folder"));
}

#[test]
fn every_unsupported_node_is_named() {
    let here = folder();
    let x = serde_json::json!([{"name": "x", "dtype": "float32", "shape": [2]}]);
    let nodes = vec![
        node("Frobnicate", &["x"], "a"),
        node("Relu", &["x"], "b"),
        node("Wobble", &["b"], "c"),
        node("Add", &["a", "c"], "d"),
        node("Jitter", &["d"], "y"),
    ];
    let path = model(here.path(), x, Json::Array(nodes), Json::Array(vec![]));
    let outcome = aic(here.path(), &["check", &path]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("3 nodes can't be imported"), "{}", outcome.stderr);
    let run = refusal(here.path(), &["run", &path]);
    for text in ["the_a", "Frobnicate", "the_c", "Wobble", "the_y", "Jitter"] {
        assert!(outcome.stdout.contains(text), "{}", outcome.stdout);
        assert!(run.contains(text), "{run}");
    }
    assert!(!outcome.stdout.contains("Relu"), "{}", outcome.stdout);
}

#[test]
fn malformed_models_are_refused() {
    let here = folder();
    let x = || serde_json::json!([{"name": "x", "dtype": "float32", "shape": [2]}]);
    let cycle = vec![node("Add", &["x", "b"], "a"), node("Relu", &["a"], "b"), node("Relu", &["b"], "y")];
    let path = model(here.path(), x(), Json::Array(cycle), Json::Array(vec![]));
    assert!(refusal(here.path(), &["run", &path]).contains("cycl"));
    let weight = serde_json::json!([
        {"name": "w", "dtype": "float32", "shape": [2], "external": {"location": "../secret.bin"}}
    ]);
    let path = model(here.path(), x(), Json::Array(vec![node("Add", &["x", "w"], "y")]), weight);
    assert!(refusal(here.path(), &["run", &path]).contains("../secret.bin"));
    let mixed = serde_json::json!([{"name": "w", "dtype": "int64", "data": [1, 2]}]);
    let path = model(here.path(), x(), Json::Array(vec![node("Add", &["x", "w"], "y")]), mixed);
    let message = refusal(here.path(), &["run", &path]);
    assert!(message.contains("the_y") && message.contains("i64"), "{message}");
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let here = folder();
    let path = double(here.path());
    let give = |t: &Tensor| write(here.path(), Format::Npy, "x", t);
    give(&Tensor::from_vec(vec![1, 2], &[1i64, 2]).unwrap());
    for backend in backends() {
        let message = refusal(here.path(), &["run", &path, "--backend", backend, "--inputs", "x=x.npy"]);
        assert!(message.contains("expected f32[rows,2], found i64[1, 2]"), "{message}");
    }
    give(&Tensor::from_vec(vec![1, 3], &[1f32, 2.0, 3.0]).unwrap());
    assert!(refusal(here.path(), &["run", &path, "--inputs", "x=x.npy"]).contains("found f32[1, 3]"));
    assert!(refusal(here.path(), &["run", &path, "--inputs", "xx=x.npy"]).contains("did you mean \"x\""));
    assert!(refusal(here.path(), &["run", &path, "--inputs", "nowhere"]).contains("nowhere"));
    assert!(
        refusal(here.path(), &["run", &path, "--dim", "m=2"]).contains("its symbolic dimensions are rows")
    );
    assert!(
        refusal(here.path(), &["run", &path, "--dim", "rows=1", "--dim", "rows=2"]).contains("two values")
    );
    fs::write(here.path().join("x.npy"), b"\x93NUMPY").unwrap();
    assert!(refusal(here.path(), &["run", &path, "--inputs", "x=x.npy"]).contains("x.npy: not a readable"));
}

#[test]
fn symbolic_dims_take_their_values_from_inputs() {
    let here = folder();
    let path = double(here.path());
    write(
        here.path(),
        Format::Npy,
        "x",
        &Tensor::from_vec(vec![3, 2], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap(),
    );
    for backend in backends() {
        let flags = ["--inputs", ".", "--outputs", "out", "--backend", backend];
        let text = stdout(here.path(), &[&["run", &path][..], &flags].concat());
        assert!(text.contains("y  f32[3,2]  min 2  max 12  mean 7"), "{text}");
        let y = read_npy(&here.path().join("out/y.npy"));
        assert_eq!(y.to_f64(), [2.0, 4.0, 6.0, 8.0, 10.0, 12.0]);
        assert!(
            stdout(here.path(), &["run", &path, "--backend", backend, "--dim", "rows=4"])
                .contains("f32[4,2]")
        );
    }
}

#[test]
fn messages_give_messages() {
    let here = folder();
    let path = double(here.path());
    let data = here.path().join("data");
    write(&data, Format::Pb, "x", &Tensor::from_vec(vec![1, 2], &[1f32, 2.0]).unwrap());
    stdout(here.path(), &["run", &path, "--inputs", "data", "--outputs", "out"]);
    let names: Vec<_> =
        fs::read_dir(here.path().join("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["output_0.pb"]);
}

#[test]
fn a_model_without_inputs_runs() {
    let here = folder();
    fs::create_dir(here.path().join("data")).unwrap();
    let w = serde_json::json!([{"name": "w", "dtype": "int64", "data": [1, 2]}]);
    let nodes = Json::Array(vec![node("Add", &["w", "w"], "y")]);
    let path = model(here.path(), Json::Array(vec![]), nodes, w);
    for backend in backends() {
        let flags = ["--inputs", "data", "--outputs", "out", "--backend", backend];
        assert!(stdout(here.path(), &[&["run", &path][..], &flags].concat()).contains("[2, 4]"));
        assert!(here.path().join("out/output_0.pb").exists());
    }
}

#[test]
fn the_classifier_gives_the_probabilities_expected() {
    let here = folder();
    let text = fs::read_to_string(digits().join("expected.json")).unwrap();
    let expected: serde_json::Map<String, Json> = serde_json::from_str(&text).unwrap();
    let pictures: Vec<f32> = expected.keys().flat_map(|name| picture(name)).collect();
    let t = Tensor::from_vec(vec![expected.len(), 1, 8, 8], &pictures).unwrap();
    write(here.path(), Format::Npy, "pictures", &t);
    let wanted: Vec<f64> = expected
        .values()
        .flat_map(|row| row.as_array().unwrap().iter().map(|p| p.as_f64().unwrap()))
        .collect();
    for backend in backends() {
        for threads in ["1", "2"] {
            let flags = ["--inputs", ".", "--outputs", "out", "--backend", backend, "--threads", threads];
            let strict: &[&str] = if backend == "reference" { &[] } else { &["--strict"] };
            stdout(here.path(), &[&["run", &digits_onnx()][..], &flags, strict].concat());
            let found = read_npy(&here.path().join("out/probabilities.npy"));
            assert_eq!((found.dtype(), found.shape()), (DType::F32, &[expected.len(), 10][..]));
            let error = found.to_f64().iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(error < 1e-4, "{backend} with {threads} threads: {error}");
        }
    }
}

#[test]
fn random_inputs_repeat() {
    let here = folder();
    let run = |seed: &str| stdout(here.path(), &["run", &digits_onnx(), "--seed", seed]);
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
}

#[test]
fn conversion_loses_nothing() {
    let here = folder();
    stdout(here.path(), &["convert", &digits_onnx(), "-o", "d.json"]);
    stdout(here.path(), &["convert", "d.json", "-o", "d.onnx"]);
    let read = |path: &Path| fs::read(path).unwrap();
    assert!(read(&here.path().join("d.onnx")) == read(&digits().join("digits.onnx")));
    let run = |model: &str| stdout(here.path(), &["run", model]);
    assert_eq!(run("d.json"), run(&digits_onnx()));
    assert!(refusal(here.path(), &["convert", "d.json", "-o", "d.txt"]).contains(".onnx or .json"));
}

#[test]
fn the_graph_is_printed_and_read_back() {
    let here = folder();
    let passes = stdout(here.path(), &["opt", "--list-passes"]);
    for pass in ["canonicalize", "fold", "dce"] {
        assert!(passes.contains(pass), "{passes}");
    }
    let path = double(here.path());
    let graph = stdout(here.path(), &["opt", &path, "--passes", ""]);
    assert!(graph.starts_with("graph ") && graph.contains("add %0 %0"), "{graph}");
    fs::write(here.path().join("g.aic"), &graph).unwrap();
    assert_eq!(stdout(here.path(), &["opt", "g.aic"]), graph);
    assert!(stdout(here.path(), &["run", "g.aic", "--dim", "rows=2"]).contains("f32[2,2]"));
    assert!(refusal(here.path(), &["opt", &path, "--passes", "fold,tidy"]).contains("unknown pass \"tidy\""));
    fs::write(here.path().join("g.aic"), "graph @g(").unwrap();
    assert!(refusal(here.path(), &["opt", "g.aic"]).contains("g.aic: 1:10"));
}

#[test]
fn compiled_results_are_compared_with_the_interpreter() {
    let here = folder();
    let path = double(here.path());
    write(
        here.path(),
        Format::Npy,
        "x",
        &Tensor::from_vec(vec![2, 2], &[1f32, f32::NAN, 0.0, -0.0]).unwrap(),
    );
    for backend in compilers() {
        let verify =
            |args: &[&str]| stdout(here.path(), &[&["verify", "--backend", backend][..], args].concat());
        let text = verify(&[&digits_onnx(), "--per-node", "--seeds", "2"]);
        assert_eq!(text.matches("none is wrong").count(), 4, "{text}");
        assert!(text.contains("inputs of seed 1  probabilities"), "{text}");
        assert!(text.contains("/0/features/features.5/Relu (max)"), "{text}");
        assert!(verify(&[&path, "--inputs", "."]).contains("the inputs given  y"));
        for level in ["-O0", "-O1", "-O3"] {
            verify(&[&path, level, "--numerics", "exact", "--threads", "2"]);
        }
    }
    assert!(refusal(here.path(), &["verify", &path, "-O4"]).contains("0..=3"));
}

#[test]
fn rewrites_are_proved() {
    let here = folder();
    let path = here.path().join("g.aic").display().to_string();
    let graph = "graph(%0: f32[n,3]) -> f32[n,3] { %1 = neg %0 %2 = neg %1 %3 = exp %2 return %3 }";
    fs::write(&path, graph).unwrap();
    let flags = ["--certificate", "proof.json", "--rewrite-stats"];
    let outcome = aic(here.path(), &[&["opt", &path][..], &flags].concat());
    assert!(outcome.code == Some(0) && outcome.stderr.contains("applications"), "{}", outcome.stderr);
    let check = ["verify", &path, "--certificate", "proof.json"];
    assert!(stdout(here.path(), &check).starts_with("proved: 1 runs"));
    let proof: Json = serde_json::from_slice(&fs::read(here.path().join("proof.json")).unwrap()).unwrap();
    let forged = |name: &str, value: Json| {
        let mut proof = proof.clone();
        proof[name] = value;
        fs::write(here.path().join("proof.json"), proof.to_string()).unwrap();
        refusal(here.path(), &check)
    };
    assert!(forged("result", "0123456789abcdef".into()).contains("another graph (result)"));
    assert!(forged("imported", "0123456789abcdef".into()).contains("another graph (imported)"));
    assert!(forged("rewrites", Json::Array(vec![])).contains("is missing"));
    let mut rewrites = proof["rewrites"].clone();
    rewrites[0]["proof"]["instances"] = Json::Array(vec![]);
    assert!(forged("rewrites", rewrites).contains("doesn't prove"));
}

#[test]
fn a_graph_is_dumped_and_goes_on_from_there() {
    let here = folder();
    let whole = stdout(here.path(), &["opt", &digits_onnx(), "-O1"]);
    let flags = ["-O1", "--dump-after", "all", "--dump-dir", "dumps", "--time-passes"];
    let outcome = aic(here.path(), &[&["opt", &digits_onnx()][..], &flags].concat());
    assert!(outcome.stderr.contains("// 1 after canonicalize: unchanged"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains(" ms  all"), "{}", outcome.stderr);
    let rest = ["opt", "dumps/2-after-fold.aic", "-O1", "--start-at", "dce"];
    assert_eq!(stdout(here.path(), &rest), whole);
    stdout(here.path(), &["opt", &digits_onnx(), "-O1", "-o", "d.aic"]);
    assert!(here.path().join("d.safetensors").exists());
    assert_eq!(stdout(here.path(), &["opt", "d.aic", "--passes", ""]), whole);
    let summary = stdout(here.path(), &["opt", "d.aic", &digits_onnx(), "-O1", "--summary", "--per-kernel"]);
    assert!(summary.contains("\ndigits  ") && summary.contains("/1/Softmax"), "{summary}");
}

#[test]
fn what_a_model_is_made_of_is_told() {
    let here = folder();
    let text = stdout(here.path(), &["info", &digits_onnx()]);
    for part in ["pictures f32[batch,1,8,8]", "probabilities f32[batch,10]", "Conv 3", "parameters", "FLOPs"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(stdout(here.path(), &["check", &digits_onnx()]).contains("every node is supported"));
    let ops = stdout(here.path(), &["ops"]);
    for part in ["Conv ", "Softmax ", "core operator", "matmul"] {
        assert!(ops.contains(part), "{part}");
    }
}

#[test]
fn every_form_is_emitted() {
    let model = digits_onnx();
    for backend in compilers() {
        let here = folder();
        let compile = ["compile", &model, "--backend", backend];
        let emit = |file: &str| {
            stdout(here.path(), &[&compile[..], &["-o", file, "--cpu", "x86-64-v3"]].concat());
            fs::read(here.path().join(file)).unwrap()
        };
        let refused = |args: &[&str]| refusal(here.path(), &[&compile[..], args].concat());
        let has = |bytes: &[u8], text: &str| assert!(String::from_utf8_lossy(bytes).contains(text), "{text}");
        has(&emit("d.aic"), "graph ");
        has(&emit("d.kernels"), "kernel @");
        match backend {
            "cranelift" => assert!(refused(&["-o", "d.ll"]).contains("makes no LLVM IR")),
            _ => has(&emit("d.ll"), "define "),
        }
        has(&emit("d.s"), "%xmm");
        assert!(emit("d.o").starts_with(b"\x7fELF"));
        fs::remove_file(here.path().join("d.h")).unwrap();
        assert!(emit("d.so").starts_with(b"\x7fELF"));
        has(&fs::read(here.path().join("d.h")).unwrap(), "aic_run");
        let kernels = ["-o", "-", "--emit", "kernels", "--target", "x86_64-unknown-linux-gnu"];
        assert!(stdout(here.path(), &[&compile[..], &kernels].concat()).starts_with("kernel @"));
        assert!(refused(&["-o", "-", "--emit", "so"]).contains("only texts"));
        assert!(refused(&["-o", "no/d.so"]).contains("no/d.so"));
        assert!(refused(&["-o", "d.so", "--cpu", "i486"]).contains("i486"));
    }
}

#[test]
fn a_profile_has_a_row_for_each_kernel() {
    let here = folder();
    for backend in compilers() {
        let args = ["--seconds", "0.05", "--threads", "1", "--json", "--backend", backend];
        let text = stdout(here.path(), &[&["profile", &digits_onnx()][..], &args].concat());
        let rows: Vec<Json> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let (run, kernels) = rows.split_last().unwrap();
        assert!(kernels.iter().any(|k| k["schedule"].as_str().is_some_and(|s| s.starts_with("contract"))));
        let sum: f64 = kernels.iter().map(|k| k["ms"].as_f64().unwrap()).sum();
        assert!(sum > 0.0 && run["run_ms"].as_f64().unwrap() > 0.0, "{text}");
        let words = stdout(here.path(), &["profile", &digits_onnx(), "--seconds", "0", "--backend", backend]);
        assert!(words.contains("in kernels") && words.contains("of bound"), "{words}");
    }
    let interpreted = aic(here.path(), &["profile", &digits_onnx(), "--backend", "reference"]);
    assert!(interpreted.code == Some(1) && interpreted.stderr.contains("no kernels"));
}

#[test]
fn the_memory_plan_is_printed() {
    let here = folder();
    let text = stdout(here.path(), &["info", &digits_onnx(), "--memory"]);
    for part in ["static: constants", "dynamic: results of steps", "arena + ", "times the least"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_benchmark_is_json() {
    let here = folder();
    for backend in backends() {
        let args = ["--seconds", "0.05", "--threads", "1", "--json", "--backend", backend];
        let text = stdout(here.path(), &[&["bench", &digits_onnx()][..], &args].concat());
        let report: serde_json::Map<String, Json> = serde_json::from_str(&text).unwrap();
        let keys = "model backend threads runs median_ms min_ms p95_ms compile_s codegen_s load_s peak_rss_mb arena_mb";
        assert_eq!(
            report.keys().map(String::as_str).collect::<Vec<_>>(),
            keys.split(' ').collect::<Vec<_>>()
        );
        assert_eq!((&report["backend"], &report["threads"]), (&backend.into(), &1.into()));
        let number = |key: &str| report[key].as_f64().unwrap();
        assert!(number("min_ms") <= number("median_ms") && number("median_ms") <= number("p95_ms"));
        assert!(number("runs") >= 1.0 && number("median_ms") > 0.0 && number("compile_s") > 0.0, "{text}");
        let words = stdout(here.path(), &["bench", &digits_onnx(), "--seconds", "0", "--backend", backend]);
        assert!(words.contains("median") && words.contains(backend), "{words}");
    }
}
