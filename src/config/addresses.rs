//! A list of addresses to listen on: its form in the configuration file, and its checks.

use std::fmt;

use serde::de::{self, Deserialize as _, Deserializer, SeqAccess, Visitor, value};
use serde::ser::{SerializeSeq as _, Serializer};

use super::{ConfigError, ListenAddress};

/// Maximum number of addresses.
const MAX: usize = 32;

/// Writes a single address as a string and other lists as a list, so that the common case stays short.
#[expect(clippy::ref_option, reason = "serde calls the function with this type")]
pub(super) fn serialize<S: Serializer>(
    list: &Option<Vec<ListenAddress>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match list.as_deref() {
        Some([one]) => serializer.collect_str(one),
        list => {
            let list = list.unwrap_or_default();
            let mut sequence = serializer.serialize_seq(Some(list.len()))?;
            for address in list {
                sequence.serialize_element(address)?;
            }
            sequence.end()
        }
    }
}

/// Reads an address (a string, or an integer, which is a port) or a list of addresses.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<ListenAddress>>, D::Error> {
    struct OneOrMany;

    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Vec<ListenAddress>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an address such as \"127.0.0.1:8080\", a port, or a list of these")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            text.parse().map(|address| vec![address]).map_err(E::custom)
        }

        fn visit_i64<E: de::Error>(self, port: i64) -> Result<Self::Value, E> {
            self.visit_str(&port.to_string())
        }

        fn visit_u64<E: de::Error>(self, port: u64) -> Result<Self::Value, E> {
            self.visit_str(&port.to_string())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(value::SeqAccessDeserializer::new(list))
        }
    }

    deserializer.deserialize_any(OneOrMany).map(Some)
}

/// Checks the addresses of `listen` and of `admin_listen`.
///
/// # Errors
/// [`ConfigError::Value`] if `listen` is empty or too long, or if an address occurs twice. Port 0 stands for any
/// free port, so it may occur more than once.
pub(super) fn check(
    listen: &[ListenAddress],
    admin: Option<&ListenAddress>,
) -> Result<(), ConfigError> {
    let wrong = |setting, expected: &str, got: String| {
        Err(ConfigError::Value {
            setting,
            expected: expected.to_owned(),
            got,
        })
    };
    if listen.is_empty() || listen.len() > MAX {
        let got = format!("{} addresses", listen.len());
        return wrong("listen", &format!("1 to {MAX} addresses"), got);
    }
    let unique = |address: &&ListenAddress| address.port() != Some(0);
    for (index, address) in listen.iter().enumerate().filter(|(_, a)| unique(a)) {
        if listen[..index].contains(address) {
            return wrong("listen", "each address once", format!("{address} twice"));
        }
    }
    match admin.filter(unique) {
        Some(admin) if listen.contains(admin) => wrong(
            "admin_listen",
            "another address than `listen`",
            admin.to_string(),
        ),
        _ => Ok(()),
    }
}
