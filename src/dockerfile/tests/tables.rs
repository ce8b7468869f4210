//! The tables of BuildKit and moby in the shared test data (`IGRAPH_SHARED`, or `shared` beside the repository).

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use crate::dockerfile::lines::Lines;
use crate::dockerfile::raw::{Arguments, Raw, testing};
use crate::dockerfile::words::Lexer;
use crate::dockerfile::{Ignore, heredoc, ignore, parse};
use crate::problem::Source;

#[expect(clippy::print_stderr, reason = "a table that is not there must not look like one that passed")]
fn table(name: &str) -> Option<Value> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let shared = std::env::var_os("IGRAPH_SHARED").map_or(beside, PathBuf::from);
    let path = shared.join("data/dockerfile").join(name);
    match std::fs::read(&path) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
        Err(_) => {
            eprintln!("SKIPPED: {name} is not there; set IGRAPH_SHARED to the folder of shared test data");
            None
        }
    }
}

fn source(text: &str) -> Arc<Source> {
    Arc::new(Source { path: "Dockerfile".into(), text: text.into() })
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// A string as Go quotes it.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            char if (char as u32) < 0x20 => out.push_str(&format!("\\x{:02x}", char as u32)),
            char => out.push(char),
        }
    }
    out.push('"');
    out
}

fn dump_arguments(arguments: &Arguments, out: &mut String) {
    let mut add = |text: &str| out.push_str(&format!(" {}", quoted(text)));
    match arguments {
        Arguments::Words(words) => words.iter().for_each(|word| add(word.as_str())),
        Arguments::Json(strings) => strings.iter().for_each(|string| add(string)),
        Arguments::Pairs(pairs) => {
            for (key, value, sign) in pairs {
                add(key.as_str());
                add(value.as_str());
                add(if *sign { "=" } else { "" });
            }
        }
        Arguments::Typed(kind, rest) => {
            add(kind.as_str());
            dump_arguments(rest, out);
        }
        Arguments::Trigger(raw) => out.push_str(&format!(" ({})", dump(raw))),
    }
}

fn dump(raw: &Raw) -> String {
    let mut out = raw.keyword.as_str().to_lowercase();
    if !raw.flags.is_empty() {
        let flags: Vec<String> = raw.flags.iter().map(|flag| quoted(flag.as_str())).collect();
        out.push_str(&format!(" [{}]", flags.join(" ")));
    }
    dump_arguments(&raw.arguments, &mut out);
    out
}

/// Instructions as s-expressions, with their first and last lines.
fn dump_all(text: &str) -> Option<Vec<(String, usize, usize)>> {
    let source = source(text);
    let mut lines = Lines::new(&source).ok()?;
    let mut all = Vec::new();
    while let Some(line) = lines.next_line() {
        let raw = Raw::parse(&line.text, lines.directives.escape).ok()?;
        if raw.takes_heredocs() {
            for word in heredoc::in_line(&line.text).ok()? {
                lines.heredoc_body(&word.name, word.chomp)?;
            }
        }
        let number = |at: usize| text[..at].matches('\n').count() + 1;
        all.push((format!("({})\n", dump(&raw)), number(line.span.start), number(line.span.end)));
    }
    (!all.is_empty()).then_some(all)
}

#[test]
fn parser() {
    let Some(table) = table("parser.json") else { return };
    for case in table["positive"].as_array().unwrap() {
        let dumped = dump_all(case["dockerfile"].as_str().unwrap()).unwrap_or_else(|| panic!("{}", case["name"]));
        let joined: String = dumped.into_iter().map(|(text, ..)| text).collect();
        assert_eq!(joined, case["result"].as_str().unwrap(), "{}", case["name"]);
    }
    for case in table["negative"].as_array().unwrap() {
        assert_eq!(dump_all(case["dockerfile"].as_str().unwrap()), None, "{}", case["name"]);
    }
    let info = &table["line_info"];
    let numbers: Vec<[usize; 2]> =
        dump_all(info["dockerfile"].as_str().unwrap()).unwrap().into_iter().map(|(_, first, last)| [first, last]).collect();
    assert_eq!(serde_json::to_value(numbers).unwrap(), info["children"]);
}

#[test]
fn shell_words() {
    let Some(table) = table("shell_words.json") else { return };
    let env = texts(&table["envVarTest_env"]);
    let value = |env: &[String], name: &str| {
        env.iter().filter_map(|entry| entry.split_once('=')).find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
    };
    let mut count = 0;
    for case in table["envVarTest"].as_array().unwrap().iter().filter(|case| case["platform"] != "W") {
        let expanded = Lexer::new('\\').expand(case["input"].as_str().unwrap(), &|name| value(&env, name));
        let text = expanded.map_or_else(|_| "error".to_owned(), |expansion| expansion.text);
        assert_eq!(text, case["expected"].as_str().unwrap(), "{case}");
        count += 1;
    }
    assert!(count > 200);
    for case in table["wordsTest"].as_array().unwrap() {
        let env = texts(&case["env"]);
        let expanded = Lexer::new('\\').expand(case["input"].as_str().unwrap(), &|name| value(&env, name));
        let words = expanded.map_or_else(|_| vec!["error".to_owned()], |expansion| expansion.words);
        assert_eq!(words, texts(&case["expected"]), "{case}");
    }
}

#[test]
fn json_arrays_and_words() {
    let Some(table) = table("json_arrays.json") else { return };
    for case in table["parseWords"].as_array().unwrap() {
        assert_eq!(testing::parse_words(&texts(&case["input"])[0]), texts(&case["expect"]), "{case}");
    }
    for (input, expected) in table["jsonArraysValid"].as_object().unwrap() {
        assert_eq!(testing::parse_json(input), Some(texts(expected)), "{input}");
    }
    for input in texts(&table["jsonArraysInvalid"]) {
        assert_eq!(testing::parse_json(&input), None, "{input}");
    }
}

#[test]
fn dockerignore() {
    let Some(table) = table("dockerignore.json") else { return };
    let check = |patterns: Vec<String>, row: &Value| {
        let ignore = Ignore::parse(&source(&patterns.join("\n"))).unwrap();
        assert_eq!(ignore.excludes(row[1].as_str().unwrap()), row[2].as_bool().unwrap(), "{row}");
    };
    for row in table["single"].as_array().unwrap() {
        check(vec![row[0].as_str().unwrap().to_owned()], row);
    }
    for row in table["multi"].as_array().unwrap() {
        check(texts(&row[0]), row);
    }
    assert_eq!(ignore::testing::read_patterns(table["ignorefile_input"].as_str().unwrap()), texts(&table["ignorefile"]));
}

#[test]
fn instruction_errors() {
    let Some(table) = table("instruction_errors.json") else { return };
    // the same facts in this house's spelling: names in backticks instead of behind colons
    let plain = |text: &str| text.replace([':', '`'], "").to_lowercase();
    for case in table["errorCases"].as_array().unwrap() {
        let problems = parse(&source(case["dockerfile"].as_str().unwrap())).unwrap_err();
        let expected = plain(case["expectedError"].as_str().unwrap());
        assert!(problems.iter().any(|problem| plain(&problem.message).contains(&expected)), "{case}: {problems:?}");
    }
}
