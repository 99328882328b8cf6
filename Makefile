# What CI calls and what you call are the same: `make test`, `make demo`.

CARGO ?= cargo
# Every end-to-end test has its own network namespaces and processes: a few at a time.
E2E_THREADS ?= 6
# What the benchmark measures, and how: BENCH="--quick connect burst". Everything unless given.
BENCH ?=
# What the system test shows: SCENE="upgrade crash". Everything unless given.
SCENE ?=
# On whose kernels the main scenarios run: RELEASE=trixie for one. Both unless given.
RELEASE ?=
# How often `make fuzz` runs each target, and which of them.
RUNS ?= 10000000
TARGET ?= all
FUZZ = --manifest-path tests/fuzz/Cargo.toml
FUZZ_LIB = $(FUZZ) --no-default-features --target-dir $(or $(CARGO_TARGET_DIR),target)/fuzz
NO_STD = --manifest-path tests/no-std/Cargo.toml --target-dir target/no-std

# Where cargo builds.
OUT = $(or $(CARGO_TARGET_DIR),target)

# The packages' version, where it isn't that of Cargo.toml; and their time: the same sources, the same packages.
DEB_VERSION ?=
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || date +%s)
CARGO_DEB = target/tools/bin/cargo-deb --quiet --no-build --no-strip --output $(OUT)/debian/ $(addprefix --deb-version ,$(DEB_VERSION))

.PHONY: help deb deb-setup deb-check static pages demo test test-system test-kernels callgrind setup build install fmt fuzz lint clean bench
.DEFAULT_GOAL := help

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 14

demo: setup ## The main job as a story, in network namespaces of its own
	@echo '==> demo'
	@$(CARGO) run --quiet --package e2e --bin demo

test: setup lint ## Everything that CI checks
	@echo '==> proof that common needs no standard library'
	@$(CARGO) build --quiet $(NO_STD)
	@echo '==> tests of common, knock and knockd'
	@$(CARGO) test --no-fail-fast --package common --package knock --package knockd
	@echo '==> the corpus of the fuzz targets, replayed'
	@$(CARGO) test $(FUZZ_LIB) --test replay
	@echo '==> end-to-end tests'
	@$(CARGO) test --no-fail-fast --package e2e -- --test-threads=$(E2E_THREADS)

test-system: setup ## The packages on a real Debian with a real systemd: as root; takes some minutes. SCENE=upgrade for one
	@tests/system-setup.sh
	@echo '==> system test'
	@$(CARGO) run --quiet --package e2e --bin system -- $(SCENE)

test-kernels: ## The main scenarios on Debian's own kernels 6.1 and 6.12 under qemu: as root; half an hour each without KVM. RELEASE=trixie for one
	@CARGO='$(CARGO)' tests/kernels.sh $(RELEASE)

fuzz: ## RUNS executions of every fuzz target, or of TARGET: with a nightly compiler and cargo-fuzz
	@tests/fuzz/run.sh $(TARGET) $(RUNS)

bench: ## knockd beside its peers, against the machine's limit: as root; takes a quarter of an hour, installs fwknop and letmein
	@tests/bench-setup.sh
	@echo '==> bench'
	@$(CARGO) run --quiet --release --package e2e --bin bench -- $(BENCH)

lint: ## Formatting, clippy and rustdoc, with warnings denied
	@echo '==> formatting'
	@$(CARGO) fmt --all --check
	@$(CARGO) fmt $(FUZZ) --check
	@echo '==> clippy'
	@$(CARGO) clippy --quiet --workspace --all-targets -- --deny warnings
	@$(CARGO) clippy --quiet $(FUZZ_LIB) --all-targets -- --deny warnings
	@echo '==> rustdoc'
	@RUSTDOCFLAGS='--deny warnings' $(CARGO) doc --quiet --workspace --no-deps --document-private-items

callgrind: ## Instructions of one decision, by how far a packet gets
	@knockd/callgrind.sh

setup: ## Install the Debian packages that the tests and the demo need, if any is missing
	@tests/setup.sh

build: ## The release binaries: target/release/knockd and target/client/knock
	@$(CARGO) build --release --package knockd
	@CARGO='$(CARGO)' knock/build.sh

static: ## A client without libraries, for devices: target/static/knock
	@CARGO='$(CARGO)' knock/build.sh static

deb-setup: ## Install what `make deb` and its check need, if any is missing
	@tests/deb-setup.sh

pages: ## Man pages and shell completions: target/pages
	@SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(CARGO) run --quiet --package e2e --bin pages -- \
		$(addprefix --version ,$(DEB_VERSION)) target/pages

deb: deb-setup build pages ## The packages knockd-spa and knock-spa: target/debian/*.deb
	@rm -f $(OUT)/debian/*.deb
	@SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(CARGO_DEB) --package knockd
	@SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH) $(CARGO_DEB) --package knock

deb-check: setup deb static ## What must hold for the packages and the static client, lintian's opinion included
	@$(CARGO) test --package e2e --test package

install: ## Put what `make build` and `make pages` built, the units and a first configuration in place
	@install -D -m 755 $(OUT)/release/knockd $(DESTDIR)/usr/sbin/knockd
	@install -D -m 755 $(OUT)/client/knock $(DESTDIR)/usr/bin/knock
	@install -D -m 644 -t $(DESTDIR)/usr/lib/systemd/system systemd/*.service systemd/*.socket
	@install -D -m 755 -t $(DESTDIR)/usr/lib/systemd/system-generators systemd/knockd-generator
	@install -D -m 644 -t $(DESTDIR)/usr/share/knockd-spa systemd/flush.nft
	@install -D -m 644 systemd/knockd.sysusers.conf $(DESTDIR)/usr/lib/sysusers.d/knockd.conf
	@install -D -m 644 systemd/knockd.tmpfiles.conf $(DESTDIR)/usr/lib/tmpfiles.d/knockd.conf
	@install -D -m 644 systemd/knock.tmpfiles.conf $(DESTDIR)/usr/lib/tmpfiles.d/knock.conf
	@test ! -d target/pages || { \
		for section in 1 5 8; do \
			install -D -m 644 -t $(DESTDIR)/usr/share/man/man$$section target/pages/man/*.$$section; \
		done; \
		install -D -m 644 -t $(DESTDIR)/usr/share/bash-completion/completions target/pages/bash/*; \
		install -D -m 644 -t $(DESTDIR)/usr/share/zsh/site-functions target/pages/zsh/*; \
		install -D -m 644 -t $(DESTDIR)/usr/share/fish/vendor_completions.d target/pages/fish/*; \
	}
	@install -d -m 755 $(DESTDIR)/etc/knockd $(DESTDIR)/etc/knock
	@install -d -m 2750 $(DESTDIR)/etc/knockd/clients.d
	@test -e $(DESTDIR)/etc/knockd/knockd.toml || \
		install -m 644 config/knockd.toml $(DESTDIR)/etc/knockd/knockd.toml
	@test -n '$(DESTDIR)' || { systemd-sysusers knockd.conf && systemd-tmpfiles --create knockd.conf knock.conf && systemctl daemon-reload; }
	@echo 'installed; no port is shut yet: see README.md, "A broker host"'

fmt: ## Format the code
	@$(CARGO) fmt --all
	@$(CARGO) fmt $(FUZZ)

clean: ## Remove all that was built
	@$(CARGO) clean
