//! Where uploaded files are: an object store, on local disk or S3-compatible.
//!
//! A file arrives in a staging directory of this process's own, is hashed on
//! the way, and only then becomes an object, all at once: by renaming where the
//! store is the same disk, else by uploading it. So nobody ever sees half an
//! object, an upload holds one buffer of memory whatever its size, and what a
//! crash leaves is in the staging directory, which [`Storage::open`] empties.
//!
//! Which objects there are, and whose they are, is in Postgres; see
//! `releases::blobs`.

mod config;
#[cfg(feature = "s3")]
mod s3;
mod staged;

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{GetOptions, MultipartUpload, ObjectStore, ObjectStoreExt as _};
use tokio::io::AsyncReadExt as _;

pub use self::config::{S3Config, StorageConfig};
pub(crate) use self::staged::{Staged, StagedWriter};
use crate::error::{ApiError, ApiResult};

/// Staging directory, within [`StorageConfig::dir`].
const STAGING: &str = "staging";
/// Locked while a process uses the directory.
const LOCK: &str = "lock";
/// Size of the parts in which an object is uploaded; S3 takes no less than 5 MiB.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// Why the storage cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A file operation failed.
    #[error("storage directory {}: {source}", path.display())]
    Directory {
        /// What it was about.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// Only one process may use the directory.
    #[error("storage directory {}: another process uses it", .0.display())]
    InUse(PathBuf),
    /// The object store cannot be set up.
    #[error("object store: {0}")]
    Objects(#[from] object_store::Error),
    /// Built without the feature `s3`.
    #[error("S3 is configured, but this program was built without the feature s3")]
    NoS3,
}

/// Stored files. Cloning it shares it.
#[derive(Clone, Debug)]
pub struct Storage(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    objects: Arc<dyn ObjectStore>,
    staging: PathBuf,
    /// Staged files are on the store's own disk.
    renames: bool,
    /// Held until the process ends.
    _lock: File,
}

impl Storage {
    /// None: whatever needs it answers 503.
    pub fn nowhere() -> Self {
        Self(None)
    }

    /// Takes the directory for this process and removes what an earlier one
    /// left in staging.
    pub fn open(config: &StorageConfig) -> Result<Self, StorageError> {
        let staging = config.dir.join(STAGING);
        let (made, lock) = (fs::create_dir_all(&config.dir), config.dir.join(LOCK));
        made.map_err(about(&config.dir))?;
        let lock = lock_directory(&config.dir, &lock)?;
        empty(&staging).map_err(about(&staging))?;
        let objects: Arc<dyn ObjectStore> = match &config.s3 {
            None => Arc::new(LocalFileSystem::new_with_prefix(&config.dir)?.with_fsync(true)),
            Some(s3) => connect(s3)?,
        };
        Ok(Self(Some(Arc::new(Inner {
            objects,
            staging,
            renames: config.s3.is_none(),
            _lock: lock,
        }))))
    }

    fn inner(&self) -> ApiResult<&Inner> {
        let inner = self.0.as_deref();
        inner.ok_or_else(|| ApiError::unavailable("no storage is configured"))
    }

    /// Begins a file in staging.
    pub(crate) fn stage(&self) -> ApiResult<StagedWriter> {
        StagedWriter::create(&self.inner()?.staging).map_err(ApiError::unavailable)
    }

    /// Makes a staged file an object, durably and all at once.
    pub(crate) async fn keep(&self, file: &Staged, key: &str) -> ApiResult<()> {
        let inner = self.inner()?;
        let key = Key::from(key);
        let kept = if inner.renames {
            inner.rename(file.path(), &key).await
        } else {
            inner.upload(file.path(), &key).await
        };
        kept.map_err(ApiError::unavailable)
    }

    /// The bytes of an object in a range; none if there is no such object.
    pub(crate) async fn read(
        &self,
        key: &str,
        range: Range<u64>,
    ) -> ApiResult<Option<BoxStream<'static, object_store::Result<bytes::Bytes>>>> {
        let range = (!range.is_empty()).then(|| range.into());
        let options = GetOptions {
            range,
            ..GetOptions::default()
        };
        match self
            .inner()?
            .objects
            .get_opts(&Key::from(key), options)
            .await
        {
            Ok(found) => Ok(Some(found.into_stream())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(ApiError::unavailable(error)),
        }
    }

    /// Removes an object; one that is not there is removed already.
    pub(crate) async fn remove(&self, key: &str) -> ApiResult<()> {
        match self.inner()?.objects.delete(&Key::from(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(ApiError::unavailable(error)),
        }
    }
}

impl Inner {
    async fn rename(&self, file: &Path, key: &Key) -> object_store::Result<()> {
        let synced = async { tokio::fs::File::open(file).await?.sync_all().await };
        synced.await.map_err(generic)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let staged = Key::from_iter([STAGING, &name]);
        self.objects.rename(&staged, key).await
    }

    async fn upload(&self, file: &Path, key: &Key) -> object_store::Result<()> {
        let mut file = tokio::fs::File::open(file).await.map_err(generic)?;
        let first = next_part(&mut file).await?;
        if first.len() < PART_BYTES {
            return self.objects.put(key, first.into()).await.map(drop);
        }
        let mut upload = self.objects.put_multipart(key).await?;
        let sent = send(&mut *upload, first, &mut file).await;
        if sent.is_err() {
            // What cannot be given up now, the bucket's own rules remove.
            upload.abort().await.ok();
        }
        sent
    }
}

async fn send(
    upload: &mut dyn MultipartUpload,
    first: Vec<u8>,
    rest: &mut tokio::fs::File,
) -> object_store::Result<()> {
    let mut part = first;
    while !part.is_empty() {
        upload.put_part(part.into()).await?;
        part = next_part(rest).await?;
    }
    upload.complete().await.map(drop)
}

/// Up to [`PART_BYTES`]; less only at the end.
async fn next_part(file: &mut tokio::fs::File) -> object_store::Result<Vec<u8>> {
    let mut part = Vec::with_capacity(PART_BYTES);
    let mut limited = file.take(PART_BYTES as u64);
    limited.read_to_end(&mut part).await.map_err(generic)?;
    Ok(part)
}

fn generic(source: io::Error) -> object_store::Error {
    object_store::Error::Generic {
        store: "staging",
        source: source.into(),
    }
}

fn about(path: &Path) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    |source| StorageError::Directory { path, source }
}

fn lock_directory(dir: &Path, lock: &Path) -> Result<File, StorageError> {
    let mut options = File::options();
    let options = options.create(true).truncate(false).write(true);
    let file = options.open(lock).map_err(about(lock))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(StorageError::InUse(dir.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(about(lock)(error)),
    }
}

fn empty(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::create_dir(dir),
    }
}

#[cfg(feature = "s3")]
fn connect(config: &S3Config) -> Result<Arc<dyn ObjectStore>, StorageError> {
    Ok(s3::connect(config)?)
}

#[cfg(not(feature = "s3"))]
fn connect(_: &S3Config) -> Result<Arc<dyn ObjectStore>, StorageError> {
    Err(StorageError::NoS3)
}

#[cfg(test)]
mod tests;
