use std::path::PathBuf;

use sluice_service::config::{ConfigReader, Secret};

/// Where uploaded files go.
#[derive(Clone, Debug)]
pub struct StorageConfig {
    /// `SLUICE_STORAGE_DIR`: a directory of this process's own for uploads
    /// under way and, without S3, for all files. Default `.sluice/storage`.
    pub dir: PathBuf,
    /// An S3-compatible store, if `SLUICE_S3_BUCKET` names its bucket. With
    /// several replicas of the API it is needed.
    pub s3: Option<S3Config>,
}

/// An S3-compatible store.
#[derive(Clone, Debug)]
pub struct S3Config {
    /// `SLUICE_S3_BUCKET`.
    pub bucket: String,
    /// `SLUICE_S3_REGION`. Default `us-east-1`.
    pub region: String,
    /// `SLUICE_S3_ENDPOINT`: where it is, unless it is Amazon's.
    pub endpoint: Option<String>,
    /// `SLUICE_S3_ACCESS_KEY_ID` and `SLUICE_S3_SECRET_ACCESS_KEY`. Without
    /// them: the credentials that the machine or the cluster gives.
    pub credentials: Option<(Secret, Secret)>,
}

impl StorageConfig {
    /// Local disk.
    pub fn local(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            s3: None,
        }
    }

    /// Reads it.
    pub fn read(reader: &mut ConfigReader) -> Self {
        let dir: String = reader.value("SLUICE_STORAGE_DIR", ".sluice/storage".to_owned());
        let s3 = S3Config::read(reader);
        if s3.is_some() && !cfg!(feature = "s3") {
            let problem = "this program was built without the feature s3";
            reader.problem("SLUICE_S3_BUCKET", problem);
        }
        Self {
            dir: dir.into(),
            s3,
        }
    }
}

impl S3Config {
    fn read(reader: &mut ConfigReader) -> Option<Self> {
        let bucket = reader.optional("SLUICE_S3_BUCKET");
        let region = reader.value("SLUICE_S3_REGION", "us-east-1".to_owned());
        let endpoint: Option<String> = reader.optional("SLUICE_S3_ENDPOINT");
        let id = reader.secret("SLUICE_S3_ACCESS_KEY_ID");
        let secret = reader.secret("SLUICE_S3_SECRET_ACCESS_KEY");
        if id.is_some() != secret.is_some() {
            let problem = "needs SLUICE_S3_SECRET_ACCESS_KEY, and the other way round";
            reader.problem("SLUICE_S3_ACCESS_KEY_ID", problem);
        }
        let is_address =
            |text: &String| text.starts_with("http://") || text.starts_with("https://");
        if !endpoint.as_ref().is_none_or(is_address) {
            reader.problem(
                "SLUICE_S3_ENDPOINT",
                "is not an http:// or https:// address",
            );
        }
        Some(Self {
            bucket: bucket?,
            region,
            endpoint,
            credentials: id.zip(secret),
        })
    }
}
