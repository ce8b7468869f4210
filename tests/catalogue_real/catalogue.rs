//! A small catalogue with a bit of everything: a base of this machine's programs and one of a registry with ONBUILD, parent, child
//! and grandchild, aliases across repositories, tests in all three forms and of another package, a secret, `.dockerignore`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::support::RootfsImage;

/// The base's files: a shell and tools.
fn rootfs() -> &'static [u8] {
    static ROOTFS: OnceLock<Vec<u8>> = OnceLock::new();
    ROOTFS.get_or_init(|| RootfsImage::with_shell(&["tr", "test", "sleep", "cmp"], &[]).layer_bytes()[0].clone())
}

/// A workspace on disk.
pub struct Workspace {
    pub root: PathBuf,
}

impl Workspace {
    /// One with these files.
    pub fn write<'f>(root: &Path, files: impl IntoIterator<Item = (&'f str, String)>) -> Self {
        let workspace = Self { root: root.to_owned() };
        for (path, text) in files {
            workspace.put(path, &text);
        }
        workspace
    }

    /// Writes a file.
    pub fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// Replaces text in a file; it must be there.
    pub fn edit(&self, path: &str, old: &str, new: &str) {
        let text = std::fs::read_to_string(self.root.join(path)).unwrap();
        assert!(text.contains(old), "{path} has no `{old}`");
        self.put(path, text.replace(old, new));
    }

    /// How many runs left a folder of logs.
    pub fn runs(&self) -> usize {
        std::fs::read_dir(self.root.join("igraph-out/log")).map_or(0, Iterator::count)
    }

    /// A copy without records at another path, made under another umask: other modes, owners' bits and times.
    pub fn cloned(&self, root: &Path) -> Self {
        let script = "umask 077; mkdir \"$2\"; cd \"$1\" && cp -r BUILD.ron images igraph.lock \"$2\"";
        let status = Command::new("sh").args(["-c", script, "sh"]).args([&self.root, root]).status().unwrap();
        assert!(status.success());
        Self { root: root.to_owned() }
    }

    /// The base on which the other workspace stands: an image with ONBUILD, pushed as `bases/onbuild:1`.
    pub fn of_bases(root: &Path, registry: &str) -> Self {
        let workspace = Self::write(
            root,
            [
                ("BUILD.ron", format!("Workspace(packages: \"images\", registry: \"{registry}\", engine: Docker)")),
                (
                    "images/onbuild/BUILD.ron",
                    "Package(repository: \"bases/onbuild\", rules: [\n\
                     Base(name: \"box\", provides: [\"box:1\"], from: Rootfs(\"box.tar\")),\n\
                     Image(name: \"1\", untested: \"a base\"),\n])"
                        .to_owned(),
                ),
                ("images/onbuild/Dockerfile", "FROM box:1\nRUN echo base > /etc/base\nONBUILD COPY marker /etc/marker\n".to_owned()),
            ],
        );
        workspace.put("images/onbuild/box.tar", rootfs());
        workspace
    }

    /// The catalogue.
    pub fn of_catalogue(root: &Path, registry: &str) -> Self {
        let hello = "#!/bin/sh\necho hello\n";
        let workspace = Self::write(
            root,
            [
                (
                    "BUILD.ron",
                    format!("Workspace(packages: \"images\", registry: \"{registry}\", engine: Docker, retries: (max: 1, delay: \"50ms\"))"),
                ),
                (
                    "images/base/BUILD.ron",
                    "Package(rules: [Base(name: \"box\", provides: [\"box:1\"], from: Rootfs(\"box.tar\"))])".to_owned(),
                ),
                (
                    "images/tests/BUILD.ron",
                    "Package(rules: [\n\
                     Test(name: \"shell\", exec: [[\"/bin/sh\", \"-c\", \"exit 0\"]], network: \"none\"),\n\
                     Test(name: \"layers\", dockerfile: \"layers/Dockerfile\"),\n])"
                        .to_owned(),
                ),
                ("images/tests/layers/Dockerfile", "ARG IGRAPH_NAME\nCOPY expected /tmp/expected\nRUN cmp /tmp/expected /app/said\n".to_owned()),
                ("images/tests/layers/expected", "hello\n".to_owned()),
                (
                    "images/app/BUILD.ron",
                    "Package(repository: \"team/app\", tests: [\":runs\", \"//tests:shell\"], rules: [\n\
                     Test(name: \"runs\", run: [\"test \\\"$(hello)\\\" = hello\"]),\n\
                     Test(name: \"full\", run: [\"test -s /app/full\"]),\n\
                     Image(name: \"1\", dockerfile: \"1/Dockerfile\", aliases: [\"latest\", \"other/app:1\"]),\n\
                     Image(name: \"1-dev\", dockerfile: \"1-dev/Dockerfile\", tests: [\"//tests:layers\"], aliases: [\"team/dev:1\"]),\n\
                     Image(name: \"1-full\", dockerfile: \"1-full/Dockerfile\", tests: [\":full\"], aliases: [\"full\"]),\n\
                     Image(name: \"2\", dockerfile: \"2/Dockerfile\", args: {\"GREETING\": \"hello\"}, aliases: [\"other/app:2\"]),\n])"
                        .to_owned(),
                ),
                (
                    "images/app/1/Dockerfile",
                    "# the program\nFROM box:1\nCOPY hello /app/hello\nENV PATH=/app:/usr/bin:/bin\nRUN chmod 0755 /app/hello && hello > /app/said\n"
                        .to_owned(),
                ),
                ("images/app/1/hello", hello.to_owned()),
                ("images/app/1/README.md", "the program\n".to_owned()),
                ("images/app/1-dev/Dockerfile", "FROM team/app:1\nCOPY dev /app/dev\n".to_owned()),
                ("images/app/1-dev/dev", "dev\n".to_owned()),
                ("images/app/1-full/Dockerfile", "FROM team/app:1-dev\nCOPY full /app/full\n".to_owned()),
                ("images/app/1-full/full", "full\n".to_owned()),
                (
                    "images/app/2/Dockerfile",
                    "FROM box:1\nARG GREETING\nCOPY . /app/\nENV PATH=/app:/usr/bin:/bin\nRUN test \"$GREETING\" = hello && chmod 0755 /app/hello\n"
                        .to_owned(),
                ),
                ("images/app/2/hello", hello.to_owned()),
                ("images/app/2/.dockerignore", "# nothing of these\n.dockerignore\nnotes\n*.log\n".to_owned()),
                ("images/app/2/notes/one", "one\n".to_owned()),
                ("images/app/2/build.log", "built\n".to_owned()),
                (
                    "images/tool/BUILD.ron",
                    "Package(repository: \"team/tool\", tests: [\":marked\"], rules: [\n\
                     Test(name: \"marked\", run: [\"test -s /etc/marker && test -s /etc/length\", \"! grep -r tell-nobody /etc\"]),\n\
                     Image(name: \"x\", dockerfile: \"x/Dockerfile\", secrets: {\"token\": Env(\"TOKEN\")}, aliases: [\"other/tool:x\"]),\n])"
                        .to_owned(),
                ),
                (
                    "images/tool/x/Dockerfile",
                    format!(
                        "FROM {registry}/bases/onbuild:1\nRUN --mount=type=secret,id=token test -s /run/secrets/token && tr a-z x < /run/secrets/token > /etc/length\n\
                         COPY --from=team/app:1 /app/said /etc/said\n"
                    ),
                ),
                ("images/tool/x/marker", "marker\n".to_owned()),
            ],
        );
        workspace.put("images/base/box.tar", rootfs());
        workspace
    }
}

/// Bytes that the base of the many images has at least, packed.
pub const BIG: u64 = 20 << 20;

impl Workspace {
    /// Fifty images in five repositories on one big base, each with an alias in a sixth.
    pub fn of_many(root: &Path, registry: &str) -> Self {
        let workspace = Self::write(
            root,
            [
                ("BUILD.ron", format!("Workspace(packages: \"images\", registry: \"{registry}\", engine: Docker)")),
                (
                    "images/base/BUILD.ron",
                    "Package(rules: [Base(name: \"big\", provides: [\"big:1\"], from: Rootfs(\"big.tar\"))])".to_owned(),
                ),
            ],
        );
        for repository in 0..5 {
            let images = (repository * 10..repository * 10 + 10).map(|image| {
                workspace.put(&format!("images/r{repository}/{image}/Dockerfile"), "FROM big:1\nCOPY file /file\n");
                workspace.put(&format!("images/r{repository}/{image}/file"), format!("{image}\n"));
                format!("Image(name: \"{image}\", dockerfile: \"{image}/Dockerfile\", untested: \"only files\", aliases: [\"all/many:{image}\"]),\n")
            });
            let rules: String = images.collect();
            workspace.put(
                &format!("images/r{repository}/BUILD.ron"),
                format!("Package(repository: \"many/r{repository}\", rules: [\n{rules}])"),
            );
        }
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(BIG);
        // noise, so that it is as long when packed
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        });
        let noise: Vec<u8> = noise.take(BIG as usize).collect();
        let mut tar = tar::Builder::new(Vec::new());
        tar.append_data(&mut header, "noise", noise.as_slice()).unwrap();
        workspace.put("images/base/big.tar", tar.into_inner().unwrap());
        workspace
    }
}
