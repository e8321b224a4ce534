//! Goal: what can be done with `async` can be done without, and the reverse; every operation returns a request that has a
//! name; and no signature needs a type that users cannot name. Method: read the sources, and compare the methods of both
//! surfaces, and the types in signatures with those that are exported.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What one surface has and the other needs not: how a program without a runtime gets a communicator and waits.
const BLOCKING_ALONE: [&str; 8] = ["from_env", "inner", "wait", "wait_all", "wait_any", "wait_some", "test", "scope"];

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(path)
}

fn files(path: PathBuf, found: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).expect("a folder") {
            files(entry.expect("an entry").path(), found);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        found.push(path);
    }
}

fn read(paths: &[&str]) -> String {
    let mut found = Vec::new();
    paths.iter().for_each(|path| files(source(path), &mut found));
    assert!(!found.is_empty(), "{paths:?} are gone");
    found.iter().map(|file| fs::read_to_string(file).expect("readable")).collect()
}

/// The bodies of the `impl` blocks that begin with one of `heads`.
fn bodies<'a>(text: &'a str, heads: &'a [&str]) -> impl Iterator<Item = &'a str> {
    heads.iter().flat_map(move |head| text.split(head).skip(1)).map(|rest| {
        let end = rest.find("\n}\n").expect("a block ends");
        &rest[..end]
    })
}

/// The name at the front of `text`.
fn name(text: &str) -> &str {
    let end = text.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
    &text[..end.unwrap_or(text.len())]
}

/// The public methods in a block, and what the macros `waits!` and `plans!` in it make.
fn methods(body: &str) -> impl Iterator<Item = &str> {
    let mut in_macro = false;
    body.lines().filter_map(move |line| {
        let code = line.trim_start();
        if code.starts_with("waits! {") || code.starts_with("plans! {") {
            in_macro = true;
        } else if line == "    }" {
            in_macro = false;
        } else if let Some(rest) = ["pub fn ", "pub async fn "].iter().find_map(|start| code.strip_prefix(start)) {
            return Some(name(rest));
        } else if in_macro && code.starts_with(|letter: char| letter.is_lowercase()) && code.contains('(') {
            return Some(name(code));
        }
        None
    })
}

fn methods_of<'a>(text: &'a str, heads: &'a [&str]) -> BTreeSet<&'a str> {
    bodies(text, heads).flat_map(methods).collect()
}

#[test]
fn the_blocking_communicator_has_the_methods_of_the_other_one() {
    let (own, blocking) = (read(&["communicator.rs", "communicator"]), read(&["blocking.rs", "blocking"]));
    let own = methods_of(&own, &["\nimpl Communicator {"]);
    let blocking = methods_of(&blocking, &["\nimpl Communicator {"]);
    assert!(own.len() > 60 && own.contains("allreduce") && own.contains("recv_value"), "{own:?}");
    let missing: Vec<_> = own.difference(&blocking).collect();
    assert!(missing.is_empty(), "without `async` there is no {missing:?}");
    let more: Vec<_> = blocking.difference(&own).filter(|name| !BLOCKING_ALONE.contains(name)).collect();
    assert!(more.is_empty(), "with `async` there is no {more:?}");
    for alone in BLOCKING_ALONE {
        assert!(blocking.contains(alone), "{alone} is gone; this list is out of date");
    }
}

#[test]
fn blocking_operations_and_messages_have_the_methods_of_the_others() {
    let (own, blocking) = (read(&["communicator"]), read(&["blocking"]));
    let heads: [&[&str]; 4] = [
        &["\nimpl<T: Element, O: Op<T>> Persistent<T, O> {"],
        &["\nimpl<T: Element> PersistentSend<T> {"],
        &["\nimpl<T: Element> PersistentRecv<T> {"],
        &["\nimpl Message {"],
    ];
    for heads in heads {
        let (own, blocking) = (methods_of(&own, heads), methods_of(&blocking, heads));
        assert!(!own.is_empty(), "{heads:?} is gone");
        assert_eq!(own, blocking, "{heads:?}");
    }
}

#[test]
fn operations_return_requests_with_a_name() {
    let text = read(&["communicator.rs", "communicator"]);
    for body in bodies(&text, &["\nimpl Communicator {", "\nimpl Message {"]) {
        for function in body.split("\n    pub fn ").skip(1) {
            let head = &function[..function.find("{\n").unwrap_or(function.len())];
            assert!(!head.contains("impl Future"), "`{}` returns a future that has no name", name(function));
        }
        for function in body.split("\n    pub async fn ").skip(1).map(name) {
            let known = ["connect", "connect_by_store", "leave", "progress_until"];
            assert!(known.contains(&function), "`{function}` returns no request");
        }
    }
}

/// Files of other packages that this one exports whole.
const EXPORTED: [&str; 5] = [
    "../proto/src/error.rs",
    "../proto/src/op.rs",
    "../proto/src/op/dynamic.rs",
    "../net/src/time.rs",
    "../store/src/lib.rs",
];

/// The words of `text` that may name a type.
fn types(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|letter: char| !letter.is_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with(|letter: char| letter.is_uppercase()))
}

/// The types that a `use` names, by the names that they have where they come from.
fn imported(line: &str) -> impl Iterator<Item = &str> {
    line.split(" as ").enumerate().flat_map(|(number, part)| {
        let is_alias = number > 0 && part.starts_with(|letter: char| letter.is_uppercase());
        types(part).skip(usize::from(is_alias))
    })
}

/// The statements of `text` that begin a line, at any depth, with `start`, up to the first of `ends`.
fn statements<'a>(text: &'a str, start: &'a str, ends: &'a [char]) -> impl Iterator<Item = &'a str> {
    text.match_indices(start).filter_map(move |(at, _)| {
        let (before, rest) = text.split_at(at);
        let before = before.trim_end_matches(' ');
        let begins_a_line = before.ends_with('\n') && !before.trim_end().ends_with("#[doc(hidden)]");
        begins_a_line.then(|| &rest[..rest.find(ends).unwrap_or(rest.len())])
    })
}

// `unreachable_pub` sees to it that what is `pub` in this crate is exported.
#[test]
fn signatures_name_only_types_that_users_can_name() {
    let mut paths = Vec::new();
    files(source(""), &mut paths);
    paths.extend(EXPORTED.map(source));
    let texts: Vec<_> = paths.iter().map(|path| (path, fs::read_to_string(path).expect("readable"))).collect();

    let mut exported = BTreeSet::new();
    for (_, text) in &texts {
        exported.extend(statements(text, "pub use ", &[';']).flat_map(types));
        for kind in ["pub struct ", "pub enum ", "pub trait ", "pub type "] {
            exported.extend(statements(text, kind, &['{', ';', '(', '=']).map(|head| name(&head[kind.len()..])));
        }
    }
    let mut hidden = Vec::new();
    for (path, text) in &texts {
        let used = statements(text, "use ", &[';']);
        let used = used.filter(|line| ["use crate::", "use super::", "use fmi_"].iter().any(|it| line.starts_with(it)));
        let internal: BTreeSet<&str> = used.flat_map(imported).filter(|name| !exported.contains(name)).collect();
        let functions = ["pub fn ", "pub async fn ", "pub const fn "];
        let functions = functions.into_iter().flat_map(|start| statements(text, start, &['{', ';']));
        let fields = statements(text, "pub ", &[',', '\n']).filter(|line| line.contains(": "));
        for signature in functions.chain(fields) {
            hidden.extend(types(signature).filter(|name| internal.contains(name)).map(|name| (path, name, signature)));
        }
    }
    assert!(exported.contains("Communicator") && exported.contains("ErrorKind") && exported.len() > 50, "{exported:?}");
    assert!(hidden.is_empty(), "types that users cannot name: {hidden:#?}");
}
