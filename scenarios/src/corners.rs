//! Entries of the catalogue for what the others do not reach: each has one way for a fault to show, and a check that sees it.

use std::time::Duration;

use fmi::op::Sum;
use fmi::{Communicator, Config, FAILURE_BOUND, Security, Source};
use fmi_proto::schedule::{Algorithm, Collective};
use nat_sim::{Fault, Tampering};

use crate::catalog::{millis, preset, seconds};
use crate::check::Check;
use crate::knock;
use crate::outcome::Outcome;
use crate::program::{Action, Context, Failure, Program};
use crate::reference::{value, vector};
use crate::scenario::{Scenario, Target, WorldSpec};
use crate::sessions;

/// Prefix of the names.
pub(crate) const PREFIX: &str = "corner-";

pub(crate) fn all() -> Vec<Scenario> {
    let mut all = vec![any_source(), stored(), deadline(), told_by_rendezvous(), told_by_peers(), prompt()];
    for security in [Security::Encrypted, Security::Authenticated] {
        all.extend([Tampering::Flip, Tampering::Repeat].map(|how| tampered(security, how)));
    }
    all.extend([sessions::of_one_nat(), sessions::among_strangers(), knock::on_listeners()]);
    all
}

fn scenario(name: &str, about: &str, size: usize, program: Program) -> Scenario {
    let world = WorldSpec::region(size, preset("linux_masq_drop"));
    Scenario::new(format!("{PREFIX}{name}"), about, world, program)
}

/// Operations have so much time, or as long as it takes.
fn within(deadline: Option<Duration>) -> Config {
    let mut config = Program::config();
    config.operation_deadline = deadline;
    config
}

fn ensure(holds: bool, wrong: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::Wrong(wrong())) }
}

/// The first error of a rank that must have one.
fn error_of(outcome: &Outcome, rank: u32) -> Result<&str, String> {
    let end = outcome.ends.get(&rank).ok_or_else(|| format!("rank {rank} has not ended"))?;
    end.error.as_deref().ok_or_else(|| format!("rank {rank} finished but must not have"))
}

/// Messages of one sender.
const MESSAGES: usize = 60;
/// How much further one of several senders may be served, of which all have something to say.
const LEAD_MAX: usize = 8;

/// Four ranks send as fast as they can to one that takes whatever comes.
fn any_source() -> Scenario {
    let program = Program::of(Program::config(), async |comm: &Communicator, context: &Context| {
        if comm.rank() > 0 {
            for number in 0..MESSAGES {
                comm.send(0, 1, &vector(comm.rank(), number as u64, 800)).await?;
            }
            return Ok(comm.barrier().await?);
        }
        context.sleep(millis(300)).await;
        let mut served = vec![0; comm.size() as usize];
        for _ in 0..MESSAGES * (served.len() - 1) {
            let (message, status) = comm.recv_vec::<u64>(Source::Any, 1).await?;
            let source = status.source as usize;
            let expected = vector(status.source, served[source] as u64, 800);
            ensure(message == expected, || format!("message {} of rank {source} is another one", served[source]))?;
            served[source] += 1;
            let most = served[1..].iter().max().copied().unwrap_or_default();
            let least = served[1..].iter().min().copied().unwrap_or_default();
            ensure(most - least <= LEAD_MAX, || {
                format!("a receive from any source is unfair: it has served {served:?}")
            })?;
        }
        Ok(comm.barrier().await?)
    });
    scenario("any-source", "one rank receives from four that compete", 5, program)
}

/// Messages that come before they are asked for, in another order, several times over.
fn stored() -> Scenario {
    let program = Program::of(Program::config(), async |comm: &Communicator, context: &Context| {
        let (next, previous) = ((comm.rank() + 1) % comm.size(), (comm.rank() + comm.size() - 1) % comm.size());
        for round in 0..10u64 {
            for tag in [1, 2, 3] {
                comm.send(next, tag, &vector(comm.rank(), round * 10 + u64::from(tag), 400)).await?;
            }
            context.sleep(millis(50)).await;
            for tag in [3, 1, 2] {
                let (message, _) = comm.recv_vec::<u64>(previous, tag).await?;
                let expected = vector(previous, round * 10 + u64::from(tag), 400);
                ensure(message == expected, || {
                    format!("round {round}: the message with tag {tag} came a second time")
                })?;
            }
        }
        Ok(comm.barrier().await?)
    });
    scenario("stored", "messages wait for receives in another order", 3, program)
}

/// A rank computes for longer than the others have time.
fn deadline() -> Scenario {
    let limit = seconds(5);
    let program = Program::of(within(Some(limit)), async |comm: &Communicator, context: &Context| {
        if comm.rank() == 2 {
            context.sleep(seconds(25)).await;
        }
        context.record("waits", "");
        Ok(comm.allreduce_in_place(&mut [1u64], Sum).await?)
    });
    let mut scenario = scenario("deadline", "operations end at their deadline", 3, program);
    scenario.checks = vec![Check::that("who waits ends at the deadline", move |outcome| {
        for rank in [0, 1] {
            let error = error_of(outcome, rank)?;
            let record = outcome.records.iter().find(|record| record.rank == rank);
            let waited = outcome.ends[&rank].at - record.map(|record| record.at).unwrap_or_default();
            if waited < limit || waited > limit + millis(50) || !error.contains("timed out after 5.000 s") {
                return Err(format!(
                    "the deadline of rank {rank} was in {limit:?}, it ended after {waited:?}: {error}"
                ));
            }
        }
        Ok(())
    })];
    scenario
}

/// Ranks wait for a message of one that dies. None of them has anything to say to another one.
fn told_by_rendezvous() -> Scenario {
    let program = Program::of(within(None), async |comm: &Communicator, context: &Context| {
        if comm.rank() == 3 {
            context.sleep(seconds(500)).await;
        }
        comm.recv(3, 0, &mut [0u64]).await?;
        Ok(())
    });
    let about = "nobody but the rendezvous can tell that a rank is dead";
    let mut scenario = scenario("told-by-rendezvous", about, 4, program);
    let at = seconds(2);
    scenario.faults = vec![(at, Fault::Kill(Target::Rank(3)))];
    scenario.checks = vec![Check::Lost { rank: 3, at, bound: FAILURE_BOUND + millis(20) }];
    scenario
}

/// The root of a broadcast dies after the rendezvous; a rank that gets it from another one hears of it from that one.
fn told_by_peers() -> Scenario {
    let mut config = within(None);
    config.algorithms = [(Collective::Broadcast, Algorithm::Binomial)].into();
    let program = Program::of(config, async |comm: &Communicator, context: &Context| {
        if comm.rank() == 0 {
            context.sleep(seconds(500)).await;
        }
        comm.broadcast(&mut [0u64; 4], 0).await?;
        Ok(())
    });
    let about = "nobody but its peers can tell a rank why a collective fails";
    let mut scenario = scenario("told-by-peers", about, 4, program);
    scenario.faults = vec![(seconds(2), Fault::Kill(Target::Rendezvous)), (seconds(3), Fault::Kill(Target::Rank(0)))];
    scenario.checks = vec![Check::that("all know whose fault it is", |outcome| {
        for rank in 1..4 {
            let error = error_of(outcome, rank)?;
            if !error.contains("rank 0") {
                return Err(format!("rank {rank} was not told that rank 0 is gone: {error}"));
            }
        }
        Ok(())
    })];
    scenario
}

/// The longest that an operation takes in a region where nothing is lost and nobody is late. What waits for a timer takes a
/// second or more.
const PROMPT: Duration = millis(500);

/// Many short operations, each of which ends by what happens on its connections.
fn prompt() -> Scenario {
    let program = Program::of(within(Some(seconds(10))), async |comm: &Communicator, context: &Context| {
        let (me, size) = (comm.rank(), comm.size());
        for number in 0..150u64 {
            let begun = context.now();
            let mut sum = [value(me, number, 0)];
            comm.allreduce_in_place(&mut sum, Sum).await?;
            let (to, from) = ((me + 1) % size, (me + size - 1) % size);
            let send = vector(me, number, 20_000);
            let mut receive = vec![0; send.len()];
            comm.sendrecv((to, &send), (from, &mut receive), 1).await?;
            ensure(receive == vector(from, number, 20_000), || format!("message {number} of rank {from} is wrong"))?;
            let took = context.now() - begun;
            let wrong = || format!("step {number} took {took:?}: an operation waited for a timer, not for its peer");
            ensure(took < PROMPT, wrong)?;
        }
        Ok(())
    });
    scenario("prompt", "no operation waits for a timer", 4, program)
}

/// Somebody on the way changes what one rank sends, and TCP does not notice.
fn tampered(security: Security, how: Tampering) -> Scenario {
    let (name, what) = match how {
        Tampering::Flip => ("flip", "turns bits"),
        Tampering::Repeat => ("repeat", "repeats records"),
    };
    // Each record is a segment of its own, so that what takes its place is a whole record.
    let program = Program::steps([Action::Allreduce { bytes: 64 }], 100_000);
    let name = format!("tampered-{name}-{}", security.name());
    let about =
        format!("somebody on the way {what} of {} streams: they end, and nothing wrong is taken", security.name());
    let mut scenario = scenario(&name, &about, 3, program);
    scenario.program.config.security = Some(security);
    scenario.faults = vec![(millis(1500), Fault::Tamper(Target::Rank(1), how, 100_000))];
    scenario.checks = vec![Check::that("what was changed is noticed as that", |outcome| {
        let errors: Vec<&str> = (0..3).map(|rank| error_of(outcome, rank)).collect::<Result<_, _>>()?;
        if outcome.report.tampered == 0 {
            return Err("nothing was changed".into());
        }
        let is_noticed = errors.iter().any(|error| error.contains("the stream was changed on the way"));
        if is_noticed { Ok(()) } else { Err(format!("a record that was changed on the way was taken: {errors:?}")) }
    })];
    scenario
}
