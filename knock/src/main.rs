//! `knock`: see the library for how it works.

use std::process::ExitCode;

fn main() -> ExitCode {
    knock::run()
}
