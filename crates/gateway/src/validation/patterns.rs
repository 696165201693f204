//! The service model's patterns (August 2026): the text that refusals quote, and what it means. The texts are quoted
//! exactly; each matcher is written out by hand, since the whole text must match and nothing backtracks.

use model::{AccountId, Region};

/// A pattern of the service model.
pub struct Pattern {
    /// As refusals quote it.
    pub text: &'static str,
    /// Does a whole text match?
    pub matches: fn(&str) -> bool,
}

impl Pattern {
    /// The constraint's text.
    pub fn constraint(&self) -> String {
        format!("Member must satisfy regular expression pattern: {}", self.text)
    }
}

/// References that create or change: no dots in names.
pub const FUNCTION_NAME: &str = r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_]+)(:(\$LATEST|[a-zA-Z0-9-_]+))?";

/// References that read, invoke or delete.
pub const NAMESPACED_FUNCTION_NAME: &str = r"(arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:)?(\d{12}:)?(function:)?([a-zA-Z0-9-_\.]+)(:(\$LATEST(\.PUBLISHED)?|[a-zA-Z0-9-_]+))?";

pub const QUALIFIER: Pattern = Pattern {
    text: r"\$(LATEST(\.PUBLISHED)?)|[a-zA-Z0-9-_$]+",
    matches: |text| text == "$LATEST.PUBLISHED" || all(text, |c| is_word(c) || c == '$'),
};

pub const ALIAS_NAME: Pattern = Pattern {
    text: r"(?!^[0-9]+$)([a-zA-Z0-9-_]+)",
    matches: |text| all(text, is_word) && !all(text, |c| c.is_ascii_digit()),
};

pub const VERSION: Pattern =
    Pattern { text: r"(\$LATEST|[0-9]+)", matches: |text| text == "$LATEST" || all(text, |c| c.is_ascii_digit()) };

pub const VERSION_NUMBER: Pattern = Pattern { text: r"[0-9]+", matches: |text| all(text, |c| c.is_ascii_digit()) };

pub const ROLE: Pattern = Pattern {
    text: r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+",
    matches: |text| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-/".contains(c);
        after_partition(text, "iam")
            .and_then(|rest| rest.strip_prefix(':'))
            .and_then(|rest| rest.split_once(':'))
            .is_some_and(|(account, role)| {
                is_account(account) && role.strip_prefix("role").is_some_and(|name| name != "/" && all(name, allowed))
            })
    },
};

pub const HANDLER: Pattern = Pattern {
    text: r"[^\s]+",
    // What \s means in the language of the recorded answers.
    matches: |text| all(text, |c| !matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')),
};

pub const ANY_ARN_OR_EMPTY: Pattern = Pattern {
    text: r"(arn:(aws[a-zA-Z-]*)?:[a-z0-9-.]+:.*)|()",
    matches: |text| {
        text.is_empty()
            || after_arn(text).and_then(|rest| rest.split_once(':')).is_some_and(|(service, rest)| {
                all(service, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.') && one_line(rest)
            })
    },
};

pub const S3_BUCKET: Pattern = Pattern {
    text: r"[0-9A-Za-z\.\-_]*(?<!\.)",
    matches: |text| text.chars().all(|c| is_word(c) || c == '.') && !text.ends_with('.'),
};

pub const ANY_LINE: Pattern = Pattern { text: r".*", matches: one_line };

pub const SUBNET: Pattern = Pattern {
    text: r"subnet-[0-9a-z]*",
    matches: |text| {
        text.strip_prefix("subnet-").is_some_and(|id| id.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit()))
    },
};

pub const SECURITY_GROUP: Pattern = Pattern {
    text: r"sg-[0-9a-zA-Z]*",
    matches: |text| text.strip_prefix("sg-").is_some_and(|id| id.chars().all(|c| c.is_ascii_alphanumeric())),
};

pub const ENVIRONMENT_NAME: Pattern = Pattern {
    text: r"[a-zA-Z]([a-zA-Z0-9_])+",
    matches: |text| {
        let mut chars = text.chars();
        chars.next().is_some_and(|c| c.is_ascii_alphabetic())
            && all(chars.as_str(), |c| c.is_ascii_alphanumeric() || c == '_')
    },
};

/// Keys and values alike.
pub const TAG: Pattern = Pattern {
    text: r"([\p{L}\p{Z}\p{N}_.:/=+\-@]*)",
    // `is_whitespace` is a little more than \p{Z}, so control characters are taken out.
    matches: |text| {
        text.chars().all(|c| c.is_alphanumeric() || (c.is_whitespace() && !c.is_control()) || "_.:/=+-@".contains(c))
    },
};

pub const LAYER: Pattern = Pattern {
    text: r"(arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]+:[0-9]+)|(arn:[a-zA-Z0-9-]+:lambda:::awslayer:[a-zA-Z0-9-_]+)",
    matches: |text| {
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            ["arn", partition, "lambda", "", "", "awslayer", name] => {
                all(partition, |c| c.is_ascii_alphanumeric() || c == '-') && all(name, is_word)
            }
            ["arn", partition, "lambda", region, account, "layer", name, version] => {
                is_partition(partition)
                    && is_region(region)
                    && is_account(account)
                    && all(name, is_word)
                    && all(version, |c| c.is_ascii_digit())
            }
            _ => false,
        }
    },
};

pub const FILE_SYSTEM: Pattern = Pattern {
    text: r"arn:aws[a-zA-Z-]*:elasticfilesystem:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:access-point/fsap-[a-f0-9]{17}$|^arn:aws[-a-z]*:s3files:[0-9a-z-:]+:file-system/fs-[0-9a-f]{17,40}/access-point/fsap-[0-9a-f]{17,40}",
    matches: |text| {
        let hex = |id: &str, lengths: std::ops::RangeInclusive<usize>| {
            lengths.contains(&id.len()) && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let parts: Vec<&str> = text.split(':').collect();
        match parts.as_slice() {
            ["arn", partition, "elasticfilesystem", region, account, point] => {
                partition.starts_with("aws")
                    && is_partition(partition)
                    && is_region(region)
                    && is_account(account)
                    && point.strip_prefix("access-point/fsap-").is_some_and(|id| hex(id, 17..=17))
            }
            ["arn", partition, "s3files", middle @ .., last] => {
                let place = last.strip_prefix("file-system/fs-").and_then(|p| p.split_once("/access-point/fsap-"));
                partition.starts_with("aws")
                    && is_partition(partition)
                    && !middle.concat().is_empty()
                    && middle.concat().chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
                    && place.is_some_and(|(system, point)| hex(system, 17..=40) && hex(point, 17..=40))
            }
            _ => false,
        }
    },
};

pub const LOCAL_MOUNT_PATH: Pattern = Pattern {
    text: r"/mnt/[a-zA-Z0-9-_.]+",
    matches: |text| text.strip_prefix("/mnt/").is_some_and(|name| all(name, |c| is_word(c) || c == '.')),
};

pub const LOG_GROUP: Pattern =
    Pattern { text: r"[\.\-_/#A-Za-z0-9]+", matches: |text| all(text, |c| is_word(c) || ".#/".contains(c)) };

pub const CODE_SIGNING_CONFIG: Pattern = Pattern {
    text: r"arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:code-signing-config:csc-[a-z0-9]{17}",
    matches: |text| {
        lambda_resource(text).is_some_and(|(_, _, rest)| rest.strip_prefix("code-signing-config:").is_some_and(is_csc))
    },
};

pub const CAPACITY_PROVIDER: Pattern = Pattern {
    text: r"arn:aws[a-zA-Z-]*:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:capacity-provider:[a-zA-Z0-9-_]+",
    matches: |text| {
        text.starts_with("arn:aws")
            && lambda_resource(text)
                .is_some_and(|(_, _, rest)| rest.strip_prefix("capacity-provider:").is_some_and(|n| all(n, is_word)))
    },
};

/// As recorded; newer models write it a little differently.
pub const TAGGABLE: Pattern = Pattern {
    text: r"arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|code-signing-config:csc-[a-z0-9]{17}|event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|capacity-provider:[a-zA-Z0-9-_]+)",
    matches: |text| text.starts_with("arn:aws") && lambda_resource(text).is_some_and(|(_, _, rest)| is_taggable(rest)),
};

pub const MASTER_REGION: Pattern = Pattern {
    text: r"ALL|(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}",
    matches: |text| text == "ALL" || is_region(text),
};

pub const DURABLE_EXECUTION_NAME: Pattern = Pattern { text: r"[a-zA-Z0-9-_]+", matches: |text| all(text, is_word) };

pub const TENANT_ID: Pattern =
    Pattern { text: r"[a-zA-Z0-9\._:\/=+\-@ ]+", matches: |text| all(text, |c| is_word(c) || "._:/=+-@ ".contains(c)) };

fn all(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(allowed)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// `.*` does not cross lines.
fn one_line(text: &str) -> bool {
    !text.contains(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'])
}

fn is_region(text: &str) -> bool {
    Region::parse(text).is_ok()
}

fn is_account(text: &str) -> bool {
    AccountId::parse(text).is_ok()
}

/// `(aws[a-zA-Z-]*)?`
fn is_partition(text: &str) -> bool {
    text.is_empty()
        || text.strip_prefix("aws").is_some_and(|rest| rest.chars().all(|c| c.is_ascii_alphabetic() || c == '-'))
}

/// What follows `arn:<partition>:`.
fn after_arn(text: &str) -> Option<&str> {
    let (partition, rest) = text.strip_prefix("arn:")?.split_once(':')?;
    is_partition(partition).then_some(rest)
}

/// What follows `arn:<partition>:<service>:`.
fn after_partition<'a>(text: &'a str, service: &str) -> Option<&'a str> {
    after_arn(text)?.strip_prefix(service)?.strip_prefix(':')
}

/// Region, account and the rest of an ARN of the service `lambda`.
pub fn lambda_resource(text: &str) -> Option<(&str, &str, &str)> {
    let (region, rest) = after_partition(text, "lambda")?.split_once(':')?;
    let (account, rest) = rest.split_once(':')?;
    (is_region(region) && is_account(account)).then_some((region, account, rest))
}

fn is_taggable(resource: &str) -> bool {
    let parts: Vec<&str> = resource.split(':').collect();
    match parts.as_slice() {
        ["function", name] | ["layer", name] | ["capacity-provider", name] => all(name, is_word),
        ["function", name, qualifier] => all(name, is_word) && (*qualifier == "$LATEST" || all(qualifier, is_word)),
        ["code-signing-config", id] => is_csc(id),
        ["event-source-mapping", id] => {
            let lengths: Vec<usize> = id.split('-').map(str::len).collect();
            lengths == [8, 4, 4, 4, 12] && id.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
        }
        _ => false,
    }
}

fn is_csc(id: &str) -> bool {
    id.strip_prefix("csc-")
        .is_some_and(|id| id.len() == 17 && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_and_refused() {
        let check = |pattern: &Pattern, accepted: &[&str], refused: &[&str]| {
            for text in accepted {
                assert!((pattern.matches)(text), "{text} does not match {}", pattern.text);
            }
            for text in refused {
                assert!(!(pattern.matches)(text), "{text} matches {}", pattern.text);
            }
        };
        check(&QUALIFIER, &["$LATEST", "$LATEST.PUBLISHED", "1", "a$b"], &["", "a?b", "a b"]);
        check(
            &ROLE,
            &[
                "arn:aws:iam::000000000000:role/r",
                "arn:aws-cn:iam::000000000000:role/a/b+c",
                "arn::iam::000000000000:rolex",
            ],
            &[
                "r1",
                "",
                "arn:aws:iam::0:role/r",
                "arn:aws:iam::000000000000:role/",
                "arn:aws:iam::000000000000:role/r r",
            ],
        );
        check(&ALIAS_NAME, &["a", "a1", "1a", "-", "_9"], &["", "1", "2024", "a.b", "ä", "$LATEST"]);
        check(&VERSION, &["$LATEST", "0", "12"], &["", "a", "$LATES", "1a", "٣"]);
        check(&VERSION_NUMBER, &["0", "12"], &["", "$LATEST", "٣"]);
        check(&HANDLER, &["a.b", "ä"], &["", "a b", "a\nb"]);
        check(
            &ANY_ARN_OR_EMPTY,
            &["", "arn:aws:kms:us-east-1:1:key/x", "arn::sqs:"],
            &["x", "arn:aws:KMS:x", "arn:aws:kms"],
        );
        check(&S3_BUCKET, &["", "my.bucket-1_X"], &["a.", "a/b"]);
        check(&ENVIRONMENT_NAME, &["AB", "a1_"], &["", "A", "1A", "_A", "A-B"]);
        check(&TAG, &["", "key", "päth/a b:c=d+e@f_g.h-i"], &["a*b", "a\tb", "{}"]);
        check(
            &LAYER,
            &["arn:aws:lambda:us-east-1:000000000000:layer:l:1", "arn:aws:lambda:::awslayer:x"],
            &["arn:aws:lambda:us-east-1:000000000000:layer:l", "arn:aws:lambda:us-east-1:000000000000:layer:l:x", ""],
        );
        check(
            &TAGGABLE,
            &[
                "arn:aws:lambda:us-east-1:000000000000:function:f",
                "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST",
                "arn:aws:lambda:us-east-1:000000000000:layer:l",
            ],
            &[
                "arn:aws:something",
                "arn:aws:lambda:us-east-1:000000000000:foobar:x",
                "f",
                "arn:aws:lambda:us-east-1:000000000000:capacity-provider:c:alias",
            ],
        );
        check(&LOG_GROUP, &["/aws/lambda/f#x"], &["", "a b", "a*"]);
        check(&LOCAL_MOUNT_PATH, &["/mnt/a.b"], &["/mnt/", "/x"]);
        check(
            &FILE_SYSTEM,
            &["arn:aws:elasticfilesystem:us-east-1:000000000000:access-point/fsap-0123456789abcdef0"],
            &["", "arn:aws:elasticfilesystem:us-east-1:000000000000:access-point/fsap-0"],
        );
    }

    proptest::proptest! {
        #[test]
        fn never_panics(text in ".{0,60}", arn in "arn:[a-z:0-9/-]{0,60}") {
            for pattern in [
                &QUALIFIER, &ALIAS_NAME, &VERSION, &VERSION_NUMBER, &ROLE, &HANDLER, &ANY_ARN_OR_EMPTY, &S3_BUCKET, &ANY_LINE, &SUBNET, &SECURITY_GROUP,
                &ENVIRONMENT_NAME, &TAG, &LAYER, &FILE_SYSTEM, &LOCAL_MOUNT_PATH, &LOG_GROUP, &CODE_SIGNING_CONFIG,
                &CAPACITY_PROVIDER, &TAGGABLE, &MASTER_REGION, &DURABLE_EXECUTION_NAME, &TENANT_ID,
            ] {
                (pattern.matches)(&text);
                (pattern.matches)(&arn);
            }
        }
    }
}
