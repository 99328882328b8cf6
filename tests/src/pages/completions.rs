//! Shell completions, by `clap_complete`: `bash/`, `zsh/` and `fish/`, in files named as each shell looks
//! for them.

use std::path::Path;

use clap_complete::{Shell, generate};

use super::{Program, put};

/// Writes a program's completions.
pub(super) fn write(folder: &Path, program: Program) {
    let name = program.name();
    for (shell, file) in [
        (Shell::Bash, format!("bash/{name}")),
        (Shell::Zsh, format!("zsh/_{name}")),
        (Shell::Fish, format!("fish/{name}.fish")),
    ] {
        let mut script = Vec::new();
        generate(shell, &mut program.command(), name, &mut script);
        put(&folder.join(file), &String::from_utf8(script).expect("UTF-8"));
    }
}
