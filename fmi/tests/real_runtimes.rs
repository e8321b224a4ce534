//! Goal: a rendezvous serves on every kind of tokio's runtimes, also where it is the future of `block_on` and nothing
//! but its own wake-ups gives way to others. Method: several groups over loopback, each rank a task.

use std::net::TcpStream;
use std::time::Duration;

use fmi::net::rendezvous::{Rendezvous, ServerConfig};
use fmi::{Communicator, Config, RealNet};
use tokio::runtime::{Builder, Runtime};

const GROUPS: u32 = 6;
const SIZE: u32 = 6;
const CROWD: u32 = 300;

async fn sum_of_ranks(config: Config) -> fmi::Result<u32> {
    let comm = Communicator::connect(RealNet::new(), &config).await?;
    let mut sum = [0];
    comm.allreduce(&[comm.rank()], &mut sum, fmi::op::Sum).await?;
    comm.leave().await;
    Ok(sum[0])
}

/// Serves in `block_on` of one runtime, while the ranks of all groups are tasks of another one. Before it serves,
/// more clients wait for it than tokio lets one poll of a task attend to.
fn groups_meet_at(runtime: Runtime) {
    let (tell, address) = std::sync::mpsc::channel();
    let (begin, begun) = std::sync::mpsc::channel::<()>();
    let server = std::thread::Builder::new().spawn(move || {
        runtime.block_on(async {
            let any = ([127, 0, 0, 1], 0).into();
            let server = Rendezvous::bind(RealNet::new(), any, ServerConfig::default()).expect("a free port");
            tell.send(server.local_addr().expect("bound")).expect("the test waits for it");
            begun.recv().expect("the test says so");
            server.serve().await
        });
    });
    // The server ends with the process, whatever it is doing.
    drop(server.expect("a thread"));
    let address = address.recv().expect("the server starts").to_string();
    let crowd: Vec<_> = (0..CROWD).map(|_| TcpStream::connect(&address).expect("the kernel accepts")).collect();
    begin.send(()).expect("the server waits for it");
    let ranks = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let members = (0..GROUPS).flat_map(|group| (0..SIZE).map(move |rank| (group, rank)));
    let tasks = members.map(|(group, rank)| {
        let mut config = Config::new(rank, SIZE, format!("g{group}"), address.clone());
        config.join_deadline = Duration::from_secs(20);
        ranks.spawn(sum_of_ranks(config))
    });
    let results = ranks.block_on(futures_util::future::join_all(tasks.collect::<Vec<_>>()));
    for result in results {
        assert_eq!(result.expect("no panic").expect("the group forms"), SIZE * (SIZE - 1) / 2);
    }
    drop(crowd);
}

#[test]
fn a_rendezvous_in_block_on_of_a_runtime_with_threads_serves_several_groups() {
    groups_meet_at(Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime"));
}

#[test]
fn a_rendezvous_in_block_on_of_a_runtime_without_threads_serves_several_groups() {
    groups_meet_at(Builder::new_current_thread().enable_all().build().expect("a runtime"));
}
