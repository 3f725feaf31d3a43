//! What the tests of code generators share: building small kernels and running them on arrays.
#![allow(dead_code, clippy::unwrap_used)]

use aic_backends::{CpuOptions, KernelFn, Library, available, compile};
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::dtype::DType;
use aic_ir::eval::KernelBuffer;
use aic_ir::kernel::{Buffer, Expr, Kernel, Param, Scope, Stmt};
use aic_ir::scalar::Scalar;
use aic_ir::tensor::{read_scalar, write_scalar};
use aic_ir::text::parse_kernel;
use std::ffi::c_void;

/// A buffer parameter.
pub fn param(name: &str, dtype: DType, len: i64, writable: bool) -> Param {
    let buffer = Buffer { name: Sym::new(name), dtype, len: len.into(), scope: Scope::Global };
    Param { buffer, writable }
}

/// A kernel without symbols.
pub fn kernel(name: &str, params: Vec<Param>, body: Vec<Stmt>) -> Kernel {
    Kernel { name: name.into(), params, symbols: Vec::new(), body }
}

pub fn sym(name: &str) -> Sym {
    Sym::new(name)
}

pub fn dim(name: &str) -> Dim {
    Dim::named(name)
}

pub fn symbol(name: &str, lo: i64, hi: i64) -> (Sym, Range) {
    (Sym::new(name), Range::new(lo, hi))
}

/// `base, base + 1, ..`; a scalar index for one lane.
pub fn lanes(base: Dim, n: u32) -> Expr {
    match n {
        1 => Expr::Index(base),
        _ => Expr::Ramp { base, stride: 1.into(), lanes: n },
    }
}

pub fn load(buffer: &str, index: Expr) -> Expr {
    Expr::Load { buffer: sym(buffer), index: index.into(), mask: None }
}

pub fn load_masked(buffer: &str, index: Expr, mask: Expr) -> Expr {
    Expr::Load { buffer: sym(buffer), index: index.into(), mask: Some(mask.into()) }
}

pub fn store(buffer: &str, index: Expr, value: Expr) -> Stmt {
    Stmt::Store { buffer: sym(buffer), index, value, mask: None }
}

pub fn store_masked(buffer: &str, index: Expr, value: Expr, mask: Expr) -> Stmt {
    Stmt::Store { buffer: sym(buffer), index, value, mask: Some(mask) }
}

/// A scalar in `n` lanes.
pub fn splat(e: Expr, n: u32) -> Expr {
    if n == 1 { e } else { Expr::Broadcast(e.into(), n) }
}

pub fn serial(var: &str, n: i64, body: Vec<Stmt>) -> Stmt {
    Stmt::serial(&sym(var), n.into(), body)
}

pub fn alloc(name: &str, dtype: DType, len: i64, scope: Scope) -> Stmt {
    Stmt::Alloc(Buffer { name: sym(name), dtype, len: len.into(), scope })
}

/// Compiled kernels.
pub fn build(options: &CpuOptions, kernels: &[Kernel]) -> Library {
    Library::load(&compile(kernels, options).unwrap()).unwrap()
}

/// Every backend of this build, for this machine.
pub fn backends() -> Vec<CpuOptions> {
    available().map(|b| CpuOptions { backend: b.name, ..CpuOptions::default() }).collect()
}

/// Every backend of this build, for each CPU, of those that tests compile for, whose code this machine runs.
pub fn targets() -> Vec<CpuOptions> {
    let mut targets = Vec::new();
    for b in backends() {
        let mut cpus = vec!["native", if b.backend == "cranelift" { "x86-64-v2" } else { "x86-64" }];
        if std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma") {
            cpus.push("x86-64-v3");
        }
        if std::is_x86_feature_detected!("avx512bw") && std::is_x86_feature_detected!("avx512vl") {
            cpus.push("x86-64-v4");
        }
        targets.extend(cpus.into_iter().map(|cpu| CpuOptions { cpu: cpu.into(), ..b.clone() }));
    }
    targets
}

/// How a failure names a target.
pub fn name(options: &CpuOptions) -> String {
    format!("{} for {}", options.backend, options.cpu)
}

/// Pseudo-random numbers, the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From -1 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    /// A value of the type: special ones, small ones, any bits.
    pub fn scalar(&mut self, dtype: DType) -> Scalar {
        let special = SPECIAL[self.bits() as usize % SPECIAL.len()];
        let value = match (self.bits() % 4, dtype) {
            (0, t) if t.is_float() => Scalar::F(special),
            (1, t) if t.is_float() => Scalar::F(self.unit() * 20.0),
            (2, t) if t.is_float() => Scalar::F(self.unit()),
            (_, DType::F64) => Scalar::F(f64::from_bits(self.bits())),
            (_, t) if t.is_float() => Scalar::F(f32::from_bits(self.bits() as u32).into()),
            (0, t) => [Scalar::lowest(t), Scalar::highest(t), Scalar::zero(t)][self.bits() as usize % 3],
            (1, t) if t.is_signed() => Scalar::I(self.bits() as i64 % 20),
            (1, _) => Scalar::U(self.bits() % 20),
            _ => Scalar::U(self.bits()),
        };
        value.cast(dtype)
    }
}

/// Floats at which something happens.
const SPECIAL: &[f64] = &[
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    3.0,
    10.0,
    88.0,
    -88.0,
    104.0,
    -104.0,
    710.0,
    -746.0,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    f64::MAX,
    f64::MIN_POSITIVE,
    5e-324,
    3.4028234663852886e38,
    3.4028235677973366e38,
    1.1754943508222875e-38,
    1.401298464324817e-45,
    65504.0,
    65519.9,
    65520.0,
    6.1e-5,
    5.96e-8,
    2.98e-8,
    2147483648.0,
    -2147483649.0,
    4294967296.0,
    9.223372036854776e18,
    -9.3e18,
    1.8446744073709552e19,
    255.5,
    256.0,
    -129.0,
    1e15,
    8388608.5,
    4503599627370497.0,
];

/// An array of a kernel: bytes at an address that is a multiple of the element's size and of nothing more.
pub struct Array {
    dtype: DType,
    bytes: Vec<u8>,
    offset: usize,
    len: usize,
}

/// Bytes after the last element that nothing may touch.
const GUARD: usize = 64;

impl Array {
    pub fn new(dtype: DType, values: impl IntoIterator<Item = Scalar>) -> Array {
        let mut data = Vec::new();
        values.into_iter().for_each(|v| write_scalar(dtype, v, &mut data));
        let mut bytes = vec![0xa5; data.len() + 64 + GUARD];
        let offset = bytes.as_ptr().align_offset(64) % 64;
        let offset = if offset + dtype.size() <= 64 { offset + dtype.size() } else { offset };
        bytes[offset..offset + data.len()].copy_from_slice(&data);
        Array { dtype, bytes, offset, len: data.len() / dtype.size() }
    }

    pub fn zeros(dtype: DType, n: usize) -> Array {
        Array::new(dtype, (0..n).map(|_| Scalar::zero(dtype)))
    }

    pub fn f32(values: impl IntoIterator<Item = f32>) -> Array {
        Array::new(DType::F32, values.into_iter().map(|v| Scalar::F(v.into())))
    }

    pub fn i64(values: impl IntoIterator<Item = i64>) -> Array {
        Array::new(DType::I64, values.into_iter().map(Scalar::I))
    }

    pub fn get(&self, i: usize) -> Scalar {
        assert!(i < self.len);
        let n = self.dtype.size();
        read_scalar(self.dtype, &self.bytes[self.offset + i * n..self.offset + (i + 1) * n])
    }

    pub fn scalars(&self) -> Vec<Scalar> {
        (0..self.len).map(|i| self.get(i)).collect()
    }

    pub fn floats(&self) -> Vec<f64> {
        self.scalars().into_iter().map(Scalar::as_f64).collect()
    }

    pub fn copy(&self) -> Array {
        Array::new(self.dtype, self.scalars())
    }

    pub fn to_buffer(&self) -> KernelBuffer {
        let end = self.offset + self.len * self.dtype.size();
        KernelBuffer { dtype: self.dtype, data: self.bytes[self.offset..end].to_vec() }
    }

    pub fn from_buffer(b: &KernelBuffer) -> Array {
        let elements = b.data.chunks_exact(b.dtype.size());
        Array::new(b.dtype, elements.map(|e| read_scalar(b.dtype, e)))
    }

    fn pointer(&mut self) -> *mut c_void {
        self.bytes[self.offset..].as_mut_ptr().cast()
    }

    fn check_guard(&self) {
        let end = self.offset + self.len * self.dtype.size();
        let untouched = |b: &[u8]| b.iter().all(|b| *b == 0xa5);
        assert!(
            untouched(&self.bytes[..self.offset]) && untouched(&self.bytes[end..]),
            "wrote out of bounds"
        );
    }
}

/// Calls a kernel's code on arrays, which must be as large as it was promised.
pub fn call(f: KernelFn, arrays: &mut [&mut Array], symbols: &[i64], begin: i64, end: i64) {
    let pointers: Vec<*mut c_void> = arrays.iter_mut().map(|a| a.pointer()).collect();
    // SAFETY: the tests pass what their kernels declare.
    unsafe { f(pointers.as_ptr(), symbols.as_ptr(), begin, end) };
    arrays.iter().for_each(|a| a.check_guard());
}

/// `c[m, n] = sum_k a[m, k] * b[k, n]` with a register tile of `mr` rows by `nr` vectors; `b` is packed in panels.
pub fn matmul(mr: i64, nr: i64, lanes: i64, m: i64, n: i64, k: i64) -> String {
    let panel = nr * lanes;
    format!(
        "kernel @matmul(in a: f32[{}], in b: f32[{}], out c: f32[{}]) {{
           parallel for io in 0..{} {{
             for jo in 0..{} {{
               alloc acc: f32[{}] register
               unroll for r in 0..{mr} {{
                 unroll for q in 0..{nr} {{
                   acc[ramp({panel}*r+{lanes}*q, 1, {lanes})] = broadcast(f32(0.0), {lanes})
                 }}
               }}
               for p in 0..{k} {{
                 alloc row: f32[{panel}] register
                 unroll for q in 0..{nr} {{
                   row[ramp({lanes}*q, 1, {lanes})] = b[ramp({}*jo+{panel}*p+{lanes}*q, 1, {lanes})]
                 }}
                 unroll for r in 0..{mr} {{
                   let s: f32 = a[{}*io+{k}*r+p]
                   unroll for q in 0..{nr} {{
                     acc[ramp({panel}*r+{lanes}*q, 1, {lanes})] = fma(broadcast(s, {lanes}), row[ramp({lanes}*q, 1, {lanes})], acc[ramp({panel}*r+{lanes}*q, 1, {lanes})])
                   }}
                 }}
               }}
               unroll for r in 0..{mr} {{
                 unroll for q in 0..{nr} {{
                   c[ramp({}*io+{n}*r+{panel}*jo+{lanes}*q, 1, {lanes})] = acc[ramp({panel}*r+{lanes}*q, 1, {lanes})]
                 }}
               }}
             }}
           }}
         }}",
        m * k,
        k * n,
        m * n,
        m / mr,
        n / panel,
        mr * panel,
        panel * k,
        mr * k,
        mr * n
    )
}

pub fn parse(text: &str) -> Kernel {
    parse_kernel(text).unwrap_or_else(|e| panic!("{e} in {text}"))
}
