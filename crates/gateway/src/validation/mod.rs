//! From the bytes of a request to values that the rest of the program trusts.
//!
//! Three kinds of refusal, in the order in which AWS checks: JSON of the wrong shape (`SerializationException`),
//! constraints of the service model, all of them together (`ValidationException`), and business rules, the first that
//! is broken (`InvalidParameterValueException`).

pub mod references;

pub mod configuration;

pub mod code;

pub mod aliases;

pub mod tags;

mod environment;

mod echoed;

pub mod patterns;

mod json;

pub use json::{Fields, parse};
pub use patterns::Pattern;

use crate::errors::{Exception, Refusal};
use std::fmt::Display;

/// What a request breaks of the service model's constraints.
#[derive(Debug, Default)]
pub struct Violations(Vec<String>);

/// A member's value where texts quote it.
enum Shown<'a> {
    Value(&'a dyn Display),
    Null,
    /// Values that the service model calls sensitive are left out of texts.
    Sensitive,
}

impl Violations {
    /// A value breaks a constraint. `at` is the member's path, lower camel case.
    pub fn add(&mut self, value: &dyn Display, at: &str, constraint: &str) {
        self.push(&Shown::Value(value), at, constraint);
    }

    /// A secret value breaks a constraint.
    pub fn add_sensitive(&mut self, at: &str, constraint: &str) {
        self.push(&Shown::Sensitive, at, constraint);
    }

    /// A required member is absent.
    pub fn missing(&mut self, at: &str) {
        self.push(&Shown::Null, at, "Member must not be null");
    }

    fn push(&mut self, value: &Shown<'_>, at: &str, constraint: &str) {
        let value = match value {
            Shown::Value(value) => format!("Value '{value}'"),
            Shown::Null => "Value null".to_owned(),
            Shown::Sensitive => "Value".to_owned(),
        };
        self.0.push(format!("{value} at '{at}' failed to satisfy constraint: {constraint}"));
    }

    /// Characters of a text.
    pub fn length(&mut self, text: &str, at: &str, min: usize, max: usize) {
        let chars = text.chars().count();
        if chars > max {
            self.add(&text, at, &format!("Member must have length less than or equal to {max}"));
        }
        if chars < min {
            self.add(&text, at, &format!("Member must have length greater than or equal to {min}"));
        }
    }

    /// A text's pattern.
    pub fn pattern(&mut self, text: &str, at: &str, pattern: &Pattern) {
        if !(pattern.matches)(text) {
            self.add(&text, at, &pattern.constraint());
        }
    }

    /// A number's range.
    pub fn range(&mut self, number: i64, at: &str, min: i64, max: i64) {
        if number > max {
            self.add(&number, at, &format!("Member must have value less than or equal to {max}"));
        }
        if number < min {
            self.add(&number, at, &format!("Member must have value greater than or equal to {min}"));
        }
    }

    /// One of a set of words, listed in AWS's order.
    pub fn one_of(&mut self, text: &str, at: &str, words: &[&str]) {
        if !words.contains(&text) {
            self.add(&text, at, &enum_constraint(words));
        }
    }

    /// How many elements a list has.
    pub fn count(&mut self, list: &[&str], at: &str, min: usize, max: usize) {
        if list.len() > max {
            self.add(&shown_list(list), at, &format!("Member must have length less than or equal to {max}"));
        }
        if list.len() < min {
            self.add(&shown_list(list), at, &format!("Member must have length greater than or equal to {min}"));
        }
    }

    /// Refuses the request if anything was broken.
    pub fn finish(self) -> Result<(), Refusal> {
        match self.0.len() {
            0 => Ok(()),
            count => {
                let errors = if count == 1 { "error" } else { "errors" };
                let text = format!("{count} validation {errors} detected: {}", self.0.join("; "));
                Err(Refusal::new(Exception::Validation, text))
            }
        }
    }
}

fn enum_constraint(words: &[&str]) -> String {
    format!("Member must satisfy enum value set: [{}]", words.join(", "))
}

fn shown_list(list: &[&str]) -> String {
    format!("[{}]", list.join(", "))
}

#[cfg(test)]
mod tests;
