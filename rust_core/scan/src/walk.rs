//! The walk down the tree: what is it, note it, open it. Readers of containers call back with each entry they find.
//!
//! A reader never fails for what it reads: damage is a defect of the entry. `Err(Stop)` means that the budget is spent, and ends everything.

use sha2::{Digest, Sha256};

use crate::budget::{Budget, Stop};
use crate::kind::{self, Class, Format, Kind};
use crate::name::{self, Name};
use crate::report::{Defect, Entry, Flags, Report, Verdict};
use crate::unpack::{self, Output};
use crate::{cab, cms, embedded, fault, html, iso, mail, ole, pdf, rar, rich, script, seven, stream, tar, tnef, zip};

/// Names are kept this long.
const NAME_MAX: usize = 1_024;
const EMPTY: Kind = Kind { name: "empty", ..kind::DATA };

/// State of one inspection.
pub struct Walker {
    /// What is left.
    pub budget: Budget,
    /// The tree so far.
    pub entries: Vec<Entry>,
}

impl Walker {
    /// Before the first octet.
    pub fn new(budget: Budget) -> Self {
        Self { budget, entries: Vec::new() }
    }

    /// The file asked about.
    pub fn root(&mut self, data: &[u8], name: &str, declared: &str) -> Result<(), Stop> {
        let id = self.add(None, name)?;
        name::cut(declared, 200).clone_into(&mut self.entry(id).declared);
        self.look(id, data)
    }

    /// A new entry in container `parent`.
    pub fn enter(&mut self, parent: u32, name: &str) -> Result<u32, Stop> {
        self.entry(parent).flags.set(Flags::CONTAINER);
        self.add(Some(parent), name)
    }

    fn add(&mut self, parent: Option<u32>, raw: &str) -> Result<u32, Stop> {
        let depth = parent.map_or(0, |parent| self.entries[parent as usize].depth + 1);
        let parsed = Name::of(raw);
        let mut entry = Entry {
            parent,
            depth,
            name: name::cut(raw, NAME_MAX).to_owned(),
            declared: String::new(),
            kind: None,
            size: 0,
            flags: parsed.flags(),
            signs: Vec::new(),
            defects: Vec::new(),
            sha256: None,
            place: None,
        };
        parsed.odd.iter().for_each(|word| entry.sign(format!("name:{word}")));
        if parent.is_some() && (raw.starts_with(['/', '\\']) || raw.split(['/', '\\']).any(|part| part == "..")) {
            entry.defect(Defect::Escapes);
        }
        self.entries.push(entry);
        self.budget.enter(depth)?;
        Ok((self.entries.len() - 1) as u32)
    }

    /// An entry.
    pub fn entry(&mut self, id: u32) -> &mut Entry {
        &mut self.entries[id as usize]
    }

    /// A second name of an entry counts as much as the first.
    pub fn alias(&mut self, id: u32, other: &str) {
        let flags = Name::of(other).flags();
        let entry = self.entry(id);
        entry.sign(format!("name:also {other}"));
        entry.flags.set(flags);
    }

    /// A new entry under the first of its names; the others are noted, and count.
    pub fn named(&mut self, parent: u32, names: &[String]) -> Result<u32, Stop> {
        let id = self.enter(parent, names.first().map_or("", String::as_str))?;
        names.iter().skip(1).for_each(|name| self.alias(id, name));
        Ok(id)
    }

    /// An entry whose octets lie as they are in its container, under all its names and declared types.
    pub fn stored_as(&mut self, parent: u32, names: &[String], types: &[String], data: &[u8]) -> Result<u32, Stop> {
        let id = self.named(parent, names)?;
        types.first().unwrap_or(&String::new()).clone_into(&mut self.entry(id).declared);
        unpack::stored(&mut self.budget, data)?;
        self.look_as(id, names, types, data)?;
        Ok(id)
    }

    /// [`Walker::look`]; where another of its names or types makes another thing of the same octets, that is an entry beside it.
    pub fn look_as(&mut self, id: u32, names: &[String], types: &[String], data: &[u8]) -> Result<(), Stop> {
        self.look(id, data)?;
        let mut seen: Vec<Kind> = self.entries[id as usize].kind.into_iter().collect();
        let (first_name, first_type) = (self.entries[id as usize].name.clone(), self.entries[id as usize].declared.clone());
        if names.len() + types.len() <= 2 {
            return Ok(());
        }
        let all = |list: &[String], first: &str| if list.is_empty() { vec![first.to_owned()] } else { list.to_vec() };
        for name in all(names, &first_name) {
            for declared in all(types, &first_type) {
                let kind = Self::kind_as(data, &name, &declared);
                if seen.contains(&kind) {
                    continue;
                }
                seen.push(kind);
                let Some(parent) = self.entries[id as usize].parent else { continue };
                let other = self.enter(parent, &name)?;
                let place = self.entries[id as usize].place;
                let entry = self.entry(other);
                entry.declared.clone_from(&declared);
                entry.place = place;
                self.look(other, data)?;
            }
        }
        Ok(())
    }

    /// Note a message that was opened already.
    pub fn opened(&mut self, id: u32, data: &[u8]) {
        let entry = self.entry(id);
        entry.flags.set(Flags::CONTAINER);
        (entry.size, entry.kind, entry.sha256) = (data.len() as u64, Some(kind::MAIL), Some(Sha256::digest(data).into()));
    }

    /// An entry whose octets lie as they are in its container.
    pub fn child(&mut self, parent: u32, name: &str, data: &[u8]) -> Result<u32, Stop> {
        let id = self.enter(parent, name)?;
        unpack::stored(&mut self.budget, data)?;
        self.look(id, data)?;
        Ok(id)
    }

    /// Look at what a decoder gave for entry `id`; `declared` is the size the container says.
    pub fn unpacked(&mut self, id: u32, output: &Output, declared: Option<u64>) -> Result<(), Stop> {
        let entry = self.entry(id);
        if !output.sound {
            entry.defect(Defect::Damaged);
        }
        if !output.is_whole() {
            entry.defect(Defect::TooLarge);
        }
        if declared.is_some_and(|declared| declared != output.total) {
            entry.defect(Defect::SizeDiffers);
        }
        self.budget.hold(output.data.len());
        let looked = self.look(id, &output.data);
        self.budget.release(output.data.len());
        let entry = self.entry(id);
        entry.size = output.total;
        if !output.is_whole() {
            entry.sha256 = None;
        }
        looked
    }

    /// Type, flags and content of an entry.
    pub fn look(&mut self, id: u32, data: &[u8]) -> Result<(), Stop> {
        fault::strike(data);
        let kind = self.classify(id, data);
        let entry = self.entry(id);
        entry.size = data.len() as u64;
        entry.sha256 = Some(Sha256::digest(data).into());
        entry.kind = Some(kind);
        self.flag(id, &kind);
        self.budget.tick()?;
        self.open(id, &kind, data)?;
        embedded::read(self, id, &kind, data)
    }

    /// The type by content; where content is only text, name and declared type say how a reader would take it.
    fn classify(&mut self, id: u32, data: &[u8]) -> Kind {
        let entry = &self.entries[id as usize];
        if entry.parent.is_none() && entry.declared.eq_ignore_ascii_case("message/rfc822") && !data.is_empty() {
            return kind::MAIL;
        }
        Self::kind_as(data, &entry.name, &entry.declared)
    }

    fn kind_as(data: &[u8], name: &str, declared: &str) -> Kind {
        if data.is_empty() {
            return EMPTY;
        }
        let kind = kind::of(data);
        let extension = Name::of(name).extension;
        let declared = declared.to_ascii_lowercase();
        let textual = matches!(kind.class, Class::Text | Class::Script | Class::Mail) && kind.format != Format::Tnef || kind.name == "xml";
        if textual && (declared == "message/rfc822" || matches!(extension.as_str(), "eml" | "mht" | "mhtml")) {
            return kind::MAIL;
        }
        // A nameless text is read, not run: talk of scripts is none.
        if kind.class == Class::Script && name.is_empty() && declared == "text/plain" {
            return kind::TEXT;
        }
        // Text that looks like a message is one only where nobody says that it is text: quoted mails are no containers.
        if kind == kind::MAIL && declared.starts_with("text/") {
            return kind::TEXT;
        }
        if textual && (declared == "text/html" || matches!(extension.as_str(), "htm" | "html" | "shtml" | "xhtml")) {
            return kind::HTML;
        }
        if let Some(known) = script::EXTENSIONS.iter().find(|known| **known == extension)
            && (textual || matches!(kind.class, Class::Markup))
        {
            return kind::script(known);
        }
        if kind.class == Class::Data && extension == "lzma" && data[0] < 225 {
            return kind::LZMA;
        }
        kind
    }

    fn flag(&mut self, id: u32, kind: &Kind) {
        let entry = &mut self.entries[id as usize];
        match kind.class {
            Class::Executable => entry.flags.set(Flags::EXECUTABLE),
            Class::Script => entry.flags.set(Flags::SCRIPT),
            Class::Archive => entry.flags.set(Flags::CONTAINER),
            _ => {}
        }
        if kind.format == Format::Closed {
            entry.defect(Defect::Unsupported);
        }
        let extension = Name::of(&entry.name).extension;
        let usual = kind::usual_extensions(kind);
        let hides = matches!(kind.class, Class::Executable | Class::Script | Class::Archive)
            && matches!(extension.as_str(), "pdf" | "doc" | "xls" | "ppt" | "txt" | "jpg" | "jpeg" | "png" | "gif" | "csv" | "mp3" | "mp4");
        if hides || !extension.is_empty() && !usual.is_empty() && !usual.contains(&extension.as_str()) && has_known_extension(&extension) {
            entry.flags.set(Flags::MISNAMED);
        }
    }

    fn open(&mut self, id: u32, kind: &Kind, data: &[u8]) -> Result<(), Stop> {
        match kind.format {
            Format::Zip => zip::read(self, id, data),
            Format::Tar => tar::read(self, id, data),
            Format::Gzip | Format::Bzip2 | Format::Xz | Format::Lzma | Format::Lzip | Format::Zstd => {
                stream::read(self, id, kind.format, data)
            }
            Format::Seven => seven::read(self, id, data),
            Format::Cab => cab::read(self, id, data),
            Format::Ole => ole::read(self, id, data),
            Format::Rar => rar::read(self, id, data),
            Format::Iso => iso::read(self, id, data),
            Format::Tnef => tnef::read(self, id, data),
            Format::Cms => cms::read(self, id, data),
            Format::Mail => mail::read(self, id, data),
            Format::Pdf => pdf::read(self, id, data),
            Format::Rtf => rich::rtf(self, id, data),
            Format::ActiveMime => rich::active_mime(self, id, data),
            Format::Html => html::read(self, id, data),
            Format::Link => rich::shortcut(self, id, data),
            Format::Closed | Format::Plain => Ok(()),
        }
    }

    /// The report.
    pub fn finish(self, stop: Option<Stop>) -> Report {
        let mut report = Report { entries: self.entries, verdict: Verdict::Complete, stop, produced: self.budget.produced() };
        report.settle();
        report
    }

    /// The report of what was seen before a decoder panicked.
    pub fn finish_after_panic(mut self) -> Report {
        if let Some(root) = self.entries.first_mut() {
            root.defect(Defect::Panicked);
        }
        self.finish(None)
    }
}

/// Extensions that stand for a type; others are anybody's invention and no lie.
fn has_known_extension(extension: &str) -> bool {
    const KNOWN: &[&str] = &[
        "pdf", "doc", "docx", "docm", "xls", "xlsx", "xlsm", "ppt", "pptx", "pptm", "rtf", "odt", "ods", "odp", "txt", "csv", "htm",
        "html", "xml", "jpg", "jpeg", "png", "gif", "bmp", "tif", "tiff", "webp", "svg", "mp3", "mp4", "wav", "avi", "mov", "zip", "rar",
        "7z", "gz", "tar", "iso", "cab", "exe", "dll", "eml", "msg", "ics", "vcf", "json",
    ];
    KNOWN.contains(&extension)
}
