//! `Store` and its companions: converts and registers only. Everything that may wait for the disk lets go of the interpreter lock.

// Arguments arrive from pyo3 as owned values.
#![allow(clippy::needless_pass_by_value)]

use std::path::PathBuf;
use std::sync::Arc;

use gatepost_delivery::{FromSpool, Round, Targets};
use gatepost_store::{
    Appender as CoreAppender, Delivery, FetchOptions, FetchStream as CoreFetch, FileLock, FolderInfo, Id, MessageInfo, Mode, Result,
    Store as CoreStore, StoreError, StoredMessage as CoreStored, VolumeOptions, parse_flags,
};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use crate::errors::{
    ClosedError, CoreError, DamagedError, DiskFullError, ExistsError, FormatVersionError, InvalidError, LockedError, NotFoundError,
    SyncFailedError,
};
use crate::query;
use crate::spool::{Job, PyId, Spool, job, with_octets};

type FolderTuple<'py> = (Bound<'py, PyBytes>, String, String, bool, i64, i64, i64, i64, i64, i64, i64);
type MessageTuple<'py> = (i64, i64, i64, i64, Vec<String>, Bound<'py, PyBytes>);

/// Adds the classes to the module.
pub fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Store>()?;
    m.add_class::<MailboxLock>()?;
    m.add_class::<Appender>()?;
    m.add_class::<FetchStream>()?;
    m.add_class::<StoredMessage>()
}

/// The exception for an error of the store.
pub fn from_store(error: &StoreError) -> PyErr {
    let text = error.to_string();
    match error {
        StoreError::DiskFull(_) => DiskFullError::new_err(text),
        StoreError::SyncFailed(_) => SyncFailedError::new_err(text),
        StoreError::Locked(_) => LockedError::new_err(text),
        StoreError::Damaged(_) => DamagedError::new_err(text),
        StoreError::Version(_) => FormatVersionError::new_err(text),
        StoreError::NotFound(_) => NotFoundError::new_err(text),
        StoreError::Exists(_) => ExistsError::new_err(text),
        StoreError::Invalid(_) => InvalidError::new_err(text),
        StoreError::Closed => ClosedError::new_err(text),
        StoreError::Io(_) => CoreError::new_err(text),
    }
}

fn id(bytes: &[u8]) -> PyResult<Id> {
    bytes.try_into().map_err(|_| from_store(&StoreError::Invalid("an id has 16 octets".into())))
}

fn raise<T>(result: Result<T>) -> PyResult<T> {
    result.map_err(|e| from_store(&e))
}

fn folder_tuple<'py>(py: Python<'py>, f: &FolderInfo) -> FolderTuple<'py> {
    (
        PyBytes::new(py, &f.id),
        f.name.clone(),
        f.special.clone(),
        f.subscribed,
        f.uid_validity,
        f.uid_next,
        f.messages,
        f.unseen,
        f.octets,
        f.modseq,
        f.recent_from,
    )
}

fn message_tuple<'py>(py: Python<'py>, m: &MessageInfo) -> MessageTuple<'py> {
    (m.uid, m.octets, m.date, m.modseq, m.flag_words(), PyBytes::new(py, &m.email))
}

fn message_tuples<'py>(py: Python<'py>, list: &[MessageInfo]) -> Vec<MessageTuple<'py>> {
    list.iter().map(|m| message_tuple(py, m)).collect()
}

type RoundTuple<'py> = (u64, usize, usize, Vec<(Job<'py>, Option<Vec<Option<Py<PyAny>>>>)>);

fn round_tuple(py: Python<'_>, ticket: u64, round: Round) -> RoundTuple<'_> {
    let value = |error: &StoreError| from_store(error).into_value(py).into_any();
    let left = round.left.into_iter().map(|left| {
        let results = left.results.map(|each| each.iter().map(|r| r.as_ref().err().map(value)).collect());
        (job(py, left.job), results)
    });
    (ticket, round.taken, round.delivered, left.collect())
}

type DeliveryArg = (PyId, i32, PyId, String, Vec<u8>, Vec<(u64, u64, Vec<u8>)>);

/// One volume, opened by this process.
#[pyclass(frozen, module = "gatepost._core")]
pub struct Store {
    core: CoreStore,
    targets: Arc<Targets>,
    rounds: Arc<Mutex<Vec<(u64, Round)>>>,
}

impl Store {
    fn run<T: Send>(&self, py: Python<'_>, work: impl FnOnce(&CoreStore) -> Result<T> + Send) -> PyResult<T> {
        raise(py.detach(|| work(&self.core)))
    }
}

#[pymethods]
impl Store {
    #[new]
    #[pyo3(signature = (directory, *, stream, segment_bytes = 67_108_864, min_free_bytes = 0, resume_free_bytes = 0))]
    fn new(
        py: Python<'_>,
        directory: PathBuf,
        stream: String,
        segment_bytes: u32,
        min_free_bytes: u64,
        resume_free_bytes: u64,
    ) -> PyResult<Self> {
        let options = VolumeOptions { segment_bytes, min_free_bytes, resume_free_bytes, ..VolumeOptions::new(&stream) };
        let core = raise(py.detach(|| CoreStore::open(&directory, &options)))?;
        Ok(Self { core, targets: Arc::default(), rounds: Arc::default() })
    }

    #[getter]
    fn event_fd(&self) -> i32 {
        self.core.event_fd()
    }

    #[getter]
    fn recovery<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let found = &self.core.volume().recovery;
        let dict = PyDict::new(py);
        dict.set_item("messages", found.messages)?;
        dict.set_item("records", found.records)?;
        dict.set_item("torn_bytes", found.torn_bytes)?;
        dict.set_item("damaged", found.damaged.clone())?;
        dict.set_item("seconds", found.seconds)?;
        dict.set_item("rebuilt", i64::from(found.rebuilt))?;
        dict.set_item("snapshot", i64::from(found.snapshot))?;
        Ok(dict)
    }

    fn deliver(&self, ticket: u64, spool: &Spool, deliveries: Vec<DeliveryArg>) -> PyResult<()> {
        let deliveries = deliveries
            .into_iter()
            .map(|(message_id, recipient, mailbox, folder, prefix, edits)| Delivery {
                message_id: message_id.0,
                recipient,
                mailbox: mailbox.0,
                folder,
                prefix,
                edits: edits.into_iter().map(|(from, to, with)| (from..to, with)).collect(),
            })
            .collect();
        raise(self.core.deliver(ticket, Arc::new(FromSpool(spool.core())), deliveries))
    }

    fn learn(&self, route: &[u8], mailbox_id: PyId, folder: &str) {
        self.targets.learn(route, mailbox_id.0, folder);
    }

    fn deliver_due(&self, ticket: u64, spool: &Spool, destination: String, max_jobs: usize) -> PyResult<()> {
        let (spool, targets, rounds) = (spool.core(), Arc::clone(&self.targets), Arc::clone(&self.rounds));
        raise(self.core.spawn(Box::new(move |volume| {
            let round = Round::run(&spool, volume, &targets, &destination, max_jobs);
            rounds.lock().push((ticket, round));
        })))
    }

    fn rounds<'py>(&self, py: Python<'py>) -> Vec<RoundTuple<'py>> {
        let finished = std::mem::take(&mut *self.rounds.lock());
        finished.into_iter().map(|(ticket, round)| round_tuple(py, ticket, round)).collect()
    }

    #[allow(clippy::type_complexity)]
    fn completions(&self, py: Python<'_>) -> Vec<(u64, Option<Py<PyAny>>, Option<Vec<Option<Py<PyAny>>>>)> {
        let value = |error: &StoreError| from_store(error).into_value(py).into_any();
        let finished = self.core.completions();
        finished
            .into_iter()
            .map(|(ticket, results)| {
                if results.iter().all(std::result::Result::is_ok) {
                    return (ticket, None, None);
                }
                let each = results.iter().map(|r| r.as_ref().err().map(value)).collect();
                (ticket, None, Some(each))
            })
            .collect()
    }

    fn ensure_mailbox(&self, py: Python<'_>, mailbox_id: &[u8]) -> PyResult<()> {
        let mailbox = id(mailbox_id)?;
        self.run(py, |s| s.volume().ensure_mailbox(&mailbox))
    }

    fn delete_mailbox(&self, py: Python<'_>, mailbox_id: &[u8]) -> PyResult<()> {
        let mailbox = id(mailbox_id)?;
        self.run(py, |s| s.volume().delete_mailbox(&mailbox))
    }

    fn mailbox_usage(&self, py: Python<'_>, mailbox_id: &[u8]) -> PyResult<(i64, i64)> {
        let mailbox = id(mailbox_id)?;
        self.run(py, |s| s.volume().mailbox_usage(&mailbox))
    }

    fn lock_mailbox(&self, py: Python<'_>, mailbox_id: &[u8]) -> PyResult<Option<MailboxLock>> {
        let mailbox = id(mailbox_id)?;
        let lock = self.run(py, |s| s.volume().lock_mailbox(&mailbox))?;
        Ok(lock.map(|lock| MailboxLock { lock: Mutex::new(Some(lock)) }))
    }

    fn folders<'py>(&self, py: Python<'py>, mailbox_id: &[u8]) -> PyResult<Vec<FolderTuple<'py>>> {
        let mailbox = id(mailbox_id)?;
        let list = self.run(py, |s| s.volume().folders(&mailbox))?;
        Ok(list.iter().map(|f| folder_tuple(py, f)).collect())
    }

    fn folder<'py>(&self, py: Python<'py>, mailbox_id: &[u8], name: &str) -> PyResult<FolderTuple<'py>> {
        let mailbox = id(mailbox_id)?;
        let found = self.run(py, |s| s.volume().folder(&mailbox, name))?;
        Ok(folder_tuple(py, &found))
    }

    fn folder_by_id<'py>(&self, py: Python<'py>, folder_id: &[u8]) -> PyResult<FolderTuple<'py>> {
        let folder = id(folder_id)?;
        let found = self.run(py, |s| s.volume().folder_by_id(&folder))?;
        Ok(folder_tuple(py, &found))
    }

    #[pyo3(signature = (mailbox_id, name, special_use = ""))]
    fn create_folder<'py>(&self, py: Python<'py>, mailbox_id: &[u8], name: &str, special_use: &str) -> PyResult<Bound<'py, PyBytes>> {
        let mailbox = id(mailbox_id)?;
        let made = self.run(py, |s| s.volume().create_folder(&mailbox, name, special_use))?;
        Ok(PyBytes::new(py, &made))
    }

    fn rename_folder(&self, py: Python<'_>, mailbox_id: &[u8], name: &str, new_name: &str) -> PyResult<()> {
        let mailbox = id(mailbox_id)?;
        self.run(py, |s| s.volume().rename_folder(&mailbox, name, new_name))
    }

    fn delete_folder(&self, py: Python<'_>, mailbox_id: &[u8], name: &str) -> PyResult<()> {
        let mailbox = id(mailbox_id)?;
        self.run(py, |s| s.volume().delete_folder(&mailbox, name))
    }

    fn subscribe(&self, py: Python<'_>, mailbox_id: &[u8], name: &str, subscribed: bool) -> PyResult<()> {
        let mailbox = id(mailbox_id)?;
        self.run(py, |s| s.volume().subscribe(&mailbox, name, subscribed))
    }

    #[pyo3(signature = (folder_id, since_modseq = 0))]
    fn messages<'py>(&self, py: Python<'py>, folder_id: &[u8], since_modseq: i64) -> PyResult<Vec<MessageTuple<'py>>> {
        let folder = id(folder_id)?;
        let list = self.run(py, |s| s.volume().messages(&folder, since_modseq))?;
        Ok(message_tuples(py, &list))
    }

    fn uids<'py>(&self, py: Python<'py>, folder_id: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let folder = id(folder_id)?;
        let packed = self.run(py, |s| {
            let uids = s.volume().uids(&folder)?;
            Ok(uids.iter().flat_map(|uid| uid.to_le_bytes()).collect::<Vec<u8>>())
        })?;
        Ok(PyBytes::new(py, &packed))
    }

    fn keywords(&self, py: Python<'_>, folder_id: &[u8]) -> PyResult<Vec<String>> {
        let folder = id(folder_id)?;
        self.run(py, |s| s.volume().keywords(&folder))
    }

    fn first_unseen(&self, py: Python<'_>, folder_id: &[u8]) -> PyResult<i64> {
        let folder = id(folder_id)?;
        self.run(py, |s| s.volume().first_unseen(&folder))
    }

    fn claim_recent(&self, py: Python<'_>, folder_id: &[u8]) -> PyResult<i64> {
        let folder = id(folder_id)?;
        self.run(py, |s| s.volume().claim_recent(&folder))
    }

    fn changes<'py>(&self, py: Python<'py>, folder_id: &[u8], since_modseq: i64) -> PyResult<(i64, Vec<MessageTuple<'py>>, Vec<i64>)> {
        let folder = id(folder_id)?;
        let found = self.run(py, |s| s.volume().changes(&folder, since_modseq))?;
        Ok((found.modseq, message_tuples(py, &found.changed), found.expunged))
    }

    fn poll<'py>(&self, py: Python<'py>, since_modseq: i64) -> PyResult<(i64, Vec<Bound<'py, PyBytes>>)> {
        let (now, ids) = self.run(py, |s| s.volume().poll(since_modseq))?;
        Ok((now, ids.iter().map(|i| PyBytes::new(py, i)).collect()))
    }

    // pyo3 writes a negative default as `...`, so the text for Python is given by hand.
    #[pyo3(
        signature = (folder_id, uids, mode, flags, unchanged_since = -1),
        text_signature = "($self, folder_id, uids, mode, flags, unchanged_since=-1)"
    )]
    fn store_flags<'py>(
        &self,
        py: Python<'py>,
        folder_id: &[u8],
        uids: Vec<i64>,
        mode: &str,
        flags: Vec<String>,
        unchanged_since: i64,
    ) -> PyResult<(Vec<MessageTuple<'py>>, Vec<i64>)> {
        let folder = id(folder_id)?;
        let mode = match mode {
            "add" => Mode::Add,
            "remove" => Mode::Remove,
            "set" => Mode::Set,
            _ => return raise(Err(StoreError::Invalid(format!("mode {mode:?}")))),
        };
        let flags = raise(parse_flags(&flags))?;
        let limit = (unchanged_since >= 0).then_some(unchanged_since);
        let (after, refused) = self.run(py, |s| s.volume().store_flags(&folder, &uids, mode, &flags, limit))?;
        Ok((message_tuples(py, &after), refused))
    }

    fn expunge(&self, py: Python<'_>, folder_id: &[u8], uids: Option<Vec<i64>>) -> PyResult<Vec<i64>> {
        let folder = id(folder_id)?;
        self.run(py, |s| s.volume().expunge(&folder, uids.as_deref()))
    }

    fn remove(&self, py: Python<'_>, folder_id: &[u8], uids: Vec<i64>) -> PyResult<Vec<i64>> {
        let folder = id(folder_id)?;
        self.run(py, |s| s.volume().remove(&folder, &uids))
    }

    #[pyo3(name = "copy")]
    fn copy_messages(
        &self,
        py: Python<'_>,
        folder_id: &[u8],
        uids: Vec<i64>,
        target_folder_id: &[u8],
        r#move: bool,
    ) -> PyResult<(i64, Vec<(i64, i64)>)> {
        let (folder, target) = (id(folder_id)?, id(target_folder_id)?);
        self.run(py, |s| s.volume().copy(&folder, &uids, &target, r#move))
    }

    fn append(&self, py: Python<'_>, folder_id: &[u8], flags: Vec<String>, internal_date_us: i64) -> PyResult<Appender> {
        let folder = id(folder_id)?;
        let flags = raise(parse_flags(&flags))?;
        let core = self.run(py, |s| CoreAppender::new(s.volume(), &folder, flags, internal_date_us))?;
        Ok(Appender { core: Mutex::new(core) })
    }

    #[pyo3(signature = (folder_id, targets, items, *, set_seen = false, recent_from_uid = 0, utf8 = false))]
    #[allow(clippy::too_many_arguments)]
    fn fetch(
        &self,
        py: Python<'_>,
        folder_id: &[u8],
        targets: Vec<(u32, i64)>,
        items: Vec<String>,
        set_seen: bool,
        recent_from_uid: i64,
        utf8: bool,
    ) -> PyResult<FetchStream> {
        let folder = id(folder_id)?;
        let options = FetchOptions { set_seen, recent_from: recent_from_uid, utf8 };
        let core = self.run(py, |s| CoreFetch::new(s.volume(), &folder, &targets, &items, options))?;
        Ok(FetchStream { core: Mutex::new(core) })
    }

    #[pyo3(name = "search")]
    fn search_messages(&self, py: Python<'_>, folder_id: &[u8], uids: Vec<i64>, query: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
        let folder = id(folder_id)?;
        let tree = query::query(query, 0)?;
        self.run(py, |s| s.volume().search(&folder, &uids, tree))
    }

    fn message(&self, py: Python<'_>, folder_id: &[u8], uid: i64) -> PyResult<StoredMessage> {
        let folder = id(folder_id)?;
        let core = self.run(py, |s| CoreStored::open(s.volume(), &folder, uid))?;
        Ok(StoredMessage { core: Mutex::new(core) })
    }

    fn checkpoint(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, |s| s.volume().maintain(true))
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let found = self.run(py, |s| s.volume().stats())?;
        let dict = PyDict::new(py);
        for (name, value) in found {
            dict.set_item(name, value)?;
        }
        Ok(dict)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, CoreStore::close)
    }
}

/// POP3's exclusive lock.
#[pyclass(frozen, module = "gatepost._core")]
pub struct MailboxLock {
    lock: Mutex<Option<FileLock>>,
}

#[pymethods]
impl MailboxLock {
    fn release(&self) {
        self.lock.lock().take();
    }
}

/// One APPEND.
#[pyclass(frozen, module = "gatepost._core")]
pub struct Appender {
    core: Mutex<CoreAppender>,
}

#[pymethods]
impl Appender {
    fn feed(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        raise(with_octets(py, data, |octets| self.core.lock().feed(octets))?)
    }

    fn commit(&self, py: Python<'_>) -> PyResult<(i64, i64)> {
        raise(py.detach(|| self.core.lock().commit()))
    }
}

/// FETCH responses.
#[pyclass(frozen, module = "gatepost._core")]
pub struct FetchStream {
    core: Mutex<CoreFetch>,
}

#[pymethods]
impl FetchStream {
    #[pyo3(signature = (n = 65_536))]
    fn read<'py>(&self, py: Python<'py>, n: usize) -> PyResult<Bound<'py, PyBytes>> {
        let octets = raise(py.detach(|| self.core.lock().read(n)))?;
        Ok(PyBytes::new(py, &octets))
    }

    fn seen<'py>(&self, py: Python<'py>) -> Vec<MessageTuple<'py>> {
        message_tuples(py, self.core.lock().seen())
    }
}

/// A message for POP3.
#[pyclass(frozen, module = "gatepost._core")]
pub struct StoredMessage {
    core: Mutex<CoreStored>,
}

#[pymethods]
impl StoredMessage {
    #[getter]
    fn size(&self) -> u64 {
        self.core.lock().size()
    }

    #[pyo3(signature = (n = 65_536))]
    fn read<'py>(&self, py: Python<'py>, n: usize) -> PyResult<Bound<'py, PyBytes>> {
        let octets = raise(py.detach(|| self.core.lock().read(n)))?;
        Ok(PyBytes::new(py, &octets))
    }

    #[pyo3(signature = (n = 65_536, body_lines = -1), text_signature = "($self, n=65536, body_lines=-1)")]
    fn read_dotted<'py>(&self, py: Python<'py>, n: usize, body_lines: i64) -> PyResult<Bound<'py, PyBytes>> {
        let octets = raise(py.detach(|| self.core.lock().read_dotted(n, body_lines)))?;
        Ok(PyBytes::new(py, &octets))
    }
}
