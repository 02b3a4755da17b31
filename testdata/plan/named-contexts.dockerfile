FROM busybox:latest AS base
RUN kept
FROM golang AS build
RUN dropped
FROM base
COPY --from=build /x /x
COPY --from=files a b /f/
RUN --mount=from=layout,target=/l --mount=from=files,source=sub,target=/s true
#! --build-context docker.io/library/busybox=docker-image://alpine --build-context build=local --build-context files=local
#! --build-context layout=oci-layout://dir:tag
