//! Tiles in text form, and the statements that move and multiply them.
//!
//! ```text
//! copy y[4*i] from x[0] size [16]
//! copy s[0; 40] from a[32*k; n] size [64, 32 valid min(64,m), 32] async g
//! copy l[0; blocks(16, 16, 256), blocks(1, 16, 1024)] from a[0; n] size [64, 32]
//! copy fa[0; fragment(@mma_m16n8k16_f16, a)] from s[0; 40] size [16, 16]
//! mma @cube_f16 [64, 64, 32] c[0; 64] += a[0; 32] * b[0; 64] fresh if eq(k, 0) async g
//! ```
//!
//! Behind the first element stand the steps from row to row and, where it isn't 1, from column to column; a single row
//! has none.

use super::lex::{Name, Token};
use super::parse_kernel::{Names, expr};
use super::parser::Parser;
use crate::dim::Dim;
use crate::error::Result;
use crate::kernel::{Copy, Layout, Mma, Operand, Steps, Tile};
use std::fmt::{self, Display, Formatter};

impl Display for Tile {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}", self.buffer, self.first)?;
        match &self.layout {
            Layout::Steps { rows, columns } if is_plain(rows, 0) && is_plain(columns, 1) => {}
            Layout::Steps { rows, columns } if is_plain(columns, 1) => write!(f, "; {rows}")?,
            Layout::Steps { rows, columns } => write!(f, "; {rows}, {columns}")?,
            Layout::Fragment { intrinsic, operand } => {
                write!(f, "; fragment(@{}, {})", Name(intrinsic, '"'), operand.keyword())?;
            }
        }
        f.write_str("]")
    }
}

fn is_plain(s: &Steps, step: i64) -> bool {
    s.block.is_none() && s.step.is(step)
}

impl Display for Steps {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.block {
            None => write!(f, "{}", self.step),
            Some((block, outer)) => write!(f, "blocks({}, {block}, {outer})", self.step),
        }
    }
}

impl Display for Copy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let is_row = self.extent[0].is(1) && self.valid.as_ref().is_none_or(|[rows, _]| rows.is(1));
        let size = |[rows, columns]: &[Dim; 2]| match is_row {
            true => columns.to_string(),
            false => format!("{rows}, {columns}"),
        };
        write!(f, "copy {} from {} size [{}", self.dst, self.src, size(&self.extent))?;
        if let Some(valid) = &self.valid {
            write!(f, " valid {}", size(valid))?;
        }
        f.write_str("]")?;
        match &self.token {
            Some(token) => write!(f, " async {token}"),
            None => Ok(()),
        }
    }
}

impl Display for Mma {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let [m, n, k] = self.extent;
        let name = Name(&self.intrinsic, '"');
        write!(f, "mma @{name} [{m}, {n}, {k}] {} += {} * {}", self.c, self.a, self.b)?;
        if let Some(fresh) = &self.fresh {
            write!(f, " fresh if {fresh}")?;
        }
        match &self.token {
            Some(token) => write!(f, " async {token}"),
            None => Ok(()),
        }
    }
}

/// What follows `copy`.
pub(super) fn copy(p: &mut Parser<'_>) -> Result<Copy> {
    let dst = tile(p)?;
    p.expect_word("from")?;
    let src = tile(p)?;
    p.expect_word("size")?;
    p.expect("[")?;
    let extent = extent(p)?;
    let valid = if p.eat_word("valid") { Some(self::extent(p)?) } else { None };
    p.expect("]")?;
    Ok(Copy { dst, src, extent, valid, token: token(p)? })
}

/// What follows `mma`.
pub(super) fn mma(p: &mut Parser<'_>, names: &Names) -> Result<Mma> {
    let intrinsic = p.global("an intrinsic's name, such as @mma_m16n8k16_f16")?;
    p.expect("[")?;
    let start = p.offset();
    let extents = p.list("]", |p| p.integer("an extent"))?;
    let Ok(extent) = <[u32; 3]>::try_from(extents) else {
        return Err(p.error_at(start, "expected three extents"));
    };
    let c = tile(p)?;
    p.expect("+=")?;
    let a = tile(p)?;
    p.expect("*")?;
    let b = tile(p)?;
    let fresh = if clause(p, "fresh") {
        p.expect_word("if")?;
        Some(expr(p, names)?)
    } else {
        None
    };
    Ok(Mma { intrinsic, extent, c, a, b, fresh, token: token(p)? })
}

/// Whether a clause begins with this word, which is not the name of a buffer that is stored to.
fn clause(p: &mut Parser<'_>, word: &str) -> bool {
    p.is_word(word) && !p.is_at(1, "[") && p.eat_word(word)
}

fn token(p: &mut Parser<'_>) -> Result<Option<crate::dim::Sym>> {
    if clause(p, "async") { p.sym("a group of copies").map(Some) } else { Ok(None) }
}

/// `columns`, `rows, columns`
fn extent(p: &mut Parser<'_>) -> Result<[Dim; 2]> {
    let first = p.dim()?;
    Ok(match p.eat(",") {
        true => [first, p.dim()?],
        false => [1.into(), first],
    })
}

pub(super) fn tile(p: &mut Parser<'_>) -> Result<Tile> {
    let buffer = p.sym("a buffer's name")?;
    p.expect("[")?;
    let first = p.dim()?;
    let layout = match p.eat(";") {
        false => Layout::Steps { rows: Steps::by(0), columns: Steps::by(1) },
        true if p.is_word("fragment") && p.is_at(1, "(") => fragment(p)?,
        true => {
            let rows = steps(p)?;
            let columns = if p.eat(",") { steps(p)? } else { Steps::by(1) };
            Layout::Steps { rows, columns }
        }
    };
    p.expect("]")?;
    Ok(Tile { buffer, first, layout })
}

fn steps(p: &mut Parser<'_>) -> Result<Steps> {
    if !(p.is_word("blocks") && p.is_at(1, "(")) {
        return Ok(Steps::by(p.dim()?));
    }
    p.skip();
    p.skip();
    let step = p.dim()?;
    p.expect(",")?;
    let block = p.integer("the extent of a block")?;
    p.expect(",")?;
    let outer = p.dim()?;
    p.expect(")")?;
    Ok(Steps::blocks(step, block, outer))
}

fn fragment(p: &mut Parser<'_>) -> Result<Layout> {
    p.skip();
    p.skip();
    let intrinsic = p.global("an intrinsic's name, such as @mma_m16n8k16_f16")?;
    p.expect(",")?;
    let found = match p.peek() {
        Token::Word(w) => Operand::ALL.into_iter().find(|o| o.keyword() == *w),
        _ => None,
    };
    let Some(operand) = found else { return Err(p.expected("one of a, b and c")) };
    p.skip();
    p.expect(")")?;
    Ok(Layout::Fragment { intrinsic, operand })
}
