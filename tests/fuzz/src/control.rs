//! A line on the control socket: any bytes.

use std::{fmt, str::FromStr};

use knockd::{
    control::Request,
    gate::{bans::BanReason, source::Source},
};

/// What is understood is written so that it is understood as the same, and so are the parts of a ban.
pub(crate) fn control(line: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(line) else { return };
    let again = serde_json::to_vec(&request).expect("a request has nothing that JSON has not");
    assert!(!again.contains(&b'\n'), "it is one line");
    assert_eq!(serde_json::from_slice::<Request>(&again).ok().as_ref(), Some(&request));
    match request {
        Request::Ban { source, reason, .. } => {
            reads_back::<Source>(&source);
            reads_back::<BanReason>(&reason);
        }
        Request::Unban { source: Some(source) } => reads_back::<Source>(&source),
        Request::Revoke(_)
        | Request::Grants { .. }
        | Request::Bans { .. }
        | Request::Client { .. }
        | Request::Reload { .. }
        | Request::Resync { .. }
        | Request::Skews { .. }
        | Request::Unban { source: None }
        | Request::Status => {}
    }
}

fn reads_back<T: FromStr + fmt::Display + fmt::Debug + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string().parse().ok(), Some(value), "{text}");
    }
}
