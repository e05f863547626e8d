# JetPack 6.2 (Orin): Ubuntu 22.04, CUDA 12.6, TensorRT 10.3, ROS 2 Humble, Python 3.10. Build it on the Orin:
#   docker build -f docker/jetpack6.2.Dockerfile -t leo_edge:jetpack6.2 .
# Never built so far; docs/docker.md says which lines were never run.

FROM ros:humble-ros-core-jammy AS base
# What the container runtime looks at; the driver and libnvdla_compiler.so come from the host.
ENV LANG=C.UTF-8 NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN --mount=type=bind,source=docker/scripts,target=/scripts /scripts/install-ros.sh run humble
RUN --mount=type=bind,source=docker/scripts,target=/scripts \
    /scripts/install-tensorrt.sh jetson/r36.4 10.3.0.30-1+cuda12.5 12-6

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
