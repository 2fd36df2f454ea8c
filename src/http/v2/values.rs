//! Lists, texts and parameters in JSON messages, of bounded sizes.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use open_inference::limits::{MAX_NAME_BYTES, MAX_TEXT_BYTES};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::inference::{Parameter, Parameters};

/// Maximum number of inputs, outputs or parameters of a message, so that parsed messages stay in proportion to their text.
pub(super) const MAX_ITEMS: usize = 64;
/// A list of at most `MOST` elements.
pub(super) struct Bounded<T, const MOST: usize>(pub(super) Vec<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Bounded<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(BoundedVisitor(PhantomData))
    }
}

struct BoundedVisitor<T, const MOST: usize>(PhantomData<T>);

impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for BoundedVisitor<T, MOST> {
    type Value = Bounded<T, MOST>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of at most {MOST} elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Self::Value, A::Error> {
        let mut list = Vec::new();
        while list.len() < MOST {
            match elements.next_element()? {
                Some(element) => list.push(element),
                None => return Ok(Bounded(list)),
            }
        }
        match elements.next_element::<IgnoredAny>()? {
            None => Ok(Bounded(list)),
            Some(_) => Err(A::Error::invalid_length(MOST + 1, &self)),
        }
    }
}

/// An object with the fields of `T`. A list of the fields' values, which `T` alone would also be read from, is an error.
pub(super) struct Object<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
    }
}

/// An id or a name, of at most [`MAX_NAME_BYTES`].
pub(super) struct Name(pub(super) String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(NameVisitor)
    }
}

struct NameVisitor;

impl Visitor<'_> for NameVisitor {
    type Value = Name;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string of at most {MAX_NAME_BYTES} bytes")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Name, E> {
        if name.len() > MAX_NAME_BYTES {
            return Err(E::invalid_length(name.len(), &self));
        }
        Ok(Name(name.to_owned()))
    }
}

/// Parameters of a message, an input or an output.
#[derive(Default)]
pub(super) struct Values(pub(super) Parameters);

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ValuesVisitor)
    }
}

struct ValuesVisitor;

impl<'de> Visitor<'de> for ValuesVisitor {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object of at most {MAX_ITEMS} different parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Values, A::Error> {
        let mut values = BTreeMap::new();
        while let Some((Name(name), Value(value))) = entries.next_entry::<Name, Value>()? {
            if values.insert(name, value).is_some() || values.len() > MAX_ITEMS {
                return Err(A::Error::custom(format!(
                    "expected at most {MAX_ITEMS} different parameters"
                )));
            }
        }
        Ok(Values(values))
    }
}

/// The value of one parameter.
struct Value(Parameter);

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor).map(Self)
    }
}

struct ValueVisitor;

impl Visitor<'_> for ValueVisitor {
    type Value = Parameter;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a truth value, a number or a text")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Parameter, E> {
        Ok(Parameter::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Parameter, E> {
        Ok(Parameter::Int(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Parameter, E> {
        Ok(Parameter::Uint(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Parameter, E> {
        Ok(Parameter::Double(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Parameter, E> {
        if value.len() > MAX_TEXT_BYTES {
            let expected = format!("a text of at most {MAX_TEXT_BYTES} bytes");
            return Err(E::invalid_length(value.len(), &&*expected));
        }
        Ok(Parameter::Text(value.to_owned()))
    }
}
