//! `fmi ping`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use fmi::config::Variables;
use fmi::error::{Error, ErrorKind, Operation};
use fmi::{Communicator, Config, LinkInfo, RealNet, Remark, Result};
use serde_json::json;

/// Options replace the variables that they name; all other settings come from the environment too.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the rendezvous, host:port [FMI_RENDEZVOUS].
    #[arg(long, value_name = "ADDR")]
    rendezvous: Option<String>,
    /// Name of the group, equal on all ranks [FMI_GROUP].
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Rank of this process, from 0 to N - 1 [FMI_RANK].
    #[arg(long, value_name = "R")]
    rank: Option<u32>,
    /// Number of ranks [FMI_SIZE].
    #[arg(long, value_name = "N")]
    size: Option<u32>,
    /// File with the group's key, in place of FMI_KEY [FMI_KEY_FILE].
    #[arg(long, value_name = "F")]
    key_file: Option<PathBuf>,
    /// Time to form the group, and again for each ping; 10 s if FMI_JOIN_DEADLINE and FMI_DEADLINE do not say so either.
    #[arg(long, value_parser = crate::duration, value_name = "TIME")]
    deadline: Option<Duration>,
    /// Protection of the streams: encrypted, authenticated or plaintext [FMI_SECURITY].
    #[arg(long, value_name = "S")]
    security: Option<String>,
    /// Keep pinging for this long, so that relayed pairs may find a direct connection.
    #[arg(long, value_parser = crate::duration, value_name = "TIME")]
    linger: Option<Duration>,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

struct Answer {
    link: LinkInfo,
    round_trip: Duration,
}

/// Pings per peer; the shortest counts, as the others waited for something else.
const PINGS: u32 = 5;
const TAG: u32 = 1;
/// A message that fills packets as long as the path takes.
const LONG_BYTES: usize = 64 << 10;
const LONG_TAG: u32 = 2;
/// Pause between rounds of pings.
const LINGER_PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    let json = arguments.json;
    match ping(arguments).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if json {
                say!("{}", json!({ "error": error.to_string(), "peer": error.peer() }));
            }
            crate::failed(&error)
        }
    }
}

fn config(arguments: &Arguments) -> Result<Config> {
    let mut variables = Variables::from_env();
    let (rank, size) = (arguments.rank.map(|rank| rank.to_string()), arguments.size.map(|size| size.to_string()));
    for (name, given) in [
        ("FMI_RENDEZVOUS", &arguments.rendezvous),
        ("FMI_GROUP", &arguments.group),
        ("FMI_RANK", &rank),
        ("FMI_SIZE", &size),
        ("FMI_SECURITY", &arguments.security),
    ] {
        if let Some(value) = given {
            variables.set(name, value.as_str());
        }
    }
    if let Some(path) = &arguments.key_file {
        variables.unset("FMI_KEY");
        variables.set("FMI_KEY_FILE", path.as_os_str().as_encoded_bytes());
    }
    let has_file = variables.bytes("FMI_CONFIG")?.is_some();
    for name in ["FMI_JOIN_DEADLINE", "FMI_DEADLINE"] {
        if !has_file && variables.bytes(name)?.is_none() {
            variables.set(name, "10s");
        }
    }
    let mut config = Config::from_variables(&variables)?;
    if let Some(deadline) = arguments.deadline {
        (config.join_deadline, config.operation_deadline) = (deadline, Some(deadline));
    }
    Ok(config)
}

async fn ping(arguments: Arguments) -> Result<()> {
    let config = config(&arguments)?;
    let net = RealNet::new();
    let comm = Communicator::connect(net, &config).await?;
    let formed_after = comm.now().since_origin();
    let peers: Vec<u32> = comm.links().map(|link| link.peer).collect();
    let until = comm.now() + arguments.linger.unwrap_or_default();
    let mut round_trips: Vec<Duration>;
    loop {
        round_trips = Vec::new();
        for peer in &peers {
            round_trips.push(ping_peer(&comm, *peer).await?);
        }
        // Rank 0 decides for all ranks when to stop.
        let mut is_over = [u8::from(comm.now() >= until)];
        comm.broadcast(&mut is_over, 0).await?;
        if is_over == [1] {
            break;
        }
        let pause = comm.now() + LINGER_PAUSE;
        comm.progress_until(pause).await;
    }
    for peer in &peers {
        exchange_long(&comm, *peer).await?;
    }
    let answers: Vec<_> = comm.links().zip(round_trips).map(|(link, round_trip)| Answer { link, round_trip }).collect();
    // A rank that finishes first must not leave while others still wait for it.
    comm.barrier().await?;
    if arguments.json {
        say!("{}", as_json(&config, formed_after, &answers, &comm.remarks()));
    } else {
        print_lines(&config, formed_after, &answers);
        for remark in comm.remarks() {
            say!("  note: {remark}; {}", remark.advice());
        }
    }
    comm.leave().await;
    Ok(())
}

/// All ranks visit their peers in rank order, so the lowest pair that both wait for can go on. The
/// lower rank measures first, then the higher one.
async fn ping_peer(comm: &Communicator, peer: u32) -> Result<Duration> {
    let mut shortest = Duration::MAX;
    for measured_by in [comm.rank().min(peer), comm.rank().max(peer)] {
        for number in 0..=PINGS {
            let begun = comm.now();
            let mut echo = [0u32];
            if measured_by != comm.rank() {
                comm.recv(peer, TAG, &mut echo).await?;
                comm.send(peer, TAG, &echo).await?;
                continue;
            }
            comm.send(peer, TAG, &[number]).await?;
            comm.recv(peer, TAG, &mut echo).await?;
            // The first one only waits for the peer to come here.
            if number > 0 {
                shortest = shortest.min(comm.now() - begun);
            }
        }
    }
    Ok(shortest)
}

/// Short messages have come through both ways; a path that drops long packets shows here.
async fn exchange_long(comm: &Communicator, peer: u32) -> Result<()> {
    let (long, mut back) = (vec![0u8; LONG_BYTES], vec![0u8; LONG_BYTES]);
    let exchanged = comm.sendrecv((peer, &long), (peer, &mut back), LONG_TAG).await;
    match exchanged.map(drop) {
        Err(error) if matches!(error.kind(), ErrorKind::Deadline { .. }) => {
            let what = format!(
                "short messages come through and one of {LONG_BYTES} bytes does not, which looks like an MTU black hole"
            );
            Err(Error::new(Operation::SendReceive, ErrorKind::ConnectionLost(what)).on(comm.rank()).with_peer(peer))
        }
        result => result,
    }
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn connect_time(link: &LinkInfo) -> Duration {
    link.connected_at - link.addresses_known_at
}

fn as_json(config: &Config, formed_after: Duration, answers: &[Answer], remarks: &[Remark]) -> serde_json::Value {
    let notes: Vec<_> = remarks.iter().map(|it| json!({ "note": it.to_string(), "advice": it.advice() })).collect();
    let peers: Vec<_> = answers
        .iter()
        .map(|Answer { link, round_trip }| {
            json!({
                "rank": link.peer,
                "path": link.path.to_string(),
                "technique": link.technique.to_string(),
                "connect_ms": milliseconds(connect_time(link)),
                "attempts": link.attempts,
                "round_trip_ms": milliseconds(*round_trip),
            })
        })
        .collect();
    json!({
        "group": config.group,
        "rank": config.rank,
        "size": config.size,
        "formed_ms": milliseconds(formed_after),
        "peers": peers,
        "notes": notes,
    })
}

fn print_lines(config: &Config, formed_after: Duration, answers: &[Answer]) {
    let (rank, size) = (config.rank, config.size);
    say!("rank {rank} of {size}: group {:?} formed after {:.1} ms", config.group, milliseconds(formed_after));
    for Answer { link, round_trip } in answers {
        say!(
            "  rank {:<5} {:<8} by {:<10} connected in {:>9.3} ms   round trip {:>8.3} ms",
            link.peer,
            link.path.to_string(),
            link.technique.to_string(),
            milliseconds(connect_time(link)),
            milliseconds(*round_trip)
        );
    }
}
