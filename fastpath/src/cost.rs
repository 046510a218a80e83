//! What the kernel's verifier says of the programs: how much it had to look at, and how much stack they use. Both have
//! limits that a change can run into on some kernels and not on others.

use std::sync::{Mutex, PoisonError};

use libbpf_rs::{ObjectBuilder, PrintLevel, set_print};

use crate::{Error, OBJECT};

/// What a program costs the verifier.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cost {
    /// Its name
    pub program: String,
    /// Instructions that the verifier went through, each as often as it met it in another state; the limit is
    /// 1,000,000
    pub instructions: u32,
    /// Bytes of stack, its own and those of all functions that it calls; at once there may be 512
    pub stack: u32,
}

/// `BPF_LOG_STATS` of the kernel's bpf_verifier.h: figures alone, not each step.
const STATISTICS: u32 = 4;

/// libbpf prints by way of a function without a context.
static SAID: Mutex<String> = Mutex::new(String::new());

fn listen(_: PrintLevel, text: String) {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
}

/// Loads the programs, asks what they cost, and lets them go.
///
/// # Errors
/// What the kernel says.
pub fn costs() -> Result<Vec<Cost>, Error> {
    let mut open = ObjectBuilder::default().open_memory(&OBJECT.0).map_err(Error::Load)?;
    for mut program in open.progs_mut() {
        program.set_log_level(STATISTICS);
    }
    let mut said = String::new();
    listening(|| {
        let loaded = open.load();
        said = heard();
        loaded
    })
    .map_err(|(source, _)| Error::Load(source))?;
    Ok(read(&said))
}

fn heard() -> String {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Does something with libbpf, and gives what it printed when that fails.
pub(crate) fn listening<T>(
    work: impl FnOnce() -> Result<T, libbpf_rs::Error>,
) -> Result<T, (libbpf_rs::Error, String)> {
    SAID.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let before = set_print(Some((PrintLevel::Debug, listen)));
    let done = work();
    set_print(before);
    done.map_err(|error| (error, heard()))
}

/// A log begins with `prog 'NAME': -- BEGIN PROG LOAD LOG --` and has `stack depth A+B` (the program's, and those of
/// what it calls) and `processed N insns (limit M) ..`.
fn read(said: &str) -> Vec<Cost> {
    let mut costs: Vec<Cost> = Vec::new();
    for line in said.lines() {
        if line.contains("BEGIN PROG LOAD LOG")
            && let Some(program) = line.split('\'').nth(1)
        {
            costs.push(Cost { program: program.into(), instructions: 0, stack: 0 });
        } else if let (Some(cost), Some(depths)) = (costs.last_mut(), line.strip_prefix("stack depth ")) {
            cost.stack = depths.split('+').filter_map(|depth| depth.trim().parse::<u32>().ok()).sum();
        } else if let (Some(cost), Some(rest)) = (costs.last_mut(), line.strip_prefix("processed ")) {
            cost.instructions = rest.split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0);
        }
    }
    costs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read() {
        let said = "libbpf: prog 'tenant': -- BEGIN PROG LOAD LOG --\nverification time 4688 usec\n\
                    stack depth 248+16\nprocessed 5123 insns (limit 1000000) max_states_per_insn 4\n\
                    -- END PROG LOAD LOG --\nlibbpf: prog 'underlay': -- BEGIN PROG LOAD LOG --\nstack depth 96\n\
                    processed 77 insns (limit 1000000)\n";
        let cost = |program: &str, instructions, stack| Cost { program: program.into(), instructions, stack };
        assert_eq!(read(said), [cost("tenant", 5123, 264), cost("underlay", 77, 96)]);
        assert_eq!(read("nothing of the kind"), []);
    }
}
