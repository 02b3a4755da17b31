FROM busybox AS build
RUN make
FROM busybox AS unused
RUN never
FROM build AS Test
COPY . /src
FROM scratch
COPY --from=BUILD /out /out
COPY --from=2 src/ ./
COPY --from=alpine /etc/os-release /
