use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::{ObjectStore, RetryConfig};

use super::S3Config;

/// After this a request of ours gives up on the store.
const RETRY_TIMEOUT: Duration = Duration::from_secs(20);

/// A client; it connects when it is used.
pub(super) fn connect(config: &S3Config) -> object_store::Result<Arc<dyn ObjectStore>> {
    // Fails only if there is one already, which will do.
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    let retry = RetryConfig {
        retry_timeout: RETRY_TIMEOUT,
        ..RetryConfig::default()
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&config.bucket)
        .with_region(&config.region)
        .with_retry(retry)
        // Objects are removed one by one, by the request that every store has.
        .with_disable_bulk_delete(true);
    if let Some(endpoint) = &config.endpoint {
        let is_plain = endpoint.starts_with("http://");
        builder = builder.with_endpoint(endpoint).with_allow_http(is_plain);
    }
    if let Some((id, secret)) = &config.credentials {
        builder = builder
            .with_access_key_id(id.expose())
            .with_secret_access_key(secret.expose());
    }
    Ok(Arc::new(builder.build()?))
}

#[cfg(test)]
mod tests;
