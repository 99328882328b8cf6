//! `knockd revoke`: ends live grants before their time.

use std::{net::IpAddr, path::Path, str::FromStr};

use clap::Args;
use common::ServiceName;

use super::{
    Failure, Format, Output,
    ask::{ask, unexpected},
};
use crate::{
    control::{Reply, Request, revoke::Revoke},
    gate::policy::{ClientName, InvalidClientName},
};

/// End the live grants of a client or an address
///
/// A door shuts at once, unless somebody else holds it as well. Who may knock may do so again: `knockd client
/// disable` and `knockd ban` keep him out. Connections live on, where grant.sessions is "keep", unless --cut ends
/// them: those of a client are found by where it was let in of late (16 addresses since the daemon started), and
/// connections of others behind the same address end with them, unless they hold a grant.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Examples:\n  knockd revoke press-17 --cut\n  knockd revoke 198.51.100.7 --service mqtts\n\nExit status: 66 no such client or service, 69 no daemon runs"
)]
pub struct RevokeArgs {
    /// The client's name, or the address: what can be read as an address is one
    #[arg(value_name = "CLIENT|ADDRESS")]
    pub whose: Whose,
    /// Those for this service alone
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<ServiceName>,
    /// End the connections as well, also those whose grants are over
    #[arg(long)]
    pub cut: bool,
}

/// Whose grants to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Those for an address.
    Address(IpAddr),
    /// Those of a client of this name.
    Client(ClientName),
}

/// A text that is neither a client's name nor an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWhose {
    /// It looks like an address, and is none.
    #[error(
        "it looks like an address and is none: write it as 192.0.2.7, without leading zeros, or 2001:db8::7, without '%'"
    )]
    Address,
    /// No client can have that name.
    #[error("{0}")]
    Name(InvalidClientName),
}

/// Four numbers with points between them, or anything with a colon.
fn is_nearly_an_address(text: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.contains(':') || (text.split('.').count() == 4 && text.split('.').all(is_number))
}

impl FromStr for Whose {
    type Err = InvalidWhose;

    fn from_str(text: &str) -> Result<Self, InvalidWhose> {
        match text.parse() {
            Ok(address) => Ok(Self::Address(address)),
            Err(_) if is_nearly_an_address(text) => Err(InvalidWhose::Address),
            Err(_) => text.parse().map(Self::Client).map_err(InvalidWhose::Name),
        }
    }
}

/// Ends live grants.
///
/// # Errors
/// A [`Failure`] if there is no such client, or no daemon runs.
pub fn run(config: &Path, args: &RevokeArgs, output: &mut Output<'_>) -> Result<(), Failure> {
    let (client, address, whose) = match &args.whose {
        Whose::Client(name) => (Some(name.clone()), None, name.to_string()),
        Whose::Address(address) => (None, Some(*address), address.to_string()),
    };
    let request = Request::Revoke(Revoke { client, address, service: args.service, cut: args.cut });
    let Reply::Revoked(revoked) = ask(config, &request)? else { return Err(unexpected()) };
    if let Some(warning) = &revoked.warning {
        output.note(format!("warning: {warning}"));
    }
    match output.format() {
        Format::Json => output.json(&revoked),
        Format::Human if revoked.changed => {
            output.line(format!("{whose}: grants ended: {}", revoked.grants_ended))
        }
        Format::Human => output.line(format!("{whose} holds no grant")),
    }?;
    if let (Format::Human, Some(ended)) = (output.format(), revoked.connections_ended) {
        output.line(format!("connections ended: {ended}"))?;
    }
    Ok(())
}
