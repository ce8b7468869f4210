//! The exit codes: one enum, its page of help, and which code wins of several. Knows outcomes, not how they came about.

use std::fmt;

use crate::event::NodeKind;
use crate::failure::{Failure, FailureClass};

/// How the program ends. The codes are DESIGN §10's and part of the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// All that was asked for is done.
    Done,
    /// An image or a base failed, or `--check` found work.
    ImageFailed,
    /// Arguments, build files, labels or patterns are wrong.
    Usage,
    /// A test failed.
    TestFailed,
    /// `test` matched no test at all.
    NoTests,
    /// A tag or a push failed.
    NameFailed,
    /// Engine, network, registry, disk or lock: nothing that a build file could mend.
    Infra,
    /// igraph itself is wrong.
    Bug,
    /// Ended by the signal of this number.
    Signal(u8),
}

impl Exit {
    /// All of them, in the order of their codes; signals by an example.
    pub const ALL: [Self; 9] = [
        Self::Done,
        Self::ImageFailed,
        Self::Usage,
        Self::TestFailed,
        Self::NoTests,
        Self::NameFailed,
        Self::Infra,
        Self::Bug,
        Self::Signal(2),
    ];

    /// A reader closed the pipe that igraph wrote to: as if SIGPIPE had ended it.
    pub const CLOSED_PIPE: Self = Self::Signal(13);

    /// What the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::ImageFailed => 1,
            Self::Usage => 2,
            Self::TestFailed => 3,
            Self::NoTests => 4,
            Self::NameFailed => 5,
            Self::Infra => 10,
            Self::Bug => 70,
            Self::Signal(number) => 128_u8.saturating_add(number),
        }
    }

    /// One line of the page.
    fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done, or nothing to do",
            Self::ImageFailed => "an image or a base failed, or --check found work",
            Self::Usage => "wrong arguments, build file, Dockerfile, label or pattern: nothing was run",
            Self::TestFailed => "a test failed",
            Self::NoTests => "`test` matched no test at all",
            Self::NameFailed => "a tag or a push failed, or the registry refused the credentials",
            Self::Infra => "engine, network, registry, disk or lock, after all retries",
            Self::Bug => "a bug in igraph: please report it",
            Self::Signal(_) => "stopped by signal n: 130 is Ctrl-C, 143 is SIGTERM, 141 a closed pipe",
        }
    }

    /// Which of several is told: lower wins.
    fn rank(self) -> u8 {
        match self {
            Self::Signal(_) => 0,
            Self::Bug => 1,
            Self::Usage => 2,
            Self::NoTests => 3,
            Self::ImageFailed => 4,
            Self::TestFailed => 5,
            Self::NameFailed => 6,
            Self::Infra => 7,
            Self::Done => 8,
        }
    }

    /// Of two endings the one to tell: a signal, then a bug, then the earliest stage; infra only where nothing else is wrong.
    pub fn combine(self, other: Self) -> Self {
        if other.rank() < self.rank() { other } else { self }
    }

    /// The ending of a run with these root failures (skipped nodes are none): infra only if every one is infra, else the
    /// earliest stage at which one failed. Stopped attempts don't count: the signal does. Refused credentials are no
    /// infra failure, since the user can mend them.
    pub fn of_failures<'a>(failures: impl IntoIterator<Item = (NodeKind, &'a Failure)>) -> Self {
        let mut exit = Self::Done;
        let mut all_infra = true;
        for (kind, failure) in failures {
            let credentials = failure.group.as_deref().is_some_and(|group| group.starts_with("credentials"));
            match failure.class {
                FailureClass::Stopped => continue,
                FailureClass::Infra if !credentials => {}
                FailureClass::Infra | FailureClass::Step => all_infra = false,
            }
            exit = exit.combine(match kind {
                NodeKind::Base | NodeKind::Image => Self::ImageFailed,
                NodeKind::Test => Self::TestFailed,
                NodeKind::Tag | NodeKind::Push => Self::NameFailed,
            });
        }
        if exit != Self::Done && all_infra { Self::Infra } else { exit }
    }

    /// The page `igraph help exit-codes`.
    pub fn page() -> String {
        let mut page = String::from("Exit codes\n\n");
        for exit in Self::ALL {
            page.push_str(&format!("{exit:#}\n"));
        }
        page.push_str(
            "\nOf several, 128+n wins, then 70, then the earliest stage: an image before a test before a name.\n\
             10 is told only if every root failure is one of infrastructure, so a runner may simply try again.\n\
             A node that was skipped because of another does not count: the other does.\n",
        );
        page
    }
}

/// `{}` is the meaning, `{:#}` the line of the page.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (f.alternate(), self) {
            (false, _) => f.write_str(self.meaning()),
            (true, Self::Signal(_)) => write!(f, "  128+n  {}", self.meaning()),
            (true, _) => write!(f, "  {:>5}  {}", self.code(), self.meaning()),
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page() {
        insta::assert_snapshot!(Exit::page(), @r#"
        Exit codes

              0  done, or nothing to do
              1  an image or a base failed, or --check found work
              2  wrong arguments, build file, Dockerfile, label or pattern: nothing was run
              3  a test failed
              4  `test` matched no test at all
              5  a tag or a push failed, or the registry refused the credentials
             10  engine, network, registry, disk or lock, after all retries
             70  a bug in igraph: please report it
          128+n  stopped by signal n: 130 is Ctrl-C, 143 is SIGTERM, 141 a closed pipe

        Of several, 128+n wins, then 70, then the earliest stage: an image before a test before a name.
        10 is told only if every root failure is one of infrastructure, so a runner may simply try again.
        A node that was skipped because of another does not count: the other does.
        "#);
    }

    #[test]
    fn one_of_several() {
        use Exit::*;
        for (several, one) in [
            (vec![], Done),
            (vec![Infra, TestFailed], TestFailed),
            (vec![NameFailed, TestFailed, ImageFailed], ImageFailed),
            (vec![ImageFailed, Usage], Usage),
            (vec![ImageFailed, Bug], Bug),
            (vec![Bug, Signal(2), ImageFailed], Signal(2)),
            (vec![Infra, Infra, Done], Infra),
        ] {
            let folded = |exits: Vec<Exit>| exits.into_iter().fold(Done, Exit::combine);
            assert_eq!(folded(several.clone()), one, "{several:?}");
            assert_eq!(folded(several.iter().rev().copied().collect()), one, "{several:?} reversed");
        }
    }

    #[test]
    fn infra_only_if_every_root_failure_is() {
        let (step, infra, stopped) = (Failure::step("exit 1"), Failure::infra("reset"), Failure::stopped());
        let refused = Failure::infra("401").group("credentials reg.corp/team/app");
        use NodeKind::*;
        for (failures, exit) in [
            (vec![], Exit::Done),
            (vec![(Image, &infra), (Push, &infra)], Exit::Infra),
            (vec![(Image, &infra), (Test, &step)], Exit::ImageFailed),
            (vec![(Push, &infra), (Test, &step)], Exit::TestFailed),
            (vec![(Push, &refused)], Exit::NameFailed),
            (vec![(Base, &infra), (Push, &refused)], Exit::ImageFailed),
            (vec![(Image, &stopped)], Exit::Done),
            (vec![(Image, &stopped), (Test, &infra)], Exit::Infra),
        ] {
            assert_eq!(Exit::of_failures(failures.iter().copied()), exit, "{failures:?}");
        }
    }
}
