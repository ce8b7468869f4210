//! Heredoc words: which words of a line start a heredoc, its name, and whether its body is expanded.

use super::text::Mapped;
use super::words::{Lexer, WordError};

/// A word that starts a heredoc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HeredocWord {
    /// Ends the body; names the file.
    pub name: String,
    /// No part of the word was quoted.
    pub expand: bool,
    /// `<<-`.
    pub chomp: bool,
    /// Before `<<`.
    pub descriptor: u32,
}

/// Reads one word; `None` where it starts no heredoc.
pub(super) fn parse_word(word: &str) -> Result<Option<HeredocWord>, WordError> {
    let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let Some(rest) = word[digits..].strip_prefix("<<") else { return Ok(None) };
    let (chomp, rest) = rest.strip_prefix('-').map_or((false, rest), |rest| (true, rest));
    let rest = rest.trim_start();
    if rest.is_empty() || rest.contains('<') {
        return Ok(None);
    }
    // always `\`, whatever the escape directive says
    let lexer = Lexer { skip_unset: true, ..Lexer::new('\\') };
    let read = lexer.expand(rest, &|_| None)?;
    let raw = Lexer { raw_quotes: true, ..lexer }.expand(rest, &|_| None)?;
    let ([name], [raw]) = (&read.words[..], &raw.words[..]) else { return Ok(None) };
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Ok(Some(HeredocWord {
        name: name.clone(),
        expand: quotes(name) == quotes(raw),
        chomp,
        descriptor: word[..digits].parse().unwrap_or(0),
    }))
}

/// The heredocs that a line starts, in order.
pub(super) fn in_line(line: &Mapped) -> Result<Vec<HeredocWord>, WordError> {
    if !line.as_str().contains("<<") {
        return Ok(Vec::new());
    }
    let lexer = Lexer { raw_quotes: true, raw_escapes: true, skip_unset: true, ..Lexer::new('\\') };
    // a line that is no proper shell starts none
    let words = lexer.expand(line.as_str(), &|_| None).map(|expansion| expansion.words).unwrap_or_default();
    words.iter().filter_map(|word| parse_word(word).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let read = |word: &str| parse_word(word).unwrap().map(|found| (found.name, found.expand, found.chomp, found.descriptor));
        assert_eq!(read("<<EOF"), Some(("EOF".into(), true, false, 0)));
        assert_eq!(read("<<-EOF"), Some(("EOF".into(), true, true, 0)));
        assert_eq!(read("3<<'E F'"), Some(("E F".into(), false, false, 3)));
        assert_eq!(read("<<\"EOF\""), Some(("EOF".into(), false, false, 0)));
        assert_eq!(read("<<$EOF"), Some(("$EOF".into(), true, false, 0)));
        assert_eq!(read("<< EOF"), Some(("EOF".into(), true, false, 0)));
        for word in ["<<", "<<<EOF", "<EOF", "a<<EOF", "<<E<F", "\"<<EOF\""] {
            assert_eq!(read(word), None, "{word}");
        }
    }

    #[test]
    fn lines() {
        let names = |line: &str| {
            let mut text = Mapped::empty(0);
            text.push(line, 0);
            in_line(&text).unwrap().into_iter().map(|found| found.name).collect::<Vec<_>>()
        };
        assert_eq!(names("RUN cat <<EOF > /x && cat <<-'B' 3<<C"), ["EOF", "B", "C"]);
        assert_eq!(names("RUN <<  EOF cat"), ["EOF"]);
        assert_eq!(names("RUN echo \"<<EOF\" '<<B' \\<<C"), [""; 0]);
        assert_eq!(names("RUN echo $((1<<2))"), [""; 0]);
    }
}
