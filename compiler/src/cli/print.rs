//! Writing to the terminal: results, notes, progress.
//!
//! Invariant: a reader that goes away (`aic ops | head`) is no error.

use aic_ir::error::{Error, Result};
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Prints a result, with a line end if it has none.
///
/// # Errors
/// Standard output can't be written, for a reason other than that nobody reads it.
pub fn stdout(text: &str) -> Result<()> {
    let end = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    stdout_with(|out| out.write_all(text.as_bytes()).and_then(|()| out.write_all(end.as_bytes())))
}

/// Writes what `fill` writes to standard output.
///
/// # Errors
/// As of [`stdout`].
pub fn stdout_with(fill: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    match fill(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::new(format!("standard output: cannot be written: {error}")))
        }
        _ => Ok(()),
    }
}

/// Prints a line to standard error; where that fails there is nobody to tell.
pub fn stderr(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Something worth knowing that is no fault.
pub fn note(text: &str) {
    stderr(&format!("note: {text}"));
}

/// A fault that does no harm.
pub fn warning(text: &str) {
    stderr(&format!("warning: {text}"));
}

/// Shows on a terminal that something is going on, until it is dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// Starts to show `what`; nothing happens where standard error is no terminal.
    pub fn start(what: &str) -> Progress {
        if !io::stderr().is_terminal() {
            return Progress(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner().with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Progress(bar)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Rows of cells as text, columns aligned to the left, without trailing blanks.
pub fn table(rows: &[Vec<String>]) -> String {
    let n_columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width_of =
        |k: usize| rows.iter().filter_map(|r| r.get(k)).map(|c| c.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..n_columns).map(width_of).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |cells: &[&str]| cells.iter().map(|c| (*c).to_owned()).collect::<Vec<_>>();
        assert_eq!(table(&[row(&["a", "bcd", ""]), row(&["efg", "h"])]), "a    bcd\nefg  h\n");
        assert_eq!(table(&[]), "");
    }
}
