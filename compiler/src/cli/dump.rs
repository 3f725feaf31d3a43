//! Options that show what passes do: dumps of the graph between them, and their times.

use super::print;
use aic::graph_file;
use aic_ir::error::{Error, Result};
use aic_ir::graph::Graph;
use aic_ir::{ensure, text};
use aic_passes::runner::Event;
use bytes::Bytes;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to show of the graph between passes.
#[derive(clap::Args)]
pub struct Dump {
    /// Print the graph before this pass, or before all; may be repeated
    #[arg(long, value_name = "all|NAME")]
    dump_before: Vec<String>,
    /// Print the graph after this pass, or after all, if it changed; may be repeated
    #[arg(long, value_name = "all|NAME")]
    dump_after: Vec<String>,
    /// Write dumps to files in this folder, not to standard error
    #[arg(long, value_name = "DIR")]
    dump_dir: Option<PathBuf>,
}

impl Dump {
    /// What watches a run of these passes.
    ///
    /// # Errors
    /// A pass to dump isn't among them, or the folder can't be made.
    pub fn watcher(&self, passes: &[&str], times: bool) -> Result<Watcher<'_>> {
        for name in self.dump_before.iter().chain(&self.dump_after) {
            let is_known = name == "all" || passes.contains(&&**name);
            ensure!(
                is_known,
                "there is no pass {name:?} among those to run, which are {}",
                passes.join(", ")
            );
        }
        if let Some(folder) = &self.dump_dir {
            std::fs::create_dir_all(folder)
                .map_err(|e| Error::new(format!("{}: cannot be made: {e}", folder.display())))?;
        }
        Ok(Watcher { dump: self, times, n_run: 0, rows: Vec::new(), constants: HashMap::new(), error: None })
    }
}

/// Sees passes run.
pub struct Watcher<'a> {
    dump: &'a Dump,
    times: bool,
    n_run: usize,
    rows: Vec<(&'static str, Duration)>,
    constants: HashMap<String, Bytes>,
    /// The first file that couldn't be written.
    error: Option<Error>,
}

impl Watcher<'_> {
    /// Takes note of what happened.
    pub fn tell(&mut self, event: &Event<'_>) {
        let wanted = |names: &[String], name: &str| names.iter().any(|n| n == "all" || n == name);
        match event {
            Event::Before { pass, graph } => {
                if wanted(&self.dump.dump_before, pass.name) {
                    self.dump(&format!("before {}", pass.name), graph, &graph.to_string());
                }
            }
            Event::After { pass, before, after, time } => {
                if wanted(&self.dump.dump_after, pass.name) {
                    let (title, after_text) = (format!("after {}", pass.name), after.to_string());
                    match before.to_string() == after_text {
                        true => print::stderr(&format!("// {} {title}: unchanged", self.n_run + 1)),
                        false => self.dump(&title, after, &after_text),
                    }
                }
                self.rows.push((pass.name, *time));
                self.n_run += 1;
            }
        }
    }

    fn dump(&mut self, title: &str, graph: &Graph, graph_text: &str) {
        let number = self.n_run + 1;
        let Some(folder) = &self.dump.dump_dir else {
            return print::stderr(&format!("// {number} {title}:\n{}", graph_text.trim_end()));
        };
        let path = folder.join(format!("{number}-{}.aic", title.replace(' ', "-")));
        print::stderr(&format!("// {number} {title}: {}", path.display()));
        self.constants.extend(text::large_constants(graph));
        self.write(&path, graph_text);
    }

    fn write(&mut self, path: &Path, graph_text: &str) {
        if let Err(error) = graph_file::write_text(path, graph_text) {
            self.error.get_or_insert(error);
        }
    }

    /// Prints times, and writes what the dumps have in common.
    ///
    /// # Errors
    /// A file couldn't be written.
    pub fn finish(self) -> Result<()> {
        if self.times {
            let total = self.rows.iter().map(|(_, time)| *time).sum();
            let row = |name: &str, time: Duration| {
                vec![format!("{:9.3} ms", 1e3 * time.as_secs_f64()), name.to_owned()]
            };
            let rows = self.rows.iter().map(|(name, time)| row(name, *time)).chain([row("all", total)]);
            print::stderr(print::table(&rows.collect::<Vec<_>>()).trim_end());
        }
        if let Some(error) = self.error {
            return Err(error);
        }
        match &self.dump.dump_dir {
            Some(folder) => graph_file::write_shared(folder, self.constants),
            None => Ok(()),
        }
    }
}
