//! Reads our table, and its sets, from the kernel: never more than there can be of ours, whatever is in the sets.
//!
//! # Security considerations
//! - The kernel walks a set from its start for each page of a dump: all of a large one takes seconds. A dump of elements
//!   has a bound, and ends there.
//! - What was changed while it was read is read again, for a bounded number of times.

use std::{io, thread, time::Duration};

use netlink_packet_core::NLM_F_DUMP;

use super::{
    answer,
    attributes::number,
    listing::{Draft, Listing},
    netlink::{Answered, Element, Enough, Kind, Netlink},
    ruleset::TABLE_NAME,
};

/// How often the table is read again because the ruleset was changed meanwhile, and after which time.
const ATTEMPTS: usize = 50;
const BETWEEN_ATTEMPTS: Duration = Duration::from_micros(200);
/// Elements of one set that are read at most where it isn't known how many there are: a few milliseconds' work.
pub const FEW: usize = 4096;
/// Elements of a nameless set, or of one that follows from the configuration, that are read at most.
const FIXED_AT_MOST: usize = 16_384;
/// NFTA_RULE_TABLE, NFTA_SET_TABLE and NFTA_SET_ELEM_LIST_TABLE; NFTA_SET_ELEM_LIST_SET; NFTA_GEN_ID.
const OF_TABLE: u16 = 1;
const OF_SET: u16 = 2;
const GENERATION: u16 = 1;

/// Asks the kernel, on a socket of its own that is never waited at for anything else.
pub struct Reader {
    netlink: Netlink,
}

impl Reader {
    /// Opens a socket in this process's network namespace.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()? })
    }

    /// A table as it is now, with the elements of these sets and of nameless ones; `None` if it isn't there.
    ///
    /// # Errors
    /// What the kernel says; `Interrupted` if the ruleset keeps being changed meanwhile.
    pub fn table(&mut self, table: &str, fixed: &[&str]) -> io::Result<Option<Listing>> {
        for _ in 0..ATTEMPTS {
            match self.try_table(table, fixed) {
                // A set of it, or the table itself, has just gone.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::NotFound
                    ) => {}
                result => return result,
            }
            thread::sleep(BETWEEN_ATTEMPTS);
        }
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            "the ruleset keeps being changed while it is read",
        ))
    }

    fn try_table(&mut self, table: &str, fixed: &[&str]) -> io::Result<Option<Listing>> {
        let generation = self.generation()?;
        let mut draft = Draft::of(table);
        for kind in [Kind::GetTable, Kind::GetChain, Kind::GetSet, Kind::GetRule] {
            let is_of_table = matches!(kind, Kind::GetSet | Kind::GetRule);
            let answered = self.netlink.ask(
                kind,
                NLM_F_DUMP,
                |request| {
                    if is_of_table {
                        request.put_text(OF_TABLE, table);
                    }
                },
                |part| {
                    for (kind, message) in part.messages {
                        draft.read(kind, message)?;
                    }
                    Ok(Enough::NotYet)
                },
            )?;
            if answered != Answered::Whole {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if !draft.is_there() {
                return Ok(None);
            }
        }
        for set in draft.sets_to_read(fixed) {
            let mut left = FIXED_AT_MOST;
            let answered = self.elements_of(table, &set, |kind, message| {
                left = left.saturating_sub(answer::items(message)?.len());
                draft.read_elements(&set, kind, message)?;
                Ok(if left == 0 { Enough::Yes } else { Enough::NotYet })
            })?;
            match answered {
                Answered::Whole => {}
                Answered::Interrupted => return Err(io::ErrorKind::Interrupted.into()),
                // So many differ from what ought to be there in any case.
                Answered::CutShort => self.renew()?,
            }
        }
        if self.generation()? != generation {
            return Err(io::ErrorKind::Interrupted.into());
        }
        draft.finish()
    }

    /// The elements of a set of ours, all of them; `None` if there are more than so many, or they keep being changed while
    /// they are read, so that what was read lacks some.
    ///
    /// # Errors
    /// What the kernel says; `NotFound` if the table or the set isn't there.
    pub fn elements(
        &mut self,
        set: &'static str,
        at_most: usize,
    ) -> io::Result<Option<Vec<Element>>> {
        let mut elements = Vec::new();
        for _ in 0..ATTEMPTS {
            elements.clear();
            let answered = self.elements_of(TABLE_NAME, set, |kind, message| {
                answer::elements((kind, message), set, &mut elements)?;
                Ok(if elements.len() > at_most { Enough::Yes } else { Enough::NotYet })
            })?;
            match answered {
                Answered::Interrupted => {}
                Answered::CutShort => {
                    self.renew()?;
                    return Ok(None);
                }
                Answered::Whole if elements.len() > at_most => return Ok(None),
                Answered::Whole => return Ok(Some(elements)),
            }
            thread::sleep(BETWEEN_ATTEMPTS);
        }
        Ok(None)
    }

    fn elements_of(
        &mut self,
        table: &str,
        set: &str,
        mut take: impl FnMut(u16, &[u8]) -> io::Result<Enough>,
    ) -> io::Result<Answered> {
        self.netlink.ask(
            Kind::GetSetElem,
            NLM_F_DUMP,
            |request| {
                request.put_text(OF_TABLE, table).put_text(OF_SET, set);
            },
            |part| {
                let mut enough = Enough::NotYet;
                for (kind, message) in part.messages {
                    enough = take(kind, message)?;
                }
                Ok(enough)
            },
        )
    }

    /// The number of the kernel's ruleset: another one after each transaction of anybody's.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn generation(&mut self) -> io::Result<Option<u32>> {
        let mut generation = None;
        let _ = self.netlink.ask(
            Kind::GetGen,
            0,
            |_| (),
            |part| {
                for (_, message) in &part.messages {
                    for attribute in super::attributes::attributes(message) {
                        let attribute = attribute?;
                        if attribute.kind == GENERATION {
                            generation = Some(number(attribute.value)?);
                        }
                    }
                }
                Ok(Enough::NotYet)
            },
        )?;
        Ok(generation)
    }

    /// Another socket, since the kernel still has an answer for this one.
    fn renew(&mut self) -> io::Result<()> {
        let former = std::mem::replace(&mut self.netlink, Netlink::open()?);
        // The kernel may have to tidy up before close(2) returns.
        let _ = thread::Builder::new().name("close".to_owned()).spawn(move || drop(former));
        Ok(())
    }
}
