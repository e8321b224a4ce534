//! Commands of a connection, and what a server says about itself.

use std::fmt::Write;

use bytes::Bytes;

use super::commands::{Call, quoted};
use super::{COMMANDS, Done, Failure, Server, glob};
use crate::resp::integer;

/// The version of Redis whose answers these are.
const VERSION: &str = "7.0.15";
/// The longest name of a client.
const NAME_BYTES_MAX: usize = 1024;

const WRONG_PASSWORD: Failure = Failure::of("WRONGPASS invalid username-password pair or user is disabled.");

impl Server {
    pub(super) fn ping(&mut self, call: &mut Call<'_>) -> Done {
        if call.len() > 2 {
            return Err(call.wrong_number());
        }
        let is_subscriber = self.clients.get(&call.client).is_some_and(|state| !state.channels.is_empty());
        if is_subscriber && !self.answer.is_resp3() {
            self.answer.array(2);
            self.answer.bytes(b"pong");
            self.answer.bytes(call.get(1));
        } else if call.len() == 2 {
            let body = call.take(1);
            self.answer.body(&body);
        } else {
            self.answer.simple("PONG");
        }
        Ok(())
    }

    pub(super) fn echo(&mut self, call: &mut Call<'_>) -> Done {
        let body = call.take(1);
        self.answer.body(&body);
        Ok(())
    }

    pub(super) fn quit(&mut self, call: &mut Call<'_>) -> Done {
        self.answer.simple("OK");
        self.leave(call.client);
        Ok(())
    }

    pub(super) fn select(&mut self, call: &mut Call<'_>) -> Done {
        match call.integer(1)? {
            0 => self.answer.simple("OK"),
            _ => return Err(Failure::of("ERR DB index is out of range")),
        }
        Ok(())
    }

    /// Whether there is such a user, of whom there is one, and this is the password.
    fn check(&self, user: &[u8], password: &[u8]) -> Done {
        // Hashes are compared in constant time.
        let is_right = self.password.is_none_or(|expected| expected == blake3::hash(password));
        if is_right && user == b"default" { Ok(()) } else { Err(WRONG_PASSWORD) }
    }

    pub(super) fn auth(&mut self, call: &mut Call<'_>) -> Done {
        let user: &[u8] = match call.len() {
            2 if self.password.is_none() => {
                return Err(Failure::of(
                    "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                     configuration is correct?",
                ));
            }
            2 => b"default",
            3 => call.get(1),
            _ => return Err(Failure::SYNTAX),
        };
        self.check(user, call.get(call.len() - 1))?;
        if let Some(state) = self.clients.get_mut(&call.client) {
            state.is_known = true;
        }
        self.answer.simple("OK");
        Ok(())
    }

    pub(super) fn hello(&mut self, call: &mut Call<'_>) -> Done {
        let is_resp3 = if call.len() > 1 {
            match integer(call.get(1)) {
                None => return Err(Failure::of("ERR Protocol version is not an integer or out of range")),
                Some(2) => Some(false),
                Some(3) => Some(true),
                Some(_) => return Err(Failure::of("NOPROTO unsupported protocol version")),
            }
        } else {
            None
        };
        let (mut user, mut name) = (None, None);
        let mut index = 2;
        while index < call.len() {
            if call.is(index, "auth") && index + 2 < call.len() {
                user = Some(index + 1);
                index += 3;
            } else if call.is(index, "setname") && index + 1 < call.len() {
                name = Some(index + 1);
                index += 2;
            } else {
                let option = quoted(call.get(index), usize::MAX);
                return Err(Failure::said([b"ERR Syntax error in HELLO option '", option, b"'"].concat()));
            }
        }
        if let Some(user) = user {
            self.check(call.get(user), call.get(user + 1))?;
        }
        let name = name.map(|index| checked_name(call.take(index))).transpose()?;
        let Some(state) = self.clients.get_mut(&call.client) else { return Ok(()) };
        state.is_known |= user.is_some();
        if !state.is_known {
            return Err(Failure::of(
                "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH \
                 <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
                 same time",
            ));
        }
        state.name = name.unwrap_or_else(|| state.name.clone());
        state.is_resp3 = is_resp3.unwrap_or(state.is_resp3);
        let is_resp3 = state.is_resp3;
        self.answer.set_resp3(is_resp3);
        self.introduce(call, if is_resp3 { 3 } else { 2 });
        Ok(())
    }

    fn introduce(&mut self, call: &Call<'_>, version: i64) {
        let answer = &mut self.answer;
        answer.map(7);
        for (name, value) in [("server", "redis"), ("version", VERSION)] {
            answer.bytes(name.as_bytes());
            answer.bytes(value.as_bytes());
        }
        for (name, value) in [("proto", version), ("id", number(call))] {
            answer.bytes(name.as_bytes());
            answer.integer(value);
        }
        for (name, value) in [("mode", "standalone"), ("role", "master")] {
            answer.bytes(name.as_bytes());
            answer.bytes(value.as_bytes());
        }
        answer.bytes(b"modules");
        answer.array(0);
    }

    pub(super) fn reset(&mut self, call: &mut Call<'_>) -> Done {
        self.end_transaction(call.client);
        let is_known = self.password.is_none();
        let Some(state) = self.clients.get_mut(&call.client) else { return Ok(()) };
        (state.is_known, state.is_resp3, state.name) = (is_known, false, Bytes::new());
        self.leave_channels(call.client);
        self.answer.set_resp3(false);
        self.answer.simple("RESET");
        Ok(())
    }

    pub(super) fn client(&mut self, call: &mut Call<'_>) -> Done {
        let wrong_number = |of: &str| Failure::said(format!("ERR wrong number of arguments for 'client|{of}' command"));
        let known = [("id", 2), ("getname", 2), ("setname", 3), ("setinfo", 4)];
        let Some((what, count)) = known.into_iter().find(|(name, _)| call.is(1, name)) else {
            return Err(unknown(call, "CLIENT"));
        };
        if call.len() != count {
            return Err(wrong_number(what));
        }
        let Some(state) = self.clients.get_mut(&call.client) else { return Ok(()) };
        match what {
            "id" => self.answer.integer(number(call)),
            "getname" if state.name.is_empty() => self.answer.null(),
            "getname" => self.answer.bytes(&state.name),
            "setname" => {
                state.name = checked_name(call.take(2))?;
                self.answer.simple("OK");
            }
            // What a library calls itself is of no use here.
            _ => self.answer.simple("OK"),
        }
        Ok(())
    }

    pub(super) fn command(&mut self, call: &mut Call<'_>) -> Done {
        match () {
            // Clients that want to know more of a command do without.
            () if call.len() == 1 => self.answer.array(0),
            () if call.is(1, "count") && call.len() == 2 => self.answer.count(COMMANDS.len()),
            () if call.is(1, "docs") => self.answer.map(0),
            () => return Err(unknown(call, "COMMAND")),
        }
        Ok(())
    }

    pub(super) fn config(&mut self, call: &mut Call<'_>) -> Done {
        if !call.is(1, "get") {
            return Err(unknown(call, "CONFIG"));
        }
        if call.len() < 3 {
            return Err(Failure::of("ERR wrong number of arguments for 'config|get' command"));
        }
        let memory = self.memory_bytes_max.to_string();
        let settings = [("appendonly", "no"), ("maxmemory", &memory), ("maxmemory-policy", "noeviction"), ("save", "")];
        let patterns: Vec<_> = (2..call.len()).map(|index| call.get(index).to_ascii_lowercase()).collect();
        let is_wanted = |name: &str| patterns.iter().any(|pattern| glob::fits(pattern, name.as_bytes()));
        let wanted: Vec<_> = settings.into_iter().filter(|(name, _)| is_wanted(name)).collect();
        self.answer.map(wanted.len());
        for (name, value) in wanted {
            self.answer.bytes(name.as_bytes());
            self.answer.bytes(value.as_bytes());
        }
        Ok(())
    }

    pub(super) fn info(&mut self, call: &mut Call<'_>) -> Done {
        let everything = ["default", "all", "everything"];
        let is_wanted = |section: &str| {
            call.len() == 1
                || (1..call.len()).any(|it| call.is(it, section) || everything.iter().any(|name| call.is(it, name)))
        };
        let (used, max) = (self.used(), self.memory_bytes_max);
        let blocked = self.clients.values().filter(|state| state.wait.is_some()).count();
        let uptime = self.started_at.map_or(0, |at| (self.now - at).as_secs());
        let (keys, expires) = (self.keyspace.len(), self.keyspace.expiring());
        let keyspace =
            if keys > 0 { format!("db0:keys={keys},expires={expires},avg_ttl=0\r\n") } else { String::new() };
        let sections = [
            ("Server", format!("redis_version:{VERSION}\r\nredis_mode:standalone\r\nuptime_in_seconds:{uptime}\r\n")),
            ("Clients", format!("connected_clients:{}\r\nblocked_clients:{blocked}\r\n", self.clients.len())),
            ("Memory", format!("used_memory:{used}\r\nmaxmemory:{max}\r\nmaxmemory_policy:noeviction\r\n")),
            ("Replication", "role:master\r\nconnected_slaves:0\r\n".to_owned()),
            ("Keyspace", keyspace),
        ];
        let mut text = String::new();
        for (name, lines) in sections.iter().filter(|(name, _)| is_wanted(name)) {
            let gap = if text.is_empty() { "" } else { "\r\n" };
            let _ = write!(text, "{gap}# {name}\r\n{lines}");
        }
        self.answer.bytes(text.as_bytes());
        Ok(())
    }
}

fn number(call: &Call<'_>) -> i64 {
    i64::try_from(call.client.0).unwrap_or(i64::MAX)
}

fn checked_name(name: Bytes) -> Result<Bytes, Failure> {
    if name.len() <= NAME_BYTES_MAX && name.iter().all(u8::is_ascii_graphic) {
        return Ok(name);
    }
    Err(Failure::of("ERR Client names cannot contain spaces, newlines or special characters."))
}

fn unknown(call: &Call<'_>, command: &str) -> Failure {
    let name = quoted(call.get(1), 128);
    Failure::said([b"ERR unknown subcommand '", name, b"'. Try ", command.as_bytes(), b" HELP."].concat())
}
