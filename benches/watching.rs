//! What `igraph test --watch` costs: how long it is from an edit of one file until the engine hears of it, what it takes when it is left
//! alone, and its memory. Knows the command line only.
//!
//! `cargo bench --bench watching -- [--sizes 100,5000] [--rounds 15] [--idle 10]`

#![expect(clippy::print_stdout, reason = "the numbers are what this program is for")]

mod catalogue;
mod measure;
mod watched;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use catalogue::Catalogue;
use measure::{Cost, median, medians, ratio, run};
use watched::Watching;

/// How long igraph waits for a burst of changes to end.
const DEBOUNCE: Duration = Duration::from_millis(50);

/// What it does after a run is no part of the next edit.
const BETWEEN: Duration = Duration::from_secs(1);

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match Options::parse(&arguments).and_then(|options| measure(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("watching: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    sizes: Vec<usize>,
    rounds: usize,
    /// Seconds for which it is left alone.
    idle: u64,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self> {
        let mut options = Self { sizes: vec![100, 5000], rounds: 15, idle: 10 };
        for pair in arguments.chunks(2) {
            let numbers: Option<Vec<usize>> = pair.get(1).and_then(|text| text.split(',').map(|number| number.parse().ok()).collect());
            match (pair[0].as_str(), numbers.as_deref()) {
                ("--sizes", Some([_, ..])) => options.sizes = numbers.unwrap_or_default(),
                ("--rounds", Some([number])) if *number > 0 => options.rounds = *number,
                ("--idle", Some([number])) => options.idle = *number as u64,
                _ => return Err(format!("`{}`: there is `--sizes N,N…`, `--rounds N` and `--idle SECONDS`", pair.join(" "))),
            }
        }
        Ok(options)
    }
}

struct World {
    catalogue: Catalogue,
    calls: PathBuf,
}

impl World {
    fn new(root: &Path, images: usize) -> io::Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        Ok(Self { catalogue: Catalogue::write(&root.join("workspace"), images)?, calls: root.join("engine-calls") })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_igraph"));
        command.arg("-C").arg(&self.catalogue.root).args(arguments).args(["--engine", "fake"]);
        command.env("IGRAPH_TEST_ENGINE", "fake").env("IGRAPH_FAKE_LOG", &self.calls);
        command
    }

    /// Changes a file of one image's context, and returns how long it was until the engine heard of it.
    fn edit(&self, watching: &Watching, image: usize, file: &str, round: usize) -> Result<Duration> {
        let fail = |error: io::Error| error.to_string();
        let path = self.catalogue.root.join(&self.catalogue.contexts[image]).join(file);
        // the engine appends to it, and has it open
        File::options().create(true).write(true).truncate(true).open(&self.calls).map_err(fail)?;
        let start = monotonic();
        File::options().append(true).open(path).and_then(|mut file| writeln!(file, "LABEL edited={round}")).map_err(fail)?;
        watching.until("Summary")?;
        let calls = fs::read_to_string(&self.calls).map_err(fail)?;
        let first = calls.split_whitespace().next().and_then(|stamp| stamp.parse::<u64>().ok());
        let first = first.ok_or("an edit led to no engine call")?;
        Ok(Duration::from_nanos(first.saturating_sub(start)))
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

fn measure(options: &Options) -> Result<()> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("watching");
    for &images in &options.sizes {
        let world = World::new(&home.join(images.to_string()), images).map_err(|error| error.to_string())?;
        println!("\n{images} images, {images} tests, {} packages", world.catalogue.tests.len());
        let watching = Watching::start(&mut world.command(&["test", "//...", "--watch"]))?;
        watching.until("watching")?;
        let (now, peak) = watching.memory();
        println!("  {:<44} {now:>9.1} MiB, {peak:.1} at most", "memory when it has built and tested all first");
        drop(watching);
        let plans: Result<Vec<Cost>> = (0..3).map(|_| run(&mut world.command(&["test", "//...", "-n"]))).collect();
        let plan = medians(&plans?);
        let peak = plan.peak_kib as f64 / 1024.0;
        println!(
            "  {:<44} {:>9.1} ms {:>9.1} CPU ms {peak:>7.1} MiB",
            "a process of its own that looks at everything",
            millis(plan.wall),
            millis(plan.cpu)
        );
        let watching = Watching::start(&mut world.command(&["test", "//...", "--watch"]))?;
        watching.until("watching")?;
        let (now, peak) = watching.memory();
        println!("  {:<44} {now:>9.1} MiB, {peak:.1} at most", "memory when it begins to wait");
        let before = watching.cpu();
        std::thread::sleep(Duration::from_secs(options.idle));
        let spent = watching.cpu().saturating_sub(before);
        println!("  {:<44} {:>9.1} CPU ms in {} s", "left alone", millis(spent), options.idle);
        for (what, file) in [("a Dockerfile edited: first engine call", "Dockerfile"), ("a file it copies edited", "npmrc")] {
            let mut delays = Vec::new();
            let before = watching.cpu();
            for round in 0..options.rounds {
                delays.push(world.edit(&watching, round * images / options.rounds, file, round)?);
                std::thread::sleep(BETWEEN);
            }
            delays.sort_unstable();
            let (cpu, delay) = ((watching.cpu() - before) / options.rounds as u32, median(delays.iter().copied()));
            println!(
                "  {what:<44} {:>9.1} ms {:>9.2}× the debounce; {:.1} to {:.1}; {:.1} CPU ms",
                millis(delay),
                ratio(delay, DEBOUNCE),
                millis(delays[0]),
                millis(delays[delays.len() - 1]),
                millis(cpu)
            );
        }
        let (now, peak) = watching.memory();
        println!("  {:<44} {now:>9.1} MiB, {peak:.1} at most", "memory after that");
    }
    Ok(())
}
