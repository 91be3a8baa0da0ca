# The only definition of each action. People and CI call these and nothing else.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION)
STATIC  := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
# The race detector needs a C compiler; without one the tests run without it.
RACE     = $$(command -v $${CC:-cc} >/dev/null && echo -race)
# Packages whose tests need no server, no namespaces and no root.
UNIT     = $$($(GO) list ./... | grep -v /integration)
FUZZTIME ?= 20s
IMAGE    ?= softether-go
# The authorities that the image trusts: this machine's (Debian, Alpine; Fedora; macOS).
ROOTS    ?= $(firstword $(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem))

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 16

.PHONY: build
build: ## the static binary, in bin/
	$(STATIC) -o bin/softether-go ./cmd/softether-go

.PHONY: build-pkcs11
build-pkcs11: ## the same for keys on smart cards and tokens, which takes a C compiler
	CGO_ENABLED=1 $(GO) build -trimpath -tags pkcs11 -ldflags '$(LDFLAGS)' -o bin/softether-go-pkcs11 ./cmd/softether-go

.PHONY: image
image: export GOOS = linux
image: build ## a container image with it, by Docker
	install -m 644 $(or $(ROOTS),$(error no root certificates here: make image ROOTS=FILE)) bin/ca-certificates.crt
	chmod 755 bin/softether-go # any user may run it, whatever the umask
	docker build -t $(IMAGE) .

.PHONY: demo
demo: ## a tunnel through an embedded hub, until Ctrl-C
	$(GO) run ./cmd/softether-go demo

.PHONY: test
test: setup lint cross unit integration ## everything, what CI runs

.PHONY: setup
setup: ## install what the tests need, if missing and possible
	@sh integration/setup.sh

.PHONY: unit
unit: ## all tests but those on a real server
	$(GO) test $(RACE) -shuffle=on -timeout 8m $(UNIT)
	$(GO) test -run Alloc -timeout 2m $(UNIT) # the race detector allocates by itself
	@if command -v $${CC:-cc} >/dev/null; then CGO_ENABLED=1 $(GO) test -tags pkcs11 ./pkg/credential; fi

.PHONY: integration
integration: ## tests on a real SoftEther server, in network namespaces (root)
	$(GO) test -count=1 -timeout 14m ./integration/...

.PHONY: lint
lint: ## formatting, vet, staticcheck
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "gofmt: $$out"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	cd integration/manifests && $(GO) vet ./...

.PHONY: cross
cross: export GOARM = 7
cross: ## the static binary for every system; TAP mode is for the Linux ones
	@for target in linux/amd64 linux/arm64 linux/arm linux/riscv64 darwin/arm64 windows/amd64 freebsd/amd64; do \
		echo "build $$target"; \
		GOOS=$${target%/*} GOARCH=$${target#*/} CGO_ENABLED=0 $(GO) build -o /dev/null ./cmd/softether-go || exit 1; \
	done

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each
	@$(GO) list ./... | while read -r pkg; do \
		$(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' | while read -r target; do \
			echo "$$pkg $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg || exit 1; \
		done || exit 1; \
	done

.PHONY: bench
bench: ## benchmarks; the ones on the real server need root
	$(GO) test -run '^$$' -bench . -benchmem -timeout 60m ./...

.PHONY: bench-compare
bench-compare: ## measure beside the official client; writes integration/COMPARE.md, .svg, .json (root)
	$(GO) test ./integration -count=1 -timeout 40m -v -run '^TestCompare$$' -compare $(COMPARE)

.PHONY: pgo
pgo: ## profile the loads of bench-compare for the compiler: cmd/softether-go/default.pgo (root)
	$(GO) test ./integration -count=1 -timeout 20m -v -run '^TestProfile$$' -profile $(CURDIR)/cmd/softether-go/default.pgo

.PHONY: fmt
fmt: ## format the code
	gofmt -w .
