//! What proves to a receiver who sent a body: the original's header, and those
//! of Standard Webhooks (management.md §12.5).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use sha2::Sha256;

const SECRET_PREFIX: &str = "whsec_";

/// The value of `X-Dispatch-Signature`.
pub(super) fn dispatch(secret: &str, body: &str) -> String {
    format!(
        "sha256={}",
        hex::encode(hmac_sha256(secret.as_bytes(), &[body]))
    )
}

/// The value of `webhook-signature`: one signature per secret.
pub(super) fn standard(secrets: &[&str], id: &str, timestamp_s: i64, body: &str) -> String {
    let timestamp = timestamp_s.to_string();
    let sign = |secret: &&str| {
        let mac = hmac_sha256(&signing_key(secret), &[id, ".", &timestamp, ".", body]);
        format!("v1,{}", STANDARD.encode(mac))
    };
    secrets.iter().map(sign).collect::<Vec<_>>().join(" ")
}

/// What `whsec_<base64>` encodes; any other secret as it is.
fn signing_key(secret: &str) -> Vec<u8> {
    let encoded = secret.strip_prefix(SECRET_PREFIX);
    let decoded = encoded.and_then(|encoded| STANDARD.decode(encoded).ok());
    decoded
        .filter(|key| !key.is_empty())
        .unwrap_or_else(|| secret.as_bytes().to_vec())
}

fn hmac_sha256(key: &[u8], message: &[&str]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in message {
        mac.update(part.as_bytes());
    }
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_contracts_vector_signs_as_promised() {
        let body =
            r#"{"data":{"name":"qa"},"event":"branch.created","timestamp":"2026-01-02T03:04:05Z"}"#;
        let expected = "sha256=05d457e010a14ffd4abcc7ca39dd5c833ef146cf2063272db79e0950d94399a7";
        assert_eq!(dispatch("whsec_demo", body), expected);
    }

    #[test]
    fn the_vector_of_standard_webhooks_signs_as_published() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let signature = standard(
            &[secret],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn two_secrets_sign_side_by_side() {
        let both = standard(&["new", "old"], "1", 2, "{}");
        let alone = standard(&["old"], "1", 2, "{}");
        assert_eq!(both.split(' ').nth(1), Some(alone.as_str()));
        assert_eq!(signing_key("whsec_not base64!"), b"whsec_not base64!");
    }
}
