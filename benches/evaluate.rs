//! What it costs to look at everything, where the short way to "nothing to do" does not hold: all known, no file digests known, one
//! Dockerfile edited, a base moved; and how all of it grows up to 50,000 images. Whole processes,
//! medians. Knows the command line only.
//!
//! `cargo bench --bench evaluate -- [--sizes 100,1000,5000,50000] [--rounds 7]`

#![expect(clippy::print_stdout, reason = "the numbers are what this program is for")]

mod catalogue;
mod measure;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use catalogue::Catalogue;
use measure::{Cost, median, medians, ratio, run};

/// Hidden: the baseline, in a process of its own.
const HASH: &str = "__hash";

/// A no-op is trusted only when nothing has changed for a moment.
const SETTLED: Duration = Duration::from_millis(50);

/// The base that moves.
const BASE: &str = "images/base/debian-jessie.tar";

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [verb, list] = &arguments[..]
        && verb == HASH
    {
        return match hash(Path::new(list)) {
            Ok(bytes) if bytes > 0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        };
    }
    match Options::parse(&arguments).and_then(|options| measure(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("evaluate: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    sizes: Vec<usize>,
    rounds: usize,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { sizes: vec![100, 1000, 5000, 50_000], rounds: 7 };
        for pair in arguments.chunks(2) {
            let numbers: Option<Vec<usize>> = pair.get(1).and_then(|text| text.split(',').map(|number| number.parse().ok()).collect());
            match (pair[0].as_str(), numbers.as_deref()) {
                ("--sizes", Some([_, ..])) => options.sizes = numbers.unwrap_or_default(),
                ("--rounds", Some([number])) if *number > 0 => options.rounds = *number,
                _ => return Err(format!("`{}`: there is `--sizes N,N…` and `--rounds N`", pair.join(" "))),
            }
        }
        Ok(options)
    }
}

/// Reads and hashes (BLAKE3) each listed file: half of them on each of two threads.
fn hash(list: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(list)?;
    let files: Vec<&str> = text.lines().collect();
    let (left, right) = files.split_at(files.len() / 2);
    let hash = |files: &[&str]| -> io::Result<u64> {
        let mut all = 0;
        for file in files {
            let bytes = fs::read(file)?;
            all += bytes.len() as u64 + u64::from(blake3::hash(&bytes).as_bytes()[0]);
        }
        Ok(all)
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| hash(right));
        let bytes: u64 = hash(left)?;
        Ok(bytes + other.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?)
    })
}

struct World {
    catalogue: Catalogue,
    files: PathBuf,
    calls: PathBuf,
}

impl World {
    fn new(root: &Path, images: usize) -> io::Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        let catalogue = Catalogue::write(&root.join("workspace"), images)?;
        let files = root.join("files");
        let mut list = File::create(&files)?;
        for folder in catalogue.contexts.iter().chain(&catalogue.tests) {
            for entry in fs::read_dir(catalogue.root.join(folder))? {
                writeln!(list, "{}", entry?.path().display())?;
            }
        }
        Ok(Self { catalogue, files, calls: root.join("engine-calls") })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_igraph"));
        command.arg("-C").arg(&self.catalogue.root).args(arguments).args(["--engine", "fake"]);
        command.env("IGRAPH_TEST_ENGINE", "fake").env("IGRAPH_FAKE_LOG", &self.calls);
        command
    }

    fn igraph(&self, arguments: &[&str]) -> Result<Cost> {
        run(&mut self.command(arguments))
    }

    /// Looks at everything, runs nothing.
    fn plan(&self) -> Result<Cost> {
        self.igraph(&["test", "//...", "-n"])
    }

    /// Runs something as if igraph had never been here.
    fn without_records<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let fail = |error: io::Error| error.to_string();
        let (out, aside) = (self.catalogue.root.join("igraph-out"), self.files.with_file_name("igraph-out-aside"));
        fs::rename(&out, &aside).map_err(fail)?;
        let done = run();
        if out.exists() {
            fs::remove_dir_all(&out).map_err(fail)?;
        }
        fs::rename(&aside, &out).map_err(fail)?;
        done
    }

    fn hash(&self) -> Result<Cost> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        run(Command::new(program).arg(HASH).arg(&self.files))
    }

    /// Changes what one Dockerfile says, has that run, and returns how long it was until the engine heard of it.
    fn edit<T>(&self, image: usize, round: usize, run: impl FnOnce() -> Result<T>) -> Result<(Duration, T)> {
        let fail = |error: io::Error| error.to_string();
        let path = self.catalogue.root.join(&self.catalogue.contexts[image]).join("Dockerfile");
        // the engine appends to it, and may have it open
        File::options().create(true).write(true).truncate(true).open(&self.calls).map_err(fail)?;
        let start = monotonic();
        File::options().append(true).open(path).and_then(|mut file| writeln!(file, "LABEL edited={round}")).map_err(fail)?;
        let done = run()?;
        let calls = fs::read_to_string(&self.calls).map_err(fail)?;
        let first = calls.split_whitespace().next().and_then(|stamp| stamp.parse::<u64>().ok());
        let first = first.ok_or("an edited Dockerfile led to no engine call")?;
        Ok((Duration::from_nanos(first.saturating_sub(start)), done))
    }

    /// Gives a base of one package another content, and has one image built on it: all others of the package stand on a base that moved.
    fn move_base(&self, round: usize) -> Result<()> {
        let mut header = tar::Header::new_ustar();
        let content = format!("ID=moved\nROUND={round}\n");
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        let mut archive = tar::Builder::new(Vec::new());
        archive.append_data(&mut header, "etc/os-release", content.as_bytes()).map_err(|error| error.to_string())?;
        let bytes = archive.into_inner().map_err(|error| error.to_string())?;
        fs::write(self.catalogue.root.join(BASE), bytes).map_err(|error| error.to_string())?;
        self.igraph(&["build", "//debian/jessie:0.0.0"]).map(drop)
    }
}

/// Nanoseconds of the clock that the fake engine's stamps are of.
fn monotonic() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place outlives the call; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn row(name: &str, cost: Cost) {
    println!("  {name:<44} {:>9.1} ms {:>9.1} CPU ms {:>7.1} MiB", millis(cost.wall), millis(cost.cpu), cost.peak_kib as f64 / 1024.0);
}

/// The power of the size that a time grows with.
fn exponent(small: (usize, Duration), large: (usize, Duration)) -> f64 {
    ratio(large.1, small.1).ln() / (large.0 as f64 / small.0 as f64).ln()
}

fn measure(options: &Options) -> Result<()> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("evaluate");
    let mut all: Vec<(usize, Cost, Cost)> = Vec::new();
    for &images in &options.sizes {
        let rounds = if images > 10_000 { options.rounds.min(3) } else { options.rounds };
        let world = World::new(&home.join(images.to_string()), images).map_err(|error| error.to_string())?;
        println!("\n{images} images, {images} tests, {} packages", world.catalogue.tests.len());
        let first = world.igraph(&["test", "//..."])?;
        std::thread::sleep(SETTLED);
        row("everything built and tested (nothing real)", first);
        world.igraph(&["test", "//..."])?;

        let (mut nothing, mut plans, mut hashes, mut unknown, mut bare) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let digests = world.catalogue.root.join("igraph-out/file-digests");
        let kept = fs::read(&digests).map_err(|error| format!("{}: {error}", digests.display()))?;
        for _ in 0..rounds {
            nothing.push(world.igraph(&["test", "//..."])?);
            plans.push(world.plan()?);
            hashes.push(world.hash()?);
            fs::remove_file(&digests).map_err(|error| error.to_string())?;
            unknown.push(world.plan()?);
            fs::write(&digests, &kept).map_err(|error| error.to_string())?;
            bare.push(world.without_records(|| world.plan())?);
        }
        let (nothing, plan, hash, unknown) = (medians(&nothing), medians(&plans), medians(&hashes), medians(&unknown));
        row("nothing to do, by the witness", nothing);
        row("nothing to do, everything looked at", plan);
        row("reading and hashing all, two threads", hash);
        row("nothing to do, no file digest known", unknown);
        println!(
            "  {:<44} {:>8.2}× wall {:>8.2}× CPU",
            "  against reading and hashing",
            ratio(unknown.wall, hash.wall),
            ratio(unknown.cpu, hash.cpu)
        );
        row("everything to do, nothing known at all", medians(&bare));

        let mut edits = Vec::new();
        for round in 0..rounds {
            edits.push(world.edit(round * images / rounds, round, || world.igraph(&["test", "//..."]))?);
        }
        let costs: Vec<Cost> = edits.iter().map(|(_, cost)| *cost).collect();
        row("one Dockerfile edited, the whole run", medians(&costs));
        println!("  {:<44} {:>9.1} ms", "  first engine call after", millis(median(edits.iter().map(|(delay, _)| *delay))));

        let base = world.catalogue.root.join(BASE);
        let original = fs::read(&base).map_err(|error| error.to_string())?;
        let (mut moved, mut alone, mut more) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            fs::write(&base, &original).map_err(|error| error.to_string())?;
            std::thread::sleep(SETTLED);
            let before = world.plan()?;
            world.move_base(round)?;
            let after = world.plan()?;
            more.push(after.wall.saturating_sub(before.wall));
            moved.push(after);
            alone.push(world.igraph(&["test", "//debian/jessie:", "-n"])?);
        }
        let dependants = world.catalogue.contexts.iter().filter(|context| context.starts_with("images/debian/jessie/")).count();
        row(&format!("a base of {dependants} images moved: looking at all"), medians(&moved));
        println!("  {:<44} {:>9.1} ms", "  more than when it has not", millis(median(more)));
        row("  looking at those alone, a process", medians(&alone));
        all.push((images, nothing, plan));
    }
    if let [first, .., last] = &all[..] {
        println!(
            "\ngrowth from {} to {} images: n^{:.2} by the witness, n^{:.2} looking at everything",
            first.0,
            last.0,
            exponent((first.0, first.1.wall), (last.0, last.1.wall)),
            exponent((first.0, first.2.wall), (last.0, last.2.wall))
        );
    }
    Ok(())
}
