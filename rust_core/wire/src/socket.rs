//! Connected sockets that never block, and taking them from a listening one.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

/// Who is at the other end: address and port; '' and 0 for a Unix socket.
pub type Peer = (String, u16);

/// A connected, non-blocking stream. Closed on drop.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// The descriptor.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> RawFd {
        self.fd.into_raw_fd()
    }

    /// Reads what is there; 0 is the end of the stream. `WouldBlock` when nothing is.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: `buffer` is valid for writes of its length.
        let got = unsafe { libc::recv(self.fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// Writes what there is room for. With `more` the kernel may wait for what follows (the close, say) and send one segment.
    pub fn send(&self, data: &[u8], more: bool) -> io::Result<usize> {
        let flags = libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
        // SAFETY: `data` is valid for reads of its length.
        let sent = unsafe { libc::send(self.fd(), data.as_ptr().cast(), data.len(), flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Has the peer send up to so many octets before they are read, within what the system allows; it would find that out by itself, but takes
    /// a while. To ask for being woken by so many makes the receive buffer that large and, unlike `SO_RCVBUF`, lets it grow further; taken back at once.
    pub fn expect(&self, octets: i32) {
        for least in [octets, 1] {
            // SAFETY: `least` is valid for the call. A failure leaves the buffer as it was.
            unsafe {
                libc::setsockopt(
                    self.fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVLOWAT,
                    (&raw const least).cast(),
                    size_of::<i32>() as libc::socklen_t,
                )
            };
        }
    }

    /// Says that nothing more will be sent.
    pub fn end_output(&self) {
        // SAFETY: plain system call; a failure means that the peer is gone, which the next read tells.
        unsafe { libc::shutdown(self.fd(), libc::SHUT_WR) };
    }

    /// Makes the close that follows a reset: nobody waits for what is unsent.
    pub fn reset_on_close(&self) {
        let linger = libc::linger { l_onoff: 1, l_linger: 0 };
        // SAFETY: `linger` is valid for the call. A failure leaves an ordinary close.
        unsafe {
            libc::setsockopt(
                self.fd(),
                libc::SOL_SOCKET,
                libc::SO_LINGER,
                (&raw const linger).cast(),
                size_of::<libc::linger>() as libc::socklen_t,
            )
        };
    }
}

/// Takes a connection from a listening, non-blocking socket. `WouldBlock` when there is none.
pub fn accept(listener: RawFd) -> io::Result<(Socket, Peer)> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `storage` has room for `length` octets.
    let fd = unsafe { libc::accept4(listener, storage.as_mut_ptr().cast(), &raw mut length, libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    let socket = Socket { fd: unsafe { OwnedFd::from_raw_fd(fd) } };
    // SAFETY: zeroed storage is a valid value of a struct of integers, and the kernel filled in what it knows.
    Ok((socket, peer(&unsafe { storage.assume_init() })))
}

fn peer(storage: &libc::sockaddr_storage) -> Peer {
    let at = (&raw const *storage).cast::<u8>();
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which struct the storage, aligned for all of them, holds.
            let v4 = unsafe { at.cast::<libc::sockaddr_in>().read_unaligned() };
            (Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).to_string(), u16::from_be(v4.sin_port))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { at.cast::<libc::sockaddr_in6>().read_unaligned() };
            (Ipv6Addr::from(v6.sin6_addr.s6_addr).to_string(), u16::from_be(v6.sin6_port))
        }
        _ => (String::new(), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Interest, Poller};
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    fn await_ready(poller: &Poller, token: u64) -> crate::Ready {
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(ready) = poller.take().expect("epoll").into_iter().find(|r| r.token == token) {
                return ready;
            }
            assert!(Instant::now() < deadline, "nothing became ready");
        }
    }

    fn listen(host: &str) -> (TcpListener, Poller) {
        let listener = TcpListener::bind((host, 0)).expect("bind");
        listener.set_nonblocking(true).expect("non-blocking");
        let poller = Poller::new().expect("epoll");
        poller.add(listener.as_raw_fd(), 1, Interest { read: true, write: false }).expect("add");
        (listener, poller)
    }

    #[test]
    fn a_connection_is_taken_with_its_peer_and_carries_octets_both_ways() {
        let (listener, poller) = listen("127.0.0.1");
        assert_eq!(accept(listener.as_raw_fd()).expect_err("nobody there").kind(), io::ErrorKind::WouldBlock);
        let mut client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        assert!(await_ready(&poller, 1).read);
        let (socket, peer) = accept(listener.as_raw_fd()).expect("accept");
        assert_eq!(peer, ("127.0.0.1".to_owned(), client.local_addr().expect("address").port()));
        let mut buffer = [0; 16];
        assert_eq!(socket.receive(&mut buffer).expect_err("nothing yet").kind(), io::ErrorKind::WouldBlock);
        poller.add(socket.fd(), 2, Interest { read: true, write: false }).expect("add");
        client.write_all(b"NOOP\r\n").expect("write");
        assert!(await_ready(&poller, 2).read);
        assert_eq!(socket.receive(&mut buffer).expect("read"), 6);
        assert_eq!(socket.send(b"221 ", true).expect("send"), 4);
        assert_eq!(socket.send(b"bye\r\n", true).expect("send"), 5);
        drop(socket);
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("read");
        assert_eq!(answer, "221 bye\r\n");
        assert!(poller.take().expect("epoll").is_empty());
    }

    #[test]
    fn a_peer_can_send_as_much_as_is_expected_and_one_octet_still_wakes() {
        let (listener, poller) = listen("127.0.0.1");
        let mut client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        await_ready(&poller, 1);
        let (socket, _) = accept(listener.as_raw_fd()).expect("accept");
        socket.expect(1 << 20);
        poller.add(socket.fd(), 2, Interest { read: true, write: false }).expect("add");
        client.write_all(b"x").expect("write");
        assert!(await_ready(&poller, 2).read);
        client.set_write_timeout(Some(Duration::from_secs(5))).expect("timeout");
        client.write_all(&vec![b'y'; 900_000]).expect("write");
        let (mut got, mut buffer) = (0, vec![0; 1 << 20]);
        while got < 900_001 {
            await_ready(&poller, 2);
            got += socket.receive(&mut buffer).expect("read");
        }
    }

    #[test]
    fn a_peer_that_is_gone_is_told() {
        let (listener, poller) = listen("127.0.0.1");
        let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        await_ready(&poller, 1);
        let (socket, _) = accept(listener.as_raw_fd()).expect("accept");
        poller.add(socket.fd(), 2, Interest { read: true, write: false }).expect("add");
        drop(client);
        assert!(await_ready(&poller, 2).read);
        assert_eq!(socket.receive(&mut [0; 4]).expect("end"), 0);
    }
}
