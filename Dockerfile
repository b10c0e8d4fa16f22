# Images of Nestling's programs for a registry, one target each:
#
#   for image in operator node-agent cloud-controller; do
#     docker build --target "$image" --tag "ghcr.io/nestling-dev/$image:0.1.0" .
#   done
#
# The local host cluster does not use this file: `make images` packs what cargo has built.
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p nestling-operator -p nestling-node-agent -p nestling-cloud-controller \
 && mkdir /out \
 && cp target/release/nestling-operator target/release/nestling-node-agent target/release/cloud-controller-manager /out/

# glibc, its loader and libgcc; user nonroot (65532); no shell.
FROM gcr.io/distroless/cc-debian12:nonroot AS operator
COPY --from=build /out/nestling-operator /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/nestling-operator"]

FROM gcr.io/distroless/cc-debian12:nonroot AS cloud-controller
COPY --from=build /out/cloud-controller-manager /usr/local/bin/
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/cloud-controller-manager"]

# Runs nft. Root, for the runtime's socket and the logs; the chart drops every capability but NET_ADMIN.
FROM docker.io/library/debian:bookworm-slim AS node-agent
RUN apt-get update \
 && apt-get install --yes --no-install-recommends nftables \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/nestling-node-agent /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/nestling-node-agent"]
