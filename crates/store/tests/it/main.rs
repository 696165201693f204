//! The store on a real disk: hostile packages, logs, crashes, a full disk.

mod crafted_zip;
mod crash;
mod full_disk;
mod logs;
mod packages;
mod registry;

use model::function::{Code, Config, Function, Network, State};
use model::{Digest, FunctionName, Generation, Runtime};
use std::collections::BTreeMap;

fn name(text: &str) -> FunctionName {
    FunctionName::parse(text).unwrap()
}

fn function(text: &str, digest: Digest) -> Function {
    let config = Config {
        runtime: Some(Runtime("python3.12".to_owned())),
        role: "arn:aws:iam::000000000000:role/r".to_owned(),
        handler: Some("main.handler".to_owned()),
        description: String::new(),
        timeout_s: 3,
        memory_mb: 128,
        ephemeral_mb: 512,
        environment: BTreeMap::from([("KEY".to_owned(), "value \u{0} \"".to_owned())]),
        architecture: "x86_64".to_owned(),
        package_type: "Zip".to_owned(),
        network: Network::Nat,
        instance_concurrency: 1,
        echoed: BTreeMap::new(),
    };
    Function {
        name: name(text),
        config,
        code: Code { digest, size_bytes: 1 },
        tags: BTreeMap::new(),
        state: State::Active,
        last_update: None,
        revision_id: "r".to_owned(),
        generation: Generation(1),
        last_modified_ms: 0,
        last_version: 0,
    }
}
