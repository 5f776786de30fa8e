//! Where the rule of a domain is, found at once: a table of places by hash, made when the file is opened.
//!
//! Called by [`crate::Index`]. A binary search over 100,000 rules costs some 17 reads that are in no cache; this costs one or two. Four octets
//! for each of twice to four times as many places as there are rules, in memory of each process. Invariant: every rule is in it once.

/// The places of rules, by their domains.
pub(crate) struct Domains {
    /// Place + 1; 0 is free. A power of two, at least twice as many as there are rules.
    slots: Vec<u32>,
}

impl Domains {
    /// Of `count` rules, whose domains `at` tells.
    pub(crate) fn of<'a>(count: u64, at: impl Fn(u64) -> &'a [u8]) -> Self {
        let size = usize::try_from(count).unwrap_or_default().saturating_mul(2).next_power_of_two();
        let mut made = Self { slots: vec![0; size] };
        for place in 0..count {
            let mut slot = made.first(at(place));
            while made.slots[slot] != 0 {
                slot = (slot + 1) & (size - 1);
            }
            made.slots[slot] = u32::try_from(place + 1).unwrap_or(u32::MAX);
        }
        made
    }

    /// The place whose domain is this, if there is one.
    pub(crate) fn find<'a>(&self, domain: &[u8], at: impl Fn(u64) -> &'a [u8]) -> Option<u64> {
        let mut slot = self.first(domain);
        while self.slots[slot] != 0 {
            let place = u64::from(self.slots[slot]) - 1;
            if at(place) == domain {
                return Some(place);
            }
            slot = (slot + 1) & (self.slots.len() - 1);
        }
        None
    }

    /// FNV-1a, its upper bits folded in: the table is nobody's to fill but the administrator's.
    fn first(&self, domain: &[u8]) -> usize {
        let hash = domain.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &octet| (hash ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3));
        (hash ^ (hash >> 29)) as usize & (self.slots.len() - 1)
    }
}
