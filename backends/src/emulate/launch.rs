//! Launches: the arguments of a kernel, and clusters of blocks spread over the machine's cores.

use super::cluster::{self, Rng, Shared};
use super::memory::{Aligned, Region};
use super::module::{Image, Module};
use super::tensor_map::TensorMap;
use aic_ir::error::{Error, Result};
use aic_ir::{bail, ensure};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How kernels are executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// What the order of threads and the times of copies depend on; `None` for threads in order and copies as late as
    /// can be.
    pub seed: Option<u64>,
    /// Threads of this machine; 0 for one per core.
    pub threads: usize,
}

/// How many threads a kernel is launched with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks along each axis.
    pub grid: [u32; 3],
    /// Threads of a block along each axis.
    pub block: [u32; 3],
    /// Blocks of a cluster along each axis.
    pub cluster: [u32; 3],
    /// Bytes of shared memory beyond those that the kernel declares.
    pub dynamic_shared: usize,
}

/// Global memory.
#[derive(Debug)]
pub struct Buffer<'a> {
    /// As messages name it.
    pub name: String,
    /// Its contents.
    pub data: &'a mut [u8],
    /// Whether the kernel may write to it.
    pub writable: bool,
}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// The address of a buffer.
    Buffer(usize),
    /// A number of at most 64 bits.
    Int(i64),
    /// A tensor map of a buffer.
    Map(usize, TensorMap),
}

/// A compiled module, ready to be launched.
pub struct Emulator {
    module: Module,
    options: Options,
    /// Images that no launch uses at the moment.
    images: Mutex<Vec<Image>>,
}

/// The most threads of a block.
const MAX_THREADS: u64 = 1024;
/// Global memory begins at multiples of this, as `cudaMalloc`'s does.
const ALIGNMENT: usize = 256;

/// The extents of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub cluster: [u32; 3],
}

fn volume(extent: [u32; 3]) -> u64 {
    extent.iter().map(|n| u64::from(*n)).product()
}

fn unflatten(k: u64, extent: [u32; 3]) -> [u32; 3] {
    let [x, y, _] = extent.map(u64::from);
    [(k % x) as u32, (k / x % y) as u32, (k / x / y) as u32]
}

impl Geometry {
    /// Threads of a block.
    pub fn threads(&self) -> usize {
        volume(self.block) as usize
    }

    /// A thread's number along each axis.
    pub fn thread_of(&self, number: usize) -> [u32; 3] {
        unflatten(number as u64, self.block)
    }

    /// The number in the grid of a block of a cluster.
    pub fn block_of(&self, cluster: [u32; 3], rank: usize) -> [u32; 3] {
        let within = unflatten(rank as u64, self.cluster);
        [0, 1, 2].map(|axis| cluster[axis] * self.cluster[axis] + within[axis])
    }
}

impl Emulator {
    /// Compiles the text of a module for this machine.
    ///
    /// # Errors
    /// It is no LLVM IR, or asks for something that the emulator doesn't have.
    pub fn new(ir: &str, options: Options) -> Result<Emulator> {
        Ok(Emulator { module: Module::compile(ir)?, options, images: Mutex::new(Vec::new()) })
    }

    /// The names of the kernels.
    pub fn kernels(&self) -> impl Iterator<Item = &str> {
        self.module.kernels.keys().map(String::as_str)
    }

    /// Executes a kernel. Buffers that it may write hold its results afterwards.
    ///
    /// # Errors
    /// There is no such kernel, the launch is beyond what a GPU takes, threads wait for each other for ever, or the kernel
    /// does what it may not; then buffers are as they were.
    pub fn launch(&self, kernel: &str, launch: &Launch, buffers: &mut [Buffer], args: &[Arg]) -> Result<()> {
        self.execute(kernel, launch, buffers, args)
            .map_err(|e| e.context(format!("kernel {kernel} on the emulator")))
    }

    fn execute(&self, kernel: &str, launch: &Launch, buffers: &mut [Buffer], args: &[Arg]) -> Result<()> {
        let Some(n_params) = self.module.kernels.get(kernel) else {
            bail!("the module has no kernel {kernel}")
        };
        ensure!(
            args.len() == *n_params,
            "it has {n_params} parameters, and {} arguments are given",
            args.len()
        );
        let geometry = Geometry { grid: launch.grid, block: launch.block, cluster: launch.cluster };
        let shared_bytes = self.module.shared_bytes(launch.dynamic_shared);
        check(&geometry, shared_bytes)?;
        let mut memory = Vec::with_capacity(buffers.len());
        for b in buffers.iter() {
            let mut copy = Aligned::new(b.data.len(), ALIGNMENT)?;
            copy.bytes_mut()[..b.data.len()].copy_from_slice(b.data);
            memory.push(copy);
        }
        let region = |(b, m): (&Buffer, &Aligned)| Region {
            start: m.address(),
            bytes: b.data.len(),
            writable: b.writable,
            name: b.name.clone(),
        };
        let regions: Vec<Region> = buffers.iter().zip(&memory).map(region).collect();
        let maps = maps(args, &memory)?;
        let slots = slots(args, &memory, &maps)?;
        let shared = Shared {
            ops: &self.module.ops,
            geometry,
            regions: &regions,
            args: &slots,
            shared_bytes,
            stack_bytes: self.module.stack_bytes,
        };
        self.clusters(&shared, kernel)?;
        for (b, m) in buffers.iter_mut().zip(&mut memory).filter(|(b, _)| b.writable) {
            let n = b.data.len();
            b.data.copy_from_slice(&m.bytes_mut()[..n]);
        }
        Ok(())
    }

    /// Executes all clusters, each on one of this machine's threads.
    fn clusters(&self, shared: &Shared, kernel: &str) -> Result<()> {
        let g = &shared.geometry;
        let extent = [0, 1, 2].map(|axis| g.grid[axis] / g.cluster[axis]);
        let n = volume(extent) as usize;
        let next = AtomicUsize::new(0);
        let work = || -> Result<()> {
            let mut images = Vec::new();
            for _ in 0..volume(g.cluster) {
                images.push(self.image()?);
            }
            let mut stacks = Vec::new();
            loop {
                let k = next.fetch_add(1, Ordering::Relaxed);
                if k >= n {
                    break;
                }
                images.iter_mut().for_each(|i| i.poison(shared.shared_bytes));
                let rng = self.options.seed.map(|s| Rng::new(s.wrapping_add(k as u64)));
                let result =
                    cluster::run(shared, unflatten(k as u64, extent), &images, kernel, rng, &mut stacks);
                if result.is_err() {
                    // The others needn't go on.
                    next.store(n, Ordering::Relaxed);
                    return result;
                }
            }
            self.images.lock().unwrap_or_else(|e| e.into_inner()).extend(images);
            Ok(())
        };
        let threads = match self.options.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
            n => n,
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads.min(n)).map(|_| scope.spawn(work)).collect();
            let own = work();
            let join = |t: std::thread::ScopedJoinHandle<Result<()>>| {
                t.join().unwrap_or_else(|_| Err(Error::new("a thread of the emulator panicked")))
            };
            others.into_iter().map(join).fold(own, |all, one| all.and(one))
        })
    }

    fn image(&self) -> Result<Image> {
        let kept = self.images.lock().unwrap_or_else(|e| e.into_inner()).pop();
        kept.map_or_else(|| self.module.image(), Ok)
    }
}

/// The limits of compute capability 9.0 (CUDA C++ Programming Guide, "Technical Specifications per Compute
/// Capability").
fn check(g: &Geometry, shared_bytes: usize) -> Result<()> {
    let threads = volume(g.block);
    ensure!(
        (1..=MAX_THREADS).contains(&threads),
        "a block of {threads} threads; 1 to {MAX_THREADS} are possible"
    );
    let [x, y, z] = g.grid.map(u64::from);
    ensure!(x < 1 << 31 && y < 1 << 16 && z < 1 << 16, "a grid of {x} x {y} x {z} blocks is too large");
    let fits = (0..3).all(|axis| g.cluster[axis] > 0 && g.grid[axis].is_multiple_of(g.cluster[axis]));
    ensure!(
        fits && volume(g.cluster) <= 16,
        "clusters of {:?} blocks don't fit a grid of {:?}",
        g.cluster,
        g.grid
    );
    ensure!(shared_bytes <= 227 << 10, "{shared_bytes} bytes of shared memory; there are 232448");
    Ok(())
}

/// The tensor maps among the arguments, with the addresses of their buffers.
fn maps(args: &[Arg], memory: &[Aligned]) -> Result<Vec<TensorMap>> {
    let map = |a: &Arg| match a {
        Arg::Map(buffer, map) => Some(match memory.get(*buffer) {
            Some(m) => Ok(map.from(m.address())),
            None => Err(no_buffer(*buffer)),
        }),
        _ => None,
    };
    args.iter().filter_map(map).collect()
}

fn slots(args: &[Arg], memory: &[Aligned], maps: &[TensorMap]) -> Result<Vec<u64>> {
    let mut maps = maps.iter();
    let slot = |a: &Arg| match a {
        Arg::Int(n) => Ok(n.cast_unsigned()),
        Arg::Buffer(k) => memory.get(*k).map(|m| m.address() as u64).ok_or_else(|| no_buffer(*k)),
        Arg::Map(k, _) => maps.next().map(|m| std::ptr::from_ref(m) as u64).ok_or_else(|| no_buffer(*k)),
    };
    args.iter().map(slot).collect()
}

fn no_buffer(k: usize) -> Error {
    Error::new(format!("an argument names buffer {k}, which isn't given"))
}
