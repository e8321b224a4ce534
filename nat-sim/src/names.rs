//! The names of a world: what a resolver answers when. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use fmi_net::time::Instant;

use crate::topology::NameSpec;

#[derive(Debug)]
struct Name {
    /// By the time from which they hold.
    records: BTreeMap<Instant, Vec<IpAddr>>,
    delay: Duration,
    answers: usize,
}

/// Case does not matter, nor the dot of the root.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Names(BTreeMap<String, Name>);

impl Names {
    pub(crate) fn new(specs: &[NameSpec]) -> Self {
        let name = |spec: &NameSpec| {
            let records = spec.records.iter().map(|(from, addresses)| (Instant::ZERO + *from, addresses.clone()));
            (canonical(&spec.name), Name { records: records.collect(), delay: spec.delay, answers: 0 })
        };
        Self(specs.iter().map(name).collect())
    }

    /// How long an answer takes, whatever it is.
    pub(crate) fn delay(&self, name: &str) -> Duration {
        self.0.get(&canonical(name)).map_or(Duration::ZERO, |name| name.delay)
    }

    /// The addresses of a name, each time from another one on.
    pub(crate) fn resolve(&mut self, now: Instant, name: &str) -> Option<Vec<IpAddr>> {
        let name = self.0.get_mut(&canonical(name))?;
        let (_, current) = name.records.range(..=now).next_back()?;
        let mut addresses = current.clone();
        if addresses.is_empty() {
            return None;
        }
        let count = addresses.len();
        addresses.rotate_left(name.answers % count);
        name.answers += 1;
        Some(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_addresses_of_the_last_record_in_turn() {
        let [a, b, c]: [IpAddr; 3] = [1, 2, 3].map(|last| [192, 0, 2, last].into());
        let second = |seconds| Duration::from_secs(seconds);
        let records = vec![(second(3), vec![a, b]), (second(9), vec![]), (second(10), vec![c])];
        let delay = second(1);
        let mut names = Names::new(&[NameSpec { name: "late.example".into(), records, delay }]);
        let mut at = |seconds| names.resolve(Instant::ZERO + second(seconds), "Late.Example.");
        assert_eq!(at(2), None);
        assert_eq!([at(3), at(4), at(8)], [Some(vec![a, b]), Some(vec![b, a]), Some(vec![a, b])]);
        assert_eq!([at(9), at(10)], [None, Some(vec![c])]);
        assert_eq!(names.resolve(Instant::ZERO, "other.example"), None);
        assert_eq!([names.delay("late.example"), names.delay("other.example")], [delay, Duration::ZERO]);
    }
}
