//! What an instruction asks of a builder beyond the classic language. Knows no builder.

use super::{Command, Feature, FileSource, Instruction, check};

/// What an expanded instruction asks of a builder, mounts and heredocs aside.
pub(super) fn features(instruction: &Instruction) -> Vec<Feature> {
    let mut features = Vec::new();
    if !instruction.heredocs.is_empty() {
        features.push(Feature::Heredoc);
    }
    let given = |flag: bool, feature: Feature| flag.then_some(feature);
    match &instruction.command {
        Command::Copy(transfer) | Command::Add(transfer, _) => {
            let symbolic = transfer.chmod.as_ref().is_some_and(|mode| check::symbolic(&mode.value));
            features.extend(given(transfer.link, Feature::Link));
            features.extend(given(transfer.chmod.is_some(), Feature::CopyChmod));
            features.extend(given(symbolic, Feature::SymbolicChmod));
            features.extend(given(!transfer.exclude.is_empty(), Feature::Exclude));
            features.extend(given(transfer.parents, Feature::Parents));
        }
        Command::Run(run) => {
            features.extend(given(run.network.is_some(), Feature::RunNetwork));
            features.extend(given(run.security.is_some(), Feature::RunSecurity));
            features.extend(given(!run.devices.is_empty(), Feature::RunDevice));
        }
        Command::Healthcheck(healthcheck) => features.extend(given(healthcheck.start_interval.is_some(), Feature::StartInterval)),
        Command::OnBuild(_) => features.push(Feature::OnBuild),
        _ => {}
    }
    if let Command::Add(transfer, add) = &instruction.command {
        features.extend(given(add.checksum.is_some(), Feature::AddChecksum));
        features.extend(given(add.keep_git_dir, Feature::KeepGitDir));
        features.extend(given(add.unpack.is_some(), Feature::Unpack));
        for source in &transfer.sources {
            if let FileSource::Path(path) = source {
                match check::source_kind(&path.value) {
                    check::SourceKind::Url => features.push(Feature::AddUrl),
                    check::SourceKind::Git => features.push(Feature::AddGit),
                    check::SourceKind::Local => {}
                }
            }
        }
    }
    features
}
