//! What a step can't see and can't do, and that nothing of it outlives it.

use super::places::{Place, igraph, make_workspace};
use super::support::OrdinaryUser;

const RULES: &str = r#"
    Image(name: "1", dockerfile: "one/Dockerfile", untested: "a test of the engine"),
    Image(name: "late", dockerfile: "late/Dockerfile", untested: "a test of the engine", timeout: "2s"),
"#;

/// In namespaces: each line is a wall.
const WALLS: &str = r#"FROM shell:1
RUN grep -qx 'CapEff:	00000000a80425fb' /proc/self/status && grep -qx 'CapBnd:	00000000a80425fb' /proc/self/status
RUN grep -qx 'CapAmb:	0000000000000000' /proc/self/status && grep -qx 'Seccomp:	2' /proc/self/status
RUN test "$(ls /proc | grep -c '^[0-9]')" -le 4
RUN test "$(ls -A /proc/self/fd | sort | while read fd; do printf %s $fd; done)" = 0123
RUN for path in /proc/kcore /proc/keys /proc/timer_list; do test ! -e $path || test -z "$(cat $path)" || exit 1; done
RUN for path in /proc/acpi /proc/scsi /sys/firmware; do test ! -e $path || test -z "$(ls -A $path)" || exit 1; done
RUN ! (echo x > /proc/sys/kernel/hostname) && ! (echo x > /proc/sysrq-trigger) && ! (echo x > /sys/kernel/x)
RUN ! (echo x >> /etc/hosts) && ! (echo x >> /etc/resolv.conf)
RUN ! unshare --mount true && ! unshare --user true && ! unshare --net true
RUN test "$(cd /dev && for name in *; do printf '%s ' $name; done)" = 'core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero '
RUN ! env | grep -q LEAKED
RUN test -n "$(cat < /dev/null)" && exit 1; (setsid sleep 4731 &) ; setsid sleep 4732 & sleep 0.1
RUN --network=none test "$(grep -c : /proc/net/dev)" = 1 && grep -q lo: /proc/net/dev
"#;

/// By chroot: what holds there, too.
const FENCES: &str = r#"FROM shell:1
RUN test ! -e /given && test ! -e /igraph && test ! -e /proc/self
RUN test "$(cd /dev && for name in *; do printf '%s ' $name; done)" = 'core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero '
RUN ! env | grep -q LEAKED
RUN test "$(ls -A /etc)" = "$(printf 'group\nhosts\npasswd\nresolv.conf')"
RUN (setsid sleep 4731 &) ; setsid sleep 4732 & sleep 0.1
RUN --network=none bash -c 'exec 3<>/dev/tcp/127.0.0.1/1' 2>&1 | grep -q 'Address family not supported'
RUN --mount=type=cache,target=/cache test ! -e /cache/f && echo x > /cache/f
RUN --mount=type=cache,target=/cache test -e /cache/f
RUN --mount=type=tmpfs,target=/data test -z "$(ls -A /data)"
RUN test -e /data/one && test ! -e /cache/f
"#;

const LATE: &str = "FROM shell:1\nRUN (setsid sleep 4741 &) ; setsid sleep 4742 & sleep 4743\n";

/// Says which of the sleeping processes are there.
const SLEEPERS: &str = "for file in /proc/[0-9]*/cmdline; do grep -az '^47[34]' $file 2>/dev/null; done; true";

/// The tests of this file run at once and see each other's processes: `mark`, two digits, stands for the 47 in front of every time
/// that something sleeps, so that each finds its own.
fn holds(place: &Place, walls: &str, mark: &str) {
    let marked = |text: &str| text.replace(" 47", &format!(" {mark}")).replace("^47", &format!("^{mark}"));
    make_workspace(&place.workspace(), RULES, &[("one", &marked(walls)), ("late", &marked(LATE))]);
    let sleepers = marked(SLEEPERS);
    let output =
        place.shell(&format!("export LEAKED=1; igraph build app:1 && echo built; igraph build app:late; echo code $?; {sleepers}"));
    let text = String::from_utf8_lossy(&output.stdout).replace('\0', "\n");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(text.starts_with("built\ncode 1\n"), "{text}{errors}");
    assert!(errors.contains("timed out after 2"), "{errors}");
    assert_eq!(text, "built\ncode 1\n", "something of a step still runs");
}

#[test]
fn of_a_step_of_root() {
    if let Some(root) = Place::root() {
        holds(&root, WALLS, "47");
    }
}

#[test]
fn of_a_step_of_an_ordinary_user() {
    if let Some(user) = Place::user("of_a_step_of_an_ordinary_user") {
        holds(&user, WALLS, "57");
    }
}

#[test]
fn of_a_step_in_an_ordinary_container() {
    if let Some(container) = Place::container("of_a_step_in_an_ordinary_container", &[]) {
        holds(&container, FENCES, "67");
    }
}

#[test]
fn a_loopback_that_is_not_there_is_explained() {
    let Some(container) = Place::container("a_loopback_that_is_not_there_is_explained", &[]) else { return };
    let rules = r#"
    Test(name: "deaf", run: ["exec bash -c 'exec 3<>/dev/tcp/127.0.0.1/1'"], network: "none"),
    Test(name: "other", run: ["exit 1"], network: "none"),
    Image(name: "1", dockerfile: "one/Dockerfile", tests: [":deaf"]),
    Image(name: "2", dockerfile: "two/Dockerfile", tests: [":other"]),
    Image(name: "3", dockerfile: "three/Dockerfile", untested: "a test of the engine"),
"#;
    let step = "FROM shell:1\nRUN --network=none bash -c 'exec 3<>/dev/tcp/127.0.0.1/1'\n";
    make_workspace(&container.workspace(), rules, &[("one", "FROM shell:1\n"), ("two", "FROM shell:1\n"), ("three", step)]);
    let output = container.shell("igraph test app:1 app:2 2>&1; igraph build app:3 2>&1");
    let text = String::from_utf8_lossy(&output.stdout);
    let hint = "there is no loopback either where steps run by chroot: let it have `network: \"host\"`";
    assert_eq!(text.matches(hint).count(), 2, "{text}");
}

#[test]
fn an_ssh_mount_is_refused_where_nothing_can_be_mounted() {
    let Some(container) = Place::container("an_ssh_mount_is_refused_where_nothing_can_be_mounted", &[]) else { return };
    let rules = "    Image(name: \"1\", dockerfile: \"one/Dockerfile\", untested: \"a test of the engine\"),\n";
    make_workspace(&container.workspace(), rules, &[("one", "FROM shell:1\nRUN --mount=type=ssh true\n")]);
    let output = container.shell("igraph build //...");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("an ssh mount needs namespaces, which this container does not allow"), "{errors}");
}

/// One id is not enough for an image: what is missing, and the commands that mend it.
#[test]
fn a_user_without_subordinate_ids_is_told_what_to_do() {
    let Some(user) = OrdinaryUser::new("a_user_without_subordinate_ids_is_told_what_to_do", 0) else { return };
    let user = Place::User(user);
    let rules = "    Image(name: \"1\", dockerfile: \"one/Dockerfile\", untested: \"a test of the engine\"),\n";
    make_workspace(&user.workspace(), rules, &[("one", "FROM shell:1\n")]);
    for command in ["igraph build //...", "igraph doctor"] {
        let output = user.shell(command);
        assert_eq!(output.status.code(), Some(10), "{output:?}");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(text.contains("a range for `igtest` in /etc/subuid; a range for `igtest` in /etc/subgid"), "{text}");
        for mends in ["sudo usermod --add-subuids 100000-165535 igtest", "sudo usermod --add-subgids 100000-165535 igtest"] {
            assert!(text.contains(mends), "{text}");
        }
    }
}

/// Another user's layers have other owners: they are not taken for one's own.
#[test]
fn a_store_of_another_user_is_refused() {
    let Some(user) = Place::user("a_store_of_another_user_is_refused") else { return };
    make_workspace(&user.workspace(), RULES, &[("one", "FROM shell:1\nRUN true\n"), ("late", LATE)]);
    let built = user.shell("igraph build app:1");
    assert!(built.status.success(), "{built:?}");
    let mut root = std::process::Command::new(igraph());
    root.args(["build", "--force", "app:1"]).current_dir(user.workspace());
    let output = root.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && errors.contains("belongs to another user"), "{errors}");
}

/// What is mounted in a store is nobody's to remove, whoever mounted it.
#[test]
fn cleaning_never_crosses_a_mount() {
    let Some(user) = Place::user("cleaning_never_crosses_a_mount") else { return };
    make_workspace(&user.workspace(), RULES, &[("one", "FROM shell:1\nRUN echo x > /x\n"), ("late", LATE)]);
    // a folder of the same file system, so that only the table of mounts tells
    let script = r#"igraph build app:1 || exit 1
mkdir precious && echo kept > precious/file && mkdir -p igraph-out/store/work/left/inner
igraph __igraph-user-namespace /usr/bin/unshare --mount sh -c '
    mount --bind precious igraph-out/store/work/left/inner; igraph gc; igraph clean'
cat precious/file"#;
    let output = user.shell(script);
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(errors.contains("work/left/inner` is a mount point: unmount it first"), "{text}{errors}");
    assert!(text.contains("kept"), "{text}{errors}");
}
