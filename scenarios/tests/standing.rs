//! Goal: the checks that are always on notice what they are for. Method: programs and worlds in which each has something to
//! find, beside the same without it.

use std::time::Duration;

use fmi::net::Net;
use fmi::{Path, Technique};
use nat_sim::Fault;
use nat_sim::nat::preset;
use scenarios::{Check, Context, Failure, Options, Program, Scenario, Target, WorldSpec, catalog};
use tokio::io::AsyncWriteExt;

/// What the group of a test knows.
const SECRET: &str = "sixteen bytes or more of it";

fn violations(scenario: &Scenario) -> Vec<String> {
    scenarios::run(scenario, 1, Options::default()).violations
}

fn named(name: &str) -> Scenario {
    catalog::find_scenario(name).expect("in the catalogue")
}

/// Nobody joins, and nothing stands.
fn without_a_group(name: &str) -> Scenario {
    let program = Program::alone(Program::config(), async |context: &Context| {
        context.sleep(Duration::from_secs(1)).await;
        Ok(())
    });
    Scenario { program, ..named(name) }
}

/// The rendezvous is gone before anybody can reach it.
fn without_a_rendezvous(name: &str) -> Scenario {
    let faults = vec![(Duration::ZERO, Fault::Kill(Target::Rendezvous))];
    Scenario { faults, ..without_a_group(name) }
}

#[test]
fn an_attack_that_hits_nobody_fails() {
    for name in ["attack-knocker", "attack-resets"] {
        let attack = name.trim_start_matches("attack-");
        assert_eq!(
            violations(&without_a_group(name)),
            [format!("the attack {attack} hit nobody, so it shows nothing")]
        );
    }
    for name in ["attack-impostor", "attack-replay", "attack-slow-loris", "attack-flood"] {
        let attack = name.trim_start_matches("attack-");
        assert_eq!(
            violations(&without_a_rendezvous(name)),
            [format!("the attack {attack} hit nobody, so it shows nothing")]
        );
    }
}

/// One function that tells the rendezvous these pieces, one segment each.
fn telling(pieces: Vec<Vec<u8>>) -> Scenario {
    let mut config = Program::config();
    config.key = Some(SECRET.into());
    let program = Program::alone(config, async move |context: &Context| {
        let stream = context.net().connect(([0; 4], 0).into(), ([192, 0, 2, 1], 7000).into()).await;
        let mut stream = stream.map_err(|error| Failure::Wrong(error.to_string()))?;
        for piece in &pieces {
            stream.write_all(piece).await.map_err(|error| Failure::Wrong(error.to_string()))?;
            context.sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    });
    let world = WorldSpec::region(1, preset::find("linux_masq_drop").expect("a preset"));
    Scenario::new("telling", "a program of a test", world, program)
}

#[test]
fn any_eight_bytes_of_the_secret_are_found_on_a_wire_however_they_are_cut() {
    let leak = "8 bytes of the secret of the group are on a wire";
    let part = &SECRET.as_bytes()[9..17];
    assert_eq!(violations(&telling(vec![part.to_vec()])), [leak]);
    // A length that the rendezvous waits for, so that it keeps listening.
    let bytes: Vec<Vec<u8>> = [&[0, 0, 1, 0], part].concat().iter().map(|byte| vec![*byte]).collect();
    assert_eq!(violations(&telling(bytes)), [leak]);
    assert_eq!(violations(&telling(vec![part[..7].to_vec()])), Vec::<String>::new());
}

#[test]
fn a_key_that_a_rank_makes_is_found_on_a_wire() {
    let mut scenario = telling(Vec::new());
    scenario.program = Program::alone(scenario.program.config.clone(), async |context: &Context| {
        let stream = context.net().connect(([0; 4], 0).into(), ([192, 0, 2, 1], 7000).into()).await;
        let mut stream = stream.map_err(|error| Failure::Wrong(error.to_string()))?;
        let seed = *b"what a rank keeps to itself only";
        drop(fmi_proto::exchange::KeyPair::from_seed(seed));
        stream.write_all(&seed[20..30]).await.map_err(|error| Failure::Wrong(error.to_string()))
    });
    assert_eq!(violations(&scenario), ["8 bytes of the secret of a registration are on a wire"]);
}

#[test]
fn a_part_of_the_secret_in_an_error_or_a_record_is_found() {
    let program = |is_record: bool| {
        let mut scenario = telling(Vec::new());
        scenario.program = Program::alone(scenario.program.config.clone(), async move |context: &Context| {
            if is_record {
                context.record("shown", &SECRET[3..12]);
                return Ok(());
            }
            Err(Failure::Wrong(format!("the key is not {}", &SECRET[3..12])))
        });
        violations(&scenario).join("\n")
    };
    for is_record in [true, false] {
        assert!(program(is_record).contains("a part of the secret is in an error or a record"), "{is_record}");
    }
}

/// A rendezvous or an attacker runs as any service does.
#[test]
fn a_panic_in_a_task_that_nobody_awaits_fails_the_run_and_is_quoted() {
    let mut scenario = telling(Vec::new());
    scenario.program = Program::alone(scenario.program.config.clone(), async |context: &Context| {
        #[expect(clippy::disallowed_methods, reason = "what is spawned panics out of sight")]
        tokio::task::spawn_local(async { panic!("out of sight") });
        context.sleep(Duration::from_secs(5)).await;
        Ok(())
    });
    let quoted = violations(&scenario).join("\n");
    assert!(quoted.contains("panicked: out of sight, at scenarios/tests/standing.rs:"), "{quoted}");
}

#[test]
fn a_rank_that_does_not_end_is_named() {
    let mut scenario = without_a_group("two-functions");
    scenario.deadline = Duration::from_millis(500);
    let found = violations(&scenario);
    assert_eq!(found[1..], [0, 1].map(|rank| format!("rank {rank} neither finished nor failed")), "{found:?}");
}

#[test]
fn a_wrong_result_counts_even_of_a_rank_that_is_killed_later() {
    let mut scenario = telling(Vec::new());
    scenario.program = Program::alone(scenario.program.config.clone(), async |_: &Context| {
        Err(Failure::Wrong("two and two make five".into()))
    });
    scenario.faults = vec![(Duration::from_secs(1), Fault::Kill(Target::Rank(0)))];
    scenario.checks = Vec::new();
    assert_eq!(violations(&scenario), ["rank 0: two and two make five"]);
}

#[test]
fn a_rank_that_finishes_without_a_link_comes_together_with_nobody() {
    for check in [Check::Via(Path::Direct), Check::Techniques(vec![Technique::Punch; 2]), Check::EndsVia(Path::Direct)]
    {
        let mut scenario = without_a_group("two-functions");
        scenario.checks = vec![check];
        let found = violations(&scenario);
        assert_eq!(found, [0, 1].map(|rank| format!("rank {rank} has links to [] alone")));
    }
}

/// That a pair is relayed is told by the packets, whatever its ranks say.
#[test]
fn what_the_rendezvous_carries_is_counted() {
    let served = |name: &str| {
        let scenario = named(name);
        let outcome = scenarios::run(&scenario, 1, Options::default());
        assert_eq!(outcome.violations, Vec::<String>::new(), "{name}");
        outcome.served_bytes
    };
    let (direct, relayed) = (served("technique-punch"), served("technique-relay"));
    assert!(direct < 4096 && relayed > 2 * 4096, "{direct} and {relayed} bytes");
}
