//! Compiles the C runtime twice: as a library for sessions in this process, and as the object that goes into artifacts.

use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=runtime");
    runtime().compile("aic_runtime");
    let objects: Vec<PathBuf> = runtime().define("AIC_ARTIFACT", None).compile_intermediates();
    for object in objects {
        println!("cargo::rustc-env=AIC_RUNTIME_OBJECT={}", object.display());
    }
}

/// The settings of an artifact, whatever the profile of the compiler itself.
fn runtime() -> cc::Build {
    let mut build = cc::Build::new();
    build.file("runtime/aic_runtime.c").std("c11").opt_level(2).debug(false).pic(true);
    build.flag("-fvisibility=hidden").flag("-pthread").extra_warnings(true);
    build
}
