//! One workspace, three places, the same image ids.

use super::places::{Place, make_workspace};

const RULES: &str = r#"
    Test(name: "smoke", run: ["test -e /made", "test $(id -u) = 1000", "echo x > /home/user/x"]),
    Test(name: "closed", run: ["test $(cat /made) = made"], network: "none"),
    Image(name: "1", dockerfile: "one/Dockerfile", tests: [":smoke", ":closed"]),
    Image(name: "2", dockerfile: "two/Dockerfile", untested: "a test of the engine"),
"#;

/// Steps whose traces differ between overlayfs and a plain folder, unless someone takes care.
const ONE: &str = r#"FROM shell:1
RUN echo made > /made && mkdir -p /srv/a/b && chown -R user /srv && chmod 2750 /srv/a
RUN : >> /made
RUN touch -d @1700000000 /data/dir/deep/file && chmod 4755 /data/dir/deep/file
RUN chown -R 0:0 /data/one /data/two
RUN chown 5:6 /data/one && chown 5:6 /data/two
RUN rm -rf /data/gone && mkdir /data/gone && echo new > /data/gone/new
RUN rm -rf /data/gone && mkdir /data/gone && echo new > /data/gone/new && touch -d @0 /data/gone/new
RUN mv /data/dir /data/renamed
RUN ln -s /made /link && ln /made /hard && ln /data/one /data/three
RUN rm /data/link && mkdir /data/link && echo in > /data/link/in
RUN cp -a /data/one /data/two /srv
RUN --mount=type=cache,target=/cache echo cached > /cache/f && cp /cache/f /from-cache
RUN --mount=type=bind,source=given,target=/deep/er/given cat /deep/er/given > /from-bind
RUN --mount=type=bind,from=shell:1,source=data,target=/data cp -a /data/two /from-stage
RUN --mount=type=tmpfs,target=/scratch echo x > /scratch/x
RUN --network=none echo none > /none
RUN cat /etc/hosts > /dev/null && echo x > /dev/shm/x && rm /made && echo made > /made
USER user
WORKDIR /home/user
RUN echo own > own && id -u > id && umask > mask && env > environment
"#;

const TWO: &str = "FROM app:1 AS first\nUSER root\nRUN rm -rf /srv\nFROM shell:1\nCOPY --from=first / /copy/\nCOPY --chown=user --chmod=600 given /x/\n\
                   RUN rm /copy/data/renamed/deep/file && rmdir /copy/data/renamed/deep\n";

/// Lines of label, tab, image id.
fn built(place: &Place) -> Vec<String> {
    make_workspace(&place.workspace(), RULES, &[("one", ONE), ("two", TWO)]);
    let output = place.shell("igraph test --show-output //... && igraph test //...");
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}{errors}");
    assert!(errors.contains("nothing to do"), "{errors}");
    let mut lines: Vec<String> = text.lines().filter(|line| line.contains("sha256:")).map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines.len(), 2, "{text}{errors}");
    lines
}

#[test]
fn an_ordinary_user_builds_the_same_images_as_root() {
    let test = "an_ordinary_user_builds_the_same_images_as_root";
    let (Some(root), Some(user)) = (Place::root(), Place::user(test)) else { return };
    assert_eq!(built(&user), built(&root));
    // and what it left can be taken away again, though files in it belong to its subordinate ids
    let output = user.shell("igraph doctor; igraph gc && igraph clean && test ! -e igraph-out");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("engine embedded, as an ordinary user with subordinate ids, in namespaces over overlayfs"), "{text}");
}

#[test]
fn an_ordinary_container_builds_the_same_images_as_root() {
    let test = "an_ordinary_container_builds_the_same_images_as_root";
    let (Some(root), Some(container)) = (Place::root(), Place::container(test, &[])) else { return };
    let same = built(&root);
    assert_eq!(built(&container), same);
    let doctor = container.shell("igraph doctor");
    let text = String::from_utf8_lossy(&doctor.stdout);
    assert!(text.contains("engine embedded, as root of a container, by chroot on copies of the layers"), "{text}");
    assert!(text.contains("better   with namespaces") && text.contains("seccomp=unconfined"), "{text}");
}

/// Containers that are allowed more: mounts without pivot_root, user namespaces without a whole /proc, overlayfs on another file system.
#[test]
fn containers_with_more_rights_build_the_same_images_as_root() {
    let test = "containers_with_more_rights_build_the_same_images_as_root";
    let Some(root) = Place::root() else { return };
    let same = built(&root);
    let kinds: [(&'static [&'static str], &str); 3] = [
        (&["--cap-add", "SYS_ADMIN"], "as root, in namespaces on copies of the layers"),
        (&["--security-opt", "seccomp=unconfined"], "as root of a container, in namespaces on copies of the layers"),
        (&["--security-opt", "seccomp=unconfined", "--tmpfs", "/root:exec"], "as root of a container, in namespaces over overlayfs"),
    ];
    for (more, how) in kinds {
        let Some(container) = Place::container(test, more) else { return };
        assert_eq!(built(&container), same, "{more:?}");
        let doctor = container.shell("igraph doctor");
        let text = String::from_utf8_lossy(&doctor.stdout);
        assert!(text.contains(how), "{more:?}: {text}");
    }
}
