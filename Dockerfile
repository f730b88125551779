# The two images of the cloud, for the architecture they are built on (cdk/lib/images.ts):
#
#     docker build --target browser .     `wallcrawler container`, with Chromium
#     docker build --target proxy .       `wallcrawler`: the server, without it
#
# Debian's Chromium is taken as new as it is when the image is built: of a browser no version is worth pinning. What the
# program is compiled from is pinned by Cargo.lock and by the toolchain, which is rust-toolchain.toml's (a test of
# cdk/test compares the two).

FROM rust:1.95.0-slim-bookworm AS program
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libssl-dev pkg-config \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
COPY . .
# What is compiled stays with whoever builds: the second time only what has changed is compiled.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin wallcrawler \
    && cp target/release/wallcrawler /usr/local/bin/wallcrawler

FROM debian:bookworm-slim AS base
# tini is the first process: it passes signals on, and buries orphans.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin wallcrawler
ENTRYPOINT ["tini", "--", "wallcrawler"]

FROM base AS proxy
COPY --from=program /usr/local/bin/wallcrawler /usr/local/bin/wallcrawler
USER 10001

FROM base AS browser
# The fonts are those that Playwright's images have: Latin, Arabic and Hebrew, Chinese, Japanese, Thai, emoji.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        chromium chromium-headless-shell libcap2-bin \
        fonts-freefont-ttf fonts-ipafont-gothic fonts-liberation fonts-noto-color-emoji fonts-tlwg-loma-otf fonts-wqy-zenhei \
    && rm -rf /var/lib/apt/lists/*
# The filter of CDP commands keeps clients from files; this keeps the pages of the browser itself from them.
COPY image/chromium-policy.json /etc/chromium/policies/managed/wallcrawler.json
COPY --from=program /usr/local/bin/wallcrawler /usr/local/bin/wallcrawler
# With these the agent, which is not root, gives each browser a user of its own (src/agent/account.rs). Browsers, as
# those, have none.
RUN setcap cap_chown,cap_dac_override,cap_kill,cap_setgid,cap_setuid=ep /usr/local/bin/wallcrawler
USER 10001
CMD ["container"]
