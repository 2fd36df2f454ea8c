//! What distinguishes this server process from others: version, instance id and address.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;

use serde::Serialize;

use crate::config::ListenAddress;

/// Version, instance id and address of a server process.
#[derive(Debug, Serialize)]
pub struct Identity {
    /// Version of Sightline.
    pub version: &'static str,
    /// Random id of the process: 8 hexadecimal digits.
    pub instance: String,
    /// Address of the first public listener. Empty until [`Identity::set_address`].
    #[serde(skip)]
    address: OnceLock<ListenAddress>,
}

impl Identity {
    /// Returns an identity with a new instance id.
    pub fn new() -> Self {
        // The keys of `RandomState` come from the operating system's random numbers.
        let random = RandomState::new().hash_one(std::process::id());
        Self {
            version: env!("CARGO_PKG_VERSION"),
            instance: format!("{:08x}", random as u32),
            address: OnceLock::new(),
        }
    }

    /// Sets the address of the first public listener. Only the first call has an effect.
    pub fn set_address(&self, address: ListenAddress) {
        let _ = self.address.set(address);
    }

    /// Returns the address of the first public listener, or `None` if the process does not listen.
    pub fn address(&self) -> Option<&ListenAddress> {
        self.address.get()
    }
}

impl Default for Identity {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_differ() {
        let (one, other) = (Identity::new(), Identity::new());
        assert_ne!(one.instance, other.instance);
        assert_eq!(one.instance.len(), 8);
        assert!(one.instance.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_eq!(one.address(), None);
    }
}
