//! `RUN --mount`: its line of CSV, its keys, and which go with which kind.

use super::text::Mapped;
use super::{Mount, MountFlag, MountKind, Spanned};
use crate::problem::nearest;

const KEYS: [&str; 18] = [
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "required",
    "id",
    "sharing",
    "size",
    "mode",
    "uid",
    "gid",
];

/// What is wrong with a mount: message and hint.
pub(super) type MountError = (String, Option<String>);

fn fail(message: impl Into<String>) -> MountError {
    (message.into(), None)
}

/// The fields of one line of CSV (RFC 4180, as Go's `encoding/csv` reads it).
fn fields(line: &Mapped) -> Result<Vec<Mapped>, MountError> {
    let mut fields = Vec::new();
    let mut chars = line.as_str().char_indices().peekable();
    loop {
        let mut field = Mapped::empty(line.place(chars.peek().map_or(line.as_str().len(), |(at, _)| *at)));
        let quoted = chars.next_if(|(_, char)| *char == '"').is_some();
        loop {
            match chars.next() {
                Some((_, '"')) if quoted && chars.peek().is_some_and(|(_, char)| *char == '"') => {
                    if let Some((at, char)) = chars.next() {
                        field.push_char(char, line.place(at));
                    }
                }
                Some((_, '"')) if quoted => match chars.next() {
                    None => {
                        fields.push(field);
                        return Ok(fields);
                    }
                    Some((_, ',')) => break,
                    Some(_) => return Err(fail("text behind the closing quote of a mount option")),
                },
                Some((_, '"')) => return Err(fail("a quote within a mount option")),
                Some((_, ',')) if !quoted => break,
                Some((at, char)) => field.push_char(char, line.place(at)),
                None if quoted => return Err(fail("a mount option's quote has no end")),
                None => {
                    fields.push(field);
                    return Ok(fields);
                }
            }
        }
        fields.push(field);
    }
}

/// Reads the flag as far as it can be read before variables are known.
pub(super) fn parse_flag(flag: &Mapped) -> Result<MountFlag, (MountError, super::Span)> {
    let whole = flag.span();
    let text = Spanned { value: flag.as_str().to_owned(), span: whole.clone() };
    let mut from = None;
    for field in fields(flag).map_err(|error| (error, whole.clone()))? {
        let Some((key, value)) = field.split_once('=') else { continue };
        if !key.as_str().eq_ignore_ascii_case("from") {
            continue;
        }
        if value.as_str().contains('$') {
            let hint = "define a stage with `FROM` and take its name here".to_owned();
            return Err((("`from` of a mount takes no variables".into(), Some(hint)), value.span()));
        }
        from = (!value.is_empty()).then(|| Spanned { value: value.as_str().to_owned(), span: value.span() });
    }
    let read = MountFlag { text, from };
    if !flag.as_str().contains('$') {
        expand(&read, &mut |value| Ok(value.to_owned())).map_err(|error| (error, whole))?;
    }
    Ok(read)
}

fn parse_bool(key: &str, value: &str) -> Result<bool, MountError> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(fail(format!("`{key}` of a mount is `true` or `false`, not `{value}`"))),
    }
}

/// Bytes of `512m`, `1.5g`, `64MiB`; all units are powers of 1024.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].strip_prefix(' ').unwrap_or(&text[digits..]).to_ascii_lowercase();
    let power = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 1,
        "m" | "mb" | "mib" => 2,
        "g" | "gb" | "gib" => 3,
        "t" | "tb" | "tib" => 4,
        "p" | "pb" | "pib" => 5,
        _ => return None,
    };
    Some((number * 1024f64.powi(power)) as u64)
}

/// Reads the mount with every value expanded by `value`.
pub(super) fn expand(flag: &MountFlag, value_of: &mut dyn FnMut(&str) -> Result<String, String>) -> Result<Mount, MountError> {
    let mut line = Mapped::empty(0);
    line.push(&flag.text.value, 0);
    let mut mount = Mount {
        span: flag.text.span.clone(),
        kind: MountKind::Bind,
        from: None,
        source: None,
        target: None,
        read_only: true,
        id: None,
        sharing: None,
        required: false,
        env: None,
        size: None,
        mode: None,
        uid: None,
        gid: None,
    };
    let mut read_only = None;
    for field in fields(&line)? {
        let (key, raw) = field.as_str().split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        let key = key.to_ascii_lowercase();
        let text = raw.map(|raw| value_of(raw).map_err(fail)).transpose()?;
        let kind_name = kind_name(mount.kind);
        let misplaced = || fail(format!("`{key}` does not go with a mount of type `{kind_name}`"));
        let Some(value) = text.as_deref() else {
            match key.as_str() {
                "readonly" | "ro" => read_only = Some(true),
                "readwrite" | "rw" => read_only = Some(false),
                "required" if matches!(mount.kind, MountKind::Secret | MountKind::Ssh) => mount.required = true,
                "required" => return Err(misplaced()),
                _ => return Err(fail(format!("mount option `{}` must be `key=value`", field.as_str()))),
            }
            continue;
        };
        let owned = (!value.is_empty()).then(|| value.to_owned());
        let id = |value: &str| value.parse().map(Some).map_err(|_| fail(format!("`{key}` of a mount is a number, not `{value}`")));
        match key.as_str() {
            "type" => {
                mount.kind = match value.to_ascii_lowercase().as_str() {
                    "bind" => MountKind::Bind,
                    "cache" => MountKind::Cache,
                    "tmpfs" => MountKind::Tmpfs,
                    "secret" => MountKind::Secret,
                    "ssh" => MountKind::Ssh,
                    other => {
                        let near = nearest(other, ["bind", "cache", "tmpfs", "secret", "ssh"]);
                        let hint =
                            near.map_or("there are bind, cache, tmpfs, secret and ssh".into(), |near| format!("did you mean `{near}`?"));
                        return Err((format!("unknown mount type `{value}`"), Some(hint)));
                    }
                }
            }
            "from" => mount.from = owned,
            "source" | "src" => mount.source = owned,
            "target" | "dst" | "destination" => mount.target = owned,
            "readonly" | "ro" => read_only = Some(parse_bool(&key, value)?),
            "readwrite" | "rw" => read_only = Some(!parse_bool(&key, value)?),
            "required" if matches!(mount.kind, MountKind::Secret | MountKind::Ssh) => mount.required = parse_bool(&key, value)?,
            "env" if mount.kind == MountKind::Secret => mount.env = owned,
            "size" if mount.kind == MountKind::Tmpfs => {
                mount.size = Some(parse_size(value).ok_or_else(|| fail(format!("`size` of a mount is like `64m`, not `{value}`")))?);
            }
            "required" | "env" | "size" => return Err(misplaced()),
            "id" => mount.id = owned,
            "sharing" => match value.to_ascii_lowercase().as_str() {
                sharing @ ("shared" | "private" | "locked") => mount.sharing = Some(sharing.to_owned()),
                _ => return Err(fail(format!("`sharing` of a mount is `shared`, `private` or `locked`, not `{value}`"))),
            },
            "mode" => {
                let mode = u32::from_str_radix(value, 8).map_err(|_| fail(format!("`mode` of a mount is octal, not `{value}`")))?;
                mount.mode = Some(mode);
            }
            "uid" => mount.uid = id(value)?,
            "gid" => mount.gid = id(value)?,
            _ => {
                let hint = nearest(&key, KEYS).map(|near| format!("did you mean `{near}`?"));
                return Err((format!("unknown mount option `{key}`"), hint));
            }
        }
    }
    mount.read_only = read_only.unwrap_or(!matches!(mount.kind, MountKind::Cache | MountKind::Tmpfs));
    validate(&mount)?;
    Ok(mount)
}

fn kind_name(kind: MountKind) -> &'static str {
    match kind {
        MountKind::Bind => "bind",
        MountKind::Cache => "cache",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Secret => "secret",
        MountKind::Ssh => "ssh",
    }
}

fn validate(mount: &Mount) -> Result<(), MountError> {
    let kind = kind_name(mount.kind);
    if matches!(mount.kind, MountKind::Bind | MountKind::Tmpfs) {
        for (given, key) in [(mount.mode.is_some(), "mode"), (mount.uid.is_some(), "uid"), (mount.gid.is_some(), "gid")] {
            if given {
                return Err(fail(format!("`{key}` does not go with a mount of type `{kind}`")));
            }
        }
    }
    if mount.sharing.is_some() && mount.kind != MountKind::Cache {
        return Err(fail(format!("`sharing` does not go with a mount of type `{kind}`")));
    }
    match mount.kind {
        MountKind::Secret if mount.from.is_some() => Err(fail("`from` does not go with a mount of type `secret`")),
        MountKind::Secret if mount.source.is_none() && mount.target.is_none() && mount.id.is_none() => {
            Err(fail("a secret mount needs an `id` or a `target`"))
        }
        MountKind::Secret if mount.source.is_some() && mount.id.is_some() => Err(fail("a secret mount takes `id` or `source`, not both")),
        MountKind::Ssh if mount.source.is_some() => Err(fail("`source` does not go with a mount of type `ssh`")),
        MountKind::Bind | MountKind::Cache | MountKind::Tmpfs if mount.target.as_deref().is_some_and(is_root) => {
            Err(fail("a mount's target can't be `/`"))
        }
        _ => Ok(()),
    }
}

fn is_root(target: &str) -> bool {
    target.starts_with('/') && super::context::clean(target).is_empty()
}

impl Mount {
    /// The id of a secret or of an ssh agent, by the defaults of the kind.
    pub fn effective_id(&self) -> &str {
        let base = |path: &str| path.trim_end_matches('/').rsplit('/').next().map_or(0, str::len);
        match self.kind {
            MountKind::Ssh => self.id.as_deref().unwrap_or("default"),
            _ => self.id.as_deref().or(self.source.as_deref()).unwrap_or_else(|| {
                let target = self.target.as_deref().unwrap_or("").trim_end_matches('/');
                &target[target.len() - base(target)..]
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        let mut flag = Mapped::empty(0);
        flag.push(text, 0);
        match parse_flag(&flag) {
            Err(((message, _), _)) => message,
            Ok(flag) => match expand(&flag, &mut |value| Ok(value.replace("$T", "tmpfs"))) {
                Ok(mount) => format!(
                    "{} {}{}",
                    kind_name(mount.kind),
                    mount.target.as_deref().unwrap_or("-"),
                    if mount.read_only { " ro" } else { "" }
                ),
                Err((message, _)) => message,
            },
        }
    }

    #[test]
    fn mounts() {
        let rows: Vec<String> = [
            "target=/x",
            "type=bind,target=/x,rw",
            "type=cache,dst=/c,sharing=locked,uid=1,mode=0755",
            "type=$T,target=/x,size=1.5k",
            "\"target=/a,b\"",
            "type=secret,id=npm,required",
            "type=secret",
            "type=secret,id=a,source=b",
            "type=ssh",
            "type=tmpfs,target=/x,uid=1",
            "type=bnd",
            "type=cache,targt=/x",
            "type=cache,target=/x,required",
            "type=bind,target=/,source=a",
            "from=$X,target=/x",
            "target=/x,size=1",
            "type=cache,target=/x,sharing=none",
            "target",
            "a\"b",
            "readonly=maybe,target=/x",
        ]
        .map(|text| format!("{text} → {}", read(text)))
        .into();
        insta::assert_snapshot!(rows.join("\n"));
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("512", Some(512)), ("1k", Some(1024)), ("1.5 MiB", Some(1_572_864)), ("x", None), ("1x", None)] {
            assert_eq!(parse_size(text), bytes, "{text}");
        }
    }
}
