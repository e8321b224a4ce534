//! System calls that no maintained crate wraps, one safe function each.

#![warn(missing_docs, clippy::exhaustive_enums, clippy::exhaustive_structs)]

use std::time::Duration;

/// What the kernel knows of the other end of a TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpProgress {
    /// Whether bytes were written that the other kernel has not acknowledged.
    pub waits: bool,
    /// Retransmission time-outs since the other kernel last acknowledged something new.
    pub retransmissions: u32,
    /// Probes of a closed window, or of an idle connection, that were not answered.
    pub probes: u32,
    /// Time since the other kernel last acknowledged anything.
    pub heard_ago: Duration,
    /// Bytes that the other kernel has acknowledged.
    pub acknowledged: u64,
    /// Longest segment that is sent, in bytes.
    pub segment_bytes: u32,
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::mem::size_of;
    use std::os::fd::{AsRawFd, BorrowedFd};
    use std::time::Duration;

    use super::TcpProgress;

    /// The front of the kernel's `struct tcp_info` (`include/uapi/linux/tcp.h`), which only ever grows at its end.
    #[repr(C)]
    #[derive(Default)]
    struct TcpInfo {
        state: u8,
        ca_state: u8,
        retransmits: u8,
        probes: u8,
        backoff: u8,
        options: u8,
        /// Window scales and flags, as bit fields.
        scales: [u8; 2],
        rto: u32,
        ato: u32,
        snd_mss: u32,
        rcv_mss: u32,
        unacked: u32,
        sacked: u32,
        lost: u32,
        retrans: u32,
        fackets: u32,
        last_data_sent: u32,
        last_ack_sent: u32,
        last_data_recv: u32,
        last_ack_recv: u32,
        /// From `tcpi_pmtu` to `tcpi_total_retrans`.
        path: [u32; 11],
        /// From `tcpi_pacing_rate` to `tcpi_bytes_received`; the third is `tcpi_bytes_acked`.
        rates: [u64; 4],
        segs_out: u32,
        segs_in: u32,
        notsent_bytes: u32,
        min_rtt: u32,
    }

    /// Asks the kernel how a TCP connection fares.
    ///
    /// # Errors
    /// As the system says, if this is no TCP socket.
    pub fn tcp_progress(socket: BorrowedFd<'_>) -> io::Result<TcpProgress> {
        let mut info = TcpInfo::default();
        let mut length = libc::socklen_t::try_from(size_of::<TcpInfo>()).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open, as it is borrowed. The kernel writes at most `length` bytes, which is the
        // size of `info`, and any bytes are a valid `TcpInfo`: it has only integers and no padding that is read.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast::<libc::c_void>(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(TcpProgress {
            waits: info.unacked > 0 || info.notsent_bytes > 0,
            retransmissions: info.retransmits.into(),
            probes: info.probes.into(),
            heard_ago: Duration::from_millis(info.last_ack_recv.into()),
            acknowledged: info.rates[2],
            segment_bytes: info.snd_mss,
        })
    }
}

#[cfg(target_os = "linux")]
pub use linux::tcp_progress;

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn bytes_that_nobody_reads_wait_and_bytes_that_were_read_do_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (mut far, _) = listener.accept().expect("accepted");
        assert!(!tcp_progress(near.as_fd()).expect("a TCP socket").waits, "nothing was written");
        near.set_nonblocking(true).expect("a socket");
        let bytes = vec![1; 1 << 20];
        let mut written = 0;
        while let Ok(taken) = near.write(&bytes) {
            written += taken;
        }
        assert!(tcp_progress(near.as_fd()).expect("a TCP socket").waits, "both buffers are full");
        let mut read = vec![0; written];
        far.read_exact(&mut read).expect("all that was written");
        // The acknowledgement of the last bytes follows the reading of them within the same kernel.
        far.write_all(&[1]).expect("room");
        near.set_nonblocking(false).expect("a socket");
        near.read_exact(&mut [0]).expect("one byte, which carries the acknowledgement");
        let progress = tcp_progress(near.as_fd()).expect("a TCP socket");
        assert_eq!((progress.waits, progress.retransmissions, progress.probes), (false, 0, 0));
        // The SYN counts, too.
        assert!([0, 1].contains(&(progress.acknowledged - written as u64)), "{progress:?}");
        assert!(progress.segment_bytes >= 536, "{progress:?}");
    }

    #[test]
    fn what_is_no_tcp_socket_is_an_error() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
        assert!(tcp_progress(socket.as_fd()).is_err());
    }
}
