//! Office documents: macros in OLE, OOXML and ODF, encryption, templates and objects from elsewhere, DDE.

use crate::budget::Stop;
use crate::bytes::{Words, le16};
use crate::kind::{self, Class};
use crate::ole::Compound;
use crate::report::Flags;
use crate::vba;
use crate::walk::Walker;

/// Class id of Windows installer packages, without its first octet, which tells packages, patches and transforms apart.
const INSTALLER: [u8; 15] = [0x10, 0x0c, 0, 0, 0, 0, 0, 0xc0, 0, 0, 0, 0, 0, 0, 0x46];

/// What a compound file is, whether it is encrypted, and its macros.
pub fn document(walker: &mut Walker, id: u32, file: &Compound<'_>) -> Result<(), Stop> {
    let has_stream = |name: &str| file.nodes.iter().any(|node| node.name.eq_ignore_ascii_case(name));
    let known = if file.class[1..] == INSTALLER && matches!(file.class[0], 0x82 | 0x84 | 0x86) {
        Some(kind::ole("msi", "application/x-msi", Class::Executable))
    } else if has_stream("WordDocument") {
        Some(kind::ole("doc", "application/msword", Class::Document))
    } else if has_stream("Workbook") || has_stream("Book") {
        Some(kind::ole("xls", "application/vnd.ms-excel", Class::Document))
    } else if has_stream("PowerPoint Document") {
        Some(kind::ole("ppt", "application/vnd.ms-powerpoint", Class::Document))
    } else if has_stream("__properties_version1.0") {
        Some(kind::ole("msg", "application/vnd.ms-outlook", Class::Mail))
    } else {
        None
    };
    let entry = walker.entry(id);
    if let Some(known) = known {
        entry.kind = Some(known);
        if known.class == Class::Executable {
            entry.flags.set(Flags::EXECUTABLE);
        }
    }
    if has_stream("EncryptedPackage") {
        entry.flags.set(Flags::ENCRYPTED);
        entry.sign("office:encrypted-package");
    }
    for node in file.nodes.iter().filter(|node| node.is_stream) {
        let name = node.name.to_ascii_lowercase();
        walker.budget.tick()?;
        match name.as_str() {
            "worddocument" => word(walker, id, &file.stream(node)),
            "workbook" | "book" => workbook(walker, id, &file.stream(node)),
            _ if node.path.to_ascii_lowercase().contains("vba/") || name == "_vba_project" => {
                module(walker, id, &node.name, &file.stream(node));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The flag of the file information block (MS-DOC 2.5.1).
fn word(walker: &mut Walker, id: u32, stream: &[u8]) {
    if le16(stream, 10).is_some_and(|flags| flags & 0x0100 != 0) {
        walker.entry(id).flags.set(Flags::ENCRYPTED);
    }
}

/// BIFF records: FILEPASS, macro sheets, names that run by themselves (MS-XLS 2.4.117, 2.4.28, 2.4.150).
fn workbook(walker: &mut Walker, id: u32, stream: &[u8]) {
    let mut at = 0;
    let mut encrypted = false;
    while let (Some(kind), Some(length)) = (le16(stream, at), le16(stream, at + 2)) {
        let body = crate::bytes::clamp(stream, at as u64 + 4, u64::from(length));
        match kind {
            0x2f => {
                walker.entry(id).flags.set(Flags::ENCRYPTED);
                encrypted = true;
            }
            // BOUNDSHEET is never encrypted but for its name: type 1 is a sheet of Excel 4.0 macros, 6 a VBA module.
            0x85 if body.get(5) == Some(&1) => {
                let entry = walker.entry(id);
                entry.flags.set(Flags::MACRO);
                entry.sign("macro:excel4-sheet");
            }
            // A built-in name: 1 is Auto_Open, 2 Auto_Close.
            0x18 if !encrypted && le16(body, 0).is_some_and(|flags| flags & 0x20 != 0) && matches!(body.get(15), Some(1 | 2)) => {
                let entry = walker.entry(id);
                entry.flags.set(Flags::AUTORUN);
                entry.sign("macro:auto_open");
            }
            _ => {}
        }
        at += 4 + usize::from(length);
    }
}

/// A stream of a VBA project: its source, or the names in the compiled form where the source was taken away.
fn module(walker: &mut Walker, id: u32, name: &str, stream: &[u8]) {
    let source = vba::source(stream);
    let text = source.as_deref().unwrap_or(if name.eq_ignore_ascii_case("_vba_project") { stream } else { &[] });
    let (autos, acts) = vba::signs(text);
    let entry = walker.entry(id);
    entry.flags.set(Flags::MACRO);
    if source.is_some() && !matches!(name.to_ascii_lowercase().as_str(), "dir" | "_vba_project") {
        entry.sign(format!("macro:module {name}"));
    }
    for auto in autos {
        entry.flags.set(Flags::AUTORUN);
        entry.sign(format!("macro:{auto}"));
    }
    for act in acts {
        entry.sign(format!("macro:uses {act}"));
    }
}

/// A zip that is a document, by the entries found in it from `first` on. Macros inside make it a macro document.
pub fn refine(walker: &mut Walker, id: u32, first: usize) {
    let children: Vec<(String, Flags, Vec<String>)> = walker
        .entries
        .iter()
        .skip(first)
        .filter(|entry| entry.parent == Some(id))
        .map(|entry| (entry.name.to_ascii_lowercase().replace('\\', "/"), entry.flags, entry.signs.clone()))
        .collect();
    let any = |test: &dyn Fn(&str) -> bool| children.iter().any(|(name, ..)| test(name));
    let is_office = any(&|name| name == "[content_types].xml");
    let is_odf = any(&|name| name == "mimetype") && any(&|name| name == "content.xml" || name == "meta-inf/manifest.xml");
    let known = match () {
        () if is_office && any(&|name| name.starts_with("word/")) => {
            Some(("docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"))
        }
        () if is_office && any(&|name| name.starts_with("xl/")) => {
            Some(("xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"))
        }
        () if is_office && any(&|name| name.starts_with("ppt/")) => {
            Some(("pptx", "application/vnd.openxmlformats-officedocument.presentationml.presentation"))
        }
        () if is_odf => Some(("odf", "application/vnd.oasis.opendocument")),
        () if any(&|name| name == "androidmanifest.xml") => Some(("apk", "application/vnd.android.package-archive")),
        () if any(&|name| name == "meta-inf/manifest.mf") => Some(("jar", "application/java-archive")),
        () => None,
    };
    let Some((name, mime)) = known else { return };
    let class = if matches!(name, "apk" | "jar") { Class::Executable } else { Class::Document };
    let entry = walker.entry(id);
    entry.kind = Some(kind::zipped(name, mime, class));
    entry.flags.0 &= !Flags::MISNAMED.0;
    if class == Class::Executable {
        entry.flags.set(Flags::EXECUTABLE);
        return;
    }
    for (name, flags, signs) in children {
        part(walker, id, &name, flags, &signs);
    }
}

fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, last)| last == extension)
}

/// What one part tells about its document.
fn part(walker: &mut Walker, id: u32, name: &str, flags: Flags, signs: &[String]) {
    let entry = walker.entry(id);
    let in_basic = name.starts_with("basic/") && has_extension(name, "xml") && !name.ends_with("-lc.xml") && !name.ends_with("-lb.xml");
    let is_macro = flags.has(Flags::MACRO)
        || name.ends_with("vbaproject.bin")
        || name.contains("/macrosheets/")
        || in_basic
        || name.starts_with("scripts/");
    if is_macro {
        entry.flags.set(Flags::MACRO);
        entry.sign(format!("macro:part {name}"));
    }
    for flag in [Flags::AUTORUN, Flags::LAUNCH, Flags::EMBEDS] {
        if flags.has(flag) {
            entry.flags.set(flag);
        }
    }
    if name.contains("/embeddings/") || name.contains("/activex/") {
        entry.flags.set(Flags::EMBEDS);
        entry.sign(format!("office:object {name}"));
    }
    if flags.has(Flags::ENCRYPTED) {
        entry.flags.set(Flags::ENCRYPTED);
    }
    signs.iter().filter(|sign| sign.starts_with("macro:") || sign.starts_with("office:")).for_each(|sign| entry.sign(sign.clone()));
}

/// Words that [`xml`] asks for.
pub const WORDS: &[&str] = &[
    "targetmode=\"external\"",
    "/attachedtemplate\"",
    "/oleobject\"",
    "/frame\"",
    "/subdocument\"",
    "/externallink\"",
    "ddeauto",
    "<ddelink",
    "ddeservice=",
    "encryption-data",
    "script:event-listener",
    "dom:load",
    "office:open",
    "dom:unload",
];

/// XML parts of documents: relations to elsewhere, DDE, encryption and event listeners of ODF. Called for all markup.
pub fn xml(walker: &mut Walker, id: u32, words: &Words) {
    let name = walker.entries[id as usize].name.to_ascii_lowercase();
    let entry = walker.entry(id);
    if has_extension(&name, "rels") && words.has("targetmode=\"external\"") {
        for relation in ["/attachedtemplate\"", "/oleobject\"", "/frame\"", "/subdocument\"", "/externallink\""] {
            if words.has(relation) {
                entry.flags.set(Flags::LAUNCH);
                entry.sign(format!("office:external-{}", relation.trim_matches(['/', '"'])));
            }
        }
    }
    if words.any(&["ddeauto", "<ddelink", "ddeservice="]) {
        entry.flags.set(Flags::LAUNCH);
        entry.sign("office:dde");
    }
    if name == "meta-inf/manifest.xml" && words.has("encryption-data") {
        entry.flags.set(Flags::ENCRYPTED);
    }
    if words.has("script:event-listener") && words.any(&["dom:load", "office:open", "dom:unload"]) {
        entry.flags.set(Flags::AUTORUN);
        entry.sign("macro:event-listener");
    }
}
