//! Scripts against their committed transcripts, and random scripts against the rules.
#![forbid(unsafe_code)]

use expect_test::expect_file;
use std::path::{Path, PathBuf};

/// Random scripts that are run.
const SEEDS: u64 = 1_000;

/// Each `scripts/NAME.txt` gives `scripts/NAME.out`; `UPDATE_EXPECT=1` renews them.
#[test]
fn transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts");
    let mut scripts: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "txt"))
        .collect();
    scripts.sort();
    assert!(!scripts.is_empty());
    for path in scripts {
        let text = std::fs::read_to_string(&path).unwrap();
        let transcript = sim::run(&text).unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
        expect_file![path.with_extension("out")].assert_eq(&transcript);
    }
}

/// No rule is broken on the way, and after the drain nothing is left: no instance, invocation, permit or room.
#[test]
fn random_scripts_keep_the_rules_and_end() {
    for seed in 0..SEEDS {
        let text = sim::random::script(seed);
        let mut world = sim::world::World::new();
        for command in sim::script::parse(&text).unwrap() {
            assert!(world.command(command).is_ok(), "seed {seed}: no end to it\n{text}");
        }
        let (breaches, is_empty) = (world.breaches().to_vec(), world.is_empty());
        assert!(
            breaches.is_empty() && is_empty,
            "seed {seed} (cargo run -p sim -- --seed {seed}): empty {is_empty}, {breaches:?}\n{text}{}",
            world.finish()
        );
    }
}

#[test]
fn the_same_script_gives_the_same_transcript() {
    let text = sim::random::script(7);
    assert_eq!(sim::run(&text).unwrap(), sim::run(&text).unwrap());
}
