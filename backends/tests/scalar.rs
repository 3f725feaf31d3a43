//! Every scalar function on every element type, in scalars and vectors, masked and not, against its definition, by
//! every backend.
#![allow(clippy::unwrap_used)]

mod common;
use aic_backends::CpuOptions;
use aic_ir::dtype::DType;
use aic_ir::kernel::*;
use aic_ir::scalar::{Scalar, ScalarFn, Signature};
use common::*;

/// Elements per test; a multiple of every number of lanes.
const N: usize = 480;

/// How far, in units of the last place, a result may be from the one computed in `f64` and rounded: for `f32` and
/// `f64`. The C library promises no more for its own functions.
fn tolerance(f: ScalarFn) -> (u64, u64) {
    match f {
        ScalarFn::Sigmoid => (2, 2),
        ScalarFn::Softplus => (2, 2),
        ScalarFn::Exp | ScalarFn::Tan | ScalarFn::Sinh | ScalarFn::Cosh | ScalarFn::Tanh => (2, 0),
        ScalarFn::Asinh | ScalarFn::Acosh | ScalarFn::Atanh => (2, 3),
        ScalarFn::Erf => (2, 1),
        ScalarFn::Log | ScalarFn::Sin | ScalarFn::Cos | ScalarFn::Pow => (1, 0),
        ScalarFn::Asin | ScalarFn::Acos | ScalarFn::Atan => (1, 0),
        _ => (0, 0),
    }
}

/// The operand types for a type that the function is defined on.
fn operands(f: ScalarFn, t: DType) -> Option<Vec<DType>> {
    let types = match f.signature() {
        Signature::Select => vec![DType::Bool, t, t],
        _ => vec![t; f.arity()],
    };
    let computes = !matches!(t, DType::F16 | DType::BF16) || f == ScalarFn::Select;
    f.result(&types).filter(|_| computes).map(|_| types)
}

fn cases(widths: &[u32]) -> Vec<(ScalarFn, Vec<DType>, u32)> {
    let mut out = Vec::new();
    for &f in ScalarFn::ALL {
        for types in DType::ALL.iter().filter_map(|t| operands(f, *t)) {
            out.extend(widths.iter().map(|n| (f, types.clone(), *n)));
        }
    }
    out
}

/// `y[i] = f(x0[i], ..)` where `m[i]`.
fn case_kernel(name: String, f: ScalarFn, types: &[DType], n: u32) -> Kernel {
    let at = || lanes(dim("i") * i64::from(n).into(), n);
    let len = N as i64;
    let mut params: Vec<Param> =
        types.iter().enumerate().map(|(k, t)| param(&format!("x{k}"), *t, len, false)).collect();
    params.push(param("m", DType::Bool, len, false));
    params.push(param("y", f.result(types).unwrap(), len, true));
    let args = (0..types.len()).map(|k| load(&format!("x{k}"), at())).collect();
    let body = store_masked("y", at(), Expr::Call(f, args), load("m", at()));
    kernel(&name, params, vec![serial("i", len / i64::from(n), vec![body])])
}

/// Units of the last place between two floats; NaN is as far as it gets.
fn distance(dtype: DType, a: f64, b: f64) -> u64 {
    let order = |x: f64| match dtype {
        DType::F64 => (x.to_bits() as i64 ^ ((x.to_bits() as i64 >> 63) as u64 >> 1) as i64) as i128,
        _ => {
            let bits = (x as f32).to_bits() as i32;
            i128::from(bits ^ ((bits >> 31) as u32 >> 1) as i32)
        }
    };
    match (a.is_nan(), b.is_nan()) {
        (true, true) => 0,
        (false, false) if a == b && a != 0.0 => 0,
        (false, false) => (order(a) - order(b)).unsigned_abs() as u64,
        _ => u64::MAX,
    }
}

fn check(f: ScalarFn, dtype: DType, args: &[Scalar], expect: Scalar, found: Scalar) -> Result<(), String> {
    let (single, double) = tolerance(f);
    let limit = if dtype == DType::F64 { double } else { single };
    let error = match (expect, found) {
        (Scalar::F(a), Scalar::F(b)) if matches!(f, ScalarFn::Min | ScalarFn::Max) && a == b => 0,
        (Scalar::F(a), Scalar::F(b)) => distance(dtype, a, b),
        _ => u64::from(expect != found),
    };
    if error > limit {
        return Err(format!(
            "{} on {dtype} {args:?}: expected {expect:?}, found {found:?}, {error}",
            f.keyword()
        ));
    }
    Ok(())
}

fn check_all(options: &CpuOptions, widths: &[u32]) {
    let cases = cases(widths);
    let kernels: Vec<Kernel> = cases
        .iter()
        .enumerate()
        .map(|(i, (f, types, n))| case_kernel(format!("k{i}"), *f, types, *n))
        .collect();
    let library = build(options, &kernels);
    let mut failures = Vec::new();
    for (i, (f, types, n)) in cases.iter().enumerate() {
        let mut random = Random(i as u64);
        let mut xs: Vec<Array> =
            types.iter().map(|t| Array::new(*t, (0..N).map(|_| random.scalar(*t)))).collect();
        let mut m = Array::new(DType::Bool, (0..N).map(|_| Scalar::B(!random.bits().is_multiple_of(8))));
        let result = f.result(types).unwrap();
        let mut y = Array::new(result, (0..N).map(|_| Scalar::one(result)));
        let mut arrays: Vec<&mut Array> = xs.iter_mut().collect();
        arrays.extend([&mut m, &mut y]);
        call(library.get(&kernels[i].name).unwrap(), &mut arrays, &[], 0, 0);
        for k in 0..N {
            let args: Vec<Scalar> = xs.iter().map(|x| x.get(k)).collect();
            let dtype = types[types.len() - 1];
            let expect = if m.get(k).as_bool() { f.eval(dtype, &args) } else { Scalar::one(result) };
            if let Err(e) = check(*f, dtype, &args, expect, y.get(k)) {
                failures.push(format!("{}, {n} lanes: {e}", name(options)));
            }
        }
    }
    let shown: Vec<&String> = failures.iter().take(40).collect();
    assert!(failures.is_empty(), "{} failures: {shown:#?}", failures.len());
}

#[test]
fn functions_are_as_defined() {
    for target in targets() {
        match target.cpu.as_str() {
            "native" => check_all(&target, &[1, 3, 4, 8, 16]),
            "x86-64-v3" => check_all(&target, &[1, 8, 16]),
            _ => check_all(&target, &[1, 16]),
        }
    }
}

/// `y[i] = cast(x[i])`
fn cast_kernel(name: String, from: DType, to: DType, n: u32) -> Kernel {
    let at = || lanes(dim("i") * i64::from(n).into(), n);
    let len = N as i64;
    let params = vec![param("x", from, len, false), param("y", to, len, true)];
    let body = store("y", at(), Expr::Cast(to, load("x", at()).into()));
    kernel(&name, params, vec![serial("i", len / i64::from(n), vec![body])])
}

#[test]
fn casts_are_as_defined() {
    let types: Vec<DType> = DType::ALL.iter().copied().filter(|t| *t != DType::String).collect();
    let mut cases = Vec::new();
    for &from in &types {
        for &to in &types {
            cases.extend([1, 4, 8, 16].map(|n| (from, to, n)));
        }
    }
    let kernels: Vec<Kernel> = cases
        .iter()
        .enumerate()
        .map(|(i, (from, to, n))| cast_kernel(format!("k{i}"), *from, *to, *n))
        .collect();
    let mut failures = Vec::new();
    for target in targets() {
        let library = build(&target, &kernels);
        for (i, (from, to, n)) in cases.iter().enumerate() {
            let mut random = Random(i as u64 / 4);
            let mut x = Array::new(*from, (0..N).map(|_| random.scalar(*from)));
            let mut y = Array::zeros(*to, N);
            call(library.get(&kernels[i].name).unwrap(), &mut [&mut x, &mut y], &[], 0, 0);
            for k in 0..N {
                let (expect, found) = (x.get(k).cast(*to), y.get(k));
                let both_nan = expect.as_f64().is_nan() && found.as_f64().is_nan();
                if expect != found && !both_nan {
                    failures.push(format!(
                        "{}, {n} lanes, {from} to {to} of {:?}: expected {expect:?}, found {found:?}",
                        name(&target),
                        x.get(k)
                    ));
                }
            }
        }
    }
    let shown: Vec<&String> = failures.iter().take(40).collect();
    assert!(failures.is_empty(), "{} failures: {shown:#?}", failures.len());
}

/// Every 16-bit float widens exactly, and every `f32` near the middle between two of them rounds to even.
#[test]
fn half_precision_rounds_once() {
    for (dtype, other) in [(DType::F16, DType::F32), (DType::BF16, DType::F64), (DType::F16, DType::F64)] {
        let all: Vec<Scalar> = (0..=u16::MAX).map(|bits| bits_of(dtype, bits)).collect();
        let near: Vec<Scalar> = all
            .windows(2)
            .flat_map(|w| {
                let middle = (w[0].as_f64() + w[1].as_f64()) / 2.0;
                [middle, middle * (1.0 + 1e-12), middle * (1.0 - 1e-12), middle * (1.0 + 1e-7)]
            })
            .map(|v| Scalar::F(v).cast(other))
            .collect();
        let n = near.len() as i64 / 16;
        let at = || lanes(dim("i") * 16.into(), 16);
        let body = store("y", at(), Expr::Cast(dtype, load("x", at()).into()));
        let params = vec![param("x", other, 16 * n, false), param("y", dtype, 16 * n, true)];
        let k = kernel("k", params, vec![serial("i", n, vec![body])]);
        for target in targets() {
            let library = build(&target, std::slice::from_ref(&k));
            let mut x = Array::new(other, near[..16 * n as usize].iter().copied());
            let mut y = Array::zeros(dtype, 16 * n as usize);
            call(library.get("k").unwrap(), &mut [&mut x, &mut y], &[], 0, 0);
            for (i, v) in near[..16 * n as usize].iter().enumerate() {
                let (expect, found) = (v.cast(dtype), y.get(i));
                let both_nan = expect.as_f64().is_nan() && found.as_f64().is_nan();
                assert!(
                    expect == found || both_nan,
                    "{}: {v:?} to {dtype}: {expect:?}, found {found:?}",
                    name(&target)
                );
            }
        }
    }
}

/// The functions of `f32` that have polynomials, sampled densely: how far they are from the number itself, in units
/// of the last place of the result.
#[test]
fn polynomials_are_accurate() {
    const MANY: usize = 1 << 18;
    let mut failures = Vec::new();
    for (f, limit) in [
        (ScalarFn::Exp, 1.1),
        (ScalarFn::Log, 1.0),
        (ScalarFn::Tanh, 1.6),
        (ScalarFn::Erf, 1.5),
        (ScalarFn::Sigmoid, 2.2),
        (ScalarFn::Softplus, 2.0),
    ] {
        let at = || lanes(dim("i") * 16.into(), 16);
        let len = MANY as i64;
        let body = store("y", at(), Expr::Call(f, vec![load("x", at())]));
        let params = vec![param("x", DType::F32, len, false), param("y", DType::F32, len, true)];
        let k = kernel("k", params, vec![serial("i", len / 16, vec![body])]);
        for target in targets() {
            let library = build(&target, std::slice::from_ref(&k));
            let mut random = Random(1);
            let mut value = |i: usize| match i % 8 {
                0 => f32::from_bits(random.bits() as u32),
                1 => (random.unit() * 110.0) as f32,
                2 | 3 => (random.unit() * 10.0) as f32,
                4 => (1.0 + random.unit() * 0.5) as f32,
                _ => (random.unit() * 2.0) as f32,
            };
            let mut x = Array::f32((0..MANY).map(&mut value));
            let mut y = Array::zeros(DType::F32, MANY);
            call(library.get("k").unwrap(), &mut [&mut x, &mut y], &[], 0, 0);
            let mut worst = (0.0, 0.0, 0.0, 0.0);
            for i in 0..MANY {
                let expect = f.eval(DType::F64, &[x.get(i)]).as_f64();
                let found = y.get(i).as_f64();
                let error = match () {
                    _ if expect.is_nan() || found.is_nan() => {
                        if expect.is_nan() && found.is_nan() {
                            0.0
                        } else {
                            f64::INFINITY
                        }
                    }
                    _ if f64::from(expect as f32) == found => 0.0,
                    _ => (expect - found).abs() / last_place(expect),
                };
                if error > worst.0 {
                    worst = (error, x.get(i).as_f64(), expect, found);
                }
            }
            let (error, x, expect, found) = worst;
            println!("{}: {} {error:.3}", name(&target), f.keyword());
            if error > limit {
                failures.push(format!(
                    "{}: {}({x:e}): expected {expect:e}, found {found:e}: {error}",
                    name(&target),
                    f.keyword()
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The distance of the `f32` numbers around.
fn last_place(x: f64) -> f64 {
    let size = x.abs().max(f32::MIN_POSITIVE.into()) as f32;
    f64::from(f32::from_bits(size.to_bits() + 1)) - f64::from(size)
}

fn bits_of(dtype: DType, bits: u16) -> Scalar {
    aic_ir::tensor::read_scalar(dtype, &bits.to_le_bytes())
}
