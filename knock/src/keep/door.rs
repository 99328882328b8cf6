//! One door, and the steps that keep it open. None of them waits for anything.
//!
//! A renewal goes: look the server's name up, look whether the door is still open, knock. That it was open shows
//! that the last renewal arrived; if it wasn't, the knock is followed by a look that lasts until it opens, as after
//! the first knock. Between renewals there are looks alone, so that a broker's host that has forgotten the grant is
//! soon noticed. Where replies are asked for, they say all that, and the port is left alone: the knocks come as often
//! as the looks would. Where there is neither a tcp port nor a reply, what was sent counts.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use common::OpenFor;

use crate::{
    command::Place,
    duration::Seconds,
    exit::Error,
    keep::{
        knocker::{Knocker, Moved, Ways},
        names::{self, Question},
        notices::Change,
        schedule::{Chance, Schedule},
        sign::Sign,
        step::{Awaited, Next, State, Step},
        tell::{Event, Teller, millis},
    },
    plan::Plan,
    probes::Probes,
    reply::{self, Replies},
};

/// How long a renewal waits for the resolver before it goes to the addresses that are known.
const LOOKUP: Duration = Duration::from_secs(2);
/// How long the resolver has where no address is known.
const FIRST_LOOKUP: Duration = Duration::from_secs(20);

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
    awaited: Awaited,
    state: State,
    /// The server's addresses as last heard.
    known: Vec<SocketAddr>,
    question: Option<(Question, Relevance)>,
    /// The server's addresses at which the door was open when it was last looked at.
    answering: Vec<IpAddr>,
    knocked_at: Duration,
    /// When the grant is to be renewed.
    renewal: Duration,
    opened_at: Option<IpAddr>,
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
            awaited: Awaited::Nothing,
            state: State::Unknown,
            known: Vec::new(),
            question: None,
            answering: Vec::new(),
            knocked_at: Duration::ZERO,
            renewal: Duration::ZERO,
            opened_at: None,
        }
    }

    /// Says what this is going to do, and what stands in its way from the beginning.
    pub(super) fn greet(&mut self) {
        let text = format!("knocking at {}, until it opens", self.plan.server);
        self.teller.status(&text);
        if let Some(warning) = self.plan.clock.forgets() {
            self.teller.warn(&warning);
        }
    }

    /// Where it has opened, once it ever has.
    pub(super) fn opened_at(&self) -> Option<Place> {
        self.opened_at.map(|address| Place::new(&self.plan, address))
    }

    /// To tell of what else happens.
    pub(super) const fn teller(&mut self) -> &mut Teller {
        &mut self.teller
    }

    /// When the next step is due at the latest.
    pub(super) fn due(&self) -> Duration {
        match (&self.step, &self.awaited) {
            (Step::Pause(due) | Step::Lookup(due), _) => *due,
            (_, Awaited::Probes(probes)) => probes.due(),
            (_, Awaited::Replies(replies)) => replies.due(),
            (_, Awaited::Nothing) => Duration::ZERO,
        }
    }

    /// A question to the resolver whose answer is to be [taken](Self::take_answer).
    pub(super) fn question(&self) -> Option<&Question> {
        self.question.as_ref().map(|(question, _)| question)
    }

    /// What something may have come in on, for [`Self::go_on`].
    pub(super) const fn awaited(&self) -> &Awaited {
        &self.awaited
    }

    /// Takes the step that is due, if one is.
    ///
    /// # Errors
    /// As all steps, if the system has no randomness, or only a person can mend what is wrong, such as a lost counter:
    /// what else goes wrong may go well the next time.
    pub(super) fn go_on(&mut self, now: Duration) -> Result<(), Error> {
        match self.step {
            Step::Pause(due) if now >= due && now >= self.renewal => self.begin(now),
            Step::Pause(due) if now >= due => self.look(now),
            Step::Lookup(due) if now >= due => self.go_without_answer(now),
            Step::Pause(_) | Step::Lookup(_) => Ok(()),
            Step::Check(next) => self.go_on_looking(next, now),
            Step::Opening => self.go_on_opening(now),
        }
    }

    fn go_on_looking(&mut self, next: Next, now: Duration) -> Result<(), Error> {
        let Awaited::Probes(probes) = &mut self.awaited else { return self.begin(now) };
        probes.look(now);
        if !probes.is_over(now) {
            return Ok(());
        }
        let (open, refusal) = (probes.open().collect(), probes.refusal());
        if let Some(refusal) = refusal {
            self.teller.complain(refusal, Event { event: "refused", ..Event::default() });
        }
        self.checked(open, next, now)
    }

    fn go_on_opening(&mut self, now: Duration) -> Result<(), Error> {
        let failure = match &mut self.awaited {
            Awaited::Probes(probes) => {
                probes.look(now);
                if let Some(accepted) = probes.accepted(now) {
                    self.answering = probes.open().collect();
                    return self.opened(Sign::Accepted(accepted), now);
                }
                let failure = || Error::NotOpen(format!("no door opens: {}", probes.reasons()));
                probes.is_over(now).then(failure)
            }
            Awaited::Replies(replies) => {
                replies.look(&mut self.plan, now)?;
                let replied = replies.replied().next();
                match (replies.are_over(now), replied) {
                    (false, _) => None,
                    (true, Some(replied)) => return self.opened(Sign::Replied(replied), now),
                    (true, None) => Some(reply::none(self.plan.reply_within.unwrap_or_default())),
                }
            }
            Awaited::Nothing => return self.opened(Sign::None, now),
        };
        failure.map_or(Ok(()), |error| self.fail(error, now))
    }

    /// Looks whether the door is open still, where it is not yet time to renew.
    fn look(&mut self, now: Duration) -> Result<(), Error> {
        let ways = Ways::look(&self.plan, &self.known);
        match self.plan.wait {
            Some(wait) if self.knocker.is_settled_on(&ways) => {
                let patience = self.schedule.patience();
                let probes = Probes::once(ways.routes(), wait.port, now, patience);
                self.awaited = Awaited::Probes(probes);
                self.step = Step::Check(Next::Pause);
                Ok(())
            }
            _ => self.begin(now),
        }
    }

    /// Begins a renewal, or another try.
    fn begin(&mut self, now: Duration) -> Result<(), Error> {
        self.awaited = Awaited::Nothing;
        if let Some(answer) = names::literal(&self.plan) {
            return match answer {
                Ok(addresses) => {
                    self.known = addresses;
                    self.approach(now)
                }
                Err(error) => self.fail(error, now),
            };
        }
        if self.question.is_none() {
            match Question::ask(&self.plan) {
                Ok(question) => self.question = Some((question, Relevance::Current)),
                Err(error) if self.known.is_empty() => return self.fail(error, now),
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
        self.fail(Error::NoHost(error), now)
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
                return self.fail(error, now);
            }
            _ => is_awaited,
        };
        if goes_on { self.approach(now) } else { Ok(()) }
    }

    /// Goes up to the door: with a look at it first, if it should be open and no reply is going to say so.
    fn approach(&mut self, now: Duration) -> Result<(), Error> {
        let ways = Ways::look(&self.plan, &self.known);
        if let (State::Open, Some(wait), None) =
            (self.state, self.plan.wait, self.plan.reply_within)
            && self.knocker.is_settled_on(&ways)
        {
            let patience = self.schedule.patience();
            let probes = Probes::once(ways.routes(), wait.port, now, patience);
            self.awaited = Awaited::Probes(probes);
            self.step = Step::Check(Next::Knock);
            return Ok(());
        }
        self.knock(&ways, now)
    }

    /// Draws the conclusion of a look at a door that should be open.
    fn checked(&mut self, open: Vec<IpAddr>, next: Next, now: Duration) -> Result<(), Error> {
        let is_held = !open.is_empty() && self.answering.iter().all(|at| open.contains(at));
        self.answering = open;
        match (is_held, next) {
            (true, Next::Pause) => return self.pause(now),
            (true, Next::Knock) => self.schedule.was_held(),
            (false, _) => self.state = State::EndedEarly,
        }
        self.knock(&Ways::look(&self.plan, &self.known), now)
    }

    fn knock(&mut self, ways: &Ways, now: Duration) -> Result<(), Error> {
        let is_to_open = self.state != State::Open || !self.knocker.is_settled_on(ways);
        let wait = self.plan.wait.filter(|_| is_to_open && self.plan.reply_within.is_none());
        let probes = wait.map(|wait| (Probes::before(ways.routes(), wait.port, now), wait));
        let (outcomes, moved) = match self.knocker.knock(&mut self.plan, ways, &mut self.teller) {
            Ok(knocked) => knocked,
            Err(error) => return self.fail(error, now),
        };
        self.knocked_at = now;
        self.step = Step::Opening;
        if let Some(limit) = self.plan.reply_within {
            self.awaited = Awaited::Replies(Replies::to(&self.plan, &outcomes, now, limit));
            return Ok(());
        }
        if let Some((mut probes, wait)) = probes {
            probes.knocked(now, wait.limit);
            self.awaited = Awaited::Probes(probes);
            return Ok(());
        }
        if moved == Moved::Yes || self.opened_at.is_none() {
            self.opened_at = ways.routes().first().map(|route| route.to.ip());
        }
        self.opened(Sign::None, now)
    }

    /// The door is open, or nothing can tell whether it is.
    fn opened(&mut self, sign: Sign, now: Duration) -> Result<(), Error> {
        self.awaited = Awaited::Nothing;
        if self.state == State::EndedEarly && matches!(sign, Sign::Accepted(_)) && sign.is_proof() {
            self.schedule.ended_early();
        }
        if let Some(grant) = sign.grant() {
            self.schedule.was_told(grant);
        }
        self.opened_at = sign.at().or(self.opened_at);
        self.schedule.forget_failures();
        self.renewal = self.knocked_at + self.schedule.renewal(chance()?);
        if self.plan.reply_within.is_some() {
            self.renewal = self.renewal.min(now + Schedule::sign(chance()?));
        }
        if self.state != State::Open || !matches!(sign, Sign::None) {
            self.tell_open(sign, self.renewal.saturating_sub(now));
        }
        self.state = State::Open;
        self.pause(now)
    }

    /// Pauses until it is time for a sign of the door or for a renewal.
    fn pause(&mut self, now: Duration) -> Result<(), Error> {
        self.awaited = Awaited::Nothing;
        let is_looked_at = self.plan.wait.is_some() && self.plan.reply_within.is_none();
        let look = if is_looked_at { now + Schedule::sign(chance()?) } else { self.renewal };
        self.step = Step::Pause(self.renewal.min(look));
        Ok(())
    }

    fn tell_open(&mut self, sign: Sign, next: Duration) {
        let (mut text, event) = sign.told(&self.plan);
        if self.state == State::EndedEarly && sign.is_proof() {
            let grant = self.schedule.grant().as_secs();
            text.push_str(&format!(
                "; it was shut before its time, and grants are taken to last {grant} s for now: if that comes again, ask for less with open-for, or raise max in the server's [grant]"
            ));
        }
        self.teller.tell(&text, &Event { next_ms: Some(millis(next)), ..event });
    }

    /// Notes that it did not work, and when it is tried again. What only a person can mend is the end.
    fn fail(&mut self, error: Error, now: Duration) -> Result<(), Error> {
        if !error.may_pass() {
            return Err(error);
        }
        let pause = self.schedule.pause(chance()?);
        self.awaited = Awaited::Nothing;
        self.renewal = now + pause;
        self.step = Step::Pause(self.renewal);
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
    pub(super) fn change(&mut self, mut plan: Plan, now: Duration) -> Result<(), Error> {
        if plan.server != self.plan.server || plan.families != self.plan.families {
            self.known.clear();
            if let Some((_, relevance)) = &mut self.question {
                *relevance = Relevance::Outdated;
            }
        }
        plan.clock.go_on_from(&self.plan.clock);
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
