//! The live console: the plain console's lines above a small live area of what runs now. Knows the same events; a clock is
//! handed in by `tick`, and a terminal as a draw target.

use std::io::Write;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::board::Board;
use super::console::{Console, ConsoleOptions};
use super::fold::Fold;
use super::line::{Line, Lines, Tone};
use super::tail::cut;
use super::tally::{Tally, nodes};
use crate::clock::Timestamp;
use crate::event::Event;

/// At most so many running nodes have a row.
const ROWS: usize = 8;
/// Columns of the bar itself.
const BAR: usize = 30;

/// What the bar counts.
#[derive(Clone, Copy, Debug, Default)]
struct Goal {
    /// Nodes that run or may run.
    todo: usize,
    /// Nodes known to be fresh before the run.
    fresh: usize,
    /// When the run started.
    since: Timestamp,
}

/// The live console. Only for terminals: on anything else the target draws nothing.
pub struct Live<W> {
    console: Console<Vec<u8>>,
    out: W,
    area: MultiProgress,
    /// All rows are one bar's message, so that they are drawn at once or not at all.
    rows: Option<ProgressBar>,
    lines: Lines,
    width: usize,
    goal: Goal,
}

impl<W: Write + Send> Live<W> {
    /// Writes finished lines to `out` and the area to `target`, which must be the same terminal. Lines are cut to the
    /// width of `options`, else to 80 columns.
    pub fn new(out: W, target: ProgressDrawTarget, options: ConsoleOptions) -> Self {
        let width = options.width.unwrap_or(80);
        let options = ConsoleOptions { width: Some(width), ..options };
        Self {
            console: Console::new(Vec::new(), options),
            out,
            area: MultiProgress::with_draw_target(target),
            rows: None,
            lines: Lines::new(options.color, Some(width.saturating_sub(1))),
            width,
            goal: Goal::default(),
        }
    }

    /// Brings out what the console has written, above the area.
    fn bring_out(&mut self) {
        let text = std::mem::take(self.console.out());
        if !text.is_empty() {
            let out = &mut self.out;
            let _closed = self.area.suspend(|| out.write_all(&text).and_then(|()| out.flush()));
        }
    }

    /// Makes the area show these rows.
    fn show(&mut self, rows: &[String]) {
        if rows.is_empty() {
            if let Some(bar) = self.rows.take() {
                bar.finish_and_clear();
                self.area.remove(&bar);
            }
            return;
        }
        let bar = self.rows.get_or_insert_with(|| {
            let bar = self.area.add(ProgressBar::no_length());
            bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        bar.set_message(rows.join("\n"));
    }
}

impl<W: Write + Send> Fold for Live<W> {
    fn apply(&mut self, event: &Event) {
        if let Event::RunStarted { at, scope, stale, maybe, .. } = event {
            let todo = nodes(stale) + nodes(maybe);
            self.goal = Goal { todo, fresh: nodes(scope).saturating_sub(todo), since: *at };
        }
        self.console.apply(event);
        if self.console.board().is_empty() {
            self.show(&[]);
        }
        self.bring_out();
    }

    fn tick(&mut self, now: Timestamp) {
        let rows = rows(self.console.board(), self.console.tally(), self.goal, &mut self.lines, self.width, now);
        self.show(&rows);
    }
}

/// The area at `now`: the nodes that have run longest, each with what it last said, and the bar. Empty when nothing runs.
fn rows(board: &Board, tally: &Tally, goal: Goal, lines: &mut Lines, width: usize, now: Timestamp) -> Vec<String> {
    if board.is_empty() {
        return Vec::new();
    }
    let mut rows: Vec<String> = board
        .by_age(now)
        .into_iter()
        .take(ROWS)
        .map(|(label, running, age)| {
            let time = u64::try_from(age.as_millis()).ok();
            let (label, note) = (label.to_string(), running.activity.as_str());
            let line = Line { verb: running.doing(), tone: Tone::Dim, time, label: &label, note, may_cut: true };
            lines.line(&line).trim_end().to_owned()
        })
        .collect();
    // what was fresh from the start is no progress; a `maybe` that turned out fresh is
    let done = (tally.finished() - tally.fresh() + tally.fresh().saturating_sub(goal.fresh)).min(goal.todo);
    let filled = (BAR * done).checked_div(goal.todo).unwrap_or(0);
    let elapsed = now.since(goal.since).as_secs();
    let bar = format!(
        "           {}{} {done} of {}, {} running, {}m{:02}s",
        "█".repeat(filled),
        "░".repeat(BAR - filled),
        goal.todo,
        board.len(),
        elapsed / 60,
        elapsed % 60,
    );
    rows.push(cut(&bar, width.saturating_sub(1)));
    rows
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::event::Counts;
    use crate::report::script::{START, Script, changed, good, mixed};

    /// A terminal of so many columns that keeps its screen: enough of one to see what is left on it.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<(Vec<String>, usize, usize)>>);

    impl Screen {
        fn text(&self) -> String {
            let mut text = self.0.lock().unwrap().0.iter().map(|row| row.trim_end()).collect::<Vec<_>>().join("\n");
            text.truncate(text.trim_end().len());
            text
        }

        fn put(&self, text: &str) {
            let mut screen = self.0.lock().unwrap();
            for c in anstream::adapter::strip_str(text).to_string().chars() {
                if screen.2 == 100 && c != '\n' {
                    (screen.1, screen.2) = (screen.1 + 1, 0);
                }
                let (row, column) = (screen.1, screen.2);
                if screen.0.len() <= row {
                    screen.0.resize(row + 1, String::new());
                }
                match c {
                    '\n' => (screen.1, screen.2) = (row + 1, 0),
                    '\r' => screen.2 = 0,
                    c => {
                        let mut cells: Vec<char> = screen.0[row].chars().collect();
                        cells.resize(cells.len().max(column + 1), ' ');
                        cells[column] = c;
                        screen.0[row] = cells.into_iter().collect();
                        screen.2 = column + 1;
                    }
                }
            }
        }
    }

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.put(std::str::from_utf8(bytes).unwrap());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl indicatif::TermLike for Screen {
        fn width(&self) -> u16 {
            100
        }

        fn move_cursor_up(&self, n: usize) -> std::io::Result<()> {
            let mut screen = self.0.lock().unwrap();
            screen.1 = screen.1.saturating_sub(n);
            Ok(())
        }

        fn move_cursor_down(&self, n: usize) -> std::io::Result<()> {
            self.0.lock().unwrap().1 += n;
            Ok(())
        }

        fn move_cursor_right(&self, n: usize) -> std::io::Result<()> {
            self.0.lock().unwrap().2 += n;
            Ok(())
        }

        fn move_cursor_left(&self, n: usize) -> std::io::Result<()> {
            let mut screen = self.0.lock().unwrap();
            screen.2 = screen.2.saturating_sub(n);
            Ok(())
        }

        fn write_line(&self, text: &str) -> std::io::Result<()> {
            self.put(text);
            self.put("\n");
            Ok(())
        }

        fn write_str(&self, text: &str) -> std::io::Result<()> {
            self.put(text);
            Ok(())
        }

        fn clear_line(&self) -> std::io::Result<()> {
            let mut screen = self.0.lock().unwrap();
            let row = screen.1;
            if let Some(row) = screen.0.get_mut(row) {
                row.clear();
            }
            screen.2 = 0;
            Ok(())
        }

        fn flush(&self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn live() -> (Screen, Live<Screen>) {
        let screen = Screen::default();
        let target = ProgressDrawTarget::term_like(Box::new(screen.clone()));
        let options = ConsoleOptions { width: Some(100), ..ConsoleOptions::default() };
        (screen.clone(), Live::new(screen, target, options))
    }

    #[test]
    fn rows_are_bounded_and_vanish() {
        let count = Counts { images: 20, ..Counts::default() };
        let mut script = Script::new("build", Counts { images: 30, ..Counts::default() }, count, Counts::default());
        for number in 0..12 {
            script = script.start(&format!("//a:{number}"), &[changed("f")]).attempt(&format!("//a:{number}"), 1, 4).wait(1000);
        }
        let script =
            script.output("//a:1", &["Unpacking libc6 …\r50%", "\x1b[2J\x1b[1;1H"]).end("//a:0", good(), &[changed("f")], 1, 12_000);
        let mut board = Board::new(20);
        let mut tally = Tally::default();
        for event in &script.events {
            board.apply(event);
            if let Event::NodeFinished { kind, outcome, .. } = event {
                tally.add(*kind, outcome);
            }
        }
        let goal = Goal { todo: 20, fresh: 10, since: START };
        let now = START.after(std::time::Duration::from_secs(75));
        let mut lines = Lines::new(false, Some(79));
        insta::assert_snapshot!(rows(&board, &tally, goal, &mut lines, 80, now).join("\n"), @r#"
        building [   74.0s] //a:1                               50%
        building [   73.0s] //a:2
        building [   72.0s] //a:3
        building [   71.0s] //a:4
        building [   70.0s] //a:5
        building [   69.0s] //a:6
        building [   68.0s] //a:7
        building [   67.0s] //a:8
                 █░░░░░░░░░░░░░░░░░░░░░░░░░░░░░ 1 of 20, 11 running, 1m15s
        "#);
        assert!(rows(&Board::new(1), &tally, goal, &mut lines, 80, now).is_empty());
    }

    #[test]
    fn the_screen_ends_as_the_plain_console_and_is_never_garbled() {
        let (screen, mut live) = live();
        let mut now = START;
        for event in &mixed().events {
            live.apply(event);
            for _ in 0..3 {
                now = now.after(std::time::Duration::from_millis(200));
                live.tick(now);
                // one bar, on the last line, or none
                let text = screen.text();
                let bars = text.lines().filter(|line| line.contains('░') || line.contains('█')).count();
                let last_is_bar = text.lines().last().is_some_and(|line| line.contains(" running, "));
                assert!(bars <= 1 && (bars == 1) == last_is_bar, "{text}");
            }
        }
        let mut plain = Console::new(Vec::new(), ConsoleOptions { width: Some(100), ..ConsoleOptions::default() });
        mixed().tell(&mut plain);
        let expected = Screen::default();
        expected.put(std::str::from_utf8(plain.out()).unwrap());
        assert_eq!(screen.text(), expected.text());
    }

    #[test]
    fn the_area_stands_below_the_lines() {
        let (screen, mut live) = live();
        let events = mixed().events;
        let flaky_ended =
            events.iter().position(|event| matches!(event, Event::NodeFinished { outcome, .. } if !outcome.is_good())).unwrap();
        events[..flaky_ended].iter().for_each(|event| live.apply(event));
        live.tick(START.after(std::time::Duration::from_secs(44)));
        insta::assert_snapshot!(screen.text(), @r#"
          igraph 0.1.0  run 7f3k  3 images, 4 tests: 2 to build, 2 to test, 1 maybe, 2 fresh
           BUILD [   12.4s] //debian/jessie:4.2.1               node/4.2.1/Dockerfile changed (+1 more)
           RETRY [    1.0s] //debian/jessie:4.2.1[test/http]    try 1 of 3: connection reset; again in 0.…
            PASS [    2.9s] //debian/jessie:4.2.1[test/http]    try 2 of 3 (flaky: connection reset)
        building [   44.0s] //ubuntu/trusty:0.12                E: Failed to fetch <x> & y
                 ██████████████████░░░░░░░░░░░░ 3 of 5, 1 running, 0m44s
        "#);
    }
}
