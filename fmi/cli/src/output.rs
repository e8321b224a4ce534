//! What the program prints. The standard library's macros panic when nobody reads.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

/// Prints a line.
macro_rules! say {
    ($($format:tt)*) => {
        $crate::output::print(format_args!($($format)*))
    };
}

/// Prints a line about what went wrong.
macro_rules! complain {
    ($($format:tt)*) => {
        $crate::output::print_error(format_args!("fmi: {}", format_args!($($format)*)))
    };
}

/// Prints a line. A reader that has left, like `head`, has seen enough: what the program does goes on, as others may
/// count on it, and nothing is said.
pub(crate) fn print(line: Arguments<'_>) {
    // `try_print` has said why.
    let _ = try_print(line);
}

/// Prints a line; `Err` if nobody reads any more.
pub(crate) fn try_print(line: Arguments<'_>) -> Result<(), Closed> {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Closed),
        Err(error) => {
            print_error(format_args!("fmi: cannot write to the standard output: {error}"));
            std::process::exit(1);
        }
    }
}

/// The standard output is closed.
pub(crate) struct Closed;

/// Prints a line to the standard error, if somebody reads it.
pub(crate) fn print_error(line: Arguments<'_>) {
    // There is no other place to complain.
    let _ = writeln!(std::io::stderr(), "{line}");
}
