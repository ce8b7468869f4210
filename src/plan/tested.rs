//! Law L1 as a type: an image that may be given a name. There is no other way to one than passed tests
//! of exactly that image, or the words of who answers for it going untested.

use serde::{Deserialize, Serialize};

use crate::digest::{ImageId, Key};
use crate::label::NodeLabel;

/// A passed test, as recorded: the test's key holds its definition and the id of the image it ran on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PassedTest {
    test: NodeLabel,
    key: Key,
    subject: ImageId,
}

impl PassedTest {
    /// From what was recorded when test `test` under `key` ended; `None` unless it passed.
    pub fn from_record(test: NodeLabel, key: Key, subject: ImageId, passed: bool) -> Option<Self> {
        passed.then_some(Self { test, key, subject })
    }

    /// The test's key.
    pub fn key(&self) -> Key {
        self.key
    }

    /// The image it passed for.
    pub fn subject(&self) -> ImageId {
        self.subject
    }

    /// The test's label.
    pub fn test(&self) -> &NodeLabel {
        &self.test
    }
}

/// Why an image may not be named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTested {
    /// No test applies to it and nobody said why.
    #[error("no test applies to it, and it does not say `untested: \"why\"`")]
    NoTests,
    /// A required test has not passed for this image.
    #[error("{test} has not passed for this image")]
    Missing {
        /// The test.
        test: NodeLabel,
    },
}

/// An image whose every required test passed for that image, or that is declared untested with a reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    image: ImageId,
    passed: Vec<PassedTest>,
    untested: Option<String>,
}

impl Tested {
    /// Judges `image` by its `required` tests and those that `passed`, of which others are ignored.
    ///
    /// # Errors
    /// Where a required test is not among the passed ones with `image` as its subject, or there is none required and no
    /// reason given for that.
    pub fn judge(
        image: ImageId,
        required: &[NodeLabel],
        passed: impl IntoIterator<Item = PassedTest>,
        untested: Option<&str>,
    ) -> Result<Self, NotTested> {
        let mut passed: Vec<PassedTest> =
            passed.into_iter().filter(|test| test.subject == image && required.contains(&test.test)).collect();
        passed.sort();
        passed.dedup();
        if let Some(test) = required.iter().find(|test| !passed.iter().any(|done| done.test == **test)) {
            return Err(NotTested::Missing { test: test.clone() });
        }
        if required.is_empty() && untested.is_none() {
            return Err(NotTested::NoTests);
        }
        Ok(Self { image, passed, untested: untested.map(str::to_owned) })
    }

    /// Which image.
    pub fn image(&self) -> ImageId {
        self.image
    }

    /// The tests that passed, sorted.
    pub fn passed(&self) -> &[PassedTest] {
        &self.passed
    }

    /// Why it goes untested, where it does.
    pub fn untested(&self) -> Option<&str> {
        self.untested.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    #[test]
    fn only_the_tests_of_that_image_count() {
        let (image, other) = (ImageId(Digest::of(b"a")), ImageId(Digest::of(b"b")));
        let smoke: NodeLabel = "//p:1[test/smoke]".parse().unwrap();
        let key = Key::from_bytes([1; 32]);
        let passed = |subject, passed| PassedTest::from_record(smoke.clone(), key, subject, passed);
        let judge = |tests: Vec<PassedTest>, untested| Tested::judge(image, std::slice::from_ref(&smoke), tests, untested);
        assert!(judge(passed(image, true).into_iter().collect(), None).is_ok());
        assert_eq!(judge(passed(other, true).into_iter().collect(), None), Err(NotTested::Missing { test: smoke.clone() }));
        assert_eq!(passed(image, false), None);
        assert_eq!(judge(vec![], Some("because")), Err(NotTested::Missing { test: smoke.clone() }));
        assert_eq!(Tested::judge(image, &[], vec![], None), Err(NotTested::NoTests));
        assert!(Tested::judge(image, &[], vec![], Some("an empty scaffold")).is_ok());
    }
}
