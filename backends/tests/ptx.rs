//! Kernels as PTX: goldens, and what NVIDIA's assembler says of them.

#![cfg(feature = "llvm")]
#![allow(clippy::unwrap_used)]

mod assembler;

use aic_backends::emulate;
use aic_backends::ptx;
use aic_ir::eval::KernelBuffer;
use aic_ir::kernel::Kernel;
use aic_ir::scalar::Scalar;
use aic_ir::target::Target;
use aic_ir::tensor::{read_scalar, write_scalar};
use aic_ir::text::parse_kernel;
use assembler::ptxas;
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

/// The machine code of a product by matrix instructions: in each step one wait for copies and all of the products, and
/// what is copied and loaded is so in 16 bytes at a time.
fn check_code(code: &str) {
    let from = code.find(".text.matmul_f16:").unwrap();
    let code = &code[from..];
    let code = &code[..code.find(".section").unwrap_or(code.len())];
    let count = |what: &str| code.lines().filter(|l| l.contains(what)).count();
    let (products, waits) = (count("HMMA.16816.F32"), count("DEPBAR.LE"));
    assert!(waits > 0 && products == 4 * waits, "{products} products and {waits} waits:\n{code}");
    let copies = count("LDGSTS");
    assert!(copies > 0 && copies == count("LDGSTS.E.BYPASS.128"), "copies are narrow:\n{code}");
    assert!(count("LDSM.16.M88.4") > 0 && count("LDSM.16.MT88.2") > 0, "no fragments are loaded:\n{code}");
    assert_eq!(count("LDG"), copies + count("LDGDEPBAR"), "elements are read one by one:\n{code}");
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
        if let Some(code) = ptxas.disassemble(&cubin).unwrap() {
            check_code(&code);
        }
        for u in usages {
            println!("{} {u:?}", target.name);
            assert!(u.spilled == 0 && u.stack == 0 && u.registers <= REGISTERS, "{}: {u:?}", target.name);
        }
    }
}

/// The module that PTX is made of, executed by the emulator, gives what the interpreter of the loop IR gives: integers
/// are drawn, whose sums are exact in any order.
#[test]
fn executed() {
    let mut seed = 7u64;
    let mut draw = || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        f64::from((seed >> 33) as u32 % 7) - 3.0
    };
    for (_, kernel) in kernels() {
        let module = ptx::optimized(std::slice::from_ref(&kernel), &Target::sm_80()).unwrap();
        let mut want: Vec<KernelBuffer> = Vec::new();
        for p in &kernel.params {
            let (dtype, len) = (p.buffer.dtype, p.buffer.len.constant() as usize);
            let mut b = KernelBuffer::poisoned(dtype, len);
            if !p.writable {
                b.data.clear();
                (0..len).for_each(|_| write_scalar(dtype, Scalar::F(draw()).cast(dtype), &mut b.data));
            }
            want.push(b);
        }
        let mut found: Vec<Vec<u8>> = want.iter().map(|b| b.data.clone()).collect();
        aic_ir::eval::kernel(&kernel, &mut want, &[]).unwrap();
        let launch = &module.launches[0];
        let grid = [0, 1, 2].map(|axis| launch.grid[axis].constant() as u32);
        let (block, cluster, dynamic_shared) = (launch.threads, [1; 3], launch.shared_bytes as usize);
        let launch = emulate::Launch { grid, block, cluster, dynamic_shared };
        let text = ptx::text(&module).unwrap();
        let emulator = emulate::Emulator::new(&text, emulate::Options { seed: Some(3), threads: 1 }).unwrap();
        let params = kernel.params.iter().zip(&mut found);
        let mut buffers: Vec<emulate::Buffer> = params
            .map(|(p, data)| emulate::Buffer {
                name: p.buffer.name.name().into(),
                data,
                writable: p.writable,
            })
            .collect();
        let args: Vec<emulate::Arg> = (0..buffers.len()).map(emulate::Arg::Buffer).collect();
        emulator.launch(&kernel.name, &launch, &mut buffers, &args).unwrap();
        for ((p, want), found) in kernel.params.iter().zip(&want).zip(&found).filter(|((p, _), _)| p.writable)
        {
            let (dtype, size) = (p.buffer.dtype, p.buffer.dtype.size());
            for at in 0..want.data.len() / size {
                let value = |data: &[u8]| read_scalar(dtype, &data[at * size..][..size]).as_f64();
                let (a, b) = (value(&want.data), value(found));
                let near = (a - b).abs() <= 1e-6 * a.abs().max(1e-3);
                assert!(near, "{}: element {at} of {}: expected {a}, found {b}", kernel.name, p.buffer.name);
            }
        }
    }
}
