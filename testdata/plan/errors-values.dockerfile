FROM busybox
COPY --chmod=888 a b
ADD --checksum=sha256:00 http://h.invalid/a /b
ADD --checksum=sha256:00 a /b
COPY http://h.invalid/a /b
COPY git@h.invalid:a/b /b
STOPSIGNAL NOTASIGNAL
EXPOSE 70000 80/icmp
VOLUME $NOPE
ENV A=${B:?missing}
RUN --network=host true
RUN --security=insecure true
RUN --mount=type=tmpfs,target=/ true
RUN []
