//! Arguments, one file a command, exit codes, environment.

/// Runs the program.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(70)
}
