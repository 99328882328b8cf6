//! One run of the program, from the command line to the exit code.

use std::{env, process::ExitCode};

use clap::Parser as _;

use crate::{
    check,
    cli::{Args, Tool},
    command,
    exit::{Code, Error},
    keep, keygen, nat,
    output::{self, Output, complain},
    packet,
    plan::{self, Plan},
    reply,
    report::Report,
    resolve, send, wait,
};

/// Does what this process' command line says. With a command to run, it comes back only on a failure.
#[must_use]
pub fn run() -> ExitCode {
    match Args::try_parse() {
        Ok(Args { tool: Some(Tool::Keygen(args)), .. }) => match keygen::keygen(&args) {
            Ok(()) => Code::Ok.into(),
            Err(error) => {
                complain(&format!("knock: {error}\n"));
                error.code().into()
            }
        },
        Ok(args) if args.keep => keep::obey(&args),
        Ok(args) => obey(&args).into(),
        Err(error) => refuse(&error).into(),
    }
}

/// Answers `--help` and `--version`, and a command line that is none.
fn refuse(error: &clap::Error) -> Code {
    let text = error.render().to_string();
    if !error.use_stderr() {
        return match output::write(&text) {
            Ok(()) => Code::Ok,
            Err(error) => error.code(),
        };
    }
    let first = text.split("\n\n").next().unwrap_or_default();
    let mut report = Report::default();
    report.fail(&Error::Usage(first.trim_start_matches("error: ").to_owned()));
    complain(&text);
    match Output::of_refused(env::args_os()).conclude(&report) {
        Ok(()) => Code::Usage,
        Err(error) => error.code(),
    }
}

/// Does what the command line says. With a command to run, it comes back only on a failure.
///
/// The JSON object tells of the knock and is out before the command takes over; that a command could not
/// be run is told on standard error and by the exit code alone.
fn obey(args: &Args) -> Code {
    let output = Output::of(args);
    let mut report = Report::default();
    let result = knock(args, output, &mut report);
    if let Err(error) = &result {
        report.fail(error);
    }
    let result = result.and(output.conclude(&report)).and_then(|()| {
        if args.dry_run { Ok(()) } else { command::replace_this_process(&args.command) }
    });
    match result {
        Ok(()) => Code::Ok,
        Err(error) => {
            complain(&format!("knock: {error}\n"));
            error.code()
        }
    }
}

/// Sends, and waits if it is to. What happens is noted in the report also when it fails.
fn knock(args: &Args, output: Output, report: &mut Report) -> Result<(), Error> {
    if let Some(number) = args.set_counter {
        return set_counter(args, number, output, report);
    }
    if args.check {
        return check::check(args, output, report);
    }
    let plan = Plan::new(args)?;
    report.begin(&plan);
    let addresses = resolve::addresses(&plan.server, plan.families, plan.address)?;
    let (routes, unreachable) = send::routes(&addresses, plan.address);
    for failed in &unreachable {
        report.unreachable(failed);
    }
    if routes.is_empty() {
        return Err(send::nothing_sent(&unreachable, &[]));
    }
    for warning in routes.iter().filter_map(nat::warning) {
        output.warn(&warning);
        report.warn(warning);
    }
    if args.dry_run {
        let outcomes = send::rehearse(&plan, &routes)?;
        warn_of_clock(&outcomes, output, report);
        for outcome in &outcomes {
            report.rehearsed(outcome);
        }
        return output.tell(&report.unsent_as_text());
    }
    let outcomes = send::send(&plan, &routes)?;
    warn_of_clock(&outcomes, output, report);
    for outcome in &outcomes {
        report.sent(outcome);
    }
    let knocked: Vec<_> = outcomes.iter().filter(|outcome| !outcome.packets.is_empty()).collect();
    if knocked.is_empty() {
        return Err(send::nothing_sent(&unreachable, &outcomes));
    }
    output.tell(&report.sent_as_text())?;
    if let Some(limit) = plan.reply_within {
        let replies = reply::wait(&plan, &knocked, limit)?;
        report.replied(&replies);
        output.tell(&report.replies_as_text())?;
    }
    if let Some(wait) = plan.wait {
        let routes: Vec<_> = knocked.iter().map(|outcome| outcome.route).collect();
        let opened = wait::until_open(&routes, wait)?;
        report.open(opened, wait.port);
        output.tell(&report.open_as_text())?;
    }
    Ok(())
}

/// Sets the number of the last packet, and sends nothing.
fn set_counter(args: &Args, number: u64, output: Output, report: &mut Report) -> Result<(), Error> {
    let file = plan::counter_file(args)?;
    let change = file.set(number)?;
    report.counted(&file, number, change);
    output.tell(&report.counted_as_text())
}

fn warn_of_clock(outcomes: &[send::Outcome<'_>], output: Output, report: &mut Report) {
    let packets = outcomes.iter().flat_map(|outcome| &outcome.packets);
    if packets.into_iter().all(packet::Packet::is_plausibly_stamped) {
        return;
    }
    output.warn(packet::IMPLAUSIBLE_CLOCK);
    report.warn(packet::IMPLAUSIBLE_CLOCK.to_owned());
}
