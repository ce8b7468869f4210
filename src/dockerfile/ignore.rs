//! `.dockerignore`: reading it, which file counts, and what it excludes, by the rules of moby/patternmatcher:
//! the last pattern that matches a path or one of its parents decides, `!` takes back, `**` crosses folders.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::glob::IgnorePattern;
use crate::folder::Folder;
use crate::problem::{Problem, Source};
use crate::stamp::Stamp;

/// The patterns of an ignore file, and where they come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignore {
    patterns: Vec<(IgnorePattern, bool)>,
    file: Option<(String, Stamp)>,
    missing: Vec<String>,
}

impl Ignore {
    /// Excludes nothing.
    pub fn empty() -> Self {
        Self::default()
    }

    /// Reads the text of an ignore file.
    ///
    /// # Errors
    /// A pattern that is malformed, with its place.
    pub fn parse(source: &Arc<Source>) -> Result<Self, Problem> {
        let mut patterns = Vec::new();
        for (pattern, span) in read(&source.text) {
            let (text, takes_back) = pattern.strip_prefix('!').map_or((pattern.as_str(), false), |rest| (rest, true));
            if text.is_empty() {
                return Err(Problem::new("`!` takes back nothing").at(source, span).hint("write the pattern behind it, like `!keep.txt`"));
            }
            let parsed = IgnorePattern::parse(text).map_err(|_| {
                Problem::new(format!("`{text}` is no pattern"))
                    .at(source, span)
                    .hint("`[` begins a set of characters, like `[a-z]`; before others write `\\`")
            })?;
            patterns.push((parsed, takes_back));
        }
        Ok(Self { patterns, file: None, missing: Vec::new() })
    }

    /// Patterns that stand in an instruction, as in `--exclude`; `None` where one is malformed.
    pub fn of_patterns(patterns: &[String]) -> Option<Self> {
        let text = |pattern: &String| {
            let (text, takes_back) = pattern.strip_prefix('!').map_or((pattern.as_str(), false), |rest| (rest, true));
            IgnorePattern::parse(&clean(text)).ok().map(|parsed| (parsed, takes_back))
        };
        let patterns = patterns.iter().map(text).collect::<Option<_>>()?;
        Some(Self { patterns, file: None, missing: Vec::new() })
    }

    /// Finds and reads the file that counts for a Dockerfile: `<Dockerfile>.dockerignore` beside it, else `.dockerignore` in the
    /// root of the context.
    ///
    /// # Errors
    /// A file that can't be read or is malformed.
    pub fn load(context: &Folder, dockerfile: &Path) -> Result<Self, Problem> {
        let mut beside = dockerfile.as_os_str().to_owned();
        beside.push(".dockerignore");
        let beside = PathBuf::from(beside);
        let beside = beside.strip_prefix(context.path()).unwrap_or(&beside).to_string_lossy().into_owned();
        let mut missing = Vec::new();
        // what is whole is looked up from the root of the file system
        for shown in [beside, ".dockerignore".to_owned()] {
            let read = context.stamp_behind(&shown).and_then(|stamp| Ok((stamp, std::fs::read_to_string(context.path().join(&shown))?)));
            match read {
                Ok((stamp, text)) => {
                    let ignore = Self::parse(&Arc::new(Source { path: shown.clone(), text }))?;
                    return Ok(Self { file: Some((shown, stamp)), missing, ..ignore });
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => missing.push(shown),
                Err(error) => return Err(Problem::new(format!("`{shown}` can't be read: {}", super::listing::because(&error)))),
            }
        }
        Ok(Self { missing, ..Self::default() })
    }

    /// The file it was loaded from, relative to the context root where it lies below, and its stat.
    pub fn file(&self) -> Option<&(String, Stamp)> {
        self.file.as_ref()
    }

    /// Files that were looked for and would have counted before [`Self::file`].
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Whether it excludes nothing whatever the path.
    pub fn is_empty(&self) -> bool {
        self.patterns.iter().all(|(_, takes_back)| *takes_back)
    }

    /// Whether `path` (relative to the context root, `/`-separated) is excluded.
    pub fn excludes(&self, path: &str) -> bool {
        let mut excluded = false;
        for (pattern, takes_back) in &self.patterns {
            // it can only change what stands
            if *takes_back == excluded && matches_or_parent(pattern, path) {
                excluded = !takes_back;
            }
        }
        excluded
    }

    /// Whether something below `folder` may be taken back though the folder is excluded.
    pub fn may_reinclude_below(&self, folder: &str) -> bool {
        let below = format!("{folder}/");
        self.patterns.iter().any(|(pattern, takes_back)| *takes_back && pattern.may_match_below(&below))
    }
}

fn matches_or_parent(pattern: &IgnorePattern, path: &str) -> bool {
    let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
    pattern.matches(path) || parents.filter(|parent| !parent.is_empty()).any(|parent| pattern.matches(parent))
}

/// The patterns of an ignore file as written, cleaned, with their places.
pub(super) fn read(text: &str) -> Vec<(String, std::ops::Range<usize>)> {
    let mut patterns = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let line = if start == 0 { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        let trimmed = line.trim();
        if line.starts_with('#') || trimmed.is_empty() {
            continue;
        }
        let from = at - line.len() + (line.len() - line.trim_start().len());
        let cleaned = match trimmed.strip_prefix('!') {
            Some(rest) => format!("!{}", clean(rest.trim())),
            None => clean(trimmed),
        };
        patterns.push((cleaned, from..from + trimmed.len()));
    }
    patterns
}

/// As Go's `filepath.Clean`, without the leading slash.
fn clean(pattern: &str) -> String {
    let absolute = pattern.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match parts.is_empty() && !pattern.is_empty() {
        true if absolute => "/".into(),
        true => ".".into(),
        false => parts.join("/"),
    }
}

/// For the tables of test data.
#[cfg(test)]
pub(super) mod testing {
    pub fn read_patterns(text: &str) -> Vec<String> {
        super::read(text).into_iter().map(|(pattern, _)| pattern).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignore(text: &str) -> Ignore {
        Ignore::parse(&Arc::new(Source { path: ".dockerignore".into(), text: text.into() })).unwrap()
    }

    #[test]
    fn the_last_match_wins() {
        let ignore = ignore("# all but two\n*\n!/src/\n!docs/*.md\nsrc/**/*.tmp\n");
        for (path, excluded) in [
            ("a", true),
            ("a/b", true),
            ("src", false),
            ("src/a/b", false),
            ("src/a/b.tmp", true),
            ("docs/a.md", false),
            ("docs/a.txt", true),
            ("docs", true),
        ] {
            assert_eq!(ignore.excludes(path), excluded, "{path}");
        }
        assert!(ignore.may_reinclude_below("docs"));
        assert!(!ignore.may_reinclude_below("other"));
    }

    #[test]
    fn taking_back_below_wildcards() {
        let ignore = ignore("node_modules\n!**/keep\n!a*/b/c\n!x**\n");
        assert!(ignore.may_reinclude_below("node_modules"));
        let other = self::ignore("*\n!a*/b/c\n");
        assert!(other.may_reinclude_below("ab"));
        assert!(other.may_reinclude_below("ab/b"));
        assert!(!other.may_reinclude_below("ab/x"));
        assert!(!other.may_reinclude_below("b"));
    }

    #[test]
    fn the_file_of_the_dockerfile_wins() {
        let root = tempfile::tempdir().unwrap();
        let dockerfile = root.path().join("Dockerfile.web");
        assert_eq!(
            Ignore::load(&Folder::open(root.path()), &dockerfile).unwrap().missing(),
            ["Dockerfile.web.dockerignore", ".dockerignore"]
        );
        std::fs::write(root.path().join(".dockerignore"), "a\n").unwrap();
        let loaded = Ignore::load(&Folder::open(root.path()), &dockerfile).unwrap();
        assert!(loaded.excludes("a"));
        assert_eq!(loaded.missing(), ["Dockerfile.web.dockerignore"]);
        std::fs::write(root.path().join("Dockerfile.web.dockerignore"), "b\n").unwrap();
        let loaded = Ignore::load(&Folder::open(root.path()), &dockerfile).unwrap();
        assert!(!loaded.excludes("a") && loaded.excludes("b"));
        assert_eq!(loaded.file().unwrap().0, "Dockerfile.web.dockerignore");
    }

    #[test]
    fn malformed_patterns_have_a_place() {
        for (text, message) in [("a\n!\n", "`!` takes back nothing"), ("a\nb[\n", "`b[` is no pattern")] {
            let source = Arc::new(Source { path: ".dockerignore".into(), text: text.into() });
            let problem = Ignore::parse(&source).unwrap_err();
            assert_eq!(problem.message, message);
            assert_eq!(problem.places[0].line_column(), (2, 1));
        }
    }
}
