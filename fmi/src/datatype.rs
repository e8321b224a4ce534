//! Element types that may be sent. MPI 3.1 §3.2.2.
//!
//! Integers and floats are elements, so are `half`'s `f16` and `bf16`, `num_complex`'s `Complex<f32>` and
//! `Complex<f64>`, and arrays of elements. A type of your own becomes one in two lines, of which the first
//! is bytemuck's:
//!
//! ```
//! #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
//! #[repr(C)]
//! struct Particle {
//!     position: [f64; 3],
//!     mass: f64,
//! }
//! fmi::element!(Particle);
//! # assert_ne!(<Particle as fmi::Element>::DATATYPE, 0);
//! ```
//!
//! Values of variable length travel through serde: [`Communicator::send_value`](crate::Communicator::send_value).

/// A plain element: any bit pattern is a value, and there is no padding.
///
/// Its code travels in every frame, so that two ranks which disagree about the type get an error.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// Code of the type on the wire: below [`USER_DATATYPE_MIN`] the built-in ones, 0 for none.
    const DATATYPE: u32;
}

/// First code of types made by [`element!`](crate::element) and of arrays.
pub const USER_DATATYPE_MIN: u32 = 1 << 31;

/// The code of a value that serde has written.
pub const VALUE_DATATYPE: u32 = 255;

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

#[cfg(feature = "half")]
elements! { 13 half::f16, 14 half::bf16 }

#[cfg(feature = "complex")]
elements! { 15 num_complex::Complex<f32>, 16 num_complex::Complex<f64> }

impl<T: Element, const N: usize> Element for [T; N]
where
    Self: bytemuck::Pod,
{
    const DATATYPE: u32 = user_code("array", (T::DATATYPE as usize) ^ (N << 8));
}

/// The name of a type by its code.
pub fn name_of(code: u32) -> std::borrow::Cow<'static, str> {
    const NAMES: [&str; 17] = [
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
    ];
    match code {
        VALUE_DATATYPE => "a serialized value".into(),
        USER_DATATYPE_MIN.. => format!("user type #{code:08x}").into(),
        known => {
            NAMES.get(known as usize).map_or_else(|| format!("unknown type #{known}").into(), |name| (*name).into())
        }
    }
}

/// The code of a user's type: a hash (FNV-1a) of its name and size, the same in every build.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "byte after byte")]
pub const fn user_code(name: &str, bytes: usize) -> u32 {
    let name = name.as_bytes();
    let mut hash = 0x811c_9dc5_u32;
    let mut index = 0;
    while index < name.len() + 8 {
        let byte = if index < name.len() { name[index] } else { ((bytes as u64) >> (8 * (index - name.len()))) as u8 };
        hash = (hash ^ byte as u32).wrapping_mul(0x0100_0193);
        index += 1;
    }
    hash | USER_DATATYPE_MIN
}

/// Makes elements of types that implement [`bytemuck::Pod`].
///
/// Name and size of a type tell it from others on the wire; rename it on all ranks at once.
#[macro_export]
macro_rules! element {
    ($($type:ty),+ $(,)?) => {
        $(impl $crate::Element for $type {
            const DATATYPE: u32 = $crate::datatype::user_code(stringify!($type), size_of::<$type>());
        })+
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_tell_types_apart() {
        let codes = [
            u8::DATATYPE,
            f64::DATATYPE,
            <[f64; 2]>::DATATYPE,
            <[f64; 3]>::DATATYPE,
            <[f32; 2]>::DATATYPE,
            user_code("Particle", 32),
            user_code("Particle", 40),
            user_code("Article", 32),
        ];
        let distinct: std::collections::BTreeSet<u32> = codes.into_iter().collect();
        assert_eq!(distinct.len(), codes.len());
        assert_eq!(name_of(12), "f64");
        assert_eq!(name_of(0), "no elements");
        assert_eq!(name_of(200), "unknown type #200");
        assert!(name_of(user_code("Particle", 32)).starts_with("user type #"));
    }
}
