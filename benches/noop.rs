//! What it costs to find out that nothing has to be done: `igraph test //...` against reading the same folders and times with two
//! threads, and against `ninja` over the same files. Whole processes, alternated, in one run; medians. Knows the command line only.
//!
//! `cargo bench --bench noop -- [--sizes 100,1000,5000] [--rounds 15]`

#![expect(clippy::print_stdout, reason = "the numbers are what this program is for")]

mod catalogue;
mod measure;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use catalogue::Catalogue;
use measure::{Cost, median, medians, ratio, run};

/// Hidden: the baseline, in a process of its own.
const STAT: &str = "__stat";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [verb, list] = &arguments[..]
        && verb == STAT
    {
        return match stat(Path::new(list)) {
            Ok(files) if files > 0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        };
    }
    match Options::parse(&arguments).and_then(|options| measure(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("noop: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    sizes: Vec<usize>,
    rounds: usize,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { sizes: vec![100, 1000, 5000], rounds: 15 };
        // `--bench` is what cargo itself adds
        let mut rest = arguments.iter().filter(|argument| *argument != "--bench");
        while let Some(flag) = rest.next() {
            let value = rest.next().map_or("", String::as_str);
            let numbers: Result<Vec<usize>, _> = value.split(',').map(str::parse).collect();
            match (flag.as_str(), numbers.as_deref()) {
                ("--sizes", Ok([_, ..])) => options.sizes = numbers.unwrap_or_default(),
                ("--rounds", Ok([rounds])) if *rounds > 0 => options.rounds = *rounds,
                _ => return Err(format!("`{flag} {value}`: there is `--sizes N,N…` and `--rounds N`")),
            }
        }
        Ok(options)
    }
}

/// Opens each listed folder, and asks for the times of each entry: half of the folders on each of two threads.
fn stat(list: &Path) -> io::Result<usize> {
    let text = fs::read_to_string(list)?;
    let folders: Vec<&str> = text.lines().collect();
    let (left, right) = folders.split_at(folders.len() / 2);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| stat_folders(right));
        let files = stat_folders(left)?;
        Ok(files + other.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?)
    })
}

fn stat_folders(folders: &[&str]) -> io::Result<usize> {
    let mut files = 0;
    for folder in folders {
        for entry in fs::read_dir(folder)? {
            files += usize::from(entry?.metadata()?.is_file());
        }
    }
    Ok(files)
}

/// A generated workspace and how each program is run on it.
struct World {
    catalogue: Catalogue,
    folders: PathBuf,
    calls: PathBuf,
}

impl World {
    fn new(root: &Path, images: usize) -> io::Result<Self> {
        if root.exists() {
            fs::remove_dir_all(root)?;
        }
        let catalogue = Catalogue::write(&root.join("workspace"), images)?;
        let folders = root.join("folders");
        let mut list = File::create(&folders)?;
        for folder in catalogue.contexts.iter().chain(&catalogue.tests) {
            writeln!(list, "{}", catalogue.root.join(folder).display())?;
        }
        Ok(Self { catalogue, folders, calls: root.join("engine-calls") })
    }

    fn stat(&self) -> Result<Cost, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        run(Command::new(program).arg(STAT).arg(&self.folders))
    }

    fn ninja(&self) -> Result<Cost, String> {
        run(Command::new("ninja").arg("-C").arg(&self.catalogue.root)).map_err(|error| format!("{error}\nhint: scripts/setup test"))
    }

    /// Runs it, and returns the time stamps of the engine calls that it made too.
    fn igraph(&self) -> Result<(Cost, Vec<u128>), String> {
        match fs::remove_file(&self.calls) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.to_string()),
            _ => {}
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_igraph"));
        command.arg("-C").arg(&self.catalogue.root).args(["test", "//...", "--engine", "fake"]);
        command.env("IGRAPH_TEST_ENGINE", "fake").env("IGRAPH_FAKE_LOG", &self.calls);
        let cost = run(&mut command)?;
        let text = fs::read_to_string(&self.calls).unwrap_or_default();
        let stamp = |line: &str| line.split_whitespace().next().and_then(|word| word.parse::<u128>().ok());
        let calls: Result<Vec<_>, _> =
            text.lines().map(|line| stamp(line).ok_or_else(|| format!("engine call without a time: `{line}`"))).collect();
        Ok((cost, calls?))
    }

    /// Changes what one Dockerfile says.
    fn edit(&self, image: usize, round: usize) -> io::Result<()> {
        let path = self.catalogue.root.join(&self.catalogue.contexts[image]).join("Dockerfile");
        writeln!(File::options().append(true).open(path)?, "LABEL edited={round}")
    }
}

/// Nanoseconds of the clock that the fake engine's stamps are of.
fn monotonic() -> u128 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the place outlives the call; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    u128::from(now.tv_sec.unsigned_abs()) * 1_000_000_000 + u128::from(now.tv_nsec.unsigned_abs())
}

fn row(name: &str, cost: Cost, base: Cost) {
    println!(
        "  {name:<28} {:>8.1} ms {:>8.1} CPU ms {:>6.1} MiB   {:>5.2}× wall {:>5.2}× CPU of ninja",
        cost.wall.as_secs_f64() * 1e3,
        cost.cpu.as_secs_f64() * 1e3,
        cost.peak_kib as f64 / 1024.0,
        ratio(cost.wall, base.wall),
        ratio(cost.cpu, base.cpu),
    );
}

fn measure(options: &Options) -> Result<(), String> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("noop");
    let mut smaller: Option<(usize, Cost)> = None;
    for &images in &options.sizes {
        let start = Instant::now();
        let world = World::new(&home.join(images.to_string()), images).map_err(|error| error.to_string())?;
        println!("\n{images} images, {images} tests, {} context files", 4 * images + 2 * world.catalogue.tests.len());
        let generated = start.elapsed();
        world.ninja()?;
        let built = start.elapsed();
        let first = world.igraph();
        println!(
            "  (written in {:.1} s; first runs: ninja {:.1} s, igraph {:.1} s)",
            generated.as_secs_f64(),
            (built - generated).as_secs_f64(),
            (start.elapsed() - built).as_secs_f64()
        );

        let (mut stats, mut ninjas, mut igraphs) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            stats.push(world.stat()?);
            ninjas.push(world.ninja()?);
            if first.is_ok() {
                let (cost, calls) = world.igraph()?;
                if !calls.is_empty() {
                    return Err(format!("a run with nothing to do called the engine {} times", calls.len()));
                }
                igraphs.push(cost);
            }
        }
        let ninja = medians(&ninjas);
        row("folders and times, 2 threads", medians(&stats), ninja);
        row("ninja, nothing to do", ninja, ninja);
        first?;
        let igraph = medians(&igraphs);
        row("igraph, nothing to do", igraph, ninja);
        if let Some((before, cost)) = smaller {
            println!(
                "  growth from {before} to {images} images: {:.2}× wall, {:.2}× CPU",
                ratio(igraph.wall, cost.wall),
                ratio(igraph.cpu, cost.cpu)
            );
        }
        smaller = Some((images, igraph));

        let mut delays = Vec::new();
        for round in 0..options.rounds {
            world.edit(round * images / options.rounds, round).map_err(|error| error.to_string())?;
            let start = monotonic();
            let (_, calls) = world.igraph()?;
            let first = calls.first().ok_or("an edited Dockerfile led to no engine call")?;
            delays.push(first - start);
        }
        println!("  one Dockerfile edited: first engine call after {:.1} ms", median(delays) as f64 / 1e6);
    }
    Ok(())
}
