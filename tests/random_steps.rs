//! What a test sees of an image is what leaves it: random changes of files in several steps, several images in one store, so that they
//! share layers; what lies in the image here must be what lies in it where only its tars came. IGRAPH_STEPS images (CI: 24), IGRAPH_SEED.
#![expect(clippy::print_stdout, reason = "a campaign tells what it met")]

mod support;

use std::fmt::Write;

use support::daemonless::Daemonless;

/// Paths three folders deep, of three names, so that steps meet each other's.
fn path(random: &mut fastrand::Rng) -> String {
    (0..random.usize(1..=3)).fold("/d".to_owned(), |path, _| format!("{path}/{}", random.choice(["a", "b", "c"]).unwrap()))
}

/// A few commands; some fail, and that is no matter.
fn step(random: &mut fastrand::Rng) -> String {
    let mut line = "RUN mkdir -p /d".to_owned();
    for _ in 0..random.usize(2..10) {
        let (a, b, digit) = (path(random), path(random), random.u32(0..10));
        let command = match random.u32(0..13) {
            0 => format!("mkdir -p {a}"),
            1 => format!("rm -rf {a}"),
            2 => format!("rm -rf {a}; mkdir -p {a}"),
            3 => format!("echo {digit} > {a}"),
            4 => format!("mv -T {a} {b}"),
            5 => format!("ln {a} {b}"),
            6 => format!("ln -sfn ../{} {a}", digit % 3),
            7 => format!("cp -a {a} {b}"),
            8 => format!("chmod {} {a}", ["700", "755", "600", "4755"][digit as usize % 4]),
            9 => format!("touch {a}"),
            10 => format!("chown {digit}:5 {a}"),
            11 => format!("cp -aT {a} /t; rm -rf {a}; cp -aT /t {b}; rm -rf /t"),
            _ => format!("rm -rf {a}; mkdir -p {b}; echo {digit} > {b}/c"),
        };
        write!(line, "; ({command}) 2>/dev/null").unwrap();
    }
    line + "; true\n"
}

/// Folders have no size and no links, files have contents.
const LIST: &str = r#"find /d \( -type d -printf '%p d %m %U:%G\n' \) -o -printf '%p %y %m %U:%G %s %T@ %l\n'; find /d -type f -exec grep -H ^ {} + || true"#;

/// What the test of an image printed, in the order of its lines.
fn listing(world: &Daemonless, root: &str, label: &str) -> Vec<String> {
    let out = world.igraph_in(&world.path(root), &format!("log show {label}[test/list]")).with(0).out;
    let mut lines: Vec<String> = out.lines().filter(|line| line.starts_with("/d")).map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn what_is_tested_is_what_leaves() {
    let Some(world) = Daemonless::new("what_is_tested_is_what_leaves") else { return };
    let number = |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let (count, seed) = (number("IGRAPH_STEPS", 24), number("IGRAPH_SEED", 7));
    let test = format!("Test(name: \"list\", run: [r#\"{LIST}\"#])");
    let package = |rules: String| format!("Package(repository: \"r\", tests: [\":list\"], rules: [{test},\n{rules}])\n");
    let images = |named: &str| (0..count).fold(String::new(), |all, at| all + &named.replace('#', &at.to_string()) + ",\n");
    let mut random = fastrand::Rng::with_seed(seed);
    world.write("w/images/r/BUILD.ron", package(images("Image(name: \"#\", dockerfile: \"#.Dockerfile\")")));
    for at in 0..count {
        let steps: String = (0..4).map(|_| step(&mut random)).collect();
        world.write(&format!("w/images/r/{at}.Dockerfile"), format!("FROM shell:1\n{steps}"));
    }
    world.igraph("test //r:*").with(0);

    world.write("there/BUILD.ron", "Workspace(packages: \"images\", registry: \"127.0.0.1:1\", retries: 0)\n");
    let bases = images("Base(name: \"base-#\", provides: [\"came:#\"], from: OciLayout(\"layout-#\"))");
    world.write("there/images/r/BUILD.ron", package(bases + &images("Image(name: \"#\", dockerfile: \"#.Dockerfile\")")));
    for at in 0..count {
        world.write(&format!("there/images/r/{at}.Dockerfile"), format!("FROM came:{at}\n"));
        world.igraph(&format!("export //r:{at} oci:../there/images/r/layout-{at}")).with(0);
    }
    world.igraph_in(&world.path("there"), "test //r:*").with(0);
    let mut lines = 0;
    for at in 0..count {
        let label = format!("//r:{at}");
        let here = listing(&world, "w", &label);
        let steps = std::fs::read_to_string(world.path(&format!("w/images/r/{at}.Dockerfile"))).unwrap();
        assert_eq!(here, listing(&world, "there", &label), "seed {seed}, {label}:\n{steps}");
        lines += here.len();
    }
    println!("{count} images, {lines} lines of files, seed {seed}");
    assert!(lines as u64 > 3 * count, "the steps make next to nothing");
}
