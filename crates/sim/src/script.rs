//! Reads scripts. The language is described at the top of the crate.

use scheduler::keep_alive::Policy;
use std::collections::BTreeMap;

/// Most invocations that one `invoke` makes, so that a slip of the pen does not fill the memory.
pub const TIMES_MAX: u32 = 100_000;

/// The latest time that a script may name; far enough from overflow for any sum of times.
pub const TIME_MS_MAX: u64 = 1 << 40;

/// One line of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Seeds the draws.
    Seed(u64),
    /// Describes the machine.
    Machine(Machine),
    /// Describes a function.
    Function {
        /// Its name.
        name: String,
        /// The rest.
        function: Function,
    },
    /// Puts a deed into the calendar.
    At {
        /// When.
        at_ms: u64,
        /// What.
        deed: Deed,
    },
    /// Puts a repeated deed into the calendar.
    Every {
        /// Time between two.
        period_ms: u64,
        /// The first.
        from_ms: u64,
        /// No later than this.
        until_ms: u64,
        /// What.
        deed: Deed,
    },
    /// Lets time pass.
    Run {
        /// To this time, inclusive; `None` is until nothing is left to happen.
        until_ms: Option<u64>,
    },
    /// Prints how many of each there are.
    Show,
}

/// The machine and the platform's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Memory for instances.
    pub memory_mb: u64,
    /// Most instances.
    pub instances: usize,
    /// The account's concurrency.
    pub account: u32,
    /// Most invocations that wait per generation.
    pub waiting: usize,
    /// Idle time before an instance is stopped, at the latest.
    pub idle_ms: u64,
    /// What decides how much earlier.
    pub keep_alive: Policy,
    /// Idle time before an instance is frozen; 0 is never.
    pub freeze_ms: u64,
    /// Time for the first try of Init.
    pub init_limit_ms: u64,
    /// Time from the order to stop until an instance is gone.
    pub stop_ms: u64,
}

impl Default for Machine {
    fn default() -> Machine {
        let limits = model::Limits::default();
        Machine {
            memory_mb: 16_384,
            instances: limits.instances as usize,
            account: limits.concurrent_executions,
            waiting: limits.waiting_per_version,
            idle_ms: limits.idle_ms,
            keep_alive: Policy::Fixed,
            freeze_ms: 0,
            init_limit_ms: limits.init_ms,
            stop_ms: 1,
        }
    }
}

/// What a function asks for and how long its parts take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Making the sandbox.
    pub start: Span,
    /// Init.
    pub init: Span,
    /// One invocation.
    pub service: Span,
    /// Memory of an instance.
    pub memory_mb: u32,
    /// Invocations that an instance runs at a time.
    pub slots: u32,
    /// The function's timeout.
    pub timeout_ms: u64,
    /// Reserved concurrency.
    pub reserved: Option<u32>,
}

/// How long something takes, in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Span {
    /// `5,10,20`: in turn, from the first again after the last; a single time is a list of one. Never empty.
    Listed(Vec<u64>),
    /// `5..20`: drawn, both ends included; the first is not greater.
    Between(u64, u64),
}

/// What can happen to functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Invocations arrive.
    Invoke {
        /// Of this function.
        function: String,
        /// So many.
        times: u32,
    },
    /// An instance ends by itself.
    Crash {
        /// Of this function.
        function: String,
    },
    /// Sandboxes cannot be made.
    BreakStart {
        /// Of this function.
        function: String,
        /// The next so many.
        times: u32,
    },
    /// Inits fail.
    BreakInit {
        /// Of this function.
        function: String,
        /// The next so many.
        times: u32,
    },
    /// A waiting client goes away.
    Cancel {
        /// Of this function.
        function: String,
    },
    /// Instances are kept initialised.
    Provision {
        /// Of this function's newest generation.
        function: String,
        /// So many.
        count: u32,
    },
    /// Instances are started ahead of invocations.
    WarmUp {
        /// Of this function.
        function: String,
        /// Until so many are there.
        count: u32,
    },
    /// The function gets a new generation.
    Update {
        /// This function.
        function: String,
    },
    /// Everything drains.
    Drain,
}

/// A line that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct Error {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No command has this shape.
    #[error("no command looks like this")]
    Command,
    /// The text is not a number, or out of range.
    #[error("'{0}' is not a number here")]
    Number(String),
    /// The text is not a time.
    #[error("'{0}' is not a time: 10, 5,10,20 or 5..20")]
    Span(String),
    /// A setting that the command does not have, or has twice.
    #[error("'{0}' is not a setting here, or given twice")]
    Setting(String),
    /// The function was not described before.
    #[error("there is no function '{0}'")]
    Unknown(String),
    /// The function was described before.
    #[error("function '{0}' is there already")]
    Twice(String),
    /// The reserved concurrency of all functions is more than the account has.
    #[error("more concurrency is reserved than the account has")]
    Reserved,
    /// The machine must be described before the functions.
    #[error("the machine comes before the first function, once")]
    MachineLate,
}

/// Reads a whole script; stops at the first line that cannot be read.
pub fn parse(text: &str) -> Result<Vec<Command>, Error> {
    let mut described = Described::default();
    let mut commands = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        if words.is_empty() {
            continue;
        }
        let command = command(&words).and_then(|command| described.check(&command).map(|()| command));
        commands.push(command.map_err(|problem| Error { line: at + 1, problem })?);
    }
    Ok(commands)
}

/// What earlier lines have described, for the rules between lines.
#[derive(Default)]
struct Described {
    machine: Option<Machine>,
    /// Functions and their reserved concurrency.
    functions: BTreeMap<String, u64>,
}

impl Described {
    fn check(&mut self, command: &Command) -> Result<(), Problem> {
        match command {
            Command::Machine(_) if self.machine.is_some() || !self.functions.is_empty() => Err(Problem::MachineLate),
            Command::Machine(machine) => {
                self.machine = Some(machine.clone());
                Ok(())
            }
            Command::Function { name, function } => {
                let reserved = function.reserved.unwrap_or(0).into();
                if self.functions.insert(name.clone(), reserved).is_some() {
                    return Err(Problem::Twice(name.clone()));
                }
                let account = self.machine.as_ref().map_or(Machine::default().account, |m| m.account);
                if self.functions.values().sum::<u64>() > account.into() { Err(Problem::Reserved) } else { Ok(()) }
            }
            Command::At { deed, .. } | Command::Every { deed, .. } => match deed.function() {
                Some(name) if !self.functions.contains_key(name) => Err(Problem::Unknown(name.to_owned())),
                Some(_) | None => Ok(()),
            },
            Command::Seed(_) | Command::Run { .. } | Command::Show => Ok(()),
        }
    }
}

impl Deed {
    /// The function that it happens to.
    pub fn function(&self) -> Option<&str> {
        match self {
            Deed::Invoke { function, .. }
            | Deed::Crash { function }
            | Deed::BreakStart { function, .. }
            | Deed::BreakInit { function, .. }
            | Deed::Cancel { function }
            | Deed::Provision { function, .. }
            | Deed::WarmUp { function, .. }
            | Deed::Update { function } => Some(function),
            Deed::Drain => None,
        }
    }
}

fn command(words: &[&str]) -> Result<Command, Problem> {
    match words {
        ["seed", seed] => Ok(Command::Seed(number(seed, u64::MAX)?)),
        ["machine", settings @ ..] => machine(settings).map(Command::Machine),
        ["function", name, settings @ ..] => {
            Ok(Command::Function { name: (*name).to_owned(), function: function(settings)? })
        }
        ["at", at, deed_words @ ..] => Ok(Command::At { at_ms: time_ms(at)?, deed: deed(deed_words)? }),
        ["every", period, deed_words @ .., "from", from, "until", until] => {
            every(period, deed_words, time_ms(from)?, until)
        }
        ["every", period, deed_words @ .., "until", until] => every(period, deed_words, 0, until),
        ["run", "until", until] => Ok(Command::Run { until_ms: Some(time_ms(until)?) }),
        ["run"] => Ok(Command::Run { until_ms: None }),
        ["show"] => Ok(Command::Show),
        _ => Err(Problem::Command),
    }
}

fn every(period: &str, deed_words: &[&str], from_ms: u64, until: &str) -> Result<Command, Problem> {
    match time_ms(period)? {
        0 => Err(Problem::Number(period.to_owned())),
        period_ms => Ok(Command::Every { period_ms, from_ms, until_ms: time_ms(until)?, deed: deed(deed_words)? }),
    }
}

fn deed(words: &[&str]) -> Result<Deed, Problem> {
    let function = || words.get(1).map(|name| (*name).to_owned()).ok_or(Problem::Command);
    match words {
        ["invoke", _, times @ ..] => Ok(Deed::Invoke { function: function()?, times: repeat(times)? }),
        ["break-start", _, times @ ..] => Ok(Deed::BreakStart { function: function()?, times: repeat(times)? }),
        ["break-init", _, times @ ..] => Ok(Deed::BreakInit { function: function()?, times: repeat(times)? }),
        ["provision", _, count] => Ok(Deed::Provision { function: function()?, count: small(count)? }),
        ["warm", _, count] => Ok(Deed::WarmUp { function: function()?, count: small(count)? }),
        ["crash", _] => Ok(Deed::Crash { function: function()? }),
        ["cancel", _] => Ok(Deed::Cancel { function: function()? }),
        ["update", _] => Ok(Deed::Update { function: function()? }),
        ["drain"] => Ok(Deed::Drain),
        _ => Err(Problem::Command),
    }
}

fn repeat(words: &[&str]) -> Result<u32, Problem> {
    match words {
        [] => Ok(1),
        [times] => match times.strip_prefix('x') {
            Some(digits) => number(digits, TIMES_MAX.into()).map(|n| u32::try_from(n).unwrap_or(TIMES_MAX)),
            None => Err(Problem::Command),
        },
        _ => Err(Problem::Command),
    }
}

fn machine(settings: &[&str]) -> Result<Machine, Problem> {
    let mut settings = Settings::parse(settings)?;
    let default = Machine::default();
    let machine = Machine {
        memory_mb: settings.number("memory", default.memory_mb)?,
        instances: settings.small("instances", 1_000)? as usize,
        account: settings.small("account", default.account)?,
        waiting: settings.small("waiting", 1_000)? as usize,
        idle_ms: settings.number("idle", default.idle_ms)?,
        keep_alive: settings.keep_alive()?,
        freeze_ms: settings.number("freeze", default.freeze_ms)?,
        init_limit_ms: settings.number("init-limit", default.init_limit_ms)?,
        stop_ms: settings.number("stop", default.stop_ms)?,
    };
    settings.none_left(machine)
}

fn function(settings: &[&str]) -> Result<Function, Problem> {
    let mut settings = Settings::parse(settings)?;
    let function = Function {
        start: settings.span("start", 2)?,
        init: settings.span("init", 50)?,
        service: settings.span("service", 10)?,
        memory_mb: settings.small("memory", 128)?,
        slots: settings.small("slots", 1)?.max(1),
        timeout_ms: settings.number("timeout", 3_000)?,
        reserved: if settings.has("reserved") { Some(settings.small("reserved", 0)?) } else { None },
    };
    settings.none_left(function)
}

/// The `key=value` words of a line, taken out one by one.
struct Settings<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Settings<'a> {
    fn parse(words: &[&'a str]) -> Result<Settings<'a>, Problem> {
        let mut settings = BTreeMap::new();
        for word in words {
            let (key, value) = word.split_once('=').ok_or(Problem::Command)?;
            if settings.insert(key, value).is_some() {
                return Err(Problem::Setting(key.to_owned()));
            }
        }
        Ok(Settings(settings))
    }

    fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    fn number(&mut self, key: &str, default: u64) -> Result<u64, Problem> {
        self.0.remove(key).map_or(Ok(default), time_ms)
    }

    fn keep_alive(&mut self) -> Result<Policy, Problem> {
        let Some(name) = self.0.remove("keep") else { return Ok(Policy::Fixed) };
        Policy::parse(name).ok_or_else(|| Problem::Setting(format!("keep={name}")))
    }

    fn small(&mut self, key: &str, default: u32) -> Result<u32, Problem> {
        let Some(text) = self.0.remove(key) else { return Ok(default) };
        small(text)
    }

    fn span(&mut self, key: &str, default: u64) -> Result<Span, Problem> {
        let Some(text) = self.0.remove(key) else { return Ok(Span::Listed(vec![default])) };
        let refuse = |_| Problem::Span(text.to_owned());
        match text.split_once("..") {
            Some((low, high)) => {
                let (low, high) = (time_ms(low).map_err(refuse)?, time_ms(high).map_err(refuse)?);
                if low <= high { Ok(Span::Between(low, high)) } else { Err(Problem::Span(text.to_owned())) }
            }
            None => text.split(',').map(time_ms).collect::<Result<_, _>>().map(Span::Listed).map_err(refuse),
        }
    }

    fn none_left<T>(self, done: T) -> Result<T, Problem> {
        self.0.keys().next().map_or(Ok(done), |key| Err(Problem::Setting((*key).to_owned())))
    }
}

fn time_ms(text: &str) -> Result<u64, Problem> {
    number(text, TIME_MS_MAX)
}

fn small(text: &str) -> Result<u32, Problem> {
    number(text, u32::MAX.into()).and_then(|n| u32::try_from(n).map_err(|_| Problem::Number(text.to_owned())))
}

fn number(text: &str, max: u64) -> Result<u64, Problem> {
    match text.parse() {
        Ok(n) if n <= max => Ok(n),
        Ok(_) | Err(_) => Err(Problem::Number(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: &str) -> String {
        let error = parse(&format!("function f\n{line}")).unwrap_err();
        assert_eq!(error.line, 2, "{line}");
        error.problem.to_string()
    }

    #[test]
    fn every_command_of_the_description() {
        let text = "# nothing\n\nseed 7\nmachine memory=1024 idle=5\nfunction f service=5,10 start=1..2 reserved=0\n\
                    at 3 invoke f # once\nat 4 break-init f x2\nevery 5 invoke f x2 from 7 until 9\nrun until 8\nrun\nshow";
        let commands = parse(text).unwrap();
        assert_eq!(commands.len(), 9);
        let Command::Function { function, .. } = &commands[2] else { panic!("{:?}", commands[2]) };
        assert_eq!((&function.service, &function.start), (&Span::Listed(vec![5, 10]), &Span::Between(1, 2)));
        assert_eq!((function.reserved, function.slots), (Some(0), 1));
        let deed = Deed::Invoke { function: "f".into(), times: 2 };
        assert_eq!(commands[5], Command::Every { period_ms: 5, from_ms: 7, until_ms: 9, deed });
    }

    #[test]
    fn refused_lines() {
        for (line, want) in [
            ("nothing", "no command looks like this"),
            ("at 5", "no command looks like this"),
            ("at x drain", "'x' is not a number here"),
            ("at 1099511627777 drain", "'1099511627777' is not a number here"),
            ("at 5 invoke", "no command looks like this"),
            ("at 5 invoke g", "there is no function 'g'"),
            ("at 5 invoke f 3", "no command looks like this"),
            ("at 5 invoke f x100001", "'100001' is not a number here"),
            ("every 0 invoke f until 3", "'0' is not a number here"),
            ("every 1 invoke f", "no command looks like this"),
            ("function f", "function 'f' is there already"),
            ("function g colour=3", "'colour' is not a setting here, or given twice"),
            ("function g slots=1 slots=2", "'slots' is not a setting here, or given twice"),
            ("function g service=9..5", "'9..5' is not a time: 10, 5,10,20 or 5..20"),
            ("function g service=,", "',' is not a time: 10, 5,10,20 or 5..20"),
            ("function g reserved=1001", "more concurrency is reserved than the account has"),
            ("machine", "the machine comes before the first function, once"),
        ] {
            assert_eq!(problem(line), want, "{line}");
        }
    }
}
