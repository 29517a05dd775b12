# umlkit: User Mode Linux done again in Go.
#   make boot   build, make an image of the built-in userland, boot it to a shell
#   make test   run all tests
GO       ?= go
PREFIX   ?= /usr/local
DESTDIR  ?=
SCRIPTS   = $(DESTDIR)$(PREFIX)/share
export CGO_ENABLED = 0

TOOLS    = linux umlimg uml_moo uml_mkcow uml_mconsole
PAGES    = $(wildcard man/*.[15])
# The debootstrap trees and the real kernel that tests use are kept here between runs.
export UMLKIT_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/umlkit

.PHONY: all build boot test nightly bench lint race man install clean tools-for-tests

all: build

# Without the tag umlimg holds a Markdown library that is never used and costs every start 0.3 ms.
build:
	@mkdir -p bin
	$(GO) build -trimpath -tags urfave_cli_no_docs -ldflags '-s -w' -o bin/ ./cmd/...

boot: build
	@test -e bin/disk.img || bin/umlimg create --size 1G --hostname uml bin/disk.img
	bin/linux mem=512M ubd0=bin/disk.img root=/dev/ubda rw con=null con0=fd:0,fd:1 quiet

# Debian packages that the tests compare with. Root installs what is missing; anyone
# else is told what to install.
ORACLES  = uml-utilities e2fsprogs debootstrap xfsprogs attr acl libcap2-bin patchelf busybox-static xz-utils \
           zstd bzip2 kmod mandoc util-linux mount openssl perl procps iproute2 binutils bsdextrautils xxd gcc libc6-dev \
           stress-ng fio strace iputils-ping dosfstools mtools xorriso squashfs-tools fdisk gdisk qemu-utils libnbd-bin zsh fish gdb \
           cpio lz4 device-tree-compiler tmux vim-tiny ncurses-base

tools-for-tests:
	@missing=; for p in $(ORACLES); do \
	  dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  if [ $$(id -u) = 0 ]; then echo "installing$$missing"; apt-get update -q >/dev/null && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing >/dev/null; \
	  else echo "make test: these Debian packages are missing:$$missing" >&2; \
	    echo "as root: apt-get install$$missing" >&2; exit 1; fi; fi

# An ordinary user is told which tests were left out: those that need root.
test: tools-for-tests build
	@if [ $$(id -u) = 0 ]; then $(GO) test -timeout 35m -p 2 ./...; else \
	  $(GO) test -v -timeout 35m -p 2 ./... >bin/test.log 2>&1; status=$$?; \
	  [ $$status = 0 ] || cat bin/test.log; \
	  grep -aE '^(ok|FAIL)[[:space:]]|--- (FAIL|SKIP):' bin/test.log; \
	  echo "$$(grep -ac -e '--- SKIP:' bin/test.log) tests need root and were left out; all output is in bin/test.log"; \
	  exit $$status; fi

nightly: tools-for-tests build
	UMLKIT_NIGHTLY=1 $(GO) test -timeout 10h -p 1 -count=1 ./...

bench: tools-for-tests build
	$(GO) test -run '^$$' -bench . -benchtime 1x -p 1 -timeout 1h ./bench/...

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go') | tee /dev/stderr)"
	$(GO) vet ./...
	GOARCH=arm64 $(GO) build -o /dev/null ./...
	$(GO) tool staticcheck ./...
	$(MAKE) race

race: tools-for-tests
	CGO_ENABLED=1 GLIBC_TUNABLES=glibc.pthread.rseq=0 $(GO) test -race -short -timeout 35m -p 2 ./...

man:
	@for p in $(PAGES); do mandoc -Tlint -W warning $$p || exit 1; done
	mkdir -p bin/man && for p in $(PAGES); do mandoc -Tutf8 $$p > bin/man/$$(basename $$p).txt; done

install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/libexec/umlkit \
	  $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/man/man5
	install -m 755 $(TOOLS:%=bin/%) $(DESTDIR)$(PREFIX)/bin
	install -m 755 bin/umlbox $(DESTDIR)$(PREFIX)/libexec/umlkit
	install -m 644 $(filter %.1,$(PAGES)) $(DESTDIR)$(PREFIX)/share/man/man1
	install -m 644 $(filter %.5,$(PAGES)) $(DESTDIR)$(PREFIX)/share/man/man5
	install -d $(SCRIPTS)/bash-completion/completions $(SCRIPTS)/zsh/site-functions $(SCRIPTS)/fish/vendor_completions.d
	for p in umlimg uml_moo uml_mkcow uml_mconsole; do \
	  command="bin/umlimg completion"; test $$p != uml_mconsole || command="bin/uml_mconsole --completion"; \
	  operand=$$p; test $$p != uml_mconsole || operand=; \
	  $$command bash $$operand >$(SCRIPTS)/bash-completion/completions/$$p && \
	  $$command zsh $$operand >$(SCRIPTS)/zsh/site-functions/_$$p && \
	  $$command fish $$operand >$(SCRIPTS)/fish/vendor_completions.d/$$p.fish || exit 1; done

clean:
	rm -rf bin
