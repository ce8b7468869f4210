//! The embedded engine gives the same image at another path, under another umask, to another user and at another time; what makes an
//! image differ is shown, and left out where it is asked for.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use igraph::image::ImageSource;
use igraph::registry::OciLayout;
use support::daemonless::{Daemonless, ended};
use support::{OrdinaryUser, skip};

/// All kinds of files, made in more than one way.
const MANY: &str = "FROM shell:1\n\
    COPY --chmod=600 greeting /a/greeting\n\
    COPY greeting /\n\
    RUN mkdir -p /t/x /t/y && echo one > /t/x/one && ln /t/x/one /t/y/hard && ln -s ../x/one /t/y/soft && \
        dd if=/dev/zero of=/t/sparse bs=1 count=1 seek=5000000 && echo end >> /t/sparse && chmod 4750 /t/x/one && \
        setfattr -n user.kind -v odd /t/y && rm -rf /root && mkdir /root && echo deep > /root/kept && \
        echo long > \"/t/$(printf 'n%.0s' 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 \
        1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0)\"\n\
    RUN echo $SOURCE_DATE_EPOCH > /epoch && env | grep -v ^_ > /environment && umask > /umask\n";

fn many(world: &Daemonless) {
    world.write("w/images/app/Dockerfile", MANY);
}

/// Every file and folder of a tree with other modes, which say the same to git.
fn chmod_all(path: &Path) {
    let metadata = path.symlink_metadata().unwrap();
    if metadata.is_dir() {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).unwrap();
        std::fs::read_dir(path).unwrap().for_each(|entry| chmod_all(&entry.unwrap().path()));
    } else if metadata.is_file() {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }
}

fn manifest(layout: &Path) -> String {
    let index: serde_json::Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn another_path_umask_and_time_give_the_same_image() {
    let Some(world) = Daemonless::new("another_path_umask_and_time") else { return };
    many(&world);
    world.igraph("test //...").with(3);
    let first = world.id("//app:2");
    world.igraph("export //app:2 oci:../first").with(0);

    let there = world.path("a longer way/to the same/place");
    std::fs::create_dir_all(there.parent().unwrap()).unwrap();
    std::fs::rename(world.path("w"), &there).unwrap();
    std::fs::remove_dir_all(there.join("igraph-out")).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    chmod_all(&there);
    let mut command = Command::new("sh");
    let line = "umask 077; exec \"$0\" test //...";
    command.args(["-c", line, env!("CARGO_BIN_EXE_igraph")]).current_dir(&there).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("TZ", "Asia/Tokyo").env("LC_ALL", "C.UTF-8").env("NOISE", "yes");
    ended(command).with(3);
    let out = world.igraph_in(&there, "build --show-output //app:2").with(0).out;
    assert!(out.contains(&first.to_string()), "{first} is not in {out}");
    world.igraph_in(&there, "export //app:2 oci:second").with(0);
    assert_eq!(manifest(&world.path("first")), manifest(&there.join("second")));
    world.igraph_in(&there, "verify --rebuild //app:1").with(0).says("is the same image");
}

/// A user without rights, who has no ids but some subordinate ones, in another folder, under another umask.
#[test]
fn an_ordinary_user_gives_the_same_manifest() {
    let test = "an_ordinary_user_gives_the_same_manifest";
    let (Some(world), Some(user)) = (Daemonless::new(test), OrdinaryUser::new(test, 65_536)) else { return };
    many(&world);
    let there = user.home().join("a workspace of the user's");
    assert!(Command::new("cp").arg("-r").arg(world.path("w")).arg(&there).status().unwrap().success());
    chmod_all(&there);
    user.own(&there);
    world.igraph("test //...").with(3);
    let first = world.id("//app:2");
    world.igraph("export //app:2 oci:../first").with(0);

    let mut command = user.command(Path::new("/bin/sh"));
    let line = "umask 027; cd \"$1\" && { \"$0\" test //... ; test $? = 3; } && \"$0\" build --show-output //app:2 && \"$0\" export //app:2 oci:second";
    command.args(["-c", line]).arg(user.program(Path::new(env!("CARGO_BIN_EXE_igraph")))).arg(&there).env("TZ", "America/Lima");
    let ended = ended(command).with(0);
    assert!(ended.out.contains(&first.to_string()), "{first} is not in {}", ended.out);
    assert_eq!(manifest(&world.path("first")), manifest(&there.join("second")));
}

/// igraph's own clock decades off, both ways. What a step sees is the machine's: time has no namespace.
#[test]
fn another_clock_gives_the_same_manifest() {
    let Some(world) = Daemonless::new("another_clock") else { return };
    if Command::new("faketime").arg("--version").output().is_err() {
        return skip("another_clock", "`faketime` is not installed");
    }
    many(&world);
    world.igraph("test //...").with(3);
    let first = world.id("//app:2");
    world.igraph("export //app:2 oci:../first").with(0);
    for (number, (clock, day)) in [("@2001-02-03 04:05:06", "2001-02-03"), ("@2093-11-12 13:14:15", "2093-11-12")].into_iter().enumerate() {
        std::fs::remove_dir_all(world.path("w/igraph-out")).unwrap();
        let at = |line: &str| {
            let mut command = Command::new("faketime");
            command.args(["--exclude-monotonic", "-f", clock, env!("CARGO_BIN_EXE_igraph")]).args(line.split(' '));
            command.current_dir(world.path("w")).env("TZ", "UTC");
            ended(command)
        };
        at("test //...").with(3);
        let log = at("log list").with(0).out;
        assert!(log.contains(day), "the clock is not {clock}: {log}");
        let out = at("build --show-output //app:2").with(0).out;
        assert!(out.contains(&first.to_string()), "{first} is not in {out}");
        at(&format!("export //app:2 oci:../at-{number}")).with(0);
        assert_eq!(manifest(&world.path("first")), manifest(&world.path(&format!("at-{number}"))), "{clock}");
    }
}

#[test]
fn what_differs_is_shown_and_left_out_where_it_is_known() {
    let Some(world) = Daemonless::new("what_differs") else { return };
    world.write(
        "w/images/app/Dockerfile",
        "FROM shell:1\nRUN mkdir -p /var/log && date +%s%N > /var/log/dpkg.log && echo same > /same && test -s /var/log/dpkg.log\n",
    );
    world.igraph("verify //app:1").with(2).says("there is no image of //app:1");
    world.igraph("build //app:1").with(0);
    world.igraph("verify //app:1").with(0).says("is as it was made");
    let images = || std::fs::read_dir(world.path("w/igraph-out/store/images")).unwrap().count();
    let before = images();
    world
        .igraph("verify --rebuild //app:1")
        .with(1)
        .says("/var/log/dpkg.log: content ")
        .says("in layer 2, `RUN /bin/sh -c mkdir -p /var/log")
        .says("no other file of that layer differs")
        .says("`scrub: [Debian]` leaves that file out");
    assert_eq!(images(), before, "a build to compare with is let go of");
    world.igraph("build //app:1").with(0).says("nothing to do");

    let rules = std::fs::read_to_string(world.path("w/images/app/BUILD.ron")).unwrap();
    world.write("w/images/app/BUILD.ron", rules.replace("Image(name: \"1\",", "Image(name: \"1\", scrub: [Debian],"));
    let why = world.igraph("why //app:1").with(0).out;
    assert!(why.contains("scrub Debian"), "{why}");
    world.igraph("build //app:1").with(0);
    world.igraph("verify --rebuild //app:1").with(0).says("is the same image");
    world.igraph("build --engine docker=unix:///nowhere //app:1").with(2).says("leaves nothing out of them").says("--engine embedded");
    world.write("w/images/app/BUILD.ron", rules.replace("Image(name: \"1\",", "Image(name: \"1\", scrub: [Alpine],"));
    world.igraph("check").with(2).says("`scrub` knows no files of `Alpine`").says("it is `[Debian]`");
}

#[test]
fn a_change_without_effect_ends_at_the_parent() {
    let Some(world) = Daemonless::new("a_change_without_effect") else { return };
    world.write(
        "w/images/app/Dockerfile",
        "FROM shell:1 AS made\nCOPY greeting /in\nRUN grep -v ^# /in > /out\nFROM shell:1\nCOPY --from=made /out /greeting\n",
    );
    world.igraph("test //app:1 //app:2").with(0);
    world.write("w/images/app/greeting", "# a word more\nhello\n");
    let again = world.igraph("test -v //app:1 //app:2").with(0);
    let again = again.says("greeting changed").says("same image as before").says("1 built, 3 fresh");
    assert_eq!(again.err.matches("BUILD [").count(), 1, "{}", again.err);
    assert!(!again.err.contains("PASS [    "), "{}", again.err);
}

/// One tar on two bases: what the first of them has, or lacks, is no part of the layer that both share.
#[test]
fn a_layer_is_its_tar_whatever_it_was_made_on() {
    let Some(world) = Daemonless::new("a_layer_is_its_tar") else { return };
    // folders that are new or not; a file and a folder that overlayfs copies up, and that stay as they were
    let step = "mkdir -p /a/b && echo new > /a/b/new && touch /there && touch /dir/x && rm /dir/x";
    let dockerfile = |below: &str| format!("FROM shell:1\nRUN {below}\nRUN {step}\n");
    world.write("w/images/app/Dockerfile", dockerfile("echo one > /there && mkdir -m 750 /dir"));
    world.write("w/images/app/Dockerfile.2", dockerfile("echo two > /there && mkdir -m 755 /dir && mkdir -p /a/b && echo old > /a/b/old"));
    world.write(
        "w/images/app/Dockerfile.broken",
        "FROM team/app:2\nRUN cat /a/b/new /a/b/old /there && ls -ld /dir && test \"$(cat /there)\" = two && test -e /a/b/old && \
         ls -ld /dir | grep -q '^drwxr-xr-x'\n",
    );
    world.igraph("build //app:1").with(0);
    world.igraph("build //app:broken").with(0);
    let last = |label: &str| {
        let folder = label.replace(':', "-");
        world.igraph(&format!("export //{label} oci:../{folder}")).with(0);
        let layout = OciLayout::open(&world.path(&folder), &"linux/amd64".parse().unwrap()).unwrap();
        layout.layers().last().unwrap().diff_id
    };
    assert_eq!(last("app:1"), last("app:2"));
}

/// The third step's layer is the first's.
#[test]
fn a_change_that_is_made_again_is_a_layer_that_comes_twice() {
    let Some(world) = Daemonless::new("made_again") else { return };
    world.write(
        "w/images/app/Dockerfile",
        "FROM shell:1\nRUN echo x > /f\nRUN rm /f && echo y > /g\nRUN echo x > /f\nRUN grep x /f && grep y /g\n",
    );
    world.igraph("build //app:1").with(0);
    world.igraph("export //app:1 oci:../out").with(0);
    let layout = OciLayout::open(&world.path("out"), &"linux/amd64".parse().unwrap()).unwrap();
    let layers = layout.layers();
    assert_eq!((layers.len(), layers[1].diff_id), (4, layers[3].diff_id));
    world.igraph("verify --rebuild //app:1").with(0);
}
