//! The reports of one run: recorder, console, and the documents that were asked for, all fed from the one stream of events.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::args::{ConsoleChoice, LogsChoice, Verb};
use super::error::Error;
use super::program::Context;
use crate::clock::Clock;
use crate::event::{Event, NodeKind, Sink};
use crate::execute::RunEnd;
use crate::record::Recorder;
use crate::report::{Console, ConsoleOptions, Fold, Live, Logs, Shared, Verbosity};

/// What listens to one run.
pub struct Reporting<'a> {
    args: &'a Verb,
    context: &'a Context<'a>,
    recorder: Recorder,
    console: Option<Arc<Shared<Box<dyn Fold>>>>,
    ticker: Mutex<Option<JoinHandle<()>>>,
    over: Arc<AtomicBool>,
}

impl<'a> Reporting<'a> {
    /// Begins to listen.
    pub fn begin(args: &'a Verb, context: &'a Context<'a>, clock: Arc<dyn Clock>, recorder: Recorder) -> Self {
        let console = console(args, context).map(|console| Arc::new(Shared::new(console)));
        let over = Arc::new(AtomicBool::new(false));
        let ticker = console.clone().and_then(|console| {
            let over = over.clone();
            let tick = move || {
                while !over.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(100));
                    console.with(|console| console.tick(clock.now()));
                }
            };
            // without it the console shows no signs of life, and all else as ever
            std::thread::Builder::new().name("console".to_owned()).spawn(tick).ok()
        });
        Self {
            args,
            context,
            recorder,
            console,
            ticker: Mutex::new(ticker),
            over,
        }
    }

    /// Writes what was asked for; the run is over.
    ///
    /// # Errors
    /// Where a document can't be written, or the recording failed.
    pub fn finish(&self, end: &RunEnd) -> Result<(), Error> {
        self.over.store(true, Ordering::SeqCst);
        if let Some(ticker) = self.ticker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // a console that panicked has said so already
            let _ = ticker.join();
        }
        if self.args.output.show_output {
            for (label, kind, _, image) in &end.steps {
                if let (NodeKind::Image, Some(image)) = (kind, image) {
                    self.context.printer.line(format_args!("{label}\t{image}"))?;
                }
            }
        }
        Ok(self.recorder.finish()?)
    }
}

fn console(args: &Verb, context: &Context<'_>) -> Option<Box<dyn Fold>> {
    let environment = context.environment;
    let live = match args.output.console {
        ConsoleChoice::None => return None,
        ConsoleChoice::Auto => environment.wants_live(),
        ConsoleChoice::Live => environment.terminals.stderr,
        ConsoleChoice::Plain => false,
    };
    let options = ConsoleOptions {
        verbosity: match (context.global.verbose, context.global.quiet) {
            (true, _) => Verbosity::Verbose,
            (_, true) => Verbosity::Quiet,
            _ => Verbosity::Normal,
        },
        logs: match args.output.logs {
            LogsChoice::Errors => Logs::Errors,
            LogsChoice::All => Logs::All,
            LogsChoice::None => Logs::None,
            LogsChoice::Stream => Logs::Stream,
        },
        color: context.printer.color(),
        width: environment.width(),
    };
    Some(if live {
        Box::new(Live::new(std::io::stderr(), indicatif::ProgressDrawTarget::stderr(), options))
    } else {
        Box::new(Console::new(std::io::stderr(), options))
    })
}

impl Sink for Reporting<'_> {
    fn emit(&self, event: &Event) {
        self.recorder.emit(event);
        if let Some(console) = &self.console {
            console.emit(event);
        }
        if self.args.output.json && !matches!(event, Event::Output { .. } | Event::Progress { .. }) {
            // a reader that has gone is noticed when the run ends
            let _ = self.context.printer.document(|out| {
                serde_json::to_writer(&mut *out, event)?;
                writeln!(out)
            });
        }
    }
}
