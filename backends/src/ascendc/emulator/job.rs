//! What is run on the model, as data, and what comes of it.

use crate::ascendc::TaskType;
use aic_ir::error::{Error, Result};
use std::fmt::Write;

/// How kernels are run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// Decides in which legal order instructions are executed.
    pub seed: u64,
    /// Whether nothing is taken for granted that the vendor's compiler adds.
    pub is_strict: bool,
    /// Whether only times are computed.
    pub is_timing_only: bool,
    /// AI cores of the chip.
    pub cores: u32,
    /// Their clock, in Hz.
    pub clock: f64,
}

impl Default for Settings {
    /// A 910B3.
    fn default() -> Settings {
        Settings { seed: 1, is_strict: true, is_timing_only: false, cores: 20, clock: 1.8e9 }
    }
}

/// What a buffer holds at first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contents {
    /// Nothing that may be read.
    Undefined,
    /// Zeros.
    Zeros,
    /// As many bytes as it has.
    Bytes(Vec<u8>),
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Launch a kernel.
    Launch {
        /// Its name.
        kernel: String,
        /// The cores of a block.
        task: TaskType,
        /// How many blocks.
        blocks: u32,
        /// A buffer for each argument.
        args: Vec<usize>,
    },
    /// Call a function of the host.
    Host {
        /// Its name.
        function: String,
        /// A buffer for each array, those that it reads first.
        args: Vec<usize>,
    },
    /// Copy a buffer.
    Copy {
        /// From.
        src: usize,
        /// To.
        dst: usize,
    },
}

/// Buffers in global memory, and steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// Sizes in bytes, and contents.
    pub buffers: Vec<(u64, Contents)>,
    /// In their order.
    pub steps: Vec<Step>,
    /// The buffers that are asked for.
    pub outputs: Vec<usize>,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The launch.
    pub launch: usize,
    /// `R1` to `R29`.
    pub rule: String,
    /// File and line.
    pub place: String,
    /// What is wrong.
    pub text: String,
}

/// What a launch is predicted to take.
#[derive(Clone, Debug, PartialEq)]
pub struct Time {
    /// The kernel.
    pub kernel: String,
    /// Cycles of the core that takes longest.
    pub cycles: f64,
    /// Bytes from and to global memory, of all cores.
    pub bytes: f64,
    /// Bytes of memory that these can be of.
    pub touched: f64,
    /// Pipes and the cycles in which they work, at most on any core.
    pub pipes: Vec<(String, f64)>,
}

/// What comes of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Broken rules, in the order of launches.
    pub violations: Vec<Violation>,
    /// One per launch.
    pub times: Vec<Time>,
    /// One per buffer that was asked for.
    pub outputs: Vec<Vec<u8>>,
}

/// Bytes per second of the memory, and of the second-level cache, as the vendor states them.
const MEMORY: f64 = 1.8e12;
const CACHE: f64 = 5e12;

impl Time {
    /// Seconds from the first instruction to the last: of the core that takes longest, or of the memory they share.
    pub fn seconds(&self, settings: &Settings) -> f64 {
        (self.cycles / settings.clock).max(self.touched / MEMORY).max(self.bytes / CACHE)
    }

    /// What takes longest: a pipe, `memory` or `L2`; `waiting` where no pipe works for half of the time.
    pub fn bound(&self, settings: &Settings) -> &str {
        let seconds = self.seconds(settings);
        if self.touched / MEMORY >= seconds {
            return "memory";
        }
        if self.bytes / CACHE >= seconds {
            return "L2";
        }
        let busiest = self.pipes.iter().max_by(|a, b| a.1.total_cmp(&b.1));
        busiest.filter(|(_, n)| *n > self.cycles / 2.0).map_or("waiting", |(name, _)| name)
    }
}

impl Job {
    /// The job as the driver reads it; `file` names the files of buffers.
    pub(super) fn text(
        &self,
        settings: &Settings,
        input: &dyn Fn(usize) -> String,
        output: &dyn Fn(usize) -> String,
    ) -> String {
        let mut out = String::new();
        let s = settings;
        let numbers = [("seed", s.seed as f64), ("strict", f64::from(u8::from(s.is_strict)))];
        let more = [
            ("timing", f64::from(u8::from(s.is_timing_only))),
            ("cores", f64::from(s.cores)),
            ("clock", s.clock),
        ];
        for (name, value) in numbers.into_iter().chain(more) {
            let _ = writeln!(out, "set {name} {value}");
        }
        for (k, (bytes, contents)) in self.buffers.iter().enumerate() {
            let from = match contents {
                Contents::Undefined => "-".into(),
                _ if s.is_timing_only => "0".into(),
                Contents::Zeros => "0".into(),
                Contents::Bytes(_) => input(k),
            };
            let _ = writeln!(out, "buffer {k} {bytes} {from}");
        }
        for step in &self.steps {
            let _ = match step {
                Step::Copy { src, dst } => writeln!(out, "copy {src} {dst}"),
                Step::Host { function, args } => {
                    let args: String = args.iter().map(|a| format!(" {a}")).collect();
                    writeln!(out, "host {function}{args}")
                }
                Step::Launch { kernel, task, blocks, args } => {
                    let args: String = args.iter().map(|a| format!(" {a}")).collect();
                    writeln!(out, "launch {kernel} {} {blocks}{args}", task.keyword())
                }
            };
        }
        if !s.is_timing_only {
            for k in &self.outputs {
                let _ = writeln!(out, "save {k} {}", output(*k));
            }
        }
        out
    }
}

impl Outcome {
    /// Reads what the driver says.
    pub(super) fn parse(text: &str) -> Result<Outcome> {
        let mut outcome = Outcome::default();
        for line in text.lines() {
            let bad = || Error::new(format!("the model answers {line:?}"));
            let mut words = line.splitn(5, ' ');
            let mut next = || words.next().ok_or_else(bad);
            match next()? {
                "violation" => {
                    let launch = next()?.parse().map_err(|_| bad())?;
                    let [rule, place, text] = [next()?, next()?, next()?].map(str::to_owned);
                    outcome.violations.push(Violation { launch, rule, place, text });
                }
                "time" => {
                    let _ = next()?;
                    let kernel = next()?.to_owned();
                    let cycles = next()?.parse().map_err(|_| bad())?;
                    let mut rest = next()?.split(' ');
                    let mut number = || rest.next().and_then(|b| b.parse().ok()).ok_or_else(bad);
                    let (bytes, touched) = (number()?, number()?);
                    let pipe = |w: &str| {
                        let (name, n) = w.split_once('=')?;
                        Some((name.to_owned(), n.parse().ok()?))
                    };
                    let pipes = rest.map(pipe).collect::<Option<_>>().ok_or_else(bad)?;
                    outcome.times.push(Time { kernel, cycles, bytes, touched, pipes });
                }
                _ => return Err(bad()),
            }
        }
        Ok(outcome)
    }
}
