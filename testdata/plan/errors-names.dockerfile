FROM busybox AS Base
FROM Base
COPY --from=7 / /
COPY --from=$x / /
COPY --from=later / /
RUN --mount=from=later,target=/x true
FROM busybox AS later
FROM --platform=$NOPE busybox
FROM --platform=a/b/c/d busybox
FROM $EMPTY
#! --target later
