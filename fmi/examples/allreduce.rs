//! Sums the ranks of a group. Run it on this machine with
//! `cargo run -p faas-fmi-cli -- launch -n 4 -- cargo run -q -p faas-fmi --example allreduce`.
#![expect(clippy::print_stdout, reason = "an example shows its result")]

#[tokio::main(flavor = "current_thread")]
async fn main() -> fmi::Result<()> {
    let config = fmi::Config::from_env()?;
    let comm = fmi::Communicator::connect(fmi::RealNet::new(), &config).await?;
    let mut sum = [0u32];
    comm.allreduce(&[comm.rank()], &mut sum, fmi::op::Sum).await?;
    println!("rank {} of {}: the ranks add up to {}", comm.rank(), comm.size(), sum[0]);
    comm.leave().await;
    Ok(())
}
