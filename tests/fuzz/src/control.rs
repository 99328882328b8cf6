//! A line on the control socket: any bytes.

use knockd::control::Request;

/// What is understood is written so that it is understood as the same.
pub(crate) fn control(line: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(line) else { return };
    let again = serde_json::to_vec(&request).expect("a request has nothing that JSON has not");
    assert!(!again.contains(&b'\n'), "it is one line");
    assert_eq!(serde_json::from_slice::<Request>(&again).ok().as_ref(), Some(&request));
    assert!(!again.iter().any(u8::is_ascii_control), "names and reasons steer no terminal");
}
