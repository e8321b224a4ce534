//! Goal: docs, errors and comments read as the field writes them, and refer to what a reader has. Method: read all
//! texts of the repository, and look for phrases that were replaced before, and for links that lead nowhere.

use std::fs;
use std::path::{Path, PathBuf};

/// What is not written, and what is written instead.
const SLIPS: [(&str, &str); 23] = [
    ("the own ", "its own, this rank's"),
    ("for ever ", "forever"),
    ("for ever.", "forever"),
    ("in vain", "without success"),
    ("in good order", "gracefully"),
    ("foretold", "predicted"),
    ("foreseen", "predicted"),
    ("the unsolicited.", "unsolicited traffic"),
    ("the unsolicited,", "unsolicited traffic"),
    ("the unsolicited;", "unsolicited traffic"),
    ("what comes of it", "the outcome"),
    ("What comes of it", "the outcome"),
    ("hat came of it", "the result"),
    ("is over.", "has ended"),
    ("is over,", "has ended"),
    ("is over;", "has ended"),
    ("slow and dear", "slow and expensive"),
    ("it stands.", "it is established"),
    ("// Who ", "A rank that, whoever"),
    ("/// Who ", "A rank that, whoever"),
    ("//! Who ", "A rank that, whoever"),
    (". Who ", "A rank that, whoever"),
    ("\"Who ", "A rank that, whoever"),
];

/// A clause, not a question that begins a sentence.
const CLAUSE: &str = "Who waits for whom";

/// Places that only some readers have.
const ELSEWHERE: [&str; 3] = ["/work/", "/tmp/brief", "../shared"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn find(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        // Built, or made by a fuzzer.
        if path.is_dir() && !["target", ".git", "corpus", "artifacts"].contains(&name) {
            find(&path, found);
        } else if [".rs", ".md", ".toml", ".py", ".sh"].iter().any(|end| name.ends_with(end)) && name != "prose.rs" {
            found.push(path);
        }
    }
}

/// Every text with its path.
fn texts() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    find(&root(), &mut found);
    found.sort();
    assert!(found.len() > 100, "the repository is not where it was");
    found.into_iter().map(|path| (path.clone(), fs::read_to_string(path).expect("text"))).collect()
}

#[test]
fn no_text_has_a_phrase_that_was_replaced() {
    let mut slips = Vec::new();
    for (path, text) in texts() {
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.replace(CLAUSE, "");
            for (slip, better) in SLIPS.iter().filter(|(slip, _)| line.contains(slip)) {
                slips.push(format!("{}:{number} has {slip:?}, better: {better}", path.display()));
            }
        }
    }
    assert!(slips.is_empty(), "{}", slips.join("\n"));
}

#[test]
fn no_text_refers_to_what_is_not_in_the_repository() {
    for (path, text) in texts() {
        for (number, line) in (1..).zip(text.lines()) {
            let found = ELSEWHERE.iter().find(|place| line.contains(**place));
            assert!(found.is_none(), "{}:{number} refers to {found:?}", path.display());
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for (path, text) in texts().iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "md")) {
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !target.is_empty() && !target.contains("://") && !target.contains("::") && target.contains('.') {
                let file = path.parent().expect("a folder").join(target);
                assert!(file.exists(), "{} links to {target}", path.display());
            }
        }
    }
}

#[test]
fn the_table_of_threats_names_the_test_of_each() {
    let tests = fs::read_to_string(root().join("scenarios/tests/security.rs")).expect("the tests");
    let table = fs::read_to_string(root().join("docs/design/threats.md")).expect("the table");
    let names: Vec<_> = tests
        .lines()
        .filter_map(|line| line.strip_prefix("fn t")?.strip_suffix("() {"))
        .filter(|name| name.starts_with(|first: char| first.is_ascii_digit()))
        .collect();
    assert!(names.len() >= 16, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !table.contains(&format!("`t{name}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
