//! The keeper: turns what comes from outside (signals, the network, the command's end) into what is done about the
//! door, until one of them ends it.

use std::time::Duration;

use nix::sys::signal::Signal;

use crate::{
    cli::{Args, Notify},
    exit::Error,
    keep::{
        child::{self, Running},
        door::Door,
        notices::Change,
        tell::{Event, Teller},
        wires::{self, Ready, Sender, Wires},
    },
    plan::Plan,
};

/// How long after the first notice of a change the routes are looked at: a change comes as many notices.
const SETTLE: Duration = Duration::from_millis(250);
/// How long after a look at the routes the next one comes at the earliest.
const LOOK_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Keeper<'a> {
    args: &'a Args,
    door: Door,
    /// A change of the network that was not looked at yet, and when it will be.
    change: Option<(Change, Duration)>,
    /// When the routes may be looked at again.
    rested: Duration,
    /// The command.
    child: Child,
}

/// Where the command is with its life.
#[derive(Debug)]
enum Child {
    /// The door hasn't opened yet.
    ToCome,
    Running(Running),
    /// There is none, or there is no telling of its end any more.
    None,
}

/// Keeps the door open. Returns the exit status when a signal or the command has ended it.
///
/// # Errors
/// If the command line, the profile, the key or the counter is wrong, the system lacks what is needed, or the command
/// can't be run. A network that isn't there, a server that doesn't answer, is no reason to give up.
pub(super) fn keep(args: &Args) -> Result<u8, Error> {
    let plan = Plan::new(args)?;
    let mut wires = Wires::open()?;
    let mut keeper = Keeper {
        args,
        door: Door::new(plan, Teller::new(args)),
        change: None,
        rested: Duration::ZERO,
        child: Child::ToCome,
    };
    keeper.door.greet();
    if args.notify == Notify::Started {
        keeper.door.teller().is_ready();
    }
    let result = keeper.run(&mut wires);
    keeper.door.close();
    result
}

impl Keeper<'_> {
    fn run(&mut self, wires: &mut Wires) -> Result<u8, Error> {
        loop {
            let door = self.door.due();
            let due = self.change.map_or(door, |(_, due)| due.min(door));
            let ready = wires.wait(due, self.door.question(), self.door.awaited())?;
            if let Some(code) = self.turn(ready)? {
                return Ok(code);
            }
        }
    }

    fn turn(&mut self, ready: Ready) -> Result<Option<u8>, Error> {
        let now = wires::now()?;
        for (signal, sender) in ready.signals {
            if let Some(code) = self.heed(signal, sender, now)? {
                return Ok(Some(code));
            }
        }
        if ready.is_answered {
            self.door.take_answer(now)?;
        }
        if ready.clock_was_set {
            self.door.clock_was_set(now)?;
        }
        if let Some(change) = ready.change {
            let due = (now + SETTLE).max(self.rested);
            let (known, due) = self.change.unwrap_or((change, due));
            self.change = Some((known.max(change), due));
        }
        if let Some((change, due)) = self.change
            && now >= due
        {
            self.change = None;
            self.rested = now + LOOK_PAUSE;
            self.door.look_at_network(change, now)?;
        }
        self.door.go_on(now)?;
        if let (Some(place), Child::ToCome) = (self.door.opened_at(), &self.child) {
            let child = Running::start(&self.args.command, &place)?;
            self.child = child.map_or(Child::None, Child::Running);
            if self.args.notify == Notify::Open {
                self.door.teller().is_ready();
            }
        }
        Ok(None)
    }

    /// Does what a signal says. Returns the exit status if this is the end.
    fn heed(&mut self, signal: Signal, sender: Sender, now: Duration) -> Result<Option<u8>, Error> {
        let ended = if signal == Signal::SIGCHLD { child::ended() } else { Vec::new() };
        if let Child::Running(child) = self.child {
            if signal == Signal::SIGCHLD {
                let ended = child.status_in(&ended);
                if ended.is_some() {
                    self.child = Child::None;
                    let event = Event { event: "ended", exit_code: ended, ..Event::default() };
                    self.door.teller().note(&event);
                }
                return Ok(ended);
            }
            // What comes from the terminal, the child has got itself.
            if sender == Sender::Process {
                child.hand_on(signal);
            }
            if (signal, sender) == (Signal::SIGHUP, Sender::Process) {
                self.reread(now)?;
            }
            return Ok(None);
        }
        match (signal, sender) {
            (Signal::SIGHUP, Sender::Process) => self.reread(now).map(|()| None),
            (Signal::SIGTERM | Signal::SIGINT, _) if self.args.command.is_empty() => Ok(Some(0)),
            // As if it had ended by this: of a terminal that hung up, and of a command that never ran.
            (Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGHUP, _) => {
                Ok(u8::try_from(128 + signal as i32).ok())
            }
            _ => Ok(None),
        }
    }

    /// Reads the profile again. With a mistake in it, everything stays as it was.
    fn reread(&mut self, now: Duration) -> Result<(), Error> {
        match Plan::new(self.args) {
            Ok(plan) => {
                let event = Event { event: "reread", ..Event::default() };
                self.door.teller().tell("the profile was read again", &event);
                self.door.change(plan, now)
            }
            Err(error) => {
                let event = Event { event: "failed", ..Event::default() };
                let text = format!("{error}; everything stays as it was");
                self.door.teller().complain(text, event);
                Ok(())
            }
        }
    }
}
