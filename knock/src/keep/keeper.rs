//! The one who keeps the door open: every step is taken here, and none of them waits.
//!
//! A renewal goes: look the server's name up, look whether the door is still open, knock. That it was open shows
//! that the last renewal arrived; if it wasn't, the knock is followed by a look that lasts until it opens, as after
//! the first knock. Where the profile names no tcp port, nothing can be looked at, and what was sent counts.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use common::{Action, OpenFor};
use nix::sys::signal::Signal;

use crate::{
    cli::Args,
    exit::Error,
    keep::{
        child::Running,
        names::{self, Question},
        network::Change,
        probes::{Accepted, Probes},
        schedule::{Chance, Schedule},
        tell::{Event, Teller},
        wires::{self, Ready, Sender, Wires},
    },
    nat, packet,
    plan::Plan,
    send::{self, Route},
};

/// How long a renewal waits for the resolver before it goes to the addresses that are known.
const LOOKUP: Duration = Duration::from_secs(2);
/// How long the resolver has where no address is known.
const FIRST_LOOKUP: Duration = Duration::from_secs(20);

/// How long after the first notice of a change the routes are looked at: a change comes as many notices.
const SETTLE: Duration = Duration::from_millis(250);
/// How long after a look at the routes the next one comes at the earliest.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

/// What is done at present.
#[derive(Debug)]
enum Step {
    /// Nothing, until it is time to renew or to try again.
    Pause(Duration),
    /// The resolver is waited for.
    Lookup(Duration),
    /// It is looked whether the door has stayed open.
    Check(Probes),
    /// The door was knocked at, and is to open.
    Opening(Probes),
}

/// What is known of the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// Nothing yet.
    Unknown,
    /// It opened, and nothing says that it isn't open still.
    Open,
    /// It was shut when it should have been open, and no knock has failed since.
    EndedEarly,
    /// A knock did not open it, or could not be sent.
    Shut,
}

/// How a packet gets to an address of the server: there, and from where.
type Way = (SocketAddr, Option<IpAddr>);

struct Keeper<'a> {
    args: &'a Args,
    plan: Plan,
    schedule: Schedule,
    teller: Teller,
    step: Step,
    door: Door,
    /// The server's addresses as last heard.
    known: Vec<SocketAddr>,
    /// A question to the resolver, and whether it is still the one to ask.
    question: Option<(Question, Relevance)>,
    /// The ways that were knocked on last.
    ways: Vec<Way>,
    /// The server's addresses at which the door was open when it was last looked at.
    answering: Vec<IpAddr>,
    knocked_at: Option<Duration>,
    /// A change of the network that was not looked at yet, and when it will be.
    change: Option<(Change, Duration)>,
    looked_at: Duration,
    warned: Vec<String>,
    is_ready: bool,
    child: Option<Running>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relevance {
    Current,
    /// The profile names another server by now.
    Outdated,
}

/// Keeps the door open. Returns the exit status when a signal or the command has ended it.
///
/// # Errors
/// If the command line, the profile or the key is wrong, the system lacks what is needed, or the command can't
/// be run. A network that isn't there, a server that doesn't answer, is no reason to give up.
pub(super) fn keep(args: &Args) -> Result<u8, Error> {
    let plan = Plan::new(args)?;
    let mut wires = Wires::open()?;
    let mut keeper = Keeper {
        args,
        schedule: schedule_of(&plan),
        plan,
        teller: Teller::new(args),
        step: Step::Pause(Duration::ZERO),
        door: Door::Unknown,
        known: Vec::new(),
        question: None,
        ways: Vec::new(),
        answering: Vec::new(),
        knocked_at: None,
        change: None,
        looked_at: Duration::ZERO,
        warned: Vec::new(),
        is_ready: false,
        child: None,
    };
    let result = keeper.run(&mut wires);
    keeper.close();
    result
}

fn schedule_of(plan: &Plan) -> Schedule {
    Schedule::new(match plan.ask.open_for {
        OpenFor::Seconds(seconds) => seconds.get(),
        OpenFor::Default => crate::duration::Seconds::KEEP.number().get(),
    })
}

fn chance() -> Result<Chance, Error> {
    getrandom::u32().map(Chance).map_err(|error| {
        Error::System(format!("the system gives no random bytes for the schedule: {error}"))
    })
}

impl Keeper<'_> {
    fn run(&mut self, wires: &mut Wires) -> Result<u8, Error> {
        loop {
            let question = self.question.as_ref().map(|(question, _)| question);
            let probes = match &self.step {
                Step::Check(probes) | Step::Opening(probes) => Some(probes),
                Step::Pause(_) | Step::Lookup(_) => None,
            };
            let ready = wires.wait(self.due(), question, probes)?;
            if let Some(code) = self.turn(ready)? {
                return Ok(code);
            }
        }
    }

    fn due(&self) -> Duration {
        let step = match &self.step {
            Step::Pause(due) | Step::Lookup(due) => *due,
            Step::Check(probes) | Step::Opening(probes) => probes.due(),
        };
        self.change.map_or(step, |(_, due)| due.min(step))
    }

    fn turn(&mut self, ready: Ready) -> Result<Option<u8>, Error> {
        let now = wires::now()?;
        for (signal, sender) in ready.signals {
            if let Some(code) = self.heed(signal, sender, now)? {
                return Ok(Some(code));
            }
        }
        if ready.is_answered {
            self.take_answer(now)?;
        }
        if let Some(change) = ready.change {
            let due = (now + SETTLE).max(self.looked_at + LOOK_PAUSE);
            let (known, due) = self.change.unwrap_or((change, due));
            self.change = Some((known.max(change), due));
        }
        // Packets from before were stamped wrongly, and refused: that the clock is right is a reason to try.
        if ready.clock_was_set && self.door != Door::Open {
            self.schedule.forget_failures();
            self.begin(now)?;
        }
        if let Some((change, due)) = self.change
            && now >= due
        {
            self.change = None;
            self.looked_at = now;
            self.look_at_network(change, now)?;
        }
        self.go_on(now)?;
        Ok(None)
    }

    /// Takes the step that is due, if one is.
    fn go_on(&mut self, now: Duration) -> Result<(), Error> {
        match &mut self.step {
            Step::Pause(due) if now >= *due => self.begin(now),
            Step::Lookup(due) if now >= *due => {
                if self.known.is_empty() {
                    let host = self.plan.server.host();
                    self.fail(
                        &Error::NoHost(format!(
                            "{host} can't be looked up: no resolver answers: check this device's DNS"
                        )),
                        now,
                    )
                } else {
                    self.approach(now)
                }
            }
            Step::Pause(_) | Step::Lookup(_) => Ok(()),
            Step::Check(probes) => {
                probes.look(now);
                if probes.is_over(now) {
                    let open: Vec<IpAddr> = probes.open().collect();
                    self.checked(open, now)
                } else {
                    Ok(())
                }
            }
            Step::Opening(probes) => {
                probes.look(now);
                if let Some(accepted) = probes.accepted(now) {
                    self.answering = probes.open().collect();
                    self.opened(Some(accepted), now)
                } else if probes.is_over(now) {
                    let reasons = probes.reasons();
                    let port = self.plan.wait.map(|wait| wait.port.to_string());
                    let port = port.unwrap_or_default();
                    self.fail(&Error::NotOpen(format!("{port} did not open: {reasons}")), now)
                } else {
                    Ok(())
                }
            }
        }
    }

    /// Begins a renewal, or another try.
    fn begin(&mut self, now: Duration) -> Result<(), Error> {
        if let Some(answer) = names::literal(&self.plan) {
            return match answer {
                Ok(addresses) => {
                    self.known = addresses;
                    self.approach(now)
                }
                Err(error) => self.fail(&error, now),
            };
        }
        if self.question.is_none() {
            match Question::ask(&self.plan) {
                Ok(question) => self.question = Some((question, Relevance::Current)),
                Err(error) if self.known.is_empty() => return self.fail(&error, now),
                Err(_) => return self.approach(now),
            }
        }
        let patience = if self.known.is_empty() { FIRST_LOOKUP } else { LOOKUP };
        self.step = Step::Lookup(now + patience);
        Ok(())
    }

    fn take_answer(&mut self, now: Duration) -> Result<(), Error> {
        let Some((question, relevance)) = self.question.take() else { return Ok(()) };
        let is_awaited = matches!(self.step, Step::Lookup(_));
        match (question.answer(), relevance) {
            (_, Relevance::Outdated) => {
                if is_awaited {
                    self.begin(now)
                } else {
                    Ok(())
                }
            }
            (Ok(addresses), Relevance::Current) => {
                let is_news = addresses.iter().any(|address| !self.known.contains(address));
                self.known = addresses;
                if is_awaited || is_news { self.approach(now) } else { Ok(()) }
            }
            (Err(error), Relevance::Current) if is_awaited => {
                if self.known.is_empty() {
                    self.fail(&error, now)
                } else {
                    self.approach(now)
                }
            }
            (Err(_), Relevance::Current) => Ok(()),
        }
    }

    /// Goes up to the door: with a look at it first, if it should be open.
    fn approach(&mut self, now: Duration) -> Result<(), Error> {
        let (routes, unreachable) = send::routes(&self.known, self.plan.address);
        if let (Door::Open, Some(wait)) = (self.door, self.plan.wait)
            && ways(&routes) == self.ways
        {
            let patience = self.schedule.patience();
            self.step = Step::Check(Probes::once(routes.iter(), wait.port, now, patience));
            return Ok(());
        }
        self.knock(&routes, &unreachable, now)
    }

    /// Draws the conclusion of a look at a door that should be open.
    fn checked(&mut self, open: Vec<IpAddr>, now: Duration) -> Result<(), Error> {
        let has_held = !open.is_empty() && self.answering.iter().all(|at| open.contains(at));
        self.answering = open;
        if has_held {
            self.schedule.was_held();
        } else {
            self.door = Door::EndedEarly;
        }
        let (routes, unreachable) = send::routes(&self.known, self.plan.address);
        self.knock(&routes, &unreachable, now)
    }

    fn knock(
        &mut self,
        routes: &[Route],
        unreachable: &[send::Unreachable],
        now: Duration,
    ) -> Result<(), Error> {
        let new_ways = ways(routes);
        let (has_moved, is_first) = (new_ways != self.ways, self.knocked_at.is_none());
        self.warn(routes.iter().filter_map(nat::warning).collect());
        let outcomes = match send::send(&self.plan, routes) {
            Ok(outcomes) => outcomes,
            Err(error) => return self.fail(&error, now),
        };
        let sent: Vec<_> = outcomes.iter().filter(|outcome| !outcome.packets.is_empty()).collect();
        if sent.is_empty() {
            let error = send::nothing_sent(unreachable, &outcomes);
            return self.fail(&error, now);
        }
        let packets = sent.iter().flat_map(|outcome| &outcome.packets);
        if !packets.into_iter().all(packet::Packet::is_plausibly_stamped) {
            self.warn(vec![packet::IMPLAUSIBLE_CLOCK.to_owned()]);
        }
        for outcome in &sent {
            self.teller.note(&Event {
                event: "sent",
                to: Some(outcome.route.to.to_string()),
                address: outcome.route.local().map(|local| local.to_string()),
                ..Event::default()
            });
        }
        if has_moved && !is_first {
            let from: Vec<_> = new_ways
                .iter()
                .filter_map(|(_, from)| *from)
                .map(|from| from.to_string())
                .collect();
            let text = format!(
                "the way to {} has changed: knocked from {}",
                self.plan.server,
                from.join(" and ")
            );
            self.teller.tell(
                &text,
                &Event { event: "network", address: Some(from.join(" ")), ..Event::default() },
            );
        }
        self.ways = new_ways;
        self.knocked_at = Some(now);
        match self.plan.wait {
            Some(wait) if has_moved || self.door != Door::Open => {
                let routes = sent.iter().map(|outcome| outcome.route);
                self.step = Step::Opening(Probes::until_open(routes, wait.port, now, wait.limit));
                Ok(())
            }
            _ => self.opened(None, now),
        }
    }

    /// The door is open, or nothing can tell whether it is.
    fn opened(&mut self, accepted: Option<Accepted>, now: Duration) -> Result<(), Error> {
        if self.door == Door::EndedEarly {
            self.schedule.ended_early();
        }
        self.schedule.forget_failures();
        let knocked_at = self.knocked_at.unwrap_or(now);
        let due = knocked_at + self.schedule.renewal(chance()?);
        self.step = Step::Pause(due);
        let is_news = self.door != Door::Open || accepted.is_some();
        let has_ended_early = self.door == Door::EndedEarly;
        self.door = Door::Open;
        if is_news {
            self.tell_open(accepted, has_ended_early, due.saturating_sub(now));
        }
        if !self.is_ready {
            self.is_ready = true;
            self.teller.is_ready();
            self.child = Running::start(&self.args.command)?;
        }
        Ok(())
    }

    fn tell_open(&mut self, accepted: Option<Accepted>, has_ended_early: bool, next: Duration) {
        let (server, grant) = (&self.plan.server, self.schedule.grant().as_secs());
        let port = self.plan.wait.map(|wait| wait.port.to_string());
        let mut text = match (accepted, &port) {
            (Some(accepted), Some(port)) => {
                format!("{port} open at {}, and kept open", accepted.by)
            }
            _ => format!(
                "knocked at {server}, and going on: without a tcp port in the profile nothing shows whether the door is open"
            ),
        };
        if has_ended_early {
            text.push_str(&format!(
                "; it had been shut before its time, so that grants are taken to last {grant} s from now on: if it comes again, ask for less with open-for, or let the server's [grant] max be more"
            ));
        }
        let event = Event {
            event: "open",
            to: accepted.map(|accepted| accepted.by.to_string()),
            port,
            after_ms: accepted.map(|accepted| millis(accepted.after)),
            next_ms: Some(millis(next)),
            ..Event::default()
        };
        self.teller.tell(&text, &event);
    }

    /// Notes that it did not work, and when it is tried again.
    fn fail(&mut self, error: &Error, now: Duration) -> Result<(), Error> {
        let pause = self.schedule.pause(chance()?);
        self.step = Step::Pause(now + pause);
        self.door = Door::Shut;
        self.answering.clear();
        let event = Event { event: "failed", next_ms: Some(millis(pause)), ..Event::default() };
        self.teller.complain(format!("{error}; knocking again until it opens"), event);
        Ok(())
    }

    /// The kernel said that something changed: knocks at once if this may be another way to the server.
    fn look_at_network(&mut self, change: Change, now: Duration) -> Result<(), Error> {
        let (routes, unreachable) = send::routes(&self.known, self.plan.address);
        let may_be_another = change == Change::Certain || ways(&routes) != self.ways;
        if self.door == Door::Open && !may_be_another {
            return Ok(());
        }
        self.schedule.forget_failures();
        if self.known.is_empty() {
            return self.begin(now);
        }
        if routes.is_empty() {
            return self.fail(&send::nothing_sent(&unreachable, &[]), now);
        }
        // What is known of the door was known of another way.
        self.door = Door::Unknown;
        self.knock(&routes, &unreachable, now)
    }

    fn heed(&mut self, signal: Signal, sender: Sender, now: Duration) -> Result<Option<u8>, Error> {
        if signal == Signal::SIGCHLD {
            let ended = self.child.as_mut().and_then(Running::ended);
            if ended.is_some() {
                self.child = None;
                self.teller.note(&Event { event: "ended", exit_code: ended, ..Event::default() });
            }
            return Ok(ended);
        }
        if let Some(child) = &self.child {
            // What comes from the terminal, the child has got itself.
            if sender == Sender::Process {
                child.hand_on(signal);
            }
        }
        match (signal, sender) {
            (Signal::SIGHUP, Sender::Process) => self.reread(now).map(|()| None),
            (Signal::SIGTERM | Signal::SIGINT, _) if self.args.command.is_empty() => Ok(Some(0)),
            (Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGHUP, _)
                if self.child.is_none() =>
            {
                Ok(u8::try_from(128 + signal as i32).ok())
            }
            _ => Ok(None),
        }
    }

    /// Reads the profile again. With a mistake in it, everything stays as it was.
    fn reread(&mut self, now: Duration) -> Result<(), Error> {
        let plan = match Plan::new(self.args) {
            Ok(plan) => plan,
            Err(error) => {
                let event = Event { event: "failed", ..Event::default() };
                self.teller.complain(format!("{error}; everything stays as it was"), event);
                return Ok(());
            }
        };
        if plan.server != self.plan.server || plan.families != self.plan.families {
            self.known.clear();
            if let Some((_, relevance)) = &mut self.question {
                *relevance = Relevance::Outdated;
            }
        }
        self.plan = plan;
        self.schedule = schedule_of(&self.plan);
        self.door = Door::Unknown;
        self.answering.clear();
        self.teller
            .tell("the profile was read again", &Event { event: "reread", ..Event::default() });
        self.begin(now)
    }

    /// Warns of what was not warned of the last time.
    fn warn(&mut self, warnings: Vec<String>) {
        for warning in &warnings {
            if !self.warned.contains(warning) {
                self.teller.warn(warning);
            }
        }
        self.warned = warnings;
    }

    /// Closes the door, as well as it goes, at the end.
    fn close(&mut self) {
        self.teller.is_stopping();
        if self.knocked_at.is_none() {
            return;
        }
        self.plan.ask.action = Action::Close;
        self.plan.ask.open_for = OpenFor::Default;
        let (routes, unreachable) = send::routes(&self.known, self.plan.address);
        let error = match send::send(&self.plan, &routes) {
            Ok(outcomes) if outcomes.iter().any(|outcome| !outcome.packets.is_empty()) => None,
            Ok(outcomes) => Some(send::nothing_sent(&unreachable, &outcomes)),
            Err(error) => Some(error),
        };
        let event = Event { event: "closed", ..Event::default() };
        match error {
            None => self.teller.tell("the door is closed", &event),
            Some(error) => {
                let event = Event { event: "failed", ..event };
                let text =
                    format!("the door could not be closed, and ends with its grant: {error}");
                self.teller.complain(text, event);
            }
        }
    }
}

fn ways(routes: &[Route]) -> Vec<Way> {
    let mut ways: Vec<Way> = routes.iter().map(|route| (route.to, route.local())).collect();
    // Resolvers change the order of their answers.
    ways.sort_unstable();
    ways
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
