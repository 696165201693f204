//! Where a function's code comes from: `Code` of CreateFunction, the same members at the top of UpdateFunctionCode.

use super::patterns::{ANY_ARN_OR_EMPTY, ANY_LINE, S3_BUCKET};
use super::{Fields, Violations, configuration, json};
use crate::errors::{Exception, Refusal};
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use control::{CodeChange, CodeSource};

/// Padding may be missing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The members that name the code, each of the right type.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    zip_base64: Option<&'a str>,
    bucket: Option<&'a str>,
    key: Option<&'a str>,
    version: Option<&'a str>,
    pub(super) image_uri: Option<&'a str>,
}

/// Reads the members. `at` stands in front of their names in texts.
pub fn read<'a>(fields: &Fields<'a>, at: &str, violations: &mut Violations) -> Result<Sent<'a>, Refusal> {
    let sent = Sent {
        zip_base64: fields.text("ZipFile")?,
        bucket: fields.text("S3Bucket")?,
        key: fields.text("S3Key")?,
        version: fields.text("S3ObjectVersion")?,
        image_uri: fields.text("ImageUri")?,
    };
    if let Some(bucket) = sent.bucket {
        violations.length(bucket, &format!("{at}s3Bucket"), 3, 63);
        violations.pattern(bucket, &format!("{at}s3Bucket"), &S3_BUCKET);
    }
    for (text, name) in [(sent.key, "s3Key"), (sent.version, "s3ObjectVersion")] {
        if let Some(text) = text {
            violations.length(text, &format!("{at}{name}"), 1, 1_024);
            violations.pattern(text, &format!("{at}{name}"), &ANY_LINE);
        }
    }
    if let Some(mode) = fields.text("S3ObjectStorageMode")? {
        violations.one_of(mode, &format!("{at}s3ObjectStorageMode"), &["COPY", "REFERENCE"]);
    }
    if let Some(key) = fields.text("SourceKMSKeyArn")? {
        violations.pattern(key, &format!("{at}sourceKMSKeyArn"), &ANY_ARN_OR_EMPTY);
    }
    Ok(sent)
}

impl Sent<'_> {
    /// Exactly one source, decoded.
    pub fn source(&self) -> Result<CodeSource, Refusal> {
        match (self.zip_base64, self.bucket, self.key) {
            (Some(text), None, None) => {
                let zip = BASE64.decode(text).map_err(|_| {
                    Refusal::new(Exception::Serialization, "Unable to decode ZipFile: it is not base64")
                })?;
                Ok(CodeSource::Zip(Bytes::from(zip)))
            }
            (Some(_), _, _) => {
                Err(Refusal::invalid("Please do not provide other FunctionCode parameters when providing a ZipFile."))
            }
            (None, Some(bucket), Some(key)) => Ok(CodeSource::Object {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                version: self.version.map(str::to_owned),
            }),
            (None, Some(_), None) | (None, None, Some(_)) => {
                Err(Refusal::invalid("Please provide both S3Bucket and S3Key."))
            }
            (None, None, None) => Err(Refusal::invalid("Please provide a source for function code.")),
        }
    }
}

/// Reads the body of UpdateFunctionCode.
pub fn update(body: &[u8]) -> Result<CodeChange, Refusal> {
    let value = json::parse(body)?;
    let fields = Fields::of(&value)?;
    let mut violations = Violations::default();
    let sent = read(&fields, "", &mut violations)?;
    let architecture = configuration::architecture(&fields, &mut violations)?;
    let revision_id = fields.text("RevisionId")?.map(str::to_owned);
    let dry_run = fields.boolean("DryRun")?.unwrap_or(false);
    let publish = configuration::publish(&fields, &mut violations)?;
    violations.finish()?;
    let publish = publish.judge()?;
    if sent.image_uri.is_some() {
        return Err(Refusal::invalid("Please don't provide ImageUri when updating a function with packageType Zip."));
    }
    Ok(CodeChange { code: sent.source()?, architecture, dry_run, publish, revision_id })
}
