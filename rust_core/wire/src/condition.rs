//! Conditions on a received message, as far as they can be answered from its size and its header alone.
//!
//! Called by the binding crate for plain mail (its `plain`), with steps that Python makes of the conditions of stage policies
//! (`routing/stage_steps.py`). Invariant: an answer given here is the one the condition itself gives; whatever is not certain (an encoded word, a
//! header with odd lines, a step not understood) is None, and then the condition itself is asked. Pure; never fails; linear in the header for
//! each step.

use std::borrow::Cow;

use memchr::{memchr, memmem};

/// Values of a field that conditions see, and the octets of a value from which on it may be cut for them.
const FEW: usize = 100;
const LONGEST: usize = 10_000;

/// One step in postfix order.
#[derive(Debug, Clone)]
pub enum Step {
    /// Something that is not known here.
    Open,
    /// Not what the last step says.
    Not,
    /// Both of the last two.
    And,
    /// One of the last two.
    Or,
    /// The message's octets, compared with a number.
    Size(Order, i64),
    /// How many fields of a name there are, compared with a number.
    Count(String, Order, i64),
    /// What a field says.
    Text(Text),
}

/// How numbers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// <
    Less,
    /// <=
    LessOrEqual,
    /// ==
    Equal,
}

/// What a field's value is asked.
#[derive(Debug, Clone)]
pub struct Text {
    /// Of the field.
    pub name: String,
    /// Which of the fields of this name; None: any.
    pub at: Option<usize>,
    /// What its value is asked.
    pub test: Test,
    /// ASCII letters of the value count as small ones.
    pub folded: bool,
    /// What it is compared with.
    pub part: String,
}

/// How a value is compared with a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Test {
    /// The text is in it.
    Contains,
    /// It begins with it.
    Starts,
    /// It ends in it.
    Ends,
    /// It is the same.
    Is,
    /// Without the part it cannot match; with it, it may. Folded: as a regular expression does it, so of ASCII values alone.
    Needs,
}

/// A condition made ready.
#[derive(Debug)]
pub struct Condition(Tree);

#[derive(Debug)]
enum Tree {
    Leaf(Step),
    Not(Box<Tree>),
    And(Box<Tree>, Box<Tree>),
    Or(Box<Tree>, Box<Tree>),
}

impl Condition {
    /// Of steps that make no sense a condition that is never answered.
    pub fn new(steps: Vec<Step>) -> Self {
        Self(tree(steps).unwrap_or(Tree::Leaf(Step::Open)))
    }

    /// Whether it holds for a message of so many octets with this header section; None: not known here.
    pub fn holds(&self, size: u64, header: &[u8]) -> Option<bool> {
        self.0.holds(size, header)
    }
}

fn tree(steps: Vec<Step>) -> Option<Tree> {
    let mut made: Vec<Tree> = Vec::new();
    for step in steps {
        let one = match step {
            Step::Not => Tree::Not(Box::new(made.pop()?)),
            Step::And | Step::Or => {
                let (right, left) = (Box::new(made.pop()?), Box::new(made.pop()?));
                if matches!(step, Step::And) { Tree::And(left, right) } else { Tree::Or(left, right) }
            }
            leaf => Tree::Leaf(leaf),
        };
        made.push(one);
    }
    let last = made.pop()?;
    made.is_empty().then_some(last)
}

impl Tree {
    /// As CEL has it: what cannot be answered on one side counts only if the other does not decide.
    fn holds(&self, size: u64, header: &[u8]) -> Option<bool> {
        match self {
            Self::Leaf(step) => step.holds(size, header),
            Self::Not(of) => of.holds(size, header).map(|holds| !holds),
            Self::And(left, right) => decided(false, left.holds(size, header), || right.holds(size, header)),
            Self::Or(left, right) => decided(true, left.holds(size, header), || right.holds(size, header)),
        }
    }
}

fn decided(by: bool, left: Option<bool>, right: impl FnOnce() -> Option<bool>) -> Option<bool> {
    if left == Some(by) {
        return left;
    }
    let right = right();
    if right == Some(by) { right } else { left.and(right) }
}

impl Step {
    fn holds(&self, size: u64, header: &[u8]) -> Option<bool> {
        match self {
            Self::Size(order, number) => i64::try_from(size).ok().map(|size| order.fits(size, *number)),
            Self::Count(name, order, number) => {
                let count = values(header, name)?.len().min(FEW);
                i64::try_from(count).ok().map(|count| order.fits(count, *number))
            }
            Self::Text(text) => text.holds(header),
            Self::Open | Self::Not | Self::And | Self::Or => None,
        }
    }
}

impl Order {
    fn fits(self, one: i64, other: i64) -> bool {
        match self {
            Self::Less => one < other,
            Self::LessOrEqual => one <= other,
            Self::Equal => one == other,
        }
    }
}

impl Text {
    fn holds(&self, header: &[u8]) -> Option<bool> {
        let mut found = values(header, &self.name)?;
        found.truncate(FEW);
        if let Some(at) = self.at {
            return self.of_value(found.get(at)?);
        }
        let mut holds = Some(false);
        for value in &found {
            match self.of_value(value) {
                Some(false) => {}
                Some(true) => return Some(true),
                None => holds = None,
            }
        }
        holds
    }

    fn of_value(&self, value: &[u8]) -> Option<bool> {
        if value.len() > LONGEST || memmem::find(value, b"=?").is_some() || std::str::from_utf8(value).is_err() {
            return None;
        }
        if self.folded && self.test == Test::Needs && !value.is_ascii() {
            return None; // some letters beyond ASCII are those of ASCII in another case
        }
        let value = if self.folded { Cow::Owned(value.to_ascii_lowercase()) } else { Cow::Borrowed(value) };
        let part = self.part.as_bytes();
        match self.test {
            Test::Contains => Some(memmem::find(&value, part).is_some()),
            Test::Starts => Some(value.starts_with(part)),
            Test::Ends => Some(value.ends_with(part)),
            Test::Is => Some(value == part),
            Test::Needs => memmem::find(&value, part).is_none().then_some(false),
        }
    }
}

/// The values of all fields of a name, unfolded and stripped, as `HeaderView.raw` has them (message/fields.py). None: a line of the header may be
/// read in more than one way.
pub fn values(header: &[u8], name: &str) -> Option<Vec<Vec<u8>>> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    let (mut rest, mut any, mut ours) = (header, false, false);
    while !rest.is_empty() {
        let end = memchr(b'\n', rest)?;
        let line = rest[..end].strip_suffix(b"\r")?;
        rest = &rest[end + 1..];
        if memchr(b'\r', line).is_some() {
            return None;
        }
        let Some(first) = line.first() else { break };
        if matches!(first, b' ' | b'\t') {
            if !any {
                return None;
            }
            if let (true, Some(value)) = (ours, found.last_mut()) {
                value.extend_from_slice(line);
            }
            continue;
        }
        let colon = memchr(b':', line)?;
        any = true;
        ours = stripped(&line[..colon]).eq_ignore_ascii_case(name.as_bytes());
        if ours {
            found.push(line[colon + 1..].to_vec());
        }
    }
    for value in &mut found {
        let kept = stripped(value).to_vec();
        *value = kept;
    }
    Some(found)
}

/// Without the octets at both ends that Python's `bytes.strip` takes for white.
fn stripped(octets: &[u8]) -> &[u8] {
    let white = |octet: &u8| octet.is_ascii_whitespace() || *octet == 0x0b;
    let start = octets.iter().position(|octet| !white(octet)).unwrap_or(octets.len());
    let end = octets.iter().rposition(|octet| !white(octet)).map_or(start, |last| last + 1);
    &octets[start..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"From: a@b.test\r\nSubject:  Cheap\r\n offers \r\nsubject : second\r\nX-Word: =?utf-8?q?x?=\r\n\r\nbody";

    fn text(name: &str, at: Option<usize>, test: Test, folded: bool, part: &str) -> Vec<Step> {
        vec![Step::Text(Text { name: name.to_owned(), at, test, folded, part: part.to_owned() })]
    }

    fn holds(steps: Vec<Step>) -> Option<bool> {
        Condition::new(steps).holds(100, HEADER)
    }

    #[test]
    fn sizes_and_counts_are_compared() {
        assert_eq!(holds(vec![Step::Size(Order::Less, 101)]), Some(true));
        assert_eq!(holds(vec![Step::Size(Order::Less, 100)]), Some(false));
        assert_eq!(holds(vec![Step::Count("subject".to_owned(), Order::Equal, 2)]), Some(true));
        assert_eq!(holds(vec![Step::Count("cc".to_owned(), Order::LessOrEqual, 0), Step::Not]), Some(false));
    }

    #[test]
    fn values_are_unfolded_and_stripped() {
        assert_eq!(holds(text("subject", Some(0), Test::Is, false, "Cheap offers")), Some(true));
        assert_eq!(holds(text("subject", None, Test::Starts, false, "sec")), Some(true));
        assert_eq!(holds(text("subject", None, Test::Contains, true, "cheap o")), Some(true));
        assert_eq!(holds(text("subject", None, Test::Contains, false, "cheap o")), Some(false));
    }

    #[test]
    fn what_is_not_certain_has_no_answer_unless_the_other_side_decides() {
        assert_eq!(holds(text("subject", Some(2), Test::Is, false, "")), None);
        assert_eq!(holds(text("x-word", None, Test::Contains, false, "y")), None);
        assert_eq!(holds(text("subject", None, Test::Needs, true, "offer")), None);
        assert_eq!(holds(text("subject", None, Test::Needs, true, "casino")), Some(false));
        let both = |last: Step| holds(vec![Step::Open, Step::Size(Order::Less, 5), last]);
        assert_eq!((both(Step::And), both(Step::Or)), (Some(false), None));
        assert_eq!(holds(vec![Step::And]), None);
        assert_eq!(holds(vec![Step::Open, Step::Open]), None);
    }

    #[test]
    fn a_header_that_may_be_read_in_two_ways_has_no_answer() {
        let one = || Condition::new(text("subject", None, Test::Is, false, "x"));
        for odd in
            ["Subject: x\n\r\n", " a\r\nSubject: x\r\n\r\n", "no field\r\nSubject: x\r\n\r\n", "Subject: x\r y\r\n\r\n", "Subject: x"]
        {
            assert_eq!(one().holds(1, odd.as_bytes()), None, "{odd:?}");
        }
        assert_eq!(one().holds(1, b"Subject: x\r\n"), Some(true));
        assert_eq!(one().holds(1, b"\r\nSubject: x\r\n"), Some(false));
    }
}
