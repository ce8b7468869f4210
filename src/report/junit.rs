//! JUnit XML: a suite for each image, a case for each test. Knows a run's history. What was built, tagged or pushed is a case
//! only where it failed, so that a red run always has a red case.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use quick_junit::{NonSuccessKind, Property, Report, SerializeError, TestCase, TestCaseStatus, TestRerun, TestSuite};

use super::history::{History, NodeHistory};
use crate::event::{NodeKind, Outcome};
use crate::failure::{Failure, FailureClass};
use crate::label::NodeLabel;

/// Writes the report of a run.
///
/// # Errors
/// Where `out` can't be written.
pub fn write_junit(history: &History, out: impl Write) -> Result<(), SerializeError> {
    let mut suites: BTreeMap<String, TestSuite> = BTreeMap::new();
    for (label, node) in &history.nodes {
        if let Some(case) = case(label, node) {
            let name = label.entry().map_or_else(|| label.to_string(), ToString::to_string);
            suites.entry(name.clone()).or_insert_with(|| TestSuite::new(name)).add_test_case(case);
        }
    }
    let mut report = Report::new("igraph");
    if let Some(ended) = &history.ended {
        report.set_time(Duration::from_millis(ended.duration_ms));
    }
    report.add_test_suites(suites.into_values().map(|mut suite| {
        suite.set_time(suite.test_cases.iter().filter_map(|case| case.time).sum());
        suite
    }));
    report.serialize(out)
}

fn case(label: &NodeLabel, node: &NodeHistory) -> Option<TestCase> {
    let outcome = node.outcome.as_ref()?;
    let name = match label {
        NodeLabel::Test(_, name) => name.to_string(),
        _ if !matches!(outcome, Outcome::Failed { .. }) => return None,
        NodeLabel::Outside(_) => "base".to_owned(),
        NodeLabel::Entry(_) => if node.kind == NodeKind::Base { "base" } else { "build" }.to_owned(),
        NodeLabel::Tag(_, name) => format!("tag/{name}"),
        NodeLabel::Push(_, name) => format!("push/{name}"),
    };
    let mut cached = false;
    let status = match outcome {
        Outcome::Fresh => {
            cached = true;
            TestCaseStatus::success()
        }
        Outcome::Succeeded { .. } => TestCaseStatus::success(),
        Outcome::Flaky { .. } => with_reruns(TestCaseStatus::success(), node),
        Outcome::Failed { failure } => {
            let mut status = TestCaseStatus::non_success(kind(node.kind, failure));
            status.set_message(failure.message.as_str()).set_type(class(failure));
            if let Some(description) = description(node.attempts.last().map(|attempt| attempt.tail.as_slice()), failure) {
                status.set_description(description);
            }
            with_reruns(status, node)
        }
        Outcome::Skipped { cause } => skipped(format!("{cause} failed")),
        Outcome::Blocked { reason } => skipped(reason.clone()),
        Outcome::Cancelled => skipped("the run was stopped".to_owned()),
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(label.entry().map_or_else(|| label.to_string(), ToString::to_string));
    case.set_time(Duration::from_millis(node.duration_ms));
    if cached {
        case.add_property(Property::new("cached", "true"));
    }
    Some(case)
}

fn with_reruns(mut status: TestCaseStatus, node: &NodeHistory) -> TestCaseStatus {
    status.add_reruns(node.earlier_failures().map(|(attempt, failure)| {
        let mut rerun = TestRerun::new(kind(node.kind, failure));
        rerun.set_message(failure.message.as_str()).set_type(class(failure));
        if let Some(until) = attempt.until {
            rerun.set_time(until.since(attempt.at));
        }
        if let Some(description) = description(Some(&attempt.tail), failure) {
            rerun.set_description(description);
        }
        rerun
    }));
    status
}

fn skipped(message: String) -> TestCaseStatus {
    let mut status = TestCaseStatus::skipped();
    status.set_message(message);
    status
}

/// A test's own failure is a failure; all else is an error.
fn kind(node: NodeKind, failure: &Failure) -> NonSuccessKind {
    match (node, failure.class) {
        (NodeKind::Test, FailureClass::Step) => NonSuccessKind::Failure,
        _ => NonSuccessKind::Error,
    }
}

fn class(failure: &Failure) -> &'static str {
    match failure.class {
        FailureClass::Step => "step",
        FailureClass::Infra => "infra",
        FailureClass::Stopped => "stopped",
    }
}

fn description(tail: Option<&[String]>, failure: &Failure) -> Option<String> {
    let mut text = tail.unwrap_or_default().join("\n");
    if let Some(hint) = &failure.hint {
        let end = if text.is_empty() { "" } else { "\n" };
        text.push_str(&format!("{end}hint: {hint}"));
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Counts;
    use crate::report::script::{Script, mixed};

    fn xml(script: &Script) -> String {
        let mut out = Vec::new();
        write_junit(&History::of(&script.events), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let read = Report::deserialize_from_str(&text).unwrap();
        assert_eq!(read.to_string().unwrap(), text, "what a reader reads is what was written");
        text
    }

    #[test]
    fn a_mixed_run() {
        insta::assert_snapshot!(xml(&mixed()), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="igraph" tests="5" skipped="1" failures="0" errors="1" time="44.000">
            <testsuite name="//debian/jessie:4.2.1" tests="1" skipped="0" errors="0" failures="0" time="2.900">
                <testcase name="http" classname="//debian/jessie:4.2.1" time="2.900">
                    <flakyFailure time="1.000" message="connection reset" type="step">curl: (56) reset</flakyFailure>
                </testcase>
            </testsuite>
            <testsuite name="//debian/wheezy:4.2.1" tests="2" skipped="0" errors="0" failures="0" time="0.000">
                <testcase name="http" classname="//debian/wheezy:4.2.1" time="0.000">
                    <properties>
                        <property name="cached" value="true"/>
                    </properties>
                </testcase>
                <testcase name="smoke" classname="//debian/wheezy:4.2.1" time="0.000">
                    <properties>
                        <property name="cached" value="true"/>
                    </properties>
                </testcase>
            </testsuite>
            <testsuite name="//ubuntu/trusty:0.12" tests="2" skipped="1" errors="1" failures="0" time="44.000">
                <testcase name="build" classname="//ubuntu/trusty:0.12" time="44.000">
                    <error message="exit 100 at RUN apt-get update (Dockerfile:7)" type="step">Get:1 trusty
        Err:2 trusty
        E: Failed to fetch &lt;x&gt; &amp; y</error>
                </testcase>
                <testcase name="http" classname="//ubuntu/trusty:0.12" time="0.000">
                    <skipped message="//ubuntu/trusty:0.12 failed"/>
                </testcase>
            </testsuite>
        </testsuites>
        "#);
    }

    #[test]
    fn bytes_that_xml_has_no_place_for_are_left_out() {
        let failure = Failure::step("exit 1: <bad> & \u{0}\u{8}\u{fffe}\"'").hint("]]> --");
        let script = Script::new("test", Counts::default(), Counts::default(), Counts::default())
            .start("//a:1[test/t]", &[])
            .attempt("//a:1[test/t]", 1, 1)
            .output("//a:1[test/t]", &["\u{1b}[31m\u{0}red\u{7f}\u{1}]]>"])
            .attempt_failed("//a:1[test/t]", 1, &failure, None)
            .end("//a:1[test/t]", Outcome::Failed { failure }, &[], 1, 5)
            .finish(3, None);
        let text = xml(&script);
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
        assert!(text.contains("exit 1: &lt;bad&gt; &amp;") && text.contains("red"), "{text}");
    }
}
