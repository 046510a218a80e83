//! How the story is set: headings, sentences, and commands with what they answer, as a reader would type them.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

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
            println!("\n\x1b[1m{line}\x1b[0m")
        } else {
            println!("\n{line}\n{}", "-".repeat(line.len()))
        }
    }

    /// Says something, in lines of readable length.
    pub(super) fn say(&self, text: &str) {
        wrap(text, WIDTH).iter().for_each(|line| println!("{line}"));
    }

    /// Shows and runs `eastgate WORDS`; the exit code must be `expected`. Returns what it printed.
    pub(super) fn show(&self, words: &[&str], expected: i32) -> Result<String> {
        let mut command = Command::new(&self.eastgate);
        command.args(words);
        self.show_command(&format!("eastgate {}", words.join(" ")), &mut command, expected)
    }

    /// Shows `shown` and runs `command`; the exit code must be `expected`. Returns what it printed.
    pub(super) fn show_command(&self, shown: &str, command: &mut Command, expected: i32) -> Result<String> {
        stop::check()?;
        println!("\n  $ {shown}");
        let done =
            command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{shown}`"))?;
        let text = String::from_utf8_lossy(&done.stdout).into_owned();
        text.lines().for_each(|line| println!("  {line}"));
        String::from_utf8_lossy(&done.stderr).lines().for_each(|line| println!("  {line}"));
        println!();
        if done.status.code() != Some(expected) {
            bail!("`{shown}` ended with {}, where the story wants exit code {expected}", done.status);
        }
        Ok(text)
    }

    /// Asks without showing: what the story needs to know itself.
    pub(super) fn ask(&self, words: &[&str]) -> Result<serde_json::Value> {
        let text = crate::run::output(Command::new(&self.eastgate).args(words).args(["-o", "json"]))?;
        serde_json::from_str(&text).with_context(|| format!("`eastgate {}` answered {text}", words.join(" ")))
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
