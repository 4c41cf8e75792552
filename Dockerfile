# Two images: skytide alone, and a PostgreSQL server of the test bed (./bed) with skytide beside it.
#
#   docker build --target runtime -t skytide .          skytide, built here
#   docker build --target server -t skytide-server .    the official image of PostgreSQL, and skytide
#
# Where no registry answers, ./bed builds the program on the host, makes a base image of Debian's packages, and takes the
# targets prebuilt and server-prebuilt. These come first: a builder that makes every stage above its target (Docker's old
# one) then needs nothing of the others.
ARG BASE_IMAGE=debian:bookworm-slim
ARG RUST_IMAGE=rust:1-bookworm
ARG PG_MAJOR=17

FROM ${BASE_IMAGE} AS base
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates openssl \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc /usr/share/man \
 && useradd --system --uid 999 --user-group --home-dir /var/lib/postgresql --create-home --shell /bin/bash postgres
COPY bed.d/host /usr/local/lib/skytide/bed
# Volumes take their owner from these.
RUN ln -s ../lib/skytide/bed/bed-host /usr/local/bin/bed-host \
 && for host in authority provider standby branch leaf ticker worker worker-branch walmgr receive store client queue; do \
      install -d -o postgres -g postgres -m 700 /secrets/$host; \
    done \
 && install -d -o postgres -g postgres -m 700 /etc/skytide /var/lib/skytide
ENV LC_ALL=C.UTF-8
USER postgres
WORKDIR /var/lib/skytide

FROM base AS prebuilt
# A builder that makes every stage above its target comes here without these, too: then only the first file is there.
COPY LICENSE dist/skytide* dist/s3-store* /usr/local/lib/skytide/programs/
USER root
RUN cd /usr/local/bin && ln -s ../lib/skytide/programs/s* .
USER postgres
ENTRYPOINT ["skytide"]

FROM prebuilt AS server-prebuilt
ARG PG_MAJOR
USER root
RUN apt-get update \
 && if apt-cache show libldap-2.5-0 >/dev/null 2>&1; then ldap=libldap-2.5-0; else ldap=libldap2; fi \
 && apt-get install -y --no-install-recommends libxml2 libxslt1.1 libssl3 libgssapi-krb5-2 liblz4-1 libzstd1 libreadline8 \
      "$ldap" libpam0g tzdata \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /usr/share/doc /usr/share/man
COPY LICENSE dist/postgres-${PG_MAJOR}* /opt/postgresql/
ENV PATH=/opt/postgresql/bin:$PATH LD_LIBRARY_PATH=/opt/postgresql/lib-ld
USER postgres

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p skytide -p skytide-fixtures --features skytide-fixtures/s3 \
 && mkdir /program && cd target/release && strip skytide skytide-walmgr s3-store && cp skytide skytide-walmgr s3-store /program

FROM base AS runtime
COPY --from=build /program /usr/local/bin/
ENTRYPOINT ["skytide"]

FROM postgres:${PG_MAJOR}-bookworm AS server
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates openssl \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=runtime /usr/local/lib/skytide /usr/local/lib/skytide
COPY --from=build /program/skytide /program/skytide-walmgr /usr/local/bin/
RUN ln -s ../lib/skytide/bed/bed-host /usr/local/bin/bed-host \
 && for host in authority provider standby branch leaf ticker worker worker-branch walmgr receive store client queue; do \
      install -d -o postgres -g postgres -m 700 /secrets/$host; \
    done \
 && install -d -o postgres -g postgres -m 700 /etc/skytide /var/lib/skytide
ENV LC_ALL=C.UTF-8
USER postgres
WORKDIR /var/lib/skytide
ENTRYPOINT ["bed-host"]
