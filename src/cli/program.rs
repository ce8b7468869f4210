//! The program: arguments in, exit code out, and the one place where commands are dispatched. Knows every command by
//! name, none from inside.

use super::args::{Args, Command, Global};
use super::commands;
use super::environment::Environment;
use super::error::Error;
use super::exit::Exit;
use super::printer::Printer;

/// What every command is given.
pub struct Context<'a> {
    /// Flags of every command.
    pub global: &'a Global,
    /// The environment, read once.
    pub environment: &'a Environment,
    /// The way out.
    pub printer: &'a Printer,
}

/// Runs the program: the process's arguments, environment and streams.
pub fn main() -> std::process::ExitCode {
    let environment = Environment::read();
    let printer = Printer::new(&environment);
    let ended = std::panic::catch_unwind(|| run(std::env::args_os(), &environment, &printer));
    ended.unwrap_or(Exit::Bug).into()
}

/// Parses a command line and carries it out; says on `printer` what went wrong.
pub fn run(line: impl IntoIterator<Item = std::ffi::OsString>, environment: &Environment, printer: &Printer) -> Exit {
    let ended = match Args::parse_line(line) {
        Ok(args) => carry_out(args, environment, printer),
        Err(error) => show_usage(&error, environment, printer),
    };
    let ended = ended.and_then(|exit| printer.flush().map(|()| exit));
    ended.unwrap_or_else(|error| {
        if !matches!(error, Error::ClosedPipe) {
            printer.error(&error);
        }
        error.exit()
    })
}

fn carry_out(args: Args, environment: &Environment, printer: &Printer) -> Result<Exit, Error> {
    let mut environment = environment.clone();
    if let Some(directory) = &args.global.directory {
        let moved = std::env::set_current_dir(directory).and_then(|()| std::env::current_dir());
        let path = || directory.clone();
        environment.current_dir = Some(moved.map_err(|source| Error::Directory { path: path(), source })?);
    }
    dispatch(&args.command, &Context { global: &args.global, environment: &environment, printer })
}

/// Help and version are data; anything else that clap has to say is for people.
fn show_usage(error: &clap::Error, environment: &Environment, printer: &Printer) -> Result<Exit, Error> {
    let rendered = error.render();
    if error.use_stderr() {
        if printer.color() {
            printer.say(format!("{}", rendered.ansi()).trim_end());
        } else {
            printer.say(rendered.to_string().trim_end());
        }
        return Ok(Exit::Usage);
    }
    if environment.color(environment.terminals.stdout) {
        printer.data(format_args!("{}", rendered.ansi()))?;
    } else {
        printer.data(format_args!("{rendered}"))?;
    }
    Ok(Exit::Done)
}

fn dispatch(command: &Command, context: &Context<'_>) -> Result<Exit, Error> {
    let not_connected = |command| Err(Error::NotConnected { command });
    match command {
        Command::Build(_) => not_connected("build"),
        Command::Test(_) => not_connected("test"),
        Command::Tag(_) => not_connected("tag"),
        Command::Push(_) => not_connected("push"),
        Command::Targets(_) => not_connected("targets"),
        Command::Why(_) => not_connected("why"),
        Command::Log(_) => not_connected("log"),
        Command::Outdated(_) => not_connected("outdated"),
        Command::Update(_) => not_connected("update"),
        Command::Check(_) => not_connected("check"),
        Command::State(_) => not_connected("state"),
        Command::Root => not_connected("root"),
        Command::Clean(_) => not_connected("clean"),
        Command::Gc(_) => not_connected("gc"),
        Command::Doctor(_) => not_connected("doctor"),
        Command::Completions { shell } => commands::completions::run(*shell, context),
        Command::Help { topic } => commands::help::run(topic, context),
    }
}
