# syntax=docker/dockerfile:1
ARG BASE=alpine VERSION="3 20"
FROM --platform=$BUILDPLATFORM $BASE AS build
ENV A=1 B="two words" C=$A\ x
LABEL org.example.name='It works' empty=
RUN --mount=type=cache,target=/c --network=none make \
    # a comment
    all && \
    make install
COPY --from=build --chown=1:2 --link --exclude=*.md --exclude=x a b ./dest/
ADD --checksum=sha256:00 --keep-git-dir=true --unpack=False https://example.com/x.tar /x
EXPOSE 80 443/tcp $PORT
USER app:staff
VOLUME /a /b
WORKDIR /with blank
STOPSIGNAL SIGTERM
CMD ["a", "b c"]
ENTRYPOINT exec top -b
FROM scratch
