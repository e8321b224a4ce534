//! What crossed a network, for tests that compare packets.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// An event log in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Time in milliseconds and text of each packet on a network.
    pub(crate) fn lines(&self, network: &str) -> Vec<(u64, String)> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let text = String::from_utf8(bytes).expect("a text");
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let of_network = lines.filter(|line| line["on"] == network);
        let read = |line: serde_json::Value| {
            let at = line["ns"].as_u64().expect("a time") / 1_000_000;
            (at, line["packet"].as_str().expect("a text").to_owned())
        };
        of_network.map(read).collect()
    }

    /// Time in milliseconds, source and flags of each packet on a network.
    pub(crate) fn packets(&self, network: &str) -> Vec<(u64, String)> {
        let short = |(at, text): (u64, String)| {
            let words: Vec<_> = text.split(' ').collect();
            (at, format!("{} {}", words[0].split(':').next().unwrap_or_default(), words[3]))
        };
        self.lines(network).into_iter().map(short).collect()
    }
}
