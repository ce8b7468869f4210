//! Counting: what was planned, how it ended, and the two lines that say so. Knows no single node.

use crate::event::{Counts, NodeKind, Outcome};

/// How nodes of each kind ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    fresh: Counts,
    done: Counts,
    unchanged: Counts,
    flaky: Counts,
    failed: Counts,
    skipped: Counts,
    blocked: Counts,
    cancelled: Counts,
}

const KINDS: [NodeKind; 5] = [NodeKind::Base, NodeKind::Image, NodeKind::Test, NodeKind::Tag, NodeKind::Push];

/// All nodes but bases, which no pattern matches.
pub(super) fn nodes(counts: &Counts) -> usize {
    counts.images + counts.tests + counts.tags + counts.pushes
}

fn of(counts: &Counts, kind: NodeKind) -> usize {
    *counts.clone().of(kind)
}

pub(super) fn plural(number: usize, word: &str) -> String {
    match (number, word) {
        (1, _) => format!("1 {word}"),
        (_, "push") => format!("{number} pushes"),
        _ => format!("{number} {word}s"),
    }
}

/// `42 images, 61 tests`: what there is of each kind, images always.
fn scope_text(scope: &Counts) -> String {
    let mut parts = vec![plural(scope.images, "image")];
    for (number, word) in [(scope.tests, "test"), (scope.tags, "tag"), (scope.pushes, "push")] {
        if number > 0 {
            parts.push(plural(number, word));
        }
    }
    parts.join(", ")
}

/// `42 images, 61 tests: 6 to build, 9 to test, 88 fresh`.
pub fn plan_text(scope: &Counts, stale: &Counts, maybe: &Counts) -> String {
    let mut parts = Vec::new();
    if stale.bases > 0 {
        parts.push(format!("{} to fetch", plural(stale.bases, "base")));
    }
    for (number, word) in [(stale.images, "build"), (stale.tests, "test"), (stale.tags, "tag"), (stale.pushes, "push")] {
        if number > 0 {
            parts.push(format!("{number} to {word}"));
        }
    }
    if nodes(maybe) > 0 {
        parts.push(format!("{} maybe", nodes(maybe)));
    }
    parts.push(format!("{} fresh", nodes(scope).saturating_sub(nodes(stale) + nodes(maybe))));
    format!("{}: {}", scope_text(scope), parts.join(", "))
}

/// `igraph: nothing to do (718 images, 718 tests fresh)`.
pub fn nothing_to_do(scope: &Counts) -> String {
    format!("igraph: nothing to do ({} fresh)", scope_text(scope))
}

impl Tally {
    /// Counts one ending.
    pub fn add(&mut self, kind: NodeKind, outcome: &Outcome) {
        let counts = match outcome {
            Outcome::Fresh => &mut self.fresh,
            Outcome::Succeeded { changed: false, .. } if matches!(kind, NodeKind::Tag | NodeKind::Push) => &mut self.unchanged,
            Outcome::Succeeded { .. } => &mut self.done,
            Outcome::Flaky { .. } => &mut self.flaky,
            Outcome::Failed { .. } => &mut self.failed,
            Outcome::Skipped { .. } => &mut self.skipped,
            Outcome::Blocked { .. } => &mut self.blocked,
            Outcome::Cancelled => &mut self.cancelled,
        };
        *counts.of(kind) += 1;
    }

    /// How many have ended, bases left out.
    pub fn finished(&self) -> usize {
        [&self.fresh, &self.done, &self.unchanged, &self.flaky, &self.failed, &self.skipped, &self.blocked, &self.cancelled]
            .into_iter()
            .map(nodes)
            .sum()
    }

    /// How many were fresh, bases left out.
    pub fn fresh(&self) -> usize {
        nodes(&self.fresh)
    }

    /// Whether nothing but fresh nodes was seen.
    pub fn all_fresh(&self) -> bool {
        KINDS.into_iter().all(|kind| self.ran(kind) == 0)
    }

    /// Nodes of `kind` that were not simply fresh.
    fn ran(&self, kind: NodeKind) -> usize {
        [&self.done, &self.unchanged, &self.flaky, &self.failed, &self.skipped, &self.blocked, &self.cancelled]
            .into_iter()
            .map(|counts| of(counts, kind))
            .sum()
    }

    /// `, 1 skipped, 2 blocked`: the endings that are mentioned only where there are any.
    fn rest(&self, kinds: &[NodeKind]) -> String {
        let sum = |counts: &Counts| kinds.iter().map(|kind| of(counts, *kind)).sum::<usize>();
        [(sum(&self.skipped), "skipped"), (sum(&self.blocked), "blocked"), (sum(&self.cancelled), "cancelled")]
            .into_iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, word)| format!(", {number} {word}"))
            .collect()
    }

    /// `5 built, 88 fresh, 1 failed · tests: 8 passed (1 flaky), 0 failed, 1 skipped`. `fresh` counts nodes of all kinds
    /// but bases; kinds of which nothing ran are not mentioned.
    pub fn summary(&self) -> String {
        use NodeKind::{Base, Image, Push, Tag, Test};
        let mut text = String::new();
        if self.done.bases > 0 {
            text.push_str(&format!("{} fetched, ", plural(self.done.bases, "base")));
        }
        let (built, failed) = (self.done.images + self.flaky.images, self.failed.images + self.failed.bases);
        text.push_str(&format!("{built} built, {} fresh, {failed} failed{}", self.fresh(), self.rest(&[Base, Image])));
        if self.ran(Test) > 0 {
            let flaky = if self.flaky.tests > 0 { format!(" ({} flaky)", self.flaky.tests) } else { String::new() };
            let passed = self.done.tests + self.flaky.tests;
            text.push_str(&format!(" · tests: {passed} passed{flaky}, {} failed{}", self.failed.tests, self.rest(&[Test])));
        }
        for (kind, word) in [(Tag, "tags"), (Push, "pushes")] {
            if self.ran(kind) > 0 {
                let (moved, unchanged) = (of(&self.done, kind) + of(&self.flaky, kind), of(&self.unchanged, kind));
                let unchanged = if unchanged > 0 { format!(", {unchanged} already right") } else { String::new() };
                text.push_str(&format!(" · {word}: {moved} moved{unchanged}, {} failed{}", of(&self.failed, kind), self.rest(&[kind])));
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Failure;

    #[test]
    fn plans() {
        let scope = Counts { images: 42, tests: 61, ..Counts::default() };
        let stale = Counts { images: 6, tests: 9, ..Counts::default() };
        assert_eq!(plan_text(&scope, &stale, &Counts::default()), "42 images, 61 tests: 6 to build, 9 to test, 88 fresh");
        let scope = Counts { bases: 3, images: 1, tests: 1, tags: 2, pushes: 2 };
        let maybe = Counts { tests: 1, pushes: 2, ..Counts::default() };
        let stale = Counts { bases: 1, images: 1, ..Counts::default() };
        assert_eq!(plan_text(&scope, &stale, &maybe), "1 image, 1 test, 2 tags, 2 pushes: 1 base to fetch, 1 to build, 3 maybe, 2 fresh");
        assert_eq!(
            nothing_to_do(&Counts { images: 718, tests: 718, ..Counts::default() }),
            "igraph: nothing to do (718 images, 718 tests fresh)"
        );
    }

    #[test]
    fn every_outcome_is_counted_once() {
        let mut tally = Tally::default();
        let failure = Failure::step("exit 1");
        let outcomes = [
            Outcome::Fresh,
            Outcome::Succeeded { image: None, changed: true },
            Outcome::Succeeded { image: None, changed: false },
            Outcome::Flaky { failures: vec![] },
            Outcome::Failed { failure },
            Outcome::Skipped { cause: "//a:b".parse().unwrap() },
            Outcome::Blocked { reason: "no tests".into() },
            Outcome::Cancelled,
        ];
        for kind in KINDS {
            outcomes.iter().for_each(|outcome| tally.add(kind, outcome));
        }
        assert_eq!(tally.finished(), 4 * outcomes.len());
        assert_eq!(
            tally.summary(),
            "2 bases fetched, 3 built, 4 fresh, 2 failed, 2 skipped, 2 blocked, 2 cancelled \
             · tests: 3 passed (1 flaky), 1 failed, 1 skipped, 1 blocked, 1 cancelled \
             · tags: 2 moved, 1 already right, 1 failed, 1 skipped, 1 blocked, 1 cancelled \
             · pushes: 2 moved, 1 already right, 1 failed, 1 skipped, 1 blocked, 1 cancelled"
        );
    }
}
