//! A child process works on a data folder and is killed again and again. What it was told to be done must be
//! there afterwards, the one thing under way is done or not, and nothing is half done.

use crate::crafted_zip::{crc32, deflated, file, zip};
use crate::{function, name};
use model::log::LogLine;
use model::{Alias, Digest, Limits, Published, Version};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use store::{Cursor, Expect, Store};

const FOLDER: &str = "STORE_CRASH_FOLDER";
const SEED: &str = "STORE_CRASH_SEED";
const ROUNDS_MAX: u64 = 60;
const TIME_MAX: Duration = Duration::from_secs(8);
/// A kill comes up to so much later than the child's last word, so that it hits every stage of the next step.
const KILL_DELAY_MAX_US: u64 = 4_000;
/// A child that nobody kills ends by itself.
const STEPS_MAX: u64 = 2_000;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// Not a test by itself: the child of the one below, and nothing at all without it.
#[test]
fn child() {
    let (Ok(folder), Ok(seed)) = (std::env::var(FOLDER), std::env::var(SEED)) else { return };
    let store = Store::open(Path::new(&folder)).unwrap();
    let mut dice = Dice(seed.parse().unwrap());
    for _ in 0..STEPS_MAX {
        let name = format!("f{}", dice.roll(8));
        match dice.roll(10) {
            0..5 => {
                let bytes = random_zip(&mut dice);
                println!("about to add");
                let code = store.packages().add(&bytes, &Limits::default()).unwrap();
                println!("try put {name} {}", code.digest);
                publish_next(&store, &name, code.digest);
                println!("did put {name} {}", code.digest);
            }
            5 => {
                println!("try delete {name} -");
                store.registry().delete_function(&crate::name(&name), Expect::Any).unwrap();
                println!("did delete {name} -");
            }
            6 => remove_unused(&store),
            7 => println!("did generation {} -", store.registry().next_generation().unwrap().0),
            _ => append_next_line(&store),
        }
    }
}

/// Writes a function and, a quarter of the time, with it the next of its versions and an alias of that.
fn publish_next(store: &Store, text: &str, digest: Digest) {
    let registry = store.registry();
    let mut made = function(text, digest);
    made.last_version = registry.function(&made.name).unwrap().map_or(0, |(present, _)| present.last_version);
    if !digest.0[0].is_multiple_of(4) {
        registry.put_function(&made, Expect::Any).unwrap();
        return;
    }
    made.last_version += 1;
    let number = made.last_version;
    let version = Published { number, function: made.clone(), latest_description: String::new(), optimized: false };
    registry.publish(&made, Expect::Any, &version).unwrap();
    let alias = Alias {
        function: made.name,
        name: "live".to_owned(),
        version: Version::Number(number),
        additional: BTreeMap::new(),
        description: String::new(),
        revision_id: String::new(),
    };
    registry.put_alias(&alias, Expect::Any).unwrap();
}

fn random_zip(dice: &mut Dice) -> Vec<u8> {
    let files = 1 + dice.roll(60);
    let entries: Vec<_> = (0..files)
        .map(|number| {
            let name = format!("d{}/f{number}", dice.roll(3));
            let content = vec![dice.roll(256) as u8; dice.roll(3_000) as usize];
            if dice.roll(2) == 0 { file(name, &content) } else { deflated(name, &content) }
        })
        .collect();
    zip(&entries)
}

fn remove_unused(store: &Store) {
    let functions = store.registry().functions(None, 100).unwrap();
    let mut used: BTreeSet<Digest> = functions.iter().map(|(function, _)| function.code.digest).collect();
    let mut also = |version: Published| {
        used.insert(version.function.code.digest);
    };
    store.registry().each_version(&mut also).unwrap();
    for digest in store.packages().list().unwrap() {
        if !used.contains(&digest) {
            store.packages().remove(&digest).unwrap();
        }
    }
}

/// The log counts on from its last line, through all children.
fn append_next_line(store: &Store) {
    let last = store.logs().read(&name("log"), None, 1).unwrap().0;
    let number = last.first().map_or(0, |line| line.time_ms) + 1;
    let text = "x".repeat(number as usize % 300);
    let line = LogLine { function: name("log"), version: Version::Latest, stream: "s".into(), time_ms: number, text };
    store.logs().append(&[line], &log_limits()).unwrap();
    println!("did log {number} -");
}

fn log_limits() -> Limits {
    Limits { log_file_bytes: 2_000, log_files: 2, ..Limits::default() }
}

/// What the killed children had been told.
#[derive(Default)]
struct Told {
    functions: BTreeMap<String, String>,
    /// The write that was under way.
    trying: Option<(String, Option<String>)>,
    generation: u64,
    log: u64,
}

impl Told {
    fn hear(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["try", "put", name, digest] => self.trying = Some(((*name).into(), Some((*digest).into()))),
            ["try", "delete", name, _] => self.trying = Some(((*name).into(), None)),
            ["did", "put", name, digest] => {
                self.functions.insert((*name).into(), (*digest).into());
                self.trying = None;
            }
            ["did", "delete", name, _] => {
                self.functions.remove(*name);
                self.trying = None;
            }
            ["did", "generation", number, _] => self.generation = number.parse().unwrap(),
            ["did", "log", number, _] => self.log = number.parse().unwrap(),
            _ => {}
        }
    }
}

#[test]
fn killed_at_any_point() {
    let dir = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let (mut told, mut rounds, mut half_done, mut dice) = (Told::default(), 0, 0, Dice(0x5eed));
    while rounds < ROUNDS_MAX && start.elapsed() < TIME_MAX {
        rounds += 1;
        let seed = 1 + dice.roll(1 << 60);
        let mut child = spawn(dir.path(), seed);
        let delay = Duration::from_micros(dice.roll(KILL_DELAY_MAX_US));
        listen_and_kill(&mut child, &mut told, 1 + dice.roll(40), delay);
        half_done += u32::from(has_half_done_package(dir.path()));
        check(dir.path(), &mut told, seed);
    }
    println!("{rounds} kills, {half_done} of them left a half-done package behind");
    assert!(rounds >= 3, "only {rounds} rounds");
    assert!(told.generation > 0 && told.log > 0 && !told.functions.is_empty());
}

fn spawn(folder: &Path, seed: u64) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["crash::child", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(FOLDER, folder).env(SEED, seed.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn has_half_done_package(folder: &Path) -> bool {
    let Ok(entries) = fs::read_dir(folder.join("packages")) else { return false };
    entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("tmp-"))
}

/// Kills the child a moment after it has said `steps` things, and hears what it said until then.
fn listen_and_kill(child: &mut Child, told: &mut Told, steps: u64, delay: Duration) {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let mut heard = 0;
    while heard < steps && output.read_line(&mut line).unwrap() > 0 {
        told.hear(line.trim_end());
        heard += u64::from(["about", "did", "try"].iter().any(|word| line.starts_with(word)));
        line.clear();
    }
    std::thread::sleep(delay);
    child.kill().unwrap();
    child.wait().unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    rest.lines().for_each(|line| told.hear(line));
}

/// Opens the folder as the next run does and compares.
fn check(folder: &Path, told: &mut Told, seed: u64) {
    let store = Store::open(folder).unwrap();
    let found = store.registry().functions(None, 100).unwrap();
    let found: BTreeMap<String, String> = found
        .into_iter()
        .map(|(function, _)| (function.name.as_str().to_owned(), function.code.digest.to_string()))
        .collect();
    if found != told.functions
        && let Some((name, digest)) = told.trying.take()
    {
        match digest {
            Some(digest) => told.functions.insert(name, digest),
            None => told.functions.remove(&name),
        };
    }
    told.trying = None;
    assert_eq!(found, told.functions, "seed {seed}");
    for digest in found.values() {
        check_package(&store, &Digest::parse(digest).unwrap(), seed);
    }
    for entry in fs::read_dir(folder.join("packages")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let digest = Digest::parse(name.trim_end_matches(".zip"));
        assert!(digest.is_ok_and(|digest| store.packages().contains(&digest)), "{name} is left, seed {seed}");
    }
    check_versions(&store, seed);
    let generation = store.registry().next_generation().unwrap().0;
    assert!(generation > told.generation, "seed {seed}");
    let lines = store.logs().read(&name("log"), Some(&Cursor::START), 10_000).unwrap().0;
    let numbers: Vec<u64> = lines.iter().map(|line| line.time_ms).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "seed {seed}: {numbers:?}");
    assert!(numbers.last().copied().unwrap_or(0) >= told.log, "seed {seed}: {numbers:?}");
    assert!(lines.iter().all(|line| line.text.len() == line.time_ms as usize % 300), "seed {seed}");
}

/// As many versions as their function has given numbers, each with its package; an alias points to one that is there;
/// nothing belongs to a function that is gone.
fn check_versions(store: &Store, seed: u64) {
    let registry = store.registry();
    let functions = registry.functions(None, 100).unwrap();
    let given: BTreeMap<_, _> =
        functions.into_iter().map(|(function, _)| (function.name, function.last_version)).collect();
    let mut found: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    registry
        .each_version(|version| {
            check_package(store, &version.function.code.digest, seed);
            found.entry(version.function.name).or_default().push(version.number);
        })
        .unwrap();
    for (name, last) in &given {
        let numbers: Vec<u64> = (1..=*last).collect();
        assert_eq!(found.remove(name).unwrap_or_default(), numbers, "{name}, seed {seed}");
    }
    assert!(found.is_empty(), "{found:?} are left, seed {seed}");
    registry
        .each_alias(|alias| {
            let last = given.get(&alias.function).copied().unwrap_or(0);
            assert!((1..=last).any(|number| alias.points_to(number)), "{alias:?}, seed {seed}");
        })
        .unwrap();
}

/// Every file of the zip is in the folder, whole.
fn check_package(store: &Store, digest: &Digest, seed: u64) {
    let stored = store.packages().zip(digest).unwrap().unwrap();
    let folder = store.packages().folder(digest);
    let mut archive = zip::ZipArchive::new(stored.file).unwrap();
    for number in 0..archive.len() {
        let entry = archive.by_index(number).unwrap();
        let content = fs::read(folder.join(entry.name().unwrap().as_ref())).unwrap();
        assert_eq!(content.len() as u64, entry.size(), "seed {seed}");
        assert_eq!(crc32(&content), entry.crc32(), "seed {seed}");
    }
}
