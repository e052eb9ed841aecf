# Images of tracelift_jax:
#   docker build --tag=tracelift .                                    for CPUs
#   docker build --tag=tracelift:cuda --build-arg=EXTRAS=cuda .       for NVIDIA GPUs; the host needs its driver alone
#   docker build --tag=tracelift:tpu --build-arg=EXTRAS=tpu .         for TPUs
# What follows `docker run ... IMAGE` is tracelift's command. Mount a folder for the run directory.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm
# bubblewrap for programs that a model wrote; tini, because process 1 has duties to processes that others leave behind.
# Versions are Debian's and setup.cfg's.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bubblewrap tini \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /tracelift
COPY setup.cfg pyproject.toml README.md LICENSE ./
COPY tracelift_jax tracelift_jax
ARG EXTRAS=""
# hadolint ignore=DL3013
RUN pip install --no-cache-dir ".${EXTRAS:+[$EXTRAS]}"
COPY experiments experiments
ENTRYPOINT ["tini", "--", "tracelift"]
