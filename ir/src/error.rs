//! The error of every crate: what was expected, what was found, at which nodes, and what to do.
//!
//! A user's mistake is an [`Error`]; it names the source nodes it concerns. Libraries never print.

use std::fmt;

/// A failure that a user can act upon.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// What was expected and what was found.
    pub message: String,
    /// Source names of the nodes concerned, the closest first.
    pub nodes: Vec<String>,
    /// What to do about it.
    pub help: Option<String>,
}

/// The result of anything that can fail for a reason the user should know.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error with a message and nothing else.
    pub fn new(message: impl Into<String>) -> Self {
        Error { message: message.into(), nodes: Vec::new(), help: None }
    }

    /// Adds advice.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the name of a node concerned; an empty or repeated name is left out.
    #[must_use]
    pub fn node(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        if !name.is_empty() && !self.nodes.contains(&name) {
            self.nodes.push(name);
        }
        self
    }

    /// Puts `context` and a colon before the message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.nodes.is_empty() {
            write!(f, "node {}: ", self.nodes.join(", "))?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Returns an [`Error`] with a formatted message.
#[macro_export]
macro_rules! bail {
    ($($arg:tt)*) => { return Err($crate::error::Error::new(format!($($arg)*))) };
}

/// Returns an [`Error`] with a formatted message unless the condition holds.
#[macro_export]
macro_rules! ensure {
    ($cond:expr, $($arg:tt)*) => { if !$cond { $crate::bail!($($arg)*) } };
}
