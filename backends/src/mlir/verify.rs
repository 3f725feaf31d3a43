//! Reads a module and verifies it, by MLIR in this process. Contexts are made on demand and hold the dialects that
//! are written, no more.

use aic_ir::error::{Error, Result};
use melior::Context;
use melior::dialect::{DialectHandle, DialectRegistry};
use melior::ir::Module;
use melior::ir::operation::OperationLike;
use std::cell::RefCell;
use std::rc::Rc;

/// Messages of one module that are shown.
const MAX_MESSAGES: usize = 3;

/// Verifies a module in text form.
///
/// # Errors
/// MLIR refuses it, which is a bug in `aic`.
pub(crate) fn module(text: &str) -> Result<()> {
    let registry = DialectRegistry::new();
    // SAFETY: these give handles that live as long as the process.
    let handles =
        unsafe { [mlir_sys::mlirGetDialectHandle__math__(), mlir_sys::mlirGetDialectHandle__vector__()] };
    // SAFETY: they are handles of dialects.
    let handles = handles.map(|raw| unsafe { DialectHandle::from_raw(raw) });
    for dialect in [
        DialectHandle::func(),
        DialectHandle::arith(),
        DialectHandle::cf(),
        DialectHandle::tensor(),
        DialectHandle::linalg(),
        DialectHandle::scf(),
        DialectHandle::memref(),
        handles[0],
        handles[1],
    ] {
        dialect.insert_dialect(&registry);
    }
    let context = Context::new_with_registry(&registry, false);
    let messages = Rc::new(RefCell::new(Vec::new()));
    let heard = messages.clone();
    context.attach_diagnostic_handler(move |diagnostic| {
        heard.borrow_mut().push(format!("{}: {diagnostic}", diagnostic.location()));
        true
    });
    if Module::parse(&context, text).is_some_and(|module| module.as_operation().verify()) {
        return Ok(());
    }
    let messages = messages.borrow();
    let shown: Vec<&str> = messages.iter().take(MAX_MESSAGES).map(String::as_str).collect();
    Err(Error::new(format!("MLIR refuses what was written: {}", shown.join("; ")))
        .help("this is a bug in aic; please report it"))
}
