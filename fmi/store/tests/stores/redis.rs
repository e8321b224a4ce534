//! A real server: the suite, and what servers do to their clients.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fmi_net::real::RealNet;
use fmi_store::suite::{self, Bench};
use fmi_store::{Cause, Placed, Put, Store, StoreError};
use futures_util::future::{Either, join, join_all, select};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::trials::{Case, case, installed};
use crate::{bench, block_on, name, open, two_processes};

const LONG: Duration = Duration::from_secs(600);

pub(crate) fn cases() -> Vec<Case> {
    let has_server = installed(&[("redis-server", "redis-server")]);
    let of_suite = suite::CASES.iter().zip(0..).map(|((name, run), number): (&(&str, suite::Case), u64)| {
        let run = *run;
        case(format!("redis::{name}"), move || {
            let server = Server::start(&[]);
            block_on(async { run(bench(&server.url(""), number).await).await });
        })
    });
    let own: [(&str, fn()); 11] = [
        ("two_processes", || two_processes(&Server::start(&[]).url(""), 0)),
        ("databases_are_apart", databases_are_apart),
        ("who_is_refused_is_told_and_no_secret_is_shown", who_is_refused_is_told_and_no_secret_is_shown),
        ("what_is_not_permitted_is_named", what_is_not_permitted_is_named),
        ("a_full_server_refuses", a_full_server_refuses),
        ("what_was_evicted_is_missed", what_was_evicted_is_missed),
        ("a_bell_without_a_body_is_waited_out", a_bell_without_a_body_is_waited_out),
        ("waits_and_puts_survive_a_restart", waits_and_puts_survive_a_restart),
        ("a_server_that_is_gone_fails_what_is_asked", a_server_that_is_gone_fails_what_is_asked),
        ("an_old_server_will_do", an_old_server_will_do),
        ("requests_of_several_threads_drive_each_other", requests_of_several_threads_drive_each_other),
    ];
    let own = own.into_iter().map(|(name, run)| case(format!("redis::{name}"), run));
    let served: Vec<_> = of_suite.chain(own).map(|case| case.with(&has_server)).collect();
    let alone: [(&str, fn()); 3] = [
        ("garbage_is_no_server", garbage_is_no_server),
        ("silence_ends", silence_ends),
        ("nobody_there_is_said_at_once", nobody_there_is_said_at_once),
    ];
    let alone = alone.into_iter().map(|(name, run)| case(format!("redis::{name}"), run));
    let tools = installed(&[("redis-server", "redis-server"), ("openssl", "openssl")]);
    let tls = case("redis::over_tls", over_tls).with(&tools);
    served.into_iter().chain(alone).chain([tls]).collect()
}

/// A server that ends with its test.
pub(crate) struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(arguments: &[&str]) -> Self {
        const TRIES: u32 = 8;
        // Somebody else may take a free port.
        (0..TRIES).find_map(|_| Self::start_at(free_port(), arguments)).expect("a server starts")
    }

    /// Starts it at a port, unless that is taken.
    fn start_at(port: u16, arguments: &[&str]) -> Option<Self> {
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()]);
        let mut child = command.args(arguments).stdout(Stdio::piped()).spawn().expect("it runs");
        let output = child.stdout.take();
        let server = Self { child, port };
        let mut lines = BufReader::new(output?).lines();
        let is_ready = lines.by_ref().any(|line| line.expect("text").contains("Ready to accept connections"));
        is_ready.then_some(server)
    }

    fn url(&self, account: &str) -> String {
        format!("redis://{account}127.0.0.1:{}", self.port)
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("it has one").port()
}

async fn refused(url: &str) -> StoreError {
    let error = fmi_store::connect(RealNet::new(), url).await.expect_err("it cannot be used");
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    error
}

fn put(id: u128, length: usize) -> Put {
    Put::new(name(id), vec![id.to_le_bytes()[0]; length], LONG).ringing([name(id).shelf])
}

fn databases_are_apart() {
    let server = Server::start(&[]);
    block_on(async {
        let stores =
            join_all(["", "/0", "/1"].map(|it| format!("{}{it}", server.url(""))).iter().map(|url| open(url))).await;
        stores[0].clone().put(put(1, 10)).await.expect("it is written");
        let found = join_all(stores.iter().map(|store| store.clone().get(name(1), None))).await;
        assert_eq!(found.map_to_lengths(), [Some(10), Some(10), None]);
        for (database, said) in [("/16", "out of range"), ("/one", "no number of a database")] {
            let error = refused(&format!("{}{database}", server.url("me:secret@"))).await;
            assert!(error.to_string().contains(said) || matches!(error.cause, Cause::Denied(_)), "{error}");
        }
    });
}

trait Lengths {
    fn map_to_lengths(self) -> Vec<Option<usize>>;
}

impl Lengths for Vec<fmi_store::Result<Option<bytes::Bytes>>> {
    fn map_to_lengths(self) -> Vec<Option<usize>> {
        self.into_iter().map(|found| found.expect("it is read").map(|it| it.len())).collect()
    }
}

fn who_is_refused_is_told_and_no_secret_is_shown() {
    let server = Server::start(&["--requirepass", "right secret"]);
    block_on(async {
        for account in [":right%20secret@", "default:right%20secret@"] {
            open(&server.url(account)).await.put(put(1, 10)).await.expect("it is let in");
        }
        for account in [":wrong%20secret@", "me:right%20secret@", ""] {
            let error = refused(&server.url(account)).await;
            assert!(matches!(error.cause, Cause::Denied(_)), "{account}: {error}");
        }
        let error = refused(&server.url("me@")).await;
        assert!(matches!(error.cause, Cause::Settings(_)), "{error}");
    });
}

fn what_is_not_permitted_is_named() {
    let server = Server::start(&["--user", "weak", "on", ">secret", "~fmi/*", "+@all", "-incrby"]);
    block_on(async {
        let store = open(&server.url("weak:secret@")).await;
        store.clone().put(put(1, 10)).await.expect("that is permitted");
        let error = store.count(name(1), 1, LONG).await.expect_err("that is not");
        assert!(matches!(&error.cause, Cause::Denied(text) if text.contains("incrby")), "{error}");
    });
}

fn a_full_server_refuses() {
    let server = Server::start(&["--maxmemory", "16mb", "--maxmemory-policy", "noeviction"]);
    block_on(async {
        let store = open(&server.url("")).await;
        let mut written = 0;
        let error = loop {
            match store.clone().put(put(written, 1 << 20)).await {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
        };
        assert!(matches!(error.cause, Cause::Full(_)), "{error}");
        assert!(written > 2, "{written}");
        for id in 0..written {
            assert!(store.clone().get(name(id), None).await.expect("it is read").is_some(), "{id} is kept");
        }
        // Room that is made is used.
        store.clone().delete((0..written).map(name).collect()).await.expect("they are deleted");
        store.clone().put(put(written, 1 << 20)).await.expect("there is room");
    });
}

fn what_was_evicted_is_missed() {
    let server = Server::start(&["--maxmemory", "16mb", "--maxmemory-policy", "allkeys-lru"]);
    block_on(async {
        let store = open(&server.url("")).await;
        for id in 0..40 {
            store.clone().put(put(id, 1 << 20)).await.expect("nobody is told");
        }
        let kept = join_all((0..40).map(|id| store.clone().get(name(id), None))).await.map_to_lengths();
        assert!(kept.contains(&None), "some are gone");
        // One whose bell rings, for sure.
        store.clone().ring(vec![name(0).shelf]).await.expect("it rings");
        let [early, late] = [100, 101];
        let waiting = store.clone().wait(name(late).shelf, vec![name(late)]);
        let error = join(waiting, async {
            store.clone().put(put(early, 10)).await.expect("it is written");
            store.clone().delete(vec![name(late)]).await.expect("nothing is there");
            evict(&server, late).await;
        });
        let error = error.await.0.expect_err("it is gone");
        assert!(matches!(&error.cause, Cause::Evicted(text) if *text == name(late).to_string()), "{error}");
    });
}

/// Rings the bell of a body that is gone.
async fn evict(server: &Server, id: u128) {
    let address = SocketAddr::from(([127, 0, 0, 1], server.port));
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("it listens");
    let bell = format!("fmi/{{{}}}/bell", name(id).shelf);
    let head = format!("*3\r\n$5\r\nRPUSH\r\n${}\r\n{bell}\r\n$16\r\n", bell.len());
    stream.write_all(&[head.as_bytes(), &name(id).id, b"\r\n"].concat()).await.expect("it reads");
    assert_eq!(stream.read_u8().await.expect("it answers"), b':');
}

fn a_bell_without_a_body_is_waited_out() {
    let server = Server::start(&[]);
    block_on(async {
        let store = open(&server.url("")).await;
        evict(&server, 1).await;
        let (found, ()) = join(store.clone().wait(name(1).shelf, vec![name(1)]), async {
            evict(&server, 1).await;
            evict(&server, 2).await;
            store.clone().put(put(1, 10)).await.expect("it is written");
        })
        .await;
        assert_eq!(found.expect("it comes").len(), 1);
    });
}

fn waits_and_puts_survive_a_restart() {
    let mut server = Server::start(&[]);
    block_on(async {
        let stores = [open(&server.url("")).await, open(&server.url("")).await];
        for round in 0..3 {
            let id = 3 * round;
            let mut waiting = stores[0].clone().wait(name(id).shelf, vec![name(id)]);
            // Far enough that the server has it, as another request is answered.
            for other in 0..20 {
                let asked = stores[0].clone().get(name(1_000 + other), None);
                match select(waiting, asked).await {
                    Either::Left((found, _)) => panic!("nothing is there: {found:?}"),
                    Either::Right((_, still)) => waiting = still,
                }
            }
            let port = server.port;
            drop(server);
            // Asked while nobody is there.
            let writing = stores[1].clone().put(put(id, 100_000));
            let fresh = stores[1].clone().put(put(id + 1, 10).only_if_absent());
            let counting = stores[0].clone().get(name(id + 2), None);
            let restart = async { Server::start_at(port, &[]).expect("its port is still free") };
            let asked = join(join(writing, fresh), join(counting, waiting));
            let ((written, (missed, found)), again) = join(asked, restart).await;
            server = again;
            assert_eq!(written, (Ok(Placed::Written), Ok(Placed::Written)));
            assert_eq!(missed, Ok(None));
            assert_eq!(found.expect("it comes"), [(0, vec![id.to_le_bytes()[0]; 100_000].into())]);
        }
    });
}

fn a_server_that_is_gone_fails_what_is_asked() {
    let server = Server::start(&[]);
    block_on(async {
        let store = open(&server.url("")).await;
        drop(server);
        // From here on the clock jumps to whatever is waited for next.
        tokio::time::pause();
        let error = store.clone().put(put(1, 10)).await.expect_err("nobody is there");
        assert!(matches!(error.cause, Cause::Unreachable(_)), "{error}");
        let error = store.clone().wait(name(1).shelf, vec![name(1)]).await.expect_err("nobody is there");
        assert!(matches!(error.cause, Cause::Unreachable(_)), "{error}");
    });
}

/// Serves like something that is not, or not quite, a server of Redis.
pub(crate) async fn served<T>(
    answer: impl AsyncFn(&[u8]) -> Option<Vec<u8>>,
    client: impl AsyncFnOnce(SocketAddr) -> T,
) -> T {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("it has one");
    let serving = async {
        loop {
            let (mut stream, _) = listener.accept().await.expect("somebody comes");
            let mut asked = vec![0; 4_096];
            while let Ok(length @ 1..) = stream.read(&mut asked).await {
                if let Some(answer) = answer(&asked[..length]).await {
                    // It may be gone.
                    let _ = stream.write_all(&answer).await;
                }
            }
        }
    };
    match select(pin!(serving), pin!(client(address))).await {
        Either::Left((never, _)) => never,
        Either::Right((it, _)) => it,
    }
}

fn garbage_is_no_server() {
    block_on(async {
        for answer in ["HTTP/1.1 400 Bad Request\r\n\r\n", "+OK\r\n", "$-1\r\n", ":-1\r\n", "*1\r\n:1\r\n", "\0\0\0\0"]
        {
            for account in ["", ":secret@"] {
                let answering = async |_: &[u8]| Some(answer.as_bytes().to_vec());
                let error = served(answering, async |at| refused(&format!("redis://{account}{at}")).await).await;
                let is_told = matches!(error.cause, Cause::Garbage(_) | Cause::Denied(_));
                assert!(is_told, "{answer:?} to {account:?}: {error:?}");
            }
        }
    });
}

fn silence_ends() {
    block_on(async {
        tokio::time::pause();
        for account in ["", ":secret@"] {
            let silent = async |_: &[u8]| None;
            let error = served(silent, async |at| refused(&format!("redis://{account}{at}")).await).await;
            assert!(matches!(error.cause, Cause::Unreachable(_)), "{error}");
        }
    });
}

fn nobody_there_is_said_at_once() {
    block_on(async {
        let error = refused(&format!("redis://me:secret@127.0.0.1:{}", free_port())).await;
        assert!(matches!(error.cause, Cause::Unreachable(_)), "{error}");
        let error = refused("redis://me:secret@no-such-host.invalid").await;
        assert!(matches!(error.cause, Cause::Unreachable(_)), "{error}");
    });
}

/// A server before version 7, which does not know `NX` with `GET`: one of today that refuses that.
fn an_old_server_will_do() {
    let server = Server::start(&[]);
    block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let url = format!("redis://{}", listener.local_addr().expect("it has one"));
        let older = older(&listener, &server);
        let client = async {
            let bench = Bench::new(open(&url).await, open(&url).await, Arc::new(RealNet::new()), 0);
            for (_, run) in suite::CASES.iter().filter(|(name, _)| name.starts_with("of_many_writers")) {
                run(bench.clone()).await;
            }
        };
        match select(pin!(older), pin!(client)).await {
            Either::Left((never, _)) => never,
            Either::Right(((), _)) => {}
        }
    });
}

/// Passes on what clients ask, but for what an old server does not know.
async fn older(listener: &TcpListener, server: &Server) -> ! {
    use futures_util::StreamExt;
    use futures_util::stream::FuturesUnordered;

    let mut connections = FuturesUnordered::new();
    loop {
        let accepted = match select(pin!(listener.accept()), connections.next()).await {
            Either::Left((accepted, _)) => accepted.expect("somebody comes"),
            Either::Right((Some(()), _)) => continue,
            Either::Right((None, accept)) => accept.await.expect("somebody comes"),
        };
        connections.push(async move {
            let (mut client, _) = accepted;
            let mut server = tokio::net::TcpStream::connect(("127.0.0.1", server.port)).await.expect("it listens");
            let (mut asked, mut answer) = (vec![0; 1 << 16], vec![0; 1 << 16]);
            // One request at a time is all that this test sends on a connection, and each fits.
            loop {
                let reading = {
                    let (from_client, from_server) = (pin!(client.read(&mut asked)), pin!(server.read(&mut answer)));
                    match select(from_client, from_server).await {
                        Either::Left((Ok(length), _)) => Either::Left(length),
                        Either::Right((Ok(length), _)) => Either::Right(length),
                        _ => return,
                    }
                };
                match reading {
                    Either::Left(length @ 1..) => {
                        let text = &mut asked[..length];
                        // `GET` behind `NX` becomes a word that no server knows.
                        while let Some(at) = text.windows(15).position(|it| it == b"$2\r\nNX\r\n$3\r\nGET") {
                            text[at + 12..at + 15].copy_from_slice(b"OLD");
                        }
                        server.write_all(text).await.expect("it reads");
                    }
                    Either::Right(length @ 1..) => client.write_all(&answer[..length]).await.expect("it reads"),
                    _ => return,
                }
            }
        });
    }
}

fn requests_of_several_threads_drive_each_other() {
    let server = Server::start(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let store: Arc<dyn Store> = runtime.block_on(open(&server.url("")));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, runtime) = (&store, &runtime);
            scope.spawn(move || {
                let asking = (0..100).map(|request| async move {
                    let id = 1_000 * thread + request;
                    store.clone().put(put(id, 10_000)).await.expect("it is written");
                    let found = store.clone().wait(name(id).shelf, vec![name(id)]).await.expect("it is there");
                    assert_eq!(found[0].1.len(), 10_000);
                });
                runtime.block_on(join_all(asking));
            });
        }
    });
}

fn over_tls() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let openssl = |arguments: &[&str]| {
        let output = Command::new("openssl").args(arguments).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let (authority, its_key, certificate, key) = (path("ca.pem"), path("ca.key"), path("cert.pem"), path("cert.key"));
    let made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
    openssl(&[&made[..], &["-subj", "/CN=Authority", "-keyout", &its_key, "-out", &authority]].concat());
    let for_server = ["-subj", "/CN=server", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"];
    let leaf = ["-addext", "basicConstraints=critical,CA:FALSE", "-CA", &authority, "-CAkey", &its_key];
    openssl(&[&made[..], &for_server, &leaf, &["-keyout", &key, "-out", &certificate]].concat());
    let port = free_port();
    let server = Server::start(&[
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "secret",
    ]);
    let url = format!("rediss://:secret@127.0.0.1:{port}");
    // Without the authority it is a stranger.
    let error = block_on(refused(&url));
    assert!(matches!(&error.cause, Cause::Unreachable(text) if text.contains("certificate")), "{error}");
    // And whoever does not speak TLS is no server of it.
    let error = block_on(async {
        // It waits for the end of a line.
        tokio::time::pause();
        refused(&format!("rediss://:secret@127.0.0.1:{}", server.port)).await
    });
    assert!(matches!(error.cause, Cause::Unreachable(_)), "{error}");
    let program = std::env::current_exe().expect("a program knows its path");
    let run = |url: &str| {
        let mut child = Command::new(&program);
        child.env(crate::PUTS, url).env("SSL_CERT_FILE", &authority).status().expect("it runs").success()
    };
    assert!(run(&url) && run(&format!("rediss://:secret@localhost:{port}")));
}
