//! What tuning found, as lines of JSON: one for each schedule that was measured, and one for each that was decided on.
//!
//! A file only grows while a model is tuned: a line is written at once, so that a process that is killed loses nothing but
//! the line it was writing, which readers leave out. Later lines decide. A record is used for the very kernel, target, CPU,
//! threads, backend and compiler that it is of; of other machines it is a place to start from.

use super::machine::Machine;
use aic_ir::error::{Error, Result};
use aic_ir::schedule::Schedule;
use aic_passes::schedule::Choices;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What is known of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It was measured.
    Tried,
    /// It gave no or wrong results, or none in time.
    Failed,
    /// It was faster than what was chosen before, by itself and twice.
    Better,
    /// It was faster in the model too: it is used.
    Kept,
    /// It was not faster in the model.
    Rejected,
}

impl State {
    const ALL: [(State, &'static str); 5] = [
        (State::Tried, "tried"),
        (State::Failed, "failed"),
        (State::Better, "better"),
        (State::Kept, "kept"),
        (State::Rejected, "rejected"),
    ];

    fn name(self) -> &'static str {
        State::ALL.iter().find(|(s, _)| *s == self).map_or("", |(_, name)| name)
    }
}

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Hash of what the kernel computes.
    pub kernel: u64,
    /// Where it was measured.
    pub machine: Machine,
    /// The schedule.
    pub schedule: Schedule,
    /// What is known of it.
    pub state: State,
    /// Its time as a part of that of the schedule that the model of costs chooses; 0 where it has none.
    pub ratio: f64,
    /// Source nodes of the kernel, for people.
    pub nodes: String,
}

impl Record {
    fn json(&self) -> Value {
        json!({
            "kernel": format!("{:016x}", self.kernel), "state": self.state.name(), "ratio": self.ratio,
            "schedule": self.schedule.to_string(), "machine": self.machine.json(), "nodes": self.nodes,
        })
    }

    fn parse(line: &str) -> Option<Record> {
        let value: Value = serde_json::from_str(line).ok()?;
        let text = |key: &str| value.get(key)?.as_str();
        let state = text("state")?;
        Some(Record {
            kernel: u64::from_str_radix(text("kernel")?, 16).ok()?,
            machine: Machine::parse(value.get("machine")?)?,
            schedule: text("schedule")?.parse().ok()?,
            state: State::ALL.iter().find(|(_, name)| *name == state)?.0,
            ratio: value.get("ratio")?.as_f64()?,
            nodes: text("nodes").unwrap_or_default().to_owned(),
        })
    }
}

/// Records in the order of their file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records(pub Vec<Record>);

impl Records {
    /// Reads a file; one that isn't there has no records. Lines that are no records are left out.
    ///
    /// # Errors
    /// It can't be read.
    pub fn read(path: &Path) -> Result<Records> {
        match fs::read(path) {
            Ok(bytes) => {
                Ok(Records(String::from_utf8_lossy(&bytes).lines().filter_map(Record::parse).collect()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Records::default()),
            Err(error) => Err(failed(path, "read", &error)),
        }
    }

    /// The schedules to use on a machine: of each kernel the last one that is kept.
    pub fn choices(&self, machine: &Machine) -> Choices {
        self.decided(machine).into_iter().map(|(kernel, r)| (kernel, r.schedule.clone())).collect()
    }

    /// Of each kernel on a machine the record that is kept.
    pub fn decided(&self, machine: &Machine) -> BTreeMap<u64, &Record> {
        let here = self.0.iter().filter(|r| r.machine == *machine);
        last_kept(here, |r| r.kernel)
    }

    /// What is known of a kernel's schedules on a machine, and schedules that were good for it elsewhere.
    pub fn of(&self, kernel: u64, machine: &Machine) -> (Vec<&Record>, Vec<&Schedule>) {
        let (here, elsewhere): (Vec<&Record>, Vec<&Record>) =
            self.0.iter().filter(|r| r.kernel == kernel).partition(|r| r.machine == *machine);
        let good = elsewhere.into_iter().filter(|r| matches!(r.state, State::Kept | State::Better));
        (here, good.map(|r| &r.schedule).collect())
    }

    /// Only what is used: of each kernel and machine the record that is kept.
    pub fn pruned(&self) -> Records {
        let kept = last_kept(self.0.iter(), |r| (r.kernel, r.machine.json().to_string()));
        Records(kept.into_values().cloned().collect())
    }

    /// Those of `other` that aren't here, after those that are.
    pub fn merged(&self, other: &Records) -> Records {
        let new = other.0.iter().filter(|r| !self.0.contains(r));
        Records(self.0.iter().chain(new).cloned().collect())
    }

    /// Writes a file anew: the old one stays until the new one is whole.
    ///
    /// # Errors
    /// It can't be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            for r in &self.0 {
                writeln!(file, "{}", r.json())?;
            }
            file.persist(path).map(drop).map_err(|e| e.error)
        };
        write().map_err(|error| failed(path, "written", &error))
    }
}

/// Of the records with each key the last one that is kept and not rejected later.
fn last_kept<'a, K: Ord>(
    records: impl Iterator<Item = &'a Record>,
    key: impl Fn(&Record) -> K,
) -> BTreeMap<K, &'a Record> {
    let mut found = BTreeMap::new();
    for r in records {
        match r.state {
            State::Kept => drop(found.insert(key(r), r)),
            State::Rejected => drop(found.remove(&key(r))),
            State::Tried | State::Failed | State::Better => {}
        }
    }
    found
}

fn failed(path: &Path, what: &str, error: &std::io::Error) -> Error {
    Error::new(format!("{}: cannot be {what}: {error}", path.display()))
}

/// A file of records that grows.
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens a file of records to add to, with the folders around it. A line that was left incomplete is ended.
    ///
    /// # Errors
    /// It can't be opened.
    pub fn open(path: &Path) -> Result<Log> {
        let open = || -> std::io::Result<File> {
            if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                fs::create_dir_all(folder)?;
            }
            let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
            let mut last = [b'\n'];
            if file.seek(SeekFrom::End(0))? > 0 {
                file.seek(SeekFrom::End(-1))?;
                file.read_exact(&mut last)?;
            }
            if last != [b'\n'] {
                file.write_all(b"\n")?;
            }
            Ok(file)
        };
        let file = open().map_err(|error| failed(path, "opened", &error))?;
        Ok(Log { path: path.to_owned(), file })
    }

    /// Adds a record: a line in one piece, so that processes that add to the same file don't mix theirs.
    ///
    /// # Errors
    /// It can't be written.
    pub fn add(&mut self, r: &Record) -> Result<()> {
        let line = format!("{}\n", r.json());
        self.file.write_all(line.as_bytes()).map_err(|error| failed(&self.path, "written", &error))
    }
}

/// Where records are if nothing else is said: in the user's folder of caches; `None` where there is none.
pub fn default_path() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))?;
    Some(cache.join("aic").join("tuned.jsonl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(threads: u32) -> Machine {
        Machine {
            target: "x86-64-v4".into(),
            cpu: "a CPU +avx512f".into(),
            threads,
            backend: "llvm".into(),
            version: "1".into(),
        }
    }

    fn record(kernel: u64, threads: u32, state: State, mr: u32) -> Record {
        let schedule = format!("contract lanes=16 mr={mr} nr=2 kc=0 pack=32").parse().unwrap();
        Record { kernel, machine: machine(threads), schedule, state, ratio: 0.5, nodes: "a, \"b\"".into() }
    }

    #[test]
    fn the_last_decision_counts() {
        use State::*;
        let all = [
            record(1, 2, Better, 3),
            record(1, 2, Kept, 4),
            record(1, 2, Tried, 5),
            record(1, 1, Kept, 6),
            record(2, 2, Kept, 7),
            record(2, 2, Rejected, 7),
            record(3, 2, Better, 8),
        ];
        let records = Records(all.to_vec());
        let used: Vec<(u64, u32)> =
            records.decided(&machine(2)).iter().map(|(k, r)| (*k, r.schedule.mr)).collect();
        assert_eq!(used, [(1, 4)]);
        assert_eq!(records.pruned().0.iter().map(|r| r.schedule.mr).collect::<Vec<_>>(), [6, 4]);
        assert_eq!(records.pruned().choices(&machine(2)), records.choices(&machine(2)));
        let (here, elsewhere) = records.of(1, &machine(2));
        assert_eq!((here.len(), elsewhere.len(), elsewhere[0].mr), (3, 1, 6));
        assert_eq!(records.merged(&records), records);
        assert_eq!(Records::default().merged(&records), records);
    }

    #[test]
    fn a_line_that_was_left_incomplete_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/r.jsonl");
        assert_eq!(Records::read(&path).unwrap(), Records::default());
        let (first, second) = (record(1, 2, State::Kept, 4), record(2, 2, State::Tried, 5));
        Log::open(&path).unwrap().add(&first).unwrap();
        let mut bytes = fs::read(&path).unwrap();
        bytes.extend(&bytes.clone()[..bytes.len() / 2]);
        fs::write(&path, &bytes).unwrap();
        assert_eq!(Records::read(&path).unwrap().0, std::slice::from_ref(&first));
        Log::open(&path).unwrap().add(&second).unwrap();
        assert_eq!(Records::read(&path).unwrap().0, [first.clone(), second.clone()]);
        Records(vec![second.clone()]).write(&path).unwrap();
        assert_eq!(Records::read(&path).unwrap().0, [second]);
    }
}
