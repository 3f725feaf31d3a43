//! Runs the official ONNX cases through the importer and the interpreter, in one process.
//!
//! `AIC_ONNX_SUITE=DIR cargo run --example suite [-- FILTER ..]`: `DIR` holds folders `KIND/CASE` with `model.onnx` and
//! `test_data_set_0/{input,output}_K.pb`. With filters, only cases whose name contains one of them are run, and every
//! failure is shown; a filter `=NAME` asks for one case. With `--dynamic` the importer isn't told the shapes and small
//! values of the inputs. Values are compared as the official runner does, plus one part in a million of the largest.

use aic::import::load::{Model, load_model, read_message};
use aic::import::onnx::{ImportOptions, import};
use aic::import::payload;
use aic::import::proto::TensorProto;
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::tensor::Tensor;
use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Inputs of at most so many elements that aren't floats are given when compiling.
const MAX_KNOWN: usize = 1024;

enum Outcome {
    Pass,
    Wrong(String),
    Unsupported(String),
    Panic(String),
}

fn main() {
    let Ok(suite) = std::env::var("AIC_ONNX_SUITE") else {
        eprintln!("set AIC_ONNX_SUITE to the folder of the cases");
        std::process::exit(2);
    };
    let (flags, filters): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|a| a.starts_with("--"));
    let dynamic = flags.iter().any(|f| f == "--dynamic");
    let selected = |name: &str| {
        filters.is_empty()
            || filters.iter().any(|f| f.strip_prefix('=').map_or(name.contains(f), |f| f == name))
    };
    std::panic::set_hook(Box::new(|_| {}));
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for case in cases(Path::new(&suite)) {
        let name = case.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        if !selected(&name) {
            continue;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&case, dynamic))).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            Outcome::Panic(text.or(panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default())
        });
        let (kind, reason) = match outcome {
            Outcome::Pass => ("pass", None),
            Outcome::Wrong(reason) => ("wrong", Some(reason)),
            Outcome::Unsupported(reason) => ("unsupported", Some(reason)),
            Outcome::Panic(reason) => ("panic", Some(reason)),
        };
        *counts.entry(kind).or_default() += 1;
        if let Some(reason) = reason {
            if kind != "unsupported" || !filters.is_empty() {
                println!("{kind} {name}: {reason}");
            }
            reasons
                .entry(format!("{kind}: {}", reason.chars().take(110).collect::<String>()))
                .or_default()
                .push(name);
        }
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, names)| names.len());
    for (reason, names) in reasons {
        println!("{:4} {reason} ({})", names.len(), names[0]);
    }
    println!("{counts:?}");
}

fn cases(suite: &Path) -> Vec<PathBuf> {
    let entries = |dir: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.is_dir())
            .collect()
    };
    let mut cases: Vec<PathBuf> = entries(suite).iter().flat_map(|kind| entries(kind)).collect();
    cases.retain(|case| case.join("model.onnx").exists());
    cases.sort();
    cases
}

fn run(case: &Path, dynamic: bool) -> Outcome {
    let (model, inputs, expected) = match read_case(case) {
        Ok(case) => case,
        Err(error) => return Outcome::Unsupported(error.to_string()),
    };
    match interpret(&model, &inputs, dynamic) {
        Err(error) => Outcome::Unsupported(error.to_string()),
        Ok(outputs) => match expected.iter().zip(&outputs).find_map(|(e, o)| difference(e, o)) {
            None if expected.len() == outputs.len() => Outcome::Pass,
            None => Outcome::Wrong(format!("{} outputs expected, found {}", expected.len(), outputs.len())),
            Some(difference) => Outcome::Wrong(difference),
        },
    }
}

fn read_case(case: &Path) -> Result<(Model, HashMap<String, Tensor>, Vec<Tensor>)> {
    let model = load_model(&case.join("model.onnx"))?;
    let data = case.join("test_data_set_0");
    let Some(graph) = &model.proto.graph else { return Err(Error::new("no graph")) };
    let given = |name: &str| graph.initializer.iter().any(|t| t.name() == name);
    let inputs = graph.input.iter().map(|i| i.name()).filter(|name| !given(name)).enumerate();
    let inputs = inputs
        .map(|(k, name)| Ok((name.to_owned(), read_tensor(&model, &data.join(format!("input_{k}.pb")))?)));
    let inputs = inputs.collect::<Result<_>>()?;
    let outputs = (0..graph.output.len()).map(|k| read_tensor(&model, &data.join(format!("output_{k}.pb"))));
    let outputs = outputs.collect::<Result<_>>()?;
    Ok((model, inputs, outputs))
}

fn read_tensor(model: &Model, path: &Path) -> Result<Tensor> {
    let proto: TensorProto = read_message(path)?;
    let dtype = payload::data_type(&proto)?;
    let Some(dtype) = DType::from_onnx(dtype as i32) else {
        return Err(Error::new(format!("data of type {} are not supported", dtype.name())));
    };
    Tensor::new(dtype, proto.dims.iter().map(|&d| d as usize).collect(), model.tensor_bytes(&proto)?)
}

fn interpret(model: &Model, inputs: &HashMap<String, Tensor>, dynamic: bool) -> Result<Vec<Tensor>> {
    let small = |t: &Tensor| t.len() <= if t.dtype().is_float() { 64 } else { MAX_KNOWN };
    let mut options = ImportOptions::default();
    if !dynamic {
        options.shapes = inputs.iter().map(|(name, t)| (name.clone(), t.shape().to_vec())).collect();
        options.known_inputs =
            inputs.iter().filter(|(_, t)| small(t)).map(|(n, t)| (n.clone(), t.clone())).collect();
    }
    let imported = import(model, &options)?;
    let tensors = imported.graph.inputs.iter().map(|p| match inputs.get(&p.name) {
        Some(tensor) => Ok(tensor.clone()),
        None => Err(Error::new(format!("no data for the input {}", p.name))),
    });
    aic_ir::eval::graph(&imported.graph, &tensors.collect::<Result<Vec<_>>>()?)
}

/// What makes an output wrong; rtol 1e-3 and atol 1e-7, more for `bf16`.
fn difference(expected: &Tensor, found: &Tensor) -> Option<String> {
    if expected.dtype() != found.dtype() || expected.shape() != found.shape() {
        let ty = |t: &Tensor| format!("{}{:?}", t.dtype(), t.shape());
        return Some(format!("expected {}, found {}", ty(expected), ty(found)));
    }
    let rtol = if expected.dtype() == DType::BF16 { 1.0 / 64.0 } else { 1e-3 };
    let close =
        |e: f64, f: f64| e == f || (e.is_nan() && f.is_nan()) || (e - f).abs() <= 1e-7 + rtol * e.abs();
    let (e, f) = (expected.to_f64(), found.to_f64());
    let wrong: Vec<usize> = (0..e.len()).filter(|&i| !close(e[i], f[i])).collect();
    let first = wrong.first()?;
    Some(format!(
        "{} of {} elements; element {first} is {} not {}",
        wrong.len(),
        e.len(),
        f[*first],
        e[*first]
    ))
}
