//! Reduction operators. MPI 3.1 §5.9.2 and §5.9.5.
#![expect(clippy::exhaustive_structs, reason = "an operator is written as a value")]
#![warn(clippy::exhaustive_enums)]

use crate::datatype::{Bool, Element};
use crate::operation::named;

mod dynamic;

pub use dynamic::{Bound, Operator, Undefined, combine_bytes};

/// Combines two elements; must be associative.
///
/// The left operand comes from lower ranks than the right one. An operator that does not commute
/// is applied in rank order, whatever the root and the size.
pub trait Op<T: Element>: Send + Sync + 'static {
    /// Code of the operator on the wire; user operators choose one from [`USER_CODE_MIN`] on.
    fn code(&self) -> u32;

    /// Whether `combine(a, b)` equals `combine(b, a)`.
    fn is_commutative(&self) -> bool;

    /// Combines `left` and `right`.
    fn combine(&self, left: T, right: T) -> T;
}

/// An operator that is not consumed.
/// Operators that are not consumed.
macro_rules! pass_on {
    ($($pointer:ty),+) => {
        $(
            impl<T: Element, O: Op<T>> Op<T> for $pointer {
                fn code(&self) -> u32 {
                    (**self).code()
                }

                fn is_commutative(&self) -> bool {
                    (**self).is_commutative()
                }

                fn combine(&self, left: T, right: T) -> T {
                    (**self).combine(left, right)
                }
            }
        )+
    };
}

pass_on!(&'static O, std::sync::Arc<O>);

/// First code of user operators.
pub const USER_CODE_MIN: u32 = 1024;

named! {
    /// A built-in operator by value.
    BuiltIn: "operator" {
        /// [`Sum`].
        Sum "sum",
        /// [`Product`].
        Product "product",
        /// [`Min`].
        Min "min",
        /// [`Max`].
        Max "max",
        /// [`MinLoc`].
        MinLoc "minloc",
        /// [`MaxLoc`].
        MaxLoc "maxloc",
        /// [`LogicalAnd`].
        LogicalAnd "land",
        /// [`LogicalOr`].
        LogicalOr "lor",
        /// [`LogicalXor`].
        LogicalXor "lxor",
        /// [`BitAnd`].
        BitAnd "band",
        /// [`BitOr`].
        BitOr "bor",
        /// [`BitXor`].
        BitXor "bxor",
    }
}

impl BuiltIn {
    /// Its code on the wire.
    pub fn code(self) -> u32 {
        self as u32 + 1
    }
}

/// The name of an operator by its code.
pub fn name_of(code: u32) -> String {
    if code == 0 {
        return "none".to_owned();
    }
    let found = BuiltIn::ALL.iter().find(|known| known.code() == code);
    found.map_or_else(|| format!("#{code}"), |known| known.name().to_owned())
}

/// Addition; integers wrap. MPI_SUM.
///
/// # Half precision
///
/// Each addition of two `f16` or `bf16` is done in `f32` and rounded to the type, and so are products: partial
/// results have the element's type on the wire. With the algorithms that combine in the balanced order of
/// [`crate::schedule`], and others that are trees, a sum over `n` ranks is rounded ⌈log₂ `n`⌉ times on the way from any
/// contribution to the result; in a chain and in a ring up to `n` - 1 times. Where a rank adds one contribution after the
/// other and sends no partial result, as at the root of a linear reduction and in a reduce-scatter by pairs, it carries
/// `f32`, and rounds once; not with `reproducible`, whose results are those of the balanced order. Where that is too coarse,
/// reduce a vector of `f32`: it takes twice the bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum;
/// Multiplication; integers wrap. MPI_PROD. [`Sum`] says where `f16` and `bf16` are rounded.
#[derive(Clone, Copy, Debug, Default)]
pub struct Product;
/// The smaller one; of a number and a NaN, the number. MPI_MIN.
#[derive(Clone, Copy, Debug, Default)]
pub struct Min;
/// The larger one; of a number and a NaN, the number. MPI_MAX.
#[derive(Clone, Copy, Debug, Default)]
pub struct Max;
/// Of pairs `[value, index]` the one with the smaller value, of equal ones the one with the lower index. A NaN gives way
/// to any number, as value and as index; of two pairs whose values are NaN, the lower index counts. MPI_MINLOC on pairs
/// of one type, as Fortran has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct MinLoc;
/// Of pairs `[value, index]` the one with the larger value, of equal ones the one with the lower index. NaNs are treated
/// as by [`MinLoc`]. MPI_MAXLOC.
#[derive(Clone, Copy, Debug, Default)]
pub struct MaxLoc;
/// 1 if both are not 0, else 0. MPI_LAND.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogicalAnd;
/// 1 if any is not 0, else 0. MPI_LOR.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogicalOr;
/// 1 if exactly one is not 0, else 0. MPI_LXOR.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogicalXor;
/// Bits that both have. MPI_BAND.
#[derive(Clone, Copy, Debug, Default)]
pub struct BitAnd;
/// Bits that any has. MPI_BOR.
#[derive(Clone, Copy, Debug, Default)]
pub struct BitOr;
/// Bits that exactly one has. MPI_BXOR.
#[derive(Clone, Copy, Debug, Default)]
pub struct BitXor;

macro_rules! operator {
    ($name:ident $code:literal, $combine:expr; $($type:ty)+) => {
        $(impl Op<$type> for $name {
            fn code(&self) -> u32 {
                $code
            }

            fn is_commutative(&self) -> bool {
                true
            }

            #[inline]
            fn combine(&self, left: $type, right: $type) -> $type {
                let combine: fn($type, $type) -> $type = $combine;
                combine(left, right)
            }
        })+
    };
}

macro_rules! on_integers {
    ($($name:ident $code:literal: $combine:expr;)+) => {
        $(operator!($name $code, $combine; u8 i8 u16 i16 u32 i32 u64 i64 u128 i128 usize isize);)+
    };
}

on_integers! {
    Sum 1: |a, b| a.wrapping_add(b);
    Product 2: |a, b| a.wrapping_mul(b);
    Min 3: |a, b| a.min(b);
    Max 4: |a, b| a.max(b);
    LogicalAnd 7: |a, b| (a != 0 && b != 0).into();
    LogicalOr 8: |a, b| (a != 0 || b != 0).into();
    LogicalXor 9: |a, b| ((a != 0) != (b != 0)).into();
    BitAnd 10: |a, b| a & b;
    BitOr 11: |a, b| a | b;
    BitXor 12: |a, b| a ^ b;
}

operator!(LogicalAnd 7, |a, b| (a.get() && b.get()).into(); Bool);
operator!(LogicalOr 8, |a, b| (a.get() || b.get()).into(); Bool);
operator!(LogicalXor 9, |a, b| (a.get() != b.get()).into(); Bool);

operator!(Sum 1, |a, b| a + b; f32 f64);
operator!(Product 2, |a, b| a * b; f32 f64);
operator!(Min 3, |a, b| a.min(b); f32 f64);
operator!(Max 4, |a, b| a.max(b); f32 f64);

#[cfg(feature = "half")]
mod halves {
    use super::{Max, Min, Op, Product, Sum};
    use crate::datatype::code_of;
    use half::{bf16, f16};

    operator!(Sum 1, |a, b| a + b; f16 bf16);
    operator!(Product 2, |a, b| a * b; f16 bf16);
    operator!(Min 3, |a, b| a.min(b); f16 bf16);
    operator!(Max 4, |a, b| a.max(b); f16 bf16);

    trait Half: bytemuck::Pod {
        fn wide(self) -> f32;

        fn rounded(wide: f32) -> Self;
    }

    impl Half for f16 {
        fn wide(self) -> f32 {
            self.to_f32()
        }

        fn rounded(wide: f32) -> Self {
            Self::from_f32(wide)
        }
    }

    impl Half for bf16 {
        fn wide(self) -> f32 {
            self.to_f32()
        }

        fn rounded(wide: f32) -> Self {
            Self::from_f32(wide)
        }
    }

    /// Adds `other` to `sums`, or to `own` if there is one, and rounds the results into `into`; or multiplies.
    fn carry<T: Half, const MULTIPLIES: bool>(sums: &mut [f32], into: &mut [u8], own: Option<&[u8]>, other: &[u8]) {
        let into: &mut [T] = bytemuck::cast_slice_mut(into);
        let own: Option<&[T]> = own.map(bytemuck::cast_slice);
        let other: &[T] = bytemuck::cast_slice(other);
        for (index, (sum, into)) in sums.iter_mut().zip(into).enumerate() {
            let before = match own {
                Some(own) => own[index].wide(),
                None if sum.to_bits() == super::UNTOUCHED.to_bits() => into.wide(),
                None => *sum,
            };
            let other = other[index].wide();
            *sum = if MULTIPLIES { before * other } else { before + other };
            *into = T::rounded(*sum);
        }
    }

    pub(super) fn carried(datatype: u32, operator: u32) -> Option<super::Carried> {
        let operators = [Op::<f16>::code(&Sum), Op::<f16>::code(&Product)];
        let is = |code: u32, index: usize| datatype == code && operator == operators[index];
        let (wide, brain) = (code_of::<f16>(), code_of::<bf16>());
        let known: [(bool, super::Carried); 4] = [
            (is(wide, 0), carry::<f16, false>),
            (is(wide, 1), carry::<f16, true>),
            (is(brain, 0), carry::<bf16, false>),
            (is(brain, 1), carry::<bf16, true>),
        ];
        known.into_iter().find_map(|(is_it, carried)| is_it.then_some(carried))
    }
}

/// A sum that has not begun: no number of half precision becomes this, and no sum of such numbers.
pub const UNTOUCHED: f32 = f32::from_bits(0x7fc0_dead);

/// Combines contributions in `f32`: the sums, [`UNTOUCHED`] at first; where they go, rounded; what they begin with, if not
/// with what is there; the contributions.
pub type Carried = fn(&mut [f32], &mut [u8], Option<&[u8]>, &[u8]);

/// How elements of this type are combined in `f32`, if they have half precision and the operator rounds.
pub fn carried(datatype: u32, operator: u32) -> Option<Carried> {
    #[cfg(feature = "half")]
    return halves::carried(datatype, operator);
    #[cfg(not(feature = "half"))]
    {
        let _ = (datatype, operator);
        None
    }
}

#[cfg(feature = "complex")]
mod complexes {
    use super::{Op, Product, Sum};
    use num_complex::Complex;

    operator!(Sum 1, |a, b| a + b; Complex<f32> Complex<f64>);
    operator!(Product 2, |a, b| a * b; Complex<f32> Complex<f64>);
}

/// Whether the pair `a` is kept, of two of which `better` says whose value is better. Which one is does not depend on
/// their order, unless they are equal.
fn keeps<T: PartialOrd + Copy>(a: [T; 2], b: [T; 2], better: fn(&T, &T) -> bool) -> bool {
    // What is not comparable with itself is a NaN.
    let is_nan = |it: T| it.partial_cmp(&it).is_none();
    match (is_nan(a[0]), is_nan(b[0])) {
        (false, true) => true,
        (true, false) => false,
        (false, false) if a[0] != b[0] => better(&a[0], &b[0]),
        _ => a[1] <= b[1] || is_nan(b[1]),
    }
}

macro_rules! locations {
    ($($name:ident $code:literal $better:ident;)+) => {
        $(impl<T: Element + PartialOrd> Op<[T; 2]> for $name
        where
            [T; 2]: Element,
        {
            fn code(&self) -> u32 {
                $code
            }

            fn is_commutative(&self) -> bool {
                true
            }

            fn combine(&self, left: [T; 2], right: [T; 2]) -> [T; 2] {
                if keeps(left, right, T::$better) { left } else { right }
            }
        })+
    };
}

locations! {
    MinLoc 5 lt;
    MaxLoc 6 gt;
}

/// An operator made from a function.
///
/// # Examples
/// ```
/// # extern crate fmi_proto as fmi;
/// use fmi::op::{Custom, Op};
///
/// // Affine maps x -> a x + b over bytes, packed as (a, b): composition does not commute.
/// let compose = Custom::ordered(1024, |f: u16, g: u16| {
///     let ([a, b], [c, d]) = (f.to_be_bytes(), g.to_be_bytes());
///     u16::from_be_bytes([c.wrapping_mul(a), c.wrapping_mul(b).wrapping_add(d)])
/// });
/// assert!(!compose.is_commutative());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Custom<F> {
    code: u32,
    commutative: bool,
    combine: F,
}

impl<F> Custom<F> {
    /// An operator that commutes. `code` tells it from others on the wire.
    ///
    /// # Panics
    /// If `code` is below [`USER_CODE_MIN`].
    pub fn commutative(code: u32, combine: F) -> Self {
        assert!(code >= USER_CODE_MIN, "codes below {USER_CODE_MIN} belong to built-in operators");
        Self { code, commutative: true, combine }
    }

    /// An operator that is applied in rank order. `code` tells it from others on the wire.
    ///
    /// # Panics
    /// If `code` is below [`USER_CODE_MIN`].
    pub fn ordered(code: u32, combine: F) -> Self {
        Self { commutative: false, ..Self::commutative(code, combine) }
    }
}

impl<T: Element, F: Fn(T, T) -> T + Send + Sync + 'static> Op<T> for Custom<F> {
    fn code(&self) -> u32 {
        self.code
    }

    fn is_commutative(&self) -> bool {
        self.commutative
    }

    fn combine(&self, left: T, right: T) -> T {
        (self.combine)(left, right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_prefer_the_better_value_then_the_lower_index() {
        assert_eq!(MinLoc.combine([2, 7], [1, 9]), [1, 9]);
        assert_eq!(MinLoc.combine([1, 9], [1, 7]), [1, 7]);
        assert_eq!(MaxLoc.combine([2.5, 7.0], [1.0, 9.0]), [2.5, 7.0]);
        assert_eq!(MaxLoc.combine([f64::NAN, 0.0], [1.0, 9.0])[1], 9.0);
        assert_eq!(MaxLoc.combine([1.0, 9.0], [f64::NAN, 0.0])[1], 9.0);
    }

    /// Two reductions of one vector may combine in any order, so the order must not matter.
    #[test]
    fn locations_with_nans_are_found_in_any_order() {
        let values = [f64::NAN, f64::NEG_INFINITY, -1.0, 1.0, f64::INFINITY];
        let indices = [0.0, 3.0, 7.0, f64::NAN];
        let pairs: Vec<[f64; 2]> = values.iter().flat_map(|value| indices.map(|index| [*value, index])).collect();
        let bits = |pair: [f64; 2]| pair.map(f64::to_bits);
        for a in &pairs {
            for b in &pairs {
                for combine in [|a, b| MinLoc.combine(a, b), |a, b| MaxLoc.combine(a, b)] {
                    let combine: fn([f64; 2], [f64; 2]) -> [f64; 2] = combine;
                    let both = combine(*a, *b);
                    assert_eq!(bits(both), bits(combine(*b, *a)), "{a:?} and {b:?}");
                    assert_eq!(both[0].is_nan(), a[0].is_nan() && b[0].is_nan(), "{a:?} and {b:?}");
                    for c in &pairs {
                        assert_eq!(bits(combine(both, *c)), bits(combine(*a, combine(*b, *c))), "{a:?}, {b:?}, {c:?}");
                    }
                }
            }
        }
        assert_eq!(MinLoc.combine([f64::NAN, 5.0], [f64::NAN, 3.0])[1], 3.0);
        assert_eq!(MaxLoc.combine([f64::NAN, 3.0], [f64::NAN, 5.0])[1], 3.0);
    }

    #[test]
    fn of_a_number_and_a_nan_the_number_is_taken_in_either_order() {
        for (a, b) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
            assert_eq!([Min.combine(a, b), Max.combine(a, b)], [1.0; 2]);
            assert_eq!([Min.combine(f64::from(a), f64::from(b)), Max.combine(f64::from(a), f64::from(b))], [1.0; 2]);
            #[cfg(feature = "half")]
            {
                let (x, y) = (half::f16::from_f32(a), half::f16::from_f32(b));
                assert_eq!([Min.combine(x, y), Max.combine(x, y)], [half::f16::ONE; 2]);
                let (a, b) = (half::bf16::from_f32(a), half::bf16::from_f32(b));
                assert_eq!([Min.combine(a, b), Max.combine(a, b)], [half::bf16::ONE; 2]);
            }
        }
    }

    #[cfg(feature = "half")]
    #[test]
    fn half_precision_is_rounded_once_for_each_combination() {
        use half::{bf16, f16};
        let draws = (0..2000u16).map(|draw| draw.wrapping_mul(40_503));
        for (a, b) in draws.clone().zip(draws.skip(1)) {
            let (x, y) = (f16::from_bits(a), f16::from_bits(b));
            let expected = [f16::from_f32(x.to_f32() + y.to_f32()), f16::from_f32(x.to_f32() * y.to_f32())];
            for (given, expected) in [Sum.combine(x, y), Product.combine(x, y)].into_iter().zip(expected) {
                assert!(given.to_bits() == expected.to_bits() || given.is_nan() && expected.is_nan(), "{x} and {y}");
            }
            let (x, y) = (bf16::from_bits(a), bf16::from_bits(b));
            let expected = [bf16::from_f32(x.to_f32() + y.to_f32()), bf16::from_f32(x.to_f32() * y.to_f32())];
            for (given, expected) in [Sum.combine(x, y), Product.combine(x, y)].into_iter().zip(expected) {
                assert!(given.to_bits() == expected.to_bits() || given.is_nan() && expected.is_nan(), "{x} and {y}");
            }
        }
    }

    #[test]
    fn truth_values_combine_as_such() {
        let [no, yes] = [false, true].map(Bool::from);
        assert_eq!(
            [LogicalAnd.combine(yes, no), LogicalOr.combine(yes, no), LogicalXor.combine(yes, yes)],
            [no, yes, no]
        );
        let other_yes: Bool = bytemuck::cast(6u8);
        assert_eq!(LogicalXor.combine(other_yes, yes), no, "any byte but 0 is true");
        assert_eq!(Sum.combine(usize::MAX, 2), 1);
    }

    #[test]
    fn logical_operators_give_truth_values_and_bitwise_ones_give_bits() {
        assert_eq!([LogicalAnd.combine(6u8, 3), LogicalOr.combine(0u8, 4), LogicalXor.combine(6u8, 3)], [1, 1, 0]);
        assert_eq!([BitAnd.combine(6i32, 3), BitOr.combine(6, 3), BitXor.combine(6, 3)], [2, 7, 5]);
    }

    #[test]
    fn every_built_in_operator_has_a_name() {
        let codes: [u32; 12] = [
            Op::<u8>::code(&Sum),
            Op::<u8>::code(&Product),
            Op::<u8>::code(&Min),
            Op::<u8>::code(&Max),
            Op::<[f64; 2]>::code(&MinLoc),
            Op::<[f64; 2]>::code(&MaxLoc),
            Op::<u8>::code(&LogicalAnd),
            Op::<u8>::code(&LogicalOr),
            Op::<u8>::code(&LogicalXor),
            Op::<u8>::code(&BitAnd),
            Op::<u8>::code(&BitOr),
            Op::<u8>::code(&BitXor),
        ];
        assert_eq!(codes.to_vec(), (1..=12).collect::<Vec<_>>());
        assert!(codes.iter().all(|code| !name_of(*code).starts_with('#')));
        assert_eq!(name_of(1024), "#1024");
    }
}
