//! Data on stdout: the events as JSON lines, and label, tab and image id of each image. Knows no console.

use std::io::{self, Write};

use serde::Serialize;

use super::fold::Fold;
use super::history::History;
use crate::event::{self, Event, NodeKind};

/// Writes each event as a JSON line, as runs are recorded: the first line is the schema. Output and progress are left out.
/// After the first error nothing more is written; [`Self::take_error`] tells it.
#[derive(Debug)]
pub struct JsonLines<W> {
    out: W,
    error: Option<io::Error>,
}

impl<W: Write + Send> JsonLines<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        #[derive(Serialize)]
        struct Header {
            schema: &'static str,
            version: u32,
        }
        let mut lines = Self { out, error: None };
        lines.line(&Header { schema: event::SCHEMA, version: event::VERSION });
        lines
    }

    fn line(&mut self, value: &impl Serialize) {
        if self.error.is_some() {
            return;
        }
        let written = serde_json::to_vec(value).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            self.out.write_all(&line)?;
            self.out.flush()
        });
        self.error = written.err();
    }

    /// The first error that was met, if one was.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.error.take()
    }

    /// Where it writes.
    pub fn out(&mut self) -> &mut W {
        &mut self.out
    }
}

impl<W: Write + Send> Fold for JsonLines<W> {
    fn apply(&mut self, event: &Event) {
        if !matches!(event, Event::Output { .. } | Event::Progress { .. }) {
            self.line(event);
        }
    }
}

/// Writes `LABEL<tab>IMAGE ID` of each image that is there after the run, sorted by label.
///
/// # Errors
/// Where `out` can't be written.
pub fn write_show_output(history: &History, mut out: impl Write) -> io::Result<()> {
    for (label, node) in &history.nodes {
        let good = node.outcome.as_ref().is_some_and(event::Outcome::is_good);
        if let (NodeKind::Image, true, Some(image)) = (node.kind, good, node.image) {
            writeln!(out, "{label}\t{image}")?;
        }
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::script::{image, mixed};

    #[test]
    fn images_that_are_there() {
        let mut out = Vec::new();
        write_show_output(&History::of(&mixed().events), &mut out).unwrap();
        let lines = ["//debian/jessie:4.2.1", "//debian/wheezy:4.2.1"].map(|label| format!("{label}\t{}\n", image(label)));
        assert_eq!(String::from_utf8(out).unwrap(), lines.concat());
    }

    #[test]
    fn lines_can_be_read_back() {
        let mut lines = JsonLines::new(Vec::new());
        let script = mixed();
        script.tell(&mut lines);
        let text = String::from_utf8(lines.out().clone()).unwrap();
        let (header, rest) = text.split_once('\n').unwrap();
        assert_eq!(header, r#"{"schema":"igraph.events","version":1}"#);
        let read: Vec<Event> = rest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let written: Vec<Event> = script.events.into_iter().filter(|event| !matches!(event, Event::Output { .. })).collect();
        assert_eq!(read, written);
    }

    #[test]
    fn a_reader_that_goes_away_is_told_at_the_end() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut lines = JsonLines::new(Closed);
        mixed().tell(&mut lines);
        assert_eq!(lines.take_error().map(|error| error.kind()), Some(io::ErrorKind::BrokenPipe));
    }
}
