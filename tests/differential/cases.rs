//! Reads the cases: Dockerfiles, each under a line `=== name` and lines `+ …` that say what it needs besides. Knows no builder.
//!
//! ```text
//! === name                        the image is `case/name`, which later cases may start from
//! + arg NAME=VALUE                a build argument
//! + target STAGE
//! + file PATH TEXT                one more file in the context; TEXT may hold `\n`
//! + mode PATH OCTAL               the mode of a file of the context
//! + secret ID TEXT
//! + ssh                           an agent, `default`
//! + fails TEXT                    it fails, with TEXT in igraph's message
//! + differs BUILDER REASON        igraph is right all the same: docs/dockerfile-differences.md says why
//! + unknown BUILDER               it refuses what it does not know, and is no reference here
//! + time                          what comes out depends on the time
//! ```
//!
//! `SERVER` and `GIT` in a Dockerfile stand for the addresses of servers that the test starts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Who says what should come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum By {
    Dockerd,
    Buildah,
    Hand,
}

impl By {
    pub const ALL: [Self; 3] = [Self::Dockerd, Self::Buildah, Self::Hand];

    pub fn name(self) -> &'static str {
        match self {
            Self::Dockerd => "dockerd",
            Self::Buildah => "buildah",
            Self::Hand => "by-hand",
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[derive(Clone, Debug, Default)]
pub struct Case {
    pub name: String,
    pub dockerfile: String,
    pub args: BTreeMap<String, String>,
    pub target: Option<String>,
    pub files: Vec<(String, String)>,
    pub modes: Vec<(String, u32)>,
    pub secrets: BTreeMap<String, String>,
    pub ssh: bool,
    pub fails: Option<String>,
    pub differs: BTreeMap<By, String>,
    pub unknown: BTreeSet<By>,
    pub time: bool,
}

impl Case {
    /// Names of cases whose images it starts from.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        self.dockerfile
            .split("case/")
            .skip(1)
            .map(|rest| rest.split(|char: char| !char.is_ascii_alphanumeric() && char != '_').next().unwrap())
    }

    fn option(&mut self, line: &str) -> Option<()> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let two = || rest.split_once(' ');
        let by = |name: &str| By::ALL.into_iter().find(|by| by.name() == name);
        match word {
            "arg" => drop(self.args.insert(rest.split_once('=')?.0.into(), rest.split_once('=')?.1.into())),
            "target" => self.target = Some(rest.into()),
            "file" => self.files.push((two()?.0.into(), two()?.1.replace("\\n", "\n"))),
            "mode" => self.modes.push((two()?.0.into(), u32::from_str_radix(two()?.1, 8).ok()?)),
            "secret" => drop(self.secrets.insert(two()?.0.into(), two()?.1.into())),
            "ssh" => self.ssh = true,
            "fails" => self.fails = Some(rest.into()),
            "differs" => drop(self.differs.insert(by(two()?.0)?, two()?.1.into())),
            "unknown" => drop(self.unknown.insert(by(rest)?)),
            "time" => self.time = true,
            _ => return None,
        }
        Some(())
    }
}

/// All cases, in the order of their files and lines.
pub fn load() -> Vec<Case> {
    let folder = "tests/data/differential/cases";
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut cases: Vec<Case> = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let start = cases.len();
        for (number, line) in text.split_inclusive('\n').enumerate() {
            let place = format!("{}:{}", file.display(), number + 1);
            if let Some(name) = line.strip_prefix("=== ") {
                cases.push(Case { name: name.trim_end().into(), ..Case::default() });
                continue;
            }
            // before the first case stands what the file is about
            if cases.len() == start {
                continue;
            }
            let Some(case) = cases.last_mut() else { continue };
            match line.strip_prefix("+ ") {
                Some(option) if case.dockerfile.is_empty() => {
                    case.option(option.trim_end_matches('\n')).unwrap_or_else(|| panic!("{place}: `{line}` is no option"));
                }
                _ => case.dockerfile.push_str(line),
            }
        }
    }
    // an empty line ends a case and belongs to none
    for case in &mut cases {
        case.dockerfile.truncate(case.dockerfile.trim_end_matches('\n').len());
        case.dockerfile.push('\n');
    }
    let mut names = BTreeSet::new();
    for case in &cases {
        assert!(case.parents().all(|parent| names.contains(parent)), "{} starts from what does not stand before it", case.name);
        assert!(names.insert(case.name.clone()), "two cases are called {}", case.name);
    }
    cases
}
