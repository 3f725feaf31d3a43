//! What code generators share in compiling many kernels: their names, and threads that take groups of them.

use crate::{CpuOptions, Object, x86};
use aic_ir::ensure;
use aic_ir::error::{Error, Result};
use aic_ir::kernel::Kernel;
use aic_ir::scalar::ScalarFn;
use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Of a compiler thread: expressions are walked recursively.
const STACK_BYTES: usize = 64 << 20;

/// Names of kernels are C identifiers of their own.
pub(crate) fn check_names(kernels: &[Kernel]) -> Result<()> {
    let mut names = HashSet::from(["memcpy", "memmove", "memset"]);
    names.extend(
        ScalarFn::ALL.iter().filter_map(|f| x86::libm(*f)).flat_map(|(single, double)| [single, double]),
    );
    for k in kernels {
        let identifier = k.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        ensure!(
            identifier && !k.name.is_empty(),
            "`{}` is not a name for a kernel: a C identifier is",
            k.name
        );
        ensure!(
            names.insert(k.name.as_str()),
            "two kernels, or a kernel and a function of the C library, are named `{}`",
            k.name
        );
    }
    Ok(())
}

/// An object for each group of so many kernels, on as many threads as the options say. `worker` makes what a thread
/// works with. How kernels are grouped doesn't depend on the number of threads, so the objects don't either.
pub(crate) fn in_groups<W>(
    kernels: &[Kernel],
    per_group: usize,
    options: &CpuOptions,
    worker: impl Fn() -> Result<W> + Sync,
    object: impl Fn(&W, &[Kernel]) -> Result<Object> + Sync,
) -> Result<Vec<Object>> {
    let groups: Vec<&[Kernel]> = kernels.chunks(per_group).collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Object)>> {
        let worker = worker()?;
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(group) = groups.get(at) else { return Ok(done) };
            done.push((at, object(&worker, group)?));
        }
    };
    let mut objects = in_parallel(threads(options).min(groups.len()), work)?;
    objects.sort_by_key(|(at, _)| *at);
    Ok(objects.into_iter().map(|(_, object)| object).collect())
}

fn threads(options: &CpuOptions) -> usize {
    match options.threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        n => n,
    }
}

/// What all runs of `work` on `n` threads give; the first error in the order of threads.
fn in_parallel<T: Send>(n: usize, work: impl Fn() -> Result<Vec<T>> + Sync) -> Result<Vec<T>> {
    std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, &work);
        let threads: std::io::Result<Vec<_>> = (0..n).map(spawn).collect();
        let threads = threads.map_err(|e| Error::new(format!("cannot start a compiler thread: {e}")))?;
        let mut all = Vec::new();
        for t in threads {
            all.extend(t.join().map_err(|_| Error::new("a compiler thread panicked"))??);
        }
        Ok(all)
    })
}
