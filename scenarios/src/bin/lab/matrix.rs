//! `lab matrix`

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::Path as File;
use std::process::ExitCode;

use indicatif::ProgressBar;
use nat_sim::nat::preset::ALL;
use scenarios::matrix::{self, Cell, Route};
use serde_json::json;

/// The slower side, in round trips.
fn time(cell: &Cell) -> Option<f64> {
    cell.round_trips.map(|[first, second]| first.max(second))
}

/// Round trips, or the first letter of the path; `'` where the original's rule fails; `!` where lab and
/// oracle disagree.
fn mark(cell: &Cell) -> String {
    let mut mark = match (time(cell), cell.path) {
        (Some(time), Route::Direct) => format!("{time:.1}"),
        (Some(time), Route::Predicted) => format!("{time:.1}p"),
        (_, Route::Relay) => "r".into(),
        (_, Route::Predicted | Route::Direct | Route::None) => "-".into(),
    };
    if is_direct(cell) && !cell.original_connects {
        mark.push('\'');
    }
    if cell.disagreement.is_some() {
        mark.push('!');
    }
    mark
}

fn is_direct(cell: &Cell) -> bool {
    matches!(cell.path, Route::Direct | Route::Predicted)
}

fn count(cells: &[Cell], path: Route) -> usize {
    cells.iter().filter(|cell| cell.path == path).count()
}

/// What the original's rule would miss.
fn missed(cells: &[Cell]) -> usize {
    cells.iter().filter(|cell| is_direct(cell) && !cell.original_connects).count()
}

fn summary(seed: u64, cells: &[Cell]) -> String {
    let disagreements = cells.iter().filter(|cell| cell.disagreement.is_some()).count();
    format!(
        "seed {seed}: {} cells, {} direct, {} predicted, {} relay, {} none, {disagreements} disagreements, \
         {} of another seed as luck decides; \
         the original FMI would miss {} of the direct pairs",
        cells.len(),
        count(cells, Route::Direct),
        count(cells, Route::Predicted),
        count(cells, Route::Relay),
        count(cells, Route::None),
        cells.iter().filter(|cell| cell.retries > 0).count(),
        missed(cells),
    )
}

pub(crate) fn run(as_json: bool, html: Option<&File>, seed: u64) -> ExitCode {
    let count = matrix::CELLS as u64;
    let shows_progress = !as_json && std::io::stderr().is_terminal();
    let bar = if shows_progress { ProgressBar::new(count) } else { ProgressBar::hidden() };
    let cells = matrix::all(seed, || bar.inc(1));
    bar.finish_and_clear();
    if let Some(path) = html
        && let Err(error) = std::fs::write(path, page(seed, &cells))
    {
        return crate::usage(&format!("cannot write {}: {error}", path.display()));
    }
    if as_json {
        say!("{}", json!({ "seed": seed, "cells": cells }));
    } else {
        let numbers: Vec<String> = (1..=ALL.len()).map(|number| number.to_string()).collect();
        let mut header = vec!["", "gateway of rank 0 \\ of rank 1"];
        header.extend(numbers.iter().map(String::as_str));
        let mut table = crate::sweep::table(&header);
        for ((number, preset), row) in numbers.iter().zip(ALL).zip(cells.chunks(ALL.len())) {
            let mut line = vec![number.clone(), preset.name.to_owned()];
            line.extend(row.iter().map(mark));
            table.add_row(line);
        }
        say!("{table}");
        say!("round trips until both sides are connected; p at a predicted port, r by the relay, - not at all");
        say!("' the original's rule, to bind the port that was seen, fails; ! the oracle disagrees");
        say!("{}", summary(seed, &cells));
    }
    let disagreements: Vec<_> = cells.iter().filter(|cell| cell.disagreement.is_some()).collect();
    for cell in &disagreements {
        let what = cell.disagreement.as_deref().unwrap_or_default();
        complain!("lab: {} with {}: {what}\nreplay: {}", cell.first, cell.second, cell.replay);
    }
    if disagreements.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

const STYLE: &str = "
body { font: 13px/1.4 system-ui, sans-serif; margin: 24px; color: #1c2024; background: #fff; }
h1 { font-size: 20px; margin: 0 0 4px; }
p { margin: 4px 0 14px; max-width: 70em; }
table { border-collapse: collapse; }
th { font-weight: 500; text-align: right; padding: 0 8px 0 0; white-space: nowrap; }
thead th { height: 130px; padding: 0; vertical-align: bottom; }
thead th span { display: inline-block; writing-mode: vertical-rl; transform: rotate(180deg); padding: 4px 0; }
td { width: 30px; min-width: 30px; height: 22px; text-align: center; border: 1px solid #fff; font-variant-numeric: tabular-nums; }
.direct { background: #b7e3c3; } .direct.slow { background: #dcf0c0; } .predicted { background: #ffe39c; }
.relay { background: #f6c5bd; } .none { background: #c9ced6; }
.missed { box-shadow: inset 0 0 0 2px #4466aa; } .disagrees { outline: 3px solid #d00; }
td:hover { filter: brightness(0.9); }
.key span { display: inline-block; padding: 1px 8px; margin-right: 10px; }
";

/// One self-contained page: no script, nothing to fetch.
fn page(seed: u64, cells: &[Cell]) -> String {
    let mut html = String::new();
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>NAT by NAT</title>\
         <style>{STYLE}</style></head><body>\n<h1>NAT by NAT</h1>\n<p>{}</p>\n",
        summary(seed, cells)
    );
    html.push_str(
        "<p class=\"key\"><span class=\"direct\">1.0</span>direct, round trips until both sides are connected \
         <span class=\"predicted\">1.0</span>the same at a predicted port \
         <span class=\"relay\">r</span>by the relay \
         <span class=\"direct missed\">1.0</span>the original&#8217;s rule, to bind the port that was seen, fails</p>\n\
         <table><thead><tr><th></th>",
    );
    for preset in ALL {
        let _ = write!(html, "<th><span>{}</span></th>", preset.name);
    }
    html.push_str("</tr></thead><tbody>\n");
    for (preset, row) in ALL.iter().zip(cells.chunks(ALL.len())) {
        let _ = write!(html, "<tr><th title=\"{}\">{}</th>", escaped(preset.about), preset.name);
        for cell in row {
            let _ = write!(
                html,
                "<td class=\"{}\" title=\"{}\">{}</td>",
                classes(cell),
                escaped(&details(cell)),
                text(cell)
            );
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</tbody></table>\n</body></html>\n");
    html
}

fn classes(cell: &Cell) -> String {
    let mut classes = vec![cell.path.name()];
    if time(cell).is_some_and(|time| time > 1.25) {
        classes.push("slow");
    }
    if is_direct(cell) && !cell.original_connects {
        classes.push("missed");
    }
    if cell.disagreement.is_some() {
        classes.push("disagrees");
    }
    classes.join(" ")
}

fn text(cell: &Cell) -> String {
    mark(cell).replace('\'', "")
}

fn details(cell: &Cell) -> String {
    let mut details = format!("{} with {}: {}", cell.first, cell.second, cell.path.name());
    if let Some([first, second]) = cell.round_trips {
        let _ = write!(details, ", {first:.2} and {second:.2} round trips");
    }
    let original = if cell.original_connects { "connects" } else { "fails" };
    let _ = write!(details, "; the original's rule {original}");
    if let Some(disagreement) = &cell.disagreement {
        let _ = write!(details, "; {disagreement}");
    }
    details
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;")
}
