//! Tokens of both text forms, and how names and strings are quoted.

use crate::error::{Error, Result};
use std::fmt;

/// A token. Words are ASCII identifiers; other names are written in single quotes.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token<'a> {
    /// `%3`
    Value(&'a str),
    /// `@name`, `@"any name"`
    Global(String),
    /// `#0123456789abcdef`
    Hash(&'a str),
    /// `batch`
    Word(&'a str),
    /// `'any symbol'`
    Quoted(String),
    /// `"any text"`
    Str(String),
    /// Digits.
    Int(&'a str),
    /// Hexadecimal digits behind `0x`.
    Hex(&'a str),
    /// Digits with a fraction, an exponent, or both.
    Float(&'a str),
    /// One of [`PUNCTUATION`].
    Punct(&'static str),
    /// The end of the text.
    End,
}

/// Longer ones first where one is the start of another.
const PUNCTUATION: [&str; 20] =
    ["..=", "..", "->", "+=", "(", ")", "[", "]", "{", "}", "<", ">", ",", ":", ";", "=", "+", "-", "*", "."];

impl fmt::Display for Token<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Value(s) => write!(f, "%{s}"),
            Token::Global(s) => write!(f, "@{}", Name(s, '"')),
            Token::Hash(s) => write!(f, "#{s}"),
            Token::Word(s) | Token::Int(s) | Token::Float(s) => f.write_str(s),
            Token::Hex(s) => write!(f, "0x{s}"),
            Token::Quoted(s) => write!(f, "{}", Quote(s, '\'')),
            Token::Str(s) => write!(f, "{}", Quote(s, '"')),
            Token::Punct(s) => write!(f, "`{s}`"),
            Token::End => f.write_str("the end of the text"),
        }
    }
}

/// Prints text between quotation marks.
pub(crate) struct Quote<'a>(pub &'a str, pub char);

impl fmt::Display for Quote<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.1)?;
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\r' => f.write_str("\\r")?,
                '\t' => f.write_str("\\t")?,
                c if c == self.1 => write!(f, "\\{c}")?,
                c if c.is_control() => write!(f, "\\u{{{:x}}}", u32::from(c))?,
                c => write!(f, "{c}")?,
            }
        }
        write!(f, "{}", self.1)
    }
}

/// Prints an identifier as it is and any other name between quotation marks.
pub(crate) struct Name<'a>(pub &'a str, pub char);

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_identifier(self.0) { f.write_str(self.0) } else { write!(f, "{}", Quote(self.0, self.1)) }
    }
}

/// Whether the name needs no quotation marks. Words that stand for values do.
fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(is_word_byte)
        && !["true", "false", "nan", "inf"].contains(&name)
}

fn is_word_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_'
}

/// An error at a byte offset of the text.
pub(super) fn error_at(src: &str, offset: usize, message: impl fmt::Display) -> Error {
    let before = &src[..offset];
    let line = 1 + before.matches('\n').count();
    let column = 1 + before.chars().rev().take_while(|c| *c != '\n').count();
    Error::new(format!("{line}:{column}: {message}"))
}

/// All tokens with their byte offsets; the last one is [`Token::End`].
pub(super) fn lex(src: &str) -> Result<Vec<(Token<'_>, usize)>> {
    let mut lexer = Lexer { src, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blank();
        let start = lexer.at;
        let token = lexer.token()?;
        let is_end = token == Token::End;
        tokens.push((token, start));
        if is_end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'a> {
    src: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        &self.src[self.at..]
    }

    fn byte(&self, ahead: usize) -> u8 {
        self.src.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start().len();
            self.at += blank;
            if self.rest().starts_with("//") {
                self.at += self.rest().find('\n').unwrap_or(self.rest().len());
            } else if blank == 0 {
                return;
            }
        }
    }

    /// The longest run of bytes that fit; they are ASCII.
    fn take(&mut self, fits: impl Fn(u8) -> bool) -> &'a str {
        let n = self.rest().bytes().take_while(|b| fits(*b)).count();
        let taken = &self.rest()[..n];
        self.at += n;
        taken
    }

    fn token(&mut self) -> Result<Token<'a>> {
        let start = self.at;
        match self.byte(0) {
            b'%' => self.sigil("a value's name").map(Token::Value),
            b'#' => self.sigil("a hash").map(Token::Hash),
            b'@' if self.byte(1) == b'"' => {
                self.at += 1;
                self.quoted('"').map(Token::Global)
            }
            b'@' => self.sigil("a name").map(|s| Token::Global(s.into())),
            b'"' => self.quoted('"').map(Token::Str),
            b'\'' => self.quoted('\'').map(Token::Quoted),
            b'0' if self.byte(1) == b'x' => {
                self.at += 2;
                Ok(Token::Hex(self.take(|b| b.is_ascii_hexdigit())))
            }
            b if b.is_ascii_digit() => Ok(self.number()),
            b if b.is_ascii_alphabetic() || b == b'_' => Ok(Token::Word(self.take(is_word_byte))),
            _ if self.rest().is_empty() => Ok(Token::End),
            _ => match PUNCTUATION.iter().find(|p| self.rest().starts_with(**p)) {
                Some(p) => {
                    self.at += p.len();
                    Ok(Token::Punct(p))
                }
                None => {
                    let found: String = self.rest().chars().take(1).collect();
                    Err(error_at(self.src, start, format_args!("unexpected character {found:?}")))
                }
            },
        }
    }

    fn sigil(&mut self, expected: &str) -> Result<&'a str> {
        self.at += 1;
        let name = self.take(is_word_byte);
        if name.is_empty() {
            return Err(error_at(self.src, self.at, format_args!("expected {expected}")));
        }
        Ok(name)
    }

    fn number(&mut self) -> Token<'a> {
        let start = self.at;
        let mut is_float = false;
        self.take(|b| b.is_ascii_digit());
        if self.byte(0) == b'.' && self.byte(1).is_ascii_digit() {
            is_float = true;
            self.at += 1;
            self.take(|b| b.is_ascii_digit());
        }
        let signed = usize::from(matches!(self.byte(1), b'+' | b'-'));
        if matches!(self.byte(0), b'e' | b'E') && self.byte(1 + signed).is_ascii_digit() {
            is_float = true;
            self.at += 1 + signed;
            self.take(|b| b.is_ascii_digit());
        }
        let text = &self.src[start..self.at];
        if is_float { Token::Float(text) } else { Token::Int(text) }
    }

    fn quoted(&mut self, mark: char) -> Result<String> {
        let start = self.at;
        let mut out = String::new();
        let mut chars = self.rest().char_indices().skip(1);
        let unfinished =
            |offset| Err(error_at(self.src, offset, "this text has no end: its closing mark is missing"));
        while let Some((k, c)) = chars.next() {
            match c {
                c if c == mark => {
                    self.at += k + c.len_utf8();
                    return Ok(out);
                }
                '\n' => break,
                '\\' => match escape(&mut chars) {
                    Some(c) => out.push(c),
                    None => return Err(error_at(self.src, start + k, "unknown escape sequence")),
                },
                c => out.push(c),
            }
        }
        unfinished(start)
    }
}

/// The character that an escape sequence stands for; the backslash has been read.
fn escape(chars: &mut impl Iterator<Item = (usize, char)>) -> Option<char> {
    Some(match chars.next()?.1 {
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => {
            (chars.next()?.1 == '{').then_some(())?;
            let mut code = 0u32;
            loop {
                match chars.next()?.1 {
                    '}' => return char::from_u32(code),
                    c => code = code.checked_mul(16)?.checked_add(c.to_digit(16)?)?,
                }
            }
        }
        c @ ('\\' | '"' | '\'') => c,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_reads_back() {
        for text in ["", "plain", "a b", "\"'\\\n\r\t", "\u{7}é\u{85}漢", "true"] {
            for mark in ['"', '\''] {
                let quoted = Quote(text, mark).to_string();
                let found = lex(&quoted).unwrap();
                assert!(matches!(&found[0].0, Token::Str(s) | Token::Quoted(s) if s == text), "{quoted}");
            }
        }
    }

    #[test]
    fn numbers_and_ranges() {
        let found: Vec<String> =
            lex("0..4 1.5e-3 7e2 0x1F a.x // b\n%x").unwrap().iter().map(|t| t.0.to_string()).collect();
        assert_eq!(found.join(" "), "0 `..` 4 1.5e-3 7e2 0x1F a `.` x %x the end of the text");
    }
}
