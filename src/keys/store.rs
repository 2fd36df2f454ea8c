//! The API keys that apply now.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::gate::{Full, Gate};
use super::{KeyDigest, KeyError, KeyLine, KeyName, MAX_KEY_BYTES, Place};

/// The API keys that apply now. They can be replaced while requests are checked.
#[derive(Debug, Default)]
pub struct ApiKeys(RwLock<Arc<[Key]>>);

#[derive(Debug)]
struct Key {
    name: KeyName,
    digest: KeyDigest,
    gate: Gate,
}

impl Full {
    /// Returns the error of a request with the key `name`.
    fn of(self, name: KeyName) -> KeyError {
        match self {
            Self::Rate { rate, retry_after } => KeyError::Rate {
                name,
                rate,
                retry_after,
            },
            Self::Concurrency { limit } => KeyError::Concurrency { name, limit },
        }
    }
}

/// The permission of a request whose key is valid and within its limits. It counts as in flight until this is dropped.
#[derive(Debug)]
pub struct Grant {
    /// Name of the key.
    pub name: KeyName,
    digest: KeyDigest,
    _place: Place,
}

impl ApiKeys {
    /// Creates a store with the keys `lines`.
    pub fn new(lines: &[KeyLine]) -> Self {
        let keys = Self::default();
        keys.replace(lines);
        keys
    }

    /// Returns the permission for a request that presents `key`.
    ///
    /// The time does not depend on which key or which byte differs: the hash of `key` is compared with the hashes of
    /// all keys, each in constant time.
    ///
    /// # Errors
    /// [`KeyError::Invalid`] if no key has the hash of `key`, [`KeyError::Rate`] and [`KeyError::Concurrency`] if the
    /// key exceeds its limits.
    pub fn authorize(&self, key: &[u8]) -> Result<Grant, KeyError> {
        if key.len() > MAX_KEY_BYTES {
            return Err(KeyError::Invalid);
        }
        let digest = KeyDigest::of(key);
        let keys = self.current();
        let key = find(&keys, &digest).ok_or(KeyError::Invalid)?;
        let name = key.name.clone();
        match key.gate.enter() {
            Ok(place) => Ok(Grant {
                name,
                digest,
                _place: place,
            }),
            Err(full) => Err(full.of(name)),
        }
    }

    /// Counts one more request of `grant`, whose place among the requests in flight it shares.
    ///
    /// # Errors
    /// [`KeyError::Invalid`] if the key is gone, [`KeyError::Rate`] if it exceeds its rate.
    pub fn count(&self, grant: &Grant) -> Result<(), KeyError> {
        let keys = self.current();
        let key = find(&keys, &grant.digest).ok_or(KeyError::Invalid)?;
        let counted = key.gate.count();
        counted.map_err(|full| full.of(key.name.clone()))
    }

    /// Checks that the key of `grant` has not been removed.
    ///
    /// # Errors
    /// [`KeyError::Invalid`] if it has.
    pub fn check(&self, grant: &Grant) -> Result<(), KeyError> {
        let found = find(&self.current(), &grant.digest).is_some();
        found.then_some(()).ok_or(KeyError::Invalid)
    }

    /// Replaces the keys by `lines`. A key whose name stays keeps the use of its limits, also if its hash changes.
    /// Returns the names that are gone.
    pub fn replace(&self, lines: &[KeyLine]) -> Vec<KeyName> {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let mut before: HashMap<&KeyName, &Gate> =
            current.iter().map(|key| (&key.name, &key.gate)).collect();
        let key = |line: &KeyLine| Key {
            name: line.name.clone(),
            digest: line.digest,
            gate: match before.remove(&line.name) {
                Some(gate) => gate.with(line.limits),
                None => Gate::new(line.limits),
            },
        };
        let after: Arc<[Key]> = lines.iter().map(key).collect();
        let gone = before.into_keys().cloned().collect();
        *current = after;
        gone
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.current().len()
    }

    /// Returns whether there is no key, so that every request is rejected.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn current(&self) -> Arc<[Key]> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Returns the key with the hash `digest`, in a time that depends only on the number of keys and on whether one has it.
fn find<'a>(keys: &'a [Key], digest: &KeyDigest) -> Option<&'a Key> {
    let mut found = Choice::from(0);
    let mut index = 0;
    for (at, key) in (0_u32..).zip(keys) {
        let same = key.digest.ct_eq(digest);
        index.conditional_assign(&at, same);
        found |= same;
    }
    bool::from(found)
        .then(|| keys.get(index as usize))
        .flatten()
}
