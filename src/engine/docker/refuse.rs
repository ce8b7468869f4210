//! What a daemon's built-in frontend can't build, told before anything runs. The versions are those of Docker Engine whose BuildKit
//! first has the feature without a `# syntax` line, since igraph drops that line: keys must not depend on a frontend from a registry.

use super::engine::Facts;
use crate::dockerfile::{Dockerfile, Feature, Resolved};
use crate::problem::Problem;

enum Needs {
    /// Nothing: every daemon.
    Nothing,
    /// BuildKit, in any version that igraph talks to.
    BuildKit,
    /// BuildKit as of this Docker Engine.
    Version(u32, u32),
    /// What igraph does not offer on Docker at all, and the way out.
    Never(&'static str),
}

fn needs(feature: &Feature) -> (String, Needs) {
    let plain = |text: &str, needs| (text.to_owned(), needs);
    match feature {
        Feature::AddUrl => plain("ADD of a URL", Needs::Nothing),
        Feature::OnBuild => plain("ONBUILD", Needs::Nothing),
        Feature::CopyChmod => plain("`--chmod`", Needs::BuildKit),
        Feature::Mount(_) => plain("RUN `--mount`", Needs::BuildKit),
        Feature::Platform => plain("FROM `--platform` of another platform", Needs::BuildKit),
        Feature::Heredoc => plain("a heredoc", Needs::Version(23, 0)),
        Feature::Link => plain("`--link`", Needs::Version(23, 0)),
        Feature::RunNetwork => plain("RUN `--network`", Needs::Version(23, 0)),
        Feature::AddChecksum => plain("ADD `--checksum`", Needs::Version(25, 0)),
        Feature::AddGit => plain("ADD of a Git repository", Needs::Version(25, 0)),
        Feature::KeepGitDir => plain("ADD `--keep-git-dir`", Needs::Version(25, 0)),
        Feature::StartInterval => plain("HEALTHCHECK `--start-interval`", Needs::Version(25, 0)),
        Feature::PatternExpansion => plain("`${…}` with `#`, `%` or `/`", Needs::Version(26, 0)),
        Feature::SecretEnv => plain("a secret as environment variable", Needs::Version(28, 0)),
        Feature::SymbolicChmod => plain("a symbolic `--chmod`", Needs::Version(28, 0)),
        Feature::Unpack => plain("ADD `--unpack`", Needs::Version(28, 3)),
        Feature::Exclude => plain("`--exclude`", Needs::Version(28, 5)),
        Feature::Parents => plain("COPY `--parents`", Needs::Version(29, 1)),
        Feature::RunSecurity => {
            plain("RUN `--security`", Needs::Never("a daemon grants no entitlements through its build call; leave the flag out"))
        }
        Feature::RunDevice => {
            plain("RUN `--device`", Needs::Never("a daemon grants no devices through its build call; leave the flag out"))
        }
        Feature::CustomFrontend(name) => (
            format!("the frontend `{name}`"),
            Needs::Never("only `docker/dockerfile:1` is read; drop the `# syntax` line, or build the file elsewhere"),
        ),
    }
}

/// One problem for each feature that the daemon lacks, at the place of its first use.
pub(super) fn refusals(facts: &Facts, dockerfile: &Dockerfile, resolved: &Resolved, secrets_or_ssh: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (feature, span) in &resolved.features {
        if let Some((message, hint)) = refusal(facts, feature) {
            problems.push(Problem::new(message).at(dockerfile.source(), span.clone()).hint(hint));
        }
    }
    for image in resolved.references.iter().filter(|image| image.in_base) {
        let message = format!("an ONBUILD trigger of the base uses image `{}`, which the daemon would ask a registry for", image.text);
        let hint = "start from a base without that trigger, and write its instruction into this Dockerfile";
        problems.push(Problem::new(message).at(dockerfile.source(), image.span.clone()).hint(hint));
    }
    if secrets_or_ssh && !facts.buildkit && problems.is_empty() {
        let message = format!("secrets and ssh agents need BuildKit, which docker {} does not build with here", facts.version);
        problems.push(Problem::new(message).hint("use a daemon with BuildKit, Docker Engine 20.10 or later"));
    }
    problems
}

fn refusal(facts: &Facts, feature: &Feature) -> Option<(String, String)> {
    let (what, needs) = needs(feature);
    match needs {
        Needs::Nothing => None,
        Needs::BuildKit | Needs::Version(..) if !facts.buildkit => Some((
            format!("{what} needs BuildKit, which docker {} does not build with here", facts.version),
            "use a daemon with BuildKit, Docker Engine 20.10 or later".to_owned(),
        )),
        Needs::Version(major, minor) if facts.number < (major, minor) => Some((
            format!("{what} needs Docker Engine {major}.{minor}, this one is {}", facts.version),
            format!("use Docker Engine {major}.{minor} or later, or write it without"),
        )),
        Needs::BuildKit | Needs::Version(..) => None,
        Needs::Never(hint) => Some((format!("{what} can't be built on Docker Engine by igraph"), hint.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dockerfile::MountKind;

    fn facts(number: (u32, u32), buildkit: bool) -> Facts {
        Facts {
            version: format!("{}.{}.1", number.0, number.1),
            number,
            platform: "linux/amd64".parse().unwrap(),
            store: "overlay2".into(),
            containerd: false,
            buildkit,
            bridge: true,
        }
    }

    #[test]
    fn refusals_name_the_version_needed() {
        let message = |facts: &Facts, feature| refusal(facts, &feature).map(|(message, _)| message);
        let old = facts((20, 10), true);
        assert_eq!(message(&old, Feature::Heredoc).unwrap(), "a heredoc needs Docker Engine 23.0, this one is 20.10.1");
        assert_eq!(message(&old, Feature::Mount(MountKind::Secret)), None);
        assert_eq!(message(&old, Feature::AddUrl), None);
        assert_eq!(message(&facts((23, 0), true), Feature::Heredoc), None);
        let classic = facts((26, 1), false);
        assert_eq!(
            message(&classic, Feature::CopyChmod).unwrap(),
            "`--chmod` needs BuildKit, which docker 26.1.1 does not build with here"
        );
        assert_eq!(
            message(&facts((29, 1), true), Feature::CustomFrontend("x/y".into())).unwrap(),
            "the frontend `x/y` can't be built on Docker Engine by igraph"
        );
    }

    #[test]
    fn the_table_of_the_docs_says_the_same() {
        use Feature as F;
        let table = include_str!("../../../docs/dockerfile.md");
        let (mut features, mount) = (vec![F::AddUrl, F::OnBuild, F::CopyChmod, F::Platform, F::Heredoc, F::Link], MountKind::Cache);
        features.extend([F::Mount(mount), F::RunNetwork, F::AddChecksum, F::AddGit, F::KeepGitDir, F::StartInterval]);
        features.extend([
            F::PatternExpansion,
            F::SecretEnv,
            F::SymbolicChmod,
            F::Unpack,
            F::Exclude,
            F::Parents,
            F::RunSecurity,
            F::RunDevice,
        ]);
        for feature in features {
            let (what, needs) = needs(&feature);
            let (buildkit, classic) = match needs {
                Needs::Nothing => ("yes".to_owned(), "yes"),
                Needs::BuildKit => ("yes".to_owned(), "no"),
                Needs::Version(major, minor) => (format!("{major}.{minor}"), "no"),
                Needs::Never(_) => ("no".to_owned(), "no"),
            };
            let row = table.lines().find(|line| line.strip_prefix("| ").is_some_and(|rest| rest.starts_with(&what)));
            let cells: Vec<&str> = row.unwrap_or_else(|| panic!("no row for {what}")).split(" | ").collect();
            assert_eq!((cells[1], cells[2]), (buildkit.as_str(), classic), "{what}");
        }
    }
}
