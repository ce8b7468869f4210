//! The root.
use super::workspace;

#[test]
fn unknown_fields() {
    insta::assert_snapshot!(workspace(r#"Workspace(package: "images", regstry: "x")"#), @r#"
        error: `Workspace` has no field `package`
         --> BUILD.ron:1:11
          |
        1 | Workspace(package: "images", regstry: "x")
          |           ^^^^^^^
          |
          = hint: did you mean `packages`?

        error: `Workspace` has no field `regstry`
         --> BUILD.ron:1:30
          |
        1 | Workspace(package: "images", regstry: "x")
          |                              ^^^^^^^
          |
          = hint: did you mean `registry`?
        "#);
}

#[test]
fn a_wrong_registry() {
    insta::assert_snapshot!(workspace(r#"Workspace(registry: "nodesource", registries: {"https://x": (tls: Off), "reg.corp/a": (), "reg.corp": (tls: "off", mirorrs: []), "a.b": Off, "c.d": (tls: Ca(1))})"#), @r#"
        error: `nodesource` is no registry: it begins with a host that has a `.` or a port, or is `localhost`
         --> BUILD.ron:1:21
          |
        1 | Workspace(registry: "nodesource", registries: {"https://x": (tls: Off), "reg.corp/a": (), "reg.corp": (tls: "off", mirorrs: []), "a.b...
          |                     ^^^^^^^^^^^^
          |
          = hint: write it like `docker.io`, `reg.corp:5000` or `reg.corp:5000/staging`

        error: `https://x` is no registry: it begins with a host that has a `.` or a port, or is `localhost`
         --> BUILD.ron:1:48
          |
        1 | Workspace(registry: "nodesource", registries: {"https://x": (tls: Off), "reg.corp/a": (), "reg.corp": (tls: "off", mirorrs: []), "a.b...
          |                                                ^^^^^^^^^^^
          |
          = hint: write it like `docker.io`, `reg.corp:5000` or `reg.corp:5000/staging`

        error: `reg.corp/a` has a path; settings are for a host
         --> BUILD.ron:1:73
          |
        1 | Workspace(registry: "nodesource", registries: {"https://x": (tls: Off), "reg.corp/a": (), "reg.corp": (tls: "off", mirorrs: []), "a.b...
          |                                                                         ^^^^^^^^^^^^
          |
          = hint: write `"reg.corp"`

        error: `tls` is `Off` or `Ca("ca.pem")`
         --> BUILD.ron:1:109
          |
        1 | Workspace(registry: "nodesource", registries: {"https://x": (tls: Off), "reg.corp/a": (), "reg.corp": (tls: "off", mirorrs: []), "a.b...
          |                                                                                                             ^^^^^ this is a string

        error: `registries` has no field `mirorrs`
         --> BUILD.ron:1:116
          |
        1 | Workspace(registry: "nodesource", registries: {"https://x": (tls: Off), "reg.corp/a": (), "reg.corp": (tls: "off", mirorrs: []), "a.b...
          |                                                                                                                    ^^^^^^^
          |
          = hint: did you mean `mirrors`?

        error: `a.b` is a group, like `(tls: Off, mirrors: ["mirror.corp"])`
         --> BUILD.ron:1:137
          |
        1 | ...eg.corp": (tls: "off", mirorrs: []), "a.b": Off, "c.d": (tls: Ca(1))})
          |                                                ^^^ this is the word `Off`, without quotes

        error: `Ca` is a string, like `"ca.pem"`
         --> BUILD.ron:1:158
          |
        1 | ... (tls: "off", mirorrs: []), "a.b": Off, "c.d": (tls: Ca(1))})
          |                                                            ^ this is a number
          |
          = hint: put it in quotes: `"1"`
        "#);
}

#[test]
fn a_wrong_engine() {
    insta::assert_snapshot!(workspace("Workspace(engine: docker, jobs: 0, epoch: -1)"), @r"
        error: there is no engine `docker`
         --> BUILD.ron:1:19
          |
        1 | Workspace(engine: docker, jobs: 0, epoch: -1)
          |                   ^^^^^^
          |
          = hint: did you mean `Docker`?

        error: `jobs` is a whole number from 1 to 4096
         --> BUILD.ron:1:33
          |
        1 | Workspace(engine: docker, jobs: 0, epoch: -1)
          |                                 ^

        error: `epoch` is a whole number from 0 to 253402300799
         --> BUILD.ron:1:43
          |
        1 | Workspace(engine: docker, jobs: 0, epoch: -1)
          |                                           ^^
        ");
}

#[test]
fn another_wrong_engine() {
    insta::assert_snapshot!(workspace(r#"Workspace(engine: "Docker", jobs: "4")"#), @r#"
        error: `engine` is `Embedded`, `Docker` or `Docker(host: "unix:///var/run/docker.sock")`
         --> BUILD.ron:1:19
          |
        1 | Workspace(engine: "Docker", jobs: "4")
          |                   ^^^^^^^^ this is a string

        error: `jobs` is a whole number, like `4`
         --> BUILD.ron:1:35
          |
        1 | Workspace(engine: "Docker", jobs: "4")
          |                                   ^^^ this is a string
          |
          = hint: write it without quotes: `4`
        "#);
}

#[test]
fn a_wrong_engine_host() {
    insta::assert_snapshot!(workspace(r#"Workspace(engine: Docker(host: "/var/run/docker.sock"))"#), @r#"
        error: `/var/run/docker.sock` is no address of a Docker daemon
         --> BUILD.ron:1:32
          |
        1 | Workspace(engine: Docker(host: "/var/run/docker.sock"))
          |                                ^^^^^^^^^^^^^^^^^^^^^^
          |
          = hint: write unix:///PATH, tcp://HOST:PORT, http://HOST:PORT, https://HOST:PORT or ssh://USER@HOST
        "#);
    insta::assert_snapshot!(workspace(r#"Workspace(engine: Docker(host: ""), retries: (max_delay: "1s"))"#), @r#"
        error: `host` is empty
         --> BUILD.ron:1:32
          |
        1 | Workspace(engine: Docker(host: ""), retries: (max_delay: "1s"))
          |                                ^^

        error: `delay` is longer than `max_delay`
         --> BUILD.ron:1:58
          |
        1 | Workspace(engine: Docker(host: ""), retries: (max_delay: "1s"))
          |                                                          ^^^^
        "#);
}

#[test]
fn no_packages() {
    insta::assert_snapshot!(workspace(r#"Workspace(packages: "pictures")"#), @r#"
        error: there is no folder `pictures` to hold the packages
         --> BUILD.ron:1:21
          |
        1 | Workspace(packages: "pictures")
          |                     ^^^^^^^^^^
          |
          = hint: make it, or name another: `packages: "…"`
        "#);
}

#[test]
fn no_workspace() {
    insta::assert_snapshot!(workspace("Package(rules: [])"), @r"
        error: there is no rule `Package` here
         --> BUILD.ron:1:1
          |
        1 | Package(rules: [])
          | ^^^^^^^
          |
          = hint: what may stand here: `Workspace`
        ");
}

#[test]
fn packages_outside() {
    insta::assert_snapshot!(workspace(r#"Workspace(packages: "..")"#), @r#"
        error: `..` leaves the workspace
         --> BUILD.ron:1:21
          |
        1 | Workspace(packages: "..")
          |                     ^^^^
          |
          = hint: a path may leave its package, not the workspace: bring the file in
        "#);
}

#[test]
fn one_name_at_the_registry() {
    insta::assert_snapshot!(workspace(r#"Workspace(registry: "reg.corp")"#), @r#"
        error: //a:1 has the name `reg.corp/a:1` twice
         --> images/a/BUILD.ron:1:70
          |
        1 | Package(repository: "reg.corp/a", rules: [Image(name: "1", aliases: ["a:1"])])
          |                                                       --- first here ^^^^^
        "#);
}
