//! The configuration that is in force, and what became of the last change of it.

use serde::{Deserialize, Serialize};

use crate::config::{self, compare::Difference};

/// Mistakes that are told over the control socket; `knockd check` tells all.
pub const MISTAKES_TOLD: usize = 100;

/// Which configuration is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Configuration {
    /// The main file.
    pub file: String,
    /// Since when it is in force as it is: RFC 3339.
    pub since: String,
    /// Keys that have changed in the main file and take effect at a start alone.
    pub restart: Vec<String>,
    /// What has been refused since then, if anything has.
    pub refused: Option<Refusal>,
}

/// A change of the configuration that was refused: what was in force before still is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Refusal {
    /// Since when the files are wrong, as far as the daemon has looked: RFC 3339.
    pub since: String,
    /// What is wrong, at most [`MISTAKES_TOLD`].
    pub mistakes: Vec<Mistake>,
    /// How many more there are.
    pub more: usize,
}

/// One thing to mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Mistake {
    /// The file or folder that it is in; none if it is the system that refuses.
    pub file: Option<String>,
    /// The line in the file.
    pub line: Option<u32>,
    /// What is wrong, and what to do about it, in words, with file and line.
    pub text: String,
}

impl From<&config::Mistake> for Mistake {
    fn from(mistake: &config::Mistake) -> Self {
        Self {
            file: Some(mistake.file.display().to_string()),
            line: mistake.line,
            text: mistake.to_string(),
        }
    }
}

/// A changed configuration is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Reloaded {
    /// Whether anything has changed.
    pub changed: bool,
    /// Keys and services that have changed, and are in force.
    pub settings: Vec<Setting>,
    /// Keys that have changed, and take effect at a start alone.
    pub restart: Vec<Setting>,
    /// How many clients there are.
    #[serde(default)]
    pub clients: usize,
    /// How many clients are new.
    pub added: usize,
    /// How many clients' entries have changed.
    pub modified: usize,
    /// How many clients are gone.
    pub removed: usize,
    /// How many grants have ended by it.
    pub grants_ended: usize,
    /// How many connections were ended with it; none if that wasn't asked for, or failed.
    pub connections_ended: Option<usize>,
    /// How many bans have ended by it.
    pub bans_lifted: usize,
    /// What has not been done of it yet.
    pub warning: Option<String>,
}

/// A key of the configuration that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Setting {
    /// Its name.
    pub key: String,
    /// What it was.
    pub was: String,
    /// What it is.
    pub is: String,
}

impl From<Difference> for Setting {
    fn from(Difference { key, was, is, .. }: Difference) -> Self {
        Self { key, was, is }
    }
}
