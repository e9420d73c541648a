//! Passwords: Argon2id, off the async threads, a bounded number at once.

use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;

use argon2::Argon2;
use argon2::password_hash::rand_core::OsRng;
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::error::{ApiError, ApiResult};

/// The shortest password, in characters.
const MIN_CHARS: usize = 8;
/// The longest, so that a megabyte of it is not hashed.
const MAX_BYTES: usize = 1024;

/// One hash takes a core and 19 MiB; more at once would only be slower.
static PERMITS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| {
    Arc::new(Semaphore::new(
        available_parallelism().map_or(1, usize::from),
    ))
});

/// What is verified when there is no such account, so that the time taken does
/// not tell.
static NOBODYS_HASH: LazyLock<String> = LazyLock::new(|| hash_now("nobody").unwrap_or_default());

/// Refuses passwords that are too short or too long.
pub(crate) fn check(password: &str) -> ApiResult<()> {
    if password.chars().count() < MIN_CHARS {
        return Err(ApiError::bad_request(
            "password must have at least 8 characters",
        ));
    }
    if password.len() > MAX_BYTES {
        return Err(ApiError::bad_request(
            "password must have at most 1024 bytes",
        ));
    }
    Ok(())
}

/// The PHC string of a password.
pub(crate) async fn hash(password: String) -> ApiResult<String> {
    run(move || hash_now(&password))
        .await?
        .map_err(|error| ApiError::internal(error.to_string()))
}

/// Whether the password is the one that was hashed. Without a hash it is not,
/// after the same time.
pub(crate) async fn verify(password: String, hash: Option<String>) -> ApiResult<bool> {
    run(move || {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| NOBODYS_HASH.clone());
        matches(&password, &hash) && known
    })
    .await
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> ApiResult<T> {
    let permit = Arc::clone(&PERMITS)
        .acquire_owned()
        .await
        .map_err(ApiError::internal)?;
    let work = move || {
        let result = work();
        drop(permit);
        result
    };
    spawn_blocking(work).await.map_err(ApiError::internal)
}

fn hash_now(password: &str) -> Result<String, argon2::password_hash::Error> {
    let salt = SaltString::generate(&mut OsRng);
    Ok(Argon2::default()
        .hash_password(password.as_bytes(), &salt)?
        .to_string())
}

fn matches(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| {
        Argon2::default()
            .verify_password(password.as_bytes(), &hash)
            .is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hash_verifies_its_password_alone() {
        let hash = hash("correct horse".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(
            verify("correct horse".to_owned(), Some(hash.clone()))
                .await
                .unwrap()
        );
        assert!(
            !verify("battery staple".to_owned(), Some(hash))
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn nobody_cannot_log_in_with_nobodys_password() {
        assert!(!verify("nobody".to_owned(), None).await.unwrap());
    }

    #[test]
    fn length_counts_characters() {
        assert!(check("1234567").is_err() && check("passwörd").is_ok());
        assert!(check(&"x".repeat(1025)).is_err());
    }
}
