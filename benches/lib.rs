//! What the benchmarks share: groups of processes over loopback.
//!
//! A benchmark runs itself again for each further rank, with the environment that
//! [`fmi::Config::from_env`] reads and the name of what to serve. Rank 0 measures.

use std::process::{Child, Command, Stdio};

use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::{Communicator, Config, RealNet};
use tokio::runtime::Runtime;

/// Names what a child process serves.
pub const ROLE: &str = "FMI_BENCH_ROLE";

/// A runtime for one process.
///
/// # Panics
/// If the system gives none.
pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Starts this program again in a role.
///
/// # Panics
/// If that fails.
pub fn child(role: &str, variables: &[(&str, String)]) -> Child {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.env(ROLE, role).stdin(Stdio::null()).stdout(Stdio::null());
    command.envs(variables.iter().map(|(name, value)| (*name, value)));
    command.spawn().expect("started")
}

/// A group whose rank 0 is this process; ends its other ranks with it.
#[derive(Debug)]
pub struct Group {
    /// Rank 0.
    pub comm: Communicator,
    children: Vec<Child>,
}

impl Group {
    /// Forms a group of `size` processes that serve `role`.
    ///
    /// # Panics
    /// If it does not form.
    pub fn form(runtime: &Runtime, role: &str, size: u32) -> Self {
        runtime.block_on(async {
            let net = RealNet::new();
            let server = Rendezvous::bind(net, ([127, 0, 0, 1], 0).into(), ServerConfig::default()).expect("bound");
            let address = server.local_addr().expect("an address").to_string();
            let start = |rank: u32| {
                let variables = [
                    ("FMI_RANK", rank.to_string()),
                    ("FMI_SIZE", size.to_string()),
                    ("FMI_GROUP", role.to_owned()),
                    ("FMI_RENDEZVOUS", address.clone()),
                ];
                child(role, &variables)
            };
            let children = (1..size).map(start).collect();
            let config = Config::new(0, size, role, address.clone());
            let join = std::pin::pin!(Communicator::connect(net, &config));
            let serve = std::pin::pin!(server.serve());
            let comm = match futures_util::future::select(join, serve).await {
                futures_util::future::Either::Left((comm, _)) => comm.expect("formed"),
                futures_util::future::Either::Right((never, _)) => match never {},
            };
            Self { comm, children }
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Its own end is as good.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
