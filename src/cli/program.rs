//! The program: arguments in, exit code out, and the one place where commands are dispatched. Knows every command by
//! name, none from inside.

use std::sync::Arc;

use super::args::{Args, Command, Global, State};
use super::commands;
use super::environment::Environment;
use super::error::Error;
use super::exit::Exit;
use super::printer::Printer;
use super::signals::Signals;
use crate::cancel::Cancel;
use crate::clock::Clock;
use crate::graph::Depth;

/// What every command is given.
pub struct Context<'a> {
    /// Flags of every command.
    pub global: &'a Global,
    /// The environment, read once.
    pub environment: &'a Environment,
    /// The way out.
    pub printer: &'a Printer,
    /// Cancelled by the first signal.
    pub cancel: &'a Cancel,
    /// What came in.
    pub signals: &'a Signals,
}

impl Context<'_> {
    /// The clock of this machine, which igraph's own tests set ahead.
    pub fn clock(&self) -> Arc<dyn Clock> {
        super::clock::system(self.environment.ahead)
    }
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
    let cancel = Cancel::new();
    let signals = if works(&args.command) { Signals::listen(&cancel) } else { Signals::default() };
    dispatch(&args.command, &Context { global: &args.global, environment: &environment, printer, cancel: &cancel, signals: &signals })
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

/// Whether a command does work that an interrupt should end in good order; others just end.
fn works(command: &Command) -> bool {
    matches!(
        command,
        Command::Build(_)
            | Command::Test(_)
            | Command::Tag(_)
            | Command::Push(_)
            | Command::Update(_)
            | Command::Outdated(_)
            | Command::Export(_)
            | Command::Verify(_)
    )
}

fn dispatch(command: &Command, context: &Context<'_>) -> Result<Exit, Error> {
    match command {
        Command::Build(args) => commands::watch::run("build", Depth::Build, args, context),
        Command::Test(args) => commands::watch::run("test", Depth::Test, args, context),
        Command::Tag(args) => commands::verb::run("tag", Depth::Tag, args, context),
        Command::Push(args) => commands::verb::run("push", Depth::Push, args, context),
        Command::Targets(args) => commands::targets::run(args, context),
        Command::Why(args) => commands::why::run(args, context),
        Command::Log(args) => commands::log::run(args, context),
        Command::Outdated(args) => commands::bases::outdated(args, context),
        Command::Update(args) => commands::bases::update(args, context),
        Command::Export(args) => commands::export::run(args, context),
        Command::Verify(args) => commands::verify::run(args, context),
        Command::Check(args) => commands::check::run(args, context),
        Command::State(State::Save { file }) => commands::state::save(file, context),
        Command::State(State::Load { file, no_wait }) => commands::state::load(file, *no_wait, context),
        Command::Root => commands::state::root(context),
        Command::Clean(args) => commands::state::clean(args, context),
        Command::Gc(args) => commands::state::gc(args, context),
        Command::Doctor(args) => commands::doctor::run(args, context),
        Command::Completions { shell } => commands::completions::run(*shell, context),
        Command::Help { topic } => commands::help::run(topic, context),
    }
}
