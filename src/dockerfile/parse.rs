//! From text to [`Dockerfile`]: lines, typed instructions, global ARGs and stages; and the test form, whose final stage
//! starts from the image under test. Collects problems; a broken instruction hides no other.

use std::sync::Arc;

use super::lines::{Line, Lines};
use super::raw::Raw;
use super::typed::Typed;
use super::{Command, Directives, Dockerfile, Heredoc, ImageFrom, Instruction, Spanned, Stage, heredoc};
use crate::problem::{Problem, Source};

/// The word that stands for the image under test in `FROM` of a test's Dockerfile.
pub const SUBJECT: &str = "subject";

/// Parses a Dockerfile (Dockerfile reference; the rules are BuildKit's).
///
/// # Errors
/// Everything that is wrong with it, in order, each with its place.
pub fn parse(source: &Arc<Source>) -> Result<Dockerfile, Vec<Problem>> {
    let (directives, instructions) = read(source)?;
    assemble(source, directives, instructions)
}

/// Parses a Dockerfile in the test form: without a FROM, `FROM subject` is put before its first instruction; with FROMs,
/// the final stage must start `FROM subject`.
///
/// # Errors
/// As [`parse`], and where the final stage starts elsewhere.
pub fn parse_test(source: &Arc<Source>) -> Result<Dockerfile, Vec<Problem>> {
    let (directives, mut instructions) = read(source)?;
    if !instructions.iter().any(|instruction| matches!(instruction.command, Command::From(_))) {
        let at = instructions.first().map_or(directives.end, |first| first.span.start);
        let reference = Spanned { value: SUBJECT.into(), span: at..at };
        let from = ImageFrom { platform: None, reference, name: None };
        instructions
            .insert(0, Instruction { span: at..at, text: format!("FROM {SUBJECT}"), heredocs: Vec::new(), command: Command::From(from) });
    }
    let dockerfile = assemble(source, directives, instructions)?;
    match dockerfile.stages.last() {
        Some(last) if last.image.reference.value != SUBJECT => Err(vec![
            Problem::new(format!("the final stage of a test starts `FROM {SUBJECT}`, not `FROM {}`", last.image.reference.value))
                .at(source, last.image.reference.span.clone())
                .hint(format!("earlier stages may start anywhere; without any `FROM`, igraph adds `FROM {SUBJECT}` itself")),
        ]),
        _ => Ok(dockerfile),
    }
}

/// Parses the text of one ONBUILD trigger.
pub(super) fn parse_trigger(source: &Arc<Source>) -> Result<Instruction, Vec<Problem>> {
    let (_, mut instructions) = read(source)?;
    match (instructions.pop(), instructions.is_empty()) {
        (Some(only), true) if matches!(only.command, Command::From(_) | Command::OnBuild(_)) => {
            Err(vec![Problem::new("`FROM` and `ONBUILD` aren't allowed as ONBUILD triggers").at(source, only.span)])
        }
        (Some(only), true) => Ok(only),
        _ => Err(vec![Problem::new("an ONBUILD trigger is one instruction").at(source, 0..source.text.len())]),
    }
}

fn read(source: &Arc<Source>) -> Result<(Directives, Vec<Instruction>), Vec<Problem>> {
    let mut lines = Lines::new(source).map_err(|problem| vec![problem])?;
    let mut instructions = Vec::new();
    let mut problems = Vec::new();
    while let Some(line) = lines.next_line() {
        match instruction(source, &mut lines, &line) {
            Ok(instruction) => instructions.push(instruction),
            Err(problem) => problems.push(problem),
        }
    }
    if instructions.is_empty() && problems.is_empty() {
        problems.push(Problem::new("the Dockerfile holds no instruction").at(source, 0..0));
    }
    if problems.is_empty() { Ok((lines.directives, instructions)) } else { Err(problems) }
}

fn instruction(source: &Arc<Source>, lines: &mut Lines<'_>, line: &Line) -> Result<Instruction, Problem> {
    let raw = Raw::parse(&line.text, lines.directives.escape).map_err(|error| {
        let problem = Problem::new(error.message).at(source, error.span);
        Problem { hint: error.hint, ..problem }
    })?;
    let mut span = line.span.clone();
    let mut heredocs = Vec::new();
    if raw.takes_heredocs() {
        let words = heredoc::in_line(&line.text).map_err(|error| Problem::new(error.to_string()).at(source, span.clone()))?;
        for word in words {
            let Some((body, end)) = lines.heredoc_body(&word.name, word.chomp) else {
                return Err(Problem::new(format!("the heredoc `{}` has no end", word.name))
                    .at(source, span)
                    .hint(format!("it ends with a line that is just `{}`", word.name)));
            };
            heredocs.push(Heredoc {
                name: word.name,
                content: source.text[body.clone()].to_owned(),
                expand: word.expand,
                chomp: word.chomp,
                descriptor: word.descriptor,
                span: body,
            });
            span.end = end;
        }
    }
    let command = Typed { source, raw: &raw, heredocs: &heredocs, line: &line.text }.command()?;
    Ok(Instruction { span, text: line.text.as_str().to_owned(), heredocs, command })
}

fn assemble(source: &Arc<Source>, directives: Directives, instructions: Vec<Instruction>) -> Result<Dockerfile, Vec<Problem>> {
    let mut problems = Vec::new();
    let mut global_args = Vec::new();
    let froms = instructions.iter().filter(|instruction| matches!(instruction.command, Command::From(_))).count();
    let mut stages: Vec<Stage> = Vec::with_capacity(froms);
    let mut told = false;
    for instruction in instructions {
        match (&instruction.command, stages.last_mut()) {
            (Command::From(image), _) => {
                let image = image.clone();
                if let Some(name) = &image.name {
                    let same = stages.iter().filter_map(|stage| stage.image.name.as_ref()).find(|other| other.value == name.value);
                    if let Some(first) = same {
                        problems.push(
                            Problem::new(format!("two stages are named `{}`", name.value)).at(source, name.span.clone()).at_with(
                                source,
                                first.span.clone(),
                                "first here",
                            ),
                        );
                    }
                }
                stages.push(Stage { span: instruction.span.clone(), from: Arc::new(instruction), image, instructions: Vec::new() });
            }
            (_, Some(stage)) => {
                stage.span.end = instruction.span.end;
                stage.instructions.push(Arc::new(instruction));
            }
            (Command::Arg(_), None) => global_args.push(Arc::new(instruction)),
            (_, None) => {
                // one is enough: the rest before FROM has the same cause
                if !told {
                    problems.push(Problem::new("only `ARG` may stand before the first `FROM`").at(source, instruction.span.clone()));
                }
                told = true;
            }
        }
    }
    if stages.is_empty() && problems.is_empty() {
        problems.push(Problem::new("the Dockerfile has no `FROM`").at(source, 0..0));
    }
    if problems.is_empty() { Ok(Dockerfile { source: source.clone(), directives, global_args, stages }) } else { Err(problems) }
}
