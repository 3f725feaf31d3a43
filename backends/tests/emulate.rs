//! The emulator of CUDA kernels, on modules written by hand.
#![cfg(feature = "llvm")]
#![allow(clippy::unwrap_used)]

use aic_backends::emulate::{Arg, Buffer, Emulator, Launch, Options};

/// Threads in order and copies late, and two random orders.
const SEEDS: [Option<u64>; 3] = [None, Some(1), Some(2)];

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn bytes(x: impl IntoIterator<Item = f32>) -> Vec<u8> {
    x.into_iter().flat_map(f32::to_le_bytes).collect()
}

fn launch(grid: u32, block: u32) -> Launch {
    Launch { grid: [grid, 1, 1], block: [block, 1, 1], cluster: [1; 3], dynamic_shared: 0 }
}

/// Runs kernel `k` of a module on an input and an output of `n` bytes.
fn run(ir: &str, launch: &Launch, input: &[u8], n: usize, seed: Option<u64>) -> Result<Vec<u8>, String> {
    let emulator = Emulator::new(ir, Options { seed, threads: 2 }).map_err(|e| e.to_string())?;
    let (mut x, mut y) = (input.to_vec(), vec![0xff; n]);
    let mut buffers = [
        Buffer { name: "x".into(), data: &mut x, writable: false },
        Buffer { name: "y".into(), data: &mut y, writable: true },
    ];
    let result = emulator.launch("k", launch, &mut buffers, &[Arg::Buffer(0), Arg::Buffer(1)]);
    result.map(|()| y).map_err(|e| format!("{e:#}"))
}

/// A kernel with this body; `%t` is the thread's number in the block.
fn kernel(globals: &str, body: &str) -> String {
    format!(
        r#"
target triple = "nvptx64-nvidia-cuda"
{globals}
define ptx_kernel void @k(ptr addrspace(1) %x, ptr addrspace(1) %y) "target-cpu"="sm_90a" {{
entry:
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %b = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %n = call i32 @llvm.nvvm.read.ptx.sreg.ntid.x()
{body}
  ret void
}}
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ntid.x()
"#
    )
}

const SCALE: &str = "
  %at = mul i32 %b, %n
  %i = add i32 %at, %t
  %px = getelementptr float, ptr addrspace(1) %x, i32 %i
  %py = getelementptr float, ptr addrspace(1) %y, i32 %i
  %v = load float, ptr addrspace(1) %px, align 4
  %w = fadd float %v, %v
  store float %w, ptr addrspace(1) %py, align 4";

#[test]
fn blocks_and_threads() {
    for seed in SEEDS {
        let x: Vec<f32> = (0..96).map(|i| i as f32).collect();
        let y = run(&kernel("", SCALE), &launch(3, 32), &bytes(x.clone()), 384, seed).unwrap();
        assert_eq!(floats(&y), x.iter().map(|v| v * 2.0).collect::<Vec<_>>());
    }
}

#[test]
fn accesses_outside_of_buffers_are_reported() {
    let x = bytes((0..95).map(|i| i as f32));
    let e = run(&kernel("", SCALE), &launch(3, 32), &x, 384, None).unwrap_err();
    assert!(
        e.contains("thread (31, 0, 0) of block (2, 0, 0)") && e.contains("at byte 380 of x, which has 380"),
        "{e}"
    );
    let x = bytes((0..96).map(|i| i as f32));
    let e = run(&kernel("", SCALE), &launch(3, 32), &x, 380, None).unwrap_err();
    assert!(e.contains("writes 4 bytes at byte 380 of y"), "{e}");
}

/// Reverses a block's elements by shared memory.
fn reverse(barrier: &str) -> String {
    let body = format!(
        "
  %px = getelementptr float, ptr addrspace(1) %x, i32 %t
  %v = load float, ptr addrspace(1) %px, align 4
  %ps = getelementptr float, ptr addrspace(3) @tile, i32 %t
  store float %v, ptr addrspace(3) %ps, align 4
  {barrier}
  %last = sub i32 %n, 1
  %r = sub i32 %last, %t
  %pr = getelementptr float, ptr addrspace(3) @tile, i32 %r
  %w = load float, ptr addrspace(3) %pr, align 4
  %py = getelementptr float, ptr addrspace(1) %y, i32 %t
  store float %w, ptr addrspace(1) %py, align 4"
    );
    let globals = "@tile = internal addrspace(3) global [64 x float] undef, align 16
declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32)
declare void @llvm.nvvm.barrier.cta.sync.aligned.count(i32, i32)";
    kernel(globals, &body)
}

#[test]
fn shared_memory_and_barriers() {
    let x = bytes((0..64).map(|i| i as f32));
    let want: Vec<f32> = (0..64).rev().map(|i| i as f32).collect();
    for seed in SEEDS {
        for barrier in [
            "call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)",
            "call void @llvm.nvvm.barrier.cta.sync.aligned.count(i32 3, i32 64)",
        ] {
            let y = run(&reverse(barrier), &launch(1, 64), &x, 256, seed).unwrap();
            assert_eq!(floats(&y), want);
        }
        let y = run(&reverse(""), &launch(1, 64), &x, 256, seed).unwrap();
        assert_ne!(floats(&y), want, "a missing barrier shows");
    }
}

#[test]
fn a_deadlock_is_reported() {
    let barrier = "call void @llvm.nvvm.barrier.cta.sync.aligned.count(i32 5, i32 96)";
    let e = run(&reverse(barrier), &launch(1, 64), &bytes((0..64).map(|_| 0.0)), 256, None).unwrap_err();
    assert!(e.contains("a deadlock: 64 threads wait for barrier 5"), "{e}");
}

#[test]
fn shuffles_and_votes() {
    let body = "
  %px = getelementptr float, ptr addrspace(1) %x, i32 %t
  %v = load float, ptr addrspace(1) %px, align 4
  %s = call float @llvm.nvvm.shfl.sync.bfly.f32(i32 -1, float %v, i32 1, i32 31)
  %d = call float @llvm.nvvm.shfl.sync.down.f32(i32 -1, float %v, i32 4, i32 6175)
  %c = fcmp ogt float %v, 2.0
  %m = call i32 @llvm.nvvm.vote.ballot.sync(i32 -1, i1 %c)
  %pick = call { i32, i1 } @llvm.nvvm.shfl.sync.idx.i32p(i32 -1, i32 %m, i32 3, i32 31)
  %mm = extractvalue { i32, i1 } %pick, 0
  %mf = sitofp i32 %mm to float
  %i = mul i32 %t, 3
  %py = getelementptr float, ptr addrspace(1) %y, i32 %i
  store float %s, ptr addrspace(1) %py, align 4
  %py1 = getelementptr float, ptr addrspace(1) %py, i32 1
  store float %d, ptr addrspace(1) %py1, align 4
  %py2 = getelementptr float, ptr addrspace(1) %py, i32 2
  store float %mf, ptr addrspace(1) %py2, align 4";
    let globals = "declare float @llvm.nvvm.shfl.sync.bfly.f32(i32, float, i32, i32)
declare float @llvm.nvvm.shfl.sync.down.f32(i32, float, i32, i32)
declare i32 @llvm.nvvm.vote.ballot.sync(i32, i1)
declare { i32, i1 } @llvm.nvvm.shfl.sync.idx.i32p(i32, i32, i32, i32)";
    let x = bytes((0..32).map(|i| i as f32));
    for seed in SEEDS {
        let y = floats(&run(&kernel(globals, body), &launch(1, 32), &x, 384, seed).unwrap());
        for t in 0..32 {
            // Segments of eight lanes.
            let down = if t % 8 + 4 < 8 { t + 4 } else { t };
            assert_eq!(y[3 * t..3 * t + 3], [(t ^ 1) as f32, down as f32, -8.0], "lane {t}");
        }
    }
}

/// Copies 16 bytes for each thread asynchronously, waits, and reads its neighbour's.
fn staged(wait: &str) -> String {
    let body = format!(
        "
  %i = mul i32 %t, 4
  %px = getelementptr float, ptr addrspace(1) %x, i32 %i
  %ps = getelementptr float, ptr addrspace(3) @tile, i32 %i
  call void @llvm.nvvm.cp.async.cg.shared.global.16(ptr addrspace(3) %ps, ptr addrspace(1) %px)
  call void @llvm.nvvm.cp.async.commit.group()
  {wait}
  call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)
  %r = xor i32 %i, 4
  %pr = getelementptr float, ptr addrspace(3) @tile, i32 %r
  %w = load float, ptr addrspace(3) %pr, align 4
  %py = getelementptr float, ptr addrspace(1) %y, i32 %t
  store float %w, ptr addrspace(1) %py, align 4"
    );
    let globals = "@tile = internal addrspace(3) global [128 x float] undef, align 16
declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32)
declare void @llvm.nvvm.cp.async.cg.shared.global.16(ptr addrspace(3), ptr addrspace(1))
declare void @llvm.nvvm.cp.async.commit.group()
declare void @llvm.nvvm.cp.async.wait.group(i32)";
    kernel(globals, &body)
}

#[test]
fn asynchronous_copies_need_their_wait() {
    let x = bytes((0..128).map(|i| i as f32));
    let want: Vec<f32> = (0..32).map(|t| ((t ^ 1) * 4) as f32).collect();
    for seed in SEEDS {
        let good = "call void @llvm.nvvm.cp.async.wait.group(i32 0)";
        assert_eq!(floats(&run(&staged(good), &launch(1, 32), &x, 128, seed).unwrap()), want);
        for bad in ["", "call void @llvm.nvvm.cp.async.wait.group(i32 1)"] {
            assert_ne!(floats(&run(&staged(bad), &launch(1, 32), &x, 128, seed).unwrap()), want, "{seed:?}");
        }
    }
}

/// A product of 16 x 16 and 16 x 8 elements of bf16, whose fragments `ldmatrix` loads.
#[test]
fn fragments_through_shared_memory() {
    let body = "
  ; A: 16 rows of 16, B: 16 rows of 8, as bf16, one after the other.
  %i = mul i32 %t, 12
  br label %copy
copy:
  %c = phi i32 [ 0, %entry ], [ %next, %copy ]
  %at = add i32 %i, %c
  %px = getelementptr i16, ptr addrspace(1) %x, i32 %at
  %v = load i16, ptr addrspace(1) %px, align 2
  %ps = getelementptr i16, ptr addrspace(3) @tile, i32 %at
  store i16 %v, ptr addrspace(3) %ps, align 2
  %next = add i32 %c, 1
  %more = icmp slt i32 %next, 12
  br i1 %more, label %copy, label %done
done:
  call void @llvm.nvvm.bar.warp.sync(i32 -1)
  %row = and i32 %t, 15
  %half = lshr i32 %t, 4
  %ro = mul i32 %row, 16
  %ho = mul i32 %half, 8
  %ao = add i32 %ro, %ho
  %pa = getelementptr i16, ptr addrspace(3) @tile, i32 %ao
  %a = call { i32, i32, i32, i32 } @llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.b16.p3(ptr addrspace(3) %pa)
  %bo = mul i32 %row, 8
  %bo2 = add i32 %bo, 256
  %pb = getelementptr i16, ptr addrspace(3) @tile, i32 %bo2
  %bb = call { i32, i32 } @llvm.nvvm.ldmatrix.sync.aligned.m8n8.x2.trans.b16.p3(ptr addrspace(3) %pb)
  %a0 = extractvalue { i32, i32, i32, i32 } %a, 0
  %a1 = extractvalue { i32, i32, i32, i32 } %a, 1
  %a2 = extractvalue { i32, i32, i32, i32 } %a, 2
  %a3 = extractvalue { i32, i32, i32, i32 } %a, 3
  %b0 = extractvalue { i32, i32 } %bb, 0
  %b1 = extractvalue { i32, i32 } %bb, 1
  %d = call { float, float, float, float } @llvm.nvvm.mma.m16n8k16.row.col.bf16(i32 %a0, i32 %a1, i32 %a2, i32 %a3, i32 %b0, i32 %b1, float 1.0, float 1.0, float 1.0, float 1.0)
  %d0 = extractvalue { float, float, float, float } %d, 0
  %d1 = extractvalue { float, float, float, float } %d, 1
  %d2 = extractvalue { float, float, float, float } %d, 2
  %d3 = extractvalue { float, float, float, float } %d, 3
  %g = lshr i32 %t, 2
  %q = and i32 %t, 3
  %go = mul i32 %g, 8
  %qo = mul i32 %q, 2
  %yo = add i32 %go, %qo
  %py0 = getelementptr float, ptr addrspace(1) %y, i32 %yo
  store float %d0, ptr addrspace(1) %py0, align 4
  %py1 = getelementptr float, ptr addrspace(1) %py0, i32 1
  store float %d1, ptr addrspace(1) %py1, align 4
  %py2 = getelementptr float, ptr addrspace(1) %py0, i32 64
  store float %d2, ptr addrspace(1) %py2, align 4
  %py3 = getelementptr float, ptr addrspace(1) %py0, i32 65
  store float %d3, ptr addrspace(1) %py3, align 4";
    let globals = "@tile = internal addrspace(3) global [384 x i16] undef, align 128
declare void @llvm.nvvm.bar.warp.sync(i32)
declare { i32, i32, i32, i32 } @llvm.nvvm.ldmatrix.sync.aligned.m8n8.x4.b16.p3(ptr addrspace(3))
declare { i32, i32 } @llvm.nvvm.ldmatrix.sync.aligned.m8n8.x2.trans.b16.p3(ptr addrspace(3))
declare { float, float, float, float } @llvm.nvvm.mma.m16n8k16.row.col.bf16(i32, i32, i32, i32, i32, i32, float, float, float, float)";
    let a: Vec<f32> = (0..256).map(|i| ((i * 7) % 11) as f32 - 5.0).collect();
    let b: Vec<f32> = (0..128).map(|i| ((i * 5) % 13) as f32 - 6.0).collect();
    let x: Vec<u8> = a.iter().chain(&b).flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    for seed in SEEDS {
        let y = floats(&run(&kernel(globals, body), &launch(1, 32), &x, 512, seed).unwrap());
        for (i, j) in (0..16).flat_map(|i| (0..8).map(move |j| (i, j))) {
            let want: f32 = 1.0 + (0..16).map(|k| a[i * 16 + k] * b[k * 8 + j]).sum::<f32>();
            assert_eq!(y[i * 8 + j], want, "row {i} column {j}");
        }
    }
}

#[test]
fn what_the_emulator_does_not_have_is_named() {
    let body = "call void @llvm.nvvm.pm.event.mask(i16 1)";
    let e = run(&kernel("declare void @llvm.nvvm.pm.event.mask(i16)", body), &launch(1, 1), &[], 4, None);
    assert!(e.unwrap_err().contains("no intrinsic `llvm.nvvm.pm.event.mask`"));
    assert!(run("not a module", &launch(1, 1), &[], 4, None).unwrap_err().contains("LLVM refuses"));
}
