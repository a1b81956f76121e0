# The images, and the locked packages in them. Included by the Makefile.
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' app/pyproject.toml)
REVISION = $(shell git describe --always --dirty --abbrev=40 --match= 2>/dev/null || echo unknown)
# The time that files and labels of an image carry: the last commit's, so that the same commit gives the same image.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
# Another base, best by digest: make images BASE=python:3.11-slim-bookworm@sha256:…
BASE ?= python:3.11-slim-bookworm
IMAGE_OPTIONS = --build-arg BASE=$(BASE) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
  --build-arg CREATED=$(shell date -u -d @$(SOURCE_DATE_EPOCH) +%Y-%m-%dT%H:%M:%SZ) \
  --build-arg SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH)

comma := ,
# Image to Dockerfile, target, name and tag.
IMAGE_server := server server windlass-server:$(VERSION)
IMAGE_litert := server litert windlass-server:$(VERSION)-litert
IMAGE_debug := server debug windlass-server:$(VERSION)-debug
IMAGE_operator := operator operator windlass-operator:$(VERSION)
image_source = $(IMAGE_OPTIONS) --file docker/$(word 1,$(IMAGE_$(1))).Dockerfile --target $(word 2,$(IMAGE_$(1)))
image_name = $(word 3,$(IMAGE_$(1)))

.PHONY: images
images:  ## build the images: server, its litert and debug variants, operator (BASE= for another base; IMAGES= for some)
	@$(foreach image,$(or $(IMAGES),server litert debug operator),docker build --provenance=false \
	  $(call image_source,$(image)) --tag $(call image_name,$(image)) . &&) true

# With an empty SBOM_SCANNER BuildKit takes its own: docker/buildkit-syft-scanner.
.PHONY: push-images
push-images:  ## build and push to REGISTRY= with provenance and SBOM, files' times set to the commit's (PUSH= for some)
	@test -n "$(REGISTRY)" || { echo "say where to: make push-images REGISTRY=registry.example.com/windlass"; exit 2; }
	@$(foreach image,$(or $(PUSH),server litert operator),docker build --provenance=mode=max \
	  --attest type=sbom$(if $(SBOM_SCANNER),$(comma)generator=$(SBOM_SCANNER)) $(call image_source,$(image)) \
	  --output type=image,name=$(REGISTRY)/$(call image_name,$(image)),push=true,rewrite-timestamp=true,unpack=false . &&) true

# What TensorFlow's package asks for and serving and packing never import: libclang (64 MB) is for its builds, setuptools
# and wheel for building extensions, grpcio for TensorFlow's remote debugger. The model suite passes in the image without them.
LEFT_OUT := libclang setuptools wheel grpcio

.PHONY: image-locks
image-locks: $(UV)
	@$(call lock_image,server,app/pyproject.toml cli/pyproject.toml --extra tensorflow --extra litert --extra postgresql --extra convert)
	@$(call lock_image,litert,app/pyproject.toml cli/pyproject.toml --extra litert --extra postgresql)
	@$(call lock_image,operator,operator/pyproject.toml)

# The packages of one image: the same versions and sums as in requirements.lock, and no other package.
lock_image = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
  $(foreach package,$(LEFT_OUT) $(addprefix windlass-,contract server operator cli testing),--no-emit-package $(package)) \
  --constraint requirements.lock $(2) -o docker/requirements/$(1).lock
