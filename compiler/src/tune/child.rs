//! The process that measures, as the tuner sees it: a kernel that crashes it or never ends costs the tuner a moment.

use super::job::Job;
use super::worker::Outcome;
use aic_ir::error::{Error, Result};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// A program that answers jobs, and how long it may take.
pub struct Meter {
    program: PathBuf,
    args: Vec<OsString>,
    timeout: Duration,
    running: Option<Running>,
}

struct Running {
    child: Child,
    to: ChildStdin,
    lines: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Meter {
    /// Measures by a program with these arguments.
    pub fn new(program: PathBuf, args: Vec<OsString>, timeout: Duration) -> Meter {
        Meter { program, args, timeout, running: None }
    }

    /// What comes of the kernels of a job. Where a job isn't answered, its kernels are tried one by one.
    ///
    /// # Errors
    /// The program can't be started, or not even the first kernel gives results.
    pub fn measure(&mut self, job: &Job) -> Result<Vec<Outcome>> {
        match self.ask(job)? {
            Ok(outcomes) => return Ok(outcomes),
            Err(why) if job.kernels.len() < 2 => {
                return Err(Error::new(format!("the kernel in use can't be measured: {why}")));
            }
            Err(why) if job.kernels.len() == 2 => return Ok(vec![Ok([0.0, 1.0, 0.0]), Err(why)]),
            Err(_) => {}
        }
        let mut outcomes = vec![Ok([0.0, 1.0, 0.0])];
        for k in 1..job.kernels.len() {
            outcomes.extend(self.measure(&job.pair(k))?.pop());
        }
        Ok(outcomes)
    }

    /// The answer to a job, or why there is none.
    fn ask(&mut self, job: &Job) -> Result<std::result::Result<Vec<Outcome>, String>> {
        if self.running.is_none() {
            self.running = Some(self.start()?);
        }
        let Some(running) = &mut self.running else { return Err(Error::new("nothing measures")) };
        let sent = writeln!(running.to, "{}", job.json()).and_then(|()| running.to.flush());
        let line = match sent {
            Ok(()) => running.lines.recv_timeout(self.timeout).map_err(|e| match e {
                std::sync::mpsc::RecvTimeoutError::Timeout => "it takes too long",
                std::sync::mpsc::RecvTimeoutError::Disconnected => "it ends the process",
            }),
            Err(_) => Err("it ends the process"),
        };
        let value: Value = match line {
            Ok(line) => serde_json::from_str(&line).unwrap_or(Value::Null),
            Err(why) => {
                self.running = None;
                return Ok(Err(why.to_owned()));
            }
        };
        Ok(outcomes(&value).ok_or_else(|| value["error"].as_str().unwrap_or("no answer").to_owned()))
    }

    fn start(&self) -> Result<Running> {
        let failed = |what: &dyn std::fmt::Display| {
            Error::new(format!("{}: cannot be started: {what}", self.program.display()))
        };
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| failed(&e))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(&"it has no pipes"));
        };
        let (send, lines) = channel();
        std::thread::spawn(move || {
            let all = BufReader::new(from).lines().map_while(std::result::Result::ok);
            all.take_while(|line| send.send(line.clone()).is_ok()).for_each(drop);
        });
        Ok(Running { child, to, lines })
    }
}

/// The outcomes of a job's kernels, as they are sent and noted.
pub fn json(outcomes: Vec<Outcome>) -> Value {
    outcomes.into_iter().map(|o| o.map_or_else(Value::from, |times| json!(times))).collect()
}

/// Reads them.
pub fn outcomes(value: &Value) -> Option<Vec<Outcome>> {
    let outcome = |v: &Value| match v {
        Value::String(why) => Some(Err(why.clone())),
        v => Some(Ok([v[0].as_f64()?, v[1].as_f64()?, v[2].as_f64()?])),
    };
    value.as_array()?.iter().map(outcome).collect()
}
