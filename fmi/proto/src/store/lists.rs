//! Commands of lists.

use super::commands::Call;
use super::keyspace::element_bytes;
use super::strings::range;
use super::{Done, Failure, Server};

impl Server {
    pub(super) fn rpush(&mut self, call: &mut Call<'_>) -> Done {
        self.push(call, false)
    }

    pub(super) fn lpush(&mut self, call: &mut Call<'_>) -> Done {
        self.push(call, true)
    }

    fn push(&mut self, call: &mut Call<'_>, is_at_front: bool) -> Done {
        self.keyspace.list(call.get(1))?;
        let key = call.take(1);
        let elements = (2..call.len()).map(|index| call.take(index));
        let length = self.keyspace.push(&key, elements, is_at_front)?;
        if self.waiting.contains_key(&key) {
            self.fed.push(key);
        }
        self.answer.count(length);
        Ok(())
    }

    pub(super) fn lpop(&mut self, call: &mut Call<'_>) -> Done {
        self.pop(call, true)
    }

    pub(super) fn rpop(&mut self, call: &mut Call<'_>) -> Done {
        self.pop(call, false)
    }

    fn pop(&mut self, call: &mut Call<'_>, is_at_front: bool) -> Done {
        if call.len() > 3 {
            return Err(call.wrong_number());
        }
        let key = call.get(1);
        if call.len() == 2 {
            match self.keyspace.pop(key, is_at_front)? {
                Some(element) => self.answer.body(&element),
                None => self.answer.null(),
            }
            return Ok(());
        }
        let count = call.integer(2).ok().and_then(|count| usize::try_from(count).ok());
        let count = count.ok_or(Failure::of("ERR value is out of range, must be positive"))?;
        let Some(length) = self.keyspace.list(key)?.map(std::collections::VecDeque::len) else {
            self.answer.null_array();
            return Ok(());
        };
        let count = count.min(length);
        self.answer.array(count);
        for _ in 0..count {
            if let Some(element) = self.keyspace.pop(key, is_at_front)? {
                self.answer.body(&element);
            }
        }
        Ok(())
    }

    pub(super) fn llen(&mut self, call: &mut Call<'_>) -> Done {
        let length = self.keyspace.list(call.get(1))?.map_or(0, std::collections::VecDeque::len);
        self.answer.count(length);
        Ok(())
    }

    pub(super) fn lrange(&mut self, call: &mut Call<'_>) -> Done {
        let (start, end) = (call.integer(2)?, call.integer(3)?);
        let Some(list) = self.keyspace.list(call.get(1))? else {
            self.answer.array(0);
            return Ok(());
        };
        let places = range(start, end, list.len()).unwrap_or_default();
        self.answer.array(places.len());
        for element in list.range(places) {
            self.answer.body(element);
        }
        Ok(())
    }

    pub(super) fn ltrim(&mut self, call: &mut Call<'_>) -> Done {
        let (start, end) = (call.integer(2)?, call.integer(3)?);
        self.keyspace.change(call.get(1), |list| {
            let places = range(start, end, list.len()).unwrap_or_default();
            let behind = list.drain(places.end..).map(|element| element_bytes(&element)).sum::<usize>();
            let before = list.drain(..places.start).map(|element| element_bytes(&element)).sum::<usize>();
            ((), behind + before)
        })?;
        self.answer.simple("OK");
        Ok(())
    }

    pub(super) fn lrem(&mut self, call: &mut Call<'_>) -> Done {
        let count = call.integer(2)?;
        let element = call.get(3);
        let cost = element.len() + element_bytes(&bytes::Bytes::new());
        let removed = self.keyspace.change(call.get(1), |list| {
            let wanted = if count == 0 { u64::MAX } else { count.unsigned_abs() };
            let mut left = wanted;
            let mut stays = |it: &bytes::Bytes| {
                let goes = left > 0 && *it == element;
                left -= u64::from(goes);
                !goes
            };
            if count < 0 {
                let mut from_behind: Vec<_> = list.drain(..).rev().filter(|it| stays(it)).collect();
                from_behind.reverse();
                list.extend(from_behind);
            } else {
                list.retain(|it| stays(it));
            }
            let removed = usize::try_from(wanted - left).expect("no more than were there");
            (removed, removed * cost)
        })?;
        self.answer.count(removed.unwrap_or(0));
        Ok(())
    }
}
