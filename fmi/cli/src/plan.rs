//! `fmi plan`

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use fmi_proto::model::Costs;
use fmi_proto::schedule::draw::{svg, timeline};
use fmi_proto::schedule::{
    Algorithm, Choice, Collective, Connections, Problem, Schedule, Step, build, candidates, chosen, price,
};

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Operation, like allreduce.
    #[arg(long, value_name = "OP")]
    op: Collective,
    /// Number of ranks.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    ranks: u32,
    /// Length of the vector, or of each rank's block.
    #[arg(long, default_value = "8", value_parser = crate::bytes, value_name = "BYTES")]
    bytes: usize,
    /// Length of an element.
    #[arg(long, default_value_t = 4, value_name = "BYTES")]
    element: usize,
    /// Root, of operations that have one.
    #[arg(long, default_value_t = 0, value_name = "R")]
    root: u32,
    /// The rank whose schedule is printed.
    #[arg(long, default_value_t = 0, value_name = "R")]
    rank: u32,
    /// The operator does not commute.
    #[arg(long)]
    ordered: bool,
    /// The order of combination depends on the number of ranks alone.
    #[arg(long)]
    reproducible: bool,
    /// Only the connections that `Peers::Collectives` makes.
    #[arg(long)]
    sparse: bool,
    /// This algorithm in place of the best one.
    #[arg(long, value_name = "NAME")]
    algorithm: Option<Algorithm>,
    /// All ranks on this machine; else functions of one region.
    #[arg(long)]
    local: bool,
    /// Where to draw it; by default a file named after operation and ranks.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Draw nothing.
    #[arg(long, conflicts_with = "svg")]
    no_svg: bool,
}

/// Adds a line to what is printed.
macro_rules! add {
    ($out:ident, $($format:tt)*) => {
        writeln!($out, $($format)*).expect("memory takes all")
    };
}

/// Rounds of a rank that are printed; a ring of thousands has more.
const ROUNDS_MAX: usize = 40;

pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    match plan(arguments) {
        Ok(text) => {
            say!("{}", text.trim_end_matches('\n'));
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain!("{error}");
            ExitCode::from(2)
        }
    }
}

fn plan(arguments: &Arguments) -> Result<String, String> {
    let mut out = String::new();
    let Arguments { op, ranks, root, rank, .. } = *arguments;
    if root >= ranks || rank >= ranks || arguments.element == 0 {
        return Err(format!("root {root} and rank {rank} must be below {ranks}, and elements have a length"));
    }
    let count = arguments.bytes.div_ceil(arguments.element);
    let problem = Problem {
        collective: op,
        size: ranks,
        root,
        count,
        element_bytes: arguments.element,
        commutative: !arguments.ordered,
        in_place: false,
        reproducible: arguments.reproducible,
    };
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let crowding = || f64::from(ranks) / std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    let costs = if arguments.local { Costs::local(crowding()) } else { Costs::region() };
    let connections = if arguments.sparse { Connections::of_group(ranks) } else { Connections::complete() };
    let known = candidates(&problem, &connections);
    if let Some(wanted) = arguments.algorithm.filter(|wanted| !known.contains(wanted)) {
        let names: Vec<_> = known.iter().map(|known| known.name()).collect();
        return Err(format!("unknown algorithm {wanted} for this {op} (expected one of: {})", names.join(", ")));
    }
    let choice = chosen(&problem, arguments.algorithm, &costs, &connections);
    let schedules: Vec<Schedule> = (0..ranks).map(|me| build(&problem, &choice, me)).collect();
    let transfers = timeline(&schedules, arguments.element, &costs);

    add!(out, "{op} of {count} elements of {} bytes among {ranks} ranks", arguments.element);
    add!(out, "network: {costs}\n");
    print_candidates(&mut out, &problem, &choice, &costs, &known);
    print_totals(&mut out, &schedules, arguments.element);
    let end = transfers.iter().map(|transfer| transfer.arrived_at).max().unwrap_or_default();
    add!(out, "modelled time {:.1?}; transfer by transfer, without crowding, {end:.1?}\n", choice.time);
    print_schedule(&mut out, rank, &schedules[rank as usize]);
    if !arguments.no_svg {
        let path = arguments.svg.clone().unwrap_or_else(|| format!("{op}-{ranks}.svg").into());
        let title = format!("{op}, {}, {ranks} ranks, {} bytes", choice.algorithm, arguments.bytes);
        std::fs::write(&path, svg(&title, ranks, &transfers))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        add!(out, "drawn in {}", path.display());
    }
    Ok(out)
}

fn print_candidates(out: &mut String, problem: &Problem, choice: &Choice, costs: &Costs, known: &[Algorithm]) {
    let mut priced: Vec<Choice> = known.iter().map(|algorithm| price(problem, *algorithm, costs)).collect();
    priced.sort_by_key(|priced| priced.time);
    add!(out, "{:<20} {:>14} {:>10}", "algorithm", "modelled time", "of best");
    for candidate in &priced {
        let ratio = candidate.time.as_secs_f64() / priced[0].time.as_secs_f64().max(f64::MIN_POSITIVE);
        let mark = if candidate.algorithm == choice.algorithm { "  <- taken" } else { "" };
        add!(out, "{:<20} {:>14} {ratio:>10.2}{mark}", candidate.algorithm, format!("{:.1?}", candidate.time));
    }
    let why = match priced.get(1) {
        _ if choice.algorithm != priced[0].algorithm => "asked for".to_owned(),
        None => "there is no other for this operator and these connections".to_owned(),
        Some(second) => {
            let ratio = second.time.as_secs_f64() / priced[0].time.as_secs_f64().max(f64::MIN_POSITIVE);
            format!("least modelled time; {} comes next with {ratio:.2} of it", second.algorithm)
        }
    };
    add!(out, "\n{} is taken: {why}", choice.algorithm);
}

fn print_totals(out: &mut String, schedules: &[Schedule], element_bytes: usize) {
    let most = |of: fn(&Schedule) -> usize| schedules.iter().map(of).max().unwrap_or(0);
    let rounds = most(|schedule| schedule.rounds.len());
    let (messages, sent, combined) = (most(Schedule::messages), most(Schedule::sent), most(Schedule::combined));
    let all: usize = schedules.iter().map(Schedule::messages).sum();
    add!(
        out,
        "{rounds} rounds; the busiest rank sends {messages} messages and {} bytes, and combines {} bytes; {all} messages in all",
        sent * element_bytes,
        combined * element_bytes
    );
}

fn print_schedule(out: &mut String, rank: u32, schedule: &Schedule) {
    add!(out, "rank {rank}:");
    for (number, round) in schedule.rounds.iter().enumerate().take(ROUNDS_MAX) {
        let steps: Vec<String> = round.iter().map(describe).collect();
        add!(out, "  round {number:>3}: {}", steps.join("; "));
    }
    if schedule.rounds.len() > ROUNDS_MAX {
        add!(out, "  and {} more rounds", schedule.rounds.len() - ROUNDS_MAX);
    }
}

fn describe(step: &Step) -> String {
    match step {
        Step::Send { to, data } => format!("send {data} to {to}"),
        Step::Receive { from, into } => format!("receive {into} from {from}"),
        Step::Reduce { from, own, into, .. } if own == into => format!("combine {into} with what {from} sends"),
        Step::Reduce { from, own, into, .. } => format!("combine {own} with what {from} sends into {into}"),
        Step::Copy { data, into } => format!("copy {data} to {into}"),
        Step::Combine { other, into, .. } => format!("combine {into} with {other}"),
    }
}
