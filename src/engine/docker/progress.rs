//! What a daemon says during a build, as plain lines, and what of it belongs to the step that failed. Pure: no daemon, no output.

use std::collections::{BTreeMap, VecDeque};

use bollard::moby::buildkit::v1::StatusResponse;

use crate::event::Stream;

/// Lines kept of each step; a failure shows at its end.
const KEPT: usize = 2000;

/// A line to be shown.
pub(super) type Line = (Stream, String);

/// What is known of the step that failed, or of all that ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct StepLog {
    /// As the daemon names it, like `[build 2/3] RUN make` or `Step 3/5 : RUN make`.
    pub name: String,
    /// Its output lines, the last [`KEPT`].
    pub lines: VecDeque<String>,
    /// The daemon's error, for BuildKit.
    pub error: Option<String>,
}

impl StepLog {
    fn keep(&mut self, line: String) {
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }
}

/// Joins pieces of output to lines.
#[derive(Debug, Default)]
struct Joiner(Vec<u8>);

impl Joiner {
    fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        let Some(end) = self.0.iter().rposition(|byte| *byte == b'\n') else { return Vec::new() };
        let rest = self.0.split_off(end + 1);
        let whole = std::mem::replace(&mut self.0, rest);
        whole[..end].split(|byte| *byte == b'\n').map(clean).collect()
    }

    fn rest(&mut self) -> Option<String> {
        let rest = clean(&std::mem::take(&mut self.0));
        // what only switched a colour back is no line
        (!rest.is_empty()).then_some(rest)
    }
}

/// A line as a log keeps it: of what a progress bar wrote over and over the last state, no escape sequences.
fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = text.trim_end_matches('\r');
    let text = text.rsplit('\r').find(|part| !part.is_empty()).unwrap_or_default();
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            if characters.next_if_eq(&'[').is_some() {
                // a control sequence ends with a byte of @ to ~
                while characters.next().is_some_and(|next| !('@'..='~').contains(&next)) {}
            }
        } else {
            plain.push(character);
        }
    }
    plain
}

/// Output in two streams, like a container's, as lines.
#[derive(Debug, Default)]
pub(super) struct OutputLines {
    joiners: [Joiner; 2],
}

impl OutputLines {
    /// Takes a piece of one stream.
    pub(super) fn take(&mut self, stream: Stream, bytes: &[u8]) -> Vec<Line> {
        let joiner = &mut self.joiners[usize::from(stream == Stream::Stderr)];
        joiner.take(bytes).into_iter().map(|line| (stream, line)).collect()
    }

    /// What is left without a line end.
    pub(super) fn rest(&mut self) -> Vec<Line> {
        let streams = [Stream::Stdout, Stream::Stderr];
        self.joiners.iter_mut().zip(streams).filter_map(|(joiner, stream)| Some((stream, joiner.rest()?))).collect()
    }
}

/// The classic builder's stream.
#[derive(Debug, Default)]
pub(super) struct ClassicProgress {
    output: OutputLines,
    steps: Vec<StepLog>,
}

impl ClassicProgress {
    /// Takes the text of a `stream` message.
    pub(super) fn take(&mut self, text: &str) -> Vec<Line> {
        // the builder wraps what came on stderr in red
        let stream = if text.starts_with("\u{1b}[91m") { Stream::Stderr } else { Stream::Stdout };
        let lines = self.output.take(stream, text.as_bytes());
        lines.into_iter().filter_map(|(stream, line)| self.line(stream, line)).collect()
    }

    fn line(&mut self, stream: Stream, line: String) -> Option<Line> {
        if line.starts_with("Step ") && line.contains(" : ") && stream == Stream::Stdout {
            self.steps.push(StepLog { name: line.clone(), ..StepLog::default() });
            return Some((Stream::Engine, line));
        }
        let own = [" ---> ", "Removing intermediate container ", "Successfully built ", "Successfully tagged ", "[Warning] "];
        if own.iter().any(|start| line.starts_with(start)) {
            return Some((Stream::Engine, line));
        }
        if let Some(step) = self.steps.last_mut() {
            step.keep(line.clone());
        }
        (!line.is_empty()).then_some((stream, line))
    }

    /// What is left without a line end.
    pub(super) fn rest(&mut self) -> Vec<Line> {
        let rest = self.output.rest();
        rest.into_iter().filter_map(|(stream, line)| self.line(stream, line)).collect()
    }

    /// The step that was last begun.
    pub(super) fn failed(&self) -> Option<&StepLog> {
        self.steps.last()
    }

    /// All steps.
    pub(super) fn steps(&self) -> impl Iterator<Item = &StepLog> {
        self.steps.iter()
    }
}

/// BuildKit's graph of vertices.
#[derive(Debug, Default)]
pub(super) struct BuildKitProgress {
    vertices: BTreeMap<String, Vertex>,
}

#[derive(Debug, Default)]
struct Vertex {
    number: usize,
    log: StepLog,
    output: OutputLines,
    announced: bool,
    done: bool,
}

impl BuildKitProgress {
    /// Takes a status; gives what is new in it.
    pub(super) fn take(&mut self, status: &StatusResponse) -> Vec<Line> {
        let mut lines = Vec::new();
        for update in &status.vertexes {
            let vertex = self.vertex(&update.digest);
            if !update.name.is_empty() {
                vertex.log.name.clone_from(&update.name);
            }
            if !update.error.is_empty() {
                vertex.log.error = Some(update.error.clone());
            }
            if (update.started.is_some() || update.cached) && !vertex.announced {
                vertex.announced = true;
                lines.push((Stream::Engine, format!("#{} {}", vertex.number, one_line(&vertex.log.name))));
            }
            if vertex.announced && !vertex.done && (update.completed.is_some() || update.cached) {
                vertex.done = true;
                let number = vertex.number;
                let rest = vertex.output.rest();
                lines.extend(vertex.numbered(rest));
                lines.push((
                    Stream::Engine,
                    if !update.error.is_empty() {
                        format!("#{number} ERROR: {}", one_line(&update.error))
                    } else if update.cached {
                        format!("#{number} CACHED")
                    } else {
                        format!(
                            "#{number} DONE {:.1}s",
                            seconds(
                                update.started.as_ref().map(|moment| (moment.seconds, moment.nanos)),
                                update.completed.as_ref().map(|moment| (moment.seconds, moment.nanos)),
                            )
                        )
                    },
                ));
            }
        }
        for log in &status.logs {
            let vertex = self.vertex(&log.vertex);
            let stream = if log.stream == 2 { Stream::Stderr } else { Stream::Stdout };
            let new = vertex.output.take(stream, &log.msg);
            lines.extend(vertex.numbered(new));
        }
        lines
    }

    fn vertex(&mut self, digest: &str) -> &mut Vertex {
        let number = self.vertices.len() + 1;
        self.vertices.entry(digest.to_owned()).or_insert_with(|| Vertex { number, ..Vertex::default() })
    }

    /// What is left without a line end.
    pub(super) fn rest(&mut self) -> Vec<Line> {
        let mut vertices: Vec<&mut Vertex> = self.vertices.values_mut().collect();
        vertices.sort_by_key(|vertex| vertex.number);
        let mut lines = Vec::new();
        for vertex in vertices {
            let rest = vertex.output.rest();
            lines.extend(vertex.numbered(rest));
        }
        lines
    }

    /// The first vertex that failed by itself: one that was stopped because another failed says only that.
    pub(super) fn failed(&self) -> Option<&StepLog> {
        let stopped = |log: &StepLog| log.error.as_deref().is_some_and(|error| error.ends_with("context canceled"));
        let failed = self.vertices.values().filter(|vertex| vertex.log.error.is_some());
        failed.min_by_key(|vertex| (stopped(&vertex.log), vertex.number)).map(|vertex| &vertex.log)
    }

    /// All vertices.
    pub(super) fn steps(&self) -> impl Iterator<Item = &StepLog> {
        self.vertices.values().map(|vertex| &vertex.log)
    }
}

impl Vertex {
    fn numbered(&mut self, lines: Vec<Line>) -> Vec<Line> {
        let number = self.number;
        let mut numbered = Vec::with_capacity(lines.len());
        for (stream, line) in lines {
            numbered.push((stream, format!("#{number} {line}")));
            self.log.keep(line);
        }
        numbered
    }
}

fn one_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn seconds(from: Option<(i64, i32)>, to: Option<(i64, i32)>) -> f64 {
    let at = |(seconds, nanoseconds): (i64, i32)| seconds as f64 + f64::from(nanoseconds) / 1e9;
    from.zip(to).map_or(0.0, |(from, to)| (at(to) - at(from)).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::moby::buildkit::v1::{Vertex as Update, VertexLog};

    /// bollard does not name the type.
    macro_rules! at_moment {
        ($field:expr, $seconds:expr) => {
            $field.get_or_insert_default().seconds = $seconds
        };
    }

    fn update(digest: &str, name: &str, change: impl FnOnce(&mut Update)) -> Update {
        let mut update = Update { digest: digest.into(), name: name.into(), ..Update::default() };
        change(&mut update);
        update
    }

    fn log(digest: &str, stream: i64, text: &str) -> VertexLog {
        VertexLog { vertex: digest.into(), stream, msg: text.as_bytes().to_vec(), ..VertexLog::default() }
    }

    #[test]
    fn buildkit_lines_come_once_and_whole() {
        let mut progress = BuildKitProgress::default();
        let mut seen: Vec<Line> = Vec::new();
        let mut feed = |vertexes: Vec<Update>, logs: Vec<VertexLog>| {
            seen.extend(progress.take(&StatusResponse { vertexes, logs, ..StatusResponse::default() }));
        };
        feed(vec![update("a", "[1/2] FROM x", |_| {}), update("b", "[2/2] RUN y", |_| {})], vec![]);
        feed(vec![update("a", "[1/2] FROM x", |update| update.cached = true)], vec![]);
        feed(vec![update("b", "[2/2] RUN y", |update| at_moment!(update.started, 1))], vec![log("b", 1, "on"), log("b", 2, "err\n")]);
        feed(vec![update("b", "[2/2] RUN y", |update| at_moment!(update.started, 1))], vec![log("b", 1, "e\r\n10%\r20%\ntail")]);
        feed(
            vec![update("b", "[2/2] RUN y", |update| {
                at_moment!(update.started, 1);
                at_moment!(update.completed, 3);
                update.error = "exit code: 1\nmore".into();
            })],
            vec![],
        );
        let lines: Vec<String> = seen.iter().map(|(stream, line)| format!("{stream:?} {line}")).collect();
        assert_eq!(
            lines,
            [
                "Engine #1 [1/2] FROM x",
                "Engine #1 CACHED",
                "Engine #2 [2/2] RUN y",
                "Stderr #2 err",
                "Stdout #2 one",
                "Stdout #2 20%",
                "Stdout #2 tail",
                "Engine #2 ERROR: exit code: 1",
            ]
        );
        let failed = progress.failed().unwrap();
        assert_eq!(
            (failed.name.as_str(), failed.lines.iter().map(String::as_str).collect::<Vec<_>>()),
            ("[2/2] RUN y", vec!["err", "one", "20%", "tail"])
        );
    }

    #[test]
    fn the_cause_wins_over_what_it_stopped() {
        let mut progress = BuildKitProgress::default();
        let failed = |digest: &str, error: &str| update(digest, digest, |update| update.error = error.into());
        let vertexes = vec![failed("a", "executor failed running [x]: context canceled"), failed("b", "exit code: 2")];
        progress.take(&StatusResponse { vertexes, ..StatusResponse::default() });
        assert_eq!(progress.failed().unwrap().name, "b");
    }

    #[test]
    fn classic_steps_keep_their_own_output() {
        let mut progress = ClassicProgress::default();
        let mut lines = Vec::new();
        for text in [
            "Step 1/2 : FROM x\n",
            " ---> 0123\n",
            "Step 2/2 : RUN y\n",
            " ---> Running in 4567\n",
            "out",
            "put\n",
            "\u{1b}[91mto stderr\n\u{1b}[0m",
            "last",
        ] {
            lines.extend(progress.take(text));
        }
        lines.extend(progress.rest());
        let lines: Vec<String> = lines.iter().map(|(stream, line)| format!("{stream:?} {line}")).collect();
        assert_eq!(
            lines,
            [
                "Engine Step 1/2 : FROM x",
                "Engine  ---> 0123",
                "Engine Step 2/2 : RUN y",
                "Engine  ---> Running in 4567",
                "Stdout output",
                "Stderr to stderr",
                "Stdout last",
            ]
        );
        let failed = progress.failed().unwrap();
        assert_eq!((failed.name.as_str(), failed.lines.len()), ("Step 2/2 : RUN y", 3));
    }
}
