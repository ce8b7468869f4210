//! The typed instructions of a Dockerfile, as written, with the place of every part. Nothing in here is expanded.

use std::ops::Range;
use std::sync::Arc;

use crate::problem::Source;

/// A byte range of the source.
pub type Span = Range<usize>;

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T = String> {
    /// The value, as written: line joins removed, quotes and variables still in it.
    pub value: T,
    /// Its place; across line joins it covers them.
    pub span: Span,
}

/// A parsed Dockerfile: global ARGs and stages, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    pub(super) source: Arc<Source>,
    pub(super) directives: Directives,
    pub(super) global_args: Vec<Arc<Instruction>>,
    pub(super) stages: Vec<Stage>,
}

/// The parser directives at the head of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`.
    pub syntax: Option<Spanned>,
    /// The escape character, `\` or `` ` ``.
    pub escape: char,
    /// `# check=`.
    pub check: Option<Spanned>,
    /// Place of the value of `# escape=`.
    pub escape_span: Option<Span>,
    /// Where the last directive line ends, line end included; behind a byte-order mark when there is none.
    pub end: usize,
}

impl Dockerfile {
    /// The text it was parsed from.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The parser directives.
    pub fn directives(&self) -> &Directives {
        &self.directives
    }

    /// The ARG instructions before the first FROM.
    pub fn global_args(&self) -> &[Arc<Instruction>] {
        &self.global_args
    }

    /// The stages, in order; never empty.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }
}

/// One FROM and what follows up to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The FROM instruction; its command is always [`Command::From`].
    pub from: Arc<Instruction>,
    /// What it starts from.
    pub image: ImageFrom,
    /// The instructions after FROM.
    pub instructions: Vec<Arc<Instruction>>,
    /// From FROM to the end of its last instruction.
    pub span: Span,
}

/// The words of a FROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageFrom {
    /// `--platform`.
    pub platform: Option<Spanned>,
    /// The reference, the name of an earlier stage, or `scratch`.
    pub reference: Spanned,
    /// The name after AS, in lower case.
    pub name: Option<Spanned>,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// From the keyword to the end of its last line (of its last heredoc's terminator), without the line end.
    pub span: Span,
    /// The logical line: line joins removed, comments and blank lines within it too.
    pub text: String,
    /// Its heredocs, in order.
    pub heredocs: Vec<Heredoc>,
    /// What it says.
    pub command: Command,
}

impl Instruction {
    /// The same place and text, with another command and other heredocs.
    pub(super) fn with(&self, command: Command, heredocs: Vec<Heredoc>) -> Self {
        Self { span: self.span.clone(), text: self.text.clone(), heredocs, command }
    }
}

/// A heredoc of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The word after `<<`, without quotes: the name of the file it makes.
    pub name: String,
    /// The body as written, with its last line end.
    pub content: String,
    /// Whether variables in it are expanded: the word had no quotes.
    pub expand: bool,
    /// `<<-`: leading tabs are dropped.
    pub chomp: bool,
    /// File descriptor before `<<`; 0 when there is none.
    pub descriptor: u32,
    /// The body, without the terminator.
    pub span: Span,
}

impl Heredoc {
    /// The body as a file gets it: leading tabs dropped where `<<-` says so.
    pub fn body(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// What an instruction says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// FROM.
    From(ImageFrom),
    /// ARG.
    Arg(Vec<ArgDeclaration>),
    /// RUN.
    Run(Run),
    /// COPY.
    Copy(Transfer),
    /// ADD.
    Add(Transfer, AddFlags),
    /// ENV.
    Env(Vec<Pair>),
    /// LABEL.
    Label(Vec<Pair>),
    /// MAINTAINER.
    Maintainer(Spanned),
    /// EXPOSE.
    Expose(Vec<Spanned>),
    /// CMD.
    Cmd(CommandLine),
    /// ENTRYPOINT.
    Entrypoint(CommandLine),
    /// WORKDIR.
    Workdir(Spanned),
    /// USER.
    User(Spanned),
    /// VOLUME.
    Volume(Vec<Spanned>),
    /// STOPSIGNAL.
    StopSignal(Spanned),
    /// SHELL.
    Shell(Vec<String>),
    /// HEALTHCHECK.
    Healthcheck(Healthcheck),
    /// ONBUILD.
    OnBuild(OnBuild),
}

/// One `name` or `name=default` of an ARG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArgDeclaration {
    /// The name.
    pub name: Spanned,
    /// The default, as written.
    pub default: Option<Spanned>,
}

/// One `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The key.
    pub key: Spanned,
    /// The value.
    pub value: Spanned,
    /// Written with a blank instead of `=`: the value goes to the end of the line.
    pub legacy: bool,
}

/// A command in shell or exec (JSON) form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandLine {
    /// For the shell; with heredocs the first line only, the bodies are in [`Instruction::heredocs`].
    Shell(String),
    /// argv.
    Exec(Vec<String>),
}

/// RUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// What runs.
    pub line: CommandLine,
    /// `--mount`, in order, unexpanded; [`super::Step::mounts`] has them read.
    pub mounts: Vec<MountFlag>,
    /// `--network`: `default`, `none` or `host`.
    pub network: Option<Spanned>,
    /// `--security`: `sandbox` or `insecure`.
    pub security: Option<Spanned>,
    /// `--device`, in order.
    pub devices: Vec<Spanned>,
}

/// One `--mount` of RUN as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountFlag {
    /// The whole value of the flag, a line of CSV.
    pub text: Spanned,
    /// The value of `from`, which takes no variables.
    pub from: Option<Spanned>,
}

/// One `--mount` of RUN, expanded and read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The whole value of the flag.
    pub span: Span,
    /// What is mounted.
    pub kind: MountKind,
    /// `from`: a stage or an image; without it a bind mount takes the context.
    pub from: Option<String>,
    /// `source`.
    pub source: Option<String>,
    /// `target`.
    pub target: Option<String>,
    /// `readonly` as it comes out: given, or the default of the kind.
    pub read_only: bool,
    /// `id` of cache, secret, ssh.
    pub id: Option<String>,
    /// `sharing` of a cache: `shared`, `private` or `locked`.
    pub sharing: Option<String>,
    /// `required` of secret and ssh.
    pub required: bool,
    /// `env` of a secret.
    pub env: Option<String>,
    /// `size` of a tmpfs, bytes.
    pub size: Option<u64>,
    /// `mode` of cache, secret, ssh.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: Option<u32>,
    /// `gid`.
    pub gid: Option<u32>,
}

/// The kinds of mounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MountKind {
    /// A path of the context, a stage or an image.
    Bind,
    /// A folder that outlives the build.
    Cache,
    /// Memory.
    Tmpfs,
    /// A secret.
    Secret,
    /// An ssh agent.
    Ssh,
}

/// COPY, and the part of ADD that is the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// `--from`; never of ADD.
    pub from: Option<Spanned>,
    /// What is copied.
    pub sources: Vec<FileSource>,
    /// Where to.
    pub destination: Spanned,
    /// `--chown`.
    pub chown: Option<Spanned>,
    /// `--chmod`.
    pub chmod: Option<Spanned>,
    /// `--link`.
    pub link: bool,
    /// `--parents`; never of ADD.
    pub parents: bool,
    /// `--exclude`, in order.
    pub exclude: Vec<Spanned>,
}

/// What COPY or ADD takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileSource {
    /// A path, wildcard, URL or Git repository.
    Path(Spanned),
    /// The instruction's heredoc of that index.
    Heredoc(usize),
}

/// What only ADD has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddFlags {
    /// `--checksum`.
    pub checksum: Option<Spanned>,
    /// `--keep-git-dir`.
    pub keep_git_dir: bool,
    /// `--unpack`; what BuildKit does by itself where it is not given.
    pub unpack: Option<bool>,
}

/// HEALTHCHECK. Durations are nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Healthcheck {
    /// What runs.
    pub test: HealthcheckTest,
    /// `--interval`.
    pub interval: Option<u64>,
    /// `--timeout`.
    pub timeout: Option<u64>,
    /// `--start-period`.
    pub start_period: Option<u64>,
    /// `--start-interval`.
    pub start_interval: Option<u64>,
    /// `--retries`.
    pub retries: Option<u32>,
}

/// What a HEALTHCHECK runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum HealthcheckTest {
    /// NONE: the base's check is switched off.
    #[default]
    None,
    /// CMD.
    Command(CommandLine),
}

/// ONBUILD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnBuild {
    /// The trigger as an image config keeps it.
    pub text: String,
    /// The trigger, parsed.
    pub trigger: Box<Instruction>,
}
