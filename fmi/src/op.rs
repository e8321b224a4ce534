//! Reduction operators. MPI 3.1 §5.9.2 and §5.9.5.

use crate::datatype::Element;

/// Combines two elements; must be associative.
///
/// The left operand comes from lower ranks than the right one. An operator that does not commute
/// is applied in rank order, whatever the root and the size.
pub trait Op<T: Element>: Send + Sync {
    /// Code of the operator on the wire; user operators choose one from [`USER_CODE_MIN`] on.
    fn code(&self) -> u32;

    /// Whether `combine(a, b)` equals `combine(b, a)`.
    fn is_commutative(&self) -> bool;

    /// Combines `left` and `right`.
    fn combine(&self, left: T, right: T) -> T;
}

/// First code of user operators.
pub const USER_CODE_MIN: u32 = 1024;

/// The name of an operator by its code.
pub fn name_of(code: u32) -> String {
    match code {
        0 => "none".into(),
        1 => "sum".into(),
        2 => "product".into(),
        3 => "min".into(),
        4 => "max".into(),
        other => format!("#{other}"),
    }
}

/// Addition; integers wrap. MPI_SUM.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum;
/// Multiplication; integers wrap. MPI_PROD.
#[derive(Clone, Copy, Debug, Default)]
pub struct Product;
/// The smaller one; of a number and a NaN, the number. MPI_MIN.
#[derive(Clone, Copy, Debug, Default)]
pub struct Min;
/// The larger one; of a number and a NaN, the number. MPI_MAX.
#[derive(Clone, Copy, Debug, Default)]
pub struct Max;

macro_rules! operator {
    ($name:ident $code:literal: $integer:expr, $float:expr) => {
        operator!(@ $name $code $integer; u8 i8 u16 i16 u32 i32 u64 i64 u128 i128);
        operator!(@ $name $code $float; f32 f64);
    };
    (@ $name:ident $code:literal $combine:expr; $($type:ty)+) => {
        $(impl Op<$type> for $name {
            fn code(&self) -> u32 {
                $code
            }

            fn is_commutative(&self) -> bool {
                true
            }

            fn combine(&self, left: $type, right: $type) -> $type {
                let combine: fn($type, $type) -> $type = $combine;
                combine(left, right)
            }
        })+
    };
}

operator!(Sum 1: |a, b| a.wrapping_add(b), |a, b| a + b);
operator!(Product 2: |a, b| a.wrapping_mul(b), |a, b| a * b);
operator!(Min 3: |a, b| a.min(b), |a, b| a.min(b));
operator!(Max 4: |a, b| a.max(b), |a, b| a.max(b));

/// An operator made from a function.
///
/// # Examples
/// ```
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

impl<T: Element, F: Fn(T, T) -> T + Send + Sync> Op<T> for Custom<F> {
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
