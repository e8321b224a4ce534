//! A server that speaks the protocol of S3: the suite, and what servers do to their clients.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use fmi_net::real::RealNet;
use fmi_store::{Cause, Placed, Put, Request, StoreError, suite};

use crate::redis::{free_port, served};
use crate::trials::{Case, case, installed};
use crate::{bench, block_on, name, open, two_processes};

pub(crate) fn cases() -> Vec<Case> {
    let has_server = installed(&[("moto_server", "moto[server] of PyPI")]);
    let of_suite = suite::CASES.iter().zip(100..).map(|((name, run), number): (&(&str, suite::Case), u64)| {
        let run = *run;
        case(format!("s3::{name}"), move || {
            let server = Moto::shared();
            block_on(async { run(bench(&server.url("bucket/some/prefix"), number).await).await });
        })
    });
    let own: [(&str, fn()); 3] = [
        ("two_processes", || two_processes(&Moto::shared().url("bucket"), 99)),
        ("a_bucket_that_is_not_there_is_missed", a_bucket_that_is_not_there_is_missed),
        ("prefixes_are_apart", prefixes_are_apart),
    ];
    let own = own.into_iter().map(|(name, run)| case(format!("s3::{name}"), run));
    let served = of_suite.chain(own).map(|case| case.with(&has_server));
    let alone: [(&str, fn()); 6] = [
        ("what_is_not_permitted_is_named", what_is_not_permitted_is_named),
        ("a_busy_server_is_asked_again", a_busy_server_is_asked_again),
        ("a_server_that_stays_busy_is_given_up", a_server_that_stays_busy_is_given_up),
        ("another_writer_in_the_way_is_not_the_first", another_writer_in_the_way_is_not_the_first),
        ("nobody_silence_and_garbage_are_no_server", nobody_silence_and_garbage_are_no_server),
        ("settings_are_checked", settings_are_checked),
    ];
    let alone = alone.into_iter().map(|(name, run)| case(format!("s3::{name}"), run));
    served.chain(alone).collect()
}

/// A server that all cases share while there are any.
struct Moto {
    child: Child,
    port: u16,
}

impl Drop for Moto {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Moto {
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Moto>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().expect("a server has started");
        shared.upgrade().unwrap_or_else(|| {
            const TRIES: u32 = 8;
            // Somebody else may take a free port.
            let server = Arc::new((0..TRIES).find_map(|_| Self::start_at(free_port())).expect("a server starts"));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    fn start_at(port: u16) -> Option<Self> {
        let mut command = Command::new("moto_server");
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let output = child.stderr.take();
        let server = Self { child, port };
        let mut errors = BufReader::new(output?);
        let is_ready = errors.by_ref().lines().any(|line| line.expect("text").contains("Running on"));
        if !is_ready {
            return None;
        }
        // It writes a line for each request, and stops when nobody reads.
        std::thread::Builder::new()
            .spawn(move || std::io::copy(&mut errors, &mut std::io::sink()))
            .expect("a thread for what it says");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.write_all(b"PUT /bucket HTTP/1.0\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.contains(" 200 "), "{answer}");
        Some(server)
    }

    fn url(&self, bucket: &str) -> String {
        url(([127, 0, 0, 1], self.port).into(), bucket)
    }
}

fn url(server: SocketAddr, bucket: &str) -> String {
    format!("s3://key:secret@{bucket}?endpoint=http://{server}&region=eu-central-1")
}

async fn refused(url: &str) -> StoreError {
    let error = fmi_store::connect(RealNet::new(), url).await.expect_err("it cannot be used");
    assert!(!error.to_string().contains("secret") && !format!("{error:?}").contains("secret"), "{error:?}");
    error
}

fn a_bucket_that_is_not_there_is_missed() {
    let server = Moto::shared();
    let error = block_on(refused(&server.url("no-such-bucket")));
    assert!(matches!(&error.cause, Cause::Missing(text) if text.contains("NoSuchBucket")), "{error}");
}

fn prefixes_are_apart() {
    let server = Moto::shared();
    block_on(async {
        let stores = [open(&server.url("bucket/one")).await, open(&server.url("bucket/two")).await];
        let put = Put::new(name(1), "body", Duration::from_secs(60));
        assert_eq!(stores[0].clone().put(put).await, Ok(Placed::Written));
        assert_eq!(stores[1].clone().get(name(1), None).await, Ok(None));
        // What is under another prefix is nobody's to sweep.
        assert_eq!(stores[1].clone().sweep(None, Duration::ZERO).await, Ok(0));
        assert_eq!(stores[0].clone().sweep(None, Duration::ZERO).await, Ok(1));
    });
}

fn http(status: &str, body: &str) -> Option<Vec<u8>> {
    Some(format!("HTTP/1.1 {status}\r\nETag: \"1\"\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

fn said(code: &str) -> String {
    format!("<Error><Code>{code}</Code><Message>a reason</Message></Error>")
}

/// What a server answers to a probe that may do everything.
fn willing(asked: &[u8]) -> Option<Vec<u8>> {
    let line = String::from_utf8_lossy(asked);
    let line = line.lines().next().unwrap_or_default();
    let date = "\r\nLast-Modified: Thu, 01 Jan 2026 00:00:00 GMT";
    match line.split(' ').next() {
        Some("PUT") => http("200 OK", ""),
        Some("GET") if line.contains("-absent") => http("404 Not Found", &said("NoSuchKey")),
        Some("GET") => http(&format!("200 OK{date}"), "probe"),
        Some("POST") => http("200 OK", "<DeleteResult></DeleteResult>"),
        _ => None,
    }
}

fn what_is_not_permitted_is_named() {
    block_on(async {
        for (method, is_absent, permission) in
            [("PUT", false, "s3:PutObject"), ("GET", false, "s3:GetObject"), ("GET", true, "s3:ListBucket")]
        {
            let answering = async |asked: &[u8]| {
                let text = String::from_utf8_lossy(asked);
                if text.starts_with(method) && text.contains("-absent") == is_absent {
                    return http("403 Forbidden", &said("AccessDenied"));
                }
                willing(asked)
            };
            let error = served(answering, async |at| refused(&url(at, "bucket")).await).await;
            assert!(matches!(&error.cause, Cause::Denied(text) if text.contains(permission)), "{permission}: {error}");
        }
        // A client that may not delete is let in.
        let answering = async |asked: &[u8]| {
            if asked.starts_with(b"POST") { http("403 Forbidden", &said("AccessDenied")) } else { willing(asked) }
        };
        served(answering, async |at| drop(open(&url(at, "bucket")).await)).await;
    });
}

fn a_busy_server_is_asked_again() {
    block_on(async {
        let asked_times = Cell::new(0);
        let answering = async |asked: &[u8]| {
            asked_times.set(asked_times.get() + 1);
            match asked_times.get() {
                1 | 6 => http("503 Slow Down", &said("SlowDown")),
                2 => http("500 Internal Server Error", &said("InternalError")),
                _ => willing(asked),
            }
        };
        served(answering, async |at| {
            // Two times without success, then four times for the probe.
            let store = open(&url(at, "bucket")).await;
            let put = Put::new(name(1), "body", Duration::from_secs(60));
            assert_eq!(store.clone().put(put).await, Ok(Placed::Written));
            assert_eq!(store.ledger().spent().of(Request::Connect), 7, "each time is counted");
        })
        .await;
    });
}

fn a_server_that_stays_busy_is_given_up() {
    block_on(async {
        tokio::time::pause();
        let answering = async |_: &[u8]| http("503 Slow Down", &said("SlowDown"));
        let error = served(answering, async |at| refused(&url(at, "bucket")).await).await;
        assert!(matches!(&error.cause, Cause::Throttled { text, .. } if text.contains("SlowDown")), "{error}");
    });
}

/// 409 is not 412: nothing was decided.
fn another_writer_in_the_way_is_not_the_first() {
    block_on(async {
        let conflicts = Cell::new(2);
        let answering = async |asked: &[u8]| {
            let text = String::from_utf8_lossy(asked);
            let is_first = text.starts_with("PUT") && text.to_lowercase().contains("if-none-match: *");
            if is_first && conflicts.get() > 0 {
                conflicts.set(conflicts.get() - 1);
                return http("409 Conflict", &said("ConditionalRequestConflict"));
            }
            willing(asked)
        };
        let placed = served(answering, async |at| {
            let put = Put::new(name(1), "body", Duration::from_secs(60)).only_if_absent();
            open(&url(at, "bucket")).await.put(put).await
        });
        assert_eq!(placed.await, Ok(Placed::Written));
        assert_eq!(conflicts.get(), 0);
    });
}

fn nobody_silence_and_garbage_are_no_server() {
    block_on(async {
        let error = refused(&url(([127, 0, 0, 1], free_port()).into(), "bucket")).await;
        assert!(matches!(error.cause, Cause::Unreachable(_)), "{error}");
        let error =
            served(async |_: &[u8]| Some(b"+OK\r\n".to_vec()), async |at| refused(&url(at, "bucket")).await).await;
        assert!(matches!(error.cause, Cause::Unreachable(_)), "{error}");
        for answer in ["<html>", "", "{}"] {
            let error =
                served(async |_: &[u8]| http("400 Bad Request", answer), async |at| refused(&url(at, "bucket")).await);
            assert!(matches!(error.await.cause, Cause::Other(_)), "{answer}");
        }
        tokio::time::pause();
        let error = served(async |_: &[u8]| None, async |at| refused(&url(at, "bucket")).await).await;
        assert!(matches!(error.cause, Cause::Unreachable(_)), "{error}");
    });
}

fn settings_are_checked() {
    block_on(async {
        for (url, said) in [
            ("s3://key:secret@bucket?endpoint=host:9000", "neither http:// nor https://"),
            ("s3://key:secret@bucket?endpoint=http://host:port", "port is no number"),
            ("s3://key:secret@bucket?zone=x", "\"zone\""),
        ] {
            let error = refused(url).await;
            assert!(matches!(&error.cause, Cause::Settings(text) if text.contains(said)), "{url}: {error}");
        }
    });
}
