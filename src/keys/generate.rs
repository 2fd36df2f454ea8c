//! Makes API keys.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::crypto::GetRandomFailed;
use rustls::crypto::ring::default_provider;

/// First characters of every key. Tools that search for secrets in files recognize keys by them.
pub(super) const PREFIX: &str = "sl_";
/// Number of random bytes in a key.
const RANDOM_BYTES: usize = 32;

/// Returns a new API key: `sl_` and 43 characters that encode 256 bits from the random source of the operating system.
///
/// # Errors
/// If the operating system has no random source.
pub fn new_key() -> Result<String, GetRandomFailed> {
    let mut random = [0; RANDOM_BYTES];
    default_provider().secure_random.fill(&mut random)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)))
}
