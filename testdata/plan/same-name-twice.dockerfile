FROM busybox AS dup
RUN first
FROM dup AS dup
RUN second
FROM scratch
COPY --from=dup /f /f
