//! Which files stay out of a package.

/// Folders and files that never belong into one.
const ALWAYS: [&str; 3] = [".git", "__pycache__", ".DS_Store"];

/// A list of patterns. A pattern without `/` holds for names at any depth; one with `/` for paths from the folder
/// that is deployed. `*` stands for any characters but `/`, `?` for one. What is below an excluded folder is out too.
#[derive(Debug, Clone, Default)]
pub struct Patterns(Vec<String>);

impl Patterns {
    /// These patterns and the built-in ones.
    pub fn new(patterns: &[String]) -> Patterns {
        let own = patterns.iter().map(|pattern| pattern.trim_end_matches('/').to_owned());
        Patterns(ALWAYS.into_iter().map(str::to_owned).chain(own).collect())
    }

    /// Is this path out? `path` is relative, with `/` between names; its parents are known to be in.
    pub fn exclude(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.0.iter().any(|pattern| match pattern.contains('/') {
            false => matches(pattern, name),
            true => {
                let pattern: Vec<&str> = pattern.trim_start_matches('/').split('/').collect();
                let path: Vec<&str> = path.split('/').collect();
                pattern.len() == path.len() && pattern.iter().zip(&path).all(|(p, name)| matches(p, name))
            }
        })
    }
}

/// Matches one name. Going back to the last `*` only keeps this at pattern times name steps at most.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                retry = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match retry {
                Some((star, taken)) => {
                    retry = Some((star, taken + 1));
                    p = star + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (pattern, name, want) in [
            ("*.md", "README.md", true),
            ("*.md", "README.mdx", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("?.txt", "ä.txt", true),
            ("?.txt", ".txt", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
        let slow = format!("{}b", "*a".repeat(50));
        assert!(!matches(&slow, &"a".repeat(2_000)));
    }

    #[test]
    fn paths() {
        let patterns = Patterns::new(&["*.md".to_owned(), "tests/".to_owned(), "/src/*.c".to_owned()]);
        for path in [".git", "a/__pycache__", "x.md", "a/b/x.md", "tests", "a/tests", "src/x.c"] {
            assert!(patterns.exclude(path), "{path}");
        }
        for path in ["tidegate.toml", "md", "a/src/x.c", "src/a/x.c", "src/x.h", ".gitignore"] {
            assert!(!patterns.exclude(path), "{path}");
        }
    }
}
