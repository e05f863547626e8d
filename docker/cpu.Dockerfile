# Any laptop, no GPU: onnxruntime, the shipped tiny model and a drawn drive; with ROS 2 kilted, as wheels, on x86-64.
#   docker build -f docker/cpu.Dockerfile -t leo_edge:cpu .
#   docker run --rm leo_edge:cpu
# Never built so far; docs/docker.md says which lines were never run.

FROM python:3.11-slim-bookworm AS build
RUN --mount=type=bind,source=docker/scripts,target=/scripts /scripts/install-apt.sh cmake g++ ninja-build
COPY . /src
RUN --mount=type=bind,source=docker/scripts,target=/scripts \
    /scripts/install-python.sh /src /opt/leo_edge/venv --extras ort,replay,ros \
      --constraints /src/constraints.txt --constraints /src/constraints-kilted.txt
RUN --mount=type=bind,source=docker/scripts,target=/scripts /scripts/build-messages.sh wheels /opt/leo_edge/venv

# torch exports the model, here and nowhere else. A build of it without CUDA saves gigabytes.
FROM build AS demo
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=bind,source=docker/scripts,target=/scripts \
    PIP_EXTRA_INDEX_URL="$TORCH_INDEX" \
    /scripts/install-python.sh /src /opt/demo/venv --extras demo --constraints /src/constraints.txt && \
    /scripts/make-demo.sh /opt/demo/venv /opt/leo_edge/demo

FROM python:3.11-slim-bookworm
ENV LANG=C.UTF-8
ARG UID=1000
RUN --mount=type=bind,source=docker/scripts,target=/scripts /scripts/add-user.sh leo_edge "$UID"
COPY --from=build /opt/leo_edge/venv /opt/leo_edge/venv
COPY --from=demo /opt/leo_edge/demo /opt/leo_edge/demo
COPY docker/entrypoint.sh /usr/local/bin/entrypoint.sh
USER leo_edge
WORKDIR /home/leo_edge
ENTRYPOINT ["entrypoint.sh"]
CMD ["leo-edge", "replay", "/opt/leo_edge/demo/bundle", "--nuscenes", "/opt/leo_edge/demo/drive", \
     "--questions", "/opt/leo_edge/demo/drive/questions/val.json", "--out", "/tmp/replay"]
