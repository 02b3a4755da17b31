FROM busybox AS a
COPY --from=later / /
RUN --mount=from=later,target=/x true
FROM busybox AS later
FROM a
