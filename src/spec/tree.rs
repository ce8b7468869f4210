//! RON as a tree with the place of every word, and problems in people's words. Knows RON's spelling, no rule and
//! no field. Texts are borrowed from the source; what follows a broken list item is still read.

use std::borrow::Cow;
use std::sync::Arc;

use super::model::Span;
use crate::problem::{Problem, Source};

/// A value and where it stands.
#[derive(Debug)]
pub struct Node<'s> {
    pub span: Span,
    pub kind: Kind<'s>,
}

/// A value.
#[derive(Debug)]
pub enum Kind<'s> {
    /// `"text"` or `r#"text"#`, without quotes and escapes.
    Text(Cow<'s, str>),
    /// Whatever starts like a number, as written.
    Number(&'s str),
    /// `true`, `None`, `Docker`.
    Word(&'s str),
    /// `Name(…)` or `(…)`.
    Call(Call<'s>),
    /// `[…]`.
    List(Vec<Node<'s>>),
    /// `{key: value}`.
    Map(Vec<(Node<'s>, Node<'s>)>),
    /// What could not be read; its problem is told already.
    Broken,
}

/// `Name(…)` or `(…)`.
#[derive(Debug)]
pub struct Call<'s> {
    pub name: Option<(&'s str, Span)>,
    pub items: Vec<Item<'s>>,
}

/// `name: value` or `value`.
#[derive(Debug)]
pub struct Item<'s> {
    pub name: Option<(&'s str, Span)>,
    pub value: Node<'s>,
}

/// Deeper nesting is refused, so that no file can exhaust the stack.
const DEEPEST: usize = 64;

/// Reads the one value of a build file. `None` where there is none or it is too broken to go on.
pub fn read_tree<'s>(source: &'s Arc<Source>, problems: &mut Vec<Problem>) -> Option<Node<'s>> {
    let mut reader = Reader { source, text: &source.text, at: 0, depth: 0, problems: Vec::new() };
    let result = reader.file();
    problems.append(&mut reader.problems);
    result.map_err(|problem| problems.push(problem)).ok()
}

/// The first word of a build file, without reading the rest: what kind of file it is.
pub fn first_word(source: &Arc<Source>) -> Option<&str> {
    let mut reader = Reader { source, text: &source.text, at: 0, depth: 0, problems: Vec::new() };
    reader.attributes().ok()?;
    let word = reader.word();
    (!word.is_empty()).then_some(word)
}

struct Reader<'s> {
    source: &'s Arc<Source>,
    text: &'s str,
    at: usize,
    depth: usize,
    problems: Vec<Problem>,
}

type Read<T> = Result<T, Problem>;

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

impl<'s> Reader<'s> {
    fn problem(&self, start: usize, end: usize, message: impl Into<String>) -> Problem {
        Problem::new(message).at(self.source, start..end)
    }

    #[expect(clippy::cast_possible_truncation, reason = "files of more than 4 GiB are refused before they get here")]
    fn span(&self, start: usize) -> Span {
        Span { start: start as u32, end: self.at as u32 }
    }

    fn rest(&self) -> &'s str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// Skips white space and comments.
    fn space(&mut self) -> Read<()> {
        loop {
            match self.peek() {
                Some(b' ' | b'\t' | b'\n' | b'\r') => self.at += 1,
                Some(b'/') if self.rest().starts_with("//") => {
                    self.at = self.rest().find('\n').map_or(self.text.len(), |end| self.at + end);
                }
                Some(b'/') if self.rest().starts_with("/*") => self.block_comment()?,
                Some(0xEF) if self.at == 0 && self.rest().starts_with('\u{feff}') => self.at += 3,
                _ => return Ok(()),
            }
        }
    }

    fn block_comment(&mut self) -> Read<()> {
        let start = self.at;
        let mut open = 0_usize;
        loop {
            match self.rest().as_bytes() {
                [b'/', b'*', ..] => (open, self.at) = (open + 1, self.at + 2),
                [b'*', b'/', ..] => {
                    (open, self.at) = (open - 1, self.at + 2);
                    if open == 0 {
                        return Ok(());
                    }
                }
                [] => return Err(self.problem(start, start + 2, "this comment has no end").hint("close it with `*/`")),
                // byte by byte is fine: both marks are ASCII, and `at` is used again only at one of them
                _ => self.at = self.text.ceil_char_boundary(self.at + 1),
            }
        }
    }

    /// Skips `#![enable(implicit_some)]` and the like, which change nothing here.
    fn attributes(&mut self) -> Read<()> {
        self.space()?;
        while self.rest().starts_with("#!") {
            let end = self.rest().find(']').ok_or_else(|| self.problem(self.at, self.at + 2, "this attribute has no end"))?;
            self.at += end + 1;
            self.space()?;
        }
        Ok(())
    }

    fn word(&mut self) -> &'s str {
        let rest = self.rest();
        let length = if rest.starts_with(|c: char| c.is_ascii_digit()) { 0 } else { rest.bytes().take_while(|c| is_word(*c)).count() };
        self.at += length;
        &rest[..length]
    }

    /// What stands at the cursor, for messages: its text in backticks, and its end.
    fn found(&self) -> (String, usize) {
        let rest = self.rest();
        let length = match rest.chars().next() {
            None => return ("the end of the file".to_owned(), self.at),
            Some('"') => rest[1..].find(['"', '\n']).map_or(rest.len(), |end| end + 2).min(rest.len()),
            Some(c) if c.is_ascii_alphanumeric() || c == '_' => {
                rest.find(|c: char| !(c.is_ascii_alphanumeric() || "_.-".contains(c))).unwrap_or(rest.len())
            }
            Some(c) => c.len_utf8(),
        };
        let end = self.text.floor_char_boundary(self.at + length);
        (format!("`{}`", self.text[self.at..end].trim_end()), self.at + self.text[self.at..end].trim_end().len())
    }

    fn unexpected(&self, expected: &str) -> Problem {
        let (found, end) = self.found();
        self.problem(self.at, end, format!("expected {expected}, found {found}"))
    }

    fn file(&mut self) -> Read<Node<'s>> {
        self.attributes()?;
        if self.at == self.text.len() {
            return Err(self.problem(0, 0, "this build file is empty").hint("write `Package(rules: [])` into it, or remove it"));
        }
        let node = self.value()?;
        self.space()?;
        if self.at < self.text.len() {
            let (found, end) = self.found();
            return Err(self
                .problem(self.at, end, format!("a build file holds one value, but here follows {found}"))
                .hint("rules stand in the list `rules` of one `Package(…)`"));
        }
        Ok(node)
    }

    fn value(&mut self) -> Read<Node<'s>> {
        let start = self.at;
        if self.depth == DEEPEST {
            return Err(self.problem(start, start + 1, format!("brackets are nested more than {DEEPEST} deep")));
        }
        self.depth += 1;
        let kind = self.kind()?;
        self.depth -= 1;
        Ok(Node { span: self.span(start), kind })
    }

    fn kind(&mut self) -> Read<Kind<'s>> {
        let start = self.at;
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b'r') if matches!(self.text.as_bytes().get(start + 1), Some(b'"' | b'#')) => self.raw_string(),
            Some(b'[') => self.list(),
            Some(b'{') => self.map(),
            Some(b'(') => Ok(Kind::Call(Call { name: None, items: self.items()? })),
            Some(b'0'..=b'9' | b'+' | b'-' | b'.') => {
                let length = self.rest().bytes().take_while(|c| is_word(*c) || b"+-.".contains(c)).count();
                self.at += length;
                Ok(Kind::Number(&self.text[start..self.at]))
            }
            Some(b'\'') => {
                let (_, end) = self.found();
                let length = self.rest()[1..].find(['\'', '\n', ',']).map_or(end - start, |at| at + 2);
                Err(self.problem(
                    start,
                    self.text.floor_char_boundary(start + length),
                    "a string stands in double quotes, not in single ones",
                ))
            }
            _ => {
                let word = self.word();
                if word.is_empty() {
                    return Err(self.unexpected("a value"));
                }
                let span = self.span(start);
                let after_word = self.at;
                self.space()?;
                if self.peek() == Some(b'(') {
                    return Ok(Kind::Call(Call { name: Some((word, span)), items: self.items()? }));
                }
                self.at = after_word;
                Ok(Kind::Word(word))
            }
        }
    }

    fn string(&mut self) -> Read<Kind<'s>> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut at = start + 1;
        let mut escaped = false;
        loop {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => (escaped, at) = (true, at + 2),
                Some(_) => at += 1,
                None => {
                    let end = self.rest().find('\n').map_or(self.text.len(), |end| start + end);
                    return Err(self.problem(start, end, "this string has no end").hint("close it with `\"`"));
                }
            }
        }
        self.at = at + 1;
        if !escaped {
            return Ok(Kind::Text(Cow::Borrowed(&self.text[start + 1..at])));
        }
        // escapes are ron's
        match ron::from_str::<String>(&self.text[start..self.at]) {
            Ok(text) => Ok(Kind::Text(Cow::Owned(text))),
            Err(_) => {
                let (from, to) = self.wrong_escape(start);
                Err(self
                    .problem(from, to, format!("`{}` is no escape", &self.text[from..to]))
                    .hint("a backslash is written `\\\\`; or write a raw string, like `r\"\\d+\"`"))
            }
        }
    }

    /// The first escape of the string literal from `start` to the cursor that stands for nothing.
    fn wrong_escape(&self, start: usize) -> (usize, usize) {
        let mut at = start + 1;
        while at < self.at {
            if self.text.as_bytes()[at] != b'\\' {
                at += 1;
                continue;
            }
            let rest = &self.text[at..self.at - 1];
            let length = match rest.as_bytes().get(1) {
                Some(b'x') => 4,
                Some(b'u') => rest.find('}').map_or(rest.len(), |end| end + 1),
                _ => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            };
            let end = self.text.floor_char_boundary((at + length).min(self.at - 1));
            if ron::from_str::<String>(&format!("\"{}\"", &self.text[at..end])).is_err() {
                return (at, end);
            }
            at = end;
        }
        (start, self.at)
    }

    fn raw_string(&mut self) -> Read<Kind<'s>> {
        let start = self.at;
        let hashes = self.rest()[1..].bytes().take_while(|c| *c == b'#').count();
        if self.text.as_bytes().get(start + 1 + hashes) != Some(&b'"') {
            return Err(self.unexpected("a value"));
        }
        let body = start + 2 + hashes;
        let close = format!("\"{}", "#".repeat(hashes));
        let Some(length) = self.text[body..].find(&close) else {
            return Err(self.problem(start, body, "this string has no end").hint(format!("close it with `{close}`")));
        };
        self.at = body + length + close.len();
        Ok(Kind::Text(Cow::Borrowed(&self.text[body..body + length])))
    }

    /// After a value: skips a comma, or says whether `close` follows. `open` is where the bracket was opened.
    fn more(&mut self, open: usize, close: u8) -> Read<bool> {
        self.space()?;
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.space()?;
                self.closed(open, close).map(|closed| !closed)
            }
            _ if self.closed(open, close)? => Ok(false),
            _ => Err(self.unexpected(&format!("`,` or `{}`", close as char))),
        }
    }

    fn closed(&mut self, open: usize, close: u8) -> Read<bool> {
        match self.peek() {
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(true)
            }
            None => Err(self.problem(open, open + 1, format!("this `{}` is never closed", &self.text[open..=open]))),
            Some(byte @ (b')' | b']' | b'}')) => Err(self
                .problem(open, open + 1, format!("this `{}` is not closed", &self.text[open..=open]))
                .at_with(self.source, self.at..self.at + 1, format!("before this `{}`", byte as char))),
            Some(_) => Ok(false),
        }
    }

    fn items(&mut self) -> Read<Vec<Item<'s>>> {
        let open = self.at;
        self.at += 1;
        self.space()?;
        let mut items = Vec::new();
        let mut more = !self.closed(open, b')')?;
        while more {
            items.push(self.item()?);
            more = self.more(open, b')')?;
        }
        Ok(items)
    }

    fn item(&mut self) -> Read<Item<'s>> {
        let start = self.at;
        let is_string = self.rest().starts_with("r\"") || self.rest().starts_with("r#");
        let word = if is_string { "" } else { self.word() };
        if !word.is_empty() {
            let span = self.span(start);
            self.space()?;
            match self.peek() {
                Some(b':') => {
                    self.at += 1;
                    self.space()?;
                    return Ok(Item { name: Some((word, span)), value: self.value()? });
                }
                Some(b'=') => return Err(self.unexpected(&format!("`:` after `{word}`"))),
                _ => self.at = start,
            }
        }
        let value = self.value()?;
        self.space()?;
        if let (Kind::Text(text), Some(b':')) = (&value.kind, self.peek()) {
            return Err(self
                .problem(value.span.start as usize, value.span.end as usize, "the name of a field stands without quotes")
                .hint(format!("write `{text}: …`")));
        }
        Ok(Item { name: None, value })
    }

    fn list(&mut self) -> Read<Kind<'s>> {
        let open = self.at;
        self.at += 1;
        self.space()?;
        let mut nodes = Vec::new();
        let mut more = !self.closed(open, b']')?;
        while more {
            let (start, depth) = (self.at, self.depth);
            match self.value() {
                Ok(node) => nodes.push(node),
                // one broken item hides no other, as long as its brackets tell where it ends
                Err(problem) => {
                    if !self.skip_item(start) {
                        return Err(problem);
                    }
                    self.depth = depth;
                    self.problems.push(problem);
                    nodes.push(Node { span: self.span(start), kind: Kind::Broken });
                }
            }
            more = self.more(open, b']')?;
        }
        Ok(Kind::List(nodes))
    }

    fn map(&mut self) -> Read<Kind<'s>> {
        let open = self.at;
        self.at += 1;
        self.space()?;
        let mut entries = Vec::new();
        let mut more = !self.closed(open, b'}')?;
        while more {
            let key = self.value()?;
            self.space()?;
            if self.peek() != Some(b':') {
                return Err(self.unexpected("`:` and a value"));
            }
            self.at += 1;
            self.space()?;
            entries.push((key, self.value()?));
            more = self.more(open, b'}')?;
        }
        Ok(Kind::Map(entries))
    }

    /// Moves to the comma or bracket that ends the list item from `start`; false where brackets don't match.
    fn skip_item(&mut self, start: usize) -> bool {
        self.at = start;
        let mut open = Vec::new();
        loop {
            if self.space().is_err() {
                return false;
            }
            match self.peek() {
                None => return false,
                Some(b',') if open.is_empty() => return true,
                Some(b']') if open.is_empty() => return true,
                Some(b'(') => open.push(b')'),
                Some(b'[') => open.push(b']'),
                Some(b'{') => open.push(b'}'),
                Some(byte @ (b')' | b']' | b'}')) => {
                    if open.pop() != Some(byte) {
                        return false;
                    }
                }
                Some(b'"') => {
                    if !self.skip_string() {
                        return false;
                    }
                    continue;
                }
                Some(b'r') if matches!(self.text.as_bytes().get(self.at + 1), Some(b'"' | b'#')) && self.raw_string().is_ok() => continue,
                Some(byte) if is_word(byte) => {
                    self.at += self.rest().bytes().take_while(|c| is_word(*c)).count();
                    continue;
                }
                Some(_) => {}
            }
            self.at = self.text.ceil_char_boundary(self.at + 1);
        }
    }

    fn skip_string(&mut self) -> bool {
        let bytes = self.text.as_bytes();
        let mut at = self.at + 1;
        while let Some(byte) = bytes.get(at) {
            match byte {
                b'"' => {
                    self.at = at + 1;
                    return true;
                }
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> (bool, Vec<String>) {
        let source = Arc::new(Source { path: "BUILD.ron".to_owned(), text: text.to_owned() });
        let mut problems = Vec::new();
        let whole = read_tree(&source, &mut problems).is_some();
        for place in problems.iter().flat_map(|problem| &problem.places) {
            assert!(text.get(place.span.clone()).is_some(), "{place:?} lies outside, or in a character");
        }
        (whole, problems.into_iter().map(|problem| problem.message).collect())
    }

    #[test]
    fn one_broken_item_hides_no_other() {
        let (whole, messages) = read(r#"P(rules: [I(a "b", c: [")"]), I(b: 1), I(c = 2), I(d: {"x" 1}, e: r"]")])"#);
        assert!(whole);
        assert_eq!(
            messages,
            ["expected `,` or `)`, found `\"b\"`", "expected `:` after `c`, found `=`", "expected `:` and a value, found `1`"]
        );
    }

    #[test]
    fn what_ron_reads_is_read_alike() {
        for text in [
            r#"P(a: "x\n\"\u{e9}\x41", b: r"\d", c: r#b"x"y"b#, d: [1, -2.5, true, None, Some("x"),], e: {"k": "v",}, f: (), g: Q)"#,
            "/* a /* b */ c */ P( // x\n a: 1, /* y */ )\n// end\n",
        ] {
            let text = text.replace("r#b", "r#").replace("b#", "#");
            assert!(ron::value::RawValue::from_ron(&text).is_ok(), "{text}");
            assert_eq!(read(&text), (true, vec![]), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[PIabr(){}\\[\\]:,=\"'#/*\\\\ \n.1é]{0,40}") {
            let (whole, messages) = read(&text);
            prop_assert!(whole || !messages.is_empty());
        }

        #[test]
        fn what_is_read_is_ron(text in "P\\((a|b|\"x\"|,|:| |\\[|\\]|\\{|\\}|\\(|\\)| 1 |r\"y\"|//z\n|Some\\(1\\)){0,12}\\)") {
            if read(&text) == (true, vec![]) {
                prop_assert!(ron::value::RawValue::from_ron(&text).is_ok(), "{}", text);
            }
        }
    }
}
