//! A partition and what follows it, for the tests of the history through its public face.
#![allow(dead_code)] // not every test file asks for all of it

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gatepost_history::{Filter, Follower, Found, Options as Keep, Page, Paging, Scope, search};
use gatepost_queue::{Change, MessageId, Options, RecipientSpec, Spool, kind, new_message_id};

pub const WAIT: Duration = Duration::from_secs(20);

/// A spool with a history behind it, in a directory of its own.
pub struct Room {
    pub dir: tempfile::TempDir,
    pub keep: Keep,
    pub min_free_bytes: u64,
    pub spool: Option<Spool>,
    pub follower: Option<Follower>,
}

impl Room {
    pub fn new(max_octets: u64) -> Self {
        let keep = Keep { age_seconds: 1000, max_octets };
        let mut room = Self { dir: tempfile::tempdir().unwrap(), keep, min_free_bytes: 0, spool: None, follower: None };
        room.open();
        room
    }

    pub fn open(&mut self) {
        let spool = self.open_spool();
        self.follower = Some(Follower::start(&self.history(), spool.tail(), self.keep).unwrap());
        self.spool = Some(spool);
    }

    pub fn open_spool(&self) -> Spool {
        let options = Options { segment_bytes: 256 << 10, min_free_bytes: self.min_free_bytes, ..Options::new(*b"SPOL") };
        Spool::open_tailed(&self.dir.path().join("spool"), options).unwrap()
    }

    pub fn close(&mut self) {
        assert!(self.follower.take().unwrap().close(WAIT));
        self.spool.take().unwrap().close().unwrap();
    }

    pub fn history(&self) -> PathBuf {
        self.dir.path().join("history")
    }

    pub fn spool(&self) -> &Spool {
        self.spool.as_ref().unwrap()
    }

    pub fn accept(&self, from: &str, to: &[&str], subject: &str) -> MessageId {
        let id = new_message_id();
        let mut incoming = self.spool().receive(id, b"Received: by here\r\n", 0, false);
        incoming.feed_raw(format!("Subject: {subject}\r\nMessage-ID: <{}@x>\r\n\r\nbody\r\n", u128::from_be_bytes(id)).as_bytes());
        incoming.finish();
        let to = to.iter().map(|address| RecipientSpec {
            address: (*address).into(),
            original: String::new(),
            destination: "d".into(),
            notify: 0,
            route: Vec::new(),
            next_us: 0,
            held: false,
        });
        let meta = br#"[["ESMTP","192.0.2.7",25,"client.example","","","smtp"],"","","7BIT",false,1]"#;
        self.spool().commit(1, &mut incoming, from.into(), to.collect(), meta.to_vec()).unwrap();
        self.settle(1);
        id
    }

    pub fn change(&self, id: MessageId, recipient: Option<u16>, kind: u8, detail: &str) {
        let change = Change { id, recipient, kind, next_us: 0, detail: detail.as_bytes().to_vec() };
        assert_eq!(self.spool().change(2, &[change]), 1);
        self.settle(2);
    }

    pub fn settle(&self, ticket: u64) {
        let end = Instant::now() + WAIT;
        while Instant::now() < end {
            if self.spool().completions().0.into_iter().any(|(number, _)| number == ticket) {
                return;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        panic!("ticket {ticket} never came back");
    }

    pub fn caught_up(&self) {
        assert!(self.follower.as_ref().unwrap().catch_up(WAIT), "{:?}", self.notices());
    }

    pub fn segments(&self) -> usize {
        let files = fs::read_dir(self.dir.path().join("spool")).unwrap();
        // One may go while we look.
        files.filter(|e| e.as_ref().is_ok_and(|e| e.metadata().is_ok_and(|m| m.len() >= 200 << 10))).count()
    }

    pub fn notices(&self) -> Vec<String> {
        self.follower.as_ref().unwrap().shelf().take_notices()
    }

    pub fn page(&self, filter: &Filter, scope: Scope, after: Option<MessageId>, limit: usize, ascending: bool) -> Page {
        self.caught_up();
        let paging = Paging { after, limit, ascending, deadline: Instant::now() + WAIT };
        search(self.follower.as_ref().unwrap().shelf(), filter, scope, paging)
    }

    pub fn find(&self, filter: &Filter) -> Vec<Found> {
        let page = self.page(filter, Scope::All, None, 100_000, true);
        assert_eq!((page.next, page.warnings), (None, Vec::new()));
        page.found
    }

    pub fn ids(&self, filter: &Filter) -> Vec<MessageId> {
        self.find(filter).into_iter().map(|f| f.message.id).collect()
    }

    pub fn files(&self) -> Vec<String> {
        let names = fs::read_dir(self.history()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.filter(|n| Path::new(n).extension().is_some_and(|e| e == "db")).collect();
        names.sort();
        names
    }

    /// Finished messages until there are so many files; returns what was accepted, oldest first.
    pub fn fill(&self, files: usize) -> Vec<MessageId> {
        let mut ids = Vec::new();
        while self.files().len() < files {
            ids.extend(self.some());
        }
        ids
    }

    /// Fifty finished messages.
    pub fn some(&self) -> Vec<MessageId> {
        let detail = format!(r#"{{"host":"mx.b.example","code":250,"text":"{}"}}"#, "filler ".repeat(250));
        let one = |n| {
            let id = self.accept("bulk@a.example", &[&format!("n{n}@b.example")], "bulk");
            self.change(id, Some(0), kind::DELIVERED, &detail);
            id
        };
        let ids = (0..50).map(one).collect();
        self.caught_up();
        ids
    }
}

pub fn by(set: impl FnOnce(&mut Filter)) -> Filter {
    let mut filter = Filter::default();
    set(&mut filter);
    filter
}
