//! Freshness policies: how long a result stands though all that igraph can see of its inputs stays the same. Knows the fields
//! and which entries may have which, not what a policy does.

use std::sync::Arc;
use std::time::Duration;

use super::fields::{Field, Fields, Sink};
use super::model::{BaseFrom, Freshness};
use crate::clock::Day;

/// The fields.
pub const FRESHNESS: &[Field] = &[
    ("refresh", "a duration in a string, like `\"7d\"`"),
    ("probe", "a string, like `\"apt-get -qq update && apt-get -s upgrade | sed -n 's/^Inst //p'\"`"),
    ("settle", "a duration in a string, like `\"6h\"`"),
    ("until", "a day in a string, like `\"2027-06-30\"`"),
];

/// Takes the policies out of the fields of a rule.
pub fn freshness(fields: &Fields<'_, '_>, sink: &mut Sink<'_>) -> Freshness {
    Freshness {
        refresh: span(fields, "refresh", "every update would renew it", sink),
        probe: fields.filled("probe", sink).map(|(text, _)| Arc::from(text)),
        settle: span(fields, "settle", "it would wait for nothing", sink),
        until: fields.text("until", sink).and_then(|(text, span)| {
            let day = Day::parse(text);
            if day.is_none() {
                sink.report_hint(span, format!("`{text}` is no day"), "write it like `\"2027-06-30\"`: that day is the last, in UTC");
            }
            day
        }),
    }
}

fn span(fields: &Fields<'_, '_>, name: &str, so: &str, sink: &mut Sink<'_>) -> Option<Duration> {
    let (duration, span) = fields.duration(name, sink)?;
    if duration.is_zero() {
        sink.report_hint(span, format!("`{name}` is zero, so {so}"), "leave it out for none");
        return None;
    }
    Some(duration)
}

/// Reports the policies that a base from `from` can't have.
pub fn check_base(fields: &Fields<'_, '_>, from: &BaseFrom, sink: &mut Sink<'_>) {
    let (what, instead) = match from {
        BaseFrom::Registry(_) => ("a base from a registry", "it moves when its registry says so: `igraph update` asks"),
        BaseFrom::Rootfs(_) | BaseFrom::OciLayout(_) => ("a base from a file", "it changes when its files do"),
        BaseFrom::Command { .. } => ("a base from a command", "nothing moves it that could be waited for; it is renewed by `refresh`"),
    };
    for (field, may) in [
        ("refresh", matches!(from, BaseFrom::Command { .. })),
        ("probe", matches!(from, BaseFrom::Command { .. })),
        ("settle", matches!(from, BaseFrom::Registry(_))),
    ] {
        if let (Some(span), false) = (fields.key(field), may) {
            sink.report_hint(span, format!("{what} has no `{field}`"), instead);
        }
    }
}
