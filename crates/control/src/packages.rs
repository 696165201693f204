//! Where code comes from, and what is checked before it is kept.

use crate::{Error, Shared, blocking};
use bytes::Bytes;
use model::Limits;
use model::function::Code;
use store::PackageError;
use tokio::sync::OwnedSemaphorePermit;

/// Where a function's code comes from.
#[derive(Debug)]
pub enum CodeSource {
    /// The zip came with the request.
    Zip(Bytes),
    /// The zip lies in the object store.
    Object {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
        /// The object's version, if not the newest.
        version: Option<String>,
    },
}

/// Packages that are fetched from the object store at once, ours: each may take `Limits::unzipped_bytes` of memory.
/// Further ones wait.
pub(crate) const FETCHES_MAX: usize = 4;

/// A whole zip in memory, before it is unpacked.
pub(crate) struct Zip {
    bytes: Bytes,
    /// Held while a fetched zip is in memory.
    _turn: Option<OwnedSemaphorePermit>,
}

impl CodeSource {
    /// Waits, if the code is to be fetched, until there is memory for it. To be called while the caller is there: when
    /// it goes away, so does its place in the queue.
    pub(crate) async fn turn(&self, shared: &Shared) -> Option<OwnedSemaphorePermit> {
        match self {
            CodeSource::Zip(_) => None,
            // The semaphore is never closed.
            CodeSource::Object { .. } => shared.fetches.clone().acquire_owned().await.ok(),
        }
    }
}

impl Shared {
    /// Fetches a zip, if it did not come with the request, and checks its size.
    pub(crate) async fn take_zip(&self, source: CodeSource, turn: Option<OwnedSemaphorePermit>) -> Result<Zip, Error> {
        let limits = self.config.limits.clone();
        let s3 = self.config.s3.clone();
        let (bucket, key, version) = match source {
            CodeSource::Zip(zip) if zip.len() as u64 > limits.zip_bytes => {
                return Err(Error::ZipTooLarge { limit_bytes: limits.zip_bytes });
            }
            CodeSource::Zip(bytes) => return Ok(Zip { bytes, _turn: turn }),
            CodeSource::Object { bucket, key, version } => (bucket, key, version),
        };
        let s3 = s3.ok_or(Error::NoObjectStore)?;
        blocking(move || {
            // An unpacked package bounds a packed one: zips from the object store may be larger than those in requests.
            let fetched = store::remote::fetch(&s3, &bucket, &key, version.as_deref(), limits.unzipped_bytes);
            Ok(Zip { bytes: fetched.map(Bytes::from).map_err(Error::FetchPackage)?, _turn: turn })
        })
        .await
    }

    /// Checks, unpacks and keeps a package. The caller holds `uploads` until a record refers to it.
    pub(crate) async fn keep_package(&self, zip: Zip) -> Result<Code, Error> {
        self.on_package(zip, store::Packages::add).await
    }

    /// Checks a package as if it were to be kept.
    pub(crate) async fn check_package(&self, zip: Zip) -> Result<Code, Error> {
        self.on_package(zip, store::Packages::check).await
    }

    async fn on_package(&self, zip: Zip, work: Work) -> Result<Code, Error> {
        let limits = self.config.limits.clone();
        let store = self.config.store.clone();
        blocking(move || {
            let kept = store.packages().bytes_total()?;
            if kept.saturating_add(zip.bytes.len() as u64) > limits.code_storage_bytes {
                return Err(Error::CodeStorageExceeded { limit_bytes: limits.code_storage_bytes });
            }
            work(store.packages(), &zip.bytes, &limits).map_err(Error::AddPackage)
        })
        .await
    }
}

type Work = fn(&store::Packages, &[u8], &Limits) -> Result<Code, PackageError>;
