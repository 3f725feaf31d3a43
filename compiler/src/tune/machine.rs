//! What decides about the time of a kernel beside its schedule: the machine and the code generator.

use aic_backends::CpuOptions;
use aic_ir::error::Result;
use serde_json::{Value, json};

/// A machine, as records name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// The target that kernels are scheduled for.
    pub target: String,
    /// The CPU: its name, and the instruction sets that code for it uses.
    pub cpu: String,
    /// Threads that share a kernel.
    pub threads: u32,
    /// The code generator.
    pub backend: String,
    /// The compiler's version.
    pub version: String,
}

impl Machine {
    /// This machine, with code for a CPU of it.
    ///
    /// # Errors
    /// The CPU is unknown.
    pub fn this(cpu: &CpuOptions, threads: u32) -> Result<Machine> {
        let features = aic_backends::cpu_features(cpu)?.names;
        Ok(Machine {
            target: crate::driver::target(cpu)?.name,
            cpu: format!("{} {}", cpu_name(), features.join(" ")),
            threads,
            backend: cpu.backend.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "target": self.target, "cpu": self.cpu, "threads": self.threads, "backend": self.backend,
            "version": self.version,
        })
    }

    pub(super) fn parse(value: &Value) -> Option<Machine> {
        let text = |key: &str| value.get(key)?.as_str().map(str::to_owned);
        Some(Machine {
            target: text("target")?,
            cpu: text("cpu")?,
            threads: u32::try_from(value.get("threads")?.as_u64()?).ok()?,
            backend: text("backend")?,
            version: text("version")?,
        })
    }
}

/// The name that Linux gives to the CPU, with what tells models of the same name apart.
fn cpu_name() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let value = |key: &str| {
        let line = text.lines().find(|line| line.split(':').next().is_some_and(|k| k.trim() == key))?;
        line.split_once(':').map(|(_, v)| v.trim().to_owned())
    };
    let parts = ["model name", "cpu family", "model", "stepping"].into_iter().filter_map(value);
    let name = parts.collect::<Vec<_>>().join("/");
    if name.is_empty() { "unknown".into() } else { name }
}
