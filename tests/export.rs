//! `igraph export`: the same image gives the same bytes, names go along only when tested, and skopeo and a Docker Engine read it.

#[expect(dead_code, reason = "a part of it is used here")]
#[path = "support/registry.rs"]
mod registry;
mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use igraph::digest::{Digest, ImageId};
use igraph::image::ImageSource;
use igraph::registry::OciLayout;
use registry::Registry;
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

/// Files of the embedded engine's store in one of its folders.
fn kept(world: &Daemonless, folder: &str) -> Vec<PathBuf> {
    let names = std::fs::read_dir(world.path("w/igraph-out/store").join(folder)).unwrap();
    names.map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn layers_are_packed_once() {
    let Some(world) = Daemonless::new("layers_are_packed_once") else { return };
    world.igraph("test //app:1").with(0);
    let export = |to: &str| world.igraph(&format!("export //app:1 oci:../{to}")).with(0);
    export("first").says("3 of 3 layers packed anew");
    let first = tree(&world.path("first"));
    export("second").says("0 of 3 layers packed anew");
    assert_eq!(tree(&world.path("second")), first);
    // neither is a part of the other
    assert_eq!(kept(&world, "blobs").len(), 3);
    std::fs::remove_dir_all(world.path("first")).unwrap();

    // what is damaged shows by its digest, and is made again
    let mut blobs = kept(&world, "blobs");
    blobs.sort_by_key(|path| path.metadata().unwrap().len());
    let largest = blobs.pop().unwrap();
    let mut bytes = std::fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).unwrap();
    std::fs::write(&blobs[0], "").unwrap();
    export("third").says("2 of 3 layers packed anew");
    assert_eq!(tree(&world.path("third")), first);
    export("fourth").says("0 of 3 layers packed anew");
    // another way of packing is another blob
    let workspace = std::fs::read_to_string(world.path("w/BUILD.ron")).unwrap();
    world.write("w/BUILD.ron", workspace.replace("Workspace(", "Workspace(compression: Zstd, "));
    export("zstd").says("3 of 3 layers packed anew");
    export("zstd2").says("0 of 3 layers packed anew");
    assert_eq!(kept(&world, "blobs").len(), 6);
    world.write("w/BUILD.ron", workspace);

    // packed layers go first, and what images need stays; bytes that nothing names go, too
    std::fs::write(world.path("w/igraph-out/store/blobs/left"), "left").unwrap();
    let caches = kept(&world, "cache").len();
    world.igraph("gc -n --max-age 1d").with(0).says("would remove");
    assert_eq!(kept(&world, "blobs").len(), 7);
    world.igraph("gc --max-age 1d").with(0).says("1 layers and folders of its caches");
    assert_eq!((kept(&world, "blobs").len(), kept(&world, "packed").len()), (6, 6));
    let unpacked: u64 = kept(&world, "layers").iter().map(|path| size_in(&path.join("info.json"))).sum();
    world.igraph(&format!("gc --max-size {unpacked}")).with(0).says("6 layers and folders of its caches");
    assert_eq!((kept(&world, "blobs").len(), kept(&world, "packed").len()), (0, 0));
    assert_eq!(kept(&world, "cache").len(), caches);
    export("fifth").says("3 of 3 layers packed anew");
    assert_eq!(tree(&world.path("fifth")), first);
    // so do those of no use for long
    for record in kept(&world, "packed") {
        std::fs::File::open(record).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    world.igraph("gc").with(0).says("3 layers and folders of its caches");
    assert_eq!(kept(&world, "blobs").len(), 0);

    // several at once come to the same
    let exports: Vec<_> = (0..3).map(|number| world.command(&format!("export //app:1 oci:../at-once{number}")).spawn().unwrap()).collect();
    for mut export in exports {
        assert!(export.wait().unwrap().success());
    }
    for number in 0..3 {
        assert_eq!(tree(&world.path(&format!("at-once{number}"))), first);
    }
    assert_eq!((kept(&world, "blobs").len(), kept(&world, "packed").len()), (3, 3));
}

/// The length of a layer's tar, from what the store says of it.
fn size_in(info: &Path) -> u64 {
    serde_json::from_slice::<serde_json::Value>(&std::fs::read(info).unwrap()).unwrap()["size"].as_u64().unwrap()
}

#[test]
fn what_was_pushed_is_not_packed_again() {
    let Some(world) = Daemonless::new("what_was_pushed") else { return };
    let (one, two) = (Registry::start(), Registry::start());
    // how many layers the last push has packed, and how many it found
    let counts = || {
        let shown = world.igraph("log show //app:1[push/1]").with(0);
        let log = format!("{}{}", shown.out, shown.err);
        let sum = |words: &str| -> u32 {
            log.split(words)
                .skip(1)
                .map(|rest| rest.split(|char: char| !char.is_ascii_digit()).next().unwrap().parse::<u32>().unwrap())
                .sum()
        };
        (sum("layers packed: "), sum("packed before: "))
    };
    world.igraph(&format!("push --registry {} //app:1", one.host())).with(0);
    assert_eq!(counts(), (3, 0));
    let layout = world.igraph("export //app:1 oci:../out").with(0);
    layout.says("0 of 3 layers packed anew");
    let manifest = one.named("team/app", "1").unwrap();
    assert!(std::fs::read_to_string(world.path("out/index.json")).unwrap().contains(&manifest.to_string()), "one manifest everywhere");
    // the first registry has lost all of it
    let bytes = one.manifest_bytes("team/app", manifest).unwrap();
    let read: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    for layer in read["layers"].as_array().unwrap() {
        for repository in ["team/app", "other"] {
            one.remove_blob(repository, layer["digest"].as_str().unwrap().parse().unwrap());
        }
    }
    world.igraph(&format!("push --registry {} //app:1", two.host())).with(0);
    assert_eq!(counts(), (0, 3));
    assert_eq!(two.named("team/app", "1"), Some(manifest));
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
