//! Seeded draws, and random scripts for the run that looks for broken rules.

use std::fmt::Write;

/// A stream of draws; the same seed gives the same stream everywhere. The generator is SplitMix64 (Steele, Lea and
/// Flood, "Fast splittable pseudorandom number generators", 2014).
#[derive(Debug, Clone, Copy)]
pub struct Chance(u64);

impl Chance {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// One of `low..=high`; `low` if the range is empty. The tiny bias of the remainder does not matter here.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        match high.checked_sub(low).and_then(|span| span.checked_add(1)) {
            Some(choices) => low + mixed % choices,
            None => low,
        }
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        let at = self.between(0, choices.len().saturating_sub(1) as u64);
        choices.get(usize::try_from(at).unwrap_or(0)).copied().unwrap_or_default()
    }
}

/// A script with a small machine, a few functions, a crowd of invocations and every kind of trouble; it drains in the
/// end and runs until nothing is left.
pub fn script(seed: u64) -> String {
    let mut chance = Chance::new(seed);
    let mut text = format!("seed {seed}\n");
    let account = chance.between(1, 40);
    let machine = [
        ("memory", chance.between(0, 3_000)),
        ("instances", chance.between(0, 12)),
        ("account", account),
        ("waiting", chance.between(0, 20)),
        ("idle", chance.between(0, 300)),
        ("freeze", chance.between(0, 200)),
        ("init-limit", chance.between(1, 60)),
        ("stop", chance.between(0, 20)),
    ];
    let settings: Vec<String> = machine.iter().map(|(key, value)| format!("{key}={value}")).collect();
    line(&mut text, format_args!("machine {}", settings.join(" ")));
    let names: Vec<String> = (0..chance.between(1, 4)).map(|n| format!("f{n}")).collect();
    for name in &names {
        // Four functions at most, so that all reservations together fit the account.
        let reserved = match chance.between(0, 4) {
            0 => format!(" reserved={}", account / 4),
            1 => " reserved=0".to_owned(),
            _ => String::new(),
        };
        describe(&mut text, &mut chance, name, &reserved);
    }
    for _ in 0..chance.between(5, 60) {
        trouble(&mut text, &mut chance, &names);
    }
    text + "at 1000 drain\nat 1010 invoke f0 x3\nat 1020 update f0\nat 1030 invoke f0\nrun until 900\nshow\nrun\n"
}

fn describe(text: &mut String, chance: &mut Chance, name: &str, reserved: &str) {
    let (low, more) = (chance.between(0, 30), chance.between(0, 60));
    line(
        text,
        format_args!(
            "function {name} start={}..20 init=0..{} service={low}..{} memory={} slots={} timeout={}{reserved}",
            chance.between(0, 20),
            chance.between(0, 80),
            low + more,
            chance.between(1, 8) * 128,
            chance.between(1, 3),
            chance.between(1, 100),
        ),
    );
}

fn trouble(text: &mut String, chance: &mut Chance, names: &[String]) {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (name, at_ms) = (chance.one_of(&names), chance.between(0, 900));
    match chance.between(0, 11) {
        0..=3 => line(text, format_args!("at {at_ms} invoke {name} x{}", chance.between(1, 12))),
        4 => line(text, format_args!("every {} invoke {name} from {at_ms} until 950", chance.between(1, 90))),
        5 => line(text, format_args!("at {at_ms} crash {name}")),
        6 => line(text, format_args!("at {at_ms} break-init {name} x{}", chance.between(1, 3))),
        7 => line(text, format_args!("at {at_ms} break-start {name} x{}", chance.between(1, 3))),
        8 => line(text, format_args!("at {at_ms} cancel {name}")),
        9 => line(text, format_args!("at {at_ms} provision {name} {}", chance.between(0, 4))),
        10 => line(text, format_args!("at {at_ms} warm {name} {}", chance.between(0, 4))),
        _ => line(text, format_args!("at {at_ms} update {name}")),
    }
}

fn line(text: &mut String, line: std::fmt::Arguments) {
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// First outputs for seed 1234567, as other implementations of SplitMix64 give them.
    #[test]
    fn splitmix64() {
        let mut chance = Chance::new(1_234_567);
        let drawn: Vec<u64> = (0..2).map(|_| chance.between(0, u64::MAX - 1)).collect();
        assert_eq!(drawn, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        assert_eq!(chance.between(5, 5), 5);
        assert_eq!(chance.between(5, 4), 5);
    }
}
