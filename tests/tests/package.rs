//! What is in the packages of target/debian, and the static client beside them: `make deb-check` builds them,
//! and runs this. `cargo test` alone does not.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "tests fail by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::door::{MQTTS, broker4};
use e2e::pages::Program;
use e2e::{Door, Echo, Output, Settings, State, World, binaries};

/// What Debian's own package `knockd` leaves behind when it is removed and not purged: its conffiles, of 0.8-2.
const LEFT_BY_THE_OTHER: [&str; 3] = ["etc/default/knockd", "etc/init.d/knockd", "etc/knockd.conf"];

/// What systemd runs to make drop-ins.
const GENERATOR: &str = "usr/lib/systemd/system-generators/knockd-generator";

fn run(argv: &[&str]) -> Output {
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]);
    Output::of(command, "", &argv.join(" "))
}

fn target() -> PathBuf {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    binaries::repository().join(target)
}

/// A package's file.
fn deb(program: Program) -> String {
    let folder = target().join("debian");
    let start = format!("{}_", program.package());
    let files = fs::read_dir(&folder)
        .unwrap_or_else(|_| panic!("run `make deb-check`: no {}", folder.display()));
    let names = files.map(|file| file.expect("read a folder").path());
    let mut found = names.filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&start) && name.ends_with(".deb")
    });
    let file =
        found.next().unwrap_or_else(|| panic!("run `make deb-check`: there is no {start}*.deb"));
    assert_eq!(found.next(), None, "one version at a time");
    file.display().to_string()
}

/// What a package puts where: path without the first `/`, and mode with owner as tar shows them. Folders end with `/`.
fn contents(program: Program) -> BTreeMap<String, String> {
    let listed = run(&["dpkg-deb", "--contents", &deb(program)]).success().stdout;
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (mode, owner) = (words.next().expect("a mode"), words.next().expect("an owner"));
        let path = words.nth(3).expect("a path").trim_start_matches("./").to_owned();
        (path, format!("{mode} {owner}"))
    };
    listed.lines().map(entry).collect()
}

/// Its files, without its folders.
fn files(program: Program) -> BTreeSet<String> {
    contents(program).into_keys().filter(|path| !path.ends_with('/')).collect()
}

/// A file of a package's control archive; nothing if it hasn't got that.
fn control(program: Program, file: &str) -> String {
    let shown = run(&["dpkg-deb", "--info", &deb(program), file]);
    if shown.is_success() { shown.stdout } else { String::new() }
}

fn field(program: Program, field: &str) -> String {
    run(&["dpkg-deb", "--field", &deb(program), field]).success().stdout.trim().to_owned()
}

/// A package, unpacked.
fn unpacked(program: Program) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("make a folder");
    run(&["dpkg-deb", "--extract", &deb(program), folder.path().to_str().unwrap()]).success();
    folder
}

#[test]
fn lintian_has_nothing_against_the_packages() {
    for program in Program::ALL {
        let fail = ["--fail-on", "error,warning"];
        let lintian = [&["lintian", "--no-cfg", "--allow-root"][..], &fail, &[&deb(program)]];
        run(&lintian.concat()).success();
    }
}

#[test]
fn everything_in_a_package_is_roots_and_no_more_can_be_run_than_the_program_and_the_generator() {
    for (program, path) in [(Program::Knockd, "usr/sbin/knockd"), (Program::Knock, "usr/bin/knock")]
    {
        let contents = contents(program);
        assert!(contents.contains_key(path), "{path} is missing");
        for (file, mode) in contents {
            let wanted = match file.as_str() {
                folder if folder.ends_with('/') => "drwxr-xr-x 0/0",
                file if file == path || file == GENERATOR => "-rwxr-xr-x 0/0",
                _ => "-rw-r--r-- 0/0",
            };
            assert_eq!(mode, wanted, "{file}");
        }
    }
}

#[test]
fn every_unit_page_completion_and_example_is_in_a_package() {
    let packed: BTreeSet<String> = Program::ALL.into_iter().flat_map(files).collect();
    let mut wanted: Vec<String> = Vec::new();
    let systemd = binaries::repository().join("systemd");
    for path in below(&systemd) {
        wanted.push(match path.as_str() {
            "knockd.sysusers.conf" => "usr/lib/sysusers.d/knockd.conf".to_owned(),
            "knockd.tmpfiles.conf" => "usr/lib/tmpfiles.d/knockd.conf".to_owned(),
            "knock.tmpfiles.conf" => "usr/lib/tmpfiles.d/knock.conf".to_owned(),
            "knockd-generator" => GENERATOR.to_owned(),
            "flush.nft" => "usr/share/knockd-spa/flush.nft".to_owned(),
            unit => format!("usr/lib/systemd/system/{unit}"),
        });
    }
    for program in Program::ALL {
        let (name, package) = (program.name(), program.package());
        for page in program.pages() {
            let (_, section) = page.rsplit_once('.').expect("a section");
            wanted.push(format!("usr/share/man/man{section}/{page}.gz"));
        }
        wanted.push(format!("usr/share/bash-completion/completions/{name}"));
        wanted.push(format!("usr/share/zsh/vendor-completions/_{name}"));
        wanted.push(format!("usr/share/fish/vendor_completions.d/{name}.fish"));
        wanted.push(format!("usr/share/doc/{package}/copyright"));
        wanted.push(format!("usr/share/doc/{package}/changelog.gz"));
    }
    for file in &wanted {
        assert!(packed.contains(file), "{file} is in no package");
    }
    // Of the examples, their names: which package has them, and where below examples/, is its own affair.
    let names: BTreeSet<&str> = packed.iter().filter_map(|path| path.rsplit('/').next()).collect();
    for file in below(&binaries::repository().join("config")) {
        let name = file.rsplit('/').next().unwrap_or(&file);
        assert!(names.contains(name), "config/{file} is in no package");
    }
}

/// The files below a folder, from there on.
fn below(folder: &Path) -> Vec<String> {
    let list = ["find", ".", "-type", "f"];
    let mut find = Command::new(list[0]);
    find.args(&list[1..]).current_dir(folder);
    let found = Output::of(find, "", "find").success().stdout;
    let files: Vec<String> =
        found.lines().map(|line| line.trim_start_matches("./").to_owned()).collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files
}

#[test]
fn the_daemons_configuration_is_a_conffile_and_no_package_brings_a_key() {
    let conffiles = control(Program::Knockd, "conffiles");
    assert_eq!(conffiles.split_whitespace().collect::<Vec<_>>(), ["/etc/knockd/knockd.toml"]);
    assert_eq!(control(Program::Knock, "conffiles"), "");
    let etc: Vec<String> =
        Program::ALL.into_iter().flat_map(files).filter(|path| path.starts_with("etc/")).collect();
    assert_eq!(etc, ["etc/knockd/knockd.toml"]);
    let folder = unpacked(Program::Knockd);
    let packed = fs::read(folder.path().join("etc/knockd/knockd.toml")).expect("read");
    let commented = fs::read(binaries::repository().join("config/knockd.toml")).expect("read");
    assert!(packed == commented, "the packed configuration is the commented one");
}

#[test]
fn the_packages_share_no_file_with_each_other_nor_with_what_debians_knockd_leaves() {
    let (daemon, client) = (files(Program::Knockd), files(Program::Knock));
    let both: Vec<&String> = daemon.intersection(&client).collect();
    assert!(both.is_empty(), "{both:?} would belong to both");
    for left in LEFT_BY_THE_OTHER {
        assert!(!daemon.contains(left) && !client.contains(left), "{left}");
    }
    for program in Program::ALL {
        assert_ne!(field(program, "Package"), "knockd");
        assert_eq!(field(program, "Conflicts"), "knockd");
        assert_eq!(field(program, "Replaces"), "knockd");
    }
}

#[test]
fn the_client_needs_libc_alone_and_the_daemon_says_what_its_scripts_and_itself_run() {
    let depends = |program| {
        let field = field(program, "Depends");
        field.split(", ").map(str::to_owned).collect::<Vec<_>>()
    };
    let client = depends(Program::Knock);
    assert!(matches!(&client[..], [libc] if libc.starts_with("libc6 (>= ")), "{client:?}");
    let daemon = depends(Program::Knockd).join(", ");
    for needed in ["libc6 (>= ", "nftables", "systemd-sysusers", "systemd-tmpfiles"] {
        assert!(daemon.contains(needed), "{needed} is not in {daemon}");
    }
}

#[test]
fn the_maintainer_scripts_are_sound_and_enable_nothing_by_themselves() {
    for program in Program::ALL {
        for script in ["postinst", "prerm", "postrm"] {
            let text = control(program, script);
            assert!(
                text.starts_with("#!/bin/sh\n") && text.contains("\nset -e\n"),
                "{script}: {text}"
            );
            let folder = tempfile::tempdir().expect("make a folder");
            let path = folder.path().join(script);
            fs::write(&path, &text).expect("write");
            run(&["sh", "-n", path.to_str().unwrap()]).success();
            assert!(
                !text.contains("systemctl enable --") || text.contains("cat <<'END'"),
                "{text}"
            );
        }
    }
}

#[test]
fn the_packages_units_name_files_that_the_packages_have() {
    let packed: BTreeSet<String> = Program::ALL.into_iter().flat_map(files).collect();
    let mut seen = 0;
    for path in below(&binaries::repository().join("systemd")) {
        let text =
            fs::read_to_string(binaries::repository().join("systemd").join(&path)).expect("read");
        for line in text.lines() {
            if let Some(pages) = line.strip_prefix("Documentation=") {
                for page in pages.split_whitespace() {
                    let page = page.strip_prefix("man:").and_then(|page| page.strip_suffix(')'));
                    let (name, section) = page
                        .and_then(|page| page.split_once('('))
                        .unwrap_or_else(|| panic!("{path}: {line}"));
                    let file = format!("usr/share/man/man{section}/{name}.{section}.gz");
                    assert!(packed.contains(&file), "{path}: {line}");
                    seen += 1;
                }
            }
            for word in line
                .split([' ', '=', '"', '\''])
                .filter(|word| word.starts_with("/usr/") && word.ends_with("/knockd"))
            {
                assert!(packed.contains(word.trim_start_matches('/')), "{path}: {word}");
            }
        }
    }
    assert!(seen > 5, "{seen} pages are named");
}

#[test]
fn every_library_that_is_linked_in_stands_in_the_copyright_file_with_a_licence_that_is_told() {
    for program in Program::ALL {
        let folder = unpacked(program);
        let path = format!("usr/share/doc/{}/copyright", program.package());
        let text = fs::read_to_string(folder.path().join(path)).expect("read");
        let stanzas: Vec<&str> = text.split("\n\n").collect();
        let told: BTreeSet<&str> = stanzas
            .iter()
            .filter_map(|stanza| stanza.strip_prefix("License: "))
            .filter_map(|stanza| stanza.lines().next())
            .collect();
        let mut libraries = BTreeSet::new();
        for stanza in stanzas.iter().filter(|stanza| stanza.starts_with("Files: ")) {
            let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
            libraries.insert(field("Files: ").expect("files"));
            assert!(field("Copyright: ").is_some_and(|holder| !holder.is_empty()), "{stanza}");
            for licence in field("License: ").expect("a licence").split(" or ") {
                assert!(told.contains(licence), "{licence} isn't told: {stanza}");
            }
        }
        let has = |name: &str| {
            libraries.iter().any(|files| files.starts_with(&format!("vendor/{name}-")))
        };
        assert!(libraries.contains("*") && libraries.contains("vendor/std/*"));
        assert!(has("chacha20poly1305") && has("libc"));
        let daemons = ["tokio", "clap_builder"].map(has);
        assert_eq!(daemons, [program == Program::Knockd; 2]);
        assert_eq!(has("lexopt"), program == Program::Knock);
    }
}

#[test]
fn groff_has_no_complaint_about_a_man_page() {
    for program in Program::ALL {
        let folder = unpacked(program);
        for page in program.pages() {
            let (_, section) = page.rsplit_once('.').expect("a section");
            let path = folder.path().join(format!("usr/share/man/man{section}/{page}.gz"));
            let man = ["man", "--warnings", "-E", "UTF-8", "-l", path.to_str().unwrap()];
            let shown = run(&man).success();
            assert_eq!(shown.stderr, "", "{page}");
            assert!(shown.stdout.contains("SEE ALSO"), "{page}");
        }
    }
}

/// What hardens a program: a place in memory of its own for each run, and data that can't be written once it is
/// relocated. readelf's words.
fn assert_hardened(program: &Path) {
    let elf = run(&["readelf", "-hldW", program.to_str().unwrap()]).success().stdout;
    let is = |what: &str| assert!(elf.contains(what), "{}: no {what}: {elf}", program.display());
    is("DYN (Position-Independent Executable file)");
    is("GNU_RELRO");
    is("BIND_NOW");
    let stack = elf.lines().find(|line| line.contains("GNU_STACK")).expect("a stack");
    assert!(stack.contains(" RW ") && !stack.contains("RWE"), "{stack}");
}

#[test]
fn the_programs_keep_what_hardens_them() {
    assert_hardened(&unpacked(Program::Knockd).path().join("usr/sbin/knockd"));
    assert_hardened(&unpacked(Program::Knock).path().join("usr/bin/knock"));
    assert_hardened(&target().join("static/knock"));
}

#[test]
fn the_static_client_opens_a_door_by_name_and_by_address_where_there_is_no_file_but_itself() {
    let client = target().join("static/knock");
    let elf = run(&["readelf", "-ldW", client.to_str().unwrap()]).success().stdout;
    assert!(!elf.contains("INTERP") && !elf.contains("(NEEDED)"), "it needs a library: {elf}");
    let world = World::new();
    let _echo = Echo::start(world.broker(), &["tcp/8883"]);
    let door = Door::new(&world, &Settings::default());
    let device = door.enrol("press-17");
    let _daemon = door.ready();
    let root = world.dir().join("root");
    fs::create_dir_all(&root).expect("make a folder");
    fs::copy(&client, root.join("knock")).expect("copy");
    let root = root.display().to_string();
    let key = device.key();
    let broker = broker4(&world);
    let server = broker.to_string();
    let knock = |server: &str, key: &str| {
        let options = [
            "--server",
            server,
            "--service",
            "mqtts",
            "--port",
            "tcp/8883",
            "--wait=20s",
            "--open-for=1s",
        ];
        world
            .client()
            .run(&[&["chroot", &root, "/knock", "--key-file", key][..], &options].concat())
    };
    // The key is the one other file; names are in a second one, where there is no DNS.
    e2e::door::write_private(&Path::new(&root).join("key"), &format!("{key}\n"));
    knock(&server, "/key").success();
    assert_eq!(world.client().tcp(broker, MQTTS), State::Open);
    door.wait_until_over();
    knock("broker", "/key").exits(68);
    fs::create_dir_all(Path::new(&root).join("etc")).expect("make a folder");
    fs::write(Path::new(&root).join("etc/hosts"), format!("{server} broker\n")).expect("write");
    knock("broker", "/key").success();
    assert_eq!(world.client().tcp(broker, MQTTS), State::Open);
}
