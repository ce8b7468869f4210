//! The plain console over scripted runs, each a whole snapshot.

use super::*;
use crate::event::Counts;
use crate::report::script::{START, Script, changed, good, label, mixed};

fn shown_with(script: &Script, options: ConsoleOptions) -> String {
    let mut console = Console::new(Vec::new(), options);
    script.tell(&mut console);
    String::from_utf8(std::mem::take(console.out())).unwrap()
}

fn shown(script: &Script) -> String {
    shown_with(script, ConsoleOptions::default())
}

fn counts(images: usize, tests: usize) -> Counts {
    Counts { images, tests, ..Counts::default() }
}

fn none() -> Counts {
    Counts::default()
}

#[test]
fn a_mixed_run() {
    // a snapshot has no indentation of its own
    assert!(shown(&mixed()).starts_with("    igraph 0.1.0  run 7f3k  3 images"));
    insta::assert_snapshot!(shown(&mixed()), @r#"
     igraph 0.1.0  run 7f3k  3 images, 4 tests: 2 to build, 2 to test, 1 maybe, 2 fresh
      BUILD [   12.4s] //debian/jessie:4.2.1               node/4.2.1/Dockerfile changed (+1 more)
      RETRY [    1.0s] //debian/jessie:4.2.1[test/http]    try 1 of 3: connection reset; again in 0.9s
       PASS [    2.9s] //debian/jessie:4.2.1[test/http]    try 2 of 3 (flaky: connection reset)
       FAIL [   44.0s] //ubuntu/trusty:0.12                exit 100 at RUN apt-get update (Dockerfile:7)
            | Get:1 trusty
            | Err:2 trusty
            | E: Failed to fetch <x> & y
       SKIP            //ubuntu/trusty:0.12[test/http]     //ubuntu/trusty:0.12 failed
    Summary [   44.0s] 1 built, 3 fresh, 1 failed · tests: 1 passed (1 flaky), 0 failed, 1 skipped
    "#);
}

#[test]
fn a_mixed_run_verbose() {
    let options = ConsoleOptions { verbosity: Verbosity::Verbose, logs: Logs::All, ..ConsoleOptions::default() };
    insta::assert_snapshot!(shown_with(&mixed(), options), @r#"
     igraph 0.1.0  run 7f3k  3 images, 4 tests: 2 to build, 2 to test, 1 maybe, 2 fresh
      FRESH            //debian/wheezy:4.2.1
       PASS            //debian/wheezy:4.2.1[test/http]    cached
       PASS            //debian/wheezy:4.2.1[test/smoke]   cached
      BUILD [   12.4s] //debian/jessie:4.2.1               node/4.2.1/Dockerfile changed (+1 more)
            - node/4.2.1/Dockerfile changed
            - start.sh changed
      RETRY [    1.0s] //debian/jessie:4.2.1[test/http]    try 1 of 3: connection reset; again in 0.9s
            | curl: (56) reset
       PASS [    2.9s] //debian/jessie:4.2.1[test/http]    try 2 of 3 (flaky: connection reset)
            | ok
       FAIL [   44.0s] //ubuntu/trusty:0.12                exit 100 at RUN apt-get update (Dockerfile:7)
            | Get:1 trusty
            | Err:2 trusty
            | E: Failed to fetch <x> & y
       SKIP            //ubuntu/trusty:0.12[test/http]     //ubuntu/trusty:0.12 failed
    Summary [   44.0s] 1 built, 3 fresh, 1 failed · tests: 1 passed (1 flaky), 0 failed, 1 skipped
    "#);
}

#[test]
fn a_mixed_run_quiet_and_without_logs() {
    let options = ConsoleOptions { verbosity: Verbosity::Quiet, logs: Logs::None, ..ConsoleOptions::default() };
    insta::assert_snapshot!(shown_with(&mixed(), options), @r#"
       FAIL [   44.0s] //ubuntu/trusty:0.12                exit 100 at RUN apt-get update (Dockerfile:7)
    Summary [   44.0s] 1 built, 3 fresh, 1 failed · tests: 1 passed (1 flaky), 0 failed, 1 skipped
    "#);
}

#[test]
fn streamed_output() {
    let options = ConsoleOptions { logs: Logs::Stream, ..ConsoleOptions::default() };
    insta::assert_snapshot!(shown_with(&mixed(), options), @r#"
        igraph 0.1.0  run 7f3k  3 images, 4 tests: 2 to build, 2 to test, 1 maybe, 2 fresh
    //ubuntu/trusty:0.12 | Get:1 trusty
    //ubuntu/trusty:0.12 | Err:2 trusty
    //ubuntu/trusty:0.12 | E: Failed to fetch <x> & y
    //ubuntu/trusty:0.12 |
         BUILD [   12.4s] //debian/jessie:4.2.1               node/4.2.1/Dockerfile changed (+1 more)
    //debian/jessie:4.2.1[test/http] | curl: (56) reset
         RETRY [    1.0s] //debian/jessie:4.2.1[test/http]    try 1 of 3: connection reset; again in 0.9s
    //debian/jessie:4.2.1[test/http] | ok
          PASS [    2.9s] //debian/jessie:4.2.1[test/http]    try 2 of 3 (flaky: connection reset)
          FAIL [   44.0s] //ubuntu/trusty:0.12                exit 100 at RUN apt-get update (Dockerfile:7)
          SKIP            //ubuntu/trusty:0.12[test/http]     //ubuntu/trusty:0.12 failed
       Summary [   44.0s] 1 built, 3 fresh, 1 failed · tests: 1 passed (1 flaky), 0 failed, 1 skipped
    "#);
}

#[test]
fn colour_and_width() {
    let options = ConsoleOptions { color: true, width: Some(80), ..ConsoleOptions::default() };
    let text = shown_with(&mixed(), options);
    insta::assert_snapshot!(text.replace('\x1b', "^"), @r#"
     ^[1migraph^[0m 0.1.0  run 7f3k  3 images, 4 tests: 2 to build, 2 to test…
      ^[1m^[32mBUILD^[0m [   12.4s] //debian/jessie:4.2.1               node/4.2.1/Dockerfile…
      ^[1m^[33mRETRY^[0m [    1.0s] //debian/jessie:4.2.1[test/http]    try 1 of 3: connectio…
       ^[1m^[33mPASS^[0m [    2.9s] //debian/jessie:4.2.1[test/http]    try 2 of 3 (flaky: co…
       ^[1m^[31mFAIL^[0m [   44.0s] //ubuntu/trusty:0.12                exit 100 at RUN apt-get update (Dockerfile:7)
            ^[2m|^[0m Get:1 trusty
            ^[2m|^[0m Err:2 trusty
            ^[2m|^[0m E: Failed to fetch <x> & y
       ^[1m^[33mSKIP^[0m            //ubuntu/trusty:0.12[test/http]     //ubuntu/trusty:0.12 …
    ^[1m^[31mSummary^[0m [   44.0s] 1 built, 3 fresh, 1 failed · tests: 1 passed (1 flaky), 0 failed, 1 skipped
    "#);
    let cut = anstream::adapter::strip_str(&text).to_string();
    assert!(cut.lines().filter(|line| !line.contains("FAIL") && !line.contains("Summary")).all(|line| line.chars().count() <= 80), "{cut}");
}

#[test]
fn nothing_to_do() {
    let fresh = |verb: &str| {
        Script::new(verb, counts(1, 1), none(), none())
            .end("//a:1", Outcome::Fresh, &[], 0, 0)
            .end("//a:1[test/t]", Outcome::Fresh, &[], 0, 0)
            .wait(40)
            .finish(0, None)
    };
    insta::assert_snapshot!(shown(&fresh("test")), @"igraph: nothing to do (1 image, 1 test fresh)");
    let verbose = ConsoleOptions { verbosity: Verbosity::Verbose, ..ConsoleOptions::default() };
    insta::assert_snapshot!(shown_with(&fresh("test"), verbose), @r#"
        igraph 0.1.0  run 7f3k  1 image, 1 test: 2 fresh
         FRESH            //a:1
          PASS            //a:1[test/t]                       cached
    igraph: nothing to do (1 image, 1 test fresh)
    "#);
    let quiet = ConsoleOptions { verbosity: Verbosity::Quiet, ..ConsoleOptions::default() };
    assert_eq!(shown_with(&fresh("test"), quiet), "");
}

#[test]
fn nothing_stale_but_something_blocked_is_not_nothing() {
    let scope = Counts { images: 1, pushes: 1, ..none() };
    let script = Script::new("push", scope, none(), none())
        .end("//a:1", Outcome::Fresh, &[], 0, 0)
        .end("//a:1[push/1]", Outcome::Blocked { reason: "the image has no tests".into() }, &[], 0, 0)
        .finish(5, None);
    insta::assert_snapshot!(shown(&script), @r#"
     igraph 0.1.0  run 7f3k  1 image, 1 push: 2 fresh
      BLOCK            //a:1[push/1]                       the image has no tests
    Summary [    0.0s] 0 built, 1 fresh, 0 failed · pushes: 0 moved, 0 failed, 1 blocked
    "#);
}

#[test]
fn a_hundred_refused_credentials_are_one_error() {
    let refused =
        Failure::infra("reg.corp/team/app: 401 unauthorized").hint("docker login reg.corp").group("credentials reg.corp/team/app");
    let mut script = Script::new("push", Counts { images: 100, pushes: 200, ..none() }, Counts { pushes: 200, ..none() }, none());
    for number in 0..100 {
        let own = format!("//app:{number}[push/{number}]");
        script = script
            .end(&format!("//app:{number}"), Outcome::Fresh, &[], 0, 0)
            .fails(&own, &refused, 100)
            .skip(&format!("//app:{number}[push/latest]"), &own);
    }
    let text = shown(&script.finish(5, None));
    insta::assert_snapshot!(text, @r#"
     igraph 0.1.0  run 7f3k  100 images, 200 pushes: 200 to push, 100 fresh
       FAIL [    0.1s] //app:0[push/0]                     reg.corp/team/app: 401 unauthorized
            hint: docker login reg.corp
       SKIP            //app:0[push/latest]                //app:0[push/0] failed
       SKIP            //app:1[push/latest]                //app:1[push/1] failed
       SKIP            //app:2[push/latest]                //app:2[push/2] failed
       SKIP            //app:3[push/latest]                //app:3[push/3] failed
       SKIP            //app:4[push/latest]                //app:4[push/4] failed
       SKIP            //app:5[push/latest]                //app:5[push/5] failed
       SKIP            //app:6[push/latest]                //app:6[push/6] failed
       SKIP            //app:7[push/latest]                //app:7[push/7] failed
       FAIL            99 more like //app:0[push/0]        reg.corp/team/app: 401 unauthorized
       SKIP            92 more                             //app:0[push/0] and others failed
    Summary [   10.0s] 0 built, 100 fresh, 0 failed · pushes: 0 moved, 100 failed, 100 skipped
    "#);
}

#[test]
fn of_many_skipped_for_one_cause_the_first_are_listed() {
    let mut script = Script::new("test", counts(31, 0), counts(31, 0), none()).fails("//base:1", &Failure::step("exit 2"), 10);
    for number in 0..30 {
        script = script.skip(&format!("//app:{number}"), "//base:1");
    }
    let script = script.finish(1, None);
    let text = shown(&script);
    assert_eq!(text.matches("SKIP").count(), LISTED + 1);
    assert!(text.contains("SKIP            22 more                             //base:1 failed\n"), "{text}");
    let verbose = shown_with(&script, ConsoleOptions { verbosity: Verbosity::Verbose, ..ConsoleOptions::default() });
    assert_eq!(verbose.matches("SKIP").count(), 30);
}

#[test]
fn stopped_by_ctrl_c() {
    let script = Script::new("build", counts(3, 0), counts(3, 0), none())
        .whole("//a:1", &[Reason::NeverBuilt], 1500)
        .start("//a:2", &[Reason::NeverBuilt])
        .attempt("//a:2", 1, 4)
        .wait(500)
        .end("//a:2", Outcome::Cancelled, &[Reason::NeverBuilt], 1, 500)
        .end("//a:3", Outcome::Cancelled, &[], 0, 0)
        .finish(130, Some("Ctrl-C"));
    insta::assert_snapshot!(shown(&script), @r#"
     igraph 0.1.0  run 7f3k  3 images: 3 to build, 0 fresh
      BUILD [    1.5s] //a:1                               no result yet
       STOP [    0.5s] //a:2                               stopped
    Stopped [    2.0s] by Ctrl-C · 1 built, 0 fresh, 0 failed, 2 cancelled
    "#);
}

#[test]
fn fail_fast() {
    let script = Script::new("build", counts(40, 0), counts(40, 0), none()).fails("//a:1", &Failure::step("exit 1"), 1500);
    let script = (2..=40).fold(script, |script, number| script.end(&format!("//a:{number}"), Outcome::Cancelled, &[], 0, 0));
    insta::assert_snapshot!(shown(&script.finish(1, Some("--fail-fast"))), @r#"
     igraph 0.1.0  run 7f3k  40 images: 40 to build, 0 fresh
       FAIL [    1.5s] //a:1                               exit 1
    Stopped [    1.5s] by --fail-fast · 0 built, 0 fresh, 1 failed, 39 cancelled
    "#);
}

#[test]
fn retries_names_and_warnings() {
    let scope = Counts { bases: 1, images: 1, tests: 1, tags: 0, pushes: 2 };
    let down = Failure::infra("reg.corp: 503").group("registry reg.corp");
    let moves = |name: &str| Reason::NameMoves {
        written: name.to_owned(),
        name: format!("reg.corp/a:{name}"),
        old: Some(image("old").to_string()),
        new: image("new").to_string(),
    };
    use crate::report::script::image;
    let moved = [Reason::BaseMoved { reference: "debian:jessie".into(), old: image("a").to_string(), new: image("b").to_string() }];
    let script = Script::new("push", scope, scope, none())
        .warn(None, "//z:1 has `untested: \"no shell\"`")
        .whole("docker.io//library/debian:jessie", &moved, 300)
        .start("//a:1", &[Reason::NeverBuilt])
        .end("//a:1", Outcome::Succeeded { image: None, changed: false }, &[Reason::Forced { reason: Some("cve".into()) }], 1, 700)
        .start("//a:1[push/1]", &[])
        .attempt("//a:1[push/1]", 1, 4)
        .wait(100)
        .attempt_failed("//a:1[push/1]", 1, &down, Some(2000))
        .start("//a:1[push/2]", &[])
        .attempt("//a:1[push/2]", 1, 4)
        .attempt_failed("//a:1[push/2]", 1, &down, Some(1900))
        .wait(2000)
        .attempt("//a:1[push/1]", 2, 4)
        .end("//a:1[push/1]", good(), &[moves("1")], 2, 2100)
        .end("//a:1[push/2]", Outcome::Succeeded { image: None, changed: false }, &[], 1, 2000)
        .finish(0, None);
    insta::assert_snapshot!(shown(&script), @r#"
     igraph 0.1.0  run 7f3k  1 image, 1 test, 2 pushes: 1 base to fetch, 1 to build, 1 to test, 2 to push, 0 fresh
       WARN //z:1 has `untested: "no shell"`
       BASE [    0.3s] docker.io//library/debian:jessie    base debian:jessie moved: ca978112ca1b → 3e23e8160039
      BUILD [    0.7s] //a:1                               forced: cve, same image as before
      RETRY [    0.1s] //a:1[push/1]                       try 1 of 4: reg.corp: 503; again in 2.0s
       PUSH [    2.1s] //a:1[push/1]                       reg.corp/a:1: cba06b5736fa → 11507a0e2f5e, try 2 of 4
       PUSH [    2.0s] //a:1[push/2]                       already right
    Summary [    2.4s] 1 base fetched, 1 built, 0 fresh, 0 failed · pushes: 1 moved, 1 already right, 0 failed
    "#);
}

#[test]
fn signs_of_life_at_growing_intervals() {
    let mut console = Console::new(Vec::new(), ConsoleOptions::default());
    let script = Script::new("build", counts(2, 0), counts(2, 0), none()).start("//a:1", &[]).attempt("//a:1", 1, 4);
    let script = script.wait(5_000).start("//a:2", &[]).attempt("//a:2", 1, 4).output("//a:2", &["Get:1 http://mirror", ""]);
    script.tell(&mut console);
    for second in 0..2000 {
        if second == 70 {
            Script::new("build", none(), none(), none()).end("//a:2", good(), &[changed("f")], 1, 65_000).events[1..]
                .iter()
                .for_each(|event| console.apply(event));
        }
        console.tick(START.after(Duration::from_secs(second)));
    }
    insta::assert_snapshot!(String::from_utf8(console.out().clone()).unwrap(), @r#"
      igraph 0.1.0  run 7f3k  2 images: 2 to build, 0 fresh
    building [   10.0s] //a:1
    building [   10.0s] //a:2                               Get:1 http://mirror
    building [   20.0s] //a:1
    building [   20.0s] //a:2                               Get:1 http://mirror
    building [   40.0s] //a:1
    building [   40.0s] //a:2                               Get:1 http://mirror
       BUILD [   65.0s] //a:2                               f changed
    building [   80.0s] //a:1
    building [  160.0s] //a:1
    building [  320.0s] //a:1
    building [  620.0s] //a:1
    building [  920.0s] //a:1
    building [ 1220.0s] //a:1
    building [ 1520.0s] //a:1
    building [ 1820.0s] //a:1
    "#);
}

#[test]
fn long_output_tells_where_the_rest_is() {
    let lines: Vec<String> = (0..50).map(|number| format!("line {number}")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let script =
        Script::new("build", counts(1, 0), counts(1, 0), none()).start("//a:1", &[]).attempt("//a:1", 1, 1).output("//a:1", &lines);
    let failure = Failure::step("exit 1");
    let text = shown(&script.end("//a:1", Outcome::Failed { failure }, &[], 1, 10).finish(1, None));
    assert!(text.contains("| … 30 more lines before these: igraph log show //a:1\n           | line 30\n"), "{text}");
    assert!(text.contains("| line 49\n   Summary"), "{text}");
}

#[test]
fn a_console_nobody_reads_ends_nothing() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut console = Console::new(Closed, ConsoleOptions::default());
    mixed().tell(&mut console);
    assert!(console.board().is_empty() && console.tally().finished() == 7);
    assert!(console.board().node(&label("//ubuntu/trusty:0.12")).is_none());
}
