//! How a rank meets its group: the drivers of a join, and of what keeps a group connected later.
//!
//! They move bytes between sockets and the machines of [`crate::proto`], which hold all policy: `rendezvous::client`
//! registers, `join` times rounds, `mesh` and `punch` connect pairs, `session` proves who is there, `upgrade` replaces
//! relayed connections, `race` chooses among addresses, `resume` finds a rendezvous again, `stored` meets in a store. Nothing here knows what the links are used for.

mod blame;
mod join;
mod joined;
mod legs;
mod lifeline;
pub(crate) mod meeting;
mod racing;
mod relay;
mod round;
mod servers;
mod upgrade;

pub(crate) use blame::not_reached;
pub(crate) use join::Joiner;
pub use join::Prepared;
pub(crate) use joined::{Control, Joined, Lifeline, Upgrade};
pub(crate) use racing::connect_any;
