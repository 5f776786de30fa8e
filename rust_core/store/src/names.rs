//! Folder names: what is allowed, INBOX in any case, parents. The separator is '/'.

use crate::error::{Result, StoreError};

const NAME_MAX: usize = 1_000;
const LEVEL_MAX: usize = 255;
const DEPTH_MAX: usize = 20;

/// Folders every mailbox begins with: name and special use (RFC 6154).
pub const SPECIAL: [(&str, &str); 5] =
    [("Drafts", "\\Drafts"), ("Sent", "\\Sent"), ("Junk", "\\Junk"), ("Trash", "\\Trash"), ("Archive", "\\Archive")];

/// The stored form of a name: a first level INBOX in any case is 'INBOX' (RFC 3501 5.1). Says why a name is refused.
pub fn normalise(name: &str) -> Result<String> {
    let refuse = |why: &str| Err(StoreError::Invalid(format!("folder name {why}")));
    let name = name.strip_suffix('/').unwrap_or(name);
    if name.len() > NAME_MAX {
        return refuse("is longer than 1,000 octets");
    }
    if name.chars().any(|c| c.is_control() || c == '\u{fffd}') {
        return refuse("contains a control character");
    }
    let levels: Vec<&str> = name.split('/').collect();
    if levels.len() > DEPTH_MAX {
        return refuse("has more than 20 levels");
    }
    for level in &levels {
        if level.is_empty() || *level == "." || *level == ".." {
            return refuse("has an empty level");
        }
        if level.len() > LEVEL_MAX {
            return refuse("has a level longer than 255 octets");
        }
    }
    if levels[0].eq_ignore_ascii_case("INBOX") {
        return Ok(format!("INBOX{}", &name[5..]));
    }
    Ok(name.to_owned())
}

/// Names of all parents, outermost first.
pub fn parents(name: &str) -> Vec<&str> {
    name.match_indices('/').map(|(at, _)| &name[..at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inbox_is_recognised_in_any_case_and_only_as_a_whole_level() {
        assert_eq!(normalise("inbox").unwrap(), "INBOX");
        assert_eq!(normalise("Inbox/a").unwrap(), "INBOX/a");
        assert_eq!(normalise("inboxes").unwrap(), "inboxes");
    }

    #[test]
    fn bad_names_are_refused() {
        for name in ["", "/", "a//b", "a\0b", "a\nb", &"x".repeat(256), &"a/".repeat(30), "../x"] {
            assert!(normalise(name).is_err(), "{name:?}");
        }
        assert_eq!(normalise("Père Noël/").unwrap(), "Père Noël");
    }

    #[test]
    fn parents_come_outermost_first() {
        assert_eq!(parents("a/b/c"), ["a", "a/b"]);
    }
}
