//! Everything that the tuner asks of a machine, and when it was answered: in a file, if it is to be replayed. What the tuner
//! decides depends on its seed and on these answers alone, the clock among them.

use aic_ir::error::{Error, Result};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// Asks, and notes or replays answers.
pub struct Recorder {
    start: Instant,
    /// Seconds from the start to the last answer.
    at: f64,
    file: Option<File>,
    replayed: Option<VecDeque<Value>>,
}

impl Recorder {
    /// Asks the machine; writes answers to a file if there is one.
    ///
    /// # Errors
    /// It can't be written.
    pub fn live(log: Option<&Path>) -> Result<Recorder> {
        let create = |path: &Path| {
            File::create(path).map_err(|e| Error::new(format!("{}: cannot be written: {e}", path.display())))
        };
        let file = log.map(create).transpose()?;
        Ok(Recorder { start: Instant::now(), at: 0.0, file, replayed: None })
    }

    /// Takes the answers from what [`Recorder::live`] wrote.
    ///
    /// # Errors
    /// It can't be read.
    pub fn replay(log: &Path) -> Result<Recorder> {
        let text = std::fs::read_to_string(log)
            .map_err(|e| Error::new(format!("{}: cannot be read: {e}", log.display())))?;
        let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Recorder { replayed: Some(lines), ..Recorder::live(None)? })
    }

    /// Seconds from the start to the last answer.
    pub fn at(&self) -> f64 {
        self.at
    }

    /// The answer to a question: what `answer` gives, or gave when it was asked first.
    ///
    /// # Errors
    /// There is none, or another question was asked then.
    pub fn ask(&mut self, question: Value, answer: impl FnOnce() -> Result<Value>) -> Result<Value> {
        if let Some(lines) = &mut self.replayed {
            let Some(line) = lines.pop_front() else {
                return Err(Error::new(format!("the log ends before this question: {question}")));
            };
            if line["question"] != question {
                let message =
                    format!("the log has another question: {}, asked is {question}", line["question"]);
                return Err(
                    Error::new(message).help("seed, options, model and records must be those of the log")
                );
            }
            self.at = line["at"].as_f64().unwrap_or(self.at);
            return Ok(line["answer"].clone());
        }
        let answer = answer()?;
        self.at = self.start.elapsed().as_secs_f64();
        if let Some(file) = &mut self.file {
            let line = format!("{}\n", json!({ "question": question, "answer": answer, "at": self.at }));
            file.write_all(line.as_bytes())
                .map_err(|e| Error::new(format!("the log cannot be written: {e}")))?;
        }
        Ok(answer)
    }
}
