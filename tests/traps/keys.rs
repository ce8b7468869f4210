//! What counts in an image's key, and what does not: an edit, and whether the image is built again and why.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use igraph::event::Event;
use igraph::graph::Depth;

use crate::house::{House, How};

/// Builds, edits, builds again: the reasons for which `//p:1` ran, empty where it was fresh.
fn after(house: &House, edit: impl FnOnce(&House)) -> Vec<String> {
    let first = house.run(Depth::Test);
    assert!(["ran", "fresh"].contains(&first.of("//p:1").as_str()), "{:?}", first.not_fresh());
    assert_eq!(house.run(Depth::Test).not_fresh(), [""; 0], "not a no-op before the edit");
    edit(house);
    let second = house.run(Depth::Test);
    match second.of("//p:1").as_str() {
        "fresh" => Vec::new(),
        "ran" => second.reasons("//p:1"),
        other => panic!("{other}"),
    }
}

const FRESH: [&str; 0] = [];

#[test]
fn only_the_dockerfile_in_the_key() {
    let house = House::image("FROM scratch\nCOPY app /app\n");
    house.write("p/app", "1");
    assert_eq!(after(&house, |house| house.write("p/app", "2")), ["app changed"]);
    assert_eq!(after(&house, |house| house.write("p/Dockerfile", "# words\nFROM scratch\n\n# more\nCOPY app /app\n")), FRESH);
    assert_eq!(after(&house, |house| house.write("p/Dockerfile", "FROM scratch\nCOPY app /app2\n")), ["p/Dockerfile changed"]);
}

#[test]
fn the_exec_bit_counts_and_no_other_mode() {
    let house = House::image("FROM scratch\nCOPY app /app\n");
    house.write("p/app", "1");
    let mode = |mode| move |house: &House| std::fs::set_permissions(house.path("p/app"), PermissionsExt::from_mode(mode)).unwrap();
    assert_eq!(after(&house, mode(0o600)), FRESH);
    // not the owner's
    assert_eq!(after(&house, mode(0o654)), FRESH);
    assert_eq!(after(&house, mode(0o755)), ["app changed"]);
    assert_eq!(after(&house, mode(0o700)), FRESH);
}

#[test]
fn build_args_missed() {
    let house = House::image("ARG UNUSED=1\nFROM scratch\nARG VERSION\nRUN echo $VERSION\n");
    let package = |args: &str| house.package(&format!(r#"Image(name: "1", tests: [":smoke"], args: {{{args}}})"#));
    package(r#""VERSION": "1""#);
    assert_eq!(after(&house, |_| package(r#""VERSION": "2""#)), ["VERSION changed: =1 → =2"]);
    // what no ARG declares, or nothing uses, changes nothing
    assert_eq!(after(&house, |_| package(r#""VERSION": "2", "UNUSED": "x", "OTHER": "y""#)), FRESH);
    // a value equal to the default is no change
    house.write("p/Dockerfile", "FROM scratch\nARG VERSION=2\nRUN echo $VERSION\n");
    assert_eq!(after(&house, |_| package("")), FRESH);
}

#[test]
fn a_commit_id_in_the_key() {
    let house = House::image("FROM scratch\nCOPY . /app\n");
    house.write("p/.dockerignore", ".git\n");
    house.write("p/app", "1");
    house.write(".git/HEAD", "0123");
    house.write("p/.git/HEAD", "0123");
    let rebased = |house: &House| {
        house.write(".git/HEAD", "4567");
        house.write("p/.git/HEAD", "4567");
    };
    assert_eq!(after(&house, rebased), FRESH);
}

#[test]
fn a_whole_folder_hashed() {
    let house = House::image("FROM scratch\nCOPY src /src\n");
    house.write("p/src/a", "1");
    house.write("p/README.md", "1");
    assert_eq!(after(&house, |house| house.write("p/README.md", "2")), FRESH);
    assert_eq!(after(&house, |house| house.write("p/src/b", "2")), ["src/b added"]);
    assert_eq!(after(&house, |house| std::fs::remove_file(house.path("p/src/a")).unwrap()), ["src/a removed"]);
}

#[test]
fn missing_copy_sources_are_an_error_with_their_place() {
    let house = House::image("FROM scratch\nCOPY gone /app\n");
    let problems = house.plan(Depth::Test, &["//..."]).unwrap_err();
    assert!(problems[0].contains("gone"), "{problems:?}");
}

#[test]
fn symlinks_seen_by_lstat_only() {
    let house = House::image("FROM scratch\nCOPY link /app\n");
    house.write("p/real/file", "1");
    house.write("p/other/file", "1");
    symlink("real/file", house.path("p/link")).unwrap();
    assert_eq!(after(&house, |house| house.write("p/real/file", "2")), ["real/file changed"]);
    let retarget = |house: &House| {
        house.write("p/other/file", "2");
        std::fs::remove_file(house.path("p/link")).unwrap();
        symlink("other/file", house.path("p/link")).unwrap();
    };
    assert_eq!(after(&house, retarget), ["link changed", "real/file removed", "other/file added"]);
}

#[test]
fn bind_mounts_unseen() {
    let house = House::image("FROM scratch\nRUN --mount=type=bind,source=tools,target=/tools /tools/make\n");
    house.write("p/tools/make", "1");
    assert_eq!(after(&house, |house| house.write("p/tools/make", "2")), ["tools/make changed"]);
}

#[test]
fn dockerignore_by_effect_and_not_by_bytes() {
    let house = House::image("FROM scratch\nCOPY . /app\n");
    house.write("p/app", "1");
    house.write("p/notes.md", "1");
    house.write("p/.dockerignore", "*.md\nBUILD.ron\n.dockerignore\nDockerfile\n");
    assert_eq!(after(&house, |house| house.write("p/notes.md", "2")), FRESH);
    let same = "# words\n*.md\nBUILD.ron\n.dockerignore\nDockerfile\nnothing-like-this\n";
    assert_eq!(after(&house, |house| house.write("p/.dockerignore", same)), FRESH);
    let less = "BUILD.ron\n.dockerignore\nDockerfile\n";
    assert_eq!(after(&house, |house| house.write("p/.dockerignore", less)), ["notes.md added"]);
}

#[test]
fn dockerignore_of_the_dockerfile_unknown() {
    let house = House::image("FROM scratch\nCOPY . /app\n");
    house.write("p/app", "1");
    house.write("p/notes.md", "1");
    house.write("p/.dockerignore", "BUILD.ron\n*.dockerignore\n.dockerignore\nDockerfile\n");
    let beside = |house: &House| house.write("p/Dockerfile.dockerignore", "BUILD.ron\n*.dockerignore\n.dockerignore\nDockerfile\n*.md\n");
    assert_eq!(after(&house, beside), ["notes.md removed"]);
}

#[test]
fn the_language_misread() {
    // escape directive, heredoc, ARG in FROM: what they hide must count
    let house = House::new();
    house.base("base", "7", "seven", "");
    house.base("base", "8", "eight", "");
    house.package(r#"Image(name: "1", tests: [":smoke"])"#);
    let escaped = |word: &str| {
        format!(
            "# escape=`\nARG TAG=7\nFROM {{host}}/base:$TAG\nRUN a `\n  b {word}\nCOPY <<EOF /file\nCOPY not-a-file /x\nEOF\nCOPY app /app\n"
        )
    };
    house.write("p/Dockerfile", &escaped("1"));
    house.write("p/app", "1");
    assert_eq!(after(&house, |house| house.write("p/Dockerfile", &escaped("2"))), ["p/Dockerfile changed"]);
    assert_eq!(after(&house, |house| house.write("p/app", "2")), ["app changed"]);
    let host = house.registry.host().to_owned();
    let moved = after(&house, |house| house.package(r#"Image(name: "1", tests: [":smoke"], args: {"TAG": "8"})"#));
    assert_eq!(moved.len(), 3, "{moved:?}");
    assert!(moved.iter().any(|reason| reason.starts_with(&format!("{host}//base:8 changed: nothing → "))), "{moved:?}");
    assert!(moved.contains(&"TAG changed: =7 → =8".to_owned()), "{moved:?}");
}

#[test]
fn a_frontend_nobody_knows_reads_the_whole_context() {
    let house = House::image("# syntax=corp/frontend:1\nFROM scratch\nCOPY app /app\n");
    house.write("p/app", "1");
    house.write("p/README.md", "1");
    assert_eq!(after(&house, |house| house.write("p/README.md", "2")), ["README.md changed"]);
    let plan = house.key("//p:1").1;
    assert!(plan.iter().any(|(name, value)| name == "context" && value.contains("corp/frontend:1")), "{plan:?}");
}

#[test]
fn onbuild_of_the_base_and_of_a_parent_misread() {
    let house = House::new();
    house.base("base", "1", "base", r#""OnBuild":["COPY conf /conf"]"#);
    house.package(r#"Image(name: "parent", tests: [":smoke"], dockerfile: "parent"), Image(name: "1", tests: [":smoke"])"#);
    house.write("p/parent", "FROM {host}/base:1\nONBUILD COPY app /app\n");
    house.write("p/Dockerfile", "FROM {host}/p:parent\nRUN true\n");
    house.write("p/conf", "1");
    house.write("p/app", "1");
    assert_eq!(after(&house, |house| house.write("p/app", "2")), ["app changed"]);
    let run = {
        house.write("p/conf", "2");
        house.run(Depth::Test)
    };
    assert_eq!(run.reasons("//p:parent"), ["conf changed"]);
}

#[test]
fn onbuild_that_brings_another_image() {
    let house = House::new();
    house.base("base", "1", "base", &format!(r#""OnBuild":["COPY --from={}/other:1 /x /x"]"#, house.registry.host()));
    house.base("other", "1", "other", "");
    house.package(r#"Image(name: "1", tests: [":smoke"])"#);
    house.write("p/Dockerfile", "FROM {host}/base:1\nRUN true\n");
    // nobody knew when the graph was made: nothing is built on half a key
    let first = house.run(Depth::Test);
    assert!(first.of("//p:1").contains("was not known when the run began"), "{:?}", first.not_fresh());
    assert_eq!(first.built(), [""; 0]);
    let second = house.run(Depth::Test);
    assert_eq!(second.of("//p:1"), "ran");
    assert!(house.key("//p:1").1.iter().any(|(name, _)| name.ends_with("//other:1")));
    assert_eq!(house.run(Depth::Test).not_fresh(), [""; 0]);
}

#[test]
fn env_of_a_base_decides_what_is_copied() {
    let house = House::new();
    house.base("base", "1", "base", r#""Env":["WHAT=one"]"#);
    house.package(r#"Image(name: "1", tests: [":smoke"])"#);
    house.write("p/Dockerfile", "FROM {host}/base:1\nCOPY $WHAT /app\n");
    house.write("p/one", "1");
    house.write("p/two", "1");
    assert_eq!(after(&house, |house| house.write("p/two", "2")), FRESH);
    assert_eq!(after(&house, |house| house.write("p/one", "2")), ["one changed"]);
}

#[test]
fn extra_inputs_count_though_nothing_reads_them() {
    let house = House::image("FROM scratch\nRUN true\n");
    house.package(r#"Image(name: "1", tests: [":smoke"], extra_inputs: ["versions/*"])"#);
    house.write("p/versions/a", "1");
    house.write("p/else", "1");
    assert_eq!(after(&house, |house| house.write("p/else", "2")), FRESH);
    assert_eq!(after(&house, |house| house.write("p/versions/a", "2")), ["p/versions/a changed"]);
}

#[test]
fn stages_that_nothing_needs() {
    let house = House::image(
        "FROM scratch AS tools\nCOPY tool /tool\nFROM scratch AS docs\nCOPY manual /manual\nFROM scratch\nCOPY --from=tools /tool /tool\n",
    );
    house.write("p/tool", "1");
    house.write("p/manual", "1");
    assert_eq!(after(&house, |house| house.write("p/manual", "2")), FRESH);
    let less = "FROM scratch AS tools\nCOPY tool /tool\nFROM scratch\nCOPY --from=tools /tool /tool\n";
    assert_eq!(after(&house, |house| house.write("p/Dockerfile", less)), FRESH);
    assert_eq!(after(&house, |house| house.write("p/tool", "2")), ["tool changed"]);
}

#[test]
fn settings_of_the_build_count_and_those_of_the_run_do_not() {
    let house = House::image("FROM scratch\nRUN true\n");
    let package = |fields: &str| {
        let fields = fields.to_owned();
        move |house: &House| house.package(&format!(r#"Image(name: "1", tests: [":smoke"], {fields})"#))
    };
    assert_eq!(after(&house, package(r#"timeout: "5m", retries: 7, aliases: ["x"]"#)), FRESH);
    assert_eq!(after(&house, package(r#"network: "none""#)), ["network changed: default → none"]);
}

#[test]
fn secrets_by_name_and_whether_they_are_given() {
    let house = House::image("FROM scratch\nRUN --mount=type=secret,id=npm true\n");
    let package = |fields: &str| {
        let fields = fields.to_owned();
        move |house: &House| house.package(&format!(r#"Image(name: "1", tests: [":smoke"], {fields})"#))
    };
    assert_eq!(after(&house, package(r#"secrets: {"npm": Env("HOME")}"#)), ["secret npm changed: not given → given"]);
    assert_eq!(after(&house, package(r#"secrets: {"npm": Env("PATH")}"#)), FRESH);
    house.write("p/Dockerfile", "FROM scratch\nRUN --mount=type=secret,id=pip,required=true true\n");
    let problems = house.plan(Depth::Test, &["//..."]).unwrap_err();
    assert_eq!(problems, ["the secret `pip` is required here, and not given"]);
}

#[test]
fn a_file_that_changes_under_the_build_gets_another_key() {
    let house = House::image("FROM scratch\nCOPY app /app\n");
    house.write("p/app", "1");
    let path = house.path("p/app");
    let times = Arc::new(AtomicUsize::new(0));
    let counted = times.clone();
    let change = move |step: &str| {
        if step == "//p:1" && counted.fetch_add(1, Ordering::SeqCst) == 0 {
            std::fs::write(&path, "22").unwrap();
        }
    };
    let ran = house.run_of(Depth::Test, &["//..."], &How { on_attempt: Some(Arc::new(change)), ..How::default() });
    assert_eq!((ran.of("//p:1").as_str(), times.load(Ordering::SeqCst)), ("ran", 2), "{:?}", ran.not_fresh());
    assert_eq!(ran.terminal()["//p:1"], 1);
    let attempts: Vec<u32> = ran
        .events
        .iter()
        .filter_map(|event| match event {
            Event::AttemptStarted { node, attempt, .. } if node.to_string() == "//p:1" => Some(*attempt),
            _ => None,
        })
        .collect();
    assert_eq!(attempts, [1, 2]);
    assert_eq!(house.run(Depth::Test).not_fresh(), [""; 0]);
    house.write("p/app", "1");
    assert_eq!(house.run(Depth::Test).of("//p:1"), "ran", "the first content was recorded though it was never built");
}
