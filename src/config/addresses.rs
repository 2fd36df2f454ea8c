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

/// Checks the addresses of `listen`, `grpc_listen` and `admin_listen`.
///
/// # Errors
/// [`ConfigError::Value`] if `listen` is empty, if a list is too long, or if an address occurs twice. Port 0 stands for
/// any free port, so it may occur more than once.
pub(super) fn check(
    listen: &[ListenAddress],
    grpc: &[ListenAddress],
    admin: Option<&ListenAddress>,
) -> Result<(), ConfigError> {
    let listeners = [("listen", 1, listen), ("grpc_listen", 0, grpc)];
    for (setting, least, list) in listeners {
        if !(least..=MAX).contains(&list.len()) {
            let got = format!("{} addresses", list.len());
            return wrong(setting, &format!("{least} to {MAX} addresses"), got);
        }
    }
    let admin = admin.map(std::slice::from_ref).unwrap_or_default();
    let mut used: Vec<(&str, &ListenAddress)> = Vec::new();
    for (setting, list) in [
        ("listen", listen),
        ("grpc_listen", grpc),
        ("admin_listen", admin),
    ] {
        for address in list.iter().filter(|address| address.port() != Some(0)) {
            match used.iter().find(|(_, other)| *other == address) {
                Some((other, _)) if *other == setting => {
                    return wrong(setting, "each address once", format!("{address} twice"));
                }
                Some((other, _)) => {
                    let expected = format!("another address than `{other}`");
                    return wrong(setting, &expected, address.to_string());
                }
                None => used.push((setting, address)),
            }
        }
    }
    Ok(())
}

fn wrong(setting: &'static str, expected: &str, got: String) -> Result<(), ConfigError> {
    Err(ConfigError::Value {
        setting,
        expected: expected.to_owned(),
        got,
    })
}
