//! Images as people write them, with Debian's packages: built and tested by the embedded engine, read by skopeo, run by a Docker Engine.

mod support;

use std::path::Path;
use std::process::Command;

use support::daemonless::{Daemonless, ended};
use support::{Dockerd, skip};

const IMAGES: [(&str, &str); 4] =
    [("//python:1", "real/python:1"), ("//c:1", "real/c:1"), ("//nginx:1", "real/nginx:1"), ("//postgres:15", "real/postgres:15")];

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

#[test]
#[ignore = "installs Debian's packages: minutes, and a network"]
fn debian_images_are_built_tested_exported_and_run() {
    let test = "debian_images";
    let Some(world) = Daemonless::new(test) else { return };
    let Some(daemon) = Dockerd::shared(test) else { return };
    let root = world.path("real");
    copy(Path::new("tests/data/real-images"), &root);
    std::fs::copy("images/base/bootstrap", root.join("base/bootstrap")).unwrap();
    let igraph = |line: &str| world.igraph_in(&root, line);
    igraph("test --logs errors -j 2 //...").with(0);
    igraph("test //...").with(0).says("nothing to do");

    for (label, name) in IMAGES {
        let layout = format!("oci:{}", world.path("layout").join(name.split_once(':').unwrap().0).display());
        igraph(&format!("export {label} {layout}")).with(0);
        igraph(&format!("export {label} docker:{}", daemon.url())).with(0).says(name);
        for arguments in
            [vec!["inspect", &layout], vec!["copy", "--insecure-policy", &layout, &format!("dir:{}", world.path("copied").display())]]
        {
            let mut skopeo = Command::new("skopeo");
            skopeo.args(&arguments);
            match skopeo.output() {
                Err(_) => skip(test, "`skopeo` is not installed"),
                Ok(output) => assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)),
            }
        }
    }

    let run = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command.args(["--host", &daemon.url(), "run", "--rm", "--network", "none"]).args(arguments);
        ended(command).with(0).out
    };
    assert_eq!(run(&["real/python:1"]), "42\n");
    assert_eq!(run(&["real/python:1", "3", "5"]), "15\n");
    assert_eq!(run(&["real/c:1"]), "42 as 1000\n");
    assert_eq!(run(&["real/postgres:15", "answer"]), "42\n");
    let served = run(&["real/nginx:1", "/bin/sh", "-ec", "nginx >&2; fetch"]);
    assert!(served.ends_with("it serves\n"), "{served}");
}
