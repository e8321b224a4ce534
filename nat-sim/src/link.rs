//! The link between a node and its network: latency, jitter, loss, duplication, rate and queue.
//! Pure: times and draws in, arrival times out.

use std::time::Duration;

use fmi_net::time::Instant;
use rand_chacha::ChaCha8Rng;
use rand_core::Rng;

/// What a link does to packets, in one direction; both directions of a link are alike.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkConfig {
    /// Time from one end to the other. Default 1 ms.
    pub latency: Duration,
    /// Up to this much more, drawn evenly for each packet. Default none.
    pub jitter: Duration,
    /// Whether jitter may let packets overtake each other. Default false: later ones wait.
    pub reorders: bool,
    /// Share of packets lost, in parts per million. Default none.
    pub loss_ppm: u32,
    /// Share of packets that arrive twice, in parts per million. Default none.
    pub duplicate_ppm: u32,
    /// Bytes a second; `None` for no limit. Default none.
    pub bytes_per_second: Option<u64>,
    /// Bytes that wait for the rate; what comes when it is full is lost. Default 256 KiB.
    pub queue_bytes: u64,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(1),
            jitter: Duration::ZERO,
            reorders: false,
            loss_ppm: 0,
            duplicate_ppm: 0,
            bytes_per_second: None,
            queue_bytes: 256 << 10,
        }
    }
}

impl LinkConfig {
    /// A link that does nothing but delay.
    pub fn with_latency(latency: Duration) -> Self {
        Self { latency, ..Self::default() }
    }

    /// The same link with a share of packets lost, from 0 to 1.
    #[must_use]
    pub fn losing(mut self, share: f64) -> Self {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to parts per million")]
        let ppm = (share.clamp(0.0, 1.0) * 1e6).round() as u32;
        self.loss_ppm = ppm;
        self
    }
}

/// One direction of a link.
#[derive(Clone, Debug, Default)]
pub struct Direction {
    free_at: Instant,
    last_arrival: Instant,
}

impl Direction {
    /// When a packet of `length` bytes arrives that is sent at `now`: never, once or twice.
    pub fn transit(
        &mut self,
        config: &LinkConfig,
        now: Instant,
        length: usize,
        entropy: &mut ChaCha8Rng,
    ) -> [Option<Instant>; 2] {
        let mut sent = now;
        if let Some(rate) = config.bytes_per_second {
            let time = |bytes: u64| Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate.max(1));
            let waits = self.free_at.saturating_since(now);
            if waits > time(config.queue_bytes) {
                return [None, None];
            }
            sent = now.max(self.free_at) + time(length as u64);
            self.free_at = sent;
        }
        if hits(config.loss_ppm, entropy) {
            return [None, None];
        }
        let first = self.arrival(config, sent, entropy);
        let second = hits(config.duplicate_ppm, entropy).then(|| self.arrival(config, sent, entropy));
        [Some(first), second]
    }

    fn arrival(&mut self, config: &LinkConfig, sent: Instant, entropy: &mut ChaCha8Rng) -> Instant {
        let mut at = sent + config.latency;
        let jitter = u64::try_from(config.jitter.as_micros()).unwrap_or(u64::MAX);
        if jitter > 0 {
            at += Duration::from_micros(entropy.next_u64() % jitter.saturating_add(1));
            if !config.reorders {
                at = at.max(self.last_arrival);
            }
        }
        self.last_arrival = self.last_arrival.max(at);
        at
    }
}

/// Draws only when the outcome is open, so that a lossless link moves no other draw.
fn hits(ppm: u32, entropy: &mut ChaCha8Rng) -> bool {
    ppm > 0 && entropy.next_u32() % 1_000_000 < ppm
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand_core::SeedableRng;

    fn arrivals(config: &LinkConfig, packets: u64) -> Vec<Option<Instant>> {
        let mut direction = Direction::default();
        let mut entropy = ChaCha8Rng::seed_from_u64(1);
        let send = |i| direction.transit(config, Instant::from_nanos(i * 1000), 1000, &mut entropy)[0];
        (0..packets).map(send).collect()
    }

    #[test]
    fn a_rate_spaces_packets_and_a_full_queue_loses_them() {
        let config = LinkConfig { bytes_per_second: Some(1_000_000), queue_bytes: 5000, ..LinkConfig::default() };
        let arrivals = arrivals(&config, 10);
        assert_eq!(arrivals[0], Some(Instant::from_nanos(2_000_000)), "1 ms to send, 1 ms to travel");
        assert_eq!(arrivals[1], Some(Instant::from_nanos(3_000_000)));
        assert_eq!(arrivals.iter().flatten().count(), 6, "one on the wire, five in the queue");
    }

    proptest! {
        #[test]
        fn jitter_keeps_order_unless_told_otherwise(seed: u64) {
            let mut entropy = ChaCha8Rng::seed_from_u64(seed);
            let config = LinkConfig { jitter: Duration::from_millis(5), ..LinkConfig::default() };
            let mut direction = Direction::default();
            let mut last = Instant::ZERO;
            for i in 0..100 {
                let at = direction.transit(&config, Instant::from_nanos(i), 100, &mut entropy)[0].expect("no loss");
                prop_assert!(at >= last && at <= Instant::from_nanos(i) + Duration::from_millis(6));
                last = at;
            }
        }
    }

    #[test]
    fn loss_is_as_frequent_as_said() {
        let lost = arrivals(&LinkConfig::default().losing(0.05), 20_000).iter().filter(|at| at.is_none()).count();
        assert!((800..1200).contains(&lost), "{lost} of 20,000");
    }
}
