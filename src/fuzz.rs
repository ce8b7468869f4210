//! What fuzzers feed (`fuzz/targets`), each a function of bytes that panics where something does not hold; and the run of the same
//! functions under `cargo test`: their seeds, and a fixed number of mutations of those. Compiled for tests and fuzzers only.

pub use crate::dockerfile::fuzz::{dockerfile, ignore, words};
pub use crate::engine::fuzz::{config, layer, tar};
pub use crate::registry::fuzz::manifest;

use crate::reference::Reference;

/// A reference. What is read and written is the same again, in each of its forms, and it is one exactly where Docker says so.
pub fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let reference: Reference = match text.parse() {
        Err(error) => return assert!(!docker_takes(text), "Docker takes it: {error}"),
        Ok(reference) => reference,
    };
    assert!(docker_takes(text), "Docker does not take `{text}`");
    let same = |text: &str| assert_eq!(text.parse::<Reference>().as_ref(), Ok(&reference), "by way of `{text}`");
    same(&reference.to_string());
    same(&reference.familiar());
    assert_eq!(Reference::from_cell(&reference.to_cell()).as_ref(), Some(&reference));
    assert!(reference.tag().is_some() || reference.digest().is_some());
    let tagged = reference.with_tag("v1").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((tagged.name(), tagged.tag(), tagged.digest()), (reference.name(), Some("v1"), None));
    if let Ok(moved) = reference.moved_to("reg.corp:5000", "mirror") {
        assert_eq!((moved.host(), moved.tag(), moved.digest()), ("reg.corp:5000", reference.tag(), reference.digest()));
        assert_eq!(moved.repository().strip_prefix("mirror/"), Some(reference.repository()));
    }
}

/// distribution/reference, as one expression and three rules.
fn docker_takes(text: &str) -> bool {
    use std::sync::LazyLock;
    static WHOLE: LazyLock<regex::Regex> = LazyLock::new(|| {
        let part = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
        let host = format!(r"(?:{part}(?:\.{part})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?");
        let segment = "[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
        let tag = r"(?::[0-9A-Za-z_][0-9A-Za-z_.-]{0,127})?";
        let pattern = format!(r"^({host}/{segment}(?:/{segment})*){tag}(?:@sha256:[0-9a-f]{{64}})?$");
        regex::Regex::new(&pattern).unwrap_or_else(|error| panic!("{error}"))
    });
    // a name of 64 hex digits is an image id
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        return false;
    }
    let (host, rest) = match text.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first => (first, rest),
        _ => ("docker.io", text),
    };
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { host };
    let library = if host == "docker.io" && !rest.contains('/') { "library/" } else { "" };
    let whole = format!("{host}/{library}{rest}");
    WHOLE.captures(&whole).is_some_and(|found| found[1].len() <= 255)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use nix::time::{ClockId, clock_gettime};

    use super::*;

    /// Name, function, and how many mutations a run tries.
    type Target = (&'static str, fn(&[u8]), usize);

    const TARGETS: [Target; 8] = [
        ("dockerfile", dockerfile, 3000),
        ("words", words, 10_000),
        ("ignore", ignore, 3000),
        ("reference", reference, 10_000),
        ("tar", tar, 5000),
        ("layer", layer, 1000),
        ("manifest", manifest, 5000),
        ("config", config, 5000),
    ];

    fn folder(kind: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind)
    }

    fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
        let folder = folder("seeds").join(target);
        let mut files: Vec<PathBuf> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{} holds no seed", folder.display());
        files.into_iter().map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())).collect()
    }

    /// The words of a dictionary as libFuzzer writes them: `"word"` on each line, `\\`, `\"` and `\xNN` in it.
    fn dictionary(target: &str) -> Vec<Vec<u8>> {
        let text = std::fs::read_to_string(folder("dictionaries").join(target)).unwrap();
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix('"'));
        lines.map(word).collect()
    }

    fn word(line: &str) -> Vec<u8> {
        let mut bytes = line.bytes();
        let mut word = Vec::new();
        while let Some(byte) = bytes.next() {
            word.push(match byte {
                b'\\' => match bytes.next().unwrap() {
                    b'x' => {
                        let digits = [bytes.next().unwrap(), bytes.next().unwrap()];
                        u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                    }
                    escaped => escaped,
                },
                byte => byte,
            });
        }
        word
    }

    fn mutate(random: &mut fastrand::Rng, seeds: &[(String, Vec<u8>)], words: &[Vec<u8>]) -> Vec<u8> {
        let mut data = seeds[random.usize(..seeds.len())].1.clone();
        for _ in 0..random.usize(1..6) {
            let at = random.usize(..=data.len());
            let end = (at + random.usize(..16)).min(data.len());
            match random.usize(..7) {
                0 if at < data.len() => data[at] ^= 1 << random.usize(..8),
                1 if at < data.len() => data[at] = random.u8(..),
                2 => drop(data.drain(at..end)),
                3 => {
                    let piece = data[at..end].to_vec();
                    let to = random.usize(..=data.len());
                    data.splice(to..to, piece);
                }
                4 => {
                    let other = &seeds[random.usize(..seeds.len())].1;
                    let from = random.usize(..=other.len());
                    let until = (from + random.usize(..64)).min(other.len());
                    data.splice(at..end, other[from..until].iter().copied());
                }
                _ if !words.is_empty() => {
                    let word = words[random.usize(..words.len())].iter().copied();
                    data.splice(at..at, word);
                }
                _ => data.insert(at, random.u8(..)),
            }
        }
        data
    }

    /// Time that this thread has worked: the machine may have others to serve.
    fn used() -> Duration {
        Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap())
    }

    fn run(target: &str) {
        let (_, function, count) = TARGETS.into_iter().find(|(name, ..)| *name == target).unwrap();
        let rounds = std::env::var("IGRAPH_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
        let (seeds, words) = (seeds(target), dictionary(target));
        let try_one = |what: &str, data: &[u8]| {
            let started = used();
            let text = String::from_utf8_lossy(data);
            if let Err(panic) = std::panic::catch_unwind(|| function(data)) {
                let shown: String = text.chars().take(4000).collect();
                panic!("{target}: {what} fails: {shown:?}: {:?}", panic.downcast_ref::<String>());
            }
            assert!(used() - started < Duration::from_secs(10), "{target}: {what} takes too long: {text:?}");
        };
        for (name, data) in &seeds {
            try_one(&format!("seed {name}"), data);
        }
        let mut random = fastrand::Rng::with_seed(7);
        for at in 0..count * rounds {
            try_one(&format!("mutation {at}"), &mutate(&mut random, &seeds, &words));
        }
    }

    #[test]
    fn dockerfiles() {
        run("dockerfile");
    }

    #[test]
    fn shell_words() {
        run("words");
    }

    #[test]
    fn ignore_files() {
        run("ignore");
    }

    #[test]
    fn references() {
        run("reference");
    }

    #[test]
    fn tars() {
        run("tar");
    }

    #[test]
    fn layers() {
        run("layer");
    }

    #[test]
    fn manifests() {
        run("manifest");
    }

    #[test]
    fn configs() {
        run("config");
    }
}
