//! What can be said of the packages without installing them.

use crate::inside;
use crate::packages::{CLIENT, DAEMON, Packages, Version};
use crate::report::{Report, saw};

pub(crate) fn play(report: &mut Report) {
    for name in [DAEMON, CLIENT] {
        let file = Packages::file(&Packages::folder(), name, Version::Current);
        report.check(&format!("lintian has nothing against {name}"), || {
            let said = inside::run(&[
                "lintian",
                "--fail-on",
                "error,warning",
                "--no-cfg",
                "--allow-root",
                &file,
            ]);
            saw(&said.stdout);
        });
    }
    report.check("the client depends on libc alone, and both give way to Debian's knockd", || {
        for name in [DAEMON, CLIENT] {
            let file = Packages::file(&Packages::folder(), name, Version::Current);
            let field = |field: &str| {
                inside::run(&["dpkg-deb", "--field", &file, field]).stdout.trim().to_owned()
            };
            saw(&format!("{name} {}: depends {}", field("Version"), field("Depends")));
            assert_eq!((field("Conflicts"), field("Replaces")), ("knockd".into(), "knockd".into()));
            if name == CLIENT {
                assert!(
                    field("Depends").split(", ").all(|one| one.starts_with("libc6")),
                    "{}",
                    field("Depends")
                );
            }
        }
    });
}
