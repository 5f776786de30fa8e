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
const LINKS: &[&str] = &["href=\"data:", "href='data:", "href=data:"];
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
        markup(walker, id, &words);
        office::xml(walker, id, &words);
    }
    runs(walker, id, data, words.any(SCRIPTS))
}

fn markup(walker: &mut Walker, id: u32, words: &Words) {
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
    if words.any(LINKS) {
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
