//! The machine that code is generated for: what the emitter asks about it, and LLVM's own description of it.

use super::features::features;
use crate::ptx::{self, Launch};
use crate::{CpuOptions, x86};
use aic_ir::ensure;
use aic_ir::error::{Error, Result};
use inkwell::OptimizationLevel;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::targets::{
    CodeModel, FileType, InitializationConfig, RelocMode, Target as LlvmTarget, TargetMachine, TargetTriple,
};
use inkwell::values::FunctionValue;

/// What the emitter asks about a machine.
pub(super) struct Target<'a> {
    pub cpu: String,
    pub features: String,
    pub vector_bytes: usize,
    pub f16c: bool,
    /// What it has beyond its LLVM description: its tables, for what they refuse.
    pub tables: aic_ir::target::Target,
    /// How the kernel at hand is launched, on a GPU.
    pub launch: Option<&'a Launch>,
}

impl<'a> Target<'a> {
    /// A GPU, for a kernel that is launched so.
    pub fn gpu(machine: &Machine, tables: &aic_ir::target::Target, launch: &'a Launch) -> Target<'a> {
        Target {
            cpu: machine.cpu.clone(),
            features: machine.features.clone(),
            vector_bytes: tables.vector_bytes as usize,
            f16c: true,
            tables: tables.clone(),
            launch: Some(launch),
        }
    }

    pub fn attributes(&self, context: &Context, function: FunctionValue) {
        let width = (8 * self.vector_bytes).to_string();
        let threads = self.launch.map(|l| l.threads.map(|n| n.to_string()).join(",")).unwrap_or_default();
        let own = match self.launch {
            // Told that one block is enough, ptxas doesn't rather spill than have fewer at a time.
            Some(_) => [("nvvm.reqntid", threads.as_str()), ("nvvm.minctasm", "1")],
            None => [("prefer-vector-width", width.as_str()), ("min-legal-vector-width", width.as_str())],
        };
        let strings = [
            ("target-cpu", self.cpu.as_str()),
            ("target-features", self.features.as_str()),
            own[0],
            own[1],
            ("frame-pointer", "none"),
        ];
        for (key, value) in strings.iter().filter(|(_, value)| !value.is_empty()) {
            function.add_attribute(AttributeLoc::Function, context.create_string_attribute(key, value));
        }
        let nounwind = Attribute::get_named_enum_kind_id("nounwind");
        function.add_attribute(AttributeLoc::Function, context.create_enum_attribute(nounwind, 0));
    }
}

/// LLVM's description of the machine, which compiles modules.
pub(super) struct Machine {
    pub machine: TargetMachine,
    pub cpu: String,
    pub features: String,
}

impl Machine {
    pub fn new(options: &CpuOptions) -> Result<Machine> {
        let supported = options.triple.starts_with("x86_64") && options.triple.contains("linux");
        ensure!(supported, "target `{}` is not supported; `{}` is", options.triple, x86::TRIPLE);
        ensure!(!options.cpu.contains('\0') && !options.triple.contains('\0'), "a NUL in a CPU's name");
        LlvmTarget::initialize_x86(&InitializationConfig::default());
        let triple = TargetTriple::create(&options.triple);
        let target = LlvmTarget::from_triple(&triple)
            .map_err(|e| Error::new(format!("LLVM has no target `{}`: {e}", options.triple)))?;
        let (cpu, features) = cpu_and_features(options)?;
        let level = match options.opt_level {
            0 => OptimizationLevel::None,
            1 => OptimizationLevel::Less,
            2 => OptimizationLevel::Default,
            _ => OptimizationLevel::Aggressive,
        };
        let machine = target
            .create_target_machine(&triple, &cpu, &features, level, RelocMode::PIC, CodeModel::Default)
            .ok_or_else(|| Error::new(format!("LLVM has no machine for {} {cpu}", options.triple)))?;
        Ok(Machine { machine, cpu, features })
    }

    /// A CUDA GPU by its compute capability: `sm_80`.
    pub fn gpu(cpu: &str) -> Result<Machine> {
        LlvmTarget::initialize_nvptx(&InitializationConfig::default());
        let triple = TargetTriple::create(ptx::TRIPLE);
        let target = LlvmTarget::from_triple(&triple)
            .map_err(|e| Error::new(format!("LLVM has no target `{}`: {e}", ptx::TRIPLE)))?;
        let features = format!("+{}", ptx::VERSION);
        let level = OptimizationLevel::Aggressive;
        let machine = target
            .create_target_machine(&triple, cpu, &features, level, RelocMode::Default, CodeModel::Default)
            .ok_or_else(|| Error::new(format!("LLVM has no machine for {} {cpu}", ptx::TRIPLE)))?;
        Ok(Machine { machine, cpu: cpu.to_owned(), features })
    }

    /// What the emitter asks, for an x86 machine.
    pub fn target(&self) -> Result<Target<'static>> {
        let features = features(self)?;
        Ok(Target {
            tables: aic_ir::target::Target::x86_sse(),
            launch: None,
            cpu: self.cpu.clone(),
            features: self.features.clone(),
            vector_bytes: features.vector_bytes,
            f16c: features.f16c,
        })
    }

    /// Notes in the module which machine it is for.
    pub fn describe(&self, module: &Module) {
        module.set_triple(&self.machine.get_triple());
        module.set_data_layout(&self.machine.get_target_data().get_data_layout());
    }

    /// Generates code.
    pub fn write(&self, module: &Module, kind: FileType) -> Result<Vec<u8>> {
        let buffer = self.machine.write_to_memory_buffer(module, kind).map_err(super::failed)?;
        Ok(buffer.as_slice().to_vec())
    }
}

fn cpu_and_features(options: &CpuOptions) -> Result<(String, String)> {
    if options.cpu == "native" {
        let host = cfg!(target_arch = "x86_64");
        ensure!(host, "`--cpu native` needs an x86-64 machine; name a CPU such as x86-64-v3");
        let cpu = TargetMachine::get_host_cpu_name().to_string();
        return Ok((cpu, TargetMachine::get_host_cpu_features().to_string()));
    }
    ensure!(
        x86::CPUS.contains(&options.cpu.as_str()),
        "LLVM knows no x86-64 CPU named `{}`; `native`, `x86-64-v3` and `x86-64-v4` are some",
        options.cpu
    );
    Ok((options.cpu.clone(), String::new()))
}
