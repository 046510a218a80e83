//! Scripts with scapy that run at a machine: packets and ends of connections made by code that nobody here wrote.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use super::Space;

/// A script, running. It is told by lines and answers by lines, and is killed when it goes out of scope.
pub struct Script {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Script {
    /// Starts it in `space`, and waits until it is ready.
    pub fn start(space: &Space, name: &str, arguments: &[&str]) -> Self {
        Self::run(space, &format!("scapy/{name}"), arguments)
    }

    /// The machine behind the device `macvtap` in `space`: its card is `card`, which is there from now on.
    pub fn behind_macvtap(space: &Space, macvtap: &str, card: &str) -> Self {
        Self::run(space, "common/macvtap.py", &[macvtap, card])
    }

    /// Of a file below tests/.
    fn run(space: &Space, file: &str, arguments: &[&str]) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(file);
        // The system's own Python is the one that its package of scapy is for.
        let mut command = space.command("/usr/bin/python3");
        command.arg(script).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut script = Self { child, input, output };
        assert_eq!(script.answer(), "ready", "is python3-scapy installed?");
        script
    }

    pub fn tell(&mut self, order: &str) {
        writeln!(self.input, "{order}").unwrap();
    }

    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    pub fn ask(&mut self, order: &str) -> String {
        self.tell(order);
        self.answer()
    }

    /// Does what must succeed.
    pub fn must(&mut self, order: &str, answer: &str, when: &str) {
        assert_eq!(self.ask(order), answer, "{order} {when}");
    }

    /// Has it send the packets of a case; how many.
    pub fn send(&mut self, case: &str) -> u64 {
        let answer = self.ask(case);
        let count = answer.strip_prefix("sent ").unwrap_or_else(|| panic!("{case}: {answer}"));
        count.parse().unwrap()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
