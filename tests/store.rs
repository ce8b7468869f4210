//! The embedded engine's store: what `gc` keeps and removes, several igraphs at once, and that nothing but whole images is believed after
//! kills, power cuts (unsynced writes dropped), damage and a full disk. IGRAPH_STORE_ROUNDS is the number of kills and cuts.

#![expect(clippy::print_stdout, reason = "a campaign tells what it met")]

mod support;

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::daemonless::{Daemonless, ended};
use support::skip;

fn rounds(usual: u32) -> u32 {
    std::env::var("IGRAPH_STORE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// All paths below a folder, with their sizes.
fn listing(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut pending = vec![folder.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in std::fs::read_dir(next).unwrap().map(Result::unwrap) {
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                pending.push(entry.path());
            }
            found.insert(entry.path(), metadata.len());
        }
    }
    found
}

fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

fn store(world: &Daemonless) -> PathBuf {
    world.path("w/igraph-out/store")
}

#[test]
fn gc_keeps_what_inputs_and_names_need() {
    let Some(world) = Daemonless::new("gc_keeps") else { return };
    let build = |text: &str| {
        world.write("w/images/app/greeting", text);
        world.igraph("test //app:1").with(0)
    };
    for number in 0..8 {
        build(&format!("{number}\n"));
    }
    // the oldest result is that of the present inputs, and the second oldest has a name
    build("1\n");
    world.igraph("tag //app:1").with(0);
    build("0\n").says("nothing to do");
    let before = listing(&world.path("w/igraph-out/store"));
    world.igraph("gc -n --max-size 0").with(0).says("would remove").says("more than --max-size");
    assert_eq!(listing(&store(&world)), before, "a dry run changes nothing");
    let images = count(&store(&world).join("images"));
    world.igraph("gc").with(0).says("old results");
    assert!(count(&store(&world).join("images")) < images);
    for text in ["0\n", "1\n"] {
        build(text).says("nothing to do");
        world.igraph("export //app:1 oci:../out").with(0);
    }

    // limits take from the caches alone
    assert!(count(&store(&world).join("cache")) > 0);
    world.igraph("gc --max-age 365d").with(0);
    assert!(count(&store(&world).join("cache")) > 0);
    world.igraph("gc --max-size 100GB").with(0);
    assert!(count(&store(&world).join("cache")) > 0);
    world.igraph("gc --max-size 0").with(0).says("results and names need");
    assert_eq!(count(&store(&world).join("cache")), 0);
    world.igraph("verify //app:1").with(0);
    build("2\n");
    std::thread::sleep(Duration::from_millis(2100));
    assert!(count(&store(&world).join("cache")) > 0);
    world.igraph("gc --max-age 1s").with(0);
    assert_eq!(count(&store(&world).join("cache")), 0);
    build("2\n").says("nothing to do");
    world.igraph("gc --max-size 1GB --engine docker").with(2).says("limits of the embedded engine's store");
    world.igraph("gc --max-size 1apple").with(2).says("is no size");
}

#[test]
fn folders_of_cache_mounts_are_counted_and_collected() {
    let Some(world) = Daemonless::new("folders_of_cache_mounts") else { return };
    world.write(
        "w/images/app/Dockerfile",
        "FROM shell:1\nRUN --mount=type=cache,target=/c dd if=/dev/zero of=/c/big bs=1M count=20 && touch /done\n",
    );
    world.igraph("build //app:1").with(0);
    assert_eq!(count(&store(&world).join("caches")), 2);
    world.igraph("gc --max-age 1d").with(0);
    assert_eq!(count(&store(&world).join("caches")), 2);
    world.igraph("gc --max-size 1MB").with(0);
    assert_eq!(count(&store(&world).join("caches")), 0);
}

#[test]
fn several_at_once_share_a_store() {
    let Some(world) = Daemonless::new("several_at_once") else { return };
    let roots: Vec<PathBuf> = (0..3).map(|number| world.path(&format!("w{number}"))).collect();
    for root in &roots {
        assert!(Command::new("cp").arg("-a").args([&world.path("w"), root]).status().unwrap().success());
    }
    let shared = world.path("shared");
    let running: Vec<_> = roots
        .iter()
        .map(|root| {
            let mut command = world.command_in(root, "test --show-output --no-cache -j 2 //app:1 //app:2");
            command.env("IGRAPH_STORE", &shared).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let outs: Vec<String> = running
        .into_iter()
        .map(|child| {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let mut lines: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
            lines.sort();
            lines.join("\n")
        })
        .collect();
    assert!(outs.iter().all(|out| *out == outs[0] && out.contains("//app:2\t")), "{outs:?}");

    // nobody collects while another builds
    world.write("w0/images/app/Dockerfile", "FROM shell:1\nRUN touch /here && sleep 3\n");
    let mut building = world.command_in(&roots[0], "build //app:1");
    let mut building = building.env("IGRAPH_STORE", &shared).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let mut collecting = world.command_in(&roots[1], "gc");
    collecting.env("IGRAPH_STORE", &shared);
    ended(collecting).says("is in use by another igraph");
    assert!(building.wait().unwrap().success());
    // one workspace's gc leaves what another claims
    world.write("w1/images/app/greeting", "other\n");
    for root in &roots[..2] {
        let mut collecting = world.command_in(root, "gc --max-size 0");
        collecting.env("IGRAPH_STORE", &shared);
        ended(collecting).with(0);
    }
    let mut verifying = world.command_in(&roots[2], "verify //app:2");
    verifying.env("IGRAPH_STORE", &shared);
    ended(verifying).with(0);
}

#[test]
fn damage_is_found_by_digest_and_dropped() {
    let Some(world) = Daemonless::new("damage_is_found") else { return };
    world.igraph("build //app:2").with(0);
    let id = world.id("//app:1");
    let said = listing(&store(&world)).into_keys().find(|path| path.ends_with("fs/said")).unwrap();
    std::fs::write(&said, "hellO\n").unwrap();
    world.igraph("verify //app:1").with(10).says("was damaged, and is dropped");
    world.igraph("export //app:1 oci:../out").with(10).says("`igraph build --verify //app:1` builds it again");
    world.igraph("build --verify //app:1").with(0);
    assert_eq!(world.id("//app:1"), id);
    world.igraph("verify //app:1").with(0);
    // a config that is not what its name says is no image
    let config = store(&world).join("images").join(id.0.hex());
    std::fs::write(&config, "{}").unwrap();
    world.igraph("verify //app:1").with(10).says("the engine has no image");
    world.igraph("build --verify //app:1").with(0);
    world.igraph("verify //app:1").with(0);
}

#[test]
fn what_works_here_is_found_out_anew_when_anything_differs() {
    let Some(world) = Daemonless::new("what_works_here") else { return };
    let tried = store(&world).join("tried");
    let build = |text: &str| {
        world.write("w/images/app/greeting", text);
        world.command("build //app:1")
    };
    let remembered = || std::fs::read_to_string(&tried).unwrap();
    ended(build("one\n")).with(0);
    let here = remembered();
    ended(build("two\n")).with(0);
    assert_eq!(remembered(), here);
    // another start of the machine, or another place in it
    std::fs::write(&tried, "something else").unwrap();
    ended(build("three\n")).with(0);
    assert_eq!(remembered(), here);
    let inside = build("four\n");
    let mut apart = Command::new("unshare");
    apart.arg("--mount").arg(inside.get_program()).args(inside.get_args()).current_dir(world.path("w"));
    ended(apart).with(0);
    assert_ne!(remembered(), here);
    // who looks around doesn't go by what is remembered
    drop(world.igraph("doctor"));
    assert_eq!(remembered(), here);
}

/// Held against a store that nothing ever happened to.
fn is_sound(world: &Daemonless, expected: &[(&str, String)]) {
    for (label, id) in expected {
        let out = world.igraph(&format!("build --show-output {label}")).with(0).out;
        assert!(out.contains(id), "{id} is not in {out}");
        world.igraph(&format!("verify {label}")).with(0);
    }
}

fn expected(world: &Daemonless) -> Vec<(&'static str, String)> {
    ["//app:1", "//app:2"].map(|label| (label, world.id(label).to_string())).to_vec()
}

/// A moment within a run that takes as long as the one that this one disturbs.
fn moment_within(calm: &Daemonless) -> Duration {
    let begun = Instant::now();
    calm.igraph("test //app:1 //app:2").with(0);
    begun.elapsed().mul_f64(fastrand::f64() * 0.9)
}

#[test]
fn kills_leave_it_sound() {
    let Some(world) = Daemonless::new("kills_leave_it_sound") else { return };
    let Some(calm) = Daemonless::new("kills_leave_it_sound") else { return };
    let (mut killed, rounds) = (0, rounds(4));
    for round in 0..rounds {
        for world in [&world, &calm] {
            world.write("w/images/app/greeting", format!("round {round}\n"));
        }
        let moment = moment_within(&calm);
        let mut child = world.command("test //app:1 //app:2").stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(moment);
        killed += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        if round % 3 == 2 {
            world.igraph("gc --max-age 1s").with(0);
        }
        world.igraph("test //app:1 //app:2").with(0);
        is_sound(&world, &expected(&calm));
        assert_eq!(count(&store(&world).join("work")), 0, "what a killed run left is cleared");
    }
    println!("{killed} of {rounds} runs were killed before their end");
    assert!(killed * 2 >= rounds, "{killed} of {rounds}");
}

/// A file system of its own in a file, which may lose what was not synced.
struct Disk {
    mount: PathBuf,
    image: PathBuf,
    _folder: tempfile::TempDir,
}

impl Disk {
    fn new(test: &str, megabytes: u64) -> Option<Self> {
        let folder = tempfile::Builder::new().prefix("ig-disk-").tempdir().unwrap();
        let disk = Self { mount: folder.path().join("mount"), image: folder.path().join("image"), _folder: folder };
        std::fs::create_dir(&disk.mount).unwrap();
        std::fs::File::create(&disk.image).unwrap().set_len(megabytes << 20).unwrap();
        let made = Command::new("mkfs.ext4").arg("-q").arg(&disk.image).status().is_ok_and(|status| status.success());
        if !made || !disk.mounted() {
            skip(test, "no file system can be mounted from a file here");
            return None;
        }
        Some(disk)
    }

    fn mounted(&self) -> bool {
        // nothing is written by the mere passing of time
        let mut mount = Command::new("mount");
        mount.args(["-o", "loop,commit=900"]).args([&self.image, &self.mount]);
        mount.status().is_ok_and(|status| status.success())
    }

    /// The power fails: what was not synced is gone.
    fn cut(&self) {
        const SHUTDOWN: libc::Ioctl = 0x8004_587d;
        let without_flush: u32 = 2;
        let folder = std::fs::File::open(&self.mount).unwrap();
        // SAFETY: the call reads four bytes at the pointer (EXT4_IOC_SHUTDOWN)
        let ended = unsafe { libc::ioctl(folder.as_raw_fd(), SHUTDOWN, &raw const without_flush) };
        assert_eq!(ended, 0, "{}", std::io::Error::last_os_error());
        drop(folder);
        // what a killed step has mounted of it goes a moment later, and until then it is the same dead file system
        for _ in 0..100 {
            self.unmount();
            assert!(self.mounted());
            if std::fs::write(self.mount.join("alive"), "").is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{} does not come back", self.mount.display());
    }

    fn unmount(&self) {
        for _ in 0..100 {
            if Command::new("umount").arg(&self.mount).stderr(Stdio::null()).status().unwrap().success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("{} can't be unmounted", self.mount.display());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.mount).stderr(Stdio::null()).status());
    }
}

/// igraph as after another start of the machine.
fn restarted(world: &Daemonless, boot: u32, line: &str) -> Command {
    let id = world.path("..").join("boot");
    std::fs::write(&id, format!("00000000-0000-4000-8000-{boot:012}\n")).unwrap();
    let script = "mount --bind \"$1\" /proc/sys/kernel/random/boot_id && cd \"$2\" && shift 2 && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]).arg(&id).arg(world.path("w")).arg(env!("CARGO_BIN_EXE_igraph"));
    command.args(line.split_whitespace()).stdin(Stdio::null());
    command
}

#[test]
fn power_cuts_leave_it_sound() {
    if !nix::unistd::geteuid().is_root() {
        return skip("power_cuts", "mounting needs root");
    }
    let Some(disk) = Disk::new("power_cuts", 600) else { return };
    let Some(world) = Daemonless::below("power_cuts", &disk.mount) else { return };
    let Some(calm) = Daemonless::new("power_cuts") else { return };
    // the workspace itself is on the disk
    nix::unistd::sync();
    let (mut cut, mut kept, rounds) = (0, 0, rounds(3));
    for round in 0..rounds {
        calm.write("w/images/app/greeting", format!("round {round}\n"));
        world.write("w/images/app/greeting", format!("round {round}\n"));
        std::fs::File::open(world.path("w/images/app/greeting")).unwrap().sync_all().unwrap();
        let moment = moment_within(&calm);
        let mut child = restarted(&world, 2 * round, "test //app:1 //app:2").stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(moment);
        cut += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        disk.cut();
        let first = ended(restarted(&world, 2 * round + 1, "test //app:1 //app:2"));
        kept += u32::from(first.err.contains("fresh") && !first.err.contains(" 0 fresh"));
        first.with(0);
        for (label, id) in expected(&calm) {
            let out = ended(restarted(&world, 2 * round + 1, &format!("build --show-output {label}"))).with(0).out;
            assert!(out.contains(&id), "round {round}: {id} is not in {out}");
            ended(restarted(&world, 2 * round + 1, &format!("verify {label}"))).with(0);
        }
    }
    println!("the power failed {rounds} times, {cut} times within a run; results of before were kept {kept} times");
    drop(world);
}

#[test]
fn a_full_disk_leaves_it_sound() {
    if !nix::unistd::geteuid().is_root() {
        return skip("a_full_disk", "mounting needs root");
    }
    let Some(disk) = Disk::new("a_full_disk", 160) else { return };
    let Some(world) = Daemonless::below("a_full_disk", &disk.mount) else { return };
    world.igraph("test //app:1").with(0);
    let id = world.id("//app:1");
    let small = std::fs::read_to_string(world.path("w/images/app/Dockerfile")).unwrap();
    world.write("w/images/app/Dockerfile", format!("{small}RUN dd if=/dev/zero of=/big bs=1M count=400\n"));
    let failed = world.igraph("build //app:1");
    assert!(matches!(failed.code, Some(1 | 10)) && failed.err.contains("No space left on device"), "{:?} {}", failed.code, failed.err);
    // the room is back, and what was there is whole
    world.write("w/images/app/Dockerfile", &small);
    assert_eq!(world.id("//app:1"), id);
    world.igraph("verify //app:1").with(0);
    world.igraph("gc").with(0);
    world.write("w/images/app/greeting", "more\n");
    world.igraph("test //app:1").with(0);
    // full before anything begins: what can't be written is told, and believed by nobody
    let ballast = disk.mount.join("ballast");
    drop(Command::new("dd").args(["if=/dev/zero", "bs=64K"]).arg(format!("of={}", ballast.display())).stderr(Stdio::null()).status());
    world.write("w/images/app/greeting", "");
    drop(std::fs::write(world.path("w/images/app/greeting"), "again\n"));
    let failed = world.igraph("build //app:1");
    assert_ne!(failed.code, Some(0), "{}", failed.err);
    std::fs::remove_file(&ballast).unwrap();
    world.write("w/images/app/greeting", "again\n");
    world.igraph("test //app:1").with(0);
    world.igraph("verify //app:1").with(0);
    drop(world);
}
