//! Loop kernels to machine code by Cranelift: compiled quickly, without LLVM, for 128-bit vectors.
//!
//! [`code`] turns the emitter's operations into Cranelift's instructions; `isa` describes the machine. What the
//! instructions work on is in `parts`, what stays in registers is decided in `registers`.

mod code;
mod convert;
mod isa;
mod lanes;
mod masked;
mod memory;
mod parts;
mod registers;

use crate::compile::{check_names, in_groups};
use crate::emit;
use crate::{CpuFeatures, CpuOptions, Object, TextKind};
use aic_ir::bail;
use aic_ir::dtype::DType;
use aic_ir::error::{Error, Result};
use aic_ir::kernel::Kernel;
use code::Code;
use cranelift_codegen::Context;
use cranelift_codegen::ir::{self, AbiParam, InstBuilder, MemFlagsData, types};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{Linkage, Module, default_libcall_names};
use cranelift_object::{ObjectBuilder, ObjectModule};
use memory::Buffer;
use std::collections::HashMap;

/// Kernels in one object.
const KERNELS_PER_OBJECT: usize = 8;

pub(crate) fn compile(kernels: &[Kernel], options: &CpuOptions) -> Result<Vec<Object>> {
    check_names(kernels)?;
    let isa = isa::isa(options)?;
    in_groups(kernels, KERNELS_PER_OBJECT, options, || Ok(isa.clone()), object)
}

pub(crate) fn emit_text(kernels: &[Kernel], options: &CpuOptions, kind: TextKind) -> Result<String> {
    check_names(kernels)?;
    if kind != TextKind::Asm {
        bail!("the cranelift backend makes no LLVM IR");
    }
    let isa = isa::isa(options)?;
    let mut module = module(&isa)?;
    let mut text = String::new();
    for k in kernels {
        let mut context = module.make_context();
        context.set_disasm(true);
        define(&mut module, &mut context, k)?;
        let code = context.compiled_code().and_then(|c| c.vcode.as_deref());
        text += &format!("{}:\n{}\n", k.name, code.unwrap_or_default());
    }
    Ok(text)
}

pub(crate) fn cpu_features(options: &CpuOptions) -> Result<CpuFeatures> {
    isa::features(options)
}

fn module(isa: &OwnedTargetIsa) -> Result<ObjectModule> {
    let builder = ObjectBuilder::new(isa.clone(), "aic", default_libcall_names()).map_err(failed)?;
    Ok(ObjectModule::new(builder))
}

fn object(isa: &OwnedTargetIsa, kernels: &[Kernel]) -> Result<Object> {
    let mut module = module(isa)?;
    let mut context = module.make_context();
    for k in kernels {
        define(&mut module, &mut context, k)?;
        module.clear_context(&mut context);
    }
    let bytes = module.finish().emit().map_err(failed)?;
    Ok(Object { bytes })
}

fn define(module: &mut ObjectModule, context: &mut Context, kernel: &Kernel) -> Result<()> {
    let mut signature = module.make_signature();
    signature.params.extend([AbiParam::new(types::I64); 4]);
    context.func.signature = signature;
    let id =
        module.declare_function(&kernel.name, Linkage::Export, &context.func.signature).map_err(failed)?;
    let mut state = FunctionBuilderContext::new();
    build(module, FunctionBuilder::new(&mut context.func, &mut state), kernel)
        .and_then(|()| module.define_function(id, context).map_err(failed))
        .map_err(|e| e.context(format!("kernel {}", kernel.name)))
}

/// `void NAME(buffers, symbols, begin, end)`
fn build(module: &mut ObjectModule, mut f: FunctionBuilder, kernel: &Kernel) -> Result<()> {
    let entry = f.create_block();
    f.append_block_params_for_function_params(entry);
    f.switch_to_block(entry);
    f.seal_block(entry);
    let &[buffers, symbols, begin, end] = f.block_params(entry) else {
        return Err(failed("a kernel's function has four parameters"));
    };
    let config = module.target_config();
    let has =
        |flag: &str| module.isa().isa_flags().iter().any(|f| f.name == flag && f.as_bool() == Some(true));
    let (fma, avx) = (has("has_fma"), has("has_avx"));
    let mut code = Code {
        f,
        module,
        fma,
        avx,
        pool: Vec::new(),
        registers: Vec::new(),
        uses: registers::uses(kernel),
        allocated: HashMap::new(),
        scratch: HashMap::new(),
        regions: 0,
        branches: 0,
    };
    let params = params(&mut code, kernel, [buffers, symbols, begin, end]);
    let mut code = emit::kernel(code, kernel, params, &aic_ir::target::Target::x86_sse())?;
    code.f.ins().return_(&[]);
    code.f.finalize(config);
    Ok(())
}

fn params<'m, 'f>(
    code: &mut Code<'m, 'f>,
    kernel: &Kernel,
    [buffers, symbols, begin, end]: [ir::Value; 4],
) -> emit::Params<Code<'m, 'f>> {
    let flags = MemFlagsData::trusted().with_readonly().with_can_move();
    let word = |code: &mut Code<'m, 'f>, from: ir::Value, i: usize| {
        code.f.ins().load(types::I64, flags, from, 8 * i as i32)
    };
    let mut passed = Vec::new();
    for (i, p) in kernel.params.iter().enumerate() {
        let pointer = word(code, buffers, i);
        passed.push(Buffer::Passed(pointer, code.region(), !p.writable));
    }
    let mut integers = Vec::new();
    for i in 0..kernel.symbols.len() {
        let value = word(code, symbols, i);
        integers.push(code.scalar(value, DType::I64));
    }
    let iterations = (code.scalar(begin, DType::I64), code.scalar(end, DType::I64));
    emit::Params { buffers: passed, symbols: integers, iterations }
}

/// A failure of Cranelift itself.
fn failed(e: impl std::fmt::Display) -> Error {
    Error::new(format!("Cranelift failed: {e}")).help("this is a bug in aic; please report it")
}
