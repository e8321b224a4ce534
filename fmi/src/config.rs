//! What a rank must know to join its group.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use crate::error::{Error, ErrorKind, Operation, Result};
use crate::key::Key;
use crate::proto::card::Security;
use crate::proto::rendezvous::SIZE_MAX;
use crate::schedule::{Algorithm, Collective};

/// Longest name of a group, in bytes.
pub const GROUP_NAME_BYTES_MAX: usize = 255;

/// Who this rank is, where the rendezvous is, and the limits that apply.
///
/// # Examples
/// ```
/// let mut config = fmi::Config::new(0, 2, "demo", "rendezvous.example:7000");
/// config.key = Some(b"0123456789abcdef".to_vec());
/// assert!(config.check().is_ok());
/// ```
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// Rank of this process, from 0 to `size` - 1. `FMI_RANK`.
    pub rank: u32,
    /// Ranks in the group, equal on all of them. `FMI_SIZE`.
    pub size: u32,
    /// Name of the group, equal on all ranks, at most [`GROUP_NAME_BYTES_MAX`] bytes. `FMI_GROUP`.
    pub group: String,
    /// Address of the rendezvous, `host:port`. `FMI_RENDEZVOUS`. Several, separated by commas and in the
    /// same order on all ranks, stand in for each other.
    pub rendezvous: String,
    /// Second endpoint on which each rendezvous sees this rank, `host:port` or `off`; that makes known at
    /// once what a NAT does with ports. Default: the next port of the same address, which
    /// `fmi rendezvous` serves. `FMI_VANTAGE`.
    #[serde(default)]
    pub vantage: Option<String>,
    /// Secret of the group, equal on all ranks; 16 random bytes or more. Without it, peers are
    /// told apart by the name of the group, which keeps out accidents and nobody else. `FMI_KEY`.
    #[serde(default, deserialize_with = "secret")]
    pub key: Option<Vec<u8>>,
    /// Protection of the streams between ranks, equal on all of them. Default: encrypted with a key,
    /// plaintext without. `FMI_SECURITY`.
    #[serde(default)]
    pub security: Option<Security>,
    /// Whether ranks that cannot connect directly are relayed by the rendezvous; they keep trying and
    /// turn to a direct connection when they find one. Default true; without it such a group fails.
    #[serde(default = "yes")]
    pub relay: bool,
    /// Whether this rank may spray: where one NAT gives random ports, open 256 of them on one side and
    /// try 1,024 on the other, within about a second. Default false, as a NAT's owner may take it for an
    /// attack; it needs the consent of both ranks.
    #[serde(default)]
    pub spray: bool,
    /// Local address to bind. Default: any.
    #[serde(default = "any_ip")]
    pub bind: IpAddr,
    /// Time for the whole join. Default 30 s; too short, and late ranks are missed. A group that
    /// cannot form fails after this time.
    #[serde(default = "join_deadline", deserialize_with = "seconds")]
    pub join_deadline: Duration,
    /// Longest time for one try to connect all pairs, after which the group registers again from
    /// fresh ports; the first try has 2 s and each further one twice as long. Default 10 s; shorter
    /// than a few SYN retransmissions (3 s) it gives up lossy links.
    #[serde(default = "punch_deadline", deserialize_with = "seconds")]
    pub punch_deadline: Duration,
    /// Time for one operation. Default 30 s; it must exceed the longest wait for a slow rank.
    #[serde(default = "operation_deadline", deserialize_with = "seconds")]
    pub operation_deadline: Duration,
    /// After the connection to a peer broke, how long to wait for word of the first cause before
    /// that peer itself is named. Default 1 s; shorter than a round trip to the rendezvous, errors
    /// may name a rank that only fell over another.
    #[serde(default = "cause_wait", deserialize_with = "seconds")]
    pub cause_wait: Duration,
    /// Largest frame accepted from a peer, in bytes. Default 1 GiB.
    #[serde(default = "frame_bytes_max")]
    pub frame_bytes_max: u64,
    /// Memory for messages that arrive before they are asked for, in bytes. Default 64 MiB; too
    /// small, and a peer that is ahead gets an error.
    #[serde(default = "mailbox_bytes_max")]
    pub mailbox_bytes_max: u64,
    /// Which ranks to connect to. Default all; equal on all ranks.
    #[serde(default)]
    pub peers: Peers,
    /// Peers to which connections are made at the same time. Default 1,024; every one costs a socket.
    #[serde(default = "peers_at_once_max")]
    pub peers_at_once_max: usize,
    /// How long a wait may yield the processor and try again before it parks. Default 50 us; 0 parks at once,
    /// which saves processor time and costs 20 to 30 us each time. Waits learn: where yielding comes to
    /// nothing, for instance because ranks outnumber cores or are far apart, it becomes rare. `FMI_SPIN`, in
    /// microseconds.
    #[serde(default = "spin", deserialize_with = "seconds")]
    pub spin: Duration,
    /// Algorithms to use in place of the ones that the model chooses, equal on all ranks. `FMI_ALGORITHM`, for
    /// instance `allreduce=ring,barrier=tree`.
    #[serde(default, deserialize_with = "algorithms")]
    pub algorithms: BTreeMap<Collective, Algorithm>,
}

/// Which ranks a rank connects to when it joins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Peers {
    /// All: any message and any collective can run.
    #[default]
    All,
    /// Those that collectives use, about 2 log₂ `size` of them (rank 0 has all): enough for every
    /// collective with any root. For groups of hundreds, whose full mesh would cost each rank a socket and a NAT
    /// mapping for every other.
    ///
    /// A message to another rank is refused. Blocks of different lengths cost an exchange of their lengths first, and
    /// those of an `alltoallv` go over other ranks; `alltoallv_init` is refused. A communicator of some ranks uses the
    /// connections between these alone, over which messages go from rank to rank where it must be; one whose
    /// members they do not join is refused when it is made. With rank 0 of the group among them they always do.
    Collectives,
}

impl Peers {
    /// The ranks that `rank` connects to in a group of `size`.
    pub fn of(self, rank: u32, size: u32) -> BTreeSet<u32> {
        match self {
            Self::All => (0..size).filter(|peer| *peer != rank).collect(),
            Self::Collectives => crate::schedule::peers(rank, size),
        }
    }
}

fn yes() -> bool {
    true
}
fn any_ip() -> IpAddr {
    Ipv4Addr::UNSPECIFIED.into()
}
fn join_deadline() -> Duration {
    Duration::from_secs(30)
}
fn punch_deadline() -> Duration {
    Duration::from_secs(10)
}
fn operation_deadline() -> Duration {
    Duration::from_secs(30)
}
fn cause_wait() -> Duration {
    Duration::from_secs(1)
}
fn frame_bytes_max() -> u64 {
    1 << 30
}
fn mailbox_bytes_max() -> u64 {
    64 << 20
}
fn peers_at_once_max() -> usize {
    1024
}

fn spin() -> Duration {
    Duration::from_micros(50)
}

fn algorithms<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> std::result::Result<BTreeMap<Collective, Algorithm>, D::Error> {
    let text = String::deserialize(from)?;
    Config::algorithms_named(&text).map_err(serde::de::Error::custom)
}

fn secret<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Option<Vec<u8>>, D::Error> {
    Option::<String>::deserialize(from).map(|secret| secret.map(String::into_bytes))
}

fn seconds<'de, D: serde::Deserializer<'de>>(from: D) -> std::result::Result<Duration, D::Error> {
    let seconds = f64::deserialize(from)?;
    Duration::try_from_secs_f64(seconds).map_err(serde::de::Error::custom)
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("rank", &self.rank)
            .field("size", &self.size)
            .field("group", &self.group)
            .field("rendezvous", &self.rendezvous)
            .field("key", &self.key.as_ref().map(|_| ".."))
            .finish_non_exhaustive()
    }
}

/// Where the rank may be found, and the size.
const RANKS: [&str; 6] = [
    "FMI_RANK",
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "SLURM_PROCID",
    "JOB_COMPLETION_INDEX",
    "AWS_BATCH_JOB_ARRAY_INDEX",
];
const SIZES: [&str; 5] = ["FMI_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS", "AWS_BATCH_JOB_ARRAY_SIZE"];

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
            key: None,
            bind: any_ip(),
            join_deadline: join_deadline(),
            punch_deadline: punch_deadline(),
            operation_deadline: operation_deadline(),
            cause_wait: cause_wait(),
            frame_bytes_max: frame_bytes_max(),
            mailbox_bytes_max: mailbox_bytes_max(),
            peers: Peers::All,
            peers_at_once_max: peers_at_once_max(),
            vantage: None,
            security: None,
            relay: true,
            spray: false,
            spin: spin(),
            algorithms: BTreeMap::new(),
        }
    }

    /// Reads `FMI_RANK`, `FMI_SIZE`, `FMI_GROUP`, `FMI_RENDEZVOUS` and, if there, `FMI_KEY`, `FMI_SECURITY`,
    /// `FMI_VANTAGE`, `FMI_SPIN` and `FMI_ALGORITHM`.
    ///
    /// Without `FMI_RANK` or `FMI_SIZE`, those of the launcher count: Open MPI's, PMI's (MPICH and others),
    /// SLURM's, an AWS Batch array's, and of a Kubernetes indexed job `JOB_COMPLETION_INDEX`, which goes with
    /// `FMI_SIZE`, as Kubernetes does not tell a pod how many there are.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] that names the variable and its value.
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// Reads the variables of [`Config::from_env`] from `variable`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] that names the variable and its value.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let text = |name: &str| variable(name).ok_or_else(|| invalid(format!("{name} is not set")));
        // The variable of the first launcher that has set one, ours first.
        let number = |names: &[&str]| {
            let name = names.iter().find(|name| variable(name).is_some()).unwrap_or(&names[0]);
            let value = text(name)?;
            value.trim().parse().map_err(|_| invalid(format!("{name} is {value:?}, not a number from 0 to 4294967295")))
        };
        let mut config = Self::new(number(&RANKS)?, number(&SIZES)?, text("FMI_GROUP")?, text("FMI_RENDEZVOUS")?);
        config.key = variable("FMI_KEY").map(String::into_bytes);
        config.vantage = variable("FMI_VANTAGE");
        config.security = variable("FMI_SECURITY").map(|name| Self::security_named(&name)).transpose()?;
        if variable("FMI_SPIN").is_some() {
            config.spin = Duration::from_micros(u64::from(number(&["FMI_SPIN"])?));
        }
        if let Some(text) = variable("FMI_ALGORITHM") {
            config.algorithms =
                Self::algorithms_named(&text).map_err(|error| invalid(format!("FMI_ALGORITHM: {error}")))?;
        }
        config.check()?;
        Ok(config)
    }

    /// Reads pairs like `allreduce=ring,barrier=tree`.
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
            Ok((collective, algorithm))
        };
        pairs.map(read).collect()
    }

    /// Finds a protection by its name.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] that lists the names.
    pub fn security_named(name: &str) -> Result<Security> {
        let all = [Security::Encrypted, Security::Authenticated, Security::Plaintext];
        let named = all.into_iter().find(|security| security.name() == name);
        named.ok_or_else(|| {
            invalid(format!("the security is {name:?}, it must be encrypted, authenticated or plaintext"))
        })
    }

    /// Protection of the streams, as given or by default.
    pub fn security(&self) -> Security {
        let default = if self.key.is_some() { Security::Encrypted } else { Security::Plaintext };
        self.security.unwrap_or(default)
    }

    /// Reads a TOML file whose keys are the fields of this struct; times are in seconds.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] that names the file and what is wrong in it.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path)
            .map_err(|error| invalid(format!("cannot read {}: {error}", path.display())).caused_by(error))?;
        let config: Self = toml::from_str(&text)
            .map_err(|error| invalid(format!("{}: {}", path.display(), error.message())).caused_by(error))?;
        config.check()?;
        Ok(config)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] that names the field and its value.
    pub fn check(&self) -> Result<()> {
        if self.size == 0 || self.size > SIZE_MAX {
            return Err(invalid(format!("the size is {}, it must be from 1 to {SIZE_MAX}", self.size)));
        }
        if self.rank >= self.size {
            return Err(invalid(format!("the rank is {}, it must be below the size of {}", self.rank, self.size)));
        }
        if self.group.is_empty() || self.group.len() > GROUP_NAME_BYTES_MAX {
            let length = self.group.len();
            return Err(invalid(format!(
                "the group's name has {length} bytes, it must have 1 to {GROUP_NAME_BYTES_MAX}"
            )));
        }
        let has_port = |address: &str| {
            let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
            port.is_some_and(|port| port != 0)
        };
        if !self.rendezvous.split(',').all(|address| has_port(address.trim())) {
            return Err(invalid(format!("the rendezvous is {:?}, it must be host:port", self.rendezvous)));
        }
        if let Some(vantage) = self.vantage.as_ref().filter(|vantage| *vantage != "off")
            && !vantage.split(',').all(|address| has_port(address.trim()))
        {
            return Err(invalid(format!("the vantage is {vantage:?}, it must be host:port or off")));
        }
        if self.key.is_none() && self.security() != Security::Plaintext {
            let security = self.security().name();
            return Err(invalid(format!("the security is {security}, which needs a key; set FMI_KEY on all ranks")));
        }
        if self.key.as_ref().is_some_and(Vec::is_empty) {
            return Err(invalid("the key is empty; leave it out for a group without a secret".into()));
        }
        for (name, value) in [
            ("join_deadline", self.join_deadline),
            ("punch_deadline", self.punch_deadline),
            ("operation_deadline", self.operation_deadline),
        ] {
            if value.is_zero() {
                return Err(invalid(format!("{name} is zero, nothing could ever be done")));
            }
        }
        Ok(())
    }

    pub(crate) fn group_key(&self) -> Key {
        match &self.key {
            Some(secret) => Key::from_secret(secret),
            None => Key::public(&self.group),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(changes: &[(&str, &str)]) -> Result<Config> {
        let base = [("FMI_RANK", "1"), ("FMI_SIZE", "2"), ("FMI_GROUP", "g"), ("FMI_RENDEZVOUS", "h:7000")];
        Config::from_variables(|name| {
            let value = changes.iter().chain(&base).find(|(key, _)| *key == name)?.1;
            (!value.is_empty()).then(|| value.into())
        })
    }

    #[test]
    fn the_environment_is_read_and_each_mistake_named() {
        let config = from(&[("FMI_KEY", "secret")]).expect("valid");
        assert_eq!((config.rank, config.size, &config.group[..], &config.rendezvous[..]), (1, 2, "g", "h:7000"));
        assert!(!format!("{config:?}").contains("115"), "the key is never printed");
        for (variable, value, expected) in [
            ("FMI_RANK", "2", "the rank is 2"),
            ("FMI_RANK", "one", "FMI_RANK is \"one\""),
            ("FMI_RANK", "", "FMI_RANK is not set"),
            ("FMI_SIZE", "0", "the size is 0"),
            ("FMI_SIZE", "99999", "the size is 99999"),
            ("FMI_RENDEZVOUS", "h", "the rendezvous is \"h\""),
            ("FMI_RENDEZVOUS", "h:1,g", "the rendezvous is \"h:1,g\""),
            ("FMI_VANTAGE", "7001", "the vantage is \"7001\""),
            ("FMI_SECURITY", "tls", "it must be encrypted"),
            ("FMI_SECURITY", "encrypted", "which needs a key"),
        ] {
            let error = from(&[(variable, value)]).expect_err("a mistake").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn ranks_and_sizes_of_other_launchers_count() {
        let base = [("FMI_GROUP", "g"), ("FMI_RENDEZVOUS", "h:7000")];
        for (rank, size) in [
            ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
            ("PMI_RANK", "PMI_SIZE"),
            ("SLURM_PROCID", "SLURM_NTASKS"),
            ("JOB_COMPLETION_INDEX", "FMI_SIZE"),
            ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
        ] {
            let given = [(rank, "3"), (size, "4")];
            let find =
                |name: &str| base.iter().chain(&given).find(|(key, _)| *key == name).map(|(_, value)| (*value).into());
            let config = Config::from_variables(find).expect("valid");
            assert_eq!((config.rank, config.size), (3, 4));
            let ours = |name: &str| if name == "FMI_RANK" { Some("1".into()) } else { find(name) };
            assert_eq!(Config::from_variables(ours).expect("valid").rank, 1, "ours goes first");
        }
    }

    #[test]
    fn algorithms_are_read_and_mistakes_named() {
        let config = from(&[("FMI_ALGORITHM", "allreduce=ring, barrier=tree"), ("FMI_SPIN", "0")]).expect("valid");
        assert_eq!(config.algorithms.get(&Collective::Allreduce), Some(&Algorithm::Ring));
        assert_eq!(config.spin, Duration::ZERO);
        for (text, expected) in [("allreduce", "form"), ("allreduce=rink", "there are"), ("all=ring", "no collective")]
        {
            let error = from(&[("FMI_ALGORITHM", text)]).expect_err("a mistake").to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_file_is_read_and_unknown_fields_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("fmi.toml");
        let base = "rank = 0\nsize = 2\ngroup = \"g\"\nrendezvous = \"h:1\"\n";
        std::fs::write(&path, format!("{base}key = \"s\"\njoin_deadline = 1.5\n")).expect("written");
        let config = Config::from_file(&path).expect("valid");
        assert_eq!(config.join_deadline, Duration::from_millis(1500));
        std::fs::write(&path, format!("{base}sise = 2\n")).expect("written");
        let error = Config::from_file(&path).expect_err("unknown field").to_string();
        assert!(error.contains("sise"), "{error}");
        let error = Config::from_file("/nonexistent/fmi.toml").expect_err("no file").to_string();
        assert!(error.contains("/nonexistent/fmi.toml"), "{error}");
    }
}
