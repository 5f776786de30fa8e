//! An eventfd that tells the event loop that completions wait.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// Non-blocking eventfd.
pub struct Event(OwnedFd);

impl Event {
    /// A new one, not readable.
    pub fn new() -> std::io::Result<Self> {
        // SAFETY: a plain system call; the result is checked before it becomes an owned descriptor.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Its number, for the event loop.
    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Make it readable.
    pub fn set(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: the buffer is valid for eight octets. A full counter (EAGAIN) is readable already.
        unsafe { libc::write(self.fd(), one.as_ptr().cast(), one.len()) };
    }

    /// Make it unreadable again.
    pub fn clear(&self) {
        let mut buffer = [0u8; 8];
        // SAFETY: the buffer is valid for eight octets. EAGAIN means that it was not set.
        unsafe { libc::read(self.fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    }
}
