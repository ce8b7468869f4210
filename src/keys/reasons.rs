//! Why a key differs from the last one: the two lists of components, compared name by name.

use std::collections::BTreeMap;

use crate::component::Component;
use crate::reason::Reason;

/// The differences of two component lists as reasons, dependencies first, then the Dockerfile, files, the rest; each sorted.
/// `dockerfile` is the path to name where instructions differ. Empty only for equal lists.
pub fn reasons(old: &[Component], new: &[Component], dockerfile: Option<&str>) -> Vec<Reason> {
    let index =
        |list: &[Component]| -> BTreeMap<String, String> { list.iter().map(|part| (part.name.clone(), part.value.clone())).collect() };
    let (old, new) = (index(old), index(new));
    let mut found: Vec<(u8, Reason)> = Vec::new();
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        let (before, after) = (old.get(name), new.get(name));
        if before != after {
            let reason = reason(name, before, after, dockerfile);
            if !found.iter().any(|(_, seen)| *seen == reason) {
                found.push(reason_rank(reason));
            }
        }
    }
    found.sort_by_key(|(rank, _)| *rank);
    found.into_iter().map(|(_, reason)| reason).collect()
}

fn reason_rank(reason: Reason) -> (u8, Reason) {
    let rank = match reason {
        Reason::KeySchema { .. } | Reason::EngineChanged { .. } => 0,
        Reason::BaseMoved { .. } | Reason::DependencyChanged { .. } => 1,
        Reason::DockerfileChanged { .. } | Reason::TestChanged { .. } => 2,
        Reason::InputChanged { .. } | Reason::InputAdded { .. } | Reason::InputRemoved { .. } => 3,
        _ => 4,
    };
    (rank, reason)
}

fn reason(name: &str, before: Option<&String>, after: Option<&String>, dockerfile: Option<&str>) -> Reason {
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let (kind, rest) = name.split_once(' ').unwrap_or((name, ""));
    match (kind, before, after) {
        ("file" | "test-file" | "extra", Some(old), Some(new)) => {
            Reason::InputChanged { path: rest.to_owned(), old: old.clone(), new: new.clone() }
        }
        ("file" | "test-file" | "extra", None, _) => Reason::InputAdded { path: rest.to_owned() },
        ("file" | "test-file" | "extra", _, None) => Reason::InputRemoved { path: rest.to_owned() },
        ("base", Some(old), Some(new)) => Reason::BaseMoved { reference: rest.to_owned(), old: old.clone(), new: new.clone() },
        ("base" | "parent" | "subject", ..) => Reason::DependencyChanged {
            label: if rest.is_empty() { kind.to_owned() } else { rest.to_owned() },
            // a value is kept as `=VALUE`, since `(unset)` is none
            old: before.map(|value| if kind == "arg" { value.strip_prefix('=').unwrap_or(value).to_owned() } else { value.clone() }),
            new: after.map(|value| if kind == "arg" { value.strip_prefix('=').unwrap_or(value).to_owned() } else { value.clone() }),
        },
        ("instruction", ..) => match dockerfile {
            Some(path) => Reason::DockerfileChanged { path: path.to_owned() },
            None => Reason::TestChanged { old: text(before), new: text(after) },
        },
        // of a test they are numbered, of a base there is one
        ("command", ..) if !rest.is_empty() => Reason::TestChanged { old: text(before), new: text(after) },
        ("engine", ..) => Reason::EngineChanged { old: text(before), new: text(after) },
        // a stamp that is gone has been taken back with the lock
        ("policy", ..) => {
            let value = text(after.or(before));
            let (stamp, policy) = value.split_once(' ').unwrap_or((&value, ""));
            match after {
                Some(_) => Reason::PolicyRenewed { policy: policy.to_owned(), stamp: stamp.to_owned() },
                None => Reason::ArgumentChanged { name: policy.to_owned(), old: Some(stamp.to_owned()), new: None },
            }
        }
        _ => Reason::ArgumentChanged {
            name: if kind == "arg" { rest.to_owned() } else { name.to_owned() },
            old: before.cloned(),
            new: after.cloned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_component_has_its_words() {
        let list = |pairs: &[(&str, &str)]| -> Vec<Component> { pairs.iter().map(|(name, value)| Component::new(*name, *value)).collect() };
        let old = list(&[
            ("file a", "644 x"),
            ("file gone", "644 y"),
            ("arg V", "1"),
            ("base debian", "sha256:1"),
            ("instruction 0 1", "RUN a"),
            ("instruction 0 2", "RUN b"),
            ("policy", "2026-11-20T02:00:00Z refresh"),
            ("same", "1"),
        ]);
        let new = list(&[
            ("file a", "755 x"),
            ("file new", "644 z"),
            ("arg V", "2"),
            ("base debian", "sha256:2"),
            ("instruction 0 1", "RUN c"),
            ("same", "1"),
            ("parent //p:1", "sha256:3"),
            ("policy", "2026-11-24T02:00:00Z probe"),
        ]);
        let words: Vec<String> = reasons(&old, &new, Some("p/Dockerfile")).iter().map(ToString::to_string).collect();
        assert_eq!(
            words,
            [
                "base debian moved: sha256:1 → sha256:2",
                "//p:1 changed: nothing → sha256:3",
                "p/Dockerfile changed",
                "a changed",
                "gone removed",
                "new added",
                "V changed: 1 → 2",
                "probe renewed at 2026-11-24T02:00:00Z",
            ]
        );
        assert!(reasons(&old, &old, None).is_empty());
    }
}
