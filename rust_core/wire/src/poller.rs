//! An epoll set that is itself waited for: its descriptor goes into the event loop, and `take` never waits.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// Events taken in one call.
const BATCH: u16 = 128;

/// What a descriptor is watched for. Errors and hang-ups are always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interest {
    /// Octets, a connection, or the end of the stream.
    pub read: bool,
    /// Room for octets.
    pub write: bool,
}

/// A descriptor that needs attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// As given to `add`.
    pub token: u64,
    /// A read will not block.
    pub read: bool,
    /// A write will not block.
    pub write: bool,
    /// Error or hang-up.
    pub broken: bool,
}

/// The set. Closing a descriptor takes it out.
#[derive(Debug)]
pub struct Poller {
    fd: OwnedFd,
}

impl Poller {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain system call.
        let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and ours.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) } })
    }

    /// Readable while `take` would return something.
    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Watches a descriptor.
    pub fn add(&self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Watches it for something else.
    pub fn change(&self, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Watches it no longer.
    pub fn remove(&self, fd: RawFd) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, Interest::default())
    }

    fn control(&self, operation: i32, fd: RawFd, token: u64, interest: Interest) -> io::Result<()> {
        let read = if interest.read { libc::EPOLLIN } else { 0 };
        let write = if interest.write { libc::EPOLLOUT } else { 0 };
        let mut event = libc::epoll_event { events: (read | write).cast_unsigned(), u64: token };
        // SAFETY: `event` is valid for the call.
        if unsafe { libc::epoll_ctl(self.fd(), operation, fd, &raw mut event) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// What is ready now, at most a batch of it.
    pub fn take(&self) -> io::Result<Vec<Ready>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH as usize];
        // SAFETY: `events` has room for BATCH entries.
        let count = unsafe { libc::epoll_wait(self.fd(), events.as_mut_ptr(), i32::from(BATCH), 0) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted { Ok(Vec::new()) } else { Err(error) };
        };
        Ok(events[..count].iter().map(|event| ready(*event)).collect())
    }
}

fn ready(event: libc::epoll_event) -> Ready {
    let has = |flag: i32| event.events & flag.cast_unsigned() != 0;
    Ready { token: event.u64, read: has(libc::EPOLLIN), write: has(libc::EPOLLOUT), broken: has(libc::EPOLLERR | libc::EPOLLHUP) }
}
