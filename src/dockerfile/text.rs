//! Text that remembers where in the source each of its parts stands, through line joins and unquoting.

use super::Span;

/// A text put together from pieces of the source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mapped {
    text: String,
    /// (offset in `text`, offset in the source), both ascending; each rules up to the next.
    pieces: Vec<(usize, usize)>,
    /// Place of the text when it is empty.
    at: usize,
}

impl Mapped {
    /// Nothing, at `at`.
    pub fn empty(at: usize) -> Self {
        Self { text: String::new(), pieces: Vec::new(), at }
    }

    /// Adds a piece that stands at `at` in the source.
    pub fn push(&mut self, piece: &str, at: usize) {
        if piece.is_empty() {
            return;
        }
        let joins = self.pieces.last().is_some_and(|(text, source)| source + (self.text.len() - text) == at);
        if !joins {
            self.pieces.push((self.text.len(), at));
        }
        self.text.push_str(piece);
    }

    /// Adds one character that stands at `at` in the source.
    pub fn push_char(&mut self, char: char, at: usize) {
        self.push(char.encode_utf8(&mut [0; 4]), at);
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Where the byte at `offset` stands in the source.
    pub fn place(&self, offset: usize) -> usize {
        let index = self.pieces.partition_point(|(text, _)| *text <= offset);
        match index.checked_sub(1).and_then(|index| self.pieces.get(index)) {
            Some((text, source)) => source + (offset - text),
            None => self.at,
        }
    }

    /// Where `range` stands in the source.
    pub fn span_of(&self, range: std::ops::Range<usize>) -> Span {
        if range.is_empty() {
            let at = self.place(range.start);
            return at..at;
        }
        self.place(range.start)..self.place(range.end - 1) + 1
    }

    /// Where all of it stands.
    pub fn span(&self) -> Span {
        self.span_of(0..self.text.len())
    }

    /// A part of it.
    pub fn slice(&self, range: std::ops::Range<usize>) -> Self {
        let mut part = Self::empty(self.place(range.start));
        let mut start = range.start;
        while start < range.end {
            let next = self.pieces.partition_point(|(text, _)| *text <= start);
            let end = self.pieces.get(next).map_or(range.end, |(text, _)| (*text).min(range.end));
            part.push(&self.text[start..end], self.place(start));
            start = end;
        }
        part
    }

    /// Without white space at its ends.
    pub fn trim(&self) -> Self {
        let start = self.text.len() - self.text.trim_start().len();
        let end = start + self.text[start..].trim_end().len();
        self.slice(start..end)
    }

    /// What stands before and after the first `separator`.
    pub fn split_once(&self, separator: char) -> Option<(Self, Self)> {
        let at = self.text.find(separator)?;
        Some((self.slice(0..at), self.slice(at + separator.len_utf8()..self.text.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_joins() {
        let mut text = Mapped::empty(3);
        text.push("FROM deb", 10);
        text.push("ian", 25);
        assert_eq!(text.as_str(), "FROM debian");
        assert_eq!(text.slice(5..11).span(), 15..28);
        assert_eq!(text.slice(8..11).span(), 25..28);
        assert_eq!(text.slice(5..11).slice(3..6).as_str(), "ian");
        assert_eq!(text.span_of(5..5), 15..15);
        assert_eq!(Mapped::empty(7).span(), 7..7);
    }
}
