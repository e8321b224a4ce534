//! Panics in a world: each is noted when it happens, whatever becomes of it afterwards.
//!
//! A panic in a spawned task ends in a result that nobody may read, one in a destructor in tokio, and one that a program
//! catches nowhere. So a hook of the process notes every panic on the thread of a world while the world runs, and then
//! calls the hook that was there before. Not seen are panics on threads that a program starts, which no world should have,
//! and all of them if a program replaces the hook; what ends the program of a host is noted even then.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

use crate::topology::HostId;

thread_local! {
    /// The world that runs on this thread, if one does.
    static WATCHED: RefCell<Option<Watched>> = const { RefCell::new(None) };
}

/// What is known of the panics of a world.
#[derive(Default)]
struct Watched {
    /// Whose program is polled or dropped.
    host: Option<HostId>,
    first: Option<String>,
}

/// Notes the panics of this thread until it is dropped.
pub(crate) struct Watch {
    /// What was watched before: a world may run within a program of another one.
    outer: Option<Watched>,
}

impl Watch {
    pub(crate) fn begin() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                note(info.payload(), Some(info));
                previous(info);
            }));
        });
        Self { outer: WATCHED.replace(Some(Watched::default())) }
    }

    /// The first panic.
    pub(crate) fn first(&self) -> Option<String> {
        WATCHED.with_borrow(|watched| watched.as_ref()?.first.clone())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        WATCHED.set(self.outer.take());
    }
}

/// Does something in the name of a host: a panic is its program's.
pub(crate) fn within<T>(host: HostId, act: impl FnOnce() -> T) -> T {
    /// Gives the name back, also while a panic unwinds.
    struct Name(Option<HostId>);
    impl Drop for Name {
        fn drop(&mut self) {
            set_host(self.0);
        }
    }
    let _name = Name(set_host(Some(host)));
    act()
}

/// The same; `None` if it panics, which is noted.
pub(crate) fn guarded<T>(host: HostId, act: impl FnOnce() -> T) -> Option<T> {
    within(host, || catch_unwind(AssertUnwindSafe(act)).map_err(|panic| caught(&*panic)).ok())
}

/// The host that was set before.
fn set_host(host: Option<HostId>) -> Option<HostId> {
    WATCHED.with_borrow_mut(|watched| std::mem::replace(&mut watched.as_mut()?.host, host))
}

/// Notes a panic that was caught, in case that no hook has seen it.
pub(crate) fn caught(payload: &(dyn Any + Send)) {
    note(payload, None);
}

fn note(payload: &(dyn Any + Send), info: Option<&PanicHookInfo<'_>>) {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let message = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into());
    // A thread that ends has no world left.
    let _ = WATCHED.try_with(|watched| {
        let Ok(mut watched) = watched.try_borrow_mut() else { return };
        let Some(Watched { host, first }) = watched.as_mut() else { return };
        first.get_or_insert_with(|| {
            let whose =
                host.map_or_else(|| "a task of no host".into(), |host| format!("the program of host {}", host.0));
            let place = info.and_then(PanicHookInfo::location);
            let place = place.map_or_else(String::new, |at| format!(", at {}:{}", at.file(), at.line()));
            format!("{whose} panicked: {message}{place}")
        });
    });
}
