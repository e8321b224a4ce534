//! `lab nats`

use std::process::ExitCode;
use std::time::Duration;

use nat_sim::nat::preset::{ALL, NOT_MODELLED, Preset};
use nat_sim::nat::{
    Allocation, Fallback, Filtering, Hairpin, Mapping, NatConfig, OnSyn, PortClass, Rules, SimultaneousOpen,
};
use serde_json::json;

fn mapping(rules: &Rules) -> &'static str {
    match rules.mapping {
        Mapping::EndpointIndependent => "EIM",
        Mapping::AddressDependent => "ADM",
        Mapping::AddressAndPortDependent => "APDM",
        Mapping::PreserveOverlap => "keep, overlap",
        Mapping::OneToOne => "one to one",
        Mapping::L4Proxy => "proxy",
        Mapping::None => "none",
    }
}

fn filtering(rules: &Rules) -> &'static str {
    match rules.filtering {
        Filtering::EndpointIndependent => "EIF",
        Filtering::AddressDependent => "ADF",
        Filtering::AddressAndPortDependent => "APDF",
    }
}

fn ports(rules: &Rules) -> String {
    if matches!(rules.mapping, Mapping::None | Mapping::OneToOne) {
        return "as inside".into();
    }
    let how = match rules.allocation {
        Allocation::Preserve(Fallback::Random | Fallback::LinuxSearch) => "keep, else random".into(),
        Allocation::Preserve(Fallback::Next) => "keep, else next".into(),
        Allocation::Preserve(Fallback::Lowest) => "keep, else lowest".into(),
        Allocation::Preserve(Fallback::Refuse) => "keep or fail".into(),
        Allocation::Sequential { step, per_host: false } => format!("+{step}"),
        Allocation::Sequential { step, per_host: true } => format!("+{step} for each host"),
        Allocation::Random => "random".into(),
        Allocation::Block { ports, .. } => format!("blocks of {ports}"),
    };
    match rules.ports {
        PortClass::Fixed(low, high) if (low, high) != (1024, 65_535) => format!("{how} {low}-{high}"),
        PortClass::Fixed(..) | PortClass::Rfc4787 | PortClass::Linux | PortClass::Cisco => how,
    }
}

fn unsolicited(config: &NatConfig) -> String {
    match config.unsolicited.syn {
        OnSyn::Drop => "silence".into(),
        OnSyn::Reset => "RST".into(),
        OnSyn::Icmp { code } => format!("ICMP 3/{code}"),
        OnSyn::Hold { time, then_icmp: true } => format!("held {} s, ICMP 3/3", time.as_secs()),
        OnSyn::Hold { time, then_icmp: false } => format!("held {} s", time.as_secs()),
        OnSyn::Sink => "taken in".into(),
    }
}

fn hairpin(config: &NatConfig) -> &'static str {
    match config.hairpin {
        Hairpin::Drop => "no",
        Hairpin::Reset => "no, RST",
        Hairpin::ExternalSource => "yes",
        Hairpin::InternalSource => "wrong source",
    }
}

fn simultaneous(config: &NatConfig) -> &'static str {
    match config.simultaneous_open {
        SimultaneousOpen::Full => "yes",
        SimultaneousOpen::DropInboundSyn => "dropped",
        SimultaneousOpen::ResetInboundSyn => "RST",
        SimultaneousOpen::NeverEstablished => "never ends",
    }
}

fn timers(config: &NatConfig) -> String {
    let timers = config.timers;
    let seconds = |time: Duration| time.as_secs().to_string();
    [timers.syn_sent, timers.established, timers.time_wait, timers.close, timers.udp_stream].map(seconds).join("/")
}

fn both(config: &NatConfig, show: impl Fn(&Rules) -> String) -> String {
    let (tcp, udp) = (show(&config.tcp), show(&config.udp));
    if tcp == udp { tcp } else { format!("{tcp}; UDP {udp}") }
}

fn row(preset: &Preset) -> [String; 9] {
    let config = (preset.config)();
    [
        preset.name.to_owned(),
        both(&config, |rules| mapping(rules).to_owned()),
        both(&config, |rules| filtering(rules).to_owned()),
        both(&config, ports),
        unsolicited(&config),
        hairpin(&config).to_owned(),
        simultaneous(&config).to_owned(),
        timers(&config),
        if preset.assumed.is_empty() {
            preset.source.to_owned()
        } else {
            format!("{}; assumed: {}", preset.source, preset.assumed)
        },
    ]
}

const COLUMNS: [&str; 9] = [
    "preset",
    "mapping",
    "filtering",
    "ports",
    "unsolicited SYN",
    "hairpin",
    "simultaneous open",
    "seconds: SYN/open/closed/RST/UDP",
    "source",
];

pub(crate) fn run(as_json: bool, requirements: bool) -> ExitCode {
    if requirements {
        say!("{}", nat_sim::nat::requirement::markdown().trim_end());
        return ExitCode::SUCCESS;
    }
    if as_json {
        let rows = ALL.iter().map(|preset| {
            let cells = COLUMNS.iter().zip(row(preset)).map(|(column, cell)| ((*column).to_owned(), cell.into()));
            serde_json::Value::Object(cells.collect())
        });
        say!("{}", json!(rows.collect::<Vec<_>>()));
        return ExitCode::SUCCESS;
    }
    let mut table = crate::sweep::table(&COLUMNS);
    for preset in ALL {
        table.add_row(row(preset));
    }
    say!("{table}");
    say!(
        "EIM, ADM, APDM: endpoint-independent, address-, address-and-port-dependent mapping; EIF, ADF, APDF: filtering"
    );
    for (name, reason) in NOT_MODELLED {
        say!("not modelled: {name}: {reason}");
    }
    ExitCode::SUCCESS
}
