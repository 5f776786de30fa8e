//! Mail of load generators: lines of nearly nothing but one letter. By its octets it is base64, but the same three octets in turn are no file,
//! and to decode and hash it would be the most that such a message costs.
//!
//! Asked by `loose` for a whole content and by `long_text` for one that comes in pieces. Nothing can stand behind or between the letters:
//! each few hundred octets are counted by themselves, and what is not the letter in two of them that meet is too short for a file.

use crate::wide;

/// Octets counted by themselves: at most a tenth of them, line ends aside, are others than the letter.
const BLOCK: usize = 256;
/// The same for pieces, whose borders lie anywhere; fewer and stricter, so that what passes here passes there.
const STEP: usize = BLOCK / 2;

/// Nearly nothing but one letter from end to end.
pub(crate) fn is_filling(text: &[u8]) -> bool {
    let whole = (text.len() / BLOCK).max(1);
    let letter = commonest(&text[..text.len().min(BLOCK)]);
    (0..whole).all(|n| {
        let end = if n + 1 == whole { text.len() } else { (n + 1) * BLOCK };
        let (same, others) = counted(&text[n * BLOCK..end], letter);
        same > others * 9
    })
}

/// The octet that there is most of. A file may well begin with octets that are all 0 or 255, which are `A` and `/` in base64.
fn commonest(head: &[u8]) -> u8 {
    let mut counts = [0usize; 256];
    for octet in head {
        counts[usize::from(*octet)] += 1;
    }
    (0..=255u8).filter(|octet| !b"A/\r\n".contains(octet)).max_by_key(|octet| counts[usize::from(*octet)]).unwrap_or_default()
}

/// Octets that are the letter, and that are neither it nor a line end.
fn counted(block: &[u8], letter: u8) -> (usize, usize) {
    let (mut same, mut ends) = (0, 0);
    for part in block.chunks(STEP) {
        // A part is too short for a count to wrap.
        same += usize::from(wide::sum(part, |octet| u8::from(octet == letter)));
        ends += usize::from(wide::sum(part, |octet| u8::from(octet == b'\r') | u8::from(octet == b'\n')));
    }
    (same, block.len() - same - ends)
}

/// Even if line ends count as something else.
fn is_filling_for_sure(step: &[u8], letter: u8) -> bool {
    let same = usize::from(wide::sum(step, |octet| u8::from(octet == letter)));
    step.len() - same <= 1 + same / 19
}

/// [`is_filling`] for a text that comes in pieces.
#[derive(Debug)]
pub(crate) struct Filling {
    letter: u8,
    octets: usize,
    same: usize,
    others: usize,
}

impl Filling {
    /// For a text that begins so.
    pub fn new(head: &[u8]) -> Self {
        Self { letter: commonest(&head[..head.len().min(BLOCK)]), octets: 0, same: 0, others: 0 }
    }

    /// The next octets. False when they hold something else.
    pub fn take(&mut self, mut piece: &[u8]) -> bool {
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(STEP - self.octets));
            if now.len() == STEP && is_filling_for_sure(now, self.letter) {
                piece = later;
                continue;
            }
            let (same, others) = counted(now, self.letter);
            (self.octets, self.same, self.others) = (self.octets + now.len(), self.same + same, self.others + others);
            // Of what is no whole step yet nobody knows what follows.
            if self.others > 1 + self.same / 19 {
                return false;
            }
            if self.octets == STEP {
                (self.octets, self.same, self.others) = (0, 0, 0);
            }
            piece = later;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(text: &[u8], size: usize) -> bool {
        let mut filling = Filling::new(text);
        text.chunks(size).all(|piece| filling.take(piece))
    }

    #[test]
    fn one_letter_is_filling_wherever_it_is_cut() {
        let line = [b"7", b"X".repeat(77).as_slice(), b"\r\n"].concat();
        for count in [4, 60, 1_000] {
            let text = line.repeat(count);
            assert!(is_filling(&text));
            assert!([1, 50, 127, 128, 129, 4_096].iter().all(|size| in_pieces(&text, *size)));
        }
        assert!(is_filling(b"XXXXXXXXXXXX") && !is_filling(b"TVqQAAMAAAAEAAAA") && !is_filling(&b"A".repeat(5_000)));
    }

    #[test]
    fn what_stands_behind_or_between_the_letters_is_seen() {
        let file = b"WDVPIVAlQEFQWzRcUFpYNTQoUF4pN0NDKTd9JEVJQ0FSLVNUQU5EQVJELUFOVElWSVJVUy1URVNU";
        for before in [256, 4_096, 4_100, 70_000, 1 << 20] {
            for after in [0, 16, 100, 5_000] {
                let text = [b"X".repeat(before).as_slice(), file, b"X".repeat(after).as_slice()].concat();
                assert!(!is_filling(&text), "{before} {after}");
                assert!([1, 100, 128, 4_096].iter().all(|size| !in_pieces(&text, *size)), "{before} {after}");
            }
        }
    }
}
