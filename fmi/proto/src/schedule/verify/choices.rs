//! Goal: a change of the tables of algorithms, of a cost or of the model that changes what is chosen is seen by whoever
//! reviews it. Method: a snapshot of the choices for usual networks, sizes and lengths.

use std::fmt::Write;

use super::*;

const SNAPSHOT: &str = include_str!("choices.txt");
const SIZES: [u32; 3] = [3, 24, 100];
/// Elements of 8 bytes: 8 B, 1 KiB, 64 KiB, 1 MiB, 64 MiB.
const COUNTS: [usize; 5] = [1, 1 << 7, 1 << 13, 1 << 17, 1 << 23];
const LENGTHS: &str = "8 B, 1 KiB, 64 KiB, 1 MiB, 64 MiB";

/// One line: what is chosen for each length.
fn line(out: &mut String, what: &str, problem: &Problem, costs: &Costs, connections: &Connections) {
    let chosen =
        COUNTS.map(|count| choose(&Problem { count, ..*problem }, costs, connections).algorithm.name().to_owned());
    writeln!(out, "{:>5} {what:<13} {}", problem.size, chosen.join(", ")).expect("memory takes all");
}

fn table() -> String {
    let mut out = String::new();
    let networks =
        [("one machine", Costs::local(1.0)), ("8 ranks a core", Costs::local(8.0)), ("a region", Costs::region())];
    for (name, costs) in networks {
        for collective in Collective::ALL {
            writeln!(out, "{collective}, {name}: {LENGTHS}").expect("memory takes all");
            for size in SIZES {
                let plain = problem(*collective, size, 0, 1, true);
                line(&mut out, "", &plain, &costs, &Connections::complete());
                line(&mut out, "sparse", &plain, &costs, &Connections::of_group(size));
                if order::REDUCTIONS.contains(collective) {
                    let ordered = Problem { commutative: false, ..plain };
                    line(&mut out, "ordered", &ordered, &costs, &Connections::complete());
                    let reproducible = Problem { reproducible: true, ..plain };
                    line(&mut out, "reproducible", &reproducible, &costs, &Connections::complete());
                }
            }
        }
    }
    out
}

#[test]
fn choices_are_those_of_the_snapshot() {
    let table = table();
    if table != SNAPSHOT {
        let differs = table.lines().zip(SNAPSHOT.lines()).find(|(now, then)| now != then);
        panic!("first difference: {differs:?}; if that is meant, this is the new snapshot:\n{table}");
    }
}
