//! Where LLVM comes from in a build that has both LLVM and MLIR: the shared library, for both.
//!
//! MLIR is linked statically and names LLVM's static libraries, so without this it would depend on the order of crates
//! which of the two copies of LLVM is linked, or whether both are. What is named first serves everything.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=MLIR_SYS_220_PREFIX");
    if env::var_os("CARGO_FEATURE_MLIR").is_none() {
        return;
    }
    let prefix = env::var_os("MLIR_SYS_220_PREFIX").map_or_else(|| "/usr/lib/llvm-22".into(), PathBuf::from);
    let folder = prefix.join("lib");
    if folder.join("libLLVM-22.so").exists() {
        println!("cargo:rustc-link-search=native={}", folder.display());
        println!("cargo:rustc-link-lib=dylib=LLVM-22");
    }
}
