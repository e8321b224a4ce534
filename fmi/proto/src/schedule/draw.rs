//! When each transfer of a collective would run, and a picture of that. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::time::Duration;

use super::{Schedule, Step};
use crate::model::Costs;

/// One message of a collective.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transfer {
    /// Sender.
    pub from: u32,
    /// Receiver.
    pub to: u32,
    /// Length.
    pub bytes: usize,
    /// Whether the receiver combines it.
    pub combines: bool,
    /// When it is sent.
    pub sent_at: Duration,
    /// When all of it is there.
    pub arrived_at: Duration,
}

/// The schedules of all ranks in time: a rank sends the messages of a round one after the other, and begins the next
/// round when those that it waits for have come. What ranks on one core cost each other is left out.
pub fn timeline(schedules: &[Schedule], element_bytes: usize, costs: &Costs) -> Vec<Transfer> {
    let mut wires: BTreeMap<(u32, u32), VecDeque<(Duration, usize)>> = BTreeMap::new();
    let mut places = vec![(0usize, false, Duration::ZERO); schedules.len()];
    // When the last message has come in: what comes from several comes one after the other.
    let mut incoming = vec![Duration::ZERO; schedules.len()];
    let mut transfers: Vec<Transfer> = Vec::new();
    loop {
        let mut moved = false;
        for (me, schedule) in (0..).zip(schedules) {
            let place = &mut places[me as usize];
            while let Some(round) = schedule.rounds.get(place.0) {
                if !place.1 {
                    let mut at = place.2;
                    for step in round {
                        let Step::Send { to, data } = step else { continue };
                        let bytes = data.len() * element_bytes;
                        let sent_at = at;
                        at += costs.overhead + bytes_time(bytes, costs.byte_ns);
                        let arrived_at = at + costs.latency;
                        wires.entry((me, *to)).or_default().push_back((arrived_at, transfers.len()));
                        transfers.push(Transfer { from: me, to: *to, bytes, combines: false, sent_at, arrived_at });
                    }
                    (place.1, moved) = (true, true);
                }
                let busy = &mut incoming[me as usize];
                let Some(until) =
                    arrivals(round, (me, place.2, busy), &mut wires, &mut transfers, element_bytes, costs)
                else {
                    break;
                };
                *place = (place.0 + 1, false, until);
                moved = true;
            }
        }
        if !moved {
            return transfers;
        }
    }
}

#[expect(clippy::unwrap_in_result, reason = "messages are counted before they are taken")]
/// When a round ends that began at `begun`; `None` while messages are missing.
fn arrivals(
    round: &[Step],
    (me, begun, busy): (u32, Duration, &mut Duration),
    wires: &mut BTreeMap<(u32, u32), VecDeque<(Duration, usize)>>,
    transfers: &mut [Transfer],
    element_bytes: usize,
    costs: &Costs,
) -> Option<Duration> {
    let mut wanted: BTreeMap<u32, usize> = BTreeMap::new();
    for (from, _) in round.iter().filter_map(Step::lands) {
        *wanted.entry(from).or_default() += 1;
    }
    if wanted.iter().any(|(from, count)| wires.get(&(*from, me)).map_or(0, VecDeque::len) < *count) {
        return None;
    }
    let mut until = begun;
    for step in round {
        let Some((from, into)) = step.lands() else { continue };
        let (arrived, index) = wires.get_mut(&(from, me)).and_then(VecDeque::pop_front).expect("counted above");
        let combines = matches!(step, Step::Reduce { .. });
        let length = into.len() * element_bytes;
        *busy = arrived.max(*busy + costs.overhead + bytes_time(length, costs.byte_ns));
        (transfers[index].combines, transfers[index].arrived_at) = (combines, *busy);
        until = until.max(*busy) + bytes_time(if combines { length } else { 0 }, costs.combine_ns);
    }
    Some(until)
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn bytes_time(bytes: usize, byte_ns: f64) -> Duration {
    Duration::from_secs_f64(bytes as f64 * byte_ns / 1e9)
}

/// Draws a timeline: a line for each rank, and a stroke for each message from where and when it is sent to where and
/// when it is there; green ones are combined.
#[expect(clippy::cast_precision_loss, reason = "a drawing")]
pub fn svg(title: &str, ranks: u32, transfers: &[Transfer]) -> String {
    const WIDTH: f64 = 960.0;
    const LEFT: f64 = 60.0;
    const TOP: f64 = 56.0;
    let row = (600.0 / f64::from(ranks.max(1))).clamp(6.0, 40.0);
    let height = TOP + row * f64::from(ranks) + 40.0;
    let end = transfers.iter().map(|transfer| transfer.arrived_at).max().unwrap_or_default().as_secs_f64().max(1e-9);
    let x = |at: Duration| LEFT + (WIDTH - LEFT - 20.0) * at.as_secs_f64() / end;
    let y = |rank: u32| TOP + row * (f64::from(rank) + 0.5);
    let most = transfers.iter().map(|transfer| transfer.bytes).max().unwrap_or(0).max(1) as f64;
    let mut out = String::new();
    let mut put = |text: std::fmt::Arguments<'_>| out.write_fmt(text).expect("memory takes all");
    put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\" fill=\"#222\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"40\" fill=\"#666\">time from left to right; each stroke is a message, green ones are combined where they end</text>\n",
        escaped(title)
    ));
    for rank in 0..ranks {
        let y = y(rank);
        put(format_args!(
            "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\n",
            WIDTH - 20.0
        ));
        if row >= 9.0 || rank.is_multiple_of(8) {
            put(format_args!(
                "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#444\">rank {rank}</text>\n",
                LEFT - 8.0,
                y + 4.0
            ));
        }
    }
    for transfer in transfers {
        let colour = if transfer.combines { "#2a8f4c" } else { "#2b6cb0" };
        let width = 0.6 + 1.8 * transfer.bytes as f64 / most;
        put(format_args!(
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\" stroke-width=\"{width:.1}\" stroke-opacity=\"0.75\"><title>{} to {}, {} bytes</title></line>\n",
            x(transfer.sent_at),
            y(transfer.from),
            x(transfer.arrived_at),
            y(transfer.to),
            transfer.from,
            transfer.to,
            transfer.bytes
        ));
    }
    put(format_args!(
        "<text x=\"{}\" y=\"{:.0}\" text-anchor=\"end\" fill=\"#444\">{:.1} us</text>\n</svg>\n",
        WIDTH - 20.0,
        height - 14.0,
        end * 1e6
    ));
    out
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Collective, Connections, Problem, build, candidates, price};

    fn problem(collective: Collective, size: u32, count: usize) -> Problem {
        Problem {
            collective,
            size,
            root: 0,
            count,
            element_bytes: 4,
            commutative: true,
            in_place: false,
            reproducible: false,
        }
    }

    /// Two views of one cost: the formula of the model, and the schedules themselves in time.
    #[test]
    fn the_model_is_near_the_timeline() {
        let costs = Costs::region();
        for (size, count) in [(4, 1), (16, 1), (24, 1 << 18), (16, 1 << 22)] {
            for collective in Collective::ALL {
                let problem = problem(*collective, size, count);
                for algorithm in &candidates(&problem, &Connections::complete()) {
                    let choice = price(&problem, *algorithm, &costs);
                    let schedules: Vec<_> = (0..size).map(|me| build(&problem, &choice, me)).collect();
                    let transfers = timeline(&schedules, 4, &costs);
                    let sent: usize = schedules.iter().map(Schedule::messages).sum();
                    assert_eq!(transfers.len(), sent, "every message is in it");
                    let last = transfers.iter().map(|transfer| transfer.arrived_at).max().unwrap_or_default();
                    let ratio = choice.time.as_secs_f64() / last.as_secs_f64();
                    assert!((0.4..3.0).contains(&ratio), "{algorithm} {problem:?}: {ratio:.2}");
                }
            }
        }
    }

    #[test]
    fn a_picture_has_a_stroke_for_each_message() {
        let problem = problem(Collective::Allreduce, 5, 100);
        let choice = price(&problem, crate::schedule::Algorithm::Ring, &Costs::local(1.0));
        let schedules: Vec<_> = (0..5).map(|me| build(&problem, &choice, me)).collect();
        let transfers = timeline(&schedules, 4, &Costs::local(1.0));
        let svg = svg("5 < 6 & more", 5, &transfers);
        assert_eq!(svg.matches("<title>").count(), 5 * 8);
        assert!(svg.contains("5 &lt; 6 &amp; more") && svg.ends_with("</svg>\n"));
    }
}
