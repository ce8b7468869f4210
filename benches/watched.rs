//! A watching igraph, seen from outside: what it says, and what it has cost so far. Knows /proc, and no igraph.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// Long enough for any machine.
const NEVER: Duration = Duration::from_secs(600);

/// The process; it ends with this.
pub struct Watching {
    child: Child,
    lines: Receiver<String>,
}

impl Watching {
    /// Starts it.
    ///
    /// # Errors
    /// Where it can't be.
    pub fn start(command: &mut Command) -> Result<Self, String> {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|error| error.to_string())?;
        let (sender, lines) = channel();
        if let Some(stderr) = child.stderr.take() {
            std::thread::spawn(move || BufReader::new(stderr).lines().map_while(Result::ok).all(|line| sender.send(line).is_ok()));
        }
        Ok(Self { child, lines })
    }

    /// Waits until it says a line with `text`, and returns that.
    ///
    /// # Errors
    /// Where it ends before, or does not say it.
    pub fn until(&self, text: &str) -> Result<String, String> {
        loop {
            let line = self.lines.recv_timeout(NEVER).map_err(|_| format!("it never said `{text}`"))?;
            if line.contains(text) {
                return Ok(line);
            }
        }
    }

    /// User and system time so far.
    pub fn cpu(&self) -> Duration {
        let stat = self.read("stat");
        // after the name, which may hold anything: the 12th and 13th field, in ticks of 10 ms
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        Duration::from_millis(10 * (ticks(11) + ticks(12)))
    }

    /// Memory now, and the most it had: in MiB.
    pub fn memory(&self) -> (f64, f64) {
        let status = self.read("status");
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
        };
        (value("VmRSS:"), value("VmHWM:"))
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap_or_default()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
