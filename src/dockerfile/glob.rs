//! Wildcards of three dialects: shell patterns of `${V#…}`, Go's `filepath.Match` of COPY sources, and the patterns of
//! ignore files (moby/patternmatcher). All match in time proportional to pattern times text.

/// One step of a compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Char(char),
    /// Any one character but `/`.
    NotSlash,
    /// Any one character.
    Any,
    /// Any run of characters but `/`.
    Segment,
    /// Any run of characters.
    Rest,
    /// Nothing, or anything that ends in `/`.
    Folders,
    /// One character of these ranges, or of none of them.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// The ends of the prefixes of `text` that `tokens` match, as a set of indices into `text`.
fn ends(tokens: &[Token], text: &[char], starts: Vec<bool>) -> Vec<bool> {
    let length = text.len() + 1;
    let mut reached = starts;
    for token in tokens {
        let mut next = vec![false; length];
        let mut running = false;
        for at in 0..length {
            match token {
                Token::Segment | Token::Rest => {
                    let stops = at > 0 && matches!(token, Token::Segment) && text[at - 1] == '/';
                    running = reached[at] || (running && !stops);
                    next[at] = running;
                }
                Token::Folders => {
                    next[at] = reached[at] || (running && at > 0 && text[at - 1] == '/');
                    running |= reached[at];
                }
                _ if at + 1 == length || !reached[at] => {}
                Token::Char(char) => next[at + 1] = text[at] == *char,
                Token::NotSlash => next[at + 1] = text[at] != '/',
                Token::Any => next[at + 1] = true,
                Token::Class { negated, ranges } => {
                    let inside = ranges.iter().any(|(low, high)| (low..=high).contains(&&text[at]));
                    next[at + 1] = inside != *negated;
                }
            }
        }
        reached = next;
    }
    reached
}

fn starts_at(index: usize, length: usize) -> Vec<bool> {
    let mut starts = vec![false; length + 1];
    starts[index] = true;
    starts
}

fn matches_all(tokens: &[Token], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    ends(tokens, &text, starts_at(0, text.len()))[text.len()]
}

/// A pattern of `${V#pattern}`: `*`, `?` and `\`; no brackets.
#[derive(Clone, Debug)]
pub(super) struct ShellPattern(Vec<Token>);

impl ShellPattern {
    /// `None` where a `\` stands before something that needs none.
    pub fn parse(pattern: &str) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut chars = pattern.chars();
        while let Some(char) = chars.next() {
            tokens.push(match char {
                '*' => Token::Rest,
                '?' => Token::Any,
                '\\' => match chars.next() {
                    Some(escaped @ ('}' | '/' | '*' | '?' | '\\')) => Token::Char(escaped),
                    _ => return None,
                },
                char => Token::Char(char),
            });
        }
        Some(Self(tokens))
    }

    /// `value` without the shortest or longest start that matches.
    pub fn without_prefix(&self, value: &str, longest: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let ends = ends(&self.0, &chars, starts_at(0, chars.len()));
        let end = if longest { ends.iter().rposition(|end| *end) } else { ends.iter().position(|end| *end) };
        chars[end.unwrap_or(0)..].iter().collect()
    }

    /// `value` without the shortest or longest end that matches.
    pub fn without_suffix(&self, value: &str, longest: bool) -> String {
        // from the back: all starts of a match at once
        let backwards: Vec<char> = value.chars().rev().collect();
        let tokens: Vec<Token> = self.0.iter().rev().cloned().collect();
        let lengths = ends(&tokens, &backwards, starts_at(0, backwards.len()));
        let length = if longest { lengths.iter().rposition(|end| *end) } else { lengths.iter().position(|end| *end) };
        backwards[length.unwrap_or(0)..].iter().rev().collect()
    }

    /// `value` with the first match, or all, replaced; a match starts as early and is as long as can be.
    pub fn replace(&self, value: &str, text: &str, all: bool) -> String {
        let chars: Vec<char> = value.chars().collect();
        let mut matches = Matches::new(&self.0, &chars);
        let mut result = String::new();
        let (mut at, mut last_end) = (0, None);
        while at <= chars.len() {
            match matches.longest(at) {
                // an empty match right behind a match is none
                Some(end) if end > at || last_end != Some(at) => {
                    result.push_str(text);
                    last_end = Some(end);
                    if !all {
                        result.extend(&chars[end..]);
                        return result;
                    }
                    if end > at {
                        at = end;
                        continue;
                    }
                }
                _ => {}
            }
            result.extend(chars.get(at));
            at += 1;
        }
        result
    }
}

/// The matches of a shell pattern at ever later places of a text. The pattern falls into pieces between its stars: all but the last are
/// taken where they first come, the last where it last comes, and since places only grow each piece is looked for once through the text.
struct Matches<'a> {
    text: &'a [char],
    pieces: Vec<&'a [Token]>,
    /// Where each piece between the first and the last was found.
    found: Vec<Option<usize>>,
    /// Where the last piece comes last.
    last: Option<usize>,
}

impl<'a> Matches<'a> {
    fn new(tokens: &'a [Token], text: &'a [char]) -> Self {
        let pieces: Vec<&[Token]> = tokens.split(|token| *token == Token::Rest).collect();
        let mut matches = Self { text, found: Vec::new(), last: None, pieces };
        let end = matches.pieces.len() - 1;
        matches.last = (0..=text.len()).rev().find(|at| matches.is_at(end, *at));
        matches.found = (0..end).map(|piece| matches.next(piece, 0)).collect();
        matches
    }

    fn is_at(&self, piece: usize, at: usize) -> bool {
        let tokens = self.pieces[piece];
        let Some(text) = self.text.get(at..at + tokens.len()) else { return false };
        tokens.iter().zip(text).all(|(token, char)| *token == Token::Any || *token == Token::Char(*char))
    }

    fn next(&self, piece: usize, from: usize) -> Option<usize> {
        (from..=self.text.len()).find(|at| self.is_at(piece, *at))
    }

    /// The end of the longest match that starts at `at`, which is not before that of an earlier call.
    fn longest(&mut self, at: usize) -> Option<usize> {
        if !self.is_at(0, at) {
            return None;
        }
        let mut at = at + self.pieces[0].len();
        let end = self.pieces.len() - 1;
        if end == 0 {
            return Some(at);
        }
        for piece in 1..end {
            if self.found[piece]? < at {
                self.found[piece] = self.next(piece, at);
            }
            at = self.found[piece]? + self.pieces[piece].len();
        }
        self.last.filter(|last| *last >= at).map(|last| last + self.pieces[end].len())
    }
}

/// The pattern is malformed: an open bracket, an empty range, a `\` at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPattern;

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Token, BadPattern> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    let member = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next() {
        None | Some('-' | ']') => Err(BadPattern),
        Some('\\') => chars.next().ok_or(BadPattern),
        Some(char) => Ok(char),
    };
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Ok(Token::Class { negated, ranges });
        }
        let low = member(chars)?;
        let high = if chars.next_if_eq(&'-').is_some() { member(chars)? } else { low };
        ranges.push((low, high));
    }
}

fn tokens(pattern: &str, double_stars: bool) -> Result<Vec<Token>, BadPattern> {
    let mut chars = pattern.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(char) = chars.next() {
        tokens.push(match char {
            '*' if double_stars && chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                if chars.peek().is_none() { Token::Rest } else { Token::Folders }
            }
            '*' => Token::Segment,
            '?' => Token::NotSlash,
            '[' => class(&mut chars)?,
            '\\' => Token::Char(chars.next().ok_or(BadPattern)?),
            char => Token::Char(char),
        });
    }
    Ok(tokens)
}

/// A COPY source with wildcards, as Go's `filepath.Match` reads it.
#[derive(Clone, Debug)]
pub struct PathPattern(Vec<Token>);

impl PathPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// Where it is malformed.
    pub fn parse(pattern: &str) -> Result<Self, BadPattern> {
        tokens(pattern, false).map(Self)
    }

    /// Whether it matches all of `path`.
    pub fn matches(&self, path: &str) -> bool {
        matches_all(&self.0, path)
    }
}

/// Whether a COPY source holds a wildcard that is not escaped.
pub fn has_wildcard(path: &str) -> bool {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'*' | b'?' | b'[' => return true,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
    false
}

/// One cleaned pattern of an ignore file, without its `!`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum IgnorePattern {
    Exact(String),
    /// `literal**`.
    Prefix(String),
    /// `**literal`: any path that ends so, also within a name.
    Suffix(String),
    Tokens(Vec<Token>),
}

impl IgnorePattern {
    pub fn parse(pattern: &str) -> Result<Self, BadPattern> {
        let special = |text: &str| text.contains(['*', '?', '[', ']', '\\']);
        let tokens = tokens(pattern, true)?;
        Ok(if !special(pattern) {
            Self::Exact(pattern.to_owned())
        } else if let Some(suffix) = pattern.strip_prefix("**").filter(|rest| !special(rest)) {
            Self::Suffix(suffix.to_owned())
        } else if let Some(prefix) = pattern.strip_suffix("**").filter(|rest| !special(rest)) {
            Self::Prefix(prefix.to_owned())
        } else {
            Self::Tokens(tokens)
        })
    }

    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Exact(exact) => path == exact,
            Self::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => path.ends_with(suffix.as_str()) || suffix.strip_prefix('/').is_some_and(|name| path == name),
            Self::Tokens(tokens) => matches_all(tokens, path),
        }
    }

    /// Whether some path that starts with `below`, which ends in `/`, may match.
    pub fn may_match_below(&self, below: &str) -> bool {
        match self {
            Self::Exact(exact) => exact.starts_with(below),
            Self::Prefix(prefix) => prefix.starts_with(below) || below.starts_with(prefix.as_str()),
            Self::Suffix(_) => true,
            Self::Tokens(tokens) => {
                let text: Vec<char> = below.chars().collect();
                (1..=tokens.len()).any(|count| ends(&tokens[..count], &text, starts_at(0, text.len()))[text.len()])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_match() {
        for (pattern, path, expected) in [
            ("*.txt", "a.txt", true),
            ("*.txt", "d/a.txt", false),
            ("d/*", "d/a", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[[]x", "[x", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("**", "a/b", false),
        ] {
            assert_eq!(PathPattern::parse(pattern).unwrap().matches(path), expected, "{pattern} {path}");
        }
        for pattern in ["[", "[]a]", "[a", "a\\", "[-x]", "[a-]"] {
            assert!(PathPattern::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn shell_patterns_take_their_length_in_time() {
        let value = "ab".repeat(100_000);
        let pattern = ShellPattern::parse("b*a*b*c").unwrap();
        assert_eq!(pattern.replace(&value, "-", true), value);
        assert_eq!(pattern.without_suffix(&value, true), value);
        let pattern = ShellPattern::parse("a?").unwrap();
        assert_eq!(pattern.replace(&value, "-", true), "-".repeat(100_000));
    }

    #[test]
    fn long_patterns_do_not_explode() {
        let pattern = PathPattern::parse(&"*a".repeat(40)).unwrap();
        assert!(!pattern.matches(&"a".repeat(39)));
    }
}
