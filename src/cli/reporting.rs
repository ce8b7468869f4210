//! All reports of a run, set up from the arguments: console, JSON lines, JUnit, build report, `--show-output`, and the
//! recorder that it is given. Knows arguments and streams, no report from inside.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::ProgressDrawTarget;

use super::args::{ConsoleChoice, LogsChoice, OutputFlags};
use super::error::Error;
use super::printer::{Handle, Printer};
use super::program::Context;
use super::values::Destination;
use crate::cancel::Cancel;
use crate::clock::Clock;
use crate::digest::ImageId;
use crate::event::{Event, NodeKind, Outcome, Sink};
use crate::label::NodeLabel;
use crate::report::{
    Console, ConsoleOptions, Fan, Fold, History, JsonLines, Live, Logs, Shared, Verbosity, write_build_report, write_junit,
    write_show_output,
};

/// How often the live area is drawn anew, and how often the plain console looks for long silences.
const LIVE_TICK: Duration = Duration::from_millis(150);
const PLAIN_TICK: Duration = Duration::from_secs(1);

/// The listeners of one run.
pub struct Reporting {
    listeners: Fan,
    ticker: Option<Ticker>,
    json: Option<Arc<Shared<JsonLines<Handle>>>>,
    history: Option<Arc<Shared<History>>>,
    junit: Option<PathBuf>,
    build_report: Option<Destination>,
    show_output: bool,
}

impl Reporting {
    /// A report is written when all is done: that it can't be must show before.
    ///
    /// # Errors
    /// Where a report's folder is not there.
    pub fn check(flags: &OutputFlags) -> Result<(), Error> {
        let files = flags.junit.iter().chain(match &flags.build_report {
            Some(Destination::File(path)) => Some(path),
            Some(Destination::Stdout) | None => None,
        });
        files.map(PathBuf::as_path).try_for_each(check_folder)
    }

    /// Whether `flags` ask for any document.
    pub fn is_wanted(flags: &OutputFlags) -> bool {
        flags.json || flags.show_output || flags.junit.is_some() || flags.build_report.is_some()
    }

    /// Sets up what `flags` ask for; `recorder` hears everything first.
    pub fn begin(flags: &OutputFlags, context: &Context<'_>, clock: Arc<dyn Clock>, recorder: Arc<dyn Sink>) -> Self {
        let mut listeners = Fan(vec![recorder]);
        let mut ticker = None;
        if let Some((console, every)) = console(flags, context) {
            let console = Arc::new(Shared::new(console));
            listeners.0.push(console.clone());
            ticker = Some(Ticker::start(console, clock, every));
        }
        let json = flags.json.then(|| Arc::new(Shared::new(JsonLines::new(context.printer.data_handle()))));
        if let Some(json) = &json {
            listeners.0.push(json.clone());
        }
        let wanted = flags.junit.is_some() || flags.build_report.is_some() || flags.show_output;
        let history = wanted.then(|| Arc::new(Shared::new(History::default())));
        if let Some(history) = &history {
            listeners.0.push(history.clone());
        }
        let (junit, build_report, show_output) = (flags.junit.clone(), flags.build_report.clone(), flags.show_output);
        Self { listeners, ticker, json, history, junit, build_report, show_output }
    }

    /// Writes the reports that are made at the end. All are tried; the first error is told.
    ///
    /// # Errors
    /// Where one could not be written; [`Error::ClosedPipe`] where the reader of stdout has gone.
    pub fn finish(mut self, printer: &Printer) -> Result<(), Error> {
        drop(self.ticker.take());
        let mut results = Vec::new();
        if let Some(history) = self.history.take() {
            history.with(|history| {
                if let Some(path) = &self.junit {
                    let mut bytes = Vec::new();
                    let written = write_junit(history, &mut bytes).map_err(std::io::Error::other);
                    results.push(written.and_then(|()| std::fs::write(path, &bytes)).map_err(write_error(path)));
                }
                match &self.build_report {
                    Some(Destination::File(path)) => {
                        let mut bytes = Vec::new();
                        let written = write_build_report(history, &mut bytes);
                        results.push(written.and_then(|()| std::fs::write(path, &bytes)).map_err(write_error(path)));
                    }
                    Some(Destination::Stdout) => results.push(printer.document(|out| write_build_report(history, out))),
                    None => {}
                }
                if self.show_output {
                    results.push(printer.document(|out| write_show_output(history, out)));
                }
            });
        }
        if let Some(json) = self.json.take() {
            results.push(json.with(JsonLines::take_error).map_or(Ok(()), |error| Err(Error::stdout(error))));
        }
        results.into_iter().collect()
    }
}

impl Sink for Reporting {
    fn emit(&self, event: &Event) {
        self.listeners.emit(event);
    }
}

/// Writes the documents that `flags` ask for of a run that has nothing to do: every step is fresh, and nothing is recorded.
///
/// # Errors
/// As [`Reporting::finish`].
pub fn tell_fresh(
    flags: &OutputFlags,
    context: &Context<'_>,
    clock: Arc<dyn Clock>,
    began: Event,
    steps: impl IntoIterator<Item = (NodeLabel, NodeKind, Option<ImageId>)>,
) -> Result<(), Error> {
    let at = clock.now();
    let silent = OutputFlags { console: ConsoleChoice::None, ..flags.clone() };
    let reporting = Reporting::begin(&silent, context, clock, Arc::new(Fan::default()));
    reporting.emit(&began);
    for (node, kind, image) in steps {
        let (outcome, reasons) = (Outcome::Fresh, Vec::new());
        reporting.emit(&Event::NodeFinished { at, node, kind, outcome, reasons, attempts: 0, duration_ms: 0, image });
    }
    reporting.emit(&Event::RunFinished { at, duration_ms: 0, exit_code: 0, stopped_by: None });
    reporting.finish(context.printer)
}

fn write_error(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
    move |source| Error::Write { path: path.to_owned(), source }
}

fn check_folder(path: &Path) -> Result<(), Error> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let problem = match std::fs::metadata(folder) {
        _ if path.is_dir() => "it is a folder",
        Ok(data) if data.is_dir() => return Ok(()),
        Ok(_) | Err(_) => "its folder is not there",
    };
    Err(Error::Usage { message: format!("cannot write `{}`: {problem}", path.display()), hint: None })
}

/// The console that is wanted, and how often it wants to know the time.
fn console(flags: &OutputFlags, context: &Context<'_>) -> Option<(Box<dyn Fold>, Duration)> {
    let environment = context.environment;
    let live = match flags.console {
        ConsoleChoice::None => return None,
        ConsoleChoice::Plain => false,
        ConsoleChoice::Auto => environment.wants_live() && !context.global.quiet,
        // without a terminal there is no area to draw in
        ConsoleChoice::Live => environment.terminals.stderr,
    };
    let options = ConsoleOptions {
        verbosity: match (context.global.verbose, context.global.quiet) {
            (_, true) => Verbosity::Quiet,
            (true, false) => Verbosity::Verbose,
            (false, false) => Verbosity::Normal,
        },
        logs: match flags.logs {
            LogsChoice::Errors => Logs::Errors,
            LogsChoice::All => Logs::All,
            LogsChoice::None => Logs::None,
            LogsChoice::Stream => Logs::Stream,
        },
        color: context.printer.color(),
        width: environment.width(),
    };
    let out = context.printer.people_handle();
    Some(if live {
        (Box::new(Live::new(out, ProgressDrawTarget::stderr(), options)), LIVE_TICK)
    } else {
        (Box::new(Console::new(out, options)), PLAIN_TICK)
    })
}

/// Tells a fold the time, until it is dropped.
struct Ticker {
    stop: Cancel,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(fold: Arc<Shared<Box<dyn Fold>>>, clock: Arc<dyn Clock>, every: Duration) -> Self {
        let stop = Cancel::new();
        let stopped = stop.clone();
        let tick = move || {
            while clock.sleep(every, &stopped) {
                let now = clock.now();
                fold.with(|fold| fold.tick(now));
            }
        };
        // without the thread long silences stay silent, and nothing else
        let thread = std::thread::Builder::new().name("console".to_owned()).spawn(tick).ok();
        Self { stop, thread }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

impl std::fmt::Debug for Reporting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporting").field("listeners", &self.listeners.0.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Args, Environment};
    use crate::clock::{ManualClock, Timestamp};
    use crate::report::script::mixed;

    struct Heard(std::sync::Mutex<usize>);

    impl Sink for Heard {
        fn emit(&self, _: &Event) {
            *self.0.lock().unwrap() += 1;
        }
    }

    /// What a scripted run writes to stdout and stderr with these flags, and how reporting ended.
    fn run(flags: &str) -> (String, String, Result<(), Error>) {
        let files = [tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap()];
        let printer = Printer::to(files[0].reopen().unwrap(), files[1].reopen().unwrap(), false);
        let args = Args::parse_line(format!("igraph test{flags}").split(' ')).unwrap();
        let crate::cli::args::Command::Test(crate::cli::args::Watched { verb, .. }) = &args.command else { panic!("{args:?}") };
        let environment = Environment::of(|_| None);
        let (cancel, signals) = (Cancel::new(), crate::cli::signals::Signals::default());
        let context = Context { global: &args.global, environment: &environment, printer: &printer, cancel: &cancel, signals: &signals };
        let heard = Arc::new(Heard(std::sync::Mutex::new(0)));
        let clock = Arc::new(ManualClock::new(Timestamp(0)));
        let ended = Reporting::check(&verb.output).and_then(|()| {
            let reporting = Reporting::begin(&verb.output, &context, clock, heard.clone());
            let events = mixed().events;
            events.iter().for_each(|event| reporting.emit(event));
            assert_eq!(*heard.0.lock().unwrap(), events.len());
            reporting.finish(&printer)
        });
        let [out, err] = files.map(|file| std::fs::read_to_string(file.path()).unwrap());
        (out, err, ended)
    }

    #[test]
    fn each_document_goes_where_it_is_asked_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (out, err, ended) = run(&format!(" -q --show-output --junit {} --build-report {}", path("j.xml"), path("r.json")));
        ended.unwrap();
        assert_eq!((out.lines().count(), out.contains("\tsha256:")), (2, true), "{out}");
        assert!(err.contains("FAIL") && !err.contains("BUILD"), "{err}");
        assert!(std::fs::read_to_string(path("j.xml")).unwrap().contains("<testsuites"));
        assert!(std::fs::read_to_string(path("r.json")).unwrap().contains("igraph.build-report"));

        let (out, err, ended) = run(" --console none --json");
        ended.unwrap();
        assert!(out.starts_with(r#"{"schema":"igraph.events","version":1}"#) && err.is_empty(), "{err}");

        let (out, err, ended) = run(" --console live --build-report -");
        ended.unwrap();
        assert!(out.starts_with("{\n  \"schema\"") && err.contains("Summary"), "no terminal, so plain: {err}");
    }

    #[test]
    fn a_missing_folder_shows_before_the_run() {
        for flags in [" --junit /nowhere/at/all/j.xml", " --build-report /", " --build-report /dev/null/x"] {
            let (_, err, ended) = run(flags);
            assert!(matches!(ended, Err(Error::Usage { .. })), "{flags}");
            assert_eq!(err, "", "{flags}");
        }
    }
}
