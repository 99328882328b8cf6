//! Looks the server's name up beside everything else: a resolver that doesn't answer must not keep the door from
//! being renewed at the addresses that are known.
//!
//! The system's resolver only knows how to block, so a thread waits for it: one at a time, however often it is
//! asked, and none where the server is given by its address.

use std::{
    io::{self, PipeReader},
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, BorrowedFd},
    thread::{self, JoinHandle},
};

use crate::{exit::Error, plan::Plan, resolve};

/// What the resolver needs: glibc's loads what nsswitch.conf names.
const STACK_LEN: usize = 512 * 1024;

type Answer = Result<Vec<SocketAddr>, Error>;

/// A question to the resolver that isn't answered yet.
#[derive(Debug)]
pub(super) struct Question {
    thread: JoinHandle<Answer>,
    /// Ends when there is an answer.
    answered: PipeReader,
}

impl Question {
    /// Asks for the addresses of the plan's server.
    ///
    /// # Errors
    /// If the system gives no pipe or no thread.
    pub(super) fn ask(plan: &Plan) -> Result<Self, Error> {
        let (server, families, address) = (plan.server.clone(), plan.families, plan.address);
        let ask = || -> io::Result<Self> {
            let (answered, open) = io::pipe()?;
            let thread = thread::Builder::new().stack_size(STACK_LEN).spawn(move || {
                let answer = resolve::addresses(&server, families, address);
                drop(open);
                answer
            })?;
            Ok(Self { thread, answered })
        };
        ask().map_err(|error| Error::System(format!("the server can't be looked up: {error}")))
    }

    /// What becomes readable with the answer.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.answered.as_fd()
    }

    /// The answer. It blocks until there is one.
    pub(super) fn answer(self) -> Answer {
        self.thread.join().unwrap_or_else(|_| Err(Error::System("the resolver failed".into())))
    }
}

/// The server's addresses, if it is given by its address: nobody needs to be asked then.
pub(super) fn literal(plan: &Plan) -> Option<Answer> {
    // With a scope behind '%' it is for the resolver, which knows the interfaces.
    plan.server.host().parse::<IpAddr>().ok()?;
    Some(resolve::addresses(&plan.server, plan.families, plan.address))
}
