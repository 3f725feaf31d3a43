//! The whole way: a model file, compiled, run in this process and as a shared library, against the interpreter.
#![allow(clippy::unwrap_used)]

use aic::driver::{self, Options, Runner, Source};
use aic::import::onnx::{ImportOptions, Imported};
use aic::io;
use aic::package::Kind;
use aic::session;
use aic_backends::CpuOptions;
use aic_ir::dtype::DType;
use aic_ir::eval;
use aic_ir::tensor::Tensor;
use std::path::PathBuf;
use std::process::Command;

fn digits() -> Imported {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../testdata/models/digits/digits.onnx");
    Source::load(&path).unwrap().import(&ImportOptions::default()).unwrap()
}

/// How to compile with every backend of this build.
fn backends(cpu: &str) -> Vec<Options> {
    aic_backends::available()
        .map(|b| CpuOptions { backend: b.name, cpu: cpu.into(), ..CpuOptions::default() })
        .map(|cpu| Options { cpu, ..Options::default() })
        .collect()
}

fn largest_error(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()));
    found.to_f64().iter().zip(expected.to_f64()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn a_model_runs_in_this_process() {
    let graph = digits().graph;
    for (options, n_threads) in backends("native").iter().flat_map(|o| [(o, 1), (o, 2)]) {
        let cpu = &options.cpu;
        let program = driver::lower(graph.clone(), options).unwrap();
        let session = session::Options { n_threads, ..session::Options::default() };
        let (mut s, _) = Runner::compile(&program, cpu, session).unwrap();
        for batch in [3, 1, 10] {
            let inputs: Vec<Tensor> = graph
                .inputs
                .iter()
                .map(|p| {
                    let dims = graph.ty(p.value).dims.iter();
                    let shape = dims.map(|d| d.as_const().map_or(batch, |n| n as usize)).collect();
                    io::random(DType::F32, shape, 7).unwrap()
                })
                .collect();
            let found = s.run(&inputs).unwrap();
            let expected = eval::graph(&graph, &inputs).unwrap();
            for (f, e) in found.iter().zip(&expected) {
                assert!(largest_error(f, e) < 1e-5);
            }
        }
    }
}

#[test]
fn a_model_becomes_a_library() {
    backends("x86-64-v3").iter().for_each(library_of);
}

fn library_of(options: &Options) {
    let folder = tempfile::tempdir().unwrap();
    let cpu = &options.cpu;
    let program = driver::lower(digits().graph, options).unwrap();
    let path = folder.path().join("digits.so");
    let files = driver::write_artifact(&program, cpu, Kind::SharedLibrary, &path).unwrap();
    let needed = Command::new("readelf").arg("-d").arg(&files.library).output().unwrap();
    let needed = String::from_utf8(needed.stdout).unwrap();
    for line in needed.lines().filter(|l| l.contains("(NEEDED)")) {
        assert!(["libc.so", "libm.so", "ld-linux"].iter().any(|name| line.contains(name)), "{line}");
    }
    // SAFETY: the library has no initialisers.
    let library = unsafe { libloading::Library::new(&files.library) }.unwrap();
    // SAFETY: this is the type of aic_open.
    let open =
        unsafe { library.get::<unsafe extern "C" fn(*const u8, *mut *mut u8) -> i32>(b"aic_open").unwrap() };
    let mut session = std::ptr::null_mut();
    // SAFETY: both arguments are valid; the session is left open until the process ends.
    assert_eq!(unsafe { open(std::ptr::null(), &mut session) }, 0);
    std::mem::forget(library);
}
