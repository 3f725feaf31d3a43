//! Networks of one family of operators each, at extents of one's choice; every machine that is emulated runs them.
#![allow(clippy::unwrap_used)]

use aic_ir::dtype::DType;
use aic_ir::graph::Graph;
use aic_ir::op::{Operand, Rng, Values};
use aic_ir::tensor::Tensor;
use aic_ir::text::parse_graph;

/// Products of integers of 8 bits.
pub const INTEGERS: &[&str] = &[
    "(%0: i8[N,M], %1: i8[M,P]) -> i32[N,P] {
       %2 = cast %0 {to=i32} %3 = cast %1 {to=i32} %4 = matmul %2 %3 return %4 }",
    "(%0: i8[N,M], %1: i8[P,M], %2: f32[P]) -> f32[N,P] {
       %3 = cast %0 {to=i32} %4 = cast %1 {to=i32} %5 = transpose %4 {perm=[1,0]} %6 = matmul %3 %5
       %7 = cast %6 {to=f32} %8 = mul %7 %2 return %8 }",
    "(%0: i8[2,M,31], %1: i8[2,31,N]) -> i32[2,M,N] {
       %2 = cast %0 {to=i32} %3 = cast %1 {to=i32} %4 = matmul %2 %3 return %4 }",
    "(%0: i8[1,6,N,9], %1: i8[M,6,3,3]) -> i32[1,M,N,9] {
       %2 = cast %0 {to=i32} %3 = cast %1 {to=i32}
       %4 = conv %2 %3 {strides=[1,1], dilations=[1,1], pads=[1,1,1,1], groups=1} return %4 }",
];

/// Networks by family: `T` is the type, `N` and `M` are extents; [`instance`] says what the other letters are.
pub const FAMILIES: &[(&str, &[&str])] = &[
    ("map", &[
        "(%0: T[N,M], %1: T[N,M]) -> T[N,M] { %2 = add %0 %1 %3 = tanh %2 %4 = mul %3 %0 return %4 }",
        "(%0: T[N,M], %1: T[M], %2: T[N,1]) -> T[N,M] { %3 = add %0 %1 %4 = mul %3 %2 %5 = relu %4 return %5 }",
        "(%0: T[N,M]) -> T[N,M] { %1 = cast %0 {to=f32} %2 = exp %1 %3 = cast %2 {to=T} return %3 }",
    ]),
    ("reduce", &[
        "(%0: T[N,M]) -> T[N] { %1 = reduce %0 {op=sum, axes=[1]} return %1 }",
        "(%0: T[N,M]) -> T[M] { %1 = reduce %0 {op=sum, axes=[0]} return %1 }",
        "(%0: T[3,N,M]) -> T[3] { %1 = reduce %0 {op=max, axes=[1,2]} return %1 }",
    ]),
    ("softmax", &[
        "(%0: T[N,M]) -> T[N,M] { %1 = softmax %0 {axis=1} return %1 }",
        "(%0: T[N,M]) -> T[N,M] { %1 = softmax %0 {axis=0} return %1 }",
        "(%0: T[N,M]) -> T[N,M] { %1 = log_softmax %0 {axis=1} return %1 }",
    ]),
    ("norm", &[
        "(%0: T[N,M], %1: T[M], %2: T[M]) -> T[N,M] {
           %3 = normalize %0 {axes=[1], epsilon=1e-3, center=true} %4 = mul %3 %1 %5 = add %4 %2 return %5 }",
        "(%0: T[N,M]) -> T[N,M] { %1 = normalize %0 {axes=[1], epsilon=1e-3, center=false} return %1 }",
    ]),
    ("matmul", &[
        "(%0: T[N,M], %1: T[M,N]) -> T[N,N] { %2 = matmul %0 %1 return %2 }",
        "(%0: T[33,N], %1: T[M,N], %2: T[M]) -> T[33,M] {
           %3 = transpose %1 {perm=[1,0]} %4 = matmul %0 %3 %5 = add %4 %2 %6 = activation %5 {f=gelu} return %6 }",
        "(%0: T[2,N,31], %1: T[2,31,M]) -> T[2,N,M] { %2 = matmul %0 %1 return %2 }",
    ]),
    ("conv", &[
        "(%0: T[2,5,N,9], %1: T[M,5,1,3]) -> T[2,M,N,7] {
           %2 = conv %0 %1 {strides=[1,1], dilations=[1,1], pads=[0,0,0,0], groups=1} return %2 }",
        "(%0: T[1,6,N,8], %1: T[33,6,3,3], %2: T[33,1,1]) -> T[1,33,H,4] {
           %3 = conv %0 %1 {strides=[2,2], dilations=[1,1], pads=[1,1,1,1], groups=1}
           %4 = add %3 %2 %5 = relu %4 return %5 }",
        "(%0: T[2,M,N,5], %1: T[M,1,3,3]) -> T[2,M,N,5] {
           %2 = conv %0 %1 {strides=[1,1], dilations=[1,1], pads=[1,1,1,1], groups=M} return %2 }",
        "(%0: T[1,6,N,8], %1: T[8,3,3,3]) -> T[1,8,N,8] {
           %2 = conv %0 %1 {strides=[1,1], dilations=[2,2], pads=[2,2,2,2], groups=2} return %2 }",
    ]),
    ("pool", &[
        "(%0: T[1,M,N,9]) -> T[1,M,H,5] {
           %1 = pool %0 {op=max, kernel=[3,3], strides=[2,2], dilations=[1,1], pads=[1,1,1,1]} return %1 }",
        "(%0: T[1,M,N,9]) -> T[1,M] { %1 = reduce %0 {op=sum, axes=[2,3]} return %1 }",
    ]),
    ("transpose", &[
        "(%0: T[N,M]) -> T[M,N] { %1 = transpose %0 {perm=[1,0]} return %1 }",
        "(%0: T[3,N,M]) -> T[M,3,N] { %1 = transpose %0 {perm=[2,0,1]} return %1 }",
        "(%0: T[2,N,3,M]) -> T[2,3,N,M] { %1 = transpose %0 {perm=[0,2,1,3]} return %1 }",
    ]),
    ("gather", &["(%0: T[37,M], %1: i64[N]) -> T[N,M] { %2 = gather %0 %1 {axis=0} return %2 }"]),
    ("concat", &[
        "(%0: T[N,M], %1: T[N,3]) -> T[N,P] { %2 = concat %0 %1 {axis=1} return %2 }",
        "(%0: T[N,M], %1: T[5,M]) -> T[Q,M] { %2 = concat %0 %1 {axis=0} %3 = neg %2 return %3 }",
    ]),
    ("slice", &["(%0: T[71,M]) -> T[N,M] { %1 = slice %0 {starts=[2,0], sizes=[N,M], steps=[1,1]} return %1 }"]),
    ("pad", &[
        "(%0: T[N,M], %1: T[]) -> T[R,S] {
           %2 = pad %0 %1 {mode=constant, lo=[1,0], hi=[0,2], interior=[0,0]} return %2 }",
    ]),
    ("attention", &[
        "(%0: T[2,3,N,16], %1: T[2,3,M,16], %2: T[2,3,M,24]) -> T[2,3,N,24] {
           %3 = attention %0 %1 %2 {scale=0.25, causal=false} return %3 }",
        "(%0: T[1,4,N,20], %1: T[1,2,N,20], %2: T[1,2,N,8]) -> T[1,4,N,8] {
           %3 = attention %0 %1 %2 {scale=0.2, causal=true} return %3 }",
        "(%0: T[1,2,N,9], %1: T[1,2,M,9], %2: T[1,2,M,9], %3: T[N,M]) -> T[1,2,N,9] {
           %4 = attention %0 %1 %2 %3 {scale=0.3, causal=false} return %4 }",
    ]),
];

/// The graph of a network at extents, if there is one: windows ask for enough elements.
pub fn instance(text: &str, dtype: &str, [n, m]: [usize; 2]) -> Option<Graph> {
    // What windows of three make of `N`; concatenation and padding of both.
    let derived = [("H", n.div_ceil(2)), ("P", m + 3), ("Q", n + 5), ("R", n + 1), ("S", m + 2)];
    let extents = derived.into_iter().chain([("N", n), ("M", m)]);
    let text = extents.fold(text.replace('T', dtype), |text, (name, n)| text.replace(name, &n.to_string()));
    parse_graph(&format!("graph{text}")).ok()
}

/// Values for the inputs of a network: indices where it asks for whole numbers.
pub fn inputs(g: &Graph, rng: &mut Rng, drawn: Values) -> Vec<Tensor> {
    let of = |p: &aic_ir::graph::Port| {
        let ty = g.ty(p.value);
        let shape = ty.dims.iter().map(|d| d.as_const().unwrap() as usize).collect();
        let values = if ty.dtype == DType::I64 { Values::Between(0, 37) } else { drawn.clone() };
        Operand { dtype: ty.dtype, shape, values }
    };
    let operands: Vec<Operand> = g.inputs.iter().map(of).collect();
    operands.iter().map(|o| rng.tensor(o).unwrap()).collect()
}
