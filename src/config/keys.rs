//! The keys of the configuration file.

use serde::de::value::Error;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde::forward_to_deserialize_any;

use super::{ModelOverride, Settings};

/// Returns the keys of the configuration file, which are the fields of [`Settings`], in their
/// order.
pub fn keys() -> &'static [&'static str] {
    fields_of::<Settings>()
}

/// Returns the keys of a table `[models.NAME]` of the configuration file, which are the fields of
/// [`ModelOverride`], in their order.
pub fn model_keys() -> &'static [&'static str] {
    fields_of::<ModelOverride>()
}

/// Returns the names of the fields of the struct `T`, in their order.
fn fields_of<T: Deserialize<'static>>() -> &'static [&'static str] {
    let mut fields: &'static [&'static str] = &[];
    // Always an error, because `Fields` has no values.
    let _ = T::deserialize(Fields(&mut fields));
    fields
}

/// A deserializer that has no values, and keeps the names of the fields that a struct asks for.
struct Fields<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("no value"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        Err(Error::custom("no value"))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
