//! `knockd`: see the library for how it works.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use knockd::{
    cli::{Cli, Command},
    commands::{self, Exit, Failure, Format, Output, file_mode},
    escape, memory, setback,
};

fn main() -> ExitCode {
    let dumps = memory::forbid_dumps();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // A closed stdout or stderr leaves nobody to tell.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { ExitCode::SUCCESS };
        }
    };
    let is_daemon = matches!(cli.command, Command::Run);
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let mode = file_mode(&stdout);
    let mut output =
        Output::new(&mut stdout, &mut stderr, Format::from_flag(cli.json)).to_file(mode);
    match dispatch(cli, dumps, &mut output) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { exit, message }) => {
            let _ = writeln!(io::stderr(), "knockd: {}", escape::lines(&message));
            if is_daemon {
                setback::wait();
            }
            exit.into()
        }
    }
}

fn dispatch(cli: Cli, dumps: io::Result<()>, output: &mut Output<'_>) -> Result<(), Failure> {
    let config = cli.config;
    match cli.command {
        Command::Run => commands::run::run(&config, dumps),
        Command::Doctor(_) => commands::doctor::run(&config, output),
        Command::Check(args) => commands::check::run(&config, &args, output),
        Command::Client(command) => commands::client::run(&command, &config, output),
        Command::Firewall(command) => commands::firewall::run(&command, &config, output),
        Command::Grants => commands::grants::run(&config, output),
        Command::Bans => commands::bans::list(&config, output),
        Command::Ban(args) => commands::bans::ban(&config, &args, output),
        Command::Unban(args) => commands::bans::unban(&config, &args, output),
        Command::Revoke(args) => commands::revoke::run(&config, &args, output),
        Command::Reload => commands::reload::run(&config, output),
        Command::Status => commands::status::run(&config, output),
    }
}
