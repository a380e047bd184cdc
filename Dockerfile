# Two targets. `courier` (1.2 GB, half of it ffmpeg): the command line, ingest, relay, and all else that loads no torch.
# `executor`, the last and so the default one: the same, and the interpreter in which media is opened and models run. Its
# lock file is that of the CUDA build, which runs on CPUs as well: 7.3 GB in all.
#
#     docker build --target courier --tag mediamill:courier .
#     docker build --tag mediamill:executor .
#
# Both have the tag of the same Python, because the environments are made in one image and used in another.

FROM python:3.11.14-slim-bookworm AS base
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      bubblewrap ca-certificates ffmpeg fonts-dejavu-core fonts-wqy-microhei tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --gid 10001 mediamill \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/mediamill --no-create-home --shell /usr/sbin/nologin mediamill \
 && install --directory --owner mediamill --group mediamill --mode 0700 /var/lib/mediamill /models
ENV PATH=/opt/mediamill/.venv/bin:$PATH \
    MEDIAMILL_HOME=/var/lib/mediamill \
    MEDIAMILL_MODELS=/models \
    MEDIAMILL_HTTP_BIND=0.0.0.0:9321 \
    PYTHONDONTWRITEBYTECODE=1
# Embedded data, cache and scratch; and checkpoints, which several containers may share.
VOLUME ["/var/lib/mediamill", "/models"]
EXPOSE 9321
WORKDIR /var/lib/mediamill
# tini takes in orphans, and hands a signal on to the worker alone: the executor must outlive a SIGTERM until it is drained.
ENTRYPOINT ["/usr/bin/tini", "--", "mediamill"]
CMD ["worker"]
# Red only when a restart would help. One-shot commands have nothing to ask: switch it off for them.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:' + os.environ['MEDIAMILL_HTTP_BIND'].rpartition(':')[2] + '/healthz', timeout=4)"]

# What installs, by digest. It is in no image that is run.
FROM python:3.11.14-slim-bookworm AS installer
COPY requirements/uv.txt /tmp/uv.txt
RUN python3 -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r /tmp/uv.txt

FROM installer AS package
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1 \
    VIRTUAL_ENV=/opt/mediamill/.venv
COPY requirements/build.txt requirements/courier.txt /tmp/
RUN /opt/uv/bin/uv venv --python python3 /opt/mediamill/.venv \
 && /opt/uv/bin/uv pip sync --require-hashes --build-constraints /tmp/build.txt /tmp/courier.txt
COPY . /src
RUN /opt/uv/bin/uv pip install --offline --no-deps /src

FROM base AS courier
COPY --from=package /opt/mediamill/.venv /opt/mediamill/.venv
USER 10001:10001

FROM base AS executor
COPY requirements/build.txt requirements/executor.txt /tmp/
# Before the package: it is made anew only when its lock file changes.
RUN --mount=type=bind,from=installer,source=/opt/uv,target=/opt/uv \
    export UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_NO_CACHE=1 \
           VIRTUAL_ENV=/opt/mediamill/.venv-executor \
 && /opt/uv/bin/uv venv --python python3 /opt/mediamill/.venv-executor \
 && /opt/uv/bin/uv pip sync --require-hashes --build-constraints /tmp/build.txt /tmp/executor.txt
ENV MEDIAMILL_EXECUTOR_PYTHON=/opt/mediamill/.venv-executor/bin/python
COPY --from=package /opt/mediamill/.venv /opt/mediamill/.venv
USER 10001:10001
