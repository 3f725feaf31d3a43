//! The blocks of a cluster, executed: threads as fibers, of which one runs until it has to wait.
//!
//! A kernel calls [`operation`] for whatever it asks of the GPU. There a thread either goes on at once or stops; who
//! completes what it waits for writes its results and makes it ready. Between two steps a copy may arrive. If no thread
//! is ready and no copy is under way, the threads wait for each other for ever: that is reported with what they wait
//! for.

use super::barrier::Barriers;
use super::flights::{FlightId, Flights};
use super::launch::Geometry;
use super::mbarrier::{Mbarrier, Parked, Until};
use super::memory::{Access, Region, WINDOW};
use super::module::Image;
use super::op::{LaneMask, Op, Register};
use super::warp::Warp;
use super::wgmma::Queue;
use aic_ir::error::{Error, Result};
use aic_ir::{bail, ensure};
use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

/// What a launch is, for all of its clusters.
pub(super) struct Shared<'a> {
    pub ops: &'a [Op],
    pub geometry: Geometry,
    pub regions: &'a [Region],
    /// The kernel's arguments in slots of 64 bits.
    pub args: &'a [u64],
    /// Bytes of shared memory that a block has.
    pub shared_bytes: usize,
    pub stack_bytes: usize,
}

/// A cluster in execution.
pub(super) struct Cluster<'a> {
    pub shared: &'a Shared<'a>,
    /// Its number along each axis.
    pub index: [u32; 3],
    pub blocks: Vec<Block>,
    pub lanes: Vec<Lane>,
    pub flights: Flights,
    pub mbarriers: HashMap<usize, Mbarrier>,
    pub rng: Option<Rng>,
    /// The thread that runs.
    pub current: usize,
    ready: VecDeque<usize>,
    /// How many threads have arrived at the barrier of the cluster, and how often all of them had.
    pub arrived: usize,
    pub phase: u64,
    error: Option<Error>,
    clock: u64,
}

/// A block of it.
pub(super) struct Block {
    /// Its number along each axis of the grid.
    pub index: [u32; 3],
    /// Where its shared memory begins.
    pub base: usize,
    /// Its first thread.
    pub first: usize,
    pub barriers: Barriers,
    pub warps: Vec<Warp>,
    /// Threads that haven't ended.
    pub alive: usize,
}

/// A thread.
pub(super) struct Lane {
    pub block: usize,
    /// Its number within the block.
    pub number: usize,
    /// What it waits for.
    pub wait: Option<Wait>,
    pub is_done: bool,
    /// Where the results of the operation that it waits in belong, and its operands.
    pub results: *mut u64,
    pub args: *const u64,
    /// Copies in no group yet, and groups: those of `cp.async`, and those of bulk copies.
    pub open: [Vec<FlightId>; 2],
    pub groups: [VecDeque<Vec<FlightId>>; 2],
    /// How often it has arrived at the barrier of the cluster.
    pub cluster_arrivals: u64,
    /// The mbarrier, and what of it, that it was told last isn't over.
    pub told: Option<(usize, Until)>,
    yielder: *const Yielder<(), ()>,
}

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wait {
    /// Other lanes of its warp.
    Warp,
    /// A barrier of its block.
    Barrier(u32),
    /// A phase of a barrier in shared memory at this offset: of this parity.
    Mbarrier(usize, u64),
    /// The other threads of the cluster.
    Cluster,
}

/// Whether a thread goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    Stop,
}

thread_local! {
    /// The cluster that this thread executes.
    static CURRENT: Cell<*mut Cluster<'static>> = const { Cell::new(ptr::null_mut()) };
}

/// What a kernel calls for an operation: its number, operands and results in slots of 64 bits.
///
/// # Safety
/// It is called by a kernel that this module runs, with as many slots as the operation has.
pub(super) unsafe extern "C" fn operation(op: u32, args: *const u64, n_args: u64, results: *mut u64) {
    let cluster = CURRENT.get();
    // SAFETY: a kernel runs only while its cluster does; no other reference to it is alive while a fiber runs.
    let step = AssertUnwindSafe(|| unsafe {
        let operands = if n_args == 0 { &[] } else { std::slice::from_raw_parts(args, n_args as usize) };
        (*cluster).execute(op as usize, operands, results)
    });
    let outcome = catch_unwind(step).unwrap_or_else(|_| Err(Error::new("the emulator failed")));
    // SAFETY: as above.
    unsafe { settle(cluster, outcome) }
}

/// What a kernel calls before it accesses memory.
///
/// # Safety
/// As of [`operation`].
pub(super) unsafe extern "C" fn check(address: usize, bytes: u64, alignment: u64, is_write: u64) {
    let cluster = CURRENT.get();
    let access =
        Access { address, bytes: bytes as usize, alignment: alignment as usize, is_write: is_write != 0 };
    // SAFETY: as of `operation`.
    let outcome = unsafe { (*cluster).check(access) };
    // SAFETY: as of `operation`.
    unsafe { settle(cluster, outcome.map(|()| Next::Go)) }
}

/// Stops the thread that runs, unless it goes on. After an error it isn't continued.
unsafe fn settle(cluster: *mut Cluster<'static>, outcome: Result<Next>) {
    let go = match outcome {
        Ok(next) => next == Next::Go,
        Err(error) => {
            // SAFETY: as of `operation`.
            unsafe { (*cluster).fail(error) };
            false
        }
    };
    if !go {
        // SAFETY: the yielder is that of the fiber that runs, and lives as long as it.
        unsafe {
            let yielder = (&(*cluster).lanes)[(*cluster).current].yielder;
            (*yielder).suspend(());
        }
    }
}

type Fiber = Coroutine<(), (), (), DefaultStack>;

/// Runs a cluster: a block on each image, entered at the same function. The stacks are kept for other clusters.
pub(super) fn run(
    shared: &Shared,
    index: [u32; 3],
    images: &[Image],
    kernel: &str,
    rng: Option<Rng>,
    stacks: &mut Vec<DefaultStack>,
) -> Result<()> {
    let mut cluster = Cluster::new(shared, index, images, rng);
    let (n_threads, n_lanes) = (shared.geometry.threads(), cluster.lanes.len());
    let entries = images.iter().map(|i| i.entry(kernel)).collect::<Result<Vec<_>>>()?;
    let mut fibers: Vec<Option<Fiber>> = Vec::with_capacity(n_lanes);
    let at: *mut Cluster = &mut cluster;
    for lane in 0..n_lanes {
        let entry = entries[lane / n_threads];
        let stack = match stacks.pop() {
            Some(stack) => stack,
            None => DefaultStack::new(shared.stack_bytes)
                .map_err(|e| Error::new(format!("cannot have a stack for a thread of the GPU: {e}")))?,
        };
        let args = shared.args.as_ptr();
        let body = move |yielder: &Yielder<(), ()>, ()| {
            // SAFETY: the cluster outlives its fibers, and nothing else refers to it while one runs; the kernel's
            // arguments are as many as its function reads.
            unsafe {
                (&mut (*at).lanes)[lane].yielder = yielder;
                entry(args);
            }
        };
        // SAFETY: what the fiber borrows is owned by this function, which drops the fibers before it returns.
        fibers.push(Some(unsafe { Coroutine::with_stack_unchecked(stack, body) }));
    }
    CURRENT.set(at.cast());
    // SAFETY: `at` is the cluster above; the loop uses it only through this pointer, and never while a fiber runs.
    let result = unsafe { schedule(at, &mut fibers) };
    CURRENT.set(ptr::null_mut());
    for mut fiber in fibers.into_iter().flatten() {
        // SAFETY: nothing on a kernel's stack, or on that of `operation`, needs to be dropped.
        unsafe { fiber.force_reset() };
        stacks.push(fiber.into_stack());
    }
    result
}

unsafe fn schedule(cluster: *mut Cluster, fibers: &mut [Option<Fiber>]) -> Result<()> {
    loop {
        // SAFETY: no fiber runs here, so this is the only reference.
        let c = unsafe { &mut *cluster };
        if let Some(error) = c.error.take() {
            return Err(error);
        }
        let Some(lane) = c.next_ready()? else { return c.end() };
        let Some(fiber) = &mut fibers[lane] else { bail!("a thread that has ended is to run") };
        c.current = lane;
        if let CoroutineResult::Return(()) = fiber.resume(()) {
            // SAFETY: as above; the reference from before isn't used any more.
            unsafe { &mut *cluster }.ended(lane)?;
        }
    }
}

impl<'a> Cluster<'a> {
    fn new(shared: &'a Shared<'a>, index: [u32; 3], images: &[Image], rng: Option<Rng>) -> Cluster<'a> {
        let g = &shared.geometry;
        let threads = g.threads();
        let block = |(k, image): (usize, &Image)| Block {
            index: g.block_of(index, k),
            base: image.base(),
            first: k * threads,
            barriers: Barriers::default(),
            warps: (0..threads.div_ceil(32)).map(|_| Warp::default()).collect(),
            alive: threads,
        };
        let lane = |k: usize| Lane {
            block: k / threads,
            number: k % threads,
            wait: None,
            is_done: false,
            results: ptr::null_mut(),
            args: ptr::null(),
            open: Default::default(),
            groups: Default::default(),
            cluster_arrivals: 0,
            told: None,
            yielder: ptr::null(),
        };
        let n = images.len() * threads;
        Cluster {
            shared,
            index,
            blocks: images.iter().enumerate().map(block).collect(),
            lanes: (0..n).map(lane).collect(),
            flights: Flights::default(),
            mbarriers: HashMap::new(),
            rng,
            current: 0,
            ready: (0..n).collect(),
            arrived: 0,
            phase: 0,
            error: None,
            clock: 0,
        }
    }

    /// The thread to run next; `None` when all have ended.
    fn next_ready(&mut self) -> Result<Option<usize>> {
        if let Some(rng) = &mut self.rng {
            let (slot, chosen) = (rng.below(1 << 30), rng.below(self.ready.len().max(1)));
            if slot % 2 == 0
                && let Some(id) = self.flights.at(slot / 2)
            {
                self.arrive(id)?;
            }
            if chosen < self.ready.len() {
                self.ready.swap(0, chosen);
            }
        }
        loop {
            if let Some(lane) = self.ready.pop_front() {
                return Ok(Some(lane));
            }
            if self.lanes.iter().all(|l| l.is_done) {
                return Ok(None);
            }
            let from = self.rng.as_mut().map_or(0, |r| r.below(1 << 30));
            match self.flights.next_from(from) {
                Some(id) => self.arrive(id)?,
                None => return Err(self.deadlock()),
            }
        }
    }

    /// Makes a thread ready that waits.
    pub fn wake(&mut self, lane: usize) {
        self.lanes[lane].wait = None;
        self.ready.push_back(lane);
    }

    /// Lets the thread that runs wait: its results are written by whoever wakes it.
    pub fn park(&mut self, wait: Wait, args: &[u64], results: *mut u64) -> Next {
        let lane = &mut self.lanes[self.current];
        (lane.wait, lane.args, lane.results) = (Some(wait), args.as_ptr(), results);
        Next::Stop
    }

    fn execute(&mut self, op: usize, args: &[u64], results: *mut u64) -> Result<Next> {
        let shared = self.shared;
        let Some(kind) = shared.ops.get(op) else { bail!("there is no operation {op}") };
        match kind {
            Op::Nothing => {}
            // SAFETY: operations with a result have a slot for it.
            Op::Register(r) => unsafe { *results = self.register(*r) },
            // SAFETY: as above.
            Op::Scalar(f) => unsafe { *results = f(args) },
            Op::Warp(w) => return self.warp_op(op, w, args, results),
            Op::Block(b) => return self.block_op(*b, args, results),
            Op::ClusterArrive => return self.cluster_arrive(),
            Op::ClusterWait => return Ok(self.cluster_wait(args, results)),
            // SAFETY: as above.
            Op::Map => unsafe { *results = self.mapped(args[0] as usize, args[1] as usize)? as u64 },
            // SAFETY: as above.
            Op::Rank => unsafe { *results = self.owner(args[0] as usize)? as u64 },
            Op::Mbarrier(m) => return self.mbarrier_op(*m, args, results),
            Op::Copy(c) => self.copy_op(c, args)?,
            Op::Wgmma(w) => return self.wgmma_op(op, w, args, results),
        }
        Ok(Next::Go)
    }

    fn register(&mut self, register: Register) -> u64 {
        let g = &self.shared.geometry;
        let lane = &self.lanes[self.current];
        let (number, block) = (lane.number, &self.blocks[lane.block]);
        let thread = g.thread_of(number);
        let in_warp = (number % 32) as u64;
        let value = |x: u32| u64::from(x);
        match register {
            Register::Thread(axis) => value(thread[axis]),
            Register::Threads(axis) => value(g.block[axis]),
            Register::Block(axis) => value(block.index[axis]),
            Register::Blocks(axis) => value(g.grid[axis]),
            Register::Lane => in_warp,
            Register::Warp => (number / 32) as u64,
            Register::Warps => block.warps.len() as u64,
            Register::WarpSize => 32,
            Register::LaneMask(mask) => u64::from(lanes_that(mask, in_warp as u32)),
            Register::ClusterBlock(axis) => value(block.index[axis] % g.cluster[axis]),
            Register::ClusterBlocks(axis) => value(g.cluster[axis]),
            Register::Cluster(axis) => value(self.index[axis]),
            Register::Clusters(axis) => value(g.grid[axis] / g.cluster[axis]),
            Register::ClusterRank => lane.block as u64,
            Register::ClusterSize => self.blocks.len() as u64,
            Register::IsCluster => u64::from(self.blocks.len() > 1),
            Register::Clock => {
                self.clock += 1;
                self.clock
            }
        }
    }

    /// Checks an access of the thread that runs.
    pub fn check(&self, access: Access) -> Result<()> {
        let shared = |b: &Block, is_own: bool| Region {
            start: b.base,
            bytes: self.shared.shared_bytes,
            writable: true,
            name: if is_own {
                "its block's shared memory".into()
            } else {
                "another block's shared memory".into()
            },
        };
        if self.shared.regions.iter().any(|r| r.holds(access.address, access.bytes)) {
            return access.check(self.shared.regions);
        }
        let own = self.lanes[self.current].block;
        let in_window = |b: &Block| access.address.wrapping_sub(b.base) < WINDOW;
        match self.blocks.iter().position(in_window) {
            Some(k) => access.check(&[shared(&self.blocks[k], k == own)]),
            None if self.is_on_stack(access.address) => Ok(()),
            None => access.check(self.shared.regions),
        }
    }

    /// Whether an address is on the stack that this thread runs on: those of local variables are.
    fn is_on_stack(&self, address: usize) -> bool {
        let here = ptr::from_ref(&address) as usize;
        address.abs_diff(here) < self.shared.stack_bytes
    }

    /// The block whose shared memory an address is in.
    pub fn owner(&self, address: usize) -> Result<usize> {
        let found = self.blocks.iter().position(|b| address.wrapping_sub(b.base) < WINDOW);
        found.ok_or_else(|| Error::new("an address is taken for one of shared memory that is none"))
    }

    /// The offset of an address in shared memory.
    pub fn offset(&self, address: usize) -> Result<usize> {
        Ok(address - self.blocks[self.owner(address)?].base)
    }

    /// The same place in another block's shared memory.
    pub fn mapped(&self, address: usize, rank: usize) -> Result<usize> {
        let n = self.blocks.len();
        ensure!(rank < n, "a cluster of {n} blocks has no block {rank}");
        Ok(self.offset(address)? + self.blocks[rank].base)
    }

    fn cluster_arrive(&mut self) -> Result<Next> {
        let lane = &mut self.lanes[self.current];
        ensure!(
            lane.cluster_arrivals == self.phase,
            "it arrives at the cluster's barrier twice without a wait"
        );
        lane.cluster_arrivals += 1;
        self.arrived += 1;
        self.complete_cluster();
        Ok(Next::Go)
    }

    fn cluster_wait(&mut self, args: &[u64], results: *mut u64) -> Next {
        if self.lanes[self.current].cluster_arrivals <= self.phase {
            return Next::Go;
        }
        self.park(Wait::Cluster, args, results)
    }

    /// Opens the barrier of the cluster if all threads have arrived that there are.
    fn complete_cluster(&mut self) {
        let alive: usize = self.blocks.iter().map(|b| b.alive).sum();
        if self.arrived == 0 || self.arrived < alive {
            return;
        }
        (self.arrived, self.phase) = (0, self.phase + 1);
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].wait == Some(Wait::Cluster) {
                self.wake(lane);
            }
        }
    }

    /// A thread has come to its end: barriers don't wait for it any more.
    fn ended(&mut self, lane: usize) -> Result<()> {
        let block = self.lanes[lane].block;
        self.lanes[lane].is_done = true;
        self.blocks[block].alive -= 1;
        let arrived = self.lanes[lane].cluster_arrivals > self.phase;
        self.arrived -= usize::from(arrived);
        self.complete_cluster();
        self.complete_barriers(block)
    }

    /// What is left to do when all threads have ended.
    fn end(&mut self) -> Result<()> {
        for lane in 0..self.lanes.len() {
            self.current = lane;
            self.check_ended()?;
        }
        while let Some(id) = self.flights.next_from(0) {
            self.arrive(id)?;
        }
        Ok(())
    }

    /// Reports an error of the thread that runs.
    fn fail(&mut self, error: Error) {
        let place = self.place(self.current);
        self.error = Some(error.context(place));
    }

    fn place(&self, lane: usize) -> String {
        let l = &self.lanes[lane];
        let [x, y, z] = self.shared.geometry.thread_of(l.number);
        let [bx, by, bz] = self.blocks[l.block].index;
        format!("thread ({x}, {y}, {z}) of block ({bx}, {by}, {bz})")
    }

    fn deadlock(&self) -> Error {
        let mut waits: Vec<(Wait, usize)> =
            self.lanes.iter().enumerate().filter_map(|(k, l)| Some((l.wait?, k))).collect();
        waits.sort();
        let groups = waits.chunk_by(|a, b| a.0 == b.0).take(4);
        let lines =
            groups.map(|g| format!("{} threads wait for {} ({})", g.len(), g[0].0, self.place(g[0].1)));
        Error::new(format!("a deadlock: {}", lines.collect::<Vec<_>>().join("; ")))
    }

    /// What threads wait for at a barrier in shared memory goes on.
    pub fn unpark(&mut self, parked: Vec<Parked>) {
        for p in parked {
            // SAFETY: the thread waits in `operation`, with a slot for the result.
            unsafe { *self.lanes[p.lane].results = 1 };
            self.wake(p.lane);
        }
    }

    /// The queue of asynchronous products of the warp that runs.
    pub fn queue(&mut self) -> &mut Queue {
        let lane = &self.lanes[self.current];
        &mut self.blocks[lane.block].warps[lane.number / 32].products
    }
}

fn lanes_that(mask: LaneMask, lane: u32) -> u32 {
    let own = 1u32 << lane;
    let below = own - 1;
    match mask {
        LaneMask::Eq => own,
        LaneMask::Lt => below,
        LaneMask::Le => below | own,
        LaneMask::Gt => !(below | own),
        LaneMask::Ge => !below,
    }
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Wait::Warp => write!(f, "others of their warp"),
            Wait::Barrier(id) => write!(f, "barrier {id}"),
            Wait::Mbarrier(offset, parity) => {
                write!(f, "parity {parity} of the mbarrier at byte {offset} of shared memory")
            }
            Wait::Cluster => write!(f, "the cluster's barrier"),
        }
    }
}

/// Random numbers (xorshift64*), the same for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng((seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1)
    }

    /// A number below another one that isn't 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize) % n
    }
}
