FROM busybox
SHELL ["/bin/sh", "-ec"]
CMD b  c
ENTRYPOINT ["/e", "a\"b"]
USER app:$NOPE
EXPOSE 80/TCP "7001" 8000-8002/udp 80
VOLUME ["/v 1", "/v2"]
VOLUME /v3 /v4
STOPSIGNAL SIGRTMIN+3
HEALTHCHECK --interval=90s --retries=2 CMD echo  hi
MAINTAINER Someone <s@example.invalid>
LABEL a=1 "b c"="d e"
ONBUILD RUN later
