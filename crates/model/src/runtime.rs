//! The runtimes of the Lambda API: which exist, which may be chosen, what kind of start each needs.

/// A runtime's identifier as the API spells it, `python3.12` for example.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Runtime(pub String);

/// How functions of a runtime are started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeFamily {
    /// CPython with our shim; `minor` of `3.minor`.
    Python {
        /// 12 for `python3.12`.
        minor: u32,
    },
    /// Node.js with our shim.
    Node {
        /// 20 for `nodejs20.x`.
        major: u32,
    },
    /// The package's own `bootstrap` speaks the Runtime API.
    Provided,
    /// Known to the API, but Tidegate has no way to start it.
    Other,
}

impl Runtime {
    /// The family, from the identifier alone.
    pub fn family(&self) -> RuntimeFamily {
        let id = self.0.as_str();
        if let Some(minor) = id.strip_prefix("python3.").and_then(|m| m.parse().ok()) {
            return RuntimeFamily::Python { minor };
        }
        let node = id.strip_prefix("nodejs").and_then(|rest| rest.strip_suffix(".x"));
        if let Some(major) = node.and_then(|m| m.parse().ok()) {
            return RuntimeFamily::Node { major };
        }
        if id == "provided" || id.starts_with("provided.") {
            return RuntimeFamily::Provided;
        }
        RuntimeFamily::Other
    }
}

/// Runtimes that CreateFunction and UpdateFunctionConfiguration accept, in the order in which AWS's own
/// refusal lists them (`lambda-errors.md`).
pub const CREATABLE: &[&str] = &[
    "nodejs20.x",
    "python3.14",
    "provided.al2023",
    "python3.12",
    "python3.13",
    "nodejs24.x",
    "nodejs22.x",
    "java25",
    "python3.10",
    "python3.11",
    "java21",
    "ruby3.3",
    "ruby3.4",
    "ruby3.2",
    "python3.8",
    "python3.9",
    "java17",
    "nodejs16.x",
    "dotnet10",
    "dotnet8",
    "java11",
    "dotnet6",
    "nodejs18.x",
    "provided.al2",
    "java8.al2",
];

/// Runtimes that the API once knew and now refuses with its own text. `provided` is not among them:
/// Tidegate still runs it (`docs/decisions/`).
pub const RETIRED: &[&str] = &[
    "nodejs",
    "nodejs4.3",
    "nodejs4.3-edge",
    "nodejs6.10",
    "nodejs8.10",
    "nodejs10.x",
    "nodejs12.x",
    "nodejs14.x",
    "java8",
    "python2.7",
    "python3.6",
    "python3.7",
    "dotnetcore1.0",
    "dotnetcore2.0",
    "dotnetcore2.1",
    "dotnetcore3.1",
    "go1.x",
    "ruby2.5",
    "ruby2.7",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families() {
        let family = |id: &str| Runtime(id.to_owned()).family();
        assert_eq!(family("python3.12"), RuntimeFamily::Python { minor: 12 });
        assert_eq!(family("nodejs20.x"), RuntimeFamily::Node { major: 20 });
        assert_eq!(family("provided"), RuntimeFamily::Provided);
        assert_eq!(family("provided.al2023"), RuntimeFamily::Provided);
        for other in ["java21", "nodejs", "python2.7", "providedx", ""] {
            assert_eq!(family(other), RuntimeFamily::Other, "{other}");
        }
    }
}
