//! What is measured: the same small function in each runtime that this machine has.

use crate::Failure;
use crate::options::Options;
use crate::process;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The event of every invocation.
pub const EVENT: &str = r#"{"name":"Ada"}"#;
/// What every handler answers to it.
pub const GREETING: &str = "Hello, Ada";
/// Memory of every function, MB: the size that buys one whole CPU, so that the quota does not distort the figures.
pub const MEMORY_MB: u32 = 1_769;

/// A function in one runtime, and how to start the same handler without a platform.
#[derive(Debug, Clone)]
pub struct Subject {
    /// `python`, `nodejs` or `native`.
    pub name: &'static str,
    /// The runtime's identifier.
    pub runtime: String,
    /// The handler, as the runtime wants it.
    pub handler: &'static str,
    /// The folder to deploy.
    pub folder: PathBuf,
    /// The interpreter, which platform and comparators share; `None` for native code.
    pub interpreter: Option<PathBuf>,
    /// Program and arguments that answer one event and exit; paths inside the runc bundle.
    pub once: Vec<String>,
    /// Program and arguments of the plain HTTP server.
    pub server: Vec<String>,
}

impl Subject {
    /// One subject for each interpreter of this machine, and the native one.
    pub fn present(options: &Options) -> Result<Vec<Subject>, Failure> {
        let mut subjects = Vec::new();
        subjects.extend(python(options));
        subjects.extend(nodejs(options));
        subjects.push(native(options)?);
        subjects.retain(|subject| options.only.as_deref().is_none_or(|only| only == subject.name));
        if subjects.is_empty() {
            return Err(Failure("--only names no runtime of this machine".to_owned()));
        }
        Ok(subjects)
    }
}

fn python(options: &Options) -> Option<Subject> {
    let code = "import os,sys; print('%d.%d' % sys.version_info[:2], os.path.realpath(sys.executable))";
    let printed = asked(&["/usr/bin/python3", "python3"], &["-c", code])?;
    let (version, interpreter) = printed.split_once(' ')?;
    let folder = options.sources.join("functions/python");
    Some(Subject {
        name: "python",
        runtime: format!("python{version}"),
        handler: "app.handler",
        once: words(&[interpreter, "/plain/once.py", "/var/task", EVENT]),
        server: words(&[interpreter, &text(&options.sources.join("plain/server.py")), &text(&folder)]),
        interpreter: Some(interpreter.into()),
        folder,
    })
}

fn nodejs(options: &Options) -> Option<Subject> {
    let code = "console.log(process.versions.node.split('.')[0], process.execPath)";
    let printed = asked(&["/usr/bin/node", "node"], &["-e", code])?;
    let (version, interpreter) = printed.split_once(' ')?;
    let folder = options.sources.join("functions/nodejs");
    Some(Subject {
        name: "nodejs",
        runtime: format!("nodejs{version}.x"),
        handler: "index.handler",
        once: words(&[interpreter, "/plain/once.mjs", "/var/task", EVENT]),
        server: words(&[interpreter, &text(&options.sources.join("plain/server.mjs")), &text(&folder)]),
        interpreter: Some(interpreter.into()),
        folder,
    })
}

/// The folder to deploy is made here: it holds nothing but the program.
fn native(options: &Options) -> Result<Subject, Failure> {
    let folder = options.output.join("native");
    fs::create_dir_all(&folder).map_err(Failure::during(format!("cannot make {}", folder.display())))?;
    let program = options.programs.join("native_bootstrap");
    fs::copy(&program, folder.join("bootstrap"))
        .map_err(Failure::during(format!("cannot copy {}", program.display())))?;
    Ok(Subject {
        name: "native",
        runtime: "provided.al2023".to_owned(),
        handler: "bootstrap",
        interpreter: None,
        once: words(&["/var/task/bootstrap", "once", EVENT]),
        server: words(&[&text(&options.programs.join("plain_native"))]),
        folder,
    })
}

/// The answer of the first of these programs that gives one.
fn asked(programs: &[&str], arguments: &[&str]) -> Option<String> {
    let ask = |program: &&str| process::capture(Command::new(program).args(arguments)).ok();
    programs.iter().find_map(ask).map(|printed| printed.trim().to_owned())
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
