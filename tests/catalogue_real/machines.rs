//! Records on another machine, and images that are gone.

use super::site::{Site, builds, plain};

/// The manifests and blobs that were read from the registry, each repository once.
fn read(site: &Site) -> Vec<String> {
    let asked = site.front.take();
    let mut read: Vec<String> = asked.iter().filter(|one| one.method == "GET").map(|one| plain(&one.path)).collect();
    read.sort();
    read.dedup();
    read
}

#[test]
fn records_on_a_clean_machine() {
    let Some(mut site) = Site::start("records_on_a_clean_machine", false) else { return };
    let one = site.catalogue();
    site.igraph(&one.root, &["push", "//..."]).done();
    let saved = site.folder.path().join("saved");
    site.igraph(&one.root, &["state", "save", saved.to_str().unwrap()]).done();

    let Some(empty) = Site::daemon("records_on_a_clean_machine") else { return };
    site.change_daemon(empty);
    let two = one.cloned(&site.folder.path().join("two"));
    site.igraph(&two.root, &["state", "load", saved.to_str().unwrap()]).done();
    site.calls();
    site.igraph(&two.root, &["push", "//..."]).idle();
    assert_eq!(site.calls(), (0, 0));

    let parent = site.published("team/app:1-dev").unwrap();
    two.edit("images/app/1-full/full", "full", "fuller");
    let ran = site.events(&two.root, &["push", "//..."]).done();
    insta::assert_snapshot!(ran.story(), @r#"
    //app:1-full done: full changed
    //app:1-full[push/1-full] done: REG/team/app:1-full: ID → ID
    //app:1-full[push/full] done: REG/team/app:full: ID → ID
    //app:1-full[tag/1-full] done: team/app:1-full: ID → ID
    //app:1-full[tag/full] done: team/app:full: ID → ID
    //app:1-full[test/full] done: subject changed: ID → ID
    //app:1-full[test/runs] done: subject changed: ID → ID
    //app:1-full[test/shell] done: subject changed: ID → ID
    "#);
    assert_eq!(builds(&site.engine.take()), 1);
    insta::assert_snapshot!(read(&site).join("\n"), @r#"
    /v2/team/app/blobs/ID
    /v2/team/app/manifests/ID
    "#);
    // it stands on the very parent that was pushed before
    assert_eq!(site.published("team/app:1-dev").unwrap(), parent);
    site.igraph(&two.root, &["push", "//..."]).idle();
}

#[test]
fn images_that_are_gone() {
    let Some(site) = Site::start("images_that_are_gone", true) else { return };
    let one = site.catalogue();
    site.igraph(&one.root, &["push", "//..."]).done();

    // from the daemon: what the edit stands on is fetched by its id, and not built again
    site.forget_images();
    site.igraph(&one.root, &["push", "//..."]).idle();
    one.edit("images/app/1-full/full", "full", "fuller");
    site.calls();
    let ran = site.events(&one.root, &["push", "//..."]).done();
    insta::assert_snapshot!(ran.story(), @r#"
    //app:1-full done: full changed
    //app:1-full[push/1-full] done: REG/team/app:1-full: ID → ID
    //app:1-full[push/full] done: REG/team/app:full: ID → ID
    //app:1-full[tag/1-full] done: team/app:1-full: ID → ID
    //app:1-full[tag/full] done: team/app:full: ID → ID
    //app:1-full[test/full] done: subject changed: ID → ID
    //app:1-full[test/runs] done: subject changed: ID → ID
    //app:1-full[test/shell] done: subject changed: ID → ID
    "#);
    assert_eq!(builds(&site.engine.take()), 1);

    // from the registry as well: built again, and as it is another image then, so are those on it, their tests and names
    site.forget_images();
    for kind in ["repositories", "blobs"] {
        std::fs::remove_dir_all(site.registry.as_ref().unwrap().files().join(kind)).unwrap();
    }
    one.edit("images/app/1-full/full", "fuller", "fullest");
    let ran = site.events(&one.root, &["push", "//app:"]).done();
    insta::assert_snapshot!(ran.story(), @r#"
    //app:1 done: needed by //app:1-dev and nowhere to be had
    //app:1-dev done: needed by //app:1-full and nowhere to be had
    //app:1-dev[push/1-dev] done: REG/team/app:1-dev: ID → ID
    //app:1-dev[push/team/dev:1] done: REG/team/dev:1: ID → ID
    //app:1-dev[tag/1-dev] done: team/app:1-dev: ID → ID
    //app:1-dev[tag/team/dev:1] done: team/dev:1: ID → ID
    //app:1-dev[test/layers] done: subject changed: ID → ID
    //app:1-dev[test/runs] done: subject changed: ID → ID
    //app:1-dev[test/shell] done: subject changed: ID → ID
    //app:1-full done: //app:1-dev changed: ID → ID; full changed
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
    "#);
    site.igraph(&one.root, &["push", "//app:"]).idle();
}
