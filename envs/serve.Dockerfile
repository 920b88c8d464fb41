# Serving maps (scrflow serve), without the workflow: what it needs by digest (envs/serve.lock).
#
#   make wheel && docker build -f envs/serve.Dockerfile -t scrflow-serve .
#   docker run --rm -p 8000:8000 -v "$PWD/results/demo/landmarks:/maps:ro" -e SCRFLOW_TOKEN scrflow-serve /maps/map.safetensors
#
# torch comes from PyPI, with CUDA; --build-arg TORCH_INDEX=... takes another build of the same version.
FROM python:3.12-slim-bookworm AS build
ARG TORCH_INDEX=
WORKDIR /build
COPY requirements.txt requirements.lock ./
COPY envs/lock.py envs/serve.lock envs/torch.lock envs/
COPY dist/ dist/
RUN python -m venv /opt/scrflow
ENV PIP="/opt/scrflow/bin/python -m pip install --disable-pip-version-check --no-cache-dir --quiet"
RUN $PIP --require-hashes --no-deps --only-binary :all: -r envs/serve.lock \
 && /opt/scrflow/bin/python -I -S envs/lock.py constraints > constraints.txt \
 && $PIP --report torch.json --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} \
        "$(grep -E '^torch==' requirements.txt)" \
 && /opt/scrflow/bin/python -I -S envs/lock.py check torch.json \
 && $PIP --no-deps dist/scrflow-*.whl

FROM python:3.12-slim-bookworm
RUN useradd --create-home --uid 1000 scrflow
COPY --from=build /opt/scrflow /opt/scrflow
ENV PATH=/opt/scrflow/bin:$PATH OMP_WAIT_POLICY=PASSIVE HOME=/tmp
USER scrflow
EXPOSE 8000
ENTRYPOINT ["scrflow", "serve", "--host", "0.0.0.0"]
