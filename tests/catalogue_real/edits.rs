//! What an edit brings: exactly what can be another by it, each with its reason; and what is no edit.

use std::collections::BTreeMap;
use std::process::Command;

use super::names::NAMES;
use super::site::{Site, builds, plain};

#[test]
fn one_copied_file() {
    let Some(site) = Site::start("one_copied_file", false) else { return };
    let one = site.catalogue();
    site.igraph(&one.root, &["push", "//..."]).done();
    site.calls();

    one.edit("images/app/1/hello", "echo", "# another\necho");
    let ran = site.events(&one.root, &["push", "//..."]).done();
    insta::assert_snapshot!(ran.story(), @r#"
    //app:1 done: hello changed
    //app:1-dev done: //app:1 changed: ID → ID
    //app:1-dev[push/1-dev] done: REG/team/app:1-dev: ID → ID
    //app:1-dev[push/team/dev:1] done: REG/team/dev:1: ID → ID
    //app:1-dev[tag/1-dev] done: team/app:1-dev: ID → ID
    //app:1-dev[tag/team/dev:1] done: team/dev:1: ID → ID
    //app:1-dev[test/layers] done: subject changed: ID → ID
    //app:1-dev[test/runs] done: subject changed: ID → ID
    //app:1-dev[test/shell] done: subject changed: ID → ID
    //app:1-full done: //app:1-dev changed: ID → ID
    //app:1-full[push/1-full] done: REG/team/app:1-full: ID → ID
    //app:1-full[push/full] done: REG/team/app:full: ID → ID
    //app:1-full[tag/1-full] done: team/app:1-full: ID → ID
    //app:1-full[tag/full] done: team/app:full: ID → ID
    //app:1-full[test/full] done: subject changed: ID → ID
    //app:1-full[test/runs] done: subject changed: ID → ID
    //app:1-full[test/shell] done: subject changed: ID → ID
    //app:1[push/1] done: REG/team/app:1: ID → ID
    //app:1[push/latest] done: REG/team/app:latest: ID → ID
    //app:1[push/other/app:1] done: REG/other/app:1: ID → ID
    //app:1[tag/1] done: team/app:1: ID → ID
    //app:1[tag/latest] done: team/app:latest: ID → ID
    //app:1[tag/other/app:1] done: other/app:1: ID → ID
    //app:1[test/runs] done: subject changed: ID → ID
    //app:1[test/shell] done: subject changed: ID → ID
    //tool:x done: //app:1 changed: ID → ID
    "#);
    let why = site.igraph(&one.root, &["why", "//app:1", "--run", "last"]).done();
    insta::assert_snapshot!(plain(&why.out), @r#"
    //app:1 in run RUN: ran
      hello changed: 644 ID → 644 ID
    "#);
    let why = site.igraph(&one.root, &["why", "//app:1-dev[push/team/dev:1]", "--run", "last"]).done();
    insta::assert_snapshot!(plain(&why.out), @r#"
    //app:1-dev[push/team/dev:1] in run RUN: ran
      REG/team/dev:1: ID → ID
    "#);
    site.igraph(&one.root, &["push", "//..."]).idle();
}

#[test]
fn what_no_instruction_reads() {
    let Some(site) = Site::start("what_no_instruction_reads", false) else { return };
    let one = site.catalogue();
    site.igraph(&one.root, &["push", "//..."]).done();
    let runs = one.runs();
    site.calls();
    let idle = |what: &str| {
        for _ in 0..2 {
            let ran = site.igraph(&one.root, &["push", "//..."]);
            assert!(ran.err.contains("nothing to do"), "{what}: {}", ran.err);
            assert_eq!((ran.code, site.calls(), one.runs()), (Some(0), (0, 0), runs), "{what}");
        }
    };
    one.edit("images/app/1/Dockerfile", "# the program", "# the program, explained\n\n# at length");
    idle("a comment in the Dockerfile");
    one.edit("images/app/1/README.md", "the program", "another text");
    one.put("images/app/1/CHANGES.md", "new\n");
    idle("files in the context that are not copied");
    one.put("images/app/2/notes/one", "other\n");
    one.put("images/app/2/notes/two", "new\n");
    std::fs::remove_file(one.root.join("images/app/2/build.log")).unwrap();
    idle("files under .dockerignore");
    one.edit("images/app/2/.dockerignore", "# nothing of these", "# other words");
    idle("a comment in .dockerignore");
    one.edit("BUILD.ron", "Workspace(", "// a comment\nWorkspace(");
    idle("a comment in BUILD.ron");
    assert!(Command::new("find").arg(one.root.join("images")).args(["-exec", "touch", "{}", "+"]).status().unwrap().success());
    idle("touch of everything");
    assert!(Command::new("chmod").args(["-R", "go-rwx"]).arg(one.root.join("images")).status().unwrap().success());
    idle("bits of group and others");

    let saved = site.folder.path().join("saved");
    site.igraph(&one.root, &["state", "save", saved.to_str().unwrap()]).done();
    let two = one.cloned(&site.folder.path().join("a longer path"));
    site.igraph(&two.root, &["state", "load", saved.to_str().unwrap()]).done();
    for _ in 0..2 {
        site.igraph(&two.root, &["push", "//..."]).idle();
    }
    assert_eq!((site.calls(), two.runs()), ((0, 0), 0));
}

#[test]
fn a_test_that_breaks_and_an_edit_taken_back() {
    let Some(site) = Site::start("a_test_that_breaks_and_an_edit_taken_back", true) else { return };
    let one = site.catalogue();
    site.igraph(&one.root, &["push", "//..."]).done();
    let all: Vec<&str> = NAMES.iter().copied().flatten().copied().collect();
    let at_first = site.names(&all);
    let local = || all.iter().map(|name| (*name, site.local(name).unwrap())).collect::<BTreeMap<_, _>>();
    let local_at_first = local();

    // every image is another, and the test that only 1-dev has fails
    one.edit("images/app/1/hello", "echo", "# another\necho");
    one.edit("images/app/2/hello", "echo", "# another\necho");
    one.edit("images/tool/x/marker", "marker", "other");
    one.edit("images/tests/layers/expected", "hello", "goodbye");
    let ran = site.events(&one.root, &["push", "//..."]).code(3);
    insta::assert_snapshot!(ran.story(), @r#"
    //app:1 done: hello changed
    //app:1-dev done: //app:1 changed: ID → ID
    //app:1-dev[push/1-dev] skipped, //app:1-dev[test/layers]
    //app:1-dev[push/team/dev:1] skipped, //app:1-dev[test/layers]
    //app:1-dev[tag/1-dev] skipped, //app:1-dev[test/layers]
    //app:1-dev[tag/team/dev:1] skipped, //app:1-dev[test/layers]
    //app:1-dev[test/layers] failed, exit 1 at RUN cmp /tmp/expected /app/said (images/tests/layers/Dockerfile:3): subject changed: ID → ID; expected changed
    //app:1-dev[test/runs] done: subject changed: ID → ID
    //app:1-dev[test/shell] done: subject changed: ID → ID
    //app:1-full done: //app:1-dev changed: ID → ID
    //app:1-full[push/1-full] skipped, //app:1-dev[test/layers]
    //app:1-full[push/full] skipped, //app:1-dev[test/layers]
    //app:1-full[tag/1-full] skipped, //app:1-dev[test/layers]
    //app:1-full[tag/full] skipped, //app:1-dev[test/layers]
    //app:1-full[test/full] done: subject changed: ID → ID
    //app:1-full[test/runs] done: subject changed: ID → ID
    //app:1-full[test/shell] done: subject changed: ID → ID
    //app:1[push/1] done: REG/team/app:1: ID → ID
    //app:1[push/latest] done: REG/team/app:latest: ID → ID
    //app:1[push/other/app:1] done: REG/other/app:1: ID → ID
    //app:1[tag/1] done: team/app:1: ID → ID
    //app:1[tag/latest] done: team/app:latest: ID → ID
    //app:1[tag/other/app:1] done: other/app:1: ID → ID
    //app:1[test/runs] done: subject changed: ID → ID
    //app:1[test/shell] done: subject changed: ID → ID
    //app:2 done: hello changed
    //app:2[push/2] done: REG/team/app:2: ID → ID
    //app:2[push/other/app:2] done: REG/other/app:2: ID → ID
    //app:2[tag/2] done: team/app:2: ID → ID
    //app:2[tag/other/app:2] done: other/app:2: ID → ID
    //app:2[test/runs] done: subject changed: ID → ID
    //app:2[test/shell] done: subject changed: ID → ID
    //tool:x done: //app:1 changed: ID → ID; marker changed
    //tool:x[push/other/tool:x] done: REG/other/tool:x: ID → ID
    //tool:x[push/x] done: REG/team/tool:x: ID → ID
    //tool:x[tag/other/tool:x] done: other/tool:x: ID → ID
    //tool:x[tag/x] done: team/tool:x: ID → ID
    //tool:x[test/marked] done: subject changed: ID → ID
    "#);
    let broken = site.names(&all);
    let moved = |before: &BTreeMap<&str, _>, after: &BTreeMap<&str, _>| -> Vec<String> {
        all.iter().filter(|name| before[*name] != after[*name]).map(|name| (*name).to_owned()).collect()
    };
    let others = ["team/app:1", "team/app:latest", "other/app:1", "team/app:2", "other/app:2", "team/tool:x", "other/tool:x"];
    assert_eq!(moved(&at_first, &broken), others);
    let local_broken = local();
    assert_eq!(all.iter().filter(|name| local_at_first[*name] != local_broken[*name]).copied().collect::<Vec<_>>(), others);

    // the test is mended: it runs again, and what waited for it moves; nothing is built but the test itself
    one.edit("images/tests/layers/expected", "goodbye", "hello");
    site.calls();
    let ran = site.events(&one.root, &["push", "//..."]).done();
    insta::assert_snapshot!(ran.story(), @r#"
    //app:1-dev[push/1-dev] done: REG/team/app:1-dev: ID → ID
    //app:1-dev[push/team/dev:1] done: REG/team/dev:1: ID → ID
    //app:1-dev[tag/1-dev] done: team/app:1-dev: ID → ID
    //app:1-dev[tag/team/dev:1] done: team/dev:1: ID → ID
    //app:1-dev[test/layers] done: expected changed
    //app:1-full[push/1-full] done: REG/team/app:1-full: ID → ID
    //app:1-full[push/full] done: REG/team/app:full: ID → ID
    //app:1-full[tag/1-full] done: team/app:1-full: ID → ID
    //app:1-full[tag/full] done: team/app:full: ID → ID
    "#);
    assert_eq!(builds(&site.engine.take()), 1);
    let mended = site.names(&all);
    assert_eq!(moved(&broken, &mended), ["team/app:1-dev", "team/dev:1", "team/app:1-full", "team/app:full"]);

    // the edit is taken back: all names go back, without a build or a test, and igraph says so
    one.edit("images/app/1/hello", "# another\n", "");
    one.edit("images/app/2/hello", "# another\n", "");
    one.edit("images/tool/x/marker", "other", "marker");
    let ran = site.events(&one.root, &["push", "//..."]).done();
    insta::assert_snapshot!(ran.story(), @r#"
    //app:1-dev[push/1-dev] done: REG/team/app:1-dev: ID → ID
    //app:1-dev[push/team/dev:1] done: REG/team/dev:1: ID → ID
    //app:1-dev[tag/1-dev] done: team/app:1-dev: ID → ID
    //app:1-dev[tag/team/dev:1] done: team/dev:1: ID → ID
    //app:1-full[push/1-full] done: REG/team/app:1-full: ID → ID
    //app:1-full[push/full] done: REG/team/app:full: ID → ID
    //app:1-full[tag/1-full] done: team/app:1-full: ID → ID
    //app:1-full[tag/full] done: team/app:full: ID → ID
    //app:1[push/1] done: REG/team/app:1: ID → ID
    //app:1[push/latest] done: REG/team/app:latest: ID → ID
    //app:1[push/other/app:1] done: REG/other/app:1: ID → ID
    //app:1[tag/1] done: team/app:1: ID → ID
    //app:1[tag/latest] done: team/app:latest: ID → ID
    //app:1[tag/other/app:1] done: other/app:1: ID → ID
    //app:2[push/2] done: REG/team/app:2: ID → ID
    //app:2[push/other/app:2] done: REG/other/app:2: ID → ID
    //app:2[tag/2] done: team/app:2: ID → ID
    //app:2[tag/other/app:2] done: other/app:2: ID → ID
    //tool:x[push/other/tool:x] done: REG/other/tool:x: ID → ID
    //tool:x[push/x] done: REG/team/tool:x: ID → ID
    //tool:x[tag/other/tool:x] done: other/tool:x: ID → ID
    //tool:x[tag/x] done: team/tool:x: ID → ID
    "#);
    insta::assert_snapshot!(ran.warnings().join("\n"), @r#"
    REG/other/app:1 goes back to the image of TIME
    REG/other/app:2 goes back to the image of TIME
    REG/other/tool:x goes back to the image of TIME
    REG/team/app:1 goes back to the image of TIME
    REG/team/app:1-dev goes back to the image of TIME
    REG/team/app:1-full goes back to the image of TIME
    REG/team/app:2 goes back to the image of TIME
    REG/team/app:full goes back to the image of TIME
    REG/team/app:latest goes back to the image of TIME
    REG/team/dev:1 goes back to the image of TIME
    REG/team/tool:x goes back to the image of TIME
    "#);
    assert_eq!(builds(&site.engine.take()), 0);
    assert_eq!((site.names(&all), local()), (at_first, local_at_first));
}
