//! The short way to "nothing to do", through the whole program: what it looks at is all that the answer relied on.

use std::fs::{File, FileTimes};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::house::House;

fn run(root: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_igraph"))
        .args(["test", "//...", "--engine", "fake", "--console", "plain"])
        .current_dir(root)
        .env_clear()
        .env("IGRAPH_TEST_ENGINE", "fake")
        .output()
        .unwrap();
    String::from_utf8(output.stderr).unwrap()
}

fn snapshots(root: &Path) -> usize {
    std::fs::read_dir(root.join("igraph-out/snapshot")).map_or(0, Iterator::count)
}

/// Runs until the short way is open. A stamp that is a moment old is not trusted, so the first tries may leave nothing.
fn settle(house: &House) {
    run(&house.root);
    while snapshots(&house.root) == 0 {
        assert!(run(&house.root).contains("nothing to do"), "{}", run(&house.root));
    }
    assert!(run(&house.root).contains("nothing to do"));
}

fn notices(dockerfile: &str, context: &str, edit: impl FnOnce(&House)) {
    let house = House::new();
    house.package(&format!(r#"Image(name: "1", tests: [":smoke"], dockerfile: "{dockerfile}", context: "{context}")"#));
    house.write(&format!("p/{dockerfile}"), "FROM scratch\nCOPY . /app\n");
    house.write(&format!("p/{context}/app/a.md"), "1");
    house.write(&format!("p/{context}/app/b"), "1");
    settle(&house);
    edit(&house);
    let said = run(&house.root);
    assert!(!said.contains("nothing to do"), "{said}");
}

#[test]
fn an_ignore_file_that_appears() {
    notices("Dockerfile", ".", |house| house.write("p/.dockerignore", "**/*.md\n"));
    notices("Dockerfile", ".", |house| house.write("p/Dockerfile.dockerignore", "**/*.md\n"));
}

#[test]
fn an_ignore_file_beside_a_dockerfile_outside_of_its_context() {
    notices("docker/Dockerfile", "ctx", |house| house.write("p/docker/Dockerfile.dockerignore", "**/*.md\n"));
    notices("docker/Dockerfile", "ctx", |house| house.write("p/ctx/.dockerignore", "**/*.md\n"));
}

#[test]
fn files_that_come_go_and_change() {
    notices("Dockerfile", ".", |house| house.write("p/app/c", "1"));
    notices("Dockerfile", ".", |house| std::fs::remove_file(house.path("p/app/b")).unwrap());
    notices("Dockerfile", ".", |house| house.write("p/app/b", "2"));
    notices("Dockerfile", ".", |house| {
        house.write("p/q/BUILD.ron", r#"Package(rules: [Image(name: "2", dockerfile: "../Dockerfile", untested: "x")])"#)
    });
}

#[test]
fn a_dockerfile_behind_a_link() {
    let house = House::new();
    house.package(r#"Image(name: "1", tests: [":smoke"])"#);
    house.write("p/one", "FROM scratch\nRUN one\n");
    house.write("p/two", "FROM scratch\nRUN two\n");
    std::os::unix::fs::symlink("one", house.path("p/Dockerfile")).unwrap();
    settle(&house);
    house.write("p/one", "FROM scratch\nRUN changed\n");
    assert!(!run(&house.root).contains("nothing to do"));
    settle(&house);
    std::fs::remove_file(house.path("p/Dockerfile")).unwrap();
    std::os::unix::fs::symlink("two", house.path("p/Dockerfile")).unwrap();
    assert!(!run(&house.root).contains("nothing to do"));
}

/// Gives a path the access and modification times that another had.
fn with_times_of(old: &std::fs::Metadata, path: &Path) {
    let times = FileTimes::new().set_modified(old.modified().unwrap()).set_accessed(old.accessed().unwrap());
    File::options().write(true).open(path).unwrap().set_times(times).unwrap();
}

/// Each of these leaves size and modification time of `p/app/b` as they were, or tries another way around.
#[test]
fn what_tries_to_fool_it() {
    type Trick = fn(&House);
    let tricks: [(&str, Trick); 7] = [
        ("other content, same size and time", |house| {
            let path = house.path("p/app/b");
            let old = std::fs::metadata(&path).unwrap();
            house.write("p/app/b", "2");
            with_times_of(&old, &path);
        }),
        ("another file of the same size and time, renamed over it", |house| {
            let old = std::fs::metadata(house.path("p/app/b")).unwrap();
            house.write("aside", "2");
            with_times_of(&old, &house.path("aside"));
            std::fs::rename(house.path("aside"), house.path("p/app/b")).unwrap();
        }),
        ("written while the clock was set back", |house| {
            house.write("p/app/b", "2");
            let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
            File::options().write(true).open(house.path("p/app/b")).unwrap().set_modified(long_ago).unwrap();
        }),
        ("a link to the same content in its place", |house| {
            std::fs::remove_file(house.path("p/app/b")).unwrap();
            std::os::unix::fs::symlink("a.md", house.path("p/app/b")).unwrap();
        }),
        ("the executable bit", |house| {
            std::fs::set_permissions(house.path("p/app/b"), std::fs::Permissions::from_mode(0o755)).unwrap();
        }),
        ("a folder renamed over another", |house| {
            let old = std::fs::metadata(house.path("p/app/b")).unwrap();
            house.write("other/a.md", "1");
            house.write("other/b", "2");
            with_times_of(&old, &house.path("other/b"));
            std::fs::rename(house.path("p/app"), house.path("away")).unwrap();
            std::fs::rename(house.path("other"), house.path("p/app")).unwrap();
        }),
        ("content through a second name of the same file", |house| {
            let old = std::fs::metadata(house.path("p/app/b")).unwrap();
            std::fs::hard_link(house.path("p/app/b"), house.path("second")).unwrap();
            house.write("second", "2");
            with_times_of(&old, &house.path("second"));
        }),
    ];
    for (name, trick) in tricks {
        let house = House::new();
        house.package(r#"Image(name: "1", tests: [":smoke"])"#);
        house.write("p/Dockerfile", "FROM scratch\nCOPY app /app\n");
        house.write("p/app/a.md", "1");
        house.write("p/app/b", "1");
        settle(&house);
        trick(&house);
        let said = run(&house.root);
        assert!(said.contains("1 built"), "{name}: {said}");
        // what is in no key is looked at again, and is nothing
        std::fs::set_permissions(house.path("p/Dockerfile"), std::fs::Permissions::from_mode(0o600)).unwrap();
        let said = run(&house.root);
        assert!(said.contains("nothing to do"), "{name}: {said}");
    }
}
