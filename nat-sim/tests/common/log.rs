//! What crossed a network, for tests that compare packets.

use crate::common::File;

/// An event log.
impl File {
    /// Time in milliseconds and text of each packet on a network.
    pub(crate) fn lines(&self, network: &str) -> Vec<(u64, String)> {
        let text = String::from_utf8(self.bytes()).expect("a text");
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
