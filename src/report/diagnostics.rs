//! Problems as text for people: the message, the place, the line itself under a caret, and the hint. Knows no file
//! and no terminal; who prints says whether there is colour.

use std::ops::Range;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

use crate::problem::{Place, Problem, Source};

/// So many problems are shown; the others are counted.
pub const SHOWN: usize = 20;

/// Renders problems in the order given, each with an empty line after it, and at their end how many more there are.
/// Ends with a newline, unless there is none.
pub fn render_problems(problems: &[Problem], colour: bool) -> String {
    let mut text = String::new();
    for problem in problems.iter().take(SHOWN) {
        text.push_str(&render_problem(problem, colour));
        text.push_str("\n\n");
    }
    match problems.len().saturating_sub(SHOWN) {
        0 => text.truncate(text.trim_end().len()),
        1 => text.push_str("and 1 more problem"),
        more => text.push_str(&format!("and {more} more problems")),
    }
    if !text.is_empty() {
        text.push('\n');
    }
    text
}

/// Renders one problem, without a newline at its end.
pub fn render_problem(problem: &Problem, colour: bool) -> String {
    let mut group = Group::with_title(Level::ERROR.primary_title(&*problem.message));
    // places of one file share a snippet; the first is the main one
    let mut rest: Vec<(usize, &Place)> = problem.places.iter().enumerate().collect();
    while let Some((_, first)) = rest.first() {
        let source: &Arc<Source> = &first.source;
        let (same, others): (Vec<_>, Vec<_>) = rest.iter().partition(|(_, place)| place.source == *source);
        group = group.element(snippet(source, &same));
        rest = others;
    }
    // the word that all other messages have
    let word = Level::HELP.with_name("hint");
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    match &problem.hint {
        Some(hint) if problem.places.is_empty() => {
            let hint = Group::with_title(word.primary_title(&**hint));
            format!("{}\n{}", renderer.render(&[group]), renderer.render(&[hint]))
        }
        Some(hint) => renderer.render(&[group.element(word.message(&**hint))]),
        None => renderer.render(&[group]),
    }
}

fn snippet<'a>(source: &'a Source, places: &[(usize, &'a Place)]) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let text = &source.text;
    let spans: Vec<Range<usize>> = places.iter().map(|(_, place)| first_line(text, &place.span)).collect();
    // a build file may be long: only the lines concerned are handed over
    let start = spans.iter().map(|span| span.start).min().unwrap_or(0);
    let end = spans.iter().map(|span| span.end).max().unwrap_or(0);
    let start = text[..start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[end..].find('\n').map_or(text.len(), |at| end + at);
    let line = text[..start].matches('\n').count() + 1;
    let mut snippet = Snippet::source(&text[start..end]).line_start(line).path(&*source.path);
    for ((index, place), span) in places.iter().zip(spans) {
        let kind = if *index == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
        snippet = snippet.annotation(kind.span(span.start - start..span.end - start).label(place.note.as_deref()));
    }
    snippet
}

/// The part of a span on its first line, at character boundaries.
fn first_line(text: &str, span: &Range<usize>) -> Range<usize> {
    let start = text.floor_char_boundary(span.start);
    let end = text.ceil_char_boundary(span.end.max(start));
    let length = text[start..end].find('\n').unwrap_or(end - start);
    start..start + text[start..start + length].trim_end().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Arc<Source> {
        Arc::new(Source { path: path.to_owned(), text: text.to_owned() })
    }

    #[test]
    fn one_place_and_a_hint() {
        let source = source("images/a/BUILD.ron", "Package(\n    rules: [Image(nam: \"é\", name: \"x\")],\n)\n");
        let problem = Problem::new("`Image` has no field `nam`").at(&source, 27..30).hint("did you mean `name`?");
        insta::assert_snapshot!(render_problem(&problem, false), @r#"
        error: `Image` has no field `nam`
         --> images/a/BUILD.ron:2:19
          |
        2 |     rules: [Image(nam: "é", name: "x")],
          |                   ^^^
          |
          = hint: did you mean `name`?
        "#);
    }

    #[test]
    fn several_places_in_one_file_and_in_two() {
        let one = source("a/BUILD.ron", "first(\n  x: 1,\n  y: 2,\n  z: 3,\n  zz: 4,\n  x: 5,\n)");
        let two = source("b/BUILD.ron", "second\n");
        let problem = Problem::new("`x` is written twice").at(&one, 42..43).at_with(&one, 9..10, "first here");
        let other = Problem::new("`n:1` is claimed by two entries").at_with(&two, 0..6, "//b:1").at_with(&one, 0..5, "//a:1");
        insta::assert_snapshot!(render_problems(&[problem, other], false), @r"
        error: `x` is written twice
         --> a/BUILD.ron:6:3
          |
        2 |   x: 1,
          |   - first here
        ...
        6 |   x: 5,
          |   ^

        error: `n:1` is claimed by two entries
         --> b/BUILD.ron:1:1
          |
        1 | second
          | ^^^^^^ //b:1
          |
         ::: a/BUILD.ron:1:1
          |
        1 | first(
          | ----- //a:1
        ");
    }

    #[test]
    fn no_place_and_places_at_edges() {
        let text = source("f", "abc(\n  defg\n)");
        let empty = source("g", "");
        insta::assert_snapshot!(
            render_problems(
                &[
                    Problem::new("no workspace here").hint("make one"),
                    Problem::new("over several lines").at(&text, 0..13),
                    Problem::new("at the end").at(&text, 14..14),
                    Problem::new("in nothing").at(&empty, 0..0),
                ],
                false
            ),
            @r"
            error: no workspace here
            hint: make one

            error: over several lines
             --> f:1:1
              |
            1 | abc(
              | ^^^^

            error: at the end
             --> f:3:2
              |
            3 | )
              |  ^

            error: in nothing
             --> g:1:1
              |
            1 |
              | ^
            "
        );
    }

    #[test]
    fn twenty_are_shown_and_colour_is_an_option() {
        let problems = vec![Problem::new("p"); 23];
        let text = render_problems(&problems, false);
        assert!(text.ends_with("error: p\n\nand 3 more problems\n"), "{text}");
        assert_eq!(text.matches("error").count(), SHOWN);
        assert!(render_problems(&problems[..21], false).ends_with("and 1 more problem\n"));
        assert_eq!(render_problems(&problems[..1], false), "error: p\n");
        assert_eq!(render_problems(&[], false), "");
        assert!(render_problems(&problems[..1], true).contains('\u{1b}'));
    }
}
