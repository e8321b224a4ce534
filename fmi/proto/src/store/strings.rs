//! Commands of strings and counters.

use std::time::Duration;

use bytes::Bytes;
use fmi_net::time::Instant;

use super::commands::Call;
use super::{Done, Failure, Server};
use crate::resp::integer;

/// Ends are told in milliseconds from now. A later one than this does not fit beside a time of day, with Redis.
pub(super) const MILLIS_MAX: i64 = i64::MAX - 4_000_000_000_000;

/// What SET may be told.
#[derive(Default)]
struct Options {
    only_if_absent: bool,
    only_if_there: bool,
    gets: bool,
    keeps_end: bool,
    /// Where the time is, and how many milliseconds its unit has.
    lives: Option<(usize, i64)>,
}

impl Options {
    fn of(call: &Call<'_>) -> Result<Self, Failure> {
        let mut options = Self::default();
        let mut index = 3;
        while index < call.len() {
            let has_more = index + 1 < call.len();
            let has_end = options.keeps_end || options.lives.is_some();
            if call.is(index, "nx") && !options.only_if_there {
                options.only_if_absent = true;
            } else if call.is(index, "xx") && !options.only_if_absent {
                options.only_if_there = true;
            } else if call.is(index, "get") {
                options.gets = true;
            } else if call.is(index, "keepttl") && options.lives.is_none() {
                options.keeps_end = true;
            } else if call.is(index, "ex") && !has_end && has_more {
                options.lives = Some((index + 1, 1000));
                index += 1;
            } else if call.is(index, "px") && !has_end && has_more {
                options.lives = Some((index + 1, 1));
                index += 1;
            } else {
                return Err(Failure::SYNTAX);
            }
            index += 1;
        }
        Ok(options)
    }
}

impl Server {
    /// How long something is to live: a positive number of units.
    fn lives(&self, call: &Call<'_>, index: usize, unit_millis: i64) -> Result<Instant, Failure> {
        let name = call.command.name;
        let invalid = || Failure::said(format!("ERR invalid expire time in '{name}' command"));
        let count = call.integer(index)?;
        let millis = count.checked_mul(unit_millis).filter(|millis| (1..=MILLIS_MAX).contains(millis));
        Ok(self.in_millis(millis.ok_or_else(invalid)?))
    }

    /// The time in so many milliseconds.
    pub(super) fn in_millis(&self, millis: i64) -> Instant {
        self.now + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
    }

    pub(super) fn set(&mut self, call: &mut Call<'_>) -> Done {
        let options = Options::of(call)?;
        let end = options.lives.map(|(index, unit)| self.lives(call, index, unit)).transpose()?;
        let key = call.get(1);
        if options.gets {
            match self.keyspace.string(key)? {
                Some(body) => self.answer.body(body),
                None => self.answer.null(),
            }
        }
        if options.only_if_absent || options.only_if_there {
            let is_there = self.keyspace.contains(key);
            if is_there == options.only_if_absent {
                if !options.gets {
                    self.answer.null();
                }
                return Ok(());
            }
        }
        let body = call.take(2);
        self.put(call.get(1), body, end, options.keeps_end);
        if !options.gets {
            self.answer.simple("OK");
        }
        Ok(())
    }

    fn put(&mut self, key: &[u8], body: Bytes, end: Option<Instant>, keeps_end: bool) {
        self.keyspace.set(key, body, keeps_end);
        if end.is_some() {
            self.keyspace.end(key, end);
        }
    }

    pub(super) fn setnx(&mut self, call: &mut Call<'_>) -> Done {
        let is_absent = !self.keyspace.contains(call.get(1));
        if is_absent {
            let body = call.take(2);
            self.put(call.get(1), body, None, false);
        }
        self.answer.integer(is_absent.into());
        Ok(())
    }

    pub(super) fn setex(&mut self, call: &mut Call<'_>) -> Done {
        self.set_for(call, 1000)
    }

    pub(super) fn psetex(&mut self, call: &mut Call<'_>) -> Done {
        self.set_for(call, 1)
    }

    fn set_for(&mut self, call: &mut Call<'_>, unit_millis: i64) -> Done {
        let end = self.lives(call, 2, unit_millis)?;
        let body = call.take(3);
        self.put(call.get(1), body, Some(end), false);
        self.answer.simple("OK");
        Ok(())
    }

    pub(super) fn mset(&mut self, call: &mut Call<'_>) -> Done {
        if call.len().is_multiple_of(2) {
            return Err(call.wrong_number());
        }
        for index in (1..call.len()).step_by(2) {
            let body = call.take(index + 1);
            self.put(call.get(index), body, None, false);
        }
        self.answer.simple("OK");
        Ok(())
    }

    pub(super) fn get(&mut self, call: &mut Call<'_>) -> Done {
        match self.keyspace.string(call.get(1))? {
            Some(body) => self.answer.body(body),
            None => self.answer.null(),
        }
        Ok(())
    }

    pub(super) fn getdel(&mut self, call: &mut Call<'_>) -> Done {
        self.get(call)?;
        self.keyspace.remove(call.get(1));
        Ok(())
    }

    pub(super) fn mget(&mut self, call: &mut Call<'_>) -> Done {
        self.answer.array(call.len() - 1);
        for index in 1..call.len() {
            match self.keyspace.string(call.get(index)) {
                Ok(Some(body)) => self.answer.body(body),
                Ok(None) | Err(_) => self.answer.null(),
            }
        }
        Ok(())
    }

    pub(super) fn getrange(&mut self, call: &mut Call<'_>) -> Done {
        let (start, end) = (call.integer(2)?, call.integer(3)?);
        let body = self.keyspace.string(call.get(1))?.cloned().unwrap_or_default();
        // An end before the front is the front here, as with Redis, and not in lists.
        let last = if end < 0 { end.saturating_add_unsigned(body.len() as u64).max(0) } else { end };
        let part = if start < 0 && end < 0 && start > end { None } else { range(start, last, body.len()) };
        self.answer.body(&part.map(|part| body.slice(part)).unwrap_or_default());
        Ok(())
    }

    pub(super) fn strlen(&mut self, call: &mut Call<'_>) -> Done {
        let length = self.keyspace.string(call.get(1))?.map_or(0, Bytes::len);
        self.answer.count(length);
        Ok(())
    }

    pub(super) fn incr(&mut self, call: &mut Call<'_>) -> Done {
        self.add(call, 1)
    }

    pub(super) fn decr(&mut self, call: &mut Call<'_>) -> Done {
        self.add(call, -1)
    }

    pub(super) fn incrby(&mut self, call: &mut Call<'_>) -> Done {
        let add = call.integer(2)?;
        self.add(call, add)
    }

    pub(super) fn decrby(&mut self, call: &mut Call<'_>) -> Done {
        let add = call.integer(2)?.checked_neg().ok_or(Failure::of("ERR decrement would overflow"))?;
        self.add(call, add)
    }

    fn add(&mut self, call: &mut Call<'_>, add: i64) -> Done {
        let before = match self.keyspace.string(call.get(1))? {
            Some(body) => integer(body).ok_or(Failure::INTEGER)?,
            None => 0,
        };
        let sum = before.checked_add(add).ok_or(Failure::of("ERR increment or decrement would overflow"))?;
        self.keyspace.set(call.get(1), sum.to_string().into(), true);
        self.answer.integer(sum);
        Ok(())
    }
}

/// The places from `start` to `end`, both with it, among `length`; negative ones count from behind.
pub(super) fn range(start: i64, end: i64, length: usize) -> Option<std::ops::Range<usize>> {
    let length = i64::try_from(length).ok()?;
    let from_front = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at };
    let is_before = end < 0 && end.saturating_add(length) < 0;
    let (start, end) = (from_front(start), from_front(end).min(length - 1));
    if is_before || start > end || start >= length {
        return None;
    }
    Some(usize::try_from(start).ok()?..usize::try_from(end).ok()? + 1)
}
