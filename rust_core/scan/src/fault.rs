//! A panic on purpose: what follows one has to be seen to work, and no input is known that makes one. Called by tests only.

use std::sync::OnceLock;

static MARK: OnceLock<Vec<u8>> = OnceLock::new();

/// From now on the inspection of content that holds these octets panics, in this whole process. The first call counts.
pub fn panic_on(mark: &[u8]) {
    let _ = MARK.set(mark.to_vec());
}

/// Panics if a test asked for it.
pub(crate) fn strike(content: &[u8]) {
    if let Some(mark) = MARK.get() {
        assert!(memchr::memmem::find(content, mark).is_none(), "a panic that a test asked for");
    }
}
