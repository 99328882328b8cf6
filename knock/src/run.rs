//! One run of the program, from the command line to the exit code.

use std::{env, process::ExitCode, time::Instant};

use crate::{
    check,
    cli::{self, Args, Order, Refused},
    command::{self, Place},
    exit::{Code, Error},
    keep, keygen, nat,
    output::{self, Output, complain},
    packet::{self, Packet},
    plan::{self, Plan},
    probes::{NO_PROOF, Probes, Proof},
    reply::{self, Replies},
    report::Report,
    resolve, send, wait,
};

/// Does what this process' command line says. With a command to run, it comes back only on a failure.
#[must_use]
pub fn run() -> ExitCode {
    match cli::read(env::args_os().skip(1)) {
        Ok(Order::Keygen(args)) => ended(keygen::keygen(&args)).into(),
        Ok(Order::Knock(args)) if args.keep => keep::obey(&args),
        Ok(Order::Knock(args)) => obey(&args).into(),
        Ok(Order::Tell(text)) => ended(output::write(&text)).into(),
        Err(refused) => refuse(refused).into(),
    }
}

fn ended(result: Result<(), Error>) -> Code {
    match result {
        Ok(()) => Code::Ok,
        Err(error) => {
            complain(&format!("knock: {error}\n"));
            error.code()
        }
    }
}

/// Answers a command line that is none.
fn refuse(Refused { message, usage }: Refused) -> Code {
    complain(&format!(
        "error: {message}\n\nUsage: {usage}\n\nFor more information, try '--help'.\n"
    ));
    let mut report = Report::default();
    report.fail(&Error::Usage(message));
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
    let concluded = output.conclude(&report);
    let result = result.and_then(|place| {
        concluded?;
        place.map_or(Ok(()), |place| command::replace_this_process(&args.command, &place))
    });
    ended(result)
}

/// Sends, and waits if it is to. What happens is noted in the report also when it fails. Returns what a command is to
/// know of the door.
fn knock(args: &Args, output: Output, report: &mut Report) -> Result<Option<Place>, Error> {
    if let Some(number) = args.set_counter {
        return set_counter(args, number, output, report).map(|()| None);
    }
    if args.check {
        return check::check(args, output, report).map(|()| None);
    }
    let mut plan = Plan::new(args)?;
    report.begin(&plan);
    let addresses = resolve::addresses(&plan.server, plan.families, plan.address);
    if args.dry_run {
        let (rehearsed, warnings) = send::rehearse(&plan, addresses)?;
        warn(warnings, output, report);
        warn_of_clock(rehearsed.iter().map(|it| &it.packet), output, report);
        report.rehearsed(&rehearsed);
        return output.tell(&report.unsent_as_text()).map(|()| None);
    }
    let (routes, unreachable) = send::routes(&addresses?, plan.address);
    for failed in &unreachable {
        report.unreachable(failed);
    }
    if routes.is_empty() {
        return Err(send::nothing_sent(&unreachable, &[]));
    }
    warn(routes.iter().filter_map(|route| nat::warning(route)), output, report);
    let start = Instant::now();
    let probes = plan.wait.map(|wait| (Probes::before(&routes, wait.port, start.elapsed()), wait));
    let outcomes = send::send(&mut plan, &routes)?;
    warn_of_clock(outcomes.iter().flat_map(|outcome| &outcome.packets), output, report);
    for outcome in &outcomes {
        report.sent(outcome);
    }
    let knocked = outcomes.iter().find(|outcome| !outcome.packets.is_empty());
    let Some(knocked) = knocked else {
        return Err(send::nothing_sent(&unreachable, &outcomes));
    };
    let mut open_at = knocked.route.to.ip();
    output.tell(&report.sent_as_text())?;
    let mut replies = Vec::new();
    if let Some(limit) = plan.reply_within {
        let awaited = Replies::to(&plan, &outcomes, start.elapsed(), limit);
        replies = awaited.wait(&mut plan, start)?;
        let first = replies.first().ok_or_else(|| reply::none(limit))?;
        open_at = first.by.ip();
        report.replied(&replies);
        output.tell(&report.replies_as_text())?;
    }
    if let Some((probes, wait)) = probes {
        let accepted = wait::until_open(probes, wait, start);
        let accepted = accepted.map_err(|error| reply::explained(error, &replies))?;
        let accepted = accepted.proven_by(&replies);
        open_at = accepted.by;
        report.open(accepted, wait.port);
        output.tell(&report.open_as_text())?;
        if accepted.proof == Proof::No {
            warn(
                [format!("{} accepts at {}, {NO_PROOF}", wait.port, accepted.by)],
                Output::Quiet,
                report,
            );
        }
    } else if args.wait.is_some() && plan.reply_within.is_none() {
        let what =
            plan.port.map_or_else(|| NO_PORT.to_owned(), |port| format!("{port}: {NO_HANDSHAKE}"));
        warn([what], output, report);
    }
    Ok(Some(Place::new(&plan, open_at)))
}

/// Of a profile without a port.
pub(crate) const NO_PORT: &str = "no port is named, so that nothing shows whether the door has opened: put the service's \
tcp port into the profile, or give --port; with --reply the server says what came of the knock";

/// Of a port of UDP.
pub(crate) const NO_HANDSHAKE: &str = "UDP has no handshake, so that nothing shows whether the door has opened: the knock \
is sent, and with --reply the server says what came of it";

/// Sets the number of the last packet, and sends nothing.
fn set_counter(args: &Args, number: u64, output: Output, report: &mut Report) -> Result<(), Error> {
    let file = plan::counter_file(args)?;
    let change = file.set(number)?;
    warn(file.forgets(), output, report);
    report.counted(&file, number, change);
    output.tell(&report.counted_as_text())
}

fn warn(warnings: impl IntoIterator<Item = String>, output: Output, report: &mut Report) {
    for warning in warnings {
        output.warn(&warning);
        report.warn(warning);
    }
}

fn warn_of_clock<'p>(
    mut packets: impl Iterator<Item = &'p Packet>,
    output: Output,
    report: &mut Report,
) {
    if !packets.all(Packet::is_plausibly_stamped) {
        warn([packet::IMPLAUSIBLE_CLOCK.to_owned()], output, report);
    }
}
