//! The program from outside: exit codes, which stream says what, and what a closed pipe does.

use std::process::{Command, Output, Stdio};

fn igraph(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_igraph"));
    command.args(arguments).env_clear();
    command
}

fn ran(arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = igraph(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[test]
fn help_is_data_and_mistakes_are_for_people() {
    for arguments in [&["--help"][..], &["help"], &["help", "ci"], &["help", "log", "show"], &["push", "-h"], &["--version"]] {
        let (code, out, err) = ran(arguments);
        assert_eq!((code, out.is_empty(), err.as_str()), (Some(0), false, ""), "{arguments:?}");
    }
    for arguments in [&["biuld"][..], &[], &["help", "patern"], &["build", "--jobs", "x"], &["-C", "/nowhere", "help"], &["log"]] {
        let (code, out, err) = ran(arguments);
        assert_eq!((code, out.as_str(), err.is_empty()), (Some(2), "", false), "{arguments:?}");
    }
    let (_, _, err) = ran(&["help", "patern"]);
    insta::assert_snapshot!(err, @r#"
    error: there is no topic or command `patern`
    hint: did you mean `patterns`?
    "#);
    let (_, _, err) = ran(&["-C", "/nowhere", "help"]);
    insta::assert_snapshot!(err, @"error: cannot change to `/nowhere`: No such file or directory (os error 2)");
}

#[test]
fn no_colour_where_no_terminal_is() {
    let (_, out, _) = ran(&["--help"]);
    let (_, _, err) = ran(&["biuld"]);
    assert!(!out.contains('\x1b') && !err.contains('\x1b'));
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, out, _) = ran(&["completions", shell]);
        assert!(code == Some(0) && out.contains("build-report") && out.contains("what-failed"), "{shell}");
    }
}

#[test]
fn a_closed_pipe_ends_quietly() {
    for arguments in [["completions", "zsh"], ["help", "ci"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = igraph(&arguments).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(141), &b""[..]), "{arguments:?}");
    }
}
