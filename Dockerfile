# The whole pipeline in one image: the packages of requirements.lock, a C compiler for torch.compile, the project in /app.
# CUDA comes with the torch wheels; the driver comes from the host. How to build and run it: docs/container.md
#
#   docker build -t dynat:0.1.0 .
#   mkdir -p results && docker run --rm -v "$PWD/results:/app/results" dynat:0.1.0

ARG BASE=debian:12.12-slim

# --- the system packages of both stages: they change least --------------------------------------------------------
# (apt downloads as a separate user, which must be able to read the certificates.)
FROM ${BASE} AS system
ARG DEBIAN_MIRROR=
RUN --mount=type=secret,id=ca,mode=0444 \
    --mount=type=secret,id=netrc,target=/etc/apt/auth.conf.d/netrc.conf \
    set -eu; \
    if [ -n "$DEBIAN_MIRROR" ]; then \
        find /etc/apt/sources.list /etc/apt/sources.list.d -type f -exec \
            sed -i -E "s#https?://[^ ]+/debian(-security)?/?( |\$)#$DEBIAN_MIRROR\1\2#" {} + ; \
    fi; \
    apt="apt-get -qq"; \
    if [ -s /run/secrets/ca ]; then apt="$apt -o Acquire::https::CAInfo=/run/secrets/ca"; fi; \
    $apt update; \
    DEBIAN_FRONTEND=noninteractive $apt install --yes --no-install-recommends \
        ca-certificates g++ git python3 python3-dev tini > /dev/null; \
    rm -rf /var/lib/apt/lists/*

# --- Python packages: a separate layer, built again only when the lock changes -----------------------------------
FROM system AS environment
ARG DEBIAN_MIRROR=
ARG PYTHON_INDEX=
ARG UV=0.13.8
RUN --mount=type=secret,id=ca,mode=0444 \
    --mount=type=secret,id=netrc,target=/etc/apt/auth.conf.d/netrc.conf \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    set -eu; \
    apt="apt-get -qq"; \
    if [ -s /run/secrets/ca ]; then \
        apt="$apt -o Acquire::https::CAInfo=/run/secrets/ca"; \
        export PIP_CERT=/run/secrets/ca; \
    fi; \
    if [ -n "$PYTHON_INDEX" ]; then export PIP_INDEX_URL="$PYTHON_INDEX"; fi; \
    $apt update; \
    DEBIAN_FRONTEND=noninteractive $apt install --yes --no-install-recommends python3-venv > /dev/null; \
    python3 -m venv /opt/uv; \
    /opt/uv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check "uv==$UV"; \
    python3 -m venv --without-pip /opt/venv
COPY requirements.lock /tmp/requirements.lock
# Compile bytecode now: the user of the image cannot write here, and each short job would compile torch again.
RUN --mount=type=secret,id=ca \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    set -eu; \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    if [ -n "$PYTHON_INDEX" ]; then export UV_DEFAULT_INDEX="$PYTHON_INDEX"; fi; \
    VIRTUAL_ENV=/opt/venv UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy \
        /opt/uv/bin/uv pip sync --quiet --no-cache /tmp/requirements.lock

# --- the image -----------------------------------------------------------------------------------------------------
FROM system AS image
COPY --from=environment /opt/venv /opt/venv

# Any user id can run this image, also one without a name (docker run --user 1234:1234): the name is set, every user
# can write to the home folder, and git accepts a mounted project of another owner.
ENV PATH=/opt/venv/bin:$PATH \
    VIRTUAL_ENV=/opt/venv \
    HOME=/home/dynat \
    USER=dynat \
    LOGNAME=dynat \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN set -eu; \
    useradd --uid 1000 --user-group --no-log-init --create-home dynat; \
    chmod 1777 /home/dynat; \
    git config --system --add safe.directory '*'

WORKDIR /app
COPY . .
# The repository is not in the image, so DVC is configured without one; a project mounted over /app has its own.
# Every user can write to the folders of results and state, and no user can write to the code.
RUN --mount=type=bind,from=environment,source=/opt/uv,target=/opt/uv \
    set -eu; \
    /opt/uv/bin/uv pip install --quiet --no-cache --no-deps --no-build-isolation --editable .; \
    python -m compileall -q dynat; \
    printf '[core]\n    no_scm = true\n' > .dvc/config.local; \
    mkdir -p .snakemake data logs metrics plots results state; \
    chmod 1777 . .dvc .snakemake data logs metrics plots results state

ARG VERSION=0.1.0
ARG REVISION=unknown
# No label `licenses`: it would speak for all packages in the image, and MIT is the license of this project alone.
LABEL org.opencontainers.image.title="dynat" \
      org.opencontainers.image.description="Dynamic Label Adversarial Training and its baselines, from data to report" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.documentation="docs/container.md"

USER 1000:1000
# `docker stop` acts like ^C for Snakemake and its jobs (tini -g): all of them stop in order, and the next run resumes.
STOPSIGNAL SIGINT
ENTRYPOINT ["tini", "-s", "-g", "--", "/app/tools/entrypoint"]
CMD ["snakemake", "--cores", "all", "all"]

# --- the same with the packages of developers: `make image-check` runs the tests in it -----------------------------
FROM image AS tests
ARG PYTHON_INDEX=
USER root
RUN --mount=type=bind,from=environment,source=/opt/uv,target=/opt/uv \
    --mount=type=secret,id=ca \
    --mount=type=secret,id=netrc,target=/root/.netrc \
    set -eu; \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    if [ -n "$PYTHON_INDEX" ]; then export UV_DEFAULT_INDEX="$PYTHON_INDEX"; fi; \
    UV_LINK_MODE=copy /opt/uv/bin/uv pip install --quiet --no-cache --no-deps --requirement requirements-dev.lock
USER 1000:1000

# --- what `docker build` makes, without the stage above -------------------------------------------------------------
FROM image
