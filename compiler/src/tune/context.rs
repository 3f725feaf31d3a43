//! Kernels where they are used: a model with the schedules that the model of costs chooses beside the same model with
//! others, run in turn.

use super::worker::median;
use crate::driver::{self, Runner};
use crate::session;
use aic_backends::CpuOptions;
use aic_ir::ensure;
use aic_ir::error::{Error, Result};
use aic_ir::program::{Program, Step};
use aic_ir::tensor::Tensor;
use aic_passes::pipeline;
use aic_passes::schedule::{Choices, key};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs of each at least.
const LEAST: usize = 20;

/// A model with the schedules that the model of costs chooses.
pub struct Context {
    /// Its program.
    pub program: Program,
    /// How it was made.
    pub options: driver::Options,
    /// Threads of a session; 0 for all cores.
    pub threads: u32,
    /// It is run on these.
    pub inputs: Vec<Tensor>,
    runner: Runner,
}

/// How two programs compare.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Whole {
    /// Seconds of a run: before, after.
    pub seconds: [f64; 2],
    /// The median part that a run takes of the one before, and how often it took less.
    pub ratio: f64,
    /// As a part of the runs.
    pub wins: f64,
    /// The same for the launches of each kernel, by what it computes.
    pub kernels: BTreeMap<u64, [f64; 2]>,
}

impl Context {
    /// A model that is ready to run: `runner` is the program, compiled, and measures its steps.
    pub fn new(
        program: Program,
        runner: Runner,
        options: driver::Options,
        threads: u32,
        inputs: Vec<Tensor>,
    ) -> Context {
        Context { program, options, threads, inputs, runner }
    }

    /// The median seconds of every step, of runs that take so much time together.
    ///
    /// # Errors
    /// It can't be run.
    pub fn steps(&mut self, time: Duration) -> Result<Vec<f64>> {
        self.runner.bind(&self.inputs);
        self.runner.run_bound()?;
        let (mut runs, start) = (Vec::new(), Instant::now());
        while runs.len() < 3 || start.elapsed() < time {
            self.runner.run_bound()?;
            runs.push(seconds(&self.runner));
        }
        let of = |k: usize| median(runs.iter().map(|run| run[k]).collect());
        Ok((0..self.program.steps.len()).map(of).collect())
    }

    /// How the model compares with itself by other schedules, in runs that take so much time together.
    ///
    /// # Errors
    /// It can't be compiled or run.
    pub fn compare(&mut self, choices: Choices, time: Duration) -> Result<Whole> {
        let options = driver::Options { choices: Arc::new(choices), ..self.options.clone() };
        let program = pipeline::lower((*self.program.graph).clone(), &options.pipeline()?)?;
        ensure!(program.steps.len() == self.program.steps.len(), "the programs have different steps");
        let cpu: &CpuOptions = &self.options.cpu;
        let session = session::Options {
            n_threads: self.threads,
            profile: true,
            weights_in_place: true,
            ..session::Options::default()
        };
        let (mut other, _) = Runner::compile(&program, cpu, session)?;
        for runner in [&mut self.runner, &mut other] {
            runner.bind(&self.inputs);
            runner.run_bound()?;
        }
        let mut runs: Vec<[Vec<f64>; 2]> = Vec::new();
        let start = Instant::now();
        while runs.len() < LEAST || start.elapsed() < time {
            let is_forward = runs.len().is_multiple_of(2);
            let mut pair = [Vec::new(), Vec::new()];
            for k in if is_forward { [0, 1] } else { [1, 0] } {
                let runner = if k == 0 { &mut self.runner } else { &mut other };
                let run = Instant::now();
                runner.run_bound()?;
                pair[k] = seconds(runner);
                pair[k].push(run.elapsed().as_secs_f64());
            }
            runs.push(pair);
        }
        Ok(self.compared(&runs))
    }

    /// What runs in turn say: seconds of each step, and of the whole.
    fn compared(&self, runs: &[[Vec<f64>; 2]]) -> Whole {
        let n = self.program.steps.len();
        let mut steps: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (k, step) in self.program.steps.iter().enumerate() {
            if let Step::Launch { kernel, .. } = step
                && let Some(c) = &self.program.computes[*kernel]
            {
                steps.entry(key(c)).or_default().push(k);
            }
        }
        let of = |steps: &[usize]| {
            let sum = |run: &Vec<f64>| steps.iter().map(|k| run[*k]).sum::<f64>();
            let ratios: Vec<f64> = runs.iter().map(|[a, b]| sum(b) / sum(a)).collect();
            let wins = ratios.iter().filter(|r| **r < 1.0).count() as f64 / ratios.len() as f64;
            [median(ratios), wins]
        };
        let [ratio, wins] = of(&[n]);
        let whole = |which: usize| median(runs.iter().map(|pair| pair[which][n]).collect());
        let kernels = steps.iter().map(|(kernel, steps)| (*kernel, of(steps))).collect();
        Whole { seconds: [whole(0), whole(1)], ratio, wins, kernels }
    }
}

fn seconds(runner: &Runner) -> Vec<f64> {
    runner.step_times().iter().map(Duration::as_secs_f64).collect()
}

impl Whole {
    /// As it is noted.
    pub fn json(&self) -> Value {
        let kernels = self.kernels.iter().map(|(k, [ratio, wins])| json!([format!("{k:016x}"), ratio, wins]));
        json!({
            "seconds": self.seconds, "ratio": self.ratio, "wins": self.wins,
            "kernels": kernels.collect::<Vec<_>>(),
        })
    }

    /// Reads what was noted.
    ///
    /// # Errors
    /// It isn't that.
    pub fn parse(value: &Value) -> Result<Whole> {
        let read = || {
            let kernel = |v: &Value| {
                let key = u64::from_str_radix(v[0].as_str()?, 16).ok()?;
                Some((key, [v[1].as_f64()?, v[2].as_f64()?]))
            };
            Some(Whole {
                seconds: [value["seconds"][0].as_f64()?, value["seconds"][1].as_f64()?],
                ratio: value["ratio"].as_f64()?,
                wins: value["wins"].as_f64()?,
                kernels: value["kernels"].as_array()?.iter().map(kernel).collect::<Option<_>>()?,
            })
        };
        read().ok_or_else(|| Error::new(format!("no comparison: {value}")))
    }
}
