//! The values of a pickle: plain data in an arena.
//!
//! Values refer to each other by index, so a pickle may nest deeply or contain itself: dropping the arena
//! does not recurse.

use super::globals::Global;
use crate::weights::layout::{StorageRef, TensorRef};

/// Index of a [`Node`] in its arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::weights) struct NodeId(usize);

/// A value of a pickle, stored in place if it is small or else in the arena.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::weights) enum Value {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Node(NodeId),
}

/// A value in the arena. Text is a slice of the pickle.
#[derive(Debug)]
pub(in crate::weights) enum Node<'a> {
    Text(&'a str),
    /// Bytes that are not text; their content is not needed.
    Bytes,
    /// An integer of more than 64 bits: little-endian two's complement.
    BigInt(&'a [u8]),
    Tuple(Vec<Value>),
    List(Vec<Value>),
    /// Keys and values in the order of assignment; the last of equal keys wins.
    Dict(Vec<(Value, Value)>),
    /// An `OrderedDict`, which differs from [`Node::Dict`] only in that it may have a state.
    OrderedDict(Vec<(Value, Value)>),
    Global(Global),
    Storage(StorageRef<'a>),
    Tensor(TensorRef<'a>),
    /// An object whose content is not needed, such as the options of a training run. The field is
    /// the name of the object in messages.
    Opaque(&'static str),
}

/// The nodes of one pickle.
#[derive(Debug, Default)]
pub(in crate::weights) struct Arena<'a>(Vec<Node<'a>>);

impl<'a> Arena<'a> {
    /// Adds a node and returns the value that refers to it.
    pub(super) fn add(&mut self, node: Node<'a>) -> Value {
        self.0.push(node);
        Value::Node(NodeId(self.0.len() - 1))
    }

    /// Returns the node of a value; `None` if the value is stored in place.
    pub(in crate::weights) fn node(&self, value: Value) -> Option<&Node<'a>> {
        match value {
            Value::Node(NodeId(index)) => self.0.get(index),
            _ => None,
        }
    }

    /// Returns the node of a value for changing it; `None` if the value is stored in place.
    pub(super) fn node_mut(&mut self, value: Value) -> Option<&mut Node<'a>> {
        match value {
            Value::Node(NodeId(index)) => self.0.get_mut(index),
            _ => None,
        }
    }

    /// Returns all nodes in the order of creation.
    pub(in crate::weights) fn nodes(&self) -> impl Iterator<Item = &Node<'a>> {
        self.0.iter()
    }

    /// Returns the text of a value; `None` if the value is not text.
    pub(in crate::weights) fn text(&self, value: Value) -> Option<&'a str> {
        match self.node(value)? {
            Node::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the items of a tuple or list; `None` for other values.
    pub(in crate::weights) fn items(&self, value: Value) -> Option<&[Value]> {
        match self.node(value)? {
            Node::Tuple(items) | Node::List(items) => Some(items),
            _ => None,
        }
    }

    /// Takes the items out of a list; `None` for other values. The list can be used only once: a
    /// pickle that passes one list a million times would exhaust memory by copies of it.
    pub(super) fn take_list(&mut self, list: Value) -> Option<Vec<Value>> {
        let node = self.node_mut(list)?;
        let Node::List(items) = node else {
            return None;
        };
        let items = std::mem::take(items);
        *node = Node::Opaque("a list that another object holds");
        Some(items)
    }

    /// Returns the keys and values of a dictionary; `None` for other values.
    pub(in crate::weights) fn pairs(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.node(value)? {
            Node::Dict(pairs) | Node::OrderedDict(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// Returns whether Python allows `value` as a key of a dictionary. Tuples of more than 8 items
    /// or nested more than 3 deep are not allowed, since the keys of a pickle may share them.
    pub(super) fn is_key(&self, value: Value) -> bool {
        self.is_hashable(value, 3)
    }

    fn is_hashable(&self, value: Value, depth: usize) -> bool {
        match self.node(value) {
            Some(Node::List(_) | Node::Dict(_) | Node::OrderedDict(_)) => false,
            Some(Node::Tuple(items)) => {
                let sound = |item: &Value| self.is_hashable(*item, depth - 1);
                depth > 0 && items.len() <= 8 && items.iter().all(sound)
            }
            _ => true,
        }
    }

    /// Returns the value last assigned to the text `key` in a dictionary; `None` if `dict` is not a
    /// dictionary or lacks the key.
    pub(in crate::weights) fn lookup(&self, dict: Value, key: &str) -> Option<Value> {
        let mut latest_first = self.pairs(dict)?.iter().rev();
        latest_first
            .find(|(k, _)| self.text(*k) == Some(key))
            .map(|(_, value)| *value)
    }

    /// Returns the type of a value, or the name of an opaque object, for messages.
    pub(in crate::weights) fn describe(&self, value: Value) -> &'static str {
        match value {
            Value::None => "None",
            Value::Bool(_) => "a bool",
            Value::Int(_) => "an int",
            Value::Float(_) => "a float",
            Value::Node(_) => match self.node(value) {
                Some(Node::Text(_)) => "a str",
                Some(Node::Bytes) => "bytes",
                Some(Node::BigInt(_)) => "a large int",
                Some(Node::Tuple(_)) => "a tuple",
                Some(Node::List(_)) => "a list",
                Some(Node::Dict(_) | Node::OrderedDict(_)) => "a dict",
                Some(Node::Global(_)) => "a class or function",
                Some(Node::Storage(_)) => "a storage",
                Some(Node::Tensor(_)) => "a tensor",
                Some(Node::Opaque(name)) => name,
                None => "nothing",
            },
        }
    }
}

/// Returns a value as `usize`; `None` if the value is not a non-negative integer.
pub(in crate::weights) fn size(value: Value) -> Option<usize> {
    match value {
        Value::Int(n) => usize::try_from(n).ok(),
        _ => None,
    }
}
