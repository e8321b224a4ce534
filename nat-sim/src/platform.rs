//! The platform that runs functions: it starts, freezes, thaws and kills them.
//!
//! A function is a scope: killing it drops its tasks and its host's sockets without a packet. A frozen one is not
//! polled, and its host's kernel is frozen.

use std::cell::{Ref, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use fmi_net::time::Instant;
use tokio::task::LocalSet;

use crate::net::{Shared, SimNet, sleep};
use crate::panics;
use crate::topology::{HostId, SiteId};

/// What a function does each time that it is started.
pub(crate) type Body = Box<dyn Fn(SimNet) -> Pin<Box<dyn Future<Output = ()>>>>;

/// A function, or a service, which the run does not wait for.
pub(crate) struct Function {
    pub(crate) host: HostId,
    pub(crate) site: SiteId,
    pub(crate) start: Instant,
    pub(crate) matters: bool,
    pub(crate) body: Body,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    NotStarted,
    Running,
    Finished,
    Killed,
    Panicked,
}

/// What the platform and the task of a function tell each other.
struct Scope {
    status: Status,
    is_frozen: bool,
    waker: Option<Waker>,
}

impl Scope {
    fn has_ended(&self) -> bool {
        match self.status {
            Status::Finished | Status::Killed | Status::Panicked => true,
            Status::NotStarted | Status::Running => false,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let frozen = if self.is_frozen { ", frozen" } else { "" };
        write!(f, "{:?}{frozen}", self.status)
    }
}

struct Placed {
    function: Function,
    scope: RefCell<Scope>,
}

/// All functions of a world.
#[derive(Clone)]
pub(crate) struct Platform {
    shared: Arc<Shared>,
    placed: Rc<[Placed]>,
}

impl Platform {
    pub(crate) fn new(shared: Arc<Shared>, functions: Vec<Function>) -> Self {
        let place = |function| {
            let scope = RefCell::new(Scope { status: Status::NotStarted, is_frozen: false, waker: None });
            Placed { function, scope }
        };
        Self { shared, placed: functions.into_iter().map(place).collect() }
    }

    /// Begins to run the functions of a site.
    pub(crate) fn keep_all(&self, site: SiteId, tasks: &LocalSet) {
        for (index, _) in self.placed.iter().enumerate().filter(|(_, placed)| placed.function.site == site) {
            tasks.spawn_local(keep(self.clone(), index));
        }
    }

    /// Sockets first: what the tasks drop afterwards finds nothing to close.
    pub(crate) fn kill(&self, host: HostId) {
        self.shared.fabric().hosts[host.0].kill();
        self.set(host, |scope| (scope.status, scope.is_frozen) = (Status::Killed, false));
    }

    pub(crate) fn start(&self, host: HostId) {
        self.shared.fabric().hosts[host.0].start();
        self.set(host, |scope| (scope.status, scope.is_frozen) = (Status::NotStarted, false));
    }

    /// Pauses a host with its functions, if it is on.
    pub(crate) fn freeze(&self, host: HostId) {
        if self.shared.fabric().hosts[host.0].freeze() {
            self.set(host, |scope| scope.is_frozen = true);
        }
    }

    /// Lets a frozen host and its functions run on.
    pub(crate) fn thaw(&self, now: Instant, host: HostId) {
        if self.shared.fabric().with_host(host, now, |host, effects| host.thaw(now, effects)) {
            self.set(host, |scope| scope.is_frozen = false);
        }
    }

    pub(crate) fn kill_all(&self, site: SiteId) {
        self.hosts_of(site).for_each(|host| self.kill(host));
    }

    pub(crate) fn start_all(&self, site: SiteId) {
        self.hosts_of(site).for_each(|host| self.start(host));
    }

    /// Cuts the power of all frozen hosts.
    pub(crate) fn kill_frozen(&self) {
        for host in self.shared.fabric().hosts.iter_mut().filter(|host| host.is_frozen()) {
            host.kill();
        }
    }

    fn hosts_of(&self, site: SiteId) -> impl Iterator<Item = HostId> {
        let functions = self.placed.iter().map(|placed| &placed.function);
        functions.filter(move |function| function.site == site).map(|function| function.host)
    }

    /// Tells the tasks of a host's functions, which act on it when they are polled.
    fn set(&self, host: HostId, change: impl Fn(&mut Scope)) {
        for placed in self.placed.iter().filter(|placed| placed.function.host == host) {
            let waker = {
                let mut scope = placed.scope.borrow_mut();
                change(&mut scope);
                scope.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Whether all functions that matter have ended, or are frozen and stay so. Nothing but a fault that is planned
    /// `starts` the former again or `changes` the latter.
    pub(crate) fn is_done(&self, starts: impl Fn(&Function) -> bool, changes: impl Fn(&Function) -> bool) -> bool {
        self.placed.iter().filter(|placed| placed.function.matters).all(|Placed { function, scope }| {
            let scope = scope.borrow();
            (scope.has_ended() && !starts(function)) || (scope.is_frozen && !changes(function))
        })
    }

    /// Whether a function is yet to start.
    pub(crate) fn awaits_starts(&self) -> bool {
        self.placed.iter().any(|placed| {
            let scope = placed.scope.borrow();
            scope.status == Status::NotStarted && !scope.is_frozen
        })
    }

    /// All functions, and how each of them is.
    pub(crate) fn functions(&self) -> impl Iterator<Item = (&Function, Ref<'_, impl fmt::Display>)> {
        self.placed.iter().map(|placed| (&placed.function, placed.scope.borrow()))
    }
}

/// Runs one function: waits for its start, polls it until it ends or is killed, and again if it is started anew.
async fn keep(platform: Platform, index: usize) {
    let Placed { function, scope } = &platform.placed[index];
    sleep(&platform.shared, function.start).await;
    loop {
        std::future::poll_fn(|cx| {
            let mut scope = scope.borrow_mut();
            scope.waker = Some(cx.waker().clone());
            let is_ready = scope.status == Status::NotStarted && !scope.is_frozen;
            if is_ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        scope.borrow_mut().status = Status::Running;
        let net = SimNet::new(platform.shared.clone(), function.host);
        let mut run = Run::new(platform.clone(), index, net);
        let ended = std::future::poll_fn(|cx| {
            {
                let mut scope = scope.borrow_mut();
                scope.waker = Some(cx.waker().clone());
                if scope.status != Status::Running {
                    return Poll::Ready(None);
                }
                // What wakes it meanwhile finds it again after the thaw, when all of it is polled.
                if scope.is_frozen {
                    return Poll::Pending;
                }
            }
            run.poll(cx).map(Some)
        })
        .await;
        if let Some(status) = ended {
            scope.borrow_mut().status = status;
        }
    }
}

/// The tasks of one function, polled and dropped in the name of its host.
struct Run {
    host: HostId,
    tasks: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl Run {
    fn new(platform: Platform, index: usize, net: SimNet) -> Self {
        let host = platform.placed[index].function.host;
        let tasks = async move {
            let body = async { (platform.placed[index].function.body)(net).await };
            LocalSet::new().run_until(body).await;
        };
        Self { host, tasks: Some(Box::pin(tasks)) }
    }

    /// Polls them; how they have ended. The run of the world ends at once after a panic: nobody sees what it left half
    /// done.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(tasks) = &mut self.tasks else { return Poll::Ready(Status::Finished) };
        match panics::guarded(self.host, || tasks.as_mut().poll(cx)) {
            Some(poll) => poll.map(|()| Status::Finished),
            None => Poll::Ready(Status::Panicked),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let tasks = self.tasks.take();
        // What is dropped after a destructor that panics is dropped nevertheless.
        let _ = panics::guarded(self.host, || drop(tasks));
    }
}
