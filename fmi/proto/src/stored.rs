//! Groups whose frames lie in a store: how ranks [meet](meeting) there, what bodies are [called](names), and how they are
//! [sealed](object). Pure.
//!
//! A store is nobody's friend: it may swap bodies, hand out old ones, cut them or keep them back. So names tell nothing of group and
//! key, each body is sealed under a key that is made for it and bound to its name, and what ranks tell each other through the store
//! while they meet bears a tag under the key of the group. Keeping bodies back is all that is left to it.

pub mod meeting;
pub mod names;
pub mod object;
