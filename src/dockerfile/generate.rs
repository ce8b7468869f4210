//! What counts of a Dockerfile, as text: canonical for keys, and generated for a daemon with every image replaced.

use super::{Directives, Dockerfile, FromTarget, Resolved, Spanned};

impl Directives {
    /// The `# syntax=` that is none of `docker/dockerfile:1…`, whose language this room knows.
    pub fn custom_syntax(&self) -> Option<&Spanned> {
        self.syntax.as_ref().filter(|syntax| {
            let reference = syntax.value.split(' ').next().unwrap_or("");
            let familiar = reference.strip_prefix("docker.io/").unwrap_or(reference);
            let tag = familiar.split('@').next().and_then(|name| name.strip_prefix("docker/dockerfile"));
            !tag.is_some_and(|tag| tag.is_empty() || tag.starts_with(":1") || tag == ":latest" || tag == ":labs")
        })
    }
}

impl Resolved {
    fn position(&self, stage: usize) -> usize {
        self.stages.binary_search(&stage).unwrap_or(stage)
    }

    /// The instructions that count, each with a name like `stage 0 instruction 2` (0 is FROM; stages are counted among the needed
    /// ones): no comments, blank lines or line joins; the text of RUN and of heredocs exactly. Values of args are not in it.
    pub fn canonical(&self, dockerfile: &Dockerfile) -> Vec<(String, String)> {
        let mut all = Vec::new();
        if dockerfile.directives.escape != '\\' {
            all.push(("escape".to_owned(), dockerfile.directives.escape.to_string()));
        }
        if let Some(syntax) = dockerfile.directives.custom_syntax() {
            all.push(("syntax".to_owned(), syntax.value.clone()));
        }
        for (position, index) in self.stages.iter().enumerate() {
            let stage = &dockerfile.stages[*index];
            for (number, instruction) in std::iter::once(&stage.from).chain(&stage.instructions).enumerate() {
                let mut text = instruction.text.clone();
                for heredoc in &instruction.heredocs {
                    text = format!("{text}\n{}{}", heredoc.content, heredoc.name);
                }
                // a stage's number means another stage once one before it comes or goes
                for replacement in &self.replacements {
                    let inside = instruction.span.start <= replacement.span.start && replacement.span.end <= instruction.span.end;
                    if let (FromTarget::Stage(stage), true) = (&replacement.target, inside) {
                        text = format!("{text}\n# from stage {}", self.position(*stage));
                    }
                }
                all.push((format!("stage {position} instruction {number}"), text));
            }
        }
        all
    }

    /// The text for a daemon: only the needed stages, every image reference replaced by `replace` (which gets the image's key),
    /// `# syntax=docker/dockerfile:1…` and `# check=` dropped, numbers of stages adapted, all else byte for byte. What is dropped leaves its line
    /// ends behind, so that a daemon's line numbers are those of the source (one more where FROM was added to a test).
    pub fn generate(&self, dockerfile: &Dockerfile, replace: &dyn Fn(&str) -> String) -> String {
        let source = &dockerfile.source.text;
        let directives = &dockerfile.directives;
        let mut out = String::with_capacity(source.len());
        let mut lines = source[..directives.end].matches('\n').count();
        if let Some(syntax) = directives.custom_syntax() {
            out.push_str(&format!("# syntax={}\n", syntax.value));
            lines = lines.saturating_sub(1);
        }
        if directives.escape_span.is_some() {
            out.push_str(&format!("# escape={}\n", directives.escape));
            lines = lines.saturating_sub(1);
        }
        out.extend(std::iter::repeat_n('\n', lines));
        let mut replacements: Vec<_> = self.replacements.iter().collect();
        replacements.sort_by_key(|replacement| replacement.span.start);
        let new_text = |target: &FromTarget| match target {
            FromTarget::Scratch => "scratch".to_owned(),
            FromTarget::Stage(stage) => self.position(*stage).to_string(),
            FromTarget::Image(key) => replace(key),
        };
        let globals = dockerfile.global_args.iter().map(|instruction| instruction.span.clone());
        let stages = self.stages.iter().map(|index| dockerfile.stages[*index].span.clone());
        let mut at = directives.end;
        for kept in globals.chain(stages) {
            out.extend(source[at.min(kept.start)..kept.start].chars().filter(|char| *char == '\n'));
            at = kept.start;
            for replacement in replacements.iter().filter(|found| kept.start <= found.span.start && found.span.end <= kept.end) {
                // several triggers of one ONBUILD name the same place
                if replacement.span.start < at {
                    continue;
                }
                if replacement.span.is_empty() {
                    out.push_str(&format!("FROM {}\n", new_text(&replacement.target)));
                    continue;
                }
                out.push_str(&source[at..replacement.span.start]);
                out.push_str(&new_text(&replacement.target));
                at = replacement.span.end;
            }
            out.push_str(&source[at..kept.end]);
            at = kept.end;
        }
        out.push('\n');
        out
    }
}
