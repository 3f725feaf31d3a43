//! x86-64: the machine's tables, and the code generators for it.

use crate::{Backend, CpuOptions};
use aic_ir::dtype::DType;
use aic_ir::error::Error;
use aic_ir::kernel::Scope;
use aic_ir::scalar::ScalarFn;

/// The platform when none is given.
pub const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// The functions of a code generator, or, in a build without it, functions that say so.
macro_rules! functions {
    ($feature:literal, $module:ident, $backend:expr) => {{
        #[cfg(feature = $feature)]
        let backend = Backend {
            available: true,
            compile: crate::$module::compile,
            emit_text: crate::$module::emit_text,
            cpu_features: crate::$module::cpu_features,
            ..$backend
        };
        #[cfg(not(feature = $feature))]
        let backend = $backend;
        backend
    }};
}

/// A line of [`crate::BACKENDS`].
pub const LLVM: Backend = functions!(
    "llvm",
    llvm,
    Backend {
        name: "x86",
        about: "x86-64 machine code, by LLVM: the fastest",
        needs_llvm: true,
        vector_bytes: &[16, 32, 64],
        lacks: "compile as quickly; be built where there is no LLVM",
        ..MISSING
    }
);

/// As above.
pub const CRANELIFT: Backend = functions!(
    "cranelift",
    cranelift,
    Backend {
        name: "cranelift",
        about: "x86-64 machine code, by Cranelift: the fastest to compile",
        needs_llvm: false,
        vector_bytes: &[16],
        lacks: "wider vectors; prefetching; CPUs before x86-64-v2, and any by name but `native` and the levels; \
                LLVM IR",
        ..MISSING
    }
);

/// What backends for x86-64 have in common, without code generation.
const MISSING: Backend = Backend {
    name: "",
    about: "",
    machines: "x86-64 Linux",
    available: false,
    needs_llvm: false,
    vector_bytes: &[],
    lacks: "",
    dtypes: DTYPES,
    scopes: SCOPES,
    compile: |_, options| Err(missing(options)),
    emit_text: |_, options, _| Err(missing(options)),
    cpu_features: |options| Err(missing(options)),
};

fn missing(options: &CpuOptions) -> Error {
    let name = options.backend;
    let feature = if name == LLVM.name { "llvm" } else { name };
    let there: Vec<&str> = crate::available().map(|b| b.name).chain(["reference"]).collect();
    Error::new(format!("this build of aic has no backend `{name}`"))
        .help(format!("build with `--features {feature}`, or use one of {}", there.join(", ")))
}

const DTYPES: &[DType] = &[
    DType::F64,
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::I8,
    DType::I16,
    DType::I32,
    DType::I64,
    DType::U8,
    DType::U16,
    DType::U32,
    DType::U64,
    DType::Bool,
];

/// Shared and NPU memories don't exist; a workspace is passed by the caller.
const SCOPES: &[Scope] = &[Scope::Global, Scope::Register, Scope::Stack, Scope::Workspace];

/// The largest buffer in registers or on the stack, in bytes: threads have small stacks.
pub const MAX_STACK_BYTES: i64 = aic_ir::target::MAX_ARRAY_BYTES as i64;

/// The C library's function for `f32` and `f64`; `None` where instructions do it.
/// Those of `f32` that the code generator has polynomials for are not called.
pub fn libm(f: ScalarFn) -> Option<(&'static str, &'static str)> {
    Some(match f {
        ScalarFn::Exp => ("expf", "exp"),
        ScalarFn::Log => ("logf", "log"),
        ScalarFn::Sin => ("sinf", "sin"),
        ScalarFn::Cos => ("cosf", "cos"),
        ScalarFn::Tan => ("tanf", "tan"),
        ScalarFn::Asin => ("asinf", "asin"),
        ScalarFn::Acos => ("acosf", "acos"),
        ScalarFn::Atan => ("atanf", "atan"),
        ScalarFn::Sinh => ("sinhf", "sinh"),
        ScalarFn::Cosh => ("coshf", "cosh"),
        ScalarFn::Tanh => ("tanhf", "tanh"),
        ScalarFn::Asinh => ("asinhf", "asinh"),
        ScalarFn::Acosh => ("acoshf", "acosh"),
        ScalarFn::Atanh => ("atanhf", "atanh"),
        ScalarFn::Erf => ("erff", "erf"),
        ScalarFn::Softplus => ("log1pf", "log1p"),
        ScalarFn::Sigmoid => ("expf", "exp"),
        ScalarFn::Pow => ("powf", "pow"),
        ScalarFn::Rem | ScalarFn::Mod => ("fmodf", "fmod"),
        _ => return None,
    })
}

/// The CPUs that can be asked for besides `native`: the 64-bit ones that LLVM 22 knows. Any other name makes LLVM end
/// the process.
pub const CPUS: &[&str] = &[
    "x86-64",
    "x86-64-v2",
    "x86-64-v3",
    "x86-64-v4",
    "alderlake",
    "amdfam10",
    "arrowlake",
    "arrowlake-s",
    "athlon-fx",
    "athlon64",
    "athlon64-sse3",
    "atom",
    "barcelona",
    "bdver1",
    "bdver2",
    "bdver3",
    "bdver4",
    "bonnell",
    "broadwell",
    "btver1",
    "btver2",
    "cannonlake",
    "cascadelake",
    "clearwaterforest",
    "cooperlake",
    "core-avx-i",
    "core-avx2",
    "core2",
    "corei7",
    "corei7-avx",
    "diamondrapids",
    "emeraldrapids",
    "generic",
    "goldmont",
    "goldmont-plus",
    "gracemont",
    "grandridge",
    "graniterapids",
    "graniterapids-d",
    "haswell",
    "icelake-client",
    "icelake-server",
    "ivybridge",
    "k8",
    "k8-sse3",
    "knl",
    "knm",
    "lunarlake",
    "meteorlake",
    "nehalem",
    "nocona",
    "novalake",
    "opteron",
    "opteron-sse3",
    "pantherlake",
    "penryn",
    "raptorlake",
    "rocketlake",
    "sandybridge",
    "sapphirerapids",
    "sierraforest",
    "silvermont",
    "skylake",
    "skylake-avx512",
    "tigerlake",
    "tremont",
    "westmere",
    "wildcatlake",
    "znver1",
    "znver2",
    "znver3",
    "znver4",
    "znver5",
];

/// Instruction sets that code may be compiled to, by LLVM's names; a machine that runs it must have those of its CPU.
/// Left out are those that no compiled code uses, such as `cx16`, and those of every 64-bit CPU.
pub const FEATURES: &[&str] = &[
    "sse3",
    "pclmul",
    "ssse3",
    "fma",
    "sse4.1",
    "sse4.2",
    "movbe",
    "popcnt",
    "aes",
    "avx",
    "f16c",
    "bmi",
    "avx2",
    "bmi2",
    "avx512f",
    "avx512dq",
    "adx",
    "avx512ifma",
    "avx512cd",
    "avx512bw",
    "avx512vl",
    "avx512vbmi",
    "avx512vbmi2",
    "gfni",
    "vaes",
    "vpclmulqdq",
    "avx512vnni",
    "avx512bitalg",
    "avx512vpopcntdq",
    "avx512vp2intersect",
    "amx-bf16",
    "avx512fp16",
    "amx-tile",
    "amx-int8",
    "avxvnni",
    "avx512bf16",
    "amx-fp16",
    "avxifma",
    "avxvnniint8",
    "avxneconvert",
    "avxvnniint16",
    "lzcnt",
];
