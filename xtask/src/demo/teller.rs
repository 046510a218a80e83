//! How the story is set: headings, sentences, and commands with what they answer, as a reader would type them.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::stop;

const WIDTH: usize = 100;

/// Tells, and runs `eastgate` for what is told.
#[derive(Debug)]
pub(super) struct Teller {
    eastgate: PathBuf,
    bold: bool,
    chapter: u32,
}

impl Teller {
    pub(super) fn new(eastgate: &Path) -> Self {
        Self { eastgate: eastgate.to_owned(), bold: std::io::stdout().is_terminal(), chapter: 0 }
    }

    /// Begins a chapter.
    pub(super) fn chapter(&mut self, title: &str) {
        self.chapter += 1;
        let line = format!("{}. {title}", self.chapter);
        if self.bold {
            println!("\n\n\x1b[1m{line}\x1b[0m")
        } else {
            println!("\n\n{line}\n{}", "-".repeat(line.len()))
        }
    }

    /// Says something, in lines of readable length.
    pub(super) fn say(&self, text: &str) {
        println!();
        wrap(text, WIDTH).iter().for_each(|line| println!("{line}"));
    }

    /// Shows lines as they are, set off from what is said.
    pub(super) fn quote(&self, text: &str) {
        println!();
        text.lines().for_each(|line| println!("  {line}"));
    }

    /// Shows and runs `eastgate WORDS`, then shows what it printed; the exit code must be `expected`. Returns what
    /// it printed.
    pub(super) fn show(&self, words: &[&str], expected: i32) -> Result<String> {
        let command = words.join(" ");
        self.quote(&format!("$ eastgate {command}"));
        let done = self.start(words)?;
        let (text, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        text.lines().chain(errors.lines()).for_each(|line| println!("  {line}"));
        if done.status.code() != Some(expected) {
            bail!(
                "`eastgate {command}` ended with {}, where the story wants exit code {expected}",
                done.status
            );
        }
        Ok(text.into_owned())
    }

    /// Shows and runs `eastgate WORDS`, and returns its answer as JSON instead of showing it.
    pub(super) fn show_only_command(&self, words: &[&str]) -> Result<serde_json::Value> {
        self.quote(&format!("$ eastgate {}", words.join(" ")));
        self.ask(words)
    }

    /// What the story needs to know itself, as JSON. The exit code is the caller's to judge by the answer.
    pub(super) fn ask(&self, words: &[&str]) -> Result<serde_json::Value> {
        let done = self.start(&[words, &["-o", "json"]].concat())?;
        serde_json::from_slice(&done.stdout).with_context(|| {
            let errors = String::from_utf8_lossy(&done.stderr).into_owned();
            format!("`eastgate {}` ended with {} and no JSON: {errors}", words.join(" "), done.status)
        })
    }

    fn start(&self, words: &[&str]) -> Result<Output> {
        stop::check()?;
        let mut command = Command::new(&self.eastgate);
        let done = command.args(words).stdin(Stdio::null()).output();
        done.with_context(|| format!("cannot start {}", self.eastgate.display()))
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::wrap;

    #[test]
    fn lines_are_filled_and_no_word_is_lost() {
        assert_eq!(wrap("one two  three\nfour", 9), ["one two", "three", "four"]);
        assert_eq!(wrap("incomprehensibilities are", 5), ["incomprehensibilities", "are"]);
        assert!(wrap(" ", 5).is_empty());
    }
}
