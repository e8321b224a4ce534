//! Goal: `docs/reference/cli.md` and a program's own help agree. Method: render each command as the page shows it, and
//! look for exactly that.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use clap::{Arg, Command};

/// Where the page is, from the folder of a package two levels below the repository's, or one.
const PAGE: &str = "docs/reference/cli.md";

/// Asserts that the part of the page about `program` has the section of each command as `clap` knows it, and neither other
/// commands nor other options.
pub(crate) fn assert_agrees(mut program: Command) {
    program.build();
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = package.ancestors().map(|folder| folder.join(PAGE)).find(|page| page.exists());
    let page = std::fs::read_to_string(page.expect("the page")).expect("text");
    let part = page.split("\n## ").find(|part| part.starts_with(&format!("The program `{}`\n", program.get_name())));
    let part = part.expect("a part for each program");

    let mut commands = Vec::new();
    leaves(&program, &mut commands);
    for command in &commands {
        let section = section(command);
        assert!(part.contains(&section), "{PAGE} should have this section, word for word:\n\n{section}");
    }
    let headings = part.lines().filter(|line| line.starts_with("### `")).count();
    assert_eq!(headings, commands.len(), "{PAGE} has a section for each command of {}", program.get_name());

    let arguments = commands.iter().flat_map(|command| command.get_arguments()).chain(program.get_arguments());
    let known: BTreeSet<&str> = arguments.filter_map(Arg::get_long).collect();
    let is_part = |c: char| !c.is_ascii_alphanumeric() && c != '-';
    let named: BTreeSet<&str> = part.split(is_part).filter_map(|word| word.strip_prefix("--")).collect();
    // Two dashes alone end the options, and longer rows of them rule tables.
    let named: BTreeSet<&str> = named.into_iter().filter(|name| !name.is_empty() && !name.starts_with('-')).collect();
    assert!(named.is_subset(&known), "{PAGE} names options that do not exist: {:?}", named.difference(&known));
}

/// The commands that do something: of one that has commands, these.
fn leaves<'a>(command: &'a Command, found: &mut Vec<&'a Command>) {
    for command in command.get_subcommands().filter(|command| command.get_name() != "help") {
        if command.has_subcommands() {
            leaves(command, found);
        } else {
            found.push(command);
        }
    }
}

/// A command with its usage and its options, as the page has it.
fn section(command: &Command) -> String {
    let mut section = String::new();
    let name = command.get_bin_name().expect("built");
    let about = command.get_about().expect("every command says what it does");
    let usage = command.clone().render_usage();
    let usage = usage.to_string();
    let usage = usage.strip_prefix("Usage: ").expect("a usage");
    write!(section, "### `{name}`\n\n{about}.\n\n```text\n{usage}\n```\n").expect("memory takes all");
    let arguments =
        command.get_arguments().filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()));
    let mut rows = arguments.map(row).peekable();
    if rows.peek().is_some() {
        section.push_str("\n| option | default | what it does |\n|---|---|---|\n");
        section.extend(rows);
    }
    section
}

fn row(argument: &Arg) -> String {
    let short = argument.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    let values: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let takes_value = argument.get_action().takes_values();
    let value = (takes_value && !values.is_empty()).then(|| format!("`{}`", values.join(",")));
    let variable = argument.get_env().map(|variable| format!("`{}`", variable.to_string_lossy()));
    let default = match (variable, value) {
        (Some(variable), Some(value)) => format!("{variable}, else {value}"),
        (Some(only), None) | (None, Some(only)) => only,
        (None, None) => "–".to_owned(),
    };
    let help = argument.get_help().expect("every option says what it does").to_string();
    format!("| {short}`{argument}` | {default} | {}. |\n", help.replace('|', "\\|").trim_end_matches('.'))
}
