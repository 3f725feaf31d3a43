//! What both parsers share: a cursor over tokens, numbers, index expressions and types.

use super::lex::{Token, error_at, lex};
use crate::dim::{Dim, Sym};
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::scalar::Scalar;
use crate::tensor::write_scalar;
use crate::types::{Layout, Type};
use std::fmt;

/// How deep parentheses, lists, blocks and bodies may nest.
const MAX_DEPTH: usize = 100;
/// How many monomials an index expression may have.
const MAX_TERMS: usize = 4096;

/// A cursor over the tokens of a text.
pub(super) struct Parser<'a> {
    src: &'a str,
    tokens: Vec<(Token<'a>, usize)>,
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    pub(super) fn new(src: &'a str) -> Result<Parser<'a>> {
        Ok(Parser { src, tokens: lex(src)?, at: 0, depth: 0 })
    }

    /// The token `ahead` tokens further on.
    pub(super) fn peek_at(&self, ahead: usize) -> &Token<'a> {
        self.tokens.get(self.at + ahead).map_or(&Token::End, |t| &t.0)
    }

    pub(super) fn peek(&self) -> &Token<'a> {
        self.peek_at(0)
    }

    pub(super) fn is(&self, punct: &str) -> bool {
        matches!(self.peek(), Token::Punct(p) if *p == punct)
    }

    pub(super) fn is_at(&self, ahead: usize, punct: &str) -> bool {
        matches!(self.peek_at(ahead), Token::Punct(p) if *p == punct)
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Token::Word(w) if *w == word)
    }

    pub(super) fn skip(&mut self) {
        self.at += 1;
    }

    pub(super) fn eat(&mut self, punct: &str) -> bool {
        let found = self.is(punct);
        self.at += usize::from(found);
        found
    }

    pub(super) fn eat_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    pub(super) fn expect(&mut self, punct: &str) -> Result<()> {
        if self.eat(punct) { Ok(()) } else { Err(self.expected(format_args!("`{punct}`"))) }
    }

    pub(super) fn expect_word(&mut self, word: &str) -> Result<()> {
        if self.eat_word(word) { Ok(()) } else { Err(self.expected(word)) }
    }

    pub(super) fn expect_end(&self) -> Result<()> {
        if *self.peek() == Token::End { Ok(()) } else { Err(self.expected("the end of the text")) }
    }

    /// Where the next token starts.
    pub(super) fn offset(&self) -> usize {
        self.tokens.get(self.at).map_or(self.src.len(), |t| t.1)
    }

    /// An error at the next token.
    pub(super) fn error(&self, message: impl fmt::Display) -> Error {
        self.error_at(self.offset(), message)
    }

    pub(super) fn error_at(&self, offset: usize, message: impl fmt::Display) -> Error {
        error_at(self.src, offset, message)
    }

    /// The error that something else than the next token was expected.
    pub(super) fn expected(&self, what: impl fmt::Display) -> Error {
        self.error(format_args!("expected {what}, found {}", self.peek()))
    }

    /// Runs `f` one level deeper.
    pub(super) fn nested<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth >= MAX_DEPTH {
            return Err(self.error(format_args!("nested more than {MAX_DEPTH} deep")));
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    /// `item, item, .. close`; the opening mark has been read.
    pub(super) fn list<T>(
        &mut self,
        close: &str,
        mut item: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut items = Vec::new();
        if self.eat(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.eat(close) {
                return Ok(items);
            }
            if !self.eat(",") {
                return Err(self.expected(format_args!("`,` or `{close}`")));
            }
        }
    }

    /// A plain or quoted name.
    pub(super) fn name(&mut self, what: &str) -> Result<String> {
        let name = match self.peek() {
            Token::Word(w) => w.to_string(),
            Token::Quoted(s) => s.clone(),
            _ => return Err(self.expected(what)),
        };
        self.skip();
        Ok(name)
    }

    pub(super) fn sym(&mut self, what: &str) -> Result<Sym> {
        Ok(Sym::new(&self.name(what)?))
    }

    /// `@name`
    pub(super) fn global(&mut self, what: &str) -> Result<String> {
        let Token::Global(name) = self.peek() else { return Err(self.expected(what)) };
        let name = name.clone();
        self.skip();
        Ok(name)
    }

    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        let Token::Str(s) = self.peek() else { return Err(self.expected(what)) };
        let s = s.clone();
        self.skip();
        Ok(s)
    }

    /// A non-negative integer.
    pub(super) fn integer<T: std::str::FromStr>(&mut self, what: &str) -> Result<T> {
        let Token::Int(digits) = *self.peek() else { return Err(self.expected(what)) };
        match digits.parse() {
            Ok(n) => {
                self.skip();
                Ok(n)
            }
            Err(_) => Err(self.error(format_args!("expected {what}, but {digits} is too large"))),
        }
    }

    /// An integer that may be negative.
    pub(super) fn number(&mut self) -> Result<i64> {
        let start = self.offset();
        match self.term()?.as_const() {
            Some(n) => Ok(n),
            None => Err(self.error_at(start, "expected an integer")),
        }
    }

    /// An index expression: `4*i+j-1`, `min(n,floordiv(i,2))`.
    pub(super) fn dim(&mut self) -> Result<Dim> {
        let mut sum = self.term()?;
        while self.is("+") || self.is("-") {
            self.eat("+");
            sum = sum + self.term()?;
            self.check_size(sum.terms().count())?;
        }
        Ok(sum)
    }

    fn term(&mut self) -> Result<Dim> {
        let is_negative = self.eat("-");
        let mut product = match *self.peek() {
            Token::Int(digits) if is_negative => {
                let Ok(n) = format!("-{digits}").parse::<i64>() else {
                    return Err(self.error(format_args!("-{digits} does not fit into 64 bits")));
                };
                self.skip();
                Dim::from(n)
            }
            _ if is_negative => -self.factor()?,
            _ => self.factor()?,
        };
        while self.eat("*") {
            let factor = self.factor()?;
            self.check_size((product.terms().count() + 1).saturating_mul(factor.terms().count() + 1))?;
            product = product * factor;
        }
        Ok(product)
    }

    fn check_size(&self, n_terms: usize) -> Result<()> {
        if n_terms > MAX_TERMS {
            return Err(self.error(format_args!("the index expression has more than {MAX_TERMS} terms")));
        }
        Ok(())
    }

    fn factor(&mut self) -> Result<Dim> {
        if matches!(self.peek(), Token::Int(_)) {
            return Ok(Dim::from(self.integer::<i64>("a 64-bit integer")?));
        }
        if self.eat("(") {
            let inner = self.nested(Self::dim)?;
            self.expect(")")?;
            return Ok(inner);
        }
        let start = self.offset();
        let name = self.name("an index expression")?;
        if !self.is("(") {
            return Ok(Dim::named(&name));
        }
        let function = match name.as_str() {
            "floordiv" => Dim::floor_div,
            "mod" => Dim::modulo,
            "min" => Dim::minimum,
            "max" => Dim::maximum,
            _ => {
                return Err(self.error_at(
                    start,
                    format_args!(
                        "expected one of floordiv, mod, min and max in an index expression, found {name}"
                    ),
                ));
            }
        };
        self.skip();
        let (a, b) = self.nested(|p| {
            let a = p.dim()?;
            p.expect(",")?;
            Ok((a, p.dim()?))
        })?;
        self.expect(")")?;
        Ok(function(&a, &b))
    }

    pub(super) fn dtype(&mut self) -> Result<DType> {
        let Token::Word(w) = *self.peek() else { return Err(self.expected("an element type")) };
        match DType::from_keyword(w) {
            Some(t) => {
                self.skip();
                Ok(t)
            }
            None => Err(self.expected("an element type")),
        }
    }

    /// `f32[batch,3,8,8]`, `f32[n,c,h,w]:nhwc`
    pub(super) fn ty(&mut self) -> Result<Type> {
        let dtype = self.dtype()?;
        self.expect("[")?;
        let dims = self.list("]", Self::dim)?;
        let mut ty = Type::new(dtype, dims);
        if let (true, Token::Word(w)) = (self.is(":"), self.peek_at(1)) {
            let block = w.strip_prefix('c').and_then(|n| n.parse().ok());
            ty.layout = match (*w, block) {
                ("nhwc", _) => Layout::ChannelsLast,
                (_, Some(n)) => Layout::ChannelsBlocked(n),
                _ => return Err(self.expected("a layout (`:nhwc` or `:c16`)")),
            };
            self.skip();
            self.skip();
        }
        Ok(ty)
    }

    /// One scalar literal of the given type, as the little-endian bytes of an element.
    pub(super) fn literal(&mut self, dtype: DType, out: &mut Vec<u8>) -> Result<()> {
        if self.is_word("nan") && self.is_at(1, "(") {
            return self.nan_bits(dtype, out);
        }
        let value = self.scalar(dtype)?;
        write_scalar(dtype, value, out);
        Ok(())
    }

    /// `nan(0x7fc00001)`: a float by its bits.
    fn nan_bits(&mut self, dtype: DType, out: &mut Vec<u8>) -> Result<()> {
        self.skip();
        self.skip();
        let bits = match self.peek() {
            Token::Hex(digits) => u64::from_str_radix(digits, 16).ok(),
            _ => None,
        };
        let size = dtype.size();
        let Some(bits) = bits.filter(|b| dtype.is_float() && (size == 8 || b >> (8 * size) == 0)) else {
            return Err(self.expected(format_args!("the bits of a {dtype}, as 0x...")));
        };
        self.skip();
        out.extend_from_slice(&bits.to_le_bytes()[..size]);
        self.expect(")")
    }

    /// One scalar literal of the given type: `1.5`, `-3`, `true`, `nan`, `-inf`.
    pub(super) fn scalar(&mut self, dtype: DType) -> Result<Scalar> {
        let wrong = |p: &Self| p.expected(format_args!("a value of type {dtype}"));
        if dtype == DType::Bool {
            let value = self.is_word("true");
            if !value && !self.is_word("false") {
                return Err(wrong(self));
            }
            self.skip();
            return Ok(Scalar::B(value));
        }
        let start = self.offset();
        let sign = if self.eat("-") { "-" } else { "" };
        let text = match *self.peek() {
            Token::Word(w @ ("nan" | "inf")) if dtype.is_float() => w,
            Token::Float(digits) if dtype.is_float() => digits,
            Token::Int(digits) => digits,
            _ => return Err(wrong(self)),
        };
        match read_scalar_text(dtype, &format!("{sign}{text}")) {
            Some(value) => {
                self.skip();
                Ok(value)
            }
            None => Err(self.error_at(start, format_args!("{sign}{text} is not a value of type {dtype}"))),
        }
    }
}

/// The value that a text denotes, rounded once; `None` where an integer doesn't fit.
fn read_scalar_text(dtype: DType, text: &str) -> Option<Scalar> {
    let fits = |value: Scalar| (value.cast(dtype) == value).then_some(value);
    match dtype {
        DType::F32 => text.parse::<f32>().ok().map(|x| Scalar::F(x.into())),
        _ if dtype.is_float() => text.parse().ok().map(|x| Scalar::F(x).cast(dtype)),
        _ if dtype.is_signed() => text.parse().ok().map(Scalar::I).and_then(fits),
        _ if dtype.is_unsigned() => text.parse().ok().map(Scalar::U).and_then(fits),
        _ => None,
    }
}
