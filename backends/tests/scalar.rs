//! Every scalar function on every element type, in scalars and vectors, masked and not, against its definition, by
//! every backend.
#![allow(clippy::unwrap_used)]

mod common;
use aic_backends::{CpuOptions, KernelFn};
use aic_ir::dtype::DType;
use aic_ir::kernel::*;
use aic_ir::scalar::{Scalar, ScalarFn, Signature};
use common::*;

/// Elements per test; a multiple of every number of lanes.
const N: usize = 480;

/// How far, in units of the last place, a result may be from the one computed in `f64` and rounded: for `f32` and
/// `f64`. The C library promises no more for those of its functions that are called.
fn tolerance(f: ScalarFn) -> (u64, u64) {
    match f {
        ScalarFn::Exp | ScalarFn::Tanh | ScalarFn::Softplus => (2, 2),
        ScalarFn::Sigmoid => (2, 3),
        ScalarFn::Erf => (2, 1),
        ScalarFn::Log => (1, 1),
        ScalarFn::Sin | ScalarFn::Cos => (1, 1),
        ScalarFn::Asinh | ScalarFn::Acosh | ScalarFn::Atanh => (1, 3),
        ScalarFn::Tan | ScalarFn::Sinh | ScalarFn::Cosh | ScalarFn::Pow => (1, 0),
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

/// The functions that have polynomials, sampled densely: how far they are from the number itself for `f32`, and from what
/// the C library gives for `f64`, in units of the last place of the result.
#[test]
fn polynomials_are_accurate() {
    let singles = [
        (ScalarFn::Exp, 1.1),
        (ScalarFn::Log, 1.0),
        (ScalarFn::Tanh, 1.6),
        (ScalarFn::Erf, 1.5),
        (ScalarFn::Sigmoid, 1.8),
        (ScalarFn::Softplus, 2.0),
        (ScalarFn::Sin, 0.6),
        (ScalarFn::Cos, 0.6),
        (ScalarFn::Tan, 0.8),
        (ScalarFn::Asin, 0.52),
        (ScalarFn::Acos, 0.52),
        (ScalarFn::Atan, 0.52),
        (ScalarFn::Sinh, 0.52),
        (ScalarFn::Cosh, 0.52),
        (ScalarFn::Asinh, 0.52),
        (ScalarFn::Acosh, 0.52),
        (ScalarFn::Atanh, 0.52),
        (ScalarFn::Pow, 0.52),
        (ScalarFn::Rem, 0.0),
    ];
    let doubles = [
        (ScalarFn::Exp, 2.0),
        (ScalarFn::Log, 2.0),
        (ScalarFn::Tanh, 2.0),
        // One of them is the reference's.
        (ScalarFn::Sigmoid, 3.0),
        (ScalarFn::Softplus, 2.0),
        (ScalarFn::Sin, 2.0),
        (ScalarFn::Cos, 2.0),
    ];
    let mut failures = Vec::new();
    for (dtype, functions) in [(DType::F32, &singles[..]), (DType::F64, &doubles[..])] {
        let kernels: Vec<Kernel> = functions.iter().map(|(f, _)| dense_kernel(*f, dtype)).collect();
        for target in targets() {
            let library = build(&target, &kernels);
            for (f, limit) in functions {
                let (error, text) = worst(*f, dtype, library.get(&format!("dense_{}", f.keyword())).unwrap());
                println!("{}: {} on {dtype} {error:.3}", name(&target), f.keyword());
                if error > *limit {
                    failures.push(format!("{}: {text}: {error}", name(&target)));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Elements of a dense sample.
const MANY: usize = 1 << 15;

/// `y[i] = f(x0[i], ..)` for many.
fn dense_kernel(f: ScalarFn, dtype: DType) -> Kernel {
    let at = || lanes(dim("i") * 16.into(), 16);
    let len = MANY as i64;
    let mut params: Vec<Param> = (0..f.arity()).map(|k| param(&format!("x{k}"), dtype, len, false)).collect();
    params.push(param("y", dtype, len, true));
    let args = (0..f.arity()).map(|k| load(&format!("x{k}"), at())).collect();
    kernel(
        &format!("dense_{}", f.keyword()),
        params,
        vec![serial("i", len / 16, vec![store("y", at(), Expr::Call(f, args))])],
    )
}

/// The largest error of a function on numbers of all sizes, and where it is.
fn worst(f: ScalarFn, dtype: DType, code: KernelFn) -> (f64, String) {
    let mut random = Random(1);
    let mut value = |i: usize| match i % 8 {
        0 if dtype == DType::F64 => f64::from_bits(random.bits()),
        0 => f32::from_bits(random.bits() as u32).into(),
        1 => random.unit() * 110.0,
        2 | 3 => random.unit() * 10.0,
        4 => 1.0 + random.unit() * 0.5,
        5 => random.unit() * 1e-3,
        _ => random.unit() * 2.0,
    };
    let mut sample = || Array::new(dtype, (0..MANY).map(|i| Scalar::F(value(i)).cast(dtype)));
    let mut xs: Vec<Array> = (0..f.arity()).map(|_| sample()).collect();
    let mut y = Array::zeros(dtype, MANY);
    let mut arrays: Vec<&mut Array> = xs.iter_mut().collect();
    arrays.push(&mut y);
    call(code, &mut arrays, &[], 0, 0);
    let mut worst = (0.0, String::new());
    for i in 0..MANY {
        let args: Vec<Scalar> = xs.iter().map(|x| x.get(i)).collect();
        let (expect, found) = (f.eval(DType::F64, &args), y.get(i));
        let error = error(dtype, expect.as_f64(), found.as_f64());
        if error > worst.0 {
            worst = (error, format!("{}{args:?}: expected {expect:?}, found {found:?}", f.keyword()));
        }
    }
    worst
}

/// In units of the last place.
fn error(dtype: DType, expect: f64, found: f64) -> f64 {
    let rounded = Scalar::F(expect).cast(dtype).as_f64();
    match (expect.is_nan(), found.is_nan()) {
        (true, true) => 0.0,
        (false, false) if rounded == found => 0.0,
        (false, false) => (expect - found).abs() / last_place(dtype, expect),
        _ => f64::INFINITY,
    }
}

/// The distance of the numbers around.
fn last_place(dtype: DType, x: f64) -> f64 {
    if dtype == DType::F64 {
        let size = x.abs().max(f64::MIN_POSITIVE);
        return f64::from_bits(size.to_bits() + 1) - size;
    }
    let size = x.abs().max(f32::MIN_POSITIVE.into()) as f32;
    f64::from(f32::from_bits(size.to_bits() + 1)) - f64::from(size)
}

fn bits_of(dtype: DType, bits: u16) -> Scalar {
    aic_ir::tensor::read_scalar(dtype, &bits.to_le_bytes())
}
