//! Goal: every setting can be given by variable, by file and by both, means the same wherever it comes from, and no
//! mistake goes unnoticed. Method: variables and files made for the purpose; the environment of the tests is not read.

use super::settings::{SETTINGS, table};
use super::*;

const KEY: &str = "0123456789abcdef";
const BASE: [(&str, &[u8]); 4] =
    [("FMI_RANK", b"1"), ("FMI_SIZE", b"2"), ("FMI_GROUP", b"g"), ("FMI_RENDEZVOUS", b"h:7000")];

/// The usual variables with `changes`; what is changed to nothing is left out.
fn variables(changes: &[(&str, &[u8])]) -> Variables {
    let kept = BASE.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    kept.chain(changes.iter().filter(|(_, value)| !value.is_empty())).copied().collect()
}

fn from(changes: &[(&str, &[u8])]) -> Result<Config> {
    Config::from_variables(&variables(changes))
}

fn mistake(changes: &[(&str, &[u8])]) -> String {
    from(changes).expect_err("a mistake").to_string()
}

fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fmi.toml");
    std::fs::write(&path, text).expect("written");
    (folder, path)
}

#[test]
fn the_environment_is_read_and_each_mistake_named() {
    let config = from(&[("FMI_KEY", KEY.as_bytes())]).expect("valid");
    assert_eq!((config.rank, config.size, &config.group[..], &config.rendezvous[..]), (1, 2, "g", "h:7000"));
    let cases: [(&str, &[u8], &str); 24] = [
        ("FMI_RANK", b"2", "the rank is 2"),
        ("FMI_RANK", b"one", "FMI_RANK: \"one\" is not a rank"),
        ("FMI_RANK", b"", "FMI_RANK is not set"),
        ("FMI_SIZE", b"0", "the size is 0"),
        ("FMI_SIZE", b"99999", "the size is 99999"),
        ("FMI_RENDEZVOUS", b"h", "the rendezvous is \"h\""),
        ("FMI_RENDEZVOUS", b"h:1,g", "the rendezvous is \"h:1,g\""),
        ("FMI_VANTAGE", b"7001", "the vantage is \"7001\""),
        ("FMI_SECURITY", b"tls", "FMI_SECURITY: invalid security \"tls\""),
        ("FMI_SECURITY", b"encrypted", "needs a key"),
        ("FMI_DEADLINE", b"soon", "FMI_DEADLINE: \"soon\""),
        ("FMI_DEADLINE", b"0s", "operation_deadline must be greater than zero"),
        ("FMI_MAILBOX_BYTES", b"64 parsecs", "FMI_MAILBOX_BYTES: unknown unit"),
        ("FMI_EAGER_BYTES", b"0", "eager_bytes_max must be greater than zero"),
        ("FMI_RELAY", b"maybe", "FMI_RELAY: \"maybe\""),
        ("FMI_BIND", b"localhost", "FMI_BIND: \"localhost\" is not an IP address"),
        ("FMI_PEERS", b"some", "FMI_PEERS: unknown peers \"some\""),
        ("FMI_PEERS_AT_ONCE", b"0", "peers_at_once_max must be greater than zero"),
        ("FMI_KEEPALIVE", b"0", "keepalive must be greater than zero"),
        ("FMI_MSS", b"99", "mss is 99, not from 536 to 32767"),
        ("FMI_SPIN", b"50", "FMI_SPIN: \"50\" needs a unit"),
        ("FMI_KEY_FILE", b"/nonexistent/key", "FMI_KEY_FILE: cannot read /nonexistent/key"),
        ("FMI_CONFIG", b"/nonexistent/fmi.toml", "cannot read /nonexistent/fmi.toml"),
        ("FMI_ALONE", b"perhaps", "FMI_ALONE: \"perhaps\""),
    ];
    for (variable, value, expected) in cases {
        let error = mistake(&[(variable, value)]);
        assert!(error.contains(expected), "{error}");
    }
    let nothing = Config::from_variables(&Variables::default()).expect_err("nothing is set").to_string();
    assert!(nothing.contains("fmi launch") && nothing.contains("FMI_ALONE=1"), "{nothing}");
}

#[test]
fn every_variable_refuses_an_empty_value_and_all_but_keys_what_is_not_utf_8() {
    for name in SETTINGS.iter().map(|setting| setting.variable).chain(["FMI_CONFIG"]) {
        let mut empty = variables(&[]);
        empty.set(name, " \n");
        let error = Config::from_variables(&empty).expect_err("empty").to_string();
        assert!(error.contains(name) && error.contains("is empty"), "{error}");
        let error = match from(&[(name, b"\xff\xfe0123456789abcdef")]) {
            Ok(config) => {
                assert_eq!(name, "FMI_KEY", "only a key may be any bytes");
                assert_eq!(config.key.expect("given").as_bytes(), b"\xff\xfe0123456789abcdef");
                continue;
            }
            Err(error) => error.to_string(),
        };
        assert!(error.contains(name) && (name == "FMI_KEY_FILE" || error.contains("not UTF-8")), "{error}");
    }
    let launcher: Variables = [("OMPI_COMM_WORLD_RANK", b"\xff".to_vec())].into_iter().collect();
    let error = Config::from_variables(&launcher).expect_err("not a number").to_string();
    assert!(error.contains("OMPI_COMM_WORLD_RANK: not UTF-8"), "{error}");
}

/// A key that counted as none would let strangers in.
#[test]
fn a_key_of_any_bytes_makes_an_encrypted_group() {
    let config = from(&[("FMI_KEY", &[0x80; 16])]).expect("valid");
    assert_eq!(config.security(), Security::Encrypted);
    let other = from(&[("FMI_KEY", &[0x81; 16])]).expect("valid");
    assert_ne!(config.group_key().id(), other.group_key().id());
}

#[test]
fn weak_keys_are_refused_unless_allowed() {
    let error = mistake(&[("FMI_KEY", b"fifteen bytes..")]);
    assert!(error.contains("15 bytes") && error.contains("FMI_ALLOW_WEAK_KEY=1"), "{error}");
    assert!(!error.contains("fifteen"), "the key is never printed");
    assert!(from(&[("FMI_KEY", b"fifteen bytes.."), ("FMI_ALLOW_WEAK_KEY", b"1")]).is_ok());
    assert!(from(&[("FMI_KEY", b"sixteen bytes...")]).is_ok());
    let mut config = from(&[]).expect("valid");
    config.key = Some(b"short".into());
    assert!(config.check().is_err());
    config.allow_weak_key = true;
    assert!(config.check().is_ok());
}

#[test]
fn white_space_around_a_value_counts_nowhere() {
    let folder = tempfile::tempdir().expect("a folder");
    let (key, toml, with_file) =
        (folder.path().join("key"), folder.path().join("fmi.toml"), folder.path().join("key.toml"));
    let base = "size = 2\ngroup = \" g\\n\"\nrendezvous = \"h:7000 \"\nsecurity = \"encrypted\\t\"\n";
    std::fs::write(&key, format!("\t{KEY}\r\n")).expect("written");
    std::fs::write(&toml, format!("{base}key = \" {KEY}\\n\"\n")).expect("written");
    std::fs::write(&with_file, format!("{base}key_file = \"key\\n\"\n")).expect("written");
    let path = |path: &Path| path.to_str().expect("text").as_bytes().to_vec();
    let spaced = format!("{KEY}\n");
    for given in [
        vec![("FMI_KEY", spaced.into_bytes())],
        vec![("FMI_KEY_FILE", path(&key))],
        vec![("FMI_CONFIG", path(&toml))],
        vec![("FMI_CONFIG", path(&with_file))],
    ] {
        let base = [("FMI_RANK", " 1\n"), ("FMI_SIZE", "2 "), ("FMI_GROUP", "\tg"), ("FMI_RENDEZVOUS", " h:7000 ")];
        let base = base.into_iter().map(|(name, value)| (name, value.as_bytes().to_vec()));
        let config = Config::from_variables(&base.chain(given).collect()).expect("valid");
        assert_eq!(config.key.as_ref().expect("given").as_bytes(), KEY.as_bytes());
        assert_eq!((&config.group[..], &config.rendezvous[..], config.rank), ("g", "h:7000", 1));
    }
}

#[test]
fn secrets_are_in_no_debug_output() {
    let config = from(&[("FMI_KEY", KEY.as_bytes())]).expect("valid");
    let shown = format!("{config:?} {:?}", variables(&[("FMI_KEY", KEY.as_bytes())]));
    assert!(!shown.contains(KEY) && !shown.contains(&format!("{:?}", KEY.as_bytes())[1..]), "{shown}");
    assert!(
        shown.contains("rank: 1") && shown.contains("join_deadline: 30s") && shown.contains("Secret(..)"),
        "{shown}"
    );
}

#[test]
fn unknown_variables_are_mistakes_unless_they_belong_to_somebody_else() {
    for (name, meant) in [("FMI_SECURTY", "FMI_SECURITY"), ("FMI_RANKS", "FMI_RANK"), ("FMI_DEADLINES", "FMI_DEADLINE")]
    {
        let error = mistake(&[(name, b"x")]);
        assert!(error.contains(&format!("{name} is no variable of fmi; did you mean {meant}?")), "{error}");
    }
    let others: [(&str, &[u8]); 11] = [
        ("FMI_LOG", b"debug"),
        ("FMI_SEED", b"1"),
        ("FMI_APP_EPOCHS", b"7"),
        ("FMI_BENCH_ADDRESS", b"x"),
        ("FMI_PORT", b"tcp://10.0.0.1:7000"),
        ("FMI_PORT_7000_TCP", b"tcp://10.0.0.1:7000"),
        ("FMI_PORT_7000_TCP_ADDR", b"10.0.0.1"),
        ("FMI_RENDEZVOUS_SERVICE_HOST", b"10.0.0.1"),
        ("FMI_RENDEZVOUS_SERVICE_PORT_MAIN", b"7000"),
        ("FMI_RENDEZVOUS_PORT", b"tcp://10.0.0.1:7000"),
        ("FMIRANK", b"x"),
    ];
    assert!(from(&others).is_ok());
    assert!(mistake(&[("FMI_PORT", b"7000")]).contains("FMI_PORT"));
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
        let mut variables: Variables = base.into_iter().chain([(rank, "3"), (size, "4")]).collect();
        let config = Config::from_variables(&variables).expect("valid");
        assert_eq!((config.rank, config.size), (3, 4));
        variables.set("FMI_RANK", "1");
        assert_eq!(Config::from_variables(&variables).expect("valid").rank, 1, "ours goes first");
    }
}

#[test]
fn algorithms_are_read_and_mistakes_named() {
    let config = from(&[("FMI_ALGORITHM", b"allreduce=ring, barrier=tree"), ("FMI_SPIN", b"0")]).expect("valid");
    assert_eq!(config.algorithms.get(&Collective::Allreduce), Some(&Algorithm::Ring));
    assert_eq!(config.spin, Duration::ZERO);
    let cases: [(&[u8], &str); 5] = [
        (b"allreduce", "form"),
        (b"allreduce=rink", "rink"),
        (b"all=ring", "collective"),
        (b"allreduce=ring,allreduce=tree", "allreduce is named twice"),
        (b"allreduce=bruck", "allreduce cannot be done by bruck (expected one of: "),
    ];
    for (text, expected) in cases {
        let error = mistake(&[("FMI_ALGORITHM", text)]);
        assert!(error.contains(expected), "{error}");
    }
    // With few connections, fewer algorithms can run.
    assert!(from(&[("FMI_ALGORITHM", b"alltoall=pairwise")]).is_ok());
    let error = mistake(&[("FMI_ALGORITHM", b"alltoall=pairwise"), ("FMI_PEERS", b"collectives")]);
    assert!(error.contains("(expected one of: bruck)"), "{error}");
    for collective in Collective::ALL {
        for algorithm in Algorithm::ALL {
            let mut config = from(&[]).expect("valid");
            config.algorithms = BTreeMap::from([(*collective, *algorithm)]);
            let runs = [(true, 8), (false, 8), (true, 0)].into_iter().any(|(commutative, count)| {
                let problem = Problem {
                    collective: *collective,
                    size: 4,
                    root: 1,
                    count,
                    element_bytes: 4,
                    commutative,
                    in_place: false,
                    reproducible: false,
                };
                candidates(&problem, &Connections::complete()).contains(algorithm)
            });
            assert_eq!(config.check().is_ok(), runs, "{collective} by {algorithm}");
        }
    }
}

#[test]
fn a_file_is_read_and_unknown_fields_refused() {
    let base = "rank = 0\nsize = 2\ngroup = \"g\"\nrendezvous = \"h:1\"\n";
    let read = |more: &str| {
        let (_folder, path) = file(&format!("{base}{more}"));
        Config::from_file(path)
    };
    let config = read(
        "join_deadline = 1.5\noperation_deadline = \"2m\"\nmailbox_bytes_max = \"1MiB\"\nrelay = false\n\
                       eager_bytes_max = 4096\nspin = 0.0001\ncause_wait = 2\nbind = \"::1\"\npeers = \"collectives\"\n",
    );
    let config = config.expect("valid");
    assert_eq!(config.join_deadline, Duration::from_millis(1500));
    assert_eq!(
        (config.operation_deadline, config.cause_wait),
        (Some(Duration::from_secs(120)), Duration::from_secs(2))
    );
    assert_eq!((config.mailbox_bytes_max, config.eager_bytes_max), (1 << 20, 4096));
    assert_eq!((config.relay, config.spin, config.peers), (false, Duration::from_micros(100), Peers::Collectives));
    assert!(config.bind.is_ipv6());
    for (more, expected) in [
        ("sise = 2\n", "unknown field \"sise\"; did you mean \"size\"?"),
        ("relay = 1\n", "relay: must be true or false"),
        ("join_deadline = -1\n", "join_deadline: -1 s"),
        ("join_deadline = [1]\n", "join_deadline: must be a text, a number"),
        ("spray = \"\"\n", "spray is empty"),
        ("key = 7\n", "key: must be a text"),
        ("key = \"0123456789abcdef\"\nkey_file = \"key\"\n", "key and key_file are both set"),
        ("=\n", "fmi.toml: "),
    ] {
        let error = read(more).expect_err("a mistake").to_string();
        assert!(error.contains(expected) && error.contains("fmi.toml"), "{error}");
    }
    let error = Config::from_file("/nonexistent/fmi.toml").expect_err("no file").to_string();
    assert!(error.contains("/nonexistent/fmi.toml"), "{error}");
    let (_folder, path) = file("size = 2\ngroup = \"g\"\nrendezvous = \"h:1\"\n");
    let error = Config::from_file(path).expect_err("no rank").to_string();
    assert!(error.contains("rank is not set"), "{error}");
}

#[test]
fn one_file_serves_all_ranks_and_variables_win_over_it() {
    let (folder, path) = file("size = 3\ngroup = \"g\"\nrendezvous = \"h:1\"\nspray = true\nkey_file = \"key\"\n");
    std::fs::write(folder.path().join("key"), KEY).expect("written");
    let read = |rank: &str, more: &[(&str, &str)]| {
        let mut variables: Variables =
            [("FMI_RANK", rank), ("FMI_CONFIG", path.to_str().expect("text"))].into_iter().collect();
        for (name, value) in more {
            variables.set(*name, *value);
        }
        Config::from_variables(&variables)
    };
    for rank in 0..3 {
        let config = read(&rank.to_string(), &[]).expect("valid");
        assert_eq!((config.rank, config.size, config.spray), (rank, 3, true));
        assert_eq!(config.key.expect("given").as_bytes(), KEY.as_bytes());
    }
    let other = "another key of thirty bytes";
    let config = read("1", &[("FMI_SPRAY", "off"), ("FMI_GROUP", "h"), ("FMI_KEY", other)]).expect("valid");
    assert_eq!((config.spray, &config.group[..]), (false, "h"));
    assert_eq!(config.key.expect("given").as_bytes(), other.as_bytes());
    let error = read("1", &[("FMI_KEY", other), ("FMI_KEY_FILE", "key")]).expect_err("two keys").to_string();
    assert!(error.contains("both set"), "{error}");
    let config = read("0", &[]).expect("valid");
    assert_eq!(config.size, 3);
}

#[test]
fn a_group_of_one_needs_no_variable_but_the_request() {
    let alone: Variables = [("FMI_ALONE", "1")].into_iter().collect();
    let config = Config::from_variables(&alone).expect("valid");
    assert!(config.is_alone() && config.rank == 0 && config.size == 1);
    assert!(Config::alone().check().is_ok());
    // What a launcher or a file says of the group does not count then.
    let (_folder, path) = file("size = 3\ngroup = \"g\"\nrendezvous = \"h:1\"\n");
    let alone = [("FMI_ALONE", "1"), ("SLURM_PROCID", "7"), ("FMI_CONFIG", path.to_str().expect("text"))];
    let config = Config::from_variables(&alone.into_iter().collect()).expect("valid");
    assert!(config.is_alone() && config.rank == 0);
    let error = mistake(&[("FMI_ALONE", b"1")]);
    assert!(error.contains("FMI_ALONE") && error.contains("FMI_RANK"), "{error}");
    assert!(!from(&[("FMI_ALONE", b"0")]).expect("valid").is_alone());
    let (_folder, path) = file("alone = true\n");
    assert!(Config::from_file(&path).expect("valid").is_alone());
    let group = BASE.map(|(name, value)| (name, value.to_vec()));
    let group = group.into_iter().chain([("FMI_CONFIG", path.to_str().expect("text").as_bytes().to_vec())]);
    assert!(!Config::from_variables(&group.collect()).expect("valid").is_alone(), "variables win over the file");
    // Nobody is alone by leaving the rendezvous out.
    let mut config = Config::new(0, 2, "g", "");
    assert!(config.check().is_err());
    config.size = 1;
    assert!(config.is_alone());
}

#[test]
fn what_is_shown_of_each_setting_can_be_given_again() {
    let mut config = from(&[("FMI_KEY", KEY.as_bytes())]).expect("valid");
    config.vantage = Some("h:7001".into());
    config.mss = config.mss.or(Some(1200));
    config.security = Some(Security::Authenticated);
    config.algorithms = BTreeMap::from([(Collective::Allreduce, Algorithm::Ring)]);
    let shown = |config: &Config| -> Vec<(&str, String)> {
        // A group has a rendezvous or a store.
        let shown = SETTINGS.iter().filter(|setting| !setting.is_secret() && setting.field != "store");
        shown.map(|setting| (setting.variable, (setting.show)(config))).collect()
    };
    let variables = shown(&config).into_iter().chain([("FMI_KEY", KEY.to_owned())]).collect();
    let again = Config::from_variables(&variables).expect("valid");
    assert_eq!(shown(&again), shown(&config));
}

#[test]
fn a_store_takes_the_place_of_a_rendezvous_and_is_shown_without_its_password() {
    let group = [("FMI_RANK", "0"), ("FMI_SIZE", "2"), ("FMI_GROUP", "g"), ("FMI_MEET", "no")];
    let store = ("FMI_STORE", "redis://me:secret@host:7/1");
    let config = Config::from_variables(&group.into_iter().chain([store]).collect()).expect("valid");
    assert_eq!((config.store.as_deref(), config.meet), (Some(store.1), false));
    let shown = format!("{config:?}");
    assert!(shown.contains("redis://host:7/1") && !shown.contains("secret"), "{shown}");
    let error = Config::from_variables(&group.into_iter().collect()).expect_err("no place to meet").to_string();
    assert!(error.contains("FMI_RENDEZVOUS"), "{error}");
    let both = group.into_iter().chain([store, ("FMI_RENDEZVOUS", "h:1")]).collect();
    let error = Config::from_variables(&both).expect_err("two places").to_string();
    assert!(error.contains("leave one out"), "{error}");
    let error = mistake(&[("FMI_MEET", b"no")]);
    assert!(error.contains("need a store"), "{error}");
}

#[test]
fn the_documentation_lists_all_settings_with_their_defaults() {
    let written = include_str!("settings.md");
    assert!(written == table(), "fmi/src/config/settings.md must be:\n{}", table());
    let source = include_str!("../config.rs");
    let body =
        source.split("pub struct Config {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("the struct");
    for field in body.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split(':').next()) {
        assert!(SETTINGS.iter().any(|setting| setting.field == field), "{field} cannot be set by a variable");
    }
    for setting in SETTINGS {
        assert!(setting.field == "alone" || body.contains(&format!("`{}`", setting.variable)), "{}", setting.variable);
    }
}
