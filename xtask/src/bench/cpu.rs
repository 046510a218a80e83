//! Time the machine's cores were busy, from `/proc/stat`: it counts softirq work that no process is charged for,
//! which is where a kernel dataplane spends its time.

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Busy time of all cores since the machine started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuTime(Duration);

impl CpuTime {
    pub(crate) fn now() -> Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let ticks = busy_ticks(&stat).context("/proc/stat has no `cpu` line of numbers")?;
        let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.unwrap_or(100);
        Ok(Self(Duration::from_secs_f64(ticks as f64 / per_second as f64)))
    }

    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The share of all cores (0 to 1) that is busy while nothing of ours runs.
pub(crate) fn background_load(over: Duration) -> Result<f64> {
    let before = CpuTime::now()?;
    std::thread::sleep(over);
    let cores = std::thread::available_parallelism()?.get();
    Ok(CpuTime::now()?.since(before).as_secs_f64() / over.as_secs_f64() / cores as f64)
}

/// Resident memory of a process, bytes.
pub(crate) fn resident(process: u32) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let Some(kib) = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()) else {
        bail!("{path} tells no VmRSS");
    };
    Ok(kib * 1024)
}

/// user + nice + system + irq + softirq; idle, iowait and stolen time are not work.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line.split_whitespace().map_while(|field| field.parse().ok()).collect();
    [0, 1, 2, 5, 6].iter().map(|&index| fields.get(index)).sum()
}

#[cfg(test)]
mod tests {
    use super::busy_ticks;

    #[test]
    fn idle_and_iowait_and_steal_are_not_busy() {
        let stat = "cpu  1 20 300 4000 50000 600000 7000000 80000000 0 0\ncpu0 9 9 9 9 9 9 9 9 0 0\n";
        assert_eq!(busy_ticks(stat), Some(7_600_321));
        assert_eq!(busy_ticks("intr 1 2 3"), None);
        assert_eq!(busy_ticks("cpu  1 2 3"), None);
    }
}
