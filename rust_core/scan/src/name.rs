//! What a file's name tells, and what it tries to hide: extension, double extension, trailing dots and spaces, direction marks, look-alikes.
//!
//! Names are compared in a folded form: full-width and look-alike letters as their ASCII ones, marks without width left out, lower case.

use crate::report::Flags;

/// Extensions blocked by Outlook or Gmail (docs/scanning.md gives the sources), sorted.
#[rustfmt::skip]
pub const BLOCKED_EXTENSIONS: &[&str] = &[
    "ade", "adp", "apk", "app", "appcontent-ms", "application", "appref-ms", "appx", "appxbundle", "asp", "aspx", "asx", "bas", "bat", "bgi", "cab",
    "cdxml", "cer", "chm", "cmd", "cnt", "com", "cpl", "crt", "csh", "der", "diagcab", "diagcfg", "diagpkg", "dll", "dmg", "ex", "ex_", "exe", "fxp",
    "gadget", "grp", "hlp", "hpj", "hta", "htc", "img", "inf", "ins", "iso", "isp", "its", "jar", "jnlp", "js", "jse", "ksh", "lib", "library-ms",
    "lnk", "mad", "maf", "mag", "mam", "maq", "mar", "mas", "mat", "mau", "mav", "maw", "mcf", "mda", "mdb", "mde", "mdt", "mdw", "mdz", "mht",
    "mhtml", "mjs", "msc", "msh", "msh1", "msh1xml", "msh2", "msh2xml", "mshxml", "msi", "msix", "msixbundle", "msp", "mst", "msu", "nsh", "ops", "osd",
    "pcd", "pif", "pl", "plg", "prf", "prg", "printerexport", "ps1", "ps1xml", "ps2", "ps2xml", "psc1", "psc2", "psd1", "psdm1", "psm1", "pssc", "pst",
    "py", "pyc", "pyo", "pyw", "pyz", "pyzw", "reg", "scf", "scr", "sct", "search-ms", "settingcontent-ms", "shb", "shs", "sys", "theme", "themepack",
    "tmp", "udl", "url", "vb", "vbe", "vbp", "vbs", "vhd", "vhdx", "vsmacros", "vsw", "vxd", "webpnp", "website", "wim", "ws", "wsb", "wsc", "wsf", "wsh",
    "xbap", "xll", "xnk",
];

/// Whether an extension (folded) is one of [`BLOCKED_EXTENSIONS`].
pub fn is_blocked_extension(extension: &str) -> bool {
    BLOCKED_EXTENSIONS.binary_search(&extension).is_ok()
}

/// A name taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// The last component, folded, without trailing dots and spaces.
    pub folded: String,
    /// Behind the last dot of `folded`; empty when there is none.
    pub extension: String,
    /// Words for what is odd: `double-extension`, `trailing`, `direction`, `lookalike`, `invisible`, `control`, `padded`, `stream`.
    pub odd: Vec<&'static str>,
}

/// Extensions that people believe to be harmless, so that one before a real one deceives.
const HARMLESS: &[&str] = &[
    "pdf", "doc", "docx", "xls", "xlsx", "ppt", "pptx", "txt", "rtf", "csv", "jpg", "jpeg", "png", "gif", "bmp", "tif", "tiff", "mp3",
    "mp4", "avi", "wav", "zip", "htm", "html", "xml", "eml", "odt", "ods",
];

/// Names are looked at this far.
const NAME_MAX: usize = 1_024;

impl Name {
    /// Take a name apart.
    pub fn of(raw: &str) -> Self {
        let raw = cut(raw, NAME_MAX);
        let last = raw.rsplit(['/', '\\']).next().unwrap_or(raw);
        let mut odd = Vec::new();
        let folded = fold(last, &mut odd);
        let mut note = |word, is| {
            if is && !odd.contains(&word) {
                odd.push(word);
            }
        };
        let trimmed = folded.trim_end_matches(['.', ' ', '\t', '\u{a0}']);
        note("trailing", trimmed.len() < folded.len() && !trimmed.is_empty());
        // On NTFS `a.txt::$DATA` names a.txt, and `a.txt:b.exe` a stream of it.
        let (trimmed, stream) = trimmed.split_once(':').map_or((trimmed, ""), |(name, stream)| (name, stream));
        note("stream", !stream.is_empty());
        note("padded", trimmed.contains("     "));
        let mut parts = trimmed.rsplit('.').map(str::trim);
        let extension = if trimmed.contains('.') { parts.next().unwrap_or("") } else { "" };
        let before = if trimmed.matches('.').count() >= 2 { parts.next().unwrap_or("") } else { "" };
        note("double-extension", HARMLESS.contains(&before) && is_dangerous(extension));
        Self { extension: extension.to_owned(), folded: trimmed.to_owned(), odd }
    }

    /// The flags that follow from the name alone.
    pub fn flags(&self) -> Flags {
        let mut flags = Flags::default();
        if is_blocked_extension(&self.extension) {
            flags.set(Flags::BLOCKED_NAME);
        }
        if !self.odd.is_empty() {
            flags.set(Flags::DECEPTIVE_NAME);
        }
        flags
    }
}

fn is_dangerous(extension: &str) -> bool {
    is_blocked_extension(extension) || crate::script::EXTENSIONS.contains(&extension)
}

/// At most `most` octets, cut between characters.
pub fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text[..end]
}

fn fold(name: &str, odd: &mut Vec<&'static str>) -> String {
    let mut note = |word| {
        if !odd.contains(&word) {
            odd.push(word);
        }
    };
    let mut folded = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}' => note("direction"),
            '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' | '\u{ad}' | '\u{180e}' | '\u{fe00}'..='\u{fe0f}' => note("invisible"),
            '\0'..='\x1f' | '\x7f'..='\u{9f}' => note("control"),
            _ => match plain(c) {
                Some(same) => folded.push(same),
                None => folded.extend(c.to_lowercase()),
            },
        }
    }
    // A letter of another script is a look-alike only where it stands for ASCII: in an extension, or between ASCII letters.
    if looks_alike(name) {
        note("lookalike");
    }
    folded
}

fn looks_alike(name: &str) -> bool {
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let dotted = name.chars().any(|c| matches!(c, '\u{2024}' | '\u{ff0e}' | '\u{fe52}' | '\u{3002}' | '\u{ff61}'));
    let folds = |c: char| !c.is_ascii() && plain(c).is_some();
    dotted || extension.chars().count() <= 12 && extension.chars().any(folds) || name.chars().any(|c| matches!(c, '\u{ff01}'..='\u{ff5e}'))
}

/// The ASCII character that `c` is or looks like, in lower case.
fn plain(c: char) -> Option<char> {
    let same = match c {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xfee0)?,
        '\u{2024}' | '\u{fe52}' | '\u{3002}' | '\u{ff61}' => '.',
        'а' | 'А' | 'α' | 'Α' => 'a',
        'в' | 'В' | 'Β' => 'b',
        'с' | 'С' | 'ϲ' => 'c',
        'ԁ' => 'd',
        'е' | 'Е' | 'Ε' | 'ё' => 'e',
        'һ' | 'Н' | 'Η' => 'h',
        'і' | 'І' | 'ι' | 'Ι' | 'ı' => 'i',
        'ј' | 'Ј' => 'j',
        'к' | 'К' | 'κ' | 'Κ' => 'k',
        'ӏ' | 'Ӏ' => 'l',
        'м' | 'М' | 'Μ' => 'm',
        'о' | 'О' | 'ο' | 'Ο' => 'o',
        'р' | 'Р' | 'ρ' | 'Ρ' => 'p',
        'ѕ' | 'Ѕ' => 's',
        'т' | 'Т' | 'τ' | 'Τ' => 't',
        'ν' => 'v',
        'ѡ' => 'w',
        'х' | 'Х' | 'χ' | 'Χ' => 'x',
        'у' | 'У' | 'γ' | 'Υ' => 'y',
        'Ζ' => 'z',
        _ => return None,
    };
    Some(same.to_ascii_lowercase())
}

/// Glob match on a folded name: `*` any run, `?` one character. Linear in both but for one backtrack point.
pub fn matches_glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.to_lowercase().chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, seen)) => {
                    star = Some((at, seen + 1));
                    (p, n) = (at + 1, seen + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn odd(name: &str) -> (String, Vec<&'static str>) {
        let name = Name::of(name);
        (name.extension, name.odd)
    }

    #[test]
    fn the_list_of_blocked_extensions_is_sorted_so_that_it_can_be_searched() {
        assert!(BLOCKED_EXTENSIONS.is_sorted());
        assert!(is_blocked_extension("exe") && is_blocked_extension("vbs") && !is_blocked_extension("pdf"));
    }

    #[test]
    fn a_name_that_hides_its_extension_is_seen_through() {
        assert_eq!(odd("invoice.pdf"), ("pdf".into(), vec![]));
        assert_eq!(odd("invoice.pdf.exe"), ("exe".into(), vec!["double-extension"]));
        assert_eq!(odd("invoice.exe. . "), ("exe".into(), vec!["trailing"]));
        assert_eq!(odd("gpj.\u{202e}exe"), ("exe".into(), vec!["direction"]));
        assert_eq!(odd("a.e\u{200b}xe"), ("exe".into(), vec!["invisible"]));
        assert_eq!(odd("a.\u{ff45}\u{ff58}\u{ff45}"), ("exe".into(), vec!["lookalike"]));
        assert_eq!(odd("a.ехе"), ("exe".into(), vec!["lookalike"]));
        assert_eq!(odd("a\u{2024}exe"), ("exe".into(), vec!["lookalike"]));
        assert_eq!(odd("report.pdf                                    .exe"), ("exe".into(), vec!["padded", "double-extension"]));
        assert_eq!(odd("a.exe::$DATA"), ("exe".into(), vec!["stream"]));
        assert_eq!(odd("archive.tar.gz"), ("gz".into(), vec![]));
        assert_eq!(odd("отчёт.pdf"), ("pdf".into(), vec![]));
        assert_eq!(odd("C:\\Users\\x\\a.TXT"), ("txt".into(), vec![]));
    }

    #[test]
    fn globs_match_whole_names_and_stay_linear() {
        assert!(matches_glob("*.EXE", "a.exe") && matches_glob("in?oice*", "invoice 12") && matches_glob("*", ""));
        assert!(!matches_glob("*.exe", "a.exe.txt") && !matches_glob("a?", "a"));
        assert!(!matches_glob(&"*a".repeat(50), &"a".repeat(49)));
    }
}
