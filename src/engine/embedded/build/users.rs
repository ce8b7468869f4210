//! Users and groups by the image's own /etc/passwd and /etc/group, as USER and `--chown` mean them.

use crate::engine::embedded::files::disk;
use crate::engine::embedded::layer::view::View;
use crate::failure::Failure;

/// Who a command runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::engine::embedded) struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

/// Lines of a file in the form of passwd, as fields.
struct Table(Vec<Vec<String>>);

impl Table {
    fn read(view: &View, path: &str) -> Result<Self, Failure> {
        let bytes = view.read(path).map_err(disk(format!("`{path}` of the image")))?.unwrap_or_default();
        let lines =
            String::from_utf8_lossy(&bytes).lines().map(|line| line.split(':').map(|field| field.trim().to_owned()).collect()).collect();
        Ok(Self(lines))
    }

    /// The line whose number is `text`, or whose name where `text` is no number.
    fn find(&self, text: &str) -> Option<&Vec<String>> {
        let at = if text.parse::<u32>().is_ok() { 2 } else { 0 };
        self.0.iter().find(|line| line.len() > 2 && line[at] == text)
    }
}

fn number(line: &[String], at: usize) -> Option<u32> {
    line.get(at)?.parse().ok()
}

fn unknown(what: &str, name: &str, file: &str) -> Failure {
    Failure::step(format!("there is no {what} `{name}` in the image's `{file}`"))
}

/// The user of `USER text`; empty is root.
///
/// # Errors
/// A step failure for names that the image does not know.
pub(in crate::engine::embedded) fn user(text: &str, view: &View) -> Result<User, Failure> {
    let (name, group) = text.split_once(':').unwrap_or((text, ""));
    let name = if name.is_empty() { "0" } else { name };
    let passwd = Table::read(view, "/etc/passwd")?;
    let line = passwd.find(name);
    let uid = match (line.and_then(|line| number(line, 2)), name.parse::<u32>()) {
        (Some(uid), _) | (None, Ok(uid)) => uid,
        (None, Err(_)) => return Err(unknown("user", name, "/etc/passwd")),
    };
    let home = line.and_then(|line| line.get(5)).filter(|home| !home.is_empty()).cloned().unwrap_or_else(|| "/".into());
    let groups = Table::read(view, "/etc/group")?;
    if !group.is_empty() {
        let gid = groups.find(group).and_then(|line| number(line, 2)).or_else(|| group.parse().ok());
        let gid = gid.ok_or_else(|| unknown("group", group, "/etc/group"))?;
        return Ok(User { uid, gid, groups: vec![gid], home });
    }
    let gid = line.and_then(|line| number(line, 3)).unwrap_or(0);
    // as runc has it, the own group is one of the groups
    let mut member = vec![gid];
    if let Some(own) = line.and_then(|line| line.first()) {
        let lists = groups.0.iter().filter(|line| line.get(3).is_some_and(|users| users.split(',').any(|user| user == own)));
        member.extend(lists.filter_map(|line| number(line, 2)).filter(|group| *group != gid));
    }
    Ok(User { uid, gid, groups: member, home })
}

/// uid and gid of `--chown=text`: a number alone means both, a name the user's own group.
///
/// # Errors
/// As [`user`].
pub(super) fn owner(text: &str, view: &View) -> Result<(u32, u32), Failure> {
    let (name, group) = text.split_once(':').map_or((text, None), |(name, group)| (name, Some(group)));
    let (uid, own_gid) = match name.parse::<u32>() {
        Ok(uid) => (uid, uid),
        Err(_) if name.is_empty() => (0, 0),
        Err(_) => {
            let passwd = Table::read(view, "/etc/passwd")?;
            let line = passwd.find(name).ok_or_else(|| unknown("user", name, "/etc/passwd"))?;
            (number(line, 2).unwrap_or(0), number(line, 3).unwrap_or(0))
        }
    };
    let gid = match group.filter(|group| !group.is_empty()) {
        None => own_gid,
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => {
                let groups = Table::read(view, "/etc/group")?;
                groups.find(group).and_then(|line| number(line, 2)).ok_or_else(|| unknown("group", group, "/etc/group"))?
            }
        },
    };
    Ok((uid, gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_groups() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nnode:x:1000:1001::/home/node:/bin/sh\nbroken\n";
        std::fs::write(folder.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(folder.path().join("etc/group"), "root:x:0:\nnode:x:1001:\nadm:x:4:node,other\nstaff:x:50:node\n").unwrap();
        let view = View::new(vec![folder.path().to_owned()]);
        let of = |text: &str| user(text, &view).map(|user| (user.uid, user.gid, user.groups, user.home)).map_err(|failure| failure.message);
        assert_eq!(of(""), Ok((0, 0, vec![0], "/root".into())));
        assert_eq!(of("node"), Ok((1000, 1001, vec![1001, 4, 50], "/home/node".into())));
        assert_eq!(of("1000"), Ok((1000, 1001, vec![1001, 4, 50], "/home/node".into())));
        assert_eq!(of("node:adm"), Ok((1000, 4, vec![4], "/home/node".into())));
        assert_eq!(of("77:88"), Ok((77, 88, vec![88], "/".into())));
        assert_eq!(of("77"), Ok((77, 0, vec![0], "/".into())));
        assert_eq!(of("nobody").unwrap_err(), "there is no user `nobody` in the image's `/etc/passwd`");
        assert_eq!(of("node:nogroup").unwrap_err(), "there is no group `nogroup` in the image's `/etc/group`");
        let own = |text: &str| owner(text, &view).unwrap();
        assert_eq!((own("node"), own("7"), own("7:staff"), own(":adm"), own("node:0")), ((1000, 1001), (7, 7), (7, 50), (0, 4), (1000, 0)));
        assert!(owner("gone", &view).is_err());
    }
}
