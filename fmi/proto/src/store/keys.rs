//! Commands of keys, whatever is under them.

use fmi_net::time::Instant;

use super::commands::{Call, quoted};
use super::glob;
use super::keyspace::Value;
use super::strings::MILLIS_MAX;
use super::{Done, Failure, Server};

/// Slots that one SCAN looks at, at most.
const SCANNED_MAX: usize = 10_000;

fn name(value: Option<&Value>) -> &'static str {
    match value {
        Some(Value::String(_)) => "string",
        Some(Value::List(_)) => "list",
        None => "none",
    }
}

/// When EXPIRE has an effect.
#[derive(Default)]
struct Conditions {
    has_none: bool,
    has_one: bool,
    is_later: bool,
    is_earlier: bool,
}

impl Conditions {
    fn of(call: &Call<'_>) -> Result<Self, Failure> {
        let mut it = Self::default();
        for index in 3..call.len() {
            match () {
                () if call.is(index, "nx") => it.has_none = true,
                () if call.is(index, "xx") => it.has_one = true,
                () if call.is(index, "gt") => it.is_later = true,
                () if call.is(index, "lt") => it.is_earlier = true,
                () => {
                    let option = quoted(call.get(index), usize::MAX);
                    return Err(Failure::said([b"ERR Unsupported option ", option].concat()));
                }
            }
        }
        if it.has_none && (it.has_one || it.is_later || it.is_earlier) {
            return Err(Failure::of("ERR NX and XX, GT or LT options at the same time are not compatible"));
        }
        if it.is_later && it.is_earlier {
            return Err(Failure::of("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(it)
    }

    /// Whether an end may take the place of the one before; that of the past is before all.
    fn allow(&self, before: Option<Instant>, end: Option<Instant>) -> bool {
        let end = end.unwrap_or(Instant::ZERO);
        !(self.has_none && before.is_some()
            || self.has_one && before.is_none()
            || self.is_later && before.is_none_or(|before| end <= before)
            || self.is_earlier && before.is_some_and(|before| end >= before))
    }
}

impl Server {
    pub(super) fn exists(&mut self, call: &mut Call<'_>) -> Done {
        let there = (1..call.len()).filter(|index| self.keyspace.contains(call.get(*index))).count();
        self.answer.count(there);
        Ok(())
    }

    pub(super) fn del(&mut self, call: &mut Call<'_>) -> Done {
        let removed = (1..call.len()).filter(|index| self.keyspace.remove(call.get(*index))).count();
        self.answer.count(removed);
        Ok(())
    }

    pub(super) fn kind(&mut self, call: &mut Call<'_>) -> Done {
        let name = name(self.keyspace.get(call.get(1)));
        self.answer.simple(name);
        Ok(())
    }

    pub(super) fn expire(&mut self, call: &mut Call<'_>) -> Done {
        self.end_in(call, 1000)
    }

    pub(super) fn pexpire(&mut self, call: &mut Call<'_>) -> Done {
        self.end_in(call, 1)
    }

    fn end_in(&mut self, call: &mut Call<'_>, unit_millis: i64) -> Done {
        let conditions = Conditions::of(call)?;
        let name = call.command.name;
        let invalid = || Failure::said(format!("ERR invalid expire time in '{name}' command"));
        let millis =
            call.integer(2)?.checked_mul(unit_millis).filter(|millis| *millis <= MILLIS_MAX).ok_or_else(invalid)?;
        let Some(before) = self.keyspace.ends(call.get(1)) else {
            self.answer.integer(0);
            return Ok(());
        };
        // What ends at once, or has ended, is gone.
        let end = (millis > 0).then(|| self.in_millis(millis));
        let is_allowed = conditions.allow(before, end);
        if is_allowed {
            match end {
                Some(_) => self.keyspace.end(call.get(1), end),
                None => self.keyspace.remove(call.get(1)),
            };
        }
        self.answer.integer(is_allowed.into());
        Ok(())
    }

    pub(super) fn persist(&mut self, call: &mut Call<'_>) -> Done {
        let has_end = self.keyspace.ends(call.get(1)).flatten().is_some();
        if has_end {
            self.keyspace.end(call.get(1), None);
        }
        self.answer.integer(has_end.into());
        Ok(())
    }

    /// Milliseconds until a key ends; -1 if it does not, and -2 if it is not there.
    fn millis_left(&mut self, call: &Call<'_>) -> i64 {
        match self.keyspace.ends(call.get(1)) {
            None => -2,
            Some(None) => -1,
            Some(Some(at)) => {
                let nanos = (at - self.now).as_nanos();
                i64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(i64::MAX)
            }
        }
    }

    pub(super) fn pttl(&mut self, call: &mut Call<'_>) -> Done {
        let millis = self.millis_left(call);
        self.answer.integer(millis);
        Ok(())
    }

    pub(super) fn ttl(&mut self, call: &mut Call<'_>) -> Done {
        let millis = self.millis_left(call);
        self.answer.integer(if millis < 0 { millis } else { (millis + 500) / 1000 });
        Ok(())
    }

    pub(super) fn scan(&mut self, call: &mut Call<'_>) -> Done {
        let cursor = std::str::from_utf8(call.get(1)).ok().and_then(|text| text.parse::<u64>().ok());
        let cursor = cursor.ok_or(Failure::of("ERR invalid cursor"))?;
        let (mut count, mut pattern, mut kind) = (10, None, None);
        for index in (2..call.len()).step_by(2) {
            if index + 1 == call.len() {
                return Err(Failure::SYNTAX);
            }
            if call.is(index, "count") {
                count = usize::try_from(call.integer(index + 1)?).unwrap_or(0);
                if count == 0 {
                    return Err(Failure::SYNTAX);
                }
            } else if call.is(index, "match") {
                pattern = Some(call.get(index + 1));
            } else if call.is(index, "type") {
                kind = Some(call.get(index + 1));
            } else {
                return Err(Failure::SYNTAX);
            }
        }
        let (next, found) = self.keyspace.scan(cursor, count.min(SCANNED_MAX));
        let is_wanted = |key: &[u8], value: &Value| {
            pattern.is_none_or(|pattern| glob::fits(pattern, key))
                && kind.is_none_or(|kind| kind.eq_ignore_ascii_case(name(Some(value)).as_bytes()))
        };
        let found: Vec<_> = found.filter(|(key, value)| is_wanted(key, value)).map(|(key, _)| key).collect();
        self.answer.array(2);
        self.answer.bytes(next.to_string().as_bytes());
        self.answer.array(found.len());
        for key in found {
            self.answer.bytes(key);
        }
        Ok(())
    }

    pub(super) fn dbsize(&mut self, _: &mut Call<'_>) -> Done {
        // Those whose time is over and that nobody has looked for are a matter of the next timeout.
        self.keyspace.expire(usize::MAX);
        self.answer.count(self.keyspace.len());
        Ok(())
    }

    pub(super) fn flushdb(&mut self, call: &mut Call<'_>) -> Done {
        let is_known = call.len() == 1 || (call.len() == 2 && (call.is(1, "sync") || call.is(1, "async")));
        if !is_known {
            return Err(Failure::SYNTAX);
        }
        self.keyspace.clear();
        self.answer.simple("OK");
        Ok(())
    }
}
