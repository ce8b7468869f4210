//! The Printer: the only way out to the terminal. stdout is data that was asked for; people read stderr.
//! Knows streams and colour, not what is said.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anstyle::{AnsiColor, Style};

use super::environment::Environment;
use super::error::Error;
use crate::failure::Failure;

/// Writes data and messages.
pub struct Printer {
    data: Handle,
    people: Handle,
    color: bool,
}

/// One of the two ways out, for a report that writes to it by itself. Clones share it.
#[derive(Clone)]
pub struct Handle(Arc<Mutex<Box<dyn Write + Send>>>);

impl Handle {
    fn new(out: impl Write + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Box::new(out))))
    }

    fn lock(&self) -> MutexGuard<'_, Box<dyn Write + Send>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Handle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().write(bytes)
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.lock().write_all(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.lock().flush()
    }
}

/// How a message begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tone {
    Error,
    Warning,
    Hint,
}

impl Printer {
    /// To the process's stdout and stderr; colour where stderr is a terminal and the environment has nothing against it.
    pub fn new(environment: &Environment) -> Self {
        Self::to(BufWriter::with_capacity(1 << 16, io::stdout()), io::stderr(), environment.color(environment.terminals.stderr))
    }

    /// To `data` and `people`.
    pub fn to(data: impl Write + Send + 'static, people: impl Write + Send + 'static, color: bool) -> Self {
        Self { data: Handle::new(data), people: Handle::new(people), color }
    }

    /// Whether people get colour.
    pub fn color(&self) -> bool {
        self.color
    }

    /// stdout, for a report that writes by itself.
    pub fn data_handle(&self) -> Handle {
        self.data.clone()
    }

    /// stderr, for a console that writes by itself.
    pub fn people_handle(&self) -> Handle {
        self.people.clone()
    }

    /// Writes data, as it is; it may stay in a buffer until [`Self::flush`].
    ///
    /// # Errors
    /// [`Error::ClosedPipe`] where the reader has gone, else why stdout could not be written.
    pub fn data(&self, text: fmt::Arguments<'_>) -> Result<(), Error> {
        self.data.lock().write_fmt(text).map_err(Error::stdout)
    }

    /// Writes one line of data.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn line(&self, text: impl fmt::Display) -> Result<(), Error> {
        self.data(format_args!("{text}\n"))
    }

    /// Lets a document be written to stdout.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn document(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
        let mut data = self.data.lock();
        write(&mut **data).and_then(|()| data.flush()).map_err(Error::stdout)
    }

    /// Brings buffered data out.
    ///
    /// # Errors
    /// As [`Self::data`].
    pub fn flush(&self) -> Result<(), Error> {
        self.data.lock().flush().map_err(Error::stdout)
    }

    /// Tells people something, as it is, on a line of its own.
    pub fn say(&self, text: impl fmt::Display) {
        self.tell(format_args!("{text}\n"));
    }

    /// Tells people of an error and what to do about it.
    pub fn error(&self, error: &Error) {
        match error {
            Error::Problems(problems) => return self.say(crate::report::diagnostics::render_problems(problems, self.color).trim_end()),
            Error::Credentials(failures) => {
                return self.credentials(failures);
            }
            _ => {}
        }
        let hint = error.hint();
        self.message(Tone::Error, &error);
        if let Some(hint) = hint {
            self.message(Tone::Hint, &hint);
        }
    }

    /// Each registry once, with all of its repositories that were refused in the same way.
    fn credentials(&self, failures: &[Failure]) {
        let place = |failure: &Failure| failure.group.as_deref().and_then(|group| group.strip_prefix("credentials ")).map(str::to_owned);
        let host = |failure: &Failure| place(failure).map(|place| place.split('/').next().unwrap_or_default().to_owned());
        let mut told: Vec<Option<String>> = Vec::new();
        for failure in failures {
            if told.contains(&host(failure)) {
                continue;
            }
            told.push(host(failure));
            self.message(Tone::Error, failure);
            let others = failures.iter().filter(|other| host(other) == host(failure) && *other != failure);
            let others: Vec<String> = others.filter_map(place).map(|place| format!("`{place}`")).collect();
            if !others.is_empty() {
                self.say(format_args!("       refused too: {}", others.join(", ")));
            }
            if let Some(hint) = &failure.hint {
                self.message(Tone::Hint, hint);
            }
        }
    }

    /// Warns people.
    pub fn warn(&self, text: impl fmt::Display) {
        self.message(Tone::Warning, &text);
    }

    /// Tells people what to do.
    pub fn hint(&self, text: impl fmt::Display) {
        self.message(Tone::Hint, &text);
    }

    fn message(&self, tone: Tone, text: &dyn fmt::Display) {
        let (word, color) = match tone {
            Tone::Error => ("error", AnsiColor::Red),
            Tone::Warning => ("warning", AnsiColor::Yellow),
            Tone::Hint => ("hint", AnsiColor::Cyan),
        };
        let style = if self.color { Style::new().bold().fg_color(Some(color.into())) } else { Style::new() };
        self.tell(format_args!("{style}{word}{style:#}: {text}\n"));
    }

    /// Nobody can be told that stderr is closed, so its errors end here.
    fn tell(&self, text: fmt::Arguments<'_>) {
        let mut people = self.people.lock();
        let _closed = people.write_fmt(text).and_then(|()| people.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exit::Exit;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_an_end_and_not_an_error() {
        let printer = Printer::to(Closed, Closed, false);
        let error = printer.line("x").unwrap_err();
        assert!(matches!(error, Error::ClosedPipe));
        assert_eq!((error.exit(), error.exit().code()), (Exit::CLOSED_PIPE, 141));
        printer.say("nobody hears this");
    }

    #[test]
    fn label_mistakes_come_with_their_hint() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let printer = Printer::to(io::sink(), file.reopen().unwrap(), false);
        printer.error(&crate::label::Label::parse("//debian/jessie", None).unwrap_err().into());
        insta::assert_snapshot!(std::fs::read_to_string(file.path()).unwrap(), @r#"
        error: `//debian/jessie` names a package, not an image: names are versions here, so there is no default one
        hint: write `//debian/jessie:VERSION` for one image, `//debian/jessie:` for all of the package, `//debian/jessie/...` for all below it
        "#);
    }
}
