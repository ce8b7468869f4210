//! `igraph help [TOPIC|COMMAND]`: a topic's page, or a command's help. A topic of a command's name wins: the command has `--help`.

use clap::CommandFactory;

use crate::cli::topics::{TOPICS, topic};
use crate::cli::{Args, Context, Error, Exit};
use crate::problem::nearest;

/// Prints the page.
///
/// # Errors
/// Where there is no such page, or stdout can't be written.
pub fn run(words: &[String], context: &Context<'_>) -> Result<Exit, Error> {
    context.printer.data(format_args!("{}", page(words)?))?;
    Ok(Exit::Done)
}

fn page(words: &[String]) -> Result<String, Error> {
    let mut command = Args::command();
    command.build();
    let Some(first) = words.first() else {
        let mut page = command.render_long_help().to_string();
        page.push_str("\nTopics:\n");
        for topic in TOPICS {
            page.push_str(&format!("  {:<12} {}\n", topic.name, topic.summary));
        }
        return Ok(page);
    };
    if let (Some(topic), 1) = (topic(first), words.len()) {
        return Ok(topic.page().into_owned());
    }
    let mut found = command;
    for word in words {
        let names: Vec<String> = found.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
        if !names.contains(word) {
            let topics = TOPICS.iter().map(|topic| topic.name).filter(|_| words.len() == 1);
            let near = nearest(word, names.iter().map(String::as_str).chain(topics)).map(str::to_owned);
            return Err(Error::Topic { topic: words.join(" "), nearest: near });
        }
        found = found.find_subcommand(word).cloned().unwrap_or(found);
    }
    Ok(found.render_long_help().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(words: &[&str]) -> Result<String, (String, Option<String>)> {
        page(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()).map_err(|error| (error.to_string(), error.hint()))
    }

    #[test]
    fn topics_commands_and_near_misses() {
        assert!(shown(&[]).unwrap().contains("\nTopics:\n  labels "));
        assert!(shown(&["exit-codes"]).unwrap().starts_with("Exit codes\n"));
        assert!(shown(&["log", "show"]).unwrap().contains("Usage: igraph log show "));
        assert!(shown(&["state", "save"]).unwrap().contains("Usage: igraph state save "));
        let error = |message: &str, hint: &str| Err((message.to_owned(), Some(hint.to_owned())));
        assert_eq!(shown(&["patern"]), error("there is no topic or command `patern`", "did you mean `patterns`?"));
        assert_eq!(shown(&["log", "lst"]), error("there is no topic or command `log lst`", "did you mean `list`?"));
        assert_eq!(shown(&["elephants"]), error("there is no topic or command `elephants`", "`igraph help` lists the topics and commands"));
    }
}
