//! Secrets that we hand out: session tokens, invite tokens, API keys.

use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};

use crate::error::{ApiError, ApiResult};

/// What every API key begins with.
const KEY_PREFIX: &str = "dsp_";
/// How much of a key may be shown later.
const SHOWN_CHARS: usize = 12;

/// 256 random bits in lower-case hex.
pub(crate) fn random_token() -> ApiResult<String> {
    let mut bytes = [0; 32];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(ApiError::internal)?;
    Ok(hex::encode(bytes))
}

/// A new API key.
pub(crate) fn random_api_key() -> ApiResult<String> {
    Ok(format!("{KEY_PREFIX}{}", random_token()?))
}

/// Its SHA-256.
pub(crate) fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// What is stored of a token: its SHA-256 in hex.
pub(crate) fn hash(token: &str) -> String {
    hex::encode(digest(token))
}

/// What is shown of an API key after its creation.
pub(crate) fn shown_prefix(key: &str) -> &str {
    key.get(..SHOWN_CHARS).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_vector_hashes_as_promised() {
        let key = format!("dsp_{}", "0123456789abcdef".repeat(4));
        let expected = "b5361dfd7b6cf1cf05ffa35265a05ea117d2b43c3ed63e04bd264ef46bc01b98";
        assert_eq!(hash(&key), expected);
        assert_eq!(shown_prefix(&key), "dsp_01234567");
    }

    #[test]
    fn keys_are_long_and_differ() {
        let (one, other) = (random_api_key().unwrap(), random_api_key().unwrap());
        assert_eq!(one.len(), 68);
        assert_ne!(one, other);
    }
}
