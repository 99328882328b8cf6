//! The command behind `--`: it takes this process's place, so that signals, terminal, input and exit
//! status are the command's own. (With `--keep` it is a child: see [`crate::keep`].)
//!
//! It is told where the door has opened: a name may have several addresses, of which some are dead, and who looks it
//! up again may be the next one to try those.

use std::{
    ffi::{OsStr, OsString},
    io,
    net::IpAddr,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        process::CommandExt as _,
    },
    process::Command,
};

use crate::{exit::Error, plan::Plan};

/// Where the door is open, or what was knocked at where nothing tells.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    host: String,
    address: IpAddr,
    port: Option<u16>,
}

impl Place {
    /// This address of the plan's server.
    pub(crate) fn new(plan: &Plan, address: IpAddr) -> Self {
        let port = plan.port.map(|port| port.number.get());
        Self { host: plan.server.host().to_owned(), address, port }
    }
}

/// The command, with its program's name; `None` where there is none. It finds the place in its environment
/// (`KNOCK_HOST`, `KNOCK_ADDRESS`, `KNOCK_PORT`), and in place of `{host}` and `{address}` in its arguments.
pub(crate) fn prepare<'l>(line: &'l [OsString], place: &Place) -> Option<(&'l OsStr, Command)> {
    let (program, arguments) = line.split_first()?;
    let address = place.address.to_string();
    let mut command = Command::new(program);
    for argument in arguments {
        let argument = replaced(argument.as_bytes(), b"{host}", place.host.as_bytes());
        let argument = replaced(&argument, b"{address}", address.as_bytes());
        command.arg(OsString::from_vec(argument));
    }
    command.env("KNOCK_HOST", &place.host).env("KNOCK_ADDRESS", &address);
    match place.port {
        Some(port) => command.env("KNOCK_PORT", port.to_string()),
        None => command.env_remove("KNOCK_PORT"),
    };
    Some((program, command))
}

/// Runs the command in place of this process. It comes back only if that failed.
pub(crate) fn replace_this_process(line: &[OsString], place: &Place) -> Result<(), Error> {
    let Some((program, mut command)) = prepare(line, place) else { return Ok(()) };
    Err(failure(program, &command.exec()))
}

/// Why a command could not be run, told apart as env(1) does.
pub(crate) fn failure(program: &OsStr, error: &io::Error) -> Error {
    let text = format!("{}: {error}", program.to_string_lossy());
    if error.kind() == io::ErrorKind::NotFound {
        Error::NotFound(text)
    } else {
        Error::NotExecutable(text)
    }
}

fn replaced(mut text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut whole = Vec::with_capacity(text.len());
    while let Some(at) = text.windows(from.len()).position(|part| part == from) {
        let (before, behind) = text.split_at(at);
        whole.extend_from_slice(before);
        whole.extend_from_slice(to);
        text = behind.get(from.len()..).unwrap_or_default();
    }
    whole.extend_from_slice(text);
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_finds_the_place_in_its_arguments_and_its_environment() {
        let place = Place {
            host: "broker".into(),
            address: "2001:db8::7".parse().unwrap(),
            port: Some(8883),
        };
        let line =
            ["mqtt", "-h", "{address}", "{host}/{host}:{port}", "{\"host\":1}"].map(OsString::from);
        let (program, command) = prepare(&line, &place).unwrap();
        assert_eq!(program, "mqtt");
        let arguments: Vec<_> = command.get_args().collect();
        assert_eq!(arguments, ["-h", "2001:db8::7", "broker/broker:{port}", "{\"host\":1}"]);
        let environment: Vec<_> =
            command.get_envs().map(|(name, value)| (name, value.unwrap())).collect();
        for pair in
            [("KNOCK_HOST", "broker"), ("KNOCK_ADDRESS", "2001:db8::7"), ("KNOCK_PORT", "8883")]
        {
            assert!(
                environment.contains(&(OsStr::new(pair.0), OsStr::new(pair.1))),
                "{environment:?}"
            );
        }
        assert!(prepare(&[], &place).is_none());
    }
}
