//! Artifacts for CUDA GPUs: complete, a library by any C compiler, and clear about a missing GPU.

#![cfg(feature = "llvm")]
#![allow(clippy::unwrap_used)]

#[path = "../../backends/tests/assembler/mod.rs"]
mod assembler;

use std::ffi::{CStr, c_char, c_void};
use std::path::Path;
use std::process::Command;

fn aic(args: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_aic")).args(args).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

const NETWORK: &str = "graph @net(%0 \"x\": f32[n,3,9,9], %1: f32[8,3,3,3], %2: f32[8,10]) -> f32[n,10] {
  %3 = conv %0 %1 {strides=[1,1], pads=[1,1,1,1], dilations=[1,1], groups=1}
  %4 = relu %3
  %5 = reduce %4 {op=max, axes=[2,3]}
  %6 = matmul %5 %2
  %7 = softmax %6 {axis=1}
  return %7
}";

#[test]
fn artifacts_for_both_cards() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("net.aic");
    std::fs::write(&model, NETWORK).unwrap();
    for target in ["ptx", "ptx:sm_90a"] {
        let out = folder.path().join(target.replace(':', "_"));
        let (ok, said) =
            aic(&["compile", model.to_str().unwrap(), "--target", target, "-o", out.to_str().unwrap()]);
        assert!(ok, "{said}");
        let ptx = std::fs::read_to_string(out.join("model.ptx")).unwrap();
        assert!(ptx.contains(".version 8.0") && !ptx.contains("llvm."), "{ptx}");
        let built = Command::new("cc")
            .args([
                "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "model.c", "-o", "model.so", "-ldl",
            ])
            .current_dir(&out)
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        opens_or_says_why(&out.join("model.so"));
    }
}

/// Where there is no driver a session isn't opened, and the message says so.
fn opens_or_says_why(library: &Path) {
    // SAFETY: the library is an artifact, whose functions have these types.
    unsafe {
        let library = libloading::Library::new(library).unwrap();
        let open: libloading::Symbol<unsafe extern "C" fn(*const c_void, *mut *mut c_void) -> i32> =
            library.get(b"aic_open").unwrap();
        let error: libloading::Symbol<unsafe extern "C" fn(*const c_void) -> *const c_char> =
            library.get(b"aic_error").unwrap();
        let mut session = std::ptr::null_mut();
        let status = open(std::ptr::null(), &raw mut session);
        let said = CStr::from_ptr(error(std::ptr::null())).to_string_lossy().into_owned();
        if libloading::Library::new("libcuda.so.1").is_err() {
            assert_eq!((status, session.is_null()), (3, true), "{said}");
            assert!(said.contains("no CUDA driver"), "{said}");
        }
    }
}

/// Of a product by warp groups: no warning, nothing spilled, boxes copied by one thread, and in the loop one wait for
/// products.
#[test]
fn machine_code_of_warp_groups() {
    let Some(ptxas) = assembler::ptxas() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (folder.path().join("product.aic"), folder.path().join("out"));
    let text =
        "graph(%0: f16[2048,768], %1: f16[768,3072]) -> f16[2048,3072] { %2 = matmul %0 %1 return %2 }";
    std::fs::write(&model, text).unwrap();
    let (ok, said) =
        aic(&["compile", model.to_str().unwrap(), "--target", "ptx:sm_90a", "-o", out.to_str().unwrap()]);
    assert!(ok, "{said}");
    let cubin = out.join("checked.cubin");
    let usages = ptxas.assemble(&out.join("model.ptx"), "sm_90a", &cubin).unwrap();
    // So many registers a block of three warp groups has for each thread, before they are given to those that multiply.
    assert!(usages.iter().all(|u| u.spilled == 0 && u.stack == 0 && u.registers == 168), "{usages:?}");
    let Some(code) = ptxas.disassemble(&cubin).unwrap() else { return };
    let count = |what: &str| code.lines().filter(|l| l.contains(what)).count();
    assert_eq!(count("HGMMA.64x256x16"), 4, "{code}");
    // One in the loop, one behind it.
    assert_eq!((count("WARPGROUP.ARRIVE"), count("WARPGROUP.DEPBAR")), (1, 2), "{code}");
    // A box of the left factor and four of the right one; waits for full and for empty stages, each asked for once more
    // where it failed; nothing else waits for threads but the barrier behind the beginning of phases.
    assert_eq!((count("UTMALDG.2D"), count("SYNCS.PHASECHK")), (5, 4), "{code}");
    assert_eq!((count("USETMAXREG"), count("BAR.SYNC"), count("LDGSTS")), (2, 1, 0), "{code}");
}

/// The launcher on a driver that prints what it is asked for: boxes of two matrices, of which one has an unknown number of
/// rows, and of two batches of them.
#[test]
fn maps_of_boxes() {
    let product = "graph(%0: f16[rows,72], %1: f16[72,136]) -> f16[rows,136] { %2 = matmul %0 %1 return %2 }";
    assert_eq!(
        printed(product, "{104,72},{72,136}", 4),
        "map 0: type 6, swizzle 3: 64 of 72 64 of 104 by 144 bytes\n\
         map 1: type 6, swizzle 3: 64 of 136 64 of 72 by 272 bytes\n\
         4 x 1 x 1 blocks of 256 x 1 x 1 threads, 98560 bytes, map 0 is 0 bytes behind buffer 0, map 1 is 0 bytes behind buffer 1\n"
    );
    let batch = "graph(%0: f16[3,40,72], %1: f16[3,72,136]) -> f16[3,40,136] { %2 = matmul %0 %1 return %2 }";
    assert_eq!(
        printed(batch, "{3,40,72},{3,72,136}", 3),
        "map 0: type 6, swizzle 3: 64 of 72 64 of 40 by 144 bytes 1 of 3 by 5760 bytes\n\
         map 1: type 6, swizzle 3: 64 of 136 64 of 72 by 272 bytes 1 of 3 by 19584 bytes\n\
         9 x 1 x 1 blocks of 256 x 1 x 1 threads, 65792 bytes, map 0 is 0 bytes behind buffer 0, map 1 is 0 bytes behind buffer 1\n"
    );
}

/// What the driver of `cuda/driver.c` prints as a model for `sm_90a` runs on inputs of these dims.
fn printed(graph: &str, dims: &str, first_map: usize) -> String {
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    put("model.aic", graph);
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (ok, said) = aic(&["compile", &at("model.aic"), "--target", "ptx:sm_90a", "-o", &at("")]);
    assert!(ok, "{said}");
    put("driver.c", include_str!("cuda/driver.c"));
    put("main.c", include_str!("cuda/main.c"));
    let rank = dims.split('}').next().unwrap().split(',').count();
    let defined = [format!("-DDIMS={dims}"), format!("-DRANK={rank}"), format!("-DFIRST_MAP={first_map}")];
    for files in [
        &["-shared", "-fPIC", "driver.c", "-o", "libcuda.so.1"][..],
        &["main.c", "model.c", "-o", "main", "-ldl"],
    ] {
        let mut cc = Command::new("cc");
        cc.args(["-O1", "-Wall", "-Wextra", "-Werror"]).args(&defined).args(files).current_dir(folder.path());
        let built = cc.output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    }
    let ran =
        Command::new(folder.path().join("main")).env("LD_LIBRARY_PATH", folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{said}");
    said
}

#[test]
fn run_on_the_emulator() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("net.aic");
    std::fs::write(
        &model,
        "graph(%0 \"x\": f32[3,70]) -> f32[70,3] { %1 = relu %0 %2 = transpose %1 {perm=[1,0]} return %2 }",
    )
    .unwrap();
    let run = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_aic")).arg("run").arg(&model).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let expected = run(&["--backend", "reference"]);
    for target in ["ptx", "ptx:sm_90a"] {
        assert_eq!(run(&["--target", target, "--emulate"]), expected);
    }
}

#[test]
fn what_has_no_kernel_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (model, out) = (folder.path().join("top.aic"), folder.path().join("out"));
    let text = "graph(%0 \"x\": f32[n]) -> i64[m,1] { %1 = nonzero %0 return %1 }";
    std::fs::write(&model, text).unwrap();
    let (ok, said) =
        aic(&["compile", model.to_str().unwrap(), "--target", "ptx", "-o", out.to_str().unwrap()]);
    assert!(!ok && !out.exists(), "{said}");
    let (ok, said) = aic(&["compile", model.to_str().unwrap(), "--target", "ptx:sm_70", "-o", "x"]);
    assert!(!ok && said.contains("ptx:sm_90a"), "{said}");
}
