//! Writes catalogues in NodeSource's shape, of any size: operating system × release × version, a Dockerfile and three files of
//! 4 KiB per image, three aliases each, a test per release. Beside them a `build.ninja` over the same files. Knows BUILD.ron as
//! text only; nothing of what it writes depends on the machine, the clock or chance.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Operating system and release of the first ten packages.
const RELEASES: [(&str, &str); 10] = [
    ("centos", "6"),
    ("centos", "7"),
    ("debian", "jessie"),
    ("debian", "wheezy"),
    ("fedora", "23"),
    ("fedora", "24"),
    ("ubuntu", "precise"),
    ("ubuntu", "trusty"),
    ("ubuntu", "wily"),
    ("ubuntu", "xenial"),
];

/// The files of an image beside its Dockerfile.
const FILES: [&str; 3] = ["LICENSE", "entrypoint.sh", "npmrc"];

/// Bytes in each of them.
const FILE_BYTES: usize = 4096;

/// A catalogue on disk.
pub struct Catalogue {
    /// The workspace's root, where `build.ninja` is too.
    pub root: PathBuf,
    /// The context folder of every image, relative to the root, in the order in which they are declared.
    pub contexts: Vec<String>,
    /// The context folder of every test, relative to the root.
    pub tests: Vec<String>,
}

impl Catalogue {
    /// Writes a catalogue of so many images below an empty or missing folder: in ten packages, and above 10,000 images in one
    /// for every 200.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(root: &Path, images: usize) -> io::Result<Self> {
        let packages = if images > 10_000 { images / 200 } else { RELEASES.len() };
        let mut catalogue = Self { root: root.to_owned(), contexts: Vec::with_capacity(images), tests: Vec::with_capacity(packages) };
        let mut bases = String::from("Package(rules: [\n");
        let mut ninja = String::from(
            "builddir = ninja-out\nrule image\n  command = touch $out\n  description = BUILD $out\nrule test\n  command = touch $out\n  description = TEST $out\n",
        );
        fs::create_dir_all(root.join("images/base"))?;
        write(root, "BUILD.ron", "Workspace(packages: \"images\", engine: Docker)\n")?;
        for package in 0..packages {
            let release = Release::new(package);
            let (system, name) = (release.system, &release.name);
            let _ = writeln!(
                bases,
                "    Base(name: \"{system}-{name}\", provides: [\"{system}:{name}\"], from: Rootfs(\"{system}-{name}.tar\")),"
            );
            fs::write(root.join(release.base()), rootfs(&release)?)?;
            // what does not divide goes to the first packages
            let count = images / packages + usize::from(package < images % packages);
            catalogue.write_release(&release, count, &mut ninja)?;
        }
        bases.push_str("])\n");
        write(root, "images/base/BUILD.ron", &bases)?;
        write(root, "build.ninja", &ninja)?;
        Ok(catalogue)
    }

    fn write_release(&mut self, release: &Release, images: usize, ninja: &mut String) -> io::Result<()> {
        let (system, name) = (release.system, &release.name);
        let folder = format!("images/{system}/{name}");
        let test = format!("{folder}/tests/node");
        fs::create_dir_all(self.root.join(&test))?;
        write(&self.root, &format!("{test}/Dockerfile"), "COPY test.js /test/\nRUN [\"node\", \"/test/test.js\"]\n")?;
        write(&self.root, &format!("{test}/test.js"), &format!("console.log('{system} {name}', process.version)\n"))?;

        let mut rules = format!(
            "Package(\n    repository: \"nodesource/{name}\",\n    tests: [\":node\"],\n    rules: [\n        \
             Test(name: \"node\", dockerfile: \"tests/node/Dockerfile\"),\n"
        );
        for image in 0..images {
            let version = format!("{}.{}.{}", image / 100, image / 10 % 10, image % 10);
            let context = format!("{folder}/node/{version}");
            fs::create_dir_all(self.root.join(&context))?;
            let dockerfile = format!(
                "# Node.js {version} on {system} {name}\nFROM {system}:{name}\nENV NODE_VERSION={version}\n\
                 RUN node-install \"$NODE_VERSION\" && rm -rf /tmp/*\nCOPY {} /usr/local/share/node/\nCMD [\"node\"]\n",
                FILES.join(" ")
            );
            write(&self.root, &format!("{context}/Dockerfile"), &dockerfile)?;
            for file in FILES {
                let path = format!("{context}/{file}");
                write(&self.root, &path, &filler(&path))?;
            }
            let _ = writeln!(
                rules,
                "        Image(\n            name: \"{version}\",\n            dockerfile: \"node/{version}/Dockerfile\",\n            \
                 aliases: [\"v{version}\", \"{version}-{name}\", \"nodesource/node:{version}-{name}\"],\n        ),"
            );
            let inputs: String = FILES.iter().map(|file| format!(" {context}/{file}")).collect();
            let _ = writeln!(
                ninja,
                "build ninja-out/{system}/{name}/{version}: image {context}/Dockerfile{inputs} {}\n\
                 build ninja-out/{system}/{name}/{version}.test: test ninja-out/{system}/{name}/{version} {test}/Dockerfile {test}/test.js",
                release.base()
            );
            self.contexts.push(context);
        }
        rules.push_str("    ],\n)\n");
        write(&self.root, &format!("{folder}/BUILD.ron"), &rules)?;
        self.tests.push(test);
        Ok(())
    }
}

struct Release {
    system: &'static str,
    name: String,
}

impl Release {
    fn new(package: usize) -> Self {
        let (system, name) = RELEASES[package % RELEASES.len()];
        let round = package / RELEASES.len();
        Self { system, name: if round == 0 { name.to_owned() } else { format!("{name}-{round}") } }
    }

    fn base(&self) -> String {
        format!("images/base/{}-{}.tar", self.system, self.name)
    }
}

fn write(root: &Path, path: &str, text: &str) -> io::Result<()> {
    fs::write(root.join(path), text)
}

/// A root file system with one file.
fn rootfs(release: &Release) -> io::Result<Vec<u8>> {
    let text = format!("ID={}\nVERSION_ID={}\n", release.system, release.name);
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "etc/os-release", text.as_bytes())?;
    archive.into_inner()
}

/// Text of [`FILE_BYTES`] that no other path has.
fn filler(path: &str) -> String {
    let mut text = format!("# {path}\n");
    let mut state = path.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    while text.len() < FILE_BYTES {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let _ = writeln!(text, "{state:016x}");
    }
    text.truncate(FILE_BYTES);
    text
}
