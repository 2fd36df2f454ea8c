//! Reads key files from arbitrary bytes. The fuzz target `keys` and the test below call the function.

use super::{ApiKeys, KeyError, MAX_KEYS, parse};

/// Maximum number of characters of an error message.
const MAX_MESSAGE: usize = 400;

/// Parses `bytes` as a key file and checks a key against it. Returns whether the file is valid.
///
/// # Panics
/// If the file has more keys than allowed, if an error has a long message, or if a key is accepted that the file does
/// not have.
pub fn read_keys(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else {
        return false;
    };
    match parse(text) {
        Ok(lines) => {
            assert!(lines.len() <= MAX_KEYS);
            let keys = ApiKeys::new(&lines);
            assert_eq!(keys.len(), lines.len());
            assert_eq!(keys.authorize(b"a key").err(), Some(KeyError::Invalid));
            assert!(keys.replace(&lines).is_empty());
            !lines.is_empty()
        }
        Err((line, reason)) => {
            assert!(line >= 1);
            assert!(reason.to_string().len() <= MAX_MESSAGE);
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::read_keys;
    use crate::testing::fuzz::check;

    #[test]
    fn mutated_key_files() {
        check("keys", read_keys);
    }
}
