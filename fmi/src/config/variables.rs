//! The environment, read as bytes.

use std::collections::BTreeMap;
use std::fmt;

use zeroize::Zeroizing;

use super::invalid;
use super::settings::{self, SETTINGS};
use crate::error::Result;

/// Variables that are no settings of a group, and who reads them.
const OTHERS: [(&str, &str); 6] = [
    ("FMI_CONFIG", "a configuration file"),
    ("FMI_LOG", "what the programs log"),
    ("FMI_PERF_START", "`fmi perf`"),
    ("FMI_SEED", "the program `lab`"),
    ("FMI_SEEDS", "the program `lab`"),
    ("FMI_BENCH_ROLE", "benchmarks"),
];

/// Names that begin so are the application's own.
const APPLICATION: [&str; 2] = ["FMI_APP_", "FMI_BENCH_"];

/// The variables that concern a group: those whose names begin with `FMI_`, and those of launchers.
///
/// Values are bytes. Whatever needs text refuses bytes that are not UTF-8, naming the variable; a key may be any bytes.
/// White space at both ends is not part of a value, and an empty value is a mistake.
///
/// Names that begin with `FMI_` belong to this crate: one that it does not know is a mistake, since a misspelt
/// `FMI_SECURTY` would otherwise go unnoticed. Exceptions are names that begin with `FMI_APP_`, for the use of
/// applications, and those that Kubernetes makes of a service whose name begins with `fmi`, like
/// `FMI_RENDEZVOUS_SERVICE_HOST`.
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<String, Zeroizing<Vec<u8>>>);

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<N: Into<String>, V: Into<Vec<u8>>> FromIterator<(N, V)> for Variables {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        let mut all = Self::default();
        for (name, value) in variables {
            all.set(name, value);
        }
        all
    }
}

impl Variables {
    /// Reads the environment of this process.
    pub fn from_env() -> Self {
        let all = std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value));
        let concerns = |name: &str| name.starts_with("FMI_") || settings::LAUNCHERS.iter().any(|of| of.contains(&name));
        all.filter(|(name, _)| concerns(name)).map(|(name, value)| (name, value.into_encoded_bytes())).collect()
    }

    /// Sets a variable, in place of what the environment says.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.0.insert(name.into(), Zeroizing::new(value.into()));
    }

    /// Removes a variable, as if the environment did not have it. One that is not there stays so.
    pub fn unset(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Whether no variable of this crate is set.
    pub(super) fn is_unset(&self) -> bool {
        SETTINGS.iter().all(|setting| !self.0.contains_key(setting.variable)) && !self.0.contains_key("FMI_CONFIG")
    }

    /// The value of a variable, without white space around it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) if it is empty.
    pub fn bytes(&self, name: &str) -> Result<Option<&[u8]>> {
        match self.0.get(name).map(|value| value.trim_ascii()) {
            Some([]) => Err(invalid(format!("{name} is empty; give it a value, or do not set it"))),
            value => Ok(value),
        }
    }

    /// The value of a variable as text, without white space around it.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) if it is empty or not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        let read = |value| {
            std::str::from_utf8(value).map_err(|error| invalid(format!("{name}: not UTF-8: {error}")).caused_by(error))
        };
        self.bytes(name)?.map(read).transpose()
    }

    /// Checks that each name that begins with `FMI_` is one that this crate knows.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) that names the variable and the nearest known one.
    pub fn check_names(&self) -> Result<()> {
        let known = || SETTINGS.iter().map(|setting| setting.variable).chain(OTHERS.map(|(name, _)| name));
        let is_fine = |name: &str, value: &[u8]| {
            !name.starts_with("FMI_")
                || known().any(|known| known == name)
                || APPLICATION.iter().any(|prefix| name.starts_with(prefix))
                || is_service_link(name, value)
        };
        match self.0.iter().find(|(name, value)| !is_fine(name, value)) {
            None => Ok(()),
            Some((name, _)) => Err(invalid(format!(
                "{name} is no variable of fmi; did you mean {}? Names that begin with FMI_APP_ are free for applications",
                nearest(name, known())
            ))),
        }
    }
}

/// Whether Kubernetes sets a variable to tell of a service. See "Discovering services" in its documentation.
fn is_service_link(name: &str, value: &[u8]) -> bool {
    let of_port = name.split("_PORT_").skip(1).any(|rest| {
        let mut parts = rest.split('_');
        parts.next().is_some_and(|port| port.parse::<u16>().is_ok())
            && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    });
    let is_url = [&b"tcp://"[..], b"udp://", b"sctp://"].iter().any(|scheme| value.starts_with(scheme));
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && is_url)
        || of_port
}

/// The known name that takes the fewest changes of one letter.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> &'a str {
    known.min_by_key(|known| distance(name, known)).expect("some names are known")
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
