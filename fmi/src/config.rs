//! What a rank must know to join its group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Operation, Result};
use crate::key::{Key, SECRET_BYTES_MIN, Secret};
use crate::proto::rendezvous::SIZE_MAX;
use crate::schedule::{Connections, Problem, candidates};

mod settings;
#[cfg(test)]
mod tests;
pub mod units;
mod variables;

pub use crate::proto::card::Security;
pub use crate::schedule::{Algorithm, Collective, Peers};
pub use variables::Variables;

/// Longest name of a group, in bytes.
pub const GROUP_NAME_BYTES_MAX: usize = 255;

/// This rank, its group, its rendezvous, and the limits that apply.
///
/// # Examples
/// ```
/// let mut config = fmi::Config::new(0, 2, "demo", "rendezvous.example:7000");
/// config.key = Some(b"0123456789abcdef".into());
/// assert!(config.check().is_ok());
/// ```
///
/// # Settings
///
#[doc = include_str!("config/settings.md")]
///
/// Each can be set by its variable ([`Config::from_env`]), by its field in a TOML file that `FMI_CONFIG` names (or
/// [`Config::from_file`]), or here. Variables win over the file, so that one file serves all ranks: only `FMI_RANK`
/// differs.
///
/// - A *time* is a text like `10s`, `1.5s`, `500ms`, `50us`, `2m`, or a number of seconds. A *length* is a number of
///   bytes, or a text like `64MiB`. A *switch* is `1`, `true`, `yes`, `on`, or `0`, `false`, `no`, `off`.
/// - **White space** (ASCII) at both ends of a value is not part of it, wherever the value comes from: a variable, a
///   file, a file with a key. So a line end behind a key changes nothing. What a program assigns to a field is taken as
///   it is.
/// - An empty value, an unknown name ([`Variables`]) and a value that is not understood are errors. Only a key may be
///   other bytes than UTF-8.
/// - A key in a file of its own (`key_file`, relative to the folder of the configuration file that names it) is the
///   most private: environments are inherited, and shown by the system. The environment's own copy cannot be wiped.
/// - Ranks and sizes also come from launchers: Open MPI, PMI (MPICH and others), SLURM, AWS Batch arrays, and Kubernetes
///   indexed jobs (whose `JOB_COMPLETION_INDEX` goes with `FMI_SIZE`, as Kubernetes does not tell a pod how many there
///   are). `FMI_RANK` and `FMI_SIZE` win over them, and they win over the file.
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// Rank of this process, from 0 to `size` - 1. `FMI_RANK`.
    pub rank: u32,
    /// Ranks in the group, equal on all of them. `FMI_SIZE`.
    pub size: u32,
    /// Name of the group, equal on all ranks, at most [`GROUP_NAME_BYTES_MAX`] bytes. `FMI_GROUP`.
    pub group: String,
    /// Address of the rendezvous, `host:port`. `FMI_RENDEZVOUS`. All addresses of a name are tried, of both families, and a
    /// name that has none yet is looked up again until [`Config::join_deadline`]. Several, separated by commas, stand in for
    /// each other. Their order does not matter: each group turns to them in an order of its own, equal on all its ranks, as
    /// long as these call each server by the same name.
    pub rendezvous: String,
    /// URL of a store in which the group meets and exchanges what it has to say, in place of a rendezvous and connections:
    /// [`fmi_store::connect`] lists them. `FMI_STORE`. Each operation then has a deadline ([`crate::STORE_DEADLINE`]).
    pub store: Option<String>,
    /// Whether all ranks meet before the first operation. Default true. Without, in a store, each rank begins at once, and what it
    /// sends lies there until its receiver comes, even if the sender has ended by then: ranks need not run at the same
    /// time. Then the name of the group must be one that was never used in that store, as what an earlier run has left
    /// there is not told apart; and as there is nobody to agree on keys with, whoever gets the group's key later can read what is
    /// still in the store. `FMI_MEET`.
    pub meet: bool,
    /// How long a message in a store lives at least that nobody reads. Default 1 h; too short, and a rank that is slow finds
    /// nothing. What is read is deleted at once. `FMI_STORE_TTL`.
    pub store_time_to_live: Duration,
    /// Second endpoint on which each rendezvous sees this rank, `host:port` or `off`; that makes known at
    /// once what a NAT does with ports. Default: the next port of the same address, which
    /// `fmi rendezvous` serves. Of several, the first belongs to the first rendezvous, and so on. `FMI_VANTAGE`.
    pub vantage: Option<String>,
    /// Secret of the group, equal on all ranks; any bytes, [`SECRET_BYTES_MIN`] random ones or more. Without it, peers
    /// are told apart by the name of the group, which keeps out accidents and nobody else, and which a rendezvous can
    /// find with a dictionary. `FMI_KEY`, or `FMI_KEY_FILE` with the name of a file that holds it.
    pub key: Option<Secret>,
    /// Whether a key below [`SECRET_BYTES_MIN`] is taken. Default false: whoever records what a rank sends can try short
    /// keys at leisure. `FMI_ALLOW_WEAK_KEY`.
    pub allow_weak_key: bool,
    /// Protection of the streams between ranks, equal on all of them. Default: encrypted with a key,
    /// plaintext without. `FMI_SECURITY`.
    pub security: Option<Security>,
    /// Whether ranks that cannot connect directly are relayed by the rendezvous; they keep trying and
    /// turn to a direct connection when they find one. Default true; without it such a group fails. `FMI_RELAY`.
    pub relay: bool,
    /// Whether this rank may spray: where one NAT gives random ports, open 256 of them on one side and
    /// try 1,024 on the other, within about a second. Default false, as a NAT's owner may take it for an
    /// attack; it needs the consent of both ranks. `FMI_SPRAY`.
    pub spray: bool,
    /// Whether reductions combine in an order that the number of ranks alone decides, equal on all ranks. Then the bits of
    /// a result depend neither on the algorithm, nor on the machines, nor on the length. Default false: all ranks get the
    /// same bits, but another layout or length may give others, where the operator rounds. `FMI_REPRODUCIBLE`.
    pub reproducible: bool,
    /// Local address to bind. Default: any. `FMI_BIND`.
    pub bind: IpAddr,
    /// Time for the whole join. Default 30 s; too short, and late ranks are missed. A group that
    /// cannot form fails after this time. `FMI_JOIN_DEADLINE`.
    pub join_deadline: Duration,
    /// Longest time that one try to connect all pairs may be without another pair that comes together, after which the
    /// group registers again from fresh ports; the first try has 2 s and each further one twice as long, and all have more
    /// where ranks are many or far away. Default 10 s; shorter than a few SYN retransmissions (3 s) it gives up lossy links.
    /// `FMI_PUNCH_DEADLINE`.
    pub punch_deadline: Duration,
    /// Time for one operation, or `None` (the default): an operation then waits as long as the ranks that it waits for
    /// show signs of life, and logs a warning after 30 s. With one, it must exceed the longest wait for a slow rank.
    /// `FMI_DEADLINE`.
    pub operation_deadline: Option<Duration>,
    /// After the connection to a peer broke, how long to wait for word of the first cause before
    /// that peer itself is named. Default 1 s; shorter than a round trip to the rendezvous, errors
    /// may name a rank that only fell over another. `FMI_CAUSE_WAIT`.
    pub cause_wait: Duration,
    /// Length up to which a message, or a step of a collective, is sent unasked, in bytes; of a longer one this much is,
    /// and the rest once its receiver has a place for it. Default 256 KiB. Too small, and long messages wait for a
    /// round trip; too large, and unexpected ones fill the mailbox. `FMI_EAGER_BYTES`.
    pub eager_bytes_max: u64,
    /// Memory for messages that arrive before they are asked for, or whose receive is not polled, in bytes. Default
    /// 64 MiB; too small, and a peer that is ahead has to wait. `FMI_MAILBOX_BYTES`.
    pub mailbox_bytes_max: u64,
    /// An idle connection to a peer is probed after this time, which keeps the mappings of NATs alive on the way. Default
    /// 25 s, for NATs that forget after 30 s or more; kernels count whole seconds. Too long, and a NAT that forgets earlier
    /// cuts idle connections; short ones cost two packets each time. `FMI_KEEPALIVE`.
    pub keepalive: Duration,
    /// Longest segment of TCP on connections of this rank, in bytes, from 536 to 32,767. Default: what the network's MTU
    /// has room for. Where something on the way drops long packets without a word, 1,200 get through almost everywhere.
    /// Connections to the rendezvous never have more than 1,220. `FMI_MSS`.
    pub mss: Option<u16>,
    /// Which ranks to connect to. Default all; equal on all ranks. `FMI_PEERS`.
    pub peers: Peers,
    /// Peers to which connections are made at the same time. Default 1,024; every one costs a socket. `FMI_PEERS_AT_ONCE`.
    pub peers_at_once_max: usize,
    /// How long a wait may yield the processor and try again before it parks. Default 50 us; 0 parks at once,
    /// which saves processor time and costs 20 to 30 us each time. Waits learn: where yielding comes to
    /// nothing, for instance because ranks outnumber cores or are far apart, it becomes rare. `FMI_SPIN`, which needs
    /// a unit, like `50us`.
    pub spin: Duration,
    /// Algorithms to use in place of the ones that the model chooses, equal on all ranks. One that the collective does not
    /// have (with these [`Config::peers`]) is an error; one that a single call cannot use, because its operator does not
    /// commute or its vector is too short, gives way to the model's choice in that call. `FMI_ALGORITHM`, for instance
    /// `allreduce=ring,barrier=tree`.
    pub algorithms: BTreeMap<Collective, Algorithm>,
}

/// Lengths of segments that can be asked for: every host takes the first (RFC 9293 §3.7.1), Linux no more than the last.
const MSS: RangeInclusive<u16> = 536..=32_767;

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Config");
        for setting in settings::SETTINGS.iter().filter(|setting| !setting.is_secret()) {
            shown.field(setting.field, &format_args!("{}", (setting.show)(self)));
        }
        shown.field("key", &self.key).finish()
    }
}

fn invalid(what: String) -> Error {
    Error::new(Operation::Configure, ErrorKind::InvalidConfig(what))
}

impl Config {
    /// A configuration with the default limits and no key.
    pub fn new(rank: u32, size: u32, group: impl Into<String>, rendezvous: impl Into<String>) -> Self {
        Self {
            rank,
            size,
            group: group.into(),
            rendezvous: rendezvous.into(),
            store: None,
            meet: true,
            store_time_to_live: Duration::from_secs(3600),
            key: None,
            allow_weak_key: false,
            bind: Ipv4Addr::UNSPECIFIED.into(),
            join_deadline: Duration::from_secs(30),
            punch_deadline: Duration::from_secs(10),
            operation_deadline: None,
            cause_wait: Duration::from_secs(1),
            eager_bytes_max: 256 << 10,
            mailbox_bytes_max: 64 << 20,
            keepalive: Duration::from_secs(25),
            mss: None,
            peers: Peers::All,
            peers_at_once_max: 1024,
            vantage: None,
            security: None,
            relay: true,
            spray: false,
            reproducible: false,
            spin: Duration::from_micros(50),
            algorithms: BTreeMap::new(),
        }
    }

    /// A group of this process alone, which needs no rendezvous: for tests, and for a program that also runs by itself.
    /// `FMI_ALONE=1` does the same, and overrides what a file says of the group.
    pub fn alone() -> Self {
        Self::new(0, 1, "alone", "")
    }

    /// Whether it is a group of this process alone that uses no rendezvous.
    pub fn is_alone(&self) -> bool {
        self.size == 1 && self.rendezvous.is_empty() && self.store.is_none()
    }

    /// Reads the environment, and the file that `FMI_CONFIG` names, as [the settings](Config#settings) say. Without
    /// `FMI_ALONE=1`, rank, size, group and rendezvous are required.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] that names the variable, or the file and the field, and the value.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&Variables::from_env())
    }

    /// Reads the variables of [`Config::from_env`] from `variables`.
    ///
    /// # Errors
    /// As [`Config::from_env`].
    pub fn from_variables(variables: &Variables) -> Result<Self> {
        variables.check_names()?;
        let mut draft = settings::Draft::new();
        if let Some(path) = variables.text("FMI_CONFIG")? {
            draft.read_file(Path::new(path))?;
        }
        draft.read(variables)?;
        draft.finish(|missing| {
            if variables.is_unset() {
                "no FMI_ variable is set: `fmi launch -n 4 -- PROGRAM` sets them; FMI_RANK, FMI_SIZE, FMI_GROUP and \
                 FMI_RENDEZVOUS name a group, FMI_CONFIG a file that does, and FMI_ALONE=1 makes a group of one"
                    .into()
            } else {
                format!("{} is not set ({})", missing.variable, missing.values)
            }
        })
    }

    /// Reads pairs like `allreduce=ring,barrier=tree`, at most one for each collective.
    ///
    /// # Errors
    /// What is wrong, with the names that there are.
    pub fn algorithms_named(text: &str) -> std::result::Result<BTreeMap<Collective, Algorithm>, String> {
        let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
        let read = |pair: &str| {
            let (collective, algorithm) =
                pair.split_once('=').ok_or_else(|| format!("{pair:?} is not of the form allreduce=ring"))?;
            let collective: Collective = collective.trim().parse().map_err(|error| format!("{error}"))?;
            let algorithm: Algorithm = algorithm.trim().parse().map_err(|error| format!("{error}"))?;
            Ok::<_, String>((collective, algorithm))
        };
        let mut all = BTreeMap::new();
        for pair in pairs {
            let (collective, algorithm) = read(pair)?;
            if all.insert(collective, algorithm).is_some() {
                return Err(format!("{collective} is named twice"));
            }
        }
        Ok(all)
    }

    /// Finds a protection by its name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] that lists the names.
    pub fn security_named(name: &str) -> Result<Security> {
        Self::security_of(name).map_err(invalid)
    }

    fn security_of(name: &str) -> std::result::Result<Security, String> {
        let all = [Security::Encrypted, Security::Authenticated, Security::Plaintext];
        let named = all.into_iter().find(|security| security.name() == name);
        named.ok_or_else(|| format!("invalid security {name:?} (expected one of: encrypted, authenticated, plaintext)"))
    }

    /// Protection of the streams, as given or by default.
    pub fn security(&self) -> Security {
        let default = if self.key.is_some() { Security::Encrypted } else { Security::Plaintext };
        self.security.unwrap_or(default)
    }

    /// Reads a TOML file whose keys are the fields of [the settings](Config#settings).
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] that names the file and what is wrong in it.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let mut draft = settings::Draft::new();
        draft.read_file(path)?;
        draft.finish(|missing| format!("{}: {} is not set", path.display(), missing.field))
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] that names the field and its value.
    pub fn check(&self) -> Result<()> {
        self.check_but_rendezvous()?;
        self.check_addresses()
    }

    /// Checks every value of a group that has no rendezvous.
    pub(crate) fn check_but_rendezvous(&self) -> Result<()> {
        if self.size == 0 || self.size > SIZE_MAX {
            return Err(invalid(format!("the size is {}; it must be from 1 to {SIZE_MAX}", self.size)));
        }
        if self.rank >= self.size {
            return Err(invalid(format!("the rank is {}; it must be below the size of {}", self.rank, self.size)));
        }
        if self.group.is_empty() || self.group.len() > GROUP_NAME_BYTES_MAX {
            let length = self.group.len();
            return Err(invalid(format!(
                "the group's name has {length} bytes; it must have 1 to {GROUP_NAME_BYTES_MAX}"
            )));
        }
        self.check_key()?;
        self.check_limits()?;
        self.check_algorithms()
    }

    fn check_addresses(&self) -> Result<()> {
        let has_port = |address: &str| {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            port.is_some_and(|port| port != 0)
        };
        if !self.meet && self.store.is_none() {
            return Err(invalid("ranks that do not meet need a store: set FMI_STORE, or leave FMI_MEET out".into()));
        }
        match (&self.store, self.rendezvous.is_empty()) {
            (Some(_), true) => return Ok(()),
            (Some(_), false) => {
                let what = "a store and a rendezvous are both given; a group uses one of them, so leave one out";
                return Err(invalid(what.into()));
            }
            (None, _) => {}
        }
        if !self.is_alone() && !self.rendezvous.split(',').all(|address| has_port(address.trim())) {
            return Err(invalid(format!("the rendezvous is {:?}; it must be host:port", self.rendezvous)));
        }
        if let Some(vantage) = self.vantage.as_ref().filter(|vantage| *vantage != "off")
            && !vantage.split(',').all(|address| has_port(address.trim()))
        {
            return Err(invalid(format!("the vantage is {vantage:?}; it must be host:port or off")));
        }
        Ok(())
    }

    fn check_key(&self) -> Result<()> {
        match self.key.as_ref().map(|key| key.as_bytes().len()) {
            None if self.security() != Security::Plaintext => {
                let security = self.security().name();
                Err(invalid(format!("security {security} needs a key: set FMI_KEY on all ranks")))
            }
            Some(0) => Err(invalid("the key is empty; leave it out for a group without a secret".into())),
            Some(length @ 1..SECRET_BYTES_MIN) if !self.allow_weak_key => Err(invalid(format!(
                "the key has {length} bytes, which can be guessed; give it {SECRET_BYTES_MIN} random bytes or more, or set \
                 FMI_ALLOW_WEAK_KEY=1"
            ))),
            None | Some(_) => Ok(()),
        }
    }

    fn check_limits(&self) -> Result<()> {
        for (name, is_zero) in [
            ("store_time_to_live", self.store_time_to_live.is_zero()),
            ("join_deadline", self.join_deadline.is_zero()),
            ("punch_deadline", self.punch_deadline.is_zero()),
            ("keepalive", self.keepalive.is_zero()),
            ("operation_deadline", self.operation_deadline.is_some_and(|limit| limit.is_zero())),
            ("eager_bytes_max", self.eager_bytes_max == 0),
            ("peers_at_once_max", self.peers_at_once_max == 0),
        ] {
            if is_zero {
                return Err(invalid(format!("{name} must be greater than zero")));
            }
        }
        match self.mss.filter(|mss| !MSS.contains(mss)) {
            Some(mss) => Err(invalid(format!("mss is {mss}, not from {} to {}", MSS.start(), MSS.end()))),
            None => Ok(()),
        }
    }

    /// Whether each algorithm is one that some call of its collective can use.
    fn check_algorithms(&self) -> Result<()> {
        let sparse = self.peers == Peers::Collectives;
        for (collective, algorithm) in &self.algorithms {
            let mut known: BTreeSet<Algorithm> = BTreeSet::new();
            // Of a size at which few connections are not all.
            let size = 16;
            let connections = if sparse { Connections::of_group(size) } else { Connections::complete() };
            for (commutative, count) in [(true, 16), (true, 0), (false, 16), (false, 0)] {
                let (collective, root, element_bytes, in_place) = (*collective, 0, 1, false);
                let reproducible = self.reproducible;
                let problem =
                    Problem { collective, size, root, count, element_bytes, commutative, in_place, reproducible };
                known.extend(candidates(&problem, &connections));
            }
            if !known.contains(algorithm) {
                let names: Vec<_> = known.iter().map(|known| known.name()).collect();
                return Err(invalid(format!(
                    "{collective} cannot be done by {algorithm} (expected one of: {})",
                    names.join(", ")
                )));
            }
        }
        Ok(())
    }

    pub(crate) fn group_key(&self) -> Key {
        match &self.key {
            Some(secret) => Key::new(&self.group, secret.as_bytes()),
            None => Key::public(&self.group),
        }
    }
}
