ARG TAG
FROM busybox:${TGA:-1} AS x
WORKDIR rel
CMD a
CMD b
ENTRYPOINT c
ENV API_KEY=1
ARG TOKEN_FILE
COPY $NOPE/x /y
FROM --platform=$TARGETPLATFORM busybox:a${TAG} AS y
FROM busybox:${TAG} AS z
FROM --platform=linux/amd64 x
#! --build-arg TGA=1 --build-arg TAG=2
