//! Clients that send anything, in any order, neither panic the server nor make it grow.
#![no_main]

use std::net::SocketAddr;
use std::time::Duration;

use fmi::proto::rendezvous::server::{Connection, Input, Output, Server, ServerConfig};
use fmi::proto::discovery::Outcome;
use fmi::proto::rendezvous::ClientMessage;
use fmi::time::Instant;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let vantages = vec![SocketAddr::from(([2, 2, 2, 2], 7)), SocketAddr::from(([2, 2, 2, 2], 8))];
    let config = ServerConfig { connections_max: 8, vantages, calls_max: 2, ..ServerConfig::default() };
    let mut server = Server::new(config, [0; 32]);
    let mut now = Instant::ZERO;
    let mut next = 0;
    // Each line is one thing that happens: a connection, an action, a message.
    for line in bytes.split(|byte| *byte == b'\n') {
        let Some((&[connection, action], message)) = line.split_first_chunk::<2>() else { continue };
        let mut connection = Connection(u64::from(connection % 8));
        let input = match action % 6 {
            0 => {
                next += 1;
                connection = Connection(7 + next);
                Input::Opened(SocketAddr::from(([1, 1, 1, 1], 1)))
            }
            1 => Input::Closed,
            2 => Input::Malformed,
            4 => Input::CalledBack { vantage: action, outcome: Outcome::Silence },
            3 => {
                now += Duration::from_millis(u64::from(action) * 10);
                server.handle_timeout(now);
                continue;
            }
            _ => match ClientMessage::parse(message) {
                Ok(message) => Input::Message(message),
                Err(_) => Input::Malformed,
            },
        };
        server.handle_input(now, connection, input);
        while let Some(output) = server.poll_output() {
            match output {
                Output::Send(_, message) => drop(message.emit()),
                // Only where the client is seen, and as long as it is there.
                Output::CallBack { to, vantage, .. } => assert!(to.port() == 1 && vantage < 2),
                Output::Close(_) => {}
            }
        }
        assert!(server.connections() <= 8);
    }
});
