//! `igraph export`: the same image gives the same bytes, names go along only when tested, and skopeo and a Docker Engine read it.

mod support;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use igraph::digest::{Digest, ImageId};
use igraph::image::ImageSource;
use igraph::registry::OciLayout;
use support::daemonless::{Daemonless, ended};
use support::{Dockerd, skip};

/// Every file of a tree with its bytes.
fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(next).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                pending.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn layouts_and_archives_are_the_image_and_nothing_else() {
    let Some(world) = Daemonless::new("layouts_and_archives") else { return };
    world
        .igraph("export //app:1 oci:../out")
        .with(2)
        .says("there is no image of //app:1 for its present inputs")
        .says("`igraph test //app:1` makes one");
    world.igraph("export //app:9 oci:../out").with(2).says("there is no //app:9");
    world.igraph("export //app:1 out").with(2).says("write oci:DIR, docker-archive:FILE or docker:");
    world.igraph("test //app:1 //app:2").with(0);
    let id = world.id("//app:1");

    world.igraph("export //app:1 oci:../out").with(0).says("as team/app:1, team/app:latest, other:one");
    world.igraph("export //app:1 oci:../again").with(0);
    assert_eq!(tree(&world.path("out")), tree(&world.path("again")));
    let layout = OciLayout::open(&world.path("out"), &"linux/amd64".parse().unwrap()).unwrap();
    assert_eq!((layout.image_id(), layout.layers().len()), (id, 3));
    for index in 0..3 {
        std::io::copy(&mut layout.open_layer(index).unwrap(), &mut std::io::sink()).unwrap();
    }

    world.igraph("export //app:1 docker-archive:../one.tar").with(0);
    world.igraph("export //app:1 docker-archive:../two.tar").with(0);
    assert_eq!(Digest::of(&std::fs::read(world.path("one.tar")).unwrap()), Digest::of(&std::fs::read(world.path("two.tar")).unwrap()));
    let mut archive = tar::Archive::new(std::fs::File::open(world.path("one.tar")).unwrap());
    let mut manifest = String::new();
    for entry in archive.entries().unwrap().map(Result::unwrap) {
        if entry.path().unwrap() == Path::new("manifest.json") {
            manifest = std::io::read_to_string(entry).unwrap();
        }
    }
    assert!(manifest.contains(r#""RepoTags":["team/app:1","team/app:latest","other:one"]"#), "{manifest}");

    // a second image joins the layout
    world.igraph("export //app:2 oci:../out").with(0);
    let index = std::fs::read_to_string(world.path("out/index.json")).unwrap();
    assert!(index.contains("\"team/app:1\"") && index.contains("\"team/app:2\""), "{index}");

    for (from, name) in [("oci", "again".to_owned()), ("docker-archive", "one.tar".to_owned()), ("oci", "out:team/app:2".to_owned())] {
        let source = format!("{from}:{}", world.path("").join(name).display());
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--insecure-policy", &source, &format!("dir:{}", world.path("copied").display())]);
        match copy.output() {
            Err(_) => skip("layouts_and_archives", "`skopeo` is not installed"),
            Ok(output) => assert!(output.status.success(), "{source}: {}", String::from_utf8_lossy(&output.stderr)),
        }
        let mut inspect = Command::new("skopeo");
        inspect.args(["inspect", "--config", "--raw", &source]);
        if inspect.get_program() == "skopeo" && !source.contains("app:2") && which("skopeo") {
            assert_eq!(ImageId(Digest::of(ended(inspect).with(0).out.as_bytes())), id, "{source}");
        }
    }
}

fn which(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).any(|folder| folder.join(program).is_file())
}

#[test]
fn untested_images_go_without_a_name() {
    let Some(world) = Daemonless::new("untested_images") else { return };
    world.igraph("build //app:1 //app:broken").with(0);
    world.igraph("export //app:1 oci:../out").with(0).says("without a name, since its tests have not all passed");
    assert!(!std::fs::read_to_string(world.path("out/index.json")).unwrap().contains("annotations"));
    world.igraph("test //app:broken").with(3);
    world.igraph("export //app:broken docker-archive:../broken.tar").with(0).says("without a name");
    world.write("other/mine", "");
    world.igraph("export //app:1 oci:../other").with(1).says("is not empty, and no OCI layout");
    // what another test says counts at once
    world.igraph("test //app:1").with(0);
    world.igraph("export //app:1 oci:../out").with(0).says("as team/app:1");
    let rules = std::fs::read_to_string(world.path("w/images/app/BUILD.ron")).unwrap();
    world.write("w/images/app/BUILD.ron", rules.replace("! test -e /broken", "test -e /never"));
    world.igraph("export //app:1 oci:../out2").with(0).says("without a name");
}

#[test]
fn a_docker_engine_takes_it_under_its_names() {
    let Some(world) = Daemonless::new("a_docker_engine_takes_it") else { return };
    let Some(daemon) = Dockerd::shared("a_docker_engine_takes_it") else { return };
    world.igraph("test //app:1").with(0);
    let id = world.id("//app:1");
    let export = |line: &str| {
        let mut command = world.command(line);
        command.env("DOCKER_HOST", daemon.url());
        ended(command)
    };
    for _ in 0..2 {
        export("export //app:1 docker:").with(0).says(&format!("image {}", id.0.short()));
    }
    world.igraph(&format!("export //app:2 docker:{}", daemon.url())).with(2);
    let docker = |arguments: &[&str]| {
        let mut command = Command::new("docker");
        command.args(["--host", &daemon.url()]).args(arguments);
        ended(command).with(0).out
    };
    assert_eq!(docker(&["image", "inspect", "--format", "{{.Id}}", "other:one"]).trim(), id.to_string());
    let names = docker(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
    let mut names: Vec<&str> = names.lines().collect();
    names.sort_unstable();
    assert_eq!(names, ["other:one", "team/app:1", "team/app:latest"], "no tag of igraph's own stays");
    assert_eq!(docker(&["run", "--rm", "--network", "none", "team/app:latest", "/bin/cat", "/said", "/deep/link"]), "hello\nhello\n");
    // DOCKER_HOST says where `docker:` is, and not what builds
    export("build //app:1").with(0).says("nothing to do");
    export("export //app:1 docker:unix:///nowhere").with(10).says("no Docker daemon");
}

/// The kernel marks only the topmost of the folders that are made where others were removed.
#[test]
fn what_was_in_folders_that_were_made_anew_is_gone() {
    let Some(world) = Daemonless::new("folders_made_anew") else { return };
    world.write(
        "w/images/app/Dockerfile",
        "FROM shell:1\nRUN mkdir -p /a/b/c && echo low > /a/b/c/d && echo low > /a/b/e\n\
         RUN rm -rf /a && mkdir -p /a/b/c && echo new > /a/b/c/f\n",
    );
    world.igraph("build //app:1").with(0);
    world.igraph("export //app:1 oci:../out").with(0);
    let layout = OciLayout::open(&world.path("out"), &"linux/amd64".parse().unwrap()).unwrap();
    let last = layout.layers().len() - 1;
    let mut layer = tar::Archive::new(flate2::read::GzDecoder::new(layout.open_layer(last).unwrap()));
    let names: Vec<String> = layer.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
    assert_eq!(names, ["a/", "a/b/", "a/b/c/", "a/b/c/.wh.d", "a/b/c/f", "a/b/.wh.e"]);
}
