//! What names mean: the model's names for values, in nested graphs and functions.
//!
//! A scope belongs to a graph of the model or to a call of a function. The body of an operator sees the names around
//! it, a function doesn't. A value of an outer graph becomes an input of the graph being built the first time it is
//! named there; a constant is repeated instead, so that it can be evaluated.

use super::ctx::{Body, Ctx, Item};
use super::types;
use crate::import::proto::{AttributeProto, TensorProto, TypeProto};
use aic_ir::bail;
use aic_ir::error::Result;
use aic_ir::graph::ValueId;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// The names of a graph.
#[derive(Default)]
pub(super) struct Scope<'m> {
    pub names: HashMap<&'m str, Item>,
    /// Initializers that have not been named yet.
    pub initializers: HashMap<&'m str, &'m TensorProto>,
    /// Types that the model declares.
    pub declared: HashMap<&'m str, &'m TypeProto>,
    /// How many graphs are around the one that values of this scope are in.
    pub depth: usize,
    /// Whether names of outer scopes can't be seen.
    pub closed: bool,
    pub frame: Rc<Frame<'m>>,
}

/// What all graphs of the model, or of one call of a function, share.
#[derive(Default)]
pub(super) struct Frame<'m> {
    /// Versions of the operator sets by domain.
    pub opsets: HashMap<&'m str, i64>,
    /// The attributes of the call.
    pub attributes: HashMap<&'m str, &'m AttributeProto>,
    /// Put before the names of nodes: the node that called, and a slash.
    pub prefix: String,
    /// Functions being inlined.
    pub calls: Vec<(&'m str, &'m str, &'m str)>,
}

impl<'m> Ctx<'m> {
    /// What a name stands for, as a value of the graph being built.
    pub(super) fn lookup(&mut self, name: &'m str) -> Result<Item> {
        let Some((item, depth)) = self.find(name)? else { bail!("`{name}` is not defined") };
        self.bring(&item, depth)
    }

    /// What a name stands for, and how many graphs are around the one it is in.
    fn find(&mut self, name: &'m str) -> Result<Option<(Item, usize)>> {
        let scopes = std::iter::once(&self.scope).chain(self.scopes.iter().rev());
        let mut level = self.scopes.len();
        for scope in scopes {
            if let Some(item) = scope.names.get(name) {
                return Ok(Some((item.clone(), scope.depth)));
            }
            if let Some(proto) = scope.initializers.get(name) {
                let depth = scope.depth;
                let item = self.initializer(name, proto, depth)?;
                self.scope_at(level).names.insert(name, item.clone());
                return Ok(Some((item, depth)));
            }
            if scope.closed {
                break;
            }
            level = level.wrapping_sub(1);
        }
        Ok(None)
    }

    fn scope_at(&mut self, level: usize) -> &mut Scope<'m> {
        if level < self.scopes.len() { &mut self.scopes[level] } else { &mut self.scope }
    }

    fn initializer(&mut self, name: &str, proto: &'m TensorProto, depth: usize) -> Result<Item> {
        let (tensor, stored) =
            types::tensor(self.model, proto).map_err(|e| e.context(format!("the initializer `{name}`")))?;
        let body = self.body_at(depth);
        let value = body.graph.add_const(tensor, &[Arc::from(name)]);
        body.know.stored_as(value, stored);
        Ok(Item::Tensor(value))
    }

    /// The graph being built with `depth` graphs around it.
    pub(super) fn body_at(&mut self, depth: usize) -> &mut Body {
        if depth < self.outer.len() { &mut self.outer[depth] } else { &mut self.body }
    }

    /// An item of the graph at `depth` as one of the graph being built.
    pub(super) fn bring(&mut self, item: &Item, depth: usize) -> Result<Item> {
        Ok(match item {
            Item::Tensor(value) => Item::Tensor(self.capture(*value, depth)),
            Item::Sequence(items) => {
                Item::Sequence(items.iter().map(|item| self.bring(item, depth)).collect::<Result<_>>()?)
            }
            Item::Optional(Some(item)) => Item::Optional(Some(Box::new(self.bring(item, depth)?))),
            Item::Optional(None) | Item::Failed => item.clone(),
        })
    }

    fn capture(&mut self, value: ValueId, depth: usize) -> ValueId {
        (depth..self.outer.len()).fold(value, |value, depth| self.capture_once(value, depth))
    }

    /// A value of the graph at `depth` as a value of the next inner one.
    fn capture_once(&mut self, value: ValueId, depth: usize) -> ValueId {
        let outer = &self.outer[depth];
        let ty = outer.graph.ty(value).clone();
        let constant = outer.graph.as_const(value).cloned();
        let stored = outer.know.stored(value);
        let inner = self.body_at(depth + 1);
        if let Some(known) = inner.captured.get(&value) {
            return *known;
        }
        let here = match constant {
            Some(tensor) => inner.graph.add_const(tensor, &[]),
            None => {
                inner.captures.push(value);
                inner.graph.add_input("", ty)
            }
        };
        if let Some(stored) = stored {
            inner.know.stored_as(here, stored);
        }
        inner.captured.insert(value, here);
        here
    }
}
