//! Bodies in, exact texts out. Texts with a role, runtime, architecture and the like are recorded on AWS
//! (`lambda-errors.md`).

use super::references::Place;
use super::{code, configuration};
use crate::errors::Refusal;
use control::CodeSource;
use model::{AccountId, Limits, Region};
use serde_json::{Value, json};

fn place() -> Place {
    Place { account: AccountId::parse("000000000000").unwrap(), region: Region::parse("us-east-1").unwrap() }
}

fn told(refusal: Refusal) -> String {
    format!("{} {}", refusal.error_type.trim_end_matches("Exception"), refusal.message)
}

/// A body that CreateFunction takes, with members replaced, or taken out by `null`.
fn creation(changes: Value) -> Vec<u8> {
    let mut body = json!({
        "FunctionName": "f",
        "Runtime": "python3.12",
        "Role": "arn:aws:iam::000000000000:role/r",
        "Handler": "a.b",
        "Code": { "ZipFile": "UEs=" },
    });
    for (name, value) in changes.as_object().unwrap() {
        body[name] = value.clone();
    }
    serde_json::to_vec(&body).unwrap()
}

fn create(changes: Value) -> String {
    match configuration::create(&creation(changes), &place(), &Limits::default()) {
        Ok(_) => "fine".to_owned(),
        Err(refusal) => told(refusal),
    }
}

#[track_caller]
fn check(changes: Value, want: &str) {
    assert_eq!(create(changes), want);
}

/// One violation, without the words that all of them share.
#[track_caller]
fn check_violation(changes: Value, want: &str) {
    let want =
        format!("Validation 1 validation error detected: {}", want.replace(" ! ", " failed to satisfy constraint: "));
    assert_eq!(create(changes), want);
}

#[test]
fn violations_of_texts_and_numbers() {
    check_violation(json!({ "Role": null }), "Value null at 'role' ! Member must not be null");
    check_violation(
        json!({ "Role": "r1" }),
        r"Value 'r1' at 'role' ! Member must satisfy regular expression pattern: arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+",
    );
    check_violation(
        json!({ "Handler": "a b" }),
        r"Value 'a b' at 'handler' ! Member must satisfy regular expression pattern: [^\s]+",
    );
    check_violation(
        json!({ "Timeout": 0 }),
        "Value '0' at 'timeout' ! Member must have value greater than or equal to 1",
    );
    check_violation(
        json!({ "Timeout": 901 }),
        "Value '901' at 'timeout' ! Member must have value less than or equal to 900",
    );
    check_violation(
        json!({ "MemorySize": 127 }),
        "Value '127' at 'memorySize' ! Member must have value greater than or equal to 128",
    );
    check_violation(
        json!({ "EphemeralStorage": { "Size": 99_999_999_999_u64 } }),
        "Value '99999999999' at 'ephemeralStorage.size' ! Member must have value less than or equal to 10240",
    );
    check_violation(
        json!({ "EphemeralStorage": {} }),
        "Value null at 'ephemeralStorage.size' ! Member must not be null",
    );
    check_violation(
        json!({ "PackageType": "Tar" }),
        "Value 'Tar' at 'packageType' ! Member must satisfy enum value set: [Zip, Image]",
    );
}

#[test]
fn violations_of_lists_and_maps() {
    check_violation(
        json!({ "Architectures": ["X86_64"] }),
        "Value '[X86_64]' at 'architectures' ! Member must satisfy constraint: [Member must satisfy enum value set: [x86_64, arm64], Member must not be null]",
    );
    check_violation(
        json!({ "Architectures": ["x86_64", "arm64"] }),
        "Value '[x86_64, arm64]' at 'architectures' ! Member must have length less than or equal to 1",
    );
    check_violation(
        json!({ "Environment": { "Variables": { "1A": "secret" } } }),
        "Value at 'environment.variables' ! Map keys must satisfy constraint: [Member must satisfy regular expression pattern: [a-zA-Z]([a-zA-Z0-9_])+]",
    );
    check_violation(
        json!({ "Tags": { "a*": "b" } }),
        r"Value '{a*=b}' at 'tags' ! Map keys must satisfy constraint: [Member must have length less than or equal to 128, Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: ([\p{L}\p{Z}\p{N}_.:/=+\-@]*)]",
    );
    check_violation(
        json!({ "VpcConfig": { "SubnetIds": ["bad-1"] } }),
        "Value '[bad-1]' at 'vpcConfig.subnetIds' ! Member must satisfy constraint: [Member must have length less than or equal to 1024, Member must have length greater than or equal to 0, Member must satisfy regular expression pattern: subnet-[0-9a-z]*]",
    );
    check_violation(
        json!({ "Layers": ["l"] }),
        r"Value '[l]' at 'layers' ! Member must satisfy constraint: [Member must have length less than or equal to 2048, Member must have length greater than or equal to 1, Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+)|(arn:[a-zA-Z0-9-]+:lambda:::awslayer:[a-zA-Z0-9-_]+), Member must not be null]",
    );
    check_violation(
        json!({ "SnapStart": { "ApplyOn": "invalidOption" } }),
        "Value 'invalidOption' at 'snapStart.applyOn' ! Member must satisfy enum value set: [PublishedVersions, None]",
    );
}

#[test]
fn several_violations_come_together() {
    let told = create(json!({ "Role": "r1", "MemorySize": 1, "Code": { "S3Bucket": "b" }, "FunctionName": null }));
    assert!(told.starts_with("Validation 4 validation errors detected: Value null at 'functionName'"), "{told}");
    for member in ["'role'", "'memorySize'", "'code.s3Bucket'"] {
        assert!(told.contains(member), "{told} lacks {member}");
    }
    assert_eq!(told.matches("; Value").count(), 3);
}

#[test]
fn types() {
    check(json!({ "MemorySize": "128" }), "Serialization STRING_VALUE can not be converted to an Integer");
    check(json!({ "MemorySize": 128.5 }), "Serialization DECIMAL_VALUE can not be converted to an Integer");
    check(json!({ "Description": 5 }), "Serialization NUMBER_VALUE can not be converted to a String");
    check(json!({ "Publish": "true" }), "Serialization STRING_VALUE can not be converted to a Boolean");
    check(json!({ "Layers": "l" }), "Serialization STRING_VALUE can not be converted to a List");
    check(json!({ "Layers": [null] }), "Serialization NULL_VALUE can not be converted to a String");
    check(json!({ "Environment": [] }), "Serialization Start of list found where not expected");
    check(json!({ "Role": {} }), "Serialization Start of structure or map found where not expected.");
    check(json!({ "Unknown": { "Member": 1 } }), "fine");
}

#[test]
fn business_rules() {
    let no = |text: &str| format!("InvalidParameterValue {text}");
    check(
        json!({ "Runtime": "go1.x" }),
        &no(
            "The runtime parameter of go1.x is no longer supported for creating or updating AWS Lambda functions. We recommend you use a supported runtime while creating or updating functions.",
        ),
    );
    check(
        json!({ "Runtime": "PYTHON3.9" }),
        &no(
            "Value PYTHON3.9 at 'runtime' failed to satisfy constraint: Member must satisfy enum value set: [nodejs20.x, python3.14, provided.al2023, python3.12, python3.13, nodejs24.x, nodejs22.x, java25, python3.10, python3.11, java21, ruby3.3, ruby3.4, ruby3.2, python3.8, python3.9, java17, nodejs16.x, dotnet10, dotnet8, java11, dotnet6, nodejs18.x, provided.al2, java8.al2] or be a valid ARN",
        ),
    );
    check(json!({ "Runtime": "provided" }), "fine");
    let mandatory = no("Runtime and Handler are mandatory parameters for functions created with deployment packages.");
    check(json!({ "Handler": null }), &mandatory);
    check(json!({ "Runtime": null }), &mandatory);
    check(
        json!({ "Environment": { "Variables": { "AWS_REGION": "x", "LAMBDA_TASK_ROOT": "y", "OWN": "z" } } }),
        &no(
            "Lambda was unable to configure your environment variables because the environment variables you have provided contains reserved keys that are currently not supported for modification. Reserved keys used in this request: AWS_REGION, LAMBDA_TASK_ROOT",
        ),
    );
    let large = "x".repeat(4_096);
    check(
        json!({ "Environment": { "Variables": { "SMALL_VAR": "ok", "LARGE_VAR": large } } }),
        &no(&format!(
            r#"Lambda was unable to configure your environment variables because the environment variables you have provided exceeded the 4KB limit. String measured: {{"SMALL_VAR":"ok","LARGE_VAR":"{large}"}}"#
        )),
    );
    check(json!({ "Publish": true }), "fine");
    check(
        json!({ "PublishTo": "LATEST_PUBLISHED" }),
        &no("Tidegate publishes numbered versions only; leave out PublishTo."),
    );
    check(
        json!({ "PackageType": "Image", "Code": { "ImageUri": "x" } }),
        &no("Tidegate does not run container images yet; use PackageType Zip."),
    );
}

#[test]
fn business_rules_of_layers() {
    let layer =
        |region: &str, name: &str, version: u32| format!("arn:aws:lambda:{region}:000000000000:layer:{name}:{version}");
    let many: Vec<String> = (0..6).map(|n| layer("us-east-1", &format!("l{n}"), 1)).collect();
    check(json!({ "Layers": many }), "InvalidParameterValue Cannot reference more than 5 layers.");
    check(
        json!({ "Layers": [layer("eu-west-1", "l", 1)] }),
        "InvalidParameterValue Layers are not in the same region as the function. Layers are expected to be in region us-east-1.",
    );
    let (one, two) = (layer("us-east-1", "l", 1), layer("us-east-1", "l", 2));
    check(
        json!({ "Layers": [one, two] }),
        &format!(
            "InvalidParameterValue Two different versions of the same layer are not allowed to be referenced in the same function. {one} and {two} are versions of the same layer."
        ),
    );
}

#[test]
fn sources_of_code() {
    let no = |text: &str| format!("InvalidParameterValue {text}");
    check(json!({ "Code": {} }), &no("Please provide a source for function code."));
    check(
        json!({ "Code": { "ZipFile": "UEs=", "S3Bucket": "abc" } }),
        &no("Please do not provide other FunctionCode parameters when providing a ZipFile."),
    );
    check(json!({ "Code": { "S3Bucket": "abc" } }), &no("Please provide both S3Bucket and S3Key."));
    check(json!({ "Code": { "S3Bucket": "abc", "S3Key": "k" } }), "fine");
    check(json!({ "Code": { "ZipFile": "UEs" } }), "fine");
    check(json!({ "Code": { "ZipFile": "?" } }), "Serialization Unable to decode ZipFile: it is not base64");
    let update = |body: Value| code::update(&serde_json::to_vec(&body).unwrap());
    let change =
        update(json!({ "ZipFile": "UEs=", "DryRun": true, "RevisionId": "r", "Architectures": ["arm64"] })).unwrap();
    assert!(matches!(&change.code, CodeSource::Zip(zip) if zip.as_ref() == b"PK"));
    assert_eq!(
        (change.dry_run, change.revision_id.as_deref(), change.architecture.as_deref()),
        (true, Some("r"), Some("arm64"))
    );
    assert_eq!(
        told(update(json!({ "ImageUri": "x" })).unwrap_err()),
        no("Please don't provide ImageUri when updating a function with packageType Zip.")
    );
}

#[test]
fn defaults_and_echoes() {
    let limits = Limits::default();
    let new = configuration::create(&creation(json!({})), &place(), &limits).unwrap();
    let config = new.config;
    assert_eq!((config.timeout_s, config.memory_mb, config.ephemeral_mb), (3, 128, 512));
    assert_eq!((config.architecture.as_str(), config.package_type.as_str()), ("x86_64", "Zip"));
    assert!(config.echoed.is_empty());
    let new = configuration::create(
        &creation(json!({
            "VpcConfig": {},
            "TracingConfig": { "Mode": "Active" },
            "KMSKeyArn": "",
            "DeadLetterConfig": { "TargetArn": "arn:aws:sqs:us-east-1:000000000000:q" },
            "LoggingConfig": { "LogFormat": "JSON" },
        })),
        &place(),
        &limits,
    );
    let echoed: Vec<String> =
        new.unwrap().config.echoed.into_iter().map(|(name, text)| format!("{name} {text}")).collect();
    assert_eq!(
        echoed,
        [
            r#"DeadLetterConfig {"TargetArn":"arn:aws:sqs:us-east-1:000000000000:q"}"#,
            r#"LoggingConfig {"LogFormat":"JSON","ApplicationLogLevel":"INFO","SystemLogLevel":"INFO"}"#,
            r#"TracingConfig {"Mode":"Active"}"#,
            r#"VpcConfig {"SubnetIds":[],"SecurityGroupIds":[],"VpcId":"","Ipv6AllowedForDualStack":false}"#,
        ]
    );
    let update = configuration::update(br#"{"Layers":[],"KMSKeyArn":"","Timeout":5}"#, &place(), &limits).unwrap();
    assert_eq!(update.timeout_s, Some(5));
    let forgotten: Vec<String> =
        update.echoed.into_iter().filter(|(_, text)| text.is_none()).map(|(name, _)| name).collect();
    assert_eq!(forgotten, ["KMSKeyArn", "Layers"]);
}

/// Names of members that some reader looks at.
const MEMBERS: &[&str] = &[
    "FunctionName",
    "Runtime",
    "Role",
    "Handler",
    "Code",
    "ZipFile",
    "S3Bucket",
    "S3Key",
    "Description",
    "Timeout",
    "MemorySize",
    "Publish",
    "VpcConfig",
    "SubnetIds",
    "DeadLetterConfig",
    "TargetArn",
    "Environment",
    "Variables",
    "KMSKeyArn",
    "TracingConfig",
    "Mode",
    "Tags",
    "Layers",
    "FileSystemConfigs",
    "Arn",
    "ImageConfig",
    "EntryPoint",
    "CodeSigningConfigArn",
    "Architectures",
    "EphemeralStorage",
    "Size",
    "SnapStart",
    "LoggingConfig",
    "LogGroup",
    "CapacityProviderConfig",
    "LambdaManagedInstancesCapacityProviderConfig",
    "DurableConfig",
    "TenancyConfig",
];

fn any_json() -> impl proptest::strategy::Strategy<Value = Value> {
    use proptest::prelude::*;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
        "arn:aws:[a-z:0-9/-]{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(MEMBERS), inner), 0..8)
                .prop_map(|members| Value::Object(members.into_iter().map(|(n, v)| (n.to_owned(), v)).collect())),
        ]
    })
}

proptest::proptest! {
    #[test]
    fn never_panics(body in any_json()) {
        let body = serde_json::to_vec(&body).unwrap();
        let _ = configuration::create(&body, &place(), &Limits::default());
        let _ = configuration::update(&body, &place(), &Limits::default());
        let _ = code::update(&body);
    }
}
