//! Output of steps made fit to be shown: lines without control characters, and the last of them. Knows no label.

use std::collections::VecDeque;

/// A line as a terminal would leave it: what stands after the last carriage return, without escape sequences and control
/// characters; tabs are spaces; at most 4,000 characters.
pub fn clean(line: &str) -> String {
    const LONGEST: usize = 4000;
    let plain = anstream::adapter::strip_str(line).to_string();
    // a progress bar redraws its line: its last state is what counts
    let last = plain.trim_end().rsplit('\r').find(|part| !part.trim().is_empty()).unwrap_or("");
    last.chars().map(|c| if c == '\t' { ' ' } else { c }).filter(|c| !c.is_control()).take(LONGEST).collect()
}

/// Cuts a text to `width` columns, with an ellipsis where something is lost. Characters count one column each.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        short.push('…');
    }
    short
}

/// The last lines of an attempt's output, within a number of bytes.
#[derive(Clone, Debug)]
pub struct Tail {
    lines: VecDeque<String>,
    bytes: usize,
    dropped: usize,
    max_lines: usize,
}

/// No attempt's output takes more memory than this.
const MAX_BYTES: usize = 1 << 20;

impl Tail {
    /// Keeps `max_lines` lines.
    pub fn new(max_lines: usize) -> Self {
        Self { lines: VecDeque::new(), bytes: 0, dropped: 0, max_lines }
    }

    /// Adds a line, as it came.
    pub fn push(&mut self, line: &str) {
        let line = clean(line);
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > self.max_lines || self.bytes > MAX_BYTES {
            let Some(first) = self.lines.pop_front() else { break };
            self.bytes -= first.len();
            self.dropped += 1;
        }
    }

    /// Forgets all, for the next attempt.
    pub fn clear(&mut self) {
        *self = Self::new(self.max_lines);
    }

    /// The lines kept, first to last, without empty ones at the end.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        let filled = self.lines.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |last| last + 1);
        self.lines.iter().take(filled).map(String::as_str)
    }

    /// The last line that says something.
    pub fn last(&self) -> Option<&str> {
        self.lines.iter().rev().map(|line| line.trim()).find(|line| !line.is_empty())
    }

    /// How many lines came before those kept.
    pub fn dropped(&self) -> usize {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_a_terminal_leaves_them() {
        for (line, cleaned) in [
            ("\x1b[31mred\x1b[0m", "red"),
            ("10%\r50%\r100%", "100%"),
            ("100%\r", "100%"),
            ("a\tb\x07", "a b"),
            ("\x1b]0;title\x07x", "x"),
            ("  indented  ", "  indented"),
            ("", ""),
        ] {
            assert_eq!(clean(line), cleaned, "{line:?}");
        }
        assert_eq!(clean(&"é".repeat(9000)).chars().count(), 4000);
    }

    #[test]
    fn the_last_lines_are_kept_within_bounds() {
        let mut tail = Tail::new(2);
        ["a", "b", "c", " "].into_iter().for_each(|line| tail.push(line));
        assert_eq!((tail.lines().collect::<Vec<_>>(), tail.dropped(), tail.last()), (vec!["c"], 2, Some("c")));
        let mut tail = Tail::new(usize::MAX);
        (0..2000).for_each(|_| tail.push(&"x".repeat(1000)));
        assert!(tail.bytes <= MAX_BYTES && tail.dropped() > 900);
    }

    #[test]
    fn cutting() {
        assert_eq!((cut("abc", 3).as_str(), cut("abcd", 3).as_str(), cut("abc", 0).as_str()), ("abc", "ab…", ""));
    }
}
