//! Kernels as PTX: goldens, and what NVIDIA's assembler says of them.

#![cfg(feature = "llvm")]
#![allow(clippy::unwrap_used)]

use aic_backends::ptx::{self, Ptxas};
use aic_ir::kernel::Kernel;
use aic_ir::target::Target;
use aic_ir::text::parse_kernel;
use std::path::{Path, PathBuf};

/// Registers that a thread may take: 256 threads of each of two blocks are then there at a time.
const REGISTERS: u32 = 168;

fn kernels() -> Vec<(PathBuf, Kernel)> {
    let folder = std::env::var("KERNELS").map_or_else(
        |_| Path::new(env!("CARGO_MANIFEST_DIR")).join("../testdata/backends/ptx"),
        PathBuf::from,
    );
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "kernel"));
    files.sort();
    let parse = |p: PathBuf| {
        let text = std::fs::read_to_string(&p).unwrap();
        let kernel = parse_kernel(&text).unwrap_or_else(|e| panic!("{}: {e}", p.display()));
        (p, kernel)
    };
    files.into_iter().map(parse).collect()
}

/// The assembler that `cargo xtask setup` fetches, or one that is installed.
fn ptxas() -> Option<Ptxas> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/ptx/lib");
    let python = std::fs::read_dir(root).ok().and_then(|mut d| d.next()).and_then(Result::ok);
    let fetched = python.map(|d| d.path().join("site-packages/nvidia/cu13/bin/ptxas"));
    fetched.and_then(|p| Ptxas::at(&p)).or_else(Ptxas::find)
}

/// Accesses are as wide as they can be, and products are by matrix instructions from what `ldmatrix` loads.
fn check_text(text: &str) {
    let entry = |name: &str| {
        let from = text.find(&format!(".entry {name}(")).unwrap();
        let rest = &text[from..];
        &rest[..rest[1..].find(".entry").map_or(rest.len(), |k| k + 1)]
    };
    let has = |name: &str, what: &str| {
        assert!(entry(name).contains(what), "{name} has no {what}:\n{}", entry(name))
    };
    for (name, what) in [
        ("matmul_f16", "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"),
        ("matmul_f16", "ldmatrix.sync.aligned.m8n8.x4.shared.b16"),
        ("matmul_f16", "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16"),
        ("matmul_f16", "cp.async.cg.shared.global"),
        ("matmul_f16", "cp.async.wait_group"),
        ("softmax_warp", "ld.global.nc.v4"),
        ("softmax_warp", "st.global.v4"),
        ("softmax_warp", "shfl.sync.idx.b32"),
        ("softmax_block", "bar"),
    ] {
        has(name, what);
    }
}

/// Every kernel is code for both cards: no warning, nothing in memory that is to be in registers.
#[test]
fn assembled() {
    let all: Vec<Kernel> = kernels().into_iter().map(|(_, k)| k).collect();
    for target in [Target::sm_80(), Target::sm_90a()] {
        let module = ptx::optimized(&all, &target).unwrap();
        let text = ptx::assemble(&module, &target).unwrap();
        check_text(&text);
        let Some(ptxas) = ptxas() else { continue };
        let folder = tempfile::tempdir().unwrap();
        let (ptx, cubin) = (folder.path().join("m.ptx"), folder.path().join("m.cubin"));
        std::fs::write(&ptx, &text).unwrap();
        let usages = ptxas.assemble(&ptx, &target.name, &cubin).unwrap();
        assert_eq!(usages.len(), all.len());
        for u in usages {
            println!("{} {u:?}", target.name);
            assert!(u.spilled == 0 && u.stack == 0 && u.registers <= REGISTERS, "{}: {u:?}", target.name);
        }
    }
}
