//! Programs made by hand, with kernels in Rust: what the runtime's tests run without any code generator.
#![allow(dead_code, clippy::unwrap_used)]

use aic::session::{KernelFn, Kernels, Options, Session};
use aic_ir::dim::{Dim, Range, Sym};
use aic_ir::dtype::DType;
use aic_ir::error::Result;
use aic_ir::kernel::{Buffer, Kernel, Param, Scope};
use aic_ir::program::{BufferDecl, Place, Port, Program, Step};
use aic_ir::tensor::Tensor;
use aic_ir::types::Type;
use std::ffi::c_void;
use std::slice::{from_raw_parts, from_raw_parts_mut};

/// Work that surely pays for every thread.
pub const MUCH: i64 = 1 << 40;

pub fn ty(dtype: DType, dims: &[&str]) -> Type {
    let dim = |d: &&str| d.parse::<i64>().map_or_else(|_| Dim::named(d), Dim::from);
    Type::new(dtype, dims.iter().map(dim).collect())
}

pub fn kernel(name: &str, n_params: usize, symbols: &[&str]) -> Kernel {
    let param = |k| {
        let name = Sym::new(&format!("p{k}"));
        Param {
            buffer: Buffer { name, dtype: DType::F32, len: 0.into(), scope: Scope::Global },
            writable: true,
        }
    };
    Kernel {
        name: name.into(),
        params: (0..n_params).map(param).collect(),
        symbols: symbols.iter().map(|s| (Sym::new(s), Range::DIM)).collect(),
        body: Vec::new(),
    }
}

/// Adds a buffer.
pub fn buffer(p: &mut Program, ty: Type, place: Place) -> usize {
    p.buffers.push(BufferDecl { ty, place });
    p.buffers.len() - 1
}

/// Adds an input or output.
pub fn input(p: &mut Program, name: &str, ty: Type) -> usize {
    let buffer = buffer(p, ty.clone(), Place::Input(p.inputs.len()));
    p.inputs.push(Port { name: name.into(), ty, buffer });
    buffer
}

pub fn output(p: &mut Program, name: &str, ty: Type) -> usize {
    let buffer = buffer(p, ty.clone(), Place::Output(p.outputs.len()));
    p.outputs.push(Port { name: name.into(), ty, buffer });
    buffer
}

pub fn launch(kernel: usize, args: &[usize], symbols: &[Dim], extent: Dim, work: i64) -> Step {
    let (args, symbols) = (args.to_vec(), symbols.to_vec());
    Step::Launch { kernel, args, symbols, extent, work: work.into(), origin: Vec::new() }
}

pub fn session(p: &Program, functions: &[KernelFn], n_threads: u32) -> Result<Session> {
    let kernels = Kernels { functions: functions.to_vec(), code: Box::new(()) };
    let options = Options { n_threads, poison: true, ..Options::default() };
    // SAFETY: the functions below do what the programs declare.
    unsafe { Session::new(p, kernels, &options) }
}

pub fn f32s(shape: &[usize], f: impl Fn(usize) -> f32) -> Tensor {
    let n = shape.iter().product();
    Tensor::from_vec(shape.to_vec(), &(0..n).map(f).collect::<Vec<f32>>()).unwrap()
}

/// `y[r, c] = x[r, c] * w[c]`, rows in parallel; the symbol is the number of columns.
///
/// # Safety
/// As of a kernel.
pub unsafe extern "C" fn scale(buffers: *const *mut c_void, symbols: *const i64, begin: i64, end: i64) {
    // SAFETY: three buffers and a symbol, as declared.
    unsafe {
        let n = *symbols as usize;
        let (x, w, y) = (*buffers, *buffers.add(1), *buffers.add(2));
        let w = from_raw_parts(w.cast::<f32>(), n);
        for r in begin as usize..end as usize {
            let x = from_raw_parts(x.cast::<f32>().add(r * n), n);
            let y = from_raw_parts_mut(y.cast::<f32>().add(r * n), n);
            for c in 0..n {
                y[c] = x[c] * w[c];
            }
        }
    }
}

/// `y[r, c] = x[r, c] + 1`, rows in parallel; the symbol is the number of columns.
///
/// # Safety
/// As of a kernel.
pub unsafe extern "C" fn increment(buffers: *const *mut c_void, symbols: *const i64, begin: i64, end: i64) {
    // SAFETY: two buffers and a symbol, as declared.
    unsafe {
        let n = *symbols;
        let (x, y) = ((*buffers).cast::<f32>(), (*buffers.add(1)).cast::<f32>());
        for i in begin * n..end * n {
            *y.add(i as usize) = *x.add(i as usize) + 1.0;
        }
    }
}

/// `y[i] = begin`, the first iteration of the slice that `i` is in.
///
/// # Safety
/// As of a kernel.
pub unsafe extern "C" fn slices(buffers: *const *mut c_void, _symbols: *const i64, begin: i64, end: i64) {
    // SAFETY: one buffer, as declared.
    unsafe {
        for i in begin..end {
            *(*buffers).cast::<i64>().add(i as usize) = begin;
        }
    }
}

/// `y[i] = 2 * x[i]` for `i64`.
///
/// # Safety
/// As of a kernel.
pub unsafe extern "C" fn double(buffers: *const *mut c_void, _symbols: *const i64, begin: i64, end: i64) {
    // SAFETY: two buffers, as declared.
    unsafe {
        let (x, y) = ((*buffers).cast::<i64>(), (*buffers.add(1)).cast::<i64>());
        for i in begin as usize..end as usize {
            *y.add(i) = 2 * *x.add(i);
        }
    }
}

/// The kernels of [`layers`] in C.
pub const LAYERS_C: &str = r#"
#include <stdint.h>
void scale(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
    const float *x = buffers[0], *w = buffers[1];
    float *y = buffers[2];
    int64_t n = symbols[0];
    for (int64_t i = begin * n; i < end * n; i++) y[i] = x[i] * w[i % n];
}
void increment(void *const *buffers, const int64_t *symbols, int64_t begin, int64_t end) {
    const float *x = buffers[0];
    float *y = buffers[1];
    int64_t n = symbols[0];
    for (int64_t i = begin * n; i < end * n; i++) y[i] = x[i] + 1;
}
"#;

pub const LAYERS: [KernelFn; 2] = [scale, increment];

/// `y = x * w + 1`, `n` times, over `x: f32[batch, n_cols]`: two kernels, constants, two buffers in the arena, an
/// alias, and a second output that is a copy of the input.
pub fn layers(batch: &str, weights: &[Tensor]) -> Program {
    let cols = weights[0].len();
    let mut p = Program { name: "layers".into(), ..Program::default() };
    p.kernels = vec![kernel("scale", 3, &["n"]), kernel("increment", 2, &["n"])];
    let t = ty(DType::F32, &[batch, &cols.to_string()]);
    let rows = t.dims[0].clone();
    let flat = Type::new(DType::F32, vec![t.numel()]);
    let half = (t.numel() * 4.into()).ceil_div(&64.into()) * 64.into();
    let x = input(&mut p, "x", t.clone());
    let y = output(&mut p, "y", flat);
    let same = output(&mut p, "same", t.clone());
    let places = [Place::Arena(0.into()), Place::Arena(half.clone())];
    let [scaled, sum] = places.map(|place| buffer(&mut p, t.clone(), place));
    let last = buffer(&mut p, t.clone(), Place::Alias(y));
    p.arena_bytes = half * 2.into();
    let mut from = x;
    for (k, w) in weights.iter().enumerate() {
        let constant = buffer(&mut p, Type::of(DType::F32, w.shape()), Place::Constant(w.clone()));
        let to = if k + 1 == weights.len() { last } else { sum };
        p.steps.push(launch(0, &[from, constant, scaled], &[cols.into()], rows.clone(), MUCH));
        p.steps.push(launch(1, &[scaled, to], &[cols.into()], rows.clone(), MUCH));
        from = sum;
    }
    p.steps.push(Step::Copy { src: x, dst: same });
    p
}

/// What [`layers`] gives for `x`.
pub fn layers_expected(x: &Tensor, weights: &[Tensor]) -> Vec<f32> {
    let mut y: Vec<f32> = x.to_vec().unwrap();
    for w in weights {
        let w: Vec<f32> = w.to_vec().unwrap();
        y.iter_mut().enumerate().for_each(|(i, v)| *v = *v * w[i % w.len()] + 1.0);
    }
    y
}

pub fn some_weights(cols: usize, n: usize) -> Vec<Tensor> {
    (0..n).map(|k| f32s(&[cols], |i| 0.5 + ((7 * i + k) % 5) as f32 / 8.0)).collect()
}
