//! What a process costs, and what is typical of many costs. Knows no igraph.

use std::io::{self, Read as _, Seek as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a process took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// From its start to its end.
    pub wall: Duration,
    /// User and system time.
    pub cpu: Duration,
    /// The most memory it had, in KiB.
    pub peak_kib: i64,
}

/// Runs a program to its end, and takes what the kernel counted for it alone.
///
/// # Errors
/// Where it can't be run, or ends with another code than `code`; with what it said.
pub fn run_to(code: i32, command: &mut Command) -> Result<Cost, String> {
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut output = tempfile::tempfile().map_err(|error| error.to_string())?;
    let stderr = output.try_clone().map_err(|error| error.to_string())?;
    let stdout = output.try_clone().map_err(|error| error.to_string())?;
    let start = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).spawn().map_err(|error| format!("`{name}`: {error}"))?;
    let pid = i32::try_from(child.id()).map_err(|error| error.to_string())?;
    let mut status = 0;
    // SAFETY: both places outlive the call, and all-zero is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: as above; `child` is not waited for anywhere else.
    if unsafe { libc::wait4(pid, &mut status, 0, &mut usage) } != pid {
        return Err(format!("`{name}`: {}", io::Error::last_os_error()));
    }
    let wall = start.elapsed();
    if !libc::WIFEXITED(status) || libc::WEXITSTATUS(status) != code {
        let mut text = String::new();
        let _ = output.rewind().and_then(|()| output.read_to_string(&mut text));
        return Err(format!("`{name}` failed (status {status:#x}):\n{}", text.trim_end()));
    }
    let time = |value: libc::timeval| Duration::new(value.tv_sec.unsigned_abs(), value.tv_usec as u32 * 1000);
    Ok(Cost { wall, cpu: time(usage.ru_utime) + time(usage.ru_stime), peak_kib: usage.ru_maxrss })
}

/// As [`run_to`], to success.
///
/// # Errors
/// Where it can't be run, or fails.
pub fn run(command: &mut Command) -> Result<Cost, String> {
    run_to(0, command)
}

/// The value in the middle.
pub fn median<T: Ord + Copy>(values: impl IntoIterator<Item = T>) -> T {
    let mut values: Vec<T> = values.into_iter().collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// The medians of each.
pub fn medians(costs: &[Cost]) -> Cost {
    Cost {
        wall: median(costs.iter().map(|cost| cost.wall)),
        cpu: median(costs.iter().map(|cost| cost.cpu)),
        peak_kib: median(costs.iter().map(|cost| cost.peak_kib)),
    }
}

/// How often `part` goes into `whole`.
pub fn ratio(whole: Duration, part: Duration) -> f64 {
    whole.as_secs_f64() / part.as_secs_f64()
}
