//! Runs passes: verifying, watching, fuel and failures live here, once.
//!
//! A pass that fails, leaves a graph that doesn't verify, or panics is a bug of the compiler, whatever the graph. It
//! ends in a [`Failure`], which holds all that is needed to see it again.

use crate::fuse::Duplication;
use crate::pipeline::{Options, Pass, passes};
use crate::rewrite::certificate::Certified;
use crate::rewrite::saturate::Limits;
use crate::rewrite::stats::Stats;
use aic_ir::ensure;
use aic_ir::error::{Error, Result};
use aic_ir::graph::Graph;
use aic_ir::target::Target;
use aic_ir::verify;
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Which rewrites may be applied, by what they do to the bits of the results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Numerics {
    /// Bit-identical results only.
    Exact,
    /// Equal in the real numbers; rounded elsewhere, and beyond the range of floats elsewhere too: the logarithm of a
    /// softmax that underflows is minus infinity, that of a log-softmax in its place a number.
    #[default]
    Reassociate,
    /// Approximations of stated error too.
    Fast,
}

/// Rewrite rules in text form that a user adds to the built-in ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleText {
    /// Where it is from, for messages.
    pub name: String,
    /// The rules, in the format of `rewrite/rules/*.rules`.
    pub text: String,
}

/// What passes are given besides the graph, and what they report.
#[derive(Clone, Debug)]
pub struct Context {
    /// The machine.
    pub target: Target,
    /// Which rewrites are admitted.
    pub numerics: Numerics,
    /// Rules beside the built-in ones.
    pub rules: Vec<RuleText>,
    /// Rules, by name, that are left out.
    pub without: Vec<String>,
    /// How far the rewriter goes.
    pub limits: Limits,
    /// What fusion does with maps that several kernels read.
    pub duplication: Duplication,
    /// Rewrites that may still be applied; `None` for no limit.
    pub fuel: Option<u64>,
    /// Rewrites applied so far.
    pub spent: u64,
    /// The last rewrite applied, where fuel is limited.
    pub last: Option<String>,
    /// What the rewriter did.
    pub rewrites: Stats,
    /// Whether the rewriter is to prove what it does; bodies of `if`, `loop` and `scan` are left alone then.
    pub certify: bool,
    /// The proofs, one for each run of the rewriter.
    pub certificates: Vec<Certified>,
}

impl Context {
    /// A context without limits.
    pub fn new(options: &Options) -> Context {
        Context {
            target: options.machine(),
            numerics: options.numerics,
            rules: options.rules.clone(),
            without: options.without.clone(),
            limits: Limits::of_level(options.level),
            duplication: Duplication::default(),
            fuel: options.fuel,
            spent: 0,
            last: None,
            rewrites: Stats::default(),
            certify: false,
            certificates: Vec::new(),
        }
    }

    /// Whether one more rewrite may be applied, which the caller then does. `what` says which, for who looks for the
    /// rewrite that broke a graph.
    pub fn spend(&mut self, what: impl FnOnce() -> String) -> bool {
        if let Some(fuel) = &mut self.fuel {
            if *fuel == 0 {
                return false;
            }
            *fuel -= 1;
            self.last = Some(what());
        }
        self.spent += 1;
        true
    }
}

/// What happens while passes run.
pub enum Event<'a> {
    /// A pass is about to run.
    Before {
        /// The pass.
        pass: &'a Pass,
        /// What it is given.
        graph: &'a Graph,
    },
    /// A pass has run, and the graph that it made verifies.
    After {
        /// The pass.
        pass: &'a Pass,
        /// What it was given.
        before: &'a Graph,
        /// What it made.
        after: &'a Graph,
        /// How long it took.
        time: Duration,
    },
}

/// A pass that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Its name; `lower` for lowering.
    pub pass: String,
    /// What it was given.
    pub before: Graph,
    /// The fuel that it was given.
    pub fuel: Option<u64>,
    /// What went wrong.
    pub error: Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pass {}: {}", self.pass, self.error)
    }
}

impl Failure {
    /// The error, which names the pass.
    pub fn into_error(self) -> Error {
        self.error.context(format!("pass {}", self.pass))
    }
}

/// Runs the named passes in the order given; in debug builds the graph is verified before the first and after each.
///
/// # Errors
/// A name is unknown, or a pass fails.
pub fn run(graph: Graph, names: &[&str], cx: &mut Context) -> Result<Graph> {
    run_watched(graph, &passes(names)?, cx, cfg!(debug_assertions), &mut |_| {}).map_err(|f| f.into_error())
}

/// Runs passes, telling `watch` about each.
///
/// # Errors
/// The pass that fails, or if `verified` leaves a graph that doesn't verify.
pub fn run_watched(
    graph: Graph,
    passes: &[&Pass],
    cx: &mut Context,
    verified: bool,
    watch: &mut dyn FnMut(Event<'_>),
) -> std::result::Result<Graph, Box<Failure>> {
    let mut graph = graph;
    if verified && let Err(error) = verify::report("the graph before the first pass", &verify::graph(&graph))
    {
        let pass = passes.first().map_or("none", |p| p.name).to_owned();
        return Err(Box::new(Failure { pass, before: graph, fuel: cx.fuel, error }));
    }
    for pass in passes {
        watch(Event::Before { pass, graph: &graph });
        let (start, fuel) = (Instant::now(), cx.fuel);
        let after = caught(|| (pass.run)(&graph, cx)).and_then(|after| match verified {
            true => verify::report("the graph that it made", &verify::graph(&after)).map(|()| after),
            false => Ok(after),
        });
        let after = match after {
            Ok(after) => after,
            Err(error) => {
                return Err(Box::new(Failure { pass: pass.name.into(), before: graph, fuel, error }));
            }
        };
        watch(Event::After { pass, before: &graph, after: &after, time: start.elapsed() });
        graph = after;
    }
    Ok(graph)
}

/// The part of a list of names from `start_at` to `stop_after`, both included. Of a name that occurs more than once
/// `NAME:2` is the second.
///
/// # Errors
/// A name doesn't occur, or the first comes after the last.
pub fn part<'a>(names: &[&'a str], start_at: Option<&str>, stop_after: Option<&str>) -> Result<Vec<&'a str>> {
    let from = start_at.map_or(Ok(0), |name| position(names, name))?;
    let to = stop_after.map_or(Ok(names.len()), |name| position(names, name).map(|k| k + 1))?;
    ensure!(from < to || names.is_empty(), "the pass to start at comes after the one to stop after");
    Ok(names[from..to].to_vec())
}

fn position(names: &[&str], wanted: &str) -> Result<usize> {
    let (name, nth) = match wanted.rsplit_once(':') {
        Some((name, nth)) => (name, nth.parse::<usize>().unwrap_or(0)),
        None => (wanted, 1),
    };
    let found = names.iter().enumerate().filter(|(_, n)| **n == name).nth(nth.wrapping_sub(1));
    found.map(|(k, _)| k).ok_or_else(|| {
        Error::new(format!("there is no pass {wanted:?} among those to run, which are {}", names.join(", ")))
    })
}

static CATCHING: AtomicUsize = AtomicUsize::new(0);

/// Whether a panic would be caught and told as an error: what a panic hook needs to know.
pub fn catches_panics() -> bool {
    CATCHING.load(Ordering::SeqCst) > 0
}

/// Calls `f`; a panic is an error.
///
/// # Errors
/// As of `f`, or it panics.
pub fn caught<T>(f: impl FnOnce() -> Result<T>) -> Result<T> {
    CATCHING.fetch_add(1, Ordering::SeqCst);
    let result = catch_unwind(AssertUnwindSafe(f));
    CATCHING.fetch_sub(1, Ordering::SeqCst);
    result.unwrap_or_else(|panic| Err(Error::new(format!("internal error: {}", panic_text(&*panic)))))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::PASSES;
    use aic_ir::op::{Elementwise, Op};
    use aic_ir::scalar::ScalarFn;
    use aic_ir::text;

    const TEXT: &str = "graph(%0: f32[4]) -> f32[4] { %1 = neg %0 %2 = exp %0 return %1 }";

    fn context() -> Context {
        Context::new(&Options::new(Target::x86_avx2()))
    }

    fn failure(run: fn(&Graph, &mut Context) -> Result<Graph>) -> Box<Failure> {
        let graph = text::parse_graph(TEXT).unwrap();
        let pass = Pass { name: "broken", help: "", run };
        run_watched(graph, &[&PASSES[0], &pass], &mut context(), true, &mut |_| {}).unwrap_err()
    }

    #[test]
    fn a_failure_holds_what_the_pass_was_given() {
        let found = failure(|_, _| Err(Error::new("no")));
        assert_eq!((&*found.pass, &*found.error.message), ("broken", "no"));
        assert_eq!(found.before, text::parse_graph(TEXT).unwrap());
        assert_eq!(found.into_error().message, "pass broken: no");
    }

    #[test]
    fn a_panic_is_a_failure() {
        let found = failure(|_, _| panic!("at {}", 3));
        assert_eq!(found.error.message, "internal error: at 3");
        assert!(!catches_panics());
    }

    #[test]
    fn a_graph_that_does_not_verify_is_a_failure() {
        let found = failure(|g, _| {
            let mut g = g.clone();
            let x = g.inputs[0].value;
            g.add_typed(Op::Elementwise(Elementwise { f: ScalarFn::Neg }), &[x], vec![], &[]);
            Ok(g)
        });
        assert!(found.error.message.starts_with("the graph that it made does not verify"), "{found}");
    }

    #[test]
    fn fuel_is_spent_until_there_is_none() {
        let mut cx = context();
        assert!(cx.spend(|| unreachable!()) && cx.spent == 1);
        cx.fuel = Some(1);
        assert!(cx.spend(|| "first".into()));
        assert!(!cx.spend(|| "second".into()));
        assert_eq!((cx.spent, cx.last.as_deref()), (2, Some("first")));
    }

    #[test]
    fn a_part_of_the_passes_is_named_by_its_ends() {
        let names = ["a", "b", "c", "b"];
        assert_eq!(part(&names, None, None).unwrap(), names);
        assert_eq!(part(&names, Some("b"), None).unwrap(), ["b", "c", "b"]);
        assert_eq!(part(&names, Some("b:2"), None).unwrap(), ["b"]);
        assert_eq!(part(&names, Some("b"), Some("b")).unwrap(), ["b"]);
        assert!(part(&names, Some("c"), Some("a")).is_err());
        for wrong in ["d", "b:3", "b:0", "b:x"] {
            let error = part(&names, None, Some(wrong)).unwrap_err().message;
            assert!(error.contains(wrong) && error.contains("a, b, c, b"), "{error}");
        }
    }
}
