//! What a join hands over: links, and what keeps the group connected. Erased, as the group does not know its net.

use std::task::{Context, Poll};

use crate::channel::stream::Link;
use crate::net::ByteStream;
use crate::net::framed::Framed;
use crate::proto::rendezvous::SessionId;

/// The control channel of a joined rank.
pub(crate) type Control = Framed<Box<dyn ByteStream>>;

/// A rank that is connected to all that its configuration names. Whether the others are as well, it does not know yet.
pub(crate) struct Joined {
    /// In rank order; `None` for this rank and for those that it does not connect to.
    pub(crate) links: Vec<Option<Link>>,
    pub(crate) control: Option<Control>,
    pub(crate) session: SessionId,
    /// There if a link is relayed.
    pub(crate) upgrade: Option<Box<dyn Upgrade>>,
    pub(crate) lifeline: Option<Box<dyn Lifeline>>,
}

/// Tries to replace relayed links.
pub(crate) trait Upgrade: Send {
    /// The next link that is established, for a peer.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<(u32, Link)>;
}

/// Brings a control channel back that was lost.
pub(crate) trait Lifeline: Send {
    /// The channel, once it is established again.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Control>;
}

/// The control channel with its stream erased.
pub(crate) fn erase<S: ByteStream>(framed: Framed<S>) -> Control {
    framed.map(|stream| Box::new(stream) as Box<dyn ByteStream>)
}
