use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use md5::Md5;
use sha2::{Digest, Sha256};
use tempfile::TempPath;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

/// A file on its way into staging. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct StagedWriter {
    file: File,
    path: TempPath,
    sha256: Sha256,
    md5: Md5,
    size_bytes: u64,
}

/// A complete file in staging, closed. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct Staged {
    path: TempPath,
    sha256: [u8; 32],
    md5: [u8; 16],
    size_bytes: u64,
}

impl StagedWriter {
    pub(super) fn create(dir: &Path) -> io::Result<Self> {
        let (file, path) = tempfile::Builder::new().tempfile_in(dir)?.into_parts();
        Ok(Self {
            file: File::from_std(file),
            path,
            sha256: Sha256::new(),
            md5: Md5::new(),
            size_bytes: 0,
        })
    }

    /// Appends.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sha256.update(bytes);
        self.md5.update(bytes);
        self.size_bytes += bytes.len() as u64;
        self.file.write_all(bytes).await
    }

    /// Closes the file.
    pub(crate) async fn finish(mut self) -> io::Result<Staged> {
        self.file.flush().await?;
        Ok(Staged {
            path: self.path,
            sha256: self.sha256.finalize().into(),
            md5: self.md5.finalize().into(),
            size_bytes: self.size_bytes,
        })
    }
}

impl Staged {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// base64url without padding, as on the wire.
    pub(crate) fn sha256(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.sha256)
    }

    /// As in storage keys.
    pub(crate) fn sha256_hex(&self) -> String {
        hex::encode(self.sha256)
    }

    /// Lower-case hex.
    pub(crate) fn md5(&self) -> String {
        hex::encode(self.md5)
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The bytes, if there are at most so many.
    pub(crate) async fn read_small(&self, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        if self.size_bytes > max_bytes {
            return Ok(None);
        }
        tokio::fs::read(&self.path).await.map(Some)
    }
}
