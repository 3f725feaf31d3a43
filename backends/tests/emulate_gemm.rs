//! A warp-specialised product of matrices for sm_90a on the emulator, and mutants of it.
//!
//! One warp group loads tiles with the tensor memory accelerator, three stages ahead; another multiplies them with
//! `wgmma`. Mutants are edits of its text. Each is to be caught: by a wrong result, or by a report.
#![cfg(feature = "llvm")]
#![allow(clippy::unwrap_used)]

use aic_backends::emulate::{Arg, Buffer, Emulator, Launch, Options, Swizzle, TensorMap};
use half::bf16;
use std::fmt::Write;

const M: usize = 128;
const N: usize = 64;
const K: usize = 320;
/// Accumulators of a thread: tiles of 64 x 64.
const R: usize = 32;

/// `count` items with their number, between commas.
fn list(count: usize, item: impl Fn(usize) -> String) -> String {
    (0..count).map(item).collect::<Vec<_>>().join(", ")
}

/// The type of the accumulators together.
fn tuple() -> String {
    format!("{{ {} }}", list(R, |_| "float".into()))
}

/// `$0, $1, ..` as outputs; and what ties inputs to them.
fn outputs() -> (String, String) {
    (list(R, |_| "=f".into()).replace(' ', ""), list(R, |k| k.to_string()).replace(' ', ""))
}

/// The accumulators `NAME.0, ..` of a value.
fn parts(text: &mut String, value: &str, name: &str) {
    for k in 0..R {
        writeln!(text, "  %{name}.{k} = extractvalue {} {value}, {k}", tuple()).unwrap();
    }
}

/// Four products along K of a stage, from the accumulators `phi` to `d3`.
fn products() -> String {
    let mut text = String::new();
    let (outs, ties) = outputs();
    for kk in 0..4 {
        let from = if kk == 0 { "phi".to_owned() } else { format!("d{}", kk - 1) };
        writeln!(text, "  %ka{kk} = add i64 %da, {}\n  %kb{kk} = add i64 %db, {}", 2 * kk, 2 * kk).unwrap();
        let d = list(R, |k| format!("${k}"));
        let asm = format!(
            "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {{{d}}}, ${}, ${}, 1, 1, 1, 0, 0;",
            2 * R,
            2 * R + 1
        );
        let args = list(R, |k| format!("float %{from}.{k}"));
        writeln!(
            text,
            "  %product{kk} = call {} asm sideeffect \"{asm}\", \"{outs},{ties},l,l\"({args}, i64 %ka{kk}, i64 %kb{kk})",
            tuple()
        )
        .unwrap();
        parts(&mut text, &format!("%product{kk}"), &format!("d{kk}"));
    }
    text
}

fn wait() -> String {
    let (outs, ties) = outputs();
    let args = list(R, |k| format!("float %d3.{k}"));
    let asm = "wgmma.wait_group.sync.aligned 0;";
    let call = format!("call {} asm sideeffect \"{asm}\", \"{outs},{ties},~{{memory}}\"({args})", tuple());
    let mut text = format!("  %w = {call}\n");
    parts(&mut text, "%w", "acc");
    text
}

fn stores() -> String {
    let mut text = String::new();
    for k in 0..R {
        let (row, column) = (8 * (k / 2 % 2), 8 * (k / 4) + k % 2);
        writeln!(text, "  %o{k} = add i32 %corner, {column}").unwrap();
        writeln!(text, "  %r{k} = mul i32 %ldc, {row}\n  %p{k} = add i32 %o{k}, %r{k}").unwrap();
        writeln!(text, "  %q{k} = getelementptr float, ptr addrspace(1) %c, i32 %p{k}").unwrap();
        writeln!(text, "  store float %acc.{k}, ptr addrspace(1) %q{k}, align 4").unwrap();
    }
    text
}

/// The kernel: `c[m, n] = sum_k a[m, k] * b[n, k]`.
fn gemm() -> String {
    let phis: String = (0..R)
        .map(|k| format!("  %phi.{k} = phi float [ 0.0, %consumer ], [ %acc.{k}, %release ]\n"))
        .collect();
    let (products, wait, stores) = (products(), wait(), stores());
    format!(
        r#"
target triple = "nvptx64-nvidia-cuda"
@ta = internal addrspace(3) global [24576 x i8] undef, align 1024
@tb = internal addrspace(3) global [24576 x i8] undef, align 1024
@full = internal addrspace(3) global [3 x i64] undef, align 8
@empty = internal addrspace(3) global [3 x i64] undef, align 8

define ptx_kernel void @gemm(ptr byval([128 x i8]) align 64 %ma, ptr byval([128 x i8]) align 64 %mb, ptr addrspace(1) %c, i32 %ldc, i32 %steps) {{
entry:
  %t = call i32 @llvm.nvvm.read.ptx.sreg.tid.x()
  %bn = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
  %bm = call i32 @llvm.nvvm.read.ptx.sreg.ctaid.y()
  %n0 = mul i32 %bn, 64
  %m0 = mul i32 %bm, 64
  %first = icmp eq i32 %t, 0
  br i1 %first, label %init, label %ready
init:
  call void @llvm.nvvm.mbarrier.init.shared(ptr addrspace(3) @full, i32 1)
  call void @llvm.nvvm.mbarrier.init.shared(ptr addrspace(3) getelementptr (i64, ptr addrspace(3) @full, i32 1), i32 1)
  call void @llvm.nvvm.mbarrier.init.shared(ptr addrspace(3) getelementptr (i64, ptr addrspace(3) @full, i32 2), i32 1)
  call void @llvm.nvvm.mbarrier.init.shared(ptr addrspace(3) @empty, i32 128)
  call void @llvm.nvvm.mbarrier.init.shared(ptr addrspace(3) getelementptr (i64, ptr addrspace(3) @empty, i32 1), i32 128)
  call void @llvm.nvvm.mbarrier.init.shared(ptr addrspace(3) getelementptr (i64, ptr addrspace(3) @empty, i32 2), i32 128)
  call void @llvm.nvvm.fence.mbarrier_init.release.cluster()
  br label %ready
ready:
  call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)
  %group = lshr i32 %t, 7
  %isproducer = icmp eq i32 %group, 0
  br i1 %isproducer, label %producer, label %consumer
producer:
  call void @llvm.nvvm.setmaxnreg.dec.sync.aligned.u32(i32 24)
  %warp = lshr i32 %t, 5
  %iswarp = icmp eq i32 %warp, 0
  br i1 %iswarp, label %electing, label %exit
electing:
  %elected = call {{ i32, i1 }} @llvm.nvvm.elect.sync(i32 -1)
  %chosen = extractvalue {{ i32, i1 }} %elected, 1
  br i1 %chosen, label %load, label %exit
load:
  %k = phi i32 [ 0, %electing ], [ %knext, %issue ]
  %stage = urem i32 %k, 3
  %round = udiv i32 %k, 3
  %parity = and i32 %round, 1
  %other = xor i32 %parity, 1
  %pempty = getelementptr i64, ptr addrspace(3) @empty, i32 %stage
  %pfull = getelementptr i64, ptr addrspace(3) @full, i32 %stage
  br label %free
free:
  %isfree = call i1 @llvm.nvvm.mbarrier.try.wait.parity.scope.cta.space.cta(ptr addrspace(3) %pempty, i32 %other)
  br i1 %isfree, label %issue, label %free
issue:
  %tok = call i64 @llvm.nvvm.mbarrier.arrive.expect.tx.scope.cta.space.cta(ptr addrspace(3) %pfull, i32 16384)
  %slot = mul i32 %stage, 8192
  %pa = getelementptr i8, ptr addrspace(3) @ta, i32 %slot
  %pb = getelementptr i8, ptr addrspace(3) @tb, i32 %slot
  %ca = addrspacecast ptr addrspace(3) %pa to ptr addrspace(7)
  %cb = addrspacecast ptr addrspace(3) %pb to ptr addrspace(7)
  %k0 = mul i32 %k, 64
  call void @llvm.nvvm.cp.async.bulk.tensor.g2s.tile.2d(ptr addrspace(7) %ca, ptr addrspace(3) %pfull, ptr %ma, i32 %k0, i32 %m0, i16 0, i64 0, i1 0, i1 0, i32 0)
  call void @llvm.nvvm.cp.async.bulk.tensor.g2s.tile.2d(ptr addrspace(7) %cb, ptr addrspace(3) %pfull, ptr %mb, i32 %k0, i32 %n0, i16 0, i64 0, i1 0, i1 0, i32 0)
  %knext = add i32 %k, 1
  %kmore = icmp ult i32 %knext, %steps
  br i1 %kmore, label %load, label %exit
consumer:
  call void @llvm.nvvm.setmaxnreg.inc.sync.aligned.u32(i32 240)
  br label %step
step:
  %i = phi i32 [ 0, %consumer ], [ %inext, %release ]
{phis}
  %istage = urem i32 %i, 3
  %iround = udiv i32 %i, 3
  %iparity = and i32 %iround, 1
  %ifull = getelementptr i64, ptr addrspace(3) @full, i32 %istage
  %iempty = getelementptr i64, ptr addrspace(3) @empty, i32 %istage
  br label %there
there:
  %isthere = call i1 @llvm.nvvm.mbarrier.try.wait.parity.scope.cta.space.cta(ptr addrspace(3) %ifull, i32 %iparity)
  br i1 %isthere, label %multiply, label %there
multiply:
  %islot = mul i32 %istage, 8192
  %ia = getelementptr i8, ptr addrspace(3) @ta, i32 %islot
  %ib = getelementptr i8, ptr addrspace(3) @tb, i32 %islot
  %aa = ptrtoint ptr addrspace(3) %ia to i64
  %ab = ptrtoint ptr addrspace(3) %ib to i64
  %aw = and i64 %aa, 262143
  %bw = and i64 %ab, 262143
  %ah = lshr i64 %aw, 4
  %bh = lshr i64 %bw, 4
  %da = or i64 %ah, 4611686293305360384
  %db = or i64 %bh, 4611686293305360384
  call void @llvm.nvvm.wgmma.fence.sync.aligned()
{products}
  call void @llvm.nvvm.wgmma.commit_group.sync.aligned()
{wait}
  br label %release
release:
  %rel = call i64 @llvm.nvvm.mbarrier.arrive.shared(ptr addrspace(3) %iempty)
  %inext = add i32 %i, 1
  %imore = icmp ult i32 %inext, %steps
  br i1 %imore, label %step, label %store
store:
  %lane = and i32 %t, 31
  %tw = and i32 %t, 127
  %gw = lshr i32 %tw, 5
  %row0 = mul i32 %gw, 16
  %row1 = lshr i32 %lane, 2
  %row2 = add i32 %row0, %row1
  %row = add i32 %row2, %m0
  %col0 = and i32 %lane, 3
  %col1 = mul i32 %col0, 2
  %col = add i32 %col1, %n0
  %rowoff = mul i32 %row, %ldc
  %corner = add i32 %rowoff, %col
{stores}
  br label %exit
exit:
  ret void
}}
declare i32 @llvm.nvvm.read.ptx.sreg.tid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.x()
declare i32 @llvm.nvvm.read.ptx.sreg.ctaid.y()
declare void @llvm.nvvm.mbarrier.init.shared(ptr addrspace(3), i32)
declare void @llvm.nvvm.fence.mbarrier_init.release.cluster()
declare void @llvm.nvvm.barrier.cta.sync.aligned.all(i32)
declare void @llvm.nvvm.setmaxnreg.dec.sync.aligned.u32(i32)
declare void @llvm.nvvm.setmaxnreg.inc.sync.aligned.u32(i32)
declare {{ i32, i1 }} @llvm.nvvm.elect.sync(i32)
declare i1 @llvm.nvvm.mbarrier.try.wait.parity.scope.cta.space.cta(ptr addrspace(3), i32)
declare i64 @llvm.nvvm.mbarrier.arrive.expect.tx.scope.cta.space.cta(ptr addrspace(3), i32)
declare i64 @llvm.nvvm.mbarrier.arrive.shared(ptr addrspace(3))
declare void @llvm.nvvm.cp.async.bulk.tensor.g2s.tile.2d(ptr addrspace(7), ptr addrspace(3), ptr, i32, i32, i16, i64, i1, i1, i32)
declare void @llvm.nvvm.wgmma.fence.sync.aligned()
declare void @llvm.nvvm.wgmma.commit_group.sync.aligned()
"#
    )
}

/// Small integers in no order, so that sums are exact.
fn matrix(rows: usize, columns: usize, salt: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| ((((i + salt) * 2_654_435_761) >> 9) % 9) as f32 - 4.0).collect()
}

fn bytes(x: &[f32]) -> Vec<u8> {
    x.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect()
}

/// What a module makes of the product: nothing if it is right, or what is wrong.
fn fault(ir: &str, seed: Option<u64>) -> Option<String> {
    let emulator = Emulator::new(ir, Options { seed, threads: 1 }).unwrap();
    let (a, b) = (matrix(M, K, 1), matrix(N, K, 5));
    let (mut xa, mut xb, mut y) = (bytes(&a), bytes(&b), vec![0xff; 4 * M * N]);
    let mut buffers = [
        Buffer { name: "a".into(), data: &mut xa, writable: false },
        Buffer { name: "b".into(), data: &mut xb, writable: false },
        Buffer { name: "c".into(), data: &mut y, writable: true },
    ];
    let map = |rows: usize| {
        TensorMap::new(2, &[K as u32, rows as u32], &[2 * K as u64], &[64, 64], Swizzle::B128).unwrap()
    };
    let args = [
        Arg::Map(0, map(M)),
        Arg::Map(1, map(N)),
        Arg::Buffer(2),
        Arg::Int(N as i64),
        Arg::Int(K as i64 / 64),
    ];
    let grid = [N as u32 / 64, M as u32 / 64, 1];
    let launch = Launch { grid, block: [256, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
    if let Err(e) = emulator.launch("gemm", &launch, &mut buffers, &args) {
        return Some(format!("{e:#}"));
    }
    let got: Vec<f32> = y.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    for (i, j) in (0..M).flat_map(|i| (0..N).map(move |j| (i, j))) {
        let want: f32 = a[i * K..][..K].iter().zip(&b[j * K..][..K]).map(|(a, b)| a * b).sum();
        let found = got[i * N + j];
        if found != want {
            return Some(format!("row {i}, column {j}: {found} instead of {want}"));
        }
    }
    None
}

#[test]
fn the_product_is_right_in_every_order() {
    let ir = gemm();
    for seed in [None, Some(1), Some(2), Some(3)] {
        assert_eq!(fault(&ir, seed), None, "{seed:?}");
    }
}

/// An edit of the text, which changes it.
fn edit(ir: &str, from: &str, to: &str) -> String {
    assert!(ir.contains(from), "the kernel has no `{from}`");
    ir.replace(from, to)
}

const WAIT_FULL: &str = "br i1 %isthere, label %multiply, label %there";
const WAIT_EMPTY: &str = "br i1 %isfree, label %issue, label %free";
const RELEASE: &str = "  %rel = call i64 @llvm.nvvm.mbarrier.arrive.shared(ptr addrspace(3) %iempty)\n";
const BARRIER: &str = "  call void @llvm.nvvm.barrier.cta.sync.aligned.all(i32 0)\n";
const FENCE: &str = "  call void @llvm.nvvm.wgmma.fence.sync.aligned()\n";
const COMMIT: &str = "  call void @llvm.nvvm.wgmma.commit_group.sync.aligned()\n";

/// What is broken, and how: edits of the text.
const MUTANTS: &[(&str, &[(&str, &str)])] = &[
    ("the consumer doesn't wait for its stage", &[(WAIT_FULL, "br label %multiply")]),
    ("the producer doesn't wait for a free stage", &[(WAIT_EMPTY, "br label %issue")]),
    ("wrong parity of the producer", &[("%pempty, i32 %other)", "%pempty, i32 %parity)")]),
    ("wrong parity of the consumer", &[("%ifull, i32 %iparity)", "%ifull, i32 0)")]),
    ("too few bytes are expected", &[("%pfull, i32 16384)", "%pfull, i32 8192)")]),
    ("too many bytes are expected", &[("%pfull, i32 16384)", "%pfull, i32 16400)")]),
    ("results bypass the wait", &[("store float %acc.3,", "store float %d3.3,")]),
    ("the wait leaves a group under way", &[("wait_group.sync.aligned 0", "wait_group.sync.aligned 1")]),
    ("no commit", &[(COMMIT, "")]),
    ("no fence before the first product", &[(FENCE, "")]),
    (
        "the stage is released before it is multiplied",
        &[
            (RELEASE, ""),
            (
                FENCE,
                "  %rel = call i64 @llvm.nvvm.mbarrier.arrive.shared(ptr addrspace(3) %iempty)\n  call void @llvm.nvvm.wgmma.fence.sync.aligned()\n",
            ),
        ],
    ),
    ("the stage is never released", &[(RELEASE, "")]),
    (
        "one arrival releases a stage",
        &[("%pempty = ", "%unused = "), ("@empty, i32 128)", "@empty, i32 1)"), ("%unused = ", "%pempty = ")],
    ),
    ("no barrier after the mbarriers are initialised", &[(BARRIER, "")]),
    ("a swizzle of 64 bytes in the descriptor", &[("4611686293305360384", "9223372311732748288")]),
    ("no swizzle in the descriptor", &[("4611686293305360384", "274877972480")]),
    (
        "wrong stride in the descriptor",
        &[("%db = or i64 %bh, 4611686293305360384", "%db = or i64 %bh, 4611686155866406912")],
    ),
    ("wrong advance along K", &[("%ka1 = add i64 %da, 2", "%ka1 = add i64 %da, 1")]),
    ("tiles off by one along K", &[("%k0 = mul i32 %k, 64", "%k0 = mul i32 %k, 63")]),
    ("tiles off by one along M", &[("%m0 = mul i32 %bm, 64", "%m0 = mul i32 %bm, 65")]),
    ("a stage too few is used", &[("%stage = urem i32 %k, 3", "%stage = urem i32 %k, 2")]),
    ("the other operand's tile", &[("@tb, i32 %islot", "@ta, i32 %islot")]),
];

/// Mutants that nothing here can show: what they drop has no effect where everything is executed in order.
const INVISIBLE: &[(&str, &str)] = &[
    (
        "no fence after mbarriers are initialised",
        "  call void @llvm.nvvm.fence.mbarrier_init.release.cluster()\n",
    ),
    (
        "registers aren't given to the consumer",
        "  call void @llvm.nvvm.setmaxnreg.inc.sync.aligned.u32(i32 240)\n",
    ),
];

#[test]
fn mutants_are_caught() {
    let good = gemm();
    let mut survivors = Vec::new();
    for (what, edits) in MUTANTS {
        let ir = edits.iter().fold(good.clone(), |ir, (from, to)| edit(&ir, from, to));
        let found = [None, Some(1), Some(2)].map(|seed| fault(&ir, seed));
        let n = found.iter().flatten().count();
        println!(
            "{n} of 3 orders: {what}: {}",
            found.iter().flatten().next().map_or("nothing", |f| f.lines().next().unwrap())
        );
        if n == 0 {
            survivors.push(*what);
        }
    }
    println!("{} of {} caught", MUTANTS.len() - survivors.len(), MUTANTS.len());
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
    for (what, line) in INVISIBLE {
        let found = fault(&edit(&good, line, ""), Some(1));
        println!("survives: {what}: {}", found.as_deref().unwrap_or("nothing"));
    }
}
