//! Operators by value, on bytes.

use std::fmt;
use std::sync::Arc;

use super::*;
use crate::datatype::Datatype;
use crate::schedule::Side;

/// Combines two vectors of bytes: the left one with the right one, which the result replaces.
type Function = Arc<dyn Fn(&[u8], &mut [u8]) + Send + Sync>;

/// An operator by value: a built-in one, or a function of the caller's.
#[derive(Clone)]
#[non_exhaustive]
pub enum Operator {
    /// A built-in one.
    BuiltIn(BuiltIn),
    /// A function over bytes, made by [`Operator::user`].
    User(User),
}

/// A function of the caller's.
#[derive(Clone)]
pub struct User {
    code: u32,
    commutative: bool,
    function: Function,
}

/// An operator that a datatype has not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Undefined {
    /// The type has no such built-in operator.
    #[error("operator {operator} is not defined for {datatype}")]
    Datatype {
        /// The operator.
        operator: BuiltIn,
        /// The type.
        datatype: Datatype,
    },
    /// A user's operator has the code of a built-in one.
    #[error("the operator's code is {0}, codes below {USER_CODE_MIN} belong to built-in operators")]
    Code(u32),
}

impl From<BuiltIn> for Operator {
    fn from(operator: BuiltIn) -> Self {
        Self::BuiltIn(operator)
    }
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operator")
            .field("name", &name_of(self.code()))
            .field("commutative", &self.is_commutative())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("code", &self.code).field("commutative", &self.commutative).finish_non_exhaustive()
    }
}

impl Operator {
    /// An operator made from a function over bytes: it gets equally long vectors of whole elements, of which the
    /// left one comes from lower ranks, and puts the result in the place of the right one. `code`, from
    /// [`USER_CODE_MIN`] on, tells it from others on the wire. One that is not commutative is applied in rank order.
    ///
    /// The bytes are aligned as the buffers of the call are. MPI 4.1 §6.9.5, MPI_User_function.
    ///
    /// # Examples
    /// ```
    /// // The larger of two bytes.
    /// let larger = fmi_proto::op::Operator::user(1024, true, |left, right| {
    ///     left.iter().zip(right).for_each(|(left, right)| *right = *left.max(right));
    /// });
    /// assert!(larger.is_commutative());
    /// ```
    pub fn user(code: u32, commutative: bool, function: impl Fn(&[u8], &mut [u8]) + Send + Sync + 'static) -> Self {
        Self::User(User { code, commutative, function: Arc::new(function) })
    }

    /// Its code on the wire.
    pub fn code(&self) -> u32 {
        match self {
            Self::BuiltIn(operator) => operator.code(),
            Self::User(user) => user.code,
        }
    }

    /// Whether the order of its operands does not matter.
    pub fn is_commutative(&self) -> bool {
        match self {
            Self::BuiltIn(_) => true,
            Self::User(user) => user.commutative,
        }
    }

    /// The operator on elements of `datatype`.
    ///
    /// # Errors
    /// If it is not defined for them.
    pub fn bind(&self, datatype: Datatype) -> Result<Bound, Undefined> {
        match self {
            Self::BuiltIn(operator) => match kernel(*operator, datatype) {
                Some(kernel) => Ok(Bound(Inner::Kernel(kernel))),
                None => Err(Undefined::Datatype { operator: *operator, datatype }),
            },
            Self::User(user) if user.code < USER_CODE_MIN => Err(Undefined::Code(user.code)),
            Self::User(user) => Ok(Bound(Inner::User(user.clone()))),
        }
    }
}

/// An operator on elements of one type.
pub struct Bound(Inner);

enum Inner {
    Kernel(Kernel),
    User(User),
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bound").finish_non_exhaustive()
    }
}

impl Bound {
    /// Combines `other`, which is on this side of the other operand, with `own` or, if that is none, with what is in
    /// `into`. The result goes to `into`. All are equally long, of whole elements.
    #[doc(hidden)]
    pub fn combine(&self, into: &mut [u8], own: Option<&[u8]>, other: &[u8], side: Side) {
        let user = match &self.0 {
            Inner::Kernel(kernel) => return kernel(into, own, other, side),
            Inner::User(user) => user,
        };
        match (own, side) {
            (None, Side::Left) => (user.function)(other, into),
            (None, Side::Right) if user.commutative => (user.function)(other, into),
            (None, Side::Right) => {
                // The result takes the place of the right operand, which is only lent.
                let mut right = AlignedCopy::of(other);
                (user.function)(into, right.bytes());
                into.copy_from_slice(right.bytes());
            }
            (Some(own), Side::Left) => {
                into.copy_from_slice(own);
                (user.function)(other, into);
            }
            (Some(own), Side::Right) => {
                into.copy_from_slice(other);
                (user.function)(own, into);
            }
        }
    }
}

/// A copy of some bytes that is aligned for any element.
struct AlignedCopy {
    memory: Vec<u128>,
    length: usize,
}

impl AlignedCopy {
    fn of(bytes: &[u8]) -> Self {
        let mut copy = Self { memory: vec![0; bytes.len().div_ceil(size_of::<u128>())], length: bytes.len() };
        copy.bytes().copy_from_slice(bytes);
        copy
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut bytemuck::cast_slice_mut(&mut self.memory)[..self.length]
    }
}

/// [`Bound::combine`] by a built-in operator on one type.
type Kernel = fn(&mut [u8], Option<&[u8]>, &[u8], Side);

fn kernel_of<T: Element, O: Op<T> + Default>(into: &mut [u8], own: Option<&[u8]>, other: &[u8], side: Side) {
    let is_aligned = |bytes: &[u8]| bytes.as_ptr().addr().is_multiple_of(align_of::<T>());
    if is_aligned(into) && is_aligned(other) && own.is_none_or(is_aligned) {
        return combine_bytes::<T, O>(&O::default(), into, own, other, side);
    }
    // Bytes of the caller's that are not aligned: element by element, through memory that is.
    for at in (0..into.len()).step_by(size_of::<T>()) {
        let part = at..at + size_of::<T>();
        let read = |bytes: &[u8]| bytemuck::pod_read_unaligned::<T>(&bytes[part.clone()]);
        let (own, other) = (own.map_or_else(|| read(into), read), read(other));
        let result = match side {
            Side::Left => O::default().combine(other, own),
            Side::Right => O::default().combine(own, other),
        };
        into[part].copy_from_slice(bytemuck::bytes_of(&result));
    }
}

/// Combines vectors of elements that are given as bytes, as [`Bound::combine`] does.
///
/// # Panics
/// Unless the bytes are aligned, and whole elements.
#[doc(hidden)]
pub fn combine_bytes<T: Element, O: Op<T>>(op: &O, into: &mut [u8], own: Option<&[u8]>, other: &[u8], side: Side) {
    let into = bytemuck::cast_slice_mut::<u8, T>(into);
    let other = bytemuck::cast_slice::<u8, T>(other);
    match (own.map(bytemuck::cast_slice::<u8, T>), side) {
        (None, Side::Left) => into.iter_mut().zip(other).for_each(|(own, other)| *own = op.combine(*other, *own)),
        (None, Side::Right) => into.iter_mut().zip(other).for_each(|(own, other)| *own = op.combine(*own, *other)),
        (Some(own), side) => {
            let all = into.iter_mut().zip(own).zip(other);
            match side {
                Side::Left => all.for_each(|((into, own), other)| *into = op.combine(*other, *own)),
                Side::Right => all.for_each(|((into, own), other)| *into = op.combine(*own, *other)),
            }
        }
    }
}

/// Returns the kernel of an operator on the type with this code, if it is one of these and has the operator.
macro_rules! look_up {
    ($operator:expr, $code:expr; $($($type:ty),+: $operators:tt;)+) => {
        $($(
            if $code == <$type>::DATATYPE {
                look_up!(@ $operator, $type, $operators);
                return None;
            }
        )+)+
    };
    (@ $operator:expr, $type:ty, { $($name:ident)+ }) => {
        $(
            if $operator == BuiltIn::$name {
                return Some(kernel_of::<$type, $name>);
            }
        )+
    };
}

/// What an operator does with elements of a type, if it is defined for them.
fn kernel(operator: BuiltIn, datatype: Datatype) -> Option<Kernel> {
    let code = datatype.code();
    look_up! { operator, code;
        u8, i8, u16, i16, u32, i32, u64, i64, u128, i128, usize, isize:
            { Sum Product Min Max LogicalAnd LogicalOr LogicalXor BitAnd BitOr BitXor };
        f32, f64: { Sum Product Min Max };
        Bool: { LogicalAnd LogicalOr LogicalXor };
        [u8; 2], [i8; 2], [u16; 2], [i16; 2], [u32; 2], [i32; 2], [u64; 2], [i64; 2], [u128; 2], [i128; 2], [usize; 2],
        [isize; 2], [f32; 2], [f64; 2]: { MinLoc MaxLoc };
    }
    #[cfg(feature = "half")]
    look_up! { operator, code;
        half::f16, half::bf16: { Sum Product Min Max };
        [half::f16; 2], [half::bf16; 2]: { MinLoc MaxLoc };
    }
    #[cfg(feature = "complex")]
    look_up! { operator, code; num_complex::Complex<f32>, num_complex::Complex<f64>: { Sum Product }; }
    None
}

#[cfg(test)]
mod tests {
    //! Goal: operators by value do what the typed ones do, wherever the bytes lie. Method: drawn operands, each side,
    //! with and without a place of its own for the result, against one application after another.

    use super::*;
    use proptest::prelude::*;

    /// What a typed operator makes of bytes, element by element.
    fn expected<T: Element, O: Op<T>>(op: &O, own: &[u8], other: &[u8], side: Side) -> Vec<u8> {
        let elements =
            |bytes: &[u8]| -> Vec<T> { bytes.chunks(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect() };
        let pairs = elements(own).into_iter().zip(elements(other));
        let combined: Vec<T> = match side {
            Side::Left => pairs.map(|(own, other)| op.combine(other, own)).collect(),
            Side::Right => pairs.map(|(own, other)| op.combine(own, other)).collect(),
        };
        bytemuck::cast_slice(&combined).to_vec()
    }

    fn agrees<T: Element, O: Op<T> + Copy>(operator: &Operator, op: O, bytes: &[u8], shift: usize) {
        let length = bytes.len() / 2 / size_of::<T>() * size_of::<T>();
        let (own, other) = (&bytes[..length], &bytes[bytes.len() - length..]);
        let bound = operator.bind(Datatype::of::<T>()).expect("it is defined");
        for side in [Side::Left, Side::Right] {
            let expected = expected(&op, own, other, side);
            let mut memory = vec![0; shift + length];
            memory[shift..].copy_from_slice(own);
            bound.combine(&mut memory[shift..], None, other, side);
            assert_eq!(memory[shift..], expected, "{operator:?} on {} {side:?}", Datatype::of::<T>());
            memory.fill(7);
            bound.combine(&mut memory[shift..], Some(own), other, side);
            assert_eq!(memory[shift..], expected, "{operator:?} on {} {side:?}", Datatype::of::<T>());
        }
    }

    /// Left, then right: associative, and no operand is lost.
    fn subtract(left: &[u8], right: &mut [u8]) {
        left.iter().zip(right).for_each(|(left, right)| *right = left.wrapping_sub(*right));
    }

    proptest! {
        #[test]
        fn operators_by_value_do_what_typed_ones_do(bytes in proptest::collection::vec(any::<u8>(), 0..200), shift in 0usize..16) {
            agrees::<u8, _>(&BuiltIn::Sum.into(), Sum, &bytes, shift);
            agrees::<u32, _>(&BuiltIn::Product.into(), Product, &bytes, shift);
            agrees::<i64, _>(&BuiltIn::Min.into(), Min, &bytes, shift);
            agrees::<u128, _>(&BuiltIn::BitXor.into(), BitXor, &bytes, shift);
            agrees::<[i32; 2], _>(&BuiltIn::MaxLoc.into(), MaxLoc, &bytes, shift);
            agrees::<u16, _>(&BuiltIn::LogicalAnd.into(), LogicalAnd, &bytes, shift);
            let subtraction = Custom::ordered(1024, |left: u8, right: u8| left.wrapping_sub(right));
            agrees::<u8, _>(&Operator::user(1024, false, subtract), subtraction, &bytes, shift);
        }
    }

    #[test]
    fn an_operator_is_defined_where_the_typed_one_is() {
        let defined = |operator: BuiltIn, datatype: Datatype| Operator::from(operator).bind(datatype).is_ok();
        let of = |datatype: Datatype| BuiltIn::ALL.iter().filter(|operator| defined(**operator, datatype)).count();
        assert_eq!([Datatype::of::<usize>(), Datatype::of::<i128>()].map(of), [10, 10]);
        assert_eq!([Datatype::of::<f64>(), Datatype::of::<Bool>(), Datatype::of::<[f64; 2]>()].map(of), [4, 3, 2]);
        assert!(Datatype::built_in().all(|datatype| of(datatype) >= 2), "every built-in type can be reduced");
        let error = Operator::from(BuiltIn::BitAnd).bind(Datatype::of::<f32>()).map(|_| ());
        assert_eq!(error.map_err(|error| error.to_string()), Err("operator band is not defined for f32".to_owned()));
        let error = Operator::user(3, true, subtract).bind(Datatype::of::<u8>()).map(|_| ());
        assert_eq!(error, Err(Undefined::Code(3)));
    }
}
