FROM busybox AS x
FROM x AS a
COPY --from=b /x /x
FROM x AS b
RUN --mount=from=a,target=/a true
