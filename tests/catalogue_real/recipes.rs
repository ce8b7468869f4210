//! The recipes of docs/ci.md, word for word: the catalogue in git, a remote to push to, and a base that moves.

use super::catalogue::Workspace;
use super::site::{Ran, Site, builds};

/// The commands below a heading.
fn recipe(heading: &str) -> &'static str {
    let (_, section) = include_str!("../../docs/ci.md").split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    section.split("```").nth(1).unwrap_or_else(|| panic!("no commands in {heading}"))
}

fn shell(site: &Site, workspace: &Workspace, script: &str) -> Ran {
    Ran::of(site.shell(&workspace.root, script).output().unwrap()).done()
}

#[test]
fn of_the_docs() {
    let Some(site) = Site::start("recipes::of_the_docs", false) else { return };
    let one = site.catalogue();
    shell(&site, &one, "git init -q -b main && igraph update -q && git add . && git commit -qm start");
    shell(&site, &one, "git init -q --bare -b main ../remote && git remote add origin ../remote && git push -qu origin main");

    let runner = recipe("A runner without state");
    assert!(shell(&site, &one, runner).err.contains("5 built"));
    assert!(["state.igraph", "report.xml", "report.json"].iter().all(|file| one.root.join(file).is_file()));
    shell(&site, &one, "git clone -q ../remote ../two && cp state.igraph ../two");
    let two = Workspace { root: site.folder.path().join("two") };
    site.calls();
    assert!(shell(&site, &two, runner).err.contains("nothing to do (5 images"));
    assert_eq!(site.calls(), (0, 0));

    let pull_request = recipe("A pull request");
    assert!(shell(&site, &two, pull_request).err.contains("nothing to do"));
    assert_eq!(site.calls(), (0, 0));
    shell(&site, &two, "git checkout -qb topic && echo fuller > images/app/1-full/full && git commit -qam edit");
    let ran = shell(&site, &two, pull_request);
    assert!(ran.err.contains("//app:1-full[test/full]") && !ran.err.contains("//app:2"), "{}", ran.err);
    assert_eq!(builds(&site.engine.take()), 1);

    let (nightly, names) = (recipe("Nightly"), ["team/app:1", "team/tool:x", "other/tool:x"]);
    let before = site.names(&names);
    let bases = Workspace { root: site.folder.path().join("bases") };
    bases.edit("images/onbuild/Dockerfile", "echo base", "echo moved");
    site.igraph(&bases.root, &["push", "//..."]).done();
    shell(&site, &one, nightly);
    assert_eq!(shell(&site, &one, "git log -1 --format=%s origin/main").out, "bases as of today\n");
    let moved = site.names(&names);
    assert_eq!(moved["team/app:1"], before["team/app:1"]);
    assert!(moved["team/tool:x"] != before["team/tool:x"] && moved["team/tool:x"] == moved["other/tool:x"]);
    site.calls();
    shell(&site, &one, nightly);
    assert_eq!((site.engine.take().len(), site.names(&names)), (0, moved));

    let ran = shell(&site, &one, &recipe("Going back a week").replace("LAST_GOOD", "HEAD~1"));
    assert!(ran.err.contains("goes back"), "{}", ran.err);
    assert_eq!((builds(&site.engine.take()), site.names(&names)), (0, before.clone()));

    let ran = shell(&site, &one, &recipe("Staging").replace("registry.staging.corp", &site.host));
    assert!(ran.err.ends_with("11 pushes fresh)\n"), "{}", ran.err);
    assert_eq!(builds(&site.engine.take()), 0);
    let staged = site.names(&["team/team/app:1", "team/team/tool:x"]);
    assert_eq!((staged.len(), staged["team/team/app:1"]), (2, before["team/app:1"]));
}
