//! What `knockd doctor` has found, and what it could not look at.

use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Severity {
    /// A knock doesn't let a device in, or the door isn't shut.
    Fault,
    /// That may be so, or may become so.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Fault => "fault",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Its name, which stays the same from version to version.
    pub(super) id: &'static str,
    pub(super) severity: Severity,
    /// What is wrong.
    pub(super) what: String,
    /// Where: a file, or table, chain and rule.
    #[serde(rename = "where")]
    pub(super) place: Option<String>,
    /// The command that mends it, or what to do where no command can be named.
    pub(super) mend: Option<String>,
}

impl Finding {
    pub(super) fn new(id: &'static str, severity: Severity, what: impl Into<String>) -> Self {
        Self { id, severity, what: what.into(), place: None, mend: None }
    }

    pub(super) fn fault(id: &'static str, what: impl Into<String>) -> Self {
        Self::new(id, Severity::Fault, what)
    }

    pub(super) fn warning(id: &'static str, what: impl Into<String>) -> Self {
        Self::new(id, Severity::Warning, what)
    }

    pub(super) fn note(id: &'static str, what: impl Into<String>) -> Self {
        Self::new(id, Severity::Note, what)
    }

    #[must_use]
    pub(super) fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    #[must_use]
    pub(super) fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

/// Why something could not be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unable {
    pub(super) why: String,
    /// Whether root could.
    pub(super) needs_root: bool,
}

impl Unable {
    /// For want of a permission.
    pub(super) fn denied(why: impl Into<String>) -> Self {
        Self { why: why.into(), needs_root: true }
    }

    /// For another reason.
    pub(super) fn other(why: impl Into<String>) -> Self {
        Self { why: why.into(), needs_root: false }
    }

    pub(super) fn of_denied(denied: bool, why: impl Into<String>) -> Self {
        Self { why: why.into(), needs_root: denied }
    }
}

impl From<std::io::Error> for Unable {
    fn from(error: std::io::Error) -> Self {
        Self::of_denied(error.kind() == std::io::ErrorKind::PermissionDenied, error.to_string())
    }
}

/// A check that could not be made, in whole or in part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Unchecked {
    pub(super) check: &'static str,
    pub(super) why: String,
    pub(super) needs_root: bool,
}

/// What one check came to.
pub(super) struct Findings<'a> {
    report: &'a mut Report,
    check: &'static str,
    whole: bool,
}

impl Findings<'_> {
    pub(super) fn add(&mut self, finding: Finding) {
        self.whole = false;
        if !self.report.findings.contains(&finding) {
            self.report.findings.push(finding);
        }
    }

    /// Notes a part that could not be looked at.
    pub(super) fn unable(&mut self, Unable { why, needs_root }: Unable) {
        self.whole = false;
        self.report.unchecked.push(Unchecked { check: self.check, why, needs_root });
    }
}

/// All checks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Report {
    pub(super) findings: Vec<Finding>,
    /// Checks that could not be made: nothing is known of them.
    pub(super) unchecked: Vec<Unchecked>,
    /// Checks that were made and found nothing.
    pub(super) passed: Vec<&'static str>,
}

impl Report {
    /// Makes a check.
    pub(super) fn check(
        &mut self,
        name: &'static str,
        check: impl FnOnce(&mut Findings<'_>) -> Result<(), Unable>,
    ) {
        let mut findings = Findings { report: self, check: name, whole: true };
        if let Err(unable) = check(&mut findings) {
            findings.unable(unable);
        }
        if findings.whole {
            self.passed.push(name);
        }
    }

    pub(super) fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}
