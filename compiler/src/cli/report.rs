//! How errors look: drawn by `miette` where a person reads them on a terminal, plain text elsewhere.

use super::print;
use aic_ir::error::Error;
use aic_passes::runner::catches_panics;
use miette::{Diagnostic, MietteHandlerOpts, ReportHandler};
use std::fmt;
use std::io::{self, IsTerminal};

/// More names than these are counted, not listed.
const MAX_NAMES: usize = 8;

/// Prints an error to standard error.
pub fn error(error: &Error) {
    let report = Report { message: message(error), help: error.help.clone() };
    let text = match io::stderr().is_terminal() {
        true => Drawn(&report).to_string(),
        false => plain(&report),
    };
    print::stderr(text.trim_end());
}

/// A panic is a bug: says so, instead of Rust's message, and ends the process with code 70 (`EX_SOFTWARE`). One in a
/// pass is noted and caught by the runner of passes, which makes an error of it.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        if catches_panics() {
            return print::note(&format!("a pass panicked at {place}: {text}"));
        }
        print::stderr(&format!(
            "internal error at {place}: {text}\n  \
             help: this is a bug in aic {}, whatever the input was. Please report it with this message, the command\n        \
             line and, if you may share it, the model; `--backend reference` may get you further meanwhile.",
            env!("CARGO_PKG_VERSION")
        ));
        std::process::exit(70);
    }));
}

/// The message with the names of the nodes that it doesn't mention itself.
fn message(error: &Error) -> String {
    let unnamed: Vec<&str> =
        error.nodes.iter().map(String::as_str).filter(|n| !error.message.contains(*n)).collect();
    let names = unnamed.iter().take(MAX_NAMES).copied().collect::<Vec<_>>().join(", ");
    match unnamed.len() {
        0 => error.message.clone(),
        1 => format!("node {names}: {}", error.message),
        n if n <= MAX_NAMES => format!("nodes {names}: {}", error.message),
        n => format!("nodes {names} and {} more: {}", n - MAX_NAMES, error.message),
    }
}

fn plain(report: &Report) -> String {
    let help = report.help.as_ref().map(|help| format!("\n  help: {}", help.replace('\n', "\n        ")));
    format!("error: {}{}", report.message, help.unwrap_or_default())
}

#[derive(Debug)]
struct Report {
    message: String,
    help: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Report {}

impl Diagnostic for Report {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }
}

/// The report as miette draws it for this terminal's width and colours.
struct Drawn<'a>(&'a Report);

impl fmt::Display for Drawn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        MietteHandlerOpts::new().build().debug(self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_once() {
        let error = Error::new("expected f32, found i64").node("conv1").node("conv2");
        assert_eq!(message(&error), "nodes conv1, conv2: expected f32, found i64");
        assert_eq!(message(&Error::new("conv1 (Conv): unknown").node("conv1")), "conv1 (Conv): unknown");
        let many = (0..20).fold(Error::new("too many"), |e, k| e.node(format!("n{k}")));
        assert!(message(&many).ends_with("n7 and 12 more: too many"));
    }

    #[test]
    fn help_follows_on_a_line_of_its_own() {
        let report = Report { message: "no".into(), help: Some("do\nthis".into()) };
        assert_eq!(plain(&report), "error: no\n  help: do\n        this");
        assert!(Drawn(&report).to_string().contains("do"));
    }
}
