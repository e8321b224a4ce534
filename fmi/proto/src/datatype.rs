//! Element types that may be sent. MPI 3.1 §3.2.2.
//!
//! Integers and floats are elements, so are `half`'s `f16` and `bf16`, `num_complex`'s `Complex<f32>` and
//! `Complex<f64>`, [`Bool`], and arrays of elements. A type of your own becomes one in three lines, of which the first
//! two are bytemuck's:
//!
//! ```
//! # extern crate fmi_proto as fmi;
//! #[derive(Clone, Copy, fmi::bytemuck::Pod, fmi::bytemuck::Zeroable)]
//! #[bytemuck(crate = "fmi::bytemuck")]
//! #[repr(C)]
//! struct Particle {
//!     position: [f64; 3],
//!     mass: f64,
//! }
//! fmi::element!(Particle);
//! # assert_ne!(<Particle as fmi::Element>::DATATYPE, 0);
//! ```
//!
//! An element has at least one byte: a type without any would make lengths meaningless, and does not compile.
//!
//! ```compile_fail,E0080
//! # extern crate fmi_proto as fmi;
//! #[derive(Clone, Copy, fmi::bytemuck::Pod, fmi::bytemuck::Zeroable)]
//! #[bytemuck(crate = "fmi::bytemuck")]
//! #[repr(C)]
//! struct Nothing;
//! fmi::element!(Nothing);
//! ```
//!
//! Values of variable length travel through serde: `Communicator::send_value`.
#![warn(clippy::exhaustive_enums, clippy::exhaustive_structs)]

use std::fmt;
use std::str::FromStr;

use crate::operation::UnknownName;

/// A plain element: any bit pattern is a value, there is no padding, and it has at least one byte.
///
/// Its code travels in every frame, so that two ranks which disagree about the type get an error.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// Code of the type on the wire: below [`USER_DATATYPE_MIN`] the built-in ones, 0 for none.
    const DATATYPE: u32;
}

/// The code of `T`, which compiles only if `T` has a length: everything that moves elements asks for it.
pub const fn code_of<T: Element>() -> u32 {
    const { assert!(size_of::<T>() > 0, "an element has at least one byte") };
    T::DATATYPE
}

/// An element type by value: what `fmi::Communicator::invoke` moves.
///
/// # Examples
/// ```
/// use fmi_proto::datatype::Datatype;
///
/// assert_eq!("f64".parse(), Ok(Datatype::of::<f64>()));
/// assert_eq!(Datatype::of::<f64>().array(2), Some(Datatype::of::<[f64; 2]>()));
/// assert_eq!(Datatype::of::<[f64; 2]>().bytes(), 16);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Datatype {
    code: u32,
    bytes: usize,
}

impl Datatype {
    /// That of `T`.
    #[must_use]
    pub const fn of<T: Element>() -> Self {
        Self { code: code_of::<T>(), bytes: size_of::<T>() }
    }

    /// A type of the caller's, as [`element!`](crate::element) makes it of a type with this name, length and alignment;
    /// `None` if it has no bytes.
    #[must_use]
    pub const fn user(name: &str, bytes: usize, align: usize) -> Option<Self> {
        if bytes == 0 { None } else { Some(Self { code: user_code(name, bytes, align), bytes }) }
    }

    /// An array of `length` elements of this type; `None` if it has no bytes, or more than memory can hold.
    #[must_use]
    pub const fn array(self, length: usize) -> Option<Self> {
        match self.bytes.checked_mul(length) {
            None | Some(0) => None,
            Some(bytes) => Some(Self { code: code("array", [self.code as u64, length as u64]), bytes }),
        }
    }

    /// Its code on the wire ([`Element::DATATYPE`]).
    #[must_use]
    pub const fn code(self) -> u32 {
        self.code
    }

    /// Bytes of an element, one or more.
    #[must_use]
    pub const fn bytes(self) -> usize {
        self.bytes
    }

    /// Those with a name of their own.
    pub fn built_in() -> impl Iterator<Item = Self> {
        let integers = [
            Self::of::<u8>(),
            Self::of::<i8>(),
            Self::of::<u16>(),
            Self::of::<i16>(),
            Self::of::<u32>(),
            Self::of::<i32>(),
            Self::of::<u64>(),
            Self::of::<i64>(),
            Self::of::<u128>(),
            Self::of::<i128>(),
            Self::of::<usize>(),
            Self::of::<isize>(),
        ];
        let others = [
            Self::of::<f32>(),
            Self::of::<f64>(),
            Self::of::<Bool>(),
            #[cfg(feature = "half")]
            Self::of::<half::f16>(),
            #[cfg(feature = "half")]
            Self::of::<half::bf16>(),
            #[cfg(feature = "complex")]
            Self::of::<num_complex::Complex<f32>>(),
            #[cfg(feature = "complex")]
            Self::of::<num_complex::Complex<f64>>(),
        ];
        integers.into_iter().chain(others)
    }

    /// Its name without a remark.
    fn name(self) -> String {
        let name = name_of(self.code);
        name.split_once(" (").map_or(&*name, |(name, _)| name).to_owned()
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&name_of(self.code))
    }
}

impl FromStr for Datatype {
    type Err = UnknownName;

    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::built_in().find(|known| known.name() == text).ok_or_else(|| {
            let names: Vec<String> = Self::built_in().map(Self::name).collect();
            UnknownName::new("datatype", text, names.iter().map(String::as_str))
        })
    }
}

/// First code of types made by [`element!`](crate::element) and of arrays.
pub const USER_DATATYPE_MIN: u32 = 1 << 31;

/// The code of a value that serde has written.
pub const VALUE_DATATYPE: u32 = 255;

/// A truth value as an element.
///
/// `bool` itself is none: only two of the 256 bytes that a peer could send are values of it. This type takes every
/// byte, and all but 0 mean true. Slices turn into each other without a copy.
///
/// # Examples
/// ```
/// # extern crate fmi_proto as fmi;
/// use fmi::Bool;
///
/// // comm.allreduce(Bool::from_bools(&mine), &mut all, fmi::op::LogicalAnd).await?;
/// let mine = [true, false];
/// let all = Bool::from_bools(&mine);
/// assert!(all[0].get() && !all[1].get());
/// assert_eq!(Bool::to_bools(all), Some(&mine[..]));
/// ```
#[derive(Clone, Copy, Default, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct Bool(u8);

impl Bool {
    /// Whether it is true.
    #[inline]
    pub fn get(self) -> bool {
        self.0 != 0
    }

    /// Truth values to send.
    pub fn from_bools(values: &[bool]) -> &[Self] {
        bytemuck::cast_slice(values)
    }

    /// What has been received; `None` if a peer sent true as another byte than 1, which this crate does not.
    pub fn to_bools(values: &[Self]) -> Option<&[bool]> {
        bytemuck::checked::try_cast_slice(values).ok()
    }
}

impl From<bool> for Bool {
    fn from(value: bool) -> Self {
        Self(value.into())
    }
}

impl From<Bool> for bool {
    fn from(value: Bool) -> Self {
        value.get()
    }
}

impl PartialEq for Bool {
    fn eq(&self, other: &Self) -> bool {
        self.get() == other.get()
    }
}

impl Eq for Bool {}

impl fmt::Debug for Bool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

macro_rules! elements {
    ($($code:literal $type:ty),+ $(,)?) => {
        $(impl Element for $type {
            const DATATYPE: u32 = $code;
        })+
    };
}

elements! {
    1 u8, 2 i8, 3 u16, 4 i16, 5 u32, 6 i32, 7 u64, 8 i64, 9 u128, 10 i128, 11 f32, 12 f64,
}

/// Machines whose words differ in length must not take each other's.
const WORD_CODES: [u32; 2] = if size_of::<usize>() == 8 { [17, 18] } else { [19, 20] };

impl Element for usize {
    const DATATYPE: u32 = WORD_CODES[0];
}

impl Element for isize {
    const DATATYPE: u32 = WORD_CODES[1];
}

elements! { 21 Bool }

#[cfg(feature = "half")]
elements! { 13 half::f16, 14 half::bf16 }

#[cfg(feature = "complex")]
elements! { 15 num_complex::Complex<f32>, 16 num_complex::Complex<f64> }

impl<T: Element, const N: usize> Element for [T; N]
where
    Self: bytemuck::Pod,
{
    const DATATYPE: u32 = {
        assert!(size_of::<Self>() > 0, "an element has at least one byte");
        code("array", [T::DATATYPE as u64, N as u64])
    };
}

/// The name of a type by its code.
pub fn name_of(code: u32) -> std::borrow::Cow<'static, str> {
    const NAMES: [&str; 22] = [
        "no elements",
        "u8",
        "i8",
        "u16",
        "i16",
        "u32",
        "i32",
        "u64",
        "i64",
        "u128",
        "i128",
        "f32",
        "f64",
        "f16",
        "bf16",
        "Complex<f32>",
        "Complex<f64>",
        "usize (64 bits)",
        "isize (64 bits)",
        "usize (32 bits)",
        "isize (32 bits)",
        "bool",
    ];
    match code {
        VALUE_DATATYPE => "a serialized value".into(),
        USER_DATATYPE_MIN.. => format!("user type #{code:08x}").into(),
        known => {
            NAMES.get(known as usize).map_or_else(|| format!("unknown type #{known}").into(), |name| (*name).into())
        }
    }
}

/// The code of a user's type, from its name, size and alignment: the same in every build.
#[must_use]
pub const fn user_code(name: &str, bytes: usize, align: usize) -> u32 {
    code(name, [bytes as u64, align as u64])
}

/// A hash (FNV-1a) of a name and two numbers.
#[expect(clippy::cast_possible_truncation, reason = "byte after byte")]
const fn code(name: &str, numbers: [u64; 2]) -> u32 {
    let name = name.as_bytes();
    let mut hash = 0x811c_9dc5_u32;
    let mut index = 0;
    while index < name.len() + 16 {
        let byte = if index < name.len() {
            name[index]
        } else {
            let index = index - name.len();
            (numbers[index / 8] >> (8 * (index % 8))) as u8
        };
        hash = (hash ^ byte as u32).wrapping_mul(0x0100_0193);
        index += 1;
    }
    hash | USER_DATATYPE_MIN
}

/// Makes elements of types that implement [`bytemuck::Pod`].
///
/// On the wire a type is known by its name with the path of the module that calls this macro, its size and its
/// alignment: types of one name in different modules or crates are different types, and a program that renames one does
/// so on all ranks at once. Where ranks are different programs that have one type each, under different paths, a name of
/// your choice stands in for the path: `fmi::element!(Particle = "nbody/particle v1")`.
///
/// # Examples
/// ```
/// # extern crate fmi_proto as fmi;
/// mod gas {
///     #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
///     #[repr(transparent)]
///     pub struct Density(f64);
///     fmi::element!(Density);
/// }
/// mod water {
///     #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
///     #[repr(transparent)]
///     pub struct Density(f64);
///     fmi::element!(Density);
/// }
/// use fmi::Element;
/// assert_ne!(gas::Density::DATATYPE, water::Density::DATATYPE);
/// ```
#[macro_export]
macro_rules! element {
    ($type:ty = $name:expr) => {
        const _: () = assert!(size_of::<$type>() > 0, "an element has at least one byte");
        impl $crate::Element for $type {
            const DATATYPE: u32 = $crate::datatype::user_code($name, size_of::<$type>(), align_of::<$type>());
        }
    };
    ($($type:ty),+ $(,)?) => {
        $($crate::element!($type = concat!(module_path!(), "::", stringify!($type)));)+
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    mod here {
        #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(transparent)]
        pub(super) struct Named(u32);
        crate::element!(Named);

        #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(transparent)]
        pub(super) struct Shared(u32);
        crate::element!(Shared = "shared");
    }

    mod there {
        #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(transparent)]
        pub(super) struct Named(u32);
        crate::element!(Named);

        #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        #[repr(transparent)]
        pub(super) struct Shared(u32);
        crate::element!(Shared = "shared");
    }

    #[test]
    fn types_of_one_name_and_size_are_told_apart_unless_they_share_a_given_name() {
        assert_ne!(here::Named::DATATYPE, there::Named::DATATYPE);
        assert_eq!(here::Shared::DATATYPE, there::Shared::DATATYPE);
    }

    #[test]
    fn codes_tell_types_apart() {
        let codes = [
            u8::DATATYPE,
            f64::DATATYPE,
            u64::DATATYPE,
            usize::DATATYPE,
            isize::DATATYPE,
            Bool::DATATYPE,
            <[f64; 2]>::DATATYPE,
            <[f64; 3]>::DATATYPE,
            <[f32; 2]>::DATATYPE,
            <[[f32; 2]; 3]>::DATATYPE,
            <[[f32; 3]; 2]>::DATATYPE,
            user_code("Particle", 32, 8),
            user_code("Particle", 40, 8),
            user_code("Particle", 32, 4),
            user_code("Article", 32, 8),
        ];
        let distinct: std::collections::BTreeSet<u32> = codes.into_iter().collect();
        assert_eq!(distinct.len(), codes.len());
        assert_eq!(name_of(12), "f64");
        assert_eq!(name_of(usize::DATATYPE), "usize (64 bits)");
        assert_eq!(name_of(Bool::DATATYPE), "bool");
        assert_eq!(name_of(0), "no elements");
        assert_eq!(name_of(200), "unknown type #200");
        assert!(name_of(user_code("Particle", 32, 8)).starts_with("user type #"));
    }

    #[test]
    fn datatypes_by_value_are_those_of_the_elements() {
        for datatype in Datatype::built_in() {
            assert_eq!(datatype.name().parse(), Ok(datatype));
            assert!(datatype.code() < USER_DATATYPE_MIN && datatype.bytes() > 0);
        }
        assert_eq!("usize".parse(), Ok(Datatype::of::<usize>()));
        assert_eq!(Datatype::user("shared", 4, 4), Some(Datatype::of::<here::Shared>()));
        assert_eq!(Datatype::of::<f32>().array(3), Some(Datatype::of::<[f32; 3]>()));
        assert_eq!(Datatype::user("nothing", 0, 1), None);
        assert_eq!([0, usize::MAX].map(|length| Datatype::of::<u16>().array(length)), [None; 2]);
        let error = "f31".parse::<Datatype>().map_err(|error| error.to_string());
        assert!(error.is_err_and(|text| text.starts_with("unknown datatype \"f31\" (expected one of: u8, i8,")));
    }

    #[test]
    fn truth_values_cross_over_without_a_copy() {
        let values = [true, false, true];
        assert_eq!(Bool::from_bools(&values), values.map(Bool::from));
        assert_eq!(Bool::to_bools(Bool::from_bools(&values)), Some(&values[..]));
        let bytes: [Bool; 2] = bytemuck::cast([2u8, 0]);
        assert_eq!(bytes.map(bool::from), [true, false]);
        assert_eq!(Bool::to_bools(&bytes), None);
    }
}
