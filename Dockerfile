# One image, three programs: sluice-ingest, sluice-aggregator, sluice-api.
# `docker compose` picks one per service; there is no default command.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --profile dist \
        --package sluice-ingest --package sluice-aggregator --package sluice-api --bins \
        --features sluice-api/s3 \
    && mkdir /out \
    && cp target/dist/sluice-ingest target/dist/sluice-aggregator target/dist/sluice-api /out/

FROM debian:bookworm-slim
# curl is for the health checks.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates curl \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/sluice --create-home sluice
COPY --from=build /out/ /usr/local/bin/
COPY LICENSE /usr/share/doc/sluice/LICENSE
USER sluice
# The edge keeps its spool and its directory snapshot here: mount a volume.
WORKDIR /var/lib/sluice
