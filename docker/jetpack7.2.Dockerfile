# JetPack 7.2 (Orin and Thor): Ubuntu 24.04, CUDA 13.2, TensorRT 10.16, ROS 2 Jazzy, Python 3.12. Build it on the device:
#   docker build -f docker/jetpack7.2.Dockerfile -t leo_edge:jetpack7.2 .
# Never built so far; docs/docker.md says which lines were never run.

FROM ros:jazzy-ros-core-noble AS base
# What the container runtime looks at; the driver comes from the host.
ENV LANG=C.UTF-8 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=type=bind,source=docker/scripts,target=/scripts /scripts/install-ros.sh run jazzy
# The Jetson repository's build, which is the host's own: the CUDA repository for servers (sbsa) has an older one.
RUN --mount=type=bind,source=docker/scripts,target=/scripts \
    /scripts/install-tensorrt.sh jetson/r39.2 10.16.2.10-1+cuda13.2 13-2

FROM base AS build
RUN --mount=type=bind,source=docker/scripts,target=/scripts /scripts/install-ros.sh build jazzy
COPY . /src
RUN --mount=type=bind,source=docker/scripts,target=/scripts \
    /scripts/build-messages.sh colcon /src /opt/leo_edge/messages
# No torch: engines are built from the bundle. `--build-arg EXTRAS=ort,replay` makes a player of drives.
ARG EXTRAS=trt,build,ort
RUN --mount=type=bind,source=docker/scripts,target=/scripts \
    /scripts/install-python.sh /src /opt/leo_edge/venv --system-site-packages --extras "$EXTRAS" \
      --with opencv-python-headless --constraints /src/docker/constraints-python3.12.txt

FROM base
ARG UID=1000
RUN --mount=type=bind,source=docker/scripts,target=/scripts /scripts/add-user.sh leo_edge "$UID"
COPY --from=build /opt/leo_edge /opt/leo_edge
COPY docker/entrypoint.sh /usr/local/bin/entrypoint.sh
USER leo_edge
WORKDIR /home/leo_edge
ENTRYPOINT ["entrypoint.sh"]
CMD ["leo-edge", "-h"]
