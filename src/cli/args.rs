//! The command line as a type: every command, every flag, and its help. Knows no way to carry them out.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Parser, Subcommand, ValueEnum};

use super::values::{
    Destination, EngineChoice, ExportTarget, PathList, RegistryTarget, RunSelector, StandIn, parse_count, parse_jobs, parse_size,
    parse_timeout,
};

/// Builds, tests, aliases and pushes a catalogue of container images: only what changed, and exactly what was tested.
///
/// The catalogue is declared in BUILD.ron files. `build`, `test`, `tag` and `push` each bring all that comes before
/// them, so nothing is ever named untested; what has not changed is not done again.
#[derive(Clone, Debug, Parser)]
#[command(name = "igraph", version, disable_help_subcommand = true, max_term_width = 100)]
#[command(after_help = "`igraph help COMMAND` tells all of a command. `igraph help TOPIC` explains: labels, patterns, build-files, keys, \
                        reasons, retries, watch, exit-codes, bases, lock, names, environment, engines, state, ci.")]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Group)]
#[command(next_help_heading = "Everywhere")]
pub struct Global {
    /// Runs as if igraph had been started in DIR
    #[arg(short = 'C', value_name = "DIR", global = true)]
    pub directory: Option<PathBuf>,

    /// Says more: cached passes, every reason, every skipped node
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,

    /// Says less: failures only
    #[arg(short, long, global = true)]
    pub quiet: bool,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Builds images
    ///
    /// Builds the images that the patterns match, and before them the bases and images they stand on. An image whose
    /// inputs have not changed is not built again.
    Build(Watched),

    /// Builds images and runs their tests
    ///
    /// Builds as `build` does, then runs the tests of the images matched and of the workspace images below them, each in
    /// a throwaway root. A pass is kept for the very image it was seen on, and not run again for it.
    Test(Watched),

    /// Builds, tests and gives local names
    ///
    /// Builds and tests as `test` does, then points the names of the images matched, their own and their aliases, at the
    /// tested images in the local engine. An image whose tests did not all pass keeps its old names.
    Tag(Verb),

    /// Builds, tests and pushes to registries
    ///
    /// Builds and tests as `test` does, then uploads the tested images and points their names in the registry at them.
    /// All names of an image are one manifest. Credentials are proven before the first build; a name that is already
    /// right is not written.
    Push(Verb),

    /// Lists images, steps, what is stale, what a change affects
    ///
    /// Lists the nodes that the patterns match, one label a line. Runs nothing and asks no engine.
    Targets(Targets),

    /// Explains why a node would run, or ran
    ///
    /// Tells whether LABEL would run now and for which reasons, with old and new values; with --run, why it ran then.
    Why(Why),

    /// Shows recorded runs
    #[command(subcommand)]
    Log(Log),

    /// Shows which bases have moved, and what policies would renew
    ///
    /// Asks the registries about the bases in igraph.lock, each once, and looks at the freshness policies; prints what
    /// moved, since when, and what would be done again: images, tests, names, and how long they took last time. Writes
    /// nothing.
    Outdated(Outdated),

    /// Moves igraph.lock to what bases are now
    ///
    /// Asks and looks as `outdated` does, and writes what moved to igraph.lock: bases, and the stamps of what is due. The
    /// next build rebuilds exactly that, and what stands on it.
    Update(Update),

    /// Writes an image to an OCI layout, an archive, or a Docker Engine
    ///
    /// Takes the image that LABEL came to with its present inputs; `build` or `test` makes it. Its names go along where
    /// its tests have passed. What is written depends on the image alone: exported twice, it is the same byte for byte.
    Export(Export),

    /// Checks that an image is what its record says, or builds it again and compares
    ///
    /// Reads every layer of the image from the engine and compares its digest. With --rebuild it builds the image again
    /// without any cache, records nothing, and shows the first file that differs; exits 1 where one does.
    Verify(Verify),

    /// Loads and checks all build files and Dockerfiles, and runs nothing
    ///
    /// Reports all problems at once, each with its place. Needs no engine.
    Check(Check),

    /// Carries records between machines
    #[command(subcommand)]
    State(State),

    /// Prints the workspace's root folder
    Root,

    /// Removes igraph-out
    ///
    /// Removes the workspace's records, logs and digests; with them go the verdicts, so that the next run builds anew.
    /// Images and names in engines and registries stay; `gc` before it removes what igraph keeps in Docker.
    Clean(Clean),

    /// Removes what no record needs
    ///
    /// Keeps the last five results of each node, those that the present inputs and names need, and the newest 50 runs;
    /// removes older ones, and from the engine the images, layers, content tags and containers that igraph made and no
    /// kept result needs.
    Gc(Gc),

    /// Tells which engines work here, and what to install where they don't
    Doctor(Doctor),

    /// Prints a completion script for a shell
    ///
    /// For bash: `igraph completions bash > /etc/bash_completion.d/igraph`.
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },

    /// Explains a topic or a command
    Help {
        /// A topic, or a command and its subcommand; none: the list of both
        #[arg(value_name = "TOPIC|COMMAND")]
        topic: Vec<String>,
    },
}

/// What to work on.
#[derive(Clone, Debug, Default, Group)]
pub struct Selection {
    /// What to work on: //p:n, //p:, //p/..., //p:4.*, @FILE or @-
    ///
    /// Forms without `//` are relative to the current directory; none means `...`, all at or below it.
    /// See `igraph help patterns`.
    #[arg(value_name = "PATTERN")]
    pub patterns: Vec<String>,
}

/// What results depend on beside the files of the workspace.
#[derive(Clone, Debug, Default, Group)]
pub struct World {
    /// Uses another source for a base: rootfs:FILE, oci:DIR or a reference
    ///
    /// For machines without that base, and for trials. What stands on it has other keys, and is never tagged or pushed.
    #[arg(long = "base", value_name = "REF=SOURCE", help_heading = "Engine and bases")]
    pub bases: Vec<StandIn>,

    /// The engine: docker, docker=URL for the daemon at that address, or embedded
    #[arg(long, value_name = "ENGINE", help_heading = "Engine and bases")]
    pub engine: Option<EngineChoice>,
}

/// Arguments of `build`, `test`, `tag` and `push`.
#[derive(Clone, Debug, Group)]
pub struct Verb {
    #[command(flatten)]
    pub selection: Selection,

    /// Leaves out what this pattern matches; may be repeated
    #[arg(long, value_name = "PATTERN", help_heading = "Plan")]
    pub exclude: Vec<String>,

    #[command(flatten)]
    pub plan: PlanFlags,
    #[command(flatten)]
    pub running: RunFlags,
    #[command(flatten)]
    pub world: World,

    /// Pushes names without a host to this registry, below this prefix
    #[arg(long, value_name = "HOST[/PREFIX]", help_heading = "Engine and bases")]
    pub registry: Option<RegistryTarget>,

    #[command(flatten)]
    pub output: OutputFlags,
}

/// Arguments of `build` and `test`.
#[derive(Clone, Debug, Group)]
pub struct Watched {
    #[command(flatten)]
    pub verb: Verb,
    #[command(flatten)]
    pub watch: WatchFlags,
}

/// How a verb goes on.
#[derive(Clone, Debug, Default, Group)]
#[command(next_help_heading = "Watching")]
pub struct WatchFlags {
    /// Stays, and on a change of a file runs what it touches, until Ctrl-C; with --dry-run, says what would run
    ///
    /// See `igraph help watch`.
    #[arg(long, conflicts_with_all = ["check", "force", "verify", "no_wait", "backoff"])]
    pub watch: bool,

    /// Asks the registries so often whether bases have moved, like 15m, and moves igraph.lock as `update` does
    #[arg(long = "bases", value_name = "DURATION", value_parser = parse_timeout)]
    #[arg(requires = "watch", conflicts_with_all = ["locked", "dry_run"])]
    pub ask_bases: Option<Duration>,
}

/// What is decided to run.
#[derive(Clone, Debug, Default, Group)]
#[command(next_help_heading = "Plan")]
pub struct PlanFlags {
    /// Prints what would run and why, and runs nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Like --dry-run, and exits 1 if anything would run
    #[arg(long)]
    pub check: bool,

    /// Runs the nodes matched though they are fresh, without cache; not what is below them
    #[arg(long)]
    pub force: bool,

    /// Why, for the record
    #[arg(long, value_name = "TEXT", requires = "force")]
    pub reason: Option<String>,

    /// Asks engine and registries whether each recorded result is still there
    #[arg(long)]
    pub verify: bool,

    /// Fails where igraph.lock would have to change
    #[arg(long)]
    pub locked: bool,
}

/// How it runs.
#[derive(Clone, Debug, Default, Group)]
#[command(next_help_heading = "Execution")]
pub struct RunFlags {
    /// Runs so many nodes at once; default: the workspace's `jobs`, else the number of processors
    #[arg(short, long, value_name = "N", value_parser = parse_jobs)]
    pub jobs: Option<NonZeroUsize>,

    /// Stops at the first failure instead of doing all that does not depend on it
    #[arg(long)]
    pub fail_fast: bool,

    /// Tries so many times more what failed for reasons outside, and tests; instead of what build files say
    #[arg(short, long, value_name = "N", value_parser = parse_count)]
    pub retries: Option<u32>,

    /// Ends an attempt after this long, like 30s or 5m; instead of what build files say
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub timeout: Option<Duration>,

    /// Holds back what failed with the same inputs: 1 h after the first time, 2 h after the second, and so on
    ///
    /// Only failures of a step count. A label named exactly is always tried. What is held back counts as failed.
    #[arg(long)]
    pub backoff: bool,

    /// Uses no instruction cache in what runs
    #[arg(long)]
    pub no_cache: bool,

    /// Exits 10 where another igraph is at work in this workspace, instead of waiting for it
    #[arg(long)]
    pub no_wait: bool,
}

/// What is told, and where.
#[derive(Clone, Debug, Default, Group)]
#[command(next_help_heading = "Output")]
pub struct OutputFlags {
    /// How progress is shown on stderr
    #[arg(long, value_enum, value_name = "HOW", default_value_t)]
    pub console: ConsoleChoice,

    /// Whose output is shown on stderr
    #[arg(long, value_enum, value_name = "WHICH", default_value_t)]
    pub logs: LogsChoice,

    /// Prints label, tab and image id of each image at the end
    #[arg(long, conflicts_with = "json")]
    pub show_output: bool,

    /// Prints the events as JSON lines while it runs; with --dry-run, the plan
    #[arg(long)]
    pub json: bool,

    /// Writes a JUnit report of the tests
    #[arg(long, value_name = "PATH")]
    pub junit: Option<PathBuf>,

    /// Writes a JSON report of all nodes; `-` is stdout
    #[arg(long, value_name = "PATH|-")]
    pub build_report: Option<Destination>,
}

/// `--console`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ConsoleChoice {
    /// Live on a terminal, plain elsewhere and on CI
    #[default]
    Auto,
    /// A line for each finished node above a small live area
    Live,
    /// A line for each finished node
    Plain,
    /// Nothing but errors
    None,
}

/// `--logs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogsChoice {
    /// The last lines of what failed
    #[default]
    Errors,
    /// All of every attempt, when it has ended
    All,
    /// None
    None,
    /// Each line as it comes, with its label
    Stream,
}

/// Arguments of `targets`.
#[derive(Clone, Debug, Group)]
pub struct Targets {
    #[command(flatten)]
    pub selection: Selection,

    /// Lists tests, tags and pushes too
    #[arg(long)]
    pub steps: bool,

    /// Lists only what would run
    #[arg(long, conflicts_with_all = ["affected", "orphans"])]
    pub stale: bool,

    /// Lists what has one of these paths among its inputs, or stands on such a node, or has such a test
    ///
    /// One path a line, relative to the current directory, as `git diff --no-renames --name-only --relative` prints them. Needs no record.
    #[arg(long, value_name = "@-|@FILE", conflicts_with = "orphans")]
    pub affected: Option<PathList>,

    /// Lists names that igraph once wrote and no entry claims any more
    #[arg(long)]
    pub orphans: bool,

    /// Shows each node's key, where it is known
    #[arg(long, conflicts_with = "orphans")]
    pub show_key: bool,

    /// Prints JSON, without absolute paths and times
    #[arg(long)]
    pub json: bool,

    #[command(flatten)]
    pub world: World,
}

/// Arguments of `why`.
#[derive(Clone, Debug, Group)]
pub struct Why {
    /// The node, like //debian/jessie:4.2.1 or //debian/jessie:4.2.1[test/smoke]
    #[arg(value_name = "LABEL")]
    pub label: String,

    /// Explains why it ran in RUN: an id, `last` or `last~N`
    #[arg(long, value_name = "RUN")]
    pub run: Option<RunSelector>,

    /// Shows every component of the key
    #[arg(long)]
    pub manifest: bool,

    /// Shows which components differ from those in RUN
    #[arg(long, value_name = "RUN", conflicts_with = "manifest")]
    pub vs: Option<RunSelector>,

    #[command(flatten)]
    pub world: World,
}

/// `log`.
#[derive(Clone, Debug, Subcommand)]
pub enum Log {
    /// Lists the runs, newest last
    List,

    /// Shows a run again, or the logs of a node's attempts
    Show {
        /// The run, and the nodes whose attempts to show: an id, `last` or `last~N`, and labels
        ///
        /// Without a run the newest is meant; without labels the console of the run is shown.
        #[arg(value_name = "RUN|LABEL")]
        what: Vec<String>,

        /// Only this attempt of each node
        #[arg(long, value_name = "N", value_parser = parse_count)]
        attempt: Option<u32>,
    },

    /// Lists the nodes that ran, and why
    WhatRan(RunArgument),

    /// Lists the nodes that failed, with the end of their output
    WhatFailed(RunArgument),

    /// Shows the chain of nodes that made the run as long as it was
    CriticalPath(RunArgument),

    /// Prints the run as a Chrome trace, for ui.perfetto.dev or chrome://tracing
    Trace(RunArgument),
}

/// A recorded run.
#[derive(Clone, Debug, Group)]
pub struct RunArgument {
    /// The run: an id, `last` or `last~N`
    #[arg(value_name = "RUN", default_value_t)]
    pub run: RunSelector,
}

/// Arguments of `outdated`.
#[derive(Clone, Debug, Group)]
pub struct Outdated {
    /// Bases, or patterns of images that are meant with all they stand on; none: all
    #[arg(value_name = "BASE|PATTERN")]
    pub what: Vec<String>,

    /// Runs the probes of images and bases too, in their current images
    #[arg(long)]
    pub probe: bool,

    /// The engine that runs them: docker, docker=URL for the daemon at that address, or embedded
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineChoice>,

    /// Prints JSON
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `update`.
#[derive(Clone, Debug, Group)]
pub struct Update {
    /// Bases, or patterns of images that are meant with all they stand on; none: all
    #[arg(value_name = "BASE|PATTERN")]
    pub what: Vec<String>,

    /// The engine that runs probes: docker, docker=URL for the daemon at that address, or embedded
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineChoice>,

    /// Prints JSON
    #[arg(long)]
    pub json: bool,

    /// Prints what would be written, and writes nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Exits 10 where another igraph is at work in this workspace, instead of waiting for it
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `check`.
#[derive(Clone, Debug, Group)]
pub struct Check {
    #[command(flatten)]
    pub selection: Selection,
}

/// `state`.
#[derive(Clone, Debug, Subcommand)]
pub enum State {
    /// Writes results, blob table and digests to a file
    ///
    /// The file has a version and a checksum and no absolute path. On another machine, loaded, it is enough for a run
    /// that does nothing; what has changed is built on parents fetched by digest.
    Save {
        /// The file to write
        file: PathBuf,
    },

    /// Adds the records of a file to this workspace's
    Load {
        /// The file to read
        file: PathBuf,

        /// Exits 10 where another igraph is at work in this workspace, instead of waiting for it
        #[arg(long)]
        no_wait: bool,
    },
}

/// Arguments of `clean`.
#[derive(Clone, Debug, Group)]
pub struct Clean {
    /// Exits 10 where another igraph is at work in this workspace, instead of waiting for it
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `gc`.
#[derive(Clone, Debug, Group)]
pub struct Gc {
    /// Prints what would be removed, and removes nothing
    #[arg(short = 'n', long)]
    pub dry_run: bool,

    /// Removes what the embedded engine's caches keep and was of no use for this long, like 7d; 14d unless said
    #[arg(long, value_name = "DURATION", value_parser = parse_timeout)]
    pub max_age: Option<Duration>,

    /// Removes what the embedded engine's caches keep, least recently used first, until its store takes no more than this, like 20GB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub max_size: Option<u64>,

    /// The engine: docker, docker=URL for the daemon at that address, or embedded
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineChoice>,

    /// Exits 10 where another igraph is at work in this workspace, instead of waiting for it
    #[arg(long)]
    pub no_wait: bool,
}

/// Arguments of `export`.
#[derive(Clone, Debug, Group)]
pub struct Export {
    /// The image, like //debian/jessie:4.2.1
    #[arg(value_name = "LABEL")]
    pub label: String,

    /// Where to: oci:DIR, docker-archive:FILE, docker: or docker:URL
    ///
    /// oci:DIR is an OCI image layout; one that is there already gets the image added. docker-archive:FILE is what
    /// `docker load` reads. docker: loads it into the Docker Engine that DOCKER_HOST or the docker context names,
    /// docker:URL into the one at that address.
    #[arg(value_name = "DESTINATION")]
    pub destination: ExportTarget,

    #[command(flatten)]
    pub world: World,
}

/// Arguments of `verify`.
#[derive(Clone, Debug, Group)]
pub struct Verify {
    /// The image, like //debian/jessie:4.2.1
    #[arg(value_name = "LABEL")]
    pub label: String,

    /// Builds it again without any cache, and compares
    #[arg(long)]
    pub rebuild: bool,

    #[command(flatten)]
    pub world: World,
}

/// Arguments of `doctor`.
#[derive(Clone, Debug, Group)]
pub struct Doctor {
    /// The engine to look at: docker, docker=URL for the daemon at that address, or embedded
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineChoice>,
}

impl Args {
    /// Parses the command line, the program's name first.
    ///
    /// # Errors
    /// Usage errors as clap renders them; so are help and version, whose exit code is 0.
    pub fn parse_line<I, T>(line: I) -> Result<Self, clap::Error>
    where
        I: IntoIterator<Item = T>,
        T: Into<std::ffi::OsString> + Clone,
    {
        let args = Self::try_parse_from(line)?;
        args.check_stdout()?;
        Ok(args)
    }

    /// stdout can carry one document only.
    fn check_stdout(&self) -> Result<(), clap::Error> {
        let verb = match &self.command {
            Command::Build(watched) | Command::Test(watched) => &watched.verb,
            Command::Tag(verb) | Command::Push(verb) => verb,
            _ => return Ok(()),
        };
        let output = &verb.output;
        if output.build_report == Some(Destination::Stdout) && (output.json || output.show_output) {
            let other = if output.json { "--json" } else { "--show-output" };
            return Err(usage(format!("`--build-report -` and `{other}` both want stdout; write the report to a file")));
        }
        Ok(())
    }
}

/// A usage error of ours in clap's form.
fn usage(message: String) -> clap::Error {
    use clap::CommandFactory;
    Args::command().error(clap::error::ErrorKind::ArgumentConflict, message)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Args, String> {
        Args::parse_line(line.split(' ')).map_err(|error| {
            assert!(error.use_stderr() && error.exit_code() == 2);
            error.to_string()
        })
    }

    #[test]
    fn the_definition_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn all_help() {
        fn help(command: &mut clap::Command, pages: &mut String) {
            let page = command.render_long_help();
            pages.push_str(&format!("$ {} --help\n{page}\n", command.get_bin_name().unwrap_or("igraph")));
            for inner in command.get_subcommands_mut() {
                help(inner, pages);
            }
        }
        let mut command = Args::command().term_width(100);
        command.build();
        let mut pages = String::new();
        help(&mut command, &mut pages);
        insta::assert_snapshot!(pages);
    }

    #[test]
    fn shared_flags_arrive_as_types() {
        let args = parse(
            "igraph push -C w //a:b c -j 3 --fail-fast -r 0 --timeout 5m --force --reason cve --no-cache -n --locked \
             --base debian:jessie=rootfs:j.tar --registry reg.corp/x --exclude //z: --logs stream --build-report - \
             --console plain --engine docker=unix:///s --no-wait -v",
        )
        .unwrap();
        assert!(args.global.verbose && args.global.directory == Some("w".into()));
        let Command::Push(verb) = args.command else { panic!("{:?}", args.command) };
        assert_eq!((verb.selection.patterns, verb.exclude), (vec!["//a:b".to_owned(), "c".to_owned()], vec!["//z:".to_owned()]));
        assert_eq!((verb.running.jobs.map(NonZeroUsize::get), verb.running.retries), (Some(3), Some(0)));
        assert_eq!((verb.running.timeout, verb.plan.reason.as_deref()), (Some(Duration::from_secs(300)), Some("cve")));
        assert_eq!((verb.world.bases.len(), verb.registry.unwrap().to_string().as_str()), (1, "reg.corp/x"));
        assert_eq!((verb.output.logs, verb.output.build_report), (LogsChoice::Stream, Some(Destination::Stdout)));
    }

    #[test]
    fn usage_errors() {
        for line in [
            "igraph biuld",
            "igraph build --fial-fast",
            "igraph build -j 0",
            "igraph build --reason x",
            "igraph build -v -q",
            "igraph build --base debian",
            "igraph build --build-report - --json",
            "igraph why",
            "igraph targets --affected x",
            "igraph log show --attempt x",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        insta::assert_snapshot!(parse("igraph biuld").unwrap_err(), @r#"
        error: unrecognized subcommand 'biuld'

          tip: a similar subcommand exists: 'build'

        Usage: igraph [OPTIONS] <COMMAND>

        For more information, try '--help'.
        "#);
        insta::assert_snapshot!(parse("igraph build --fial-fast").unwrap_err(), @r#"
        error: unexpected argument '--fial-fast' found

          tip: a similar argument exists: '--fail-fast'

        Usage: igraph build --fail-fast [PATTERN]...

        For more information, try '--help'.
        "#);
        insta::assert_snapshot!(parse("igraph build --build-report - --json").unwrap_err(), @r#"
        error: `--build-report -` and `--json` both want stdout; write the report to a file

        Usage: igraph [OPTIONS] <COMMAND>

        For more information, try '--help'.
        "#);
        insta::assert_snapshot!(parse("igraph test --engine podman").unwrap_err(), @r#"
        error: invalid value 'podman' for '--engine <ENGINE>': there is no engine `podman`: write `docker`, `docker=URL` or `embedded`

        For more information, try '--help'.
        "#);
    }
}
