//! Goal: the table of what there is of MPI is true. Method: read it, and look for each call that it names in the sources;
//! and hold it against the table of operations.

use std::fs;
use std::path::{Path, PathBuf};

use fmi::Operation;

const TABLE: &str = "docs/reference/mpi.md";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn sources(path: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(path).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(fs::read_to_string(&path).expect("a source"));
        }
    }
}

/// The cells of each row about functions of MPI.
fn rows() -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join(TABLE)).expect("the table");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix('|'));
    let cells = |row: &str| row.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    rows.map(cells).filter(|cells| cells[0].starts_with("MPI_")).collect()
}

/// What is written as code in a cell.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Whether a source has a public method of this name, of this type or trait if one is named.
fn has_method(source: &str, owner: Option<&str>, method: &str) -> bool {
    let declares = ["fn ", "async fn "].iter().any(|what| {
        source.match_indices(&format!("{what}{method}")).any(|(at, found)| {
            let (before, after) = (source[..at].trim_end(), &source[at + found.len()..]);
            let is_public = before.ends_with("pub") || before.ends_with("async") || source.contains("pub trait ");
            is_public && after.starts_with(['(', '<'])
        })
    });
    let is_owner = |owner: &str| {
        source.contains("impl")
            && ["struct ", "enum ", "trait ", "impl ", "impl<'_> ", "> "].iter().any(|what| {
                source.match_indices(&format!("{what}{owner}")).any(|(at, found)| {
                    !source[at + found.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
                })
            })
    };
    declares && owner.is_none_or(is_owner)
}

fn is_there(sources: &[String], name: &str) -> bool {
    let name = name.rsplit_once(' ').map_or(name, |(_, last)| last);
    let mut parts = name.rsplit("::");
    let last = parts.next().expect("a name");
    if let Some(name) = name.strip_suffix('!') {
        return sources.iter().any(|source| source.contains(&format!("macro_rules! {name} ")));
    }
    if name.starts_with("request::") {
        return sources.iter().any(|source| source.contains(&format!("fn {last}<")));
    }
    let is_type = last.chars().next().is_some_and(char::is_uppercase);
    if is_type {
        return sources.iter().any(|source| {
            ["struct", "enum", "trait"].iter().any(|what| source.contains(&format!("pub {what} {last}")))
        });
    }
    let owner = parts.next().unwrap_or("Communicator");
    sources.iter().any(|source| has_method(source, Some(owner), last))
}

#[test]
fn each_call_that_the_table_names_exists() {
    let mut all = Vec::new();
    sources(&root().join("fmi"), &mut all);
    let mut named = 0;
    for cells in rows() {
        for name in cells[2..].iter().flat_map(|cell| quoted(cell)) {
            // A field, and types of the language.
            if ["count", "Result", "Option"].contains(&name) {
                continue;
            }
            assert!(is_there(&all, name), "{TABLE} names `{name}` for {}, which there is not", cells[0]);
            named += 1;
        }
    }
    assert!(named > 60, "{named} calls were found in {TABLE}");
    assert!(!is_there(&all, "gather_everything") && !is_there(&all, "Message::split"), "names are looked for");
}

#[test]
fn each_operation_has_its_row_and_section() {
    for operation in Operation::ALL {
        let Some(standard) = operation.standard() else { continue };
        let rows = rows();
        let row = rows.iter().find(|cells| cells[0].split([',', ' ']).any(|name| name == standard.function));
        let row = row.unwrap_or_else(|| panic!("{TABLE} does not name {}", standard.function));
        assert_eq!(row[1], standard.section, "{TABLE}: section of {}", standard.function);
    }
}
