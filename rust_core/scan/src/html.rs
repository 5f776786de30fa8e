//! HTML, SVG, XML and scripts: script inside, files that the page carries and hands out itself (smuggling), and those files.
//!
//! Long base64 in the text is decoded; what turns out to be an archive, program or document becomes an entry.

use crate::budget::Stop;
use crate::bytes::Words;
use crate::kind::{self, Class};
use crate::office;
use crate::report::Flags;
use crate::walk::Walker;

/// Shorter runs of base64 are no file worth a look.
const RUN_MIN: usize = 200;
/// Runs decoded in one file.
const RUNS_MAX: usize = 200;
/// Handlers that run script without a script element.
const HANDLERS: &[&str] =
    &["onload=", "onerror=", "onclick=", "onmouseover=", "onfocus=", "ontoggle=", "onpageshow=", "onbegin=", "onanimationstart="];
/// Ways to make a file in the browser.
const MAKERS: &[&str] =
    &["new blob(", "createobjecturl", "mssaveoropenblob", "mssaveblob", "new file(", "download=", ".download", "showsavefilepicker"];
/// Links to a file in the page itself: browsers do nothing with them but hand it out.
const LINKS: &[&str] = &[
    "href=\"data:",
    "href='data:",
    "href=data:",
    "data=\"data:",
    "data='data:",
    "data=data:",
    "src=\"data:text/html",
    "src='data:text/html",
    "src=data:text/html",
    "src=\"data:application",
    "src='data:application",
    "src=data:application",
];
/// Octets of a page that are looked at in one go for hidden links, and what the next go looks at again.
const PIECE: usize = 1 << 20;
const OVERLAP: usize = 1 << 10;
/// Ways to turn text into its octets.
const DECODERS: &[&str] = &["atob(", "fromcharcode", "uint8array", "charcodeat", "data:application/", ";base64,"];

/// Ways to have script or other content run.
const TAGS: &[&str] = &[
    "<script>",
    "<script ",
    "<script\t",
    "<script\r",
    "<script\n",
    "<script/",
    "javascript:",
    "vbscript:",
    "<iframe",
    "<object",
    "<embed",
    "<applet",
    "<form",
    "type=\"password\"",
    "type=password",
    "type='password'",
    "http-equiv=\"refresh\"",
    "http-equiv=refresh",
];

/// Those of [`TAGS`] that are script. `<script:` is an element of `OpenDocument`, and none.
const SCRIPTS: &[&str] = &["<script>", "<script ", "<script\t", "<script\r", "<script\n", "<script/", "javascript:", "vbscript:"];

/// Look through text.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let wanted = [TAGS, HANDLERS, MAKERS, DECODERS, LINKS, office::WORDS].concat();
    let words = Words::find(data, wanted);
    walker.budget.tick()?;
    let class = walker.entries[id as usize].kind.map_or(Class::Markup, |kind| kind.class);
    if class == Class::Markup {
        markup(walker, id, &words, words.any(LINKS) || has_hidden_link(data));
        office::xml(walker, id, &words);
    }
    runs(walker, id, data, words.any(SCRIPTS))
}

/// A link of [`LINKS`] that is written so that it does not look like one.
fn has_hidden_link(data: &[u8]) -> bool {
    let starts = (0..data.len()).step_by(PIECE);
    starts.map(|at| &data[at..(at + PIECE + OVERLAP).min(data.len())]).any(|piece| {
        let text = as_addresses(piece).to_ascii_lowercase();
        let is_link = |at: usize| {
            let begins = |link: &&str| {
                link.find("data:").and_then(|cut| at.checked_sub(cut)).is_some_and(|from| text[from..].starts_with(link.as_bytes()))
            };
            LINKS.iter().any(begins)
        };
        memchr::memmem::find_iter(&text, b"data:").any(is_link)
    })
}

/// Text as browsers read addresses in it: numbered characters and those that have names undone, tabs and line ends gone. Only ASCII is of
/// interest.
fn as_addresses(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut rest = data;
    while let Some(at) = memchr::memchr(b'&', rest) {
        push_visible(&mut out, &rest[..at]);
        let (octet, used) = reference(&rest[at..]).unwrap_or((b'&', 1));
        push_visible(&mut out, &[octet]);
        rest = &rest[at + used..];
    }
    push_visible(&mut out, rest);
    out
}

fn push_visible(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(text.iter().filter(|octet| !matches!(octet, b'\t' | b'\r' | b'\n')));
}

/// A character reference and its length. The semicolon may be missing.
fn reference(text: &[u8]) -> Option<(u8, usize)> {
    for (name, octet) in [("&colon;", b':'), ("&tab;", b'\t'), ("&newline;", b'\n'), ("&sol;", b'/'), ("&comma;", b',')] {
        if text.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes())) {
            return Some((octet, name.len()));
        }
    }
    let (radix, start) = match text.get(1..3)? {
        [b'#', b'x' | b'X'] => (16, 3),
        [b'#', _] => (10, 2),
        _ => return None,
    };
    let digits = text[start..].iter().take(9).take_while(|octet| (**octet as char).is_digit(radix)).count();
    let number = std::str::from_utf8(&text[start..start + digits]).ok().and_then(|digits| u32::from_str_radix(digits, radix).ok())?;
    let end = start + digits;
    Some((u8::try_from(number).ok()?, end + usize::from(text.get(end) == Some(&b';'))))
}

fn markup(walker: &mut Walker, id: u32, words: &Words, links: bool) {
    let scripts = words.any(SCRIPTS) || words.any(HANDLERS);
    let entry = walker.entry(id);
    for (sign, found) in [
        ("html:script", scripts),
        ("html:iframe", words.has("<iframe")),
        ("html:object", words.any(&["<object", "<embed", "<applet"])),
        ("html:form", words.has("<form") && words.any(&["type=\"password\"", "type=password", "type='password'"])),
        ("html:refresh", words.any(&["http-equiv=\"refresh\"", "http-equiv=refresh"])),
    ] {
        if found {
            entry.sign(sign);
        }
    }
    if links {
        entry.flags.set(Flags::SMUGGLES);
        entry.sign("html:data-link");
    }
    if scripts {
        entry.flags.set(Flags::SCRIPT);
        if words.any(MAKERS) && words.any(DECODERS) {
            entry.flags.set(Flags::SMUGGLES);
            entry.sign("html:smuggling");
        }
    }
}

/// Runs of base64, over line ends: in `data:` URLs, in strings of scripts, in encoded PowerShell commands.
fn runs(walker: &mut Walker, id: u32, data: &[u8], scripted: bool) -> Result<(), Stop> {
    let is_digit = |octet: u8| octet.is_ascii_alphanumeric() || octet == b'+' || octet == b'/';
    let mut at = 0;
    let mut found = 0;
    while at < data.len() && found < RUNS_MAX {
        let Some(start) = data[at..].iter().position(|octet| is_digit(*octet)).map(|place| at + place) else { break };
        let length =
            data[start..].iter().position(|octet| !is_digit(*octet) && !matches!(octet, b'\r' | b'\n')).unwrap_or(data.len() - start);
        at = start + length;
        if length >= RUN_MIN {
            found += 1;
            run(walker, id, &data[start..at], scripted)?;
        }
    }
    walker.budget.tick()
}

fn run(walker: &mut Walker, id: u32, text: &[u8], scripted: bool) -> Result<(), Stop> {
    let Some(octets) = gatepost_mime::decode::decode("base64", text) else { return Ok(()) };
    walker.budget.spend(octets.len(), text.len() as u64, octets.len() as u64)?;
    let kind = kind::of(&octets);
    if matches!(kind.class, Class::Media | Class::Data | Class::Text) {
        return Ok(());
    }
    let entry = walker.entry(id);
    entry.flags.set(Flags::EMBEDS);
    entry.sign(format!("html:carries {}", kind.name));
    if scripted || matches!(kind.class, Class::Executable | Class::Archive | Class::Script) {
        entry.flags.set(Flags::SMUGGLES);
    }
    walker.budget.hold(octets.len());
    let looked = walker.child(id, &format!("base64.{}", kind.name), &octets).map(drop);
    walker.budget.release(octets.len());
    looked
}
