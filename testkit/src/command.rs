//! Running other programs to their end: what they wrote is kept, and told when they fail.
//!
//! Each is in a process group of its own: Ctrl-C is for the program that runs them, which clears up by further commands.

use std::{
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use crate::{
    error::{Error, Failure},
    wait,
};

/// Runs `command` and gives what it wrote to standard output.
///
/// # Errors
/// When it does not start or does not succeed, with what it wrote to standard error.
pub fn run(command: &mut Command) -> Result<String, Error> {
    run_with(command, "")
}

/// Runs `command` with `input` on its standard input.
///
/// # Errors
/// As [`run`].
pub fn run_with(command: &mut Command, input: &str) -> Result<String, Error> {
    let failed = failed(command);
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let command = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut start = || {
        let mut child = command.spawn()?;
        let stdin = child.stdin.take();
        thread::scope(|scope| {
            if let Some(mut stdin) = stdin {
                // A command that ended early says why on its standard error.
                scope.spawn(move || stdin.write_all(input.as_bytes()));
            }
            child.wait_with_output()
        })
    };
    let output = match start() {
        Ok(output) => output,
        Err(error) => return Err(failed(Failure::Start(error))),
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(failed(Failure::Status { status: output.status, said: text(&output.stderr) })),
    }
}

/// Puts a program where it is to be started from.
///
/// Another process writes it. A file that this one writes is open, for a moment, in every process that another thread starts
/// meanwhile, and as long as it is the kernel starts no program of it (ETXTBSY).
///
/// # Errors
/// As [`run`].
pub fn install(program: &Path, to: &Path) -> Result<(), Error> {
    run(Command::new("install").args(["-m", "755"]).arg(program).arg(to)).map(drop)
}

/// The same for a script, of its text.
///
/// # Errors
/// As [`run`].
pub fn install_script(text: &str, to: &Path) -> Result<(), Error> {
    run_with(Command::new("install").args(["-m", "755", "/dev/stdin"]).arg(to), text).map(drop)
}

/// Runs `command` and gives what it wrote to standard output; it is killed when it has not ended after `bound`.
///
/// # Errors
/// As [`run`], and when it did not end in time.
pub fn run_within(command: &mut Command, bound: Duration) -> Result<String, Failure> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(Failure::Start)?;
    let stdout = reader(child.stdout.take());
    let stderr = reader(child.stderr.take());
    let ended = wait::until(bound, || !matches!(child.try_wait(), Ok(None)));
    if !ended {
        let _ = child.kill();
    }
    let status = child.wait().map_err(Failure::Start)?;
    let text = |thread: thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
    };
    let (stdout, said) = (text(stdout), text(stderr));
    match (ended, status.success()) {
        (true, true) => Ok(stdout),
        (true, false) => Err(Failure::Status { status, said }),
        (false, _) => Err(Failure::Late(bound)),
    }
}

/// The command line as a person would type it.
#[must_use]
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

fn failed(command: &Command) -> impl Fn(Failure) -> Error + use<> {
    let command = shown(command);
    move |failure| Error::Command { command: command.clone(), failure }
}

/// Takes what comes out of a pipe, so that the program never waits for a reader.
fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is what there is.
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        bytes
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_given_and_failure_told_with_the_command() {
        assert_eq!(run(Command::new("echo").arg("hi")).unwrap(), "hi\n");
        assert_eq!(run_with(&mut Command::new("cat"), "in and out").unwrap(), "in and out");
        let error = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).unwrap_err().to_string();
        assert_eq!(error, "`sh -c echo why >&2; exit 3` failed: exit status: 3: why");
        assert!(
            run(&mut Command::new("/no/such/program")).unwrap_err().to_string().contains("/no/such/program")
        );
    }

    #[test]
    fn output_is_bounded() {
        assert_eq!(run_within(Command::new("echo").arg("hi"), crate::wait::BOUND).unwrap(), "hi\n");
        let late = run_within(Command::new("sleep").arg("60"), Duration::from_millis(50)).unwrap_err();
        assert!(late.to_string().contains("50 ms"), "{late}");
        assert!(run_within(&mut Command::new("false"), crate::wait::BOUND).is_err());
    }
}
