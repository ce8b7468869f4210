//! One logical line taken apart: keyword, flags, and arguments in the form that the keyword has. Judges nothing but the form.

use super::Span;
use super::text::Mapped;

/// A line, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Raw {
    pub keyword: Mapped,
    /// `--name` and `--name=value`, unquoted.
    pub flags: Vec<Mapped>,
    pub arguments: Arguments,
    /// Place of all arguments.
    pub rest: Span,
}

/// The arguments, by form.
#[derive(Clone, Debug)]
pub(super) enum Arguments {
    /// Words or one whole text.
    Words(Vec<Mapped>),
    /// A JSON array of strings.
    Json(Vec<String>),
    /// ENV and LABEL: key, value, whether written with `=`.
    Pairs(Vec<(Mapped, Mapped, bool)>),
    /// HEALTHCHECK: the type, then what follows.
    Typed(Mapped, Box<Arguments>),
    /// ONBUILD: the trigger.
    Trigger(Box<Raw>),
}

/// A line of a form that no instruction has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FormError {
    pub message: String,
    pub span: Span,
    pub hint: Option<String>,
}

/// The white space that separates arguments.
const BLANKS: [char; 5] = ['\t', '\u{b}', '\u{c}', '\r', ' '];

/// How many ONBUILD may stand in each other before the parser stops looking; two are already an error.
const DEEPEST: usize = 3;

impl Raw {
    pub fn parse(line: &Mapped, escape: char) -> Result<Self, FormError> {
        Self::parse_at(line, escape, 0)
    }

    fn parse_at(line: &Mapped, escape: char, depth: usize) -> Result<Self, FormError> {
        let line = line.trim();
        let text = line.as_str();
        let end = text.find(BLANKS).unwrap_or(text.len());
        let keyword = line.slice(0..end);
        let rest = text[end..].trim_start_matches(BLANKS);
        let (flags, after) = flags(&line.slice(text.len() - rest.len()..text.len()));
        let rest = after.trim();
        let arguments = match keyword.as_str().to_ascii_uppercase().as_str() {
            "ENV" | "LABEL" => Arguments::Pairs(pairs(&rest, keyword.as_str(), escape)?),
            "ARG" => Arguments::Words(quoted_words(&rest, escape)),
            "FROM" | "EXPOSE" => Arguments::Words(words(&rest)),
            "COPY" | "ADD" | "VOLUME" => json(&rest)?.unwrap_or_else(|| Arguments::Words(words(&rest))),
            "RUN" | "CMD" | "ENTRYPOINT" | "SHELL" => json(&rest)?.unwrap_or_else(|| whole(&rest)),
            "HEALTHCHECK" => {
                let text = rest.as_str();
                let end = text.find(char::is_whitespace).unwrap_or(text.len());
                let after = rest.slice(end..text.len()).trim();
                if end == 0 {
                    Arguments::Words(Vec::new())
                } else {
                    Arguments::Typed(rest.slice(0..end), Box::new(json(&after)?.unwrap_or_else(|| whole(&after))))
                }
            }
            "ONBUILD" if !rest.is_empty() && depth < DEEPEST => Arguments::Trigger(Box::new(Self::parse_at(&rest, escape, depth + 1)?)),
            _ => whole(&rest),
        };
        Ok(Self { keyword, flags, arguments, rest: rest.span() })
    }

    /// Whether heredocs may start in this line.
    pub fn takes_heredocs(&self) -> bool {
        match &self.arguments {
            Arguments::Trigger(trigger) => trigger.takes_heredocs(),
            Arguments::Json(_) => false,
            _ => ["RUN", "COPY", "ADD"].iter().any(|keyword| self.keyword.as_str().eq_ignore_ascii_case(keyword)),
        }
    }
}

fn whole(rest: &Mapped) -> Arguments {
    Arguments::Words(if rest.is_empty() { Vec::new() } else { vec![rest.clone()] })
}

/// Leading `--…` words, unquoted, and what follows.
fn flags(line: &Mapped) -> (Vec<Mapped>, Mapped) {
    let text = line.as_str();
    let mut flags = Vec::new();
    let mut chars = text.char_indices().peekable();
    loop {
        while chars.next_if(|(_, char)| char.is_whitespace()).is_some() {}
        let start = chars.peek().map_or(text.len(), |(at, _)| *at);
        if !text[start..].starts_with("--") {
            return (flags, line.slice(start..text.len()));
        }
        let mut word = Mapped::empty(line.place(start));
        let mut quote = None;
        while let Some((at, char)) = chars.next_if(|(_, char)| quote.is_some() || !char.is_whitespace()) {
            match char {
                // the escape directive does not count in flags
                '\\' => {
                    if let Some((at, escaped)) = chars.next() {
                        word.push_char(escaped, line.place(at));
                    }
                }
                _ if quote == Some(char) => quote = None,
                '\'' | '"' if quote.is_none() => quote = Some(char),
                _ => word.push_char(char, line.place(at)),
            }
        }
        if word.as_str() == "--" {
            let start = chars.peek().map_or(text.len(), |(at, _)| *at);
            return (flags, line.slice(start..text.len()));
        }
        flags.push(word);
    }
}

/// Separated by blanks; a quote is a character like others.
fn words(rest: &Mapped) -> Vec<Mapped> {
    let text = rest.as_str();
    let mut words = Vec::new();
    let mut start = None;
    for (at, char) in text.char_indices().chain([(text.len(), ' ')]) {
        match (BLANKS.contains(&char), start) {
            (true, Some(from)) => {
                words.push(rest.slice(from..at));
                start = None;
            }
            (false, None) => start = Some(at),
            _ => {}
        }
    }
    words
}

/// Separated by white space outside of quotes; quotes and escapes stay in the words.
fn quoted_words(rest: &Mapped, escape: char) -> Vec<Mapped> {
    let text = rest.as_str();
    let mut words = Vec::new();
    let mut chars = text.char_indices().peekable();
    loop {
        while chars.next_if(|(_, char)| char.is_whitespace()).is_some() {}
        let Some((start, _)) = chars.peek().copied() else { return words };
        let mut word = Mapped::empty(rest.place(start));
        let mut quote = None;
        while let Some((at, char)) = chars.next_if(|(_, char)| quote.is_some() || !char.is_whitespace()) {
            if char == escape && quote != Some('\'') {
                // at the very end it is dropped
                if let Some((next, escaped)) = chars.next() {
                    word.push_char(char, rest.place(at));
                    word.push_char(escaped, rest.place(next));
                }
                continue;
            }
            match quote {
                Some(open) if open == char => quote = None,
                None if matches!(char, '\'' | '"') => quote = Some(char),
                _ => {}
            }
            word.push_char(char, rest.place(at));
        }
        if !word.is_empty() {
            words.push(word);
        }
    }
}

fn pairs(rest: &Mapped, keyword: &str, escape: char) -> Result<Vec<(Mapped, Mapped, bool)>, FormError> {
    let words = quoted_words(rest, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.as_str().contains('=') {
        let text = rest.as_str();
        let Some(end) = text.find(BLANKS) else {
            return Err(FormError {
                message: format!("`{}` must have two arguments", keyword.to_ascii_uppercase()),
                span: rest.span(),
                hint: Some(format!("write `{} {}=value`", keyword.to_ascii_uppercase(), text)),
            });
        };
        let value = text.len() - text[end..].trim_start_matches(BLANKS).len();
        return Ok(vec![(rest.slice(0..end), rest.slice(value..text.len()), false)]);
    }
    words
        .iter()
        .map(|word| {
            let (key, value) = word.split_once('=').ok_or_else(|| FormError {
                message: format!("`{}` lacks a `=`", word.as_str()),
                span: word.span(),
                hint: Some("it must be of the form name=value; a value with blanks needs quotes".into()),
            })?;
            Ok((key, value, true))
        })
        .collect()
}

/// The strings of a JSON array; `None` where the text is no JSON array, so that it counts as words.
fn json(rest: &Mapped) -> Result<Option<Arguments>, FormError> {
    let text = rest.as_str().trim_start();
    if !text.starts_with('[') {
        return Ok(None);
    }
    let Ok(values) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    let strings = values.into_iter().map(|value| match value {
        serde_json::Value::String(text) => Some(text),
        _ => None,
    });
    match strings.collect() {
        Some(strings) => Ok(Some(Arguments::Json(strings))),
        None => Err(FormError {
            message: "a JSON array of arguments holds only strings".into(),
            span: rest.span(),
            hint: Some("put every argument in double quotes".into()),
        }),
    }
}

/// For the tables of test data.
#[cfg(test)]
pub(super) mod testing {
    use super::*;

    pub fn parse_words(line: &str) -> Vec<String> {
        let mut text = Mapped::empty(0);
        text.push(line, 0);
        quoted_words(&text, '\\').iter().map(|word| word.as_str().to_owned()).collect()
    }

    pub fn parse_json(line: &str) -> Option<Vec<String>> {
        let mut text = Mapped::empty(0);
        text.push(line, 0);
        match json(&text) {
            Ok(Some(Arguments::Json(strings))) => Some(strings),
            _ => None,
        }
    }
}
