//! The short way to "nothing to do", through the whole program: what it looks at is all that the answer relied on.

use std::path::Path;
use std::process::Command;

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
