FROM --platform=$BUILDPLATFORM busybox AS build
ARG TARGETPLATFORM
RUN cross $TARGETPLATFORM
FROM --platform=linux/s390x busybox AS foreign
FROM busybox
COPY --from=build /t /t
COPY --from=foreign /t /u
#! --platform linux/arm/v7
