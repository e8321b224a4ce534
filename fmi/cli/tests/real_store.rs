//! Goal: the store answers as Redis does, on real sockets, and clients of Redis work with it. Method: the same commands, drawn at
//! random, to `fmi store serve` and to a real `redis-server`; sessions of `redis-cli` and of Python's client.
//!
//! What is compared is every byte of every answer, but for what is not the same on purpose: the number of a client, and times
//! left, which are compared to 2 s, as both servers have clocks of their own. Keys of a scan are sorted, since Redis'
//! order is that of its hashes.

#[path = "../../../nat-sim/tests/common/trials.rs"]
mod trials;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use trials::{Needs, case, installed};

const PASSWORD: &str = "the password of the store";

fn main() -> ExitCode {
    let server = installed(&[("redis-server", "redis-server")]);
    let cli = installed(&[("redis-cli", "redis-tools")]);
    let python = python();
    let cases = vec![
        case("random_commands_are_answered_as_by_redis", random_commands).with(&server),
        case("mistakes_are_answered_as_by_redis", mistakes).with(&server),
        case("waits_are_served_as_by_redis", waits).with(&server),
        case("redis_cli_has_a_session", redis_cli).with(&cli),
        case("the_client_of_python_has_a_session", python_client).with(&python),
        case("one_without_the_password_reads_nothing", strangers),
        case("a_rendezvous_serves_a_store_beside", beside_a_rendezvous),
        case("one_beyond_the_open_files_is_told_so", many),
    ];
    trials::run(cases)
}

/// A server that ends with its test.
struct Served {
    child: Child,
    address: String,
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn fmi(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fmi"));
    command.args(arguments);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"FMI_")) {
        command.env_remove(name);
    }
    command
}

/// Starts a program, and reads the address of its store from its output.
fn start(mut command: Command) -> Served {
    let mut child = command.stdout(Stdio::piped()).spawn().expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let address = lines.find_map(|line| line.expect("a line").strip_prefix("store ").map(str::to_owned));
    Served { child, address: address.expect("it says where") }
}

fn ours() -> Served {
    start(fmi(&["store", "serve", "--listen", "127.0.0.1:0"]))
}

/// Redis takes no port 0. A port that was free a moment ago may be taken meanwhile, by which it ends.
fn redis() -> Served {
    loop {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound").port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--save", "", "--bind", "127.0.0.1", "--maxmemory", "1gb"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let is_there = lines.any(|line| line.is_ok_and(|line| line.contains("Ready to accept connections")));
        if is_there {
            // Its output would end with the pipe.
            std::mem::forget(lines);
            return Served { child, address: format!("127.0.0.1:{port}") };
        }
        let _ = child.wait();
    }
}

/// A connection of plain bytes.
struct Session(BufReader<TcpStream>);

impl Session {
    fn new(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        Self(BufReader::new(stream))
    }

    fn send(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).expect("sent");
    }

    fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).expect("an answer");
        line
    }

    /// One answer, with all that is in it.
    fn answer(&mut self) -> Vec<u8> {
        let mut answer = self.line();
        let number = |line: &[u8]| String::from_utf8_lossy(&line[1..]).trim().parse::<i64>().unwrap_or(0).max(0);
        match answer.first() {
            Some(b'$') if answer != b"$-1\r\n" => {
                let mut body = vec![0; usize::try_from(number(&answer)).expect("a length") + 2];
                self.0.read_exact(&mut body).expect("a body");
                answer.extend_from_slice(&body);
            }
            Some(b'*' | b'>') => (0..number(&answer)).for_each(|_| answer.extend_from_slice(&self.answer())),
            Some(b'%') => (0..2 * number(&answer)).for_each(|_| answer.extend_from_slice(&self.answer())),
            _ => {}
        }
        answer
    }

    fn ask(&mut self, words: &[&[u8]]) -> Vec<u8> {
        self.send(&request(words));
        self.answer()
    }

    /// A command of words.
    fn say(&mut self, command: &str) -> String {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        String::from_utf8_lossy(&self.ask(&words)).into_owned()
    }
}

fn request(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Whether two answers to a command are the same, but for what may differ.
fn agree(command: &[u8], ours: &[u8], theirs: &[u8]) -> bool {
    let number = |answer: &[u8]| {
        let text = String::from_utf8_lossy(answer).into_owned();
        text.strip_prefix(':').and_then(|text| text.trim().parse::<i64>().ok())
    };
    let unit = match &command.to_ascii_lowercase()[..] {
        b"ttl" => 1,
        b"pttl" => 1000,
        b"scan" => {
            let sorted = |answer: &[u8]| {
                let text = String::from_utf8_lossy(answer).into_owned();
                let mut lines: Vec<_> = text.split("\r\n").map(str::to_owned).collect();
                lines.sort();
                lines
            };
            return sorted(ours) == sorted(theirs);
        }
        _ => return ours == theirs,
    };
    match (number(ours), number(theirs)) {
        (Some(ours), Some(theirs)) if ours > 0 && theirs > 0 => (ours - theirs).abs() <= 2 * unit,
        _ => ours == theirs,
    }
}

fn word() -> impl Strategy<Value = Vec<u8>> {
    let plain = |words: Vec<&'static str>| select(words).prop_map(|word| word.as_bytes().to_vec());
    prop_oneof![
        6 => plain(vec!["a", "b", "c", "d"]),
        4 => plain(vec!["0", "1", "-1", "2", "5", "-3", "100", "9223372036854775807", "-9223372036854775808", "01", "1.5", ""]),
        3 => plain(vec!["NX", "xx", "GET", "EX", "px", "KEEPTTL", "GT", "LT", "MATCH", "COUNT", "1000", "[a-c]*", "TYPE"]),
        1 => vec(any::<u8>(), 0..6),
        1 => (0usize..40_000).prop_map(|length| (0..length).map(|at| u8::try_from(at % 253).expect("small")).collect()),
    ]
}

/// Commands as drawn: most with arguments that they can do something with.
fn command() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let key = || select(vec!["a", "b", "c", "d"]).prop_map(|key| key.as_bytes().to_vec());
    let number = || (-6i64..7).prop_map(|number| number.to_string().into_bytes());
    let named = |name: &'static str, rest: Vec<Vec<u8>>| {
        std::iter::once(name.as_bytes().to_vec()).chain(rest).collect::<Vec<_>>()
    };
    let any = select(vec![
        "SET", "SETNX", "GET", "MGET", "MSET", "GETRANGE", "STRLEN", "EXISTS", "DEL", "UNLINK", "GETDEL", "INCR",
        "INCRBY", "DECR", "DECRBY", "EXPIRE", "PEXPIRE", "TTL", "PTTL", "PERSIST", "TYPE", "RPUSH", "LPUSH", "LPOP",
        "RPOP", "LLEN", "LRANGE", "LTRIM", "LREM", "DBSIZE", "ECHO", "PING", "SETEX", "PSETEX", "MULTI", "EXEC",
        "DISCARD", "FLUSHDB", "nil", "SELECT",
    ]);
    prop_oneof![
        6 => (any, vec(word(), 0..5)).prop_map(move |(name, rest)| named(name, rest)),
        3 => (key(), word()).prop_map(move |(key, word)| named("SET", vec![key, word])),
        3 => (select(vec!["RPUSH", "LPUSH"]), key(), vec(word(), 1..5)).prop_map(move |(name, key, words)| {
            named(name, [vec![key], words].concat())
        }),
        3 => (select(vec!["LRANGE", "GETRANGE", "LTRIM"]), key(), number(), number())
            .prop_map(move |(name, key, start, end)| named(name, vec![key, start, end])),
        2 => (key(), number(), word()).prop_map(move |(key, count, word)| named("LREM", vec![key, count, word])),
        2 => (select(vec!["LPOP", "RPOP"]), key(), number()).prop_map(move |(name, key, count)| named(name, vec![key, count])),
        2 => (select(vec!["EXPIRE", "PEXPIRE"]), key(), word(), vec(select(vec!["NX", "XX", "GT", "lt", "?"]), 0..3)).prop_map(
            move |(name, key, time, options)| {
                let options = options.into_iter().map(|option| option.as_bytes().to_vec());
                named(name, [key, time].into_iter().chain(options).collect())
            }
        ),
        2 => (key(), word(), vec(word(), 1..4)).prop_map(move |(key, word, options)| named("SET", [vec![key, word], options].concat())),
        1 => Just(vec![b"SCAN".to_vec(), b"0".to_vec(), b"COUNT".to_vec(), b"1000".to_vec()]),
    ]
}

/// A command by which nothing ends while the test runs, as the two servers would see that at different times.
fn long_lived(mut command: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    let gives_time = ["EXPIRE", "PEXPIRE", "SETEX", "PSETEX"].iter().any(|name| is(&command[0], name))
        || command.iter().any(|word| is(word, "EX") || is(word, "PX"));
    for word in command.iter_mut().skip(1).filter(|_| gives_time) {
        if std::str::from_utf8(word).is_ok_and(|text| text.parse::<u32>().is_ok_and(|it| (1..100_000).contains(&it))) {
            *word = b"100000".to_vec();
        }
    }
    command
}

fn random_commands() {
    let (one, other) = (ours(), redis());
    let mut runner = TestRunner::new(Config { failure_persistence: None, cases: 150, ..Config::default() });
    let outcome = runner.run(&vec(command(), 1..60), |commands| {
        let mut sessions = [Session::new(&one.address), Session::new(&other.address)];
        for session in &mut sessions {
            assert_eq!(session.say("FLUSHDB"), "+OK\r\n");
        }
        for command in commands.into_iter().map(long_lived) {
            let words: Vec<&[u8]> = command.iter().map(|word| &word[..]).collect();
            // A command that both must refuse for a reason of its own has other databases to choose from there.
            if command[0] == b"SELECT" && command.len() == 2 && command[1] != b"0" && command[1] != b"-1" {
                continue;
            }
            let [ours, theirs] = sessions.each_mut().map(|session| session.ask(&words));
            let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(300)]).into_owned();
            prop_assert!(
                agree(&command[0], &ours, &theirs),
                "{:?}: {} and not {}",
                words.iter().map(|word| text(word)).collect::<Vec<_>>(),
                text(&ours),
                text(&theirs)
            );
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// Streams that are no requests, or hardly any; all that is said until the connection ends.
fn mistakes() {
    let (ours, redis) = (ours(), redis());
    for stream in [
        "PING\r\n",
        "  PING  'a b' \n",
        "SET a \"b\\x41\\n\"\r\nGET a\r\n",
        "SET a \"b\r\n",
        "*1\r\n$4\r\nPING\r\n*1\r\nPING\r\n",
        "*0\r\n*-1\r\nPING\r\n",
        "*x\r\n",
        "*1\r\n$x\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$536870913\r\n",
        "*2147483648\r\n",
        "\r\n\r\nPING\r\n",
        "NONE a b c\r\n",
        "GET\r\nGET a b\r\nCLIENT\r\nCLIENT NONE\r\nCONFIG NONE\r\n",
        "HELLO 4\r\nHELLO x\r\nHELLO 3 AUTH\r\nHELLO 2 SETNAME name\r\nCLIENT GETNAME\r\n",
        "HELLO 3\r\nGET none\r\nLPOP none 2\r\nBLPOP none 0.01\r\nMGET none\r\nCONFIG GET maxmemory-policy\r\n",
        "AUTH a\r\nAUTH a b\r\nAUTH a b c\r\n",
        "SUBSCRIBE a b\r\nPING\r\nGET a\r\nUNSUBSCRIBE a\r\nUNSUBSCRIBE\r\nUNSUBSCRIBE\r\nPING\r\n",
        "MULTI\r\nMULTI\r\nSET a\r\nEXEC\r\nEXEC\r\n",
        "BLPOP a x\r\nBLPOP a -1\r\nBLPOP a\r\n",
        "SCAN x\r\nSCAN 0 COUNT 0\r\nSCAN 0 COUNT\r\nSCAN 0 NONE 1\r\n",
        "EXPIRE a 1 NX GT\r\nEXPIRE a 1 GT LT\r\nEXPIRE a 1 NONE\r\nEXPIRE a 9223372036854775807\r\n",
        "SET a 1 EX 0\r\nSET a 1 EX x\r\nSET a 1 EX 9223372036854775807\r\nSET a 1 NX XX\r\nSETEX a 0 1\r\n",
        "RESET\r\nFLUSHDB NONE\r\nSELECT x\r\nSELECT -1\r\nCLIENT SETNAME\r\nRESET\r\n",
    ] {
        let [ours, theirs] = [&ours, &redis].map(|server| {
            let mut session = Session::new(&server.address);
            session.send(stream.as_bytes());
            // What comes after this is not awaited.
            session.send(b"QUIT\r\n");
            let mut said = Vec::new();
            // A server may reset a connection on which something was left unread.
            let _ = session.0.read_to_end(&mut said);
            let said = String::from_utf8_lossy(&said).into_owned();
            let identifier = said.split("$2\r\nid\r\n:").nth(1).and_then(|rest| rest.split('\r').next());
            identifier.map(|number| said.replace(&format!("id\r\n:{number}"), "id\r\n:N")).unwrap_or(said)
        });
        assert_eq!(ours, theirs, "{stream:?}");
    }
}

/// Two wait for two lists, and a third pushes.
fn waits() {
    let told = [ours(), redis()].map(|server| {
        let [mut first, mut second, mut third] = [(); 3].map(|()| Session::new(&server.address));
        let is_waiting = |session: &mut Session, count: u64| {
            while !session.say("INFO clients").contains(&format!("blocked_clients:{count}")) {}
        };
        let mut told = Vec::new();
        first.send(&request(&[b"BLPOP", b"x", b"l", b"0"]));
        is_waiting(&mut third, 1);
        second.send(&request(&[b"BRPOP", b"l", b"y", b"0"]));
        is_waiting(&mut third, 2);
        told.push(third.say("RPUSH l 1 2 3"));
        told.push(String::from_utf8_lossy(&first.answer()).into_owned());
        told.push(String::from_utf8_lossy(&second.answer()).into_owned());
        told.push(third.say("LRANGE l 0 -1"));
        // One that is gone is not served.
        first.send(&request(&[b"BLPOP", b"m", b"0"]));
        is_waiting(&mut third, 1);
        drop(first);
        is_waiting(&mut third, 0);
        told.push(third.say("LPUSH m 1"));
        told.push(third.say("LLEN m"));
        // A pipeline of bell and body.
        second.send(&[request(&[b"BLPOP", b"bell", b"0"]), request(&[b"GET", b"body"])].concat());
        is_waiting(&mut third, 1);
        third.send(&[request(&[b"SET", b"body", &[7; 100_000]]), request(&[b"RPUSH", b"bell", b"1"])].concat());
        told.extend(
            [third.answer(), third.answer(), second.answer(), second.answer()]
                .map(|it| String::from_utf8_lossy(&it).into_owned()),
        );
        told
    });
    assert_eq!(told[0], told[1]);
}

fn redis_cli() {
    let served = ours();
    let port = served.address.rsplit(':').next().expect("a port").to_owned();
    let run = |arguments: &[&str]| {
        let output = Command::new("redis-cli").args(["-p", &port]).args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(run(&["SET", "a", "b", "EX", "100"]), "OK\n");
    assert_eq!(run(&["GET", "a"]), "b\n");
    assert_eq!(run(&["-3", "TTL", "a"]), "100\n");
    assert_eq!(run(&["RPUSH", "l", "1", "2"]), "2\n");
    assert_eq!(run(&["LRANGE", "l", "0", "-1"]), "1\n2\n");
    assert_eq!(run(&["--scan", "--pattern", "[al]"]).lines().count(), 2);
    assert_eq!(run(&["CONFIG", "GET", "maxmemory-policy"]), "maxmemory-policy\nnoeviction\n");
    assert!(run(&["INFO", "server"]).contains("redis_version:7"));
}

/// A folder of its own with Python's client, if it can be had.
fn python() -> Needs {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-redis");
    let has_client = |program: &Path| {
        Command::new(program).args(["-c", "import redis"]).output().is_ok_and(|it| it.status.success())
    };
    let program = folder.join("bin/python");
    if has_client(&program) {
        return Ok(());
    }
    installed(&[("python3", "python3")])?;
    let quietly = |command: &mut Command| command.output().is_ok_and(|output| output.status.success());
    let is_made = quietly(Command::new("python3").args(["-m", "venv"]).arg(&folder))
        && quietly(Command::new(&program).args(["-m", "pip", "install", "-q", "--retries", "0", "redis"]));
    if is_made && has_client(&program) {
        Ok(())
    } else {
        Err("not to be had: Python with venv, and its package redis".into())
    }
}

const SESSION: &str = r#"
import sys, redis
for protocol in (2, 3):
    r = redis.Redis(host="127.0.0.1", port=int(sys.argv[1]), protocol=protocol)
    r.flushdb()
    assert r.ping()
    body = bytes(range(256)) * 4096
    assert r.set("body", body, ex=60, nx=True)
    assert r.set("body", b"other", nx=True) is None
    assert r.get("body") == body and r.getrange("body", 1, 3) == bytes([1, 2, 3])
    assert 0 < r.ttl("body") <= 60
    assert r.incr("counter") == 1 and r.incrby("counter", 41) == 42
    pipeline = r.pipeline(transaction=True)
    pipeline.rpush("bell", "1")
    pipeline.expire("bell", 60)
    assert pipeline.execute() == [1, True]
    assert r.blpop(["none", "bell"], timeout=1) == (b"bell", b"1") or protocol == 3
    assert r.blpop(["bell"], timeout=0.01) is None
    assert sorted(r.scan_iter("[bc]*")) == [b"body", b"counter"]
    assert r.unlink("body", "counter") == 2 and r.dbsize() == 0
    listener = r.pubsub()
    listener.subscribe("c")
    assert listener.get_message(timeout=5)["type"] == "subscribe"
    assert r.publish("c", "x") == 1
    assert listener.get_message(timeout=5)["data"] == b"x"
    assert r.info("memory")["maxmemory"] == 1 << 30
    try:
        r.lpush("l", 1)
        r.get("l")
        raise SystemExit("a list is no string")
    except redis.exceptions.ResponseError as error:
        assert "WRONGTYPE" in str(error)
print("done")
"#;

fn python_client() {
    let served = ours();
    let port = served.address.rsplit(':').next().expect("a port").to_owned();
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python-redis/bin/python");
    let output = Command::new(program).args(["-c", SESSION, &port]).output().expect("it runs");
    assert!(output.status.success() && output.stdout == b"done\n", "{output:?}");
}

fn strangers() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), format!("{PASSWORD}\n")).expect("written");
    let path = file.path().to_str().expect("text");
    let served = start(fmi(&["store", "serve", "--listen", "127.0.0.1:0", "--password-file", path]));
    let mut session = Session::new(&served.address);
    assert_eq!(session.say("GET a"), "-NOAUTH Authentication required.\r\n");
    assert!(session.say("AUTH wrong").starts_with("-WRONGPASS"));
    assert_eq!(session.ask(&[b"AUTH", PASSWORD.as_bytes()]), b"+OK\r\n");
    assert_eq!(session.say("SET a b"), "+OK\r\n");
    let output = fmi(&["store", "serve", "--listen", "127.0.0.1:0", "--password-file", "/nonexistent"]).output();
    assert_eq!(output.expect("it runs").status.code(), Some(2));
}

fn beside_a_rendezvous() {
    let arguments = ["rendezvous", "--listen", "127.0.0.1:0", "--store", "127.0.0.1:0", "--store-memory", "1MiB"];
    let served = start(fmi(&arguments));
    let mut session = Session::new(&served.address);
    assert_eq!(session.say("CONFIG GET maxmemory"), "*2\r\n$9\r\nmaxmemory\r\n$7\r\n1048576\r\n");
    let full = session.ask(&[b"SET", b"a", &vec![7; 2 << 20]]);
    assert!(full.starts_with(b"-OOM "), "{}", String::from_utf8_lossy(&full));
    assert_eq!(session.say("SET a b"), "+OK\r\n");
}

/// More connections than there are files for.
fn many() {
    let mut command = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_fmi");
    command.args(["-c", &format!("ulimit -Sn 60; ulimit -Hn 60; exec {program} store serve --listen 127.0.0.1:0")]);
    let served = start(command);
    let mut sessions: Vec<_> = (0..30).map(|_| Session::new(&served.address)).collect();
    assert!(sessions.iter_mut().all(|session| session.say("PING") == "+PONG\r\n"));
    let mut another = Session::new(&served.address);
    assert_eq!(another.line(), b"-ERR max number of clients reached\r\n");
    drop(sessions.pop());
    // The server hears of it before or after the next one comes.
    while Session::new(&served.address).say("PING") != "+PONG\r\n" {}
}
