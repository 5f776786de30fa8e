//! Patterns with `*` (any octets) and `?` (one), and looking for them in many lines at once.

use memchr::{memchr, memmem, memrchr};

/// Whether a text is a pattern.
pub fn is_glob(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether all of a text fits. Linear but for the last `*`, which is tried at every place.
pub fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match &mut star {
                Some((at, from)) => {
                    *from += 1;
                    p = *at + 1;
                    t = *from;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// A pattern ready for many lines.
pub struct Glob {
    pattern: Vec<u8>,
    /// Its longest piece without wildcards: lines without it are passed over at the speed of memory.
    piece: Option<memmem::Finder<'static>>,
}

impl Glob {
    /// `pattern` in the case of the lines.
    pub fn new(pattern: &str) -> Self {
        let piece = pattern.split(['*', '?']).max_by_key(|piece| piece.len()).filter(|piece| !piece.is_empty());
        Self { pattern: pattern.as_bytes().to_vec(), piece: piece.map(|piece| memmem::Finder::new(piece).into_owned()) }
    }

    /// Whether a text in any case fits.
    pub fn takes(&self, text: &str) -> bool {
        if text.is_ascii() {
            let mut lower = [0u8; 256];
            if let Some(lower) = lower.get_mut(..text.len()) {
                lower.copy_from_slice(text.as_bytes());
                lower.make_ascii_lowercase();
                return self.piece.as_ref().is_none_or(|piece| piece.find(lower).is_some()) && fits(&self.pattern, lower);
            }
        }
        fits(&self.pattern, text.to_lowercase().as_bytes())
    }

    /// Calls `f` with each fitting one of lines that end with a line feed.
    pub fn lines<'a>(&self, lines: &'a [u8], f: &mut dyn FnMut(&'a [u8])) {
        let mut at = 0;
        while at < lines.len() {
            let hit = match &self.piece {
                Some(piece) => match piece.find(&lines[at..]) {
                    Some(hit) => at + hit,
                    None => return,
                },
                None => at,
            };
            let begin = memrchr(b'\n', &lines[at..hit]).map_or(at, |n| at + n + 1);
            let end = memchr(b'\n', &lines[hit..]).map_or(lines.len(), |n| hit + n);
            let line = &lines[begin..end];
            if fits(&self.pattern, line) {
                f(line);
            }
            at = end + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_fits_as_a_whole() {
        assert!(fits(b"*", b"") && fits(b"**a", b"bba") && !fits(b"?", b"") && fits(b"a*c@?", b"abcc@d") && !fits(b"a*c@?", b"abc@dd"));
    }

    #[test]
    fn lines_are_found_as_if_each_was_looked_at() {
        let lines = b"ann@a.example\nbob@b.example\nbobby@a.example\n\nx@bob.example\n";
        for pattern in ["bob*", "*", "*@a.example", "?ob@*", "*bob*", "x*x", "???@*", "nobody*", "bob@b.example"] {
            let mut found = Vec::new();
            Glob::new(pattern).lines(lines, &mut |line| found.push(line));
            let all = lines.strip_suffix(b"\n").unwrap().split(|b| *b == b'\n');
            assert_eq!(found, all.filter(|line| fits(pattern.as_bytes(), line)).collect::<Vec<_>>(), "{pattern}");
        }
    }
}
