//! Replies of an SMTP or LMTP peer (RFC 5321 4.2), cut out of octets as they arrive. The twin of `delivery/peer_reply.py`, with its limits.

/// Octets of a line. RFC 5321 4.5.3.1.5 allows 512; peers are known to send more.
const MAX_LINE: usize = 2048;
/// Octets of a reply.
const MAX_REPLY: usize = 65_536;

/// One reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// Enhanced status code of the first line (RFC 3463); empty when there is none.
    pub enhanced: String,
    /// Texts without codes and control characters.
    pub lines: Vec<String>,
}

impl Reply {
    /// 2yz.
    pub fn good(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// The lines as one, at most `limit` characters.
    pub fn text(&self, limit: usize) -> String {
        self.lines.join(" ").chars().take(limit).collect()
    }
}

/// Takes octets, gives replies.
#[derive(Default)]
pub(crate) struct Parser {
    buffer: Vec<u8>,
    code: Option<u16>,
    lines: Vec<String>,
    octets: usize,
}

impl Parser {
    /// Adds octets. Bounded: a caller that goes on after an error of [`Parser::next`] is wrong.
    pub fn feed(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The next whole reply. The error says what was not SMTP.
    pub fn next(&mut self) -> Result<Option<Reply>, String> {
        while let Some(end) = self.buffer.iter().position(|octet| *octet == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            if let Some(reply) = self.line(&line[..end])? {
                return Ok(Some(reply));
            }
        }
        if self.buffer.len() > MAX_LINE { Err("a reply line is too long".into()) } else { Ok(None) }
    }

    fn line(&mut self, line: &[u8]) -> Result<Option<Reply>, String> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let mark = line.get(3).copied().unwrap_or(b' ');
        let digits = line.get(..3).filter(|code| code.iter().all(u8::is_ascii_digit));
        let Some(digits) = digits.filter(|_| line.len() <= MAX_LINE && matches!(mark, b' ' | b'-')) else {
            return Err(format!("not an SMTP reply: {}", String::from_utf8_lossy(&line[..line.len().min(80)]).escape_debug()));
        };
        let code = digits.iter().fold(0, |code, digit| code * 10 + u16::from(digit - b'0'));
        if self.code.is_some_and(|known| known != code) {
            return Err(format!("a reply mixes the codes {} and {code}", self.code.unwrap_or(0)));
        }
        self.code = Some(code);
        self.octets += line.len();
        if self.octets > MAX_REPLY {
            return Err("a reply is too long".into());
        }
        let text = String::from_utf8_lossy(line.get(4..).unwrap_or_default());
        self.lines.push(text.chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect());
        Ok((mark == b' ').then(|| self.whole(code)))
    }

    fn whole(&mut self, code: u16) -> Reply {
        (self.code, self.octets) = (None, 0);
        let mut lines = std::mem::take(&mut self.lines);
        let enhanced = enhanced(&lines[0]).to_owned();
        if !enhanced.is_empty() {
            for line in &mut lines {
                if let Some(rest) = line.strip_prefix(&enhanced) {
                    *line = rest.trim_start().to_owned();
                }
            }
        }
        Reply { code, enhanced, lines }
    }
}

/// The enhanced status code that a text begins with, or nothing.
fn enhanced(text: &str) -> &str {
    let word = text.split(' ').next().unwrap_or("");
    let number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    let mut parts = word.split('.');
    let class = parts.next().is_some_and(|class| matches!(class, "2" | "4" | "5"));
    let rest = [parts.next(), parts.next()];
    if class && rest.iter().all(|part| part.is_some_and(number)) && parts.next().is_none() { word } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pieces: &[&[u8]]) -> Result<Vec<Reply>, String> {
        let mut parser = Parser::default();
        let mut replies = Vec::new();
        for piece in pieces {
            parser.feed(piece);
            while let Some(reply) = parser.next()? {
                replies.push(reply);
            }
        }
        Ok(replies)
    }

    #[test]
    fn replies_are_the_same_however_they_are_cut() {
        let text: &[u8] = b"250-2.1.0 first\r\n250 2.1.0 second\r\n354 go\n421\r\n";
        let whole = all(&[text]).unwrap();
        assert_eq!(whole.iter().map(|r| r.code).collect::<Vec<_>>(), [250, 354, 421]);
        assert_eq!((whole[0].enhanced.as_str(), whole[0].text(99).as_str()), ("2.1.0", "first second"));
        for cut in 0..text.len() {
            assert_eq!(all(&[&text[..cut], &text[cut..]]).unwrap(), whole);
        }
    }

    #[test]
    fn what_is_no_reply_is_refused_and_lines_are_bounded() {
        for bad in [&b"hello\r\n"[..], b"25\r\n", b"250-a\r\n550 b\r\n", b"250*x\r\n", b"\r\n", &[b'2'; 3000]] {
            assert!(all(&[bad]).is_err(), "{bad:?}");
        }
        assert!(all(&[&b"250-x\r\n".repeat(20_000)]).is_err());
    }
}
