//! Calls of the simulated disk, and which of them are to fail. Used by `disk`, set by tests and histories.

/// What a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// `Storage::create`
    Create,
    /// `Storage::open`
    Open,
    /// `Storage::rename`
    Rename,
    /// `Storage::remove`
    Remove,
    /// `Storage::list`
    List,
    /// `Storage::make_dir`
    MakeDir,
    /// `Storage::sync_dir`
    SyncDir,
    /// `Storage::free_bytes`
    FreeBytes,
    /// `Storage::lock`
    Lock,
    /// `StorageFile::read_at`
    Read,
    /// `StorageFile::write_at`
    Write,
    /// `StorageFile::sync`
    Sync,
    /// `StorageFile::allocate`
    Allocate,
    /// `StorageFile::truncate`
    Truncate,
    /// `StorageFile::len`
    Len,
}

/// A call as it happened, for a test to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Traced {
    /// Which.
    pub call: Call,
    /// File name, without the directory.
    pub name: String,
}

/// Calls that are to fail.
#[derive(Debug, Clone)]
pub struct Fault {
    /// These calls.
    pub call: Call,
    /// Only on files whose name contains this.
    pub name: String,
    /// Only writes whose data contains this.
    pub needle: Vec<u8>,
    /// How many such calls succeed before.
    pub after: u64,
    /// How many fail then.
    pub times: u64,
    /// With this error number.
    pub errno: i32,
    /// Octets of a write that get through before it fails; None for any number.
    pub partial: Option<usize>,
}

impl Fault {
    /// All such calls fail from now on.
    pub fn new(call: Call, errno: i32) -> Self {
        Self { call, name: String::new(), needle: Vec::new(), after: 0, times: u64::MAX, errno, partial: None }
    }

    /// The next such call fails.
    pub fn once(call: Call, errno: i32) -> Self {
        Self { times: 1, ..Self::new(call, errno) }
    }

    /// Whether it may fail this call.
    pub(super) fn matches(&self, call: Call, name: &str, data: &[u8]) -> bool {
        let found = || data.windows(self.needle.len()).any(|w| w == self.needle);
        self.call == call && name.contains(&self.name) && (self.needle.is_empty() || found())
    }
}
