//! What the embedded engine does not do, told before anything runs.

use crate::dockerfile::{Command, Dockerfile, Feature, MountKind, Resolved};
use crate::platform::Platform;
use crate::problem::Problem;

/// One problem for each thing that it lacks, at the place of its first use.
pub(super) fn refusals(dockerfile: &Dockerfile, resolved: &Resolved, by_chroot: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (feature, span) in &resolved.features {
        let (what, hint) = match feature {
            Feature::CustomFrontend(name) => (
                format!("the frontend `{name}` can't be run by the embedded engine"),
                "only `docker/dockerfile:1` is read; drop the `# syntax` line, or build the file elsewhere",
            ),
            Feature::AddGit if !super::build::git_is_here() => {
                ("ADD of a Git repository takes the program `git`, which is not here".into(), "install it: `apt-get install git`")
            }
            Feature::RunDevice => ("RUN `--device` is not done by the embedded engine".into(), "leave the flag out"),
            _ => continue,
        };
        problems.push(Problem::new(what).at(dockerfile.source(), span.clone()).hint(hint));
    }
    for stage in &resolved.steps {
        let foreign = !runs(&stage.platform);
        for step in &stage.steps {
            let Command::Run(run) = &step.instruction.command else { continue };
            // a trigger's span points into another text: its FROM stands for it
            let from = dockerfile.stages().get(stage.index).map(|stage| stage.from.span.clone()).unwrap_or_default();
            let span = if step.trigger { from } else { step.instruction.span.clone() };
            let mut refuse = |what: String, hint: &str| problems.push(Problem::new(what).at(dockerfile.source(), span.clone()).hint(hint));
            if run.security.as_ref().is_some_and(|security| security.value != "sandbox") {
                refuse("RUN `--security=insecure` is not done by the embedded engine".into(), "leave the flag out");
            }
            for mount in &step.mounts {
                if mount.kind == MountKind::Ssh && by_chroot {
                    refuse(
                        "an ssh mount needs namespaces, which this container does not allow".into(),
                        "`igraph doctor` tells what is missing",
                    );
                }
            }
            if foreign {
                let hint = "register an emulator with the kernel (package `qemu-user-static`), or build it on such a machine";
                refuse(format!("this machine can't run programs of {}", stage.platform), hint);
                break;
            }
        }
    }
    problems
}

/// Whether the kernel runs programs of that platform.
fn runs(platform: &Platform) -> bool {
    let host = Platform::host();
    if platform.os() != host.os() {
        return false;
    }
    let (wanted, own) = (platform.architecture(), host.architecture());
    if wanted == own || (own, wanted) == ("amd64", "386") || (own, wanted) == ("arm64", "arm") {
        return true;
    }
    let emulator = match wanted {
        "amd64" => "x86_64",
        "386" => "i386",
        "arm64" => "aarch64",
        "mips64le" => "mips64el",
        "loong64" => "loongarch64",
        other => other,
    };
    let path = format!("/proc/sys/fs/binfmt_misc/qemu-{emulator}");
    // without F the emulator is looked for in the image
    std::fs::read_to_string(path).is_ok_and(|text| {
        text.starts_with("enabled") && text.lines().any(|line| line.strip_prefix("flags:").is_some_and(|flags| flags.contains('F')))
    })
}
