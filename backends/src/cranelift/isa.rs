//! The machine that code is generated for, by CPUID or by the levels of the x86-64 ABI.

use super::failed;
use crate::{CpuFeatures, CpuOptions, x86};
use aic_ir::error::{Error, Result};
use aic_ir::{bail, ensure};
use cranelift_codegen::isa::{OwnedTargetIsa, lookup};
use cranelift_codegen::settings::{self, Configurable};

/// Bytes of the vectors that arithmetic is done on.
const VECTOR_BYTES: usize = 16;

/// Cranelift's names of the instruction sets that it uses, and LLVM's of the same.
const FLAGS: &[(&str, &str)] = &[
    ("has_sse3", "sse3"),
    ("has_ssse3", "ssse3"),
    ("has_sse41", "sse4.1"),
    ("has_sse42", "sse4.2"),
    ("has_popcnt", "popcnt"),
    ("has_avx", "avx"),
    ("has_avx2", "avx2"),
    ("has_fma", "fma"),
    ("has_bmi1", "bmi"),
    ("has_bmi2", "bmi2"),
    ("has_lzcnt", "lzcnt"),
    ("has_avx512f", "avx512f"),
    ("has_avx512dq", "avx512dq"),
    ("has_avx512vl", "avx512vl"),
];

/// The instruction sets of a level that Cranelift uses, by LLVM's names, in the order of [`x86::FEATURES`].
const LEVELS: &[(&str, &[&str])] = &[("x86-64-v2", V2), ("x86-64-v3", V3), ("x86-64-v4", V4)];

const V2: &[&str] = &["sse3", "ssse3", "sse4.1", "sse4.2", "popcnt"];
const V3: &[&str] =
    &["sse3", "ssse3", "fma", "sse4.1", "sse4.2", "popcnt", "avx", "bmi", "avx2", "bmi2", "lzcnt"];
const V4: &[&str] = &[
    "sse3", "ssse3", "fma", "sse4.1", "sse4.2", "popcnt", "avx", "bmi", "avx2", "bmi2", "avx512f",
    "avx512dq", "avx512vl", "lzcnt",
];

pub(super) fn features(options: &CpuOptions) -> Result<CpuFeatures> {
    let names = match LEVELS.iter().find(|(level, _)| *level == options.cpu) {
        Some((_, names)) => names.to_vec(),
        None if options.cpu == "native" => native()?,
        None => bail!(
            "the cranelift backend knows no CPU named `{}`; native, x86-64-v2, x86-64-v3 and x86-64-v4 are known",
            options.cpu
        ),
    };
    for needed in V2 {
        ensure!(
            names.contains(needed),
            "the cranelift backend needs a CPU with {needed}, as x86-64-v2 has it"
        );
    }
    Ok(CpuFeatures { vector_bytes: VECTOR_BYTES, fma: names.contains(&"fma"), f16c: false, names })
}

pub(super) fn isa(options: &CpuOptions) -> Result<OwnedTargetIsa> {
    let supported = options.triple.starts_with("x86_64") && options.triple.contains("linux");
    ensure!(supported, "target `{}` is not supported; `{}` is", options.triple, x86::TRIPLE);
    let features = features(options)?;
    let mut flags = settings::builder();
    let level = if options.opt_level == 0 { "none" } else { "speed" };
    let verify = if cfg!(debug_assertions) { "true" } else { "false" };
    for (name, value) in [
        ("is_pic", "true"),
        ("opt_level", level),
        ("enable_verifier", verify),
        ("enable_probestack", "true"),
        ("probestack_strategy", "inline"),
        ("unwind_info", "false"),
    ] {
        flags.set(name, value).map_err(failed)?;
    }
    let triple =
        options.triple.parse().map_err(|e| Error::new(format!("target `{}`: {e}", options.triple)))?;
    let mut isa = lookup(triple).map_err(failed)?;
    for (flag, name) in FLAGS {
        let value = if features.names.contains(name) { "true" } else { "false" };
        isa.set(flag, value).map_err(failed)?;
    }
    isa.finish(settings::Flags::new(flags)).map_err(failed)
}

#[cfg(target_arch = "x86_64")]
fn native() -> Result<Vec<&'static str>> {
    macro_rules! detected {
        ($($name:tt = $rust:tt),*) => {
            [$(($name, std::arch::is_x86_feature_detected!($rust))),*]
        };
    }
    let all = detected!(
        "sse3" = "sse3",
        "ssse3" = "ssse3",
        "fma" = "fma",
        "sse4.1" = "sse4.1",
        "sse4.2" = "sse4.2",
        "popcnt" = "popcnt",
        "avx" = "avx",
        "bmi" = "bmi1",
        "avx2" = "avx2",
        "bmi2" = "bmi2",
        "avx512f" = "avx512f",
        "avx512dq" = "avx512dq",
        "avx512vl" = "avx512vl",
        "lzcnt" = "lzcnt"
    );
    Ok(all.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect())
}

#[cfg(not(target_arch = "x86_64"))]
fn native() -> Result<Vec<&'static str>> {
    bail!("`--cpu native` needs an x86-64 machine; name a CPU such as x86-64-v3")
}
