//! SEARCH: a query tree over messages; octets are read only when the cheap keys left the question open.

use std::ops::Range;

use gatepost_mime::search::{BodySearch, Needle};
use gatepost_mime::{Index, date};

use crate::content::{Content, Place};
use crate::error::{Result, StoreError};
use crate::id::Id;
use crate::info::{self, MessageInfo};
use crate::volume::Volume;

/// A day as (year, month, day).
pub type Day = (i32, u32, u32);

/// How a date relates to the day asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Earlier.
    Before,
    /// On the day.
    On,
    /// On the day or later.
    Since,
}

/// A search key (RFC 3501 6.4.4).
#[derive(Debug, Clone)]
pub enum Query {
    /// Every message.
    All,
    /// All of these.
    And(Vec<Query>),
    /// Any of these.
    Or(Vec<Query>),
    /// Not this.
    Not(Box<Query>),
    /// UID within one of the ranges, ends included.
    Uid(Vec<(i64, i64)>),
    /// Carries the flag or keyword.
    Flag(String),
    /// A field contains the text.
    Header(String, Needle),
    /// The body contains the text.
    Body(Needle),
    /// Header or body contain the text.
    Text(Needle),
    /// More octets than this.
    Larger(i64),
    /// Fewer octets than this.
    Smaller(i64),
    /// Internal date.
    Internal(When, Day),
    /// Date field.
    Sent(When, Day),
    /// MODSEQ at least this.
    Modseq(i64),
}

impl Query {
    /// Rough cost: 0 index row, 1 header, 2 whole message.
    fn cost(&self) -> u8 {
        match self {
            Self::Header(..) | Self::Sent(..) => 1,
            Self::Body(_) | Self::Text(_) => 2,
            Self::And(list) | Self::Or(list) => list.iter().map(Self::cost).max().unwrap_or(0),
            Self::Not(inner) => inner.cost(),
            _ => 0,
        }
    }

    /// Cheap keys first: they often decide.
    fn order(&mut self) {
        match self {
            Self::And(list) | Self::Or(list) => {
                list.iter_mut().for_each(Self::order);
                list.sort_by_key(Self::cost);
            }
            Self::Not(inner) => inner.order(),
            _ => {}
        }
    }
}

/// One message under examination.
struct Candidate<'a> {
    volume: &'a Volume,
    message: &'a MessageInfo,
    place: &'a Place,
    content: Option<Content>,
    header: Option<Index>,
    full: Option<std::sync::Arc<Index>>,
}

impl Volume {
    /// UIDs, of those given and in their order, that match. A damaged message does not match what needs its octets.
    pub fn search(&self, folder: &Id, uids: &[i64], mut query: Query) -> Result<Vec<i64>> {
        query.order();
        let key = self.folder_by_id(folder)?.key;
        let mut found = Vec::new();
        for batch in uids.chunks(500) {
            for (message, place) in self.rows(key, batch)? {
                let mut candidate = Candidate { volume: self, message: &message, place: &place, content: None, header: None, full: None };
                match candidate.matches(&query) {
                    Ok(true) => found.push(message.uid),
                    Ok(false) | Err(StoreError::Damaged(_) | StoreError::NotFound(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(found)
    }

    fn rows(&self, folder: i64, uids: &[i64]) -> Result<Vec<(MessageInfo, Place)>> {
        self.read(|db| {
            let mut rows = Vec::with_capacity(uids.len());
            for &uid in uids {
                if let Some(message) = info::message(db, folder, uid)? {
                    let place = message.place(self, db)?;
                    rows.push((message, place));
                }
            }
            Ok(rows)
        })
    }
}

impl Candidate<'_> {
    fn matches(&mut self, query: &Query) -> Result<bool> {
        let m = self.message;
        Ok(match query {
            Query::All => true,
            Query::And(list) => {
                for key in list {
                    if !self.matches(key)? {
                        return Ok(false);
                    }
                }
                true
            }
            Query::Or(list) => {
                for key in list {
                    if self.matches(key)? {
                        return Ok(true);
                    }
                }
                false
            }
            Query::Not(inner) => !self.matches(inner)?,
            Query::Uid(ranges) => ranges.iter().any(|(low, high)| (*low..=*high).contains(&m.uid)),
            Query::Flag(name) => m.flag_words().iter().any(|w| w.eq_ignore_ascii_case(name)),
            Query::Larger(n) => m.octets > *n,
            Query::Smaller(n) => m.octets < *n,
            Query::Modseq(n) => m.modseq >= *n,
            Query::Internal(when, day) => compare(date::civil_from_days(m.date.div_euclid(86_400_000_000)), *when, *day),
            Query::Sent(when, day) => {
                let sent = self.header()?.first(0, "date").and_then(|v| date::sent_day(&v));
                sent.is_some_and(|sent| compare(sent, *when, *day))
            }
            Query::Header(name, needle) => needle.is_in_field(self.header()?, 0, name),
            Query::Body(needle) => self.body(needle)?,
            Query::Text(needle) => needle.is_in_header(self.header()?, 0) || self.body(needle)?,
        })
    }

    fn content(&mut self) -> Result<&mut Content> {
        if self.content.is_none() {
            self.content = Some(Content::open(self.volume, self.place)?);
        }
        self.content.as_mut().ok_or(StoreError::Closed)
    }

    fn header(&mut self) -> Result<&Index> {
        if self.header.is_none() {
            self.header = Some(self.content()?.index(true)?);
        }
        self.header.as_ref().ok_or(StoreError::Closed)
    }

    /// Text parts decoded, and the header blocks of all parts but the message's own.
    fn body(&mut self, needle: &Needle) -> Result<bool> {
        let (volume, place) = (self.volume, self.place);
        if self.full.is_none() {
            let index = volume.cache.get(place, self.content()?)?;
            self.full = Some(index);
        }
        let Some(index) = self.full.clone() else { return Ok(false) };
        for (number, part) in index.parts.iter().enumerate() {
            if number > 0 && needle.is_in_header(&index, number as u32) {
                return Ok(true);
            }
            let text = part.content_type.is_text() || !part.content_type.given;
            if part.kind != gatepost_mime::Kind::Leaf || !text {
                continue;
            }
            let Some(search) = BodySearch::new(needle, part) else { continue };
            if self.is_in(search, part.body.start as u64..part.body.end as u64)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_in(&mut self, mut search: BodySearch<'_>, range: Range<u64>) -> Result<bool> {
        let mut found = false;
        self.content()?.walk(range, |octets| {
            found = search.feed(octets);
            !found
        })?;
        Ok(found || search.finish())
    }
}

fn compare(date: Day, when: When, day: Day) -> bool {
    match when {
        When::Before => date < day,
        When::On => date == day,
        When::Since => date >= day,
    }
}

/// A day from 'YYYY-MM-DD'.
pub fn parse_day(text: &str) -> Option<Day> {
    let mut parts = text.splitn(3, '-');
    let day = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    ((1..=12).contains(&day.1) && (1..=31).contains(&day.2)).then_some(day)
}
