//! The table of commands, and how their arguments are read.

use bytes::Bytes;

use super::{Client, Done, Failure, Server};
use crate::resp::{Reader, integer};

/// May be told before the password.
const FOR_STRANGERS: u8 = 1;
/// Is refused when memory is short.
const NEEDS_MEMORY: u8 = 2;
/// May be told by a subscriber.
const FOR_SUBSCRIBERS: u8 = 4;
/// Is carried out at once within a transaction, too.
const SAID_AT_ONCE: u8 = 8;
/// May not be told within a transaction.
const NEVER_PUT_OFF: u8 = 16;

type Run = fn(&mut Server, &mut Call<'_>) -> Done;

/// A command: its name, how many arguments it takes with its name (at least, if negative), what it may, and what it does.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) name: &'static str,
    arity: i16,
    flags: u8,
    pub(super) run: Run,
}

impl Command {
    /// Whether it takes so many arguments.
    pub(super) fn check(&self, count: usize) -> Done {
        let (count, arity) = (i64::try_from(count).unwrap_or(i64::MAX), i64::from(self.arity));
        let is_wrong = (arity > 0 && count != arity) || count < -arity;
        if is_wrong { Err(wrong_number(self.name)) } else { Ok(()) }
    }

    /// Whether it carries out a transaction. One that is refused ends it.
    pub(super) fn is_exec(&self) -> bool {
        self.name == "exec"
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn is_for_strangers(&self) -> bool {
        self.has(FOR_STRANGERS)
    }

    pub(super) fn needs_memory(&self) -> bool {
        self.has(NEEDS_MEMORY)
    }

    pub(super) fn is_for_subscribers(&self) -> bool {
        self.has(FOR_SUBSCRIBERS)
    }

    pub(super) fn is_said_at_once(&self) -> bool {
        self.has(SAID_AT_ONCE)
    }

    pub(super) fn is_never_put_off(&self) -> bool {
        self.has(NEVER_PUT_OFF)
    }
}

macro_rules! commands {
    ($($name:literal $arity:literal [$($flag:ident),*] $run:ident,)+) => {
        static TABLE: &[Command] = &[$(Command { name: $name, arity: $arity, flags: 0 $(| $flag)*, run: Server::$run }),+];
        /// The commands that are served, in alphabetical order.
        pub const COMMANDS: &[&str] = &[$($name),+];
    };
}

commands! {
    "auth" -2 [FOR_STRANGERS, FOR_SUBSCRIBERS] auth,
    "blpop" -3 [] blpop,
    "brpop" -3 [] brpop,
    "client" -2 [] client,
    "command" -1 [] command,
    "config" -2 [] config,
    "dbsize" 1 [] dbsize,
    "decr" 2 [NEEDS_MEMORY] decr,
    "decrby" 3 [NEEDS_MEMORY] decrby,
    "del" -2 [] del,
    "discard" 1 [SAID_AT_ONCE] discard,
    "echo" 2 [] echo,
    "exec" 1 [SAID_AT_ONCE] exec,
    "exists" -2 [] exists,
    "expire" -3 [] expire,
    "flushall" -1 [] flushdb,
    "flushdb" -1 [] flushdb,
    "get" 2 [] get,
    "getdel" 2 [] getdel,
    "getrange" 4 [] getrange,
    "hello" -1 [FOR_STRANGERS, NEVER_PUT_OFF, FOR_SUBSCRIBERS] hello,
    "incr" 2 [NEEDS_MEMORY] incr,
    "incrby" 3 [NEEDS_MEMORY] incrby,
    "info" -1 [] info,
    "llen" 2 [] llen,
    "lpop" -2 [] lpop,
    "lpush" -3 [NEEDS_MEMORY] lpush,
    "lrange" 4 [] lrange,
    "lrem" 4 [] lrem,
    "ltrim" 4 [] ltrim,
    "mget" -2 [] mget,
    "mset" -3 [NEEDS_MEMORY] mset,
    "multi" 1 [SAID_AT_ONCE] multi,
    "persist" 2 [] persist,
    "pexpire" -3 [] pexpire,
    "ping" -1 [FOR_SUBSCRIBERS] ping,
    "psetex" 4 [NEEDS_MEMORY] psetex,
    "pttl" 2 [] pttl,
    "publish" 3 [] publish,
    "quit" -1 [FOR_STRANGERS, FOR_SUBSCRIBERS, SAID_AT_ONCE] quit,
    "reset" 1 [FOR_STRANGERS, FOR_SUBSCRIBERS, SAID_AT_ONCE] reset,
    "rpop" -2 [] rpop,
    "rpush" -3 [NEEDS_MEMORY] rpush,
    "scan" -2 [] scan,
    "select" 2 [] select,
    "set" -3 [NEEDS_MEMORY] set,
    "setex" 4 [NEEDS_MEMORY] setex,
    "setnx" 3 [NEEDS_MEMORY] setnx,
    "strlen" 2 [] strlen,
    "subscribe" -2 [FOR_SUBSCRIBERS, NEVER_PUT_OFF] subscribe,
    "ttl" 2 [] ttl,
    "type" 2 [] kind,
    "unlink" -2 [] del,
    "unsubscribe" -1 [FOR_SUBSCRIBERS, NEVER_PUT_OFF] unsubscribe,
}

/// The arguments of a request, with its name.
#[derive(Debug)]
pub(super) enum Arguments<'a> {
    Read(&'a mut Reader),
    Kept(Vec<Bytes>),
}

impl Arguments<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Read(reader) => reader.len(),
            Self::Kept(kept) => kept.len(),
        }
    }

    /// An argument; nothing if there are not so many.
    pub(super) fn get(&self, index: usize) -> &[u8] {
        match self {
            Self::Read(reader) => reader.argument(index),
            Self::Kept(kept) => kept.get(index).map_or(&[], |argument| argument),
        }
    }

    /// Takes an argument out; a long one without a copy.
    pub(super) fn take(&mut self, index: usize) -> Bytes {
        match self {
            Self::Read(reader) => reader.take(index),
            Self::Kept(kept) => kept.get_mut(index).map(std::mem::take).unwrap_or_default(),
        }
    }
}

/// A request that is carried out.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) client: Client,
    pub(super) command: &'static Command,
    pub(super) arguments: Arguments<'a>,
    pub(super) is_in_transaction: bool,
}

impl Call<'_> {
    pub(super) fn len(&self) -> usize {
        self.arguments.len()
    }

    pub(super) fn get(&self, index: usize) -> &[u8] {
        self.arguments.get(index)
    }

    pub(super) fn take(&mut self, index: usize) -> Bytes {
        self.arguments.take(index)
    }

    pub(super) fn integer(&self, index: usize) -> Result<i64, Failure> {
        integer(self.get(index)).ok_or(Failure::INTEGER)
    }

    /// Whether an argument is a word, in any case.
    pub(super) fn is(&self, index: usize, word: &str) -> bool {
        self.get(index).eq_ignore_ascii_case(word.as_bytes())
    }

    pub(super) fn wrong_number(&self) -> Failure {
        wrong_number(self.command.name)
    }
}

fn wrong_number(name: &str) -> Failure {
    Failure::said(format!("ERR wrong number of arguments for '{name}' command"))
}

/// What is quoted of an unknown command, and of its arguments.
const QUOTED_BYTES_MAX: usize = 128;

/// The command that a request names.
pub(super) fn find(reader: &Reader) -> Result<&'static Command, Failure> {
    let name = reader.argument(0);
    let mut lower = [0; 16];
    let known = lower.get_mut(..name.len()).and_then(|lower| {
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        TABLE.binary_search_by(|command| command.name.as_bytes().cmp(lower)).ok()
    });
    known.map(|at| &TABLE[at]).ok_or_else(|| unknown(reader))
}

/// What is quoted of a text: up to its first zero, and no more than this.
pub(super) fn quoted(text: &[u8], bytes_max: usize) -> &[u8] {
    let text = &text[..text.len().min(bytes_max)];
    text.split(|byte| *byte == 0).next().unwrap_or(text)
}

fn unknown(reader: &Reader) -> Failure {
    let mut arguments = Vec::new();
    for index in 1..reader.len() {
        let Some(left) = QUOTED_BYTES_MAX.checked_sub(arguments.len()).filter(|left| *left > 0) else { break };
        arguments.extend([b"'", quoted(reader.argument(index), left), b"' "].concat());
    }
    let name = quoted(reader.argument(0), QUOTED_BYTES_MAX);
    Failure::said([b"ERR unknown command '", name, b"', with args beginning with: ", &arguments].concat())
}

impl Server {
    /// Runs a command.
    pub(super) fn run(
        &mut self,
        client: Client,
        command: &'static Command,
        arguments: Arguments<'_>,
        is_in_transaction: bool,
    ) -> Done {
        (command.run)(self, &mut Call { client, command, arguments, is_in_transaction })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_found() {
        assert!(COMMANDS.is_sorted());
        assert!(COMMANDS.iter().all(|name| name.len() <= 16 && name.bytes().all(|byte| byte.is_ascii_lowercase())));
    }
}
