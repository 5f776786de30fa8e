//! The true type of octets: our own table and checks first, then `infer` for pictures, sound, film and fonts.

use crate::bytes::{be32, clamp, has, le32};
use crate::script;

/// What kind of thing a type is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Container of files, or compressed stream.
    Archive,
    /// Office, PDF, RTF.
    Document,
    /// Program, installer, shortcut.
    Executable,
    /// Source that an interpreter of the system runs.
    Script,
    /// HTML, SVG, XML.
    Markup,
    /// A message.
    Mail,
    /// Pictures, sound, film, fonts.
    Media,
    /// Plain text.
    Text,
    /// Nothing known.
    Data,
}

impl Class {
    /// The word used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Document => "document",
            Self::Executable => "executable",
            Self::Script => "script",
            Self::Markup => "markup",
            Self::Mail => "mail",
            Self::Media => "media",
            Self::Text => "text",
            Self::Data => "data",
        }
    }
}

/// Types that this crate opens, by the reader that does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Format {
    Zip,
    Tar,
    Gzip,
    Bzip2,
    Xz,
    Lzma,
    Lzip,
    Zstd,
    Seven,
    Cab,
    Ole,
    Rar,
    Iso,
    Tnef,
    Cms,
    Mail,
    Pdf,
    Rtf,
    ActiveMime,
    Html,
    Link,
    /// A container or compression that nothing here opens.
    Closed,
    /// No container.
    Plain,
}

/// A type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Short name, mostly the usual extension: `zip`, `pe`, `docx`.
    pub name: &'static str,
    /// Media type.
    pub mime: &'static str,
    /// What kind of thing.
    pub class: Class,
    /// Who opens it.
    pub format: Format,
}

const fn kind(name: &'static str, mime: &'static str, class: Class, format: Format) -> Kind {
    Kind { name, mime, class, format }
}

const OCTETS: &str = "application/octet-stream";
/// Nothing known.
pub const DATA: Kind = kind("data", OCTETS, Class::Data, Format::Plain);
/// Plain text.
pub const TEXT: Kind = kind("text", "text/plain", Class::Text, Format::Plain);
/// HTML.
pub const HTML: Kind = kind("html", "text/html", Class::Markup, Format::Html);
/// SVG: HTML's scripts in a picture.
pub const SVG: Kind = kind("svg", "image/svg+xml", Class::Markup, Format::Html);
const XML: Kind = kind("xml", "text/xml", Class::Markup, Format::Html);
/// A message.
pub const MAIL: Kind = kind("eml", "message/rfc822", Class::Mail, Format::Mail);
/// A tar archive.
pub const TAR: Kind = kind("tar", "application/x-tar", Class::Archive, Format::Tar);
/// A CD image.
pub const ISO: Kind = kind("iso", "application/x-iso9660-image", Class::Archive, Format::Iso);
/// LZMA without a container, as `.lzma` files have it. It has no mark; its header reads well, or its name says so.
pub const LZMA: Kind = kind("lzma", "application/x-lzma", Class::Archive, Format::Lzma);
const PE: Kind = kind("pe", "application/vnd.microsoft.portable-executable", Class::Executable, Format::Plain);
const DOS: Kind = kind("dos-exe", "application/x-msdos-program", Class::Executable, Format::Plain);
const MACHO: Kind = kind("mach-o", "application/x-mach-binary", Class::Executable, Format::Plain);
const JAVA: Kind = kind("class", "application/java-vm", Class::Executable, Format::Plain);
const CMS: Kind = kind("p7m", "application/pkcs7-mime", Class::Data, Format::Cms);
const PDF: Kind = kind("pdf", "application/pdf", Class::Document, Format::Pdf);

/// A type of source with its usual extension as name.
pub const fn script(name: &'static str) -> Kind {
    kind(name, "text/x-script", Class::Script, Format::Html)
}

/// A zip that is something more special.
pub const fn zipped(name: &'static str, mime: &'static str, class: Class) -> Kind {
    kind(name, mime, class, Format::Zip)
}

/// An OLE file that is something more special.
pub const fn ole(name: &'static str, mime: &'static str, class: Class) -> Kind {
    kind(name, mime, class, Format::Ole)
}

type Magic = (usize, &'static [u8], Kind);

#[rustfmt::skip]
const MAGICS: &[Magic] = &[
    (0, b"PK\x03\x04", kind("zip", "application/zip", Class::Archive, Format::Zip)),
    (0, b"PK\x05\x06", kind("zip", "application/zip", Class::Archive, Format::Zip)),
    (0, b"PK\x07\x08PK\x03\x04", kind("zip", "application/zip", Class::Archive, Format::Zip)),
    (0, b"PK00PK\x03\x04", kind("zip", "application/zip", Class::Archive, Format::Zip)),
    (0, b"\x1f\x8b", kind("gz", "application/gzip", Class::Archive, Format::Gzip)),
    (0, b"\xfd7zXZ\0", kind("xz", "application/x-xz", Class::Archive, Format::Xz)),
    (0, b"\x28\xb5\x2f\xfd", kind("zst", "application/zstd", Class::Archive, Format::Zstd)),
    (0, b"7z\xbc\xaf\x27\x1c", kind("7z", "application/x-7z-compressed", Class::Archive, Format::Seven)),
    (0, b"MSCF\0\0\0\0", kind("cab", "application/vnd.ms-cab-compressed", Class::Archive, Format::Cab)),
    (0, b"Rar!\x1a\x07\0", kind("rar", "application/vnd.rar", Class::Archive, Format::Rar)),
    (0, b"Rar!\x1a\x07\x01\0", kind("rar", "application/vnd.rar", Class::Archive, Format::Rar)),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", kind("ole", "application/x-ole-storage", Class::Document, Format::Ole)),
    (0, b"\x78\x9f\x3e\x22", kind("tnef", "application/vnd.ms-tnef", Class::Mail, Format::Tnef)),
    (0, b"ActiveMime", kind("mso", "application/x-mso", Class::Document, Format::ActiveMime)),
    (0, b"{\\rt", kind("rtf", "application/rtf", Class::Document, Format::Rtf)),
    (0, b"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0\0\0\0\0\0\0\x46", kind("lnk", "application/x-ms-shortcut", Class::Executable, Format::Link)),
    (0, b"\x7fELF", kind("elf", "application/x-elf", Class::Executable, Format::Plain)),
    (0, b"\0asm\x01\0\0\0", kind("wasm", "application/wasm", Class::Executable, Format::Plain)),
    (0, b"dex\n", kind("dex", "application/vnd.android.dex", Class::Executable, Format::Plain)),
    (0, b"ITSF", kind("chm", "application/vnd.ms-htmlhelp", Class::Executable, Format::Closed)),
    (0, b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d\xae\xb1\x53\x78\xd0\x29\x96\xd3", kind("one", "application/onenote", Class::Document, Format::Closed)),
    (0, b"\0\x01\0\0Standard Jet DB", kind("mdb", "application/vnd.ms-access", Class::Executable, Format::Plain)),
    (0, b"\0\x01\0\0Standard ACE DB", kind("accdb", "application/vnd.ms-access", Class::Executable, Format::Plain)),
    (0, b"LZIP", kind("lz", "application/x-lzip", Class::Archive, Format::Lzip)),
    (0, b"\x04\x22\x4d\x18", kind("lz4", "application/x-lz4", Class::Archive, Format::Closed)),
    (0, b"\x1f\x9d", kind("z", "application/x-compress", Class::Archive, Format::Closed)),
    (0, b"ISc(", kind("is-cab", "application/x-installshield", Class::Archive, Format::Closed)),
    (0, b"\x60\xea", kind("arj", "application/x-arj", Class::Archive, Format::Closed)),
    (7, b"**ACE**", kind("ace", "application/x-ace-compressed", Class::Archive, Format::Closed)),
    (0, b"xar!", kind("xar", "application/x-xar", Class::Archive, Format::Closed)),
    (0, b"!<arch>\n", kind("ar", "application/x-archive", Class::Archive, Format::Closed)),
    (0, b"MSWIM\0\0\0", kind("wim", "application/x-ms-wim", Class::Archive, Format::Closed)),
    (0, b"conectix", kind("vhd", "application/x-vhd", Class::Archive, Format::Closed)),
    (0, b"vhdxfile", kind("vhdx", "application/x-vhdx", Class::Archive, Format::Closed)),
    (0, b"KDMV", kind("vmdk", "application/x-vmdk", Class::Archive, Format::Closed)),
    (0, b"FWS", kind("swf", "application/x-shockwave-flash", Class::Executable, Format::Plain)),
    (0, b"CWS", kind("swf", "application/x-shockwave-flash", Class::Executable, Format::Plain)),
    (0, b"ZWS", kind("swf", "application/x-shockwave-flash", Class::Executable, Format::Plain)),
    (257, b"ustar", TAR),
    (32_769, b"CD001", ISO),
    (34_817, b"CD001", ISO),
    (32_769, b"BEA01", kind("udf", "application/x-udf-image", Class::Archive, Format::Closed)),
];

/// What the octets are.
pub fn of(data: &[u8]) -> Kind {
    mail(data).or_else(|| by_mark(data)).or_else(|| textual(data)).or_else(|| lzma(data)).or_else(|| known_elsewhere(data)).unwrap_or(DATA)
}

/// What a mark near its beginning says; most text has none.
pub fn by_mark(data: &[u8]) -> Option<Kind> {
    program(data).or_else(|| magic(data)).or_else(|| pdf(data)).or_else(|| other_archive(data))
}

fn magic(data: &[u8]) -> Option<Kind> {
    let found = MAGICS.iter().find(|(at, octets, _)| data.get(*at..at + octets.len()) == Some(*octets));
    found
        .map(|(_, _, kind)| *kind)
        .filter(|kind| kind.format != Format::Plain || kind.name != "swf" || data.get(3).is_some_and(|v| *v < 60))
}

/// A message may carry anything raw, and other marks near its beginning: its header comes first.
fn mail(data: &[u8]) -> Option<Kind> {
    let starts = data.first().is_some_and(u8::is_ascii_alphabetic);
    (starts && looks_like_mail(&lower_head(data, TEXT_HEAD))).then_some(MAIL)
}

/// MZ, Mach-O and Java, which one mark does not tell apart.
fn program(data: &[u8]) -> Option<Kind> {
    match data {
        [b'M', b'Z', ..] | [b'Z', b'M', ..] if data.len() >= 28 => {
            let at = le32(data, 60).unwrap_or(0) as usize;
            Some(if data.get(at..).is_some_and(|rest| rest.starts_with(b"PE\0\0")) { PE } else { DOS })
                .filter(|k| *k == PE || !is_text(data))
        }
        [0xfe, 0xed, 0xfa, 0xce | 0xcf, ..] | [0xce | 0xcf, 0xfa, 0xed, 0xfe, ..] => Some(MACHO),
        // Both begin alike; the next word is the number of architectures, or Java's version, which is 45 or more.
        [0xca, 0xfe, 0xba, 0xbe | 0xbf, ..] => Some(if be32(data, 4)? & 0xffff < 30 { MACHO } else { JAVA }),
        _ => None,
    }
}

/// Readers take a PDF whose mark is within the first KiB (ISO 32000 Annex H).
fn pdf(data: &[u8]) -> Option<Kind> {
    memchr::memmem::find(clamp(data, 0, 1_024 + 5), b"%PDF-").map(|_| PDF)
}

fn other_archive(data: &[u8]) -> Option<Kind> {
    if data.starts_with(b"BZh") && data.get(4..10) == Some(b"1AY&SY") {
        return Some(kind("bz2", "application/x-bzip2", Class::Archive, Format::Bzip2));
    }
    // A zstd stream may begin with a frame to be skipped.
    if data.get(1..4) == Some(b"\x2a\x4d\x18") && data[0] & 0xf0 == 0x50 {
        return Some(kind("zst", "application/zstd", Class::Archive, Format::Zstd));
    }
    if data.get(2..5) == Some(b"-lh") && data.get(6) == Some(&b'-') {
        return Some(kind("lha", "application/x-lzh-compressed", Class::Archive, Format::Closed));
    }
    // A disk image of macOS is told by its last block.
    if data.len().checked_sub(512).is_some_and(|at| data[at..].starts_with(b"koly\0\0\0\x04")) {
        return Some(kind("dmg", "application/x-apple-diskimage", Class::Archive, Format::Closed));
    }
    if crate::cms::is_cms(data) {
        return Some(CMS);
    }
    crate::tar::is_header(data).then_some(TAR)
}

/// What unpackers take for LZMA: properties, a dictionary of a size that encoders write, a size below 256 GiB or none, and the first octet
/// of the range coder, which is always 0.
fn lzma(data: &[u8]) -> Option<Kind> {
    let (dictionary, low, high) = (le32(data, 1)?, le32(data, 5)?, le32(data, 9)?);
    // The greatest stands for any size.
    let usual = dictionary == u32::MAX
        || dictionary >= 4_096 && (dictionary.is_power_of_two() || (dictionary / 3 * 2).is_power_of_two() && dictionary.is_multiple_of(3));
    let sized = high < 64 && (low, high) != (0, 0) || (low, high) == (u32::MAX, u32::MAX);
    (data[0] < 225 && usual && sized && data.get(13) == Some(&0)).then_some(LZMA)
}

/// Octets looked at to tell text and its kind.
const TEXT_HEAD: usize = 8 << 10;

/// Text by its look: no control octets but white space and escapes; UTF-16 counts.
pub fn is_text(data: &[u8]) -> bool {
    let head = clamp(data, 0, TEXT_HEAD as u64);
    let utf16 = head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff");
    !head.is_empty() && (utf16 || !head.iter().any(|&octet| octet < 32 && !matches!(octet, b'\t' | b'\n' | b'\r' | 12 | 27 | 26)))
}

/// The beginning of text in lower case, UTF-16 as the ASCII in it.
pub fn lower_head(data: &[u8], most: usize) -> Vec<u8> {
    let head = clamp(data, 0, most as u64);
    let wide = head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") || head.iter().take(400).filter(|&&o| o == 0).count() > 100;
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    head.iter().filter(|&&octet| !(wide && matches!(octet, 0 | 0xfe | 0xff))).map(u8::to_ascii_lowercase).collect()
}

fn textual(data: &[u8]) -> Option<Kind> {
    let head = lower_head(data, TEXT_HEAD);
    let start = head.trim_ascii_start();
    if is_markup(start, &head) {
        return Some(if has(&head, "<svg") && !has(&head, "<html") { SVG } else { HTML });
    }
    if !is_text(data) && !is_text(&head) {
        return None;
    }
    if let Some(found) = script::of(start, &head) {
        return Some(script(found));
    }
    if start.starts_with(b"[internetshortcut]") {
        return Some(kind("url", "application/x-mswinurl", Class::Executable, Format::Link));
    }
    if start.starts_with(b"<?xml") {
        return Some(XML);
    }
    Some(TEXT)
}

fn is_markup(start: &[u8], head: &[u8]) -> bool {
    const FIRST: &[&str] = &["<!doctype html", "<html", "<head", "<body", "<script", "<svg", "<iframe", "<hta:"];
    if FIRST.iter().any(|tag| start.starts_with(tag.as_bytes())) {
        return true;
    }
    let begins = start.starts_with(b"<") || start.starts_with(b"<!--");
    begins && ["<html", "<script>", "<script ", "<body", "<svg", "<!doctype html"].iter().any(|tag| has(head, tag))
}

/// The first line is a header field that messages begin with, and another such field follows in the header.
fn looks_like_mail(start: &[u8]) -> bool {
    const FIELDS: &[&str] = &[
        "return-path:",
        "received:",
        "from:",
        "to:",
        "subject:",
        "date:",
        "message-id:",
        "mime-version:",
        "delivered-to:",
        "content-type:",
        "x-",
        "dkim-signature:",
        "arc-seal:",
        "authentication-results:",
        "reply-to:",
    ];
    let is_field = |line: &[u8]| FIELDS.iter().any(|field| line.starts_with(field.as_bytes()));
    let mut lines = start.split(|&octet| octet == b'\n').take(40).take_while(|line| !line.trim_ascii().is_empty());
    lines.next().is_some_and(is_field) && lines.any(is_field)
}

fn known_elsewhere(data: &[u8]) -> Option<Kind> {
    let found = infer::get(data)?;
    let class = match found.matcher_type() {
        infer::MatcherType::App => Class::Executable,
        infer::MatcherType::Archive => Class::Archive,
        infer::MatcherType::Doc | infer::MatcherType::Book => Class::Document,
        infer::MatcherType::Audio | infer::MatcherType::Image | infer::MatcherType::Video | infer::MatcherType::Font => Class::Media,
        infer::MatcherType::Text => Class::Text,
        infer::MatcherType::Custom => Class::Data,
    };
    let format = if class == Class::Archive { Format::Closed } else { Format::Plain };
    Some(kind(found.extension(), found.mime_type(), class, format))
}

/// Extensions (lower case) that content of this type usually has; empty: any.
pub fn usual_extensions(kind: &Kind) -> &'static [&'static str] {
    match kind.name {
        "pe" => &["exe", "dll", "scr", "com", "ocx", "sys", "cpl", "drv", "efi", "xll", "pif"],
        "zip" => &[
            "zip", "jar", "xpi", "apk", "aab", "ipa", "war", "ear", "appx", "msix", "kmz", "3mf", "vsix", "nupkg", "whl", "egg", "pages",
            "numbers", "key", "sketch", "vsdx",
        ],
        "pdf" => &["pdf", "ai"],
        "html" => &["html", "htm", "xhtml", "shtml", "mht", "mhtml", "xht", "hta"],
        "7z" => &["7z"],
        "rar" => &["rar"],
        "gz" => &["gz", "tgz", "svgz", "emz", "wmz"],
        "iso" => &["iso", "img", "udf"],
        "cab" => &["cab", "msu"],
        "lnk" => &["lnk"],
        "png" => &["png"],
        "jpg" => &["jpg", "jpeg", "jpe", "jfif"],
        "gif" => &["gif"],
        _ => &[],
    }
}
