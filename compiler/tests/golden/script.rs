//! The commands in a golden file: `// RUN:` lines, run without a shell, and what they must print.
//!
//! `[not] PROGRAM ARGUMENTS.. [2>&1] [| FileCheck %s OPTIONS..]`, where the program is `aic` or the runner's own
//! `kernel`. Commands run in the file's folder, where `%s` is the file's name. `not` demands exit code 1, a refusal:
//! a crash never passes. What isn't piped to FileCheck is compared, to the byte, with the `// OUTPUT:` block that ends
//! the file.

use clap::Parser;
use litcheck_filecheck::{self as filecheck, litcheck};
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};

const OUTPUT: &str = "// OUTPUT:\n";

/// What a golden file asks for.
pub struct Script {
    commands: Vec<Line>,
    /// What the commands that aren't piped must print, all together.
    expected: Option<String>,
}

struct Line {
    /// As it is written.
    text: String,
    refused: bool,
    words: Vec<String>,
    with_stderr: bool,
    /// The options of FileCheck, if the output goes there.
    filecheck: Option<Vec<String>>,
}

impl Script {
    /// Whether every command must be refused, so that the file may be malformed.
    pub fn fails(&self) -> bool {
        !self.commands.is_empty() && self.commands.iter().all(|line| line.refused)
    }
}

/// Reads what a file asks for.
pub fn parse(text: &str) -> Result<Script, String> {
    let (head, output) = split(text);
    let commands = head.lines().filter_map(|l| l.trim_start().strip_prefix("// RUN:"));
    let commands: Vec<Line> = commands.map(line).collect::<Result<_, _>>()?;
    let uncomment = |l: &str| l.strip_prefix("// ").or(l.strip_prefix("//")).map(|l| format!("{l}\n"));
    let expected: Option<Option<String>> = output.map(|o| o.lines().map(uncomment).collect());
    match expected {
        Some(None) => Err("after // OUTPUT: every line must be a comment".into()),
        expected => Ok(Script { commands, expected: expected.flatten() }),
    }
}

/// The text before the block of exact output, and the block.
fn split(text: &str) -> (&str, Option<&str>) {
    let start =
        if text.starts_with(OUTPUT) { Some(0) } else { text.find(&format!("\n{OUTPUT}")).map(|k| k + 1) };
    match start {
        Some(k) => (&text[..k], Some(&text[k + OUTPUT.len()..])),
        None => (text, None),
    }
}

fn line(text: &str) -> Result<Line, String> {
    let text = text.trim().to_owned();
    let wrong = |what: &str| Err(format!("RUN: {text}: {what}"));
    let Some(mut words) = words(&text) else { return wrong("a quotation mark isn't closed") };
    let mut filecheck = None;
    if let Some(k) = words.iter().position(|w| w == "|") {
        let piped = words.split_off(k);
        if piped.len() < 3 || piped[1] != "FileCheck" || piped[2] != "%s" {
            return wrong("only `| FileCheck %s` is known");
        }
        filecheck = Some(piped[3..].to_vec());
    }
    let with_stderr = words.last().is_some_and(|w| w == "2>&1");
    words.truncate(words.len() - usize::from(with_stderr));
    let refused = words.first().is_some_and(|w| w == "not");
    words.drain(..usize::from(refused));
    if !words.first().is_some_and(|w| w == "aic" || w == "kernel") {
        return wrong("the program must be aic or kernel");
    }
    Ok(Line { text, refused, words, with_stderr, filecheck })
}

/// Words between blanks; quotation marks of either kind keep blanks, and make a word of nothing.
fn words(text: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut mark) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match mark {
            Some(m) if c == m => mark = None,
            None if c == '"' || c == '\'' => {
                mark = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    mark.is_none().then_some(words)
}

/// Runs the commands and compares what they print; rewrites the exact part of the file if `bless`.
pub fn run(script: &Script, path: &Path, text: &str, bless: bool) -> Result<(), String> {
    let mut exact = None::<String>;
    let mut failures = Vec::new();
    for line in &script.commands {
        let (code, output) = execute(line, path)?;
        let expected_code = i32::from(line.refused);
        if code != Some(expected_code) {
            failures.push(format!(
                "RUN: {}: expected exit code {expected_code}, found {code:?}\n{output}",
                line.text
            ));
            continue;
        }
        match &line.filecheck {
            None => exact.get_or_insert_default().push_str(&output),
            Some(options) => failures.extend(filecheck(text, path, &output, options).err()),
        }
    }
    if !failures.is_empty() {
        return Err(failures.join("\n"));
    }
    let same = exact == script.expected;
    if same || !bless {
        return if same { Ok(()) } else { Err(differs(script.expected.as_deref(), exact.as_deref())) };
    }
    let mut new = split(text).0.to_owned();
    if let Some(exact) = exact {
        let comment = |l: &str| if l.is_empty() { "//\n".to_owned() } else { format!("// {l}\n") };
        new += OUTPUT;
        new.extend(exact.lines().map(comment));
    }
    std::fs::write(path, new).map_err(|e| e.to_string())
}

/// Runs a command and gives its exit code and output; both streams if the command fails where it shouldn't.
fn execute(line: &Line, path: &Path) -> Result<(Option<i32>, String), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().unwrap_or(path);
    let words: Vec<String> = line.words.iter().map(|w| w.replace("%s", &name)).collect();
    if words[0] == "kernel" {
        return Ok(match crate::kernel::tool(&words[1..], folder) {
            Ok(output) => (Some(0), output),
            Err(error) => (Some(1), format!("error: {error}\n")),
        });
    }
    let failed = |e: std::io::Error| format!("RUN: {}: {e}", line.text);
    let mut command = Command::new(env!("CARGO_BIN_EXE_aic"));
    command.args(&words[1..]).current_dir(folder).stdin(Stdio::null()).env_remove("AIC_BLESS");
    let (mut reader, writer) = std::io::pipe().map_err(failed)?;
    let mut errors = tempfile::tempfile().map_err(failed)?;
    match line.with_stderr {
        true => command.stderr(writer.try_clone().map_err(failed)?),
        false => command.stderr(errors.try_clone().map_err(failed)?),
    };
    command.stdout(writer);
    let mut child = command.spawn().map_err(failed)?;
    drop(command); // and with it this process's end of the pipe
    let mut output = Vec::new();
    reader.read_to_end(&mut output).map_err(failed)?;
    let status = child.wait().map_err(failed)?;
    if !line.with_stderr && status.code() != Some(i32::from(line.refused)) {
        errors.rewind().and_then(|()| errors.read_to_end(&mut output)).map_err(failed)?;
    }
    Ok((status.code(), String::from_utf8_lossy(&output).into_owned()))
}

fn filecheck(text: &str, path: &Path, output: &str, options: &[String]) -> Result<(), String> {
    let options = filecheck::Options::try_parse_from(options).map_err(|e| e.to_string())?;
    let config = filecheck::Config { options, ..filecheck::Config::default() };
    let rules =
        filecheck::source_file!(config, path.to_string_lossy().into_owned(), split(text).0.to_owned());
    let input = filecheck::source_file!(config, "the output".to_owned(), output.to_owned());
    match filecheck::Test::new(rules, &config).verify(input) {
        Ok(_) => Ok(()),
        Err(report) => Err(format!("{report:?}\nThe whole output:\n{output}")),
    }
}

/// Which line differs first, and the whole of what was found.
fn differs(expected: Option<&str>, found: Option<&str>) -> String {
    let advice = "AIC_BLESS=1 rewrites the exact output in the file";
    let (Some(expected), Some(found)) = (expected, found) else {
        return match found {
            Some(found) => format!("there is no // OUTPUT: block; {advice}. Found:\n{found}"),
            None => format!("no command prints to the // OUTPUT: block; {advice}"),
        };
    };
    let (mut a, mut b) = (expected.lines(), found.lines());
    let mut number = 1;
    loop {
        let (x, y) = (a.next(), b.next());
        if x != y {
            let show = |l: Option<&str>| l.unwrap_or("(the end)").to_owned();
            return format!(
                "line {number} of the output: expected\n  {}\nfound\n  {}\n{advice}. Found:\n{found}",
                show(x),
                show(y)
            );
        }
        if x.is_none() {
            return format!("the output ends without a line end; {advice}");
        }
        number += 1;
    }
}
