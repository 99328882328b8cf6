//! Operations on a host, with faults in them, beside the model of what must hold.

use std::{cell::RefCell, collections::BTreeMap, fs, net::IpAddr};

use common::{Realm, SealedDatagram};
use knockd::{
    admission::{BanError, KernelState},
    firewall::Firewall as _,
    gate::{
        bans::BanKind,
        clock::{Now, Uptime},
        directory::Enrolment,
        grants::{self, Door},
        policy::Client,
        source::Source,
    },
    journal::seen::Condition,
};

use crate::{
    host::{
        Host, at,
        faults::{Fault, Kind, Place},
    },
    model::{Event, Met, Model, Told},
    setting::{ADDRESSES, BAN, CLIENTS, Knock, SERVICES, address, services, source},
};

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// A batch of fresh packets.
    Knocks(Vec<Knock>),
    /// An earlier packet, again.
    Replay(usize),
    /// More failures than are tolerated.
    Junk {
        address: usize,
    },
    Ban {
        address: usize,
    },
    Unban,
    /// A client's entry is disabled, or enabled again, and that is applied.
    Reload {
        client: usize,
    },
    Wait {
        seconds: u64,
    },
    /// Somebody removes a file of the state folder, or (`None`) all of it.
    Remove(Option<&'static str>),
    /// What is done between packets when there is time.
    Housekeeping,
    /// kill -9 between two operations, and a start.
    Restart,
}

pub(crate) struct Rig {
    pub(crate) host: Host,
    pub(crate) model: Model,
    pub(crate) seconds: u64,
    pub(crate) packets: Vec<(SealedDatagram, Knock)>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let mut host = Host::new();
        host.policy.services = services();
        host.policy.replay.capacity = 12;
        host.policy.ban.duration = BAN;
        let mut rig = Self { host, model: Model::default(), seconds: 0, packets: Vec::new() };
        let clients = rig.clients();
        let _ = rig.host.start_with(at(0), clients);
        rig.seconds = 31;
        rig
    }

    pub(crate) fn now(&self) -> Now {
        at(self.seconds)
    }

    pub(crate) fn clients(&self) -> Vec<Client> {
        (0..CLIENTS.len()).map(|number| self.model.client(number)).collect()
    }

    /// Does an operation in which these faults come, and checks all that must hold after it.
    pub(crate) fn step(&mut self, operation: &Operation, faults: &[Fault]) {
        let survived = match operation {
            Operation::Knocks(knocks) => {
                let now = self.now();
                let first = self.packets.len();
                let sealed =
                    (first..).zip(knocks).map(|(n, knock)| (knock.seal(n, now), knock.clone()));
                let batch: Vec<_> = sealed.collect();
                self.packets.extend(batch.clone());
                self.knock(&batch, faults)
            }
            Operation::Replay(which) if !self.packets.is_empty() => {
                let packet = self.packets[which % self.packets.len()].clone();
                self.knock(&[packet], faults)
            }
            Operation::Replay(_) => true,
            Operation::Junk { address } => self.junk(*address, faults),
            Operation::Ban { address } => self.ban(*address, faults),
            Operation::Unban => self.unban(faults),
            Operation::Reload { client } => self.reload(*client, faults),
            Operation::Wait { seconds } => {
                self.seconds += seconds;
                true
            }
            Operation::Remove(name) => {
                self.remove(*name);
                true
            }
            Operation::Housekeeping => self.keep_house(faults),
            Operation::Restart => {
                self.restart(faults);
                true
            }
        };
        if !survived {
            self.restart(&[]);
        }
        self.check(operation, faults);
    }

    /// Does this with these faults; whether the daemon survived it, and the faults that came.
    pub(crate) fn with(&mut self, faults: &[Fault], act: impl FnOnce(&mut Host)) -> (bool, Met) {
        let armed = self.host.firewall.1.clone();
        armed.arm(faults);
        let survived = armed.survives(|| act(&mut self.host));
        (survived, Met(armed.disarm()))
    }

    pub(crate) fn knock(&mut self, batch: &[(SealedDatagram, Knock)], faults: &[Fault]) -> bool {
        let now = self.now();
        let told = RefCell::new(Vec::new());
        let (survived, met) = self.with(faults, |host| {
            let datagrams = batch
                .iter()
                .map(|(packet, knock)| (packet.as_slice(), address(knock.address).ip()));
            host.admission().handle(datagrams, now, |outcome, source, gate| {
                told.borrow_mut().extend(Event::of(outcome, gate).map(|event| (event, source)));
            });
        });
        let told = told.into_inner();
        let (mut untold, mut granted) = (batch.to_vec(), Vec::new());
        for (event, from) in &told {
            let Event::Packet(of, told, until) = event else { continue };
            // Where one of two alike is refused, the memory was full behind the first.
            let at = untold.iter().position(|(_, knock)| knock.is_by(of, *from)).unwrap();
            let (packet, knock) = untold.remove(at);
            self.model.hears(&knock, *told, now, &met);
            if matches!(told, Told::Done | Told::DoneUnwritten) {
                self.model.may_lack_memory = false;
                assert!(self.model.spent.insert(packet), "a packet had an effect twice: {knock:?}");
            }
            granted.extend(until.map(|until| (knock, until)));
        }
        for (knock, until) in granted {
            // Another packet of the batch may have closed it, or extended it further.
            let held = knock.owners().into_iter().filter_map(|owner| self.model.held(owner).now);
            assert!(held.min().is_none_or(|held| held == until), "told until {until:?}: {knock:?}");
        }
        for (_, knock) in untold.iter().filter(|_| !survived) {
            self.model.hears(knock, Told::Nothing, now, &met);
        }
        self.hear_of_bans(&told, batch, survived, &met);
        survived
    }

    pub(crate) fn hear_of_bans(
        &mut self,
        told: &[(Event, IpAddr)],
        batch: &[(SealedDatagram, Knock)],
        survived: bool,
        met: &Met,
    ) {
        for (event, from) in told {
            let at = ADDRESSES
                .iter()
                .position(|text| text.parse::<Source>().unwrap().contains(*from))
                .unwrap();
            let known = self.model.bans.entry(at).or_default();
            match event {
                Event::BanLifted { is_written } => {
                    known.becomes(None, *is_written && !met.any(Place::Bans));
                }
                Event::Banned { until, is_written } => {
                    known.becomes(Some((BanKind::Failures, *until)), *is_written);
                }
                Event::NotBanned | Event::Packet(..) => {}
            }
        }
        if !survived {
            for (_, knock) in batch {
                self.model.bans.entry(knock.address).or_default().may_be_written(None);
            }
        }
    }

    pub(crate) fn junk(&mut self, from: usize, faults: &[Fault]) -> bool {
        let now = self.now();
        let told = RefCell::new(Vec::new());
        let (survived, met) = self.with(faults, |host| {
            let junk = [([0xaa; 116], address(from).ip()); 6];
            let batch = junk.iter().map(|(junk, source)| (junk.as_slice(), *source));
            host.admission().handle(batch, now, |outcome, source, gate| {
                told.borrow_mut().extend(Event::of(outcome, gate).map(|event| (event, source)));
            });
        });
        self.hear_of_bans(&told.into_inner(), &[], survived, &met);
        if !survived {
            let ban = Some((BanKind::Failures, now.uptime + BAN));
            self.model.bans.entry(from).or_default().may_be_written(ban);
        }
        survived
    }

    pub(crate) fn ban(&mut self, at: usize, faults: &[Fault]) -> bool {
        let now = self.now();
        let mut result = None;
        let (survived, met) = self.with(faults, |host| {
            let reason = "a scan".parse().unwrap();
            result = Some(host.admission().ban(source(at), BAN, reason, now));
        });
        let known = self.model.bans.entry(at).or_default();
        let ban = Some((BanKind::Admin, now.uptime + BAN));
        match result {
            Some(Ok(made)) => {
                assert_eq!(Some((BanKind::Admin, made.until)), ban);
                known.becomes(ban, true);
                self.model.ends(|(_, address, _)| address == at, &met);
            }
            Some(Err(BanError::Firewall(_) | BanError::Journal(_))) => {
                if met.any(Place::Bans) {
                    known.may_be_written(ban);
                }
            }
            Some(Err(BanError::OwnAddresses(_))) => {}
            Some(Err(error @ BanError::NotBanned(_))) => panic!("{error}"),
            None => {
                known.may_be_written(ban);
                for (_, held) in self.model.grants.iter_mut().filter(|((_, of, _), _)| *of == at) {
                    held.may_be_written(None);
                }
            }
        }
        survived
    }

    pub(crate) fn unban(&mut self, faults: &[Fault]) -> bool {
        let now = self.now();
        let mut result = None;
        let (survived, _) = self.with(faults, |host| {
            result = Some(host.admission().unban(&[source(0), source(1)], now));
        });
        for known in self.model.bans.values_mut() {
            match result {
                Some(Ok(_)) => known.becomes(None, true),
                Some(Err(BanError::Journal(_))) => known.becomes(None, false),
                Some(Err(_)) => {}
                None => known.may_be_written(None),
            }
        }
        survived
    }

    pub(crate) fn reload(&mut self, client: usize, faults: &[Fault]) -> bool {
        let now = self.now();
        let is_disabled =
            self.model.disabled.insert(client) || !self.model.disabled.remove(&client);
        let entry = self.model.client(client);
        let (survived, met) = self.with(faults, |host| {
            let admission = host.admission();
            let id = admission.gate().directory().clients_by_name()[CLIENTS[client]];
            let enrolment = Enrolment::new(entry, &Realm::default());
            admission.gate_mut().directory_mut().replace(vec![(id, enrolment)]);
            // If the kernel refuses, the grants are over all the same.
            let _ = admission.revoke_what_is_not_allowed(&[id].into(), now);
        });
        if is_disabled && survived {
            self.model.ends(|(of, _, _)| of == client, &met);
        }
        if is_disabled && !survived {
            for (_, held) in self.model.grants.iter_mut().filter(|((of, _, _), _)| *of == client) {
                held.may_be_written(None);
            }
        }
        survived
    }

    pub(crate) fn remove(&mut self, name: Option<&str>) {
        match name {
            Some(name) => drop(fs::remove_file(self.host.state(name))),
            None => drop(fs::remove_dir_all(self.host.state(""))),
        }
        let is_gone = |file| name.is_none_or(|name| name == file);
        self.model.may_lack_memory |= is_gone("seen");
        for known in self.model.grants.values_mut().filter(|_| is_gone("grants")) {
            known.may_be_written(None);
        }
        for known in self.model.bans.values_mut().filter(|_| is_gone("bans")) {
            known.may_be_written(None);
        }
    }

    pub(crate) fn keep_house(&mut self, faults: &[Fault]) -> bool {
        let now = self.now();
        let mut kept = false;
        let (survived, _) = self.with(faults, |host| {
            let admission = host.admission();
            kept = admission.keep_files().is_ok();
            if admission.kernel() == KernelState::InDoubt {
                let _ = admission.reconcile(now);
            }
        });
        if kept {
            // A restart finds everything as it is now.
            self.model.may_lack_memory = false;
            self.model.grants.values_mut().for_each(|known| known.becomes(known.now, true));
            self.model.bans.values_mut().for_each(|known| known.becomes(known.now, true));
        }
        survived
    }

    /// The daemon is gone, and starts: with these faults, and if it can't, without.
    pub(crate) fn restart(&mut self, faults: &[Fault]) {
        let now = self.now();
        let clients = self.clients();
        let mut started = None;
        self.with(faults, |host| started = host.try_to_start(now, clients).ok());
        let restored = started.unwrap_or_else(|| self.host.start_with(now, self.clients()));
        let is_intact = restored.seen == Condition::Intact;
        assert!(is_intact || std::mem::take(&mut self.model.may_lack_memory), "{restored:?}");
        self.take_up_what_was_found();
    }

    /// What a restart has found must be what a file may hold; from here on that is what holds.
    pub(crate) fn take_up_what_was_found(&mut self) {
        let now = self.now();
        let admission = self.host.admission();
        let live = |until: &Uptime| *until > now.uptime;
        for (at, known) in &mut self.model.bans {
            let found = admission.gate().bans().get(source(*at)).map(|ban| (ban.kind, ban.until));
            let mut possible = known.in_file.iter().map(|ban| ban.filter(|(_, until)| live(until)));
            assert!(possible.any(|ban| ban == found), "ban of {at}: {found:?}, {known:?}");
            known.becomes(found, true);
        }
        let directory = admission.gate().directory();
        for ((client, at, service), known) in &mut self.model.grants {
            let owner = grants::Owner {
                address: address(*at),
                client: directory.clients_by_name()[CLIENTS[*client]],
                service: directory.service_named(SERVICES[*service].0.parse().unwrap()).unwrap(),
            };
            let found = admission.grants().held_until(&owner);
            let may_hold = !self.model.disabled.contains(client)
                && !admission.gate().bans().is_shut_out(owner.address.ip(), now.uptime);
            let mut possible =
                known.in_file.iter().map(|until| until.filter(|until| live(until) && may_hold));
            let is_possible = possible.any(|until| until == found);
            assert!(is_possible, "grant of {owner:?}: {found:?}, {known:?}");
            known.becomes(found, true);
        }
    }

    /// What must hold whatever has just failed.
    pub(crate) fn check(&mut self, operation: &Operation, faults: &[Fault]) {
        let now = self.now();
        self.host.firewall.0.borrow_mut().advance(now.uptime);
        let shown = format!("after {operation:?} with {faults:?}");
        let expected = (self.model.doors(now), self.model.live_bans(now));
        if self.host.admission().kernel() == KernelState::InDoubt {
            // What was told as open is, even so, but where an answer was lost that a door was shut.
            let lost = faults.iter().any(|fault| fault.kind == Kind::AnswerIsLost);
            for (door, until) in &expected.0 {
                let open = self.in_kernel().0.get(door).copied();
                assert!(lost || open >= Some(*until), "{door:?} {shown}");
            }
            self.host.admission().reconcile(now).unwrap();
        }
        assert_eq!(self.in_kernel(), expected, "{shown}");
        assert_eq!(self.host.admission().kernel(), KernelState::Known);
    }

    pub(crate) fn in_kernel(
        &self,
    ) -> (BTreeMap<Door, Uptime>, BTreeMap<(Source, BanKind), Uptime>) {
        let now = self.now().uptime;
        let mut kernel = self.host.firewall.0.borrow_mut();
        let doors =
            kernel.doors().unwrap().unwrap().into_iter().map(|(door, left)| (door, now + left));
        let doors = doors.collect();
        let bans = kernel.bans().unwrap().unwrap().into_iter();
        (doors, bans.map(|(source, kind, left)| ((source, kind), now + left)).collect())
    }
}
