//! The functions and classes that a checkpoint's pickle may call, reimplemented without running any
//! code of the pickle. Arguments that torch rejects are rejected, also if weights do not need them.
//!
//! Source: `torch/_utils.py` (`_rebuild_*`).

use super::{
    globals::Global,
    rebuild::{quantizer, sizes},
    value::{Arena, Node, Value, size},
};
use crate::weights::{WeightsError, layout::TensorRef};

/// Largest number of arguments of the functions and classes that are not opaque.
const MAX_ARGUMENTS: usize = 8;

/// Largest number of attributes that a parameter may have in addition to its elements.
const MAX_ATTRIBUTES: usize = 64;

/// A call of a class or function in a pickle.
pub(super) struct Call {
    pub(super) function: Value,
    /// The arguments, a tuple.
    pub(super) arguments: Value,
    /// Whether the pickle creates an object with `__new__` (opcode `NEWOBJ`), which runs no
    /// `__init__` and is possible for classes only.
    pub(super) creates: bool,
    /// Offset of the call in the pickle, for errors.
    pub(super) at: usize,
}

impl Call {
    /// Returns the result of the call.
    pub(super) fn run(&self, arena: &mut Arena<'_>) -> Result<Value, WeightsError> {
        let Some(Node::Global(global)) = arena.node(self.function) else {
            let got = arena.describe(self.function);
            return Err(self.wrong("a class or function to call", got));
        };
        let global = *global;
        let Some(Node::Tuple(args)) = arena.node(self.arguments) else {
            let got = arena.describe(self.arguments);
            return Err(self.wrong("a tuple of arguments", got));
        };
        // The arguments are copied, so their number must be small: many calls may share them.
        let args = match global {
            Global::Opaque(_) => Vec::new(),
            _ if args.len() > MAX_ARGUMENTS => {
                return Err(self.wrong("at most 8 arguments", "more"));
            }
            _ => args.clone(),
        };
        let node = match global {
            Global::Opaque(name) => Node::Opaque(name),
            Global::OrderedDict => Node::OrderedDict(self.pairs(arena, &args)?),
            Global::DefaultDict => self.default_dict(arena, &args)?,
            Global::Size => self.size(arena, &args)?,
            _ if self.creates => return Err(self.wrong("a class to create", "a function")),
            Global::Tensor | Global::TensorV2 | Global::TensorV3 => {
                Node::Tensor(self.tensor(arena, global, &args)?)
            }
            Global::Quantized => Node::Tensor(self.quantized(arena, &args)?),
            Global::Parameter | Global::ParameterWithState => {
                return self.parameter(arena, global, &args);
            }
            Global::Storage(_)
            | Global::QuantizedStorage(_)
            | Global::DType(_)
            | Global::QuantizedDType
            | Global::PerTensorAffine
            | Global::PerChannelAffine => {
                let got = "a data type, a storage class or a quantization scheme";
                return Err(self.wrong("a function to call", got));
            }
        };
        Ok(arena.add(node))
    }

    /// Returns the items of `OrderedDict()` (written by Python 3) or
    /// `OrderedDict([[key, value], ..])` (written by Python 2).
    fn pairs(
        &self,
        arena: &mut Arena<'_>,
        args: &[Value],
    ) -> Result<Vec<(Value, Value)>, WeightsError> {
        let list = match args {
            [] => return Ok(Vec::new()),
            [list] if !self.creates => *list,
            _ => return Err(self.wrong("one list of pairs", "other arguments")),
        };
        let Some(items) = arena.take_list(list) else {
            return Err(self.wrong("a list of pairs", arena.describe(list)));
        };
        let mut pairs = Vec::new();
        for item in items {
            let Some([key, value]) = arena.items(item) else {
                return Err(self.wrong("a pair of key and value", arena.describe(item)));
            };
            if !arena.is_key(*key) {
                return Err(self.wrong("a key that Python can hash", arena.describe(*key)));
            }
            pairs.push((*key, *value));
        }
        Ok(pairs)
    }

    fn default_dict<'a>(
        &self,
        arena: &Arena<'a>,
        args: &[Value],
    ) -> Result<Node<'a>, WeightsError> {
        match args {
            [] | [Value::None] => Ok(Node::Dict(Vec::new())),
            [factory] if matches!(arena.node(*factory), Some(Node::Global(_))) => {
                Ok(Node::Dict(Vec::new()))
            }
            _ => Err(self.wrong("a function as the only argument", "other arguments")),
        }
    }

    fn size<'a>(&self, arena: &Arena<'a>, args: &[Value]) -> Result<Node<'a>, WeightsError> {
        let expected = "a tuple of sizes as the only argument";
        let [tuple] = args else {
            return Err(self.wrong(expected, "other arguments"));
        };
        match (sizes(arena, *tuple)?, arena.items(*tuple)) {
            (Some(_), Some(items)) => Ok(Node::Tuple(items.to_vec())),
            _ => Err(self.wrong(expected, arena.describe(*tuple))),
        }
    }

    /// Builds a tensor from the arguments `(storage, offset, shape, strides)`, which the newer
    /// functions follow by `requires_grad, hooks`, the third one also by the data type, and both by
    /// optional metadata.
    fn tensor<'a>(
        &self,
        arena: &Arena<'a>,
        function: Global,
        args: &[Value],
    ) -> Result<TensorRef<'a>, WeightsError> {
        let mut tensor = self.geometry(arena, args)?;
        let rest = args.get(4..).unwrap_or_default();
        let metadata = match (function, rest) {
            (Global::Tensor, []) => return Ok(tensor),
            (Global::TensorV2, [requires_grad, hooks, metadata @ ..]) => {
                self.check_grad(arena, &tensor, *requires_grad, *hooks)?;
                metadata
            }
            (Global::TensorV3, [requires_grad, hooks, dtype, metadata @ ..]) => {
                let Some(Node::Global(Global::DType(dtype))) = arena.node(*dtype) else {
                    return Err(self.wrong("a data type", arena.describe(*dtype)));
                };
                tensor.dtype = *dtype;
                self.check_grad(arena, &tensor, *requires_grad, *hooks)?;
                metadata
            }
            _ => return Err(self.wrong("the arguments of the function", "another number of them")),
        };
        // The metadata says that the elements are to be negated or conjugated.
        let is_plain = match metadata {
            [] | [Value::None] => true,
            [metadata] => arena.pairs(*metadata).is_some_and(<[_]>::is_empty),
            _ => false,
        };
        if is_plain && !tensor.storage.quantized {
            return Ok(tensor);
        }
        let expected = "a tensor without metadata in a storage of a plain data type";
        Err(self.wrong(expected, "metadata or a quantized storage"))
    }

    /// Builds a quantized tensor from the arguments
    /// `(storage, offset, shape, strides, scheme, requires_grad, hooks)`.
    fn quantized<'a>(
        &self,
        arena: &mut Arena<'a>,
        args: &[Value],
    ) -> Result<TensorRef<'a>, WeightsError> {
        let mut tensor = self.geometry(arena, args)?;
        let scheme = args.get(4).copied().unwrap_or(Value::None);
        tensor.quantizer = Some(quantizer(arena, scheme, self.at)?);
        let Some([requires_grad, hooks]) = args.get(5..) else {
            return Err(self.wrong("seven arguments", "another number of them"));
        };
        self.check_grad(arena, &tensor, *requires_grad, *hooks)?;
        if tensor.storage.quantized {
            return Ok(tensor);
        }
        Err(self.wrong("a quantized storage", "a storage of another data type"))
    }

    /// Returns the tensor that a parameter wraps, which is the first argument. Like torch, rejects
    /// other arguments than `(tensor, requires_grad, hooks)`, followed by a state if `function`
    /// sets one.
    fn parameter(
        &self,
        arena: &Arena<'_>,
        function: Global,
        args: &[Value],
    ) -> Result<Value, WeightsError> {
        let (value, requires_grad, hooks) = match (function, args) {
            (Global::Parameter, [tensor, requires_grad, hooks]) => (tensor, requires_grad, hooks),
            (_, [tensor, requires_grad, hooks, state]) if !sets_elements(arena, *state) => {
                (tensor, requires_grad, hooks)
            }
            _ => return Err(self.wrong("the arguments of a parameter", "other arguments")),
        };
        let Some(Node::Tensor(tensor)) = arena.node(*value) else {
            return Err(self.wrong("a tensor to wrap", arena.describe(*value)));
        };
        self.check_grad(arena, tensor, *requires_grad, *hooks)?;
        Ok(*value)
    }

    fn geometry<'a>(
        &self,
        arena: &Arena<'a>,
        args: &[Value],
    ) -> Result<TensorRef<'a>, WeightsError> {
        let expected = "arguments (storage, offset, shape, strides), the last two tuples of sizes";
        let wrong = |got: &str| self.wrong(expected, got);
        let [storage, offset, shape, strides, ..] = args else {
            return Err(wrong("fewer arguments"));
        };
        let Some(Node::Storage(storage)) = arena.node(*storage) else {
            return Err(wrong(arena.describe(*storage)));
        };
        Ok(TensorRef {
            dtype: storage.dtype,
            storage: storage.clone(),
            offset: size(*offset).ok_or_else(|| wrong(arena.describe(*offset)))?,
            shape: sizes(arena, *shape)?.ok_or_else(|| wrong("another value as the shape"))?,
            strides: sizes(arena, *strides)?
                .ok_or_else(|| wrong("another value as the strides"))?,
            quantizer: None,
        })
    }

    /// Checks the two arguments that concern training as torch does. Weights do not need them, but
    /// a file in which they are wrong is damaged.
    fn check_grad(
        &self,
        arena: &Arena<'_>,
        tensor: &TensorRef<'_>,
        requires_grad: Value,
        hooks: Value,
    ) -> Result<(), WeightsError> {
        let may_train = tensor.dtype.is_float() && tensor.quantizer.is_none();
        if requires_grad != Value::Bool(false) && !(requires_grad == Value::Bool(true) && may_train)
        {
            let expected = "False as requires_grad, or True for a tensor of floating-point numbers";
            return Err(self.wrong(expected, arena.describe(requires_grad)));
        }
        if hooks == Value::None || arena.pairs(hooks).is_some() {
            return Ok(());
        }
        Err(self.wrong("a dictionary of hooks", arena.describe(hooks)))
    }

    fn wrong(&self, expected: &'static str, got: &str) -> WeightsError {
        WeightsError::pickle(self.at, expected, got)
    }
}

/// Returns whether setting the attributes `state` of a parameter could replace its elements.
/// `state` is a dictionary, or a tuple of two. Many attributes count as well, since the parameters
/// of a pickle may share them.
fn sets_elements(arena: &Arena<'_>, state: Value) -> bool {
    let parts = match arena.node(state) {
        Some(Node::Tuple(parts)) if parts.len() == 2 => parts.as_slice(),
        _ => &[state],
    };
    parts.iter().any(|part| match arena.pairs(*part) {
        Some(pairs) => {
            let replaces = |(key, _): &(Value, Value)| {
                let name = arena.text(*key);
                name.is_none_or(|name| matches!(name, "data" | "real" | "imag"))
            };
            pairs.len() > MAX_ATTRIBUTES || pairs.iter().any(replaces)
        }
        None => *part != Value::None,
    })
}
