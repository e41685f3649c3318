# Octavo in a container. docs/deployment.md says how to build, run and change it.
#
#   PYTHON_VERSION   of the official image that both stages start from
#   TORCH            the release of torch, as pip is asked for it, or a URL with its hash
#   TORCH_INDEX_URL  a package index to take torch from: PyTorch has one for CPUs, one for each CUDA
#   COMPILER         Debian packages that compile GPU kernels when the server runs: g++, or none

ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Compiles the CPU kernels below, and stays in this stage.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++

RUN python -m venv /opt/octavo/venv
ENV PATH=/opt/octavo/venv/bin:$PATH

# What changes seldom comes first. Every file that is locked is checked against its hash, and none is
# built from its sources: that would run what nobody locked.
COPY deploy/requirements.lock deploy/build.lock deploy/
RUN python -m pip install --require-hashes --only-binary :all: -r deploy/requirements.lock \
 && python -m pip freeze --all > locked.txt \
 && python -m pip install --require-hashes --only-binary :all: -r deploy/build.lock \
      --target /opt/build

# Which file of torch it is, is the builder's choice, so that it has no hash here. It finds the
# packages that it needs in their locked versions and may not change them; what comes with it is its
# libraries for GPUs. It is the long download; a fifth of it is its own tests and what extensions to
# it are built with.
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX_URL=
RUN python -m pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} \
      --only-binary :all: --constraint locked.txt "$TORCH" \
 && cd /opt/octavo/venv/lib/python*/site-packages/torch \
 && rm -rf include test \
 && find bin -type f ! -name torch_shm_manager -delete

# Octavo itself lies beside the environment, so that a new release is a small layer.
COPY LICENSE NOTICE README.md pyproject.toml ./
COPY clients/python/ clients/python/
COPY engine/ engine/
COPY server/ server/
RUN PYTHONPATH=/opt/build python -m pip install --no-deps --no-build-isolation \
      --target /opt/octavo/app . ./clients/python
ENV PATH=/opt/octavo/app/bin:$PATH \
    PYTHONPATH=/opt/octavo/app
# Whether all is there that Octavo and what it needs ask for, in versions that they allow.
RUN python -m pip check

# The CPU kernels for every processor of this architecture, beside their sources; the server takes
# the best that the one it finds can run. From another folder, for here lie the sources as well.
RUN cd / && python -m engine.kernels.cpu

# The built-in model, outside /cache: a volume mounted there must not hide it. It is the last thing
# that pip is needed for.
RUN octavo pull --cache-dir /opt/octavo/builtin \
 && python -m pip uninstall --yes pip


FROM python:${PYTHON_VERSION}-slim

# Triton compiles for the GPU that is found. CPUs need nothing here.
ARG COMPILER=
RUN if [ -n "$COMPILER" ]; then \
      apt-get update \
   && apt-get install --yes --no-install-recommends $COMPILER \
   && rm -rf /var/lib/apt/lists/* /var/cache/apt/*; \
    fi

# Group 0 may do what the owner may: platforms that choose a random user id keep that group.
RUN install --directory --owner 1000 --group 0 --mode 0775 /cache
VOLUME /cache

COPY --from=build /opt/octavo/venv /opt/octavo/venv
COPY --from=build /opt/octavo/builtin /opt/octavo/builtin
COPY --from=build /opt/octavo/app /opt/octavo/app

# Only /cache and /tmp are ever written to. A random user id has no home folder of its own.
ENV PATH=/opt/octavo/app/bin:/opt/octavo/venv/bin:$PATH \
    PYTHONPATH=/opt/octavo/app \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    OCTAVO_HOST=0.0.0.0 \
    OCTAVO_PORT=8000 \
    OCTAVO_CACHE=/cache \
    OCTAVO_MODEL_DIRS=/opt/octavo/builtin \
    HF_HOME=/cache/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    TRITON_CACHE_DIR=/cache/triton \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

USER 1000:0
EXPOSE 8000
STOPSIGNAL SIGTERM

# Loading a large model takes minutes, and the first success ends the start period.
HEALTHCHECK --interval=15s --timeout=5s --start-period=10m --retries=3 \
  CMD ["python", "-c", "import os, sys; from http.client import HTTPConnection; \
c = HTTPConnection('127.0.0.1', int(os.environ['OCTAVO_PORT']), timeout=4); \
c.request('GET', '/health'); sys.exit(c.getresponse().status != 200)"]

ENTRYPOINT ["octavo", "serve"]

LABEL org.opencontainers.image.title="Octavo" \
      org.opencontainers.image.description="An HTTP inference server for language models" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="The Octavo authors"
