//! Cuts a Dockerfile into logical lines: byte-order mark, parser directives, comments, blank lines, line joins, and the
//! bodies of heredocs. Knows no instruction.

use std::sync::Arc;

use super::text::Mapped;
use super::{Directives, Span, Spanned};
use crate::problem::{Problem, Source};

/// Reads logical lines one after the other.
pub(super) struct Lines<'a> {
    source: &'a Arc<Source>,
    /// Start of the next physical line.
    at: usize,
    pub directives: Directives,
}

/// A line as it counts.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub text: Mapped,
    /// From its first character to its last, line end excluded.
    pub span: Span,
}

const MARK: &str = "\u{feff}";

impl<'a> Lines<'a> {
    /// Starts behind the parser directives.
    pub fn new(source: &'a Arc<Source>) -> Result<Self, Problem> {
        let start = if source.text.starts_with(MARK) { MARK.len() } else { 0 };
        let directives = Directives { syntax: None, escape: '\\', escape_span: None, check: None, end: start };
        let mut lines = Self { source, at: start, directives };
        lines.read_directives()?;
        Ok(lines)
    }

    /// The next physical line without its end, and where the one after it starts.
    fn physical(&self) -> Option<(Span, usize)> {
        let rest = self.source.text.get(self.at..).filter(|rest| !rest.is_empty())?;
        let (length, next) = rest.find('\n').map_or((rest.len(), rest.len()), |end| (end, end + 1));
        let text = rest[..length].trim_end_matches('\r');
        Some((self.at..self.at + text.len(), self.at + next))
    }

    fn str(&self, span: &Span) -> &'a str {
        &self.source.text[span.clone()]
    }

    fn read_directives(&mut self) -> Result<(), Problem> {
        while let Some((span, next)) = self.physical() {
            let text = self.str(&span).trim_start();
            let Some((name, value)) = text.strip_prefix('#').and_then(directive) else { break };
            let start = span.end - text.len() + text.rfind(value).unwrap_or(0);
            let value_span = start..start + value.len();
            let spanned = Spanned { value: value.to_owned(), span: value_span.clone() };
            let seen = match name.as_str() {
                "syntax" => self.directives.syntax.replace(spanned).map(|seen| seen.span),
                "check" => self.directives.check.replace(spanned).map(|seen| seen.span),
                "escape" => {
                    self.directives.escape = match value {
                        "\\" => '\\',
                        "`" => '`',
                        _ => {
                            let message = format!("invalid escape character `{value}`");
                            return Err(Problem::new(message).at(self.source, value_span).hint("it is `\\` or `` ` ``"));
                        }
                    };
                    self.directives.escape_span.replace(value_span.clone())
                }
                _ => break,
            };
            if let Some(seen) = seen {
                return Err(Problem::new(format!("the parser directive `{name}` is given twice")).at(self.source, value_span).at_with(
                    self.source,
                    seen,
                    "first here",
                ));
            }
            self.at = next;
            self.directives.end = next;
        }
        Ok(())
    }

    /// Text and whether the line goes on.
    fn without_join<'t>(&self, text: &'t str) -> (&'t str, bool) {
        let escape = self.directives.escape;
        let trimmed = text.trim_end_matches([' ', '\t']);
        match trimmed.strip_suffix(escape) {
            // an escaped escape character joins nothing
            Some(rest) if !rest.ends_with(escape) => (rest, true),
            _ => (text, false),
        }
    }

    /// The next logical line that says something.
    pub fn next_line(&mut self) -> Option<Line> {
        loop {
            let (span, next) = self.physical()?;
            self.at = next;
            let text = self.str(&span).trim_start();
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let start = span.end - text.len();
            let mut line = Line { text: Mapped::empty(start), span: start..span.end };
            let (part, mut goes_on) = self.without_join(text);
            line.text.push(part, start);
            while goes_on {
                let Some((span, next)) = self.physical() else { break };
                self.at = next;
                let text = self.str(&span);
                if text.trim().is_empty() || text.trim_start().starts_with('#') {
                    continue;
                }
                let (part, more) = self.without_join(text);
                line.text.push(part, span.start);
                line.span.end = span.end;
                goes_on = more;
            }
            return Some(line);
        }
    }

    /// Takes lines up to `terminator`: the place of the body, and the end of the terminator's line; `None` where there is none.
    pub fn heredoc_body(&mut self, terminator: &str, tabs: bool) -> Option<(Span, usize)> {
        let start = self.at;
        while let Some((span, next)) = self.physical() {
            let body_end = self.at;
            self.at = next;
            let text = self.str(&span);
            let text = if tabs { text.trim_start_matches('\t') } else { text };
            if text == terminator {
                return Some((start..body_end, span.end));
            }
        }
        None
    }
}

/// `name = value` behind the `#` of a directive; the name in lower case.
fn directive(text: &str) -> Option<(String, &str)> {
    let (name, value) = text.trim_start().split_once('=')?;
    let (name, value) = (name.trim_end(), value.trim());
    let valid = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.bytes().all(|c| c.is_ascii_alphanumeric());
    (valid && !value.is_empty()).then(|| (name.to_ascii_lowercase(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> (Vec<String>, Directives) {
        let source = Arc::new(Source { path: "Dockerfile".into(), text: text.into() });
        let mut lines = Lines::new(&source).unwrap();
        let mut all = Vec::new();
        while let Some(line) = lines.next_line() {
            all.push(line.text.as_str().to_owned());
        }
        (all, lines.directives)
    }

    #[test]
    fn joins_comments_and_ends() {
        let (all, _) = lines("\u{feff}FROM a\r\nRUN b \\\r\n  # comment\r\n\r\n  c\\\r\n  \\\r\nd\r\n# end\r\nCMD x\\\\\r\nEND");
        assert_eq!(all, ["FROM a", "RUN b   c  d", "CMD x\\\\", "END"]);
        assert_eq!(lines("RUN a \\").0, ["RUN a "]);
    }

    #[test]
    fn directives_stop_at_the_first_other_line() {
        let (all, directives) = lines("# Syntax = docker/dockerfile:1 \n#check=skip=all\n# escape=`\nRUN a `\n b\n");
        assert_eq!(all, ["RUN a  b"]);
        assert_eq!(directives.syntax.unwrap().value, "docker/dockerfile:1");
        assert_eq!(directives.check.unwrap().value, "skip=all");
        assert_eq!(lines("\n# escape=`\nRUN a `\n").1.escape, '\\');
        assert_eq!(lines("# other=1\n# escape=`\n").1.escape, '\\');
    }
}
