//! What only LLVM promises: its text, the instructions it chooses, the CPUs it knows.
#![cfg(feature = "llvm")]
#![allow(clippy::unwrap_used)]

mod common;
use aic_backends::*;
use common::*;

#[test]
fn known_comparisons_are_folded() {
    let asm = |text: &str| emit_text(&[parse(text)], &CpuOptions::default(), TextKind::LlvmIr).unwrap();
    let kernel = |limit: &str, extent: i64| {
        asm(&format!(
            "kernel @tail(in x: f32[64], out y: f32[64]; n: 1..=64) {{
               for i in 0..{extent} {{
                 y[ramp(8*i, 1, 8)] = x[ramp(8*i, 1, 8) if and(ge(ramp(8*i, 1, 8), broadcast(0, 8)), lt(ramp(8*i, 1, 8), broadcast({limit}, 8)))]
               }}
             }}"
        ))
    };
    assert!(!kernel("64", 8).contains("icmp slt <8 x i32>"));
    assert!(kernel("63", 8).contains("icmp slt <8 x i32>"));
    assert!(kernel("n", 8).contains("icmp slt <8 x i32>"));
    assert!(!kernel("64", 8).contains("icmp sge"));
}

/// What objects leave to be found at run time is libc's and libm's.
#[test]
fn only_the_c_library_is_called() {
    let mut body = String::new();
    let unary = "sqrt exp log sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf sigmoid softplus floor \
                 ceil round trunc";
    for f in unary.split_whitespace() {
        body +=
            &format!("x[0] = {f}(x[0])\n d[0] = {f}(d[0])\n x[ramp(0, 1, 16)] = {f}(x[ramp(0, 1, 16)])\n");
    }
    for f in ["pow", "rem", "mod", "fma"] {
        let third = if f == "fma" { ", x[2]" } else { "" };
        body +=
            &format!("x[0] = {f}(x[0], x[1]{third})\n d[0] = {f}(d[0], d[1]{})\n", third.replace('x', "d"));
    }
    for (a, t) in [("x", "f32"), ("d", "f64"), ("h", "f16"), ("b", "bf16"), ("i", "i64"), ("u", "u64")] {
        for (c, s) in [("x", "f32"), ("d", "f64"), ("h", "f16"), ("b", "bf16"), ("i", "i64"), ("u", "u64")] {
            if s != t {
                body += &format!(
                    "{a}[0] = cast({t}, {c}[0])\n {a}[ramp(0, 1, 8)] = cast({t}, {c}[ramp(0, 1, 8)])\n"
                );
            }
        }
    }
    body += "i[0] = pow(i[0], i[1])\n u[0] = div(u[0], u[1])\n copy x[0; 4] from x[n; 4] size [n, n]\n";
    let text = format!(
        "kernel @all(inout x: f32[99], inout d: f64[99], inout h: f16[99], inout b: bf16[99], inout i: i64[99], inout u: u64[99]; n: 1..=3) {{ {body} }}"
    )
    .replace("inout", "out");
    let known = "expf exp logf log sinf sin cosf cos tanf tan asinf asin acosf acos atanf atan sinhf sinh coshf cosh \
                 tanhf tanh asinhf asinh acoshf acosh atanhf atanh erff erf log1pf log1p powf pow fmodf fmod floorf \
                 floor ceilf ceil roundevenf roundeven truncf trunc fmaf fma memcpy";
    for cpu in ["x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4", "sapphirerapids"] {
        let options = CpuOptions { cpu: cpu.into(), ..CpuOptions::default() };
        let asm = emit_text(&[parse(&text)], &options, TextKind::Asm).unwrap();
        assert!(asm.contains("@PLT"));
        for called in asm.split_whitespace().filter_map(|w| w.strip_suffix("@PLT")) {
            assert!(known.split_whitespace().any(|k| k == called), "{cpu}: {called}");
        }
    }
}

#[test]
fn a_register_tile_is_in_registers() {
    let options = |cpu: &str| CpuOptions { cpu: cpu.into(), ..CpuOptions::default() };
    for (cpu, register, text, fmas) in [
        ("x86-64-v4", "%zmm", matmul(6, 2, 16, 126, 768, 768), 12),
        ("x86-64-v4", "%zmm", matmul(14, 2, 16, 126, 768, 768), 28),
        ("x86-64-v3", "%ymm", matmul(6, 2, 8, 126, 768, 768), 12),
    ] {
        let asm = emit_text(&[parse(&text)], &options(cpu), TextKind::Asm).unwrap();
        let block = hottest_block(&asm);
        let found = block.iter().filter(|l| l.contains("vfmadd") && l.contains(register)).count();
        assert_eq!(found, fmas, "{cpu}: {block:#?}");
        let spills = block.iter().filter(|l| l.contains("(%rsp)") || l.contains("(%rbp)")).count();
        assert_eq!(spills, 0, "{cpu}: {block:#?}");
    }
}

#[test]
fn an_older_cpu_gets_no_newer_instructions() {
    let k = parse(&matmul(6, 2, 16, 12, 64, 8));
    let asm = |cpu: &str| {
        let options = CpuOptions { cpu: cpu.into(), ..CpuOptions::default() };
        emit_text(std::slice::from_ref(&k), &options, TextKind::Asm).unwrap()
    };
    assert!(asm("x86-64-v4").contains("%zmm"));
    assert!(asm("x86-64-v3").contains("%ymm") && !asm("x86-64-v3").contains("%zmm"));
    assert!(asm("x86-64").contains("%xmm") && !asm("x86-64").contains("%ymm"));
}

#[test]
fn cpus_have_their_features() {
    let features =
        |cpu: &str| cpu_features(&CpuOptions { cpu: cpu.into(), ..CpuOptions::default() }).unwrap();
    let short = |cpu: &str| {
        let f = features(cpu);
        (f.vector_bytes, f.fma, f.f16c)
    };
    assert_eq!(short("x86-64"), (16, false, false));
    assert_eq!(features("x86-64").names, [""; 0]);
    assert_eq!(short("x86-64-v3"), (32, true, true));
    let v3 = "sse3 ssse3 fma sse4.1 sse4.2 movbe popcnt avx f16c bmi avx2 bmi2 lzcnt";
    assert_eq!(features("x86-64-v3").names.join(" "), v3);
    assert_eq!(short("x86-64-v4"), (64, true, true));
    assert_eq!(short("sandybridge"), (32, false, false));
    assert!(
        ["avx512fp16", "amx-tile", "avx512bf16"].iter().all(|n| features("sapphirerapids").names.contains(n))
    );
    let native = features("native").names;
    assert_eq!(native.contains(&"avx2"), std::is_x86_feature_detected!("avx2"));
    assert_eq!(native.contains(&"avx512vnni"), std::is_x86_feature_detected!("avx512vnni"));
    assert_eq!(native.contains(&"avx512fp16"), std::is_x86_feature_detected!("avx512fp16"));
}
/// The instructions of the innermost loop: from the block with the most fused multiply-adds.
fn hottest_block(asm: &str) -> Vec<&str> {
    let blocks = asm.split_inclusive(":\n").flat_map(|b| b.split(".LBB"));
    let fmas = |b: &&str| b.lines().filter(|l| l.contains("vfmadd")).count();
    blocks.max_by_key(fmas).unwrap_or("").lines().collect()
}
