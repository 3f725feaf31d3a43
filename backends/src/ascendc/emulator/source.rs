//! What is read from a kernel's source: its name, its arguments, and the cores that it is for.

use crate::ascendc::TaskType;
use aic_ir::error::{Error, Result};
use std::path::PathBuf;

/// A kernel as C++ text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelFile {
    /// The name of the file, for messages.
    pub file: PathBuf,
    /// The function.
    pub name: String,
    /// Its arguments, all of which are addresses in global memory.
    pub args: Vec<String>,
    /// The cores that it is for.
    pub task: TaskType,
    /// The text.
    pub text: String,
}

impl KernelFile {
    /// Finds the kernel in a text: the function that is `__global__`.
    ///
    /// # Errors
    /// There is none, or more than one, or an argument isn't an address.
    pub fn parse(file: PathBuf, text: String) -> Result<KernelFile> {
        let failed = |what: &str| Error::new(format!("{}: {what}", file.display()));
        let code = without_comments(&text);
        let mut found = code.match_indices("__global__");
        let Some((at, _)) = found.next() else {
            return Err(failed("there is no kernel in this file").help("a kernel is a __global__ function"));
        };
        if found.next().is_some() {
            return Err(failed("there is more than one kernel in this file"));
        }
        let rest = &code[at..];
        let (open, close) = match (rest.find('('), rest.find(')')) {
            (Some(open), Some(close)) if open < close => (open, close),
            _ => return Err(failed("the kernel has no list of arguments")),
        };
        let name = rest[..open].split_whitespace().last().unwrap_or_default().to_owned();
        let args: Vec<&str> =
            rest[open + 1..close].split(',').map(str::trim).filter(|a| !a.is_empty()).collect();
        for a in &args {
            if !(a.starts_with("GM_ADDR") || a.contains('*')) {
                return Err(failed(&format!("argument `{a}` of {name} isn't an address in global memory")));
            }
        }
        let word = |a: &&str| a.rsplit(|c: char| !is_word(c)).next().unwrap_or_default().to_owned();
        let args = args.iter().map(word).collect();
        let task = task_of(&code);
        Ok(KernelFile { file, name, args, task, text })
    }
}

/// What the kernel says, or else what its instructions are for.
fn task_of(code: &str) -> TaskType {
    let said = TaskType::ALL.iter().find(|(_, name)| code.contains(&format!("KERNEL_TYPE_{name}")));
    match said {
        Some((task, _)) => *task,
        None if code.contains("Mmad(") => TaskType::TwoVectors,
        None => TaskType::Vector,
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// The text with blanks for comments, each as long as what it stands for.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("//").into_iter().chain(rest.find("/*")).min() {
        let is_line = rest[at..].starts_with("//");
        let end = match is_line {
            true => rest[at..].find('\n').map_or(rest.len(), |n| at + n),
            false => rest[at + 2..].find("*/").map_or(rest.len(), |n| at + n + 4),
        };
        out.push_str(&rest[..at]);
        out.push(' ');
        rest = &rest[end..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_found() {
        let text = "// __global__\nextern \"C\" __global__ __aicore__ void f(GM_ADDR x, __gm__ uint8_t* y) {\n\
                    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2); }";
        let source = KernelFile::parse("f.cpp".into(), text.into()).unwrap();
        assert_eq!((source.name.as_str(), source.task), ("f", TaskType::TwoVectors));
        assert_eq!(source.args, ["x", "y"]);
        let none = KernelFile::parse("f.cpp".into(), "int x;".into()).unwrap_err();
        assert_eq!(none.message, "f.cpp: there is no kernel in this file");
    }
}
