//! Runs the operations of a pickle on a stack of values and a memo, the table of values to which
//! the pickle refers again.
//!
//! Not here: the meaning of names and calls (`globals`, `call`, `rebuild`) and the loop over operations
//! (`load`).

use std::collections::HashMap;

use super::{
    call::Call,
    globals,
    reader::Reader,
    rebuild::{self, Persistent},
    value::{Arena, Node, Value},
};
use crate::weights::{Format, WeightsError, limits};

/// Whether the pickle continues after an operation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Go,
    Stop,
}

/// State while a pickle runs, as in Python's `pickle.Unpickler`.
pub(super) struct Machine<'a, 'p> {
    input: Reader<'a>,
    persistent: Persistent<'p>,
    arena: Arena<'a>,
    stack: Vec<Value>,
    /// For each open mark, the height of the stack when it was set. The items of the collection
    /// that the mark opens lie above this height.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    /// Offset of the end of the frame that is being read; `None` outside of frames.
    frame: Option<usize>,
}

impl<'a, 'p> Machine<'a, 'p> {
    /// Creates a machine that runs the pickle at offset `start` of `bytes`. `persistent` determines
    /// what the persistent ids in the pickle refer to.
    pub(super) fn new(bytes: &'a [u8], start: usize, persistent: Persistent<'p>) -> Self {
        Self {
            input: Reader::new(bytes, start),
            persistent,
            arena: Arena::default(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            frame: None,
        }
    }

    /// Returns the byte offset of the next operation.
    pub(super) fn offset(&self) -> usize {
        self.input.offset()
    }

    /// Returns the result of the pickle, which is the value on top of the stack, and the arena of all values.
    pub(super) fn finish(mut self) -> Result<(Value, Arena<'a>), WeightsError> {
        let root = self.pop(self.offset())?;
        Ok((root, self.arena))
    }

    /// Runs one operation.
    pub(super) fn step(&mut self) -> Result<Flow, WeightsError> {
        let at = self.offset();
        let flow = self.operation(at)?;
        // A Python unpickler reads ahead to the end of a frame, so that it misreads an operation
        // that goes beyond.
        let end = self.offset();
        match self.frame {
            Some(frame) if end > frame => {
                let expected = "an operation that ends within its frame";
                Err(WeightsError::pickle(at, expected, "a longer one"))
            }
            Some(frame) if end == frame => {
                self.frame = None;
                Ok(flow)
            }
            _ => Ok(flow),
        }
    }

    /// Runs the operation at offset `at`. The opcodes are those of Python's `pickle.py`.
    fn operation(&mut self, at: usize) -> Result<Flow, WeightsError> {
        let code = self.input.u8()?;
        let value = match code {
            b'.' => return Ok(Flow::Stop),
            b'N' => Value::None,
            0x88 => Value::Bool(true),
            0x89 => Value::Bool(false),
            b'J' => Value::Int(self.input.i32()?.into()),
            b'K' => Value::Int(self.input.u8()?.into()),
            b'M' => Value::Int(self.input.u16()?.into()),
            0x8a => self.long()?,
            b'G' => Value::Float(self.input.f64_be()?),
            b'X' | 0x8c | 0x8d => self.text(code)?,
            b'T' | b'U' | b'B' | b'C' | 0x8e => self.bytes(code)?,
            b']' => self.arena.add(Node::List(Vec::new())),
            b'}' => self.arena.add(Node::Dict(Vec::new())),
            0x8f => self.arena.add(Node::Opaque("a set")),
            b')' | 0x85 | 0x86 | 0x87 | b't' => self.tuple(code, at)?,
            b'h' | b'j' => self.recall(code, at)?,
            b'c' | 0x93 => self.global(code, at)?,
            b'R' | 0x81 => {
                let arguments = self.pop(at)?;
                let function = self.pop(at)?;
                let call = Call {
                    function,
                    arguments,
                    creates: code == 0x81,
                    at,
                };
                call.run(&mut self.arena)?
            }
            b'Q' => {
                let id = self.pop(at)?;
                rebuild::persistent(&mut self.arena, id, self.persistent, at)?
            }
            _ => {
                self.effect(code, at)?;
                return Ok(Flow::Go);
            }
        };
        self.stack.push(value);
        let depth = self.stack.len() as u64;
        limits::at_most(
            Format::Pickle,
            "values on the stack",
            limits::MAX_STACK,
            depth,
        )?;
        Ok(Flow::Go)
    }

    /// Runs an operation that pushes no value. `code` is its opcode and `at` its byte offset, for
    /// errors.
    fn effect(&mut self, code: u8, at: usize) -> Result<(), WeightsError> {
        match code {
            0x80 => self.protocol(at),
            0x95 => self.open_frame(at),
            b'(' => {
                self.marks.push(self.stack.len());
                let open = self.marks.len() as u64;
                limits::at_most(Format::Pickle, "open collections", limits::MAX_MARKS, open)
            }
            b'0' => self.pop(at).map(drop),
            b'b' => self.state(at),
            b'1' => self.pop_to_mark(at).map(drop),
            b'q' | b'r' | 0x94 => self.remember(code, at),
            b'a' => {
                let item = self.pop(at)?;
                self.append(&[item], at)
            }
            b'e' => {
                let items = self.pop_to_mark(at)?;
                self.append(&items, at)
            }
            // Adds items to a set, whose content is not needed.
            0x90 => {
                self.pop_to_mark(at)?;
                match self.top(at)? {
                    Some(Node::Opaque(_)) => Ok(()),
                    _ => Err(WeightsError::pickle(at, "a set to add to", "another value")),
                }
            }
            b's' => {
                let value = self.pop(at)?;
                let key = self.pop(at)?;
                self.set_items(&[key, value], at)
            }
            b'u' => {
                let items = self.pop_to_mark(at)?;
                self.set_items(&items, at)
            }
            _ => {
                let got = format!("operation {code:#04x}");
                Err(WeightsError::pickle(
                    at,
                    "an operation that builds plain data",
                    got,
                ))
            }
        }
    }

    fn open_frame(&mut self, at: usize) -> Result<(), WeightsError> {
        let length = self.input.u64()?;
        self.input.require(length)?;
        if self.frame.is_some() {
            let expected = "the end of a frame before the next";
            return Err(WeightsError::pickle(at, expected, "a frame in a frame"));
        }
        // Cannot overflow: `require` has checked that `length` bytes are left.
        self.frame = Some(self.offset() + length as usize).filter(|_| length > 0);
        Ok(())
    }

    fn protocol(&mut self, at: usize) -> Result<(), WeightsError> {
        match self.input.u8()? {
            2..=5 => Ok(()),
            got => Err(WeightsError::pickle(at, "pickle protocol 2 to 5", got)),
        }
    }

    fn pop(&mut self, at: usize) -> Result<Value, WeightsError> {
        let value = self.peek(at)?;
        self.stack.pop();
        Ok(value)
    }

    /// Returns the value on top of the stack. Values below an open mark belong to the surrounding
    /// collection, so they are neither popped nor changed.
    fn peek(&self, at: usize) -> Result<Value, WeightsError> {
        let floor = self.marks.last().copied().unwrap_or_default();
        let top = self.stack.get(floor..).and_then(|values| values.last());
        let missing = || WeightsError::pickle(at, "a value on the stack", "none");
        top.copied().ok_or_else(missing)
    }

    /// Returns the node of the value on top of the stack; `None` if the value is stored in place.
    fn top(&self, at: usize) -> Result<Option<&Node<'a>>, WeightsError> {
        Ok(self.arena.node(self.peek(at)?))
    }

    /// Drops the state that opcode `b` sets, such as the `_metadata` of an `OrderedDict` or the
    /// options of a `Namespace`. The state of any other object would change its content: that of a
    /// tensor replaces its elements.
    fn state(&mut self, at: usize) -> Result<(), WeightsError> {
        self.pop(at)?;
        if let Some(Node::OrderedDict(_) | Node::Opaque(_)) = self.top(at)? {
            return Ok(());
        }
        let got = self.arena.describe(self.peek(at)?);
        let expected = "an object whose state is not needed";
        Err(WeightsError::pickle(at, expected, got))
    }

    fn pop_to_mark(&mut self, at: usize) -> Result<Vec<Value>, WeightsError> {
        match self.marks.pop() {
            Some(mark) => Ok(self.stack.split_off(mark.min(self.stack.len()))),
            None => Err(WeightsError::pickle(at, "a mark on the stack", "none")),
        }
    }

    fn long(&mut self) -> Result<Value, WeightsError> {
        let n = self.input.u8()?;
        let bytes = self.input.take(n.into())?;
        if bytes.len() > 8 {
            return Ok(self.arena.add(Node::BigInt(bytes)));
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = if negative { [0xff; 8] } else { [0; 8] };
        wide[..bytes.len()].copy_from_slice(bytes);
        Ok(Value::Int(i64::from_le_bytes(wide)))
    }

    fn text(&mut self, code: u8) -> Result<Value, WeightsError> {
        let n = match code {
            b'X' => self.input.u32()?.into(),
            0x8c => self.input.u8()?.into(),
            _ => self.input.u64()?,
        };
        let text = self.input.text(n)?;
        Ok(self.arena.add(Node::Text(text)))
    }

    /// Reads a bytes object or a Python 2 `str`. A `str` that is valid UTF-8 becomes text, as in
    /// `torch.load`; the content of any other `str` and of bytes objects is dropped.
    fn bytes(&mut self, code: u8) -> Result<Value, WeightsError> {
        let n = match code {
            b'U' | b'C' => self.input.u8()?.into(),
            b'T' | b'B' => self.input.u32()?.into(),
            _ => self.input.u64()?,
        };
        let bytes = self.input.take(n)?;
        let node = match str::from_utf8(bytes) {
            Ok(text) if matches!(code, b'T' | b'U') && n <= limits::MAX_TEXT => Node::Text(text),
            _ => Node::Bytes,
        };
        Ok(self.arena.add(node))
    }

    fn tuple(&mut self, code: u8, at: usize) -> Result<Value, WeightsError> {
        let items = match code {
            b't' => self.pop_to_mark(at)?,
            b')' => Vec::new(),
            _ => {
                let mut items = Vec::with_capacity(3);
                for _ in 0x85..=code {
                    items.push(self.pop(at)?);
                }
                items.reverse();
                items
            }
        };
        Ok(self.arena.add(Node::Tuple(items)))
    }

    fn remember(&mut self, code: u8, at: usize) -> Result<(), WeightsError> {
        let index = match code {
            b'q' => self.input.u8()?.into(),
            b'r' => self.input.u32()?,
            _ => self.memo.len() as u32,
        };
        let value = self.peek(at)?;
        self.memo.insert(index, value);
        let held = self.memo.len() as u64;
        limits::at_most(Format::Pickle, "values in the memo", limits::MAX_MEMO, held)
    }

    fn recall(&mut self, code: u8, at: usize) -> Result<Value, WeightsError> {
        let index = match code {
            b'h' => self.input.u8()?.into(),
            _ => self.input.u32()?,
        };
        let missing = || WeightsError::pickle(at, "the index of a value in the memo", index);
        self.memo.get(&index).copied().ok_or_else(missing)
    }

    fn global(&mut self, code: u8, at: usize) -> Result<Value, WeightsError> {
        let (module, name) = if code == b'c' {
            (self.input.line()?, self.input.line()?)
        } else {
            let name = self.pop(at)?;
            let module = self.pop(at)?;
            match (self.arena.text(module), self.arena.text(name)) {
                (Some(module), Some(name)) => (module, name),
                _ => {
                    return Err(WeightsError::pickle(
                        at,
                        "a module and a name as text",
                        "another value",
                    ));
                }
            }
        };
        let global = globals::resolve(module, name)?;
        Ok(self.arena.add(Node::Global(global)))
    }

    /// Appends `items` to the list on top of the stack. If an opaque object is there, such as a
    /// deque, the items are dropped.
    fn append(&mut self, items: &[Value], at: usize) -> Result<(), WeightsError> {
        let target = self.peek(at)?;
        match self.arena.node_mut(target) {
            Some(Node::List(list)) => list.extend_from_slice(items),
            Some(Node::Opaque(_)) => {}
            _ => {
                let got = self.arena.describe(target);
                return Err(WeightsError::pickle(at, "a list to append to", got));
            }
        }
        Ok(())
    }

    /// Assigns the `items`, which are `key, value, key, value, ..`, in the dictionary on top of the
    /// stack. If an opaque object is there, the items are dropped.
    fn set_items(&mut self, items: &[Value], at: usize) -> Result<(), WeightsError> {
        let target = self.peek(at)?;
        let (pairs, rest) = items.as_chunks::<2>();
        if let Some([key, _]) = pairs.iter().find(|[key, _]| !self.arena.is_key(*key)) {
            let got = self.arena.describe(*key);
            return Err(WeightsError::pickle(at, "a key that Python can hash", got));
        }
        match self.arena.node_mut(target) {
            Some(Node::Dict(dict) | Node::OrderedDict(dict)) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
            }
            Some(Node::Opaque(_)) => {}
            _ => {
                let got = self.arena.describe(target);
                return Err(WeightsError::pickle(
                    at,
                    "a dictionary and pairs of key and value to assign",
                    got,
                ));
            }
        }
        Ok(())
    }
}
