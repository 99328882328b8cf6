//! The file of grants: who holds which door is read back, and nobody who never did.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    sync::LazyLock,
};

use common::{Realm, Secret, ServiceName, UnicastAddress};
use knockd::{
    gate::{
        clock::Uptime,
        directory::Directory,
        grants::Owner,
        policy::{AddressPolicy, Client, ClientClock, Service, Standing},
    },
    journal::held::{Found, Grant, HeldFile, StoredGrant, parse},
};

use super::{ACTS, BOOT, WRITER, damage, disk::Disk};
use crate::input::Input;

/// Lengths in the file, in bytes.
pub(super) const HEADER_LEN: usize = 128;
pub(super) const PLACE_LEN: usize = 128;

/// Any content: no more grants than there are bytes for, and they can be written again.
pub(super) fn read(content: &[u8]) {
    let Found::Grants(grants) = parse(content, Some(BOOT)) else { return };
    assert!(grants.len() * PLACE_LEN <= content.len());
    let (_, disk) = create(grants.iter().map(|grant| (OWNERS[0].owner, grant.clone())));
    assert_eq!(parse(&disk.content(), Some(BOOT)), Found::Grants(grants));
}

/// A story of grants given, ended and over, each look at the file compared with who holds what.
pub(super) fn write(input: &mut Input<'_>) {
    let mut story = Story::begin();
    for _ in 0..ACTS {
        if input.is_empty() {
            break;
        }
        match input.below(8) {
            0..4 => story.hold(input.one_of(&OWNERS)),
            4 => story.release(input.one_of(&OWNERS)),
            5 => story.forget(input.one_of(&OWNERS)),
            6 => story.disk.leave_room(match input.byte() {
                255 => usize::MAX,
                few => few.into(),
            }),
            _ => story.restart(),
        }
        story.assert_is_held();
    }
    let mut content = story.disk.content();
    damage(&mut content, input);
    if let Found::Grants(found) = parse(&content, Some(BOOT)) {
        assert!(found.iter().all(|grant| story.tried.contains(grant)), "{found:?}");
    }
}

/// An owner, by id and by names.
struct Named {
    owner: Owner,
    client: &'static str,
    service: ServiceName,
}

/// Every owner that there can be.
static OWNERS: LazyLock<Vec<Named>> = LazyLock::new(|| {
    let names: [ServiceName; 2] = ["mqtts", "coaps"].map(|name| name.parse().unwrap());
    let services = names.map(|name| Service {
        name,
        ports: vec!["tcp/8883".parse().unwrap()],
        to: Vec::new(),
    });
    let clients = [("press-17", 1), ("a", 2)];
    let entries = clients.map(|(name, seed)| Client {
        name: name.parse().unwrap(),
        secret: Secret::new(std::array::from_fn(|at| seed + at as u8)).unwrap(),
        services: names.into(),
        from: Vec::new(),
        address: AddressPolicy::Strict,
        clock: ClientClock::Utc,
        expires: None,
        old_key: None,
        standing: Standing::Enabled,
    });
    let directory = Directory::new(services.into(), entries.into(), &Realm::default());
    let ids = directory.clients_by_name();
    let mut owners = Vec::new();
    for (client, _) in clients {
        for service in names {
            for host in 1..=2 {
                let address = UnicastAddress::try_from(std::net::IpAddr::from(Ipv4Addr::new(
                    192, 0, 2, host,
                )))
                .unwrap();
                let service_id = directory.service_named(service).unwrap();
                let owner = Owner { address, client: ids[client], service: service_id };
                owners.push(Named { owner, client, service });
            }
        }
    }
    owners
});

fn create(grants: impl IntoIterator<Item = (Owner, StoredGrant)>) -> (HeldFile<Disk>, Disk) {
    let mut disk = None;
    let put = |content: &[u8]| Ok::<_, ()>(disk.insert(Disk::new(content)).clone());
    let file = HeldFile::create_with(WRITER, grants, put);
    (file.expect("this disk takes all"), disk.expect("the content was put there"))
}

struct Story {
    file: HeldFile<Disk>,
    disk: Disk,
    holds: BTreeMap<Owner, StoredGrant>,
    /// Grants whose time was over, which may stand in the file until another takes their place.
    over: Vec<StoredGrant>,
    /// Owners whose last write the disk did not take whole.
    torn: BTreeSet<Owner>,
    /// Every grant that was ever to be written. Each has a time of its own.
    tried: Vec<StoredGrant>,
}

impl Story {
    fn begin() -> Self {
        let (file, disk) = create([]);
        let (holds, over) = (BTreeMap::new(), Vec::new());
        Self { file, disk, holds, over, torn: BTreeSet::new(), tried: Vec::new() }
    }

    fn hold(&mut self, Named { owner, client, service }: &Named) {
        let until = Uptime::from_millis(self.tried.len() as u64);
        let grant = Grant { client, address: owner.address, service: *service, until };
        let stored = StoredGrant {
            client: client.parse().unwrap(),
            address: owner.address,
            service: *service,
            until,
        };
        self.tried.push(stored.clone());
        if self.file.hold(*owner, grant.encode()).is_ok() {
            self.holds.insert(*owner, stored);
            self.torn.remove(owner);
        } else {
            self.torn.insert(*owner);
        }
    }

    fn release(&mut self, Named { owner, .. }: &Named) {
        if self.file.release(owner).is_err() {
            self.torn.insert(*owner);
        } else if self.holds.remove(owner).is_some() {
            self.torn.remove(owner);
        }
    }

    fn forget(&mut self, Named { owner, .. }: &Named) {
        if !self.torn.contains(owner) {
            self.file.forget(owner);
            self.over.extend(self.holds.remove(owner));
        }
    }

    /// The daemon takes up what it finds, but for what is over.
    fn restart(&mut self) {
        self.holds = self.live();
        self.torn.clear();
        (self.file, self.disk) = create(self.holds.clone());
    }

    /// The grants in the file that are not over.
    fn live(&self) -> BTreeMap<Owner, StoredGrant> {
        let Found::Grants(found) = parse(&self.disk.content(), Some(BOOT)) else {
            panic!("the header is never written again");
        };
        let mut live = BTreeMap::new();
        for grant in found.into_iter().filter(|grant| !self.over.contains(grant)) {
            assert!(self.tried.contains(&grant), "made up: {grant:?}");
            let is_its = |named: &&Named| {
                named.client == grant.client.as_str()
                    && named.service == grant.service
                    && named.owner.address == grant.address
            };
            let named = OWNERS.iter().find(is_its).expect("there is no other owner");
            assert!(live.insert(named.owner, grant).is_none(), "it stands there twice");
        }
        live
    }

    /// Who holds a door stands in the file, and nobody else; but for those whose last write was torn.
    fn assert_is_held(&self) {
        let is_sure = |(owner, _): &(&Owner, _)| !self.torn.contains(*owner);
        let live = self.live();
        assert!(live.iter().filter(is_sure).eq(self.holds.iter().filter(is_sure)), "{live:?}");
    }
}
