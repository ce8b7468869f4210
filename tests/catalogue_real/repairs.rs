//! The flags that ask for more: `--verify`, `--force`, `--registry`, `-n`, `--check`; names that nothing claims; `gc`.

use super::names::NAMES;
use super::site::{Site, builds, plain};

#[test]
fn verify_mends_what_others_removed() {
    let Some(site) = Site::start("verify_mends_what_others_removed", true) else { return };
    let one = site.catalogue();
    site.igraph(&one.root, &["push", "//..."]).done();
    let all: Vec<&str> = NAMES.iter().copied().flatten().copied().collect();
    let before = site.names(&all);

    site.delete_remote("other/app", "2");
    assert_eq!(site.docker("DELETE", "/images/team/dev:1?noprune=1").0, 200);
    assert_eq!((site.names(&["other/app:2"]).len(), site.local("team/dev:1")), (0, None));
    site.calls();
    site.igraph(&one.root, &["push", "//..."]).idle();
    assert_eq!(site.calls(), (0, 0));

    let ran = site.events(&one.root, &["push", "//...", "--verify"]).done();
    insta::assert_snapshot!(ran.story(), @r#"
    //app:1-dev[tag/team/dev:1] done: team/dev:1 is not where it was put
    //app:2[push/other/app:2] done: REG/other/app:2 is not where it was put
    "#);
    let written: Vec<String> =
        site.front.take().iter().filter(|one| !matches!(one.method.as_str(), "GET" | "HEAD")).map(|one| plain(&one.path)).collect();
    assert_eq!(written, ["/v2/other/app/manifests/2"]);
    assert_eq!((site.names(&all), site.local("team/dev:1")), (before.clone(), site.local("team/app:1-dev")));
    assert_eq!(builds(&site.engine.take()), 0);

    // a registry that has lost everything: all names are put again, from the daemon
    for kind in ["repositories", "blobs"] {
        std::fs::remove_dir_all(site.registry.as_ref().unwrap().files().join(kind)).unwrap();
    }
    let ran = site.events(&one.root, &["push", "//...", "--verify"]).done();
    assert_eq!(ran.story().lines().filter(|line| line.contains("[push/")).count(), all.len(), "{}", ran.story());
    assert_eq!((site.names(&all), builds(&site.engine.take())), (before, 0));
    site.front.take();

    // all is there: it asks, and does nothing
    let ran = site.events(&one.root, &["push", "//...", "--verify"]).done();
    assert_eq!(ran.story(), "");
    assert!(site.front.take().iter().all(|one| one.method == "HEAD"));
}

#[test]
fn force_runs_the_matched_and_nothing_else() {
    let Some(site) = Site::start("force_runs_the_matched_and_nothing_else", false) else { return };
    let one = site.catalogue();
    site.igraph(&one.root, &["test", "//..."]).done();
    site.calls();
    let ran = site.events(&one.root, &["build", "//app:1-dev", "--force", "--reason", "an advisory"]).done();
    insta::assert_snapshot!(ran.story(), @"//app:1-dev done: forced: an advisory");
    let asked = site.engine.take();
    assert!(builds(&asked) == 1 && asked.iter().any(|one| one.path.contains("/build?") && one.path.contains("&nocache=1&")), "{asked:?}");
    let ran = site.events(&one.root, &["test", "//app:2", "--force"]).done();
    insta::assert_snapshot!(ran.story(), @r#"
    //app:2[test/runs] done: forced
    //app:2[test/shell] done: forced
    "#);
    site.igraph(&one.root, &["test", "//app:2"]).idle();
}

#[test]
fn staging_and_dry_runs() {
    let Some(site) = Site::start("staging_and_dry_runs", false) else { return };
    let one = site.catalogue();
    // a dry run leaves nothing behind, not even the folder of records
    let ran = site.igraph(&one.root, &["push", "//app:2", "-n"]).done();
    insta::assert_snapshot!(plain(&ran.out), @r#"
      run //base:box                 no result yet
      run //app:2                    no result yet
      run //app:2[test/runs]         no result yet
      run //app:2[test/shell]        no result yet
    maybe //app:2[tag/2]             when //app:2 is settled
    maybe //app:2[tag/other/app:2]   when //app:2 is settled
    maybe //app:2[push/2]            when //app:2 is settled
    maybe //app:2[push/other/app:2]  when //app:2 is settled
    "#);
    site.igraph(&one.root, &["push", "//app:2", "--check"]).code(1);
    assert!(!one.root.join("igraph-out").exists());
    assert_eq!(site.calls(), (0, 0));

    site.igraph(&one.root, &["push", "//..."]).done();
    let before = site.names(NAMES[3]);
    site.igraph(&one.root, &["push", "//...", "--check"]).done();
    site.igraph(&one.root, &["push", "//...", "-n"]).done();
    assert_eq!(site.names(&["staging/team/app:2", "staging/other/app:2"]).len(), 0);

    // elsewhere: the same manifest, nothing built, nothing uploaded but the config
    site.calls();
    let target = format!("{}/staging", site.host);
    let ran = site.events(&one.root, &["push", "//app:2", "--registry", &target]).done();
    insta::assert_snapshot!(ran.story(), @r#"
    //app:2[push/2] done: REG/staging/team/app:2: nothing → ID
    //app:2[push/other/app:2] done: REG/staging/other/app:2: nothing → ID
    "#);
    assert_eq!(builds(&site.engine.take()), 0);
    let sent: u64 = site.front.take().iter().map(|one| one.body).sum();
    assert!(sent < 64 << 10, "{sent} bytes");
    let staged = site.names(&["staging/team/app:2", "staging/other/app:2"]);
    assert_eq!(staged.values().collect::<Vec<_>>(), [&before["team/app:2"]; 2]);
    assert_eq!(site.names(NAMES[3]), before);
    site.igraph(&one.root, &["push", "//app:2", "--registry", &target]).idle();
    site.igraph(&one.root, &["push", "//..."]).idle();
    assert_eq!(site.calls(), (0, 0));

    one.edit("images/app/2/hello", "echo", "# another\necho");
    let ran = site.igraph(&one.root, &["push", "//...", "--check"]).code(1);
    insta::assert_snapshot!(plain(&ran.out), @r#"
      run //app:2                    hello changed
    maybe //app:2[test/runs]         when //app:2 is settled
    maybe //app:2[test/shell]        when //app:2 is settled
    maybe //app:2[tag/2]             when //app:2 is settled
    maybe //app:2[tag/other/app:2]   when //app:2 is settled
    maybe //app:2[push/2]            when //app:2 is settled
    maybe //app:2[push/other/app:2]  when //app:2 is settled
    "#);
    assert_eq!(site.calls(), (0, 0));
}

#[test]
fn names_that_nothing_claims() {
    let Some(site) = Site::start("names_that_nothing_claims", false) else { return };
    let one = site.catalogue();
    site.igraph(&one.root, &["push", "//app:1"]).done();
    site.igraph(&one.root, &["targets", "--orphans"]).done();
    one.edit("images/app/BUILD.ron", "aliases: [\"latest\", \"other/app:1\"]", "aliases: [\"other/app:1\", \"stable\"]");
    let orphans = site.igraph(&one.root, &["targets", "--orphans"]).done();
    insta::assert_snapshot!(plain(&orphans.out), @r#"
    docker.io/team/app:latest	local	//app:1[tag/latest]
    REG/team/app:latest	registry	//app:1[push/latest]
    "#);
    let ran = site.events(&one.root, &["push", "//app:1"]).done();
    insta::assert_snapshot!(ran.story(), @r#"
    //app:1[push/stable] done: REG/team/app:stable: nothing → ID
    //app:1[tag/stable] done: team/app:stable: nothing → ID
    "#);
    // igraph deletes none
    let names = site.names(&["team/app:1", "team/app:latest", "team/app:stable", "other/app:1"]);
    assert!(names.len() == 4 && names.values().all(|digest| *digest == names["team/app:1"]));
}

#[test]
fn gc_keeps_what_is_needed() {
    let Some(site) = Site::start("gc_keeps_what_is_needed", true) else { return };
    let one = site.catalogue();
    site.igraph(&one.root, &["push", "//app:1-dev"]).done();
    let first = std::fs::read(one.root.join("images/app/1/hello")).unwrap();
    for round in 0..7 {
        one.put("images/app/1/hello", format!("#!/bin/sh\n# {round}\necho hello\n"));
        site.igraph(&one.root, &["push", "//app:1-dev"]).done();
    }
    let ours = || site.local_tags().into_iter().filter(|tag| tag.starts_with("igraph/app-")).count();
    let (before, images) = (ours(), site.local("team/app:1-dev").unwrap());
    let dry = site.igraph(&one.root, &["gc", "-n"]).done();
    assert_eq!(ours(), before, "{}", dry.err);
    let ran = site.igraph(&one.root, &["gc"]).done();
    assert!(ran.err.contains("removed 6 images and 0 containers"), "{}", ran.err);
    // eight results of two images, of which five each are kept
    assert_eq!((before, ours()), (16, 10), "{:?}", site.local_tags());
    assert_eq!((site.containers(), site.local("team/app:1-dev").unwrap()), (0, images));
    site.igraph(&one.root, &["push", "//app:1-dev"]).idle();

    // a kept result: its names go back without a build
    site.calls();
    one.put("images/app/1/hello", "#!/bin/sh\n# 3\necho hello\n");
    site.igraph(&one.root, &["push", "//app:1-dev"]).done();
    assert_eq!(builds(&site.engine.take()), 0);
    // one that was dropped is built again
    one.put("images/app/1/hello", first);
    let ran = site.events(&one.root, &["push", "//app:1-dev"]).done();
    assert!(ran.story().contains("//app:1 done"), "{}", ran.story());
    let again = site.igraph(&one.root, &["gc"]).done();
    assert!(again.err.contains("removed 0 old results") || ours() <= 10, "{}", again.err);
}
