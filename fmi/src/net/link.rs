//! Names of the channel that connections become.

pub(crate) use crate::channel::LinkInfo;
pub(crate) use crate::channel::stream::{CONTROL_KEEPALIVE, CONTROL_SILENCE_MAX, Link};
