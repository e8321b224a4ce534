//! Requests that are carried out together, with nobody else's between them.

use bytes::Bytes;

use super::commands::{Arguments, Call, Command};
use super::{Client, Done, Failure, Server};
use crate::resp::Reader;

/// What a request that is put off costs beside its bytes, and each of its arguments.
const OVERHEAD_BYTES: usize = 64;

/// Requests that are put off.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    requests: Vec<(&'static Command, Vec<Bytes>)>,
    pub(super) bytes: usize,
    /// One of them was refused, so that none is carried out.
    pub(super) is_broken: bool,
}

impl Server {
    pub(super) fn multi(&mut self, call: &mut Call<'_>) -> Done {
        let Some(state) = self.clients.get_mut(&call.client) else { return Ok(()) };
        if state.transaction.is_some() {
            // That alone breaks nothing.
            self.answer.error(b"ERR MULTI calls can not be nested");
            return Ok(());
        }
        state.transaction = Some(Transaction::default());
        self.answer.simple("OK");
        Ok(())
    }

    pub(super) fn put_off(&mut self, client: Client, command: &'static Command, reader: &mut Reader) -> Done {
        let has_room = self.used() + reader.held() <= self.memory_bytes_max;
        let begun = self.clients.get_mut(&client).and_then(|state| state.transaction.as_mut());
        let Some(transaction) = begun else { return Ok(()) };
        if !has_room {
            return Err(Failure::OUT_OF_MEMORY);
        }
        // One that is broken is never carried out.
        if !transaction.is_broken {
            let arguments: Vec<Bytes> = (0..reader.len()).map(|index| reader.take(index)).collect();
            let bytes = OVERHEAD_BYTES + arguments.iter().map(|it| it.len() + OVERHEAD_BYTES).sum::<usize>();
            transaction.requests.push((command, arguments));
            transaction.bytes += bytes;
            self.kept += bytes;
        }
        self.answer.simple("QUEUED");
        Ok(())
    }

    pub(super) fn end_transaction(&mut self, client: Client) -> Option<Transaction> {
        let transaction = self.clients.get_mut(&client)?.transaction.take()?;
        self.kept -= transaction.bytes;
        Some(transaction)
    }

    pub(super) fn discard(&mut self, call: &mut Call<'_>) -> Done {
        self.end_transaction(call.client).ok_or(Failure::of("ERR DISCARD without MULTI"))?;
        self.answer.simple("OK");
        Ok(())
    }

    pub(super) fn exec(&mut self, call: &mut Call<'_>) -> Done {
        let transaction = self.end_transaction(call.client).ok_or(Failure::of("ERR EXEC without MULTI"))?;
        if transaction.is_broken {
            return Err(Failure::of("EXECABORT Transaction discarded because of previous errors."));
        }
        self.answer.array(transaction.requests.len());
        for (command, arguments) in transaction.requests {
            if let Err(Failure(text)) = self.run(call.client, command, Arguments::Kept(arguments), true) {
                self.answer.error(&text);
            }
        }
        Ok(())
    }
}
