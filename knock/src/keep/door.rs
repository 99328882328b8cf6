//! One door, and the steps that keep it open. None of them waits for anything.
//!
//! A renewal goes: look the server's name up, look whether the door is still open, knock. That it was open shows
//! that the last renewal arrived; if it wasn't, the knock is followed by a look that lasts until it opens, as after
//! the first knock. Where the profile names no tcp port, nothing can be looked at, and what was sent counts.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use common::OpenFor;

use crate::{
    duration::Seconds,
    exit::Error,
    keep::{
        knocker::{Knocker, Moved, Ways},
        names::{self, Question},
        network::Change,
        probes::{Accepted, Probes},
        schedule::{Chance, Schedule},
        tell::{Event, Teller},
    },
    plan::Plan,
};

/// How long a renewal waits for the resolver before it goes to the addresses that are known.
const LOOKUP: Duration = Duration::from_secs(2);
/// How long the resolver has where no address is known.
const FIRST_LOOKUP: Duration = Duration::from_secs(20);

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
enum State {
    /// Nothing yet, or nothing on this way.
    Unknown,
    /// It opened, and nothing says that it isn't open still.
    Open,
    /// It was shut when it should have been open, and no knock has failed since.
    EndedEarly,
    /// A knock did not open it, or could not be sent.
    Shut,
}

/// Whether an answer of the resolver is still wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relevance {
    Current,
    /// The profile names another server by now.
    Outdated,
}

/// A door that is kept open.
#[derive(Debug)]
pub(super) struct Door {
    plan: Plan,
    schedule: Schedule,
    teller: Teller,
    knocker: Knocker,
    step: Step,
    state: State,
    /// The server's addresses as last heard.
    known: Vec<SocketAddr>,
    question: Option<(Question, Relevance)>,
    /// The server's addresses at which the door was open when it was last looked at.
    answering: Vec<IpAddr>,
    knocked_at: Duration,
    has_opened: bool,
}

impl Door {
    /// A door that is due to be knocked at.
    pub(super) fn new(plan: Plan, teller: Teller) -> Self {
        Self {
            schedule: schedule_of(&plan),
            plan,
            teller,
            knocker: Knocker::default(),
            step: Step::Pause(Duration::ZERO),
            state: State::Unknown,
            known: Vec::new(),
            question: None,
            answering: Vec::new(),
            knocked_at: Duration::ZERO,
            has_opened: false,
        }
    }

    /// Whether it has ever opened.
    pub(super) const fn has_opened(&self) -> bool {
        self.has_opened
    }

    /// To tell of what else happens.
    pub(super) const fn teller(&mut self) -> &mut Teller {
        &mut self.teller
    }

    /// When the next step is due at the latest.
    pub(super) fn due(&self) -> Duration {
        match &self.step {
            Step::Pause(due) | Step::Lookup(due) => *due,
            Step::Check(probes) | Step::Opening(probes) => probes.due(),
        }
    }

    /// A question to the resolver whose answer is to be [taken](Self::take_answer).
    pub(super) fn question(&self) -> Option<&Question> {
        self.question.as_ref().map(|(question, _)| question)
    }

    /// Connections that something may have happened on, for [`Self::go_on`].
    pub(super) const fn probes(&self) -> Option<&Probes> {
        match &self.step {
            Step::Check(probes) | Step::Opening(probes) => Some(probes),
            Step::Pause(_) | Step::Lookup(_) => None,
        }
    }

    /// Takes the step that is due, if one is.
    ///
    /// # Errors
    /// As all steps, only if the system has no randomness: what else goes wrong may go well the next time.
    pub(super) fn go_on(&mut self, now: Duration) -> Result<(), Error> {
        match &mut self.step {
            Step::Pause(due) if now >= *due => self.begin(now),
            Step::Lookup(due) if now >= *due => self.go_without_answer(now),
            Step::Pause(_) | Step::Lookup(_) => Ok(()),
            Step::Check(probes) => {
                probes.look(now);
                if probes.is_over(now) {
                    let open = probes.open().collect();
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
                    let error = Error::NotOpen(format!("no door opens: {}", probes.reasons()));
                    self.fail(&error, now)
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

    fn go_without_answer(&mut self, now: Duration) -> Result<(), Error> {
        if !self.known.is_empty() {
            return self.approach(now);
        }
        let host = self.plan.server.host();
        let error =
            format!("{host} has no address yet: no resolver answers: check this device's DNS");
        self.fail(&Error::NoHost(error), now)
    }

    /// Takes the resolver's answer, which may have come long after a knock went without it.
    pub(super) fn take_answer(&mut self, now: Duration) -> Result<(), Error> {
        let Some((question, relevance)) = self.question.take() else { return Ok(()) };
        let is_awaited = matches!(self.step, Step::Lookup(_));
        let goes_on = match (question.answer(), relevance) {
            (_, Relevance::Outdated) if is_awaited => return self.begin(now),
            (Ok(addresses), Relevance::Current) => {
                let is_news = addresses.iter().any(|address| !self.known.contains(address));
                self.known = addresses;
                is_awaited || is_news
            }
            (Err(error), Relevance::Current) if is_awaited && self.known.is_empty() => {
                return self.fail(&error, now);
            }
            _ => is_awaited,
        };
        if goes_on { self.approach(now) } else { Ok(()) }
    }

    /// Goes up to the door: with a look at it first, if it should be open.
    fn approach(&mut self, now: Duration) -> Result<(), Error> {
        let ways = Ways::look(&self.plan, &self.known);
        if let (State::Open, Some(wait)) = (self.state, self.plan.wait)
            && self.knocker.is_settled_on(&ways)
        {
            let patience = self.schedule.patience();
            self.step = Step::Check(Probes::once(ways.routes(), wait.port, now, patience));
            return Ok(());
        }
        self.knock(&ways, now)
    }

    /// Draws the conclusion of a look at a door that should be open.
    fn checked(&mut self, open: Vec<IpAddr>, now: Duration) -> Result<(), Error> {
        if !open.is_empty() && self.answering.iter().all(|at| open.contains(at)) {
            self.schedule.was_held();
        } else {
            self.state = State::EndedEarly;
        }
        self.answering = open;
        self.knock(&Ways::look(&self.plan, &self.known), now)
    }

    fn knock(&mut self, ways: &Ways, now: Duration) -> Result<(), Error> {
        let moved = match self.knocker.knock(&self.plan, ways, &mut self.teller) {
            Ok(moved) => moved,
            Err(error) => return self.fail(&error, now),
        };
        self.knocked_at = now;
        match self.plan.wait {
            Some(wait) if moved == Moved::Yes || self.state != State::Open => {
                let probes = Probes::until_open(ways.routes(), wait.port, now, wait.limit);
                self.step = Step::Opening(probes);
                Ok(())
            }
            _ => self.opened(None, now),
        }
    }

    /// The door is open, or nothing can tell whether it is.
    fn opened(&mut self, accepted: Option<Accepted>, now: Duration) -> Result<(), Error> {
        if self.state == State::EndedEarly {
            self.schedule.ended_early();
        }
        self.schedule.forget_failures();
        let due = self.knocked_at + self.schedule.renewal(chance()?);
        self.step = Step::Pause(due);
        if self.state != State::Open || accepted.is_some() {
            self.tell_open(accepted, due.saturating_sub(now));
        }
        self.state = State::Open;
        self.has_opened = true;
        Ok(())
    }

    fn tell_open(&mut self, accepted: Option<Accepted>, next: Duration) {
        let port = self.plan.wait.map(|wait| wait.port.to_string());
        let mut text = match (accepted, &port) {
            (Some(accepted), Some(port)) => {
                format!("{port} open at {}, and kept open", accepted.by)
            }
            _ => format!(
                "knocked at {}, and going on: without a tcp port in the profile nothing shows whether the door is open",
                self.plan.server
            ),
        };
        if self.state == State::EndedEarly {
            let grant = self.schedule.grant().as_secs();
            text.push_str(&format!(
                "; it was shut before its time, and grants are taken to last {grant} s for now: if that comes again, ask for less with open-for, or raise max in the server's [grant]"
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
        self.state = State::Shut;
        self.answering.clear();
        let event = Event { event: "failed", next_ms: Some(millis(pause)), ..Event::default() };
        self.teller.complain(format!("{error}; knocking on until it opens"), event);
        Ok(())
    }

    /// The kernel said that something changed: knocks at once if this may be another way to the server.
    pub(super) fn look_at_network(&mut self, change: Change, now: Duration) -> Result<(), Error> {
        let ways = Ways::look(&self.plan, &self.known);
        let is_same = change == Change::Perhaps && self.knocker.is_settled_on(&ways);
        if self.state == State::Open && is_same {
            return Ok(());
        }
        self.schedule.forget_failures();
        if self.known.is_empty() {
            return self.begin(now);
        }
        // What is known of the door was known of another way.
        self.state = State::Unknown;
        self.knock(&ways, now)
    }

    /// Somebody set the clock. Packets from before may have been stamped wrongly and refused, which is a reason to
    /// try again; a door that is open needs none.
    pub(super) fn clock_was_set(&mut self, now: Duration) -> Result<(), Error> {
        if self.state == State::Open {
            return Ok(());
        }
        self.schedule.forget_failures();
        self.begin(now)
    }

    /// Goes by another plan from now on. What the old one opened ends with its grant.
    pub(super) fn change(&mut self, plan: Plan, now: Duration) -> Result<(), Error> {
        if plan.server != self.plan.server || plan.families != self.plan.families {
            self.known.clear();
            if let Some((_, relevance)) = &mut self.question {
                *relevance = Relevance::Outdated;
            }
        }
        self.schedule = schedule_of(&plan);
        self.plan = plan;
        self.state = State::Unknown;
        self.answering.clear();
        self.begin(now)
    }

    /// Closes it.
    pub(super) fn close(mut self) {
        self.teller.is_stopping();
        self.knocker.close(&mut self.plan, &self.known, &mut self.teller);
    }
}

fn schedule_of(plan: &Plan) -> Schedule {
    Schedule::new(match plan.ask.open_for {
        OpenFor::Seconds(seconds) => seconds.get(),
        OpenFor::Default => Seconds::KEEP.number().get(),
    })
}

fn chance() -> Result<Chance, Error> {
    getrandom::u32().map(Chance).map_err(|error| {
        Error::System(format!("the system gives no random bytes for the schedule: {error}"))
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
