//! Runtime and handler of a folder whose files make them plain.

use super::manifest::Manifest;
use crate::error::Error;
use model::runtime::{CREATABLE, Runtime, RuntimeFamily};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

/// The runtime for Python if the interpreter does not tell.
const PYTHON: &str = "python3.12";
/// The runtime for Node.js if the interpreter does not tell.
const NODE: &str = "nodejs22.x";
/// The runtime of packages with a `bootstrap`.
const PROVIDED: &str = "provided.al2023";
/// How much of a source file is searched for its handler.
const SOURCE_BYTES_MAX: u64 = 1024 * 1024;

/// A file that says how a function starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Python,
    Node,
    Provided,
}

/// The file names that are looked for.
const ENTRIES: [(&str, Language); 6] = [
    ("bootstrap", Language::Provided),
    ("lambda_function.py", Language::Python),
    ("app.py", Language::Python),
    ("index.mjs", Language::Node),
    ("index.js", Language::Node),
    ("index.cjs", Language::Node),
];

/// Finds out which runtime identifiers suit the interpreters at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interpreters {
    /// The server runs on this machine, so that its interpreters are the server's too.
    OfThisMachine,
    /// The server is elsewhere.
    Unknown,
}

/// Fills in runtime and handler where the manifest is silent. Returns sentences that say what was guessed.
pub fn complete(manifest: &mut Manifest, folder: &Path, interpreters: Interpreters) -> Result<Vec<String>, Error> {
    let mut notes = Vec::new();
    if manifest.runtime.is_some() && manifest.handler.is_some() {
        return Ok(notes);
    }
    let wanted = language_of(manifest);
    let entry = match (entry(folder, wanted)?, wanted, &manifest.handler) {
        (Some(entry), _, _) => Some(entry),
        // A handler such as `src/main.handle` tells the language by its file alone.
        (None, _, Some(handler)) => module_language(folder, handler).map(|language| ("", language)),
        (None, _, None) => None,
    };
    let Some((file, language)) = entry else { return Err(nothing_found(manifest)) };
    if manifest.runtime.is_none() {
        let runtime = language.runtime(interpreters);
        notes.push(format!("runtime {runtime}, guessed from {}", if file.is_empty() { "the handler" } else { file }));
        manifest.runtime = Some(runtime);
    }
    if manifest.handler.is_none() {
        let handler = handler(folder, file, language)?;
        notes.push(format!("handler {handler}, guessed from {file}"));
        manifest.handler = Some(handler);
    }
    Ok(notes)
}

fn language_of(manifest: &Manifest) -> Option<Language> {
    match Runtime(manifest.runtime.clone()?).family() {
        RuntimeFamily::Python { .. } => Some(Language::Python),
        RuntimeFamily::Node { .. } => Some(Language::Node),
        RuntimeFamily::Provided => Some(Language::Provided),
        RuntimeFamily::Other => None,
    }
}

/// The one entry file of the wanted language, or of any.
fn entry(folder: &Path, wanted: Option<Language>) -> Result<Option<(&'static str, Language)>, Error> {
    let found: Vec<(&'static str, Language)> = ENTRIES
        .into_iter()
        .filter(|(_, language)| wanted.is_none_or(|w| w == *language))
        .filter(|(file, _)| folder.join(file).is_file())
        .collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        several => {
            let names: Vec<&str> = several.iter().map(|(file, _)| *file).collect();
            let help = "say which with --runtime and --handler, or in tidegate.toml";
            Err(Error::usage(format!("the folder has several starting points: {}", names.join(", ")), help))
        }
    }
}

fn module_language(folder: &Path, handler: &str) -> Option<Language> {
    let (module, _) = handler.rsplit_once('.')?;
    let is_file = |extension: &str| folder.join(format!("{module}.{extension}")).is_file();
    if is_file("py") || folder.join(format!("{}.py", module.replace('.', "/"))).is_file() {
        return Some(Language::Python);
    }
    ["js", "mjs", "cjs"].into_iter().any(is_file).then_some(Language::Node)
}

fn handler(folder: &Path, file: &str, language: Language) -> Result<String, Error> {
    let stem = file.split('.').next().unwrap_or(file);
    match language {
        Language::Provided => Ok("bootstrap".to_owned()),
        Language::Node => Ok(format!("{stem}.handler")),
        Language::Python => {
            let path = folder.join(file);
            let mut source = Vec::new();
            File::open(&path)
                .and_then(|file| file.take(SOURCE_BYTES_MAX).read_to_end(&mut source))
                .map_err(|source| Error::Read { path: path.clone(), source })?;
            match python_handler(&String::from_utf8_lossy(&source)) {
                Some(name) => Ok(format!("{stem}.{name}")),
                None => Err(Error::usage(
                    format!("{file} has neither a function `lambda_handler` nor a function `handler`"),
                    format!("name the function with --handler {stem}.NAME"),
                )),
            }
        }
    }
}

/// The name that the module gives its handler, at the start of a line: `def NAME(` or `NAME =`.
fn python_handler(source: &str) -> Option<&'static str> {
    ["lambda_handler", "handler"].into_iter().find(|name| {
        source.lines().any(|line| {
            let defined = line.strip_prefix("def ").and_then(|rest| rest.trim_start().strip_prefix(name));
            let assigned = line.strip_prefix(name).map(str::trim_start);
            defined.is_some_and(|rest| rest.trim_start().starts_with('('))
                || assigned.is_some_and(|rest| rest.starts_with('=') && !rest.starts_with("=="))
        })
    })
}

fn nothing_found(manifest: &Manifest) -> Error {
    let what = match (&manifest.runtime, &manifest.handler) {
        (None, _) => "cannot tell which runtime the folder needs",
        (Some(_), _) => "cannot tell which handler the folder has",
    };
    let names: Vec<&str> = ENTRIES.iter().map(|(file, _)| *file).collect();
    Error::usage(
        what,
        format!("use --runtime and --handler, or tidegate.toml; without them one of {} is needed", names.join(", ")),
    )
}

impl Language {
    fn runtime(self, interpreters: Interpreters) -> String {
        let (program, fallback) = match self {
            Language::Provided => return PROVIDED.to_owned(),
            Language::Python => ("python3", PYTHON),
            Language::Node => ("node", NODE),
        };
        let version = match interpreters {
            Interpreters::OfThisMachine => Command::new(program).arg("--version").output().ok(),
            Interpreters::Unknown => None,
        };
        let version = version.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        version.and_then(|text| self.runtime_of(&text)).unwrap_or_else(|| fallback.to_owned())
    }

    /// The runtime for an interpreter that calls itself `Python 3.12.1` or `v20.11.0`, if the API has it.
    fn runtime_of(self, version: &str) -> Option<String> {
        let runtime = match self {
            Language::Provided => PROVIDED.to_owned(),
            Language::Python => {
                let mut parts = version.strip_prefix("Python ")?.split('.');
                format!("python{}.{}", parts.next()?, parts.next()?)
            }
            Language::Node => format!("nodejs{}.x", version.strip_prefix('v')?.split('.').next()?),
        };
        CREATABLE.contains(&runtime.as_str()).then_some(runtime)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Files and their text; the manifest's runtime and handler; the outcome.
    fn check(files: &[(&str, &str)], runtime: Option<&str>, handler: Option<&str>, want: &str) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut manifest = Manifest {
            runtime: runtime.map(str::to_owned),
            handler: handler.map(str::to_owned),
            ..Manifest::default()
        };
        let got = match complete(&mut manifest, folder.path(), Interpreters::Unknown) {
            Ok(notes) => format!("{} {} {}", manifest.runtime.unwrap(), manifest.handler.unwrap(), notes.len()),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, want, "{files:?}");
    }

    #[test]
    fn guesses() {
        let python = "import os\n\ndef handler(event, context):\n    pass\n";
        check(&[("app.py", python)], None, None, "python3.12 app.handler 2");
        let lambda = "lambda_handler = lambda e, c: 1\n";
        check(&[("lambda_function.py", lambda)], None, None, "python3.12 lambda_function.lambda_handler 2");
        check(&[("index.mjs", "")], None, None, "nodejs22.x index.handler 2");
        check(&[("bootstrap", "")], None, None, "provided.al2023 bootstrap 2");
        check(&[("app.py", python)], Some("python3.9"), None, "python3.9 app.handler 1");
        check(&[("app.py", python), ("index.js", "")], Some("nodejs20.x"), None, "nodejs20.x index.handler 1");
        check(&[("main.py", "")], None, Some("main.f"), "python3.12 main.f 1");
        check(&[], Some("java21"), Some("a.B::c"), "java21 a.B::c 0");
    }

    #[test]
    fn refusals() {
        check(&[], None, None, "cannot tell which runtime the folder needs");
        check(&[], Some("python3.12"), None, "cannot tell which handler the folder has");
        check(&[("index.js", "")], Some("python3.12"), None, "cannot tell which handler the folder has");
        let several = "the folder has several starting points: app.py, index.js";
        check(&[("app.py", ""), ("index.js", "")], None, None, several);
        let nothing = "app.py has neither a function `lambda_handler` nor a function `handler`";
        check(&[("app.py", "def main(): pass\nif handler == 1: pass\n  def handler(): pass\n")], None, None, nothing);
    }

    #[test]
    fn interpreter_versions() {
        assert_eq!(Language::Python.runtime_of("Python 3.11.7").as_deref(), Some("python3.11"));
        assert_eq!(Language::Python.runtime_of("Python 2.7.18"), None);
        assert_eq!(Language::Node.runtime_of("v20.11.0").as_deref(), Some("nodejs20.x"));
        for odd in ["", "v21.0.0", "node", "v"] {
            assert_eq!(Language::Node.runtime_of(odd), None, "{odd}");
        }
    }
}
