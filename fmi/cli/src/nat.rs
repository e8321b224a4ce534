//! `fmi nat`

use std::process::ExitCode;
use std::time::Duration;

use fmi::RealNet;
use fmi::config::Variables;
use fmi::net::discovery::discover;
use fmi::net::discovery::{Advice, Filtering, Finding, Mapping, Outcome, Ports};
use serde_json::json;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Address of the rendezvous, host:port; FMI_RENDEZVOUS by default. It needs further vantages to tell everything.
    #[arg(long, value_name = "ADDR")]
    rendezvous: Option<String>,
    /// Overall deadline.
    #[arg(long, default_value = "30s", value_parser = crate::duration, value_name = "TIME")]
    deadline: Duration,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(arguments: Arguments) -> ExitCode {
    let json = arguments.json;
    match find(&arguments).await {
        Ok(finding) if json => {
            say!("{}", as_json(&finding));
            ExitCode::SUCCESS
        }
        Ok(finding) => {
            print_lines(&finding);
            ExitCode::SUCCESS
        }
        Err(error) => {
            if json {
                say!("{}", json!({ "error": error.to_string() }));
            }
            crate::failed(&error)
        }
    }
}

async fn find(arguments: &Arguments) -> fmi::Result<Finding> {
    let variables = Variables::from_env();
    let rendezvous = match &arguments.rendezvous {
        Some(given) => given,
        None => variables
            .text("FMI_RENDEZVOUS")?
            .ok_or_else(|| crate::invalid("neither --rendezvous nor FMI_RENDEZVOUS is given".into()))?,
    };
    discover(&RealNet::new(), rendezvous, arguments.deadline).await
}

const UNKNOWN: &str = "unknown: the rendezvous lacks the vantages to tell";

fn mapping(mapping: Option<Mapping>) -> &'static str {
    match mapping {
        Some(Mapping::None) => "none: no NAT",
        Some(Mapping::EndpointIndependent) => "endpoint-independent",
        Some(Mapping::AddressDependent) => "address-dependent",
        Some(Mapping::AddressAndPortDependent) => "address-and-port-dependent",
        None => UNKNOWN,
    }
}

fn filtering(filtering: Option<Filtering>) -> &'static str {
    match filtering {
        Some(Filtering::EndpointIndependent) => "endpoint-independent",
        Some(Filtering::AddressDependent) => "address-dependent",
        Some(Filtering::AddressAndPortDependent) => "address-and-port-dependent",
        None => UNKNOWN,
    }
}

fn ports(ports: Option<Ports>) -> String {
    match ports {
        Some(Ports::Preserved) => "kept".into(),
        Some(Ports::Sequential(step)) => format!("each {step:+} from the last"),
        Some(Ports::Unpredictable) => "no rule".into(),
        None | Some(_) => UNKNOWN.into(),
    }
}

fn unsolicited(finding: &Finding) -> &'static str {
    match (finding.unsolicited, finding.filtering) {
        (Some(Outcome::Refused), _) => "RST or ICMP port unreachable",
        (Some(Outcome::Unreachable), _) => "another ICMP error",
        (Some(Outcome::Silence), _) => "silence",
        (_, Some(Filtering::EndpointIndependent)) => "let in",
        (_, _) => UNKNOWN,
    }
}

/// Peers to give advice about: one behind a usual home router, one behind a cloud's NAT gateway.
fn peers(finding: &Finding) -> [(&'static str, Finding); 3] {
    let peer = |mapping, filtering, ports| {
        let mut peer = *finding;
        (peer.mapping, peer.filtering, peer.ports) = (Some(mapping), Some(filtering), Some(ports));
        peer
    };
    let strict = Filtering::AddressAndPortDependent;
    [
        ("a NAT like this one", *finding),
        (
            "a NAT that keeps its mapping (most home routers, functions on AWS Lambda)",
            peer(Mapping::EndpointIndependent, strict, Ports::Preserved),
        ),
        (
            "a NAT with a random port for each peer (NAT gateways of clouds, Kubernetes)",
            peer(Mapping::AddressAndPortDependent, strict, Ports::Unpredictable),
        ),
    ]
}

fn advice(technique: Advice) -> &'static str {
    match technique {
        Advice::Direct => "direct connections",
        Advice::Prediction => "direct if the next port can be predicted, otherwise relayed",
        Advice::Relay => "a relay, or a public address on one side",
        _ => UNKNOWN,
    }
}

fn print_lines(finding: &Finding) {
    say!("seen from outside  {} (here {})", finding.observed, finding.local);
    say!("mapping            {}", mapping(finding.mapping));
    say!("filtering          {}", filtering(finding.filtering));
    say!("ports              {}", ports(finding.ports));
    say!("unsolicited SYN    {}", unsolicited(finding));
    let hairpin = finding.hairpin.map_or("not tried", |works| if works { "yes" } else { "no" });
    say!("hairpin            {hairpin}");
    if let Some(name) = finding.rfc_3489_name() {
        say!("RFC 3489 class     {name}");
    }
    say!("with a peer behind");
    for (name, peer) in peers(finding) {
        say!("  {name}: {}", advice(finding.advice_with(&peer)));
    }
}

fn as_json(finding: &Finding) -> serde_json::Value {
    let advice = peers(finding).map(|(name, peer)| (name.to_owned(), finding.advice_with(&peer).to_string().into()));
    let step = match finding.ports {
        Some(Ports::Sequential(step)) => Some(step),
        _ => None,
    };
    json!({
        "local": finding.local.to_string(),
        "observed": finding.observed.to_string(),
        "mapping": finding.mapping.map(|it| mapping(Some(it))),
        "filtering": finding.filtering.map(|it| filtering(Some(it))),
        "ports": finding.ports.map(|it| match it {
            Ports::Preserved => "preserved",
            Ports::Sequential(_) => "sequential",
            Ports::Unpredictable => "unpredictable",
            _ => UNKNOWN,
        }),
        "step": step,
        "unsolicited": unsolicited(finding),
        "hairpin": finding.hairpin,
        "rfc3489": finding.rfc_3489_name(),
        "with_peer_behind": serde_json::Value::Object(advice.into_iter().collect()),
    })
}
