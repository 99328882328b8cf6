//! The file of grants: who holds which door, so that names and neighbours survive a restart.
//!
//! A header and places of a fixed size, one for each owner; a place is written over when its owner's
//! time changes, and taken by another when it is over. The file never has more places than grants were
//! ever held at once. Grants end with the boot, as the kernel's sets do.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, ErrorKind, Read as _},
    net::IpAddr,
    os::unix::fs::FileExt as _,
    path::Path,
};

use common::{ServiceName, UnicastAddress};

use crate::gate::{clock::Uptime, grants::Owner, policy::ClientName};

use super::{
    BootId, DaemonId, StateError, StateFolder, Writer,
    codec::{Decoder, Encoder},
    replace,
};

/// The file's name in the state folder.
pub const FILE_NAME: &str = "grants";

const MAGIC: &[u8; 16] = b"knockd grants v1";
const HEADER_LEN: usize = 64;
const PLACE_LEN: usize = 128;

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

impl Grant<'_> {
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

fn copy_text(place: &mut [u8], text: &str) {
    for (place, byte) in place.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
}

fn text(padded: &[u8]) -> Option<&str> {
    let end = padded.iter().position(|byte| *byte == 0).unwrap_or(padded.len());
    std::str::from_utf8(padded.get(..end)?).ok()
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
    let mut bytes = Vec::new();
    match File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
        Ok(_) => Ok(parse(&bytes, boot)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Found::None),
        Err(error) => Err(StateError::Io { path: path.to_owned(), error }),
    }
}

/// Reads a file's content. No content whatever makes it panic.
#[must_use]
pub fn parse(bytes: &[u8], boot: Option<BootId>) -> Found {
    let Some((header, places)) = bytes.split_at_checked(HEADER_LEN) else { return Found::Damaged };
    match read_header(header) {
        None => Found::Damaged,
        Some(writer) if boot.is_some_and(|boot| writer.boot != boot) => Found::None,
        // A free place is all zero, a torn one was never acted on: neither has a valid checksum.
        Some(_) => Found::Grants(
            places.chunks_exact(PLACE_LEN).filter_map(StoredGrant::from_bytes).collect(),
        ),
    }
}

fn header(writer: Writer) -> [u8; HEADER_LEN] {
    Encoder::new().put(MAGIC).put(&writer.boot.0).put(&writer.daemon.0).finish()
}

fn read_header(bytes: &[u8]) -> Option<Writer> {
    let mut decoder = Decoder::new(bytes)?;
    if decoder.take::<16>()? != *MAGIC {
        return None;
    }
    Some(Writer { boot: BootId(decoder.take()?), daemon: DaemonId(decoder.take()?) })
}

/// The file, open for changes.
#[derive(Debug)]
pub struct HeldFile {
    file: File,
    places: HashMap<Owner, u64>,
    free: Vec<u64>,
}

impl HeldFile {
    /// Puts a new file with these grants in the old one's place.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn create(
        folder: &StateFolder,
        writer: Writer,
        grants: impl IntoIterator<Item = (Owner, StoredGrant)>,
    ) -> Result<Self, StateError> {
        let mut content = header(writer).to_vec();
        let mut places = HashMap::new();
        for (place, (owner, grant)) in (0..).zip(grants) {
            content.extend_from_slice(&grant.as_written().to_bytes());
            places.insert(owner, place);
        }
        Ok(Self { file: replace(&folder.held(), &content)?, places, free: Vec::new() })
    }

    /// Writes down until when an owner holds its doors.
    ///
    /// # Errors
    /// If it could not be written: then the owner must not be let in.
    pub fn hold(&mut self, owner: Owner, grant: Grant<'_>) -> io::Result<()> {
        let place = match self.places.get(&owner) {
            Some(place) => *place,
            None => self.free.last().copied().unwrap_or(self.places.len() as u64),
        };
        self.file.write_all_at(&grant.to_bytes(), offset(place))?;
        if self.places.insert(owner, place).is_none() {
            self.free.pop();
        }
        Ok(())
    }

    /// Strikes an owner out, whose grant was ended early.
    ///
    /// # Errors
    /// If it could not be written: a restart of the daemon would then give the grant back.
    pub fn release(&mut self, owner: &Owner) -> io::Result<()> {
        match self.places.get(owner) {
            Some(place) => self.file.write_all_at(&[0; PLACE_LEN], offset(*place))?,
            None => return Ok(()),
        }
        self.forget(owner);
        Ok(())
    }

    /// Frees the place of an owner whose time is over. What stands there is over by itself.
    pub fn forget(&mut self, owner: &Owner) {
        self.free.extend(self.places.remove(owner));
    }
}

fn offset(place: u64) -> u64 {
    HEADER_LEN as u64 + place * PLACE_LEN as u64
}
