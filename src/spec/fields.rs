//! Taking typed fields out of a tree, with problems in people's words. Knows which fields a rule has and how each
//! is described, not what they mean.

use std::sync::Arc;
use std::time::Duration;

use super::duration::parse_duration;
use super::model::Span;
use super::tree::{Call, Kind, Node};
use crate::problem::{Problem, Source, nearest};

/// A field: its name, and what it is in people's words, like ``a string, like `"4.2.1"` ``.
pub type Field = (&'static str, &'static str);

/// The fields of a rule, in groups that rules share.
pub struct Schema {
    /// Like `Image`.
    pub rule: &'static str,
    /// What it may have.
    pub groups: &'static [&'static [Field]],
}

impl Schema {
    fn fields(&self) -> impl Iterator<Item = &'static Field> {
        self.groups.iter().copied().flatten()
    }
}

/// Collects the problems of one build file.
pub struct Sink<'a> {
    pub source: &'a Arc<Source>,
    pub problems: Vec<Problem>,
}

impl<'a> Sink<'a> {
    /// An empty one.
    pub fn new(source: &'a Arc<Source>) -> Self {
        Self { source, problems: Vec::new() }
    }

    /// Reports `message` at `span`.
    pub fn report(&mut self, span: Span, message: impl Into<String>) {
        self.problems.push(self.at(span, message));
    }

    /// Reports `message` at `span`, with a hint.
    pub fn report_hint(&mut self, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(self.at(span, message).hint(hint));
    }

    /// A problem to add to before it is pushed.
    pub fn at(&self, span: Span, message: impl Into<String>) -> Problem {
        Problem::new(message).at(self.source, span.range())
    }

    /// Reports `message` at `span`, and where the first of the two stands.
    pub fn report_twice(&mut self, span: Span, first: Span, message: impl Into<String>, note: &str) {
        self.problems.push(Problem::new(message).at(self.source, span.range()).at_with(self.source, first.range(), note));
    }
}

/// A value that may be left out: `Some(x)` is `x`, `None` is nothing.
pub fn plain<'n, 's>(node: &'n Node<'s>) -> Option<&'n Node<'s>> {
    match &node.kind {
        Kind::Word("None") | Kind::Broken => None,
        Kind::Call(Call { name: Some(("Some", _)), items }) => match &items[..] {
            [item] if item.name.is_none() => plain(&item.value),
            _ => Some(node),
        },
        _ => Some(node),
    }
}

/// What a value is, for the note under a caret.
pub fn describe(node: &Node<'_>) -> String {
    match &node.kind {
        Kind::Text(_) => "this is a string".to_owned(),
        Kind::Number(_) => "this is a number".to_owned(),
        Kind::Word(word) => format!("this is the word `{word}`, without quotes"),
        Kind::Call(Call { name: Some((name, _)), .. }) => format!("this is `{name}(…)`"),
        Kind::Call(_) => "this is a group in `( )`".to_owned(),
        Kind::List(_) => "this is a list".to_owned(),
        Kind::Map(_) => "this is a map".to_owned(),
        Kind::Broken => "this could not be read".to_owned(),
    }
}

/// Adds the way out to a problem about the type of a value, where one is plain: `is` says what is wanted.
fn with_way_out(problem: Problem, is: &str, node: &Node<'_>, written: &str) -> Problem {
    let wants = |what: &str| is.starts_with(what);
    match &node.kind {
        Kind::Word("true" | "false") => problem,
        Kind::Number(_) if wants("a duration") => problem.hint(format!("give it a unit, and put it in quotes: `\"{written}s\"`")),
        Kind::Number(_) | Kind::Word(_) if wants("a string") || wants("a list of strings") || wants("a map") || wants("a duration") => {
            problem.hint(format!("put it in quotes: `\"{written}\"`"))
        }
        Kind::Text(_) if wants("a list") && !wants("a list of lists") => problem.hint(format!("put it in brackets: `[{written}]`")),
        Kind::Text(text) if wants("a whole number") || wants("a number") || wants("`true`") => {
            problem.hint(format!("write it without quotes: `{text}`"))
        }
        _ => problem,
    }
}

/// The fields that were written, checked for unknown, double and unnamed ones.
pub struct Fields<'n, 's> {
    schema: &'static Schema,
    /// The rule's word, or its bracket.
    pub word: Span,
    found: Vec<(&'static str, Span, &'n Node<'s>)>,
    /// Fields that unknown ones were probably meant to be.
    slips: Vec<&'static str>,
}

impl<'n, 's> Fields<'n, 's> {
    /// Of a call whose name is right.
    pub fn of(call: &'n Call<'s>, word: Span, schema: &'static Schema, sink: &mut Sink<'_>) -> Self {
        let rule = schema.rule;
        let mut found: Vec<(&'static str, Span, &'n Node<'s>)> = Vec::with_capacity(call.items.len());
        let mut slips = Vec::new();
        for item in &call.items {
            let Some((name, span)) = item.name else {
                if !matches!(item.value.kind, Kind::Broken) {
                    let example = schema.fields().next().map_or("name", |(name, _)| name);
                    sink.report_hint(
                        item.value.span,
                        format!("the fields of `{rule}` have names"),
                        format!("write it like `{example}: …`"),
                    );
                }
                continue;
            };
            let Some((known, _)) = schema.fields().find(|(known, _)| *known == name) else {
                let problem = sink.at(span, format!("`{rule}` has no field `{name}`"));
                let near = nearest(name, schema.fields().map(|(known, _)| *known));
                slips.extend(near);
                sink.problems.push(match near {
                    Some(near) => problem.hint(format!("did you mean `{near}`?")),
                    None => {
                        let names: Vec<String> = schema.fields().map(|(known, _)| format!("`{known}`")).collect();
                        problem.hint(format!("its fields are {}", names.join(", ")))
                    }
                });
                continue;
            };
            match found.iter().find(|(name, ..)| name == known) {
                Some((_, first, _)) => sink.report_twice(span, *first, format!("`{name}` is written twice"), "first here"),
                None => found.push((known, span, &item.value)),
            }
        }
        Self { schema, word, found, slips }
    }

    /// The value of a field, if it is written.
    pub fn find(&self, name: &str) -> Option<&'n Node<'s>> {
        self.found.iter().find(|(known, ..)| *known == name).and_then(|(_, _, node)| plain(node))
    }

    /// Whether an unknown field was reported that is probably this one.
    pub fn meant(&self, name: &str) -> bool {
        self.slips.contains(&name)
    }

    /// The place of a field's name, if it is written.
    pub fn key(&self, name: &str) -> Option<Span> {
        self.found.iter().find(|(known, ..)| *known == name).map(|(_, span, _)| *span)
    }

    /// The places of all values.
    pub fn places(&self) -> impl Iterator<Item = (&'static str, Span)> {
        self.found.iter().map(|(name, _, node)| (*name, node.span))
    }

    /// Reports that the value of `name` is, or holds, something else than the schema says.
    pub fn wrong(&self, name: &str, node: &Node<'_>, sink: &mut Sink<'_>) {
        if matches!(node.kind, Kind::Broken) {
            return;
        }
        let is = self.schema.fields().find(|(known, _)| *known == name).map_or("", |(_, is)| is);
        wrong_type(name, is, node, sink);
    }

    /// A string.
    pub fn text(&self, name: &str, sink: &mut Sink<'_>) -> Option<(&'n str, Span)> {
        let node = self.find(name)?;
        match &node.kind {
            Kind::Text(text) => Some((text, node.span)),
            _ => {
                self.wrong(name, node, sink);
                None
            }
        }
    }

    /// A string that is not empty or white.
    pub fn filled(&self, name: &str, sink: &mut Sink<'_>) -> Option<(&'n str, Span)> {
        let (text, span) = self.text(name, sink)?;
        if text.trim().is_empty() {
            sink.report(span, format!("`{name}` is empty"));
            return None;
        }
        Some((text, span))
    }

    /// A list; what is broken in it is left out.
    pub fn list(&self, name: &str, sink: &mut Sink<'_>) -> Option<&'n [Node<'s>]> {
        let node = self.find(name)?;
        match &node.kind {
            Kind::List(nodes) => Some(nodes),
            _ => {
                self.wrong(name, node, sink);
                None
            }
        }
    }

    /// A list of strings; those that are none are reported and left out.
    pub fn texts(&self, name: &str, sink: &mut Sink<'_>) -> Option<Vec<(&'n str, Span)>> {
        let nodes = self.list(name, sink)?;
        Some(nodes.iter().filter_map(|node| self.element(name, node, sink)).collect())
    }

    /// A string within the value of `name`.
    pub fn element(&self, name: &str, node: &'n Node<'s>, sink: &mut Sink<'_>) -> Option<(&'n str, Span)> {
        match &node.kind {
            Kind::Text(text) => Some((text, node.span)),
            _ => {
                self.wrong(name, node, sink);
                None
            }
        }
    }

    /// A map with strings as keys; double keys are reported and left out.
    pub fn map(&self, name: &str, sink: &mut Sink<'_>) -> Option<Vec<(&'n str, Span, &'n Node<'s>)>> {
        let node = self.find(name)?;
        let Kind::Map(entries) = &node.kind else {
            self.wrong(name, node, sink);
            return None;
        };
        let mut found: Vec<(&'n str, Span, &'n Node<'s>)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let Some((text, span)) = self.element(name, key, sink) else { continue };
            match found.iter().find(|(known, ..)| *known == text) {
                Some((_, first, _)) => {
                    sink.report_twice(span, *first, format!("the key `{text}` is written twice in `{name}`"), "first here")
                }
                None => found.push((text, span, value)),
            }
        }
        Some(found)
    }

    /// `true` or `false`.
    pub fn boolean(&self, name: &str, sink: &mut Sink<'_>) -> Option<bool> {
        let node = self.find(name)?;
        match &node.kind {
            Kind::Word("true") => Some(true),
            Kind::Word("false") => Some(false),
            _ => {
                self.wrong(name, node, sink);
                None
            }
        }
    }

    /// A whole number from `least` to `most`.
    pub fn whole(&self, name: &str, least: i64, most: i64, sink: &mut Sink<'_>) -> Option<i64> {
        let node = self.find(name)?;
        let number = match &node.kind {
            Kind::Number(text) => text.replace('_', "").parse::<i64>().ok(),
            _ => None,
        };
        match (number, &node.kind) {
            (Some(number), _) if (least..=most).contains(&number) => return number.into(),
            (Some(_), _) | (None, Kind::Number(_)) => {
                sink.report(node.span, format!("`{name}` is a whole number from {least} to {most}"));
            }
            _ => self.wrong(name, node, sink),
        }
        None
    }

    /// A number from `least` to `most`.
    pub fn number(&self, name: &str, least: f64, most: f64, sink: &mut Sink<'_>) -> Option<f64> {
        let node = self.find(name)?;
        let Kind::Number(text) = &node.kind else {
            self.wrong(name, node, sink);
            return None;
        };
        match text.replace('_', "").parse::<f64>() {
            Ok(number) if (least..=most).contains(&number) => Some(number),
            _ => {
                sink.report(node.span, format!("`{name}` is a number from {least:.1} to {most:.1}"));
                None
            }
        }
    }

    /// A duration.
    pub fn duration(&self, name: &str, sink: &mut Sink<'_>) -> Option<(Duration, Span)> {
        let (text, span) = self.text(name, sink)?;
        match parse_duration(text) {
            Ok(duration) => Some((duration, span)),
            Err(error) => {
                sink.report_hint(span, error.to_string(), error.hint());
                None
            }
        }
    }
}

/// Reports that the value called `name` is something else than `is` says.
pub fn wrong_type(name: &str, is: &str, node: &Node<'_>, sink: &mut Sink<'_>) {
    let written = &sink.source.text[node.span.range()];
    let problem = Problem::new(format!("`{name}` is {is}")).at_with(sink.source, node.span.range(), describe(node));
    let problem = with_way_out(problem, is, node, written);
    sink.problems.push(problem);
}
