//! Element types that may be sent. MPI 3.1 §3.2.2.

/// A plain element: any bit pattern is a value, and there is no padding.
///
/// Its code travels in every frame, so that two ranks which disagree about the type get an error.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// Code of the type on the wire.
    const DATATYPE: u8;
}

macro_rules! elements {
    ($($code:literal $type:ty),+ $(,)?) => {
        $(impl Element for $type {
            const DATATYPE: u8 = $code;
        })+

        /// The name of a type by its code.
        pub fn name_of(code: u8) -> &'static str {
            match code {
                $($code => stringify!($type),)+
                _ => "no elements",
            }
        }
    };
}

elements! {
    1 u8, 2 i8, 3 u16, 4 i16, 5 u32, 6 i32, 7 u64, 8 i64, 9 u128, 10 i128, 11 f32, 12 f64,
}
