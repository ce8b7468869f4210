//! Shell words: quotes, escapes and `$` in the words of an instruction, by the rules of BuildKit's lexer (which follow
//! POSIX XCU 2.6.2, with `/` and `//` of bash). Knows no scope: it asks for the value of a name.

use super::glob::ShellPattern;

/// How deep `${A:-${B:-…}}` may be nested.
const DEEPEST: usize = 100;
/// Bytes that variables may bring into one word: a few lines of `ENV A=$A$A` would fill the memory.
const LONGEST: usize = 1 << 20;
/// Characters of patterns times those of the values they are held against, in one word: so much takes moments.
const MOST_WORK: usize = 1 << 26;

/// How a word is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lexer {
    /// `\` or `` ` ``.
    pub escape: char,
    /// Quotes stay in the result.
    pub raw_quotes: bool,
    /// Escape characters stay in the result.
    pub raw_escapes: bool,
    /// Quotes are characters like others.
    pub skip_quotes: bool,
    /// References to unset names stay as they are.
    pub skip_unset: bool,
}

impl Lexer {
    /// The ordinary reading.
    pub fn new(escape: char) -> Self {
        Self { escape, raw_quotes: false, raw_escapes: false, skip_quotes: false, skip_unset: false }
    }

    /// Expands `source`; `value` gives the value of a name, `None` where it is unset.
    pub fn expand(self, source: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<Expansion, WordError> {
        let chars = source.chars().collect();
        let mut reader = Reader { lexer: self, chars, at: 0, value, names: Vec::new(), pattern: false, depth: 0, brought: 0, work: 0 };
        let (text, words) = reader.until(None, self.raw_escapes)?;
        Ok(Expansion { text, words, names: reader.names, pattern: reader.pattern })
    }
}

/// What a word comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expansion {
    /// As one word.
    pub text: String,
    /// Split at white space that is neither quoted nor escaped; what a variable brings in is split too.
    pub words: Vec<String>,
    /// The names asked for, and whether they were set.
    pub names: Vec<(String, bool)>,
    /// A modifier with a pattern was used (`#`, `%`, `/`).
    pub pattern: bool,
}

/// Why a word cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WordError {
    #[error("the {quote} has no end")]
    OpenQuote { quote: &'static str },
    #[error("`${{` has no `}}`")]
    OpenBrace,
    #[error("`${{NAME/pattern/text}}` lacks the second `/`")]
    OpenPattern,
    #[error("bad substitution: `${{` needs a name")]
    NoName,
    #[error("unsupported modifier `{modifier}` in a substitution")]
    Modifier { modifier: String },
    #[error("`{name}`: {message}")]
    Required { name: String, message: String },
    #[error("invalid pattern `{pattern}` in a substitution")]
    Pattern { pattern: String },
    #[error("substitutions are nested more than {DEEPEST} deep")]
    TooDeep,
    #[error("its variables come to more than {} MiB", LONGEST >> 20)]
    TooLong,
    #[error("its patterns and the values they are held against are too long")]
    TooMuch,
}

#[derive(Default)]
struct Words {
    word: String,
    words: Vec<String>,
    inside: bool,
}

impl Words {
    fn split(&mut self, char: char) {
        if !char.is_whitespace() {
            self.raw(char);
        } else if self.inside && !self.word.is_empty() {
            self.words.push(std::mem::take(&mut self.word));
            self.inside = false;
        }
    }

    fn raw(&mut self, char: char) {
        self.word.push(char);
        self.inside = true;
    }

    fn raw_text(&mut self, text: &str) {
        self.word.push_str(text);
        self.inside = true;
    }

    fn finish(mut self) -> Vec<String> {
        if !self.word.is_empty() {
            self.words.push(self.word);
        }
        self.words
    }
}

struct Reader<'a> {
    lexer: Lexer,
    chars: Vec<char>,
    at: usize,
    value: &'a dyn Fn(&str) -> Option<String>,
    names: Vec<(String, bool)>,
    pattern: bool,
    /// Substitutions around the one that is read.
    depth: usize,
    /// Bytes that came from variables so far.
    brought: usize,
    /// Of [`MOST_WORK`].
    work: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let char = self.peek();
        self.at += usize::from(char.is_some());
        char
    }

    fn lookup(&mut self, name: &str) -> Option<String> {
        let value = (self.value)(name);
        self.names.push((name.to_owned(), value.is_some()));
        value
    }

    /// Reads up to `stop`, which it takes, or to the end.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>), WordError> {
        let outer = std::mem::replace(&mut self.lexer.raw_escapes, raw_escapes);
        let result = self.until_inner(stop);
        self.lexer.raw_escapes = outer;
        result
    }

    fn until_inner(&mut self, stop: Option<char>) -> Result<(String, Vec<String>), WordError> {
        let mut result = String::new();
        let mut words = Words::default();
        while let Some(char) = self.peek() {
            if Some(char) == stop {
                self.at += 1;
                return Ok((result, words.finish()));
            }
            match char {
                '$' => {
                    let text = self.dollar()?;
                    text.chars().for_each(|char| words.split(char));
                    result.push_str(&text);
                }
                '<' => {
                    let text = self.heredoc_start();
                    words.raw_text(&text);
                    result.push_str(&text);
                }
                '\'' | '"' if !self.lexer.skip_quotes => {
                    let text = if char == '"' { self.double_quote()? } else { self.single_quote()? };
                    words.raw_text(&text);
                    result.push_str(&text);
                }
                _ if char == self.lexer.escape => {
                    self.at += 1;
                    if self.lexer.raw_escapes {
                        words.raw(char);
                        result.push(char);
                    }
                    // at the very end it escapes nothing
                    if let Some(escaped) = self.next() {
                        words.raw(escaped);
                        result.push(escaped);
                    }
                }
                _ => {
                    self.at += 1;
                    words.split(char);
                    result.push(char);
                }
            }
        }
        match stop {
            Some(_) => Err(WordError::OpenBrace),
            None => Ok((result, words.finish())),
        }
    }

    /// `<<` binds the blanks behind it, so that `<< EOF` is one word.
    fn heredoc_start(&mut self) -> String {
        self.at += 1;
        let mut text = String::from("<");
        if self.peek() == Some('<') {
            self.at += 1;
            text.push('<');
            while let Some(blank) = self.peek().filter(|char| matches!(char, ' ' | '\t' | '\r' | '\n')) {
                self.at += 1;
                text.push(blank);
            }
        }
        text
    }

    fn single_quote(&mut self) -> Result<String, WordError> {
        self.at += 1;
        let mut result = String::new();
        if self.lexer.raw_quotes {
            result.push('\'');
        }
        loop {
            match self.next() {
                None => return Err(WordError::OpenQuote { quote: "single quote" }),
                Some('\'') => {
                    if self.lexer.raw_quotes {
                        result.push('\'');
                    }
                    return Ok(result);
                }
                Some(char) => result.push(char),
            }
        }
    }

    fn double_quote(&mut self) -> Result<String, WordError> {
        self.at += 1;
        let mut result = String::new();
        if self.lexer.raw_quotes {
            result.push('"');
        }
        loop {
            match self.peek() {
                None => return Err(WordError::OpenQuote { quote: "double quote" }),
                Some('"') => {
                    self.at += 1;
                    if self.lexer.raw_quotes {
                        result.push('"');
                    }
                    return Ok(result);
                }
                Some('$') => result.push_str(&self.dollar()?),
                Some(char) if char == self.lexer.escape => {
                    self.at += 1;
                    if self.lexer.raw_escapes {
                        result.push(char);
                    }
                    match self.peek() {
                        None => {}
                        // only these can be escaped in here, any other escape character stays
                        Some(escaped) if matches!(escaped, '"' | '$') || escaped == self.lexer.escape => {
                            self.at += 1;
                            result.push(escaped);
                        }
                        Some(_) => result.push(char),
                    }
                }
                Some(char) => {
                    self.at += 1;
                    result.push(char);
                }
            }
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(char) if char.is_numeric() => {
                while let Some(digit) = self.peek().filter(|char| char.is_numeric()) {
                    self.at += 1;
                    name.push(digit);
                }
            }
            Some(char @ ('@' | '*' | '#' | '?' | '-' | '$' | '!')) => {
                self.at += 1;
                name.push(char);
            }
            _ => {
                while let Some(char) = self.peek().filter(|char| char.is_alphanumeric() || *char == '_') {
                    self.at += 1;
                    name.push(char);
                }
            }
        }
        name
    }

    /// A pattern that is held against `value`.
    fn pattern(&mut self, pattern: &str, value: &str) -> Result<ShellPattern, WordError> {
        self.work = self.work.saturating_add(pattern.len().saturating_mul(value.len()));
        if self.work > MOST_WORK {
            return Err(WordError::TooMuch);
        }
        ShellPattern::parse(pattern).ok_or_else(|| WordError::Pattern { pattern: pattern.to_owned() })
    }

    fn dollar(&mut self) -> Result<String, WordError> {
        if self.depth == DEEPEST {
            return Err(WordError::TooDeep);
        }
        self.depth += 1;
        let text = self.dollar_inner()?;
        self.depth -= 1;
        self.brought = self.brought.saturating_add(text.len());
        if self.brought > LONGEST { Err(WordError::TooLong) } else { Ok(text) }
    }

    fn dollar_inner(&mut self) -> Result<String, WordError> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(match self.lookup(&name) {
                None if self.lexer.skip_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        self.at += 1;
        match self.peek() {
            None => return Err(WordError::OpenBrace),
            Some('{' | '}' | ':') => return Err(WordError::NoName),
            Some(_) => {}
        }
        let name = self.name();
        match self.next() {
            Some('}') => Ok(match self.lookup(&name) {
                None if self.lexer.skip_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            Some(':') => match self.next() {
                Some(modifier @ ('+' | '-' | '?' | '#' | '%')) => self.modified(&name, true, modifier),
                Some(modifier) => Err(WordError::Modifier { modifier: format!(":{modifier}") }),
                None => Err(WordError::OpenBrace),
            },
            Some(modifier @ ('+' | '-' | '?' | '#' | '%')) => self.modified(&name, false, modifier),
            Some('/') => self.replaced(&name),
            Some(modifier) => Err(WordError::Modifier { modifier: modifier.into() }),
            None => Err(WordError::OpenBrace),
        }
    }

    /// `${name-word}` and the like; behind the modifier.
    fn modified(&mut self, name: &str, empty_is_unset: bool, modifier: char) -> Result<String, WordError> {
        let with_pattern = matches!(modifier, '#' | '%');
        self.pattern |= with_pattern;
        let (word, _) = self.until(Some('}'), with_pattern)?;
        let value = self.lookup(name);
        if self.lexer.skip_unset && value.is_none() {
            let colon = if empty_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
        }
        let counts = value.clone().filter(|value| !(empty_is_unset && value.is_empty()));
        match (modifier, counts) {
            ('-', counts) => Ok(counts.unwrap_or(word)),
            ('+', counts) => Ok(counts.map_or_else(String::new, |_| word)),
            ('?', Some(value)) => Ok(value),
            ('?', None) => {
                let default = if value.is_none() { "is not allowed to be unset" } else { "is not allowed to be empty" };
                let message = if word.is_empty() { default.to_owned() } else { word };
                Err(WordError::Required { name: name.to_owned(), message })
            }
            (_, _) => {
                let value = value.unwrap_or_default();
                let (longest, pattern) = match word.strip_prefix(modifier) {
                    Some(rest) => (true, rest),
                    None => (false, word.as_str()),
                };
                let pattern = self.pattern(pattern, &value)?;
                Ok(if modifier == '#' { pattern.without_prefix(&value, longest) } else { pattern.without_suffix(&value, longest) })
            }
        }
    }

    /// `${name/pattern/text}` and `${name//pattern/text}`; behind the first slash.
    fn replaced(&mut self, name: &str) -> Result<String, WordError> {
        self.pattern = true;
        let all = self.peek() == Some('/');
        self.at += usize::from(all);
        let (pattern, _) = self.until(Some('/'), true).map_err(|error| match error {
            WordError::OpenBrace => WordError::OpenPattern,
            other => other,
        })?;
        let (text, _) = self.until(Some('}'), true)?;
        match self.lookup(name) {
            None if self.lexer.skip_unset => Ok(format!("${{{name}{}{pattern}/{text}}}", if all { "//" } else { "/" })),
            value => {
                let value = value.unwrap_or_default();
                Ok(self.pattern(&pattern, &value)?.replace(&value, &text, all))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(word: &str) -> String {
        let value = |name: &str| match name {
            "V" => Some("foo.tar.gz".to_owned()),
            "E" => Some(String::new()),
            _ => None,
        };
        Lexer::new('\\').expand(word, &value).map_or_else(|error| format!("error: {error}"), |expansion| expansion.text)
    }

    #[test]
    fn modifiers() {
        for (word, expected) in [
            ("${V#*.}", "tar.gz"),
            ("${V##*.}", "gz"),
            ("${V%.*}", "foo.tar"),
            ("${V%%.*}", "foo"),
            ("${V/o/0}", "f0o.tar.gz"),
            ("${V//o/0}", "f00.tar.gz"),
            ("${V//./}", "footargz"),
            ("${V/\\//x}", "foo.tar.gz"),
            ("${V#f?o}", ".tar.gz"),
            ("${V#\\*}", "foo.tar.gz"),
            ("${U-a b}", "a b"),
            ("${E-x}|${E:-x}|${E+y}|${E:+y}", "|x|y|"),
            ("${U:?no value}", "error: `U`: no value"),
            ("${E:?}", "error: `E`: is not allowed to be empty"),
            ("${V=x}", "error: unsupported modifier `=` in a substitution"),
            ("${V/o", "error: `${NAME/pattern/text}` lacks the second `/`"),
            ("${V#\\a}", "error: invalid pattern `\\a` in a substitution"),
        ] {
            assert_eq!(expand(word), expected, "{word}");
        }
    }

    #[test]
    fn what_is_unset_stays_as_it_is_written() {
        let lexer = Lexer { raw_quotes: true, skip_unset: true, ..Lexer::new('\\') };
        for word in ["$U", "${U}", "${U/a/b}", "${U//a/b}", "${U//a/}", "${U#a}", "${U##a}", "${U%a}", "${U%%a}", "${U:-a}", "${U-a}"] {
            assert_eq!(lexer.expand(word, &|_| None).unwrap().text, word);
        }
        // and what is set is replaced
        assert_eq!(lexer.expand("${U//a/b} ${V//a/b}", &|name| (name == "V").then(|| "aa".into())).unwrap().text, "${U//a/b} bb");
    }

    #[test]
    fn what_would_fill_stack_or_memory_is_refused() {
        let nested = |depth: usize| format!("{}x{}", "${U:-".repeat(depth), "}".repeat(depth));
        assert_eq!(expand(&nested(DEEPEST)), "x");
        assert_eq!(expand(&nested(100_000)), "error: substitutions are nested more than 100 deep");
        let long = "x".repeat(1000);
        let error = Lexer::new('\\').expand(&"$V".repeat(2000), &|_| Some(long.clone())).unwrap_err();
        assert_eq!(error.to_string(), "its variables come to more than 1 MiB");
        let long = "x".repeat(10_000);
        let error = Lexer::new('\\').expand("${V#$V}", &|_| Some(long.clone())).unwrap_err();
        assert_eq!(error.to_string(), "its patterns and the values they are held against are too long");
    }

    #[test]
    fn the_other_escape() {
        let expansion = Lexer::new('`').expand("C:\\a`$V \"`$V\"", &|_| None).unwrap();
        assert_eq!(expansion.text, "C:\\a$V $V");
    }
}
