//! The pages of `igraph help TOPIC`: texts beside this file, and two pages made from the code they describe.
//! Knows no command.

use std::borrow::Cow;

use super::environment::Environment;
use super::exit::Exit;

/// A page of help.
pub struct Topic {
    /// What it is asked by.
    pub name: &'static str,
    /// One line for the list.
    pub summary: &'static str,
    text: Text,
}

enum Text {
    File(&'static str),
    Environment(&'static str),
    ExitCodes,
}

impl Topic {
    const fn file(name: &'static str, summary: &'static str, text: &'static str) -> Self {
        Self { name, summary, text: Text::File(text) }
    }

    /// The page; ends with a line end.
    pub fn page(&self) -> Cow<'static, str> {
        match self.text {
            Text::File(text) => Cow::Borrowed(text),
            Text::Environment(introduction) => Cow::Owned(format!("{introduction}{}", Environment::page())),
            Text::ExitCodes => Cow::Owned(Exit::page()),
        }
    }
}

/// All topics, in the order in which they are best read.
pub const TOPICS: &[Topic] = &[
    Topic::file("labels", "how images, tests and names are called", include_str!("topics/labels.txt")),
    Topic::file("patterns", "how to say what to work on", include_str!("topics/patterns.txt")),
    Topic::file("build-files", "BUILD.ron, field by field", include_str!("topics/build-files.txt")),
    Topic::file("keys", "what decides whether something has changed", include_str!("topics/keys.txt")),
    Topic::file("reasons", "why a node runs, or does not", include_str!("topics/reasons.txt")),
    Topic::file("names", "tags and pushes: when a name moves", include_str!("topics/names.txt")),
    Topic::file("bases", "images from outside", include_str!("topics/bases.txt")),
    Topic::file("lock", "igraph.lock, outdated, update", include_str!("topics/lock.txt")),
    Topic::file("retries", "what is tried again, and when", include_str!("topics/retries.txt")),
    Topic::file("watch", "staying, and running what a change touches", include_str!("topics/watch.txt")),
    Topic { name: "exit-codes", summary: "what each exit code means", text: Text::ExitCodes },
    Topic::file("engines", "what builds, and how it is found", include_str!("topics/engines.txt")),
    Topic::file("state", "igraph-out, records, logs, cleaning up", include_str!("topics/state.txt")),
    Topic {
        name: "environment",
        summary: "the variables that igraph reads",
        text: Text::Environment(include_str!("topics/environment.txt")),
    },
    Topic::file("ci", "recipes for runners", include_str!("topics/ci.txt")),
];

/// The topic of that name.
pub fn topic(name: &str) -> Option<&'static Topic> {
    TOPICS.iter().find(|topic| topic.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_fit_a_terminal_and_are_all_listed_in_the_help() {
        use clap::CommandFactory;
        let help = crate::cli::args::Args::command().render_help().to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        for topic in TOPICS {
            let page = topic.page();
            assert!(page.ends_with('\n') && !page.ends_with("\n\n"), "{}", topic.name);
            for line in page.lines() {
                assert!(line.chars().count() <= 120 && line.trim_end() == line, "{}: {line}", topic.name);
            }
            assert!(help.contains(topic.name), "{} is not in the help", topic.name);
        }
    }

    #[test]
    fn pages_name_only_flags_that_exist() {
        use clap::CommandFactory;
        fn flags(command: &clap::Command, into: &mut std::collections::BTreeSet<String>) {
            into.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned));
            command.get_subcommands().for_each(|inner| flags(inner, into));
        }
        let mut known = std::collections::BTreeSet::new();
        let mut command = crate::cli::args::Args::command();
        command.build();
        flags(&command, &mut known);
        // other programs' flags that the pages quote
        known.extend(["name-only", "no-renames", "relative", "mount", "from", "chmod", "chown", "platform", "global"].map(str::to_owned));
        for topic in TOPICS {
            for flag in topic.page().split("--").skip(1) {
                let flag: String = flag.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
                let flag = flag.trim_end_matches('-');
                assert!(flag.is_empty() || known.contains(flag), "{}: --{flag}", topic.name);
            }
        }
    }
}
