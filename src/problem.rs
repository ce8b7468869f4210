//! What is wrong with something a person wrote: a message, the place, and a hint. Rendering is `report`'s.

use std::sync::Arc;

/// A text that problems point into, with the path people know it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Path relative to the workspace root, or as the user gave it.
    pub path: String,
    /// The whole text.
    pub text: String,
}

/// A byte range of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The text pointed into.
    pub source: Arc<Source>,
    /// Byte offsets; may be empty, never past the end.
    pub span: std::ops::Range<usize>,
    /// What stands there, when more than one place is shown; lower case, no full stop.
    pub note: Option<String>,
}

impl Place {
    /// 1-based line and column (in characters) of the start.
    pub fn line_column(&self) -> (usize, usize) {
        let start = self.source.text.floor_char_boundary(self.span.start);
        let before = &self.source.text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// One problem: lower-case message with names in backticks and no full stop, places (the first is
/// the main one), an optional hint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in the user's words.
    pub message: String,
    /// Where; empty when there is no text to point at.
    pub places: Vec<Place>,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without a place.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), places: Vec::new(), hint: None }
    }

    /// Adds a place.
    pub fn at(mut self, source: &Arc<Source>, span: std::ops::Range<usize>) -> Self {
        self.places.push(Place { source: source.clone(), span, note: None });
        self
    }

    /// Adds a place with a note of its own.
    pub fn at_with(mut self, source: &Arc<Source>, span: std::ops::Range<usize>, note: impl Into<String>) -> Self {
        self.places.push(Place { source: source.clone(), span, note: Some(note.into()) });
        self
    }

    /// The same, of sources whose paths were relative to `folder`.
    pub fn below(mut self, folder: &str) -> Self {
        for place in self.places.iter_mut().filter(|_| !folder.is_empty()) {
            let Source { path, text } = &*place.source;
            let path = if path.starts_with('/') { path.clone() } else { format!("{folder}/{path}") };
            place.source = Arc::new(Source { path, text: text.clone() });
        }
        self
    }

    /// Sets the hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Of `candidates`, the one nearest to `wrong` by edit distance, if near enough to be meant.
pub fn nearest<'a>(wrong: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wrong.chars().count() / 3).max(1);
    // who wrote the whole beginning left the rest out: 4.2 for 4.2.1
    let cut_short = |candidate: &str| wrong.chars().count() > 2 && candidate.starts_with(wrong);
    candidates
        .into_iter()
        .map(|candidate| (if cut_short(candidate) { 0 } else { edit_distance(wrong, candidate) }, candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, candidate)| (*distance, *candidate))
        .map(|(_, candidate)| candidate)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let changed = last[j] + usize::from(a[i] != b[j]);
            let best = changed.min(row[j] + 1).min(last[j + 1] + 1);
            // two neighbours the wrong way round are one slip of the fingers
            let swapped = i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j];
            row.push(if swapped { best.min(before[j - 1] + 1) } else { best });
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_near_or_nothing() {
        assert_eq!(nearest("dockerfil", ["dockerfile", "context"]), Some("dockerfile"));
        assert_eq!(nearest("xyz", ["dockerfile", "context"]), None);
        assert_eq!(nearest("Imgae", ["Test", "Image"]), Some("Image"));
        assert_eq!(nearest("hots", ["host"]), Some("host"));
        assert_eq!(nearest("", ["", "a"]), Some(""));
        assert_eq!(nearest("//a:4.2", ["//a:4.10", "//a:4.2.1"]), Some("//a:4.2.1"));
    }

    #[test]
    fn places_count_characters() {
        let source = Arc::new(Source { path: "f".into(), text: "a\nbé c".into() });
        let problem = Problem::new("x").at(&source, 6..7);
        assert_eq!(problem.places[0].line_column(), (2, 4));
    }
}
