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

/// What is deployed.
#[derive(Debug, Clone)]
pub struct Function {
    /// The runtime's identifier.
    pub runtime: String,
    /// The handler, as the runtime wants it.
    pub handler: &'static str,
    /// The folder to deploy.
    pub folder: PathBuf,
    /// The interpreter, which platform and comparators share; `None` for native code.
    pub interpreter: Option<PathBuf>,
}

/// The greeting function in one runtime, and how to start the same handler without a platform.
#[derive(Debug, Clone)]
pub struct Subject {
    /// `Python`, `Node.js` or `native`.
    pub name: &'static str,
    /// What is deployed.
    pub function: Function,
    /// Program and arguments that answer one event and exit; paths inside the runc bundle.
    pub once: Vec<String>,
    /// Program and arguments of the plain HTTP server.
    pub server: Vec<String>,
}

impl Subject {
    /// One subject for each interpreter of this machine, and the native one.
    pub fn present(options: &Options) -> Result<Vec<Subject>, Failure> {
        Ok(python(options).into_iter().chain(nodejs(options)).chain([native(options)?]).collect())
    }

    /// Another function for the same interpreter, from a folder of the bench.
    pub fn other(&self, options: &Options, folder: &str, handler: &'static str) -> Function {
        Function { folder: options.sources.join("functions").join(folder), handler, ..self.function.clone() }
    }
}

/// The greeting in Python, by the machine's own interpreter.
pub fn python(options: &Options) -> Result<Subject, Failure> {
    let code = "import os,sys; print('%d.%d' % sys.version_info[:2], os.path.realpath(sys.executable))";
    let printed = asked(&["/usr/bin/python3", "python3"], &["-c", code]);
    let missing = || Failure("there is no python3 on this machine".to_owned());
    let (version, interpreter) = printed.as_deref().and_then(|text| text.split_once(' ')).ok_or_else(missing)?;
    let folder = options.sources.join("functions/python");
    let runtime = format!("python{version}");
    Ok(Subject {
        name: "Python",
        once: words(&[interpreter, "/plain/once.py", "/var/task", EVENT]),
        server: words(&[interpreter, &text(&options.sources.join("plain/server.py")), &text(&folder)]),
        function: Function { runtime, handler: "app.handler", interpreter: Some(interpreter.into()), folder },
    })
}

/// The greeting in Node.js.
pub fn nodejs(options: &Options) -> Result<Subject, Failure> {
    let code = "console.log(process.versions.node.split('.')[0], process.execPath)";
    let printed = asked(&["/usr/bin/node", "node"], &["-e", code]);
    let missing = || Failure("there is no node on this machine".to_owned());
    let (version, interpreter) = printed.as_deref().and_then(|text| text.split_once(' ')).ok_or_else(missing)?;
    let folder = options.sources.join("functions/nodejs");
    let runtime = format!("nodejs{version}.x");
    Ok(Subject {
        name: "Node.js",
        once: words(&[interpreter, "/plain/once.mjs", "/var/task", EVENT]),
        server: words(&[interpreter, &text(&options.sources.join("plain/server.mjs")), &text(&folder)]),
        function: Function { runtime, handler: "index.handler", interpreter: Some(interpreter.into()), folder },
    })
}

/// The greeting in native code. The folder to deploy is made here: it holds nothing but the program.
pub fn native(options: &Options) -> Result<Subject, Failure> {
    let folder = options.output.join("native");
    fs::create_dir_all(&folder).map_err(Failure::during(format!("cannot make {}", folder.display())))?;
    let program = options.programs.join("native_bootstrap");
    fs::copy(&program, folder.join("bootstrap"))
        .map_err(Failure::during(format!("cannot copy {}", program.display())))?;
    Ok(Subject {
        name: "native",
        once: words(&["/var/task/bootstrap", "once", EVENT]),
        server: words(&[&text(&options.programs.join("plain_native"))]),
        function: Function { runtime: "provided.al2023".to_owned(), handler: "bootstrap", interpreter: None, folder },
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
