//! Where code comes from, and what is checked before it is kept.

use crate::{Error, Shared, blocking};
use bytes::Bytes;
use model::function::Code;

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

impl Shared {
    /// Fetches, checks, unpacks and keeps a package. The caller holds `uploads` until a record refers to it.
    pub(crate) async fn take_package(&self, source: CodeSource) -> Result<Code, Error> {
        let limits = self.config.limits.clone();
        let store = self.config.store.clone();
        let s3 = self.config.s3.clone();
        blocking(move || {
            let zip = match source {
                CodeSource::Zip(zip) if zip.len() as u64 > limits.zip_bytes => {
                    return Err(Error::ZipTooLarge { limit_bytes: limits.zip_bytes });
                }
                CodeSource::Zip(zip) => zip,
                CodeSource::Object { bucket, key, version } => {
                    let s3 = s3.ok_or(Error::NoObjectStore)?;
                    // An unpacked package bounds a packed one: zips from the object store may be larger than those
                    // in requests.
                    store::remote::fetch(&s3, &bucket, &key, version.as_deref(), limits.unzipped_bytes)
                        .map(Bytes::from)
                        .map_err(Error::FetchPackage)?
                }
            };
            let kept = store.packages().bytes_total()?;
            if kept.saturating_add(zip.len() as u64) > limits.code_storage_bytes {
                return Err(Error::CodeStorageExceeded { limit_bytes: limits.code_storage_bytes });
            }
            store.packages().add(&zip, &limits).map_err(Error::AddPackage)
        })
        .await
    }
}
