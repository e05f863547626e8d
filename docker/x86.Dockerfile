# x86-64 with a discrete GPU: what JetPack 6.2 has (TensorRT 10.3, CUDA 12.6, ROS 2 Humble, Python 3.10), to try it on a desk:
#   docker build -f docker/x86.Dockerfile -t leo_edge:x86 .
# NVIDIA's container of TensorRT 10.3 (24.08) holds a whole toolkit and samples; these packages are the same release.
# Never built so far; docs/docker.md says which lines were never run.

FROM ros:humble-ros-core-jammy AS base
# What the container runtime looks at; the driver comes from the host.
ENV LANG=C.UTF-8 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=type=bind,source=docker/scripts,target=/scripts /scripts/install-ros.sh run humble
RUN --mount=type=bind,source=docker/scripts,target=/scripts \
    /scripts/install-tensorrt.sh cuda/ubuntu2204/x86_64 10.3.0.26-1+cuda12.5 12-6

FROM base AS build
RUN --mount=type=bind,source=docker/scripts,target=/scripts /scripts/install-ros.sh build humble
COPY . /src
RUN --mount=type=bind,source=docker/scripts,target=/scripts \
    /scripts/build-messages.sh colcon /src /opt/leo_edge/messages
# No torch: engines are built from the bundle. `--build-arg EXTRAS=ort,replay` makes a player of drives.
ARG EXTRAS=trt,build,ort
RUN --mount=type=bind,source=docker/scripts,target=/scripts \
    /scripts/install-python.sh /src /opt/leo_edge/venv --system-site-packages --extras "$EXTRAS" \
      --with opencv-python-headless --constraints /src/docker/constraints-python3.10.txt

FROM base
ARG UID=1000
RUN --mount=type=bind,source=docker/scripts,target=/scripts /scripts/add-user.sh leo_edge "$UID"
COPY --from=build /opt/leo_edge /opt/leo_edge
COPY docker/entrypoint.sh /usr/local/bin/entrypoint.sh
USER leo_edge
WORKDIR /home/leo_edge
ENTRYPOINT ["entrypoint.sh"]
CMD ["leo-edge", "-h"]
