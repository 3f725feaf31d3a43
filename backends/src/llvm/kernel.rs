//! One kernel becomes two LLVM functions: `NAME`, with the C ABI, and `NAME.body`, whose parameters are the buffers
//! and symbols themselves, so that LLVM knows that they don't alias.
//! For a GPU it becomes one entry, whose parameters these are.

use super::build::{Inkwell, Raw, internal};
use super::code::Code;
use super::gpu::GLOBAL;
use super::target::Target;
use crate::emit;
use crate::emit::build::Value;
use aic_ir::dtype::DType;
use aic_ir::ensure;
use aic_ir::error::Result;
use aic_ir::kernel::{Kernel, VType};
use inkwell::AddressSpace;
use inkwell::attributes::{Attribute, AttributeLoc};
use inkwell::context::Context;
use inkwell::module::{Linkage, Module};
use inkwell::types::BasicMetadataTypeEnum;
use inkwell::values::FunctionValue;

/// LLVM's number of the calling convention of entries of PTX.
const PTX_KERNEL: u32 = 71;

/// Bytes of a tensor map.
const MAP_BYTES: u32 = 128;

/// Adds a kernel to a module.
pub(super) fn kernel<'c>(
    context: &'c Context,
    module: &Module<'c>,
    target: &Target,
    kernel: &Kernel,
) -> Result<()> {
    emit(context, module, target, kernel).map_err(|e| e.context(format!("kernel {}", kernel.name)))
}

fn emit<'c>(context: &'c Context, module: &Module<'c>, target: &Target, kernel: &Kernel) -> Result<()> {
    ensure!(
        module.get_function(&kernel.name).is_none() && !kernel.name.is_empty(),
        "its name is taken or empty"
    );
    let function = match target.launch {
        Some(_) => declare_entry(context, module, target, kernel),
        None => declare_body(context, module, target, kernel),
    };
    let entry = context.append_basic_block(function, "entry");
    let start = context.append_basic_block(function, "start");
    let b = Inkwell::new(context, module);
    b.builder.position_at_end(start);
    let params = params(kernel, &function)?;
    let code = emit::kernel(Code { b, target, function, entry }, kernel, params, &target.tables)?;
    code.b.builder.build_return(None).map_err(internal)?;
    code.b.builder.position_at_end(entry);
    code.b.jump(start)?;
    if target.launch.is_some() {
        return Ok(());
    }
    wrapper(context, module, target, kernel, function)
}

fn params<'a, 'c>(kernel: &Kernel, body: &FunctionValue<'c>) -> Result<emit::Params<Code<'a, 'c>>> {
    let values: Vec<Raw> = body.get_params();
    let (buffers, integers) = values.split_at(kernel.params.len());
    let int = |raw: &Raw<'c>| Value { raw: *raw, ty: VType::scalar(DType::I64) };
    let (symbols, iterations) = integers.split_at(kernel.symbols.len());
    let none: Raw = body.get_type().get_context().i64_type().const_zero().into();
    let iteration = |k: usize| int(iterations.get(k).unwrap_or(&none));
    Ok(emit::Params {
        buffers: buffers.iter().map(|b| b.into_pointer_value()).collect(),
        symbols: symbols.iter().map(int).collect(),
        iterations: (iteration(0), iteration(1)),
    })
}

/// The entry of a GPU's kernel, `NAME(buffers.., symbols..)`: the buffers in global memory, aligned to the widest access.
fn declare_entry<'c>(
    context: &'c Context,
    module: &Module<'c>,
    target: &Target,
    kernel: &Kernel,
) -> FunctionValue<'c> {
    let global: BasicMetadataTypeEnum = context.ptr_type(AddressSpace::from(GLOBAL)).into();
    let mut params = vec![global; kernel.params.len()];
    params.extend(kernel.symbols.iter().map(|_| BasicMetadataTypeEnum::from(context.i64_type())));
    let n_maps = target.launch.map_or(0, |l| l.maps.len());
    params.extend((0..n_maps).map(|_| pointer(context)));
    let function = module.add_function(&kernel.name, context.void_type().fn_type(&params, false), None);
    function.set_call_conventions(PTX_KERNEL);
    target.attributes(context, function);
    mark_buffers(context, function, kernel, Some(target.vector_bytes));
    (params.len() - n_maps..params.len()).for_each(|k| mark_map(context, function, k as u32));
    function
}

/// `void NAME.body(buffers.., symbols.., begin, end)`.
fn declare_body<'c>(
    context: &'c Context,
    module: &Module<'c>,
    target: &Target,
    kernel: &Kernel,
) -> FunctionValue<'c> {
    let mut params: Vec<BasicMetadataTypeEnum> = Vec::new();
    params.extend(kernel.params.iter().map(|_| pointer(context)));
    params.extend((0..kernel.symbols.len() + 2).map(|_| BasicMetadataTypeEnum::from(context.i64_type())));
    let ty = context.void_type().fn_type(&params, false);
    let function = module.add_function(&format!("{}.body", kernel.name), ty, Some(Linkage::Internal));
    target.attributes(context, function);
    let noinline = Attribute::get_named_enum_kind_id("noinline");
    function.add_attribute(AttributeLoc::Function, context.create_enum_attribute(noinline, 0));
    mark_buffers(context, function, kernel, None);
    function
}

/// A tensor map is passed by value, in memory that the accelerator reads it from: it is not copied on the way.
fn mark_map(context: &Context, function: FunctionValue, param: u32) {
    let kind = Attribute::get_named_enum_kind_id;
    let bytes = context.i8_type().array_type(MAP_BYTES);
    let marks = [
        context.create_type_attribute(kind("byval"), bytes.into()),
        context.create_enum_attribute(kind("align"), 64),
        context.create_enum_attribute(kind("readonly"), 0),
        context.create_string_attribute("nvvm.grid_constant", ""),
    ];
    marks.into_iter().for_each(|mark| function.add_attribute(AttributeLoc::Param(param), mark));
}

/// What is known of the buffers among the parameters, with their alignment in bytes if that is more than an element's.
fn mark_buffers(context: &Context, function: FunctionValue, kernel: &Kernel, alignment: Option<usize>) {
    let flag = |name: &str, value: u64| {
        context.create_enum_attribute(Attribute::get_named_enum_kind_id(name), value)
    };
    for (i, p) in kernel.params.iter().enumerate() {
        let at = AttributeLoc::Param(i as u32);
        function.add_attribute(at, flag("noalias", 0));
        function.add_attribute(at, flag("noundef", 0));
        if !p.writable {
            function.add_attribute(at, flag("readonly", 0));
        }
        if let Some(bytes) = alignment {
            function.add_attribute(at, flag("align", bytes as u64));
        }
    }
}

fn pointer(context: &Context) -> BasicMetadataTypeEnum<'_> {
    context.ptr_type(AddressSpace::default()).into()
}

/// `void NAME(buffers, symbols, begin, end)`, which loads the arguments and calls the body.
fn wrapper<'c>(
    context: &'c Context,
    module: &Module<'c>,
    target: &Target,
    kernel: &Kernel,
    body: FunctionValue<'c>,
) -> Result<()> {
    let i64_type = context.i64_type();
    let params = [pointer(context), pointer(context), i64_type.into(), i64_type.into()];
    let function = module.add_function(&kernel.name, context.void_type().fn_type(&params, false), None);
    target.attributes(context, function);
    let b = Inkwell::new(context, module);
    b.builder.position_at_end(context.append_basic_block(function, "entry"));
    let param = |i: u32| function.get_nth_param(i).ok_or_else(|| internal("no such parameter"));
    let (buffers, symbols) = (param(0)?.into_pointer_value(), param(1)?.into_pointer_value());
    let pointer_type = context.ptr_type(AddressSpace::default()).into();
    let mut args = Vec::new();
    for i in 0..kernel.params.len() {
        let at = b.gep(pointer_type, buffers, b.i64(i as i64).into()).into_pointer_value();
        args.push(b.load(pointer_type, at, 8)?);
    }
    for i in 0..kernel.symbols.len() {
        let at = b.gep(i64_type.into(), symbols, b.i64(i as i64).into()).into_pointer_value();
        args.push(b.load(i64_type.into(), at, 8)?);
    }
    args.extend([param(2)?, param(3)?]);
    let args: Vec<_> = args.into_iter().map(Into::into).collect();
    let call = b.builder.build_call(body, &args, "").map_err(internal)?;
    call.set_tail_call(true);
    b.builder.build_return(None).map_err(internal).map(drop)
}
