//! The configuration: `knockd.toml`, and the clients in the folder that it names.
//!
//! Text goes in and checked types come out, once: whatever is behind this room relies on them and checks
//! nothing again. Every mistake of every file is told in one run, each with file, line, and what to
//! write instead. There is one exception: a file that isn't TOML has just that mistake.
//!
//! # Security considerations
//! - An unknown key is a mistake, so that a misspelt restriction can't be overlooked.
//! - Files with keys that others can read or write make the configuration refused (`files`).
//! - No key ever gets into a message (`mistake`), and the text of a file is wiped when it is read.
//!   Where a file with keys isn't TOML, the parser makes a copy of its text that isn't wiped.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

mod allow;
mod ban;
mod clients;
pub mod compare;
pub mod duration;
mod entry;
mod field;
mod files;
mod keys;
mod listen;
mod lookup;
mod master;
pub mod metrics;
mod mistake;
mod near;
pub mod network;
mod prefilter;
pub mod reload;
pub(crate) mod secret;
mod section;
mod services;
mod settings;
mod source;
#[cfg(test)]
pub(crate) mod tests;

pub use allow::{Allow, InterfaceName, InvalidInterfaceName};
pub(crate) use files::{Guard, exposure, quoted};
pub use listen::Listen;
pub(crate) use lookup::{Found, Part, find};
pub use metrics::Metrics;
pub use mistake::{Mistake, MistakeKind, Mistakes};
pub use prefilter::{AUTO_LIMIT, Prefilter, PrefilterMode};
pub use settings::Environment;
pub use source::Origin;

use clients::Clients;
use master::Master;
use section::Section;
use settings::Settings;
use source::Report;

use zeroize::Zeroizing;

use crate::gate::policy::{Client, ClientName, Policy, Service};

/// Where the configuration is unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/knockd/knockd.toml";

/// The file of the master key, where the main file names none.
const MASTER_KEY: &str = "master.key";

/// Largest file of clients that is read, in bytes.
pub(crate) const CLIENTS_FILE_MAX: usize = files::MAX_LEN;

/// A sound configuration.
#[derive(Clone)]
pub struct Config {
    /// Where knocks are received.
    pub listen: Listen,
    /// The folder for what must outlive the daemon.
    pub state: PathBuf,
    /// The path of the control socket.
    pub control: PathBuf,
    /// The folder that the clients' files are in.
    pub clients_dir: PathBuf,
    /// The file with the secret that keys of clients are derived from; read where one is.
    pub master_key_file: PathBuf,
    /// Of the clients whose keys are derived: the generation of each.
    pub derived: HashMap<ClientName, NonZeroU32>,
    /// What the gate decides by.
    pub policy: Policy,
    /// Who needs no knock.
    pub allow: Allow,
    /// What the kernel does about junk.
    pub prefilter: Prefilter,
    /// Where figures are told to whoever watches this host.
    pub metrics: Metrics,
    /// The clients, no two of one name or one key, in the order of the files' names.
    pub clients: Vec<Client>,
}

/// Loads the configuration at this path.
///
/// # Errors
/// Every [`Mistake`] in it: then nothing of it is to be used.
pub fn load(path: &Path) -> Result<Config, Mistakes> {
    load_located(path, &Environment::of_process()).map(|located| located.config)
}

/// Loads the configuration at this path as if there were no client.
///
/// # Errors
/// Every [`Mistake`] in the main file: then nothing of it is to be used.
pub fn load_without_clients(path: &Path) -> Result<Config, Mistakes> {
    let mut mistakes = Vec::new();
    let located = read_settings(path, &Environment::of_process(), &mut mistakes)
        .and_then(|settings| with_clients(settings, &mut mistakes, |_, _, _| ()));
    sound(path, located, mistakes).map(|located| located.config)
}

/// A configuration, and where each of its clients is.
pub struct Located {
    /// The configuration.
    pub config: Config,
    /// Of the client at the same index.
    pub origins: Vec<Origin>,
}

/// Loads a configuration in an environment, and tells where each client is.
///
/// # Errors
/// Every [`Mistake`] in it: then nothing of it is to be used.
pub fn load_located(path: &Path, environment: &Environment) -> Result<Located, Mistakes> {
    let mut mistakes = Vec::new();
    let located = try_load(path, environment, &mut mistakes);
    // What reading keys has left there.
    common::wipe_stack();
    sound(path, located, mistakes)
}

/// Loads the configuration at this path with what a copy of its main file says, which may have been changed: names of
/// files in it are relative to where the copy is to go.
///
/// # Errors
/// Every [`Mistake`] in it.
pub fn load_copy(copy: &Path, path: &Path, environment: &Environment) -> Result<Located, Mistakes> {
    let mut mistakes = Vec::new();
    let located = read_settings_for(copy, path, environment, &mut mistakes)
        .and_then(|settings| with_all_clients(settings, &mut mistakes));
    sound(copy, located, mistakes)
}

/// A file that was read already.
#[derive(Clone, Copy)]
pub struct FileContent<'a> {
    /// Where it is: messages name it, and the main file's paths are relative to its folder.
    pub path: &'a Path,
    /// What is in it.
    pub bytes: &'a [u8],
}

/// Loads a configuration from files that were read already, whoever can read or write them.
///
/// # Errors
/// Every [`Mistake`] in it: then nothing of it is to be used.
pub fn parse(
    main: FileContent<'_>,
    clients: &[FileContent<'_>],
    environment: &Environment,
) -> Result<Located, Mistakes> {
    let mut mistakes = Vec::new();
    let settings = parse_settings(main, main.path, environment, &mut mistakes);
    let located = settings.and_then(|settings| {
        with_clients(settings, &mut mistakes, |read, _, mistakes| {
            read.master = Master::none();
            clients.iter().for_each(|file| read.read_bytes(file.path, file.bytes, mistakes));
        })
    });
    sound(main.path, located, mistakes)
}

/// What was loaded, if there is no mistake in it.
fn sound(
    path: &Path,
    located: Option<Located>,
    mistakes: Vec<Mistake>,
) -> Result<Located, Mistakes> {
    match (Mistakes::sorted(mistakes), located) {
        (None, Some(located)) => Ok(located),
        (Some(mistakes), _) => Err(mistakes),
        (None, None) => Err(unknown(path)),
    }
}

/// Nothing is left out without a mistake that says why; were it so, the configuration isn't sound all the same.
fn unknown(path: &Path) -> Mistakes {
    let (what, instead) = ("it can't be understood", "report this as a fault of knockd");
    Mistakes::one(Mistake::of_file(path, MistakeKind::Content, what, instead))
}

/// The path of the control socket that the main file names, without a look at the clients.
///
/// # Errors
/// Every mistake of the configuration, if the main file doesn't tell.
pub(crate) fn control(path: &Path) -> Result<PathBuf, Mistakes> {
    match read_settings(path, &Environment::of_process(), &mut Vec::new()).and_then(|it| it.control)
    {
        Some(control) => Ok(control),
        None => load(path).map(|config| config.control),
    }
}

/// The folder of the clients that the main file names, without a look at what is in it.
///
/// # Errors
/// Every mistake of the configuration, if the main file doesn't tell.
pub(crate) fn clients_dir(path: &Path, environment: &Environment) -> Result<PathBuf, Mistakes> {
    match read_settings(path, environment, &mut Vec::new()).and_then(|it| it.clients_dir) {
        Some(clients_dir) => Ok(clients_dir),
        None => load_located(path, environment).map(|located| located.config.clients_dir),
    }
}

/// Loads the configuration at this path as if one file of clients had this text, or were there with it.
///
/// # Errors
/// Every [`Mistake`] in it.
pub(crate) fn load_with(
    path: &Path,
    environment: &Environment,
    file: &Path,
    text: &str,
) -> Result<Located, Mistakes> {
    let mut mistakes = Vec::new();
    let located = read_settings(path, environment, &mut mistakes).and_then(|settings| {
        with_clients(settings, &mut mistakes, |clients, folder, mistakes| {
            if let Some(folder) = folder {
                clients.read_folder_but(folder, Some(file), mistakes);
            }
            // Last: of two that share a key, the new one is told.
            clients.read_text(file, text, mistakes);
        })
    });
    sound(path, located, mistakes)
}

/// Checks what a file of clients says, or would say; the clients in it.
///
/// # Errors
/// Every mistake in it.
pub(crate) fn check_clients(
    file: &Path,
    text: &str,
    services: &[Service],
    master_key_file: &Path,
) -> Result<Vec<Client>, Mistakes> {
    let mut mistakes = Vec::new();
    let master = Master::of(Some(master_key_file));
    let services: Vec<_> = services.iter().map(|service| service.name).collect();
    let mut clients = Clients::new(Some(&services), master);
    clients.read_text(file, text, &mut mistakes);
    Mistakes::sorted(mistakes).map_or(Ok(clients.clients), Err)
}

/// The text of a file of clients.
///
/// # Errors
/// What is wrong with the file as a whole.
pub(crate) fn read_clients_text(file: &Path) -> Result<Zeroizing<Vec<u8>>, Mistakes> {
    let mut mistakes = Vec::new();
    let text = files::read(file, Guard::Keys, &mut mistakes);
    match (Mistakes::sorted(mistakes), text) {
        (None, Some(text)) => Ok(text),
        (Some(mistakes), _) => Err(mistakes),
        (None, None) => Ok(Zeroizing::default()),
    }
}

fn try_load(
    path: &Path,
    environment: &Environment,
    mistakes: &mut Vec<Mistake>,
) -> Option<Located> {
    let settings = read_settings(path, environment, mistakes)?;
    with_all_clients(settings, mistakes)
}

fn with_all_clients(settings: Settings, mistakes: &mut Vec<Mistake>) -> Option<Located> {
    with_clients(settings, mistakes, |clients, folder, mistakes| {
        if let Some(folder) = folder {
            clients.read_folder(folder, mistakes);
        }
    })
}

/// The whole configuration; `read` reads the clients, from the folder that is named, if that is known.
fn with_clients(
    settings: Settings,
    mistakes: &mut Vec<Mistake>,
    read: impl FnOnce(&mut Clients<'_>, Option<&Path>, &mut Vec<Mistake>),
) -> Option<Located> {
    let policy = settings.policy;
    let services: Option<Vec<_>> =
        policy.as_ref().map(|policy| policy.services.iter().map(|it| it.name).collect());
    let master = Master::of(settings.master_key_file.as_deref());
    let mut clients = Clients::new(services.as_deref(), master);
    read(&mut clients, settings.clients_dir.as_deref(), mistakes);
    let Clients { clients, origins, derived, .. } = clients;
    Some(Located {
        config: Config {
            listen: settings.listen?,
            state: settings.state?,
            control: settings.control?,
            clients_dir: settings.clients_dir?,
            master_key_file: settings.master_key_file?,
            derived,
            policy: policy?,
            allow: settings.allow?,
            prefilter: settings.prefilter?,
            metrics: settings.metrics?,
            clients,
        },
        origins,
    })
}

/// What the main file says; `None` if there is nothing to read.
fn read_settings(
    path: &Path,
    environment: &Environment,
    mistakes: &mut Vec<Mistake>,
) -> Option<Settings> {
    read_settings_for(path, path, environment, mistakes)
}

/// What a main file says that is to be in this place.
fn read_settings_for(
    path: &Path,
    place: &Path,
    environment: &Environment,
    mistakes: &mut Vec<Mistake>,
) -> Option<Settings> {
    let bytes = files::read(path, Guard::Settings, mistakes)?;
    let main = FileContent { path, bytes: &bytes };
    let mut settings = parse_settings(main, place, environment, mistakes)?;
    // A copy that is looked at elsewhere still names the clients' folder, and the master key lies beside that.
    if let (Some(file), Some(clients)) = (&mut settings.master_key_file, &settings.clients_dir)
        && let Some(beside) = clients.parent().map(|folder| folder.join(MASTER_KEY))
        && *file == place.with_file_name(MASTER_KEY)
        && !file.exists()
        && beside.exists()
    {
        *file = beside;
    }
    Some(settings)
}

fn parse_settings(
    FileContent { path, bytes }: FileContent<'_>,
    place: &Path,
    environment: &Environment,
    mistakes: &mut Vec<Mistake>,
) -> Option<Settings> {
    let folder = place.parent().unwrap_or(Path::new(""));
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            mistakes.push(clients::not_utf8(path, bytes, error.valid_up_to()));
            return None;
        }
    };
    let mut report = Report::new(path, text, mistakes);
    let Some(table) = report.parse(text) else {
        // The clients are checked all the same, if they are where they are by default.
        let clients_dir = Some(folder.join("clients.d")).filter(|folder| folder.is_dir());
        return Some(Settings::unknown(clients_dir));
    };
    let mut section = Section::new(&mut report, "", &table, 0);
    let settings = Settings::read(&mut section, folder, environment);
    section.finish();
    Some(settings)
}
