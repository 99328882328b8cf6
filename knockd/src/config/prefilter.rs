//! `[prefilter]`: what the kernel does about junk before the daemon wakes.

use std::num::NonZeroU32;

use super::{
    keys::{JUNK_BUDGET, MODE},
    section::Section,
    source::Wrong,
};

/// Clients up to which `mode = "auto"` has the kernel filter by tags: a larger set makes every listing of
/// the host's ruleset slow (0.7 s for as many tags, 45 s for ten times as many).
pub const AUTO_LIMIT: usize = 100_000;
const DEFAULT_JUNK_BUDGET: u32 = 1_000;
const LARGEST_JUNK_BUDGET: u32 = 10_000_000;

/// When the kernel filters by tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefilterMode {
    /// With up to [`AUTO_LIMIT`] clients.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// What the kernel does about junk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefilter {
    /// When it filters by tags.
    pub mode: PrefilterMode,
    /// Packets a second without a client's tag that reach the daemon while it does.
    pub junk_budget: NonZeroU32,
}

impl Prefilter {
    pub(super) fn read(table: &mut Section<'_, '_, '_>) -> Option<Self> {
        let mode = table.text(&MODE, |text| match text {
            "auto" => Ok(PrefilterMode::Auto),
            "on" => Ok(PrefilterMode::On),
            "off" => Ok(PrefilterMode::Off),
            _ => Err(Wrong::new("is neither auto nor on nor off")),
        });
        let mode = mode.or(PrefilterMode::Auto);
        let budget = table.number(&JUNK_BUDGET, 1, LARGEST_JUNK_BUDGET).or(DEFAULT_JUNK_BUDGET);
        Some(Self { mode: mode?.value, junk_budget: NonZeroU32::new(budget?.value)? })
    }

    /// Whether the kernel filters by the tags of this many clients.
    #[must_use]
    pub const fn filters(&self, clients: usize) -> bool {
        match self.mode {
            PrefilterMode::Auto => clients <= AUTO_LIMIT,
            PrefilterMode::On => true,
            PrefilterMode::Off => false,
        }
    }
}
