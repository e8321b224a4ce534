//! `lab matrix`

use std::io::IsTerminal;
use std::process::ExitCode;

use indicatif::ProgressBar;
use nat_sim::nat::preset::ALL;
use scenarios::matrix::{self, Cell};
use serde_json::json;

/// The slower side, in round trips; `-` for no connection; `!` where lab and oracle disagree.
fn mark(cell: &Cell) -> String {
    let time = cell.round_trips.map_or_else(|| "-".to_owned(), |[first, second]| format!("{:.1}", first.max(second)));
    if cell.disagreement.is_some() { format!("{time} !") } else { time }
}

pub(crate) fn run(as_json: bool, seed: u64) -> ExitCode {
    let cells = matrix::CELLS as u64;
    let shows_progress = !as_json && std::io::stderr().is_terminal();
    let bar = if shows_progress { ProgressBar::new(cells) } else { ProgressBar::hidden() };
    let cells = matrix::all(seed, || bar.inc(1));
    bar.finish_and_clear();
    let disagreements: Vec<_> = cells.iter().filter(|cell| cell.disagreement.is_some()).collect();
    if as_json {
        println!("{}", json!({ "seed": seed, "cells": cells }));
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
        println!("{table}");
        println!("round trips until both sides are connected; - no direct connection; ! the oracle disagrees");
        let direct = cells.iter().filter(|cell| cell.round_trips.is_some()).count();
        println!("seed {seed}: {} cells, {direct} direct, {} disagreements", cells.len(), disagreements.len());
    }
    for cell in &disagreements {
        let what = cell.disagreement.as_deref().unwrap_or_default();
        eprintln!("lab: {} with {}: {what}\nreplay: {}", cell.first, cell.second, cell.replay);
    }
    if disagreements.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
