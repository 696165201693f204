//! What a function shall be: `tidegate.toml`, with the flags on top.

use model::FunctionName;
use model::function::Network;
use std::collections::BTreeMap;
use toml::{Table, Value};

/// The file's name, in the folder that is deployed.
pub const FILE_NAME: &str = "tidegate.toml";

/// What is asked for; `None` means not said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The function's name.
    pub name: Option<String>,
    /// The runtime's identifier.
    pub runtime: Option<String>,
    /// The handler.
    pub handler: Option<String>,
    /// The role's ARN.
    pub role: Option<String>,
    /// Memory, MB.
    pub memory_mb: Option<u32>,
    /// Timeout, seconds.
    pub timeout_s: Option<u32>,
    /// What of the network the function sees.
    pub network: Option<Network>,
    /// Invocations that one instance runs at a time.
    pub concurrency: Option<u32>,
    /// How long an invocation may wait for concurrency, milliseconds; 0 throttles it at once.
    pub queue_ms: Option<u32>,
    /// How many may wait.
    pub queue_length: Option<u32>,
    /// All environment variables.
    pub environment: Option<BTreeMap<String, String>>,
    /// What to leave out of the package.
    pub exclude: Vec<String>,
}

impl Manifest {
    /// Reads `tidegate.toml`; all problems at once, each a sentence.
    pub fn parse(text: &str) -> Result<Manifest, Vec<String>> {
        let table: Table = text.parse().map_err(|error: toml::de::Error| vec![error.to_string().trim().to_owned()])?;
        let mut manifest = Manifest::default();
        let mut problems = Vec::new();
        for (key, value) in &table {
            if let Err(problem) = manifest.set(key, value) {
                problems.push(problem);
            }
        }
        if problems.is_empty() { Ok(manifest) } else { Err(problems) }
    }

    fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        match key {
            "name" => self.name = Some(text(key, value).and_then(|name| checked_name(&name))?),
            "runtime" => self.runtime = Some(text(key, value)?),
            "handler" => self.handler = Some(text(key, value)?),
            "role" => self.role = Some(text(key, value)?),
            "memory_mb" => self.memory_mb = Some(number(key, value)?),
            "timeout_s" => self.timeout_s = Some(number(key, value)?),
            "network" => self.network = Some(text(key, value).and_then(|text| network(&text))?),
            "concurrency" => self.concurrency = Some(number(key, value)?),
            "queue_ms" => self.queue_ms = Some(number_or_zero(key, value)?),
            "queue_length" => self.queue_length = Some(number(key, value)?),
            "environment" => self.environment = Some(variables(value)?),
            "exclude" => self.exclude = patterns(value)?,
            _ => {
                return Err(format!(
                    "`{key}` is not a key of {FILE_NAME}; the keys are name, runtime, handler, role, memory_mb, \
                     timeout_s, network, concurrency, queue_ms, queue_length, environment and exclude"
                ));
            }
        }
        Ok(())
    }

    /// `self` where it says something, `base` where it does not. Environment variables are joined one by one.
    pub fn over(self, base: Manifest) -> Manifest {
        let environment = match (self.environment, base.environment) {
            (Some(ours), Some(mut theirs)) => {
                theirs.extend(ours);
                Some(theirs)
            }
            (ours, theirs) => ours.or(theirs),
        };
        Manifest {
            name: self.name.or(base.name),
            runtime: self.runtime.or(base.runtime),
            handler: self.handler.or(base.handler),
            role: self.role.or(base.role),
            memory_mb: self.memory_mb.or(base.memory_mb),
            timeout_s: self.timeout_s.or(base.timeout_s),
            network: self.network.or(base.network),
            concurrency: self.concurrency.or(base.concurrency),
            queue_ms: self.queue_ms.or(base.queue_ms),
            queue_length: self.queue_length.or(base.queue_length),
            environment,
            exclude: base.exclude.into_iter().chain(self.exclude).collect(),
        }
    }
}

/// A function's name, or a sentence that says what is wrong with it.
pub fn checked_name(name: &str) -> Result<String, String> {
    FunctionName::parse(name)
        .map(|name| name.to_string())
        .map_err(|error| format!("`{name}` is not a function name: {error}"))
}

/// `nat` or `none`.
pub fn network(text: &str) -> Result<Network, String> {
    match text {
        "nat" => Ok(Network::Nat),
        "none" => Ok(Network::None),
        _ => Err(format!("`network` is \"nat\" or \"none\", not \"{text}\"")),
    }
}

/// `KEY=VALUE`; the value may be empty and may hold further `=`.
pub fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("an environment variable is written KEY=VALUE".to_owned()),
    }
}

fn text(key: &str, value: &Value) -> Result<String, String> {
    match value.as_str() {
        Some("") => Err(format!("`{key}` must not be empty")),
        Some(text) => Ok(text.to_owned()),
        None => Err(format!("`{key}` must be a string, not {}", kind(value))),
    }
}

fn number(key: &str, value: &Value) -> Result<u32, String> {
    match number_or_zero(key, value)? {
        0 => Err(format!("`{key}` is out of range: 0")),
        number => Ok(number),
    }
}

fn number_or_zero(key: &str, value: &Value) -> Result<u32, String> {
    let number = value.as_integer().ok_or_else(|| format!("`{key}` must be a whole number, not {}", kind(value)))?;
    u32::try_from(number).map_err(|_| format!("`{key}` is out of range: {number}"))
}

fn variables(value: &Value) -> Result<BTreeMap<String, String>, String> {
    let table = value.as_table().ok_or_else(|| format!("`environment` must be a table, not {}", kind(value)))?;
    table
        .iter()
        .map(|(name, value)| match value.as_str() {
            Some(text) => Ok((name.clone(), text.to_owned())),
            None => Err(format!("`environment.{name}` must be a string, not {}", kind(value))),
        })
        .collect()
}

fn patterns(value: &Value) -> Result<Vec<String>, String> {
    let refuse = || format!("`exclude` must be a list of patterns, not {}", kind(value));
    let list = value.as_array().ok_or_else(refuse)?;
    list.iter().map(|pattern| pattern.as_str().map(str::to_owned).ok_or_else(refuse)).collect()
}

fn kind(value: &Value) -> String {
    let article = if value.type_str().starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {}", value.type_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_file() {
        let manifest = Manifest::parse(
            "name = 'f'\nruntime = 'python3.12'\nhandler = 'a.b'\nmemory_mb = 256\ntimeout_s = 9\nnetwork = 'none'\n\
             concurrency = 8\nqueue_ms = 0\nqueue_length = 9\nrole = 'arn:x'\nexclude = ['*.md']\n[environment]\nA = '1'\n",
        )
        .unwrap();
        assert_eq!(manifest.name.as_deref(), Some("f"));
        assert_eq!((manifest.memory_mb, manifest.timeout_s), (Some(256), Some(9)));
        assert_eq!((manifest.network, manifest.concurrency), (Some(Network::None), Some(8)));
        assert_eq!((manifest.queue_ms, manifest.queue_length), (Some(0), Some(9)));
        assert_eq!(manifest.environment.unwrap()["A"], "1");
        assert_eq!(manifest.exclude, ["*.md"]);
        assert_eq!(Manifest::parse("").unwrap(), Manifest::default());
    }

    #[test]
    fn all_problems_at_once() {
        let text = "name = 'a b'\nmemory = 1\nmemory_mb = '256'\ntimeout_s = -1\nnetwork = 'host'\nhandler = ''\n\
                    exclude = 'x'\n[environment]\nA = 1\n";
        let problems = Manifest::parse(text).unwrap_err();
        let want = [
            "`name`",
            "`memory` is not a key",
            "`memory_mb` must be a whole number, not a string",
            "`timeout_s` is out of range: -1",
            "`network` is \"nat\" or \"none\", not \"host\"",
            "`handler` must not be empty",
            "`exclude` must be a list of patterns, not a string",
            "`environment.A` must be a string, not an integer",
        ];
        assert_eq!(problems.len(), want.len(), "{problems:?}");
        for want in &want[1..] {
            assert!(problems.iter().any(|p| p.starts_with(want)), "{want}: {problems:?}");
        }
        assert_eq!(Manifest::parse("name =").unwrap_err().len(), 1);
    }

    #[test]
    fn flags_win() {
        let environment = |pairs: &[(&str, &str)]| {
            Some(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<BTreeMap<_, _>>())
        };
        let file = Manifest {
            runtime: Some("a".to_owned()),
            memory_mb: Some(1),
            environment: environment(&[("A", "file"), ("B", "file")]),
            exclude: vec!["x".to_owned()],
            ..Manifest::default()
        };
        let flags = Manifest {
            memory_mb: Some(2),
            environment: environment(&[("A", "flag")]),
            exclude: vec!["y".to_owned()],
            ..Manifest::default()
        };
        let merged = flags.over(file);
        assert_eq!((merged.runtime.as_deref(), merged.memory_mb), (Some("a"), Some(2)));
        assert_eq!(merged.environment, environment(&[("A", "flag"), ("B", "file")]));
        assert_eq!(merged.exclude, ["x", "y"]);
    }

    #[test]
    fn variables_on_the_command_line() {
        assert_eq!(variable("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(variable("A="), Ok(("A".to_owned(), String::new())));
        assert!(variable("A").is_err() && variable("=b").is_err());
    }

    proptest::proptest! {
        #[test]
        fn no_file_makes_us_panic(text in "([a-z_]{1,11} = (['\"\\[{]?[a-z0-9.-]{0,6}['\"\\]}]?)\n|\\[[a-z]{0,11}\\]\n){0,6}") {
            let _ = Manifest::parse(&text);
        }
    }
}
