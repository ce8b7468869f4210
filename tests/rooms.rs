//! The rooms of the house: the table of docs/design.md, held against what the sources use.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The modules of `src/lib.rs` whose names are a room or a part of one.
fn modules() -> BTreeSet<String> {
    let text = std::fs::read_to_string("src/lib.rs").unwrap();
    text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).map(str::to_owned).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every `crate::NAME` of a source, but for comments and what only its tests use.
fn used(text: &str) -> BTreeSet<String> {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let code = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    let names = code.flat_map(|line| line.split("crate::").skip(1));
    names.map(|rest| rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()).collect()
}

/// The words in backticks.
fn words(cell: &str) -> BTreeSet<String> {
    cell.split('`').skip(1).step_by(2).map(|word| word.trim_end_matches('/').to_owned()).collect()
}

/// By module: its room, by its first module, and all that it may use.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let page = std::fs::read_to_string("docs/design.md").unwrap();
    let rows: Vec<Vec<String>> = page
        .lines()
        .skip_while(|line| !line.starts_with("| room "))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::to_owned).collect())
        .collect();
    let vocabulary = words(&rows[0][0]);
    let mut table = BTreeMap::new();
    for row in &rows {
        let room = words(&row[0]);
        let mut may = words(&row[2]);
        if row[2].contains("vocabulary") {
            may.extend(vocabulary.iter().cloned());
        }
        if row[2].contains("everything") {
            may.extend(modules());
        }
        for module in &room {
            table.insert(module.clone(), may.union(&room).cloned().collect());
        }
    }
    table
}

#[test]
fn each_room_uses_only_what_the_table_says() {
    let (table, modules) = (table(), modules());
    assert_eq!(table.keys().cloned().collect::<BTreeSet<_>>(), modules, "the rooms of docs/design.md, and those of src/lib.rs");
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    let mut broken = Vec::new();
    for file in files {
        let inside = file.strip_prefix("src").unwrap();
        let room = inside.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        // tests of a room may look further
        let is_test = file.to_string_lossy().contains("/tests/") || file.to_string_lossy().ends_with("_tests.rs");
        let Some(may) = table.get(&room).filter(|_| !is_test) else { continue };
        for used in used(&std::fs::read_to_string(&file).unwrap()) {
            if modules.contains(&used) && !may.contains(&used) {
                broken.push(format!("{} uses {used}", file.display()));
            }
        }
    }
    assert_eq!(broken, Vec::<String>::new(), "docs/design.md says what each room may use");
}

#[test]
fn what_counts_as_a_use() {
    let text =
        "//! crate::no\nuse crate::a::{B, crate::x};\nfn f() -> crate::b_c::D { crate::e() }\n#[cfg(test)]\nmod tests { use crate::f; }\n";
    assert_eq!(used(text), ["a", "b_c", "e", "x"].map(str::to_owned).into());
}
