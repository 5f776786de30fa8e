//! Questions about every octet of a block, answered by vector code: of what the processor has, if it has AVX2, else of what every x86-64 has.
//!
//! Called by `filling`, `plain` and `long_text`. The loops have no branches; the compiler makes vectors of them. No octet is read twice.

/// All answers together, bit by bit.
pub(crate) fn any(block: &[u8], answer: impl Fn(u8) -> u8) -> u8 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { any_wide(block, answer) };
    }
    any_here(block, answer)
}

/// The sum of the answers, which must not exceed 255.
pub(crate) fn sum(block: &[u8], answer: impl Fn(u8) -> u8) -> u8 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { sum_wide(block, answer) };
    }
    sum_here(block, answer)
}

/// All answers together about each octet and the one behind it; behind the last one is a 0.
pub(crate) fn pairs(block: &[u8], answer: impl Fn(u8, u8) -> u8) -> u8 {
    let Some((&last, _)) = block.split_last() else { return 0 };
    let end = answer(last, 0);
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has what the function is compiled for.
        return end | unsafe { pairs_wide(block, answer) };
    }
    end | pairs_here(block, answer)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn pairs_wide(block: &[u8], answer: impl Fn(u8, u8) -> u8) -> u8 {
    pairs_here(block, answer)
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn pairs_here(block: &[u8], answer: impl Fn(u8, u8) -> u8) -> u8 {
    block.iter().zip(block.iter().skip(1)).fold(0, |found, (&a, &b)| found | answer(a, b))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn any_wide(block: &[u8], answer: impl Fn(u8) -> u8) -> u8 {
    any_here(block, answer)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_wide(block: &[u8], answer: impl Fn(u8) -> u8) -> u8 {
    sum_here(block, answer)
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn any_here(block: &[u8], answer: impl Fn(u8) -> u8) -> u8 {
    block.iter().fold(0, |found, &octet| found | answer(octet))
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn sum_here(block: &[u8], answer: impl Fn(u8) -> u8) -> u8 {
    block.iter().fold(0, |sum, &octet| sum.wrapping_add(answer(octet)))
}

#[cfg(test)]
mod tests {
    use super::{any, any_here, pairs, sum, sum_here};

    #[test]
    fn vectors_answer_as_single_octets_do() {
        let block: Vec<u8> = (0..=255u8).cycle().step_by(7).take(500).collect();
        for end in [0, 1, 15, 31, 32, 33, 100, 500] {
            let part = &block[..end];
            assert_eq!(any(part, |octet| octet & 0x21), any_here(part, |octet| octet & 0x21));
            let pair = |a: u8, b: u8| (a ^ b) & 0x11;
            assert_eq!(pairs(part, pair), (0..end).fold(0, |found, at| found | pair(part[at], part.get(at + 1).copied().unwrap_or(0))));
            let few = |octet: u8| u8::from(octet < 90);
            assert_eq!(usize::from(sum(part, few)), part.iter().filter(|octet| **octet < 90).count());
            assert_eq!(sum(part, few), sum_here(part, few));
        }
    }
}
