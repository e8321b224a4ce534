//! The settings of a group, one table: fields, variables, readers. Docs, files and the environment come from it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use super::{Config, Peers, Variables, invalid, units, variables};
use crate::error::Result;
use crate::key::Secret;

/// One setting.
pub(super) struct Setting {
    /// Its name in a file, and in [`Config`] but for those that are no fields.
    pub(super) field: &'static str,
    /// Its variable.
    pub(super) variable: &'static str,
    /// What a value looks like.
    pub(super) values: &'static str,
    /// A value of it, as it could be given.
    pub(super) show: fn(&Config) -> String,
    set: fn(&mut Config, &Given<'_>) -> std::result::Result<(), String>,
}

impl Setting {
    /// Whether its values are never shown.
    pub(super) fn is_secret(&self) -> bool {
        ["key", "key_file"].contains(&self.field)
    }
}

/// A value as a variable or a file gives it.
struct Given<'a> {
    value: Value<'a>,
    /// Relative names of files start here.
    folder: Option<&'a Path>,
}

enum Value<'a> {
    Bytes(&'a [u8]),
    Whole(i64),
    Number(f64),
    Switch(bool),
}

impl<'a> Given<'a> {
    fn bytes(&self) -> std::result::Result<&'a [u8], String> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Whole(_) | Value::Number(_) | Value::Switch(_) => Err("must be a text".into()),
        }
    }

    fn text(&self) -> std::result::Result<&'a str, String> {
        std::str::from_utf8(self.bytes()?).map_err(|error| format!("not UTF-8: {error}"))
    }

    fn switch(&self) -> std::result::Result<bool, String> {
        match self.value {
            Value::Switch(value) => Ok(value),
            Value::Bytes(_) => units::switch(self.text()?),
            Value::Whole(_) | Value::Number(_) => Err("must be true or false".into()),
        }
    }

    /// A whole number that stands for `what`.
    fn whole<T: TryFrom<u64> + TryFrom<i64> + std::str::FromStr>(&self, what: &str) -> std::result::Result<T, String> {
        match self.value {
            Value::Whole(value) => T::try_from(value).map_err(|_| format!("{value} is not {what}")),
            Value::Bytes(_) => {
                self.text()?.parse().map_err(|_| format!("{:?} is not {what}", self.text().unwrap_or("")))
            }
            Value::Number(_) | Value::Switch(_) => Err(format!("must be {what}")),
        }
    }

    fn length(&self) -> std::result::Result<u64, String> {
        match self.value {
            Value::Bytes(_) => units::bytes(self.text()?),
            Value::Whole(_) | Value::Number(_) | Value::Switch(_) => self.whole("a length in bytes"),
        }
    }

    fn time(&self) -> std::result::Result<Duration, String> {
        match self.value {
            #[expect(clippy::cast_precision_loss, reason = "2^53 seconds are far beyond any limit")]
            Value::Whole(value) => units::seconds(value as f64),
            Value::Number(value) => units::seconds(value),
            Value::Bytes(_) => units::duration(self.text()?),
            Value::Switch(_) => Err("must be a time".into()),
        }
    }

    /// A time, or the word `none`.
    fn time_or_none(&self) -> std::result::Result<Option<Duration>, String> {
        match self.value {
            Value::Bytes(bytes) if bytes.trim_ascii() == b"none" => Ok(None),
            Value::Bytes(_) | Value::Whole(_) | Value::Number(_) | Value::Switch(_) => self.time().map(Some),
        }
    }

    /// A time that nobody means in seconds.
    fn short_time(&self) -> std::result::Result<Duration, String> {
        let needs_unit =
            matches!(self.value, Value::Bytes(_)) && self.text()?.parse::<f64>().is_ok_and(|number| number != 0.0);
        if needs_unit { Err(format!("{:?} needs a unit, like 50us", self.text()?)) } else { self.time() }
    }

    fn secret(&self) -> std::result::Result<Secret, String> {
        Ok(self.bytes()?.into())
    }

    fn secret_of_file(&self) -> std::result::Result<Secret, String> {
        #[cfg(unix)]
        let path = PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(self.bytes()?));
        #[cfg(not(unix))]
        let path = PathBuf::from(self.text()?);
        let path = self.folder.map_or_else(|| path.clone(), |folder| folder.join(&path));
        let shown = path.display();
        let bytes =
            std::fs::read(&path).map(Zeroizing::new).map_err(|error| format!("cannot read {shown}: {error}"))?;
        match bytes.trim_ascii() {
            [] => Err(format!("{shown} holds no key")),
            key => Ok(key.into()),
        }
    }
}

macro_rules! settings {
    ($($field:literal $variable:literal $values:literal, $show:expr, $set:expr;)+) => {
        /// All settings, in the order of the documentation.
        pub(super) const SETTINGS: &[Setting] = &[$(Setting {
            field: $field,
            variable: $variable,
            values: $values,
            show: $show,
            set: $set,
        }),+];
    };
}

/// A URL without user and password.
fn shown_url(url: &str) -> String {
    match url.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.rsplit_once('@')?))) {
        Some((scheme, (_, rest))) => format!("{scheme}://{rest}"),
        None => url.to_owned(),
    }
}

fn shown(duration: Duration) -> String {
    format!("{duration:?}")
}

settings! {
    "rank" "FMI_RANK" "0 to size - 1", |c| c.rank.to_string(), |c, given| given.whole("a rank").map(|it| c.rank = it);
    "size" "FMI_SIZE" "1 to 4096", |c| c.size.to_string(), |c, given| given.whole("a size").map(|it| c.size = it);
    "group" "FMI_GROUP" "text", |c| c.group.clone(), |c, given| given.text().map(|it| c.group = it.to_owned());
    "rendezvous" "FMI_RENDEZVOUS" "host:port, or several with commas", |c| c.rendezvous.clone(),
        |c, given| given.text().map(|it| c.rendezvous = it.to_owned());
    "store" "FMI_STORE" "URL", |c| c.store.as_deref().map(shown_url).unwrap_or_default(),
        |c, given| given.text().map(|it| c.store = Some(it.to_owned()));
    "meet" "FMI_MEET" "switch", |c| c.meet.to_string(), |c, given| given.switch().map(|it| c.meet = it);
    "store_time_to_live" "FMI_STORE_TTL" "time", |c| shown(c.store_time_to_live),
        |c, given| given.time().map(|it| c.store_time_to_live = it);
    "alone" "FMI_ALONE" "switch", |c| c.is_alone().to_string(), |_, given| given.switch().map(drop);
    "vantage" "FMI_VANTAGE" "host:port, or `off`", |c| c.vantage.clone().unwrap_or_default(),
        |c, given| given.text().map(|it| c.vantage = Some(it.to_owned()));
    "key" "FMI_KEY" "any bytes", |_| String::new(), |c, given| given.secret().map(|it| c.key = Some(it));
    "key_file" "FMI_KEY_FILE" "path", |_| String::new(), |c, given| given.secret_of_file().map(|it| c.key = Some(it));
    "allow_weak_key" "FMI_ALLOW_WEAK_KEY" "switch", |c| c.allow_weak_key.to_string(),
        |c, given| given.switch().map(|it| c.allow_weak_key = it);
    "security" "FMI_SECURITY" "`encrypted`, `authenticated` or `plaintext`",
        |c| c.security.map(|it| it.name().to_owned()).unwrap_or_default(),
        |c, given| Config::security_of(given.text()?).map(|it| c.security = Some(it));
    "relay" "FMI_RELAY" "switch", |c| c.relay.to_string(), |c, given| given.switch().map(|it| c.relay = it);
    "reproducible" "FMI_REPRODUCIBLE" "switch", |c| c.reproducible.to_string(),
        |c, given| given.switch().map(|it| c.reproducible = it);
    "spray" "FMI_SPRAY" "switch", |c| c.spray.to_string(), |c, given| given.switch().map(|it| c.spray = it);
    "bind" "FMI_BIND" "IP address", |c| c.bind.to_string(), |c, given| {
        let text = given.text()?;
        text.parse().map(|it| c.bind = it).map_err(|_| format!("{text:?} is not an IP address"))
    };
    "peers" "FMI_PEERS" "`all` or `collectives`", |c| c.peers.name().to_owned(), |c, given| {
        let text = given.text()?;
        let known = Peers::ALL.into_iter().find(|peers| peers.name() == text);
        known.map(|it| c.peers = it).ok_or_else(|| format!("unknown peers {text:?} (expected one of: all, collectives)"))
    };
    "keepalive" "FMI_KEEPALIVE" "time", |c| shown(c.keepalive), |c, given| given.time().map(|it| c.keepalive = it);
    "mss" "FMI_MSS" "bytes, 536 to 32767", |c| c.mss.map(|it| it.to_string()).unwrap_or_default(),
        |c, given| given.whole("a length of segments").map(|it| c.mss = Some(it));
    "peers_at_once_max" "FMI_PEERS_AT_ONCE" "number", |c| c.peers_at_once_max.to_string(),
        |c, given| given.whole("a number of peers").map(|it| c.peers_at_once_max = it);
    "join_deadline" "FMI_JOIN_DEADLINE" "time", |c| shown(c.join_deadline),
        |c, given| given.time().map(|it| c.join_deadline = it);
    "punch_deadline" "FMI_PUNCH_DEADLINE" "time", |c| shown(c.punch_deadline),
        |c, given| given.time().map(|it| c.punch_deadline = it);
    "operation_deadline" "FMI_DEADLINE" "time, or `none`", |c| c.operation_deadline.map_or_else(|| "none".into(), shown),
        |c, given| given.time_or_none().map(|it| c.operation_deadline = it);
    "cause_wait" "FMI_CAUSE_WAIT" "time", |c| shown(c.cause_wait), |c, given| given.time().map(|it| c.cause_wait = it);
    "eager_bytes_max" "FMI_EAGER_BYTES" "length", |c| units::length(c.eager_bytes_max),
        |c, given| given.length().map(|it| c.eager_bytes_max = it);
    "mailbox_bytes_max" "FMI_MAILBOX_BYTES" "length", |c| units::length(c.mailbox_bytes_max),
        |c, given| given.length().map(|it| c.mailbox_bytes_max = it);
    "spin" "FMI_SPIN" "time with its unit", |c| shown(c.spin), |c, given| given.short_time().map(|it| c.spin = it);
    "algorithms" "FMI_ALGORITHM" "`allreduce=ring,barrier=tree`", |c| {
        let pairs: Vec<String> = c.algorithms.iter().map(|(of, algorithm)| format!("{of}={algorithm}")).collect();
        pairs.join(",")
    }, |c, given| Config::algorithms_named(given.text()?).map(|it| c.algorithms = it);
}

/// Where the rank may be found, and the size, ours first.
pub(super) const LAUNCHERS: [&[&str]; 2] = [
    &["OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID", "JOB_COMPLETION_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX"],
    &["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS", "AWS_BATCH_JOB_ARRAY_SIZE"],
];

/// Settings that say which group it is; a group of one needs none of them.
const REQUIRED: [&str; 4] = ["rank", "size", "group", "rendezvous"];
/// Those that a group of one decides.
const OF_GROUP: [&str; 4] = ["rank", "size", "rendezvous", "store"];

fn setting(field: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.field == field)
}

/// A configuration while it is read.
pub(super) struct Draft {
    config: Config,
    given: Vec<&'static str>,
    is_alone: bool,
}

impl Draft {
    pub(super) fn new() -> Self {
        Self { config: Config::new(0, 0, "", ""), given: Vec::new(), is_alone: false }
    }

    fn set(&mut self, setting: &'static Setting, given: &Given<'_>, source: &str) -> Result<()> {
        (setting.set)(&mut self.config, given).map_err(|what| invalid(format!("{source}: {what}")))?;
        if setting.field == "alone" {
            self.is_alone = given.switch().is_ok_and(|it| it);
        }
        self.given.push(setting.field);
        Ok(())
    }

    /// Takes what a TOML file says.
    pub(super) fn read_file(&mut self, path: &Path) -> Result<()> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map(Zeroizing::new);
        let text = text.map_err(|error| invalid(format!("cannot read {shown}: {error}")).caused_by(error))?;
        let table: toml::Table =
            text.parse().map_err(|error: toml::de::Error| invalid(format!("{shown}: {}", error.message())))?;
        if table.contains_key("key") && table.contains_key("key_file") {
            return Err(invalid(format!("{shown}: key and key_file are both set; leave one of them out")));
        }
        for (field, value) in table {
            let Some(setting) = setting(&field) else {
                let nearest = variables::nearest(&field, SETTINGS.iter().map(|setting| setting.field));
                return Err(invalid(format!("{shown}: unknown field {field:?}; did you mean {nearest:?}?")));
            };
            let source = format!("{shown}: {field}");
            let text = if let toml::Value::String(text) = &value {
                Zeroizing::new(text.clone())
            } else {
                Zeroizing::default()
            };
            let value = match value {
                toml::Value::String(mut value) => {
                    zeroize::Zeroize::zeroize(&mut value);
                    Value::Bytes(text.trim_ascii().as_bytes())
                }
                toml::Value::Integer(value) => Value::Whole(value),
                toml::Value::Float(value) => Value::Number(value),
                toml::Value::Boolean(value) => Value::Switch(value),
                toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => {
                    return Err(invalid(format!("{source}: must be a text, a number, true or false")));
                }
            };
            if matches!(value, Value::Bytes([])) {
                return Err(invalid(format!("{source} is empty; give it a value, or leave it out")));
            }
            self.set(setting, &Given { value, folder: path.parent() }, &source)?;
        }
        Ok(())
    }

    /// Takes what variables say.
    pub(super) fn read(&mut self, variables: &Variables) -> Result<()> {
        if variables.bytes("FMI_KEY")?.is_some() && variables.bytes("FMI_KEY_FILE")?.is_some() {
            return Err(invalid("FMI_KEY and FMI_KEY_FILE are both set; leave one of them out".into()));
        }
        let names_group = |field: &&str| {
            let name = setting(field).expect("it is in the table").variable;
            variables.bytes(name).is_ok_and(|value| value.is_some())
        };
        if let Some(text) = variables.text("FMI_ALONE")? {
            self.is_alone = units::switch(text).map_err(|what| invalid(format!("FMI_ALONE: {what}")))?;
        } else if OF_GROUP.iter().any(names_group) {
            self.is_alone = false;
        }
        for setting in SETTINGS {
            let launchers = match setting.field {
                "rank" => LAUNCHERS[0],
                "size" => LAUNCHERS[1],
                _ => &[],
            };
            let is_decided = self.is_alone && OF_GROUP.contains(&setting.field);
            let launchers = if is_decided { &[] } else { launchers };
            let set = |name: &&&str| variables.bytes(name).is_ok_and(|value| value.is_some());
            let own = variables.bytes(setting.variable)?.map(|_| setting.variable);
            let Some(name) = own.or_else(|| launchers.iter().find(set).copied()) else { continue };
            if is_decided {
                return Err(invalid(format!(
                    "FMI_ALONE makes a group of one, but {name} is set as well; unset one of them"
                )));
            }
            let Some(value) = variables.bytes(name)? else { continue };
            self.set(setting, &Given { value: Value::Bytes(value), folder: None }, name)?;
        }
        Ok(())
    }

    /// The configuration, if nothing is missing and all is well.
    pub(super) fn finish(self, missing: impl Fn(&Setting) -> String) -> Result<Config> {
        let Self { mut config, given, is_alone } = self;
        if is_alone {
            let alone = Config::alone();
            (config.rank, config.size, config.rendezvous) = (alone.rank, alone.size, alone.rendezvous);
            if config.group.is_empty() {
                config.group = alone.group;
            }
        } else {
            let is_needless = |field: &str| field == "rendezvous" && given.contains(&"store");
            let lacking = REQUIRED.iter().find(|field| !given.contains(field) && !is_needless(field));
            let lacking = lacking.and_then(|field| setting(field));
            if let Some(setting) = lacking {
                return Err(invalid(missing(setting)));
            }
        }
        config.check()?;
        Ok(config)
    }
}

/// The table of the documentation of [`Config`].
#[cfg(test)]
pub(super) fn table() -> String {
    use std::fmt::Write as _;
    let mut out = String::from("| variable | field | values | default |\n|---|---|---|---|\n");
    let defaults = Config::new(0, 0, "", "");
    for Setting { field, variable, values, show, .. } in SETTINGS {
        let default = show(&defaults);
        let default = if REQUIRED.contains(field) {
            "required".to_owned()
        } else if default.is_empty() {
            "–".to_owned()
        } else {
            format!("`{default}`")
        };
        writeln!(out, "| `{variable}` | `{field}` | {values} | {default} |").expect("memory takes all");
    }
    out
}
