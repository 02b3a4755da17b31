FROM rich
WORKDIR more
WORKDIR /a/b/
WORKDIR c/../d/
WORKDIR $NOPE
USER root
WORKDIR "with space"
WORKDIR /
RUN true
