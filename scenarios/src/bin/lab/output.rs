//! What the program prints. The standard library's macros panic when nobody reads.

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

/// Prints a line.
macro_rules! say {
    ($($format:tt)*) => {
        $crate::output::print(format_args!($($format)*))
    };
}

/// Prints a line to the standard error.
macro_rules! complain {
    ($($format:tt)*) => {
        $crate::output::print_error(format_args!($($format)*))
    };
}

/// Prints a line. A reader that has left, like `head`, has seen enough; the program still ends with the code of its outcome.
pub(crate) fn print(line: Arguments<'_>) {
    match writeln!(std::io::stdout(), "{line}") {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            print_error(format_args!("lab: cannot write to the standard output: {error}"));
            std::process::exit(1);
        }
        Ok(()) | Err(_) => {}
    }
}

/// Prints a line to the standard error, if somebody reads it.
pub(crate) fn print_error(line: Arguments<'_>) {
    // There is no other place to complain.
    let _ = writeln!(std::io::stderr(), "{line}");
}
