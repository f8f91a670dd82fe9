# Bulkhead: build, try, test, measure. `make help` lists what there is.
#
# Everything that takes long (guest kernel, test-host image) is cached by content in BULKHEAD_CACHE
# (default ~/.cache/bulkhead), outside the tree.

PREFIX  ?= /usr/local
DESTDIR ?=
# release: what is installed, shown and measured. dev: quick to build, for tests and the edit loop (`make dist PROFILE=dev`).
PROFILE ?= release
TARGET  := x86_64-unknown-linux-gnu
OUT     := target/$(TARGET)/$(if $(filter dev,$(PROFILE)),debug,$(PROFILE))
DIST    := target/dist

.PHONY: help packages build kernel dist install uninstall demo test suites workloads fs-suite unit lint bench clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

packages: ## install what building needs from the distribution
	@e2e/packages build

build: packages ## compile the programs
	cargo build --locked --profile $(PROFILE) --workspace --bins

kernel: packages ## build the guest kernel, or take it from the cache
	@mkdir -p target/guest
	@guest-kernel-config/build target/guest/vmlinux

dist: build kernel ## stage everything that is installed, under target/dist
	@e2e/stage $(OUT) target/guest/vmlinux $(DIST)$(PREFIX)

install: dist ## install under DESTDIR and PREFIX (default /usr/local)
	install -d $(DESTDIR)$(PREFIX)
	cp -a $(DIST)$(PREFIX)/. $(DESTDIR)$(PREFIX)/

uninstall: ## remove what install put there
	rm -rf $(DESTDIR)$(PREFIX)/libexec/bulkhead $(DESTDIR)$(PREFIX)/share/bulkhead
	rm -f $(DESTDIR)$(PREFIX)/bin/containerd-shim-bulkhead-v2 $(DESTDIR)$(PREFIX)/bin/bulkhead

demo: dist ## run a real image in a microVM, beside the same under runc
	@e2e/packages test
	@e2e/demo

test: ## unit tests, lints and end-to-end suites, of the long lists of cases a quarter; prints the number passed and failed
	@e2e/packages build
	@e2e/packages test
	@e2e/test

suites: ## the same with all cases and the long end-to-end suites
	@e2e/packages build
	@e2e/packages test
	@e2e/test --long

workloads: dist ## compilers, databases, servers and other programs, beside runc (half an hour)
	@e2e/packages test
	@e2e/workloads/run workloads

fs-suite: dist ## a POSIX file system test, random operations and locks, beside runc
	@e2e/packages test
	@e2e/workloads/run file_systems

unit: packages ## unit tests alone
	cargo test --locked --workspace

lint: packages ## format, clippy and shell lints
	@e2e/packages test
	@e2e/lint

bench: dist ## the figures of docs/SPECIFICATION.md, beside runc (HERE=1: on this machine's KVM; ARGS="--only start", for one)
	@$(if $(HERE),,e2e/packages test)
	@e2e/bench/run $(if $(HERE),--here) $(ARGS)

clean: ## remove what was built (the caches outside the tree stay)
	cargo clean
