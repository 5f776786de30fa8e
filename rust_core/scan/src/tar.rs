//! tar: ustar, GNU and pax. Long names are honoured, sizes are clamped to what is there.

use crate::budget::Stop;
use crate::bytes::{clamp, text};
use crate::report::Defect;
use crate::walk::Walker;

const BLOCK: usize = 512;
/// Long names beyond this are cut.
const NAME_MAX: u64 = 8 << 10;

/// Whether a header with a right checksum is at the start (tar before ustar has no mark).
pub fn is_header(data: &[u8]) -> bool {
    let Some(header) = data.get(..BLOCK) else { return false };
    header[0] != 0 && checksum_fits(header) && octal(&header[100..108]).is_some()
}

fn checksum_fits(header: &[u8]) -> bool {
    let sum: u64 = header.iter().enumerate().map(|(at, &octet)| u64::from(if (148..156).contains(&at) { b' ' } else { octet })).sum();
    octal(&header[148..156]) == Some(sum)
}

/// A number in octal text, or in base 256 when the first bit is set.
fn octal(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let low = field.len().saturating_sub(8);
        return Some(field[low..].iter().fold(0, |value: u64, &octet| value << 8 | u64::from(octet)) & (u64::MAX >> 1));
    }
    let digits = field.iter().copied().skip_while(|&o| o == b' ').take_while(|&o| o != 0 && o != b' ');
    digits
        .map(|o| matches!(o, b'0'..=b'7').then(|| u64::from(o - b'0')))
        .try_fold(0u64, |value, digit| value.checked_mul(8)?.checked_add(digit?))
}

/// All entries.
pub fn read(walker: &mut Walker, id: u32, data: &[u8]) -> Result<(), Stop> {
    let mut at = 0u64;
    let mut long_name: Option<String> = None;
    loop {
        let header = clamp(data, at, BLOCK as u64);
        if header.len() < BLOCK {
            walker.entry(id).defect(Defect::Truncated);
            return Ok(());
        }
        if header.iter().all(|&octet| octet == 0) {
            match next_header(walker, id, data, at) {
                Some(next) => at = next,
                None => return Ok(()),
            }
            continue;
        }
        if !checksum_fits(header) {
            walker.entry(id).defect(Defect::Damaged);
            return Ok(());
        }
        let size = octal(&header[124..136]).unwrap_or(u64::MAX >> 1);
        let body = at + BLOCK as u64;
        let content = clamp(data, body, size);
        if (content.len() as u64) < size {
            walker.entry(id).defect(Defect::Truncated);
        }
        match header[156] {
            b'L' | b'K' | b'x' | b'g' => extension(header[156], content, &mut long_name),
            kind => file(walker, id, header, kind, content, &mut long_name)?,
        }
        at = body.saturating_add(size).saturating_add(BLOCK as u64 - 1) / BLOCK as u64 * BLOCK as u64;
        walker.budget.tick()?;
    }
}

/// Behind the end mark only zeros may follow; where another archive does.
fn next_header(walker: &mut Walker, id: u32, data: &[u8], at: u64) -> Option<u64> {
    let rest = clamp(data, at, u64::MAX);
    let place = rest.iter().position(|&octet| octet != 0)?;
    walker.entry(id).defect(Defect::Trailing);
    let block = place / BLOCK * BLOCK;
    is_header(&rest[block..]).then_some(at + block as u64)
}

fn extension(kind: u8, content: &[u8], long_name: &mut Option<String>) {
    match kind {
        b'L' => *long_name = Some(text(clamp(content, 0, NAME_MAX))),
        b'x' => {
            // pax: "LENGTH path=NAME\n"; the last one counts.
            let lines = clamp(content, 0, 64 << 10).split(|&octet| octet == b'\n');
            let mut paths = lines.filter_map(|line| memchr::memmem::find(line, b" path=").map(|place| &line[place + 6..]));
            if let Some(path) = paths.next_back() {
                *long_name = Some(text(clamp(path, 0, NAME_MAX)));
            }
        }
        _ => {}
    }
}

fn file(walker: &mut Walker, id: u32, header: &[u8], kind: u8, content: &[u8], long_name: &mut Option<String>) -> Result<(), Stop> {
    let name = long_name.take().unwrap_or_else(|| {
        let prefix = if &header[257..262] == b"ustar" && header[263] != b' ' { text(&header[345..500]) } else { String::new() };
        let name = text(&header[..100]);
        if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
    });
    match kind {
        b'5' => Ok(()),
        b'1' | b'2' => {
            let child = walker.enter(id, &name)?;
            let target = text(&header[157..257]);
            let entry = walker.entry(child);
            entry.sign(format!("tar:link {target}"));
            if target.starts_with('/') || target.split('/').any(|part| part == "..") {
                entry.defect(Defect::Escapes);
            }
            Ok(())
        }
        _ => walker.child(id, &name, content).map(drop),
    }
}
