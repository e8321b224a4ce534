//! What ranks contribute, as a function of rank, number of the step and index: so each rank knows what must come out.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// What a rank puts into element `index` of a step.
pub(crate) fn value(rank: u32, number: u64, index: usize) -> u64 {
    let mixed = (u64::from(rank) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_mul(0xff51_afd7_ed55_8ccd);
    (mixed ^ index as u64).rotate_left(17).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
}

/// Contribution of so many bytes.
pub(crate) fn vector(rank: u32, number: u64, bytes: usize) -> Vec<u64> {
    (0..bytes.div_ceil(8)).map(|index| value(rank, number, index)).collect()
}

/// Sum of what all ranks contribute to a step. All ranks of a group want the same one, so the latest are kept.
pub(crate) fn sum(size: u32, number: u64, elements: usize) -> Rc<[u64]> {
    SUMS.with_borrow_mut(|sums| {
        let key = (size, number, elements);
        if let Some((_, known)) = sums.iter().find(|(of, _)| *of == key) {
            return known.clone();
        }
        let of_all = |index| (0..size).fold(0u64, |sum, rank| sum.wrapping_add(value(rank, number, index)));
        let sum: Rc<[u64]> = (0..elements).map(of_all).collect();
        if sums.len() == SUMS_MAX {
            sums.pop_front();
        }
        sums.push_back((key, sum.clone()));
        sum
    })
}

/// Ranks are at most a few steps apart.
const SUMS_MAX: usize = 4;

/// By size, number of the step and elements.
type Sums = VecDeque<((u32, u64, usize), Rc<[u64]>)>;

thread_local! {
    static SUMS: RefCell<Sums> = const { RefCell::new(VecDeque::new()) };
}

/// Composition of affine maps modulo 2^32, packed as (factor, summand): associative, not commutative.
pub(crate) fn compose(first: u64, second: u64) -> u64 {
    let parts = |map: u64| (map >> 32, map & 0xffff_ffff);
    let ((a, b), (c, d)) = (parts(first), parts(second));
    let low = |value: u64| value & 0xffff_ffff;
    low(c.wrapping_mul(a)) << 32 | low(c.wrapping_mul(b).wrapping_add(d))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_affine_operator_is_associative_and_does_not_commute() {
        let (a, b, c) = (value(1, 2, 3), value(4, 5, 6), value(7, 8, 9));
        assert_eq!(compose(compose(a, b), c), compose(a, compose(b, c)));
        assert_ne!(compose(a, b), compose(b, a));
    }
}
