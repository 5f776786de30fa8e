//! VBA source: MS-OVBA decompression, and the names that Office runs by itself.

/// Names run when a document is opened, closed, saved or shown, in lower case.
const AUTO: &[&str] = &[
    "autoexec",
    "autoopen",
    "autoclose",
    "autoexit",
    "autonew",
    "auto_open",
    "auto_close",
    "auto_exec",
    "auto_exit",
    "auto_new",
    "document_open",
    "document_close",
    "document_new",
    "document_beforeclose",
    "documentopen",
    "documentbeforeclose",
    "newdocument",
    "workbook_open",
    "workbook_activate",
    "workbook_deactivate",
    "workbook_close",
    "workbook_beforeclose",
    "app_documentopen",
    "app_workbookopen",
    "worksheet_activate",
    "worksheet_change",
    "worksheet_calculate",
    "inkpicture_painted",
    "inkpicture1_painted",
    "_layout",
    "_gotfocus",
    "_lostfocus",
    "_mousehover",
    "_resize",
    "_change",
    "onslidepagechange",
    "slideshownextclick",
    "presentationopen",
];

/// What a macro would do; each is reported, none alone is a verdict.
const ACTS: &[&str] = &[
    "shell",
    "createobject",
    "getobject",
    "wscript.shell",
    "powershell",
    "urldownloadtofile",
    "msxml2.xmlhttp",
    "winhttp",
    "adodb.stream",
    "scripting.filesystemobject",
    "environ",
    "callbyname",
    "virtualalloc",
    "createthread",
    "regsvr32",
    "mshta",
    "rundll32",
    "cmd.exe",
];

/// Decompressed source of one module is at most that long.
const SOURCE_MAX: usize = 4 << 20;

/// Decompress one container (MS-OVBA 2.4.1); what is damaged ends it.
pub fn decompress(data: &[u8]) -> Option<Vec<u8>> {
    let mut data = data.strip_prefix(&[1])?;
    let mut out = Vec::new();
    while let [low, high, rest @ ..] = data {
        let header = u16::from_le_bytes([*low, *high]);
        if header >> 12 & 7 != 3 || out.len() > SOURCE_MAX {
            break;
        }
        let size = usize::from(header & 0xfff) + 1;
        let body = &rest[..size.min(rest.len())];
        if header & 0x8000 == 0 {
            out.extend_from_slice(body);
        } else {
            chunk(body, &mut out);
        }
        data = &rest[body.len()..];
    }
    (!out.is_empty()).then_some(out)
}

/// Tokens: eight at a time behind an octet of flags; a copy's split into offset and length depends on how much has come out.
fn chunk(mut body: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    while let [flags, rest @ ..] = body {
        body = rest;
        for bit in 0..8 {
            if flags >> bit & 1 == 0 {
                let [octet, rest @ ..] = body else { return };
                out.push(*octet);
                body = rest;
                continue;
            }
            let [low, high, rest @ ..] = body else { return };
            body = rest;
            let token = usize::from(u16::from_le_bytes([*low, *high]));
            let done = out.len() - start;
            if done == 0 || done > 4_096 {
                return;
            }
            let bits = (usize::BITS - (done - 1).leading_zeros()).clamp(4, 12);
            let length = (token & (0xffff >> bits)) + 3;
            let offset = (token >> (16 - bits)) + 1;
            if offset > done {
                return;
            }
            for _ in 0..length {
                out.push(out[out.len() - offset]);
            }
        }
    }
}

/// The source in a module's stream: it stands behind compiled code of unknown length, and always begins with `Attribut`.
pub fn source(stream: &[u8]) -> Option<Vec<u8>> {
    let places = memchr::memmem::find_iter(stream, b"\0Attribut").filter_map(|at| at.checked_sub(3));
    places.filter(|&at| stream[at] == 1).find_map(|at| decompress(&stream[at..]))
}

/// Words found in source or compiled names: what runs by itself, and what it would do.
pub fn signs(text: &[u8]) -> (Vec<&'static str>, Vec<&'static str>) {
    let lower: Vec<u8> = text.iter().filter(|octet| **octet != 0).map(u8::to_ascii_lowercase).collect();
    let autos = AUTO.iter().copied().filter(|name| is_procedure(&lower, name)).collect();
    let acts = ACTS.iter().copied().filter(|word| memchr::memmem::find(&lower, word.as_bytes()).is_some()).collect();
    (autos, acts)
}

/// The name as a whole word, or as the end of one when it begins with `_`.
fn is_procedure(text: &[u8], name: &str) -> bool {
    let is_word = |octet: Option<&u8>| octet.is_some_and(|octet| octet.is_ascii_alphanumeric() || *octet == b'_');
    memchr::memmem::find_iter(text, name.as_bytes()).any(|at| {
        let before = at.checked_sub(1).and_then(|at| text.get(at));
        let ends = !is_word(text.get(at + name.len()));
        ends && (!is_word(before) || name.starts_with('_') && is_sub(text, at))
    })
}

/// Event names of controls count only where a procedure is defined: `Sub Frame1_Layout(`.
fn is_sub(text: &[u8], at: usize) -> bool {
    let line = text[..at].iter().rposition(|octet| matches!(octet, b'\n' | b'\r')).map_or(0, |end| end + 1);
    memchr::memmem::find(&text[line..at], b"sub ").is_some()
}
