//! The form of a console line: verb, time, label, note (DESIGN §10). Knows columns and colour, no event.

use anstyle::{AnsiColor, Color, Style};

use super::board::seconds;
use super::tail::cut;

/// How wide the verb's column is.
const VERB: usize = 10;
/// The label's column, at first and at most.
const LABEL: std::ops::RangeInclusive<usize> = 34..=48;
/// `[   12.4s]`.
const TIME: usize = 10;

/// How a verb is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// It went well.
    Good,
    /// It went wrong.
    Bad,
    /// It needs a look.
    Warn,
    /// It is of less interest.
    Dim,
    /// It is neither.
    Plain,
}

impl Tone {
    fn style(self) -> Style {
        let color = |color: AnsiColor| Style::new().bold().fg_color(Some(Color::Ansi(color)));
        match self {
            Self::Good => color(AnsiColor::Green),
            Self::Bad => color(AnsiColor::Red),
            Self::Warn => color(AnsiColor::Yellow),
            Self::Dim => Style::new().dimmed(),
            Self::Plain => Style::new().bold(),
        }
    }
}

/// Makes lines; its label column grows with the labels it has seen.
#[derive(Clone, Debug)]
pub struct Lines {
    /// Whether verbs are coloured.
    pub color: bool,
    /// Columns to cut notes to.
    pub width: Option<usize>,
    label: usize,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// Like `BUILD`.
    pub verb: &'a str,
    /// Its colour.
    pub tone: Tone,
    /// How long it took, in milliseconds.
    pub time: Option<u64>,
    /// What it is about; empty where the note is all.
    pub label: &'a str,
    /// The rest.
    pub note: &'a str,
    /// The note may be cut to the width.
    pub may_cut: bool,
}

impl Lines {
    /// Lines in colour or not, cut to `width` where there is one.
    pub fn new(color: bool, width: Option<usize>) -> Self {
        Self { color, width, label: *LABEL.start() }
    }

    /// The line, with its end.
    pub fn line(&mut self, line: &Line<'_>) -> String {
        let Line { verb, tone, label, .. } = *line;
        let time = line.time.map_or_else(|| " ".repeat(TIME), |time| format!("[{:>8}]", seconds(time)));
        let mut rest = if label.is_empty() {
            line.note.to_owned()
        } else {
            self.label = self.label.max(label.chars().count().min(*LABEL.end()));
            format!("{label:<column$}  {}", line.note, column = self.label)
        };
        if let Some(width) = self.width.filter(|_| line.may_cut) {
            // a label is never cut: it is what one copies
            let room = width.saturating_sub(VERB + 1 + TIME + 1).max(label.chars().count());
            rest = cut(&rest, room);
        }
        let rest = rest.trim_end();
        let style = if self.color { tone.style() } else { Style::new() };
        let verb = format!("{}{style}{verb}{style:#}", " ".repeat(VERB.saturating_sub(verb.chars().count())));
        if line.time.is_none() && label.is_empty() { format!("{verb} {rest}\n") } else { format!("{verb} {time} {rest}\n") }
    }

    /// A line below another, with its end: output of a step, a further reason.
    pub fn below(&self, mark: &str, text: &str) -> String {
        let style = if self.color { Tone::Dim.style() } else { Style::new() };
        let indent = VERB + 1;
        let text = match self.width {
            Some(width) => cut(text, width.saturating_sub(indent + mark.chars().count() + 1).max(20)),
            None => text.to_owned(),
        };
        let line = format!("{}{style}{mark}{style:#} {text}", " ".repeat(indent));
        format!("{}\n", line.trim_end())
    }
}
