//! Golden layers of the embedded engine: everything that a file can be, as entries of the tar and as the tar's digest, which must be the
//! same on every machine and in every version that does not say otherwise (`RESULTS_VERSION`).

mod support;

use std::fmt::Write;
use std::io::Read;

use igraph::digest::Digest;
use igraph::image::ImageSource;
use igraph::platform::Platform;
use igraph::registry::OciLayout;
use support::daemonless::Daemonless;

/// The layer below: what the step changes, hides and links to.
fn base_layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |path: &str, kind: tar::EntryType, mode: u32, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        header.set_mtime(300_000_000);
        tar.append_data(&mut header, path, content).unwrap();
    };
    put("below", tar::EntryType::Directory, 0o755, b"");
    for name in ["file", "gone", "renamed", "same"] {
        put(&format!("below/{name}"), tar::EntryType::Regular, 0o644, name.as_bytes());
    }
    put("below/emptied", tar::EntryType::Directory, 0o755, b"");
    put("below/emptied/a", tar::EntryType::Regular, 0o644, b"a");
    put("below/emptied/b", tar::EntryType::Regular, 0o644, b"b");
    put("below/turned", tar::EntryType::Directory, 0o755, b"");
    put("below/turned/in", tar::EntryType::Regular, 0o644, b"in");
    tar.into_inner().unwrap()
}

/// The script is read from the context, so that it is no argument.
const STEP: &str = r#"set -eu
mkdir /new && cd /new
echo capable > capable && chmod 755 capable && setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 capable
echo attributed > attributed && setfattr -n user.second -v two attributed && setfattr -n user.first -v 0x0a3d00 attributed
mknod zero c 1 5 && mknod large b 259 70000 && mkfifo -m 620 pipe
truncate -s 3000000 sparse && printf middle | dd of=sparse bs=1 seek=1500000 conv=notrunc status=none && truncate -s 100000 hole
echo linked > linked && ln linked twin && mkdir deep && ln linked deep/third && ln -s ../linked deep/soft && ln deep/soft deep/soft-twin
echo set > setuid && chown 5:6 setuid && chmod 6711 setuid && mkdir sticky && chmod 1777 sticky
echo owned > owned && chown 3000000:4000000 owned
echo old > old && touch -d @1 old && echo future > future && touch -d @4000000000 future
long=$(printf 'n%.0s' 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0)
mkdir -p $long/$long/$long/$long && echo x > $long/$long/$long/$long/name && ln -s $long$long$long$long$long to-long
echo odd > "$(printf 'odd \377\nname')"
ln /below/file /below/second
rm /below/gone && mv /below/renamed /below/named && cat /below/same > /below/.copy && rm /below/.copy && : >> /below/same
rm -r /below/emptied && mkdir /below/emptied && echo new > /below/emptied/new
rm -r /below/turned && echo file > /below/turned
"#;

/// Each header as it stands in the tar, PAX records before what they belong to.
fn entries(tar: &[u8]) -> String {
    let mut text = String::new();
    for entry in tar::Archive::new(tar).entries().unwrap().raw(true) {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let shown = |bytes: &[u8]| bytes.escape_ascii().to_string();
        let numbers = (header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap());
        let kind = char::from(header.entry_type().as_byte());
        write!(text, "{kind} {:o} {}:{} @{} {}", numbers.0, numbers.1, numbers.2, numbers.3, shown(&header.path_bytes())).unwrap();
        match header.entry_type() {
            tar::EntryType::Link | tar::EntryType::Symlink => write!(text, " -> {}", shown(&header.link_name_bytes().unwrap())),
            tar::EntryType::Char | tar::EntryType::Block => {
                write!(text, " {} {}", header.device_major().unwrap().unwrap(), header.device_minor().unwrap().unwrap())
            }
            _ if content.len() <= 400 => write!(text, " {}", shown(&content)),
            _ => write!(text, " {} bytes {}", content.len(), Digest::of(&content).short()),
        }
        .unwrap();
        text.push('\n');
    }
    text
}

#[test]
fn everything_that_a_file_can_be() {
    let Some(world) = Daemonless::new("everything_that_a_file_can_be") else { return };
    world.write("w/images/base/below.tar", base_layer());
    let rules = "Package(rules: [Base(name: \"shell\", provides: [\"shell:1\"], from: Rootfs(\"shell.tar\")),\n\
                 Base(name: \"below\", provides: [\"below:1\"], from: Rootfs(\"below.tar\"))])\n";
    world.write("w/images/base/BUILD.ron", rules).write("w/images/app/step", STEP);
    let programs = support::RootfsImage::with_shell(&["setfattr", "mknod", "mkfifo", "truncate", "dd", "ln", "chown"], &[]);
    world.write("w/images/base/shell.tar", &programs.layer_bytes()[0]);
    let dockerfile = "FROM shell:1\nCOPY --from=below:1 / /\nRUN --mount=source=step,target=/tmp/step sh /tmp/step\n";
    world.write("w/images/app/Dockerfile", dockerfile);
    world.igraph("build //app:1").with(0);
    world.igraph("export //app:1 oci:../out").with(0);
    let layout = OciLayout::open(&world.path("out"), &Platform::host()).unwrap();
    let mut tars = Vec::new();
    for (index, layer) in layout.layers().iter().enumerate().skip(1) {
        let mut tar = Vec::new();
        flate2::read::MultiGzDecoder::new(layout.open_layer(index).unwrap()).read_to_end(&mut tar).unwrap();
        assert_eq!(Digest::of(&tar), layer.diff_id);
        tars.push(format!("{}\n{}", layer.diff_id, entries(&tar)));
    }
    insta::assert_snapshot!(tars.join("\n"));
}

/// What would say something else to whoever unpacks the layer ends the step.
#[test]
fn names_that_hide_others_in_a_layer_end_the_step() {
    let Some(world) = Daemonless::new("names_that_hide_others") else { return };
    for step in ["RUN echo > /tmp/.wh.x", "RUN mkdir -p /etc/.wh..wh..opq"] {
        world.write("w/images/app/Dockerfile", format!("FROM shell:1\n{step}\n"));
        world
            .igraph("build //app:1")
            .with(1)
            .says("can't be in an image: a name that begins with `.wh.`")
            .says("(images/app/Dockerfile:2)");
    }
    // one that is gone when the step ends is none
    world.write("w/images/app/Dockerfile", "FROM shell:1\nRUN echo > /tmp/.wh.x && rm /tmp/.wh.x\n");
    world.igraph("build //app:1").with(0);
}
