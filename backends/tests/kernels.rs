//! Whole kernels through every backend, against the kernel interpreter: loops, blocks, buffers, addresses, masks, reductions.
#![allow(clippy::unwrap_used)]

mod common;
use aic_backends::*;
use aic_ir::dtype::DType;
use aic_ir::eval::{KernelBuffer, kernel as interpret};
use aic_ir::kernel::*;
use aic_ir::scalar::Scalar;
use aic_ir::text::parse_kernel;
use common::*;

/// Runs the kernel both ways on random arrays, and compares every array afterwards: equal, or, for floats that went
/// through a reduction, within `tolerance` of the largest.
fn differential(text: &str, symbols: &[i64], tolerance: f64) {
    let fill = |_: &str, _: usize, dtype: DType, random: &mut Random| match dtype {
        t if t.is_float() => Scalar::F(random.unit() * 4.0),
        DType::Bool => Scalar::B(random.bits().is_multiple_of(2)),
        _ => Scalar::U(random.bits() % 8),
    };
    differential_on(text, symbols, tolerance, fill);
}

fn differential_on(
    text: &str,
    symbols: &[i64],
    tolerance: f64,
    fill: impl Fn(&str, usize, DType, &mut Random) -> Scalar,
) {
    let k = parse(text);
    let value = |s: &aic_ir::dim::Sym| k.symbols.iter().position(|(t, _)| t == s).map(|i| symbols[i]);
    let mut random = Random(k.name.len() as u64);
    let mut inputs: Vec<Array> = Vec::new();
    for Param { buffer, .. } in &k.params {
        let n = buffer.len.eval(&value).unwrap() as usize;
        let values: Vec<Scalar> = (0..n)
            .map(|i| fill(buffer.name.name(), i, buffer.dtype, &mut random).cast(buffer.dtype))
            .collect();
        inputs.push(Array::new(buffer.dtype, values));
    }
    let mut expect: Vec<KernelBuffer> = inputs.iter().map(Array::to_buffer).collect();
    interpret(&k, &mut expect, symbols).unwrap();
    let extent = k.parallel_extent().eval(&value).unwrap();
    for target in targets() {
        let library = build(&target, std::slice::from_ref(&k));
        let f = library.get(&k.name).unwrap();
        let mut found: Vec<Array> = inputs.iter().map(Array::copy).collect();
        let mut arrays: Vec<&mut Array> = found.iter_mut().collect();
        let parallel = matches!(k.body[..], [Stmt::For { kind: LoopKind::Parallel, .. }]);
        let slices = if parallel { vec![(0, extent / 3), (extent / 3, extent)] } else { vec![(0, 0)] };
        slices.into_iter().for_each(|(begin, end)| call(f, &mut arrays, symbols, begin, end));
        for (a, b) in expect.iter().zip(&found) {
            compare(&format!("{}: {}", name(&target), k.name), &Array::from_buffer(a), b, tolerance);
        }
    }
}

fn compare(what: &str, expect: &Array, found: &Array, tolerance: f64) {
    let scale = expect.floats().iter().filter(|x| x.is_finite()).fold(0f64, |m, x| m.max(x.abs()));
    for (i, (a, b)) in expect.scalars().into_iter().zip(found.scalars()).enumerate() {
        let both_nan = a.as_f64().is_nan() && b.as_f64().is_nan();
        let near = (a.as_f64() - b.as_f64()).abs() <= tolerance * scale;
        assert!(a == b || both_nan || near, "{what}: element {i}: expected {a:?}, found {b:?}");
    }
}

#[test]
fn a_parallel_loop_runs_the_iterations_it_is_given() {
    let k = parse(
        "kernel @double(in x: f32[128], out y: f32[128]) {
           parallel for i in 0..8 {
             y[ramp(16*i, 1, 16)] = add(x[ramp(16*i, 1, 16)], x[ramp(16*i, 1, 16)])
           }
         }",
    );
    for target in backends() {
        let library = build(&target, std::slice::from_ref(&k));
        let f = library.get("double").unwrap();
        let (mut x, mut y) = (Array::f32((0..128).map(|i| i as f32)), Array::zeros(DType::F32, 128));
        call(f, &mut [&mut x, &mut y], &[], 2, 4);
        let expect = |i: usize| if (32..64).contains(&i) { 2.0 * i as f64 } else { 0.0 };
        assert_eq!(y.floats(), (0..128).map(expect).collect::<Vec<_>>());
        call(f, &mut [&mut x, &mut y], &[], 5, 5);
        call(f, &mut [&mut x, &mut y], &[], 7, 3);
        assert_eq!(y.floats(), (0..128).map(expect).collect::<Vec<_>>());
    }
}

#[test]
fn loads_and_stores_of_every_stride() {
    for dtype in ["f64", "f32", "f16", "bf16", "i8", "u16", "i32", "i64", "bool"] {
        for (n, name) in [(1, "one"), (3, "three"), (4, "four"), (8, "eight"), (16, "sixteen")] {
            differential(
                &format!(
                    "kernel @stride_{dtype}_{name}(in x: {dtype}[200], in m: bool[200], out y: {dtype}[20*{n}], out z: {dtype}[10*{n}]; s: 1..=5) {{
                       y[ramp(0, 1, {n})] = x[ramp(3, 1, {n})]
                       y[ramp({n}, 1, {n})] = x[ramp(60, -1, {n})]
                       y[ramp({n}*2, 1, {n})] = x[ramp(60, 2, {n})]
                       y[ramp({n}*3, 1, {n})] = x[ramp(60, -3, {n})]
                       y[ramp({n}*4, 1, {n})] = x[ramp(7, 0, {n})]
                       y[ramp({n}*5, 1, {n})] = x[ramp(s, s, {n})]
                       y[ramp({n}*6, 1, {n})] = x[broadcast(5*s, {n})]
                       y[ramp({n}*8-1, -1, {n})] = x[ramp(9, 1, {n})]
                       y[ramp({n}*8, 2, {n})] = x[ramp(11, 1, {n})]
                       y[ramp({n}*8+1, 2, {n})] = x[ramp(100, 1, {n})]
                       y[ramp({n}*11-1, 0, {n})] = x[ramp(20, 1, {n})]
                       y[ramp({n}*11, 1, {n})] = x[ramp(3, 1, {n}) if m[ramp(0, 1, {n})]]
                       y[ramp({n}*12, 1, {n})] = x[ramp(70, -1, {n}) if m[ramp(1, 1, {n})]]
                       y[ramp({n}*13, 1, {n})] = x[ramp(70, 4, {n}) if m[ramp(2, 1, {n})]]
                       y[ramp({n}*14, 1, {n})] = x[ramp(70, 0, {n}) if m[ramp(3, 1, {n})]]
                       y[ramp({n}*15, 1, {n}) if m[ramp(4, 1, {n})]] = x[ramp(3, 1, {n})]
                       y[ramp({n}*17-1, -1, {n}) if m[ramp(5, 1, {n})]] = x[ramp(3, 1, {n})]
                       y[ramp({n}*17, 2, {n}) if m[ramp(6, 1, {n})]] = x[ramp(3, 1, {n})]
                       y[ramp({n}*19, 0, {n}) if m[ramp(7, 1, {n})]] = x[ramp(3, 1, {n})]
                       z[ramp(0, 1, {n})] = x[ramp(s, 3, {n})]
                       z[ramp({n}, 1, {n})] = x[ramp(s, 4, {n})]
                       z[ramp({n}*2, 1, {n})] = x[ramp(s, 2, {n}) if m[ramp(5, 1, {n})]]
                       z[ramp({n}*3, 3, {n})] = x[ramp(s, 5, {n})]
                       z[ramp({n}*6, 4, {n}) if m[ramp(6, 1, {n})]] = x[ramp(s, 6, {n})]
                     }}"
                ),
                &[3],
                0.0,
            );
        }
    }
}

/// Elements every 2, 3 and 4 apart, for numbers of lanes that need not be powers of two; the last are masked off, and
/// what lies there isn't the buffer's.
#[test]
fn spread_loads_end_at_the_last_lane() {
    for n in [2, 3, 5, 8, 16, 32] {
        for step in [2, 3, 4] {
            let text = format!(
                "kernel @spread_{n}_{step}(in x: f32[({n}-1)*{step}+1], out y: f32[3*{n}]) {{
                   y[ramp(0, 1, {n})] = x[ramp(0, {step}, {n})]
                   y[ramp({n}, 1, {n})] = x[ramp(1, {step}, {n}) if lt(ramp(1, 1, {n}), broadcast({n}, {n}))]
                   y[ramp(2*{n}, 1, {n})] = x[ramp(-{step}, {step}, {n}) if ge(ramp(-1, 1, {n}), broadcast(0, {n}))]
                 }}"
            );
            differential(&text, &[], 0.0);
        }
    }
}

#[test]
fn every_level_gives_the_same() {
    let text = matmul(6, 2, 8, 12, 32, 9);
    let levels = backends().into_iter().flat_map(|b| (0..4).map(move |opt_level| (b.clone(), opt_level)));
    let results: Vec<Vec<f64>> = levels
        .map(|(backend, opt_level)| {
            let options = CpuOptions { opt_level, ..backend };
            let library = Library::load(&compile(&[parse(&text)], &options).unwrap()).unwrap();
            let mut random = Random(1);
            let mut a = Array::f32((0..108).map(|_| random.unit() as f32));
            let mut b = Array::f32((0..288).map(|_| random.unit() as f32));
            let mut c = Array::zeros(DType::F32, 384);
            call(library.get("matmul").unwrap(), &mut [&mut a, &mut b, &mut c], &[], 0, 2);
            c.floats()
        })
        .collect();
    assert!(results.iter().all(|r| *r == results[0] && r[0] != 0.0));
}

#[test]
fn loads_and_stores_at_computed_indices() {
    differential(
        "kernel @indirect(in x: f32[64], in at: i64[64], in to: i32[64], out y: f32[64], out z: i8[64]) {
           for i in 0..4 {
             y[ramp(16*i, 1, 16)] = x[add(at[ramp(16*i, 1, 16)], broadcast(10*i, 16))]
             z[add(mul(cast(i64, to[ramp(16*i, 1, 16)]), broadcast(2, 16)), ramp(16*i, 1, 16)) if lt(ramp(16*i, 1, 16), broadcast(40, 16))] = cast(i8, at[ramp(16*i, 1, 16)])
           }
           y[at[3]] = x[at[4]]
           y[mul(at[5], 3) if lt(at[6], 4)] = x[add(at[5], 20) if ge(at[7], 4)]
         }",
        &[],
        0.0,
    );
}

#[test]
fn masks_of_ramps_are_those_of_64_bit_comparisons() {
    let mut lines = String::new();
    for (k, f) in ["lt", "le", "gt", "ge", "eq", "ne"].iter().enumerate() {
        for (j, ramp) in
            ["ramp(i, 1, 16)", "ramp(i-n, -3, 16)", "ramp(i*i*i*1000000000000, 0, 16)", "ramp(i, n, 16)"]
                .iter()
                .enumerate()
        {
            let at = 16 * (4 * k + j);
            lines += &format!(
                "y[ramp(384*i+7680+{at}, 1, 16)] = {f}({ramp}, broadcast(n-2*i, 16))\n
                 z[ramp(384*i+7680+{at}, 1, 16)] = {f}(broadcast(n-2*i, 16), {ramp})\n"
            );
        }
    }
    let text = format!(
        "kernel @ramps(out y: bool[15360], out z: bool[15360]; n: -100..=100) {{ for i in -20..20 {{ {lines} }} }}"
    );
    for n in [0, 7, 19, -33, 100] {
        differential(&text, &[n], 0.0);
    }
}

#[test]
fn indices_divide_like_the_algebra() {
    let divisors = ["3", "-3", "4", "-4", "1", "7", "n", "-n"];
    let mut lines = String::new();
    for (k, d) in divisors.iter().enumerate() {
        let at = 4 * k;
        lines += &format!(
            "y[64*i+2048+{at}] = floordiv(i+j,{d})\n y[64*i+2048+{at}+1] = mod(i+j,{d})\n
             y[64*i+2048+{at}+2] = floordiv((i+32)*5,{d})\n y[64*i+2048+{at}+3] = mod((i+32)*(i+32),{d})\n"
        );
    }
    differential(
        &format!(
            "kernel @divide(out y: i64[4096]; n: 1..=9, j: -5..=5) {{
               for i in -32..32 {{
                 {lines}
                 y[64*i+2048+60] = -2*i*j+n*min(i,(max(j,3-i)))
                 y[64*i+2048+61] = -i
               }}
             }}"
        ),
        &[5, -3],
        0.0,
    );
}

#[test]
fn lanes_are_combined() {
    let numbers = ["f64", "f32", "i8", "i16", "i32", "i64", "u8", "u32", "u64"];
    for (dtype, ops) in numbers.map(|t| (t, ["sum", "prod", "max", "min"])) {
        for n in [1, 2, 3, 4, 8, 12, 16, 32] {
            let stores: String = ops
                .iter()
                .enumerate()
                .map(|(k, op)| format!("y[4*i+{k}] = reduce({op}, x[ramp({n}*i, 1, {n})])\n"))
                .collect();
            let text = format!(
                "kernel @sum_{dtype}_{n}(in x: {dtype}[{n}*8], out y: {dtype}[32]) {{ for i in 0..8 {{ {stores} }} }}"
            );
            differential(&text, &[], if dtype.starts_with('f') { 1e-6 } else { 0.0 });
        }
    }
    for n in [1, 2, 8, 16, 64] {
        let text = format!(
            "kernel @logic_{n}(in x: bool[{n}*8], out y: bool[32]) {{
               for i in 0..8 {{
                 y[2*i] = reduce(and, x[ramp({n}*i, 1, {n})])
                 y[2*i+1] = reduce(or, x[ramp({n}*i, 1, {n})])
                 y[16+i] = reduce(and, or(x[ramp({n}*i, 1, {n})], broadcast(bool(true), {n})))
               }}
             }}"
        );
        differential(&text, &[], 0.0);
    }
}

#[test]
fn extremes_of_lanes_keep_nan() {
    let text = "kernel @nan(in x: f32[256], out y: f32[32]) {
                  for i in 0..16 {
                    y[i] = reduce(max, x[ramp(16*i, 1, 16)])
                    y[16+i] = reduce(min, x[ramp(16*i, 1, 16)])
                  }
                }";
    differential_on(text, &[], 0.0, |_, i, _, random| match i % 17 == 0 && i > 0 {
        true => Scalar::F(f64::NAN),
        false => Scalar::F(random.unit()),
    });
}

#[test]
fn blocks_and_loops_nest() {
    differential(
        "kernel @control(in x: i64[32], out gcd: i64[32], out n: i32[32], out s: f64[4]; m: 0..=9) {
           for i in 0..32 {
             alloc a: i64[2] register
             alloc steps: i32[1] stack
             a[0] = add(x[i], 12)
             a[1] = 20
             steps[0] = i32(0)
             while ne(a[1], 0) {
               let r: i64 = rem(a[0], a[1])
               a[0] = a[1]
               a[1] = r
               steps[0] = add(steps[0], i32(1))
               if gt(steps[0], i32(3)) {
                 if eq(r, 0) {
                   gcd[i] = -1
                 }
                 a[1] = 0
               } else {
                 gcd[i] = a[0]
               }
             }
             n[i] = steps[0]
           }
           for i in m..4 {
             s[i] = f64(0.0)
             for j in i..m {
               s[i] = f64(77.0)
             }
             for j in -3..i {
               s[i] = add(s[i], cast(f64, j))
             }
           }
         }",
        &[2],
        0.0,
    );
}

#[test]
fn rows_are_copied() {
    differential(
        "kernel @rows(in x: i16[200], out y: i16[200]; n: 1..=9) {
           alloc t: i16[64] stack
           copy t[0; 8] from x[3; 16] size [8, 8]
           copy y[5; 10] from t[8; 8] size [n, n]
           copy y[100] from t[n] size [20]
         }",
        &[5],
        0.0,
    );
}

#[test]
fn rows_become_columns() {
    for (dtype, n) in [("f32", 2), ("f32", 4), ("f32", 8), ("f32", 16), ("f64", 8), ("i64", 4), ("f64", 2)] {
        let text = format!(
            "kernel @turned(in x: {dtype}[700], out y: {dtype}[700]) {{
               alloc t: {dtype}[512] stack
               copy t[3; 19] from x[5; 1, 37] size [{n}, {n}]
               for i in 0..2 {{
                 copy y[320*i; 20] from t[3; 1, 19] size [{n}, {n}]
               }}
             }}"
        );
        differential(&text, &[], 0.0);
    }
}

#[test]
fn prefetching_changes_nothing() {
    differential(
        "kernel @ahead(in x: f32[64], out y: f32[64]) {
           for i in 0..4 {
             call @prefetch(x[16*i+4096])
             call @prefetch(x[ramp(16*i, 1, 16)], i64(1))
             y[ramp(16*i, 1, 16)] = x[ramp(16*i, 1, 16)]
           }
         }",
        &[],
        0.0,
    );
}

#[test]
fn a_register_tile_is_right() {
    differential(&matmul(6, 2, 16, 18, 64, 37), &[], 1e-6);
    differential(&matmul(4, 3, 8, 8, 48, 10), &[], 1e-6);
}

/// Run with `--ignored --nocapture`, in a release build or not: it times generated code only.
#[test]
#[ignore = "a measurement"]
fn matmul_speed() {
    for (target, (mr, nr)) in
        backends().iter().flat_map(|b| [(6, 2), (14, 2), (8, 3), (4, 2)].map(|tile| (b, tile)))
    {
        let lanes = cpu_features(target).unwrap().vector_bytes as i64 / 4;
        let (m, n, k) = (168, 768, 768);
        let kernel = parse(&matmul(mr, nr, lanes, m, n, k));
        let library = build(target, &[kernel]);
        let f = library.get("matmul").unwrap();
        let mut a = Array::f32((0..m * k).map(|i| (i % 7) as f32));
        let mut b = Array::f32((0..k * n).map(|i| (i % 5) as f32));
        let mut c = Array::zeros(DType::F32, (m * n) as usize);
        let seconds = |a: &mut Array, b: &mut Array, c: &mut Array| {
            let start = std::time::Instant::now();
            call(f, &mut [a, b, c], &[], 0, m / mr);
            start.elapsed().as_secs_f64()
        };
        let best = (0..300).map(|_| seconds(&mut a, &mut b, &mut c)).fold(f64::MAX, f64::min);
        println!("{}, tile {mr} x {nr}: {:.1} GFLOP/s", name(target), 2.0 * (m * n * k) as f64 / best / 1e9);
    }
}

#[test]
fn what_cannot_be_compiled_is_named() {
    let cases = [
        ("y[0] = z[0]", "buffer z is not declared"),
        ("bind(thread, 0) for t in 0..4 { }", "has no bind(thread, 0) loops"),
        ("vector for t in 0..4 { }", "the loop is not vectorised"),
        ("unroll for t in 0..n { }", "bounds 0..n are not constant"),
        ("unroll for t in 0..300000 { }", "unrolling it gives more than"),
        ("barrier shared", "no barriers for shared memory"),
        ("copy y[0] from x[0] size [2] async g", "asynchronous copies"),
        ("commit g", "asynchronous copies"),
        ("wait g pending 0", "asynchronous copies"),
        ("let v = shuffle(x[0], 1)", "has no warps"),
        ("copy y[0] from x[0] size [2 valid 1]", "copies of parts of tiles"),
        ("copy y[0; 1, 2] from x[0; 2] size [2, 2]", "columns of a copy"),
        ("mma @m16n8k16 [16, 8, 16] y[0; 8] += x[0; 16] * x[0; 8]", "no matrix instruction m16n8k16"),
        ("call @sleep()", "no intrinsic `sleep`"),
        ("alloc s: f32[4] shared", "no shared memory"),
        ("alloc s: f32[n] stack", "length n, not a constant"),
        ("alloc s: f32[100000000] stack", "bytes of stack memory, not 400000000"),
        ("y[0] = reduce(argmax, x[ramp(0, 1, 4)])", "cannot be combined by argmax"),
        ("y[ramp(0, 1, 4)] = x[ramp(0, 1, 8)]", "f32x8 is stored to 4 lanes of buffer y of f32"),
        ("y[0] = i32(1)", "i32 is stored to 1 lanes of buffer y of f32"),
        ("h[0] = add(h[0], h[0])", "16-bit floats can only be loaded, stored and cast"),
        ("x[0] = y[0]", "buffer x is written, but its parameter is read only"),
        ("copy x[0] from y[0] size [2]", "buffer x is written"),
    ];
    for (body, message) in cases {
        let text =
            format!("kernel @bad(in x: f32[64], out y: f32[64], out h: f16[4]; n: 1..=9) {{ {body} }}");
        let Ok(k) = parse_kernel(&text) else { continue };
        for target in backends() {
            let error = compile(std::slice::from_ref(&k), &target).unwrap_err().message;
            assert!(error.starts_with("kernel bad: ") && error.contains(message), "{body}: {error}");
        }
    }
    let k = parse("kernel @k() { }");
    for backend in backends() {
        let error = |cpu: &str, triple: &str, kernels: &[Kernel]| {
            let options = CpuOptions { cpu: cpu.into(), triple: triple.into(), ..backend.clone() };
            compile(kernels, &options).unwrap_err().message
        };
        let one = std::slice::from_ref(&k);
        assert!(error("pentium", x86::TRIPLE, one).contains("named `pentium`"));
        assert!(error("native", "riscv64-unknown-linux-gnu", one).contains("not supported"));
        assert!(error("native", x86::TRIPLE, &[k.clone(), k.clone()]).contains("are named `k`"));
        let quoted = [parse("kernel @\"a b\"() { }")];
        assert!(error("native", x86::TRIPLE, &quoted).contains("not a name for a kernel"));
    }
}

#[test]
fn objects_do_not_depend_on_threads() {
    let kernels: Vec<Kernel> = (0..13)
        .map(|i| {
            parse(&format!(
                "kernel @k{i}(in x: f32[64], out y: f32[64]) {{
                   for i in 0..4 {{ y[ramp(16*i, 1, 16)] = exp(mul(x[ramp(16*i, 1, 16)], broadcast(f32({i}), 16))) }}
                 }}"
            ))
        })
        .collect();
    for backend in backends() {
        let with = |threads| compile(&kernels, &CpuOptions { threads, ..backend.clone() }).unwrap();
        assert!(with(1) == with(2) && with(2) == with(7));
        let library = Library::load(&with(0)).unwrap();
        assert!((0..13).all(|i| library.get(&format!("k{i}")).is_ok()));
        assert!(library.get("k13").unwrap_err().message.contains("kernel k13"));
    }
}

#[test]
fn broken_objects_are_errors() {
    let objects = [Object { bytes: b"no ELF file".to_vec() }];
    let library = Library::load(&objects);
    assert!(library.and_then(|l| l.get("k")).is_err());
}
