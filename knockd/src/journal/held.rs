//! The file of grants: who holds which door, so that names and neighbours survive a restart.
//!
//! A place for each owner, as `places` keeps them. Grants end with the boot, as the kernel's sets do.

use std::{fs::File, io, net::IpAddr, os::unix::fs::FileExt, path::Path};

use common::{ServiceName, UnicastAddress};

use crate::gate::{clock::Uptime, grants::Owner, policy::ClientName};

use super::{
    BootId, StateError, StateFile, StateFolder, Writer,
    codec::{Decoder, Encoder, copy_text, text},
    places::{self, PLACE_LEN, Places},
};

/// The file's name in the state folder.
pub const FILE_NAME: &str = "grants";

const MAGIC: &[u8; 16] = b"knockd grants v1";

/// A grant, as the file holds it: by names, which outlive a change of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredGrant {
    /// Who knocked.
    pub client: ClientName,
    /// The address that the doors are open for.
    pub address: UnicastAddress,
    /// The service whose ports are open.
    pub service: ServiceName,
    /// Until when.
    pub until: Uptime,
}

impl StoredGrant {
    fn as_written(&self) -> Grant<'_> {
        let Self { client, address, service, until } = self;
        Grant { client: client.as_str(), address: *address, service: *service, until: *until }
    }
}

/// A grant to be written, under the name of a client that exists.
#[derive(Clone, Copy, Debug)]
pub struct Grant<'a> {
    /// Who knocked.
    pub client: &'a str,
    /// The address that the doors are open for.
    pub address: UnicastAddress,
    /// The service whose ports are open.
    pub service: ServiceName,
    /// Until when.
    pub until: Uptime,
}

/// A grant as it stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded([u8; PLACE_LEN]);

impl Grant<'_> {
    /// As it stands in the file.
    #[must_use]
    pub fn encode(self) -> Encoded {
        Encoded(self.to_bytes())
    }

    fn to_bytes(self) -> [u8; PLACE_LEN] {
        let mut name = [0; ClientName::MAX_LEN];
        let mut service = [0; common::SERVICE_NAME_MAX];
        copy_text(&mut name, self.client);
        copy_text(&mut service, self.service.as_str());
        let address = match self.address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Encoder::new()
            .put(&self.until.as_millis().to_be_bytes())
            .put(&address)
            .put(&service)
            .put(&name)
            .finish()
    }
}

impl StoredGrant {
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut decoder = Decoder::new(bytes)?;
        let until = Uptime::from_millis(decoder.take_u64()?);
        let address = UnicastAddress::try_from(IpAddr::from(decoder.take::<16>()?)).ok()?;
        let service = decoder.take::<{ common::SERVICE_NAME_MAX }>()?;
        let name = decoder.take::<{ ClientName::MAX_LEN }>()?;
        Some(Self {
            client: text(&name)?.parse().ok()?,
            address,
            service: text(&service)?.parse().ok()?,
            until,
        })
    }
}

/// What an earlier run left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Grants of this boot, some of which may be over.
    Grants(Vec<StoredGrant>),
    /// There is no file, or it is of an earlier boot: no grant is live.
    None,
    /// The file isn't as it was written. Grants that are live can't be told from strangers' doors.
    Damaged,
}

/// Reads the grants that an earlier run held, if it was in this boot; `None` for whichever boot, for who
/// only looks and knows from the kernel which doors are open. (In a container a service and a shell can be
/// told different boots.)
///
/// # Errors
/// If there is a file and it can't be read at all.
pub fn load(path: &Path, boot: Option<BootId>) -> Result<Found, StateError> {
    Ok(places::read(path)?.map_or(Found::None, |bytes| parse(&bytes, boot)))
}

/// Reads a file's content. No content whatever makes it panic.
#[must_use]
pub fn parse(bytes: &[u8], boot: Option<BootId>) -> Found {
    match places::parse(bytes, MAGIC) {
        None => Found::Damaged,
        Some((writer, _)) if boot.is_some_and(|boot| writer.boot != boot) => Found::None,
        Some((_, places)) => Found::Grants(places.filter_map(StoredGrant::from_bytes).collect()),
    }
}

/// The file, open for changes.
#[derive(Debug)]
pub struct HeldFile<F = File>(Places<Owner, F>);

impl<D: StateFile> HeldFile<D> {
    /// Puts a new file with these grants in the old one's place.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn create(
        folder: &StateFolder<D>,
        writer: Writer,
        grants: impl IntoIterator<Item = (Owner, StoredGrant)>,
    ) -> Result<Self, StateError> {
        Self::create_with(writer, grants, |content| folder.replace(&folder.held(), content))
    }

    /// Puts the file back if somebody has removed it, or put another in its place. Whether it had to be.
    ///
    /// # Errors
    /// If it can't be: what is written from then on would not be found by a restart.
    pub fn put_back(&mut self, folder: &StateFolder<D>) -> Result<bool, StateError> {
        self.0.put_back(folder, &folder.held())
    }
}

impl<F: FileExt> HeldFile<F> {
    /// Writes what could not be written before, up to the first failure.
    ///
    /// # Errors
    /// What the disk says; the rest is still to be written.
    pub fn catch_up(&mut self) -> io::Result<()> {
        self.0.catch_up()
    }

    /// Makes a file with these grants; `put` makes one of this content.
    ///
    /// # Errors
    /// What `put` says.
    pub fn create_with<E>(
        writer: Writer,
        grants: impl IntoIterator<Item = (Owner, StoredGrant)>,
        put: impl FnOnce(&[u8]) -> Result<F, E>,
    ) -> Result<Self, E> {
        let grants =
            grants.into_iter().map(|(owner, grant)| (owner, grant.as_written().to_bytes()));
        Places::create(MAGIC, writer, grants, put).map(Self)
    }

    /// Writes down until when an owner holds its doors.
    ///
    /// # Errors
    /// If it could not be written: then the owner must not be let in, and is to be struck out.
    pub fn hold(&mut self, owner: Owner, grant: Encoded) -> io::Result<()> {
        self.0.write(owner, &grant.0)
    }

    /// Strikes an owner out, whose grant was ended early.
    ///
    /// # Errors
    /// If it could not be written: until [`Self::catch_up`] has, a restart of the daemon gives the grant back.
    pub fn release(&mut self, owner: &Owner) -> io::Result<()> {
        self.0.strike_out(owner)
    }

    /// Frees the place of an owner whose time is over. What stands there is over by itself.
    pub fn forget(&mut self, owner: &Owner) {
        self.0.forget(owner);
    }
}
